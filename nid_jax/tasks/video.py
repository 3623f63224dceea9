"""Video: a background of low rank from codes, and what moves before it as the residual."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict
from scipy import ndimage
from scipy.special import ndtri

from nid_jax import data
from nid_jax.baselines.video import median_background
from nid_jax.notices import say, sides
from nid_jax.reporting.panels import Panel, Score
from nid_jax.tasks import image, showing
from nid_jax.tasks.task import Baseline, Baselines, Extras, Measured, Task

TIMES = ("codes", "coordinate")
MOVIES = ("mp4", "gif")
SCORES = (
    Score("rank", "Rank", about="Independent pictures that all backgrounds are mixtures of."),
    Score("explained", "Explained", "%", "Of the frames' variance, the share in the background."),
    Score(
        "noise",
        "Noise",
        about="Standard deviation of frame less background where nothing moves; white is 1.",
    ),
    Score(
        "threshold",
        "Threshold",
        about="Pixels further than this from the background are moving; white is 1.",
    ),
    Score("moving_share", "Moving", "%", "Of all pixels of all frames, those in the mask."),
    Score(
        "precision", "Precision", about="Of the mask, the share that truly moves.", better="high"
    ),
    Score("recall", "Recall", about="Of what truly moves, the share in the mask.", better="high"),
    Score("f_measure", "F-measure", about="Harmonic mean of precision and recall.", better="high"),
    *showing.SCORES,
)
# Frames of the sheet, spread over the video.
_SHOWN = 8
# A Gaussian's standard deviation over its median absolute deviation.
_GAUSSIAN_MAD = 1.4826
# Of a mask whose threshold is chosen: the least threshold; the share of pixels that exceed it by
# noise; the side of the neighbourhood that decides, in pixels; and how far away a lossy coding
# still leaves traces of what moves.
_LEAST_THRESHOLD = 0.05
_BY_NOISE = 0.18
_NEIGHBOURHOOD = 5
_BESIDE = 4
# Traces beside what moves are exceeded so many times; and what moves itself is taken to end where
# the residual falls below a share of its mean size about there, within so many pixels.
_OVER_TRACES = 1.75
_EDGE, _ABOUT = 0.45, 3.0
# Keys that choose or change frames of one split alone, and what they must be.
_WHOLE = {
    "num_train": 0,
    "num_test": 0,
    "augment.mirror": False,
    "augment.turns": False,
    "augment.warps": 0,
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
        extras=lambda collection, known, fit, found, truth, others: separated(
            collection,
            found,
            truth,
            others,
            threshold=config.fit.threshold,
            frame_rate=data.frame_rate(config.data),
        ),
        baselines=lambda collection, seen, fit, prior, most: baselines_of(collection, seen, config),
        describe=describe,
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


def describe(collection: Any, seen: Measured, count: int) -> str:
    """What was measured: all pixels of all frames, of which none is known to be background."""
    del count
    frames = frames_of(collection)
    words = f"{len(frames)} frames of {sides(frames.shape[:-1])} pixels, all of which were"
    return f"{words} measured. Which of them show the background is not known."


def baselines_of(collection: Any, seen: Measured, config: ConfigDict) -> Baselines:
    """The median of every pixel over the frames, and what differs from it as the foreground.

    Of all frames, however many signals are asked for: scores are of the whole video.
    """
    frames = frames_of(collection)
    count = len(frames)

    def make():
        background = np.broadcast_to(median_background(frames), (count, *frames.shape))
        pictures = np.stack([frames[index] for index in range(count)])
        residual, truth = pictures - background, seen.truths(len(collection))
        found = {"rank": 1, "explained": _explained(pictures, residual)}
        found |= _mask_numbers(frames, moving_mask(residual, config.fit.threshold))
        if truth is not None:
            found |= background_metrics(background, truth)
        return background, found

    about = "The median of every pixel over the frames, one background for all of them. What "
    about += "differs from it moves, by the same rule as for the fit."
    return Baselines(len(collection), [Baseline("median", about, make)])


def separated(
    collection: Any,
    reconstruction: Float[np.ndarray, "*S H W C"],
    truth: Float[np.ndarray, "*S H W C"] | None,
    others: Mapping[str, Float[np.ndarray, "T H W C"]],
    threshold: float,
    frame_rate: float = 0.0,
) -> Extras:
    """Background, foreground and mask of every frame, and numbers: see `Mask`.

    reconstruction, truth: backgrounds of T frames in [0, 1], as T signals or as one of them all;
    others: label -> backgrounds of a baseline; threshold: see `moving_mask`; frame_rate: frames a
    second of the movie, 0: not known.

    rank: of the background; explained: the share of the frames' variation that it explains; noise:
    the standard deviation of what is left, were it Gaussian, from its median; moving_share: of all
    pixels of all frames, those in the mask; the mask's score if the truth is known. foreground is
    the residual, drawn about mid-gray; cut_out the frame where the mask is.
    """
    frames = frames_of(collection)
    background = np.clip(reconstruction.reshape(-1, *frames.shape), 0, 1)
    count = len(background)
    pictures = np.stack([frames[index] for index in range(count)])
    residual = pictures - background
    found = moving_mask(residual, threshold)
    scores = {
        "rank": numerical_rank(reconstruction.reshape(count, -1)),
        "explained": _explained(pictures, residual),
        **_mask_numbers(frames, found),
    }
    if not threshold:
        say(
            f"fit.threshold=0: residuals above {found.threshold:.3f} over most of a neighbourhood "
            f"are foreground (noise {found.noise:.4f}, {found.beside:.4f} more beside what moves); "
            "fit.threshold=VALUE says otherwise"
        )
    shown = {
        "frame": pictures,
        "background": background,
        "foreground": np.clip(0.5 + 0.5 * residual, 0, 1),
        "mask": found.mask[..., None].astype(np.float32),
        "cut_out": pictures * found.mask[..., None],
    }
    known = None if truth is None else truth.reshape(background.shape)
    panels, columns = _sheet(shown, known, frames.names, others)
    return Extras(scores, panels, columns, shown, frame_rate=frame_rate)


def _explained(pictures, residual):
    """The share of the frames' variation that is not left."""
    spread = np.square(pictures - pictures.mean((0, 1, 2))).sum()
    return float(1 - np.square(residual).sum() / max(spread, 1e-12))


def _mask_numbers(frames, found):
    """What a mask rests on, and its score where it is known what moves."""
    numbers = {
        "noise": found.noise,
        "threshold": found.threshold,
        "moving_share": float(found.mask.mean()),
    }
    if hasattr(frames, "foreground"):
        moving = np.stack([frames.foreground(index) for index in range(len(found.mask))])
        numbers |= mask_score(found.mask, moving)
    return numbers


def _sheet(shown, truth, names, others):
    """Rows of some frames spread over the video, and their names. others: backgrounds by name."""
    count = len(shown["frame"])
    chosen = np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(int))
    background = shown["background"][chosen]
    captions, after = [], []
    if truth is not None:
        captions = showing.psnrs(background, truth[chosen])
        after = [Panel("true background", truth[chosen])]
    moving = [f"{100 * mask.mean():.2g}%" for mask in shown["mask"][chosen]]
    note = "frame less background, mid-gray where they are equal"
    panels = (
        Panel("frame", shown["frame"][chosen]),
        Panel("background", background, captions=captions),
        *_others(others, None if truth is None else truth[chosen], chosen),
        *after,
        Panel("foreground", shown["foreground"][chosen], note=note),
        Panel("mask", shown["mask"][chosen], captions=moving, note="white moves; its share below"),
        Panel("cut out", shown["cut_out"][chosen], note="the frame where the mask is white"),
    )
    return panels, [names[index] for index in chosen]


def _others(others, truth, chosen):
    for name, frames in others.items():
        shown = [frames[index] for index in chosen]
        captions = [] if truth is None else showing.psnrs(shown, truth)
        yield Panel(name, shown, captions=captions)


class Mask(NamedTuple):
    """Where something moves, bool [T, H, W], and what that rests on.

    threshold: the residual's size that was asked for or chosen; noise: the residual's standard
    deviation, were it Gaussian, from its median; beside: how much more a lossy coding leaves
    beside what moves, 0 where a threshold was asked for.
    """

    mask: Bool[np.ndarray, "T H W"]
    threshold: float
    noise: float
    beside: float


def moving_mask(residual: Float[np.ndarray, "T H W C"], threshold: float = 0.0) -> Mask:
    """Where any channel of a residual exceeds a threshold; 0 chooses one, and cleans the mask.

    The one chosen is what 18% of the pixels exceed by noise alone, at least 0.05, and at least 1.75
    times what a lossy coding leaves beside what moves, over the noise elsewhere. Edges that such a
    coding has blurred are put near half of what moves there: a pixel has also to exceed 0.45 of the
    mean size about it. It is then moving if most of the 5 x 5 about it do so.
    """
    sizes = np.abs(residual).max(-1)
    noise = float(_GAUSSIAN_MAD * np.median(np.abs(residual)))
    if threshold:
        return Mask(sizes > threshold, float(threshold), noise, 0.0)
    # Of C channels with independent noise.
    alone = 1 - (1 - _BY_NOISE) ** (1 / residual.shape[-1])
    least = max(_LEAST_THRESHOLD, noise * float(ndtri(1 - alone / 2)))
    moving = _most(sizes > least)
    near, beyond = (_widened(moving, reach) for reach in (1, _BESIDE))
    beside = _beyond(sizes[beyond & ~near], sizes[~beyond])
    chosen = max(least, _OVER_TRACES * beside)
    edge = _EDGE * _mean_about(sizes, _most(sizes > chosen))
    return Mask(_most(sizes > np.maximum(chosen, edge)), chosen, noise, beside)


def _most(mask):
    """Where most of a neighbourhood within the frame is set."""
    share = ndimage.uniform_filter(mask.astype(np.float32), (0, _NEIGHBOURHOOD, _NEIGHBOURHOOD))
    return share > 0.5


def _mean_about(sizes, mask):
    """The mean of what a mask selects, under a Gaussian about every pixel; 0 far from any."""
    spread = (0, _ABOUT, _ABOUT)
    weight = ndimage.gaussian_filter(mask.astype(np.float32), spread, mode="nearest")
    return ndimage.gaussian_filter(mask * sizes, spread, mode="nearest") / (weight + 1e-3)


def _widened(mask, reach):
    """A mask with all pixels up to `reach` rows and columns away."""
    side = 2 * reach + 1
    return ndimage.maximum_filter(mask, (1, side, side))


def _beyond(here, elsewhere):
    """By how much, in root of squares, nine tenths here are larger than elsewhere."""
    if not (here.size and elsewhere.size):
        return 0.0
    large, usual = (np.quantile(sizes, 0.9) for sizes in (here, elsewhere))
    return float(np.sqrt(max(large**2 - usual**2, 0)))


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
