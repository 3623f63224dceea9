"""Batched conjugate gradients against direct solutions in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import conjugate_gradients

SIZE = 12


def systems(seed, spread=10.0):
    """Positive definite matrices [S, C, N, N] of condition `spread` and right sides [S, N, C]."""
    draw = np.random.default_rng(seed)
    turns = np.linalg.qr(draw.standard_normal((3, 2, SIZE, SIZE)))[0]
    values = np.geomspace(1, spread, SIZE) * draw.uniform(0.1, 10, (3, 2, 1))
    matrices = np.einsum("scij,scj,sckj->scik", turns, values, turns)
    return matrices, draw.standard_normal((3, SIZE, 2))


def product(matrices):
    return lambda x: jnp.einsum("scij,sjc->sic", matrices, x, precision="highest")


def direct(matrices, right):
    """float64 solutions [S, N, C]."""
    return np.moveaxis(np.linalg.solve(matrices, np.moveaxis(right, 1, 2)[..., None])[..., 0], 1, 2)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), started=st.booleans())
def test_is_the_direct_solution_in_float64(seed, started):
    matrices, right = systems(seed)
    with jax.enable_x64(True):
        start = jnp.asarray(np.random.default_rng(seed).standard_normal(right.shape))
        found = conjugate_gradients.solve(
            product(jnp.asarray(matrices)),
            jnp.asarray(right),
            start if started else None,
            axis=1,
            iterations=100,
            tolerance=1e-12,
        )
    np.testing.assert_allclose(found.x, direct(matrices, right), rtol=1e-8, atol=1e-9)
    assert (np.asarray(found.residual) <= 1e-12).all()
    assert found.residual.shape == (3, 1, 2)
    assert SIZE <= found.iterations < 40


def test_the_residual_is_the_true_one_and_the_tolerance_is_where_it_stops():
    matrices, right = systems(1, spread=1e4)
    with jax.enable_x64(True):
        apply, right = product(jnp.asarray(matrices)), jnp.asarray(right)
        solve = functools.partial(
            conjugate_gradients.solve, apply, right, axis=1, tolerance=jnp.float64(0.1)
        )
        found = solve(iterations=100)
        left = np.linalg.norm(right - apply(found.x), axis=1) / np.linalg.norm(right, axis=1)
        before = solve(iterations=found.iterations - 1)
    np.testing.assert_allclose(found.residual[:, 0], left, rtol=1e-6)
    assert left.max() <= 0.1
    assert before.residual.max() > 0.1
    assert before.iterations == found.iterations - 1


def test_every_system_has_steps_of_its_own():
    """A batch is what its systems are alone, however differently they are scaled."""
    matrices, right = systems(2)
    matrices, right = jnp.asarray(matrices, jnp.float32), jnp.asarray(right, jnp.float32)
    whole = conjugate_gradients.solve(product(matrices), right, axis=1, iterations=4)
    for s in range(3):
        alone = conjugate_gradients.solve(
            product(1e3 * matrices[s : s + 1]), 1e3 * right[s : s + 1], axis=1, iterations=4
        )
        np.testing.assert_allclose(alone.x[0], whole.x[s], rtol=1e-4, atol=1e-6)


def test_a_solved_system_stands_still_beside_others():
    matrices, right = systems(3)
    matrices, right = jnp.asarray(matrices, jnp.float32), jnp.asarray(right, jnp.float32)
    right = right.at[1].set(0.0)
    found = conjugate_gradients.solve(product(matrices), right, axis=1, iterations=200)
    assert np.isfinite(found.x).all()
    np.testing.assert_array_equal(found.x[1], 0)
    np.testing.assert_array_equal(found.residual[1], 0)
    np.testing.assert_allclose(found.x, direct(np.float64(matrices), right), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axis", [-1, 1])
def test_vectors_may_lie_along_any_axis(axis):
    matrices, right = systems(4)
    matrices, right = jnp.asarray(matrices[:, 0], jnp.float32), jnp.asarray(right[..., 0])
    found = conjugate_gradients.solve(
        lambda x: jnp.einsum("sij,sj->si", matrices, x), right, axis=axis, iterations=30
    )
    expected = direct(np.float64(matrices)[:, None], np.float64(right)[..., None])[..., 0]
    np.testing.assert_allclose(found.x, expected, rtol=1e-3, atol=1e-4)
