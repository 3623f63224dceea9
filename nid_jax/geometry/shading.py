"""Pictures of meshes without a display: rays by libigl's Embree, soft light, smoothed edges.

Every picture is [H, W, 3] floats in [0, 1] on white. The second axis of a mesh points up: meshes of
which another does are to be turned by `upright` before.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import trimesh
from igl import embree
from jaxtyping import Float

SIZE = 256
"""Pixels along a side of a picture."""
AZIMUTH, ELEVATION = 35.0, 22.0
"""Where the camera stands by default, in degrees: round the second axis, and above the others."""
CLAY = (0.68, 0.75, 0.83)
"""Colour of a mesh."""

# Rays per side of a pixel, and directions that occlusion is taken over at each of them.
_SAMPLES, _OCCLUSION = 2, 10
# The camera's distance, in sizes of what it looks at: a mild perspective.
_DISTANCE = 5.0
# Normals are smooth over edges flatter than about 40 degrees.
_CREASE = math.cos(math.radians(40))
# Twice the area of a triangle over its longest side squared, below which it is a sliver.
_SLIVER = 0.1
# Directions of light in the camera's axes (right, up, towards it), and their strengths.
_LIGHTS = (((-0.45, 0.75, 0.5), 0.62), ((0.8, 0.15, 0.45), 0.18))
_AMBIENT = 0.45

Colour = Sequence[float] | Callable[[Float[np.ndarray, "P 3"]], Float[np.ndarray, "P 3"]]
"""Red, green and blue in [0, 1], or a function of points that gives them."""


class Camera(NamedTuple):
    """axes [3, 3]: rows right, up and towards the camera; centre [3] of what it looks at.

    half: half the width of the picture in the plane through the centre; distance from there.
    """

    axes: np.ndarray
    centre: np.ndarray
    half: float
    distance: float

    @classmethod
    def around(
        cls,
        meshes: Sequence[trimesh.Trimesh],
        azimuth: float = AZIMUTH,
        elevation: float = ELEVATION,
    ) -> "Camera":
        """A camera that sees all of the meshes.

        azimuth, elevation: degrees. Meshes without faces do not count.
        """
        seen = [np.asarray(m.vertices)[np.unique(m.faces)] for m in meshes if len(m.faces)]
        points = np.concatenate([*seen, np.empty((0, 3))]) if seen else np.eye(3) - 0.5
        axes = _axes(azimuth, elevation)
        places = points @ axes.T
        centre = (places.min(0) + places.max(0)) / 2
        places = places - centre
        distance = _DISTANCE * float(np.abs(places).max())
        nearer = distance / (distance - places[:, 2:])
        half = float(np.abs(places[:, :2] * nearer).max())
        return cls(axes, centre @ axes, 1.04 * half, distance)

    def rays(self, size: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "P 3"]]:
        """Where rays of a picture of size x size start [3], and their directions [size^2, 3]."""
        steps = ((np.arange(size) + 0.5) / size * 2 - 1) * self.half
        down, right = np.meshgrid(-steps, steps, indexing="ij")
        ahead = np.full_like(right, -self.distance)
        directions = np.stack([right, down, ahead], -1).reshape(-1, 3) @ self.axes
        return self.centre + self.distance * self.axes[2], directions


def _axes(azimuth, elevation):
    a, e = math.radians(azimuth), math.radians(elevation)
    towards = [math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)]
    right = [math.cos(a), 0.0, -math.sin(a)]
    return np.array([right, np.cross(towards, right), towards])


# Rows are the axes of upright meshes in those of the mesh.
_TURNS = {
    "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
}


def upright(mesh: trimesh.Trimesh, up: str) -> trimesh.Trimesh:
    """A mesh whose axis `up` (x, y or z) points up, turned so that the second does."""
    if not len(mesh.vertices):
        return mesh
    turn = np.array(_TURNS[up], float)
    return trimesh.Trimesh(
        np.asarray(mesh.vertices) @ turn.T,
        mesh.faces,
        vertex_normals=np.asarray(mesh.vertex_normals) @ turn.T,
        process=False,
    )


def shade(
    mesh: trimesh.Trimesh, size: int = SIZE, camera: Camera | None = None, colour: Colour = CLAY
) -> Float[np.ndarray, "H W 3"]:
    """A picture of a mesh -> [size, size, 3].

    camera: `Camera`, by default one round the mesh; colour: red, green and blue in [0, 1], or a
    function of points [P, 3] on the surface that gives them [P, 3]. A mesh without faces is
    invisible.
    """
    picture = np.ones((size * _SAMPLES) ** 2 * 3).reshape(-1, 3)
    if len(mesh.faces):
        camera = camera or Camera.around([mesh])
        seen, points, normals = _hits(mesh, camera, size * _SAMPLES)
        base = colour(points) if callable(colour) else np.asarray(colour, float)
        # Each of a pixel's rays has directions of its own: their mean shows no pattern.
        ray = np.stack(np.divmod(seen, size * _SAMPLES)) % _SAMPLES
        sky = _open_sky(
            mesh, points + 1e-3 * camera.half * normals, normals, _SAMPLES * ray[0] + ray[1]
        )
        light = _light(normals, sky, camera)
        picture[seen] = np.clip(base * light[:, None], 0, 1)
    picture = picture.reshape(size, _SAMPLES, size, _SAMPLES, 3)
    return picture.mean((1, 3)).astype(np.float32)


def _hits(mesh, camera, size):
    """Which rays meet the mesh [P], and where; normals there, turned to the camera."""
    start, directions = camera.rays(size)
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    # Rays beside the mesh are not cast.
    near = np.flatnonzero(_in_frame(vertices[np.unique(faces)], camera, size))
    directions = directions[near]
    found = embree.line_mesh_intersection(
        np.tile(start, (len(near), 1)), directions, vertices, faces
    )
    hit = found[:, 0] >= 0
    corners = faces[found[hit, 0].astype(np.int64)]
    weights = np.c_[1 - found[hit, 1] - found[hit, 2], found[hit, 1:]]
    points = np.einsum("pk,pkd->pd", weights, vertices[corners])
    return near[hit], points, _normals(mesh, corners, weights, directions[hit])


def _in_frame(points, camera, size):
    """The pixels [size^2] within the box that the points' picture spans."""
    places = (points - camera.centre) @ camera.axes.T
    flat = places[:, :2] * camera.distance / (camera.distance - places[:, 2:])
    low, high = flat.min(0) - 2 * camera.half / size, flat.max(0) + 2 * camera.half / size
    steps = ((np.arange(size) + 0.5) / size * 2 - 1) * camera.half
    columns = (steps >= low[0]) & (steps <= high[0])
    rows = (-steps >= low[1]) & (-steps <= high[1])
    return (rows[:, None] & columns).ravel()


def _normals(mesh, corners, weights, directions):
    """Unit normals at points of faces: the vertices' own, but flat beside a crease.

    Those of faces seen from behind by rays of these directions are turned round.
    """
    triangles = np.asarray(mesh.vertices)[corners]
    flat = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(flat, axis=1)
    longest = np.square(triangles - np.roll(triangles, 1, axis=1)).sum(2).max(1)
    smooth = np.asarray(mesh.vertex_normals)[corners]
    cosine = np.abs(np.einsum("pkd,pd->pk", smooth, _unit(flat)))
    # A sliver's own normal means nothing.
    creased = (cosine < _CREASE) & (area > _SLIVER * longest)[:, None]
    normals = np.where(creased[..., None], _unit(flat)[:, None], smooth)
    behind = (flat * directions).sum(1) > 0
    return _unit(np.einsum("pk,pkd->pd", weights, normals)) * np.where(behind, -1, 1)[:, None]


def _unit(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _open_sky(mesh, points, normals, groups):
    """Share of the directions over points [P, 3] in which nothing is met; one draw per group."""
    scene = embree.EmbreeIntersector()
    scene.init(
        np.asfortranarray(mesh.vertices, np.float32), np.asfortranarray(mesh.faces, np.int32)
    )
    sky = np.empty(len(points))
    for group in np.unique(groups):
        chosen = groups == group
        sky[chosen] = 1 - embree.ambient_occlusion(
            scene, points[chosen], normals[chosen], _OCCLUSION
        )
    return sky


def _light(normals, sky, camera):
    """How bright points of a surface are [P]: two soft lights, and the sky where it is seen."""
    turned = normals @ camera.axes.T
    # Some light gets everywhere.
    sky = 0.2 + 0.8 * sky
    light = _AMBIENT * sky * (1 + 0.3 * normals[:, 1])
    for direction, strength in _LIGHTS:
        towards = turned @ _unit(np.array(direction))
        # Wrapped round the shape, so that what the light just misses is not black.
        light += strength * np.clip((towards + 0.3) / 1.3, 0, 1) * (0.4 + 0.6 * sky)
    return light


def frames(
    meshes: Sequence[trimesh.Trimesh],
    size: int = SIZE,
    camera: Camera | None = None,
    colour: Colour = CLAY,
) -> Float[np.ndarray, "T H W 3"]:
    """An animation of T meshes seen by one camera -> [T, size, size, 3]."""
    camera = camera or Camera.around(meshes)
    return np.stack([shade(mesh, size, camera, colour) for mesh in meshes])
