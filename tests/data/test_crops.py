"""Random crops of a folder's pictures: of any sizes, none of them squashed, splits kept apart."""

import numpy as np
import pytest
from PIL import Image

from nid_jax import data
from nid_jax.notices import Notice


@pytest.fixture
def folder(tmp_path):
    """Eight gray pictures of several sizes, every pixel of one picture of another value."""
    rng = np.random.default_rng(0)
    for number in range(8):
        rows, columns = rng.integers(12, 30, 2)
        picture = rng.permutation(rows * columns).reshape(rows, columns)
        Image.fromarray(picture.astype(np.uint16)).save(tmp_path / f"{number}.png")
    return tmp_path


def whole(folder, name):
    pixels = np.asarray(Image.open(folder / name)).astype(np.float32)
    return pixels / np.float32(65535)


@pytest.mark.slow
def test_crops_are_parts_of_their_pictures_at_native_resolution(data_config, folder):
    config = data_config(name="folder", root=folder, crops=7, size=(10, 8))
    collections = {split: data.open_collection(config, split, 3) for split in data.SPLITS}
    pictures = {}
    for split, collection in collections.items():
        names = [name.split("/")[0] for name in collection.names]
        pictures[split] = set(names)
        assert len(collection) == 7 * len(pictures[split])
        assert collection.shape == (10, 8, 1)
        # In turn from all, so that the first few come from each.
        assert names[: len(pictures[split])] == sorted(pictures[split])
        for name, crop in zip(names, data.to_array(collection), strict=True):
            picture = whole(folder, name)
            (row,), (column,) = np.where(picture == crop[0, 0, 0])
            np.testing.assert_array_equal(
                crop[..., 0], picture[row : row + 10, column : column + 8]
            )
    assert not pictures["train"] & pictures["test"]
    assert pictures["train"] | pictures["test"] == {f"{number}.png" for number in range(8)}
    again = data.open_collection(config, "train", 3)
    np.testing.assert_array_equal(data.to_array(again), data.to_array(collections["train"]))
    other = data.to_array(data.open_collection(config, "train", 4))
    assert not np.array_equal(other[: len(again)], data.to_array(again)[: len(other)])


def test_one_picture_is_split_into_parts_of_its_own(data_config, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    picture[..., 0] = np.arange(90)
    Image.fromarray(picture).save(tmp_path / "only.png")
    config = data_config(name="folder", root=tmp_path, crops=50, size=(8, 8))
    columns = {}
    for split in data.SPLITS:
        crops = data.to_array(data.open_collection(config, split, 0))
        assert crops.shape == (50, 8, 8, 3)
        columns[split] = set(np.rint(crops[..., 0] * 255).astype(int).ravel())
    assert not columns["train"] & columns["test"]


def test_small_pictures_are_counted_and_flat_parts_drawn_again(data_config, tmp_path):
    half = np.zeros((40, 40), np.uint8)
    half[:, 20:] = np.random.default_rng(2).integers(0, 256, (40, 20))
    for name in ("a", "b"):
        Image.fromarray(half).save(tmp_path / f"{name}.png")
    Image.fromarray(half[:7, :30]).save(tmp_path / "small.png")
    config = data_config(name="folder", root=tmp_path, crops=30, size=(8, 8), test_fraction=0.0)
    with pytest.warns(Notice, match=r"1 of 3 pictures are smaller than data.size=\(8, 8\)"):
        crops = data.to_array(data.open_collection(config, "train", 0))
    assert len(crops) == 60
    assert crops.std(axis=(1, 2, 3)).min() > 0


def test_what_there_is_is_counted_without_reading_pixels(data_config, folder):
    config = data_config(name="folder", root=folder, crops=7, size=(10, 8), test_fraction=0.25)
    assert data.survey(config, "train", 0) == data.Survey(42, ((10, 8),))
    assert data.survey(config, "test", 0).count == 14


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crops": -1}, "data.crops=-1: must be 0"),
        ({"crops": 3, "resize": True}, "data.resize=true: data.crops=3"),
        ({"crops": 3, "size": (200, 8)}, r"data.size=\(200, 8\): crops fit into none of 6"),
        ({"crops": 10**9}, "data.crops=1000000000: 5 pictures give"),
        ({"crops": 3, "name": "faces"}, "data.crops=3: are cut from data.name='folder' only"),
    ],
)
def test_faults_are_named(data_config, folder, changes, words):
    options = {"name": "folder", "root": folder, "size": (20, 8)} | changes
    with pytest.raises(ValueError, match=words):
        data.open_collection(data_config(**options), "train", 0)
