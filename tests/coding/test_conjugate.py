"""Tests of nid_jax.coding.conjugate."""

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import conjugate, gram, operators, prior, ridge
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Gaussian, Ridge
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary

EXPERTS, SIGNALS, GRID = 12, 3, (11, 9)
OPERATOR = operators.sample(GRID)
ROWS = GRID[0] * GRID[1]


def make(kind, channels, seed):
    rngs = nnx.Rngs(seed)
    embedding = GaussianFourier(2, 16, 2.0, rngs=rngs)
    return kind(embedding, EXPERTS, channels, Layers(2, 16, "relu", 1.0), rngs=rngs)


def problem(kind, channels, seed):
    """A dictionary, measurements [S, M, C] that it spans but for noise, and weights [S, M]."""
    dictionary, draw = make(kind, channels, seed), np.random.default_rng(seed)
    basis = np.asarray(dictionary.basis(OPERATOR.points))
    values = np.einsum("se,mec->smc", draw.standard_normal((SIGNALS, EXPERTS)), basis)
    values = values + draw.standard_normal((SIGNALS, 1, channels))
    values = values + 0.1 * draw.standard_normal(values.shape)
    weights = draw.uniform(0.02, 1, (SIGNALS, ROWS))
    return dictionary, values.astype(np.float32), weights.astype(np.float32)


def plain(dictionary, values, weights, mean, penalty):
    """Minimum of the weighted squares and (z - mean) penalty (z - mean), in float64. [S, N]."""
    basis = np.asarray(dictionary.basis(OPERATOR.points), np.float64)
    channels = basis.shape[2]
    ones = np.broadcast_to(np.eye(channels), (len(basis), channels, channels))
    rows = np.concatenate([basis, ones], 1)
    found = []
    for y, w in zip(values.astype(np.float64), weights.astype(np.float64), strict=True):
        matrix = np.einsum("m,mnc,mkc->nk", w, rows, rows)
        right = np.einsum("m,mnc,mc->n", w, rows, y) + penalty @ mean
        found.append(np.linalg.solve(matrix + penalty, right))
    return np.array(found), rows


def solved(dictionary, values, weights, known=None, noise=None, lam=1e-6, **options):
    problem = Problem(dictionary, OPERATOR, values, weights)
    return conjugate.weighted_codes(problem, conjugate.Penalty(lam, known, noise), **options)


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(
    kind=st.sampled_from([SharedDictionary, IndependentDictionary]),
    channels=st.sampled_from([1, 3]),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_most_probable_codes(kind, channels, with_bias, seed):
    dictionary, values, weights = problem(kind, channels, seed)
    draw = np.random.default_rng(seed + 1)
    codes = draw.standard_normal((40, EXPERTS)) @ draw.standard_normal((EXPERTS, EXPERTS)) / 3
    bias = draw.standard_normal((40, channels)) if with_bias else None
    known = prior.fit_prior(codes, bias, shrinkage=0.3)
    noise = 0.05
    found = solved(dictionary, values, weights, known, noise, tolerance=1e-5)
    size = EXPERTS + channels
    spoken = len(known.mean)
    factor, diagonal = (np.asarray(part, np.float64) for part in known[1:3])
    penalty, mean = np.zeros((size, size)), np.zeros(size)
    penalty[:spoken, :spoken] = noise * np.linalg.inv(factor @ factor.T + np.diag(diagonal))
    mean[:spoken] = known.mean
    expected, rows = plain(dictionary, values, weights, mean, penalty)
    coefficients = np.concatenate([found.codes, found.bias], 1)
    rendered = np.einsum("sn,mnc->smc", coefficients, rows)
    wanted = np.einsum("sn,mnc->smc", expected, rows)
    np.testing.assert_allclose(rendered, wanted, atol=2e-3 * np.abs(wanted).max())
    assert found.converged.all()
    squares = np.square(values - wanted).mean(-1)
    residual = (weights * squares).sum(1) / weights.sum(1)
    np.testing.assert_allclose(found.residual, residual, rtol=2e-2)


@pytest.mark.parametrize(
    "kind", [SharedDictionary, pytest.param(IndependentDictionary, marks=pytest.mark.slow)]
)
def test_ridge_is_that_of_the_own_gram_matrices(kind):
    dictionary, values, weights = problem(kind, 2, 5)
    found = solved(dictionary, values, weights, lam=1e-6, tolerance=1e-5)
    equations = gram.normal_equations(dictionary, OPERATOR, values, weights)
    direct = ridge.ridge(equations, 1e-6)
    np.testing.assert_allclose(found.residual, direct.residual, rtol=1e-3)
    basis = np.asarray(dictionary.basis(OPERATOR.points), np.float64)

    def rendered(solution):
        values = np.einsum("se,mec->smc", np.asarray(solution.codes, np.float64), basis)
        return values + np.asarray(solution.bias)[:, None]

    np.testing.assert_allclose(rendered(found), rendered(direct), atol=2e-2)


def test_weights_of_their_own_in_float64_are_solved_to_its_accuracy():
    """Of ridge and a prior, beside the tolerance of 1e-3 that conjugate gradients end at."""
    dictionary, values, weights = problem(SharedDictionary, 1, 6)
    draw = np.random.default_rng(1)
    codes = draw.standard_normal((40, EXPERTS)) @ draw.standard_normal((EXPERTS, EXPERTS)) / 3
    known = prior.fit_prior(codes, shrinkage=0.3)
    covariance = np.asarray(known.factor, np.float64) @ np.asarray(known.factor).T
    covariance += np.diag(np.asarray(known.diagonal, np.float64))
    penalty, mean = np.zeros((EXPERTS + 1, EXPERTS + 1)), np.append(known.mean, 0.0)
    penalty[:-1, :-1] = 0.01 * np.linalg.inv(covariance)
    expected, rows = plain(dictionary, values, weights, mean, penalty)
    measured = Problem(dictionary, OPERATOR, values, weights, known)
    wanted = np.einsum("sn,mnc->smc", expected, rows)

    def off(solver):
        found = solver.solve(measured)
        coefficients = np.concatenate([found.codes, found.bias], 1)
        rendered = np.einsum("sn,mnc->smc", coefficients, rows)
        return np.abs(rendered - wanted).max() / np.abs(wanted).max()

    assert off(Gaussian(noise=0.1, precision="float64")) < 1e-5
    assert off(Gaussian(noise=0.1)) < 1e-2


def test_an_iteration_is_not_enough_and_says_so():
    dictionary, values, weights = problem(SharedDictionary, 1, 2)
    found = solved(dictionary, values, weights, iterations=1, tolerance=1e-5)
    assert not found.converged.any()
    assert (np.asarray(found.iterations) == 1).all()


def test_signals_in_parts_are_those_of_all_at_once(monkeypatch):
    dictionary, values, weights = problem(SharedDictionary, 1, 3)
    whole = solved(dictionary, values, weights, tolerance=1e-6)
    monkeypatch.setattr(conjugate, "_HELD_NUMBERS", ROWS)
    parts = solved(dictionary, values, weights, tolerance=1e-6)
    np.testing.assert_allclose(parts.residual, whole.residual, rtol=1e-4)


def test_where_it_is_taken():
    dictionary, values, weights = problem(SharedDictionary, 1, 4)
    known = prior.fit_prior(np.random.default_rng(0).standard_normal((30, EXPERTS)))

    def taken(weights, solver=None):
        solver = solver or Gaussian(noise=0.1)
        found = solver.solve(Problem(dictionary, OPERATOR, values, weights, known))
        by_descent = "conjugate" in solver.describe(found)
        assert by_descent == ("descent_error" in found.stats)
        return by_descent

    assert taken(weights)
    assert taken(weights, Ridge(lam=1e-5))
    assert not taken(weights, Ridge(lam="gcv"))
    # What was asked for in float64 is summed in it, for every signal.
    assert not taken(weights, Ridge(lam=1e-5, precision="float64"))
    assert not taken(weights, Gaussian(noise=0.1, precision="float64"))
    assert not taken(None)
    assert not taken(weights[0])
    # Masks, which leave directions undetermined, have their own Gram matrices.
    assert not taken((weights > 0.5).astype(np.float32))
    assert not taken(weights, Gaussian())
    few = operators.sample((4, 5))
    assert not conjugate.applies(dictionary, few, weights[:, :20])


def test_refusals():
    dictionary, values, weights = problem(SharedDictionary, 1, 4)
    other = prior.fit_prior(np.random.default_rng(0).standard_normal((30, EXPERTS + 5)))
    with pytest.raises(ArgumentError, match="this dictionary has 12 experts"):
        solved(dictionary, values, weights, other, 0.1)
    known = prior.fit_prior(np.random.default_rng(0).standard_normal((30, EXPERTS)))
    with pytest.raises(ArgumentError, match="noise: -1"):
        solved(dictionary, values, weights, known, -1.0)
    with pytest.raises(ArgumentError, match="lam: -1"):
        solved(dictionary, values, weights, lam=-1.0)
