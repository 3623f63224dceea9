"""Meshes of a dictionary's codes: places, normals, and files in original units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from flax import nnx
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from nid_jax import devices
from nid_jax.errors import ArgumentError
from nid_jax.fields import embeddings
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import meshing, rendering
from nid_jax.geometry import level_set, primitives

KINDS = {
    "shared": (SharedDictionary, 96, 64),
    "independent": (IndependentDictionary, 96, 6),
}
SHAPES = (
    lambda points: primitives.sphere(points - [0.1, 0, -0.1], 0.5),
    lambda points: np.full(len(points), 0.5),
    lambda points: primitives.torus(points, 0.5, 0.22),
)


@functools.cache
def fitted(name="shared"):
    """A dictionary and the gates of a ball, of nothing, and of a ring, by least squares."""
    kind, num_experts, width = KINDS[name]
    dictionary = kind(
        embeddings.Identity(3), num_experts, 1, Layers(3, width, "sine", 5.0), rngs=nnx.Rngs(0)
    )
    points = np.random.default_rng(0).uniform(-1, 1, (1500, 3)).astype(np.float32)
    basis = jax.jit(lambda x: dictionary.basis(x)[..., 0])(jnp.asarray(points))
    targets = np.stack([shape(points) for shape in SHAPES], -1)
    codes = np.linalg.lstsq(
        np.c_[np.asarray(basis, np.float64), np.ones(1500)], targets, rcond=1e-5
    )[0].T
    return dictionary, rendering.gates_of(*np.float32([codes[:, :-1]]), np.float32(codes[:, -1:]))


@pytest.mark.parametrize("name", ["shared", pytest.param("independent", marks=pytest.mark.slow)])
def test_meshes_are_those_of_the_whole_lattice(name):
    dictionary, gates = fitted(name)
    meshes = meshing.meshes_of(dictionary, gates, 40, coarse=10)
    values = rendering.render(dictionary, gates, (40, 40, 40))[..., 0]
    assert [len(mesh.faces) > 0 for mesh in meshes] == [True, False, True]
    for mesh, shape, field in zip(meshes, SHAPES, values, strict=True):
        if not len(mesh.faces):
            assert (field > 0).all()
            continue
        assert mesh.is_watertight
        assert mesh.volume > 0
        assert np.abs(shape(mesh.vertices)).mean() < 0.06
        vertices, faces, _, _ = marching_cubes(field, 0.0)
        assert mesh.faces.shape == faces.shape
        distance, number = cKDTree(vertices * 2 / 39 - 1).query(mesh.vertices)
        assert distance.max() < 1e-3
        assert len(np.unique(number)) == len(vertices)


@functools.cache
def ball_of_cosines():
    """A dictionary of heads alone on cosines, and the gates of a ball and of a ring."""
    draw = np.random.default_rng(0)
    cosines = embeddings.ChosenCosines((9, 9, 9), 400)
    dictionary = SharedDictionary(cosines, 420, 1, Layers(1, 1, "relu", 1.0), rngs=nnx.Rngs(0))
    points = draw.uniform(-1, 1, (2000, 3)).astype(np.float32)
    basis = np.asarray(dictionary.basis(jnp.asarray(points))[..., 0], np.float64)
    targets = np.stack([shape(points) for shape in SHAPES[::2]], -1)
    codes = np.linalg.lstsq(np.c_[basis, np.ones(2000)], targets, rcond=1e-5)[0].T
    return dictionary, rendering.gates_of(*np.float32([codes[:, :-1]]), np.float32(codes[:, -1:]))


def test_meshes_of_cosines_are_the_same_axis_by_axis(monkeypatch):
    dictionary, gates = ball_of_cosines()
    asked = []
    monkeypatch.setattr(meshing, "values_at", lambda *given: asked.append(given))
    found = meshing.meshes_of(dictionary, gates, 33)
    assert not asked
    monkeypatch.undo()
    monkeypatch.setattr(SharedDictionary, "grid_is_cheaper", lambda *given: False)
    for one, other in zip(found, meshing.meshes_of(dictionary, gates, 33), strict=True):
        assert len(one.faces) > 500
        np.testing.assert_array_equal(one.faces, other.faces)
        np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-4)
        np.testing.assert_allclose(one.vertex_normals, other.vertex_normals, atol=1e-3)


def test_a_chunk_bounds_the_whole_lattice_too_and_no_search_is_begun(monkeypatch):
    dictionary, gates = ball_of_cosines()
    one = jax.tree.map(lambda leaf: leaf[:1], gates)
    monkeypatch.setattr(level_set, "coarse_points", None)
    combine, shapes = rendering._render_axes, []

    def counted(*given):
        shapes.append(combine(*given).shape)
        return combine(*given)

    monkeypatch.setattr(rendering, "_render_axes", counted)
    whole = meshing.meshes_of(dictionary, one, 33)[0]
    assert shapes == [(1, 33, 33, 33, 1)]
    shapes.clear()
    found = meshing.meshes_of(dictionary, one, 33, chunk=5 * 33**2)[0]
    assert shapes == [(1, 5, 33, 33, 1)] * 7
    np.testing.assert_array_equal(found.faces, whole.faces)
    np.testing.assert_allclose(found.vertices, whole.vertices, atol=1e-5)


def test_a_lattice_that_is_too_fine_is_searched(monkeypatch):
    dictionary, gates = ball_of_cosines()
    monkeypatch.setattr(meshing, "render_axes", None)
    monkeypatch.setattr(level_set, "_WHOLE_SAMPLES", 20**3 - 1)
    assert len(meshing.meshes_of(dictionary, gates, 20)[0].faces) > 100


def test_normals_are_the_gradient_and_point_outward():
    dictionary, gates = fitted()
    mesh = meshing.meshes_of(dictionary, gates, 40, coarse=10)[2]
    np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-6)
    one = jax.tree.map(lambda leaf: leaf[2:3], gates)
    step = 1e-2
    for axis, move in enumerate(step * np.eye(3)):
        ahead, behind = (
            rendering.render_points(dictionary, one, np.float32(mesh.vertices + sign * move))
            for sign in (1, -1)
        )
        slope = (ahead - behind)[0, :, 0] / (2 * step)
        exact = rendering.render_derivatives(dictionary, one, mesh.vertices, chunk=500)[0, :, 0]
        np.testing.assert_allclose(exact[:, axis], slope, atol=5e-3)
        if axis == 0:
            length = np.linalg.norm(exact, axis=1, keepdims=True)
            np.testing.assert_allclose(mesh.vertex_normals, exact / length, atol=1e-5)
    triangles = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert (triangles.vertex_normals * mesh.vertex_normals).sum(1).min() > 0.8


def test_the_size_of_chunks_changes_nothing_and_compiles_once():
    dictionary, gates = fitted()
    one = jax.tree.map(lambda leaf: leaf[2:3], gates)
    found = [meshing.meshes_of(dictionary, one, 40, chunk=chunk)[0] for chunk in (0, 777)]
    np.testing.assert_allclose(found[0].vertices, found[1].vertices, atol=1e-5)
    np.testing.assert_array_equal(found[0].faces, found[1].faces)
    before = rendering._render._cache_size()
    meshing.meshes_of(dictionary, one, 25, chunk=777)
    assert rendering._render._cache_size() == before


def test_codes_that_are_not_finite_are_named():
    dictionary, gates = fitted()
    gates = gates._replace(bias=gates.bias.at[2].set(np.nan))
    with pytest.raises(ValueError, match="signal 2: function is not finite at"):
        meshing.meshes_of(dictionary, gates, 20)


def test_more_than_memory_holds_is_refused_in_one_line(monkeypatch):
    dictionary, gates = fitted()
    monkeypatch.setattr(devices, "host_bytes", lambda: 2**33)
    with pytest.raises(ArgumentError, match="^resolution: .*; allowed: what fits into the 8 GiB"):
        meshing.meshes_of(dictionary, gates, 10**6)


@pytest.fixture
def ball():
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    return trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.vertices / 0.5, process=False
    )


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_files_hold_original_units_and_normals(ball, suffix, tmp_path):
    matrix = np.diag([2.0, 3.0, -1.0, 1.0])
    matrix[:3, 3] = [10, 20, 30]
    path = meshing.write_mesh(tmp_path / f"ball{suffix}", ball, matrix)
    (read,) = trimesh.load_scene(path, process=False).geometry.values()
    axes = (read.vertices - [10, 20, 30]) / [2, 3, 1]
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 0.5, atol=1e-5)
    normals = axes / [2, 3, 1]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.testing.assert_allclose(read.vertex_normals, normals, atol=1e-5)
    assert read.volume > 0
    assert read.is_watertight
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_folder_of_meshes(ball, tmp_path):
    empty = trimesh.Trimesh(np.empty((0, 3)), np.empty((0, 3), int), process=False)
    paths = meshing.write_meshes(tmp_path / "meshes", [ball, empty, ball], ["a b", "none", "c.obj"])
    assert [path.name for path in paths] == ["0000_a_b.ply", "0002_c.ply"]
    assert all(path.is_file() for path in paths)


def test_refusals(ball, tmp_path):
    with pytest.raises(ValueError, match="ball.xyz: cannot write 'xyz'"):
        meshing.write_mesh(tmp_path / "ball.xyz", ball)
    with pytest.raises(ValueError, match="cannot be inverted"):
        meshing.write_mesh(tmp_path / "ball.ply", ball, np.diag([1.0, 0, 1, 1]))
    empty = trimesh.Trimesh(np.empty((0, 3)), np.empty((0, 3), int), process=False)
    with pytest.raises(ValueError, match=r"ball.ply: the mesh has no faces"):
        meshing.write_mesh(tmp_path / "ball.ply", empty)
    assert not list(tmp_path.iterdir())
