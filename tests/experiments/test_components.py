"""Principal components and Gaussians of training signals, against dense formulas."""

import functools

import numpy as np
import pytest
import scipy.fft
from peers.components import (
    Components,
    CosineComponents,
    PixelGaussian,
    most_probable,
    prior_of,
)
from scipy.optimize import linprog, minimize


@functools.cache
def faces():
    """Smooth random pictures [N, 6, 5, 1] in [0, 1]."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4, 30))
    values = 0.5 + 0.05 * rng.normal(size=(60, 4)) @ factors + 0.02 * rng.normal(size=(60, 30))
    return np.clip(values, 0, 1).reshape(60, 6, 5, 1)


@pytest.mark.parametrize("count", [60, 20])
def test_components_are_those_of_the_svd(count):
    """From either of the two products, the smaller one."""
    train = faces().reshape(60, -1)[:count]
    components = Components(train, 3)
    axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:3]
    rows = np.random.default_rng(3).random((2, 30))
    expected = train.mean(0) + (rows - train.mean(0)) @ axes.T @ axes
    np.testing.assert_allclose(components.project(rows), expected, atol=1e-9)


@pytest.mark.parametrize("signals", [12, 200])
def test_no_more_components_than_tell_signals_apart(signals):
    """From either product: signals of rank 5, in float32, of variances far apart."""
    rng = np.random.default_rng(4)
    factors = 10.0 ** -np.arange(5)[:, None] * rng.normal(size=(5, 40))
    rows = (rng.integers(-8, 9, (signals, 5)) @ factors).astype(np.float32)
    rows = np.concatenate([rows, rows])
    axes = Components(rows, 30).axes
    assert axes.dtype == np.float32
    # What is rounded to float32 has rank 11 at most, its copies none of their own.
    assert 5 <= len(axes) <= min(signals - 1, 30)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-5)
    wide = rows.astype(np.float64)
    expected = np.linalg.svd(wide - wide.mean(0), full_matrices=False)[2][:5]
    np.testing.assert_allclose(np.linalg.svd(expected @ axes[:5].T)[1], 1, atol=1e-4)


def test_robust_projection_has_the_least_absolute_error():
    train = faces().reshape(60, -1)
    components = Components(train, 3)
    rows = train[:3] + 0.0
    rows[:, :6] += 0.5
    for row, found in zip(rows, components.project_robustly(rows), strict=True):
        axes = components.axes.T
        # Minimise sum t with -t <= row - mean - axes c <= t.
        left = np.block([[axes, -np.eye(30)], [-axes, -np.eye(30)]])
        right = np.concatenate([row - components.mean, components.mean - row])
        cost = np.concatenate([np.zeros(3), np.ones(30)])
        best = linprog(cost, A_ub=left, b_ub=right, bounds=[(None, None)] * 3 + [(0, None)] * 30)
        assert np.abs(row - found).sum() <= 1.03 * best.fun


def test_pixel_gaussian_is_the_conditional_mean():
    train = faces().reshape(60, -1)
    model = PixelGaussian(train, 0.1)
    sample = np.cov(train.T, bias=True)
    covariance = 0.9 * sample + 0.1 * np.diag(np.diag(sample))
    np.testing.assert_allclose(model.covariance, covariance, atol=1e-12)
    row, seen = train[0], np.arange(30) % 3 > 0
    # As a ridge regression in all pixels: the most probable picture.
    precision = np.linalg.inv(covariance)
    matrix = precision + np.diag(seen / 0.01)
    expected = np.linalg.solve(matrix, precision @ train.mean(0) + np.where(seen, row, 0) / 0.01)
    np.testing.assert_allclose(model.complete(row, seen, 0.01), expected, atol=1e-8)


def test_robust_pixel_gaussian_is_near_its_minimum():
    train = faces().reshape(60, -1)
    model = PixelGaussian(train, 0.1)
    row, scale = train[1] + 0.6 * (np.arange(30) < 5), 0.05
    precision = np.linalg.inv(model.covariance)

    def objective(picture, rounding=0.0):
        away = picture - model.mean
        size = np.sqrt(np.square(row - picture) + rounding**2).sum()
        return size / scale + 0.5 * away @ precision @ away

    best = model.mean
    for rounding in (1e-1, 1e-2, 1e-3, 1e-4):
        best = minimize(objective, best, rounding, "L-BFGS-B", options={"maxfun": 10**6}).x
    found = model.fit_robustly(row, scale)
    assert objective(found) <= objective(best) * 1.02
    assert objective(found) < 0.8 * objective(row)


def test_pca_is_the_best_basis_of_its_size():
    rng = np.random.default_rng(1)
    signals = rng.standard_normal((40, 12)) @ rng.standard_normal((12, 12)) + 3.0
    pca = Components(signals, 5)
    error = np.square(pca.decode(pca.encode(signals)) - signals).sum()
    singular = np.linalg.svd(signals - signals.mean(0), compute_uv=False)
    assert error == pytest.approx(np.square(singular[5:]).sum(), rel=1e-4)


@pytest.mark.parametrize("focus", [0.0, 0.5])
def test_components_and_their_most_probable_values(focus):
    """Against (U^T W U / s2 + L^-1)^-1 U^T W (y - mean) / s2 in float64."""
    draw = np.random.default_rng(8)
    patterns = draw.standard_normal((4, 216))
    rows = (draw.standard_normal((30, 4)) @ patterns).astype(np.float32)
    known = Components(rows, 3)
    prior = prior_of(known, rows)
    np.testing.assert_allclose(known.axes @ known.axes.T, np.eye(3), atol=1e-4)
    places = draw.choice(216, 9, replace=False)
    values = rows[:5, :, None]
    noise = 0.3
    found = most_probable(known, prior, values, places, noise, 0, focus)
    seen = known.axes[:, places].astype(np.float64)
    y = values[:, places, 0] - known.mean[places].astype(np.float64)
    precision = np.diag(1 / np.asarray(prior.diagonal, np.float64))
    centre = np.asarray(prior.mean, np.float64)
    for row, found_row, known_values in zip(y, found, values, strict=True):
        near = np.exp(-((known_values[places, 0] / focus) ** 2) / 2) if focus else 1.0
        weights = (0.02 + 0.98 * near) * np.ones(len(places))
        system = (seen * weights) @ seen.T / noise**2 + precision
        right = seen @ (weights * row) / noise**2 + precision @ centre
        expected = known.mean + np.linalg.solve(system, right) @ known.axes
        np.testing.assert_allclose(found_row, expected, atol=1e-3 * np.abs(expected).max())


def test_cosine_components_are_those_of_their_own_formula():
    """Without shrinkage and of signals of one size of error: the SVD of what has no mean."""
    draw = np.random.default_rng(5)
    signals = draw.standard_normal((40, 5, 4, 2)).astype(np.float32)
    names = [f"x{number}" for number in range(40)]
    found = CosineComponents(signals, names, 6, (0.0,))
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(8), atol=1e-5)
    # They hold the means of each channel whole.
    flat = signals + np.array([3.0, -2.0], np.float32)
    error = found.project(signals.reshape(40, -1)) - signals.reshape(40, -1)
    moved = found.project(flat.reshape(40, -1)) - flat.reshape(40, -1)
    np.testing.assert_allclose(moved, error, atol=1e-4)
    # No set of directions of that size does better under the weights it went by, up to rounds.
    left = np.square(error).sum(1)
    centred = (signals - signals.mean((1, 2), keepdims=True)).reshape(40, -1)
    weights = 1 / (left + 0.01 * np.median(left))
    axes = np.linalg.svd(np.sqrt(weights)[:, None] * centred, full_matrices=False)[2][:6]
    best = np.square(centred - centred @ axes.T @ axes).sum(1) @ weights
    assert left @ weights <= 1.02 * best


def test_cosines_alone_and_what_is_held_out():
    draw = np.random.default_rng(6)
    signals = np.cumsum(draw.standard_normal((30, 6, 6, 1)), 1).astype(np.float32)
    names = [f"x{number % 10}/turn{number // 10}" for number in range(30)]
    found = CosineComponents(signals, names, 5, (1.0,))
    assert found.share == 1
    spectra = scipy.fft.dctn(found.axes.reshape(-1, 6, 6), axes=(1, 2), norm="ortho")
    assert (np.abs(spectra) > 1e-4).sum() == 6
    # Of few signals in many dimensions the covariance needs its diagonal.
    few = np.repeat(draw.standard_normal((10, 6, 6, 1)), 3, 0).astype(np.float32)
    names = [f"x{number // 3:02d}/turn{number % 3}" for number in range(30)]
    assert CosineComponents(few, names, 5).share > 0
