"""Level sets as triangle meshes, from function values near the surface alone.

A lattice of N^3 samples holds about N^2 of them near a surface, and no others matter. Boxes of
cells are halved level by level, and a box is kept where its centre's value leaves room for the
surface in it: |f(centre) - level| <= lipschitz x half its diagonal. Where a surface that was found
leaves the kept boxes, it is followed, so each piece that is met at all is found whole. Marching
cubes (Lewiner et al. 2003, scikit-image's) then runs over slabs of the lattice; every sample is
evaluated once, a vertex is known by its lattice edge, and so slabs meet without a seam. A function
that costs little on a whole grid is not searched for its surface, but taken on all of the lattice.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from skimage.measure import marching_cubes

from nid_jax.errors import ArgumentError

Window = Sequence[tuple[float, float]]
"""(low, high) of each axis."""

LEAF = 2
"""Cells along the side of the smallest boxes: fewer evaluations than at 1 or 4."""
COARSE = 32
"""Boxes along the longest axis at the first level, at least."""
LIPSCHITZ = 1.5
"""How fast a function that is learned may change; a signed distance changes at rate 1."""
CHUNK = 2**18
"""Points that a function is given at a time."""

# Numbers of samples, and four times that of vertices, are int64.
_MOST_SAMPLES = 2**20
# Bytes for each box of a level while its centre is evaluated, and at least for each of the smallest
# until the mesh is there. Balls take 1400, chairs 2000, but the boxes of the first level foretell
# up to 2.4 times as many of the smallest as there are.
_BOX_BYTES, _LEAF_BYTES = 100, 600
# The share of `bound` that a box's reach may be at the first level: a learned function is not
# quite flat where its target was cut off.
_WITHIN_BOUND = 0.75
# Least distance of a vertex from the ends of its edge, in edges: no two vertices fall together.
_CLEARANCE = 1e-4
# Values handed to marching cubes are at least this share of the largest in magnitude, so that the
# edge of a vertex can be read off its float32 place. Places are taken from the true values.
_LEAST_SHARE = 1e-3
_SLAB_SAMPLES = 2**22
# Samples of a lattice that is evaluated as a whole, at most: 64 MB.
_WHOLE_SAMPLES = 2**24
# Samples near a surface that a search takes, in squares of the lattice's side: of chairs 12.
_NEAR = 8
_CHILDREN = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(8, 3)
_CORNERS = np.stack(np.meshgrid(*[range(LEAF + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)


class Effort(NamedTuple):
    """Points evaluated, points of the whole lattice, boxes kept at each side in cells."""

    evaluated: int
    lattice: int
    kept: dict[int, int]


class Lattice(NamedTuple):
    """Samples along each axis, and their coordinates."""

    shape: tuple[int, int, int]
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def over(cls, resolution: int | Sequence[int], window: Window | None = None) -> "Lattice":
        """resolution: samples per axis, one number or three; window as in `extract`.

        Raises ArgumentError for either where it is not what is allowed.
        """
        shape = np.broadcast_to(np.asarray(resolution), 3)
        if shape.dtype.kind not in "iu" or (shape < 2).any():
            raise ArgumentError("resolution", resolution, "whole numbers of 2 or more")
        if (shape > _MOST_SAMPLES).any():
            raise ArgumentError("resolution", resolution, f"at most {_MOST_SAMPLES}")
        window = ((-1.0, 1.0),) * 3 if window is None else window
        if len(window) != 3 or not all(-np.inf < low < high < np.inf for low, high in window):
            raise ArgumentError("window", window, "three pairs (low, high), finite, low < high")
        axes = []
        for size, (low, high) in zip(shape, window, strict=True):
            # About the middle, so that opposite samples of a symmetric window are opposite.
            step = np.arange(size, dtype=np.float64) / (size - 1) - 0.5
            axes.append((low + high) / 2 + (high - low) * step)
        return cls(tuple(int(size) for size in shape), tuple(axes))

    @property
    def steps(self) -> Float[np.ndarray, "3"]:
        """Distance between samples along each axis [3]."""
        return np.array([axis[1] - axis[0] for axis in self.axes])

    def at(self, places: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
        """Coordinates of places [P, 3] counted in samples, fractions included."""
        start = np.array([axis[0] for axis in self.axes])
        return start + places * self.steps

    def samples(self, numbers: Int[np.ndarray, " P"]) -> Float[np.ndarray, "P 3"]:
        """Coordinates of samples given by raster number [P] -> [P, 3]."""
        indices = np.unravel_index(numbers, self.shape)
        return np.stack([axis[i] for axis, i in zip(self.axes, indices, strict=True)], -1)

    def reach(self, side: int) -> float:
        """Half the diagonal of a box of `side` cells."""
        return side * np.linalg.norm(self.steps) / 2

    def centres(self, boxes: Int[np.ndarray, "B 3"], side: int) -> Float[np.ndarray, "B 3"]:
        """Middles of boxes [B, 3], given by their first cell -> [B, 3]."""
        ends = np.minimum(boxes + side, np.array(self.shape) - 1)
        return self.at((boxes + ends) / 2)


@dataclasses.dataclass(frozen=True)
class Search:
    """How a surface is looked for. Raises ArgumentError, naming the field that is not above 0."""

    coarse: int = COARSE
    """Boxes along the longest axis at the first level, at least."""
    lipschitz: float = LIPSCHITZ
    """No surface is missed where the function changes no faster than this."""
    bound: float | None = None
    """The magnitude at which the function is cut off (a truncated distance): the first level is
    then fine enough to see the surface."""
    chunk: int = CHUNK
    """Points that the function is given at a time, at most."""
    memory: int = 0
    """Bytes beyond which a surface is refused as soon as that is seen; 0 for any."""

    def __post_init__(self):
        for name in ("coarse", "lipschitz", "chunk"):
            if not 0 < getattr(self, name) < np.inf:
                raise ArgumentError(name, getattr(self, name), "above 0, finite")
        if self.bound is not None and not 0 < self.bound < np.inf:
            raise ArgumentError("bound", self.bound, "above 0, or None for a function without one")


def extract(
    function: Callable[[Float[np.ndarray, "P 3"]], Float[np.ndarray, " P"]],
    resolution: int | Sequence[int],
    window: Window | None = None,
    level: float = 0.0,
    search: Search | None = None,
    coarse_values: Float[np.ndarray, " B"] | None = None,
    on_grid: Callable[[Sequence[np.ndarray]], Float[np.ndarray, "..."]] | None = None,
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], Effort]:
    """The surface function = level over a box of space, as a mesh of triangles.

    Triangles turn anticlockwise seen from where values are larger. The mesh is closed where the
    surface does not leave the window, and has no vertices where there is no surface.

    Args:
      function: points float64 -> values.
      resolution: samples along each axis, both ends included, one number or three.
      window: ((low, high),) * 3, None for [-1, 1]^3.
      search: how the surface is looked for, None for the defaults.
      coarse_values: the function at `coarse_points`, where they are known.
      on_grid: the function at all points of a grid, by the coordinates along each of its axes,
        where that takes no longer than the points of a search do: the lattice is then evaluated at
        once, and nothing is searched for. Of a lattice that `may_be_whole`.

    Raises:
      ArgumentError: resolution or window is not what is allowed; the surface takes more memory.
      ValueError: the function is not finite, or gives other than P values.
    """
    search = search or Search()
    lattice = Lattice.over(resolution, window)
    counted = _Counted(function, level, search.chunk)
    if on_grid is not None:
        whole = _Whole(lattice, counted, on_grid)
        boxes = whole.holding()
        vertices, faces = _triangulate(lattice, whole, boxes)
        effort = Effort(counted.points, counted.points, {LEAF: len(boxes)})
        return lattice.at(vertices), faces, effort
    boxes, kept = _search(lattice, counted, search, coarse_values)
    samples = _Samples(lattice, counted)
    boxes = _follow(lattice, samples, boxes)
    kept[LEAF] = len(boxes)
    vertices, faces = _triangulate(lattice, samples, boxes)
    return lattice.at(vertices), faces, Effort(counted.points, int(np.prod(lattice.shape)), kept)


def may_be_whole(resolution: int | Sequence[int]) -> bool:
    """Whether all values of a lattice may be held at once. Raises as `extract`."""
    return math.prod(Lattice.over(resolution).shape) <= _WHOLE_SAMPLES


def searched_points(
    resolution: int | Sequence[int], window: Window | None = None, search: Search | None = None
) -> int:
    """About how many points `extract` with these settings evaluates in a search."""
    lattice = Lattice.over(resolution, window)
    boxes, _ = _first_count(lattice, search or Search())
    return math.prod(boxes) + int(_NEAR * math.prod(lattice.shape) ** (2 / 3))


def coarse_points(
    resolution: int | Sequence[int], window: Window | None = None, search: Search | None = None
) -> Float[np.ndarray, "B 3"]:
    """The points that `extract` with these settings asks for first, whatever the function.

    Many functions that are cheap to evaluate together can be evaluated there at once.
    """
    lattice = Lattice.over(resolution, window)
    boxes, side = _first_boxes(lattice, search or Search())
    return lattice.centres(boxes, side)


class _Counted:
    """The function less its level, in chunks; counts its points."""

    def __init__(self, function, level, chunk):
        self.function, self.level, self.chunk, self.points = function, level, chunk, 0

    def __call__(self, count, points_of):
        """Values [count] float32 at points_of(start, stop)."""
        values = np.empty(count, np.float32)
        for start in range(0, count, self.chunk):
            stop = min(start + self.chunk, count)
            points = points_of(start, stop)
            found = self.function(points)
            values[start:stop] = self.checked(found, stop - start, points.__getitem__)
        self.points += count
        return values

    def checked(self, values, count, points_of):
        """Values less the level, of so many points; points_of: those of some numbers."""
        values = np.asarray(values)
        if values.shape != (count,):
            raise ValueError(f"function gave shape {values.shape} for {count} points")
        if not np.isfinite(values).all():
            place = points_of(np.argmin(np.isfinite(values))).round(4).tolist()
            raise ValueError(f"function is not finite at {place}")
        return values - self.level


class _Samples:
    """Values of lattice samples, each evaluated when first asked for."""

    def __init__(self, lattice, counted):
        self.lattice, self.counted = lattice, counted
        self.numbers, self.values = np.empty(0, np.int64), np.empty(0, np.float32)

    def at(self, numbers):
        """Values of samples by raster number [...] -> [...]."""
        asked = np.unique(numbers)
        new = np.setdiff1d(asked, self.numbers, assume_unique=True)
        if len(new):
            values = self.counted(len(new), lambda a, b: self.lattice.samples(new[a:b]))
            places = np.searchsorted(self.numbers, new)
            self.values = np.insert(self.values, places, values)
            self.numbers = np.insert(self.numbers, places, new)
        return self.values[np.searchsorted(self.numbers, numbers)]

    def sheets(self, start, stop):
        """Values of samples [stop - start, ...] along the first axis, 1 where not asked for."""
        shape = (stop - start, *self.lattice.shape[1:])
        first = start * math.prod(shape[1:])
        span = slice(*np.searchsorted(self.numbers, [first, first + math.prod(shape)]))
        values = np.ones(shape, np.float32)
        values.ravel()[self.numbers[span] - first] = self.values[span]
        return values


class _Whole:
    """Values of all samples of a lattice, evaluated at once."""

    def __init__(self, lattice, counted, on_grid):
        self.lattice = lattice
        values = np.asarray(on_grid(lattice.axes), np.float32)
        counted.points += values.size
        known = counted.checked(values.ravel(), values.size, lattice.samples)
        self.values = known.reshape(lattice.shape)

    def sheets(self, start, stop):
        """As of `_Samples`."""
        return self.values[start:stop]

    def holding(self):
        """All boxes of side LEAF that hold the surface [B, 3]."""
        inside = self.values <= 0
        some, every = inside, inside
        for axis, count in enumerate(self.lattice.shape):
            starts = np.arange(0, count - 1, LEAF)
            ends = [np.minimum(starts + step, count - 1) for step in range(LEAF + 1)]
            some = functools.reduce(np.logical_or, (some.take(end, axis) for end in ends))
            every = functools.reduce(np.logical_and, (every.take(end, axis) for end in ends))
        return LEAF * np.argwhere(some & ~every)


def _first_boxes(lattice, search):
    """The boxes of the first level [B, 3] by their first cell, and their side in cells."""
    counts, side = _first_count(lattice, search)
    _check_memory(lattice, search, math.prod(counts) * _BOX_BYTES)
    starts = [side * np.arange(count) for count in counts]
    return np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3), side


def _first_count(lattice, search):
    """Boxes of the first level along each axis, and their side in cells."""
    cells = np.array(lattice.shape) - 1
    side = LEAF
    widest = np.inf if search.bound is None else _WITHIN_BOUND * search.bound
    while (
        -(-cells.max() // (2 * side)) >= search.coarse
        and search.lipschitz * lattice.reach(2 * side) <= widest
    ):
        side *= 2
    return (-(-cells // side)).tolist(), side


def _check_memory(lattice, search, needed):
    """Raise ArgumentError for more bytes than there are."""
    if search.memory and needed > search.memory:
        gib = 2.0**30
        raise ArgumentError(
            "resolution",
            lattice.shape,
            f"what fits into the {search.memory / gib:.3g} GiB there are; the surface takes "
            f"{needed / gib:.3g} GiB or more",
        )


def _search(lattice, counted, search, values=None):
    """Boxes of side LEAF that may hold the surface [B, 3], and how many are kept at each side."""
    boxes, side = _first_boxes(lattice, search)
    kept = {}
    if values is not None:
        counted.points += len(boxes)
        values = counted.checked(values, len(boxes), lattice.centres(boxes, side).__getitem__)
    while True:
        if values is None:
            values = counted(
                len(boxes), lambda a, b, boxes=boxes, side=side: lattice.centres(boxes[a:b], side)
            )
        boxes = boxes[np.abs(values) <= search.lipschitz * lattice.reach(side)]
        kept[side] = len(boxes)
        # A surface is in four times the boxes of half the side.
        _check_memory(lattice, search, len(boxes) * (side // LEAF) ** 2 * _LEAF_BYTES)
        if side == LEAF:
            return boxes, kept
        side //= 2
        boxes = (boxes[:, None] + side * _CHILDREN).reshape(-1, 3)
        boxes = boxes[(boxes < np.array(lattice.shape) - 1).all(1)]
        values = None


def _corner_numbers(lattice, boxes):
    """Raster numbers of the samples of boxes of side LEAF [B, (LEAF + 1)^3]."""
    indices = np.minimum(boxes[:, None] + _CORNERS, np.array(lattice.shape) - 1)
    return np.ravel_multi_index(tuple(np.moveaxis(indices, -1, 0)), lattice.shape)


def _follow(lattice, samples, boxes):
    """The boxes that hold the surface: those given that do, and all it goes on to from them."""
    cells = np.array(lattice.shape) - 1
    counts = tuple(-(-cells // LEAF))
    seen = np.empty(0, np.int64)
    holding, fresh = [], boxes
    while len(fresh):
        seen = np.union1d(seen, np.ravel_multi_index(tuple(fresh.T // LEAF), counts))
        inside = samples.at(_corner_numbers(lattice, fresh)) <= 0
        holding.append(fresh[inside.any(1) & ~inside.all(1)])
        inside = inside.reshape(-1, *[LEAF + 1] * 3)
        beyond = []
        for axis in range(3):
            for end, step in ((0, -LEAF), (LEAF, LEAF)):
                face = inside.take(end, axis + 1).reshape(len(fresh), -1)
                crossed = fresh[face.any(1) & ~face.all(1)].copy()
                crossed[:, axis] += step
                beyond.append(crossed)
        beyond = np.concatenate(beyond)
        beyond = beyond[((beyond >= 0) & (beyond < cells)).all(1)]
        numbers = np.unique(np.ravel_multi_index(tuple(beyond.T // LEAF), counts))
        numbers = np.setdiff1d(numbers, seen, assume_unique=True)
        fresh = LEAF * np.stack(np.unravel_index(numbers, counts), -1)
    return np.concatenate(holding) if holding else boxes


def _triangulate(lattice, samples, boxes):
    """Marching cubes over the boxes [B, 3] -> vertices [V, 3] counted in samples, faces [F, 3]."""
    sheet = lattice.shape[1] * lattice.shape[2]
    thickness = max(LEAF, _SLAB_SAMPLES // sheet // LEAF * LEAF)
    slab_of = boxes[:, 0] // thickness
    keys, places, triangles = [np.empty(0, np.int64)], [np.empty((0, 3))], []
    for slab in np.unique(slab_of):
        found = _slab(lattice, samples, boxes[slab_of == slab], slab * thickness, thickness)
        # Vertices are numbered over all slabs; those on a seam have two numbers until welded.
        triangles.append(found[2] + sum(map(len, keys)))
        keys.append(found[0])
        places.append(found[1])
    if not triangles:
        return np.empty((0, 3)), np.empty((0, 3), np.int64)
    _, first, number = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    return np.concatenate(places)[first], number[np.concatenate(triangles)]


def _slab(lattice, samples, boxes, start, thickness):
    """Marching cubes over the boxes of one slab of cells.

    -> vertices' keys int64 [V], places [V, 3] counted in samples of the lattice, faces [F, 3].
    """
    shape = (min(thickness, lattice.shape[0] - 1 - start) + 1, *lattice.shape[1:])
    values = samples.sheets(start, start + shape[0])
    mask = np.zeros(shape, bool)
    boxes = boxes - [start, 0, 0]
    for cell in _CHILDREN:
        cells = boxes + cell
        # scikit-image knows a cell by its far corner.
        far = cells[(cells < np.array(shape) - 1).all(1)] + 1
        mask[tuple(far.T)] = True
    low, high = boxes.min(0), np.minimum(boxes.max(0) + LEAF + 1, shape)
    crop = tuple(map(slice, low, high))
    values, mask = values[crop], mask[crop]
    least = _LEAST_SHARE * np.abs(values[mask]).max()
    stretched = np.where(values <= 0, -1, 1) * np.maximum(np.abs(values), least)
    places, faces, _, _ = marching_cubes(stretched.astype(np.float32), 0.0, mask=mask)
    keys, places = _on_edges(places.astype(np.float64), values, low + [start, 0, 0], lattice.shape)
    return keys, places, faces.astype(np.int64)


def _on_edges(places, values, offset, shape):
    """What vertices are known by, and where they are.

    places: marching cubes' [V, 3] counted in samples of `values`, whose first sample is number
    `offset` of the lattice. -> keys int64 [V], places [V, 3] in the lattice. A vertex lies on an
    edge, where the line between the values at its ends crosses zero; a few lie within a cell.
    """
    rounded = np.rint(places)
    between = rounded != places
    base = np.where(between, np.floor(places), rounded).astype(np.int64)
    within = between.sum(1) > 1
    axis = between.argmax(1)
    step = np.eye(3, dtype=np.int64)[axis]
    sizes = np.abs(values.astype(np.float64))
    first, last = sizes[tuple(base.T)], sizes[tuple((base + step * ~within[:, None]).T)]
    share = np.divide(first, first + last, out=np.full_like(first, 0.5), where=first + last > 0)
    placed = base + step * np.clip(share, _CLEARANCE, 1 - _CLEARANCE)[:, None]
    placed[within] = _weighted_middles(base[within], sizes)
    keys = 4 * np.ravel_multi_index(tuple((base + offset).T), shape) + np.where(within, 3, axis)
    return keys, placed + offset


def _weighted_middles(cells, sizes):
    """Means of the corners of cells [V, 3], weighted as in Lewiner et al. by 1 / |value|."""
    corners = cells[:, None] + _CHILDREN
    weights = 1 / (np.finfo(np.float64).eps + sizes[tuple(np.moveaxis(corners, -1, 0))])
    return (weights[..., None] * corners).sum(1) / weights.sum(1, keepdims=True)
