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
from nid_jax.errors import ArgumentError


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


# One shape and one K wherever possible: compilation is most of the time.
SIGNALS, EXPERTS, TOP_K = 4, 24, 8


def problem(rng, points=60, experts=EXPERTS, signals=SIGNALS, active=8, noise=0.05, spread=0.0):
    atoms = rng.normal(size=(points, experts)) * np.exp(spread * rng.normal(size=experts))
    codes = rng.normal(size=(signals, experts)) * (
        rng.random((signals, experts)) < active / experts
    )
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
    sparse = greedy.omp_codes(equations_of(atoms, signals), TOP_K)
    gram, moments = atoms.T @ atoms, atoms.T @ signals.T
    expected = orthogonal_mp_gram(gram, moments, n_nonzero_coefs=TOP_K).T
    np.testing.assert_allclose(sparse.codes, expected, atol=1e-4)
    assert sparse.chosen.all()


@pytest.mark.parametrize("criterion", greedy.CRITERIA)
@pytest.mark.parametrize("at_once", [1, 3])
def test_agrees_with_a_plain_pursuit(criterion, at_once):
    atoms, signals = problem(np.random.default_rng(1), spread=1.0)
    found = greedy.omp_codes(equations_of(atoms, signals), TOP_K, at_once, criterion)
    for signal, codes, indices in zip(signals, found.codes, found.indices, strict=True):
        expected, chosen = reference(atoms, signal, TOP_K, criterion, at_once)
        assert list(np.asarray(indices)) == chosen
        np.testing.assert_allclose(codes, expected, atol=1e-4 * np.abs(expected).max())


def test_blocks_of_signals_change_nothing():
    equations = equations_of(*problem(np.random.default_rng(2)))
    whole, cut = greedy.omp_codes(equations, TOP_K), greedy.omp_codes(equations, TOP_K, block=3)
    np.testing.assert_array_equal(cut.indices, whole.indices)
    np.testing.assert_allclose(cut.codes, whole.codes, atol=1e-5)


@pytest.mark.parametrize("block", [0, 3])
def test_own_gram_matrices_are_each_signals_own(block):
    rng = np.random.default_rng(3)
    atoms, signals = rng.normal(size=(SIGNALS, 50, EXPERTS)), rng.normal(size=(SIGNALS, 50))
    equations = equations_of(atoms, signals)
    found = greedy.omp_codes(equations, TOP_K, block=block)
    thresholded, _, _ = greedy.iht_codes(equations, TOP_K)
    for s in range(SIGNALS):
        expected, _ = reference(atoms[s], signals[s], TOP_K)
        np.testing.assert_allclose(found.codes[s], expected, atol=1e-4)
        assert_least_squares(atoms[s], signals[s], np.asarray(thresholded.codes[s]))


def assert_least_squares(atoms, signal, codes, tolerance=1e-4):
    """The residual is orthogonal to every atom in use."""
    residual = signal - atoms @ codes.astype(np.float64)
    used = atoms[:, codes != 0]
    cosines = used.T @ residual / np.linalg.norm(used, axis=0) / np.linalg.norm(signal)
    assert np.abs(cosines).max() < tolerance


@given(
    seed=st.integers(0, 2**32 - 1),
    points=st.integers(10, 40),
    at_once=st.sampled_from([1, 3]),
    criterion=st.sampled_from(greedy.CRITERIA),
)
@settings(max_examples=15, deadline=None)
def test_codes_are_least_squares_on_their_support(seed, points, at_once, criterion):
    atoms, signals = problem(np.random.default_rng(seed), points, spread=2.0)
    equations = equations_of(atoms, signals)
    found = greedy.omp_codes(equations, TOP_K, at_once, criterion)
    codes = np.asarray(found.codes)
    assert (found.chosen.sum(1) == (codes != 0).sum(1)).all()
    for signal, code in zip(signals, codes, strict=True):
        assert_least_squares(atoms, signal, code)
    rows = np.arange(SIGNALS)[:, None]
    np.testing.assert_array_equal(codes[rows, found.indices], found.weights)


def test_all_atoms_give_least_squares():
    # Large enough for the rows to grow in stages.
    rng = np.random.default_rng(4)
    atoms, signals = rng.normal(size=(200, 64)), rng.normal(size=(SIGNALS, 200))
    found = greedy.omp_codes(equations_of(atoms, signals), 64)
    np.testing.assert_allclose(found.codes, np.linalg.lstsq(atoms, signals.T)[0].T, atol=1e-4)
    for signal, indices in zip(signals, found.indices, strict=True):
        assert list(np.asarray(indices[:40])) == reference(atoms, signal, 40)[1]


@pytest.mark.parametrize("at_once", [1, 3])
def test_repeated_and_zero_atoms_and_low_rank(at_once):
    rng = np.random.default_rng(5)
    basis = rng.normal(size=(40, 6))
    # Six dimensions, each three times at other scales, and atoms of nothing.
    atoms = np.concatenate([basis, 3 * basis, -0.1 * basis, np.zeros((40, 6))], 1)
    signals = rng.normal(size=(SIGNALS, 40))
    found = greedy.omp_codes(equations_of(atoms, signals), TOP_K, at_once)
    codes = np.asarray(found.codes)
    assert np.isfinite(codes).all()
    assert (codes[:, -6:] == 0).all()
    assert (found.chosen.sum(1) <= 6).all()
    assert (np.asarray(found.indices)[~found.chosen] == -1).all()
    assert (np.asarray(found.weights)[~found.chosen] == 0).all()
    for signal, code in zip(signals, codes, strict=True):
        assert_least_squares(atoms, signal, code)
    if at_once == 1:
        best = atoms @ np.linalg.lstsq(atoms, signals.T)[0]
        np.testing.assert_allclose(codes @ atoms.T, best.T, atol=1e-3)
    thresholded, _, _ = greedy.iht_codes(equations_of(atoms, signals), TOP_K)
    assert np.isfinite(thresholded.codes).all()


@pytest.mark.parametrize("find", [greedy.omp_codes, lambda *a: greedy.iht_codes(*a)[0]])
def test_zero_signals_and_empty_dictionaries(find):
    atoms = np.random.default_rng(6).normal(size=(40, EXPERTS))
    signals = np.stack([np.zeros(40), *atoms.T[:3]])
    found = find(equations_of(atoms, signals), TOP_K)
    assert (np.asarray(found.codes[0]) == 0).all()
    np.testing.assert_allclose(found.codes[1:], np.eye(EXPERTS)[:3], atol=1e-5)
    nothing = find(equations_of(0 * atoms, signals), TOP_K)
    assert (np.asarray(nothing.codes) == 0).all()


@pytest.mark.parametrize("points", [1, 5])
def test_fewer_points_than_atoms(points):
    rng = np.random.default_rng(7)
    atoms, signals = rng.normal(size=(points, EXPERTS)), rng.normal(size=(SIGNALS, points))
    found = greedy.omp_codes(equations_of(atoms, signals), TOP_K)
    assert (found.chosen.sum(1) <= points).all()
    np.testing.assert_allclose(found.codes @ atoms.T, signals, atol=2e-3)
    thresholded, _, _ = greedy.iht_codes(equations_of(atoms, signals), TOP_K)
    assert np.isfinite(thresholded.codes).all()


@pytest.mark.parametrize(("atom_scale", "signal_scale"), [(1e-5, 1e5), (1e6, 1.0), (1.0, 1e-7)])
def test_scales_change_nothing(atom_scale, signal_scale):
    atoms, signals = problem(np.random.default_rng(8))
    plain = equations_of(atoms, signals)
    scaled = equations_of(atoms * atom_scale, signals * signal_scale)
    for solve in (greedy.omp_codes, lambda *a: greedy.iht_codes(*a)[0]):
        expected = solve(plain, TOP_K).codes * (signal_scale / atom_scale)
        np.testing.assert_allclose(
            solve(scaled, TOP_K).codes,
            expected,
            rtol=1e-3,
            atol=1e-5 * float(np.abs(expected).max()),
        )


def test_atoms_compete_as_unit_vectors():
    rng = np.random.default_rng(9)
    atoms, signals = problem(rng)
    scales = np.exp(3 * rng.normal(size=EXPERTS))
    plain = greedy.omp_codes(equations_of(atoms, signals), TOP_K)
    scaled = greedy.omp_codes(equations_of(atoms * scales, signals), TOP_K)
    np.testing.assert_array_equal(plain.indices, scaled.indices)


def test_supports_fit_the_solver_on_supports():
    rng = np.random.default_rng(10)
    atoms, signals = problem(rng, active=2)
    atoms[:, 6:] = np.tile(2 * atoms[:, :6], 3)
    signals[0] = 0
    equations = equations_of(atoms, signals)
    found = greedy.omp_codes(equations, TOP_K)
    assert not found.chosen.all()
    again = solve_on_support(equations, found.indices, 0.0)
    np.testing.assert_allclose(again, found.codes, atol=2e-3)


def test_thresholding_finds_planted_codes():
    rng = np.random.default_rng(11)
    atoms, signals = problem(rng, 120, active=4, noise=0)
    used = np.abs(np.linalg.lstsq(atoms, signals.T)[0]) > 1e-6
    assert (used.sum(0) <= TOP_K).all()
    codes, converged, iterations = greedy.iht_codes(equations_of(atoms, signals), TOP_K)
    residual = signals - np.asarray(codes.codes) @ atoms.T
    assert np.abs(residual).max() < 1e-3
    assert converged.all()
    assert (iterations < 30).all()


@given(seed=st.integers(0, 2**32 - 1), points=st.integers(10, 40))
@settings(max_examples=12, deadline=None)
def test_thresholding_beats_its_first_guess_and_ends_at_least_squares(seed, points):
    atoms, signals = problem(np.random.default_rng(seed), points, spread=1.0)
    sparse, _, _ = greedy.iht_codes(equations_of(atoms, signals), TOP_K)
    for signal, code in zip(signals, np.asarray(sparse.codes), strict=True):
        assert (code != 0).sum() <= TOP_K
        assert_least_squares(atoms, signal, code)
        cosines = np.abs(atoms.T @ signal) / np.linalg.norm(atoms, axis=0)
        guess = atoms[:, np.argsort(-cosines)[:TOP_K]]
        left = np.linalg.norm(signal - guess @ np.linalg.lstsq(guess, signal)[0])
        assert np.linalg.norm(signal - atoms @ code) <= left + 1e-3 * np.linalg.norm(signal)


def test_a_signal_without_energy_needs_no_atoms():
    atoms, signals = problem(np.random.default_rng(12))
    signals[2] = 0
    sparse = greedy.omp_codes(equations_of(atoms, signals), TOP_K)
    np.testing.assert_array_equal(sparse.chosen.sum(-1), [8, 8, 0, 8])
    assert not np.asarray(sparse.codes[2]).any()


@pytest.mark.parametrize("top_k", [0, 25])
def test_impossible_counts(top_k):
    equations = equations_of(*problem(np.random.default_rng(13)))
    for solve in (greedy.omp_codes, greedy.iht_codes):
        with pytest.raises(ArgumentError, match=f"top_k: {top_k}; allowed: 1 to 24 experts"):
            solve(equations, top_k)
    with pytest.raises(ArgumentError, match="atoms_per_step: 5; allowed: 1 to top_k=4"):
        greedy.omp_codes(equations, 4, atoms_per_step=5)
    with pytest.raises(ArgumentError, match="criterion: 'best'"):
        greedy.omp_codes(equations, 4, criterion="best")
    with pytest.raises(ArgumentError, match="steps: 0"):
        greedy.iht_codes(equations, 4, steps=0)
