"""Distances between samples, and from the planes of oriented points."""

import numpy as np

from nid_jax.baselines import shapes


def drawn(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3))


def test_planes_between_samples_are_exact_and_beyond_them_the_nearest_counts(monkeypatch):
    points, slope = drawn(60), np.array([0.3, -0.2, 0.5])
    inside = 0.3 * drawn(20, 1)
    for one in (points, inside):
        one.flags.writeable = False  # as those of JAX are
    found = shapes.interpolated(points, points @ slope, inside)
    np.testing.assert_allclose(found, inside @ slope, atol=1e-12)
    far = 50 * np.eye(3)
    nearest = points[np.square(points[None] - far[:, None]).sum(-1).argmin(1)]
    found = shapes.interpolated(points, points @ slope, far)
    np.testing.assert_allclose(found, nearest @ slope)
    few = shapes.interpolated(points[:3], points[:3] @ slope, points[:3])
    np.testing.assert_allclose(few, points[:3] @ slope)
    monkeypatch.setattr(shapes, "MOST", 40)
    found = shapes.interpolated(points, points @ slope, 0.1 * inside)
    np.testing.assert_allclose(found, 0.1 * inside @ slope, atol=1e-12)


def test_a_cloud_on_a_plane_gives_its_distance_with_its_sign():
    normal = np.array([0.6, 0.0, 0.8])
    places = drawn(30) @ (np.eye(3) - np.outer(normal, normal)) + 0.2 * normal
    wanted = drawn(12, 1)
    found = shapes.by_planes(np.hstack([places, np.tile(normal, (30, 1))]), wanted)
    np.testing.assert_allclose(found, wanted @ normal - 0.2, atol=1e-12)
