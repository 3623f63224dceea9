"""Dictionaries learned from signals of which only parts, or other sizes, are known."""

import numpy as np
import pytest

import nid_jax as nid
from nid_jax import data, learning
from nid_jax.coding import operators
from nid_jax.errors import ArgumentError
from nid_jax.notices import Notice

SHAPE, EXPERTS = (6, 6), 8


def waves(count, side=6, seed=None):
    """Pictures of few smooth waves at side x side pixels' middles, [S, H, W]."""
    draw = np.random.default_rng(seed)
    middle = (np.arange(side) + 0.5) / side
    basis = np.cos(np.pi * np.arange(3)[:, None] * middle)
    codes = draw.normal(size=(count, 3, 3)) * 0.1
    codes[:, 0, 0] += 0.5
    return np.einsum("sij,ih,jw->shw", codes, basis, basis).astype(np.float32)


def left(dictionary, signals):
    """The share of the variance of signals that their codes leave."""
    fit = dictionary.fit(signals, solver=nid.solvers.Ridge())
    error = np.square(fit.render()[..., 0] - signals).sum()
    return error / np.square(signals - signals.mean((1, 2), keepdims=True)).sum()


@pytest.fixture(scope="module")
def masked():
    """Signals, what is seen of each, and the dictionary learned from that."""
    signals = waves(40, seed=0)
    seen = np.random.default_rng(1).uniform(size=signals.shape) < 0.6
    return signals, seen, nid.learn(signals, seen=seen, num_experts=EXPERTS)


@pytest.mark.slow
def test_what_is_missing_is_learned_from_others(masked):
    signals, seen, dictionary = masked
    unseen = waves(10)
    assert left(dictionary, unseen) < 0.05
    # The damage itself would be learned otherwise.
    assert left(nid.learn(np.where(seen, signals, 0), num_experts=EXPERTS), unseen) > 0.2
    # The prior fills in most of what was not seen.
    few = np.random.default_rng(2).uniform(size=SHAPE) < 0.5
    found = dictionary.fit(unseen, seen=few).render()[..., 0]
    hidden = np.square(found - unseen)[:, ~few].mean()
    assert hidden < 0.2 * np.square(unseen - unseen.mean((1, 2), keepdims=True)).mean()


@pytest.mark.slow
def test_drawn_signals_have_levels_like_those_learned_from(masked):
    signals, _, dictionary = masked
    drawn = dictionary.sample(2000, seed=1).render()[..., 0]
    ours, theirs = (some.mean((1, 2)) for some in (drawn, signals))
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.03)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.3)
    # Levels go with codes: the corner is brighter where the whole is.
    ours, theirs = (
        np.corrcoef(some.mean((1, 2)), some[:, 0, 0])[0, 1] for some in (drawn, signals)
    )
    assert ours == pytest.approx(theirs, abs=0.25)


@pytest.mark.slow
def test_nan_is_what_seen_says(masked):
    signals, seen, dictionary = masked
    with pytest.warns(Notice, match="of the samples are NaN; taken as missing"):
        found = nid.learn(np.where(seen, signals, np.nan), num_experts=EXPERTS)
    np.testing.assert_array_equal(found.dictionary.head_kernel, dictionary.dictionary.head_kernel)
    np.testing.assert_array_equal(found.prior.mean, dictionary.prior.mean)


@pytest.mark.slow
def test_pictures_of_several_sizes_are_learned_from_as_they_are():
    pictures = [waves(1, 12 if number % 4 else 6, number)[0] for number in range(40)]
    dictionary = nid.learn(pictures, num_experts=8)
    assert dictionary.grid_shape == (12, 12)
    assert left(dictionary, waves(10, 12)) < 0.02


@pytest.mark.slow
def test_scattered_points_are_a_collection(tmp_path):
    draw = np.random.default_rng(3)
    pictures = waves(30, 24, 4)
    values, ways = [], []
    for picture in pictures:
        places = draw.integers(0, 24, (draw.integers(8, 30), 2))
        values.append(picture[tuple(places.T)][:, None])
        ways.append(operators.sample((places + 0.5) / 12 - 1))
    names = [f"day {number}" for number in range(30)]
    known = data.WaysCollection(values, ways, range(30), (8, 8), names, "stations")
    dictionary = nid.learn(known, num_experts=8, workdir=tmp_path)
    again = nid.load(tmp_path)
    np.testing.assert_array_equal(again.prior.mean, dictionary.prior.mean)
    middles = np.stack(np.meshgrid(*2 * [(np.arange(24) + 0.5) / 12 - 1], indexing="ij"), -1)
    unseen = waves(10, 24)
    fit = dictionary.fit(
        unseen.reshape(10, -1), operators.sample(middles.reshape(-1, 2).astype(np.float32))
    )
    variance = np.square(unseen - unseen.mean((1, 2), keepdims=True)).mean()
    assert fit.residual.mean() < 0.1 * variance


@pytest.mark.slow
def test_points_that_all_signals_share_need_be_no_grid():
    points = np.random.default_rng(5).permutation(144)[:60]
    way = operators.sample((12, 12)).of_measurements(points)
    values = waves(40, 12, 6).reshape(40, -1, 1)[:, points]
    known = data.WaysCollection(values, [way], np.zeros(40), (12, 12), range(40), "sensors")
    assert left(nid.learn(known, num_experts=8), waves(10, 12)) < 0.03


def test_what_is_seen_has_the_axes_of_the_signals():
    draw = np.random.default_rng(7)
    values, seen = draw.uniform(size=(5, 4, 6)), draw.uniform(size=(5, 4, 6)) < 0.7
    expected = learning._collection(values, "SHW", seen)
    for letters, axes in (("SWH", (0, 2, 1)), ("HWS", (1, 2, 0)), ("WSH", (2, 0, 1))):
        found = learning._collection(values.transpose(axes), letters, seen.transpose(axes))
        assert found.title == expected.title
        np.testing.assert_array_equal(found.seen(2), expected.seen(2))
    one = learning._collection(values.transpose(0, 2, 1), "SWH", seen[0].T)
    np.testing.assert_array_equal(one.seen(3), seen[0])


def test_channels_that_are_missing_and_scales_are_said():
    values = np.full((4, 5, 5, 3), 0.5)
    values[:, 2, 2, 1] = np.nan
    with pytest.warns(Notice, match="4.0% of the samples .* only where all its channels are known"):
        learning._collection(values, "")
    pictures = [np.full((3, 3), 200.0), np.full((3, 4), 9.0)]
    with pytest.warns(Notice, match="values from 9 to 200; taken as they are"):
        learning._collection(pictures, "")


@pytest.mark.parametrize(
    ("signals", "options", "words"),
    [
        (waves(9), {"seen": np.ones((2, 2))}, r"float64\[2, 2\]"),
        (waves(9), {"seen": np.zeros((9, *SHAPE), bool)}, "1 or more samples seen of signal 0"),
        (waves(9), {"seen": np.full(SHAPE, 2)}, "booleans, or 0 and 1"),
        (
            waves(9),
            {"seen": np.ones((6, 9)), "layout": "SWH"},
            r"booleans \[9, 6, 6\], or \[6, 6\]",
        ),
        (waves(9) * np.inf, {}, "NaN where missing"),
        (
            waves(9).astype(np.float64) * 1e39,
            {},
            "signals: -?inf; allowed: finite numbers of float32",
        ),
        (
            waves(9).astype(np.float64) * 1e12,
            {"seen": np.arange(36).reshape(SHAPE) % 3 > 0},
            r"^signals: 'an array, .*, values up to [0-9.]+e\+1[12]'; allowed: up to 1e\+09, as",
        ),
        ([np.full((3, 3), 1e12), np.ones((3, 4))], {}, r"^signals: .* up to 1e\+12'; allowed: up"),
        (waves(9).astype(np.float64) * 1e-40, {}, "^signals: .* or more, as float32 sums"),
        (waves(9).astype(np.float64) * 1e-50, {}, "^signals: .*e-5[01]'; allowed: 1e-15 or more"),
        ([np.full((3, 3), 1e-50), np.zeros((3, 4))], {}, "^signals: .* up to 1e-50'; allowed: 1e-"),
        (waves(9).astype("m8[s]"), {}, r"signals: timedelta64\[s\]; allowed: real numbers"),
        (np.where(np.arange(3) == 0, np.nan, np.ones((2, 4, 4, 3))), {}, "where all its channels"),
        (
            [np.full((3, 3), 9, np.uint8), np.full((3, 4), 200.0)],
            {},
            "'float64 beside uint8'; allowed: one range for all; .* others reach 200",
        ),
        ([np.ones((3, 3)), np.full((3, 4), np.nan)], {}, "signals: nan; allowed: .*; signal 1 "),
        ([np.ones((3, 6, 6)), np.ones((3, 5, 7))], {}, r"allowed: channels last, \[h, w, C\]"),
        ([np.ones((6, 6, 3)), np.ones((5, 7, 1))], {}, r"pictures \[h, w, C\] of one C"),
        ([np.ones((3, 3)), np.ones((3, 3, 2))], {}, r"pictures \[h, w\]"),
        ([np.ones((3, 3)), np.ones((4, 3))], {"seen": np.ones(3)}, "seen: "),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(signals, options, words):
    with pytest.raises(ArgumentError, match=words) as caught:
        nid.learn(signals, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([np.ones((4, 1)), np.ones((0, 1))], "signal 'b' is"),
        ([np.ones((4, 1)), np.ones((3, 1))], "expected 4 measurements"),
        ([np.ones((4, 1)), np.full((4, 1), np.nan)], "signal 'b'"),
        ([np.ones((4, 1)), np.ones((4, 2))], "signal 'b' is"),
    ],
)
def test_collections_that_make_no_sense_name_the_signal(values, words):
    ways = [operators.sample((2, 2))]
    with pytest.raises(ValueError, match=words):
        data.WaysCollection(values, ways, [0, 0], (2, 2), "ab", "sensors")


@pytest.mark.slow
def test_an_array_with_nan_on_the_command_line(call, tmp_path):
    signals = np.clip(waves(20, side=12, seed=0), 0, 1)
    signals[np.random.default_rng(1).uniform(size=signals.shape) < 0.3] = np.nan
    np.save(tmp_path / "x.npy", signals)
    result = call(
        "--config=image:smoke",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=array",
        f"--config.data.root={tmp_path / 'x.npy'}",
        "--config.dictionary.heads=components",
        "--config.train.steps=0",
    )
    assert result.code == 0, result.err
    assert "% of the samples are NaN, in 20 of 20 signals; taken as not measured" in result.err
    assert "gaussian" in result.out


@pytest.mark.parametrize(("count", "steps"), [(1, 0), pytest.param(6, 2, marks=pytest.mark.slow)])
def test_few_signals_with_holes_are_learned_from(count, steps):
    draw = np.random.default_rng(31)
    images = (0.5 + 0.2 * draw.normal(size=(count, 6, 6))).astype(np.float32)
    seen = draw.uniform(size=images.shape) < 0.7
    learned = nid.learn(images, seen=seen, num_experts=4, steps=steps)
    found = learned.fit(images, seen=seen).render((6, 6))
    assert np.isfinite(found).all()
    assert np.isfinite(learned.prior.noise)
