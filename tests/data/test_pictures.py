"""Reading picture files: depth, colour, transparency, orientation, damage; crops and sizes."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nid_jax.data import images, picturefiles

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def write_png16(path, values, filters):
    """A 16-bit PNG [H, W, C] by the PNG specification, with the given filter type in each row."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows, columns, channels = values.shape
    step = 2 * channels
    raw = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(rows, -1)
    raw = np.pad(raw.astype(int), ((1, 0), (step, 0)))
    here, left, up, corner = raw[1:, step:], raw[1:, :-step], raw[:-1, step:], raw[:-1, :-step]
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
    predictors = [np.zeros_like(here), left, up, (left + up) // 2, paeth]
    lines = b"".join(
        bytes([kind]) + ((here[row] - predictors[kind][row]) % 256).astype(np.uint8).tobytes()
        for row, kind in enumerate(filters)
    )
    header = struct.pack(">IIBBBBB", columns, rows, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    channels=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_png16_keeps_all_bits(tmp_path, rows, columns, channels, seed, data):
    values = np.random.default_rng(seed).integers(0, 65536, (rows, columns, channels))
    values.flat[0] = data.draw(st.sampled_from([0, 1, 255, 256, 65280, 65535]))
    filters = data.draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    path = tmp_path / "deep.png"
    write_png16(path, values.astype(np.uint16), filters)
    expected = values / 65535
    if channels in (2, 4):
        alpha = expected[..., -1:]
        expected = expected[..., :-1] * alpha + (1 - alpha)
    image = picturefiles.read_image(path)
    assert image.dtype == np.float32
    # Half a step of 16 bits is 7.6e-6; reading 8 bits would be wrong by up to 4e-3.
    np.testing.assert_allclose(image, expected, atol=2e-7)
    assert picturefiles.read_header(path)[:2] == (rows, columns)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff16_keeps_all_bits(tmp_path, channels):
    values = np.random.default_rng(1).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, values[..., 0] if channels == 1 else values)
    expected = values / 65535
    if channels == 4:
        expected = expected[..., :3] * expected[..., 3:] + 1 - expected[..., 3:]
    np.testing.assert_allclose(picturefiles.read_image(path), expected, atol=2e-7)
    assert picturefiles.read_header(path)[:3] == (5, 7, 1 if channels == 1 else 3)


def test_planar_tiff_is_channel_last(tmp_path):
    values = np.random.default_rng(2).integers(0, 65536, (3, 5, 7)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", values, photometric="rgb", planarconfig="separate")
    image = picturefiles.read_image(tmp_path / "p.tif")
    np.testing.assert_allclose(image, np.moveaxis(values, 0, -1) / 65535, atol=2e-7)


def test_pgm16(tmp_path):
    values = np.random.default_rng(3).integers(0, 65536, (4, 3)).astype(np.uint16)
    (tmp_path / "x.pgm").write_bytes(b"P5 3 4 65535\n" + values.astype(">u2").tobytes())
    image = picturefiles.read_image(tmp_path / "x.pgm")
    np.testing.assert_allclose(image[..., 0], values / 65535, atol=2e-7)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_colour(tmp_path, extension):
    values = np.random.default_rng(4).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    path = tmp_path / f"x.{extension}"
    Image.fromarray(values).save(path, **({"lossless": True} if extension == "webp" else {}))
    np.testing.assert_allclose(picturefiles.read_image(path), values / 255.0, atol=1e-7)
    assert picturefiles.read_header(path)[:3] == (6, 9, 3)


def test_other_modes(tmp_path):
    gray = np.array([[0, 255], [128, 64]], np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_allclose(picturefiles.read_image(tmp_path / "gray.png")[..., 0], gray / 255.0)
    Image.fromarray(gray > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(
        picturefiles.read_image(tmp_path / "bits.png")[..., 0], gray > 100
    )
    palette = Image.fromarray(np.stack([gray, gray, 0 * gray], -1)).convert(
        "P", palette=Image.Palette.ADAPTIVE
    )
    palette.save(tmp_path / "palette.gif")
    assert picturefiles.read_image(tmp_path / "palette.gif").shape == (2, 2, 3)
    assert picturefiles.read_header(tmp_path / "palette.gif")[:3] == (2, 2, 3)
    # 90% cyan ink: hardly any red, full green and blue.
    ink = np.zeros((2, 2, 4), np.uint8)
    ink[..., 0] = 230
    Image.fromarray(ink, "CMYK").save(tmp_path / "ink.tif")
    pixel = picturefiles.read_image(tmp_path / "ink.tif")[0, 0]
    assert pixel[0] < 0.2
    assert min(pixel[1:]) > 0.9


def test_alpha_is_composited_on_white(tmp_path):
    values = np.zeros((1, 3, 4), np.uint8)
    values[..., 0], values[..., 3] = 200, [0, 255, 51]
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = [[1, 1, 1], [200 / 255, 0, 0], [200 / 255 * 0.2 + 0.8, 0.8, 0.8]]
    np.testing.assert_allclose(picturefiles.read_image(tmp_path / "a.png")[0], expected, atol=1e-6)


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_exif_orientation_turns_the_picture(tmp_path, extension):
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left side comes to the top
    path = tmp_path / f"x.{extension}"
    Image.fromarray(values).save(path, exif=exif)
    image = picturefiles.read_image(path)
    assert image.shape == (16, 8, 3)
    assert picturefiles.read_header(path)[:3] == (16, 8, 3)
    assert image[:7].min() > 0.9
    assert image[9:].max() < 0.1


@pytest.mark.parametrize("extension", sorted(picturefiles.EXTENSIONS))
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.9])
def test_damaged_files_are_named(tmp_path, extension, share):
    values = np.random.default_rng(5).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    path = tmp_path / f"broken{extension}"
    picture = Image.fromarray(values)
    if extension in (".heic", ".heif", ".hif"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    (picture.convert("L") if extension == ".pgm" else picture).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"broken\{extension}: cannot be read") as caught:
        picturefiles.read_image(path)
    assert "\n" not in str(caught.value)


def test_damaged_deep_files_are_named(tmp_path):
    values = np.random.default_rng(6).integers(0, 65536, (40, 40, 3)).astype(np.uint16)
    write_png16(tmp_path / "a.png", values, [0] * 40)
    tifffile.imwrite(tmp_path / "b.tif", values)
    for path in (tmp_path / "a.png", tmp_path / "b.tif"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{path.name}: cannot be read"):
            picturefiles.read_image(path)


def test_missing_file(tmp_path):
    for read in (picturefiles.read_image, picturefiles.read_header):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere.png")


def test_float_tiff_must_be_finite_and_in_range(tmp_path):
    path = tmp_path / "f.tif"
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    tifffile.imwrite(path, values)
    np.testing.assert_array_equal(picturefiles.read_image(path)[..., 0], values)
    values[1, 1] = np.nan
    tifffile.imwrite(path, values)
    with pytest.raises(ValueError, match=r"f\.tif: 1 of 12 values are NaN or infinite"):
        picturefiles.read_image(path)
    tifffile.imwrite(path, np.full((3, 4), 1.5, np.float32))
    with pytest.raises(ValueError, match=r"f\.tif: values from 1\.5 to 1\.5 .*allowed: "):
        picturefiles.read_image(path)
    tifffile.imwrite(path, np.zeros((3, 4), np.int32))
    with pytest.raises(
        ValueError, match=r"f\.tif: values from 0 to 0 of type int32; allowed: uint8"
    ):
        picturefiles.read_image(path)


def test_gray_is_rec601_luma():
    colour = np.random.default_rng(7).random((4, 5, 3)).astype(np.float32)
    expected = 0.299 * colour[..., 0] + 0.587 * colour[..., 1] + 0.114 * colour[..., 2]
    np.testing.assert_allclose(images.to_channels(colour, 1)[..., 0], expected, atol=1e-6)
    gray = colour[..., :1]
    np.testing.assert_array_equal(images.to_channels(gray, 3), gray.repeat(3, -1))
    with pytest.raises(ValueError, match="channels"):
        images.to_channels(colour[..., :2], 1)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), a=st.integers(1, 9), b=st.integers(1, 9)
)
def test_centre_crop(rows, columns, a, b):
    image = np.arange(rows * columns).reshape(rows, columns, 1)
    window = images.centre_crop(image, (a, b))
    height, width = window.shape[:2]
    # It cannot grow: one side is the picture's, and the aspect is right to within a sample.
    assert height == rows or width == columns
    assert abs(height * b / a - width) <= max(1, b / a)
    top, left = divmod(int(window[0, 0, 0]), columns)
    assert abs((rows - height) - 2 * top) <= 1
    assert abs((columns - width) - 2 * left) <= 1


@pytest.mark.parametrize("size", [(9, 9), (30, 50), (64, 20)])
def test_resize_agrees_with_eight_bit_resampling(size):
    # Away from 0 and 255, where eight bits clip between the two passes; each pass rounds.
    values = np.random.default_rng(8).integers(90, 166, (24, 31, 3)).astype(np.uint8)
    resized = images.resize(values.astype(np.float32) / 255, size)
    reference = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    assert resized.shape == (*size, 3)
    np.testing.assert_allclose(resized * 255, np.asarray(reference), atol=1.5)
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_resize_keeps_constants_and_ramps():
    ramp = np.tile(np.linspace(0.2, 0.8, 60, dtype=np.float32)[None, :, None], (40, 1, 1))
    small = images.resize(ramp, (20, 30))
    centres = (np.arange(30) + 0.5) * 2 - 0.5
    expected = 0.2 + 0.6 * centres / 59
    np.testing.assert_allclose(small[10, 2:-2, 0], expected[2:-2], atol=1e-5)


def png(rows, bits, extra):
    """A gray PNG of rows of bytes, of `bits` a pixel, with (kind, content) of a chunk before."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + _checksum(kind + content)

    head = struct.pack(">IIBBBBB", 8 * len(rows[0]) // bits, len(rows), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = ((b"IHDR", head), extra, (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _checksum(content):
    return struct.pack(">I", zlib.crc32(content))


@pytest.mark.parametrize("clear", [0, 5, 15])
def test_the_transparent_gray_of_four_bits(tmp_path, clear):
    row = bytes(range(0x01, 0x100, 0x22))
    content = png([row], 4, (b"tRNS", struct.pack(">H", clear)))
    (tmp_path / "x.png").write_bytes(content)
    expected = np.arange(16) / 15
    expected[clear] = 1
    np.testing.assert_allclose(picturefiles.read_image(tmp_path / "x.png")[0, :, 0], expected)


def test_32_bits_of_tga_without_transparency(tmp_path):
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 6, 4, 32, 0x20)
    (tmp_path / "x.tga").write_bytes(head + bytes([100, 100, 100, 0] * 24))
    np.testing.assert_allclose(picturefiles.read_image(tmp_path / "x.tga"), 100 / 255, atol=1e-6)
    assert not picturefiles.read_header(tmp_path / "x.tga").alpha


@pytest.mark.parametrize("white", [100, 1023, 4095])
@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
def test_netpbm_of_every_white(tmp_path, magic, white):
    channels = 3 if magic in ("P3", "P6") else 1
    values = np.random.default_rng(0).integers(0, white + 1, (4, 5, channels))
    text = magic in ("P2", "P3")
    kind = "u1" if white < 256 else ">u2"
    body = " ".join(map(str, values.ravel())).encode() if text else values.astype(kind).tobytes()
    path = tmp_path / "x.ppm"
    path.write_bytes(f"{magic}\n# by hand\n5 4 # wide\n{white}\n".encode() + body)
    np.testing.assert_allclose(picturefiles.read_image(path), values / white, atol=1e-6)
    assert picturefiles.read_header(path)[:3] == values.shape
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"x\.ppm: cannot be read as an image"):
        picturefiles.read_image(path)


@pytest.mark.parametrize(("magic", "channels"), [("Pf", 1), ("PF", 3)])
@pytest.mark.parametrize("order", "<>")
def test_floats_of_pfm(tmp_path, magic, channels, order):
    values = np.random.default_rng(0).random((4, 5, channels)).astype(np.float32)
    head = f"{magic}\n5 4\n{-1.0 if order == '<' else 1.0}\n".encode()
    (tmp_path / "x.pfm").write_bytes(head + values[::-1].astype(order + "f4").tobytes())
    np.testing.assert_array_equal(picturefiles.read_image(tmp_path / "x.pfm"), values)
