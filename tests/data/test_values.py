"""Values of any type to [0, 1]: what is black, what is white, and what is said about it."""

import ml_collections
import numpy as np
import pytest

from nid_jax.data import images
from nid_jax.data.splitting import configured_range
from nid_jax.notices import Notice

GENERATOR = np.random.default_rng(0)
UNIT = GENERATOR.random((4, 5))
UNIT[0, :2] = 0, 1


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (UNIT, 0, 1),
        (UNIT.astype(np.float16), 0, 1),
        (UNIT > 0.5, 0, 1),
        ((UNIT * 255).astype(np.uint8), 0, 255),
        ((UNIT * 65535).astype(np.uint16), 0, 65535),
        (np.zeros((2, 2), np.uint16), 0, 65535),
        (UNIT * (1 + 1e-7), 0, 1),
        (np.zeros((0, 3)), 0, 1),
    ],
)
def test_what_needs_no_word(values, low, high, recwarn):
    assert images.guessed_range(values, "x") == (low, high)
    expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    found = images.to_unit(values, "x")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("values", "low", "high", "said"),
    [
        (UNIT * 255, 0, 255, "x: values from 0 to 255; taken as from 0 to 255; data.range="),
        (UNIT * 260 - 3, 0, 255, "x: values from -3 to 257; taken as from 0 to 255"),
        (UNIT * 40, 0, 255, "x: values from 0 to 40; taken as from 0 to 255"),
        (UNIT * 2 - 1, -1, 1, "x: values from -1 to 1; taken as from -1 to 1"),
        (UNIT - 1, -1, 1, "x: values from -1 to 0; taken as from -1 to 1"),
        (UNIT * 1.06 - 0.03, 0, 1, r"x: values from -0.03 to 1.03; cut to \[0, 1\]"),
        ((UNIT * 255).astype(np.int64), 0, 255, "x: values from 0 to 255; taken as"),
        ((UNIT * 60000).astype(np.uint32), 0, 65535, "from 0 to 60000; taken as from 0 to 65535"),
        ((UNIT * 4095).astype(np.uint16), 0, 65535, r"up to 4095 of 65535; .*data.range=\(0, 4095"),
        ((UNIT * 99).astype(np.uint16), 0, 65535, r"up to 99 of 65535; .*data.range=\(0, 255"),
    ],
)
def test_what_is_assumed_is_said_once(values, low, high, said):
    with pytest.warns(Notice, match=said) as lines:
        found = images.to_unit(values, "x")
    assert len(lines) == 1
    expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2), 1.5), r"x: values from 1\.5 to 1\.5 of type float64; allowed: .*range"),
        (UNIT * 4000, r"x: values from 0 to 4000 of type float64"),
        (UNIT * 3 - 1.5, r"x: values from -1\.5 to 1\.5 of type"),
        (np.array([0, -5], np.int16), r"x: values from -5 to 0 of type int16"),
        (np.array([-5, 90], np.int8), r"x: values from -5 to 90 of type int8; allowed: .*range"),
        (np.array([0, 70000]), r"x: values from 0 to 70000 of type int64"),
        (np.array([0, 0]), r"x: values from 0 to 0 of type int64"),
        (np.array([1, np.nan]), r"x: 1 of 2 values are NaN or infinite"),
        (np.array([1j, 0]), r"x: values of type complex128; allowed: real numbers"),
    ],
)
def test_what_cannot_be_told_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        images.to_unit(values, "x")
    with pytest.raises(ValueError, match=message):
        images.guessed_range(values, "x")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.uint32, np.float64])
def test_a_given_range_is_taken_of_every_type(kind, recwarn):
    values = np.array([[10, 35, 60]]).astype(kind)
    found = images.to_unit(values, "x", (10, 60))
    np.testing.assert_allclose(found, [[0, 0.5, 1]], atol=1e-7)
    assert not recwarn.list
    with pytest.warns(Notice, match=r"x: values outside \(20, 40\) are cut off"):
        found = images.to_unit(values, "x", (20, 40))
    np.testing.assert_allclose(found, [[0, 0.75, 1]], atol=1e-7)


def test_large_integers_keep_their_differences():
    values = np.array([2**31 - 64, 2**31 - 32, 2**31], np.uint32)
    found = images.to_unit(values, "x", (2**31 - 64, 2**31))
    np.testing.assert_allclose(found, [0, 0.5, 1], atol=1e-7)


def test_the_key():
    config = ml_collections.ConfigDict({"range": ()})
    assert configured_range(config) == ()
    config.range = (0, 4095)
    assert configured_range(config) == (0.0, 4095.0)
    for wrong in [(1,), (1, 1), (2, 1), (0, float("inf")), ("a", 1)]:
        config.range = wrong
        with pytest.raises(ValueError, match=r"data\.range=.*must be \(low, high\), low < high"):
            configured_range(config)


@pytest.mark.parametrize("largest", [1e-50, -1e-50, 1e-300])
def test_values_of_which_float32_leaves_nothing_are_said(largest):
    values = np.array([0.0, largest])
    says = f"^x: values up to {abs(largest):g}, too small for float32; taken as 0; data.range="
    with pytest.warns(Notice, match=says):
        images.guessed_range(values, "x")
    low, high = sorted(values)
    np.testing.assert_array_equal(
        images.to_unit(values, "x", (low, high)), (values - low) / (high - low)
    )


def test_black_and_the_least_of_float32_are_not_said(recwarn):
    for values in ([0.0, 0.0], [-0.0], [0.0, 1e-44]):
        images.guessed_range(np.array(values), "x")
    assert not recwarn
