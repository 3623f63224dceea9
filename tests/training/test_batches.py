"""Batches of signals that were not measured alike, and what a step sees of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax import platforms
from nid_jax.coding import operators
from nid_jax.coding.gram import normal_equations
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import CosineLattice
from nid_jax.fields.experts import Layers
from nid_jax.fields.model import Model
from nid_jax.fields.routing import Gates
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import ways
from nid_jax.sharding import make_mesh, place_batch
from nid_jax.tasks.task import Measured
from nid_jax.training import steps
from nid_jax.training.batches import WayBatches, grouped
from nid_jax.training.losses import Objective
from nid_jax.training.steps import shown
from nid_jax.training.strategies import Projected, project

GRID, CHANNELS, EXPERTS = (5, 4), 2, 6


def scattered(counts, seed=None):
    """Signals known at points of their own, `counts` of them, values their numbers and places."""
    draw = np.random.default_rng(seed)
    points = [draw.uniform(-1, 1, (count, 2)).astype(np.float32) for count in counts]
    values = [draw.normal(size=(count, CHANNELS)).astype(np.float32) for count in counts]
    known = [operators.sample(one) for one in points]
    return Measured(known, GRID, CHANNELS, values=values.__getitem__, way=lambda index: index)


def masked(count, seed=None):
    """Signals on a grid of which each shows its own points, NaN elsewhere."""
    draw = np.random.default_rng(seed)
    shape = (count, int(np.prod(GRID)))
    weights = (draw.uniform(size=shape) < 0.6).astype(np.float32)
    weights[:, 0] = 1
    values = draw.normal(size=(*shape, CHANNELS)).astype(np.float32)
    values[weights == 0] = np.nan
    known = (operators.sample(GRID),)
    return Measured(known, GRID, CHANNELS, values.__getitem__, weights=weights.__getitem__)


def model_of():
    dictionary = SharedDictionary(
        CosineLattice((3, 3)), EXPERTS, CHANNELS, Layers(1, 8, "relu", 1.0), rngs=nnx.Rngs(0)
    )
    return Model(dictionary, None, 0, GRID)


def test_ways_that_fill_no_batch_are_padded_to_few_lengths():
    counts = [3, 5, 40, 41, 60, 2, 9, 300]
    groups = grouped(scattered(counts), len(counts), 2)
    assert sorted(int(i) for _, signals in groups for i in signals) == list(range(8))
    for length, signals in groups:
        assert len(signals) >= 2
        assert length >= max(counts[i] for i in signals)
    assert len({length for length, _ in groups}) <= 3
    # More than a batch holds: all go together, and repeat.
    ((length, signals),) = grouped(scattered(counts), len(counts), 8)
    assert (length, len(signals)) == (ways.padded_length(300), 8)


def test_a_batch_holds_what_was_measured_of_its_signals():
    counts = [3, 7, 12, 20, 33]
    measured = scattered(counts)
    source = WayBatches(measured, 5, 2, 0, slice(None))
    for number in range(4):
        batch, again = source[number], WayBatches(measured, 5, 2, 0, slice(None))[number]
        for row, index in enumerate(batch["ids"]):
            count = counts[index]
            weights = batch["weights"][row]
            assert (weights[:count] == 1).all()
            assert (weights[count:] == 0).all()
            np.testing.assert_array_equal(batch["signals"][row, :count], measured.values(index))
            points = batch["operators"].points[row, :count]
            np.testing.assert_array_equal(points, measured.ways[index].points)
            np.testing.assert_array_equal(batch["ids"], again["ids"])
    halves = [WayBatches(measured, 5, 2, 0, slice(part, part + 1))[1]["ids"] for part in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), source[1]["ids"])


def test_ways_that_fill_batches_keep_their_operator():
    coarse = operators.downsample((6, 4), 2)
    draw = np.random.default_rng(15)
    values = [draw.normal(size=((20, 6)[i % 2], CHANNELS)).astype(np.float32) for i in range(8)]
    measured = Measured(
        (operators.sample(GRID), coarse), GRID, CHANNELS, values.__getitem__, lambda i: i % 2
    )
    source = WayBatches(measured, 8, 4, 3, slice(None))
    both = [source[number] for number in range(2)]
    assert sorted(batch["signals"].shape[1] for batch in both) == [6, 20]
    for batch in both:
        assert len(set(batch["ids"] % 2)) == 1
        found = shown(place_batch(batch, make_mesh(1, 1)), None)
        assert found.operator.num_measurements == batch["signals"].shape[1]


@pytest.mark.slow
def test_what_a_step_sees_of_padded_signals_is_what_each_says_alone():
    measured, model = scattered([6, 9, 15]), model_of()
    batch = WayBatches(measured, 3, 3, 0, slice(None))[0]
    found = shown(jax.tree.map(jnp.asarray, batch), None)
    dictionary = model.dictionary

    def solve(equations):
        return project(equations, 1e-2)

    together, in_turn = solve(found.equations(dictionary)), found.solved(dictionary, solve)[0]
    np.testing.assert_allclose(together.values, in_turn.values, rtol=1e-3, atol=1e-4)
    codes = jnp.asarray(np.random.default_rng(16).normal(size=(3, EXPERTS)), jnp.float32)
    gates = Gates(codes, None, None, jnp.ones((3, CHANNELS)))
    rendered = found.rendered(dictionary, gates)
    for row, index in enumerate(batch["ids"]):
        operator, values = measured.ways[index], measured.values(index)
        alone = normal_equations(dictionary, operator, values[None], precision="float32")
        wanted = solve(alone)
        np.testing.assert_allclose(together.values[row], wanted.values[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(together.bias[row], wanted.bias[0], rtol=1e-3, atol=1e-4)
        own = jax.tree.map(lambda leaf, row=row: leaf[row][None], gates)
        np.testing.assert_allclose(
            rendered[row, : len(values)],
            dictionary.combine(operator.points, own)[0],
            rtol=1e-4,
            atol=1e-5,
        )
    chosen = np.array([[2, 0], [1, 5], [3, 3]])
    some = found.of_measurements(jnp.asarray(chosen))
    for row, places in enumerate(chosen):
        np.testing.assert_array_equal(some.targets[row], found.targets[row, places])
        np.testing.assert_array_equal(some.operator.points[row], found.operator.points[row, places])
    assert some.rendered(dictionary, gates).shape == (3, 2, CHANNELS)


def test_signals_with_weights_are_solved_some_at_a_time(monkeypatch):
    measured, dictionary = masked(6), model_of().dictionary
    batch = jax.tree.map(jnp.asarray, WayBatches(measured, 6, 6, 0, slice(None))[0])
    found = shown(batch, measured.ways[0])

    def solve(equations):
        return project(equations, 1e-2)

    wanted = solve(found.equations(dictionary))
    few = dataclasses.replace(platforms.sizes(), held=4 * 10**2)
    monkeypatch.setattr(platforms, "sizes", lambda: few)
    some, equations = found.solved(dictionary, solve)
    assert equations is None
    np.testing.assert_allclose(some.values, wanted.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(some.bias, wanted.bias, rtol=1e-4, atol=1e-5)


def test_a_chunk_is_of_what_each_signal_has():
    """However much longer the longest is."""
    measured = scattered([3, 40, 300], seed=0)
    batch = jax.tree.map(jnp.asarray, WayBatches(measured, 3, 3, 0, slice(None))[0])
    chosen = np.asarray(steps.own_chunks(jax.random.key(1), batch["weights"], 8))
    counts = np.array([3, 40, 300])[batch["ids"]]
    for places, count in zip(chosen, counts, strict=True):
        assert len(set(places)) == 8
        assert (places < count).sum() == min(count, 8)
    other = np.asarray(steps.own_chunks(jax.random.key(2), batch["weights"], 8))
    assert not np.array_equal(np.sort(chosen, 1), np.sort(other, 1))
    # A step shows these.
    found = shown(batch, None, jnp.asarray(chosen))
    np.testing.assert_array_equal(found.weights.sum(1), np.minimum(counts, 8))
    for row, index in enumerate(batch["ids"]):
        own = found.operator.points[row][np.asarray(found.weights[row]) > 0]
        assert {tuple(one) for one in np.asarray(own)} <= {
            tuple(one) for one in np.asarray(measured.ways[index].points)
        }


def test_a_chunk_of_many_is_drawn_with_repetition(monkeypatch):
    monkeypatch.setattr(steps, "_PERMUTED_POINTS", 10)
    weights = np.arange(20) < np.array([[2], [20]])
    chosen = np.asarray(steps.own_chunks(jax.random.key(1), jnp.asarray(weights, float), 15))
    assert set(chosen[0]) == {0, 1}
    assert chosen[1].max() > 10


@pytest.mark.parametrize("make", [lambda: masked(4), lambda: scattered([7, 12, 20, 5])])
def test_gradients_know_nothing_of_what_was_not_measured(make):
    measured, model = make(), model_of()
    batch = WayBatches(measured, 4, 4, 0, slice(None))[0]
    strategy, operator = Projected(Objective(), 1e-3), measured.ways[0]
    graphdef, params = nnx.split(model)

    @jax.jit
    def slopes(signals):
        known = shown(jax.tree.map(jnp.asarray, batch | {"signals": signals}), operator)
        gates = strategy.prepare(model, batch, known)

        def loss(params):
            merged = nnx.merge(graphdef, params)
            return strategy.loss(merged, gates, batch, known, False, None)[0]

        return jax.value_and_grad(loss)(params)

    first = slopes(jnp.asarray(batch["signals"]))
    hidden = batch["weights"][..., None] == 0
    assert hidden.any()
    second = slopes(jnp.where(hidden, 7.0, batch["signals"]))
    assert np.isfinite(first[0])
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_a_signal_of_which_nothing_was_measured_is_named():
    measured = masked(4)
    weights = np.stack([measured.weights(i) for i in range(4)])
    weights[2] = 0
    with pytest.raises(ArgumentError, match="signal 2"):
        grouped(Measured(measured.ways, GRID, CHANNELS, None, weights=weights.__getitem__), 4, 2)
