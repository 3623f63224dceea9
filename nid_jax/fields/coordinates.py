"""Where signals are sampled: lattices, crop windows, and the way back to original units.

A coordinate is (row, col) or (depth, row, col); an axis of n samples spans [-1, 1] with its first
sample on -1 and its last on +1, and points run in raster order (the last axis fastest).
Everything here is numpy: float64 inside, float32 out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

Window = Sequence[tuple[float, float]]
"""(low, high) of each axis, in normalised coordinates."""


def grid(shape: Sequence[int], window: Window | None = None) -> Float32[np.ndarray, "P D"]:
    """All points of a lattice in raster order.

    Args:
      shape: samples along each of the D axes. An axis of one sample lies on its lower end.
      window: ((low, high), ...) per axis in normalised coordinates; the first sample lies on low
        and the last on high, inside or outside [-1, 1]. None is the whole plane.

    Returns:
      float32 [P, D], P the product of shape.

    Raises:
      ValueError: shape is empty or not positive, or window does not fit it.
    """
    axes = _axes(shape, window)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def points_at(
    shape: Sequence[int], indices: Int[np.ndarray, " N"], window: Window | None = None
) -> Float32[np.ndarray, "N D"]:
    """The points of `grid(shape, window)` at raster indices [N], without making the whole grid.

    Returns float32 [N, D]. Raises ValueError as `grid`, and for an index outside the lattice.
    """
    axes = _axes(shape, window)
    positions = np.unravel_index(np.asarray(indices), tuple(len(axis) for axis in axes))
    return np.stack([axis[i] for axis, i in zip(axes, positions, strict=True)], axis=-1)


def pixel_window(shape: Sequence[int], *ranges: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """The window of a pixel rectangle, so that `grid` on it repeats those pixels' points.

    Args:
      shape: samples along each of the D axes of the whole lattice.
      ranges: one (start, stop) per axis, half open as in slicing.

    Returns:
      ((low, high), ...) per axis for `grid`: the centres of the first and the last pixel.

    Raises:
      ValueError: not one range per axis, or a range that is empty or leaves the lattice.
    """
    shape = _checked_shape(shape)
    if len(ranges) != len(shape):
        raise ValueError(f"pixel window needs {len(shape)} ranges for {shape}, got {len(ranges)}")
    window = []
    for size, (start, stop) in zip(shape, ranges, strict=True):
        if not 0 <= start < stop <= size:
            raise ValueError(
                f"pixel range ({start}, {stop}) is empty or outside an axis of {size} pixels"
            )
        last = max(size - 1, 1)
        window.append((2 * (start / last - 0.5), 2 * ((stop - 1) / last - 0.5)))
    return tuple(window)


class Normalisation(NamedTuple):
    """Original units <-> the cube [-1, 1]: normalised = (original - centre) / scale.

    Plain tuples of floats, one per axis: `_asdict()` goes into a JSON file and
    `Normalisation(**values)` comes back from it.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def around(
        cls, points: Float[np.ndarray, "P D"], uniform: bool = True, margin: float = 0.0
    ) -> Self:
        """The normalisation that brings the bounding box of points [P, D] into the cube.

        Args:
          points: [P, D] in original units.
          uniform: one scale for all axes, which keeps shapes and the ratios of distances.
          margin: free share on each side; the box ends at +-(1 - margin). In [0, 1).

        Raises:
          ValueError: no points, a point that is not finite, or margin outside [0, 1).
        """
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.size == 0:
            raise ValueError(f"points must be [P, D] with P at least 1, got shape {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("points must be finite, got NaN or infinity")
        if not 0 <= margin < 1:
            raise ValueError(f"margin must lie in [0, 1), got {margin}")
        low, high = points.min(axis=0), points.max(axis=0)
        half = high / 2 - low / 2
        scale = (np.full_like(half, half.max()) if uniform else half) / (1 - margin)
        # A flat axis has no width to normalise: it only moves to zero.
        scale = np.where(scale > 0, scale, 1.0)
        return cls(tuple((low / 2 + high / 2).tolist()), tuple(scale.tolist()))

    def apply(self, points: Float[np.ndarray, "... D"]) -> Float32[np.ndarray, "... D"]:
        """Original [..., D] -> normalised float32 [..., D]."""
        return ((np.asarray(points, np.float64) - self.centre) / self.scale).astype(np.float32)

    def invert(self, points: Float[np.ndarray, "... D"]) -> Float64[np.ndarray, "... D"]:
        """Normalised [..., D] -> original float64 [..., D]."""
        return np.asarray(points, np.float64) * self.scale + self.centre


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    if not shape or any(size != int(size) or size < 1 for size in shape):
        raise ValueError(f"grid shape must be positive whole numbers, got {shape}")
    return tuple(int(size) for size in shape)


def _axes(shape: Sequence[int], window: Window | None) -> list[np.ndarray]:
    shape = _checked_shape(shape)
    if window is None:
        window = ((-1.0, 1.0),) * len(shape)
    if len(window) != len(shape):
        raise ValueError(f"window needs {len(shape)} (low, high) pairs, got {len(window)}")
    axes = []
    for size, (low, high) in zip(shape, window, strict=True):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"window ends must be finite, got ({low}, {high})")
        if low > high or (low == high and size > 1):
            raise ValueError(f"window must have low < high on each axis, got ({low}, {high})")
        # About the middle, so that opposite samples of a symmetric window are exactly opposite.
        step = np.arange(size, dtype=np.float64) / max(size - 1, 1) - 0.5
        axis = (low + high) / 2 + (high - low) * step
        axes.append(axis.astype(np.float32))
    return axes
