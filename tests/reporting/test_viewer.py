"""The page of meshes holds all that it needs, and the meshes themselves, at one size in a row."""

import base64
import io
import re

import igl
import numpy as np
import pytest
import trimesh
from skimage.measure import marching_cubes

from nid_jax.reporting import viewer


def scene_of(page):
    """The meshes that are in the page."""
    found = re.search(r'base64_data="([A-Za-z0-9+/=]+)"', page)
    data = base64.b64decode(found.group(1))
    return trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)


def test_a_page_holds_its_meshes_side_by_side():
    meshes = [
        trimesh.creation.icosphere(subdivisions=2, radius=7.0),
        trimesh.creation.box((0.1, 0.2, 0.1)),
    ]
    page = viewer.page(meshes)
    bounds = sorted(
        (part.bounds for part in scene_of(page).geometry.values()), key=lambda b: b[0, 0]
    )
    assert len(bounds) == 2
    (ball_low, ball_high), (box_low, box_high) = bounds
    assert ball_high[0] < box_low[0]
    assert (box_high - box_low)[1] == pytest.approx(2, abs=1e-5)
    assert (ball_high - ball_low)[1] == pytest.approx(2, abs=0.05)
    # The program is in the page, and nothing is fetched.
    assert "THREE" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)
    assert not re.search(r"https?://(?!www\.w3\.org/1999|github\.com/mrdoob)", page)


def test_a_frame_is_the_same_page_escaped():
    mesh = trimesh.creation.icosphere(subdivisions=1)
    frame = viewer.frame([mesh], 'a "title"')
    attributes = re.fullmatch(r'<iframe ((?:[a-z]+="[^"<>]*" ?)+)></iframe>', frame)
    assert attributes
    assert len(re.findall(r'srcdoc="', frame)) == 1


def test_large_meshes_are_simplified():
    mesh = trimesh.creation.icosphere(subdivisions=6, radius=0.5)
    small = viewer.viewable(mesh, 2000)
    assert 1900 <= len(small.faces) <= 2000
    assert small.is_watertight
    assert small.volume == pytest.approx(mesh.volume, rel=0.01)
    assert viewer.viewable(small, 2000) is small
    # Two balls that share a face three times over are no manifold, and are left as they are.
    faces = np.concatenate([mesh.faces, mesh.faces[:3]])
    odd = trimesh.Trimesh(mesh.vertices, faces, process=False)
    assert viewer.viewable(odd, 2000) is odd


def test_no_mesh_with_faces_is_refused():
    empty = trimesh.Trimesh(np.empty((0, 3)), np.empty((0, 3), int), process=False)
    with pytest.raises(ValueError, match="no mesh with faces"):
        viewer.page([empty])


def bracket(side=56):
    """The level set, with a little noise, of an L-shaped part that was extruded."""
    points = np.stack(np.meshgrid(*[np.linspace(-0.1, 1.1, side)] * 3, indexing="ij"), -1)

    def box(low, high):
        beyond = np.maximum(np.array(low) - points, points - np.array(high))
        outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
        return outside + np.minimum(beyond.max(-1), 0)

    distance = np.minimum(box((0, 0, 0.3), (1, 0.3, 0.7)), box((0, 0, 0.3), (0.3, 1, 0.7)))
    distance = distance + np.random.default_rng(0).normal(0, 0.002, distance.shape)
    vertices, faces, *_ = marching_cubes(distance, 0.0)
    return trimesh.Trimesh(vertices, faces, process=False)


def test_no_triangle_of_a_simplified_part_is_folded_back():
    mesh = bracket()
    vertices, triangles, *_ = igl.qslim(
        np.asfortranarray(mesh.vertices), np.asfortranarray(mesh.faces, np.int32), 3000
    )
    assert viewer.folded(trimesh.Trimesh(vertices, triangles, process=False), mesh).any()
    shown = viewer.viewable(mesh, 3000)
    assert not viewer.folded(shown, mesh).any()
    assert 2900 < len(shown.faces) <= 3000
    assert shown.area == pytest.approx(mesh.area, rel=0.05)
