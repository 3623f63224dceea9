"""Line integrals of a picture along the rays of tomography.

A ray of angle theta at the distance s from the centre of rotation is, in pixels from it,

    row = t cos(theta) - s sin(theta),    col = t sin(theta) + s cos(theta).

The picture's area reaches half a pixel beyond its end samples, where its value is that of the
edge. Each ray has its samples in the middles of equal parts of its way through that area, so that
what lies outside contributes zero and constants are integrated exactly.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from nid_jax.coding.checks import flag, not_negative, numbers, positive, whole
from nid_jax.coding.operators import checks
from nid_jax.coding.operators.base import Operator
from nid_jax.coding.operators.conventions import checked_convention
from nid_jax.coding.operators.runs import normalised
from nid_jax.errors import ArgumentError

Angles = int | Sequence[float] | Float[Array | np.ndarray, " A"]
"""In degrees, or in radians of a convention that has these; or a number of views."""


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelBeam(Operator):
    """Line integrals along parallel rays. See `parallel_beam`."""

    about: ClassVar[str] = "line integrals along parallel rays"


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class FanBeam(Operator):
    """Line integrals along rays that leave one point. See `fan_beam`."""

    about: ClassVar[str] = "line integrals along rays that leave one point"


def parallel_beam(
    shape: Sequence[int],
    angles: Angles,
    detectors: int = 0,
    samples_per_ray: int = 0,
    centre: Sequence[float] = (0.0, 0.0),
    offset: float = 0.0,
    spacing: float = 1.0,
    convention: str = "ours",
) -> ParallelBeam:
    """Line integrals of an image along parallel rays, in units of pixels: a sinogram [A, D].

    The ray of angle theta and detector position s, both ends of the image included, is, in pixels
    from the centre of rotation,

        row = t cos(theta) - s sin(theta),    col = t sin(theta) + s cos(theta).

    The image's area reaches half a pixel beyond its end samples, where its value is that of the
    edge. Each ray has its samples in the middles of equal parts of its way through that area, so
    that what lies outside contributes zero and constants are integrated exactly.

    Args:
      shape: (rows, columns) of the image that sets the unit of length.
      angles: [A], any, in degrees, or in radians under the conventions astra and tomopy; or a whole
        number of views, evenly spaced over half a turn from 0 without a repeated end view. Half a
        turn on is the same ray with the detectors mirrored; a view given twice weighs twice.
      detectors: D; 0: as many as the longer side.
      samples_per_ray: T; 0: as many as the longer side.
      centre: (rows, columns) in pixels, from where the convention has it, to the centre of
        rotation.
      offset: added to all detector positions, in detectors: (j - (D - 1) / 2 + offset) spacing by
        our convention. Where the axis of rotation is at detector c, from 0, offset is
        (D - 1) / 2 - c.
      spacing: from detector to detector, in pixels.
      convention: a name of `conventions.CONVENTIONS`, where centre and detectors are when all of
        the above is left as it is: ours and astra, tomopy (the middles of image and detector),
        skimage (pixel N // 2 and detector D // 2), matlab (pixel (N - 1) // 2).

    Measurements are ordered by angle, then detector. Raises ArgumentError naming the argument.
    """
    sides = checks.checked_picture(shape)
    known = checked_convention(convention)
    turned = np.deg2rad(checked_angles(angles, convention))
    detectors = whole("detectors", detectors, 0) or max(sides)
    samples = whole("samples_per_ray", samples_per_ray, 0) or max(sides)
    pair = checks.checked_numbers(centre, "centre", 1, "(rows, columns)")
    if len(pair) != 2:
        raise ArgumentError("centre", centre, "(rows, columns), two numbers")
    numbers("offset", offset, np.isfinite, "a finite number of detectors", known=True)
    positive("spacing", spacing, known=True)
    middle, first = known.placed(sides, detectors)
    position = (np.arange(detectors) - (detectors - 1) / 2 + first + offset) * spacing
    points, factors = _rays(sides, turned[:, None], position, samples, pair + middle)
    return ParallelBeam(points, factors, run_length=samples)


def fan_beam(
    shape: Sequence[int],
    angles: Angles,
    detectors: int | Sequence[float] | Float[Array | np.ndarray, " D"] = 0,
    samples_per_ray: int = 0,
    source_distance: float = 0.0,
    detector_distance: float = 0.0,
    spacing: float = 0.0,
    arc: bool = False,
) -> FanBeam:
    """Line integrals of an image along rays from a point source: a sinogram [A, D].

    Source and detector turn about the image's middle. At the angle theta the source lies
    `source_distance` before it, at t = -source_distance of the middle ray, and the detector's
    middle `detector_distance` behind it; theta, t and s are those of `parallel_beam`, which this
    tends to as the source moves away. Detectors lie `spacing` apart, in the order of s. The ray to
    the detector at p is the parallel ray of angle theta + gamma at s = source_distance sin(gamma),
    with R = source_distance + detector_distance and

        gamma = atan(p / R) of a flat detector,    gamma = p / R of an arc about the source

    (Kak and Slaney, Principles of Computerized Tomographic Imaging, 3.4). All lengths are in
    pixels, and so is the measured integral.

    Args:
      shape: (rows, columns) of the image that sets the unit of length.
      angles: degrees, any, [A]; or a whole number of views, evenly spaced over the full turn.
      detectors: D, their middle opposite the source; or their positions p [D] in pixels, for a
        detector that is shifted or uneven; 0: as many as the longer side.
      samples_per_ray: T; 0: as many as the longer side.
      source_distance: from the middle of the image, outside the circle around the image; 0: twice
        the longer side.
      detector_distance: from the middle of the image, 0 (a virtual detector through the middle) or
        more.
      spacing: along the detector; 0: R / source_distance, which is one pixel apart in the middle
        of the image. Without meaning beside positions.
      arc: whether the detector is an arc about the source.

    Measurements are ordered by angle, then detector. Raises ArgumentError naming the argument.
    """
    sides = checks.checked_picture(shape)
    turned = np.deg2rad(_turned_angles(angles))
    samples = whole("samples_per_ray", samples_per_ray, 0) or max(sides)
    not_negative("source_distance", source_distance, known=True)
    source = float(source_distance or 2 * max(sides))
    around = math.hypot(*sides) / 2
    if source <= around:
        raise ArgumentError("source_distance", source, f"0, or above {around:.4g}, off the image")
    not_negative("detector_distance", detector_distance, known=True)
    reach = source + detector_distance
    not_negative("spacing", spacing, known=True)
    flag("arc", arc)
    if _one(detectors):
        count = whole("detectors", detectors, 0) or max(sides)
        position = (np.arange(count) - (count - 1) / 2) * (spacing or reach / source)
    elif spacing:
        raise ArgumentError("spacing", spacing, "0 beside positions of detectors")
    else:
        position = checks.checked_numbers(detectors, "detectors", 1, "[D]")
    gamma = position / reach if arc else np.arctan(position / reach)
    if np.abs(gamma).max() >= np.pi / 2:
        turn = np.rad2deg(np.abs(gamma).max())
        raise ArgumentError("detectors", turn, "a fan of below 90 degrees to a side")
    theta = turned[:, None] + gamma
    points, factors = _rays(sides, theta, source * np.sin(gamma), samples, (0.0, 0.0))
    return FanBeam(points, factors, run_length=samples)


def _rays(sides, theta, position, samples, centre):
    """Points [A D T, 2] and factors [A D, T] of rays: theta [A, 1] or [A, D], position [D]."""
    sine, cosine = np.sin(theta), np.cos(theta)
    # Where t = 0 lies, and the direction of t; pixels from the middle of the image.
    starts = [centre[0] - position * sine, centre[1] + position * cosine]
    first, last = _crossing(starts, [cosine, sine], (sides[0] / 2, sides[1] / 2))
    length = np.maximum(last - first, 0)
    t = first[..., None] + length[..., None] * (np.arange(samples) + 0.5) / samples
    t = np.where(length[..., None] > 0, t, 0)
    axes = []
    for start, step, side in zip(starts, (cosine, sine), sides, strict=True):
        axes.append(normalised(start[..., None] + t * step[..., None], side))
    points = np.stack(axes, -1).reshape(-1, 2)
    factors = np.repeat(length.reshape(-1, 1) / samples, samples, 1)
    return checks.float32(points), checks.float32(factors)


def _one(value):
    """Whether it has no axes: a number, or what is none at all."""
    return not isinstance(value, Sequence) and np.ndim(value) == 0


def _turned_angles(angles):
    """Angles in degrees [A], from such or from a number of views over the full turn."""
    if _one(angles):
        count = whole("angles", angles, 1)
        return np.arange(count) * (360.0 / count)
    return checks.checked_numbers(angles, "angles", 1, "[A], or a number of views")


def _crossing(starts, directions, halves):
    """The parameters at which lines enter and leave a box [-half, half]; first > last: never."""
    first, last = np.array(-np.inf), np.array(np.inf)
    for start, step, half in zip(starts, directions, halves, strict=True):
        parallel = np.abs(step) < 1e-12
        safe = np.where(parallel, 1.0, step)
        a, b = (-half - start) / safe, (half - start) / safe
        inside = np.abs(start) < half
        low = np.where(parallel, np.where(inside, -np.inf, np.inf), np.minimum(a, b))
        high = np.where(parallel, np.where(inside, np.inf, -np.inf), np.maximum(a, b))
        first, last = np.maximum(first, low), np.minimum(last, high)
    missed = ~(first < last)
    return np.where(missed, 0, first), np.where(missed, 0, last)


def checked_angles(angles: Angles, convention: str = "ours") -> Float[np.ndarray, " A"]:
    """Angles in degrees [A] float64, from such, or radians of a convention, or a number of views.

    Raises ArgumentError naming `angles` for no views, and for angles that are not finite numbers,
    or `convention`.
    """
    known = checked_convention(convention)
    if _one(angles):
        count = whole("angles", angles, 1)
        return np.arange(count) * (180.0 / count)
    return known.degrees(checks.checked_numbers(angles, "angles", 1, "[A], or a number of views"))
