"""TIFF files as people have them: every layout against what was written, in double precision."""

import struct

import numpy as np
import pytest
from PIL import Image

from nid_jax.data import picturefiles, tiff
from nid_jax.notices import Notice
from tests.data.tiffs import UPRIGHT, write_tiff

GENERATOR = np.random.default_rng(0)
KINDS = {np.uint8: 255, np.uint16: 65535, np.float32: 1, np.float64: 1, np.float16: 1}


def stored(kind, samples, size=(13, 17)):
    """Random samples of a type, and their values in [0, 1]."""
    unit = GENERATOR.random((*size, samples))
    unit[0, 0] = 1
    values = (unit * KINDS[kind]).round().astype(kind) if KINDS[kind] > 1 else unit.astype(kind)
    return values, values.astype(np.float64) / KINDS[kind]


def check(path, expected, atol=2e-7):
    image = picturefiles.read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=atol)
    assert picturefiles.read_header(path)[:3] == image.shape
    return image


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("kind", KINDS)
def test_depth_order_and_compression(tmp_path, kind, compression, order):
    for samples, photometric in ((1, 1), (3, 2)):
        for layout in ({}, {"tile": (16, 16)}, {"planar": True}, {"predictor": 2}, {"big": True}):
            if layout.get("predictor") and kind not in (np.uint8, np.uint16):
                layout = {"predictor": 3}
            if layout.get("predictor") and compression in (1, 32773):
                continue
            values, unit = stored(kind, samples)
            options = {"order": order, "compression": compression, **layout}
            write_tiff(tmp_path / "x.tif", values, photometric, options)
            check(tmp_path / "x.tif", unit)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_orientation_of_every_depth(tmp_path, kind, orientation):
    path = tmp_path / "x.tif"
    for samples, photometric in ((1, 1), (1, 0), (3, 2)):
        values, unit = stored(kind, samples)
        tags = {274: (3, [orientation])}
        write_tiff(path, values, photometric, {"tile": (16, 16)}, tags)
        unit = UPRIGHT[orientation](1 - unit if photometric == 0 else unit)
        image = check(path, unit)
        window = picturefiles.read_window(path, (3, 2), (8, 9))
        np.testing.assert_array_equal(window, image[3:11, 2:11])
    # Pillow turns what it decodes as a whole, once.
    eight = GENERATOR.integers(0, 256, (13, 17)).astype(np.uint8)
    Image.fromarray(eight > 99).save(path, compression="group4", tiffinfo={274: orientation})
    check(path, UPRIGHT[orientation](eight[..., None] > 99))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float16])
def test_white_is_zero_in_every_depth(tmp_path, kind):
    values, unit = stored(kind, 1)
    write_tiff(tmp_path / "x.tif", values, 0)
    check(tmp_path / "x.tif", 1 - unit)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_packed_bits(tmp_path, bits, compression):
    values = GENERATOR.integers(0, 2**bits, (13, 17, 1)).astype(np.uint16)
    for photometric in (0, 1):
        options = {"bits": bits, "compression": compression}
        write_tiff(tmp_path / "x.tif", values, photometric, options)
        unit = values / (2**bits - 1)
        check(tmp_path / "x.tif", 1 - unit if photometric == 0 else unit)
    colour = GENERATOR.integers(0, 2**bits, (13, 17, 3)).astype(np.uint16)
    write_tiff(tmp_path / "x.tif", colour, 2, {"bits": bits, "compression": compression})
    check(tmp_path / "x.tif", colour / (2**bits - 1))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("photometric", "colours"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("planar", [False, True])
def test_alpha_is_what_the_extra_sample_says(tmp_path, kind, photometric, colours, extra, planar):
    values, unit = stored(kind, colours + 1)
    if extra == 1:  # colours that were multiplied by alpha
        scaled = unit[..., :-1] * unit[..., -1:] * KINDS[kind]
        values[..., :-1] = scaled.round() if KINDS[kind] > 1 else scaled
        unit = values.astype(np.float64) / KINDS[kind]
    write_tiff(tmp_path / "x.tif", values, photometric, {"planar": planar}, {338: (3, [extra])})
    colour, alpha = unit[..., :-1], unit[..., -1:]
    expected = {0: colour, 1: colour + 1 - alpha, 2: colour * alpha + 1 - alpha}[extra]
    header = picturefiles.read_header(tmp_path / "x.tif")
    assert header.alpha == (extra > 0)
    assert len(header.notes) == (extra == 0)
    check(tmp_path / "x.tif", np.minimum(expected, 1))


def test_white_is_zero_with_alpha(tmp_path):
    values, unit = stored(np.uint16, 2)
    colour, alpha = 1 - unit[..., :1], unit[..., 1:]
    write_tiff(tmp_path / "x.tif", values, 0, tags={338: (3, [2])})
    check(tmp_path / "x.tif", colour * alpha + 1 - alpha)
    values[..., 0] = (unit[..., 0] * unit[..., 1] * 65535).round()
    write_tiff(tmp_path / "x.tif", values, 0, tags={338: (3, [1])})
    check(tmp_path / "x.tif", colour * alpha + 1 - alpha, atol=1e-5)


def test_alpha_among_more_samples(tmp_path):
    values, unit = stored(np.uint16, 6)
    write_tiff(tmp_path / "x.tif", values, 2, tags={338: (3, [0, 2, 0])})
    expected = unit[..., :3] * unit[..., 4:5] + 1 - unit[..., 4:5]
    check(tmp_path / "x.tif", expected)
    (note,) = picturefiles.read_header(tmp_path / "x.tif").notes
    assert note == "6 samples of a pixel, of which the last 2 are not read"


def test_three_samples_said_to_be_gray_are_colours(tmp_path):
    values, unit = stored(np.uint16, 3)
    write_tiff(tmp_path / "x.tif", values, 1, tags={338: (3, [0, 0])})
    check(tmp_path / "x.tif", unit)
    (note,) = picturefiles.read_header(tmp_path / "x.tif").notes
    assert note.endswith("taken as red, green, blue")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_inks(tmp_path, kind):
    values, unit = stored(kind, 4)
    write_tiff(tmp_path / "x.tif", values, 5)
    check(tmp_path / "x.tif", (1 - unit[..., :3]) * (1 - unit[..., 3:]))


@pytest.mark.parametrize(("bits", "white"), [(4, 65535), (8, 65535), (16, 65535), (8, 255)])
def test_palettes(tmp_path, bits, white):
    table = GENERATOR.integers(0, white + 1, (3, 2**bits))
    table[0, 0] = white
    kind = np.uint16 if bits == 16 else np.uint8
    values = GENERATOR.integers(0, 2**bits, (13, 17, 1)).astype(kind)
    tags = {320: (3, table.ravel().tolist())}
    write_tiff(tmp_path / "x.tif", values, 3, {"bits": bits}, tags)
    check(tmp_path / "x.tif", table.T[values[..., 0]] / white)


def test_signed_and_wide_integers_are_never_taken_for_bytes(tmp_path):
    path = tmp_path / "x.tif"
    values = np.linspace(-1000, 3000, 12).reshape(3, 4, 1)
    write_tiff(path, values.astype(np.int16), 1)
    with pytest.raises(ValueError, match=r"x\.tif: values from -1000 to 3000 .*int16.*data\.range"):
        picturefiles.read_image(path)
    found = picturefiles.read_image(path, (-1000, 3000))
    np.testing.assert_allclose(found, (values.astype(np.int16) + 1000) / 4000, atol=1e-7)
    for kind in (np.uint32, np.int32):
        write_tiff(path, (values + 1000).astype(kind) * 60, 1)
        with pytest.raises(ValueError, match=r"to 240000 of type .*int32"):
            picturefiles.read_image(path)
        write_tiff(path, ((values + 1000) / 4000 * 200).astype(kind), 0)
        with pytest.warns(Notice, match="taken as from 0 to 255"):
            found = picturefiles.read_image(path)
        expected = 1 - ((values + 1000) / 4000 * 200).astype(int) / 255
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_first_whole_page_is_read(tmp_path):
    small, _ = stored(np.uint16, 1, (4, 5))
    whole, unit = stored(np.uint16, 1)
    path = tmp_path / "x.tif"
    for preview in (1, 4, 5):
        write_tiff(path, whole, 1, {"before": [(small, preview)]})
        check(path, unit)
        assert picturefiles.read_header(path).pages == 1
    # A picture with its reductions after it is one picture.
    write_tiff(path, small, 1, {"before": [(whole, 0)], "subfile": 1})
    check(path, unit)
    assert picturefiles.read_header(path).pages == 1
    write_tiff(path, small, 1, {"before": [(small, 1)], "subfile": 1})
    assert picturefiles.read_image(path).shape == (4, 5, 1)
    write_tiff(path, whole[::-1], 1, {"before": [(whole, 0), (whole[::-1], 0)]})
    check(path, unit)
    assert picturefiles.read_header(path).pages == 3


def test_the_whole_picture_may_be_below_its_preview(tmp_path):
    """As camera and scanner software writes it: the table of the page has a SubIFD."""
    tifffile = pytest.importorskip("tifffile")
    small, _ = stored(np.uint16, 3, (4, 5))
    whole, unit = stored(np.uint16, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(small, photometric="rgb", subifds=1, subfiletype=1)
        writer.write(whole, photometric="rgb")
    check(tmp_path / "x.tif", unit)


def test_pages_that_imagej_hides_are_counted(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = GENERATOR.integers(0, 65536, (7, 5, 6)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, imagej=True)
    check(tmp_path / "x.tif", values[0, ..., None] / 65535)
    assert picturefiles.read_header(tmp_path / "x.tif").pages == 7


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("tag", [273, 324], ids=["strip", "tile"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_pixels_that_are_cut_short_are_named(tmp_path, compression, tag, share):
    values, _ = stored(np.uint16, 3, (32, 16))
    path = tmp_path / "x.tif"
    layout = {"rows": 32} if tag == 273 else {"tile": (32, 16)}
    write_tiff(path, values, 2, {"compression": compression, **layout})
    content = bytearray(path.read_bytes())
    # The pixels are copied to the end, not all of them, and their place changed.
    entry = content.rindex(struct.pack("<HHI", tag, 4, 1))
    pixels = content[8 : 8 + int(share * (entry - 300))]
    content[entry + 8 : entry + 12] = struct.pack("<I", len(content))
    path.write_bytes(content + pixels)
    with pytest.raises(ValueError, match=r"x\.tif: cannot be read as an image"):
        picturefiles.read_image(path)
    path.write_bytes(content + content[8:entry])
    check(path, values / 65535)


def test_what_is_not_read_says_what_it_is(tmp_path):
    path = tmp_path / "x.tif"
    values, _ = stored(np.uint16, 3)
    write_tiff(path, values, 8)
    with pytest.raises(ValueError, match=r"x\.tif: holds .*allowed: gray, RGB, CMYK"):
        picturefiles.read_image(path)
    write_tiff(path, values[..., :1], 2)
    with pytest.raises(ValueError, match=r"x\.tif: has 1 samples of a pixel as red, green, blue"):
        picturefiles.read_header(path)


def test_windows_decode_no_more_than_they_need(tmp_path, monkeypatch):
    values, unit = stored(np.uint16, 3, (64, 80))
    counted = []
    segment = tiff._segment
    monkeypatch.setattr(tiff, "_segment", lambda *a: counted.append(a[1]) or segment(*a))
    for options in ({"tile": (16, 16)}, {"rows": 16}, {"tile": (16, 16), "planar": True}):
        for compression in (1, 5):
            counted.clear()
            write_tiff(tmp_path / "x.tif", values, 2, {"compression": compression, **options})
            found = picturefiles.read_window(tmp_path / "x.tif", (17, 20), (14, 30))
            np.testing.assert_allclose(found, unit[17:31, 20:50], atol=2e-7)
            wanted = {1: 3 if "tile" in options else 1, 3: 9}[3 if "planar" in options else 1]
            assert len(set(counted)) == len(counted) == wanted


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_lowest_bit_first(tmp_path, kind):
    values, unit = stored(kind, 1)
    turned = np.packbits(
        np.unpackbits(values.view(np.uint8)[..., None], axis=-1)[..., ::-1], axis=-1
    )
    write_tiff(tmp_path / "x.tif", turned[..., 0].view(kind), 1, {}, {266: (3, [2])})
    check(tmp_path / "x.tif", unit)


@pytest.mark.parametrize("compression", [1, 32773])
def test_a_predictor_left_over_means_nothing(tmp_path, compression):
    values, unit = stored(np.uint8, 3)
    write_tiff(tmp_path / "x.tif", values, 2, {"compression": compression}, {317: (3, [2])})
    check(tmp_path / "x.tif", unit)
