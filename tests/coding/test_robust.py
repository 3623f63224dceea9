"""Robust codes beside linear programming, a general minimiser, and closed forms."""

import functools

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from scipy.optimize import linprog, minimize

from nid_jax.coding import gram, operators, ridge, robust
from nid_jax.coding.prior import GaussianPrior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Robust
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionaries import build_dictionary

SHAPE, SIGNALS, EXPERTS, CHANNELS = (9, 8), 3, 10, 2


@functools.cache
def dictionary(kind="shared"):
    config = ConfigDict(
        {
            "kind": kind,
            "num_experts": EXPERTS,
            "num_layers": 2,
            "width": 24,
            "activation": "sine",
            "omega0": 10.0,
            "embedding": {"kind": "identity"},
        }
    )
    return build_dictionary(config, CHANNELS, 2, SHAPE, nnx.Rngs(0))


def atoms_of(model, operator):
    """Atoms and one constant per channel, measured: float64 [M C, E + C]."""
    basis = np.asarray(model.basis(operator.points), np.float64)
    samples = basis.reshape(len(basis), -1).astype(np.float32)
    measured = np.asarray(operator.measure(samples), np.float64)
    measured = measured.reshape(len(measured), EXPERTS, CHANNELS).transpose(0, 2, 1)
    ones = np.asarray(operator.measure(np.ones((len(basis), 1), np.float32)), np.float64)
    constants = np.broadcast_to(np.eye(CHANNELS), (len(ones), CHANNELS, CHANNELS)) * ones[:, None]
    return np.concatenate([measured, constants], -1).reshape(-1, EXPERTS + CHANNELS)


def corrupted(seed, atoms, outliers=0.2, noise=0.03, signals=SIGNALS):
    """Signals [S, M C] of unit size of which some values are wrong, and what they were."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(signals, atoms.shape[1])) / atoms.std(0).clip(0.1)
    clean = codes @ atoms.T
    clean /= clean.std(1, keepdims=True)
    wrong = clean + noise * rng.normal(size=clean.shape)
    bad = rng.random(clean.shape) < outliers
    return np.where(bad, wrong + rng.uniform(2, 6, clean.shape), wrong), clean


def measured(signals):
    return signals.reshape(len(signals), -1, CHANNELS).astype(np.float32)


def solved(model, operator, data, weights=None, prior=None, chunk=0, **options):
    problem = Problem(model, operator, data, weights, prior)
    return robust.robust_solve(problem, Robust(**options), chunk)


def unknowns(solution):
    return np.concatenate([solution.codes, solution.bias], 1).astype(np.float64)


def least_absolute(atoms, signal):
    """The smallest sum of absolute residuals, by linear programming."""
    count, size = atoms.shape
    cost = np.concatenate([np.zeros(size), np.ones(2 * count)])
    equal = np.concatenate([atoms, np.eye(count), -np.eye(count)], 1)
    bounds = [(None, None)] * size + [(0, None)] * (2 * count)
    return linprog(cost, A_eq=equal, b_eq=signal, bounds=bounds).fun


def huber(residual, delta):
    size = np.abs(residual)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum()


def test_least_absolute_residuals():
    # A shared trunk is tested likewise below, with sums of points.
    model, operator = dictionary("independent"), operators.sample(SHAPE)
    atoms = atoms_of(model, operator)
    signals, _ = corrupted(0, atoms)
    solution = solved(model, operator, measured(signals), lam=1e-9, tolerance=1e-5, steps=5000)
    assert solution.converged.all()
    for signal, found in zip(signals, unknowns(solution), strict=True):
        best = least_absolute(atoms, signal)
        assert np.abs(signal - atoms @ found).sum() <= best * (1 + 1e-4)
    residual = ((signals - unknowns(solution) @ atoms.T) ** 2).mean(1)
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-3)


def huber_minimum(atoms, signal, delta, penalty):
    """The minimum of Huber's objective with a penalty on codes but not on the bias."""
    # Well-conditioned coordinates for the general minimiser.
    scale = np.linalg.norm(atoms, axis=0)

    def value(x):
        x = x / scale
        residual = signal - atoms @ x
        slope = -atoms.T @ np.clip(residual, -delta, delta)
        slope[:EXPERTS] += penalty * x[:EXPERTS]
        total = huber(residual, delta) + penalty / 2 * (x[:EXPERTS] ** 2).sum()
        return total, slope / scale

    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-9}
    start = np.zeros(len(scale))
    return minimize(value, start, jac=True, method="L-BFGS-B", options=options).x / scale


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=4, deadline=None)
def test_huber_agrees_with_a_general_minimiser(seed):
    model, operator = dictionary(), operators.sample(SHAPE)
    atoms = atoms_of(model, operator)
    signals, _ = corrupted(seed, atoms)
    solution = solved(
        model, operator, measured(signals), loss="huber", delta=0.1, lam=1e-2, tolerance=1e-6
    )
    centred = atoms[:, :EXPERTS].reshape(-1, CHANNELS, EXPERTS)
    centred = centred - centred.mean(0)
    penalty = 1e-2 * (centred**2).sum() / EXPERTS
    for signal, found in zip(signals, unknowns(solution), strict=True):
        expected = huber_minimum(atoms, signal, 0.1, penalty)
        np.testing.assert_allclose(atoms @ found, atoms @ expected, atol=1e-3)
        values = [
            huber(signal - atoms @ x, 0.1) + penalty / 2 * (x[:EXPERTS] ** 2).sum()
            for x in (found, expected)
        ]
        assert values[0] <= values[1] * (1 + 1e-4)


def test_a_wide_huber_is_ridge():
    model, operator = dictionary(), operators.sample(SHAPE)
    signals, _ = corrupted(1, atoms_of(model, operator))
    data = measured(signals)
    found = solved(model, operator, data, loss="huber", delta=1e3, lam=1e-3, tolerance=1e-6)
    expected = ridge.ridge(gram.normal_equations(model, operator, data), lam=1e-3)
    np.testing.assert_allclose(
        found.codes, expected.codes, atol=1e-4 * float(np.abs(expected.codes).max())
    )
    np.testing.assert_allclose(found.bias, expected.bias, atol=1e-3)


def test_a_wide_huber_with_a_prior_is_the_gaussian_estimate():
    model, operator = dictionary(), operators.sample(SHAPE)
    atoms = atoms_of(model, operator)
    signals, _ = corrupted(2, atoms)
    rng = np.random.default_rng(2)
    mean = rng.normal(size=EXPERTS)
    factor, diagonal = rng.normal(size=(EXPERTS, 4)), rng.uniform(0.01, 0.1, EXPERTS)
    parts = (mean, factor, diagonal, 0.0, 0.5)
    prior = GaussianPrior(*(np.asarray(part, np.float32) for part in parts))
    found = solved(
        model,
        operator,
        measured(signals),
        loss="huber",
        delta=1e4,
        prior=prior,
        noise=0.5,
        tolerance=1e-6,
    )
    # Unknowns: t of unit variance and the bias, which is free.
    root = np.linalg.cholesky(factor @ factor.T + np.diag(diagonal))
    columns = np.concatenate([atoms[:, :EXPERTS] @ root, atoms[:, EXPERTS:]], 1)
    shift = np.diag([0.25] * EXPERTS + [0.0] * CHANNELS)
    right = columns.T @ (signals - mean @ atoms[:, :EXPERTS].T).T
    solution = np.linalg.solve(columns.T @ columns + shift, right).T
    expected = mean + solution[:, :EXPERTS] @ root.T
    np.testing.assert_allclose(found.codes, expected, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(found.bias, solution[:, EXPERTS:], atol=1e-3)


@pytest.mark.parametrize("loss", robust.LOSSES)
def test_outliers_do_not_pull(loss):
    model, operator = dictionary(), operators.sample(SHAPE)
    atoms = atoms_of(model, operator)
    signals, clean = corrupted(3, atoms)
    solution = solved(model, operator, measured(signals), loss=loss, lam=1e-5)
    error = np.abs(unknowns(solution) @ atoms.T - clean).mean()
    squares = ridge.ridge(gram.normal_equations(model, operator, measured(signals)), lam=1e-5)
    assert error < 0.15 * np.abs(unknowns(squares) @ atoms.T - clean).mean()
    assert solution.converged.all()
    if loss == "huber":
        assert (solution.stats["noise"] < 0.12).all()
        assert (solution.stats["noise"] > 0.01).all()


def test_values_of_no_weight_are_not_read():
    model, operator = dictionary(), operators.sample(SHAPE)
    rng = np.random.default_rng(4)
    data = measured(corrupted(4, atoms_of(model, operator))[0])
    # As many for every signal, so that fits on them alone have one shape.
    order = np.argsort(rng.random((SIGNALS, data.shape[1])), axis=1)[:, :45]
    seen = np.zeros((SIGNALS, data.shape[1]), np.float32)
    np.put_along_axis(seen, order, 1, axis=1)
    blank = np.where(seen[..., None] > 0, data, np.nan)
    options = {"lam": 1e-3, "tolerance": 1e-5, "steps": 2000}
    found = unknowns(solved(model, operator, blank, weights=seen, **options))
    for s in range(SIGNALS):
        points = operators.sample(np.asarray(operator.points)[order[s]])
        alone = solved(model, points, data[s : s + 1, order[s]], **options)
        atoms = atoms_of(model, points)
        np.testing.assert_allclose(atoms @ found[s], atoms @ unknowns(alone)[0], atol=5e-3)


@pytest.mark.slow
def test_sums_of_points_chunks_and_streaming_change_nothing(monkeypatch):
    model = dictionary()
    points = operators.sample((24, 6)).points
    factors = np.random.default_rng(5).uniform(0.5, 1.5, (72, 2)).astype(np.float32)
    operator = operators.Sample(points, factors=factors, run_length=2)
    atoms = atoms_of(model, operator)
    signals, _ = corrupted(5, atoms)
    options = {"lam": 1e-9, "tolerance": 1e-5, "steps": 5000}
    whole = solved(model, operator, measured(signals), **options)
    for signal, found in zip(signals, unknowns(whole), strict=True):
        assert np.abs(signal - atoms @ found).sum() <= least_absolute(atoms, signal) * (1 + 1e-4)
    monkeypatch.setattr(robust, "_CACHED_NUMBERS", 0)
    pieces = solved(model, operator, measured(signals), chunk=20, **options)
    np.testing.assert_allclose(unknowns(pieces) @ atoms.T, unknowns(whole) @ atoms.T, atol=2e-2)


@pytest.mark.parametrize("loss", robust.LOSSES)
@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_scales_change_nothing(loss, scale):
    model, operator = dictionary(), operators.sample(SHAPE)
    data = measured(corrupted(6, atoms_of(model, operator))[0])
    plain = solved(model, operator, data, loss=loss)
    scaled = solved(model, operator, data * np.float32(scale), loss=loss)
    size = np.abs(plain.codes).max()
    np.testing.assert_allclose(scaled.codes / scale, plain.codes, atol=2e-2 * size)
    assert scaled.converged.all()


@pytest.mark.parametrize("loss", robust.LOSSES)
def test_constant_signals_one_point_and_repeated_atoms(loss):
    model, operator = nnx.clone(dictionary()), operators.sample(SHAPE)
    kernel = model.head_kernel[...]
    model.head_kernel[...] = kernel.at[..., 5:].set(kernel[..., :5])
    data = measured(corrupted(7, atoms_of(model, operator))[0])
    data[0], data[1] = 0.0, 0.3
    found = solved(model, operator, data, loss=loss)
    assert np.isfinite(unknowns(found)).all()
    np.testing.assert_allclose(found.codes[:2], 0, atol=1e-3)
    np.testing.assert_allclose(found.bias[:2], [[0.0] * CHANNELS, [0.3] * CHANNELS], atol=1e-4)
    assert found.converged.all()
    one = operators.sample(np.asarray(operator.points)[4:5])
    alone = solved(model, one, data[:, :1], loss=loss)
    np.testing.assert_allclose(alone.residual, 0, atol=1e-6)


def test_impossible_options():
    model, operator = dictionary(), operators.sample(SHAPE)
    data = np.zeros((1, 72, CHANNELS), np.float32)
    for options, words in [
        ({"loss": "l2"}, "loss: 'l2'; allowed: l1, huber"),
        ({"lam": -1.0}, "lam: -1.0; allowed: finite, 0 or more"),
        ({"delta": -0.1}, "delta: -0.1; allowed: finite, 0 or more"),
        ({"noise": np.nan}, "noise: nan"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            solved(model, operator, data, **options)
    with pytest.raises(ArgumentError, match=r"measurements: \(1, 3, 2\)"):
        solved(model, operator, data[:, :3])
