"""Named sources: faces, photographs, folders, arrays, Yale, Olivetti and CelebA as published."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat
from skimage import data as skimage_data

from nid_jax.data import ArrayCollection, builtin, crops, images, open_collection, to_array


def write_images(directory, count, size=(5, 7), channels=3, seed=0, prefix="p"):
    """`count` random PNGs; returns {name: float [H, W, C] in [0, 1]}."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    written = {}
    for number in range(count):
        values = generator.integers(0, 256, (*size, channels)).astype(np.uint8)
        name = f"{prefix}{number:02d}.png"
        Image.fromarray(values[..., 0] if channels == 1 else values).save(directory / name)
        written[name] = values / 255.0
    return written


# Built in


def test_faces_are_lfw_in_fixed_order(data_config):
    faces = skimage_data.lfw_subset()[:100]
    train = open_collection(data_config(), "train", 0)
    test = open_collection(data_config(), "test", 123)
    assert (len(train), len(test), train.shape) == (80, 20, (25, 25, 1))
    np.testing.assert_allclose(to_array(train)[..., 0], faces[:80], atol=1e-7)
    np.testing.assert_allclose(to_array(test)[..., 0], faces[80:], atol=1e-7)
    assert test.names[0] == "face_080"
    few = open_collection(data_config(num_train=7), "train", 0)
    np.testing.assert_array_equal(to_array(few), to_array(train)[:7])


def test_faces_of_another_size_need_resize(data_config):
    with pytest.raises(ValueError, match=r"is 25x25 .*expected 32x32; set data\.resize=true"):
        open_collection(data_config(size=(32, 32)), "train", 0)
    resized = open_collection(data_config(size=(32, 16), resize=True), "train", 0)
    assert resized[3].shape == resized.shape == (32, 16, 1)


@pytest.mark.parametrize("size", [(0,), (0, 3), (1, 2, 3), (2.5, 3), "32"])
def test_bad_sizes(data_config, size):
    with pytest.raises(ValueError, match=r"data\.size=.*must be \(rows, columns\)"):
        open_collection(data_config(size=size), "train", 0)


def test_bad_crop(data_config):
    with pytest.raises(ValueError, match=r"data\.crop='top': must be 'center' or ''"):
        open_collection(data_config(size=(9, 9), resize=True, crop="top"), "train", 0)


def test_photos_defaults_and_seed(data_config):
    config = data_config(name="photos")
    train = open_collection(config, "train", 3)
    assert (len(train), train.shape) == (340, (32, 32, 3))
    test = open_collection(config, "test", 3)
    assert len(test) == 60
    np.testing.assert_array_equal(to_array(test), to_array(open_collection(config, "test", 3)))
    assert not np.array_equal(to_array(test), to_array(open_collection(config, "test", 4)))
    shorter = open_collection(data_config(name="photos", num_test=11), "test", 3)
    np.testing.assert_array_equal(to_array(shorter), to_array(test)[:11])
    assert to_array(train).std(axis=(1, 2)).max(-1).min() >= crops.FLAT


def test_photos_gray_and_not_square(data_config):
    config = data_config(name="photos", gray=True, size=(12, 40), num_train=9)
    gray = open_collection(config, "train", 0)
    assert gray.shape == gray[8].shape == (12, 40, 1)


@pytest.mark.parametrize("size", [(32, 32), (64, 20), (128, 128)])
def test_photo_crops_of_the_splits_are_disjoint(data_config, size, monkeypatch):
    # Photographs that number their own pixels: a crop then says where it was taken.
    shapes = {title: p.shape[:2] for title, p in builtin.load_photographs().items()}
    numbered = {
        title: (
            np.arange(rows * columns, dtype=np.float64).reshape(rows, columns, 1) + offset * 10**6
        )
        for offset, (title, (rows, columns)) in enumerate(shapes.items())
    }
    monkeypatch.setattr(builtin, "load_photographs", lambda gray: numbered)
    pixels = {}
    for split in ("train", "test"):
        config = data_config(name="photos", size=size, num_train=400, num_test=80)
        values = builtin.open_photos(config, split, 1).values
        pixels[split] = set(values.ravel().tolist())
    assert not pixels["train"] & pixels["test"]


def test_photo_crops_too_large(data_config):
    with pytest.raises(ValueError, match=r"data\.size=\(32, 400\)"):
        open_collection(data_config(name="photos", size=(32, 400)), "train", 0)


# Folders


def test_folder_with_splits_inside(tmp_path, data_config):
    train = write_images(tmp_path / "train", 3)
    test = write_images(tmp_path / "test", 2, seed=1)
    (tmp_path / "train" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "._p00.png").write_text("a hidden file")
    config = data_config(name="folder", root=tmp_path)
    for split, written in (("train", train), ("test", test)):
        collection = open_collection(config, split, 0)
        assert collection.names == sorted(written)
        assert collection.shape == (5, 7, 3)
        np.testing.assert_allclose(to_array(collection), list(written.values()), atol=1e-6)


def test_folder_split_by_fraction(tmp_path, data_config):
    written = write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 6, seed=1)
    config = data_config(name="folder", root=tmp_path, test_fraction=0.25)
    train = open_collection(config, "train", 7)
    test = open_collection(config, "test", 7)
    assert (len(train), len(test)) == (8, 3)
    assert not set(train.names) & set(test.names)
    assert train.names == sorted(train.names)
    assert open_collection(config, "test", 7).names == test.names
    assert any(open_collection(config, "test", s).names != test.names for s in range(5))
    everything = dict(zip(train.names + test.names, [*train, *test], strict=True))
    np.testing.assert_allclose(everything["a/p03.png"], written["p03.png"], atol=1e-6)


def test_folder_fractions_at_the_ends(tmp_path, data_config):
    write_images(tmp_path, 1)
    whole = data_config(name="folder", root=tmp_path, test_fraction=1.0)
    assert len(open_collection(whole, "test", 0)) == 1
    with pytest.raises(ValueError, match=r"data\.test_fraction=1\.0 of 1 signals leaves none"):
        open_collection(whole, "train", 0)
    half = data_config(name="folder", root=tmp_path, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"data\.test_fraction=0\.5 of 1 signals .*to test on"):
        open_collection(half, "test", 0)
    with pytest.raises(ValueError, match=r"data\.test_fraction=1\.5: must be between 0 and 1"):
        open_collection(data_config(name="folder", root=tmp_path, test_fraction=1.5), "test", 0)


def test_folder_of_mixed_gray_and_colour(tmp_path, data_config):
    gray = write_images(tmp_path / "train", 2, channels=1, prefix="gray")
    colour = write_images(tmp_path / "test", 2, channels=3, prefix="colour")
    config = data_config(name="folder", root=tmp_path)
    train, test = (open_collection(config, split, 0) for split in ("train", "test"))
    assert train.shape == test.shape == (5, 7, 3)
    np.testing.assert_allclose(train[0], gray["gray00.png"].repeat(3, -1), atol=1e-6)
    config.gray = True
    test = open_collection(config, "test", 0)
    luma = colour["colour01.png"] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(test[1][..., 0], luma, atol=1e-6)


def test_folder_with_another_size(tmp_path, data_config):
    write_images(tmp_path / "train", 2)
    write_images(tmp_path / "test", 1)
    write_images(tmp_path / "test", 1, size=(8, 6), prefix="q")
    config = data_config(name="folder", root=tmp_path, size=(5, 7))
    # Found when the training split is opened: before a run, not at its end.
    message = r"q00\.png: is 8x6 .*expected 5x7; set data\.resize=true"
    with pytest.raises(ValueError, match=message):
        open_collection(config, "train", 0)
    config.resize = True
    assert open_collection(config, "test", 0)[1].shape == (5, 7, 3)
    config.size = (10, 4)
    assert open_collection(config, "test", 0)[1].shape == (10, 4, 3)


def test_folder_centre_crop(tmp_path, data_config):
    values = np.zeros((20, 60), np.uint8)
    values[:, 20:40] = 255
    Image.fromarray(values).save(tmp_path / "x.png")
    config = data_config(name="folder", root=tmp_path, size=(10, 10), resize=True, test_fraction=1)
    squeezed = open_collection(config, "test", 0)[0]
    assert squeezed.min() < 0.1
    config.crop = "center"
    np.testing.assert_allclose(open_collection(config, "test", 0)[0], 1, atol=1e-6)


def test_folder_reads_16_bits(tmp_path, data_config):
    values = np.random.default_rng(2).integers(0, 65536, (5, 6)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    config = data_config(name="folder", root=tmp_path, test_fraction=1)
    signal = open_collection(config, "test", 0)[0]
    np.testing.assert_allclose(signal[..., 0], values / 65535, atol=1e-7)


def test_folder_faults(tmp_path, data_config):
    with pytest.raises(FileNotFoundError, match=r"data\.root=.*nowhere.*does not exist"):
        open_collection(data_config(name="folder", root=tmp_path / "nowhere"), "train", 0)
    with pytest.raises(ValueError, match=r"data\.root is empty"):
        open_collection(data_config(name="folder"), "train", 0)
    with pytest.raises(
        FileNotFoundError, match=r"holds no images; allowed extensions: .*\.bmp, .*"
    ):
        open_collection(data_config(name="folder", root=tmp_path), "train", 0)
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is a file, not a directory"):
        open_collection(data_config(name="folder", root=tmp_path / "file.png"), "train", 0)
    with pytest.raises(ValueError, match=r"file\.png: cannot be read as an image"):
        open_collection(data_config(name="folder", root=tmp_path), "train", 0)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has train/ but no test/"):
        open_collection(data_config(name="folder", root=tmp_path), "train", 0)


def test_truncated_and_nan_files_are_named_when_read(tmp_path, data_config):
    write_images(tmp_path, 3, size=(40, 40))
    path = tmp_path / "p01.png"
    path.write_bytes(path.read_bytes()[:900])
    config = data_config(name="folder", root=tmp_path, test_fraction=1)
    with pytest.raises(ValueError, match=r"p01\.png: cannot be read.*truncated"):
        to_array(open_collection(config, "test", 0))
    path.unlink()
    tifffile.imwrite(tmp_path / "q.tif", np.full((40, 40), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"q\.tif: 1600 of 1600 values are NaN"):
        to_array(open_collection(config, "test", 0))


# Portraits


def test_yale_flat_layout(tmp_path, data_config):
    kinds = ["glasses", "happy", "normal", "sad"]
    values = {}
    for subject in range(1, 6):
        for kind in kinds:
            name = f"subject{subject:02d}.{kind}"
            pixels = np.random.default_rng(len(values)).integers(0, 256, (6, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name, "bmp")
            values[name] = pixels / 255
    (tmp_path / "subject01.gif").write_bytes(b"left out")
    (tmp_path / "Readme.txt").write_text("left out")
    config = data_config(name="yale", root=tmp_path)
    train, test = (open_collection(config, split, 0) for split in ("train", "test"))
    names = sorted(values)
    assert test.names == names[1::8]
    assert sorted(train.names + test.names) == names
    np.testing.assert_allclose(test[1][..., 0], values[names[9]], atol=1e-6)


def test_yale_extended_layout(tmp_path, data_config):
    for person in ("yaleB01", "yaleB02"):
        (tmp_path / person).mkdir()
        for number in range(5):
            content = b"P5 4 3 255\n" + bytes(range(number, number + 12))
            (tmp_path / person / f"{person}_P00A+{number:03d}E+00.pgm").write_bytes(content)
        (tmp_path / person / f"{person}_P00_Ambient.pgm").write_bytes(b"P5 1 1 255\n0")
    config = data_config(name="yale", root=tmp_path)
    test = open_collection(config, "test", 0)
    assert test.names == [
        "yaleB01/yaleB01_P00A+001E+00.pgm",
        "yaleB02/yaleB02_P00A+004E+00.pgm",
    ]
    expected = (np.arange(12).reshape(3, 4) + 4) / 255
    np.testing.assert_allclose(test[1][..., 0], expected, atol=1e-6)
    assert len(open_collection(config, "train", 0)) == 8


def test_olivetti_from_each_of_its_files(tmp_path, data_config):
    # The published columns hold each face column by column.
    faces = np.random.default_rng(0).integers(0, 256, (400, 64, 64))
    faces[0, 0, :2] = [0, 255]
    columns = faces.transpose(0, 2, 1).reshape(400, -1).T
    layouts = {name: tmp_path / name for name in ("npy", "mat")}
    for path in layouts.values():
        path.mkdir()
    np.save(layouts["npy"] / "olivetti_faces.npy", faces / 255)
    savemat(layouts["mat"] / "olivettifaces.mat", {"faces": columns.astype(np.uint8)})
    for root in layouts.values():
        config = data_config(name="olivetti", root=root, num_test=50)
        test = open_collection(config, "test", 0)
        np.testing.assert_allclose(to_array(test)[..., 0], faces[1::8] / 255, atol=1e-6)
    train = open_collection(config, "train", 0)
    assert (len(train), train.shape) == (350, (64, 64, 1))
    assert not set(train.names) & set(test.names)


def test_a_pickle_of_faces_is_not_opened(tmp_path, data_config):
    (tmp_path / "olivetti_py3.pkz").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(ValueError, match=r"olivetti_py3\.pkz: is a pickle.*np\.save"):
        open_collection(data_config(name="olivetti", root=tmp_path), "train", 0)


@pytest.mark.parametrize(("name", "expected"), [("yale", "subject01"), ("olivetti", "olivetti_")])
def test_missing_portraits(tmp_path, data_config, name, expected):
    with pytest.raises(FileNotFoundError, match=rf"data\.root=.*{expected}"):
        open_collection(data_config(name=name, root=tmp_path), "train", 0)


def test_celeba_as_published(tmp_path, data_config):
    written = write_images(tmp_path / "img_align_celeba", 6, size=(22, 18))
    parts = dict(zip(sorted(written), "001220", strict=True))
    lines = "".join(f"{name} {part}\n" for name, part in parts.items())
    (tmp_path / "list_eval_partition.txt").write_text(lines)
    config = data_config(name="celeb_a", root=tmp_path, size=(18, 18))
    train = open_collection(config, "train", 0)
    assert train.names == ["p00.png", "p01.png", "p05.png"]
    np.testing.assert_allclose(train[2], written["p05.png"][2:20], atol=1e-6)
    small = open_collection(data_config(name="celeb_a", root=tmp_path, size=9), "test", 0)
    assert len(small) == 2
    square = written["p04.png"][2:20].astype(np.float32)
    np.testing.assert_allclose(small[1], images.resize(square, (9, 9)), atol=1e-6)
    config.num_train = 1
    assert len(open_collection(config, "train", 0)) == 1
    (tmp_path / "list_eval_partition.txt").write_text("p00.png 0\np01.png\n")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt, line 2: 'p01\.png'"):
        open_collection(config, "train", 0)


def test_collections_of_all_sources_are_float32_in_unit_range(tmp_path, data_config):
    write_images(tmp_path, 4)
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 3), np.uint8))
    for name, root in (
        ("faces", ""),
        ("photos", ""),
        ("folder", tmp_path),
        ("array", tmp_path / "x.npy"),
    ):
        collection = open_collection(data_config(name=name, root=root, num_train=2), "train", 0)
        assert len(collection) == len(set(collection.names)) == 2
        signal = collection[1]
        assert signal.dtype == np.float32
        assert signal.shape == collection.shape
        assert 0 <= signal.min() <= signal.max() <= 1
        assert isinstance(collection.title, str)
    assert isinstance(ArrayCollection(np.zeros((1, 2, 2)), ["x"], "t")[0], np.ndarray)
