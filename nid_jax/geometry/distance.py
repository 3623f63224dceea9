"""Signed distances of triangle meshes: at points, on grids, and samples of and near the surface.

Magnitudes are |query - closest point|, signs those of the generalised winding number (Jacobson et
al. 2013; Barill et al. 2018): inside where it is more than 1/2. Such signs need no watertight mesh.
Letters: V vertices, F faces, P points, N samples along an axis.
"""

import igl
import numpy as np

TOLERANCE = 1e-4
"""Off the surface, cells of a grid are interpolated where that predicts their middle this well."""
# Cells along an axis of the coarsest lattice, at least.
_COARSEST = 24
# Winding numbers this far from 1/2 at all corners of a cell that no surface crosses settle it.
_MARGIN = 0.2
SPREADS = (0.0025**0.5, 0.00025**0.5)
"""Standard deviations of the noise of samples near a surface."""
# How far off a face its two sides are looked at: within these, and a change that tells.
_STEPS = (0.005, 0.05)
_CLEAR = 0.25


class Surface:
    """A mesh prepared for many queries. vertices: [V, 3]; faces: [F, 3]."""

    def __init__(self, vertices, faces):
        self.vertices = np.ascontiguousarray(vertices, np.float64)
        self.faces = np.ascontiguousarray(faces, np.int64)
        self._tree = igl.AABB()
        self._tree.init(self.vertices, self.faces)
        self._hierarchy = igl.FastWindingNumberBVH()
        self._hierarchy.init(self.vertices, self.faces)

    def distance(self, points):
        """Unsigned distances [P] of points [P, 3]."""
        squared, _, _ = self._tree.squared_distance(self.vertices, self.faces, _rows(points))
        return np.sqrt(np.atleast_1d(squared))

    def winding(self, points):
        """Winding numbers [P] of points [P, 3], without sign: 1 inside a closed mesh, 0 outside.

        Without sign, since a mesh all of whose faces are turned inwards is as good.
        """
        return np.abs(np.atleast_1d(self._hierarchy.winding_number(_rows(points))))

    def signed(self, points):
        """Signed distances [P] of points [P, 3], negative inside."""
        return np.where(self.winding(points) > 0.5, -1.0, 1.0) * self.distance(points)


def _rows(points):
    return np.ascontiguousarray(points, np.float64).reshape(-1, 3)


def signed_distance(vertices, faces, points):
    """Exact signed distances [P] of points [P, 3] to a mesh, negative inside, in its units.

    libigl's own fast-winding distances are multiplied by (1 - 2 |winding number|), which is wrong
    off closed solids; these are not.
    """
    return Surface(vertices, faces).signed(points)


def distance_grid(vertices, faces, size, truncation=None, tolerance=TOLERANCE):
    """Signed distances on the grid of [-1, 1]^3: float32 [N, N, N], axes x, y, z, ends on +-1.

    From coarse to fine: a lattice is halved in spacing again and again. A cell is interpolated
    (four-point subdivision, exact for cubics) where the distance at its middle is predicted within
    `tolerance` and neither it nor a neighbour's surface is near; elsewhere all its points are
    queried. So every sample within 1.7 spacings of the surface is exact.
    truncation: distances are clipped to +-truncation; less is then computed far off.
    Raises ValueError for size < 2.
    """
    if size < 2:
        raise ValueError(f"size={size}: a grid needs at least 2 samples along an axis")
    surface = Surface(vertices, faces)
    lattice = _Lattice(surface, size, tolerance, truncation or np.inf)
    while lattice.stride > 1:
        lattice.halve()
    grid = np.where(lattice.winding > 0.5, -1, 1) * lattice.distances[2:-2, 2:-2, 2:-2]
    grid = grid[:size, :size, :size].astype(np.float32)
    return np.clip(grid, -truncation, truncation, out=grid) if truncation else grid


class _Lattice:
    """Distances and winding numbers at every stride-th sample, two more nodes at either end.

    distances: [M + 5]^3, nodes -2 .. M + 2; winding: [M + 1]^3, nodes 0 .. M; active: [M]^3, the
    cells whose nodes are all exact and which are not settled yet.
    """

    def __init__(self, surface, size, tolerance, truncation):
        self.surface, self.spacing = surface, 2 / (size - 1)
        self.tolerance, self.truncation = tolerance, truncation
        self.stride = 1
        while (size - 1) / (2 * self.stride) >= _COARSEST:
            self.stride *= 2
        cells = -(-(size - 1) // self.stride)
        nodes = np.ones((cells + 5,) * 3, bool)
        self.distances = surface.distance(self._points(nodes, 2)).reshape(nodes.shape)
        inner = np.ones((cells + 1,) * 3, bool)
        self.winding = surface.winding(self._points(inner, 0)).reshape(inner.shape)
        self.active = np.ones((cells,) * 3, bool)

    def _points(self, chosen, pad):
        """Positions [P, 3] of the chosen nodes of a lattice with so many nodes before 0."""
        return (np.argwhere(chosen) - pad) * (self.stride * self.spacing) - 1

    def halve(self):
        """Go on to half the stride."""
        corners = _corners(self.distances[2:-2, 2:-2, 2:-2])
        diagonal = 3**0.5 * self.stride * self.spacing
        crossed = (corners.min(0) <= diagonal / 2) & (corners.max(0) <= diagonal)
        winding = _corners(self.winding)
        settled = (winding.min(0) > 0.5 + _MARGIN) | (winding.max(0) < 0.5 - _MARGIN)
        self.stride //= 2
        self.winding = _halved(_halved(_halved(self.winding, 0), 1), 2)
        unsure = _new_nodes(crossed | ~settled)
        self.winding[unsure] = self.surface.winding(self._points(unsure, 0))
        for axis in range(3):
            self.distances = _subdivided(self.distances, axis)
        inner = self.distances[2:-2, 2:-2, 2:-2]
        rough = self._rough(inner, diagonal)
        wanted = _new_nodes(rough)
        # The middles are known already.
        wanted[1::2, 1::2, 1::2] = False
        inner[wanted] = self.surface.distance(self._points(wanted, 0))
        self.active = rough.repeat(2, 0).repeat(2, 1).repeat(2, 2)

    def _rough(self, inner, diagonal):
        """The cells [M]^3 that are not to be interpolated; puts exact values at their middles."""
        middles = inner[1::2, 1::2, 1::2]
        near = self.active & (middles < self.truncation + diagonal)
        tested = np.zeros(inner.shape, bool)
        tested[1::2, 1::2, 1::2] = near
        predicted = middles[near]
        exact = self.surface.distance(self._points(tested, 0))
        middles[near] = exact
        rough = near.copy()
        off = np.abs(exact - predicted) > self.tolerance
        rough[near] = (off | (exact < diagonal)) & (exact < self.truncation + diagonal / 2)
        return rough


def _corners(nodes):
    """Values at the eight corners of every cell: [M + 1]^3 -> [8, M, M, M]."""
    low, high = slice(None, -1), slice(1, None)
    return np.stack([nodes[i, j, k] for i in (low, high) for j in (low, high) for k in (low, high)])


def _new_nodes(cells):
    """Nodes of chosen cells [M]^3 that half the stride adds: bool [2M + 1]^3."""
    nodes = np.zeros([2 * side + 1 for side in cells.shape], bool)
    parts = slice(None, -1, 2), slice(1, None, 2), slice(2, None, 2)
    for i in parts:
        for j in parts:
            for k in parts:
                nodes[i, j, k] |= cells
    nodes[::2, ::2, ::2] = False
    return nodes


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


def surface_samples(vertices, faces, count, seed=0):
    """Points on a mesh, uniform by area, with outward normals: -> [Q, 3], [Q, 3], float64.

    Normals are those of the faces. Each is turned to where the winding number falls, looked up a
    face's width to either side: right on flipped faces too, among others that are not. Where it
    does not change (a thin wall, a sheet) the face's own turn stands.
    """
    return _sampled(Surface(vertices, faces), count, np.random.default_rng(seed))


def near_surface_samples(vertices, faces, count, seed=0, spreads=SPREADS):
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
