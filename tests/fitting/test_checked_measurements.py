"""What a caller hands to a fit, before any of it is solved for."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from nid_jax.coding import operators
from nid_jax.configs import image, sdf, video
from nid_jax.errors import ArgumentError
from nid_jax.fitting.measurements import (
    Measurements,
    as_floats,
    say_no_distances,
    say_other_scale,
    say_stretched,
    unstretched,
)
from nid_jax.notices import Notice

MODEL = SimpleNamespace(
    grid_shape=(4, 5), channels=1, dictionary=SimpleNamespace(dims=2, channels=1)
)


def checked(values, operator=None, model=MODEL, **others):
    return Measurements.of(model, values, operator, others.get("seen"), others.get("weights"))


def test_an_operator_of_another_number_of_coordinates():
    with pytest.raises(ArgumentError, match="operator: '3 coordinates'; allowed: 2"):
        checked(np.zeros((2, 3)), operators.sample(np.zeros((3, 3))))
    with pytest.raises(ArgumentError, match="operator: '1 coordinates'; allowed: 2"):
        checked(np.zeros((2, 6)), operators.sample((6,)))


def test_points_where_nothing_was_learned_are_said(recwarn):
    inside = operators.sample([[1.0, -1.0], [0.3, 1.05]])
    assert checked(np.zeros((2, 2)), inside).operator is inside
    assert not recwarn
    with pytest.warns(Notice, match=r"operator: 1 of 2 points lie outside of \[-1, 1\], up to 50"):
        checked(np.zeros((2, 2)), operators.sample([[50.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("largest", [-9e-34, 1e-36, 9e-41, 1e-50, -1e-300])
def test_values_that_float32_computes_nothing_of_are_said(largest):
    values = np.zeros((2, 20))
    values[1, 3], values[0, 0] = largest, np.nan
    with pytest.warns(
        Notice, match=f"^measurements: values up to {abs(largest):g}, too small"
    ) as w:
        checked(values, operators.sample((4, 5)))
    assert len(w) == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_black_and_faint_measurements_are_not_said(kind, recwarn):
    faint = np.full((2, 20), 1e-45, kind)
    faint[1, 2] = 1e-30
    for values in (faint, np.zeros((2, 20), kind), np.full((2, 20), np.nan, kind)):
        given = values.copy()
        given[:, 0] = np.nan_to_num(given[:, 0])
        checked(given, operators.sample((4, 5)))
    # Of a scale that is said, if at all, not to be one.
    say_other_scale(np.full((1, 9, 1), 1e-40), None, (0.0, 1.0))
    assert not recwarn


CELSIUS = (-20.0, 40.0)


def test_kelvins_for_degrees_are_said():
    draw = np.random.default_rng(0)
    kelvins = draw.uniform(250, 310, (3, 20, 1))
    says = (
        f"^measurements: half of the values are above {np.median(kelvins):g}, .* of -20 to 40; ta"
    )
    with pytest.warns(Notice, match=says):
        say_other_scale(kelvins, None, CELSIUS)
    with pytest.warns(Notice, match="^stations: half of the values are below -300, "):
        say_other_scale(np.full((1, 9, 1), -300.0), None, CELSIUS, "stations")
    # A few that are elsewhere are no other unit.
    few = np.where(draw.uniform(size=kelvins.shape) < 0.8, 10, kelvins)
    weights = (kelvins[0, :, 0] < 0).astype(np.float32)
    weights[3] = 1
    both = np.where(weights[:, None] > 0, 10, kelvins)
    for values, given in (
        (few, None),
        (both, weights),
        (both, np.broadcast_to(weights, (3, 20))),
        (np.where(few == 10, 10, np.nan), None),
        (np.full((2, 4, 1), np.nan), None),
        (np.full((2, 4, 1), 99.0), None),
        (np.full((2, 4, 1), -79.0), None),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", Notice)
            say_other_scale(values, given, CELSIUS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        say_other_scale(kelvins, None, (280.0, 280.0))
        say_other_scale(np.full((2, 4, 1), 9.0), None, None)


def test_values_that_are_no_distances_are_said():
    draw = np.random.default_rng(1)
    far = draw.uniform(0, 0.1, (2, 600, 1))
    for values, weights, says in (
        (np.where(far > 0.05, 1.0, 0.0), None, "all values are 0 or 1, as of an occupancy grid"),
        (np.where(far > 0.05, -1.0, 1.0)[:, :9], None, "all values are -1 or 1, as of an occ"),
        (far, None, "none of 1200 values is below 0, "),
        (0 * far, None, "none of 1200 values is below 0, "),
        (np.where(far > 0.08, np.nan, far > 0.05), None, "all values are 0 or 1"),
        (np.where(np.arange(600) < 590, far, -1)[..., :1], np.arange(600) < 590, "none of 1180 "),
    ):
        with pytest.warns(Notice, match=f"^shapes: {says}"):
            say_no_distances(values, weights, "shapes")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        say_no_distances(far - 0.001, None)
        # Few samples may all lie outside, or at the two ends.
        say_no_distances(far[:, :400], None)
        say_no_distances(np.where(far > 0.05, 0.1, -0.1)[:, :7], None)
        # What was not seen is not looked at.
        say_no_distances(np.where(far > 0.05, 1.0, 0.0), np.arange(600) < 5)
        say_no_distances(np.where(far > 0.05, np.nan, far - 0.02), None)


@pytest.mark.parametrize(
    ("here", "learned", "said"),
    [
        ((8, 16, 16), (32, 32, 32), True),
        ((64, 64, 32), (32, 32, 32), True),
        ((25, 32, 32), (24, 32, 32), True),
        ((8, 4, 4, 4), (4, 4, 4, 4), True),
        ((64, 64, 64), (32, 32, 32), False),
        ((63, 64, 64), (32, 32, 32), False),
        ((5, 10, 20), (10, 20, 40), False),
        ((32, 32, 32), (32, 32, 32), False),
        ((200,), (100,), False),
        # More pixels show more of the world, mostly.
        ((64, 64), (32, 32), True),
        ((64, 32), (32, 32), True),
        ((32, 32), (32, 32), False),
    ],
)
def test_other_proportions_than_those_learned_are_said(here, learned, said, recwarn):
    say_stretched(here, learned, "measurements", "resized, it would not be")
    sides = ["x".join(map(str, shape)) for shape in (here, learned)]
    whole = "measurements: {}, learned on {}, which is stretched over it; resized, it would not be"
    assert [str(one.message) for one in recwarn] == ([whole.format(*sides)] if said else [])


def test_nothing_is_advised_where_nothing_is_known(recwarn):
    say_stretched((8, 16, 16), (32, 32, 32), "shapes")
    assert [str(one.message) for one in recwarn] == [
        "shapes: 8x16x16, learned on 32x32x32, which is stretched over it"
    ]


@pytest.mark.parametrize(
    ("config", "here", "learned", "advised"),
    [
        (image, (9, 9), (8, 16), ["data.patch.size=8", "data.resize=true", "data.size=(8,16)"]),
        (video, (9, 9), (8, 16), ["data.resize=true", "data.size=(8,16)"]),
        # Frames in time have the size that was learned.
        (video, (30, 8, 16), (60, 8, 16), []),
        (video, (30, 9, 9), (60, 8, 16), ["data.resize=true", "data.size=(8,16)"]),
        (sdf, (16, 16, 16), (8, 16, 16), []),
    ],
)
def test_only_keys_that_a_config_has_are_advised(config, here, learned, advised):
    config = config.get_config()
    words = unstretched(config.data, here, learned)
    keys = re.findall(r"data\.[\w.]+", words)
    for key in keys:
        group = config
        for part in key.split("."):
            assert part in group, key
            group = group[part]
    # Beside patches whole pictures have no size.
    found = re.findall(r"data\.\S+=(?!\(\))\S+", words)
    assert found == advised


def test_a_scale_that_is_not_known_is_not_made_up():
    says = (
        "^faces: values up to 255, the dictionary does not say what it learned from, which mostly"
    )
    with pytest.warns(Notice, match=says):
        say_other_scale(np.full((1, 9, 1), 255.0), None, None, "faces")


def test_channels_that_are_missing_are_said():
    model = SimpleNamespace(
        grid_shape=(4, 5), channels=3, dictionary=SimpleNamespace(dims=2, channels=3)
    )
    values = np.zeros((2, 4, 5, 3))
    values[0, 1, 1, 2] = np.nan
    values[1, 2, 2] = np.nan
    with pytest.warns(Notice, match="measurements: 1 of 40 have NaN in some of their channels"):
        found = checked(values, model=model)
    assert found.weights.sum() == 38


@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_has_not():
    with pytest.raises(
        ArgumentError, match="measurements: inf; allowed: finite numbers, of float32"
    ):
        checked(np.full((2, 4, 5), 1e39))
    with pytest.raises(ArgumentError, match=r"values: timedelta64\[s\]; allowed: real numbers"):
        as_floats(np.zeros(3, "m8[s]"), "values")


@pytest.mark.parametrize("odd", [1e38, np.inf, np.nan, -1.0])
def test_weights_that_no_equations_hold(odd):
    weights = np.ones(20)
    weights[3] = odd
    with pytest.raises(ArgumentError, match=rf"weights: {re.escape(str(odd))}; allowed: finite"):
        checked(np.zeros((2, 4, 5)), weights=weights)
