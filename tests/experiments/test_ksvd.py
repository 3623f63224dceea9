"""K-SVD, against signals made of known atoms."""

import numpy as np
import scipy.sparse
from peers.ksvd import KSVD


def names(count):
    return [f"{number:03d}" for number in range(count)]


def test_a_pass_lowers_the_error_on_given_supports():
    random = np.random.default_rng(0)
    signals = random.standard_normal((30, 4, 4, 1))
    known = KSVD(signals, names(30), 12, 3, passes=0)
    rows = known.centred(signals)[0].astype(np.float64)
    known.atoms = known.atoms.astype(np.float64)
    codes = np.zeros((30, 12))
    for row in codes:
        row[random.choice(11, 3, replace=False)] = random.standard_normal(3)
    errors = [np.square(rows - codes @ known.atoms).sum()]
    codes = scipy.sparse.csc_matrix(codes)
    support = codes != 0
    for _ in range(3):
        known.update(rows, codes)
        errors.append(np.square(rows - codes @ known.atoms).sum())
    assert (np.diff(errors) < 0).all()
    assert (support != (codes != 0)).nnz == 0
    np.testing.assert_allclose(np.linalg.norm(known.atoms, axis=1), 1, rtol=1e-12)


def test_an_atom_that_no_code_uses_becomes_the_worst_signal():
    random = np.random.default_rng(1)
    signals = random.standard_normal((10, 3, 3, 2))
    known = KSVD(signals, names(10), 4, 2, passes=0)
    rows = known.centred(signals)[0]
    known.update(rows, scipy.sparse.csc_matrix((10, 4), dtype=np.float32))
    order = np.argsort(-np.square(rows).sum(1))[:4]
    likeness = np.abs(known.atoms @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T)
    assert set(likeness.argmax(1)) == set(order)
    np.testing.assert_allclose(likeness.max(1), 1, rtol=1e-5)


def test_codes_are_of_k_atoms_and_keep_the_means():
    random = np.random.default_rng(2)
    signals = random.random((20, 4, 5, 2))
    known = KSVD(signals, names(20), 30, 3, passes=1)
    found = known.encode(signals)
    assert ((found[0] != 0).sum(1) <= 3).all()
    np.testing.assert_allclose(known.decode(found).mean((1, 2)), signals.mean((1, 2)), atol=1e-5)


def test_the_pass_that_leaves_least_of_signals_held_out_is_taken():
    random = np.random.default_rng(3)
    # Noise: what is learned of some says nothing of others.
    signals = random.standard_normal((40, 5, 5, 1))
    begun, ended = (KSVD(signals, names(40), 25, 6, passes=passes) for passes in (0, 4))
    held = begun.centred(signals[4::5])[0]
    assert ended._error(held) <= begun._error(held)
    # Three atoms that all signals are made of are found.
    atoms = random.standard_normal((3, 5, 5, 1))
    signals = np.einsum("se,eijc->sijc", random.standard_normal((60, 3)), atoms)
    begun, ended = (KSVD(signals, names(60), 8, 3, passes=passes) for passes in (0, 6))
    held = begun.centred(signals[4::5])[0]
    assert ended._error(held) < begun._error(held) - 0.5
