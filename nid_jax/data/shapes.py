"""Built-in solids with their signed distances: seeded families of chairs, tables, lamps, planes.

Every shape is composed from primitives whose distances are known in closed form, so a collection
of any size and resolution needs no file. The second axis points up. Lengths are in units of the
cube [-1, 1]^3, in which every shape's longest side spans [-0.9, 0.9].
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence

import numpy as np
import trimesh
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from nid_jax.data.collection import position
from nid_jax.data.splitting import MADE, configured_size
from nid_jax.geometry import level_set
from nid_jax.geometry.primitives import box, capsule, ellipsoid, frustum, union
from nid_jax.geometry.truncation import Truncation

REACH = 0.9
"""Half the longest side of every shape."""

# Samples a side of the mesh that stands for the true surface.
_MESH_SIDE = 128
_SAMPLED_SIDE = 64
# Points of a cloud, and how far near samples lie off the surface, as standard deviations.
_SAMPLES = 8192
_SPREADS = (0.02, 0.07)
# Numbers of grids that are kept once computed: 2 GiB.
_KEPT_NUMBERS = 2**29

Distance = Callable[[Float[np.ndarray, "P 3"]], Float[np.ndarray, " P"]]
"""A signed distance, negative inside."""


@dataclasses.dataclass(frozen=True)
class Solid:
    """A shape: its signed distance, points [P, 3] -> [P], and the corners of its bounding box."""

    distance: Distance
    low: np.ndarray
    high: np.ndarray


class Parts:
    """Solids being put together, in any units; `solid` brings them to the cube."""

    def __init__(self):
        self._parts, self._lows, self._highs = [], [], []

    def box(self, centre: ArrayLike, half: ArrayLike, tilt: float = 0.0) -> None:
        """A box, turned by `tilt` radians about the first axis through its centre."""
        centre, half = np.asarray(centre, float), np.asarray(half, float)
        cos, sin = np.cos(tilt), np.sin(tilt)
        turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        self._add(lambda p: box((p - centre) @ turn, half), centre, np.abs(turn) @ half)

    def rod(self, start: ArrayLike, end: ArrayLike, radius: float) -> None:
        """All within `radius` of a segment."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        reach = np.abs(end - start) / 2 + radius
        self._add(lambda p: capsule(p, start, end, radius), (start + end) / 2, reach)

    def turned(
        self,
        low: float,
        high: float,
        bottom: float,
        top: float,
        centre: Sequence[float] = (0.0, 0.0),
    ) -> None:
        """A cone frustum that stands on height `low`."""
        shift = np.array([centre[0], 0.0, centre[1]])
        wide = max(bottom, top)
        middle = shift + [0, (low + high) / 2, 0]
        half = np.array([wide, (high - low) / 2, wide])
        self._add(lambda p: frustum(p - shift, low, high, bottom, top), middle, half)

    def ball(self, centre: ArrayLike, radii: ArrayLike) -> None:
        """An ellipsoid."""
        centre, radii = np.asarray(centre, float), np.asarray(radii, float)
        self._add(lambda p: ellipsoid(p - centre, radii), centre, radii)

    def blade(
        self, root: ArrayLike, tip: ArrayLike, chords: Sequence[float], thickness: float
    ) -> None:
        """A wing: from root to tip [3], its chords along the third axis tapering."""
        root, tip = np.asarray(root, float), np.asarray(tip, float)
        steps = np.linspace(0, 1, 5)
        for a, b in zip(steps[:-1], steps[1:], strict=True):
            # Flat boxes along a swept line, each as deep as the taper has it there.
            start, end = root + a * (tip - root), root + b * (tip - root)
            chord = chords[0] + (a + b) / 2 * (chords[1] - chords[0])
            half = np.abs(end - start) / 2 + [0.01, 0.0, 0.0]
            across = np.maximum(half, thickness)
            across[2] = chord / 2
            self.box((start + end) / 2, across)

    def _add(self, part, centre, half):
        self._parts.append(part)
        self._lows.append(np.asarray(centre, float) - half)
        self._highs.append(np.asarray(centre, float) + half)

    def solid(self) -> Solid:
        """The union, centred and scaled to the cube. -> Solid."""
        low, high = np.min(self._lows, 0), np.max(self._highs, 0)
        centre, scale = (low + high) / 2, 2 * REACH / (high - low).max()
        parts = tuple(self._parts)

        def distance(points):
            inner = np.asarray(points, np.float64) / scale + centre
            return scale * union(*(part(inner) for part in parts))

        return Solid(distance, (low - centre) * scale, (high - centre) * scale)


def chair(draw: np.random.Generator) -> "Solid":
    """Four legs, a seat, a back of one of three kinds, now and then arms and stretchers."""
    parts, leg = Parts(), draw.uniform(0.045, 0.08)
    width, depth, seat = draw.uniform(0.42, 0.6), draw.uniform(0.42, 0.58), draw.uniform(0.05, 0.1)
    height, back = draw.uniform(0.55, 0.9), draw.uniform(0.55, 1.0)
    parts.box((0, height, 0), (width, seat, depth))
    splay = draw.uniform(0.0, 0.1)
    round_legs = draw.random() < 0.4
    for x in (-1, 1):
        for z in (-1, 1):
            top = (x * (width - leg), height, z * (depth - leg))
            foot = (x * (width - leg + splay), leg, z * (depth - leg + splay))
            if round_legs:
                parts.rod(foot, top, leg)
            else:
                parts.box((top[0], height / 2, top[2]), (leg, height / 2, leg))
    if draw.random() < 0.4:
        level = height * draw.uniform(0.25, 0.5)
        for x in (-1, 1):
            parts.box((x * (width - leg), level, 0), (leg * 0.7, leg * 0.7, depth - leg))
    _back(parts, draw, (width, depth, height, back, leg))
    if draw.random() < 0.35:
        level = height + back * draw.uniform(0.35, 0.5)
        for x in (-1, 1):
            parts.box((x * (width - leg), level, 0), (leg, leg * 0.8, depth - leg))
            middle = (height + level) / 2
            parts.box(
                (x * (width - leg), middle, depth - 2 * leg), (leg, (level - height) / 2, leg)
            )
    return parts.solid()


def _back(parts, draw, sizes):
    width, depth, height, back, leg = sizes
    kind, tilt = draw.integers(3), draw.uniform(0.0, 0.15)
    middle = (0, height + back / 2, -depth + leg - tilt * back / 2)
    if kind == 0:
        parts.box(middle, (width, back / 2, leg * 0.9), -tilt)
        return
    posts = (-1, 1) if kind == 1 else (-1, -0.33, 0.33, 1)
    for x in posts:
        place = (x * (width - leg), middle[1], middle[2])
        parts.box(place, (leg, back / 2, leg * 0.9), -tilt)
    for share in (0.92,) if kind == 2 else (0.3, 0.62, 0.94):
        at = share * back
        parts.box(
            (0, height + at, -depth + leg - tilt * at), (width, back * 0.07, leg * 0.8), -tilt
        )


def table(draw: np.random.Generator) -> "Solid":
    """A top, round or not, on four legs or a pedestal, now and then with a shelf."""
    parts, leg = Parts(), draw.uniform(0.05, 0.09)
    width, depth = draw.uniform(0.6, 1.0), draw.uniform(0.45, 0.8)
    height, top = draw.uniform(0.5, 0.9), draw.uniform(0.04, 0.08)
    if draw.random() < 0.3:
        radius = draw.uniform(0.6, 0.9)
        parts.turned(height - top, height + top, radius, radius)
        foot = draw.uniform(0.3, 0.5)
        parts.turned(0, height, leg * 1.2, leg * 1.2)
        parts.turned(0, 2 * top, foot, foot * 0.7)
        return parts.solid()
    parts.box((0, height, 0), (width, top, depth))
    inset = draw.uniform(0.0, 0.12)
    for x in (-1, 1):
        for z in (-1, 1):
            place = (x * (width - leg - inset), height / 2, z * (depth - leg - inset))
            parts.box(place, (leg, height / 2, leg))
    if draw.random() < 0.4:
        level = height * draw.uniform(0.2, 0.45)
        parts.box((0, level, 0), (width - leg - inset, top * 0.8, depth - leg - inset))
    return parts.solid()


def lamp(draw: np.random.Generator) -> "Solid":
    """A foot, a pole, a shade."""
    parts, pole = Parts(), draw.uniform(0.045, 0.08)
    foot, height = draw.uniform(0.25, 0.45), draw.uniform(1.0, 1.6)
    shade, length = draw.uniform(0.3, 0.55), draw.uniform(0.35, 0.6)
    parts.turned(0, draw.uniform(0.06, 0.14), foot, foot * draw.uniform(0.6, 1.0))
    parts.turned(0, height, pole, pole)
    parts.turned(height - length / 2, height + length / 2, shade, shade * draw.uniform(0.4, 1.0))
    if draw.random() < 0.4:
        radius = draw.uniform(0.12, 0.25)
        parts.ball((0, height * draw.uniform(0.25, 0.45), 0), (radius, radius * 1.3, radius))
    return parts.solid()


def plane(draw: np.random.Generator) -> "Solid":
    """A fuselage along the third axis, wings, a tail, two or four engines."""
    parts, radius = Parts(), draw.uniform(0.09, 0.14)
    span, chord = draw.uniform(0.7, 1.0), draw.uniform(0.3, 0.45)
    sweep, thick = draw.uniform(0.05, 0.45), draw.uniform(0.035, 0.05)
    parts.ball((0, 0, 0), (radius, radius, 1.0))
    parts.rod((0, 0, -0.55), (0, 0, 0.6), radius * 0.9)
    level, taper = draw.uniform(-0.05, 0.04), draw.uniform(0.3, 0.6)
    rise, rear = draw.uniform(0.22, 0.36), draw.uniform(0.28, 0.4)
    engines = draw.integers(0, 3)
    for side in (-1, 1):
        tip = (side * span, level + 0.04, 0.1 - sweep)
        parts.blade((0, level, 0.1), tip, (chord, chord * taper), thick)
        tail = (side * rear, 0.03, -0.88 - sweep / 4)
        parts.blade((0, 0.03, -0.85), tail, (0.22, 0.12), thick * 0.9)
        for number in range(engines):
            x, z = side * (0.35 + 0.28 * number) * span, 0.2 - sweep * (0.35 + 0.28 * number)
            parts.rod((x, level - 0.09, z - 0.1), (x, level - 0.09, z + 0.12), 0.055)
    parts.box((0, rise / 2 + 0.03, -0.86), (thick, rise / 2, 0.11))
    return parts.solid()


FAMILIES = {"chairs": chair, "tables": table, "lamps": lamp, "planes": plane}


class ShapeCollection:
    """Truncated signed distances [N, N, N, 1] of shapes of one or several families.

    size N; truncation: a `geometry.truncation.Truncation`; offset: number of the first shape, so
    that splits do not overlap. A shape is a function of (seed, family, its number) alone. Shapes of
    several families take turns.
    """

    def __init__(
        self,
        families: Sequence[str],
        count: int,
        size: int,
        truncation: Truncation,
        seed: int,
        offset: int = 0,
    ):
        self.families, self.seed, self.offset = tuple(families), seed, offset
        self.shape = (size, size, size, 1)
        self.truncation = truncation
        turns = [(i % len(self.families), offset + i // len(self.families)) for i in range(count)]
        self._turns, self._grids = turns, {}
        self._clouds, self._nears = {}, {}
        self.names = [f"{self.families[kind][:-1]}_{number:05d}" for kind, number in turns]
        self.title = f"shapes ({', '.join(self.families)})"

    def __len__(self) -> int:
        return len(self.names)

    def solid(self, index: int) -> Solid:
        """The shape itself. -> Solid."""
        kind, number = self._turns[position(index, len(self))]
        name = self.families[kind]
        draw = np.random.default_rng([self.seed, list(FAMILIES).index(name), number])
        return FAMILIES[name](draw)

    def __getitem__(self, index: int) -> Float[np.ndarray, "N N N 1"]:
        return self.truncation(self.untruncated(index))[..., None]

    def untruncated(self, index: int) -> Float[np.ndarray, "N N N"]:
        """Distances [N, N, N] as they are."""
        return self._cached(self._grids, index, self._sample_grid).copy()

    def _sample_grid(self, index):
        return distance_grid(self.solid(index).distance, self.shape[0])

    def distances(self, index: int, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
        """Signed distances [P] of one shape at points [P, 3], not truncated."""
        return self.solid(index).distance(points)

    def mesh(self, index: int, size: int = _MESH_SIDE) -> trimesh.Trimesh:
        """The surface as `size`^3 samples show it. -> trimesh.Trimesh."""
        distance = self.solid(index).distance
        vertices, faces, _ = level_set.extract(distance, size)
        return trimesh.Trimesh(vertices, faces, process=False)

    def cloud(self, index: int) -> Float[np.ndarray, "Q 6"]:
        """Points on the surface and their outward normals [Q, 6], evenly by area."""
        return self._cached(self._clouds, index, self._sample_surface)

    def near(self, index: int) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, " Q"]]:
        """Points [Q, 3] close to the surface and their distances [Q], truncated like the grid's."""
        return self._cached(self._nears, index, self._sample_near)

    def _cached(self, kept, index, make):
        """What was made before, as long as that takes no more than `_KEPT_NUMBERS`."""
        index = position(index, len(self))
        if index in kept:
            return kept[index]
        made = make(index)
        if (len(kept) + 1) * math.prod(self.shape) <= _KEPT_NUMBERS:
            kept[index] = made
        return made

    def _sample_surface(self, index):
        distance = self.solid(index).distance
        mesh = self.mesh(index, _SAMPLED_SIDE)
        seed = int(np.random.SeedSequence([self.seed, 1, index]).generate_state(1)[0])
        points, _ = trimesh.sample.sample_surface(mesh, _SAMPLES, seed=seed)
        # The mesh cuts corners: one step along the distance's own slope mends most of it.
        points = points - distance(points)[:, None] * slope(distance, points)
        normals = slope(distance, points)
        return np.concatenate([points, normals], 1).astype(np.float32)

    def _sample_near(self, index):
        draw = np.random.default_rng([self.seed, 2, index])
        points = self.cloud(index)[:, :3].astype(np.float64)
        # Half of them close, half not so close, as Park et al. 2019 (DeepSDF) draw them.
        spread = np.where(np.arange(len(points)) % 2, *_SPREADS)[:, None]
        points = np.clip(points + spread * draw.standard_normal(points.shape), -1, 1)
        distances = self.truncation(self.distances(index, points))
        return points.astype(np.float32), distances.astype(np.float32)

    def denormalise(self, index: int) -> Float[np.ndarray, "4 4"]:
        """Matrix [4, 4] from the cube to the shape's own units: they are the same."""
        return np.eye(4)

    def units(self, index: int) -> str:
        """What coordinates are in that `denormalise` leads to."""
        return "units of the cube [-1, 1]^3"

    def up(self, index: int) -> str:
        """The axis that points up."""
        return "y"


def distance_grid(distance: Distance, size: int) -> Float[np.ndarray, "N N N"]:
    """A distance function on the grid of the cube -> float32 [N, N, N]."""
    axis = np.linspace(-1, 1, size)
    values = np.empty((size, size, size), np.float32)
    plane = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    for number, x in enumerate(axis):
        points = np.concatenate([np.full((len(plane), 1), x), plane], 1)
        values[number] = distance(points).reshape(size, size)
    return values


def slope(
    distance: Distance, points: Float[np.ndarray, "P 3"], step: float = 0.0001
) -> Float[np.ndarray, "P 3"]:
    """Unit direction in which a distance function grows, by central differences. [P, 3]."""
    ahead = np.stack(
        [
            distance(points + step * axis) - distance(points - step * axis)
            for axis in np.eye(points.shape[1])
        ],
        -1,
    )
    return ahead / np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-12)


def open_shapes(config: ConfigDict, split: str, seed: int) -> ShapeCollection:
    """data.shapes.families ('chairs,tables', or 'all'), data.size, data.truncation and its kind.

    data.num_train and data.num_test shapes (0: 80 and 20). Raises ValueError naming a key.
    """
    wanted = config.shapes.families
    families = list(FAMILIES) if wanted == "all" else [f.strip() for f in wanted.split(",")]
    for name in families:
        if name not in FAMILIES:
            near = difflib.get_close_matches(name, FAMILIES, 1, 0.0)[0]
            raise ValueError(
                f"data.shapes.families: {name!r} is unknown, did you mean {near!r}? allowed: all, "
                f"or some of {', '.join(FAMILIES)}, separated by commas"
            )
    size, truncation = side_of(config), Truncation.from_config(config)
    count = config[f"num_{split}"] or MADE["shapes"][split]
    # Test shapes are drawn from numbers that no training collection reaches.
    offset = 0 if split == "train" else 10**6
    return ShapeCollection(families, count, size, truncation, seed, offset)


def side_of(config: ConfigDict) -> int:
    """N of data.size, three equal sides. Raises ValueError for others."""
    size = configured_size(config, 3) or ()
    if len(set(size)) != 1 or size[0] < 8:
        raise ValueError(
            f"data.size: {config.size}; allowed: three equal whole numbers, each 8 or more"
        )
    return size[0]
