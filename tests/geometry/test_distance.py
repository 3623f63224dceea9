"""Distances of meshes against closed forms and against one query for every sample."""

import igl
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.geometry import distance, primitives


def places(size):
    axis = np.linspace(-1, 1, size)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def brute(vertices, faces, size):
    """One libigl query for every sample; signs by the exact winding number."""
    points = places(size)
    squared, _, _ = igl.point_mesh_squared_distance(points, vertices, faces)
    inside = np.abs(igl.fast_winding_number(vertices, faces, points)) > 0.5
    return (np.where(inside, -1, 1) * np.sqrt(squared)).reshape(size, size, size)


def sphere(level=3, radius=0.8):
    mesh = trimesh.creation.icosphere(level, radius)
    return np.array(mesh.vertices), np.array(mesh.faces, np.int64)


def torus():
    mesh = trimesh.creation.torus(0.6, 0.25, major_sections=48, minor_sections=24)
    return np.array(mesh.vertices), np.array(mesh.faces, np.int64)


def box(half=(0.7, 0.5, 0.3), centre=(0, 0, 0), times=3):
    mesh = trimesh.creation.box(2 * np.asarray(half))
    for _ in range(times):
        mesh = mesh.subdivide()
    return np.array(mesh.vertices) + np.asarray(centre), np.array(mesh.faces, np.int64)


def open_box():
    vertices, faces = box()
    return vertices, faces[~np.isclose(vertices[faces][..., 2], 0.3).all(1)]


def sphere_with_holes():
    vertices, faces = sphere()
    return vertices, faces[np.random.default_rng(0).random(len(faces)) > 0.1]


def sphere_partly_flipped():
    vertices, faces = sphere()
    turned = np.random.default_rng(0).random(len(faces)) < 0.05
    faces[turned] = faces[turned, ::-1]
    return vertices, faces


def overlapping_boxes():
    (v1, f1), (v2, f2) = box((0.5, 0.5, 0.3), (-0.2, 0, 0)), box((0.4, 0.3, 0.5), (0.3, 0.1, 0.1))
    return np.concatenate([v1, v2]), np.concatenate([f1, f2 + len(v1)])


MESHES = [sphere, torus, box, open_box, sphere_with_holes, sphere_partly_flipped, overlapping_boxes]


@pytest.mark.parametrize("make", MESHES)
def test_a_grid_is_that_of_one_query_for_every_sample(make, monkeypatch):
    monkeypatch.setattr(distance, "_COARSEST", 12)  # so that a small grid is halved twice
    vertices, faces = make()
    truth = brute(vertices, faces, 50)
    found = distance.distance_grid(vertices, faces, 50)
    assert (found.shape, found.dtype) == ((50, 50, 50), np.float32)
    error = np.abs(np.abs(found) - np.abs(truth))
    assert 0 < error.mean() < distance.TOLERANCE / 2
    assert error.max() < 0.25 * 2 / 49  # a quarter of the spacing, at the worst kink
    np.testing.assert_array_equal(found < 0, truth < 0)
    # At the ends of edges that the surface crosses nothing is interpolated.
    for axis in range(3):
        change = np.diff(truth < 0, axis=axis)
        pad = [(0, 0)] * 3
        for side in ((1, 0), (0, 1)):
            pad[axis] = side
            assert error[np.pad(change, pad)].max() < 1e-6


@pytest.mark.parametrize("size", [2, 3, 17, 50, 97])
def test_any_size_in_axis_order(size):
    vertices, faces = box((0.8, 0.5, 0.2), (0.1, -0.2, 0.3))
    found = distance.distance_grid(vertices, faces, size)
    truth = primitives.box(places(size) - (0.1, -0.2, 0.3), (0.8, 0.5, 0.2))
    np.testing.assert_allclose(found.reshape(-1), truth, atol=0.1 * 2 / max(size - 1, 20))


def test_truncated_grids_are_clipped_ones():
    vertices, faces = torus()
    whole = distance.distance_grid(vertices, faces, 50)
    for truncation in (0.05, 0.2):
        clipped = np.clip(whole, -truncation, truncation)
        found = distance.distance_grid(vertices, faces, 50, truncation)
        assert np.abs(found).max() == np.float32(truncation)
        assert np.abs(found - clipped).max() < 2e-3
        assert np.abs(found - clipped).mean() < 1e-5


def test_truncation_saves_queries(monkeypatch):
    asked = []
    closest = distance.Surface.closest

    def counting(self, points):
        asked.append(len(points))
        return closest(self, points)

    monkeypatch.setattr(distance.Surface, "closest", counting)
    vertices, faces = overlapping_boxes()
    counts = []
    for truncation in (None, 0.05):
        asked.clear()
        distance.distance_grid(vertices, faces, 98, truncation)
        counts.append(sum(asked))
    assert counts[1] < counts[0] < 98**3


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_distances_at_points_against_closed_forms(seed):
    generator = np.random.default_rng(seed)
    half, centre = generator.uniform(0.1, 0.8, 3), generator.uniform(-0.1, 0.1, 3)
    vertices, faces = box(half, centre, times=int(generator.integers(0, 3)))
    points = generator.uniform(-1, 1, (200, 3))
    for turned in (faces, faces[:, ::-1]):
        found = distance.signed_distance(vertices, turned, points)
        np.testing.assert_allclose(found, primitives.box(points - centre, half), atol=1e-6)


def test_no_trap_of_fast_winding_magnitudes():
    # libigl's own values are off by half where solids overlap.
    vertices, faces = overlapping_boxes()
    found = distance.signed_distance(vertices, faces, np.array([[0.1, 0.1, 0.1], [0.0, 0.1, 0.1]]))
    squared, _, _ = igl.point_mesh_squared_distance(
        np.array([[0.1, 0.1, 0.1], [0.0, 0.1, 0.1]]), vertices, faces
    )
    np.testing.assert_allclose(found, -np.sqrt(squared))


@pytest.mark.parametrize("make", [sphere, sphere_partly_flipped, sphere_with_holes])
def test_surface_samples_lie_on_it_and_look_outwards(make):
    vertices, faces = make()
    points, normals = distance.surface_samples(vertices, faces, 5000, seed=3)
    assert points.shape == normals.shape == (5000, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert np.abs(distance.signed_distance(vertices, faces, points)).max() < 1e-12
    outward = (points * normals).sum(1) > 0
    assert outward.mean() > 0.99


def test_samples_are_uniform_by_area_and_a_function_of_the_seed():
    vertices, faces = box((0.7, 0.5, 0.3), times=0)
    points, normals = distance.surface_samples(vertices, faces, 40_000, seed=1)
    share = [(np.abs(normals[:, axis]) > 0.5).mean() for axis in range(3)]
    areas = np.array([0.15, 0.21, 0.35])
    np.testing.assert_allclose(share, areas / areas.sum(), atol=0.01)
    assert np.abs(points.mean(0)).max() < 0.01
    again, _ = distance.surface_samples(vertices, faces, 40_000, seed=1)
    other, _ = distance.surface_samples(vertices, faces, 40_000, seed=2)
    np.testing.assert_array_equal(points, again)
    assert (points != other).any()


def test_near_samples_have_both_spreads_and_exact_distances():
    vertices, faces = sphere(5)
    points, distances = distance.near_surface_samples(vertices, faces, 20_000, seed=0)
    assert np.abs(points).max() <= 1
    np.testing.assert_allclose(distances, primitives.sphere(points, 0.8), atol=5e-4)
    assert 0.3 < (distances < 0).mean() < 0.7
    for part, spread in zip((distances[::2], distances[1::2]), distance.SPREADS, strict=True):
        np.testing.assert_allclose(part.std(), spread, rtol=0.1)


def test_a_size_too_small():
    with pytest.raises(ValueError, match="size=1"):
        distance.distance_grid(*box(), 1)
