"""Equations in orthonormal coordinates against float64 least squares on the whole basis."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import least_squares, operators, orthonormal
from nid_jax.fields.embeddings import CosineLattice, GaussianFourier, Splines
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from tests.coding.test_gram import Mixing, check, make_dictionary


def whole(dictionary, operator, weights):
    """Weighted columns [M C, E + C] of all atoms and the constants, float64."""
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    count, experts, channels = basis.shape
    ones = np.broadcast_to(np.eye(channels), (count, channels, channels))
    columns = np.concatenate([basis.swapaxes(1, 2), ones], -1).reshape(count * channels, -1)
    return columns * np.sqrt(np.repeat(weights, channels))[:, None]


def ridge_by_definition(columns, right, experts, lam):
    """The code [E] of one signal in float64, free bias, lam relative to the mean atom; residual."""
    constants = columns[:, experts:]
    coordinates, *_ = np.linalg.lstsq(constants, np.c_[columns[:, :experts], right], rcond=None)
    free = np.c_[columns[:, :experts], right] - constants @ coordinates
    left, s, vectors = np.linalg.svd(free[:, :experts], full_matrices=False)
    shift = lam * (s**2).sum() / experts
    code = vectors.T @ (s / (s**2 + shift) * (left.T @ free[:, experts]))
    return code, np.square(free[:, experts] - free[:, :experts] @ code).sum()


# Of the atoms: their products in float32 know nothing of what makes up the last digits of a fit.
CONDITION = 1e6
CASES = {
    "cosines": lambda rngs: (CosineLattice((12, 12)), Layers(1, 1, "relu", 1.0), 300),
    "splines": lambda rngs: (Splines((10, 10)), Layers(1, 1, "relu", 1.0), 220),
    "trunk": lambda rngs: (
        GaussianFourier(2, 64, 1.0, rngs=rngs),
        Layers(3, 128, "relu", 1.0),
        300,
    ),
}


@pytest.fixture(scope="module", params=list(CASES))
def problem(request):
    """An ill-conditioned dictionary on a grid with smooth signals in two channels."""
    rngs = nnx.Rngs(1)
    embedding, layers, experts = CASES[request.param](rngs)
    dictionary = SharedDictionary(embedding, experts, 2, layers, rngs=rngs)
    operator = operators.sample((18, 17))
    x = np.asarray(operator.points, np.float64)
    draw = np.random.default_rng(0)
    waves = [np.sin(x @ draw.normal(size=(2, 2)) * 3 + draw.normal(size=2)) for _ in range(3)]
    y = np.stack(waves) + 0.01 * draw.normal(size=(3, len(x), 2)) + 5
    return dictionary, operator, y.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 50])
def test_residuals_of_ridge_are_those_of_double_precision(problem, chunk):
    dictionary, operator, y = problem
    equations = orthonormal.orthonormal_equations(dictionary, operator, y, chunk=chunk)
    experts = dictionary.num_experts
    columns = whole(dictionary, operator, np.ones(len(operator.points)))
    assert np.linalg.cond(columns[:, :experts]) > CONDITION
    for lam in (1e-4, 1e-6, 1e-8):
        shift = lam * jnp.square(equations.root).sum() / experts
        found = least_squares.damped_codes(equations.root, equations.projected, shift)
        residual = np.asarray(equations.residual(found.codes), np.float64)
        bias = np.asarray(equations.bias(found.codes), np.float64)
        rendered = np.concatenate([np.asarray(found.codes, np.float64), bias], 1) @ columns.T
        targets = y.reshape(len(y), -1).astype(np.float64)
        drawn = np.square(targets - rendered).sum(1)
        least = [ridge_by_definition(columns, t, experts, lam)[1] for t in targets]
        # 0.01 dB: what codes in float32 render, and what the equations say of it.
        np.testing.assert_allclose(drawn, least, rtol=2.3e-3)
        np.testing.assert_allclose(residual, least, rtol=2.3e-3)
        assert found.error.max() < 1e-4


@pytest.mark.parametrize("kind", ["shared", "wide", "independent"])
@pytest.mark.parametrize(("form", "chunk"), [("none", 0), ("one", 10), ("own", 10), ("own", 0)])
def test_products_are_the_normal_equations(kind, form, chunk):
    generator = np.random.default_rng(0)
    dictionary, operator = make_dictionary(kind), operators.sample((9, 7))
    measurements = generator.normal(3, 1, (4, 63, 2)).astype(np.float32)
    weights = {"none": None, "one": generator.uniform(size=63), "own": None}[form]
    if form == "own":
        weights = (generator.uniform(size=(4, 63)) < 0.4).astype(np.float32)
    equations = orthonormal.orthonormal_equations(
        dictionary, operator, measurements, weights, chunk=chunk
    )
    assert equations.shared == (form != "own")
    assert equations.reduced().root.shape[-2] <= dictionary.num_experts
    used = np.ones(63) if weights is None else weights.astype(np.float32)
    check(equations.products(), dictionary, operator, measurements, used)


@pytest.mark.parametrize("kind", ["shared", "wide", "independent"])
def test_runs_of_points_and_a_constant_that_is_not_one(kind):
    generator = np.random.default_rng(1)
    points = generator.uniform(-1, 1, (80, 2)).astype(np.float32)
    factors = generator.uniform(0, 1, (20, 4)).astype(np.float32)
    operator = operators.Sample(jnp.asarray(points), jnp.asarray(factors), run_length=4)
    dictionary = make_dictionary(kind)
    measurements = generator.normal(size=(3, 20, 2)).astype(np.float32)
    equations = orthonormal.orthonormal_equations(dictionary, operator, measurements, chunk=7)
    check(equations.products(), dictionary, operator, measurements, np.ones(20), 1e-5)


@pytest.mark.parametrize("kind", ["shared", "wide", "independent"])
def test_an_operator_without_runs(kind):
    generator = np.random.default_rng(2)
    local = operators.sample(generator.uniform(-1, 1, (11, 2)))
    mixing = Mixing(local.points, matrix=jnp.eye(11)[::-1])
    dictionary = make_dictionary(kind)
    measurements = generator.normal(size=(2, 11, 2)).astype(np.float32)
    mixed = orthonormal.orthonormal_equations(dictionary, mixing, measurements[:, ::-1], chunk=4)
    check(mixed.products(), dictionary, local, measurements, np.ones(11), 1e-5)


@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_a_constant_that_is_not_seen(kind):
    generator = np.random.default_rng(5)
    local = operators.sample(generator.uniform(-1, 1, (30, 2)))
    differences = np.eye(30)[:-1] - np.eye(30)[1:]
    operator = Mixing(local.points, matrix=jnp.asarray(differences, jnp.float32))
    dictionary = make_dictionary(kind)
    y = generator.normal(size=(2, 29, 2)).astype(np.float32)
    found = orthonormal.orthonormal_equations(dictionary, operator, y, chunk=8)
    atoms = np.asarray(dictionary.basis(local.points), np.float64)
    atoms = np.einsum("mq,qec->mec", differences, atoms)
    gram = np.einsum("mec,mfc->ef", atoms, atoms)
    np.testing.assert_allclose(found.products().gram, gram, atol=3e-6 * gram.max())
    moments = np.einsum("mec,smc->se", atoms, y)
    np.testing.assert_allclose(found.moments, moments, atol=1e-5 * np.abs(moments).max())
    np.testing.assert_allclose(found.energy, np.square(y).sum((1, 2)), rtol=1e-5)
    assert not found.bias_weight.any()
    assert not found.target_mean.any()


def test_masked_measurements_may_be_missing():
    generator = np.random.default_rng(3)
    seen = (generator.uniform(size=(2, 63)) < 0.5).astype(np.float32)
    measurements = generator.normal(size=(2, 63, 2)).astype(np.float32)
    dictionary, operator = make_dictionary(), operators.mask((9, 7), seen)
    broken = np.where(seen[..., None] > 0, measurements, np.nan)
    with_nan = orthonormal.orthonormal_equations(dictionary, operator, broken)
    check(with_nan.products(), dictionary, operators.sample((9, 7)), measurements, seen)


def test_a_rest_far_below_the_signal_does_not_cancel():
    dictionary, operator = make_dictionary("wide"), operators.sample((12, 11))
    generator = np.random.default_rng(6)
    codes = generator.normal(size=(2, 12)).astype(np.float32)
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    noise = 1e-4 * generator.normal(size=(2, 132, 2))
    y = (np.einsum("se,mec->smc", codes, basis) + noise).astype(np.float32)
    equations = orthonormal.orthonormal_equations(dictionary, operator, y)
    columns = whole(dictionary, operator, np.ones(132))
    for signal, found in enumerate(equations.residual(codes)):
        known = np.concatenate([codes[signal], np.asarray(equations.bias(codes))[signal]])
        expected = np.square(y[signal].ravel() - columns @ known).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.parametrize("own", [False, True])
def test_equations_of_some_signals_and_experts(own):
    generator = np.random.default_rng(7)
    dictionary, operator = make_dictionary("wide"), operators.sample((9, 7))
    y = generator.normal(size=(4, 63, 2)).astype(np.float32)
    weights = generator.uniform(size=(4, 63)).astype(np.float32) if own else None
    equations = orthonormal.orthonormal_equations(dictionary, operator, y, weights)
    some = equations.of_signals(np.array([2, 0]))
    indices = np.array([[3, 1, 7], [0, 11, 2]])
    few = some.of_experts(indices)
    values = generator.normal(size=(2, 3)).astype(np.float32)
    codes = np.zeros((2, 12), np.float32)
    np.put_along_axis(codes, indices, values, 1)
    np.testing.assert_allclose(few.rendered(values), some.rendered(codes), atol=1e-4)
    np.testing.assert_allclose(few.bias(values), some.bias(codes), atol=1e-5)
    other = codes.repeat(2, 0)
    expected = equations.residual(other)[np.array([2, 0])]
    np.testing.assert_allclose(some.residual(other[[2, 0]]), expected, rtol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_damped_codes_with_roots_of_their_own(own):
    generator = np.random.default_rng(8)
    root = generator.normal(size=(3, 5, 9) if own else (5, 9))
    z, shift = generator.normal(size=(3, 5)), np.array([0.1, 1.0, 3.0]) if own else np.array(0.3)
    arguments = [jnp.asarray(v, jnp.float32) for v in (root, z, shift)]
    found = least_squares.damped_codes(*arguments)
    for signal in range(3):
        b = root[signal] if own else root
        lam = shift[signal] if own else shift
        system = b @ b.T + lam * np.eye(5)
        code = b.T @ np.linalg.solve(system, z[signal])
        np.testing.assert_allclose(found.codes[signal], code, atol=1e-5)
        quadratic = z[signal] @ np.linalg.solve(system, z[signal])
        np.testing.assert_allclose(found.quadratic[signal], quadratic, rtol=1e-4)
        determinant = np.broadcast_to(found.log_determinant, 3)[signal]
        np.testing.assert_allclose(determinant, np.linalg.slogdet(system)[1], rtol=1e-4)


def test_no_float64_is_lowered():
    dictionary, operator = make_dictionary("wide"), operators.sample((9, 7))

    def solve(state, y):
        merged = nnx.merge(nnx.graphdef(dictionary), state)
        equations = orthonormal.orthonormal_equations(merged, operator, y)
        found = least_squares.damped_codes(equations.root, equations.projected, jnp.float32(1e-3))
        return found.codes, equations.residual(found.codes)

    text = jax.jit(solve).lower(nnx.state(dictionary), jnp.zeros((2, 63, 2))).as_text()
    assert "f64" not in text
    assert "f32" in text


def test_signals_of_their_own_weights_are_factored_in_one_loop(monkeypatch):
    """Two would wait for each other's threads in LAPACK; and batches change no equations."""
    dictionary, draw = make_dictionary(), np.random.default_rng(7)
    operator = operators.sample((9, 8))
    y = draw.normal(size=(3, 72, dictionary.channels)).astype(np.float32)
    weights = draw.uniform(0.5, 1, (3, 72)).astype(np.float32)
    monkeypatch.setattr(orthonormal, "_HELD_NUMBERS", 0)
    given = dictionary, operator, y, weights
    graphdef, state = nnx.split(dictionary)

    def factorisations():
        jax.clear_caches()
        lowered = orthonormal._equations.lower(graphdef, state, *given[1:], chunk=72)
        return lowered.as_text().count("@lapack_sgeqrf_ffi")

    expected, at_once = orthonormal.orthonormal_equations(*given), factorisations()
    trunk = orthonormal._through_features(dictionary, 72, 3)
    columns = dictionary.num_features + 1 if trunk else dictionary.num_experts + dictionary.channels
    few = dataclasses.replace(orthonormal.platforms.sizes(), chunk=2 * 72 * columns)
    monkeypatch.setattr(orthonormal.platforms, "sizes", lambda: few)
    assert factorisations() == at_once
    found = orthonormal.orthonormal_equations(*given, chunk=72)
    for one, other in zip(found, expected, strict=True):
        size = np.abs(other).max()
        np.testing.assert_allclose(np.abs(one), np.abs(other), rtol=1e-3, atol=1e-4 * size)
