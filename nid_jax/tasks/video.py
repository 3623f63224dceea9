"""Video: a background of low rank from codes, and what moves before it as the residual."""

import dataclasses
import functools
import importlib.util
import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.reporting.panels import Panel, Score
from nid_jax.tasks import image, showing
from nid_jax.tasks.task import Extras, Measured, Task

TIMES = ("codes", "coordinate")
MOVIES = ("mp4", "gif")
SCORES = (
    Score("rank", "Rank"),
    Score("explained", "Explained", "%"),
    Score("noise", "Noise"),
    Score("threshold", "Threshold"),
    Score("moving_share", "Moving", "%"),
    Score("precision", "Precision"),
    Score("recall", "Recall"),
    Score("f_measure", "F-measure"),
    *showing.SCORES,
)
# Frames of the sheet, spread over the video.
_SHOWN = 8
# Keys that choose or change frames of one split alone, and what they must be.
_WHOLE = {
    "num_train": 0,
    "num_test": 0,
    "augment.mirror": False,
    "augment.shifts": 0,
    "patch.size": 0,
}


def build(config: ConfigDict) -> Task:
    """The video task that a config describes. Raises ValueError naming a key that is wrong."""
    check(config)
    return dataclasses.replace(
        image.build(config),
        open=lambda split: open_frames(config, split),
        measure=measured,
        metrics=background_metrics,
        scores=SCORES,
        extras=functools.partial(separated, threshold=config.fit.threshold),
    )


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a config that describes no video."""
    if config.data.time not in TIMES:
        raise ValueError(f"data.time: {config.data.time!r}; allowed: {', '.join(TIMES)}")
    for key, wanted in _WHOLE.items():
        value = data.completed(config.data)
        for part in key.split("."):
            value = value[part]
        if value != wanted:
            raise ValueError(
                f"data.{key}: {value}, but a video is learned from and fitted as the same whole "
                f"frames; allowed: {wanted}"
            )
    if config.data.time == "coordinate" and config.fit.refine.kind == "atoms":
        raise ValueError(
            "fit.refine.kind: 'atoms' compares many signals, and data.time=coordinate makes all "
            "frames one; allowed here: none, grid"
        )
    if not (math.isfinite(config.fit.threshold) and config.fit.threshold >= 0):
        raise ValueError(f"fit.threshold: {config.fit.threshold}; allowed: 0 or more")
    for suffix in config.fit.movies:
        if suffix not in MOVIES:
            raise ValueError(f"fit.movies: {suffix!r}; allowed: {', '.join(MOVIES)}")
    # Known now, not after the training.
    if "mp4" in config.fit.movies and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ValueError(
            "fit.movies: 'mp4' needs ffmpeg: pip install 'imageio[ffmpeg]', or take ('gif',)"
        )


def open_frames(config: ConfigDict, split: str) -> data.Collection:
    """The frames, whichever the split: a background is that of its own video.

    With config.data.time='codes' every frame is a signal (row, col) with a code of its own; with
    'coordinate' all of them are one signal (time, row, col).
    """
    frames = data.open_collection(config.data, split, config.seed)
    return frames if config.data.time == "codes" else Volume(frames)


class Volume:
    """All frames of a collection as its one signal [T, H, W, C]."""

    def __init__(self, frames):
        self.frames = frames
        self.names, self.title = [frames.title], frames.title
        self.shape = (len(frames), *frames.shape)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if index not in (0, -1):
            raise IndexError(f"signal {index} of a collection of 1")
        return data.to_array(self.frames)


def frames_of(collection):
    """The collection of single frames behind what is fitted."""
    return collection.frames if isinstance(collection, Volume) else collection


def measured(collection: Any) -> Measured:
    """Every pixel. The truth is the background, where the clip knows it."""
    frames = frames_of(collection)

    def truth(index):
        if not hasattr(frames, "truth"):
            return None
        if frames is collection:
            return frames.truth(index)
        return np.stack([frames.truth(number) for number in range(len(frames))])

    return dataclasses.replace(image.sampled(collection), truth=truth)


def background_metrics(reconstruction, truth, measured=None):
    """PSNR and SSIM of the background, frame by frame."""
    del measured
    shape = reconstruction.shape[-3:]
    return image.image_metrics(reconstruction.reshape(-1, *shape), truth.reshape(-1, *shape))


def separated(collection, measured, fit, reconstruction, truth, threshold):
    """Background, foreground and mask of every frame; rank, and the mask's score if it is known.

    metrics: rank, moving_share (of all pixels of all frames, those in the mask).

    foreground is the residual, drawn about mid-gray; the mask is where any channel of it exceeds
    `threshold`.
    """
    frames = frames_of(collection)
    background = np.clip(reconstruction.reshape(-1, *frames.shape), 0, 1)
    count = len(background)
    pictures = np.stack([frames[index] for index in range(count)])
    residual = pictures - background
    mask = np.abs(residual).max(-1) > threshold
    scores = {
        "rank": numerical_rank(reconstruction.reshape(count, -1)),
        "moving_share": float(mask.mean()),
    }
    if hasattr(frames, "foreground"):
        moving = np.stack([frames.foreground(index) for index in range(count)])
        scores |= mask_score(mask, moving)
    shown = {
        "frame": pictures,
        "background": background,
        "foreground": np.clip(0.5 + 0.5 * residual, 0, 1),
        "mask": mask[..., None].astype(np.float32),
    }
    known = None if truth is None else truth.reshape(background.shape)
    panels, columns = _sheet(shown, known, frames.names)
    return Extras(scores, panels, columns, shown)


def _sheet(shown, truth, names):
    """Rows of some frames spread over the video, and their names."""
    count = len(shown["frame"])
    chosen = np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(int))
    background = shown["background"][chosen]
    captions, after = [], []
    if truth is not None:
        captions = showing.psnrs(background, truth[chosen])
        after = [Panel("true background", truth[chosen])]
    moving = [f"{100 * mask.mean():.2g}%" for mask in shown["mask"][chosen]]
    note = "frame less background, about mid-gray"
    panels = (
        Panel("frame", shown["frame"][chosen]),
        Panel("background", background, captions=captions),
        *after,
        Panel("foreground", shown["foreground"][chosen], note=note),
        Panel("mask", shown["mask"][chosen], captions=moving, note="white moves; its share below"),
    )
    return panels, [names[index] for index in chosen]


def numerical_rank(matrix, share=1e-3):
    """Singular values above a share of the largest. matrix [T, V]."""
    sizes = np.linalg.svd(matrix.astype(np.float64) @ matrix.T.astype(np.float64))[1]
    return int((np.sqrt(sizes) > share * np.sqrt(sizes[0])).sum())


def mask_score(mask, truth):
    """precision, recall and f_measure of masks [T, H, W] over all pixels of all frames."""
    hits = (mask & truth).sum()
    precision = hits / max(mask.sum(), 1)
    recall = hits / max(truth.sum(), 1)
    f_measure = 2 * hits / max(mask.sum() + truth.sum(), 1)
    return {"precision": precision, "recall": recall, "f_measure": f_measure}
