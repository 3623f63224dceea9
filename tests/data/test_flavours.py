"""What people's PNG, JPEG, PNM, HEIC and other files hold: orientation, transparency, depth."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from nid_jax.data import picturefiles
from tests.data.tiffs import UPRIGHT

GENERATOR = np.random.default_rng(0)


def png(values, bits=16, transparent=None, exif=None, late=False):
    """The bytes of a PNG [H, W, C] by its specification, optional chunks among them."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows, columns, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    content = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    turned = chunk(b"eXIf", exif) if exif else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, kind, 0, 0, 0))
        + (b"" if late else turned)
        + (chunk(b"tRNS", np.array(transparent, ">u2").tobytes()) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(content))
        + (turned if late else b"")
        + chunk(b"IEND", b"")
    )


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def check(path, expected, atol=2e-7):
    image = picturefiles.read_image(path)
    np.testing.assert_allclose(image, expected, atol=atol)
    assert picturefiles.read_header(path)[:3] == image.shape


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("bits", [8, 16])
def test_orientation_of_png_of_every_depth(tmp_path, bits, orientation):
    path = tmp_path / "x.png"
    for channels in (1, 2, 3, 4):
        values = GENERATOR.integers(0, 2**bits, (5, 8, channels))
        if channels in (2, 4):
            values[..., -1] = 2**bits - 1
        unit = values[..., : channels - 1 + channels % 2] / (2**bits - 1)
        for late in (False, True):
            exif = exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
            path.write_bytes(png(values, bits, exif=exif, late=late))
            check(path, UPRIGHT[orientation](unit))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("extension", ["jpg", "webp", "avif"])
def test_orientation_of_other_formats(tmp_path, extension, orientation):
    if f".{extension}" not in picturefiles.EXTENSIONS:
        pytest.skip(f"no {extension} here")
    values = np.zeros((64, 128, 3), np.uint8)
    values[:16, :32] = 255  # the upper left corner is white
    values[-16:, :32, 0] = 255  # the lower left one red
    path = tmp_path / f"x.{extension}"
    Image.fromarray(values).save(path, exif=exif_of(orientation), quality=95)
    check(path, UPRIGHT[orientation](values / 255), atol=0.6)
    means = picturefiles.read_image(path) - UPRIGHT[orientation](values / 255)
    assert np.abs(means).mean() < 0.02


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_colour_of_a_png(tmp_path, bits, channels):
    values = GENERATOR.integers(0, 2**bits, (5, 8, channels))
    values[2, 3] = values[0, 0]
    (tmp_path / "x.png").write_bytes(png(values, bits, transparent=values[0, 0].tolist()))
    expected = values / (2**bits - 1)
    expected[0, 0] = expected[2, 3] = 1
    check(tmp_path / "x.png", expected)
    assert picturefiles.read_header(tmp_path / "x.png").alpha


@pytest.mark.parametrize("maximum", [65535, 4095, 1000, 300])
@pytest.mark.parametrize(("magic", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_deep_pnm_keeps_all_bits_and_its_own_white(tmp_path, magic, channels, maximum):
    values = GENERATOR.integers(0, maximum + 1, (5, 8, channels))
    head = magic + b"\n# by a scanner\n8 5\n%d\n" % maximum
    path = tmp_path / "x.pnm"
    path.write_bytes(head + values.astype(">u2").tobytes())
    check(path, values / maximum)
    assert picturefiles.read_header(path).full
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"x\.pnm: cannot be read as an image"):
        picturefiles.read_image(path)


def test_plain_and_floating_pnm(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P2 3 1 65535\n0 300 65535\n")
    check(tmp_path / "x.pgm", np.array([[[0], [300 / 65535], [1]]]))
    values = GENERATOR.random((4, 3)).astype("<f4")
    # Rows from below; a negative scale means the low byte first.
    (tmp_path / "x.pfm").write_bytes(b"Pf\n3 4\n-1.0\n" + values[::-1].tobytes())
    check(tmp_path / "x.pfm", values[..., None])


def test_inks_of_a_jpeg(tmp_path):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 230
    Image.fromarray(ink, "CMYK").save(tmp_path / "x.jpg", quality=95)
    check(tmp_path / "x.jpg", np.array([25, 255, 255]) / 255 + np.zeros((16, 16, 1)), atol=0.02)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="no JPEG 2000 here")
def test_deep_jpeg2000(tmp_path):
    values = GENERATOR.integers(0, 65536, (9, 8)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.jp2", irreversible=False)
    check(tmp_path / "x.jp2", values[..., None] / 65535)


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA"])
def test_transparency_of_eight_bits(tmp_path, mode):
    extension = "tga" if mode != "PA" else "png"
    values = GENERATOR.integers(0, 256, (5, 8, 4)).astype(np.uint8)
    picture = Image.fromarray(values)
    if mode == "PA":
        picture = Image.fromarray(values[..., 0]).convert("P")
        picture.info["transparency"] = bytes(values[0, :, 3]) * 32
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / f"x.{extension}", **picture.info)
    straight = np.asarray(Image.open(tmp_path / f"x.{extension}").convert("RGBA")) / 255.0
    expected = straight[..., :3] * straight[..., 3:] + 1 - straight[..., 3:]
    check(tmp_path / f"x.{extension}", expected[..., :1] if mode == "LA" else expected, 1e-6)


@pytest.mark.parametrize("alpha", [False, True])
def test_heic(tmp_path, alpha):
    pytest.importorskip("pillow_heif").register_heif_opener()
    values = np.zeros((64, 128, 4), np.uint8)
    values[:16, :32] = 255
    values[..., 3] = 255
    values[32:, :, 3] = 0 if alpha else 255
    picture = Image.fromarray(values if alpha else values[..., :3])
    picture.save(tmp_path / "x.heic", quality=95)
    expected = values[..., :3] / 255
    expected[32:] = 1 if alpha else expected[32:]
    check(tmp_path / "x.heic", expected, 0.1)


def test_heic_without_its_reader_is_named(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"  # as phones' programs rename it
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    kept = tuple(x for x in picturefiles.EXTENSIONS if x != ".heic")
    monkeypatch.setattr(picturefiles, "EXTENSIONS", kept)
    monkeypatch.setattr(picturefiles, "NEEDS", {".heic": "pillow-heif: pip install 'x'"})
    for read in (picturefiles.read_header, picturefiles.read_image):
        with pytest.raises(ValueError, match=r"x\.jpg: is HEIC, which needs pillow-heif: pip"):
            read(path)


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "x.jpg").touch()
    with pytest.raises(ValueError, match=r"x\.jpg: cannot be read as an image.*it is empty"):
        picturefiles.read_header(tmp_path / "x.jpg")
