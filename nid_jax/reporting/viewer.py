"""Meshes to turn with the mouse, in a page that needs no network: trimesh's three.js viewer."""

import html
import math
from collections.abc import Sequence

import igl
import numpy as np
import trimesh
from jaxtyping import Bool
from trimesh.viewer.notebook import scene_to_html

from nid_jax.geometry.shading import AZIMUTH, CLAY, ELEVATION

FACES = 6000
"""Faces of a mesh in a view, at most: about 200 kB."""
_GAP = 0.3
_FIELD_OF_VIEW = (35.0, 16.0)
# Darker than on paper: the viewer's one lamp is bright.
_COLOUR = tuple(0.65 * share for share in CLAY)


def viewable(mesh: trimesh.Trimesh, faces: int = FACES) -> trimesh.Trimesh:
    """The mesh with `faces` faces at most, simplified by quadric error (Garland and Heckbert 1997).

    Triangles that it folds back over their neighbours, dark specks in any light, are left out. A
    mesh that is no manifold stays as it is.
    """
    if len(mesh.faces) <= faces:
        return mesh
    vertices, triangles, _, _ = igl.qslim(
        np.asfortranarray(mesh.vertices, np.float64),
        np.asfortranarray(mesh.faces, np.int32),
        faces,
    )
    if not len(triangles):
        return mesh
    simple = trimesh.Trimesh(vertices, triangles, process=False)
    return trimesh.Trimesh(vertices, triangles[~folded(simple, mesh)], process=False)


def folded(simple: trimesh.Trimesh, mesh: trimesh.Trimesh) -> Bool[np.ndarray, " F"]:
    """Which faces of a simplified mesh look the other way than the original does nearby."""
    _, nearest, _ = igl.point_mesh_squared_distance(
        np.ascontiguousarray(simple.triangles_center, np.float64),
        np.ascontiguousarray(mesh.vertices, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
    )
    # Not face_normals: those of slivers are left out there.
    (a, b, c), (d, e, f) = (
        np.moveaxis(np.asarray(triangles), 1, 0)
        for triangles in (simple.triangles, mesh.triangles[nearest])
    )
    facing = np.einsum("fi,fi->f", np.cross(b - a, c - a), np.cross(e - d, f - d))
    return np.asarray(facing < 0)


def page(meshes: Sequence[trimesh.Trimesh]) -> str:
    """A whole page of HTML with meshes in a row, all scaled to one size.

    Raises ValueError where there is none with faces.
    """
    meshes = [viewable(mesh) for mesh in meshes if len(mesh.faces)]
    if not meshes:
        raise ValueError("there is no mesh with faces to view")
    row, start = [], 0.0
    for mesh in meshes:
        row.append(_placed(mesh, start))
        start = row[-1].bounds[1, 0] + _GAP
    scene = trimesh.Scene(row)
    scene.camera.fov = _FIELD_OF_VIEW
    # The row's box from above, from just far enough to see all of it.
    above = trimesh.transformations.rotation_matrix(-math.radians(ELEVATION), [1, 0, 0])
    scene.camera_transform = scene.camera.look_at(scene.bounding_box.vertices, rotation=above)
    return scene_to_html(scene)


def _placed(mesh, start):
    """The mesh two units large at most, turned to its three-quarter view, right of x = start."""
    turn = trimesh.transformations.rotation_matrix(-math.radians(AZIMUTH), [0, 1, 0])[:3, :3]
    low, high = mesh.bounds
    vertices = (mesh.vertices - (low + high) / 2) * (2 / max(float(max(high - low)), 1e-12))
    vertices = vertices @ turn.T
    vertices[:, 0] += start - vertices[:, 0].min()
    normals = mesh.vertex_normals @ turn.T
    material = trimesh.visual.material.PBRMaterial(
        baseColorFactor=[*_COLOUR, 1.0], metallicFactor=0.0, roughnessFactor=0.8, doubleSided=True
    )
    placed = trimesh.Trimesh(vertices, mesh.faces, vertex_normals=normals, process=False)
    placed.visual = trimesh.visual.TextureVisuals(material=material)
    return placed


def frame(meshes: Sequence[trimesh.Trimesh], title: str, height: int = 380) -> str:
    """The same page as an inline frame of another page, which then needs no other file."""
    document = html.escape(page(meshes), quote=True)
    return (
        f'<iframe class="view" title="{html.escape(title)}" height="{height}" '
        f'srcdoc="{document}"></iframe>'
    )
