"""Normal equations against sums taken in float64 over the whole basis."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import gram, operators
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary

# A trunk wider than the number of experts is not worth the detour: products are those of the atoms.
KINDS = {
    "shared": SharedDictionary,
    "wide": SharedDictionary,
    "independent": IndependentDictionary,
}


@functools.cache
def split_dictionary(kind, experts):
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 16, 3.0, rngs=rngs)
    width = 64 if kind == "wide" else 8
    return nnx.split(KINDS[kind](embedding, experts, 2, Layers(2, width, "relu", 1.0), rngs=rngs))


def make_dictionary(kind="shared", experts=12):
    return nnx.merge(*split_dictionary(kind, experts), copy=True)


def expected_equations(dictionary, operator, measurements, weights):
    """The same by definition, one signal: weights [M], measurements [M, C]."""
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    runs = basis.reshape(operator.num_measurements, operator.run_length, *basis.shape[1:])
    factors = np.ones(runs.shape[:2]) if operator.factors is None else operator.factors
    atoms = np.einsum("mtec,mt->mec", runs, np.asarray(factors, np.float64))
    one, w, y = (
        np.asarray(factors, np.float64).sum(1),
        np.asarray(weights, np.float64),
        measurements,
    )
    total = (w * one**2).sum()
    mean = np.einsum("m,m,mec->ec", w, one, atoms) / total
    target = np.einsum("m,m,mc->c", w, one, y) / total
    atoms, y = atoms - one[:, None, None] * mean, y - one[:, None] * target
    return {
        "gram": np.einsum("m,mec,mfc->ef", w, atoms, atoms),
        "moments": np.einsum("m,mec,mc->e", w, atoms, y),
        "energy": (w[:, None] * y**2).sum(),
        "atom_mean": mean,
        "target_mean": target,
        "count": w.sum(),
        "bias_weight": total,
    }


def check(equations, dictionary, operator, measurements, weights, tolerance=3e-6):
    per_signal = {"moments", "energy", "target_mean"}
    for signal, y in enumerate(np.asarray(measurements, np.float64)):
        w = weights[signal] if np.ndim(weights) == 2 else weights
        for name, value in expected_equations(dictionary, operator, y, w).items():
            found = np.asarray(getattr(equations, name))
            if name in per_signal or not equations.shared:
                found = found[signal]
            # The measurements' scale where the value itself is next to nothing.
            np.testing.assert_allclose(
                found, value, rtol=tolerance, atol=tolerance * np.abs(value).max() + 1e-12
            )


@pytest.mark.parametrize(
    ("kind", "form", "precision", "chunk"),
    [
        ("shared", "none", "float64", 0),
        ("shared", "one", "float64", 10),
        ("shared", "own", "float64", 10),
        ("shared", "own", "float32", 63),
        ("shared", "none", "float32", 10),
        ("wide", "one", "float64", 10),
        ("wide", "own", "float64", 10),
        ("independent", "none", "float64", 10),
        ("independent", "one", "float32", 10),
        ("independent", "own", "float64", 0),
    ],
)
def test_definition(kind, form, precision, chunk):
    generator = np.random.default_rng(0)
    dictionary, operator = make_dictionary(kind), operators.sample((9, 7))
    measurements = generator.normal(3, 1, (4, 63, 2)).astype(np.float32)
    weights = {"none": None, "one": generator.uniform(size=63), "own": None}[form]
    if form == "own":
        weights = (generator.uniform(size=(4, 63)) < 0.4).astype(np.float32)
    equations = gram.normal_equations(
        dictionary, operator, measurements, weights, chunk=chunk, precision=precision
    )
    assert equations.shared == (form != "own")
    used = np.ones(63) if weights is None else weights.astype(np.float32)
    check(equations, dictionary, operator, measurements, used)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_points_and_a_constant_that_is_not_one(kind):
    generator = np.random.default_rng(1)
    points = generator.uniform(-1, 1, (80, 2)).astype(np.float32)
    factors = generator.uniform(0, 1, (20, 4)).astype(np.float32)
    operator = operators.Sample(jnp.asarray(points), jnp.asarray(factors), run_length=4)
    dictionary = make_dictionary(kind)
    measurements = generator.normal(size=(3, 20, 2)).astype(np.float32)
    equations = gram.normal_equations(dictionary, operator, measurements, chunk=7)
    check(equations, dictionary, operator, measurements, np.ones(20), 1e-5)


@operators.register
@dataclasses.dataclass(frozen=True, eq=False)
class Mixing(operators.Operator):
    """Every measurement depends on every point."""

    matrix: jax.Array | None = None
    run_length: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def num_measurements(self):
        return self.matrix.shape[0]

    def measure(self, samples):
        return jnp.einsum("mq,...qc->...mc", self.matrix, samples, precision="highest")


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_without_runs(kind):
    generator = np.random.default_rng(2)
    local = operators.sample(generator.uniform(-1, 1, (11, 2)))
    mixing = Mixing(local.points, matrix=jnp.eye(11)[::-1])
    dictionary = make_dictionary(kind)
    measurements = generator.normal(size=(2, 11, 2)).astype(np.float32)
    mixed = gram.normal_equations(dictionary, mixing, measurements[:, ::-1], chunk=4)
    plain = gram.normal_equations(dictionary, local, measurements)
    for name in ("gram", "moments", "energy", "target_mean", "atom_mean"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(plain, name), atol=1e-5)


def test_masked_measurements_may_be_missing():
    generator = np.random.default_rng(3)
    seen = (generator.uniform(size=(2, 63)) < 0.5).astype(np.float32)
    measurements = generator.normal(size=(2, 63, 2)).astype(np.float32)
    dictionary, operator = make_dictionary(), operators.mask((9, 7), seen)
    broken = np.where(seen[..., None] > 0, measurements, np.nan)
    with_nan = gram.normal_equations(dictionary, operator, broken)
    check(with_nan, dictionary, operators.sample((9, 7)), measurements, seen)


def test_no_cancellation_when_the_mean_is_large():
    dictionary = make_dictionary()
    dictionary.head_bias[...] = dictionary.head_bias[...] + 1000.0
    operator = operators.sample((9, 7))
    measurements = np.random.default_rng(4).normal(1e4, 1, (2, 63, 2)).astype(np.float32)
    for precision in gram.PRECISIONS:
        equations = gram.normal_equations(dictionary, operator, measurements, precision=precision)
        centred = np.asarray(dictionary.basis(operator.points) - 1000.0, np.float64)
        centred -= centred.mean(0)
        expected = np.einsum("mec,mfc->ef", centred, centred)
        # The oracle's own atoms were rounded at 1000.
        np.testing.assert_allclose(equations.gram, expected, atol=2e-3 * expected.max())
        spread = measurements.astype(np.float64) - measurements.mean(1, dtype=np.float64)[:, None]
        np.testing.assert_allclose(equations.energy, (spread**2).sum((1, 2)), rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_residual_and_bias_are_those_of_the_rendered_signal(seed, scale):
    generator = np.random.default_rng(seed)
    dictionary, operator = make_dictionary(), operators.sample((6, 5))
    measurements = (scale * generator.normal(size=(3, 30, 2))).astype(np.float32)
    equations = gram.normal_equations(dictionary, operator, measurements)
    codes = (scale * generator.normal(size=(3, 12))).astype(np.float32)
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    rendered = np.einsum("se,pec->spc", codes, basis)
    bias = (measurements - rendered).mean(1)
    np.testing.assert_allclose(equations.bias(codes), bias, atol=2e-5 * scale)
    squares = ((measurements - rendered - bias[:, None]) ** 2).sum((1, 2))
    np.testing.assert_allclose(equations.exact_residual(codes), squares, rtol=1e-4)
    np.testing.assert_allclose(equations.residual(codes), squares, rtol=1e-3)
    np.testing.assert_allclose(equations.mean_residual(codes), squares / 60, rtol=1e-3)


def test_exact_residual_survives_codes_that_cancel():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    # Two nearly equal atoms with opposite codes of 1000.
    kernel = dictionary.head_kernel[...]
    dictionary.head_kernel[...] = kernel.at[..., 1].set(kernel[..., 0] * (1 + 1e-3))
    bias = dictionary.head_bias[...]
    dictionary.head_bias[...] = bias.at[1].set(bias[0])
    codes = jnp.zeros((1, 12)).at[0, 0].set(1000.0).at[0, 1].set(-1000.0).at[0, 2].set(1.0)
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    signal = np.einsum("se,pec->spc", np.asarray(codes, np.float64), basis)
    noise = np.random.default_rng(5).normal(0, 0.05, signal.shape)
    measurements = (signal + noise).astype(np.float32)
    left = measurements - signal
    expected = ((left - left.mean(1, keepdims=True)) ** 2).sum()
    equations = gram.normal_equations(dictionary, operator, measurements)
    np.testing.assert_allclose(equations.exact_residual(codes)[0], expected, rtol=2e-3)


def test_equations_of_some_signals():
    generator = np.random.default_rng(7)
    dictionary, operator = make_dictionary(), operators.sample((6, 5))
    measurements = generator.normal(size=(3, 30, 2)).astype(np.float32)
    for weights in (None, generator.uniform(size=(3, 30))):
        all_of_them = gram.normal_equations(dictionary, operator, measurements, weights)
        some = all_of_them.of_signals(slice(1, 3))
        own = None if weights is None else weights[1:]
        direct = gram.normal_equations(dictionary, operator, measurements[1:], own)
        for name in direct._fields:
            np.testing.assert_allclose(getattr(some, name), getattr(direct, name), atol=1e-5)


@pytest.mark.parametrize("own_weights", [False, True])
def test_equations_of_experts_of_each_signals_own(own_weights):
    draw = np.random.default_rng(101)
    dictionary, operator = make_dictionary("independent"), operators.sample((6, 5))
    measurements = draw.normal(size=(3, 30, 2)).astype(np.float32)
    weights = draw.uniform(0.5, 1, (3, 30)) if own_weights else None
    equations = gram.normal_equations(dictionary, operator, measurements, weights)
    signals, experts = equations.moments.shape
    indices = np.array([draw.choice(experts, 2, replace=False) for _ in range(signals)])
    few = draw.standard_normal((signals, 2)).astype(np.float32)
    codes = np.zeros((signals, experts), np.float32)
    np.put_along_axis(codes, indices, few, 1)
    own = equations.of_experts(indices)
    for name in ("residual", "exact_residual", "bias", "mean_residual"):
        np.testing.assert_allclose(
            getattr(own, name)(few), getattr(equations, name)(codes), rtol=1e-4, err_msg=name
        )


def test_inside_a_jitted_gradient():
    dictionary, operator = make_dictionary(), operators.sample((6, 5))
    measurements = np.random.default_rng(8).normal(size=(2, 30, 2)).astype(np.float32)
    graphdef, state = nnx.split(dictionary)

    @jax.jit
    @jax.grad
    def gradient(state):
        model = nnx.merge(graphdef, state)
        codes = gram.normal_equations(model, operator, measurements).moments
        return jnp.square(model.basis(operator.points)).sum() + codes.sum()

    plain = jax.grad(
        lambda state: jnp.square(nnx.merge(graphdef, state).basis(operator.points)).sum()
    )(state)
    leaves = zip(jax.tree.leaves(gradient(state)), jax.tree.leaves(plain), strict=True)
    for found, expected in leaves:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_cheaper_product_is_taken():
    chosen = {kind: gram.through_trunk(make_dictionary(kind), 63) for kind in KINDS}
    assert chosen == {"shared": True, "wide": False, "independent": False}
    assert gram.through_trunk(make_dictionary(experts=64), 10**5)
    assert not gram.through_trunk(make_dictionary(experts=64), 8)


def test_the_basis_never_exists():
    dictionary, operator = make_dictionary(experts=64), operators.sample((128, 128))
    measurements = jnp.zeros((2, 128 * 128, 2))
    graphdef, state = nnx.split(dictionary)
    weights = None
    compiled = gram._normal_equations.lower(
        graphdef, state, operator, measurements, weights, chunk=256, precision="float64"
    ).compile()
    whole_basis = 128 * 128 * 64 * 2 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole_basis / 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"measurements": np.zeros((2, 29, 2))}, "allowed: .signals, 30, 2"),
        ({"measurements": np.zeros((30, 2))}, r"measurements: \(30, 2\)"),
        ({"weights": np.ones((3, 30))}, r"weights: \(3, 30\); allowed: those of 2 signals"),
        ({"weights": np.ones(29)}, "weights: .29,.; allowed: the shape .30,."),
        ({"precision": "half"}, "float32, float64"),
    ],
)
def test_refusals(arguments, says):
    given_values = {"measurements": np.zeros((2, 30, 2))} | arguments
    with pytest.raises(ValueError, match=says):
        gram.normal_equations(make_dictionary(), operators.sample((6, 5)), **given_values)
