"""What a robust fit leaves out, against the same rule written out in NumPy."""

import dataclasses
import functools

import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import gram, operators, posterior, prior, ridge, robust, trimmed
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Robust
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary

SHAPE, SIGNALS, EXPERTS, CHANNELS = (9, 8), 4, 6, 2
POINTS = SHAPE[0] * SHAPE[1]


@functools.cache
def dictionary():
    rngs = nnx.Rngs(1)
    embedding = GaussianFourier(2, 16, 2.0, rngs=rngs)
    return SharedDictionary(embedding, EXPERTS, CHANNELS, Layers(2, 16, "relu", 1.0), rngs=rngs)


def blocked(seed):
    """Signals [S, P, C] of the dictionary with noise, a 3x3 block of each wrong; clean; bad."""
    rng = np.random.default_rng(seed)
    basis = np.asarray(dictionary().basis(grid(SHAPE)), np.float64)
    clean = np.einsum("se,pec->spc", rng.normal(size=(SIGNALS, EXPERTS)), basis)
    clean /= clean.std((1, 2), keepdims=True)
    bad = np.zeros((SIGNALS, *SHAPE), bool)
    for one in bad:
        row, column = rng.integers(0, SHAPE[0] - 2), rng.integers(0, SHAPE[1] - 2)
        one[row : row + 3, column : column + 3] = True
    bad = bad.reshape(SIGNALS, -1)
    values = clean + 0.02 * rng.normal(size=clean.shape)
    values[bad] = rng.uniform(4, 6, (bad.sum(), CHANNELS))
    return values.astype(np.float32), clean, bad


def problem(operator, values, known=None):
    return Problem(dictionary(), operator, values, prior=known)


def piloted(operator, values):
    return robust.robust_solve(problem(operator, values), Robust())


def rendered(solution):
    basis = np.asarray(dictionary().basis(grid(SHAPE)), np.float64)
    values = np.einsum("se,pec->spc", np.asarray(solution.codes, np.float64), basis)
    return values + np.asarray(solution.bias, np.float64)[:, None]


def expected_kept(values, pilot, seen, trim, reach):
    """The rule point by point: residuals, their weighted mean nearby, the median of those seen."""
    sizes = np.abs(values.astype(np.float64) - rendered(pilot)).mean(-1)
    points = np.asarray(grid(SHAPE), np.float64)
    kept = np.zeros(seen.shape, bool)
    for signal in range(len(values)):
        judged = []
        for point in points:
            distance = np.linalg.norm(points - point, axis=1)
            weight = np.exp(-0.5 * (distance / reach) ** 2) if reach else 1.0 * (distance == 0)
            weight = weight * seen[signal] * (distance <= max(3 * reach, 0))
            judged.append((weight * np.nan_to_num(sizes[signal])).sum() / max(weight.sum(), 1e-12))
        judged = np.array(judged)
        kept[signal] = seen[signal] & (judged <= trim * np.median(judged[seen[signal]]))
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("reach", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_second_fit_is_that_of_what_was_kept(reach, masked):
    values, _, _ = blocked(3)
    rng = np.random.default_rng(4)
    seen = rng.random((SIGNALS, POINTS)) < 0.8 if masked else np.ones((SIGNALS, POINTS), bool)
    operator = operators.mask(SHAPE, seen) if masked else operators.sample(SHAPE)
    pilot = piloted(operator, np.where(seen[..., None], values, 0))
    given = np.where(seen[..., None], values, np.nan)
    found = trimmed.trimmed_solve(
        problem(operator, given), pilot, Robust(trim=3.3, reach=reach, lam=1e-3)
    )
    kept = expected_kept(values, pilot, seen, 3.3, reach)
    np.testing.assert_allclose(found.stats["kept"], kept.sum(1) / seen.sum(1), atol=1e-6)
    again = operators.mask(SHAPE, kept)
    equations = gram.normal_equations(dictionary(), again, np.where(kept[..., None], values, 0))
    np.testing.assert_allclose(rendered(found), rendered(ridge.ridge(equations, 1e-3)), atol=1e-4)


@pytest.mark.slow
def test_a_wrong_block_is_left_out_altogether():
    values, clean, bad = blocked(5)
    operator = operators.sample(SHAPE)
    pilot = piloted(operator, values)
    sizes = trimmed.residual_sizes(dictionary(), operator, values, pilot)
    kept = trimmed.believed(sizes, np.ones_like(bad), 5.0)
    assert not kept[bad].any()
    found = trimmed.trimmed_solve(problem(operator, values), pilot, Robust(trim=5.0))
    # As near to the clean signals as a fit that was told, and nearer than plain least squares.
    told = gram.normal_equations(dictionary(), operators.mask(SHAPE, ~bad), values)
    best = np.abs(rendered(ridge.ridge(told, 1e-4)) - clean).mean()
    plain = ridge.ridge(gram.normal_equations(dictionary(), operator, values), 1e-4)
    assert np.abs(rendered(found) - clean).mean() < 1.3 * best
    assert np.abs(rendered(plain) - clean).mean() > 10 * best


def test_neighbours_decide_over_a_likely_value():
    sizes = np.full((1, POINTS), 0.1)
    block = np.zeros(SHAPE, bool)
    block[2:5, 2:5] = True
    sizes[0, block.ravel()] = 1.0
    sizes[0, 3 * SHAPE[1] + 3] = 0.0  # the middle of the block happens to be right
    sizes[0, -1] = 0.25  # a single odd value far away
    seen = np.ones((1, POINTS), bool)
    alone = trimmed.believed(sizes, seen, 2.0).reshape(SHAPE)
    assert alone[3, 3]
    assert not alone[-1, -1]
    nearby = trimmed._nearby(operators.sample(SHAPE), 0.25)
    together = trimmed.believed(sizes, seen, 2.0, nearby).reshape(SHAPE)
    assert not together[block].any()
    assert together[-1, -1]


def test_the_door_trims_under_the_prior():
    values, _, _ = blocked(6)
    rng = np.random.default_rng(7)
    known = prior.fit_prior(rng.normal(size=(60, EXPERTS)), shrinkage=0.1)
    given = problem(operators.sample(SHAPE), values, known)
    solver = Robust(trim=3.0, reach=0.2, trim_noise=0.1, noise=0.2)
    pilot, found = Robust(noise=0.2).solve(given), solver.solve(given)
    kept = expected_kept(values, pilot, np.ones(values.shape[:2], bool), 3.0, 0.2)
    equations = gram.normal_equations(dictionary(), operators.mask(SHAPE, kept), values)
    np.testing.assert_allclose(
        rendered(found), rendered(posterior.gaussian(equations, known, 0.01)), atol=1e-4
    )
    assert "then gaussian prior, noise variance 1.0e-02, " in solver.describe(found)
    assert "kept" in solver.describe(found)


def test_degenerate_and_impossible_options():
    values = np.zeros((1, POINTS, CHANNELS), np.float32)
    operator = operators.sample(SHAPE)
    pilot = piloted(operator, values)
    # Residuals of zero are not above any multiple of zero.
    solver = Robust(trim=2.5)
    found = trimmed.trimmed_solve(problem(operator, values), pilot, solver)
    assert found.stats["kept"] == 1
    seen = np.zeros((1, POINTS), bool)
    assert not trimmed.believed(np.full((1, POINTS), np.nan), seen, 2.0).any()
    for options, words in [
        ({"trim": 0.5}, "trim: 0.5; allowed: 0 .off., or 1 and more"),
        ({"trim": np.nan}, "trim: nan"),
        ({"reach": -1.0}, "reach: -1.0; allowed: finite, 0 or more"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            Robust(**options)
    runs = dataclasses.replace(operator, run_length=2)
    for mixing in (operators.parallel_beam(SHAPE, [0.0, 45.0]), runs):
        with pytest.raises(ArgumentError, match="reach: 0.1; allowed: 0"):
            trimmed._nearby(mixing, 0.1)
    assert trimmed._nearby(operators.Operator(operator.points), 0.1).shape == (POINTS, POINTS)
