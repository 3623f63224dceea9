"""Video: a background of low rank from codes, and what moves before it as the residual."""

import dataclasses
import functools
import importlib.util
import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.tasks import image
from nid_jax.tasks.task import Extras, Measured, Task

TIMES = ("codes", "coordinate")
MOVIES = ("mp4", "gif")
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


def separated(collection, measured, reconstruction, threshold):
    """Background, foreground and mask of every frame; rank, and the mask's score if it is known.

    foreground is the residual, drawn about mid-gray; the mask is where any channel of it exceeds
    `threshold`.
    """
    frames = frames_of(collection)
    background = np.clip(reconstruction.reshape(-1, *frames.shape), 0, 1)
    count = len(background)
    pictures = np.stack([frames[index] for index in range(count)])
    residual = pictures - background
    mask = np.abs(residual).max(-1) > threshold
    scores = {"rank": numerical_rank(reconstruction.reshape(count, -1))}
    if hasattr(frames, "foreground"):
        truth = np.stack([frames.foreground(index) for index in range(count)])
        scores |= mask_score(mask, truth)
    shown = {
        "frame": pictures,
        "background": background,
        "foreground": np.clip(0.5 + 0.5 * residual, 0, 1),
        "mask": mask[..., None].astype(np.float32),
    }
    return Extras(scores, shown)


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
