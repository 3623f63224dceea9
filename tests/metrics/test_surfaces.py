"""Measures of surfaces against closed forms and brute force in float64."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax import metrics
from nid_jax.metrics import surfaces

OFFICIAL = Path(__file__).resolve().parents[1] / "data" / "official" / "clouds.npz"


def ball(radius=0.5, centre=(0, 0, 0), fine=4):
    mesh = trimesh.creation.icosphere(subdivisions=fine, radius=radius)
    return trimesh.Trimesh(mesh.vertices + centre, mesh.faces, process=False)


def soup(seed, count):
    """Triangles at random, of very different sizes."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-2, 0, (count, 1, 1))
    corners = rng.uniform(-1, 1, (count, 1, 3)) + sizes * rng.normal(size=(count, 3, 3))
    return trimesh.Trimesh(
        corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3), process=False
    )


def brute_force(points, mesh):
    """Distance of every point to every triangle, the least of them."""
    triangles = np.asarray(mesh.vertices)[mesh.faces]
    pairs = np.repeat(triangles[None], len(points), 0).reshape(-1, 3, 3)
    repeated = np.repeat(points, len(triangles), 0)
    closest = trimesh.triangles.closest_point(pairs, repeated)
    distance = np.linalg.norm(closest - repeated, axis=1).reshape(len(points), -1)
    return distance.min(1), distance.argmin(1)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_everything_against_brute_force(seed, count, true_count):
    mesh, truth = soup(seed, count), soup(seed + 1, true_count)
    found = metrics.compare(mesh, truth, samples=200, seed=seed, threshold=0.3)
    ways = []
    for start, end, draw in ((mesh, truth, seed), (truth, mesh, seed + 1)):
        points, faces = surfaces.sampled(start, 200, draw)
        assert brute_force(points, start)[0].max() < 1e-6  # they lie on it
        distance, nearest = brute_force(np.concatenate([points, start.vertices]), end)
        normals = start.face_normals[faces] * end.face_normals[nearest[:200]]
        ways.append((distance[:200], normals.sum(1), distance.max()))
    (there, cosine, far), (back, cosine_back, far_back) = ways
    precision, recall = (there <= 0.3).mean(), (back <= 0.3).mean()
    total = precision + recall
    expected = {
        "chamfer": (there.mean() + back.mean()) / 2,
        "accuracy": there.mean(),
        "completeness": back.mean(),
        "hausdorff": max(far, far_back),
        "normal_consistency": (np.abs(cosine).mean() + np.abs(cosine_back).mean()) / 2,
        "normal_consistency_signed": (cosine.mean() + cosine_back.mean()) / 2,
        "precision": precision,
        "recall": recall,
        "fscore": 2 * precision * recall / total if total else 0,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert metrics.chamfer(mesh, truth, 200, seed) == found["chamfer"]
    assert metrics.hausdorff(mesh, truth, 200, seed) == found["hausdorff"]
    assert metrics.normal_consistency(mesh, truth, 200, seed) == found["normal_consistency"]
    assert metrics.fscore(mesh, truth, 0.3, 200, seed) == (
        found["fscore"],
        found["precision"],
        found["recall"],
    )


def test_a_mesh_is_at_no_distance_from_itself_and_twice_as_fine_hardly():
    found = metrics.compare(ball(), ball(), samples=5000)
    assert found["chamfer"] < 1e-8  # no floor from sampling
    assert found["hausdorff"] < 1e-7
    assert found["normal_consistency_signed"] == pytest.approx(1, abs=1e-3)
    assert found["fscore"] == 1


def test_concentric_balls():
    found = metrics.compare(ball(0.5), ball(0.53), samples=5000, threshold=0.031)
    assert found["chamfer"] == pytest.approx(0.03, rel=0.02)  # not squared
    assert found["hausdorff"] == pytest.approx(0.03, rel=0.03)
    assert found["normal_consistency"] == pytest.approx(1, abs=2e-3)
    assert found["fscore"] == 1
    assert metrics.fscore(ball(0.5), ball(0.53), 0.029, 2000)[0] == 0


def test_a_mesh_inside_out_differs_in_the_signed_measure_alone():
    inside_out = trimesh.Trimesh(ball().vertices, ball().faces[:, ::-1], process=False)
    found = metrics.compare(inside_out, ball(), samples=2000)
    assert found["chamfer"] < 1e-8
    assert found["normal_consistency"] == pytest.approx(1, abs=2e-3)
    assert found["normal_consistency_signed"] == pytest.approx(-1, abs=2e-3)
    signed = metrics.normal_consistency(inside_out, ball(), 2000, signed=True)
    assert signed == found["normal_consistency_signed"]


def test_a_part_that_is_missing_costs_recall_and_one_too_many_precision():
    whole = trimesh.util.concatenate([ball(0.2, (-0.5, 0, 0)), ball(0.2, (0.5, 0, 0))])
    part = ball(0.2, (-0.5, 0, 0))
    missing = metrics.compare(part, whole, samples=4000)
    assert missing["precision"] == 1
    assert missing["recall"] == pytest.approx(0.5, abs=1e-3)
    assert missing["accuracy"] < 1e-8 < 0.3 < missing["completeness"]
    extra = metrics.compare(whole, part, samples=4000)
    assert extra["recall"] == 1
    assert extra["precision"] == pytest.approx(0.5, abs=1e-3)


def test_points_are_drawn_evenly_by_area():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0.0]])
    mesh = trimesh.Trimesh(corners, [[0, 1, 2], [3, 4, 5]], process=False)
    points, faces = surfaces.sampled(mesh, 40_000, 0)
    assert (faces == 1).mean() == pytest.approx(0.75, abs=1e-3)
    for face, first in ((0, 0), (1, 3)):
        middle = corners[first : first + 3].mean(0)
        np.testing.assert_allclose(points[faces == face].mean(0), middle, atol=0.02)


def test_no_faces():
    empty = trimesh.Trimesh(np.empty((0, 3)), np.empty((0, 3), int), process=False)
    found = metrics.compare(empty, ball())
    assert found["chamfer"] == found["hausdorff"] == np.inf
    assert found["fscore"] == found["normal_consistency"] == 0
    assert found.keys() == metrics.compare(ball(), ball(), samples=10).keys()
    with pytest.raises(ValueError, match="the true mesh has no faces"):
        metrics.compare(ball(), empty)
    with pytest.raises(ValueError, match="the mesh has no faces"):
        metrics.chamfer(empty, ball())


def test_clouds_equal_the_official_numbers():
    with np.load(OFFICIAL) as found:
        points, truth = found["pred"], found["gt"]
        normals, true_normals = found["pred_normals"], found["gt_normals"]
        assert metrics.cloud_chamfer(points, truth) == pytest.approx(
            float(found["chamfer"]), rel=1e-6
        )
        assert metrics.cloud_hausdorff(points, truth) == pytest.approx(
            float(found["hausdorff"]), rel=1e-6
        )
        consistency = metrics.cloud_normal_consistency(points, normals, truth, true_normals)
        assert consistency == pytest.approx(float(found["normal"]), rel=1e-6)
        signed = metrics.cloud_normal_consistency(points, normals, truth, true_normals, signed=True)
        assert abs(signed) < consistency


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_clouds_against_all_pairs(seed, count, true_count):
    rng = np.random.default_rng(seed)
    points, truth = rng.normal(size=(count, 3)), rng.normal(size=(true_count, 3))
    pairs = np.linalg.norm(points[:, None] - truth, axis=-1)
    there, back = pairs.min(1), pairs.min(0)
    expected = (there.mean() + back.mean()) / 2
    assert metrics.cloud_chamfer(points, truth) == pytest.approx(expected)
    assert metrics.cloud_hausdorff(points, truth) == pytest.approx(max(there.max(), back.max()))


def test_iou_of_balls():
    axis = np.linspace(-1, 1, 61)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    radius = np.linalg.norm(points, axis=-1)
    distances = np.stack([radius - 0.4, radius - 0.6, radius + 1, radius - 0.5])
    truth = np.stack([radius - 0.6, radius - 0.4, radius + 1, radius + 1])
    values = metrics.iou(distances, truth)
    np.testing.assert_allclose(values, [(4 / 6) ** 3, (4 / 6) ** 3, 1, 0], atol=0.01)
    both = metrics.mesh_iou(ball(0.4), ball(0.6), points.reshape(-1, 3))
    assert both == pytest.approx(values[0], abs=0.01)
    # A hole does not turn a ball inside out.
    open_ball = trimesh.Trimesh(ball(0.4).vertices, ball(0.4).faces[40:], process=False)
    assert metrics.mesh_iou(open_ball, ball(0.4), points.reshape(-1, 3)) > 0.97
    with pytest.raises(ValueError, match="must be equal"):
        metrics.iou(distances, truth[:2])


def test_error_of_distances_in_a_band():
    truth = np.array([[-0.3, -0.1, 0.0, 0.2], [0.5, 0.5, 0.5, 0.5]])
    off = truth + [[0.3, 0.1, -0.2, 0.4], [0.1, -0.1, 0.1, 0.1]]
    np.testing.assert_allclose(metrics.sdf_error(off, truth), [0.25, 0.1])
    np.testing.assert_allclose(metrics.sdf_error(off, truth, band=0.1), [0.15, np.nan])
    grids = metrics.sdf_error(off.reshape(2, 2, 2), truth.reshape(2, 2, 2))
    np.testing.assert_allclose(grids, [0.25, 0.1])
