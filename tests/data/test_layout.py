"""What the axes of arrays are: by letters, or guessed and said."""

import itertools
import warnings

import numpy as np
import pytest

from nid_jax.data.layout import arranged, checked, guessed
from nid_jax.errors import ArgumentError
from nid_jax.notices import Notice

SIDES = {"S": 5, "T": 6, "D": 7, "H": 8, "W": 9, "C": 3}


def counted(letters):
    """An array whose values tell where each sample belongs, whatever the order of its axes."""
    whole = np.arange(np.prod(list(SIDES.values()))).reshape(list(SIDES.values()))
    index = tuple(slice(None) if letter in letters else 0 for letter in SIDES)
    kept = [letter for letter in SIDES if letter in letters]
    return whole[index].transpose([kept.index(letter) for letter in letters])


@pytest.mark.parametrize(
    "axes", ["W", "HW", "DHW", "SW", "SHW", "HWC", "SHWC", "SDHW", "SDHWC", "THWC", "TDHW"]
)
def test_any_order_gives_the_same_signals(axes):
    first = arranged(counted(axes), axes)
    grid = tuple(SIDES[letter] for letter in "DHW" if letter in axes)
    signals = SIDES["S"] if "S" in axes else SIDES["T"] if "T" in axes else 1
    assert first.shape == (signals, *grid, SIDES["C"] if "C" in axes else 1)
    for letters in map("".join, itertools.permutations(axes)):
        np.testing.assert_array_equal(arranged(counted(letters), letters), first)


def test_frames_of_several_videos_follow_one_another():
    values = counted("HTSWC")
    found = arranged(values, "HTSWC")
    assert found.shape == (30, 8, 9, 3)
    np.testing.assert_array_equal(found[6 * 2 + 4, 1, 5], values[1, 4, 2, 5])


def test_a_view_where_it_can_be():
    values = counted("HWCS")
    assert np.shares_memory(arranged(values, "HWCS"), values)


@pytest.mark.parametrize("letters", ["", "SHH", "SXW", "SH", "SDW", "C", "S", 3, None])
def test_letters_that_name_no_axes(letters):
    shape = (4,) * len(str(letters))
    with pytest.raises(ArgumentError, match=r"^layout: .*; allowed: a letter for each axis"):
        checked(letters, shape)


def test_letters_of_another_rank():
    with pytest.raises(
        ArgumentError, match=r"^layout: 'HWC'; allowed: 4 letters for .*\[4, 5, 6, 3"
    ):
        checked("HWC", (4, 5, 6, 3))
    assert checked("hwc", (4, 5, 3)) == "HWC"


@pytest.mark.parametrize(
    ("shape", "letters", "otherwise"),
    [
        ((64, 48, 3), "SHW", "HWC"),
        ((64, 48, 1), "SHW", "HWC"),
        ((3, 64, 48), "SHW", "CHW"),
        ((10, 3, 32, 32), "SCHW", "SDHW"),
        ((10, 1, 28, 28), "SCHW", "SDHW"),
        ((10, 16, 32, 32), "SDHW", "SHWC"),
        ((2, 16, 32, 32), "SDHW", "SHWC"),
        ((3, 8, 32, 32, 3), "SDHWC", "STHWC"),
        ((5, 1, 8, 32, 32), "SCDHW", "STCHW"),
        ((10, 25, 25), "SHW", ""),
        ((2, 64, 48), "SHW", ""),
        ((6, 4, 3), "SHW", ""),
        ((10, 32, 32, 3), "SHWC", ""),
        ((10, 3, 32, 3), "SHWC", ""),
        ((48, 64), "HW", ""),
    ],
)
def test_what_shapes_are_taken_for(shape, letters, otherwise):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Notice)
        assert guessed(shape, "x.npy", "data.layout={}") == letters
    assert len(said) == bool(otherwise)
    for notice in said:
        text = str(notice.message)
        assert text.startswith(f"x.npy: an array of shape {list(shape)}")
        assert f"taken as {letters}, " in text
        assert text.endswith(f"; data.layout={otherwise} says otherwise")


def test_frames_and_lines():
    with pytest.warns(Notice, match=r"taken as TCHW, 10 frames of 32 x 32, 3 channels; "):
        assert guessed((10, 3, 32, 32), "x", "{}", frames=True) == "TCHW"
    with pytest.warns(Notice, match=r"taken as SWC, 64 signals of 48, 3 channels; layout='HWC' "):
        assert guessed((64, 48, 3), "signals", "layout='{}'", lines=True) == "SWC"
    with pytest.warns(Notice, match=r"taken as SW, 64 signals of 48; layout='HW' says"):
        assert guessed((64, 48), "signals", "layout='{}'", lines=True) == "SW"


@pytest.mark.parametrize("shape", [(7,), (5, 6, 7, 8, 9), (2, 3, 4, 5, 6, 7)])
def test_shapes_that_tell_nothing(shape):
    with pytest.raises(ArgumentError, match=r"^layout: ''; allowed: for an array of shape \["):
        guessed(shape, "x", "{}")


@pytest.mark.parametrize(("shape", "other"), [((25, 25, 1000), "HWS"), ((25, 25, 3, 100), "HWCS")])
def test_signals_behind_square_pictures_are_said(shape, other):
    with pytest.warns(Notice, match=rf"as in MATLAB; taken as S.*layout={other} says otherwise"):
        guessed(shape, "x", "layout={}")
