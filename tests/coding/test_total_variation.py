"""Total variation on the grid against general minimisers of the same objective."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import grid_operator, operators, total_variation
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.errors import ArgumentError

SHAPE = (6, 5)


def setting(seed, views=4):
    generator = np.random.default_rng(seed)
    operator = grid_operator.on_grid(operators.parallel_beam(SHAPE, views), SHAPE)
    start = generator.uniform(0, 1, (2, 30, 1)).astype(np.float32)
    truth = np.kron(generator.uniform(0, 1, (2, 2, 1)), np.ones((1, 3, 5))).reshape(2, 30, 1)
    measured = np.asarray(operator @ truth) + 0.01 * generator.normal(
        size=(2, operator.num_measurements, 1)
    )
    return operator, jnp.asarray(start), jnp.asarray(measured, jnp.float32)


def matrix_of(operator):
    identity = jnp.eye(operator.num_measurements)
    return np.asarray(operator.adjoint(identity[..., None]), np.float64)[..., 0]


def differences():
    """Forward differences as float64 matrices [P, P], zero at the end of each axis."""
    places = np.arange(30).reshape(SHAPE)
    down, right = np.zeros((30, 30)), np.zeros((30, 30))
    for r, c in np.ndindex(SHAPE):
        for matrix, other in ((down, (r + 1, c)), (right, (r, c + 1))):
            if other[0] < SHAPE[0] and other[1] < SHAPE[1]:
                matrix[places[r, c], places[other]] = 1
                matrix[places[r, c], places[r, c]] = -1
    return down, right


def test_the_gradient_and_its_adjoint():
    x = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    slopes = np.random.default_rng(1).normal(size=(2, 2, 30, 3)).astype(np.float32)
    forward = np.vdot(total_variation._gradient(jnp.asarray(x), SHAPE), slopes)
    backward = np.vdot(x, total_variation._gradient_adjoint(jnp.asarray(slopes), SHAPE))
    assert forward == pytest.approx(backward, rel=1e-4)
    down, right = differences()
    found = np.asarray(total_variation._gradient(jnp.asarray(x), SHAPE))
    np.testing.assert_allclose(found[:, 0], np.einsum("pq,sqc->spc", down, x), atol=1e-6)
    np.testing.assert_allclose(found[:, 1], np.einsum("pq,sqc->spc", right, x), atol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_without_variation_it_is_least_squares(dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(total_variation, "_DENSE_POINTS", 0)
        total_variation._admm.clear_cache()
    operator, start, measured = setting(0)
    lam = 0.05
    found = TotalVariation(tv=0.0, lam=lam, steps=60).refine(operator, SHAPE, start, measured)
    matrix = matrix_of(operator)
    energy = total_variation._mean_energy(operator, None)
    left = matrix.T @ matrix / energy + lam * np.eye(30)
    for signal in range(2):
        right = matrix.T @ np.asarray(measured[signal, :, 0], np.float64) / energy
        right = right + lam * np.asarray(start[signal, :, 0], np.float64)
        np.testing.assert_allclose(found[signal, :, 0], np.linalg.solve(left, right), atol=2e-3)
    total_variation._admm.clear_cache()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), tv=st.sampled_from([0.003, 0.03]), bounded=st.booleans())
def test_no_other_image_has_a_lower_objective(seed, tv, bounded):
    """Convex: descending from the result by any small step must not help."""
    operator, start, measured = setting(seed)
    bounds = (0.0, 1.0) if bounded else None
    lam = 0.03
    refinement = TotalVariation(tv, lam, 800, bounds)
    found = np.asarray(refinement.refine(operator, SHAPE, start, measured), np.float64)
    matrix, (down, right) = matrix_of(operator), differences()
    energy = total_variation._mean_energy(operator, None)

    def objective(x, signal):
        data = np.square(matrix @ x - np.asarray(measured[signal, :, 0])).sum() / energy
        tied = lam * np.square(x - np.asarray(start[signal, :, 0])).sum()
        return 0.5 * data + 0.5 * tied + tv * np.hypot(down @ x, right @ x).sum()

    generator = np.random.default_rng(seed)
    for signal in range(2):
        x = found[signal, :, 0]
        least = objective(x, signal)
        tried = [np.asarray(start[signal, :, 0], np.float64), np.full(30, x.mean())]
        tried += [x + 0.02 * generator.normal(size=30) for _ in range(20)]
        tried += [x + step * (t - x) for t in tried[:2] for step in (0.01, 0.1)]
        for other in tried:
            other = np.clip(other, 0, 1) if bounded else other
            assert objective(other, signal) > least - 1e-4 * abs(least) - 1e-5
    if bounded:
        assert found.min() >= 0
        assert found.max() <= 1


def test_energy_is_that_of_the_matrix():
    operator = grid_operator.on_grid(operators.parallel_beam((9, 9), 12), (9, 9))
    exact = np.square(matrix_of(operator)).sum() / 81
    assert total_variation._mean_energy(operator, None) == pytest.approx(exact, rel=0.3)


def test_masks_fill_in_what_was_not_seen():
    """A step edge with a hole on one side: the hole takes that side's value."""
    image = np.zeros(SHAPE, np.float32)
    image[:, 3:] = 0.8
    seen = np.ones(SHAPE, bool)
    seen[1:4, :2] = False
    operator = operators.mask(SHAPE, seen)
    measured = operator @ image.reshape(-1, 1)
    start = jnp.full((1, 30, 1), 0.5)
    found = TotalVariation(tv=0.01, lam=1e-4, steps=600).refine(
        operator, SHAPE, start, measured[None]
    )
    np.testing.assert_allclose(found[0, :, 0], image.ravel(), atol=0.05)


def test_weights_come_on_top_of_the_operators_own():
    operator, start, measured = setting(3)
    weights = np.random.default_rng(3).uniform(0, 1, (2, operator.num_measurements))
    refinement = TotalVariation(tv=0.01, lam=0.1, steps=5)
    whole = refinement.refine(operator, SHAPE, start, measured, weights)
    half = dataclasses.replace(operator, weights=jnp.full(operator.num_measurements, 0.5))
    found = refinement.refine(half, SHAPE, start, measured, 2 * weights)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert np.abs(whole - refinement.refine(operator, SHAPE, start, measured)).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"tv": -1.0}, "tv: -1.0; allowed: finite, 0 or more"),
        ({"tv": 0.0, "lam": 0.0}, "tv: 0.0; allowed: above 0 where lam is 0"),
        ({"lam": np.nan}, "lam: nan; allowed: finite, 0 or more"),
        ({"steps": 0}, "steps: 0; allowed: a whole number, 1 or more"),
        ({"bounds": (1.0, 0.0)}, r"bounds: \(1.0, 0.0\); allowed: None, or"),
        ({"bounds": (1.0, 1.0)}, "low < high"),
        ({"bounds": (0.0, np.nan)}, "low < high"),
        ({"bounds": (0.0,)}, "bounds: "),
    ],
)
def test_refuses_what_cannot_be(fields, wrong):
    with pytest.raises(ArgumentError, match=f"^{wrong}" if ":" in wrong else wrong):
        TotalVariation(**fields)
