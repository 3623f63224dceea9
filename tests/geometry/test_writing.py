"""Meshes written and read again: every digit where the format holds it, and a word where not."""

import numpy as np
import pytest
import trimesh

from nid_jax.geometry.mesh import load_mesh
from nid_jax.geometry.writing import EXPORTED, export_mesh
from nid_jax.notices import Notice

BALL = trimesh.creation.icosphere(2)
PLACES = {
    "utm": (2.5, np.array([691607.25, 5334752.5, 519.0])),
    "millimetres": (1000.0, np.array([500.0, -200.0, 30.0])),
    "tiny": (1e-9, np.zeros(3)),
}


def ball(place):
    scale, shift = PLACES[place]
    return trimesh.Trimesh(BALL.vertices * scale + shift, BALL.faces, process=False)


def triangles(mesh):
    return np.asarray(mesh.vertices)[mesh.faces]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["ply", "obj", "off"])
def test_formats_of_doubles_keep_every_digit(tmp_path, kind, place, recwarn):
    path = tmp_path / f"a.{kind}"
    export_mesh(ball(place), path)
    np.testing.assert_array_equal(triangles(load_mesh(path)), triangles(ball(place)))
    assert not recwarn.list


@pytest.mark.parametrize("place", ["utm", "millimetres"])
def test_glb_is_in_its_place_to_single_precision_of_the_shape(tmp_path, place, recwarn):
    export_mesh(ball(place), tmp_path / "a.glb")
    scale, _ = PLACES[place]
    np.testing.assert_allclose(
        triangles(load_mesh(tmp_path / "a.glb")), triangles(ball(place)), rtol=0, atol=1e-6 * scale
    )
    assert not recwarn.list


def test_stl_says_what_is_to_be_added_and_holds_it(tmp_path, recwarn):
    export_mesh(ball("millimetres"), tmp_path / "near.stl")
    assert not recwarn.list
    with pytest.warns(Notice, match=r"far\.stl: .* add 691607\.0, 5334752\.0, 519\.0 to") as said:
        export_mesh(ball("utm"), tmp_path / "far.stl")
    assert len(said) == 1
    header = (tmp_path / "far.stl").read_bytes()[:80].decode()
    offset = np.array([float(word) for word in header.removeprefix("offset").split(",")])
    found = triangles(load_mesh(tmp_path / "far.stl")) + offset
    np.testing.assert_allclose(found, triangles(ball("utm")), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["ply", "obj"])
def test_normals_are_written_beside(tmp_path, kind):
    export_mesh(BALL, tmp_path / f"a.{kind}")
    found = trimesh.load(tmp_path / f"a.{kind}", process=False)
    normals = found.vertex_normals[np.argsort(found.vertices @ [1.0, 10.0, 100.0])]
    expected = BALL.vertices[np.argsort(BALL.vertices @ [1.0, 10.0, 100.0])]
    np.testing.assert_allclose(normals, expected, atol=0.02)


@pytest.mark.parametrize("kind", EXPORTED)
def test_other_readers_read_them(tmp_path, kind):
    export_mesh(ball("millimetres"), tmp_path / f"a.{kind}")
    found = trimesh.load(tmp_path / f"a.{kind}", force="mesh")
    assert found.volume == pytest.approx(ball("millimetres").volume, rel=1e-5)
    np.testing.assert_allclose(found.bounds, ball("millimetres").bounds, atol=1e-3)


def test_unknown_suffix_and_places_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"box\.xyz.*ply, obj"):
        export_mesh(BALL, tmp_path / "box.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        export_mesh(BALL, tmp_path / "file" / "box.ply")
