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
    Signals may differ in size where the collection has .grid(i), the samples along each axis of
    signal i: grids has those of all, counts how many patches each is. Patches follow one another,
    signal by signal; names are 'x/r_c' with the patch's first row and column. What the collection
    knows of hidden parts (seen, truth, unmeasured) is cut in the same way.
    Raises ValueError naming data.patch.size or data.patch.overlap when they do not fit.
    """

    def __init__(self, collection: Collection, size: int | Sequence[int], overlap: int = 0):
        self.collection = collection
        own = getattr(collection, "grid", None)
        whole = tuple(collection.shape[:-1])
        self.grids = [tuple(own(i)) if own else whole for i in range(len(collection))]
        self.size = axis_sizes(size, whole)
        self.overlap = overlap
        corners = {grid: patch_corners(grid, size, overlap) for grid in dict.fromkeys(self.grids)}
        self.corners = [corners[grid] for grid in self.grids]
        self.counts = [len(places) for places in self.corners]
        self.ends = np.cumsum(self.counts)
        self.shape = (*self.size, collection.shape[-1])
        self.title = f"{collection.title}, patches"
        self.names = [
            f"{name}/{'_'.join(map(str, corner))}"
            for name, places in zip(collection.names, self.corners, strict=True)
            for corner in places
        ]
        # Patches are mostly read in order: the signal they are cut from is decoded once.
        self._latest: dict[str, tuple] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        original, corner = self._place(index)
        if getattr(self.collection, "windows", False):
            return self.collection.window(original, corner, self.size)
        return self._cut("values", self.collection.__getitem__, original, corner)

    def __getattr__(self, name):
        if name == "unmeasured":
            return self.collection.unmeasured
        if name not in ("seen", "truth"):
            raise AttributeError(name)
        known = getattr(self.collection, name)
        return lambda index: self._cut(name, known, *self._place(index))

    def _place(self, index):
        """The signal that a patch is cut from, and its first sample along each axis."""
        at = position(index, len(self))
        original = int(np.searchsorted(self.ends, at, side="right"))
        first = int(self.ends[original]) - self.counts[original]
        return original, self.corners[original][at - first]

    def _cut(self, name, read, original, corner):
        # One tuple, read and replaced whole, so that threads never mix two signals.
        latest, signal = self._latest.get(name, (None, None))
        if latest != original:
            signal = read(original)
            self._latest[name] = (original, signal)
        if signal is None:
            return None
        return np.ascontiguousarray(signal[window_slices(corner, self.size)])


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
