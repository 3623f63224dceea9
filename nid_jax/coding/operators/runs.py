"""Sums over areas: coarser pixels and blurred ones."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from nid_jax.coding.checks import fits, positive, whole
from nid_jax.coding.operators import checks
from nid_jax.coding.operators.base import Operator
from nid_jax.errors import ArgumentError


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Downsample(Operator):
    """Means over the areas of coarser pixels. See `downsample`."""

    about: ClassVar[str] = "means over the areas of coarser pixels"


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Areas(Operator):
    """Means over the pixels of a picture of another size. See `areas`."""

    about: ClassVar[str] = "means over the pixels of a picture of another size"


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Blur(Operator):
    """Weighted means around every grid point. See `blur`."""

    about: ClassVar[str] = "weighted means around every grid point"


def normalised(pixels, side):
    """Pixels from the middle of an axis as coordinates, held at its end samples."""
    return np.clip(2 * pixels / (side - 1), -1, 1) if side > 1 else np.full_like(pixels, -1)


def downsample(shape: Sequence[int], factor: int = 2, samples_per_side: int = 0) -> Downsample:
    """Means over blocks of factor x factor pixels: what a coarser sensor sees, [*shape / factor].

    Each block's area is sampled at samples_per_side points along each axis (0: `factor`, the
    centres of its pixels). Raises ArgumentError naming `factor` where it does not divide the shape.
    """
    shape = checks.checked_shape(shape)
    factor = whole("factor", factor, 1)
    if any(side % factor for side in shape):
        raise ArgumentError("factor", factor, f"what divides the signals' {list(shape)}")
    per_side = whole("samples_per_side", samples_per_side, 0) or factor
    count = len(shape) * math.prod(side // factor * per_side for side in shape)
    fits("samples_per_side", per_side, count)
    inside = (np.arange(per_side) + 0.5) * factor / per_side - 0.5
    places = [np.arange(side // factor)[:, None] * factor + inside for side in shape]
    run_length = per_side ** len(shape)
    points = _blocks(places, shape)
    factors = np.full((len(points) // run_length, run_length), 1 / run_length)
    return Downsample(checks.float32(points), checks.float32(factors), run_length=run_length)


def areas(shape: Sequence[int], size: Sequence[int]) -> Areas:
    """Pixels of a picture of another size of what a grid shows: means over their areas, [*size].

    Both cover the same extent, half a sample beyond the end samples of the grid [*shape]. An area
    is sampled about once for each of the grid's samples in it, along each axis, and at its centre
    where it is smaller than they are apart. Weights are the samples in an area: the mean of many
    is known better than one. Raises ArgumentError naming `shape`, or `size`
    of another number of axes.
    """
    shape = checks.checked_shape(shape)
    size = checks.checked_shape(size, "size")
    if len(size) != len(shape):
        raise ArgumentError("size", size, f"{len(shape)} whole numbers, as the grid {shape} has")
    ratios = [side / count for side, count in zip(shape, size, strict=True)]
    per_side = [max(1, math.ceil(ratio - 1e-9)) for ratio in ratios]
    fits("size", size, len(size) * math.prod(size) * math.prod(per_side))
    places = [
        (np.arange(count)[:, None] + (np.arange(n) + 0.5) / n) * ratio - 0.5
        for count, n, ratio in zip(size, per_side, ratios, strict=True)
    ]
    run_length, count = math.prod(per_side), math.prod(size)
    return Areas(
        checks.float32(_blocks(places, shape)),
        checks.float32(np.full((count, run_length), 1 / run_length)),
        checks.float32(np.full(count, math.prod(ratios))),
        run_length=run_length,
    )


def blur(shape: Sequence[int], sigma: float = 1.0, radius: int = 0) -> Blur:
    """Gaussian means of standard deviation sigma, in pixels, at every grid point.

    radius: how far the footprint reaches in pixels; 0: three sigma. Beyond the image its edge goes
    on. Raises ArgumentError naming `sigma` or `radius`.
    """
    shape = checks.checked_shape(shape)
    positive("sigma", sigma, known=True)
    given = whole("radius", radius, 0)
    radius = given or int(np.ceil(3 * sigma))
    count = len(shape) * math.prod(shape) * (2 * radius + 1) ** len(shape)
    fits("radius" if given else "sigma", given or sigma, count)
    reach = np.arange(-radius, radius + 1)
    places = [np.arange(side)[:, None] + reach for side in shape]
    one = np.exp(-0.5 * (reach / sigma) ** 2)
    footprint = functools.reduce(np.multiply.outer, [one] * len(shape)).ravel()
    points = _blocks(places, shape)
    factors = np.tile(footprint / footprint.sum(), (len(points) // len(footprint), 1))
    return Blur(checks.float32(points), checks.float32(factors), run_length=len(footprint))


def _blocks(places, shape):
    """Points of runs from the pixels [m_d, t_d] that they visit along each axis. -> [M T, D]."""
    rank = len(shape)
    axes = []
    for axis, (pixels, side) in enumerate(zip(places, shape, strict=True)):
        values = normalised(pixels - (side - 1) / 2, side)
        width = [1] * (2 * rank)
        width[axis], width[rank + axis] = values.shape
        axes.append(values.reshape(width))
    full = np.broadcast_arrays(*axes)
    return np.stack(full, -1).reshape(-1, rank)
