"""The peers on video, against matrices made of known parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import low_rank


def planted(rows, columns, rank, share, seed):
    """(low rank, sparse): products of normal factors; a share of entries of size up to 5."""
    generator = np.random.default_rng(seed)
    low = generator.standard_normal((rows, rank)) @ generator.standard_normal((rank, columns))
    sparse = np.where(
        generator.random((rows, columns)) < share,
        generator.uniform(1, 5, (rows, columns)) * generator.choice([-1, 1], (rows, columns)),
        0,
    )
    return low, sparse


def relative(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


# ---- principal component pursuit --------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns", "rank"), [(60, 300, 3), (250, 80, 4), (100, 100, 2)])
def test_pursuit_finds_what_was_planted(rows, columns, rank):
    low, sparse = planted(rows, columns, rank, 0.05, seed=rows)
    found_low, found_sparse, iterations = low_rank.principal_component_pursuit(low + sparse)
    assert relative(found_low, low) < 1e-5
    assert relative(found_sparse, sparse) < 1e-5
    assert relative(found_low + found_sparse, low + sparse) < 1e-6
    assert np.linalg.matrix_rank(found_low, tol=1e-6 * np.linalg.norm(low)) == rank
    np.testing.assert_array_equal(np.abs(found_sparse) > 1e-3, sparse != 0)
    assert 10 < iterations < 100


def objective(low, sparse, lam):
    return np.linalg.norm(low, "nuc") + lam * np.abs(sparse).sum()


def slow_pursuit(matrix, lam, steps=4000):
    """The same problem by alternating directions with one fixed penalty and full SVDs."""
    mu = matrix.size / (4 * np.abs(matrix).sum())
    sparse, dual = np.zeros_like(matrix), np.zeros_like(matrix)
    for _ in range(steps):
        left, values, right = np.linalg.svd(matrix - sparse + dual / mu, full_matrices=False)
        low = left @ np.diag(np.maximum(values - 1 / mu, 0)) @ right
        rest = matrix - low + dual / mu
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - lam / mu, 0)
        dual += mu * (matrix - low - sparse)
    return low, sparse


def test_pursuit_is_near_the_least_where_nothing_was_planted():
    matrix = np.random.default_rng(5).standard_normal((12, 20))
    lam = 0.25
    low, sparse, _ = low_rank.principal_component_pursuit(matrix, lam=lam)
    slow_low, slow_sparse = slow_pursuit(matrix, lam)
    assert relative(slow_low + slow_sparse, matrix) < 1e-6
    least = objective(slow_low, slow_sparse, lam)
    # Inexact steps stop at most a little above the least.
    assert least * (1 - 1e-6) < objective(low, sparse, lam) < least * 1.01


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.floats(0.01, 3))
def test_shrinking_agrees_with_the_svd(rows, columns, seed, threshold):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    expected = left @ np.diag(np.maximum(values - threshold, 0)) @ right
    found = low_rank._shrink_singular(matrix, threshold)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_pursuit_keeps_the_type_and_takes_zeros():
    low, sparse = planted(30, 50, 1, 0.02, seed=1)
    found, _, _ = low_rank.principal_component_pursuit((low + sparse).astype(np.float32))
    assert found.dtype == np.float32
    assert relative(found, low) < 1e-4
    low, sparse, iterations = low_rank.principal_component_pursuit(np.zeros((3, 4)))
    assert (low == 0).all()
    assert (sparse == 0).all()
    assert iterations == 0


def test_pursuit_says_where_it_did_not_get_there():
    with pytest.raises(RuntimeError, match="after 3 iterations"):
        low_rank.principal_component_pursuit(sum(planted(9, 9, 1, 0.1, 0)), max_iterations=3)
