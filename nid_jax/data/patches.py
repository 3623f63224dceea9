"""Large signals cut into patches, and patches blended back into signals."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nid_jax.data.collection import Collection, position, window_slices


class PatchCollection:
    """Every signal of `collection` cut into patches of one size, in row-major order.

    size: samples along each grid axis, one number or one an axis; overlap: samples that neighbours
    share. The last patch of an axis is moved inwards, so that the patches cover all of the signal.
    Patches of signal i are i * per_signal ... ; names are 'x/r_c' with the patch's first row and
    column. Raises ValueError naming data.patch.size or data.patch.overlap when they do not fit.
    """

    def __init__(self, collection: Collection, size: int | Sequence[int], overlap: int = 0):
        self.collection = collection
        self.grid_shape = tuple(collection.shape[:-1])
        self.size = axis_sizes(size, self.grid_shape)
        self.overlap = overlap
        self.corners = patch_corners(self.grid_shape, size, overlap)
        self.per_signal = len(self.corners)
        self.shape = (*self.size, collection.shape[-1])
        self.title = f"{collection.title}, patches"
        suffixes = ["_".join(str(start) for start in corner) for corner in self.corners]
        self.names = [f"{name}/{suffix}" for name in collection.names for suffix in suffixes]
        # Patches are mostly read in order: the signal they are cut from is decoded once.
        self._latest = (None, None)

    def __len__(self) -> int:
        return len(self.collection) * self.per_signal

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        original, patch = divmod(position(index, len(self)), self.per_signal)
        if getattr(self.collection, "windows", False):
            return self.collection.window(original, self.corners[patch], self.size)
        # One tuple, read and replaced whole, so that threads never mix two signals.
        latest, signal = self._latest
        if latest != original:
            signal = self.collection[original]
            self._latest = (original, signal)
        return np.ascontiguousarray(signal[window_slices(self.corners[patch], self.size)])

    def stitch(self, patches: Float[np.ndarray, "n *size C"]) -> Float[np.ndarray, "*grid C"]:
        """The whole signal from its patches [per_signal, *size, C]; see the function stitch."""
        return stitch(patches, self.grid_shape, self.size, self.overlap)


def patch_corners(
    grid_shape: Sequence[int], size: int | Sequence[int], overlap: int = 0
) -> list[tuple[int, ...]]:
    """First samples of the patches along each axis, row-major: a list of tuples of grid rank.

    Raises ValueError naming data.patch.size or data.patch.overlap when they do not fit.
    """
    sizes = axis_sizes(size, grid_shape)
    if any(not 1 <= length <= count for length, count in zip(sizes, grid_shape, strict=True)):
        raise ValueError(
            f"data.patch.size={size}: must be from 1 to the signals' size, {list(grid_shape)}"
        )
    if not 0 <= overlap < min(sizes):
        raise ValueError(
            f"data.patch.overlap={overlap}: must be from 0 to {min(sizes) - 1}, "
            f"below data.patch.size={size}"
        )
    return list(
        itertools.product(
            *(
                _starts(count, length, overlap)
                for count, length in zip(grid_shape, sizes, strict=True)
            )
        )
    )


def axis_sizes(size: int | Sequence[int], grid_shape: Sequence[int]) -> tuple[int, ...]:
    """`size` as one length for each grid axis."""
    lengths = (size,) * len(grid_shape) if isinstance(size, int) else tuple(size)
    if len(lengths) != len(grid_shape):
        raise ValueError(f"data.patch.size={size}: one number, or one for each of {grid_shape}")
    return lengths


def stitch(
    patches: Float[np.ndarray, "n *size C"],
    grid_shape: Sequence[int],
    size: int | Sequence[int],
    overlap: int = 0,
) -> Float[np.ndarray, "*grid C"]:
    """Patches [n, *size, C] of one signal, in the order of patch_corners, blended to [*grid, C].

    Every patch is weighted by a raised cosine that falls over `overlap` samples towards each of its
    borders inside the signal; weights are divided by their sum, so that they sum to one at every
    sample and unchanged patches give the signal back. Raises ValueError for another shape.
    """
    patches = np.asarray(patches)
    corners = patch_corners(grid_shape, size, overlap)
    sizes = axis_sizes(size, grid_shape)
    if patches.ndim != len(grid_shape) + 2 or patches.shape[:-1] != (len(corners), *sizes):
        raise ValueError(
            f"patches of shape {list(patches.shape)}: a signal of {list(grid_shape)} needs "
            f"[{len(corners)}, {', '.join(map(str, sizes))}, C]"
        )
    # In float64, so that blending equal values returns them to the last bit of float32.
    total = np.zeros((*grid_shape, patches.shape[-1]))
    weight = np.zeros((*grid_shape, 1))
    for patch, corner in zip(patches, corners, strict=True):
        window = _weights(corner, sizes, grid_shape, overlap)[..., None]
        total[window_slices(corner, sizes)] += window * patch
        weight[window_slices(corner, sizes)] += window
    return (total / weight).astype(patches.dtype)


def _starts(count, length, overlap):
    """First samples along one axis; the last patch ends with the axis."""
    stride = length - overlap
    number = math.ceil((count - length) / stride) + 1
    return [min(index * stride, count - length) for index in range(number)]


def _weights(corner, sizes, grid_shape, overlap):
    """Unnormalised weights of one patch, [*size], positive everywhere."""
    weights = np.ones(())
    for start, length, count in zip(corner, sizes, grid_shape, strict=True):
        ramp = np.ones(length)
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / max(overlap, 1))
        if start > 0:
            ramp[:overlap] *= rise
        if start + length < count:
            ramp[length - overlap :] *= rise[::-1]
        weights = np.multiply.outer(weights, ramp)
    return weights
