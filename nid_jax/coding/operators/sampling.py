"""Values of a signal at points, some of them unseen, and its derivatives there."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from nid_jax.coding.checks import as_array, numbers, positive, whole
from nid_jax.coding.operators import checks
from nid_jax.coding.operators.base import Chain, Operator, check_chained, product_of_weights
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates

Points = Float[Array | np.ndarray, "P D"] | tuple[int, ...] | Operator
"""What names points: coordinates, the shape of a grid, or an operator, whose points are taken."""
STEP = 5e-4
"""Half the distance, in coordinates, of the two values that `point_derivatives` compares."""


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Sample(Operator):
    """The signal's values at points: one measurement per point. See `sample`."""

    about: ClassVar[str] = "the signal's values at points"


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Masked(Operator):
    """A local operator of whose measurements some were seen: elsewhere they are 0.

    seen [M] or [S, M]: 1 where seen; among `weights` too, so that a fit ignores what lies
    elsewhere. Masks of every signal act on measurements with a signals' axis; the features of a
    dictionary, which have none, are measured everywhere.
    """

    about: ClassVar[str] = "some of all measurements"

    seen: jax.Array = dataclasses.field(kw_only=True)

    def _masked(self, measurements):
        if measurements.ndim <= self.seen.ndim:
            return measurements
        return measurements * self.seen[..., None]

    def measure(self, samples):
        return self._masked(super().measure(samples))

    def adjoint(self, measurements):
        return super().adjoint(self._masked(measurements))

    def runs(self):
        """One mask is zeros among the factors; a mask for every signal cannot be."""
        runs = super().runs()
        if self.seen.ndim == 2 or runs is None:
            return None
        points, factors = runs
        return points, factors * self.seen[:, None]

    def unmasked(self):
        """The same operator of all measurements."""
        return Operator(self.points, self.factors, self.weights, self.run_length)

    def of_measurements(self, chosen):
        chosen_ones = super().of_measurements(chosen)
        return dataclasses.replace(chosen_ones, seen=self.seen[..., chosen])

    def scaled(self, scale):
        plain = self.unmasked().scaled(scale)
        parts = (plain.points, plain.factors, self.weights, plain.run_length)
        return Masked(*parts, seen=self.seen)

    def after(self, inner):
        if self.is_sampling:
            check_chained(self, inner)
            both = masked(inner, self.seen)
            weights = product_of_weights([self.weights, inner.weights])
            return dataclasses.replace(both, weights=weights)
        return super().after(inner)


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Masked):
    """The signal on all points, of which some were seen. See `mask`."""

    about: ClassVar[str] = "the signal on all points, of which some were seen"


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class PointDerivatives(Operator):
    """Directional derivatives at points. See `point_derivatives`."""

    about: ClassVar[str] = "directional derivatives at points"


@functools.singledispatch
def as_points(points: Any) -> Float[Array, "P D"]:
    """Points [P, D] of an array, a grid's shape (a tuple) or an operator."""
    return checks.float32(checks.checked_numbers(points, "points", 2, "[P, D]"))


@as_points.register
def _(points: tuple):
    return jnp.asarray(coordinates.grid(checks.checked_shape(points)))


@as_points.register
def _(points: Operator):
    return points.points


def sample(points: Points) -> Sample:
    """The operator that samples a signal.

    points: [P, D] coordinates, a grid shape as a tuple of whole numbers, or an operator, whose
    points are taken. Raises ArgumentError naming `points` where they are not finite or not [P, D],
    and `shape` for an impossible grid.
    """
    return Sample(as_points(points))


def mask(points: Points, seen: Shaped[Array | np.ndarray, "..."]) -> Operator:
    """The operator of a signal of which only some points were seen, or of measurements of which.

    points: as in `sample`; of an operator the measurements are masked, not its points.
    seen: bool or 0/1, [*grid] or [P] (of an operator [M]), or the same with one mask for every
    signal in front, [S, *grid] or [S, P]. Raises ArgumentError naming `seen` for a mask of another
    size, other values, or one that shows nothing at all.
    """
    grid_shape = points if isinstance(points, tuple) else None
    operator = points if isinstance(points, Operator) else sample(points)
    count = operator.num_measurements
    shown = as_array("seen", seen, "booleans, or 0 and 1 only")
    one = shown.shape in ((count,), grid_shape)
    many = shown.ndim > 0 and shown.shape[1:] in ((count,), grid_shape) and shown.shape[0] > 0
    if not (one or many):
        expected = f"{grid_shape}, " if grid_shape else ""
        raise ArgumentError(
            "seen",
            shown.shape,
            f"the shape {expected}({count},), or the same with one mask per signal in front",
        )
    if not np.isin(shown, (0, 1)).all():
        raise ArgumentError("seen", shown[~np.isin(shown, (0, 1))][0], "booleans, or 0 and 1 only")
    shown = shown.astype(np.float32).reshape((count,) if one else (len(shown), count))
    empty = np.flatnonzero(~shown.any(-1))
    if len(empty):
        where = "" if one else f", in the mask of signal {empty[0]} too"
        raise ArgumentError("seen", 0, f"at least 1 point seen{where}")
    return masked(operator, jnp.asarray(shown))


def masked(operator: Operator, seen: Float[Array, "*S M"]) -> Operator:
    """An operator of whose measurements some were seen: seen float32 [M] or [S, M], 0 or 1."""
    weights = product_of_weights([operator.weights, seen])
    if operator.run_length is None:
        everything = jnp.zeros((operator.num_measurements, 0), jnp.float32)
        outer = Masked(everything, weights=seen, seen=seen)
        return Chain(operator.points, None, weights, None, outer=outer, inner=operator)
    if isinstance(operator, Masked):
        seen = seen * operator.seen
    kind = Mask if operator.is_sampling else Masked
    return kind(operator.points, operator.factors, weights, operator.run_length, seen=seen)


def random_mask(shape: Sequence[int] | Operator, share: float = 0.1, seed: int = 0) -> Operator:
    """A mask that shows a seeded share of the grid's points, the same for all signals.

    shape: a grid's, or an operator, of whose measurements a share is shown. Raises ArgumentError
    naming `share` or `seed`.
    """
    numbers("share", share, lambda v: (v > 0) & (v <= 1), "above 0, to 1", known=True)
    seed = whole("seed", seed, 0)
    operator = shape if isinstance(shape, Operator) else sample(checks.checked_shape(shape))
    total = operator.num_measurements
    order = np.random.default_rng(seed).permutation(total)
    return mask(operator, order < max(1, round(share * total)))


def point_derivatives(
    points: Points,
    axes: Sequence[int] | None = None,
    directions: Float[Array | np.ndarray, "n D"] | None = None,
    step: float = STEP,
) -> PointDerivatives:
    """Derivatives of a signal at points, per unit of coordinates: an image's width is 2 units.

    A derivative is no weighted sum of values at the point. What is measured is the central
    difference of two values, `step` before and after it along the direction: a local operator with
    runs of 2. Of a signal that varies as sin(omega x) its error is (omega step)^2 / 6 of the
    derivative, and float32 adds about 1e-7 / (omega step): at the default step 2e-4 for omega = 1,
    2e-5 for 10, 4e-4 for 100. (Points are rounded to float32 first; the difference is divided by
    their distance as rounded.) At the edge it looks `step` beyond the end sample.

    Args:
      points: as in `sample`.
      axes: numbers of the axes along which; None: all of them.
      directions: instead of axes, vectors [n, D]: the derivative along v is v . gradient, so it
        grows with the length of v.
      step: in coordinates, above 0.

    Measurements are ordered by direction, then point: [n, P]. A constant measures 0, so that a fit
    of derivatives alone leaves the bias open; `stack` them with a value. Raises ArgumentError
    naming `axes`, `directions` or `step`.
    """
    places = np.asarray(as_points(points), np.float64)
    positive("step", step, known=True)
    vectors = _vectors(places.shape[1], axes, directions)[:, None, :]
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    both = [places + side * step * vectors / length for side in (1, -1)]
    ends = np.stack(both, 2).astype(np.float32)  # [n, P, 2, D]
    apart = ((ends[:, :, 0] - ends[:, :, 1].astype(np.float64)) * vectors).sum(-1) / length[..., 0]
    if not (apart > 0).all():
        raise ArgumentError("step", step, "more than the rounding of coordinates, 1e-7 of them")
    factors = (length[..., 0] / apart)[..., None] * np.array([1.0, -1.0])
    return PointDerivatives(
        checks.float32(ends.reshape(-1, places.shape[1])),
        checks.float32(factors.reshape(-1, 2)),
        run_length=2,
    )


def _vectors(dims, axes, directions):
    """Directions [n, D] from axes or vectors; ArgumentError naming what is wrong with them."""
    if directions is None:
        allowed = f"some of {list(range(dims))}"
        chosen = as_array("axes", range(dims) if axes is None else axes, allowed)
        if chosen.ndim != 1 or not len(chosen) or not np.isin(chosen, range(dims)).all():
            raise ArgumentError("axes", axes, allowed)
        return np.eye(dims)[chosen.astype(int)]
    if axes is not None:
        raise ArgumentError("directions", directions, "None beside axes")
    vectors = checks.checked_numbers(directions, "directions", 2, "[n, D]")
    if vectors.shape[1] != dims or not vectors.any(1).all():
        allowed = f"vectors [n, {dims}], none of them zero"
        raise ArgumentError("directions", vectors.tolist(), allowed)
    return vectors
