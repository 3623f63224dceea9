"""Heads of waves: which atoms stay, and what the heads are then."""

import numpy as np
import pytest
from flax import nnx

from nid_jax.coding.operators import sample
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import CosineLattice
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.notices import Notice
from nid_jax.training import atoms


def unit(random, count, values):
    """Unit rows free of their mean, [count, values]."""
    rows = random.standard_normal((count, values))
    rows = rows - rows.mean(1, keepdims=True)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_atoms_that_signals_are_made_of_stay():
    random = np.random.default_rng(0)
    pool = unit(random, 60, 40)
    used = np.sort(random.choice(60, 8, replace=False))
    codes = np.zeros((200, 60), np.float32)
    for row in codes:
        row[random.choice(used, 2, replace=False)] = 1 + random.random(2)
    signals = (codes @ pool + 0.5)[..., None]
    kept = atoms.most_used(pool, signals, 8, 2, random)
    np.testing.assert_array_equal(kept, pool[used])


def test_usage_is_of_least_squares_codes_and_of_each_signal_alike():
    random = np.random.default_rng(1)
    pool = np.linalg.qr(random.standard_normal((20, 20)))[0][:, :12].T.astype(np.float32)
    rows = random.standard_normal((5, 20)).astype(np.float32)
    found = atoms.usage(pool, rows, 3)
    # Of orthonormal atoms the pursuit takes the largest products.
    products = rows.astype(np.float64) @ pool.T
    kept = np.where(np.abs(products) >= np.sort(np.abs(products))[:, -3:-2], products, 0)
    left = np.sqrt(np.square(rows).sum(1) - np.square(kept).sum(1))
    np.testing.assert_allclose(found, (np.abs(kept) / left[:, None]).sum(0), rtol=1e-4)
    np.testing.assert_allclose(atoms.usage(pool, 7 * rows, 3), found, rtol=1e-4)
    blank = np.concatenate([rows, np.zeros((1, 20), np.float32)])
    np.testing.assert_allclose(atoms.usage(pool, blank, 3), found, rtol=1e-4)


def test_more_experts_than_atoms_are_refused():
    with pytest.raises(ArgumentError, match="num_experts: 9; allowed: 1 to 5"):
        atoms.most_used(np.eye(5, 8), np.zeros((2, 8, 1)), 9, 2, np.random.default_rng(0))


def test_copies_of_a_signal_are_on_one_side():
    names = [f"{i}{copy}" for copy in ("", "/mirror", "/turn2") for i in range(11)]
    shown, judges = atoms._halves(names, np.random.default_rng(2))
    sides = [{names[i].split("/")[0] for i in half} for half in (shown, judges)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 11
    assert min(map(len, sides)) == 5
    one = atoms._halves(["a"], np.random.default_rng(2))
    assert [half.tolist() for half in one] == [[0], [0]]


def test_components_are_those_of_the_covariance():
    random = np.random.default_rng(3)
    for count in (6, 50):
        signals = random.standard_normal((count, 10, 2)).astype(np.float32)
        found = atoms.components(signals, 4)
        rows = (signals - signals.mean(1, keepdims=True)).reshape(count, -1).astype(np.float64)
        expected = np.linalg.svd(rows, full_matrices=False)[2][:4]
        np.testing.assert_allclose(np.abs(np.sum(found * expected, 1)), 1, atol=1e-4)


def test_heads_are_the_atoms_where_features_span_the_grid():
    dictionary = SharedDictionary(
        CosineLattice((6, 7)), 5, 2, Layers(1, 4, "relu", 1.0), rngs=nnx.Rngs(0)
    )
    points = grid((6, 7))
    wanted = np.random.default_rng(4).standard_normal((5, 42, 2)).astype(np.float32)
    assert atoms.set_heads(dictionary, points, wanted) < 1e-9
    wanted = wanted / np.sqrt(np.square(wanted).mean((1, 2), keepdims=True))
    np.testing.assert_allclose(dictionary(points), np.moveaxis(wanted, 0, 1), atol=2e-5)


class _Unread:
    """Signals of a size that no pool is made for; none is to be read."""

    whole, grid_shape = True, (128, 128)

    def values(self, index):
        raise AssertionError(index)


def test_signals_too_large_are_refused_before_they_are_read():
    dictionary = SharedDictionary(
        CosineLattice((3, 3)), 5, 1, Layers(1, 4, "relu", 1.0), rngs=nnx.Rngs(0)
    )
    with pytest.raises(ArgumentError, match="signals of 16384 values: the most is 8192"):
        atoms.wave_heads(dictionary, _Unread(), ["a"], 2, 0)


class _Noise:
    """White noise on a grid, which a coarse lattice can hardly say."""

    whole, grid_shape, operator = True, (8, 8), sample((8, 8))

    def values(self, index):
        return np.random.default_rng(index).standard_normal((64, 1)).astype(np.float32)


@pytest.mark.slow
def test_what_features_cannot_say_of_the_atoms_is_said():
    dictionary = SharedDictionary(
        CosineLattice((3, 3)), 12, 1, Layers(1, 4, "relu", 1.0), rngs=nnx.Rngs(0)
    )
    with pytest.warns(Notice, match="heads: waves: the features cannot say [0-9]+% of the atoms"):
        words = atoms.wave_heads(dictionary, _Noise(), [f"{i}" for i in range(40)], 2, 0)
    # White noise has 9 of 64 parts on the lattice, the constant's one among them.
    assert 0.5 < float(words.split("; ")[1].split()[0]) < 1


def test_of_two_atoms_alike_the_first_stays(monkeypatch):
    random = np.random.default_rng(5)
    pool = unit(random, 9, 60)
    # Copies, one turned round, one a little off; and one that is half another.
    near = pool[2] + 0.03 * unit(random, 1, 60)[0]
    half = pool[3] + pool[4]
    rows = np.stack([pool[1], -pool[5], near / np.linalg.norm(near), half / np.linalg.norm(half)])
    whole = np.concatenate([pool, rows])
    for block in (4, 100):
        monkeypatch.setattr(atoms, "_BLOCK", block)
        expected = np.concatenate([pool, rows[3:]])
        np.testing.assert_array_equal(atoms.without_twins(whole), expected)
