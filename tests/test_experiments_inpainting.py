"""The inpainting experiment, whole and small; and the peers that it compares with."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import completion
import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
from scipy.optimize import linprog, minimize

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "experiments" / "inpainting.py"


@functools.cache
def faces():
    """Smooth random pictures [N, 6, 5, 1] in [0, 1]."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4, 30))
    values = 0.5 + 0.05 * rng.normal(size=(60, 4)) @ factors + 0.02 * rng.normal(size=(60, 30))
    return np.clip(values, 0, 1).reshape(60, 6, 5, 1)


def holed(seed, pictures):
    rng = np.random.default_rng(seed)
    seen = rng.random(pictures.shape[:3]) < 0.7
    return np.where(seen[..., None], pictures, 9.0), seen


def test_what_is_seen_stays_and_a_hole_does_not_matter():
    pictures, seen = holed(1, faces()[:3])
    other = np.where(seen[..., None], pictures, -3.0)
    for fill in (
        completion.biharmonic,
        functools.partial(completion.total_variation, weight=0.01),
    ):
        found = fill(pictures, seen)
        np.testing.assert_array_equal(found[seen], pictures[seen])
        np.testing.assert_allclose(found, fill(other, seen), atol=1e-5)
        assert np.abs(found[~seen]).max() < 2


def test_total_variation_is_least():
    pictures, seen = holed(2, faces()[:1])
    weight = 0.05

    def objective(values, rounding=0.0):
        image = values.reshape(6, 5)
        down = np.diff(image, axis=0, append=image[-1:])
        right = np.diff(image, axis=1, append=image[:, -1:])
        misfit = np.where(seen[0], image - pictures[0, ..., 0], 0)
        energy = seen.mean()
        slopes = np.sqrt(down**2 + right**2 + rounding**2).sum()
        return 0.5 * np.square(misfit).sum() / energy + weight * slopes

    best = np.full(30, 0.5)
    for rounding in (1e-1, 1e-2, 1e-3):
        options = {"maxiter": 500, "maxfun": 10**6}
        best = minimize(objective, best, rounding, "L-BFGS-B", options=options).x
    found = completion.total_variation(pictures, seen, weight, 3000)[0, ..., 0]
    np.testing.assert_allclose(found[~seen[0]], best.reshape(6, 5)[~seen[0]], atol=0.01)


def test_components_are_those_of_the_svd():
    train = faces().reshape(60, -1)
    components = completion.Components(train, 3)
    axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:3]
    rows = np.random.default_rng(3).random((2, 30))
    expected = train.mean(0) + (rows - train.mean(0)) @ axes.T @ axes
    np.testing.assert_allclose(components.project(rows), expected, atol=1e-9)


def test_robust_projection_has_the_least_absolute_error():
    train = faces().reshape(60, -1)
    components = completion.Components(train, 3)
    rows = train[:3] + 0.0
    rows[:, :6] += 0.5
    for row, found in zip(rows, components.project_robustly(rows), strict=True):
        # Minimise sum t with -t <= row - mean - axes c <= t.
        left = np.block([[components.axes, -np.eye(30)], [-components.axes, -np.eye(30)]])
        right = np.concatenate([row - components.mean, components.mean - row])
        cost = np.concatenate([np.zeros(3), np.ones(30)])
        best = linprog(cost, A_ub=left, b_ub=right, bounds=[(None, None)] * 3 + [(0, None)] * 30)
        assert np.abs(row - found).sum() <= 1.03 * best.fun


def test_pixel_gaussian_is_the_conditional_mean():
    train = faces().reshape(60, -1)
    model = completion.PixelGaussian(train, 0.1)
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
    model = completion.PixelGaussian(train, 0.1)
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


def test_a_block_of_residuals_is_detected():
    pictures = np.full((2, 20, 20, 1), 0.5)
    fits = pictures + 0.01 * np.random.default_rng(5).normal(size=pictures.shape)
    pictures[0, 4:10, 6:12] = 1.0
    seen = completion.detected(pictures, fits, 3.0, 1.0)
    assert not seen[0, 5:9, 7:11].any()
    assert seen[0, 14:].all()
    assert seen[1].all()


def test_scores():
    truth = np.full((2, 4, 4, 1), 0.5)
    found, seen = truth.copy(), np.ones((2, 4, 4), bool)
    found[0, 0, 0], seen[0, 0, :2] = 0.9, False
    np.testing.assert_allclose(
        completion.whole_psnr(found, truth), [-10 * np.log10(0.16 / 16), 90.0], rtol=1e-6
    )
    scores = completion.hole_psnr(found, truth, seen)
    np.testing.assert_allclose(scores[0], -10 * np.log10(0.08), rtol=1e-6)
    assert np.isnan(scores[1])


def test_residual_of_a_network_counts_what_is_seen():
    points = np.random.default_rng(6).uniform(-1, 1, (5, 2)).astype(np.float32)
    network = peers.siren(points, 1, 4, 2)
    layers = network.draw(jax.random.key(0))
    target, seen = jnp.full((5, 1), 0.3), jnp.array([1.0, 0, 1, 0, 0])
    error = np.abs(np.asarray(network.render(layers)) - 0.3)[[0, 2]]
    for power in (1, 2):
        found = completion.masked_residual(network, power)(layers, target, seen)
        np.testing.assert_allclose(found, (error**power).mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_smoke_run_leaves_tables_figures_and_metrics(environment, tmp_path):
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--scale=smoke", f"--output={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**environment, "XLA_FLAGS": quick, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    for name in ("figure.png", "unknown.png", "known.png", "pixels.png"):
        assert (tmp_path / name).stat().st_size > 5000
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout
    results = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert {"block, place unknown", "block, place known", "10%", "100%"} == set(results)
    for title, methods in results.items():
        for name, rows in methods.items():
            assert f"| {name} |" in table
            assert len(rows["psnr"]) == 4
            assert np.isfinite(rows["psnr"]).all(), (title, name)
    # Nothing is told of a hole that is unknown.
    assert not any(rows["told"] for rows in results["block, place unknown"].values())
    assert all(rows["told"] for rows in results["10%"].values())
