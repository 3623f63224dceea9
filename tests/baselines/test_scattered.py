"""Kriging beside scikit-learn's Gaussian processes, and the nearest point."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from nid_jax.baselines import scattered


def measured(seed, count):
    draw = np.random.default_rng(seed)
    points, wanted = draw.uniform(-1, 1, (count, 2)), draw.uniform(-1, 1, (40, 2))
    values = np.stack([np.sin(2 * points[:, 0]), 300 + 40 * points[:, 1] * points[:, 0]], 1)
    return points, values + 0.02 * draw.normal(size=values.shape), wanted


def test_kriging_is_a_gaussian_process_of_each_channel():
    points, values, wanted = measured(0, 30)
    found = scattered.kriging(points, values, wanted)
    kernel = ConstantKernel(1.0) * Matern([0.5, 0.5], (0.05, 20), nu=1.5)
    for channel, one in zip(values.T, found.T, strict=True):
        process = GaussianProcessRegressor(
            kernel + WhiteKernel(0.05, (1e-5, 1)), normalize_y=True, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            expected = process.fit(points, channel).predict(wanted)
        np.testing.assert_allclose(one, expected, atol=1e-3 * channel.std())


def test_the_evidence_is_that_of_scikit_learn():
    points, values, _ = measured(1, 12)
    parameters = np.log([0.7, 1.3, 1.5, 0.02])
    kernel = ConstantKernel(1.5) * Matern([0.7, 1.3], nu=1.5) + WhiteKernel(0.02)
    process = GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(points, values[:, 0])
    expected = -process.log_marginal_likelihood_value_
    assert abs(scattered.negative_log_evidence(parameters, points, values[:, 0]) - expected) < 1e-8


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
