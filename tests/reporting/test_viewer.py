"""The page of meshes holds all that it needs, and the meshes themselves, at one size in a row."""

import base64
import io
import re

import numpy as np
import pytest
import trimesh

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
