"""Pictures that are decoded once: the same signals, to the bit, and windows of them."""

import numpy as np
import pytest
from PIL import Image

from nid_jax import data
from nid_jax.data import decoding
from nid_jax.data.collection import ArrayCollection, AugmentedCollection, SubsetCollection
from nid_jax.data.decoding import decoded
from nid_jax.data.patches import PatchCollection
from nid_jax.notices import Notice


class Files:
    """Signals that count how often they are decoded."""

    def __init__(self, values):
        self.values, self.reads = values, 0
        self.names = [f"{number}" for number in range(len(values))]
        self.shape, self.title = values.shape[1:], "files"

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        self.reads += 1
        return self.values[index]

    def fingerprint(self):
        return "0123"


@pytest.fixture
def pictures():
    """Three gray pictures [9, 11, 1] that hold bytes."""
    values = np.random.default_rng(0).integers(0, 256, (3, 9, 11, 1))
    return (values / np.float32(255)).astype(np.float32)


@pytest.fixture
def on_disk(monkeypatch):
    """Nothing is small enough to stay in memory."""
    monkeypatch.setattr(decoding, "UNKEPT_BYTES", 0)


def test_small_collections_stay_in_memory(pictures):
    files = Files(pictures)
    once = decoded(files, 1.0)
    for _ in range(2):
        np.testing.assert_array_equal(data.to_array(once), pictures)
    assert files.reads == 3
    assert once.names == files.names


@pytest.mark.parametrize("finer", [False, True])
def test_larger_ones_are_kept_and_found_again(tmp_path, pictures, on_disk, finer):
    pictures = pictures.copy()
    pictures[2, 0, 0, 0] = 0.1234 if finer else 1.0
    first, again = Files(pictures), Files(pictures)
    with data.kept_in(tmp_path):
        (tmp_path / "decoded-of-others.npy").touch()
        with pytest.warns(Notice, match="decoded once into"):
            np.testing.assert_array_equal(data.to_array(decoded(first, 1.0)), pictures)
        (path,) = tmp_path.iterdir()
        assert np.load(path).dtype == (np.float32 if finer else np.uint8)
        np.testing.assert_array_equal(data.to_array(decoded(again, 1.0)), pictures)
    assert again.reads == 1  # looked at, to see what it holds


def test_some_of_them_are_found_again_as_those(tmp_path, pictures, on_disk):
    again = Files(pictures)
    with data.kept_in(tmp_path):
        with pytest.warns(Notice, match="decoded once into"):
            decoded(SubsetCollection(Files(pictures), [2, 0]), 1.0)
        found = decoded(SubsetCollection(again, [2, 0]), 1.0)
        assert again.reads == 1
        np.testing.assert_array_equal(data.to_array(found), pictures[[2, 0]])
        with pytest.warns(Notice, match="decoded once into"):
            others = decoded(SubsetCollection(again, [0, 2]), 1.0)
        np.testing.assert_array_equal(data.to_array(others), pictures[[0, 2]])
    unknown = SubsetCollection(ArrayCollection(pictures, "abc", "arrays"), [1])
    assert not hasattr(unknown, "fingerprint")


def test_outside_of_a_run_nothing_is_left(tmp_path, pictures, on_disk, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    once = decoded(Files(pictures), 1.0)
    np.testing.assert_array_equal(data.to_array(once), pictures)
    assert not list(tmp_path.iterdir())


def test_too_large_is_said_and_none_is_silent(pictures, on_disk):
    files = Files(pictures)
    with pytest.warns(Notice, match="more than data.decoded_gib=1e-09"):
        assert decoded(files, 1e-9) is files
    assert decoded(files, 0) is files
    with pytest.raises(ValueError, match="data.decoded_gib=-1"):
        decoded(files, -1)


@pytest.mark.parametrize("mirror", [False, True])
def test_windows_of_copies_are_parts_of_the_whole_copies(pictures, mirror):
    rng = np.random.default_rng(1)
    arrays = ArrayCollection(pictures, "abc", "arrays")
    copies = AugmentedCollection(SubsetCollection(arrays, [2, 0]), mirror, 6, 4, seed=3)
    assert copies.windows
    for index in range(len(copies)):
        whole = copies[index]
        size = rng.integers(1, (10, 12))
        corner = rng.integers(0, np.array([10, 12]) - size)
        rows, columns = (slice(c, c + s) for c, s in zip(corner, size, strict=True))
        np.testing.assert_array_equal(copies.window(index, corner, size), whole[rows, columns])


def test_patches_of_shifted_files_decode_each_file_once(pictures):
    files = Files(pictures)
    slow = PatchCollection(AugmentedCollection(files, True, 5, 2, seed=0), 4, 1)
    expected = [slow[index] for index in range(len(slow))]
    files.reads = 0
    fast = PatchCollection(AugmentedCollection(decoded(files, 1.0), True, 5, 2, seed=0), 4, 1)
    assert fast.names == slow.names
    np.testing.assert_array_equal([fast[index] for index in range(len(fast))], expected)
    assert files.reads == 3


def test_a_folder_is_decoded_again_where_a_file_changed(tmp_path, data_config, on_disk):
    folder, cache = tmp_path / "pictures", tmp_path / "cache"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for number in range(5):
        picture = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    config = data_config(name="folder", root=folder, patch={"size": 4, "overlap": 0})
    with data.kept_in(cache):
        first = data.to_array(data.open_collection(config, "train", 0))
        (kept,) = cache.iterdir()
        white = Image.fromarray(np.full((8, 8), 255, np.uint8))
        for number in range(5):
            white.save(folder / f"{number}.png")
        assert (data.to_array(data.open_collection(config, "train", 0)) == 1).all()
        (other,) = cache.iterdir()
    assert other != kept
    assert not (first == 1).all()
