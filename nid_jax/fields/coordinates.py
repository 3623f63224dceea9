"""Where signals are sampled: lattices of points, and windows of them.

A coordinate is (row, col) or (depth, row, col); an axis of n samples spans [-1, 1] with its first
sample on -1 and its last on +1, and points run in raster order (the last axis fastest).
Everything here is numpy: float64 inside, float32 out.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

# Whatever float32 holds.
_LARGEST = float(np.finfo(np.float32).max)

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
    axes = axes_of(shape, window)
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def points_at(
    shape: Sequence[int], indices: Int[np.ndarray, " N"], window: Window | None = None
) -> Float32[np.ndarray, "N D"]:
    """The points of `grid(shape, window)` at raster indices [N], without making the whole grid.

    Returns float32 [N, D]. Raises ValueError as `grid`, and for an index outside the lattice.
    """
    axes = axes_of(shape, window)
    positions = np.unravel_index(np.asarray(indices), tuple(len(axis) for axis in axes))
    return np.stack([axis[i] for axis, i in zip(axes, positions, strict=True)], axis=-1)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    if not shape or any(size != int(size) or size < 1 for size in shape):
        raise ValueError(f"grid shape must be positive whole numbers, got {shape}")
    return tuple(int(size) for size in shape)


def axes_of(shape: Sequence[int], window: Window | None = None) -> list[Float32[np.ndarray, " n"]]:
    """Coordinates [n] of the samples of `grid(shape, window)` along each axis. Raises as that."""
    shape = _checked_shape(shape)
    if window is None:
        window = ((-1.0, 1.0),) * len(shape)
    if len(window) != len(shape):
        raise ValueError(f"window needs {len(shape)} (low, high) pairs, got {len(window)}")
    axes = []
    for size, (low, high) in zip(shape, window, strict=True):
        # As float32, which the samples are.
        if not max(abs(low), abs(high)) <= _LARGEST or math.isnan(high):
            raise ValueError(f"window: ({low}, {high}); allowed: finite ends, of float32")
        if low > high or (low == high and size > 1):
            raise ValueError(f"window must have low < high on each axis, got ({low}, {high})")
        # About the middle, so that opposite samples of a symmetric window are exactly opposite.
        step = np.arange(size, dtype=np.float64) / max(size - 1, 1) - 0.5
        axis = (low + high) / 2 + (high - low) * step
        axes.append(axis.astype(np.float32))
    return axes
