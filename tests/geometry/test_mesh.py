"""Meshes: reading every format, refusing what has no inside, units there and back, writing."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.geometry import distance
from nid_jax.geometry.mesh import Normalisation, facts, load_mesh, watertight_mesh, zero_levels
from nid_jax.geometry.writing import EXPORTED, export_mesh

BOX = trimesh.creation.box((2.0, 3.0, 4.0))


@pytest.mark.parametrize("kind", EXPORTED)
def test_every_format_written_is_read_back(tmp_path, kind):
    path = tmp_path / f"box.{kind}"
    export_mesh(BOX, path)
    mesh = load_mesh(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    np.testing.assert_allclose(mesh.bounds, BOX.bounds, atol=1e-6)
    np.testing.assert_allclose(mesh.area, BOX.area, rtol=1e-6)


def test_a_scene_is_united_where_it_has_its_parts(tmp_path):
    scene = trimesh.Scene()
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 10
    scene.add_geometry(BOX, transform=mirror)
    scene.add_geometry(trimesh.creation.icosphere(2))
    scene.export(tmp_path / "scene.glb")
    mesh = load_mesh(tmp_path / "scene.glb")
    np.testing.assert_allclose(mesh.bounds, [[-1, -1.5, -2], [11, 1.5, 2]], atol=1e-6)
    inside = distance.signed_distance(mesh.vertices, mesh.faces, [[10, 0, 0], [0, 0, 0], [5, 0, 0]])
    assert (inside < 0).tolist() == [True, True, False]


def test_the_header_of_off_files_that_runs_on(tmp_path):
    text = BOX.export(file_type="off")
    (tmp_path / "joined.off").write_text(text.replace("OFF\n", "OFF", 1))
    assert len(load_mesh(tmp_path / "joined.off").faces) == 12


def test_polygons_and_relative_indices(tmp_path):
    corners = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\n"
    (tmp_path / "a.obj").write_text(f"{corners}f -5 -4 -3 -2\nf 1 2 5\n")
    assert len(load_mesh(tmp_path / "a.obj").faces) == 3


V3 = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
BAD = {
    "empty.obj": ("", "is empty"),
    "points.obj": (V3, "no faces: points only"),
    "nan.obj": ("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "1 of 3 vertices are not finite"),
    "inf.obj": ("v 0 0 inf\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "absent.obj": (f"{V3}f 1 2 9\n", "cannot be read"),
    "absent.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "."),
    "line.obj": ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "has no area"),
    "point.obj": ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "has no area"),
    "sheet.obj": (f"{V3}f 1 2 3\n", "is flat"),
    "foreign.stl": ("hello world" * 20, "."),
    "foreign.glb": ("hello world" * 20, "cannot be read"),
    "foreign.ply": ("hello world" * 20, "cannot be read"),
    "words.txt": ("hello", "format 'txt'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_inside_is_refused_in_one_line(tmp_path, name):
    content, why = BAD[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=why) as caught:
        load_mesh(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.obj: no such file"):
        load_mesh(tmp_path / "absent.obj")


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    margin=st.floats(0, 0.5),
)
def test_units_there_and_back(seed, size, margin):
    generator = np.random.default_rng(seed)
    vertices = size * (generator.normal(size=(20, 3)) + 10 * generator.normal(size=3))
    faces = generator.permutation(20)[:18].reshape(6, 3)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    found = Normalisation.of(mesh, margin)
    inside = found.apply(mesh)
    used = np.asarray(inside.vertices)[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    longest = (high - low).argmax()
    np.testing.assert_allclose([low[longest], high[longest]], [margin - 1, 1 - margin], atol=1e-11)
    np.testing.assert_allclose(low + high, 0, atol=1e-11)
    np.testing.assert_allclose(found.invert(inside).vertices, vertices, rtol=1e-12, atol=1e-12)
    columns = np.c_[vertices, np.ones(20)].T
    np.testing.assert_allclose((found.matrix() @ columns)[:3].T, inside.vertices, atol=1e-9)
    np.testing.assert_allclose(found.matrix() @ found.inverse_matrix(), np.eye(4), atol=1e-9)


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan")])
def test_margins_refused(margin):
    with pytest.raises(ValueError, match="margin="):
        Normalisation.of(BOX, margin)


def test_facts():
    assert facts(BOX)["watertight"]
    soup = trimesh.Trimesh(
        np.asarray(BOX.vertices)[BOX.faces].reshape(-1, 3),
        np.arange(36).reshape(12, 3),
        process=False,
    )
    found = facts(soup)
    assert (found["watertight"], found["consistent"], found["components"]) == (True, True, 1)
    np.testing.assert_allclose(found["area"], 52)
    holed = trimesh.Trimesh(BOX.vertices, BOX.faces[1:], process=False)
    assert (facts(holed)["watertight"], facts(holed)["open_edges"]) == (False, 3)
    turned = np.array(BOX.faces)
    turned[0] = turned[0, ::-1]
    turned = trimesh.Trimesh(BOX.vertices, turned, process=False)
    assert (facts(turned)["watertight"], facts(turned)["consistent"]) == (True, False)
    two = trimesh.util.concatenate([BOX, BOX.copy().apply_translation([9, 0, 0])])
    assert facts(two)["components"] == 2
    wing = trimesh.Trimesh(
        np.r_[BOX.vertices, [[9, 9, 9]]],
        np.r_[BOX.faces, [[*BOX.faces[0][:2], 8]]],
        process=False,
    )
    assert facts(wing)["nonmanifold_edges"] == 1


def test_a_watertight_mesh_of_an_open_one():
    half = trimesh.creation.icosphere(3, 0.8)
    faces = np.array(half.faces)[np.random.default_rng(0).random(len(half.faces)) > 0.05]
    grid = distance.distance_grid(half.vertices, faces, 48)
    mesh = watertight_mesh(grid)
    assert facts(mesh)["watertight"]
    assert facts(mesh)["consistent"]
    assert mesh.volume > 0
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.8, atol=0.08)
    with pytest.raises(ValueError, match="no surface"):
        watertight_mesh(np.ones((4, 4, 4)))


def test_volumes_have_their_zero_levels_in_the_cube_and_nothing_where_there_is_none():
    axes = np.meshgrid(*(np.linspace(-1, 1, 21),) * 3, indexing="ij")
    ball = (np.sqrt(sum(np.square(axis) for axis in axes)) - 0.6)[..., None]
    volumes = np.broadcast_to(ball, (2, *ball.shape))  # which cannot be written
    for mesh in zero_levels(volumes):
        assert mesh.is_watertight
        np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.6, atol=0.01)
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.03)
        outwards = np.einsum("fd,fd->f", mesh.face_normals, mesh.triangles_center)
        assert (outwards >= 0).all()  # some triangles have no area
        assert np.median(outwards) > 0.5
    assert len(zero_levels(np.ones((1, 4, 4, 4, 1)))[0].faces) == 0
