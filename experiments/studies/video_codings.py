"""Rank and mask of videos as people have them: a moving disc, coded with loss or with noise."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from skimage import data as pictures

from nid_jax import LowRank, ffmpeg
from nid_jax.coding.operators import sample
from nid_jax.data.video_files import read_frames
from nid_jax.tasks import video

# Name -> (suffix, options of ffmpeg): qualities 3, 5 and 8 of imageio, of 10.
CODINGS = {
    **{
        f"H.264, quality {quality}": (".mp4", ("-c:v", "libx264", "-crf", str(rate)))
        for quality, rate in ((3, 35), (5, 25), (8, 10))
    },
    **{
        f"MJPEG, quality {quality}": (".avi", ("-c:v", "mjpeg", "-q:v", str(scale)))
        for quality, scale in ((3, 22), (5, 16), (8, 7))
    },
}
NOISES = (0.0, 0.01, 0.02, 0.03, 0.05)
# Of the start: more than is ever found.
START_RANK = 12
COLUMNS = {
    "video": lambda row: row["video"],
    "rank": lambda row: row["rank"],
    "noise": lambda row: f"{row['noise']:.4f}",
    "threshold": lambda row: f"{row['threshold']:.3f}",
    "precision": lambda row: f"{row['precision']:.3f}",
    "recall": lambda row: f"{row['recall']:.3f}",
    "F": lambda row: f"{row['f_measure']:.3f}",
}


class Scene(NamedTuple):
    """frames [T, H, W, 3] in [0, 1], and where the disc is, bool [T, H, W]."""

    frames: np.ndarray
    moving: np.ndarray


def disc(count=50):
    """A still picture under a slow light, and a red disc that crosses it."""
    still = pictures.coffee()[100:196, 100:228].astype(np.float32)
    rows, columns = np.mgrid[: still.shape[0], : still.shape[1]]
    times = np.arange(count)
    frames = still * (0.9 + 0.1 * np.sin(times / 12))[:, None, None, None]
    centres = 8 + 2.3 * times[:, None, None]
    moving = (rows - 40) ** 2 + (columns - centres) ** 2 < 100
    frames[moving] = (200, 30, 30)
    return Scene(frames.astype(np.float32) / 255, moving)


def coded_file(path, frames, options):
    """Write frames [T, H, W, 3] in [0, 1] as a film, with options of ffmpeg."""
    rows, columns = frames.shape[1:3]
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{columns}x{rows}", "-r", "10", "-i", "-")
    colour = ("-pix_fmt", "yuvj420p" if path.suffix == ".avi" else "yuv420p")
    command = [ffmpeg.program(), "-loglevel", "error", *raw, *options, *colour, str(path)]
    pixels = (np.clip(frames, 0, 1) * 255).astype(np.uint8)
    subprocess.run(command, input=pixels.tobytes(), check=True)


def coded(frames, suffix, options):
    """The frames as they come back from a coding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"disc{suffix}"
        coded_file(path, frames, options)
        return np.stack([frame.colours for frame in read_frames(path)]) / np.float32(255)


def videos(frames):
    """Name -> the frames, coded or with noise; one by one."""
    for name, (suffix, options) in CODINGS.items():
        yield name, coded(frames, suffix, options)
    generator = np.random.default_rng(1)
    for noise in NOISES:
        added = noise * generator.standard_normal(frames.shape)
        yield f"noise {noise:g}", (frames + added).astype(np.float32)


def scored(frames, moving, steps) -> dict[str, Any]:
    """Rank, noise, threshold and score of the mask, all chosen automatically."""
    rows, grid = frames.reshape(len(frames), -1), frames.shape[1:3]
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    start = (left[:, :START_RANK] * values[:START_RANK]) @ right[:START_RANK]
    cube = (len(frames), -1, frames.shape[-1])
    refinement = LowRank(steps=steps)
    found = refinement.refine(sample(grid), grid, start.reshape(cube), frames.reshape(cube))
    background = np.asarray(found).reshape(frames.shape)
    mask = video.moving_mask(frames - np.clip(background, 0, 1))
    numbers = {
        "rank": video.numerical_rank(background.reshape(rows.shape)),
        "noise": mask.noise,
        "threshold": mask.threshold,
        **video.mask_score(mask.mask, moving),
    }
    return {name: float(value) if name != "rank" else value for name, value in numbers.items()}


def study(steps=20):
    """Rows of all codings and noises, as they are found."""
    scene = disc()
    for name, frames in videos(scene.frames):
        yield {"video": name, **scored(frames, scene.moving, steps)}
