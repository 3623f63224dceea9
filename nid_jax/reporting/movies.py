"""Movies: frames written as MP4 or GIF, and several of them side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nid_jax import ffmpeg
from nid_jax.files import atomic_path
from nid_jax.reporting.pictures import GAP, INK, PAPER, TEXT, to_uint8

SUFFIXES = (".mp4", ".gif")
FRAME_RATE = 10.0
"""Frames a second of a movie where no other is known."""
SHOWN = 240  # the longer side of a panel, at least, in pixels
# GIF counts hundredths of a second, and viewers slow down what is shorter than two of them.
GIF_SHORTEST = 20


def write_movie(path: str | Path, frames: Any, fps: float = FRAME_RATE) -> Path:
    """Write frames [T, H, W, C] as .mp4 (H.264 by ffmpeg) or .gif (Pillow), whole or not at all.

    frames: C = 1 or 3, floats in [0, 1] (clipped, NaN black), uint8 or bool; fps: frames a second.
    MP4 is lossy and needs even sides: an odd one gets its last row or column twice. A gray GIF
    keeps its values, a colour GIF gets the 256 colours nearest; its frame times are rounded to
    hundredths of a second, 0.02 at least, and equal frames in a row are stored as one longer one.
    Raises ValueError naming what is wrong with the path, the frames or fps, or a missing ffmpeg.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a movie is written as {' or '.join(SUFFIXES)}")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"{path}: fps={fps}: must be above 0")
    pixels = _pixels(frames, str(path))
    if path.suffix.lower() == ".gif":
        with atomic_path(path) as temporary:
            _write_gif(temporary, pixels, fps)
    else:
        _require_ffmpeg(path)
        with atomic_path(path) as temporary:
            _write_mp4(temporary, pixels, fps)
    return path


def side_by_side(
    clips: Sequence[Any], labels: Sequence[str] = (), gap: int = GAP, factor: int = 0
) -> np.ndarray:
    """Clips of one length beside one another -> uint8 [T, H', W', 3], a label above each.

    clips: arrays [T, H, W, C] or [T, H, W] (masks), C = 1 or 3, all of one T, H and W; gap: white
    pixels between them; factor: how often each pixel is repeated along rows and columns, 0 for as
    often as makes the longer side at least 240.
    Raises ValueError for clips that do not fit together, and other than one label for each.
    """
    panels = [_pixels(clip, f"clip {number}") for number, clip in enumerate(clips)]
    shapes = sorted({panel.shape[:3] for panel in panels})
    if len(shapes) != 1:
        raise ValueError(f"clips of shapes {shapes}: side by side, all need the same [T, H, W]")
    if labels and len(labels) != len(panels):
        raise ValueError(f"{len(labels)} labels for {len(panels)} clips")
    factor = factor or max(1, math.ceil(SHOWN / max(shapes[0][1:])))
    columns = []
    for number, panel in enumerate(panels):
        panel = np.repeat(np.repeat(_colour(panel), factor, axis=1), factor, axis=2)
        if labels:
            strip = _label(labels[number], panel.shape[2])
            strip = np.broadcast_to(strip, (len(panel), *strip.shape))
            panel = np.concatenate([strip, panel], axis=1)
        if number:
            columns.append(np.full((*panel.shape[:2], gap, 3), 255, np.uint8))
        columns.append(panel)
    return np.concatenate(columns, axis=2)


def _pixels(frames: Any, where: str) -> np.ndarray:
    """uint8 [T, H, W, 1 or 3]."""
    frames = np.asarray(frames)
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.ndim != 4 or 0 in frames.shape or frames.shape[-1] not in (1, 3):
        raise ValueError(
            f"{where}: frames of shape {list(frames.shape)}; expected [T, H, W, C] with C 1 or 3"
        )
    return frames if frames.dtype == np.uint8 else to_uint8(frames)


def _colour(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _label(text: str, width: int) -> np.ndarray:
    """A strip [TEXT + GAP, width, 3] with `text`, cut off where it is too long."""
    strip = Image.new("RGB", (width, TEXT + GAP), PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((2, GAP // 4), text, fill=INK, font=ImageFont.load_default(TEXT))
    return np.asarray(strip)


def _write_gif(path: Path, pixels: np.ndarray, fps: float) -> None:
    pictures = [Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels]
    duration = max(GIF_SHORTEST, 10 * round(100 / fps))
    pictures[0].save(
        path, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0
    )


def _require_ffmpeg(path: Path) -> None:
    try:
        ffmpeg.program()
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"{path}: writing .mp4 needs ffmpeg: pip install 'imageio[ffmpeg]', or write .gif"
        ) from error


def _write_mp4(path: Path, pixels: np.ndarray, fps: float) -> None:
    odd = [side % 2 for side in pixels.shape[1:3]]
    pixels = np.pad(_colour(pixels), ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    ffmpeg.write(path, pixels, fps)
