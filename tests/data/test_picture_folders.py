"""Folders of pictures as people have them: what is said of them, and pictures of any size."""

import shutil
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from nid_jax.data import open_collection, picturefiles, to_array
from nid_jax.data.folder import find_images
from nid_jax.notices import Notice
from tests.data.tiffs import write_tiff

GENERATOR = np.random.default_rng(0)


def write(folder, count, size=(6, 7), kind=np.uint8, most=None, prefix="p"):
    """Random gray TIFF files of a type; -> their values."""
    folder.mkdir(parents=True, exist_ok=True)
    full = most or (1 if np.dtype(kind).kind == "f" else np.iinfo(kind).max)
    written = []
    for number in range(count):
        values = GENERATOR.random((*size, 1)) * full
        values = values.round().astype(kind) if np.dtype(kind).kind != "f" else values.astype(kind)
        write_tiff(folder / f"{prefix}{number}.tif", values, 1)
        written.append(values.astype(np.float64))
    return written


def opened(data_config, root, split="test", **changes):
    options = {"name": "folder", "root": root, "test_fraction": 1.0, **changes}
    return open_collection(data_config(**options), split, 0)


def lines(said):
    return [str(line.message) for line in said if line.category is Notice]


# What of them is changed


def test_what_is_laid_on_white_made_gray_and_made_colour_is_counted(tmp_path, data_config):
    write(tmp_path, 2)
    colour = GENERATOR.integers(0, 256, (6, 7, 4)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour[..., :3]).save(tmp_path / "b.png")
    with pytest.warns(Notice) as said:
        found = opened(data_config, tmp_path)
    assert found.shape == (6, 7, 3)
    clear = f"{tmp_path}: 1 of 4 pictures (a.png) have an alpha channel; what is transparent is "
    mixed = f"{tmp_path}: 2 of 4 pictures (p0.tif) are gray, others in colour; taken in colour; "
    white = f"{clear}laid on white; data.name=corrupted takes it for missing"
    assert lines(said) == [white, f"{mixed}data.gray=true takes all in gray"]
    with pytest.warns(Notice) as said:
        found = opened(data_config, tmp_path, gray=True)
    assert found.shape == (6, 7, 1)
    grayed = f"{tmp_path}: 2 of 4 pictures (a.png) are in colour; taken in gray; "
    assert lines(said) == [white, f"{grayed}data.gray=false says otherwise"]


# Values


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.float64])
def test_one_scale_for_all_files_of_a_type(tmp_path, data_config, kind):
    """A dark picture on the scale of 255 is dark, though its own values would fit [0, 1]."""
    bright = write(tmp_path, 3, kind=kind, most=250)
    dark = write(tmp_path, 1, kind=kind, most=1, prefix="q")
    Image.fromarray(np.full((6, 7), 51, np.uint8)).save(tmp_path / "r.png")
    with pytest.warns(Notice) as said:
        collection = opened(data_config, tmp_path)
    (line,) = lines(said)
    assert line.startswith(f"{tmp_path}: values from ")
    assert line.endswith("taken as from 0 to 255; data.range=(low, high) says otherwise")
    expected = [values / 255 for values in (*bright, *dark)] + [np.full((6, 7, 1), 0.2)]
    np.testing.assert_allclose(to_array(collection), expected, atol=1e-6)


def test_little_of_16_bits_is_said_once_and_told_by_a_key(tmp_path, data_config):
    values = write(tmp_path, 5, kind=np.uint16, most=4095)
    with pytest.warns(Notice) as said:
        signals = to_array(opened(data_config, tmp_path))
    (line,) = lines(said)
    assert "16-bit values up to 40" in line
    assert line.endswith("taken as they are, dark; data.range=(0, 4095) says otherwise")
    np.testing.assert_allclose(signals, np.array(values) / 65535, atol=1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        signals = to_array(opened(data_config, tmp_path, range=(0, 4095)))
    np.testing.assert_allclose(signals, np.array(values) / 4095, atol=1e-6)


def test_values_outside_a_given_range_are_said_once(tmp_path, data_config):
    values = write(tmp_path, 4, kind=np.int16, most=3000)
    with pytest.warns(Notice) as said:
        signals = to_array(opened(data_config, tmp_path, range=(500, 2000)))
    (line,) = set(lines(said))
    assert line == f"images in {tmp_path.name}: values outside (500, 2000) are cut off"
    np.testing.assert_allclose(signals, np.clip((np.array(values) - 500) / 1500, 0, 1), atol=1e-6)
    with pytest.raises(ValueError, match=r"data\.range=\(3, 1\): must be"):
        opened(data_config, tmp_path, range=(3, 1))


# What is not read


def test_pages_frames_and_samples_that_are_left_out_are_counted(tmp_path, data_config):
    for number in range(2):
        stack = GENERATOR.integers(0, 65536, (3, 6, 7)).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"a{number}.tif", stack, photometric="minisblack")
    frames = [Image.fromarray(np.full((6, 7), 40 * n, np.uint8)) for n in range(4)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    more = GENERATOR.integers(0, 65536, (6, 7, 5)).astype(np.uint16)
    write_tiff(tmp_path / "c.tif", more, 1, tags={338: (3, [0] * 4)})
    with pytest.warns(Notice) as said:
        opened(data_config, tmp_path)
    several, left, gray = lines(said)
    assert several == (
        f"{tmp_path}: 3 of 4 pictures have several pages or frames (a0.tif: 3); the first of each "
        "is read"
    )
    assert left == (
        f"{tmp_path}: 1 of 4 pictures (c.tif) have 5 samples of a pixel, of which the last 4 are "
        "not read"
    )
    # A palette is in colour, whatever colours it holds.
    assert gray.startswith(f"{tmp_path}: 3 of 4 pictures (a0.tif) are gray, others in colour; ")


def test_extensions_of_any_case_and_kind(tmp_path, monkeypatch):
    for name in (
        "a.JPG",
        "b.jfif",
        "c.jpe",
        "d.JP2",
        "e.TiF",
        "f.pbm",
        "g.heic",
        "h.avif",
        "i.svg",
    ):
        (tmp_path / name).touch()
    monkeypatch.setattr(picturefiles, "NEEDS", {".heic": "pillow-heif: pip install x"})
    with pytest.warns(Notice, match=r"1 \.heic \(needs pillow-heif: pip install x\), 1 \.svg"):
        found = find_images(tmp_path, [x for x in picturefiles.EXTENSIONS if x != ".heic"])
    assert [path.name[0] for path in found] == [
        *"abcdef",
        *("h" if ".avif" in picturefiles.EXTENSIONS else ""),
    ]


def test_what_systems_leave_is_no_signal(tmp_path, data_config):
    for number in range(6):
        write(tmp_path, 1, prefix=f"p{number}_")
    copy = (tmp_path / "p0_0.tif").read_bytes()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "p0-checkpoint.tif").write_bytes(copy)
    (tmp_path / "._p0_0.tif").write_bytes(b"\x00\x05\x16\x07" + b"\0" * 78)
    with pytest.warns(Notice, match="6 pictures; passed over: 2 hidden"):
        assert len(opened(data_config, tmp_path)) == 6


# Copies


def test_copies_between_train_and_test_are_said(tmp_path, data_config):
    write(tmp_path / "train", 4)
    write(tmp_path / "test", 2, prefix="q")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        opened(data_config, tmp_path)
    shutil.copy(tmp_path / "train" / "p2.tif", tmp_path / "test" / "r.tif")
    for split in ("train", "test"):
        with pytest.warns(Notice) as said:
            opened(data_config, tmp_path, split)
        (line,) = lines(said)
        assert line == (
            f"{tmp_path}: 1 of 3 pictures to test on are copies of pictures to train on "
            "(test/r.tif of train/p2.tif); scores on them are not of unseen pictures"
        )


def test_copies_between_the_sides_of_a_random_split_are_said(tmp_path, data_config):
    write(tmp_path, 1)
    for number in range(3):
        shutil.copy(tmp_path / "p0.tif", tmp_path / f"q{number}.tif")
    for split in ("train", "test"):
        with pytest.warns(Notice, match=r"2 of 2 pictures to test on are copies of"):
            opened(data_config, tmp_path, split, test_fraction=0.5)


# Sizes


def test_pictures_of_several_sizes_keep_theirs(tmp_path, data_config):
    write(tmp_path, 1)
    write(tmp_path, 1, size=(5, 8), prefix="q")
    with pytest.warns(Notice, match="2 pictures of 2 sizes; each taken as means .* of 6x8"):
        found = opened(data_config, tmp_path)
    assert found.shape[:2] == (6, 8)
    for index in range(len(found)):
        picture, operator = found[index], found.ways[found.way(index)]
        assert operator.num_measurements == picture.shape[0] * picture.shape[1]
        # Of a plane, means over areas are its values at their middles.
        rows, columns = (
            ((np.arange(count) + 0.5) / count * side - 0.5) / (side - 1) * 2 - 1
            for count, side in zip(picture.shape[:2], found.shape, strict=False)
        )
        plane = np.add.outer(0.5 * np.clip(rows, -1, 1), np.clip(columns, -1, 1))
        measured = operator @ (lambda x: 0.5 * x[:, 0] + x[:, 1])
        np.testing.assert_allclose(measured, plane.ravel(), atol=0.06)


def test_another_size_names_every_way_out(tmp_path, data_config):
    write(tmp_path, 1)
    write(tmp_path, 1, size=(5, 5), prefix="q")
    with pytest.raises(ValueError, match="is 5x5") as caught:
        opened(data_config, tmp_path, size=(6, 7))
    assert str(caught.value) == (
        f"{tmp_path / 'q0.tif'}: is 5x5 (rows x columns), expected 6x7; set data.resize=true "
        "(squashes), with data.crop=center (cuts to the aspect), or data.patch.size=N with "
        "data.size=() (patches of each at its own size), or data.crops=N (random crops at native "
        "resolution)"
    )


@pytest.fixture
def small_limit(monkeypatch):
    """Pictures above 2000 pixels count as too large to decode."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    yield
    assert Image.MAX_IMAGE_PIXELS == 1000


RAMP = np.tile(np.linspace(10, 245, 128).round(), (96, 1)).astype(np.uint8)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.webp"])
def test_too_large_is_said_as_what_it_is(tmp_path, data_config, name):
    Image.fromarray(RAMP).save(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picturefiles.read_header(tmp_path / name)[:2] == (96, 128)
        for read in (picturefiles.read_image, picturefiles.read_pixels):
            with pytest.raises(ValueError, match=r"96x128 pixels \(rows x columns\), 0\.0 GB dec"):
                read(tmp_path / name)
    for changes in ({}, {"size": (90, 120), "resize": True}):
        with pytest.raises(ValueError, match=rf"{name}: 96x128 pixels .*more than is read at once"):
            opened(data_config, tmp_path, **changes)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_too_large_is_resized_without_decoding_it_whole(tmp_path, data_config, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RAMP).save(tmp_path / name, exif=exif)
    size = (12, 16) if orientation == 1 else (16, 12)
    collection = opened(data_config, tmp_path, size=size, resize=True)
    signal = collection[0]
    upright = RAMP if orientation == 1 else np.rot90(RAMP, -1)
    means = upright.reshape(size[0], 8, size[1], 8).mean((1, 3)) / 255
    np.testing.assert_allclose(signal[1:-1, 1:-1, 0], means[1:-1, 1:-1], atol=0.01)


@pytest.mark.usefixtures("small_limit")
def test_patches_of_what_is_too_large(tmp_path, data_config):
    values = GENERATOR.integers(0, 65536, (96, 128, 3)).astype(np.uint16)
    for options in ({"tile": (16, 16)}, {"rows": 96}, {"compression": 5, "rows": 10}):
        write_tiff(tmp_path / "x.tif", values, 2, options)
        patch = {"size": 20, "overlap": 3}
        patches = opened(data_config, tmp_path, patch=patch, gray=True)
        luma = values / 65535 @ [0.299, 0.587, 0.114]
        for at, (row, column) in enumerate(patches.corners[0]):
            expected = luma[row : row + 20, column : column + 20, None]
            np.testing.assert_allclose(patches[at], expected, atol=1e-6)
        assert len(opened(data_config, tmp_path, patch=patch, num_test=1)) == len(patches)
        with pytest.raises(ValueError, match=r"x\.tif: 96x128 pixels .*or data\.patch\.size"):
            opened(data_config, tmp_path)


@pytest.mark.usefixtures("small_limit")
def test_the_scale_of_what_is_too_large_is_found_in_parts_of_it(tmp_path, data_config):
    values = (GENERATOR.random((96, 128, 1)) * 250).astype(np.float32)
    write_tiff(tmp_path / "x.tif", values, 1, {"tile": (16, 16)})
    with pytest.warns(Notice, match="taken as from 0 to 255"):
        patches = opened(data_config, tmp_path, patch={"size": 20})
    np.testing.assert_allclose(patches[0], values[:20, :20] / 255, atol=1e-6)


def test_the_limit_is_pillows_own(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert picturefiles.limit() == np.inf
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert picturefiles.limit() == 100
