"""Kriging beside a Gaussian process written plainly, and the nearest point."""

import numpy as np
import scipy.optimize
import scipy.spatial.distance

from nid_jax.baselines import scattered


def measured(seed, count):
    draw = np.random.default_rng(seed)
    points, wanted = draw.uniform(-1, 1, (count, 2)), draw.uniform(-1, 1, (40, 2))
    values = np.stack([np.sin(2 * points[:, 0]), 300 + 40 * points[:, 1] * points[:, 0]], 1)
    return points, values + 0.02 * draw.normal(size=values.shape), wanted


def covariance(points, others, lengths, variance):
    away = np.sqrt(3) * scipy.spatial.distance.cdist(points / lengths, others / lengths)
    return variance * (1 + away) * np.exp(-away)


def surprise(parameters, points, values):
    """Minus the logarithm of the evidence of values about 0, but for a constant."""
    *lengths, variance, noise = np.exp(parameters)
    matrix = covariance(points, points, lengths, variance) + noise * np.eye(len(points))
    return 0.5 * (values @ np.linalg.solve(matrix, values) + np.linalg.slogdet(matrix)[1])


def test_kriging_is_a_gaussian_process_of_each_channel():
    points, values, wanted = measured(0, 30)
    found = scattered.kriging(points, values, wanted)
    bounds = np.log([(0.05, 20), (0.05, 20), (1e-3, 1e3), (1e-5, 1)])
    for channel, one in zip(values.T, found.T, strict=True):
        white = (channel - channel.mean()) / channel.std()
        start = np.log([0.5, 0.5, 1, 0.05])
        best = scipy.optimize.minimize(surprise, start, (points, white), "L-BFGS-B", bounds=bounds)
        *lengths, variance, noise = np.exp(best.x)
        matrix = covariance(points, points, lengths, variance) + noise * np.eye(len(points))
        solved = np.linalg.solve(matrix, white)
        expected = covariance(wanted, points, lengths, variance) @ solved
        expected = channel.mean() + channel.std() * expected
        np.testing.assert_allclose(one, expected, atol=2e-3 * channel.std())


def test_constants_and_many_points_are_kriged(monkeypatch):
    points, values, wanted = measured(2, 30)
    values[:, 1] = 7.0
    monkeypatch.setattr(scattered, "MOST", 25)
    monkeypatch.setattr(scattered, "LEARNED_FROM", 20)
    monkeypatch.setattr(scattered, "_BLOCK", 7)
    found = scattered.kriging(points, values, wanted)
    np.testing.assert_array_equal(found[:, 1], 7)
    assert np.abs(found[:, 0] - np.sin(2 * wanted[:, 0])).mean() < 0.2


def test_the_nearest_point_has_its_value():
    points, values, wanted = measured(3, 9)
    away = np.square(points[None] - wanted[:, None]).sum(-1)
    np.testing.assert_array_equal(scattered.nearest(points, values, wanted), values[away.argmin(1)])
