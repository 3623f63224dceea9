"""The lasso beside scikit-learn, its optimality conditions, and its certificate."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, Lasso

from nid_jax.coding import lasso
from nid_jax.coding.gram import NormalEquations
from nid_jax.training.losses import expert_weights

SIGNALS, EXPERTS = 4, 24


def equations_of(atoms, signals):
    """Normal equations of atoms [n, E] or [S, n, E] and signals [S, n], without a bias."""
    gram = atoms.swapaxes(-1, -2) @ atoms
    each = np.broadcast_to(atoms, (len(signals), *atoms.shape[-2:]))
    moments = np.einsum("sne,sn->se", each, signals)
    zeros = np.zeros((*atoms.shape[:-2], atoms.shape[-1], 1))
    count = np.full(atoms.shape[:-2], atoms.shape[-2])
    values = (gram, moments, (signals**2).sum(1), zeros, np.zeros((len(signals), 1)), count, count)
    return NormalEquations(*(jnp.asarray(v, jnp.float32) for v in values))


def problem(seed, points=60, spread=0.0):
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(points, EXPERTS)) * np.exp(spread * rng.normal(size=EXPERTS))
    codes = rng.normal(size=(SIGNALS, EXPERTS)) * (rng.random((SIGNALS, EXPERTS)) < 0.3)
    return atoms, codes @ atoms.T + 0.1 * rng.normal(size=(SIGNALS, points))


def objective(atoms, signal, codes, penalty, weights=1.0, ridge=0.0):
    codes = np.asarray(codes, np.float64)
    fit = 0.5 * np.sum((signal - atoms @ codes) ** 2) + 0.5 * ridge * np.sum(codes**2)
    return fit + penalty * np.sum(weights * np.abs(codes))


def exact(atoms, signal, penalty, ridge=0.0):
    """scikit-learn's minimum of the same objective."""
    count = len(signal)
    if ridge:
        total = (penalty + ridge) / count
        model = ElasticNet(total, l1_ratio=penalty / (penalty + ridge), fit_intercept=False)
    else:
        model = Lasso(penalty / count, fit_intercept=False)
    return model.set_params(tol=1e-12, max_iter=100000).fit(atoms, signal).coef_


def solved(equations, penalty=None, tolerance=1e-3, steps=1000, **options):
    options["value"] = penalty
    return lasso.lasso_codes(equations, lasso.Penalty(**options), tolerance, steps)


def close(found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_agrees_with_scikit_learn(ridge):
    atoms, signals = problem(0)
    equations = equations_of(atoms, signals)
    result = solved(equations, fraction=0.05, ridge=ridge, unit_atoms=False, tolerance=1e-6)
    largest = np.abs(signals @ atoms).max(1)
    np.testing.assert_allclose(result.penalty, 0.05 * largest, rtol=1e-5)
    penalties = [float(p) for p in result.penalty]
    close(
        result.codes, [exact(atoms, y, p, ridge) for y, p in zip(signals, penalties, strict=True)]
    )


def test_unit_atoms_are_the_same_as_scaled_ones():
    atoms, signals = problem(1, spread=1.0)
    norms = np.linalg.norm(atoms, axis=0)
    options = {"penalty": 2.0, "ridge": 0.5, "tolerance": 1e-6}
    result = solved(equations_of(atoms, signals), **options)
    close(result.codes * norms, [exact(atoms / norms, y, 2.0, 0.5) for y in signals])


def test_weights_and_one_penalty_per_signal():
    atoms, signals = problem(2)
    weights = np.asarray(expert_weights(EXPERTS, 0.9))
    penalties = np.array([0.5, 1.0, 2.0, 4.0])
    result = solved(
        equations_of(atoms, signals),
        penalty=penalties,
        weights=weights,
        unit_atoms=False,
        tolerance=1e-6,
    )
    expected = [
        exact(atoms / weights, y, p) / weights for y, p in zip(signals, penalties, strict=True)
    ]
    close(result.codes, expected)


@given(seed=st.integers(0, 2**32 - 1), points=st.integers(1, 60), fraction=st.floats(0.02, 1.0))
@settings(max_examples=20, deadline=None)
@example(seed=0, points=2, fraction=0.25)
@example(seed=0, points=1, fraction=0.999)
def test_optimality_conditions(seed, points, fraction):
    atoms, signals = problem(seed, points, spread=1.0)
    # With fewer points than atoms the descent is slow, but it gets there.
    options = {"fraction": fraction, "tolerance": 1e-6, "steps": 20000}
    result = solved(equations_of(atoms, signals), **options)
    norms = np.linalg.norm(atoms, axis=0)
    for s in range(SIGNALS):
        codes, penalty = np.asarray(result.codes[s], np.float64) * norms, float(result.penalty[s])
        slopes = (atoms / norms).T @ (signals[s] - (atoms / norms) @ codes)
        value = objective(atoms / norms, signals[s], codes, penalty)
        # The residual is as near to the best one as the root of twice the gap, in float32.
        gap = float(result.gap[s]) * value + 6e-7 * np.sum(signals[s] ** 2)
        assert gap < 1e-5 * np.sum(signals[s] ** 2)
        assert (np.abs(slopes) <= penalty + np.sqrt(2 * gap)).all()
        idle = penalty * np.abs(codes).sum() - codes @ slopes
        assert idle <= gap + np.sqrt(2 * gap) * np.abs(codes).sum()


@pytest.mark.parametrize("steps", [3, 10, 30])
def test_the_gap_bounds_the_excess(steps):
    atoms, signals = problem(3)
    result = solved(
        equations_of(atoms, signals), penalty=1.0, unit_atoms=False, steps=steps, tolerance=1e-5
    )
    for signal, codes, gap in zip(signals, result.codes, result.gap, strict=True):
        value = objective(atoms, signal, codes, 1.0)
        excess = value - objective(atoms, signal, exact(atoms, signal, 1.0), 1.0)
        assert -1e-6 * value <= excess <= 1.001 * float(gap) * value + 1e-6 * value
        assert steps > 3 or excess > 1e-4 * value


def test_converged_means_within_the_tolerance():
    equations = equations_of(*problem(4))
    result = solved(equations, fraction=0.01, tolerance=1e-4, steps=500)
    assert result.converged.all()
    assert (result.gap <= 1e-4).all()
    assert (result.iterations < 500).all()
    short = solved(equations, fraction=0.01, tolerance=1e-4, steps=2)
    assert not short.converged.any()
    np.testing.assert_array_equal(short.iterations, 2)


def test_groups_of_one_are_the_lasso():
    equations = equations_of(*problem(5))
    options = {"fraction": 0.05, "tolerance": 1e-6}
    weights = np.linspace(1, 2, EXPERTS)
    alone = solved(equations, weights=weights, **options)
    groups = np.arange(EXPERTS)[::-1].copy()
    grouped = solved(equations, groups=groups, weights=weights[::-1], **options)
    close(grouped.codes, alone.codes)


@pytest.mark.parametrize("unit_atoms", [False, True])
def test_group_lasso_optimality(unit_atoms):
    atoms, signals = problem(6, spread=0.7)
    groups = np.arange(EXPERTS) % 6
    weights = np.array([1.0, 1, 2, 1, 0.5, 1])
    result = solved(
        equations_of(atoms, signals),
        fraction=0.2,
        weights=weights,
        groups=groups,
        unit_atoms=unit_atoms,
        tolerance=1e-6,
    )
    zeros = 0
    for signal, codes, penalty in zip(signals, result.codes, result.penalty, strict=True):
        codes = np.asarray(codes, np.float64)
        slopes = atoms.T @ (signal - atoms @ codes)
        for g in range(6):
            size = np.sqrt((atoms[:, groups == g] ** 2).sum(0).mean()) if unit_atoms else 1.0
            level = float(penalty) * weights[g] * size
            slope, code = slopes[groups == g], codes[groups == g]
            if (code == 0).all():
                zeros += 1
                assert np.linalg.norm(slope) <= level * 1.001
            else:
                np.testing.assert_allclose(
                    slope, level * code / np.linalg.norm(code), atol=0.01 * level
                )
    assert 0 < zeros < 6 * SIGNALS


def test_the_largest_penalty_silences_every_code():
    atoms, signals = problem(7)
    result = solved(equations_of(atoms, signals), fraction=1.0)
    assert (np.abs(result.codes) < 1e-6).all()
    less = solved(equations_of(atoms, signals), fraction=0.95)
    assert ((np.asarray(less.codes) != 0).sum(1) >= 1).all()


def test_repeated_and_zero_atoms_and_zero_signals():
    atoms, signals = problem(8)
    atoms[:, 12:20] = atoms[:, :8]
    atoms[:, 20:] = 0
    signals[1] = 0
    for groups in (None, np.arange(EXPERTS) // 4):
        options = {"fraction": 0.05, "groups": groups, "unit_atoms": False, "tolerance": 1e-5}
        result = solved(equations_of(atoms, signals), **options)
        codes = np.asarray(result.codes)
        assert np.isfinite(codes).all()
        assert result.converged.all()
        assert (codes[:, 20:] == 0).all()
        assert (codes[1] == 0).all()
        assert result.gap[1] == 0
        if groups is None:
            for signal, code, penalty in zip(signals, codes, result.penalty, strict=True):
                if signal.any():
                    best = objective(atoms, signal, exact(atoms, signal, float(penalty)), penalty)
                    assert objective(atoms, signal, code, penalty) <= best * (1 + 2e-5)
    nothing = solved(equations_of(0 * atoms, signals), penalty=1.0)
    assert (np.asarray(nothing.codes) == 0).all()
    assert nothing.converged.all()


@pytest.mark.parametrize(("atom_scale", "signal_scale"), [(1e-5, 1e5), (1e6, 1.0), (1.0, 1e-6)])
def test_scales_change_nothing(atom_scale, signal_scale):
    atoms, signals = problem(9)
    plain = solved(equations_of(atoms, signals), fraction=0.05, tolerance=1e-5)
    scaled = equations_of(atoms * atom_scale, signals * signal_scale)
    result = solved(scaled, fraction=0.05, tolerance=1e-5)
    expected = np.asarray(plain.codes) * signal_scale / atom_scale
    np.testing.assert_allclose(result.codes, expected, atol=2e-3 * np.abs(expected).max())
    assert result.converged.all()


def test_own_gram_matrices():
    rng = np.random.default_rng(10)
    atoms, signals = rng.normal(size=(SIGNALS, 50, EXPERTS)), rng.normal(size=(SIGNALS, 50))
    result = solved(equations_of(atoms, signals), penalty=2.0, unit_atoms=False, tolerance=1e-6)
    close(result.codes, [exact(a, y, 2.0) for a, y in zip(atoms, signals, strict=True)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": 0.0}, "penalty: 0.0; allowed: above 0"),
        ({"penalty": [1.0, np.nan, 1, 1]}, "penalty: .*nan"),
        ({"fraction": 1.5}, "fraction: 1.5; allowed: above 0, at most 1"),
        ({"ridge": -1.0}, "ridge: -1.0; allowed: finite, 0 or more"),
        ({"weights": np.zeros(EXPERTS)}, "weights: (.|\n)*above 0"),
        ({"weights": np.ones(3)}, r"weights: \(3,\); allowed: \(24,\)"),
        ({"groups": np.arange(3)}, "groups: .*whole numbers"),
        ({"groups": np.arange(EXPERTS) * 2}, "groups: .*0 to G-1"),
        (
            {"groups": np.arange(EXPERTS) % 2, "weights": np.ones(3)},
            r"allowed: \(2,\), one of groups",
        ),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ValueError, match=words):
        solved(equations_of(*problem(12)), **options)
