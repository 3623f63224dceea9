"""Rounds over collections that share no grid: likelihoods that rise, and rounds that go on."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from nid_jax.coding import expectation, gram, operators
from nid_jax.errors import ArgumentError
from nid_jax.fitting import rounds
from nid_jax.notices import Notice
from nid_jax.tasks.task import Measured

GRID, CHANNELS, SIGNALS = (5,), 2, 24
MOST = 4
SPECTRUM = np.arange(1, MOST + 1) ** -3.0


class Powers:
    """Cosines of a line's points as columns, channels as blocks."""

    blocks = channels = CHANNELS
    coefficients = MOST

    def rows(self, operator):
        """Measured cosines, and the constant."""
        points = jnp.asarray(operator.points)
        waves = jnp.cos(jnp.pi * jnp.arange(1, MOST + 1) * (points + 1) / 2)
        ones = jnp.ones((operator.num_points, 1))
        return gram.wide(operator.measure(waves), operator.measure(ones))

    def values(self, measurements):
        """As they are."""
        return measurements


def signals_of(draw, kind):
    """Signals that are measured alike, through masks, in two ways or each in its own."""
    spectrum = 1 / np.arange(1, MOST + 1)
    codes = draw.normal(size=(SIGNALS, MOST, CHANNELS)) * spectrum[:, None] + 0.5
    level = draw.normal(size=(SIGNALS, CHANNELS))

    def at(index, operator):
        design = np.asarray(Powers().rows(operator)[0], np.float64)
        values = design @ codes[index] + level[index]
        noise = np.random.default_rng(index).normal(size=values.shape)
        return (values + 0.05 * noise).astype(np.float32)

    weights, way = None, None
    ways = (operators.sample(GRID),)
    if kind == "masks":
        masks = (draw.uniform(size=(SIGNALS, *GRID)) < 0.7).astype(np.float32)
        masks[:, 0] = 1
        weights = masks.__getitem__
    elif kind == "one mask":
        shown = np.array([1, 0, 1, 1, 1], np.float32)
        weights = np.tile(shown, (SIGNALS, 1)).__getitem__
    elif kind == "two":
        ways = (operators.sample(GRID), operators.downsample((8,), 2))
        way = (np.arange(SIGNALS) % 2).__getitem__
    elif kind == "all":
        counts = draw.integers(2, 30, SIGNALS)
        places = [draw.uniform(-1, 1, (count, 1)) for count in counts]
        ways = tuple(operators.sample(points) for points in places)
        way = np.arange(SIGNALS).__getitem__
    measured = Measured(ways, GRID, CHANNELS, values=None, weights=weights, way=way)

    def values(index):
        known = at(index, ways[measured.way_of(index)])
        if weights is not None:
            known[weights(index) == 0] = np.nan
        return known

    return dataclasses.replace(measured, values=values)


def learned(measured, **options):
    held = np.arange(SIGNALS) % 5 == 4
    given = {"rounds": 4, "shrinkage": None} | options
    return rounds.learned(Powers(), measured, held, SPECTRUM, **given)


@pytest.mark.parametrize(
    "kind",
    [
        "alike",
        "masks",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("one mask", "two", "all")),
    ],
)
def test_likelihoods_rise_in_every_round_and_rounds_go_on(kind, tmp_path):
    measured = signals_of(np.random.default_rng(5), kind)
    kept = tmp_path / "rounds.npz"

    def after(state):
        state.save(kept, 7)
        return state.round != rounds.SPECTRUM_ROUNDS + 2

    whole = learned(measured)
    assert whole.round == rounds.SPECTRUM_ROUNDS + 4
    assert whole.shrinkage in rounds.SHRINKAGES
    for part in np.split(np.array(whole.likelihoods), [rounds.SPECTRUM_ROUNDS]):
        assert (np.diff(part) > -1e-9 * np.abs(part[1:])).all(), part
    stopped = learned(measured, told=rounds.Told(after))
    assert stopped.round == rounds.SPECTRUM_ROUNDS + 2
    assert rounds.State.load(kept, 8) is None
    resumed = learned(measured, state=rounds.State.load(kept, 7))
    assert resumed.likelihoods == whole.likelihoods
    for one, other in zip(resumed.gaussian, whole.gaussian, strict=True):
        np.testing.assert_array_equal(one, other)


def test_more_rounds_with_covariances_follow_more_of_variances():
    assert rounds.spectrum_rounds(1) == rounds.spectrum_rounds(8) == rounds.SPECTRUM_ROUNDS
    assert rounds.spectrum_rounds(40) == 75


@pytest.mark.slow
def test_ways_of_few_signals_say_what_a_way_for_each_says(monkeypatch):
    measured = signals_of(np.random.default_rng(6), "all")
    padded = learned(measured, shrinkage=0.3)
    monkeypatch.setattr(rounds, "_FEW_SIGNALS", 1)
    each = learned(measured, shrinkage=0.3)
    np.testing.assert_allclose(padded.likelihoods, each.likelihoods, rtol=1e-7)
    np.testing.assert_allclose(
        padded.gaussian.covariance, each.gaussian.covariance, rtol=1e-5, atol=1e-8
    )


def test_many_measurements_are_read_in_parts(monkeypatch):
    draw = np.random.default_rng(7)
    points = draw.uniform(-1, 1, (150, 1))
    values = draw.normal(size=(150, CHANNELS)).astype(np.float32)
    weights = (draw.uniform(size=150) < 0.8).astype(np.float32)
    values[weights == 0] = np.nan
    measured = Measured(
        (operators.sample(points),), GRID, CHANNELS, lambda _: values, weights=lambda _: weights
    )
    with gram.working_precision("float64"):
        gaussian = expectation.started(np.ones(MOST), np.ones(CHANNELS), 0.5)
        whole = rounds.SignalsByWay(Powers(), measured, np.zeros(2, bool)).expected(
            gaussian, np.arange(2)
        )
        monkeypatch.setattr(rounds, "_PIECE_NUMBERS", 32)
        parts = rounds.SignalsByWay(Powers(), measured, np.zeros(2, bool)).expected(
            gaussian, np.arange(2)
        )
    assert whole.values == 2 * CHANNELS * weights.sum()
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


def test_signals_of_one_measurement_are_said():
    draw = np.random.default_rng(8)
    points = [draw.uniform(-1, 1, (count, 1)) for count in (1, 9, 9)]
    values = [draw.normal(size=(len(one), CHANNELS)).astype(np.float32) for one in points]
    known = [operators.sample(one) for one in points]
    measured = Measured(known, GRID, CHANNELS, values.__getitem__, way=lambda index: index)
    with pytest.warns(Notice, match="1 of 3 have 1 measurement"):
        signals = rounds.SignalsByWay(Powers(), measured, np.zeros(3, bool))
    with gram.working_precision("float64"):
        gaussian = expectation.started(np.ones(MOST), np.ones(CHANNELS), 0.5)
        first, second = (
            signals.expected(gaussian, which).second for which in (np.arange(3), np.array([1, 2]))
        )
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_a_signal_of_which_nothing_is_known_is_named():
    measured = signals_of(np.random.default_rng(9), "masks")
    known = measured.weights
    nothing = dataclasses.replace(measured, weights=lambda i: known(i) * (i != 3))
    with pytest.raises(ArgumentError, match="signal 3"):
        learned(nothing)


@pytest.mark.slow
def test_gaussians_come_near_the_truth_from_scattered_points():
    draw = np.random.default_rng(10)
    spectrum = np.array([1.0, 0.5, 0.25, 0.1])
    places = [draw.uniform(-1, 1, (12, 1)) for _ in range(300)]
    codes = 2 + draw.normal(size=(300, MOST)) * spectrum
    ways = [operators.sample(points) for points in places]
    designs = [np.asarray(Powers().rows(way)[0], np.float64) for way in ways]
    values = [
        (design @ code)[:, None].repeat(CHANNELS, 1) + draw.normal(0, 0.02, (12, CHANNELS))
        for design, code in zip(designs, codes, strict=True)
    ]
    measured = Measured(
        ways, GRID, CHANNELS, values=lambda i: np.float32(values[i]), way=lambda i: i
    )
    found = rounds.learned(Powers(), measured, np.zeros(300, bool), SPECTRUM, 12, 0.0).gaussian
    sample = np.cov(codes.T, bias=True)
    np.testing.assert_allclose(found.mean[0], codes.mean(0), atol=0.02)
    assert np.abs(found.covariance[0] - sample).max() < 0.05 * sample.max()
    np.testing.assert_allclose(found.noise, 0.02**2, rtol=0.2)


def joint_posterior(measured, gaussian, index, channel):
    """Mean and covariance of (coefficients, level) of one signal and channel, by precisions."""
    operator = measured.ways[measured.way_of(index)]
    design, constants = (np.asarray(part, np.float64) for part in Powers().rows(operator))
    rows, values = np.concatenate([design, constants], 1), measured.values(index)[:, channel]
    if measured.weights is not None:
        kept = measured.weights(index) > 0
        rows, values = rows[kept], values[kept]
    precision = rows.T @ rows / gaussian.noise
    inverse = np.linalg.inv(gaussian.covariance[channel])
    precision[:MOST, :MOST] += inverse
    right = rows.T @ values.astype(np.float64) / gaussian.noise
    right[:MOST] += inverse @ gaussian.mean[channel]
    covariance = np.linalg.inv(precision)
    return covariance @ right, covariance


@pytest.mark.parametrize("kind", ["alike", "masks", pytest.param("all", marks=pytest.mark.slow)])
def test_levels_go_with_coefficients_as_their_joint_posteriors_say(kind):
    draw = np.random.default_rng()
    measured = signals_of(draw, kind)
    roots = draw.normal(size=(CHANNELS, MOST, MOST))
    covariance = roots @ roots.swapaxes(1, 2) + 0.1 * np.eye(MOST)
    mean = draw.normal(size=(CHANNELS, MOST))
    gaussian = expectation.Gaussian(mean, covariance, np.float64(0.05))
    found = rounds.levels(Powers(), measured, gaussian, SIGNALS)
    best, spare = np.zeros((SIGNALS, CHANNELS)), np.zeros(CHANNELS)
    slope = np.zeros((CHANNELS, MOST))
    for index in range(SIGNALS):
        for channel in range(CHANNELS):
            both, left = joint_posterior(measured, gaussian, index, channel)
            best[index, channel] = both[-1]
            spare[channel] += left[-1, -1] / SIGNALS
            cross = (both[:MOST] - mean[channel]) * both[-1] + left[:MOST, -1]
            slope[channel] += np.linalg.solve(covariance[channel], cross) / SIGNALS
    np.testing.assert_allclose(found.mean, best.mean(0), rtol=1e-6, atol=1e-8)
    spread = np.cov(best.T, bias=True) + np.diag(spare)
    np.testing.assert_allclose(found.covariance, spread, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.slope[..., 0], slope, rtol=1e-4, atol=1e-6)


def test_ways_of_about_as_many_signals_share_what_is_compiled():
    draw = np.random.default_rng(20)
    way_of = np.repeat(np.arange(5), np.arange(10, 15))
    ways = [operators.sample(draw.uniform(-1, 1, (9, 1))) for _ in range(5)]
    values = draw.normal(size=(len(way_of), 9, CHANNELS)).astype(np.float32)
    measured = Measured(ways, GRID, CHANNELS, values.__getitem__, way=way_of.__getitem__)
    with gram.working_precision("float64"):
        gaussian = expectation.started(SPECTRUM, np.ones(CHANNELS), 0.5)
        signals = rounds.SignalsByWay(Powers(), measured, np.zeros(len(way_of), bool))
        before = expectation.expected._cache_size()
        sums = signals.expected(gaussian, np.arange(len(way_of)))
        assert expectation.expected._cache_size() - before <= 1
        assert sums.signals == len(way_of)
        assert sums.values == len(way_of) * 9 * CHANNELS


@pytest.mark.parametrize(
    ("count", "most"), [(0, 9), (1, 1), (33, 9), (100, 70), (64, 64), (7, 600)]
)
def test_batches_of_few_sizes_hold_every_signal_once(count, most):
    found = list(rounds._in_few_sizes(np.arange(count), most))
    assert [int(i) for some in found for i in some] == list(range(count))
    assert {len(some) for some in found} <= {size for size in (1, 8, 64, 512) if size <= most}


def test_shrinkage_is_chosen_by_signals_that_nothing_knows():
    measured = signals_of(np.random.default_rng(21), "alike")
    seen = []

    class Recorded(rounds.SignalsByWay):
        def variances(self, which):
            seen.append(set(which.tolist()))
            return super().variances(which)

        def expected(self, gaussian, which, *, diagonal=False):
            seen.append(set(which.tolist()))
            return super().expected(gaussian, which, diagonal=diagonal)

    held = np.arange(SIGNALS) % 5 == 4
    with gram.working_precision("float64"):
        signals = Recorded(Powers(), measured, held)
        untold = rounds.UNTOLD.choosing
        chosen = rounds._chosen_shrinkage(signals, SPECTRUM, held, untold)
    assert chosen in rounds.SHRINKAGES
    scored, learned_from = seen[-len(rounds.SHRINKAGES) :], seen[: -len(rounds.SHRINKAGES)]
    assert all(which == set(np.flatnonzero(held)) for which in scored)
    assert all(which == set(np.flatnonzero(~held)) for which in learned_from)
    with pytest.warns(Notice, match="none to be held out; their shrinkage is taken as 0.1"):
        assert rounds._chosen_shrinkage(None, SPECTRUM, 0 * held > 0, untold) == 0.1


def test_a_round_without_a_likelihood_is_named_and_not_kept():
    measured = signals_of(np.random.default_rng(22), "alike")
    wrong = dataclasses.replace(
        measured, values=lambda i: measured.values(i) * (np.nan if i == 2 else 1)
    )
    kept = []
    with pytest.raises(ArgumentError, match="log likelihood nan in round 1"):
        learned(wrong, told=rounds.Told(kept.append))
    assert not kept


def test_the_choice_of_the_shrinkage_says_how_far_it_is():
    measured, told, at = signals_of(np.random.default_rng(5), "alike"), [], []

    def choosing(done, total):
        told.append((done, total))
        at.append(len(after))

    after: list[int] = []
    learned(measured, told=rounds.Told(lambda state: after.append(state.round) is None, choosing))
    total = told[0][1]
    assert told == [(done, total) for done in range(1, total + 1)]
    # In one go, once the variances are known.
    assert set(at) == {rounds.SPECTRUM_ROUNDS}
    told.clear()
    learned(measured, shrinkage=0.1, told=rounds.Told(choosing=choosing))
    assert not told
