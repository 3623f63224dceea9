"""Losses against independent float64 implementations."""

import math
import types
from pathlib import Path

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from nid_jax.fields import experts
from nid_jax.fields.routing import Gates, gate
from nid_jax.training import losses

FLOATS = st.floats(-3, 3, width=32, allow_subnormal=False)
POINTS = hnp.arrays(np.float32, (2, 4, 3), elements=FLOATS)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def variance_over_mean_squared(x):
    x = np.asarray(x, np.float64)
    return ((x - x.mean()) ** 2).sum() / (len(x) - 1) / x.mean() ** 2


compiled_data_term = jax.jit(losses.data_term, static_argnums=2)


@given(POINTS, POINTS, hnp.arrays(np.bool_, (2, 4, 1)), st.sampled_from(["l2", "l1"]))
@settings(max_examples=30, deadline=None)
def test_data_term_is_the_mean_over_counted_points(prediction, target, mask, kind):
    difference = prediction.astype(np.float64) - target
    error = difference**2 if kind == "l2" else abs(difference)
    got = compiled_data_term(prediction, target, kind)
    np.testing.assert_allclose(got, error.mean(), rtol=1e-5, atol=1e-12)
    got = compiled_data_term(prediction, target, kind, mask.astype(np.float32))
    expected = error[mask[..., 0]].mean() if mask.any() else 0.0
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12)


def test_data_term_refuses_other_kinds_and_shapes():
    with pytest.raises(ValueError, match=r"loss\.data: 'l3'.*l2, l1"):
        losses.data_term(jnp.zeros((1, 2, 1)), jnp.zeros((1, 2, 1)), "l3")
    with pytest.raises(ValueError, match="differ in shape"):
        losses.data_term(jnp.zeros((1, 2, 1)), jnp.zeros((1, 2, 3)))


@given(st.integers(1, 3000), st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_expert_weights_are_the_capped_power_and_finite(num_experts, base):
    weights = np.asarray(losses.expert_weights(num_experts, base, cap=1e4))
    assert weights.dtype == np.float32
    assert np.isfinite(weights).all()
    # Exact rational powers do not overflow; one divided by the power is compared instead.
    for e in {0, 1, num_experts // 2, num_experts - 1} & set(range(num_experts)):
        with np.errstate(over="ignore", under="ignore"):
            power = np.float64(base) ** -e
        expected = min(power, 1e4)
        assert weights[e] == pytest.approx(expected, rel=1e-4, abs=1e-37)


def test_expert_weights_where_the_official_ones_overflow():
    weights = np.asarray(losses.expert_weights(4096, 0.5))
    np.testing.assert_allclose(weights[:14], 2.0 ** np.arange(14), rtol=1e-6)
    np.testing.assert_allclose(weights[14:], 1e4, rtol=1e-6)
    np.testing.assert_array_equal(losses.expert_weights(5), np.ones(5))
    for base in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="^base: "):
            losses.expert_weights(4, base)
    with pytest.raises(ValueError, match="cap"):
        losses.expert_weights(4, 0.5, cap=0)


def test_sparsity():
    values = random(3, 6)
    weights = losses.expert_weights(6, 0.9)
    expected = np.mean(np.abs(values).astype(np.float64) * 0.9 ** -np.arange(6.0))
    np.testing.assert_allclose(losses.sparsity(values, weights), expected, rtol=1e-5)


@given(hnp.arrays(np.float32, 7, elements=st.floats(0.125, 8, width=32)))
@settings(max_examples=30, deadline=None)
def test_cv_squared_is_unbiased_variance_over_squared_mean(x):
    expected = variance_over_mean_squared(x)
    np.testing.assert_allclose(losses.cv_squared(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-10)


def test_cv_squared_is_finite_at_the_edges():
    assert float(losses.cv_squared(jnp.ones(1))) == 0
    assert float(losses.cv_squared(jnp.zeros(4))) == 0
    assert np.isfinite(jax.grad(losses.cv_squared)(jnp.zeros(4))).all()


def test_balance_takes_the_smooth_load_where_there_is_one():
    gates = gate(jnp.asarray(random(5, 6)), jnp.zeros((5, 1)), 2)
    importance, load = losses.balance(gates)
    values = np.asarray(gates.values, np.float64)
    np.testing.assert_allclose(importance, variance_over_mean_squared(abs(values).sum(0)), 1e-5)
    np.testing.assert_allclose(load, variance_over_mean_squared((values != 0).sum(0)), 1e-5)
    probability = abs(random(5, 6, seed=1))
    _, load = losses.balance(gates._replace(load=jnp.asarray(probability)))
    np.testing.assert_allclose(load, variance_over_mean_squared(probability.sum(0)), 1e-5)


def example(top_k):
    prediction, target = random(4, 8, 3), random(4, 8, 3, seed=1)
    logits = jnp.asarray(random(4, 6, seed=2) + 0.3)
    return prediction, target, gate(logits, jnp.zeros((4, 3)), top_k)


def oracle(prediction, target, values, objective, sparse):
    """Every term in float64, from the definitions."""
    values = np.asarray(values, np.float64)
    official = objective.compat == "official"
    difference = prediction.astype(np.float64) - target
    squares, fit = (difference**2).mean(), abs(difference).mean()
    if objective.data == "l2":
        fit = squares
    signed = official or objective.importance == "signed"
    used = values.sum(0) if signed else abs(values).sum(0)
    count = ((values > 0) if official else (values != 0)).sum(0)
    terms = {
        "fit": fit,
        "psnr": -10 * np.log10(fit if official else squares),
        "sparsity": (abs(values) * objective.l1_base ** -np.arange(6.0)).mean(),
        "cv_importance": variance_over_mean_squared(used),
        "cv_load": variance_over_mean_squared(count),
    }
    l1 = 0 if official and sparse else objective.l1
    loads = terms["cv_load"] if sparse else 0
    loss = fit + l1 * terms["sparsity"] + objective.balance * (terms["cv_importance"] + loads)
    return terms | {"loss": loss}


@pytest.mark.parametrize("top_k", [0, 2, 6])
@pytest.mark.parametrize("data", ["l2", "l1"])
@pytest.mark.parametrize("importance", ["magnitude", "signed"])
@pytest.mark.parametrize("compat", ["", "official"])
def test_objective_composes_its_terms(top_k, data, importance, compat):
    objective = losses.Objective(data, 0.05, 0.9, 0.01, importance, compat)
    prediction, target, gates = example(top_k)
    loss, terms = jax.jit(objective)(prediction, target, gates)
    expected = oracle(prediction, target, gates.values, objective, sparse=top_k > 0)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, expected["loss"], rtol=2e-5)


@pytest.mark.parametrize("top_k", [0, 2])
def test_objective_has_the_gradient_of_its_value(top_k):
    with jax.enable_x64(True):
        # Values away from ties and zero, where magnitude and top-k have corners.
        logits = jnp.asarray([[0.5, -1.5, 2.0, 0.9], [1.2, 0.4, -0.7, 1.9]], jnp.float64)
        prediction, target = (jnp.asarray(random(2, 3, 1, seed=s), jnp.float64) for s in (0, 1))
        objective = losses.Objective(l1=0.1, l1_base=0.8, balance=0.3)

        def loss(prediction, logits):
            return objective(prediction, target, gate(logits, jnp.zeros((2, 1)), top_k))[0]

        check_grads(jax.jit(loss), (prediction, logits), order=1, modes=["rev"], rtol=1e-5)


def test_a_weight_of_zero_drops_its_term_from_loss_and_gradient():
    prediction, target, gates = example(2)
    spoilt = gates._replace(values=gates.values * jnp.inf)
    loss, _ = losses.Objective()(prediction, target, spoilt)
    np.testing.assert_allclose(loss, ((prediction - target) ** 2).mean(), rtol=1e-5)


def test_objective_counts_masked_points_for_nothing():
    prediction, target, gates = example(2)
    mask = np.ones((4, 8, 1), np.float32)
    mask[:, 5:] = 0
    loss, terms = losses.Objective("l1")(prediction, target, gates, mask)
    difference = (prediction - target)[:, :5]
    np.testing.assert_allclose(loss, abs(difference).mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["psnr"], -10 * np.log10((difference**2).mean()), rtol=1e-5)


def test_objective_from_config_and_its_refusals():
    config = types.SimpleNamespace(data="l1", l1=0.1, l1_base=0.9, balance=0.2, importance="signed")
    assert losses.Objective.from_config(config) == losses.Objective("l1", 0.1, 0.9, 0.2, "signed")
    for name, value in {
        "data": "huber",
        "l1": -1.0,
        "l1_base": 0.0,
        "balance": float("nan"),
        "importance": "none",
        "compat": "torch",
    }.items():
        with pytest.raises(ValueError, match=rf"^{name}: .*allowed"):
            losses.Objective(**{name: value})
        with pytest.raises(ValueError, match=rf"^loss\.{name}: .*allowed"):
            losses.Objective.from_config(types.SimpleNamespace(**{name: value}))
    assert isinstance(example(0)[2], Gates)


# Signed distances from oriented points


def test_surface_terms_written_plainly():
    generator = np.random.default_rng(0)
    on, off = generator.normal(size=7), 0.01 * generator.normal(size=5)
    slopes, normals = generator.normal(size=(2, 7, 3))
    slopes_off = generator.normal(size=(5, 3))
    terms = losses.surface_terms(on, slopes, normals, off, slopes_off, sharpness=20)
    cosines = [
        g @ n / math.sqrt(g @ g) / math.sqrt(n @ n) for g, n in zip(slopes, normals, strict=True)
    ]
    lengths = [math.sqrt(g @ g) for g in (*slopes, *slopes_off)]
    expected = {
        "on": np.mean([abs(v) for v in on]),
        "off": np.mean([math.exp(-20 * abs(v)) for v in off]),
        "normal": np.mean([1 - c for c in cosines]),
        "eikonal": np.mean([abs(length - 1) for length in lengths]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(terms, name), value, rtol=1e-5, err_msg=name)
    weights = {"on": 2.0, "off": 0.0, "normal": 1.0, "eikonal": 0.5}
    total = 2 * expected["on"] + expected["normal"] + 0.5 * expected["eikonal"]
    np.testing.assert_allclose(terms.total(weights), total, rtol=1e-5)


def test_a_signed_distance_lacks_nothing():
    generator = np.random.default_rng(1)
    normals = generator.normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    off = generator.uniform(-1, 1, (40, 3)) * [1, 1, 3]

    def ball(x):
        return jnp.linalg.norm(x) - 0.5

    def at(x):
        return jax.vmap(jax.value_and_grad(ball))(jnp.asarray(x, jnp.float32))

    (on, slopes), (values, slopes_off) = at(0.5 * normals), at(off)
    terms = losses.surface_terms(on, slopes, 3 * normals, values, slopes_off)
    assert max(float(terms.on), float(terms.normal), float(terms.eikonal)) < 1e-5
    # The wrong side out is as wrong as can be.
    inverted = losses.surface_terms(on, slopes, -normals, values)
    np.testing.assert_allclose(inverted.normal, 2, rtol=1e-5)


def test_surface_terms_have_a_gradient_where_f_is_flat():
    def loss(slopes):
        return losses.surface_terms(jnp.zeros(4), slopes, jnp.ones((4, 3)), jnp.zeros(4)).total()

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((4, 3)))
    np.testing.assert_allclose(value, 100 + 100 + 50, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_surface_terms_refuse_shapes_that_broadcast():
    on, slopes = np.zeros((2, 6)), np.zeros((2, 6, 3))
    for arrays in (
        (on[..., None], slopes, slopes, on),
        (on, slopes, slopes[:1], on),
        (on, slopes, slopes, on, slopes[:, :5]),
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            losses.surface_terms(*arrays)


@pytest.fixture(scope="module")
def official_surface():
    path = Path(__file__).parents[1] / "data" / "official" / "surface.npz"
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("with_normals", [0, 1])
def test_surface_terms_are_the_official_codes(official_surface, with_normals):
    """The loss of a sine network on a cloud, and its weights after one step of Adam."""
    data = official_surface

    def layers(kind):
        names = [f"{kind}/net.net.{i}.0" for i in range(4)]
        return tuple((data[f"{n}.weight"].T, data[f"{n}.bias"]) for n in names)

    weights = {"on": 3000.0, "off": 100.0, "normal": 0.0, "eikonal": 0.0}
    weights = None if with_normals else weights

    def loss(network):
        def f(x):
            return experts.apply_layers(network, x, "sine", 30.0)[:, 0]

        on, off = (jnp.asarray(data[f"{kind}_surface_coords"]) for kind in ("on", "off"))
        slopes = jax.grad(lambda x: f(x).sum())(on)
        normals = data["on_surface_normals"]
        return losses.surface_terms(f(on), slopes, normals, f(off)).total(weights)

    network = layers("state")
    value, gradient = jax.jit(jax.value_and_grad(loss))(network)
    np.testing.assert_allclose(value, data[f"loss_norm{with_normals}"], rtol=1e-5)
    optimizer = optax.adam(1e-4)
    updates, _ = optimizer.update(gradient, optimizer.init(network))
    for i, (after, expected, slopes) in enumerate(
        zip(
            optax.apply_updates(network, updates),
            layers(f"after_norm{with_normals}"),
            gradient,
            strict=True,
        )
    ):
        name = f"gradnorm_norm{with_normals}/net.net.{i}.0"
        for got, want, slope, kind in zip(after, expected, slopes, ("weight", "bias"), strict=True):
            norm = np.linalg.norm(slope)
            np.testing.assert_allclose(norm, data[f"{name}.{kind}"], rtol=1e-4)
            # A first step of Adam has the sign of the gradient, which rounding decides near zero.
            clear = np.abs(slope) > 1e-4 * np.abs(slope).max()
            np.testing.assert_allclose(
                np.where(clear, got, want), want, atol=1e-6, err_msg=f"{i} {kind}"
            )
            assert clear.mean() > 0.99
