"""Videos: folders in natural order, files, what is refused."""

import contextlib
import os
import subprocess
import sys
import warnings
import wave

import numpy as np
import pytest
import tifffile
from PIL import Image

from nid_jax import ffmpeg
from nid_jax.data import to_array, video_files
from nid_jax.data.video import frame_rate, open_video
from nid_jax.notices import Notice
from nid_jax.reporting.movies import write_movie


def random_frames(count, size=(10, 14), channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels), np.uint8)


def write_frames(folder, frames, names):
    folder.mkdir()
    for frame, name in zip(frames, names, strict=True):
        Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(folder / name)
    return folder


def smooth_frames(count, size):
    """Something that a lossy codec keeps: slow waves, [T, *size, 3] in [0, 1]."""
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    waves = [0.5 + 0.4 * np.sin(3 * rows + 2 * columns + 0.1 * t) for t in range(count)]
    return np.repeat(np.stack(waves)[..., None], 3, axis=-1)


# ---- folders ----------------------------------------------------------------------------------


def test_a_folder_comes_in_natural_order(tmp_path, video_config):
    frames = random_frames(4)
    names = ["frame10.png", "frame2.png", "frame1.png", "frame02.png"]
    folder = write_frames(tmp_path / "f", frames, names)
    video = open_video(video_config(root=folder), "train", 0)
    assert video.names == ["frame1.png", "frame02.png", "frame2.png", "frame10.png"]
    np.testing.assert_allclose(to_array(video), frames[[2, 3, 1, 0]] / 255.0, atol=1e-7)
    np.testing.assert_array_equal(
        to_array(video), to_array(open_video(video_config(root=folder), "test", 5))
    )


def test_start_stop_and_step(tmp_path, video_config):
    folder = write_frames(tmp_path / "f", random_frames(9), [f"{n}.png" for n in range(9)])
    chosen = open_video(
        video_config(root=folder, video={"start": 1, "stop": 8, "step": 3}), "train", 0
    )
    assert chosen.names == ["1.png", "4.png", "7.png"]
    path = write_movie(tmp_path / "m.gif", random_frames(9, channels=1))
    chosen = open_video(video_config(root=path, video={"start": 3, "step": 4}), "train", 0)
    assert chosen.names == ["frame_00003", "frame_00007"]


@pytest.mark.parametrize(
    ("video", "complaint"),
    [
        ({"start": -1}, r"data\.video\.start=-1: must be 0 or more"),
        ({"step": 0}, r"data\.video\.step=0: must be 1 or more"),
        ({"start": 3, "stop": 3}, r"data\.video\.stop=3: must be above data\.video\.start=3"),
        ({"start": 5}, r"data\.video\.start=5: .* has only 5 frames"),
        ({"stop": 6}, r"data\.video\.stop=6: .* has only 5 frames; 0 takes all"),
        ({"step": 5}, r"a video needs at least 2 frames, found 1"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_bad_ranges(tmp_path, video_config, kind, video, complaint):
    frames = random_frames(5)
    if kind == "file":
        root = write_movie(tmp_path / "m.gif", frames)
    else:
        root = write_frames(tmp_path / "f", frames, [f"{n}.png" for n in range(5)])
    with pytest.raises(ValueError, match=complaint) as caught:
        open_video(video_config(root=root, video=video), "train", 0)
    assert "\n" not in str(caught.value)


def test_one_frame_is_no_video(tmp_path, video_config):
    folder = write_frames(tmp_path / "f", random_frames(1), ["a.png"])
    with pytest.raises(ValueError, match=r"/f: a video needs at least 2 frames, found 1"):
        open_video(video_config(root=folder), "train", 0)


def test_frames_of_unequal_size(tmp_path, video_config):
    folder = write_frames(tmp_path / "f", random_frames(3), ["1.png", "2.png", "10.png"])
    Image.fromarray(random_frames(1, (9, 14))[0]).save(folder / "2.png")
    with pytest.raises(
        ValueError, match=r"2\.png: is 9x14 .*expected 10x14; set data\.resize=true"
    ):
        open_video(video_config(root=folder), "train", 0)
    assert to_array(open_video(video_config(root=folder, resize=True), "train", 0)).shape == (
        3,
        10,
        14,
        3,
    )


def test_size_and_gray(tmp_path, video_config):
    frames = random_frames(3)
    path = write_movie(tmp_path / "m.gif", random_frames(3, channels=1))
    folder = write_frames(tmp_path / "f", frames, ["1.png", "2.png", "3.png"])
    for root in (path, folder):
        with pytest.raises(ValueError, match=r"is 10x14 .*expected 5x7"):
            open_video(video_config(root=root, size=(5, 7)), "train", 0)[0]
        video = open_video(video_config(root=root, size=(5, 7), resize=True, gray=True), "train", 0)
        assert video[1].shape == video.shape == (5, 7, 1)


# ---- files ------------------------------------------------------------------------------------


def test_gif_is_read_as_it_was_written(tmp_path, video_config):
    frames = random_frames(6, channels=1)
    path = write_movie(tmp_path / "m.gif", frames)
    video = open_video(video_config(root=path), "train", 0)
    assert video.names == [f"frame_{n:05d}" for n in range(6)]
    assert video.values.dtype == np.uint8
    np.testing.assert_allclose(to_array(video), np.repeat(frames, 3, -1) / 255.0, atol=1e-7)


def test_mp4_is_read_as_it_was_written(tmp_path, video_config):
    pytest.importorskip("imageio_ffmpeg")
    frames = smooth_frames(12, (32, 48))
    path = write_movie(tmp_path / "m.mp4", frames, fps=25)
    video = open_video(video_config(root=path), "train", 0)
    assert len(video) == 12
    assert video.shape == (32, 48, 3)
    error = np.abs(to_array(video) - frames)
    assert error.max() < 0.05
    assert error.mean() < 0.01
    # Each is nearest to its own frame: none is missing, twice or out of order.
    distance = np.abs(to_array(video)[:, None] - frames[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(12))
    some = open_video(video_config(root=path, video={"start": 2, "stop": 7, "step": 2}), "train", 0)
    np.testing.assert_array_equal(to_array(some), to_array(video)[2:7:2])


def damaged(path, whole):
    if path.stem == "text":
        path.write_bytes(b"no video at all" * 50)
    elif path.stem == "short":
        path.write_bytes(whole[: len(whole) // 2])
    elif path.stem == "spoiled":  # its table of contents is whole, its pictures are gone
        start, stop = (whole.index(part) for part in (b"mdat", b"moov"))
        path.write_bytes(whole[: start + 4] + bytes(stop - start - 8) + whole[stop - 4 :])
    elif path.stem == "empty":
        path.touch()
    else:
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(4000))


@pytest.mark.parametrize(
    "name", ["text.mp4", "short.mp4", "spoiled.mp4", "empty.mp4", "sound.wav", "text.gif"]
)
def test_unreadable_files(tmp_path, video_config, name):
    pytest.importorskip("imageio_ffmpeg")
    whole = write_movie(tmp_path / "m.mp4", smooth_frames(5, (32, 32))).read_bytes()
    damaged(tmp_path / name, whole)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read as a video") as caught:
        open_video(video_config(root=tmp_path / name), "train", 0)
    assert "\n" not in str(caught.value)


def test_what_is_no_video(tmp_path, video_config):
    with pytest.raises(ValueError, match=r"data\.root is empty"):
        open_video(video_config(), "train", 0)
    with pytest.raises(FileNotFoundError, match=r"data\.root='.*nowhere': does not exist"):
        open_video(video_config(root=tmp_path / "nowhere"), "train", 0)
    with pytest.raises(FileNotFoundError, match="holds no images"):
        open_video(video_config(root=tmp_path), "train", 0)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is neither a folder of frames nor a file"):
        open_video(video_config(root=tmp_path / "pipe"), "train", 0)


def test_missing_ffmpeg(tmp_path, video_config, monkeypatch):
    (tmp_path / "m.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"m\.mp4: .*pip install 'imageio\[ffmpeg\]'"):
        open_video(video_config(root=tmp_path / "m.mp4"), "train", 0)


def opened(video_config, root, **video):
    collection = open_video(video_config(root=root, video=video), "train", 0)
    return collection, to_array(collection)


def encoded(path, frames, *options, before=()):
    """A film that ffmpeg itself makes of frames [T, H, W, 3], with further options."""
    rows, columns = frames.shape[1:3]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{columns}x{rows}", "-r", "10", "-i", "-")
    command = [ffmpeg.program(), "-loglevel", "error", "-y", *before, *raw, *options, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def test_a_program_that_dies_after_some_frames_is_told_of(tmp_path, video_config, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    program = tmp_path / "ffmpeg"
    program.write_text(
        f"""#!{sys.executable}
import os, sys
print("[info] Stream #0:0: Video: h264", file=sys.stderr)
frame = b"P7\\nWIDTH 4\\nHEIGHT 3\\nDEPTH 4\\nMAXVAL 255\\nENDHDR\\n" + bytes([255] * 48)
sys.stdout.buffer.write(2 * frame)
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""
    )
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "program", lambda: str(program))
    (tmp_path / "film.mp4").touch()
    with pytest.warns(Notice, match="film.mp4: ffmpeg ended with status -9; frames may be missing"):
        frames = list(video_files.read_frames(tmp_path / "film.mp4"))
    assert len(frames) == 2


def test_frame_rates_are_those_of_the_file(tmp_path, video_config):
    pytest.importorskip("imageio_ffmpeg")
    write_movie(tmp_path / "a.mp4", random_frames(5), fps=12.5)
    write_movie(tmp_path / "a.gif", random_frames(4, channels=1), fps=4)
    np.save(tmp_path / "a.npy", random_frames(3))
    rates = {".mp4": 12.5, ".gif": 4.0, ".npy": 0.0}
    for suffix, rate in rates.items():
        config = video_config(name="video", root=str(tmp_path / f"a{suffix}"))
        assert frame_rate(config) == pytest.approx(rate)
    every_other = video_config(name="video", root=str(tmp_path / "a.mp4"), video={"step": 2})
    assert frame_rate(every_other) == pytest.approx(6.25)
    assert frame_rate(video_config(name="video", root=str(tmp_path))) == 0


def labelled(count, size=(32, 48)):
    """Plain frames, each brighter than the last: nothing that a codec could mistake."""
    levels = np.linspace(20, 230, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, *size, 3)).copy()


@pytest.mark.filterwarnings("error")
def test_frames_of_varying_duration_are_those_stored(tmp_path, video_config):
    frames = labelled(5)
    # From the third on every frame comes half a second later: at a constant rate that were 21.
    times = "setpts='if(lt(N,2),N,2+5*(N-2))/10/TB'"
    for name, codec in (("film.mp4", "libx264"), ("film.mkv", "ffv1")):
        options = ("-vf", times, "-fps_mode", "passthrough", "-c:v", codec)
        _, read = opened(video_config, encoded(tmp_path / name, frames, *options))
        np.testing.assert_allclose(read.mean((1, 2, 3)), frames.mean((1, 2, 3)) / 255, atol=0.01)
    # Distinct, or the writers of GIF and WebP would join them.
    pictures = [Image.fromarray(frame) for frame in random_frames(4)]
    for name in ("film.gif", "film.webp", "film.png", "film.apng"):
        options = {"save_all": True, "append_images": pictures[1:], "duration": [20, 500, 40, 90]}
        options |= {"lossless": True} if name.endswith("webp") else {}
        pictures[0].save(tmp_path / name, **options)
        collection, read = opened(video_config, tmp_path / name)
        assert len(collection) == 4
        if not name.endswith("gif"):
            np.testing.assert_array_equal(read, random_frames(4) / np.float32(255))


def test_a_film_turned_on_its_side_and_one_of_odd_sides(tmp_path, video_config):
    frames = labelled(3, (32, 48))
    frames[:, :16, :24] = 0  # the first quarter
    upright = encoded(tmp_path / "upright.mp4", frames, "-c:v", "libx264", "-crf", "1")
    turned = tmp_path / "turned.mp4"
    turn = ("-display_rotation", "90", "-i", str(upright), "-c", "copy", str(turned))
    subprocess.run([ffmpeg.program(), "-loglevel", "error", *turn], check=True)
    _, read = opened(video_config, turned)
    # A quarter turn against the clock, which is how rot90 turns rows and columns.
    expected = np.rot90(frames, axes=(1, 2)) / 255.0
    assert read.shape == (3, 48, 32, 3)
    assert np.abs(read - expected).mean() < 0.02
    odd = random_frames(3, (11, 13))
    _, read = opened(
        video_config, encoded(tmp_path / "odd.avi", odd, "-c:v", "ffv1", "-pix_fmt", "bgr0")
    )
    np.testing.assert_array_equal(read, odd / np.float32(255))


def test_what_is_transparent_lies_on_white(tmp_path, video_config):
    frames = random_frames(3, channels=4)
    frames[..., 3] = [[[0]], [[128]], [[255]]]
    share = frames[..., 3:] / 255
    expected = np.rint(frames[..., :3] * share + 255 * (1 - share)) / 255
    pictures = [Image.fromarray(frame) for frame in frames]
    saving = {"save_all": True, "append_images": pictures[1:]}
    pictures[0].save(tmp_path / "a.png", **saving)
    pictures[0].save(tmp_path / "a.webp", lossless=True, exact=True, **saving)
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="rgb", extrasamples=["unassalpha"])
    np.save(tmp_path / "a.npy", frames)
    film = ("-f", "rawvideo", "-pix_fmt", "rgba", "-s", "14x10", "-i", "-", "-c:v", "png")
    command = [ffmpeg.program(), "-loglevel", "error", *film, str(tmp_path / "a.mov")]
    subprocess.run(command, input=frames.tobytes(), check=True)
    for name in ("a.png", "a.webp", "a.tif", "a.npy", "a.mov"):
        said = rf"{name}: 2 of 3 frames are transparent in parts; laid on white"
        with pytest.warns(Notice, match=said):
            _, read = opened(video_config, tmp_path / name)
        np.testing.assert_allclose(read, expected, atol=1e-6, err_msg=name)


def test_sound_and_further_streams_are_counted(tmp_path, video_config):
    frames = labelled(4)
    sound = ("-f", "lavfi", "-i", "sine=duration=0.4")
    path = encoded(tmp_path / "loud.mp4", frames, "-map", "0:a", "-map", "1:v", before=sound)
    with pytest.warns(Notice, match=r"loud\.mp4: 1 audio, 1 video; the first stream of video"):
        _, read = opened(video_config, path)
    np.testing.assert_allclose(read.mean((1, 2, 3)), frames.mean((1, 2, 3)) / 255, atol=0.01)
    many = encoded(tmp_path / "many.mkv", frames, "-map", "0:v", "-map", "0:v", "-c:v", "ffv1")
    with pytest.warns(Notice, match=r"many\.mkv: 2 video; the first"):
        opened(video_config, many)


@pytest.mark.filterwarnings("error")
def test_stacks_are_videos(tmp_path, video_config):
    gray, colour = random_frames(5, channels=1)[..., 0], random_frames(5)
    wide = np.random.default_rng(1).integers(0, 2**16, (5, 10, 14), np.uint16)
    floats = (wide / 65535).astype(np.float32)
    cases = {
        "pages.tif": (gray, gray / 255, {"photometric": "minisblack"}),
        "white.tif": (gray, 1 - gray / 255, {"photometric": "miniswhite"}),
        "wide.tif": (wide, wide / 65535, {"photometric": "minisblack"}),
        "white16.tif": (wide, 1 - wide / 65535, {"photometric": "miniswhite"}),
        "floats.tif": (floats, floats, {"photometric": "minisblack"}),
        "colour.tif": (colour, colour / 255, {"photometric": "rgb"}),
        "times.tif": (wide, wide / 65535, {"imagej": True, "metadata": {"axes": "TYX"}}),
        "channels.tif": (
            *(colour.transpose(0, 3, 1, 2), colour / 255),
            {"imagej": True, "metadata": {"axes": "TCYX"}},
        ),
        "ome.ome.tif": (gray, gray / 255, {"metadata": {"axes": "TYX"}}),
    }
    for name, (stored, expected, options) in cases.items():
        tifffile.imwrite(tmp_path / name, stored, **options)
        collection, read = opened(video_config, tmp_path / name)
        expected = expected.reshape(5, 10, 14, -1)
        np.testing.assert_allclose(read, expected, atol=1e-6, err_msg=name)
        assert collection.names[4] == "frame_00004"
    some, _ = opened(video_config, tmp_path / "pages.tif", start=1, step=2)
    assert some.names == ["frame_00001", "frame_00003"]
    # Pages of a palette, written by Pillow.
    pages = [Image.fromarray(frame).quantize(7) for frame in colour]
    pages[0].save(tmp_path / "palette.tif", save_all=True, append_images=pages[1:])
    expected = np.stack([np.asarray(page.convert("RGB")) for page in pages]) / 255
    np.testing.assert_allclose(
        opened(video_config, tmp_path / "palette.tif")[1], expected, atol=1e-6
    )


def test_stacks_that_are_no_plain_videos(tmp_path, video_config):
    stack = random_frames(6, channels=1)[..., 0]
    both = {"imagej": True, "metadata": {"axes": "TZYX"}}
    tifffile.imwrite(tmp_path / "both.tif", stack.reshape(2, 3, 10, 14), **both)
    with pytest.raises(ValueError, match=r"both\.tif: a stack 2 x 3 x 10 x 14 with axes TZYX"):
        opened(video_config, tmp_path / "both.tif")
    depth = {"imagej": True, "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "depth.tif", stack, **depth)
    with pytest.warns(Notice, match=r"depth\.tif: 6 planes of depth \(axis Z\); taken as time"):
        assert len(opened(video_config, tmp_path / "depth.tif")[0]) == 6
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(stack, photometric="minisblack")
        writer.write(stack[:, :5], photometric="minisblack")
    with pytest.warns(Notice, match=r"two\.tif: 2 series of pictures; the first"):
        assert len(opened(video_config, tmp_path / "two.tif")[0]) == 6


@pytest.mark.filterwarnings("error")
def test_arrays_are_videos(tmp_path, video_config):
    frames = random_frames(4)
    np.save(tmp_path / "a.npy", frames)
    np.savez(tmp_path / "a.npz", whatever=frames[..., 0])
    np.testing.assert_array_equal(
        opened(video_config, tmp_path / "a.npy")[1], frames / np.float32(255)
    )
    read = opened(video_config, tmp_path / "a.npz")[1]
    np.testing.assert_array_equal(read, frames[..., :1] / np.float32(255))


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"a": np.zeros((3, 4, 5)), "b": np.zeros(2)}, r"holds the arrays \['a', 'b'\]; allowed"),
        ({"a": np.zeros((3, 3, 8, 9))}, r"frames of shape \[3, 3, 8, 9\]; allowed: \[T, H, W\]"),
        ({"a": np.full((3, 8, 9), -300.0)}, r"values from -300 to -300 of type float64; allowed"),
        ({"a": np.full((3, 8, 9), np.nan)}, r"frame 0: 72 of 72 values are NaN"),
    ],
)
def test_arrays_that_are_no_videos(tmp_path, video_config, arrays, complaint):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=complaint):
        opened(video_config, tmp_path / "a.npz")


def test_hidden_files_among_frames_are_passed_over(tmp_path, video_config):
    folder = write_frames(tmp_path / "f", random_frames(3), ["2.png", "10.png", "._2.png"])
    with pytest.warns(Notice, match=r"2 pictures; passed over: 1 hidden"):
        assert open_video(video_config(root=folder), "train", 0).names == ["2.png", "10.png"]


@pytest.mark.filterwarnings("error")
def test_ffmpeg_is_started_without_a_fork(tmp_path, video_config):
    """JAX warns where its threads are forked; here any fork is an error."""
    forked = []
    os.register_at_fork(before=lambda: forked.append(1))
    path = write_movie(tmp_path / "m.mp4", smooth_frames(3, (16, 16)))
    assert len(opened(video_config, path)[0]) == 3
    assert not forked
    # That a fork would have been seen, of which JAX warns where it has been loaded:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subprocess.run(["true"], check=True, preexec_fn=os.getpid)
    assert forked


@pytest.mark.parametrize(
    ("low", "high", "asked"), [(0, 255, ()), (-1, 1, ()), (0, 1000, (0, 1000))]
)
def test_arrays_of_another_range_are_scaled(tmp_path, video_config, low, high, asked):
    unit = np.random.default_rng(0).random((3, 6, 7)).astype(np.float32)
    unit.flat[:2] = 0, 1
    np.save(tmp_path / "a.npy", unit * (high - low) + low)
    settings = video_config(name="video", root=tmp_path / "a.npy", range=asked)
    said = contextlib.nullcontext() if asked else pytest.warns(Notice, match="taken as from")
    with said:
        frames = open_video(settings, "train", 0)
    np.testing.assert_allclose(to_array(frames)[..., 0], unit, atol=1e-6)


def ramps(count=3):
    return np.stack([np.tile(np.linspace(0.1, 0.9, 14), (10, 1))] * count)


def test_stacks_are_read_as_pictures_are(tmp_path, video_config):
    unit = ramps()
    path = tmp_path / "x.tif"
    inks = np.zeros((3, 10, 14, 4), np.uint8)
    inks[..., :3] = np.rint(255 * (1 - unit))[..., None]
    tifffile.imwrite(path, inks, photometric="separated")
    np.testing.assert_allclose(opened(video_config, path)[1][..., 0], unit, atol=3e-3)
    half = np.full((3, 10, 14, 4), 128, np.uint8)
    half[..., :3] = np.rint(128 * unit)[..., None]
    tifffile.imwrite(path, half, photometric="rgb", extrasamples=["assocalpha"])
    expected = unit * 128 / 255 + 127 / 255
    np.testing.assert_allclose(opened(video_config, path)[1][..., 0], expected, atol=4e-3)
    deep = np.rint(65535 * unit).astype(np.uint16)
    tifffile.imwrite(*(path, deep), photometric="minisblack", extratags=[(274, "H", 1, 6, True)])
    upright = np.stack([np.rot90(frame, -1) for frame in unit])
    np.testing.assert_allclose(opened(video_config, path)[1][..., 0], upright, atol=1e-5)
    first, *rest = [Image.fromarray(frame) for frame in deep]
    first.save(path, compression="tiff_lzw", save_all=True, append_images=rest)
    np.testing.assert_allclose(opened(video_config, path)[1][..., 0], unit, atol=1e-5)
    white = (255 - 255 * unit).astype(np.float32)
    tifffile.imwrite(path, white, photometric="miniswhite")
    with pytest.warns(Notice, match=r"taken as from 0 to 255"):
        np.testing.assert_allclose(opened(video_config, path)[1][..., 0], unit, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_of_a_microscope_are_no_transparency(tmp_path, video_config, channels):
    stack = np.zeros((3, channels, 10, 14), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(ValueError, match=rf"x\.tif: frames of {channels} channels \(axis C\)"):
        opened(video_config, tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["i2", "i8", "f4"])
def test_arrays_with_alpha_of_every_type(tmp_path, video_config, kind):
    unit = ramps()
    frames = np.full((3, 10, 14, 4), 255.0)
    frames[..., :3] = np.rint(255 * unit)[..., None]
    frames[:, 0, :, 3] = 0
    np.save(tmp_path / "x.npy", frames.astype(kind))
    with pytest.warns(Notice, match=r"taken as from 0 to 255"):
        _, read = opened(video_config, tmp_path / "x.npy")
    np.testing.assert_allclose(read[:, 1:, :, 0], unit[:, 1:], atol=3e-3)
    np.testing.assert_array_equal(read[:, 0], 1)


def test_an_array_of_words(tmp_path, video_config):
    np.save(tmp_path / "x.npy", np.full((3, 4, 5), "a"))
    with pytest.raises(ValueError, match=r"x\.npy: values of type <U1; allowed: real numbers"):
        opened(video_config, tmp_path / "x.npy")


@pytest.mark.filterwarnings("error")
def test_what_moves_in_colours_alone_is_said(tmp_path, video_config):
    frames = np.full((8, 20, 30, 3), 0.4)
    for number, frame in enumerate(frames):
        frame[5:12, 3 * number : 3 * number + 5] = (0.4 + 0.4, 0.4 - 0.4 * 0.299 / 0.587, 0.4)
    np.save(tmp_path / "x.npy", frames)
    said = open_video(video_config(root=tmp_path / "x.npy"), "train", 0)
    assert said.shape == (20, 30, 3)
    with pytest.warns(Notice, match=r"100% of what moves differs in colour and hardly in gray"):
        open_video(video_config(root=tmp_path / "x.npy", gray=True), "train", 0)
    frames[:] = frames[..., :1]
    np.save(tmp_path / "x.npy", frames)
    open_video(video_config(root=tmp_path / "x.npy", gray=True), "train", 0)
