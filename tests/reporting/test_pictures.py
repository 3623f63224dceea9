"""Pictures hold the pixels they should; charts are well-formed and free of the outside."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nid_jax.reporting import pictures


def _images(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(value=st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_bytes_are_the_nearest(value):
    pixel = int(pictures.to_uint8(np.float32(value)))
    if np.isnan(value):
        assert pixel == 0
    else:
        assert abs(pixel / 255 - min(max(value, 0), 1)) <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (5, "L")])
def test_png_round_trip(tmp_path, channels, mode):
    image = _images((7, 11, channels), channels)
    path = pictures.save_png(tmp_path / "new" / "a.png", image)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == mode
        expected = image if channels == 3 else image[..., 0]
        np.testing.assert_array_equal(np.asarray(picture), np.round(expected * 255))
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(4, 4, 4, 3\)"):
        pictures.save_png(tmp_path / "a.png", np.zeros((4, 4, 4, 3)))
    assert list(tmp_path.iterdir()) == []


def _find(sheet, tile):
    """Where `tile` lies in `sheet`, both [H, W, 3]; None where it does not."""
    rows, columns = tile.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, columns))
    for y, x in np.argwhere((windows[:, :, 0] == tile[0, :, 0]).all(-1)):
        if np.array_equal(sheet[y : y + rows, x : x + columns], tile):
            return int(y), int(x)
    return None


@pytest.mark.parametrize("shape", [(3, 25, 25, 1), (2, 20, 36, 3), (1, 40, 9, 2)])
def test_a_sheet_shows_truth_over_reconstruction_over_error(tmp_path, shape):
    truth, reconstruction = _images(shape, 1), _images(shape, 2)
    path = pictures.comparison_sheet(
        tmp_path / "c.png", truth, reconstruction, names=["a", "b"], error_scale=0.5
    )
    sheet = np.asarray(Image.open(path))
    factor = -(-128 // max(shape[1:3]))
    error = np.abs(truth - reconstruction).mean(-1)
    heat = pictures._colour_table("magma")[pictures.to_uint8(error / 0.5)]
    for index in range(shape[0]):
        found = []
        for image in (truth[index], reconstruction[index], heat[index]):
            pixels = image
            if image.dtype != np.uint8:
                pixels = pictures.to_uint8(pictures.displayed(image))
            if pixels.ndim == 2:
                pixels = np.repeat(pixels[..., None], 3, -1)
            found.append(_find(sheet, pixels.repeat(factor, 0).repeat(factor, 1)))
        assert None not in found
        assert found[0][0] < found[1][0] < found[2][0]
        assert len({x for _, x in found}) == 1


def test_a_sheet_is_cut_to_count_and_large_images_are_reduced(tmp_path):
    images = _images((5, 600, 300, 1))
    wide = Image.open(pictures.comparison_sheet(tmp_path / "a.png", images, images))
    narrow = Image.open(pictures.comparison_sheet(tmp_path / "b.png", images, images, count=2))
    assert narrow.width < wide.width < 5 * 300
    assert narrow.height == wide.height < 3 * 300


@pytest.mark.parametrize(("largest", "scale"), [(0.004, 0.01), (0.15, 0.2), (0.7, 1.0), (9, 1.0)])
def test_the_error_scale_is_a_round_number_above_most_errors(largest, scale):
    assert pictures._error_scale(np.linspace(0, largest, 1000)) == scale


def test_the_psnr_below_a_picture():
    truth, prediction = np.full((4, 4, 1), 0.5), np.full((4, 4, 1), 0.6)
    assert pictures._psnr(prediction, truth) == pytest.approx(20)
    assert pictures._psnr(truth, truth) == np.inf


def test_sheets_of_unequal_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 1\) and \(1, 4, 5, 1\)"):
        pictures.comparison_sheet(
            tmp_path / "a.png", np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 5, 1))
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_atoms_are_symmetric_about_zero_whatever_their_size(tmp_path, channels):
    atom = np.zeros((1, 8, 16, channels), np.float32)
    atom[:, :4] = -1e-3
    atom[:, 4:, :8] = 5e-4
    sheets = [
        np.asarray(Image.open(pictures.atoms_sheet(tmp_path / f"{size}.png", size * atom)))
        for size in (1, 1000)
    ]
    np.testing.assert_array_equal(*sheets)
    left, top, factor = pictures.GAP, pictures.GAP, 8
    zero = sheets[0][top + 6 * factor, left + 12 * factor]
    negative = sheets[0][top + factor, left + factor].astype(int)
    positive = sheets[0][top + 6 * factor, left + factor].astype(int)
    if channels == 1:
        assert zero.min() > 240  # white
        assert negative[2] > negative[0]  # blue
        assert positive[0] > positive[2]  # red
    else:
        np.testing.assert_array_equal(zero, 128)
        np.testing.assert_array_equal(negative, 0)
        np.testing.assert_array_equal(positive, 191)


def test_an_atom_of_zeros_and_captions_do_no_harm(tmp_path):
    path = pictures.atoms_sheet(
        tmp_path / "a.png",
        np.zeros((11, 5, 3, 2)),
        usage=np.linspace(1, 0, 11),
        experts=range(11),
        columns=4,
    )
    picture = Image.open(path)
    assert picture.height > 3 * 128


def _parsed(svg):
    return ElementTree.fromstring(svg)


def test_curves_are_svg_of_the_points_given():
    svg = pictures.curves_svg({"a$b$c": ([0, 10, 20], [1.0, None, 100.0])}, title="<T>", log=True)
    texts = " ".join(_parsed(svg).itertext())
    assert "<T>" in texts
    assert svg == pictures.curves_svg(
        {"a$b$c": ([0, 10, 20], [1.0, np.nan, 100.0])}, title="<T>", log=True
    )
    assert "metadata" not in svg
    assert not re.search(r'(href|src)="http', svg)
    two = pictures.curves_svg({"a$b$c": ([0], [1.0]), "d": ([0], [-1.0])}, title="two", log=True)
    assert "a$b$c" in " ".join(_parsed(two).itertext())


def test_ids_differ_between_charts_and_all_references_are_kept():
    charts = [
        pictures.curves_svg({"a": (range(5), range(5))}, title="One"),
        pictures.bars_svg(np.arange(1000) / 1000, title="Two"),
        pictures.histogram_svg([1.0, 2.0, None, 2.5, np.inf], title="Three", bins=3),
    ]
    seen = set()
    for chart in charts:
        ids = re.findall(r'\bid="([^"]*)"', chart)
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        seen |= set(ids)
        references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', chart)
        assert references
        assert {a or b for a, b in references} <= set(ids)
        assert len(chart) < 100_000  # a thousand bars are one outline, not elements each


@pytest.mark.parametrize(
    "draw",
    [
        lambda: pictures.curves_svg({}),
        lambda: pictures.bars_svg([]),
        lambda: pictures.histogram_svg([None]),
    ],
)
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match=r"no |n > 0"):
        draw()
