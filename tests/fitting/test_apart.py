"""Fits of signals that share no points, against each solved by itself."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import operators
from nid_jax.coding.prior import fit_prior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Gaussian, Lasso, Ridge
from nid_jax.coding.uncertainty import posterior_variance
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import CosineLattice
from nid_jax.fields.experts import Layers
from nid_jax.fields.model import Model
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import ways
from nid_jax.fitting.apart import fit_apart
from nid_jax.tasks.task import Measured

EXPERTS, CHANNELS, GRID, COUNTS = 6, 2, (5, 4), (3, 16, 9, 20)


def test_pictures_of_several_sizes_are_brought_to_few_forms():
    """By runs that are filled up, which measure what they did."""
    signal = np.random.default_rng(2).normal(size=(12 * 12, 1)).astype(np.float32)

    def of(points):
        places = np.round((np.asarray(points) + 1) / 2 * 11).astype(int)
        return signal[places @ [12, 1]]

    forms = set()
    for size in ((12, 7), (7, 12), (7, 9), (12, 4), (5, 5)):
        operator = operators.areas((12, 12), size)
        count = operator.num_measurements
        values = np.zeros((count, 1), np.float32)
        measured = Measured((operator,), (12, 12), 1, lambda index, values=values: values)
        wider, _, weights = ways.padded(measured, 0, count + 3)
        forms.add(ways.form_of(operator))
        assert (wider.run_length, wider.factors is None) == ways.form_of(operator)
        found = wider.measure(of(wider.points)[None])[0, weights > 0]
        np.testing.assert_allclose(found, operator.measure(of(operator.points)[None])[0], atol=1e-6)
    assert forms == {(4, False), (9, False)}


@pytest.fixture(scope="module")
def known():
    """(model, prior, signals at points of their own)."""
    layers = Layers(1, 8, "relu", 1.0)
    dictionary = SharedDictionary(
        CosineLattice((3, 3)), EXPERTS, CHANNELS, layers, rngs=nnx.Rngs(0)
    )
    draw = np.random.default_rng(1)
    points = [draw.uniform(-1, 1, (count, 2)).astype(np.float32) for count in COUNTS]
    values = [draw.normal(size=(count, CHANNELS)).astype(np.float32) for count in COUNTS]
    measured = Measured(
        [operators.sample(one) for one in points],
        GRID,
        CHANNELS,
        values=values.__getitem__,
        way=lambda index: index,
    )
    prior = fit_prior(draw.normal(size=(30, EXPERTS)), shrinkage=0.1)
    return Model(dictionary, None, 0, GRID), prior, measured


def stacks(measured):
    found = ways.by_way(measured, len(COUNTS))
    assert [which.tolist() for _, which in found] == [[0, 1, 2], [3]]
    return found


@pytest.mark.parametrize(
    "solver", [Gaussian(noise=0.2), pytest.param(Lasso(steps=4), marks=pytest.mark.slow)]
)
def test_codes_are_those_of_each_by_itself(known, solver):
    model, prior, measured = known
    uncertain = isinstance(solver, Gaussian)
    stacked, which = stacks(measured)[0]
    found = fit_apart(model, prior, stacked, solver, GRID, ("a", "b", "c"), uncertain)
    assert found.names == ("a", "b", "c")
    for row, index in enumerate(which):
        problem = Problem(
            model.dictionary, measured.ways[index], measured.values(index)[None], prior=prior
        )
        alone = solver.solve(problem)
        np.testing.assert_allclose(found.codes[row], alone.codes[0], atol=1e-4)
        np.testing.assert_allclose(found.bias[row], alone.bias[0], atol=1e-4)
        np.testing.assert_allclose(found.residual[row], alone.residual[0], rtol=1e-3, atol=1e-6)
        for name, curve in alone.history.items():
            np.testing.assert_allclose(found.history[name][..., row], curve[..., 0], rtol=1e-2)
        if uncertain:
            variance = posterior_variance(
                model.dictionary, grid(GRID), problem.equations(), prior, 0.2**2
            )
            np.testing.assert_allclose(
                found.known_deviation[row].reshape(-1, CHANNELS), np.sqrt(variance[0]), rtol=1e-3
            )
    assert set(found[:2].solution.stats) == set(alone.stats)


def test_what_cannot_be_is_one_line(known):
    model, prior, measured = known
    stacked, _ = stacks(measured)[1]
    with pytest.raises(ArgumentError, match="solver: 'ridge'; allowed: gaussian"):
        fit_apart(model, prior, stacked, Ridge(), GRID, ("a",), True)
    with pytest.raises(ArgumentError, match=r"lam: .*an array \[1\].*one number"):
        fit_apart(model, prior, stacked, Ridge(lam=np.ones(1)), GRID, ("a",))


def test_a_few_measurements_are_those_that_are_seen_and_say_which_are_samples():
    rows = np.arange(24, dtype=np.float32).reshape(4, 6, 1)
    sampled, mixed = operators.sample((2, 3)), 2 * operators.sample((2, 3))
    seen = np.ones((4, 6), np.float32)
    seen[1, 2:] = 0
    known = Measured(
        (sampled, mixed),
        (2, 3),
        1,
        values=rows.__getitem__,
        way=lambda index: int(index == 2),
        weights=seen.__getitem__,
    )
    found, which = ways.some_measurements(known, 4)
    np.testing.assert_array_equal(found.ravel(), [*range(8), *range(12, 24)])
    np.testing.assert_array_equal(which, [*[True] * 8, *[False] * 6, *[True] * 6])
    none, which = ways.some_measurements(dataclasses.replace(known, values=None), 4)
    assert none.shape == (0, 1)
    assert which.shape == (0,)
    many = Measured((sampled,), (2, 3), 1, values=lambda index: np.full((6, 1), index))
    np.testing.assert_array_equal(ways.some_measurements(many, 71)[0][::6, 0], np.arange(0, 71, 10))


def test_ways_that_are_not_to_be_stacked_stay_as_they_are(known):
    measured = known[2]
    found = ways.by_way(measured, len(COUNTS), together=False)
    assert [which.tolist() for _, which in found] == [[0], [1], [2], [3]]
    assert [one.operator.num_measurements for one, _ in found] == list(COUNTS)
