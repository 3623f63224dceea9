"""The one door: every method by its name, and what it says of what it cannot do."""

import numpy as np
import pytest
from flax import nnx

from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.coding.prior import fit_prior
from nid_jax.coding.solving import CLOUD_METHODS, METHODS, solve
from nid_jax.fields.coordinates import grid
from nid_jax.fields.dictionary import SharedDictionary
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.router_networks import Conv
from nid_jax.fields.routing import Codebook

SHAPE, CHANNELS, EXPERTS, SIGNALS = (9, 8), 2, 10, 4
SPARSE = {"omp", "iht", "router+ridge"}


@pytest.fixture(scope="module")
def dictionary():
    rngs = nnx.Rngs(0)
    return SharedDictionary(Identity(2), EXPERTS, CHANNELS, Layers(3, 24, "sine", 8.0), rngs=rngs)


@pytest.fixture(scope="module")
def problem(dictionary):
    """Signals that the dictionary holds exactly, their codes and biases, and a prior of them."""
    generator = np.random.default_rng()
    codes = generator.normal(size=(40, EXPERTS)).astype(np.float32)
    bias = generator.normal(size=(40, CHANNELS)).astype(np.float32)
    basis = np.asarray(dictionary.basis(grid(SHAPE)))
    values = np.einsum("se,pec->spc", codes, basis) + bias[:, None]
    signals = values[:SIGNALS].reshape(SIGNALS, *SHAPE, CHANNELS)
    return signals, codes[:SIGNALS], bias[:SIGNALS], fit_prior(codes)


@pytest.fixture(scope="module")
def router():
    return Conv(EXPERTS, CHANNELS, SHAPE, 4, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in CLOUD_METHODS])
def test_every_method_answers_in_one_form(method, dictionary, problem, router):
    signals, codes, bias, prior = problem
    measurements = signals.reshape(SIGNALS, -1, CHANNELS)
    top_k = EXPERTS // 2 if method in SPARSE else 0
    solution = solve(
        dictionary,
        sample(SHAPE),
        measurements,
        method,
        top_k=top_k,
        prior=prior,
        router=router,
        signals=signals,
    )
    assert solution.codes.shape == (SIGNALS, EXPERTS)
    assert solution.bias.shape == (SIGNALS, CHANNELS)
    assert solution.converged.shape == solution.iterations.shape == (SIGNALS,)
    assert solution.message
    if top_k:
        assert ((np.asarray(solution.codes) != 0).sum(-1) <= top_k).all()
    basis = np.asarray(dictionary.basis(grid(SHAPE)), np.float64)
    rendered = np.einsum("se,pec->spc", solution.codes, basis) + np.asarray(solution.bias)[:, None]
    residual = np.square(rendered - measurements).mean((1, 2))
    scale = np.square(measurements - measurements.mean(1, keepdims=True)).mean()
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-2, atol=1e-5 * scale)
    if method in ("ridge", "gaussian", "robust"):
        assert residual.max() < 1e-3 * scale
        if method == "ridge":
            np.testing.assert_allclose(solution.codes, codes, atol=0.02)
            np.testing.assert_allclose(solution.bias, bias, atol=0.02)


def test_ridge_by_cross_validation_and_by_text(dictionary, problem):
    measurements = problem[0].reshape(SIGNALS, -1, CHANNELS)
    arguments = (dictionary, sample(SHAPE), measurements, "ridge")
    chosen = solve(*arguments, lam="gcv")
    assert "cross-validation" in chosen.message
    given, written = solve(*arguments, lam=1e-4), solve(*arguments, lam="1e-4")
    np.testing.assert_array_equal(given.codes, written.codes)
    with pytest.raises(ValueError, match="gcv"):
        solve(*arguments, lam="some")


def test_router_ridge_solves_on_the_routers_support(dictionary, problem, router):
    signals = problem[0]
    measurements = signals.reshape(SIGNALS, -1, CHANNELS)
    arguments = {"top_k": 3, "router": router, "signals": signals}
    predicted = solve(dictionary, sample(SHAPE), measurements, "router", **arguments)
    solved = solve(dictionary, sample(SHAPE), measurements, "router+ridge", **arguments)
    np.testing.assert_array_equal(np.asarray(predicted.codes) != 0, np.asarray(solved.codes) != 0)
    assert (np.asarray(solved.residual) < np.asarray(predicted.residual)).all()
    equations = normal_equations(dictionary, sample(SHAPE), measurements)
    np.testing.assert_allclose(solved.bias, equations.bias(solved.codes), rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("rigde", {}, "did you mean 'ridge'"),
        ("gaussian", {}, "prior"),
        ("ridge", {"top_k": 3}, "fit.top_k"),
        ("omp", {}, "fit.top_k: 0"),
        ("iht", {"top_k": EXPERTS + 1}, f"1 to {EXPERTS}"),
        ("router", {}, "router.kind: none"),
        ("router", {"router": "codebook"}, "router.kind: codebook"),
        ("gradient", {"init": "best"}, "fit.gradient.init"),
    ],
)
def test_what_a_method_lacks_is_named(method, arguments, words, dictionary, problem):
    measurements = problem[0].reshape(SIGNALS, -1, CHANNELS)
    if "router" in arguments:
        arguments = {"router": Codebook(3, EXPERTS, CHANNELS, rngs=nnx.Rngs(0))}
    with pytest.raises(ValueError, match=words):
        solve(dictionary, sample(SHAPE), measurements, method, **arguments)


def test_clouds_are_what_a_solver_of_surfaces_reads():
    """And its own option `method` is not taken for the name of the solver."""
    solid = SharedDictionary(Identity(2), EXPERTS, 1, Layers(2, 24, "sine", 3.0), rngs=nnx.Rngs(2))
    angle = np.random.default_rng().uniform(0, 2 * np.pi, 80)
    normals = np.stack([np.cos(angle), np.sin(angle)], 1)
    clouds = np.concatenate([0.5 * normals, normals], 1)[None].astype(np.float32)
    solution = solve(
        solid, None, None, "surface", clouds=clouds, method="gauss-newton", iterations=3
    )
    assert solution.codes.shape == (1, EXPERTS)
    values = np.asarray(solid.basis(clouds[0, :, :2]))[..., 0] @ solution.codes[0]
    assert np.abs(values + solution.bias[0]).mean() < 0.1
    with pytest.raises(ValueError, match="needs clouds"):
        solve(solid, None, None, "surface")
    with pytest.raises(ValueError, match="ridge needs measurements; allowed with clouds alone: "):
        solve(solid, None, None, "ridge", clouds=clouds)
