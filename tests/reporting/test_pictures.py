"""Pictures hold the pixels they should."""

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


def test_palettes_are_those_of_matplotlib():
    from matplotlib import colormaps

    for name, known in (("heat", "magma"), ("balance", "RdBu_r")):
        expected = colormaps[known](np.linspace(0, 1, 256))[:, :3] * 255
        assert np.abs(pictures.palette(name) - expected).max() < 10


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
