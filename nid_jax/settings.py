"""What every number and word of a config may be, whichever of them are used: one table.

What a value has to be beside others (a top_k of so many experts) is seen to where they meet.
"""

import functools
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from nid_jax import errors
from nid_jax.coding import checks
from nid_jax.coding.low_rank import LowRank
from nid_jax.coding.solvers import check_groups
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.data.splitting import MADE
from nid_jax.errors import ArgumentError
from nid_jax.fields import embeddings, kernels
from nid_jax.fields.point_encoder import POOLS as POINT_POOLS
from nid_jax.fields.router_networks import POOLS
from nid_jax.geometry.truncation import KINDS as TRUNCATIONS

Rule = Callable[[str, Any], Any]

# Words that are always read, kinds of things above all, are checked by what reads them.
# More layers than any network has.
_MOST_LAYERS = 1000
# More of the built-in clip than anybody watches.
_MOST_FRAMES = 10_000
# More stations, or blocks and stripes in one picture, than say anything new.
_MOST_DRAWN = 10_000
# More than can be seen to move.
_MOST_OBJECTS = 1000


def _whole(least: int, most: int | None = None) -> Rule:
    return functools.partial(checks.whole, least=least, most=most)


def _between(low: float, high: float, ends: str = "[]") -> Rule:
    """Numbers from low to high, '(' and ')' for an end that is not one of them."""

    def holds(value):
        above = value >= low if ends[0] == "[" else value > low
        return above & (value <= high if ends[1] == "]" else value < high)

    words = f"{low:g} to {high:g}" if ends == "[]" else ""
    words = words or f"{'' if ends[0] == '[' else 'above '}{low:g} to {high:g}"
    words = words if ends[1] == "]" else words.replace(" to ", " to below ")
    return functools.partial(checks.numbers, holds=holds, allowed=words)


def _finite(argument: str, value: Any) -> None:
    checks.numbers(argument, value, lambda v: v == v, "a finite number")


def _words(*allowed: str) -> Rule:
    return functools.partial(checks.one_of, allowed=allowed)


def _words_of(module: str, name: str, *more: str) -> Rule:
    """Words that a source of signals has, which is imported where a config has its keys alone."""

    def check(argument, value):
        allowed = getattr(importlib.import_module(f"nid_jax.data.{module}"), name)
        checks.one_of(argument, value, (*more, *allowed))

    return check


def _sides(argument: str, value: Any) -> None:
    """() or whole numbers of 1 or more; of a config in Python also one of them, or None."""
    sides = (value,) if isinstance(value, int) and value else value or ()
    if not all(isinstance(side, int) and side is not True and side >= 1 for side in sides):
        raise ArgumentError(argument, value, "(), or whole numbers, each 1 or more, of each axis")
    checks.fits(argument, value, math.prod(sides))


def _is_pair(value: Any) -> bool:
    """(low, high), finite numbers, low < high."""
    pair = isinstance(value, tuple | list) and len(value) == 2
    numbers = pair and all(
        isinstance(end, int | float) and not isinstance(end, bool) for end in value
    )
    return numbers and all(map(math.isfinite, value)) and value[0] < value[1]


def _pair(argument: str, value: Any) -> None:
    """() or a pair."""
    if value and not _is_pair(value):
        raise ArgumentError(argument, value, "(), or (low, high), finite numbers with low < high")


def _pairs(argument: str, value: Any) -> None:
    """() or pairs."""
    if not all(map(_is_pair, value or ())):
        allowed = (
            "(), or pairs (low, high), one for each, finite numbers with low < high, such as "
            "((-1,0),(-1,0))"
        )
        raise ArgumentError(argument, value, allowed)


def _place(argument: str, value: Any) -> None:
    """(row, column), anywhere."""
    numbers = len(value) == 2 and all(isinstance(end, int | float) for end in value)
    if not numbers or not all(map(math.isfinite, value)):
        raise ArgumentError(argument, value, "(row, column), finite numbers")


def _names(argument: str, value: Any) -> None:
    """() or words."""
    if not all(isinstance(name, str) for name in value):
        raise ArgumentError(argument, value, "(), or names in quotes, such as ('a','b')")


def _samples(argument: str, value: Any) -> None:
    """Along an axis of a mesh."""
    checks.whole(argument, value, 0)
    if value == 1:
        raise ArgumentError(argument, value, "0 (the signals'), or a whole number, 2 or more")


_COUNT, _ONE, _SEED = _whole(0), _whole(1), _whole(0, checks.MOST_SEED)
_SHARE, _WEIGHT, _POSITIVE = _between(0, 1), checks.not_negative, checks.positive

RULES: dict[str, Rule] = {
    "seed": _SEED,
    "data.size": _sides,
    "data.num_train": _COUNT,
    "data.num_test": _COUNT,
    "data.test_fraction": _SHARE,
    "data.crop": _words("", "center"),
    "data.crops": _COUNT,
    "data.decoded_gib": _WEIGHT,
    "data.range": _pair,
    "data.patch.size": _COUNT,
    "data.patch.overlap": _COUNT,
    "data.augment.shifts": _COUNT,
    "data.augment.max_shift": _COUNT,
    "data.augment.warps": _COUNT,
    "data.augment.rotation": _WEIGHT,
    "data.augment.zoom": _WEIGHT,
    "data.augment.move": _WEIGHT,
    "data.augment.strength": _between(0, 2),
    "data.augment.pieces": _ONE,
    "data.noise.kind": _words_of("sinograms", "NOISE_KINDS"),
    "data.noise.level": _WEIGHT,
    "data.phantom.jitter": _WEIGHT,
    "data.clip.num_frames": _whole(1, _MOST_FRAMES),
    "data.clip.objects": _whole(1, _MOST_OBJECTS),
    "data.clip.noise": _SHARE,
    "data.video.start": _COUNT,
    "data.video.stop": _COUNT,
    "data.video.step": _ONE,
    "data.dicom.window": _pair,
    "data.points.coordinates": _names,
    "data.points.channels": _names,
    "data.points.units": _names,
    "data.points.frame": _pairs,
    "data.points.range": _pairs,
    "data.stations.count": _whole(2, _MOST_DRAWN),
    "data.stations.noise": _WEIGHT,
    "data.masks.hidden": _words("black", "white"),
    "data.corrupt.share": _between(0, 1, "(]"),
    "data.corrupt.count": _whole(1, _MOST_DRAWN),
    "data.corrupt.stripes": _whole(1, _MOST_DRAWN),
    "data.corrupt.colour_scale": _POSITIVE,
    "data.corrupt.colour_shift": _between(-1, 1),
    "data.angle_units": _words_of("sinograms", "UNITS", ""),
    "data.open_beam": _WEIGHT,
    "data.pixel_size": _POSITIVE,
    "data.kspace_scale": _WEIGHT,
    "data.truncation": _WEIGHT,
    "data.truncation_kind": _words(*TRUNCATIONS),
    "data.margin": _between(0, 1, "[)"),
    "data.normals": _words_of("cloud_reading", "NORMALS"),
    "operator.parallel_beam.centre": _place,
    "operator.parallel_beam.detectors": _COUNT,
    "operator.parallel_beam.samples_per_ray": _COUNT,
    "operator.parallel_beam.offset": _finite,
    "operator.parallel_beam.spacing": _POSITIVE,
    "operator.fourier.share": _between(0, 1, "(]"),
    "operator.fourier.low": _SHARE,
    "operator.fourier.seed": _SEED,
    "dictionary.num_experts": _ONE,
    "dictionary.num_layers": _whole(1, _MOST_LAYERS),
    "dictionary.width": _ONE,
    "dictionary.omega0": _POSITIVE,
    "dictionary.components.rounds": _ONE,
    "dictionary.components.shrinkage": functools.partial(
        checks.numbers, holds=lambda v: v <= 1, allowed="finite, at most 1; below 0 chooses"
    ),
    "dictionary.embedding.size": _whole(2),
    "dictionary.embedding.scale": _POSITIVE,
    "dictionary.embedding.num_octaves": _whole(0, embeddings.MAX_OCTAVES),
    "dictionary.embedding.kernel": _words(*kernels.KERNELS),
    "dictionary.embedding.length_scale": _POSITIVE,
    "dictionary.embedding.shape": _WEIGHT,
    "dictionary.embedding.num_centres": _ONE,
    "dictionary.embedding.sigma": _POSITIVE,
    "dictionary.embedding.counts": _sides,
    "dictionary.embedding.band": _words(*embeddings.BANDS),
    "dictionary.embedding.num_kept": _COUNT,
    "dictionary.embedding.degree": _whole(0, embeddings.MAX_DEGREE),
    "router.top_k": _COUNT,
    "router.max_norm": _WEIGHT,
    "router.width": _ONE,
    "router.widths": _sides,
    "router.pool": _words(*dict.fromkeys((*POOLS, *POINT_POOLS))),
    "router.point_features": _ONE,
    "loss.surface.on": _WEIGHT,
    "loss.surface.off": _WEIGHT,
    "loss.surface.normal": _WEIGHT,
    "loss.surface.eikonal": _WEIGHT,
    "train.steps": _COUNT,
    "train.lam": _POSITIVE,
    "train.atoms_per_step": _ONE,
    "train.batch_size": _ONE,
    "train.points": _COUNT,
    "train.near": _SHARE,
    "train.views": _COUNT,
    "train.cloud_points": _COUNT,
    "train.warmup_epochs": _COUNT,
    "train.optimizer.learning_rate": _WEIGHT,
    "train.optimizer.lr_warmup_steps": _COUNT,
    "train.optimizer.lr_end": _WEIGHT,
    "train.optimizer.weight_decay": _WEIGHT,
    "train.optimizer.clip_norm": _WEIGHT,
    "train.optimizer.code_rate": _WEIGHT,
    "train.reseed_every": _COUNT,
    "train.dead_below": _WEIGHT,
    "train.log_every": _COUNT,
    "train.eval_every": _COUNT,
    "train.checkpoint_every": _COUNT,
    "prior.num_signals": _COUNT,
    "prior.points": _COUNT,
    "prior.lam": _WEIGHT,
    "prior.shrinkage": _SHARE,
    "prior.components": _COUNT,
    "eval.num_signals": _ONE,
    "checkpoint.keep_latest": _ONE,
    "checkpoint.keep_best": _COUNT,
    "fit.top_k": _COUNT,
    "fit.numbers": _COUNT,
    "fit.num_signals": _COUNT,
    "fit.batch_size": _COUNT,
    "fit.num_pictures": _COUNT,
    "fit.baseline_signals": _COUNT,
    "fit.num_views": _ONE,
    "fit.held_out": _between(0, 1, "[)"),
    "fit.threshold": _WEIGHT,
    "fit.movies": _names,
    "fit.interpolate.start": _COUNT,
    "fit.interpolate.end": _COUNT,
    "fit.interpolate.frames": _whole(2),
    "fit.nearest.count": _ONE,
    "fit.samples.fraction": _between(0, 1, "(]"),
    "fit.samples.focus": _WEIGHT,
    "fit.samples.cloud_points": _COUNT,
    "fit.mesh.resolution": _samples,
    "fit.mesh.threshold": _POSITIVE,
    "fit.mesh.samples": _ONE,
    "fit.refine.bounds": _pair,
    "render.shape": _sides,
    "render.scale": _ONE,
    "render.window": _pairs,
    "render.chunk": _COUNT,
    "sample.count": _ONE,
    "sample.seed": _SEED,
    "sample.frames": _whole(2),
    "mesh.data": _COUNT,
    "mesh.expert": _ONE,
}
"""Dotted key -> what raises ArgumentError for a value that it cannot have."""


REFINEMENTS = {
    "grid": (TotalVariation, ("tv", "lam", "steps")),
    "atoms": (LowRank, ("rank", "share", "steps")),
}
"""fit.refine.kind, besides 'none' -> its class, and the keys that are its fields."""


def check(config: ConfigDict) -> None:
    """Raise ArgumentError, naming the key, for a value that cannot be, used or not.

    config: whole, or some of its groups. Keys that are not in `RULES` pass, as do those of a
    solver's group where its class says nothing against them.
    """
    for key, value in leaves(config):
        if key in RULES:
            RULES[key](key, value)
    if "data" in config:
        _check_made(config.data)
    if "fit" not in config:
        return
    check_groups(config.fit)
    refine = config.fit.get("refine", {})
    with errors.named("fit.refine"):
        for kind, fields in REFINEMENTS.values():
            checks.one_by_one(kind, {key: refine[key] for key in fields if key in refine})


def _check_made(signals: Any) -> None:
    """Raise ArgumentError, naming the key, for more signals to be made than memory holds."""
    if signals.get("name") not in MADE:
        return
    size = signals.get("size") or ()
    points = math.prod((size,) if isinstance(size, int) else size)
    for key in ("num_train", "num_test"):
        count = signals.get(key, 0)
        checks.fits(f"data.{key}", count, count * points)


def leaves(group: Mapping[str, Any] | ConfigDict, above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what a config holds."""
    for key, value in group.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
