"""Greedy solvers beside scikit-learn, plain float64 numpy, and their optimality conditions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp_gram

from nid_jax.coding import greedy
from nid_jax.coding.gram import NormalEquations
from nid_jax.coding.ridge import solve_on_support


def equations_of(atoms, signals):
    """Normal equations of atoms [n, E] or [S, n, E] and signals [S, n], without a bias."""
    atoms, signals = np.asarray(atoms, np.float64), np.asarray(signals, np.float64)
    gram = atoms.swapaxes(-1, -2) @ atoms
    each = np.broadcast_to(atoms, (len(signals), *atoms.shape[-2:]))
    moments = np.einsum("sne,sn->se", each, signals)
    zeros = np.zeros((*atoms.shape[:-2], atoms.shape[-1], 1))
    count = np.full(atoms.shape[:-2], atoms.shape[-2])
    values = (gram, moments, (signals**2).sum(1), zeros, np.zeros((len(signals), 1)), count, count)
    return NormalEquations(*(jnp.asarray(v, jnp.float32) for v in values))


def problem(rng, points=60, experts=40, signals=7, active=8, noise=0.05, spread=0.0):
    atoms = rng.normal(size=(points, experts)) * np.exp(spread * rng.normal(size=experts))
    codes = rng.normal(size=(signals, experts)) * (rng.random((signals, experts)) < active / experts)
    return atoms, codes @ atoms.T + noise * rng.normal(size=(signals, points))


def reference(atoms, signal, top_k, criterion="correlation", at_once=1):
    """Greedy pursuit with a fresh least squares fit for every candidate set, in float64."""
    chosen, residual = [], signal
    norms = np.linalg.norm(atoms, axis=0)
    while len(chosen) < top_k:
        left = atoms
        if criterion == "gain" and chosen:
            left = atoms - atoms[:, chosen] @ np.linalg.lstsq(atoms[:, chosen], atoms)[0]
            norms = np.linalg.norm(left, axis=0)
        scores = np.abs(left.T @ residual) / np.maximum(norms, 1e-12)
        scores[chosen] = -1
        chosen += list(np.argsort(-scores)[: min(at_once, top_k - len(chosen))])
        codes = np.linalg.lstsq(atoms[:, chosen], signal)[0]
        residual = signal - atoms[:, chosen] @ codes
    full = np.zeros(atoms.shape[1])
    full[chosen] = codes
    return full, chosen


def test_agrees_with_scikit_learn():
    atoms, signals = problem(np.random.default_rng(0))
    atoms /= np.linalg.norm(atoms, axis=0)
    sparse = greedy.omp_codes(equations_of(atoms, signals), 8)
    expected = orthogonal_mp_gram(atoms.T @ atoms, atoms.T @ signals.T, n_nonzero_coefs=8).T
    np.testing.assert_allclose(sparse.codes, expected, atol=1e-4)
    assert sparse.chosen.all()


@pytest.mark.parametrize("criterion", greedy.CRITERIA)
@pytest.mark.parametrize("at_once", [1, 3])
def test_agrees_with_a_plain_pursuit(criterion, at_once):
    atoms, signals = problem(np.random.default_rng(1), spread=1.0, signals=5)
    found = greedy.omp_codes(equations_of(atoms, signals), 10, at_once, criterion, block=2)
    for signal, codes, indices in zip(signals, found.codes, found.indices, strict=True):
        expected, chosen = reference(atoms, signal, 10, criterion, at_once)
        assert list(np.asarray(indices)) == chosen
        np.testing.assert_allclose(codes, expected, atol=1e-4 * np.abs(expected).max())


def test_blocks_and_own_gram_matrices_change_nothing():
    rng = np.random.default_rng(2)
    atoms, signals = problem(rng, signals=6)
    shared = equations_of(atoms, signals)
    whole = greedy.omp_codes(shared, 9, block=6)
    each = equations_of(np.repeat(atoms[None], 6, 0), signals)
    for other in (greedy.omp_codes(shared, 9, block=4), greedy.omp_codes(each, 9, block=4)):
        np.testing.assert_array_equal(other.indices, whole.indices)
        np.testing.assert_allclose(other.codes, whole.codes, atol=1e-5)


def test_own_gram_matrices_are_each_signals_own():
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(5, 50, 20))
    signals = rng.normal(size=(5, 50))
    found = greedy.omp_codes(equations_of(atoms, signals), 6, block=2)
    thresholded, _, _ = greedy.iht_codes(equations_of(atoms, signals), 6)
    for s in range(5):
        expected, _ = reference(atoms[s], signals[s], 6)
        np.testing.assert_allclose(found.codes[s], expected, atol=1e-4)
        assert_least_squares(atoms[s], signals[s], np.asarray(thresholded.codes[s]))


def assert_least_squares(atoms, signal, codes, tolerance=1e-4):
    """The residual is orthogonal to every atom in use."""
    residual = signal - atoms @ codes.astype(np.float64)
    cosines = atoms.T @ residual / np.linalg.norm(atoms, axis=0) / np.linalg.norm(signal)
    assert np.abs(cosines[codes != 0]).max() < tolerance


@given(
    seed=st.integers(0, 2**32 - 1),
    top_k=st.sampled_from([1, 5, 13]),
    at_once=st.sampled_from([1, 4]),
    criterion=st.sampled_from(greedy.CRITERIA),
)
@settings(max_examples=15, deadline=None)
def test_codes_are_least_squares_on_their_support(seed, top_k, at_once, criterion):
    atoms, signals = problem(np.random.default_rng(seed), 30, 25, 3, spread=2.0)
    equations = equations_of(atoms, signals)
    found = greedy.omp_codes(equations, top_k, min(at_once, top_k), criterion)
    codes = np.asarray(found.codes)
    assert (found.chosen.sum(1) == (codes != 0).sum(1)).all()
    for signal, code in zip(signals, codes, strict=True):
        assert_least_squares(atoms, signal, code)
    rows = np.arange(3)[:, None]
    np.testing.assert_array_equal(codes[rows, found.indices], found.weights)


def test_all_atoms_give_least_squares():
    rng = np.random.default_rng(4)
    atoms, signals = rng.normal(size=(50, 12)), rng.normal(size=(4, 50))
    found = greedy.omp_codes(equations_of(atoms, signals), 12)
    np.testing.assert_allclose(found.codes, np.linalg.lstsq(atoms, signals.T)[0].T, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3])
def test_repeated_and_zero_atoms_and_low_rank(at_once):
    rng = np.random.default_rng(5)
    basis = rng.normal(size=(40, 6))
    # Six dimensions, each atom three times at other scales, and two atoms of nothing.
    atoms = np.concatenate([basis, 3 * basis, -0.1 * basis, np.zeros((40, 2))], 1)
    signals = rng.normal(size=(5, 40))
    found = greedy.omp_codes(equations_of(atoms, signals), 12, at_once)
    codes = np.asarray(found.codes)
    assert np.isfinite(codes).all()
    assert (codes[:, -2:] == 0).all()
    assert (found.chosen.sum(1) <= 6).all()
    assert (np.asarray(found.indices)[~found.chosen] == -1).all()
    assert (np.asarray(found.weights)[~found.chosen] == 0).all()
    for signal, code in zip(signals, codes, strict=True):
        assert_least_squares(atoms, signal, code)
    if at_once == 1:
        best = atoms @ np.linalg.lstsq(atoms, signals.T)[0]
        np.testing.assert_allclose(codes @ atoms.T, best.T, atol=1e-3)
    thresholded, _, _ = greedy.iht_codes(equations_of(atoms, signals), 12)
    assert np.isfinite(thresholded.codes).all()


@pytest.mark.parametrize("solver", [greedy.omp, greedy.iht])
def test_zero_signals_and_empty_dictionaries(solver):
    atoms = np.random.default_rng(6).normal(size=(20, 9))
    signals = np.stack([np.zeros(20), atoms[:, 3]])
    solution = solver(equations_of(atoms, signals), 3)
    assert (np.asarray(solution.codes[0]) == 0).all()
    np.testing.assert_allclose(solution.codes[1], np.eye(9)[3], atol=1e-5)
    np.testing.assert_allclose(solution.residual, 0, atol=1e-5)
    nothing = solver(equations_of(0 * atoms, signals), 3)
    assert (np.asarray(nothing.codes) == 0).all()


@pytest.mark.parametrize("points", [1, 5])
def test_fewer_points_than_atoms(points):
    rng = np.random.default_rng(7)
    atoms, signals = rng.normal(size=(points, 30)), rng.normal(size=(4, points))
    found = greedy.omp_codes(equations_of(atoms, signals), 10)
    assert (found.chosen.sum(1) <= points).all()
    np.testing.assert_allclose(found.codes @ atoms.T, signals, atol=2e-3)
    thresholded, _, _ = greedy.iht_codes(equations_of(atoms, signals), 10)
    assert np.isfinite(thresholded.codes).all()


@pytest.mark.parametrize(("atom_scale", "signal_scale"), [(1e-5, 1e5), (1e6, 1.0), (1.0, 1e-7)])
def test_scales_change_nothing(atom_scale, signal_scale):
    atoms, signals = problem(np.random.default_rng(8), signals=4)
    plain = equations_of(atoms, signals)
    scaled = equations_of(atoms * atom_scale, signals * signal_scale)
    for solve in (greedy.omp_codes, lambda *a: greedy.iht_codes(*a)[0]):
        expected = solve(plain, 8).codes * (signal_scale / atom_scale)
        np.testing.assert_allclose(
            solve(scaled, 8).codes, expected, rtol=1e-3, atol=1e-5 * float(np.abs(expected).max())
        )


def test_atoms_compete_as_unit_vectors():
    rng = np.random.default_rng(9)
    atoms, signals = problem(rng, signals=4)
    scales = np.exp(3 * rng.normal(size=40))
    plain = greedy.omp_codes(equations_of(atoms, signals), 8)
    scaled = greedy.omp_codes(equations_of(atoms * scales, signals), 8)
    np.testing.assert_array_equal(plain.indices, scaled.indices)


def test_supports_fit_the_solver_on_supports():
    rng = np.random.default_rng(10)
    atoms, signals = problem(rng, signals=4)
    atoms[:, 20:] = 2 * atoms[:, :20]
    signals[0] = 0
    equations = equations_of(atoms, signals)
    found = greedy.omp_codes(equations, 30)
    assert not found.chosen.all()
    again = solve_on_support(equations, found.indices, 0.0)
    np.testing.assert_allclose(again, found.codes, atol=2e-3)


def test_thresholding_finds_planted_codes():
    rng = np.random.default_rng(11)
    atoms, signals = problem(rng, 120, 80, 6, active=5, noise=0)
    true = np.abs(np.linalg.lstsq(atoms, signals.T)[0].T) > 1e-6
    top_k = int(true.sum(1).max())
    codes, converged, iterations = greedy.iht_codes(equations_of(atoms, signals), top_k)
    residual = signals - np.asarray(codes.codes) @ atoms.T
    assert np.abs(residual).max() < 1e-3
    assert converged.all()
    assert (iterations < 30).all()


@given(seed=st.integers(0, 2**32 - 1), top_k=st.sampled_from([1, 6]))
@settings(max_examples=12, deadline=None)
def test_thresholding_never_rises_and_ends_at_least_squares(seed, top_k):
    atoms, signals = problem(np.random.default_rng(seed), 30, 25, 3, spread=1.0)
    equations = equations_of(atoms, signals)
    few, _, _ = greedy.iht_codes(equations, top_k, steps=1)
    many, _, _ = greedy.iht_codes(equations, top_k, steps=30)
    slack = 1e-5 * equations.energy
    assert (equations.residual(many.codes) <= equations.residual(few.codes) + slack).all()
    assert ((np.asarray(many.codes) != 0).sum(1) <= top_k).all()
    for signal, code in zip(signals, np.asarray(many.codes), strict=True):
        assert_least_squares(atoms, signal, code)


def test_solution_reports_what_was_found():
    atoms, signals = problem(np.random.default_rng(12))
    signals[2] = 0
    solution = greedy.omp(equations_of(atoms, signals), 5)
    residual = ((signals - np.asarray(solution.codes) @ atoms.T) ** 2).mean(1)
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(solution.iterations, [5, 5, 0, 5, 5, 5, 5])
    np.testing.assert_array_equal(solution.converged, np.arange(7) != 2)


@pytest.mark.parametrize("top_k", [0, 41])
def test_impossible_counts(top_k):
    equations = equations_of(*problem(np.random.default_rng(13)))
    for solve in (greedy.omp_codes, greedy.iht_codes):
        with pytest.raises(ValueError, match=f"top_k={top_k}; allowed: 1 to .* 40"):
            solve(equations, top_k)
    with pytest.raises(ValueError, match="atoms_per_step"):
        greedy.omp_codes(equations, 4, atoms_per_step=5)
    with pytest.raises(ValueError, match="criterion"):
        greedy.omp_codes(equations, 4, criterion="best")
    with pytest.raises(ValueError, match="steps"):
        greedy.iht_codes(equations, 4, steps=0)
