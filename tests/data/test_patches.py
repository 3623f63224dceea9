"""Cutting signals into patches and blending them back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.data import (
    ArrayCollection,
    AugmentedCollection,
    PatchCollection,
    open_collection,
    stitch,
    to_array,
)
from nid_jax.data.patches import patch_corners
from nid_jax.tasks import image

layouts = st.tuples(
    st.integers(1, 23), st.integers(1, 23), st.integers(1, 9), st.integers(0, 8)
).filter(lambda v: v[3] < v[2] <= min(v[:2]))


def make_collection(grid, count=2, channels=2, seed=0):
    values = np.random.default_rng(seed).random((count, *grid, channels)).astype(np.float32)
    return ArrayCollection(values, [f"s{i}" for i in range(count)], "signals")


@settings(max_examples=60, deadline=None)
@given(layout=layouts, seed=st.integers(0, 1000))
def test_unchanged_patches_give_the_signal_back(layout, seed):
    rows, columns, size, overlap = layout
    collection = make_collection((rows, columns), seed=seed)
    patches = PatchCollection(collection, size, overlap)
    for index in range(2):
        count = patches.counts[index]
        first = index * count
        parts = np.stack([patches[first + k] for k in range(count)])
        np.testing.assert_array_equal(
            stitch(parts, (rows, columns), size, overlap), collection[index]
        )


@settings(max_examples=60, deadline=None)
@given(layout=layouts)
def test_patches_cover_and_overlap_as_asked(layout):
    rows, columns, size, overlap = layout
    corners = patch_corners((rows, columns), size, overlap)
    assert corners == sorted(set(corners))
    covered = np.zeros((rows, columns), bool)
    for row, column in corners:
        assert 0 <= row <= rows - size
        assert 0 <= column <= columns - size
        covered[row : row + size, column : column + size] = True
    assert covered.all()
    for axis in range(2):
        starts = sorted({corner[axis] for corner in corners})
        assert all(b - a <= size - overlap for a, b in zip(starts, starts[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(layout=layouts, seed=st.integers(0, 1000))
def test_weights_sum_to_one_and_blend_linearly(layout, seed):
    rows, columns, size, overlap = layout
    number = len(patch_corners((rows, columns), size, overlap))
    generator = np.random.default_rng(seed)
    first, second = generator.random((2, number, size, size, 1))
    grid = (rows, columns)
    ones = stitch(np.ones_like(first), grid, size, overlap)
    np.testing.assert_allclose(ones, 1, rtol=1e-14)
    total = stitch(2 * first - second, grid, size, overlap)
    expected = 2 * stitch(first, grid, size, overlap) - stitch(second, grid, size, overlap)
    np.testing.assert_allclose(total, expected, atol=1e-12)


def test_blend_is_a_raised_cosine():
    # Two patches of 8 sharing 4 samples: the second's share rises as sin^2.
    patches = np.stack([np.zeros((1, 8, 1)), np.ones((1, 8, 1))])
    row = stitch(patches, (1, 12), (1, 8), 0)  # moved inwards without a ramp: equal shares
    np.testing.assert_allclose(row[0, :, 0], [0] * 4 + [0.5] * 4 + [1] * 4)
    size, overlap = 8, 4
    patches = np.zeros((4, size, size))[..., None]
    patches[1::2] = 1  # the right column of patches
    blended = stitch(patches, (12, 12), size, overlap)[:, :, 0]
    share = np.sin(np.pi / 2 * (np.arange(4) + 0.5) / 4) ** 2
    np.testing.assert_allclose(blended, np.tile([0.0] * 4 + [*share] + [1.0] * 4, (12, 1)))


def test_no_seams_between_patches_that_differ():
    # Patches with different constants: neighbouring samples change by less than the ramp's steepest
    # step, where hard edges would jump by the whole difference.
    size, overlap, grid = 24, 16, (40, 56)
    corners = patch_corners(grid, size, overlap)
    patches = np.random.default_rng(0).random((len(corners), 1, 1, 1)) * np.ones((1, size, size, 1))
    blended = stitch(patches, grid, size, overlap)[..., 0]
    spread = np.ptp(patches)
    assert np.abs(np.diff(blended, axis=0)).max() < 0.2 * spread
    assert np.abs(np.diff(blended, axis=1)).max() < 0.2 * spread


def test_names_shape_and_access():
    collection = make_collection((5, 8))
    patches = PatchCollection(collection, 4, 1)
    assert patches.shape == (4, 4, 2)
    assert patches.names[:6] == ["s0/0_0", "s0/0_3", "s0/0_4", "s0/1_0", "s0/1_3", "s0/1_4"]
    assert len(patches) == len(set(patches.names)) == 12
    np.testing.assert_array_equal(patches[10], collection[1][1:5, 3:7])
    np.testing.assert_array_equal(patches[1], collection[0][0:4, 3:7])
    with pytest.raises(IndexError):
        patches[12]


def test_each_signal_is_read_once_in_order():
    class Counting(AugmentedCollection):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

        windows = False

    arrays = ArrayCollection(np.random.default_rng(0).random((3, 9, 9, 1)), list("abc"), "counted")
    to_array(PatchCollection(Counting(arrays), 3, 0))
    assert Counting.reads == 3


def test_volumes():
    collection = make_collection((5, 6, 7))
    patches = PatchCollection(collection, (2, 3, 4), 1)
    parts = np.stack([patches[k] for k in range(patches.counts[0])])
    np.testing.assert_array_equal(stitch(parts, (5, 6, 7), (2, 3, 4), 1), collection[0])


def test_open_collection_cuts(data_config):
    config = data_config(patch={"size": 10, "overlap": 3})
    patches = open_collection(config, "test", 0)
    assert patches.shape == (10, 10, 1)
    assert len(patches) == 20 * patches.counts[0]
    assert patches.collection.shape == (25, 25, 1)


def test_faults_are_named(data_config):
    with pytest.raises(ValueError, match=r"data\.patch\.size=26: .*\[25, 25\]"):
        open_collection(data_config(patch={"size": 26}), "train", 0)
    with pytest.raises(ValueError, match=r"data\.patch\.overlap=10: must be from 0 to 9"):
        open_collection(data_config(patch={"size": 10, "overlap": 10}), "train", 0)
    with pytest.raises(ValueError, match=r"data\.patch\.overlap=-1"):
        patch_corners((5, 5), 3, -1)
    with pytest.raises(ValueError, match=r"a signal of \[5, 5\] needs \[4, 3, 3, C\]"):
        stitch(np.zeros((3, 3, 3, 1)), (5, 5), 3, 1)
    with pytest.raises(ValueError, match=r"data\.patch\.size=\(3,\)"):
        patch_corners((5, 5), (3,), 0)


class Mixed:
    """Pictures of several sizes, with what is hidden of each, as files are."""

    names, shape, title, unmeasured = ["a", "b"], (7, 9, 2), "pictures", False

    def __init__(self):
        draw = np.random.default_rng(3)
        self.values = [draw.random((7, 9, 2), np.float32), draw.random((12, 5, 2), np.float32)]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.values[index]

    def grid(self, index):
        return self.values[index].shape[:2]

    def seen(self, index):
        return self.values[index][..., 0] > 0.3

    def truth(self, index):
        return None if index else self.values[0] + 1


def test_pictures_of_several_sizes_are_cut_with_what_is_known_and_put_together_each_alone():
    collection = Mixed()
    patches = PatchCollection(collection, 4, 1)
    assert patches.grids == [(7, 9), (12, 5)]
    assert patches.shape == (4, 4, 2)
    assert len(patches) == sum(patches.counts) == len(patches.names) == len(set(patches.names))
    found = image.layout(patches)
    assert "grid" not in found
    assert found["pieces"] == patches.counts
    values = to_array(patches)
    for one, whole in zip(image.assemble(values, found), collection.values, strict=True):
        np.testing.assert_array_equal(one, whole)
    seen = np.stack([patches.seen(index) for index in range(len(patches))])[..., None]
    for index, one in enumerate(image.assemble(seen.astype(np.float32), found)):
        np.testing.assert_array_equal(one[..., 0] > 0.5, collection.seen(index))
    last = values[patches.counts[0] :]
    np.testing.assert_array_equal(image.assemble(last, found, first=1)[0], collection.values[1])
    assert patches.truth(0).shape == (4, 4, 2)
    assert patches.truth(len(patches) - 1) is None
    truth = [whole + 0.1 for whole in collection.values]
    scores = image.image_metrics(collection.values, truth)
    expected = [-10 * np.log10(np.square(np.minimum(0.1, 1)).mean())] * 2
    np.testing.assert_allclose(scores["psnr"], expected, rtol=1e-5)
