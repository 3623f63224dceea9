"""Collections: arrays, subsets, augmentation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.data import (
    ArrayCollection,
    AugmentedCollection,
    Collection,
    SubsetCollection,
    holed,
    open_collection,
    to_array,
)


def make_collection(count=5, grid=(6, 7), channels=2, seed=0):
    values = np.random.default_rng(seed).random((count, *grid, channels)).astype(np.float32)
    return ArrayCollection(values, [f"s{i}" for i in range(count)], "test signals")


def test_array_collection_is_a_collection_and_iterates():
    collection = make_collection()
    assert isinstance(collection, Collection)
    assert collection.shape == (6, 7, 2)
    assert len(list(collection)) == 5
    np.testing.assert_array_equal(collection[np.int64(-1)], collection[4])
    for outside in (5, -6):
        with pytest.raises(IndexError, match="collection of 5"):
            collection[outside]


@pytest.mark.parametrize(("kind", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integer_arrays_are_scaled_on_access(kind, full):
    values = np.array([[[[0], [full]], [[full // 3], [1]]]], kind)
    signal = ArrayCollection(values, ["x"], "ints")[0]
    assert signal.dtype == np.float32
    np.testing.assert_allclose(signal, values[0].astype(np.float64) / full, rtol=1e-7)


def test_reading_does_not_expose_the_array():
    collection = make_collection()
    before = collection[0].copy()
    collection[0][:] = 9
    np.testing.assert_array_equal(collection[0], before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named(value):
    values = np.zeros((3, 4, 4, 1), np.float32)
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"scans, signal 'b': 1 of 16 values are NaN or infinite"):
        ArrayCollection(values, ["a", "b", "c"], "scans")


def test_bad_arrays_and_names():
    with pytest.raises(ValueError, match="expected"):
        ArrayCollection(np.zeros((0, 4, 4, 1)), [], "nothing")
    with pytest.raises(ValueError, match="2 signals but 2 names, 1 distinct"):
        ArrayCollection(np.zeros((2, 4, 4, 1)), ["a", "a"], "twice")


def test_subset():
    collection = make_collection()
    subset = SubsetCollection(collection, [3, 0])
    assert subset.names == ["s3", "s0"]
    np.testing.assert_array_equal(to_array(subset), to_array(collection)[[3, 0]])
    with pytest.raises(IndexError):
        subset[2]
    with pytest.raises(IndexError):
        SubsetCollection(collection, [5])


def shift_by_hand(signal, down, right):
    """Sample by sample: out[r, c] = in[r - down, c - right], the nearest edge outside."""
    rows, columns, _ = signal.shape
    out = np.empty_like(signal)
    for r in range(rows):
        for c in range(columns):
            out[r, c] = signal[min(max(r - down, 0), rows - 1), min(max(c - right, 0), columns - 1)]
    return out


def test_augmented_order_names_and_values():
    collection = make_collection(3)
    augmented = AugmentedCollection(collection, mirror=True, shifts=2, max_shift=1, seed=4)
    assert len(augmented) == 3 * 2 * 3
    assert len(set(augmented.names)) == len(augmented)
    assert augmented.names[:3] == collection.names
    assert {"s1/mirror", "s1/shift1", "s1/mirror/shift2"} <= set(augmented.names)
    for index, name in enumerate(augmented.names):
        base, *changes = name.split("/")
        expected = collection[collection.names.index(base)]
        if "mirror" in changes:
            expected = expected[:, ::-1]
        if changes and changes[-1].startswith("shift"):
            candidates = [
                shift_by_hand(expected, d, r)
                for d in (-1, 0, 1)
                for r in (-1, 0, 1)
                if (d, r) != (0, 0)
            ]
            assert sum(np.array_equal(augmented[index], c) for c in candidates) == 1
        else:
            np.testing.assert_array_equal(augmented[index], expected)


def test_turns_are_the_eight_symmetries_of_a_square():
    square = np.random.default_rng(101).random((2, 5, 5, 3), np.float32)
    collection = ArrayCollection(square, ["a", "b"], "squares")
    turned = AugmentedCollection(collection, turns=True)
    assert len(turned) == 16
    assert turned.names[:6] == ["a", "b", "a/mirror", "b/mirror", "a/turn2", "b/turn2"]
    expected = {
        np.ascontiguousarray(np.rot90(side, times)).tobytes()
        for side in (square[0], square[0, :, ::-1])
        for times in range(4)
    }
    assert {turned[index].tobytes() for index in range(0, 16, 2)} == expected
    np.testing.assert_array_equal(turned[2], square[0, :, ::-1])


def test_windows_of_turned_and_shifted_copies_are_parts_of_them(tmp_path):
    square = np.random.default_rng(102).random((2, 9, 9, 1), np.float32)

    class Windows(ArrayCollection):
        windows = True

        def window(self, index, corner, size):
            rows, columns = (slice(a, a + n) for a, n in zip(corner, size, strict=True))
            return self[index][rows, columns]

    turned = AugmentedCollection(Windows(square, ["a", "b"], "squares"), False, 2, 3, 7, True)
    for index in range(len(turned)):
        for corner in ((0, 0), (4, 1), (5, 5)):
            part = turned.window(index, corner, (4, 3))
            rows, columns = slice(corner[0], corner[0] + 4), slice(corner[1], corner[1] + 3)
            np.testing.assert_array_equal(part, turned[index][rows, columns])


def test_turns_are_of_square_pictures_alone():
    wide = ArrayCollection(np.zeros((1, 4, 5, 1)), ["a"], "wide")
    with pytest.raises(ValueError, match=r"data\.augment\.turns: True; allowed: False for .*4, 5"):
        AugmentedCollection(wide, turns=True)
    square = ArrayCollection(np.zeros((1, 4, 4, 1)), ["a"], "square")
    with pytest.raises(ValueError, match=r"data\.augment\.mirror: True; allowed beside turns"):
        AugmentedCollection(square, True, turns=True)


def test_augmentation_is_random_access_and_seeded():
    collection = make_collection(4)
    first = AugmentedCollection(collection, True, 3, 2, seed=1)
    again = AugmentedCollection(collection, True, 3, 2, seed=1)
    other = AugmentedCollection(collection, True, 3, 2, seed=2)
    backwards = [again[i] for i in reversed(range(len(again)))][::-1]
    np.testing.assert_array_equal(to_array(first), np.stack(backwards))
    assert not np.array_equal(to_array(first), to_array(other))


@settings(max_examples=20, deadline=None)
@given(max_shift=st.integers(1, 3), seed=st.integers(0, 1000), data=st.data())
def test_every_shift_is_new(max_shift, seed, data):
    possible = (2 * max_shift + 1) ** 2 - 1
    shifts = data.draw(st.integers(1, possible))
    augmented = AugmentedCollection(make_collection(1), False, shifts, max_shift, seed)
    # Distinct shifts of a random signal are distinct signals, none equal to the original.
    assert len({augmented[i].tobytes() for i in range(len(augmented))}) == shifts + 1


def test_augmentation_limits_are_named():
    collection = make_collection()
    with pytest.raises(ValueError, match=r"data\.augment\.shifts=9: .*at most 8"):
        AugmentedCollection(collection, shifts=9, max_shift=1)
    with pytest.raises(ValueError, match=r"data\.augment\.max_shift=6"):
        AugmentedCollection(collection, shifts=1, max_shift=6)
    with pytest.raises(ValueError, match="must be >= 0"):
        AugmentedCollection(collection, shifts=-1)


def test_open_collection_augments_training_only(data_config):
    config = data_config(augment={"mirror": True, "shifts": 1}, num_train=5, num_test=4)
    assert len(open_collection(config, "train", 0)) == 20
    assert len(open_collection(config, "test", 0)) == 4


def test_unknown_names_and_splits(data_config):
    with pytest.raises(ValueError, match=r"data\.name='fases'.*did you mean 'faces'\?.*photos"):
        open_collection(data_config(name="fases"), "train", 0)
    with pytest.raises(ValueError, match=r"data\.name='zzz' is unknown; allowed: faces"):
        open_collection(data_config(name="zzz"), "train", 0)
    with pytest.raises(ValueError, match="split='val'"):
        open_collection(data_config(), "val", 0)


@pytest.mark.parametrize("split", ["train", "test"])
def test_subset_sizes_are_checked(data_config, split):
    key = f"num_{split}"
    with pytest.raises(ValueError, match=rf"data\.{key}=101: .*has only"):
        open_collection(data_config(**{key: 101}), split, 0)
    with pytest.raises(ValueError, match=rf"data\.{key}=-1"):
        open_collection(data_config(**{key: -1}), split, 0)


def test_missing_parts_are_known_of_copies_and_subsets():
    generator = np.random.default_rng(103)
    values = generator.uniform(0.1, 1, (3, 5, 5, 2)).astype(np.float32)
    shown = generator.uniform(size=(3, 5, 5)) < 0.7
    values[~shown] = np.nan
    known = ArrayCollection(values, list("abc"), "holes", None, shown)
    assert holed(known)
    assert not holed(make_collection())
    assert known.bounds == (np.nanmin(values), np.nanmax(values))
    copies = AugmentedCollection(known, shifts=1, max_shift=1, turns=True)
    for collection in (known, copies, SubsetCollection(copies, [20, 3])):
        for index in range(len(collection)):
            # What is missing is 0, and nothing else is.
            np.testing.assert_array_equal((collection[index] != 0).all(-1), collection.seen(index))
    everywhere = shown | (np.arange(3) == 1)[:, None, None]
    with pytest.raises(ValueError, match="'b'"):
        ArrayCollection(values, list("abc"), "holes", None, everywhere)
