"""Warped copies of volumes: each axis stretched here and squeezed there, by a random monotone map.

Furniture, vehicles and the like differ in the lengths of their parts along three axes far more
than in anything else, so from a few dozen shapes this makes a thousand that might have been. A
warped signed distance is no distance any more, but it is one near its zero, to first order, when it
is divided by the length of its gradient; that is where truncated distances matter.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Float

from nid_jax.data.collection import Collection, position

# Slopes below and above these would make distances of next to nothing, or of anything.
_SLOPES = (0.5, 2.0)
# Strength at which one part of an axis is often ten times as long as another.
_STRONGEST = 2


class WarpedVolumes:
    """`collection` followed by `copies` warped copies of each of its volumes, names 'x/warp1'.

    collection: as `shapes.ShapeCollection`, with `untruncated`, `cloud` and `near`. strength:
    standard deviation of the logarithm of the stretch of each of `pieces` equal parts of an axis;
    the cube as a whole stays what it is. Copies are a function of (seed, volume, copy) alone.
    Raises ValueError naming data.augment.warps, .strength or .pieces.
    """

    def __init__(
        self, collection: Collection, copies: int, strength: float, pieces: int, seed: int
    ):
        if not copies >= 0:
            raise ValueError(f"data.augment.warps: {copies}; allowed: 0 or more")
        for key, value, least, most in (
            ("strength", strength, 0, _STRONGEST),
            ("pieces", pieces, 1, min(collection.shape[:3])),
        ):
            if not least <= value <= most:
                raise ValueError(f"data.augment.{key}: {value}; allowed: {least} to {most}")
        self.collection, self.copies = collection, copies
        self.strength, self.pieces, self.seed = strength, pieces, seed
        self.shape, self.truncation = tuple(collection.shape), collection.truncation
        suffixes = ["", *(f"/warp{copy + 1}" for copy in range(copies))]
        self.names = [name + suffix for suffix in suffixes for name in collection.names]
        self.title = f"{collection.title}, warped {copies} x {strength} x {pieces}"
        self.cache = getattr(collection, "cache", "")

    def __len__(self) -> int:
        return len(self.names)

    def _place(self, index):
        """-> (which copy, 0 for the volume itself; which volume)."""
        return divmod(position(index, len(self)), len(self.collection))

    def knots(self, copy: int, original: int) -> Float[np.ndarray, "3 K"]:
        """Places [3, pieces + 1] of the copy that are at even places of the original."""
        draw = np.random.default_rng([self.seed, 4, original, copy])
        steps = np.exp(self.strength * draw.standard_normal((3, self.pieces)))
        ends = np.concatenate([np.zeros((3, 1)), np.cumsum(steps, 1)], 1)
        return 2 * ends / ends[:, -1:] - 1

    def __getitem__(self, index: int) -> Float[np.ndarray, "N N N 1"]:
        copy, original = self._place(index)
        if not copy:
            return self.collection[original]
        values = warped(self.collection.untruncated(original), self.knots(copy, original))
        return self.truncation(values)[..., None].astype(np.float32)

    def cloud(self, index: int) -> Float[np.ndarray, "Q 6"]:
        """Points on the surface and their outward normals [Q, 6]."""
        copy, original = self._place(index)
        cloud = self.collection.cloud(original)
        if not copy:
            return cloud
        knots = self.knots(copy, original)
        points, slopes = _moved(cloud[:, :3].astype(np.float64), knots)
        normals = cloud[:, 3:] / slopes
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        return np.concatenate([points, normals], 1).astype(np.float32)

    def near(self, index: int) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, " Q"]]:
        """Points [Q, 3] close to the surface and distances [Q], of copies those of their grid."""
        copy, original = self._place(index)
        points, distances = self.collection.near(original)
        if not copy:
            return points, distances
        points, _ = _moved(points.astype(np.float64), self.knots(copy, original))
        places = (points + 1) / 2 * (np.array(self.shape[:-1]) - 1)
        grid = self[index][..., 0]
        distances = scipy.ndimage.map_coordinates(grid, places.T, order=1, mode="nearest")
        return points.astype(np.float32), distances

    def denormalise(self, index: int) -> Float[np.ndarray, "4 4"]:
        """That of the volume itself."""
        return self.collection.denormalise(self._place(index)[1])

    def units(self, index: int) -> str:
        """Those of the volume itself."""
        return self.collection.units(self._place(index)[1])

    def up(self, index: int) -> str:
        """As of the volume itself."""
        return self.collection.up(self._place(index)[1])


def _moved(points, knots):
    """Points [P, 3] of the original in the copy, and how far each axis is stretched there."""
    even = np.linspace(-1, 1, knots.shape[1])
    moved = np.stack([np.interp(points[:, a], even, knots[a]) for a in range(3)], 1)
    piece = np.clip(np.searchsorted(even, points, side="right") - 1, 0, len(even) - 2)
    stretch = np.diff(knots, axis=1) / (even[1] - even[0])
    return moved, np.stack([stretch[a, piece[:, a]] for a in range(3)], 1)


def warped(
    values: Float[np.ndarray, "N N N"], knots: Float[np.ndarray, "3 K"]
) -> Float[np.ndarray, "N N N"]:
    """Signed distances [N, N, N] of a shape whose axes are mapped from even places to `knots`.

    knots [3, K], increasing from -1 to 1. Linear between samples and divided by the length of the
    gradient: right to first order near the surface.
    """
    even, moved = np.linspace(-1, 1, knots.shape[1]), values
    for axis, count in enumerate(values.shape):
        samples = np.linspace(-1, 1, count)
        places = (np.interp(samples, knots[axis], even) + 1) / 2 * (count - 1)
        moved = _resampled(moved, places, axis)
    spacing = [2 / (count - 1) for count in values.shape]
    squares = sum(np.square(np.gradient(moved, step, axis=a)) for a, step in enumerate(spacing))
    return moved / np.clip(np.sqrt(squares), *_SLOPES)


def _resampled(values, places, axis):
    """Values at places of one axis, in samples, linear between them."""
    low = np.minimum(places.astype(int), values.shape[axis] - 2)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    share = (places - low).astype(values.dtype).reshape(shape)
    below, above = values.take(low, axis), values.take(low + 1, axis)
    return below + share * (above - below)
