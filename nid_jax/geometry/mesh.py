"""Triangle meshes: reading any format, checking, turning outwards, normalising into the cube.

A mesh is a trimesh.Trimesh made with process=False: vertices and faces stay as the file has them.
It need not be watertight, nor its faces turned one way: what is inside is told by winding numbers
(nid_jax.geometry.distance), which tolerate holes, flipped faces and parts that overlap. An open
surface that encloses something, such as a cup, has an inside; a flat sheet has none and is refused.
Letters: V vertices, F faces, P points, N samples along an axis.
"""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
import trimesh
from jaxtyping import Float, Int

from nid_jax import errors
from nid_jax.geometry.orientation import outward
from nid_jax.geometry.reading import Shape as ReadShape
from nid_jax.geometry.reading import mesh_formats, missing_formats, read
from nid_jax.notices import say

MARGIN = 0.1
"""What the longest side of a normalised mesh leaves of the cube [-1, 1]^3 at either end."""
Shape = TypeVar("Shape", trimesh.Trimesh, np.ndarray)
"""A mesh, or points [P, 3]."""
# Of the size of a mesh: less is rounding.
_FLAT = 1e-6
# Of the size of a mesh: where single precision has numbers further apart it shows.
_SPOILED = 1e-4
# Of the faces of a mesh: so many without area are no accident.
_FLAT_FACES = 0.1


def load_mesh(path: str | Path) -> trimesh.Trimesh:
    """The mesh in a file of any format in mesh_formats(), as trimesh.Trimesh, checked.

    A scene of several meshes becomes one, each put where the scene has it; polygons become
    triangles; faces that look inwards or are there twice, back to back, are made to look outwards
    once. A notice says what was left out or turned, and where single precision spoils the shape.
    metadata has "up" (x, y or z) and "units" ('' where the file names none). Raises
    FileNotFoundError where there is no file, and ValueError of one line that names it where it
    cannot be read, is empty or a cloud of points, has vertices that are not finite, faces of absent
    vertices, no area, or lies in one plane.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")
    _check_format(path)
    try:
        found = read(path)
    except Exception as error:  # whatever a parser stumbles over in a foreign file
        raise ValueError(f"{path}: cannot be read: {errors.reason(error)}") from error
    if not len(found.faces):
        what = "points only" if len(found.vertices) else "nothing that is a mesh"
        raise ValueError(f"{path}: has no faces: {what}")
    check_mesh(trimesh.Trimesh(found.vertices, found.faces, process=False), path)
    _say_what_is_lost(found, path)
    turned = outward(found.vertices, found.faces)
    _say_what_was_turned(turned, path)
    return trimesh.Trimesh(
        found.vertices,
        turned.faces,
        process=False,
        metadata={"up": found.up, "units": found.units},
    )


def _check_format(path):
    kind = path.suffix.lower().lstrip(".")
    lacking = missing_formats().get(kind)
    if lacking:
        raise ValueError(f"{path}: reading {kind} needs {lacking}; see nid_jax[meshes]")
    if kind not in mesh_formats():
        known = ", ".join(sorted(mesh_formats()))
        raise ValueError(f"{path}: format {kind!r} is not a mesh's; can be one of {known}")


def _say_what_is_lost(found: ReadShape, path):
    """Polygons that are no surface, and coordinates too large for single precision."""
    words = [f"{count} polygons {why} left out" for why, count in found.left_out.items()]
    if found.crossed:
        words.append(f"{found.crossed} polygons cross themselves or are folded")
    if words:
        say(f"{path}: {', '.join(words)}")
    used = found.vertices[np.unique(found.faces)]
    extent = np.ptp(used, axis=0).max()
    if found.spacing > _SPOILED * extent:
        say(
            f"{path}: coordinates in single precision, {found.spacing:g} apart for a shape "
            f"{extent:.3g} long: details are lost; save it in double precision or near the origin"
        )
        return
    area = trimesh.triangles.area(found.vertices[found.faces])
    flat = int((area <= 1e-14 * extent**2).sum())
    if flat > _FLAT_FACES * len(area):
        say(
            f"{path}: {flat} of {len(area)} faces have no area: corners lie at one place or on a "
            "line, as they do where coordinates were written with too few digits"
        )


def _say_what_was_turned(turned, path):
    if turned.back_to_back:
        say(
            f"{path}: two-sided: {turned.back_to_back} faces lie back to back with another; taken "
            "once, looking outwards"
        )
    elif turned.turned:
        count = len(turned.faces)
        some = "all" if turned.turned == count else f"{turned.turned} of {count}"
        say(f"{path}: {some} faces look inwards; turned round")


def check_mesh(mesh: trimesh.Trimesh, name: str | Path = "mesh") -> None:
    """Raises ValueError of one line, beginning with `name`, for a mesh without any inside."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if not len(faces):
        raise ValueError(f"{name}: has no faces")
    bad = ~np.isfinite(vertices).all(1)
    if bad.any():
        raise ValueError(
            f"{name}: {bad.sum()} of {len(vertices)} vertices are not finite, "
            f"the first is number {bad.argmax()}"
        )
    absent = ((faces < 0) | (faces >= len(vertices))).any(1)
    if absent.any():
        raise ValueError(
            f"{name}: face {absent.argmax()} has vertices {faces[absent.argmax()].tolist()}, "
            f"but there are {len(vertices)}"
        )
    used = vertices[np.unique(faces)]
    extent = np.ptp(used, axis=0).max()
    area = trimesh.triangles.area(vertices[faces]).sum() if extent > 0 else 0.0
    if not area > (_FLAT * extent) ** 2:
        raise ValueError(f"{name}: has no area, all {len(faces)} faces are points or lines")
    if np.linalg.svd(used - used.mean(0), compute_uv=False)[-1] < _FLAT * extent:
        raise ValueError(f"{name}: is flat, all its vertices lie in one plane: nothing is inside")


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """normalised = (original - centre) * scale. centre: three numbers in original units."""

    centre: tuple[float, float, float]
    scale: float

    @classmethod
    def of(cls, mesh: trimesh.Trimesh, margin: float = MARGIN) -> "Normalisation":
        """That which has the mesh's bounding box in the middle of the cube [-1, 1]^3.

        Its longest side spans [-(1 - margin), 1 - margin]. Vertices of no face do not count.
        Raises ValueError for a margin outside [0, 1).
        """
        return cls.of_points(np.asarray(mesh.vertices)[np.unique(mesh.faces)], margin)

    @classmethod
    def of_points(cls, points: Float[np.ndarray, "P 3"], margin: float = MARGIN) -> "Normalisation":
        """The same for points [P, 3]. Raises ValueError also where they all are one point."""
        if not 0 <= margin < 1:
            raise ValueError(f"margin={margin}: must be at least 0 and less than 1")
        low, high = points.min(0), points.max(0)
        if not (high > low).any():
            raise ValueError("all points are one and the same")
        centre = tuple(map(float, low / 2 + high / 2))
        return cls(centre, float(2 * (1 - margin) / (high - low).max()))

    def apply(self, shape: Shape) -> Shape:
        """From original to normalised: points [P, 3], or a mesh (a copy)."""
        return _moved(shape, lambda points: (points - np.array(self.centre)) * self.scale)

    def invert(self, shape: Shape) -> Shape:
        """From normalised back to original: points [P, 3], or a mesh (a copy)."""
        return _moved(shape, lambda points: points / self.scale + np.array(self.centre))

    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """[4, 4] float64 from original to normalised, for columns (x, y, z, 1)."""
        matrix = np.diag([self.scale] * 3 + [1.0])
        matrix[:3, 3] = -self.scale * np.array(self.centre)
        return matrix

    def inverse_matrix(self) -> Float[np.ndarray, "4 4"]:
        """[4, 4] float64 from normalised back to original."""
        matrix = np.diag([1 / self.scale] * 3 + [1.0])
        matrix[:3, 3] = self.centre
        return matrix


def _moved(shape, move):
    if isinstance(shape, trimesh.Trimesh):
        copy = shape.copy()
        copy.vertices = move(np.asarray(shape.vertices))
        return copy
    return move(np.asarray(shape, float))


def merged(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> tuple[Float[np.ndarray, "W 3"], Int[np.ndarray, "F 3"]]:
    """(vertices, faces) with vertices at one and the same place made one."""
    places, where = np.unique(np.asarray(vertices), axis=0, return_inverse=True)
    return places, where.reshape(-1)[np.asarray(faces)]


def facts(mesh: trimesh.Trimesh) -> dict[str, Any]:
    """What a mesh is like, in JSON types; vertices at one place count as one.

    watertight: every edge has two faces; consistent: those run through it opposite ways;
    nonmanifold_edges: edges of more than two faces; open_edges: of one; degenerate_faces: without
    area; components: parts that share no vertex. Self-intersections are not looked for.
    """
    vertices, faces = merged(mesh.vertices, mesh.faces)
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = edges[edges[:, 0] != edges[:, 1]]
    _, where, counts = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
    direction = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    balance = np.bincount(where.reshape(-1), direction, len(counts))
    ones = np.ones(len(edges), np.int8)
    graph = scipy.sparse.coo_matrix((ones, edges.T), shape=(len(vertices),) * 2)
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    area = trimesh.triangles.area(vertices[faces])
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": bool((counts == 2).all()),
        "consistent": bool((balance[counts == 2] == 0).all()),
        "open_edges": int((counts == 1).sum()),
        "nonmanifold_edges": int((counts > 2).sum()),
        "degenerate_faces": int((area <= 1e-14 * np.ptp(vertices, axis=0).max() ** 2).sum()),
        "components": len(np.unique(labels[faces[:, 0]])),
        "area": float(area.sum()),
        "extent": np.ptp(vertices[np.unique(faces)], axis=0).tolist(),
    }


def watertight_mesh(grid: Float[np.ndarray, "N N N"]) -> trimesh.Trimesh:
    """The zero level set of signed distances [N, N, N] on [-1, 1]^3: a closed mesh, in the cube.

    Marching cubes (Lewiner et al. 2003). Whatever the mesh that the distances were taken from
    (holes, flipped faces, overlaps), this one is watertight where its surface keeps off the
    sides of the cube. Raises ValueError where no sample is inside, or none outside.
    """
    from skimage import measure

    grid = np.array(grid, np.float32)  # What cannot be written marching cubes does not read.
    if not grid.min() < 0 < grid.max():
        raise ValueError("the grid of distances has no surface: all of it is on one side")
    spacing = tuple(2 / (side - 1) for side in grid.shape)
    vertices, faces, _, _ = measure.marching_cubes(grid, 0.0, spacing=spacing)
    return trimesh.Trimesh(vertices - 1.0, faces, process=False)


def zero_levels(volumes: Float[np.ndarray, "S N N N 1"]) -> list[trimesh.Trimesh]:
    """`watertight_mesh` of each of S grids of distances; an empty mesh of one without a surface."""
    return [
        watertight_mesh(one) if one.min() < 0 < one.max() else trimesh.Trimesh()
        for one in np.asarray(volumes)[..., 0]
    ]
