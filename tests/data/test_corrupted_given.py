"""Pictures that somebody else has corrupted: folders with masks and truth, arrays with NaN."""

import numpy as np
import pytest
from PIL import Image

from nid_jax.data import Collection, open_collection
from nid_jax.data.corrupted import open_corrupted
from nid_jax.notices import Notice

# Folders


@pytest.fixture
def folder(tmp_path):
    """Three pictures of 6x8; the first two have masks, the last two the truth."""
    generator = np.random.default_rng(5)
    for part, names in (("images", "abc"), ("masks", "ab"), ("truth", "bc")):
        (tmp_path / "given" / part).mkdir(parents=True)
        for name in names:
            pixels = generator.integers(0, 256, (6, 8)).astype(np.uint8)
            if part == "masks":
                pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "given" / part / f"{name}.png")
    return tmp_path / "given"


def test_masks_and_truth_may_be_missing(folder, data_config):
    collection = open_corrupted(data_config(root=folder), "test", 0)
    for index, name in enumerate("abc"):
        assert (collection.seen(index) is None) == (name == "c")
        assert (collection.truth(index) is None) == (name == "a")
    for part, name, read in (("masks", "b", collection.seen), ("truth", "b", collection.truth)):
        stored = np.asarray(Image.open(folder / part / f"{name}.png")) / 255
        np.testing.assert_allclose(np.squeeze(read(1)), stored, atol=1e-6)
    assert (collection.truth(2) != collection.truth(1)).any()
    assert collection.truth(-2) == pytest.approx(collection.truth(1))
    with pytest.raises(
        ValueError, match=r"data\.root=.*no clean pictures.*2 of 3 have one, 2 have"
    ):
        open_corrupted(data_config(root=folder), "train", 0)


def test_pictures_with_masks_are_trained_on_as_they_are(folder, data_config):
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / "masks" / "c.png")
    with pytest.warns(Notice, match="seen of 3; truth/ beside images/, or"):
        train = open_corrupted(data_config(root=folder), "train", 0)
    test = open_corrupted(data_config(root=folder), "test", 0)
    for index in range(3):
        np.testing.assert_array_equal(train[index], test[index])
        np.testing.assert_array_equal(train.seen(index), test.seen(index))


def test_complete_truth_can_be_trained_on(folder, data_config):
    Image.fromarray(np.full((6, 8, 3), 51, np.uint8)).save(folder / "truth" / "a.png")
    train = open_corrupted(data_config(root=folder), "train", 0)
    assert train.names == ["a", "b", "c"]
    # One file in colour makes all of them colour, in both splits.
    assert train.shape == open_corrupted(data_config(root=folder), "test", 0).shape == (6, 8, 3)
    np.testing.assert_allclose(train[0], 0.2, atol=1e-6)
    stored = np.asarray(Image.open(folder / "truth" / "c.png"))[..., None] / 255
    np.testing.assert_allclose(train[2], np.repeat(stored, 3, axis=-1), atol=1e-6)
    assert train.seen(1) is None
    np.testing.assert_array_equal(train.truth(1), train[1])
    few = open_corrupted(data_config(root=folder, num_train=2), "train", 0)
    assert len(few) == 2


def test_only_pictures_without_masks_can_be_resized(folder, data_config):
    config = data_config(root=folder, size=(3, 4), resize=True)
    with pytest.raises(ValueError, match=r"data\.size=\(3, 4\).*a\.png is 6x8.* would mix"):
        open_corrupted(config, "test", 0)
    with pytest.raises(ValueError, match=r"is 6x8 .*expected 3x4; set data\.resize=true"):
        open_corrupted(data_config(root=folder, size=(3, 4)), "test", 0)
    for path in (folder / "masks").iterdir():
        path.unlink()
    (folder / "masks").rmdir()
    collection = open_corrupted(config, "test", 0)
    assert collection.shape == collection[0].shape == collection.truth(1).shape == (3, 4, 1)
    same = open_corrupted(data_config(root=folder, size=(6, 8), resize=True), "test", 0)
    assert same.shape == (6, 8, 1)


def black(folder):
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "masks" / "b.png")


def grey(folder):
    Image.fromarray(np.full((6, 8), 254, np.uint8)).save(folder / "masks" / "b.png")


def red(folder):
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[..., 0] = 255
    Image.fromarray(pixels).save(folder / "masks" / "b.png")


def turned(folder):
    Image.fromarray(np.full((8, 6), 255, np.uint8)).save(folder / "masks" / "b.png")


def lonely(folder):
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / "masks" / "d.png")


def lonely_truth(folder):
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / "truth" / "d.png")


def larger_truth(folder):
    Image.fromarray(np.full((9, 8), 255, np.uint8)).save(folder / "truth" / "b.png")


def damaged(folder):
    (folder / "masks" / "b.png").write_bytes(b"no picture")


def twice(folder):
    (folder / "images" / "a.jpg").write_bytes((folder / "images" / "a.png").read_bytes())


def no_images(folder):
    (folder / "images").rename(folder / "pictures")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (black, r"masks/b\.png: a mask that is black all over; some of it must be white"),
        (
            grey,
            r"masks/b\.png: a mask that is 254 all over, of 0 to 255; allowed: two values, black",
        ),
        (red, r"masks/b\.png: a mask that is 76\.245 all over"),
        (
            turned,
            r"masks/b\.png: is 8x6 .*, its picture .*images/b\.png 6x8; both must be the same",
        ),
        (lonely, r"masks/d\.png: belongs to no picture; images/ has no d\.\*"),
        (lonely_truth, r"truth/d\.png: belongs to no picture"),
        (larger_truth, r"truth/b\.png: is 9x8 .*, its picture .*images/b\.png 6x8"),
        (damaged, r"masks/b\.png: cannot be read as an image"),
        (twice, r"images/a\.png: a\.jpg has the same name but for the extension"),
        (no_images, r"data\.root=.*: has masks/ and no images/ inside"),
    ],
)
def test_folders_that_make_no_sense(folder, data_config, harm, message):
    harm(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_corrupted(data_config(root=folder), "test", 0)
    assert "\n" not in str(caught.value)


def test_pictures_with_holes_may_lie_in_the_folder_itself(tmp_path, data_config):
    pixels = np.random.default_rng(8).integers(0, 256, (2, 6, 5, 4)).astype(np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] < 99, 0, 255)
    for name, one in zip("ab", pixels, strict=True):
        Image.fromarray(one).save(tmp_path / f"{name}.png")
    with pytest.warns(Notice, match=rf"{tmp_path}: 2 of 2 pictures have transparent pixels"):
        found = open_corrupted(data_config(root=tmp_path), "test", 0)
    assert found.names == ["a", "b"]
    for place, one in enumerate(pixels):
        np.testing.assert_array_equal(found.seen(place), one[..., 3] > 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: holds no images"):
        open_corrupted(data_config(root=tmp_path / "empty"), "test", 0)


def test_roots_that_make_no_sense(tmp_path, data_config):
    with pytest.raises(ValueError, match=r"data\.root is empty: .*a folder with images/, or an"):
        open_corrupted(data_config(), "test", 0)
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*nowhere': does not exist"):
        open_corrupted(data_config(root=tmp_path / "nowhere"), "test", 0)
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.npz': must be a folder with images/, or an \.npy"):
        open_corrupted(data_config(root=tmp_path / "a.npz"), "test", 0)


# Arrays in which NaN is what is missing


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_is_missing(tmp_path, data_config, dtype):
    generator = np.random.default_rng(1)
    values = generator.uniform(0, 1, (4, 5, 7, 3)).astype(dtype)
    missing = generator.uniform(size=values.shape) < 0.2
    np.save(tmp_path / "a.npy", np.where(missing, np.nan, values))
    collection = open_corrupted(data_config(root=tmp_path / "a.npy", num_test=3), "test", 0)
    assert isinstance(collection, Collection)
    assert (len(collection), collection.shape) == (3, (5, 7, 3))
    for index in (0, 2, -1):
        seen = ~missing[:3][index].any(axis=-1)
        np.testing.assert_array_equal(collection.seen(index), seen)
        expected = np.where(seen[..., None], values[:3][index], 0)
        np.testing.assert_allclose(collection[index], expected, atol=1e-6)
        assert collection[index].dtype == np.float32
        assert collection.truth(index) is None
    gray = open_corrupted(data_config(root=tmp_path / "a.npy", gray=True), "test", 0)
    assert gray.shape == gray[0].shape == (5, 7, 1)
    with pytest.raises(IndexError):
        collection.seen(3)
    with pytest.warns(Notice, match="seen of 2; another data.name says otherwise"):
        train = open_corrupted(data_config(root=tmp_path / "a.npy", num_train=2), "train", 0)
    np.testing.assert_array_equal(train.seen(1), collection.seen(1))
    with pytest.raises(ValueError, match=r"data\.size=\(4, 4\).*a\.npy is 5x7"):
        open_corrupted(data_config(root=tmp_path / "a.npy", size=(4, 4)), "test", 0)


def test_patches_in_holes_are_left_out_and_counted(tmp_path, data_config):
    values = np.random.default_rng(3).uniform(0, 1, (2, 4, 6))
    values[1, :2, 2:4] = np.nan
    np.save(tmp_path / "a.npy", values)
    config = data_config(name="corrupted", root=tmp_path / "a.npy")
    config.patch.size = 2
    with pytest.warns(Notice, match="1 of 12 patches lie in holes"):
        train = open_collection(config, "train", 0)
    assert len(train) == 11
    assert all(train.seen(index).any() for index in range(11))


def test_gray_arrays_need_no_channel_axis(tmp_path, data_config):
    values = np.random.default_rng(2).uniform(0, 1, (2, 4, 6))
    values[1, 2, 3] = np.nan
    np.save(tmp_path / "a.npy", values)
    collection = open_corrupted(data_config(root=tmp_path / "a.npy"), "test", 0)
    assert collection.shape == (4, 6, 1)
    assert collection.seen(0).all()
    assert np.argwhere(~collection.seen(1)).tolist() == [[2, 3]]


def harmed(**entries):
    """[2, 4, 6] numbers in [0, 1], `entries` in the second of them."""
    values = np.full((2, 4, 6), 0.5)
    values[1, 0, 0] = entries.get("value", 0.5)
    values[1] = entries.get("signal", values[1])
    return values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (harmed(value=np.inf), r"a\.npy, signal 1: 1 of 24 values are NaN or infinite"),
        (harmed(value=-np.inf), r"a\.npy, signal 1: 1 of 24 values are NaN or infinite"),
        (harmed(value=1.5), r"a\.npy: values from 0\.5 to 1\.5 of type float64; allowed: "),
        (harmed(signal=np.nan), r"a\.npy: signal 1 is missing all over; some must be seen"),
        (np.zeros((2, 4, 6), np.uint8), r"a\.npy: values of type uint8; allowed: floats"),
        (np.zeros((4, 6)), r"a\.npy: an array of shape \[4, 6\]; expected \[S, H, W\]"),
        (np.zeros((0, 4, 6)), r"a\.npy: an array of shape \[0, 4, 6, 1\]; expected \[S, H, W\]"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path, data_config, values, message):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=message):
        open_corrupted(data_config(root=tmp_path / "a.npy"), "test", 0)


def test_a_damaged_array(tmp_path, data_config):
    np.save(tmp_path / "a.npy", harmed())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read as an array file"):
        open_corrupted(data_config(root=tmp_path / "a.npy"), "test", 0)
