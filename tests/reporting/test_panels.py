"""Panels hold the pixels they should, in their colours, and scores say their units."""

import math

import numpy as np
import pytest
from PIL import Image

from nid_jax.reporting import panels, pictures
from nid_jax.reporting.panels import Panel, Score


def images(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


def find(sheet, tile):
    """Where `tile` lies in `sheet`, both [H, W, 3]; None where it does not."""
    rows, columns = tile.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, columns))
    for y, x in np.argwhere((windows[:, :, 0] == tile[0, :, 0]).all(-1)):
        if np.array_equal(sheet[y : y + rows, x : x + columns], tile):
            return int(y), int(x)
    return None


@pytest.mark.parametrize("shape", [(3, 25, 25, 1), (2, 20, 36, 3), (1, 40, 9, 2)])
def test_a_sheet_shows_its_panels_below_one_another(tmp_path, shape):
    first, second = images(shape, 1), images(shape, 2)
    rows = [Panel("one", first), Panel("two", second, captions=["c"] * shape[0])]
    rows.append(Panel("three", np.abs(first - second), high=0.5, palette="heat"))
    path = panels.write_sheet(tmp_path / "c.png", rows, ["a", "b"])
    sheet = np.asarray(Image.open(path))
    factor = -(-128 // max(shape[1:3]))
    for index in range(shape[0]):
        found = [
            find(sheet, row.painted(index).repeat(factor, 0).repeat(factor, 1)) for row in rows
        ]
        assert None not in found
        assert found[0][0] < found[1][0] < found[2][0]
        assert len({x for _, x in found}) == 1


def test_panels_of_other_sizes_share_the_columns(tmp_path):
    rows = [
        Panel("wide", images((2, 8, 64, 1)), square=False),
        Panel("square", images((2, 32, 32, 1))),
    ]
    sheet = np.asarray(Image.open(panels.write_sheet(tmp_path / "a.png", rows, ["a", "b"])))
    # Eight rows of twice 64 pixels are drawn twelve times as high.
    assert find(sheet, rows[0].painted(1).repeat(12, 0).repeat(2, 1)) is not None
    assert find(sheet, rows[1].painted(1).repeat(4, 0).repeat(4, 1)) is not None
    large = images((5, 600, 300, 1))
    wide = Image.open(panels.write_sheet(tmp_path / "b.png", [Panel("a", large)], []))
    assert wide.width < 5 * 300
    assert wide.height < 600


def test_colours_of_values():
    image = np.array([[[0.2], [0.6], [1.4], [np.nan]]])
    gray = Panel("a", [image], 0.2, 1.0).painted(0)
    np.testing.assert_array_equal(gray[0, :3, 0], [0, 128, 255])
    np.testing.assert_array_equal(gray[0, 3], panels.MISSING)
    heat = Panel("a", [image], 0.2, 1.0, "heat").painted(0)
    np.testing.assert_array_equal(heat[0, [0, 2]], pictures.palette("heat")[[0, 255]])
    balance = Panel("a", [image - 0.6], -1, 1, "balance").painted(0)
    np.testing.assert_array_equal(balance[0, 1], pictures.palette("balance")[128])
    colour = images((1, 4, 5, 3))
    np.testing.assert_array_equal(Panel("a", colour).painted(0), np.round(255 * colour[0]))
    volume = images((1, 7, 4, 5, 1))
    np.testing.assert_array_equal(
        Panel("a", volume).painted(0)[..., 0], np.round(255 * volume[0, 3, ..., 0])
    )


def test_some_columns_of_a_panel():
    panel = Panel("a", images((3, 2, 2, 1)), captions=["x", "y", "z"])
    some = panel.of([2, 0])
    np.testing.assert_array_equal(some.images, panel.images[[2, 0]])
    assert some.captions == ["z", "x"]
    shared = Panel("a", images((1, 2, 2, 1)))
    assert shared.of([2]) is shared
    with pytest.raises(ValueError, match="panels"):
        panels.write_sheet("nowhere.png", [], [])


def test_scores_come_back_from_metrics_and_say_their_units():
    scores = [Score("psnr", "PSNR", "dB"), Score("left", "Left", "%"), Score("rank", "Rank")]
    metrics = {"psnr": 26.5, "left": 0.0123, "rank": None}
    metrics["scores"] = panels.described(scores, metrics)
    assert panels.scores_of(metrics) == scores[:2]
    assert panels.described(scores, {"psnr": math.nan}) == []
    assert [score.header for score in scores] == ["PSNR, dB", "Left", "Rank"]
    assert [s.text(metrics[s.key]) for s in scores] == ["26.50", "1.23%", "–"]
    for damaged in (None, 3, [3], [{"key": "a"}], [{"key": 1, "label": "b", "unit": ""}]):
        assert panels.scores_of({"scores": damaged}) == []
