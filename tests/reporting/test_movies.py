"""Movies: what is written can be read again; panels stand where they should; what is refused."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from nid_jax.reporting.movies import side_by_side, write_movie


def random_frames(count=5, size=(12, 16), channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels), np.uint8)


def read_gif(path):
    with Image.open(path) as picture:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
        return np.stack(frames), picture.info["duration"]


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "float", "bool"])
def test_gray_gifs_keep_their_values(tmp_path, kind):
    frames = random_frames(channels=1)
    given = {"uint8": frames, "float": frames / 255.0, "bool": frames > 127}[kind]
    expected = 255 * given.astype(np.uint8) if kind == "bool" else frames
    written, duration = read_gif(write_movie(tmp_path / "deep" / "m.gif", given, fps=8))
    np.testing.assert_array_equal(written, np.repeat(expected, 3, axis=-1))
    assert duration == 120  # 125 ms in hundredths of a second, to the even one
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.gif"]


def test_colour_gifs_keep_up_to_256_colours(tmp_path):
    colours = random_frames(1, (1, 50))[0, 0]
    frames = colours[np.random.default_rng(1).integers(0, 50, (4, 12, 16))]
    written, _ = read_gif(write_movie(tmp_path / "m.gif", frames))
    np.testing.assert_array_equal(written, frames)


@pytest.mark.parametrize("size", [(33, 48), (32, 47), (31, 45)])
def test_mp4_pads_to_even_sides(tmp_path, size):
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v3

    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    frames = np.stack([np.stack([rows, columns, 0 * rows + t / 10], -1) for t in range(9)])
    path = write_movie(tmp_path / "m.mp4", frames, fps=12.5)
    written = np.stack(list(imageio.v3.imiter(path, plugin="FFMPEG"))) / 255.0
    padding = [(0, side % 2) for side in size]
    expected = np.pad(frames, ((0, 0), *padding, (0, 0)), mode="edge")
    assert written.shape == expected.shape
    assert np.abs(written - expected).mean() < 0.015
    assert imageio.v3.immeta(path, plugin="FFMPEG")["fps"] == 12.5


def test_gray_mp4(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v3

    frames = np.broadcast_to(np.linspace(0.1, 0.9, 4)[:, None, None, None], (4, 16, 16, 1))
    path = write_movie(tmp_path / "m.mp4", frames)
    written = np.stack(list(imageio.v3.imiter(path, plugin="FFMPEG"))) / 255.0
    np.testing.assert_allclose(written, np.repeat(frames, 3, -1), atol=0.03)


@pytest.mark.parametrize(
    ("name", "frames", "fps", "complaint"),
    [
        ("m.avi", random_frames(), 10, r"m\.avi: a movie is written as \.mp4 or \.gif"),
        ("m.gif", random_frames(), 0, r"fps=0: must be above 0"),
        ("m.gif", random_frames(), float("nan"), r"fps=nan: must be above 0"),
        ("m.gif", random_frames(channels=2), 10, r"\[5, 12, 16, 2\]; expected \[T, H, W, C\]"),
        ("m.gif", random_frames()[:0], 10, r"frames of shape \[0, 12, 16, 3\]"),
    ],
)
def test_bad_movies(tmp_path, name, frames, fps, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_movie(tmp_path / name, frames, fps)
    assert not list(tmp_path.iterdir())


def test_mp4_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"m\.mp4: .*pip install 'imageio\[ffmpeg\]', or write"):
        write_movie(tmp_path / "m.mp4", random_frames())
    assert write_movie(tmp_path / "m.gif", random_frames()).exists()


# ---- side by side -----------------------------------------------------------------------------


def test_panels_stand_side_by_side():
    colour, gray = random_frames(3, (4, 6)), random_frames(3, (4, 6), channels=1) / 255.0
    mask = random_frames(3, (4, 6), channels=1)[..., 0] > 127
    sheet = side_by_side([colour, gray, mask], gap=5, factor=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3, 8, 3 * 12 + 2 * 5, 3)
    expected = (colour, np.repeat(np.round(gray * 255), 3, -1), np.stack([255 * mask] * 3, -1))
    for number, panel in enumerate(expected):
        left = number * 17
        for row in range(2):
            for column in range(2):
                shown = sheet[:, row::2, left + column : left + 12 : 2]
                np.testing.assert_array_equal(shown, panel)
    assert (sheet[:, :, 12:17] == 255).all()


def test_small_frames_are_enlarged_and_labelled():
    clips = [random_frames(2, (20, 30)), random_frames(2, (20, 30), seed=1)]
    plain = side_by_side(clips)
    assert plain.shape == (2, 160, 2 * 240 + 8, 3)
    labelled = side_by_side(clips, ["one", "a much longer name than there is room for, by far"])
    height = labelled.shape[1] - 160
    np.testing.assert_array_equal(labelled[:, height:], plain)
    strip = labelled[0, :height]
    assert (strip[:, :240] < 128).any()
    assert (strip[:, 248:] < 128).any()
    assert (strip[:, 240:248] == 255).all()
    assert side_by_side([random_frames(1, (300, 200))]).shape == (1, 300, 200, 3)


def test_panels_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"\(5, 12, 16\), \(6, 12, 16\).* the same \[T, H, W\]"):
        side_by_side([random_frames(5), random_frames(6)])
    with pytest.raises(ValueError, match="1 labels for 2 clips"):
        side_by_side([random_frames(), random_frames()], ["a"])
    with pytest.raises(ValueError, match="all need the same"):
        side_by_side([])
