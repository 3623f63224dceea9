"""Copies of pictures moved by small affine maps."""

import numpy as np
import pytest

from nid_jax import data
from nid_jax.configs import image
from nid_jax.data import ArrayCollection
from nid_jax.data.affine import MovedPictures


def waves(rows, columns):
    """A smooth picture as a function of places, in samples."""
    return np.stack([np.sin(0.3 * rows + 0.1 * columns), np.cos(0.2 * columns)], -1)


def pictures(count=3, size=24):
    draw = np.random.default_rng(101)
    offsets = draw.uniform(0, 6, (count, 2))
    rows, columns = np.mgrid[:size, :size]
    values = np.stack([waves(rows + a, columns + b) for a, b in offsets]).astype(np.float32)
    return ArrayCollection(values, [f"p{i}" for i in range(count)], "waves"), offsets


def test_copies_are_the_picture_elsewhere():
    collection, offsets = pictures()
    moved = MovedPictures(collection, 4, rotation=0.1, zoom=0.05, move=0.7, seed=2)
    assert len(moved) == len(set(moved.names)) == 15
    assert moved.names[2:4] == ["p2", "p0/warp1"]
    np.testing.assert_array_equal(moved[1], collection[1])
    inside = (slice(6, 18), slice(6, 18))
    for index in range(3, 15):
        copy, original = divmod(index, 3)
        matrix, offset = moved.affine(copy, original)
        places = np.tensordot(matrix, np.mgrid[:24, :24], 1) + offset[:, None, None]
        expected = waves(*(places + offsets[original][:, None, None]))
        expected = expected.clip(collection[original].min((0, 1)), collection[original].max((0, 1)))
        np.testing.assert_allclose(moved[index][inside], expected[inside], atol=2e-3)
        assert not np.allclose(moved[index], collection[original], atol=1e-2)


def test_copies_are_those_of_their_seed():
    collection, _ = pictures(2)
    first, again, other = (MovedPictures(collection, 2, 0.1, 0.1, 1.0, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[i], again[i]) for i in reversed(range(6)))
    assert not np.array_equal(first[5], other[5])


def test_copies_stay_within_the_values_of_their_picture():
    values = np.zeros((2, 12, 12, 1), np.float32)
    values[0, 4:8, 5:9] = 1
    values[1, ::2] = 0.7
    moved = MovedPictures(ArrayCollection(values, ["a", "b"], "edges"), 3, 0.2, 0.1, 1.0, seed=1)
    for index in range(2, 8):
        assert moved[index].min() >= 0
        assert moved[index].max() <= values[index % 2].max()
        assert np.unique(moved[index]).size > 10


def test_no_motion_is_no_change():
    collection, _ = pictures(1)
    still = MovedPictures(collection, 1, 0.0, 0.0, 0.0, seed=0)
    np.testing.assert_allclose(still[1], collection[0], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((-1, 0, 0, 0), "warps: -1; allowed: 0 or more"),
        ((1, 0, -0.5, 0), "zoom: -0.5; allowed: 0 to 1"),
        ((1, 0, 500, 0), "zoom: 500; allowed: 0 to 1"),
        ((1, np.nan, 0, 0), r"rotation: nan; allowed: 0 to 3\.1416"),
        ((1, 0, 0, 1e300), r"move: 1e\+300; allowed: 0 to"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=rf"data\.augment\.{message}"):
        MovedPictures(pictures(1)[0], *given, seed=0)
    volumes = ArrayCollection(np.zeros((1, 4, 4, 4, 1)), ["v"], "volume")
    with pytest.raises(ValueError, match=r"data\.augment\.warps: 1; allowed: 0 for signals"):
        MovedPictures(volumes, 1, 0, 0, 0, seed=0)


def test_configs_faces_are_moved_for_training_only():
    config = image.get_config("cpu").data
    config.update({"num_train": 2, "num_test": 2})
    config.augment.warps = 3
    assert len(data.open_collection(config, "train", 0)) == 2 * 2 * 4
    assert len(data.open_collection(config, "test", 0)) == 2
