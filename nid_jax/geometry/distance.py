"""Signed distances of triangle meshes: at points, on grids, and samples of and near the surface.

Magnitudes are |query - closest point|, signs those of the generalised winding number (Jacobson et
al. 2013; Barill et al. 2018): inside where it is more than 1/2. Such signs need no watertight mesh.
Letters: V vertices, F faces, P points, N samples along an axis.
"""

from collections.abc import Sequence

import igl
import numpy as np
from jaxtyping import Float, Int

TOLERANCE = 2e-4
"""Off the surface, cells of a grid are interpolated where that predicts their middle this well."""
# Cells along an axis of the coarsest lattice, at least.
_COARSEST = 24
# Winding numbers this far from 1/2 at all corners of a cell that no surface crosses settle it.
_MARGIN = 0.2
# Gradients at the corners of a cell disagree where their mean is shorter.
_KINK = 0.97
SPREADS = (0.0025**0.5, 0.00025**0.5)
"""Standard deviations of the noise of samples near a surface."""
# How far off a face its two sides are looked at: within these, and a change that tells.
_STEPS = (0.005, 0.05)
_CLEAR = 0.25


class Surface:
    """A mesh prepared for many queries. vertices: [V, 3]; faces: [F, 3]."""

    def __init__(self, vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]):
        self.vertices = np.ascontiguousarray(vertices, np.float64)
        self.faces = np.ascontiguousarray(faces, np.int64)
        self._tree = igl.AABB()
        self._tree.init(self.vertices, self.faces)
        self._hierarchy = igl.FastWindingNumberBVH()
        self._hierarchy.init(self.vertices, self.faces)

    def closest(
        self, points: Float[np.ndarray, "P 3"]
    ) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, "P 3"]]:
        """Unsigned distances [P] of points [P, 3], and directions [P, 3] away from the surface."""
        points = _rows(points)
        if not len(points):
            return np.zeros(0), np.zeros((0, 3))
        squared, _, found = self._tree.squared_distance(self.vertices, self.faces, points)
        distances = np.sqrt(np.atleast_1d(squared))
        return distances, (points - found) / np.maximum(distances, 1e-300)[:, None]

    def winding(self, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
        """Winding numbers [P] of points [P, 3], without sign: 1 inside a closed mesh, 0 outside.

        Without sign, since a mesh all of whose faces are turned inwards is as good.
        """
        return np.abs(np.atleast_1d(self._hierarchy.winding_number(_rows(points))))

    def signed(self, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, " P"]:
        """Signed distances [P] of points [P, 3], negative inside."""
        return np.where(self.winding(points) > 0.5, -1.0, 1.0) * self.closest(points)[0]


def _rows(points):
    return np.ascontiguousarray(points, np.float64).reshape(-1, 3)


def signed_distance(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    points: Float[np.ndarray, "P 3"],
) -> Float[np.ndarray, " P"]:
    """Exact signed distances [P] of points [P, 3] to a mesh, negative inside, in its units.

    libigl's own fast-winding distances are multiplied by (1 - 2 |winding number|), which is wrong
    off closed solids; these are not.
    """
    return Surface(vertices, faces).signed(points)


def distance_grid(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    size: int,
    truncation: float | None = None,
    tolerance: float = TOLERANCE,
) -> Float[np.ndarray, "N N N"]:
    """Signed distances on the grid of [-1, 1]^3: float32 [N, N, N], axes x, y, z, ends on +-1.

    From coarse to fine: every sample of a coarse lattice is queried, whose spacing is then halved
    again and again. All samples of a cell are queried if the surface may cross it, if the gradients
    at its corners disagree, or if the distance at its middle is predicted worse than `tolerance`;
    else they are interpolated (four-point subdivision, exact for cubics). So signs and both ends
    of every edge that the surface crosses are exact; docs/preparation.md has the errors off it.
    truncation: distances are clipped to +-truncation; less is then computed far off.
    Raises ValueError for size < 2.
    """
    if size < 2:
        raise ValueError(f"size={size}: a grid needs at least 2 samples along an axis")
    lattice = _Lattice(Surface(vertices, faces), size, tolerance, truncation or np.inf)
    while lattice.stride > 1:
        lattice.halve()
    grid = np.copysign(lattice.distances[2:-2, 2:-2, 2:-2], 0.5 - lattice.winding)
    grid = grid[:size, :size, :size].astype(np.float32)
    return np.clip(grid, -truncation, truncation, out=grid) if truncation else grid


class _Lattice:
    """Signed distances and winding numbers at every stride-th sample.

    distances: [M + 5]^3, nodes -2 .. M + 2; winding: [M + 1]^3, nodes 0 .. M; slopes: [M + 1]^3 x
    3, gradients of the distance; active: [M]^3, the cells that are not interpolated so far, at
    whose corners distances are exact and slopes known.
    """

    def __init__(self, surface, size, tolerance, truncation):
        self.surface, self.spacing = surface, 2 / (size - 1)
        self.tolerance, self.truncation = tolerance, truncation
        self.stride = 1
        while (size - 1) / (2 * self.stride) >= _COARSEST:
            self.stride *= 2
        cells = -(-(size - 1) // self.stride)
        nodes = np.ones((cells + 1,) * 3, bool)
        self.winding = surface.winding(self._points(nodes)).reshape(nodes.shape)
        distances, slopes = self._signed(nodes)
        self.slopes = slopes.reshape(*nodes.shape, 3)
        self.distances = distances.reshape(nodes.shape)
        for axis in range(3):
            self.distances = _extended(self.distances, axis)
        self.active = np.ones((cells,) * 3, bool)

    def _points(self, nodes):
        """Positions [P, 3] of the chosen nodes."""
        return np.argwhere(nodes) * (self.stride * self.spacing) - 1

    def halve(self):
        """Go on to half the stride."""
        corners = np.abs(_corners(self.distances[2:-2, 2:-2, 2:-2]))
        diagonal = 3**0.5 * self.stride * self.spacing
        # Every place in a cell is within half its diagonal of a corner, and a distance changes no
        # faster than its place.
        crossed = (corners.min(0) <= diagonal / 2) & (corners.max(0) <= diagonal)
        mean = _corners(self.slopes).mean(0)
        kinked = np.einsum("ijkl,ijkl->ijk", mean, mean) < _KINK**2
        self.stride //= 2
        self._halve_winding(crossed)
        for axis in range(3):
            self.distances = _subdivided(self.distances, axis)
        slopes = np.zeros((*self.winding.shape, 3), np.float32)
        slopes[::2, ::2, ::2] = self.slopes
        self.slopes = slopes
        beyond = corners.min(0) > self.truncation + diagonal
        self._refine(self.active & ~beyond, crossed | kinked)

    def _halve_winding(self, crossed):
        """Interpolate winding numbers where they are settled and no surface crosses the cell."""
        winding = _corners(self.winding)
        settled = (winding.min(0) > 0.5 + _MARGIN) | (winding.max(0) < 0.5 - _MARGIN)
        for axis in range(3):
            self.winding = _halved(self.winding, axis)
        unsure = _new_nodes(crossed | ~settled)
        self.winding[unsure] = self.surface.winding(self._points(unsure))

    def _refine(self, active, rough):
        """Replace interpolated distances in those of the active cells that call for it."""
        inner = self.distances[2:-2, 2:-2, 2:-2]
        middles = inner[1::2, 1::2, 1::2]
        rough = active & rough
        tested = np.zeros(inner.shape, bool)
        tested[1::2, 1::2, 1::2] = active & ~rough
        predicted = middles.copy()
        self._query(tested)
        rough |= np.abs(middles - predicted) > self.tolerance
        self._query(_new_nodes(rough) & ~tested)
        self.active = rough.repeat(2, 0).repeat(2, 1).repeat(2, 2)

    def _query(self, nodes):
        found = self._signed(nodes)
        self.distances[2:-2, 2:-2, 2:-2][nodes], self.slopes[nodes] = found

    def _signed(self, nodes):
        """Exact signed distances [P] of the chosen nodes and their gradients [P, 3]."""
        distances, away = self.surface.closest(self._points(nodes))
        sign = np.where(self.winding[nodes] > 0.5, -1.0, 1.0)
        return sign * distances, (sign[:, None] * away).astype(np.float32)


def _corners(nodes):
    """Values at the eight corners of every cell: [M + 1]^3 -> [8, M, M, M]."""
    low, high = slice(None, -1), slice(1, None)
    return np.stack([nodes[i, j, k] for i in (low, high) for j in (low, high) for k in (low, high)])


def _new_nodes(cells):
    """The nodes of chosen cells [M]^3 that half the stride adds: bool [2M + 1]^3."""
    nodes = np.zeros([2 * side + 1 for side in cells.shape], bool)
    parts = slice(None, -1, 2), slice(1, None, 2), slice(2, None, 2)
    for i in parts:
        for j in parts:
            for k in parts:
                nodes[i, j, k] |= cells
    nodes[::2, ::2, ::2] = False
    return nodes


def _extended(nodes, axis):
    """Two more nodes at either end of an axis, of the parabola through the last three."""
    nodes = np.moveaxis(nodes, axis, 0)
    out = np.concatenate([nodes[:2], nodes, nodes[-2:]])
    for at, step in ((1, 1), (0, 1), (-2, -1), (-1, -1)):
        out[at] = 3 * out[at + step] - 3 * out[at + 2 * step] + out[at + 3 * step]
    return np.moveaxis(out, 0, axis)


def _halved(nodes, axis):
    """Means put between neighbours: M + 1 -> 2M + 1 nodes along an axis."""
    nodes = np.moveaxis(nodes, axis, 0)
    out = np.empty((2 * len(nodes) - 1, *nodes.shape[1:]))
    out[::2] = nodes
    out[1::2] = (nodes[1:] + nodes[:-1]) / 2
    return np.moveaxis(out, 0, axis)


def _subdivided(nodes, axis):
    """Four-point subdivision along an axis: nodes -2 .. M + 2 -> -2 .. 2M + 2."""
    nodes = np.moveaxis(nodes, axis, 0)
    out = np.empty((2 * len(nodes) - 5, *nodes.shape[1:]))
    out[::2] = nodes[1:-1]
    out[1::2] = (9 * (nodes[1:-2] + nodes[2:-1]) - nodes[:-3] - nodes[3:]) / 16
    return np.moveaxis(out, 0, axis)


def surface_samples(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], count: int, seed: int = 0
) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, "Q 3"]]:
    """Points on a mesh, uniform by area, with outward normals: -> [Q, 3], [Q, 3], float64.

    Normals are those of the faces. Each is turned to where the winding number falls, looked up a
    face's width to either side: right on flipped faces too, among others that are not. Where it
    does not change (a thin wall, a sheet) the face's own turn stands.
    """
    return _sampled(Surface(vertices, faces), count, np.random.default_rng(seed))


def near_surface_samples(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    count: int,
    seed: int = 0,
    spreads: Sequence[float] = SPREADS,
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, " P"]]:
    """Points near a mesh and their exact signed distances: -> [P, 3], [P], float64.

    Points on the surface displaced by normal noise, an equal share for each standard deviation of
    `spreads` (by default those of DeepSDF, Park et al. 2019), and kept within [-1, 1]^3.
    """
    generator = np.random.default_rng([seed, 1])
    surface = Surface(vertices, faces)
    points, _ = _scattered(surface, count, generator)
    spread = np.resize(np.asarray(spreads, float), count)
    points += spread[:, None] * generator.standard_normal((count, 3))
    points = np.clip(points, -1, 1)
    return points, surface.signed(points)


def _scattered(surface, count, generator):
    """Points [Q, 3] uniform by area, and the faces [Q] that they lie on."""
    triangles = surface.vertices[surface.faces]
    _, area = _normals(triangles)
    total = np.cumsum(area)
    chosen = np.searchsorted(total, generator.random(count) * total[-1], side="right")
    chosen = np.minimum(chosen, len(total) - 1)
    first, second = generator.random((2, count, 1))
    root = np.sqrt(first)
    a, b, c = np.moveaxis(triangles[chosen], 1, 0)
    return (1 - root) * a + root * (1 - second) * b + root * second * c, chosen


def _sampled(surface, count, generator):
    points, chosen = _scattered(surface, count, generator)
    normals, area = _normals(surface.vertices[surface.faces[chosen]])
    step = np.clip(2 * np.sqrt(area), *_STEPS)[:, None] * normals
    fall = surface.winding(points - step) - surface.winding(points + step)
    return points, np.where(fall < -_CLEAR, -1.0, 1.0)[:, None] * normals


def _normals(triangles):
    """Unit normals [F, 3] and areas [F] of triangles [F, 3, 3]."""
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-300)[:, None], length / 2
