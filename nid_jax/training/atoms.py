"""Heads for sparse codes: of a pool of atoms larger than the dictionary, those that signals use.

The pool has waves (`fields.waves`) and principal components of the signals. Nothing is learned of
an atom but whether it stays. A few thousand signals tell E atoms apart by far; what they say of the
E F C numbers of the heads is too little: updates of atoms on sparse codes (K-SVD, also held near
their beginning) leave less of the training signals and no less of others.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nid_jax.coding.gram import NormalEquations
from nid_jax.coding.greedy import omp_codes
from nid_jax.data.originals import originals
from nid_jax.errors import ArgumentError
from nid_jax.fields import waves
from nid_jax.fields.shared import SharedDictionary
from nid_jax.notices import say
from nid_jax.training.components import colour_directions
from nid_jax.training.lattice_components import leading

# Principal components of the signals that stand in the pool beside the waves.
_COMPONENTS = 512
# Signals that are read, for each of the two uses.
_READ = 2000
# Signals that a round of pruning codes, and the share of the pool that it keeps at least.
_SIGNALS = 1000
_KEPT = 0.5
# Atoms that a pursuit takes at once, as a share of K: enough to tell which are used.
_STEP = 16
# Singular values below this share of the largest are rounding.
_RANK = 1e-6
# Of the energy of atoms that features cannot say: more is told.
_LOST = 0.01
# Of two atoms whose cosine is larger one does for both; looked at so many at a time.
_TWINS = 0.9
_BLOCK = 1024


def wave_heads(
    dictionary: SharedDictionary, measured: Any, names: Sequence[str], top_k: int, seed: int
) -> str:
    """Give a dictionary the atoms of the pool that codes of `top_k` atoms use, in place.

    measured: operator, grid_shape, whole and values(i) [M, C] of the signals, as a task's
    `learned_from` gives; names: of the signals, copies 'name/copy'. -> words on them. Raises
    ArgumentError for signals that are not samples on a grid, or on one of three axes, and for more
    experts than there are atoms.
    """
    if not measured.whole or getattr(measured, "weights", None) is not None:
        raise ArgumentError("heads", "waves", "signals sampled whole on a grid; drawn for others")
    waves.check_size(measured.grid_shape, dictionary.channels)
    random = np.random.default_rng([seed, 3])
    shown, judges = (
        np.stack([measured.values(int(i)) for i in places]) for places in _halves(names, random)
    )
    pool = waves.pool(measured.grid_shape, colour_axes(shown))
    pool = without_twins(np.concatenate([pool, components(shown, _COMPONENTS)]))
    kept = most_used(pool, judges, dictionary.num_experts, top_k, random)
    kept = kept.reshape(len(kept), -1, shown.shape[-1])
    left = set_heads(dictionary, measured.operator.points, kept)
    words = f"{len(kept)} of {len(pool)} waves and components, by {len(judges)} signals"
    if left > _LOST:
        say(
            f"dictionary.heads: waves: the features cannot say {left:.0%} of the atoms' energy; "
            "taken without it; dictionary.embedding.kind=cosine with counts=() says all of it"
        )
    return f"{words}; {left:.2g} of their energy is beyond the features"


def _halves(names: Sequence[str], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of signals to make atoms of, and of others to judge them, copies on one side.

    Components of signals that judged themselves would always win. Of one signal, both are it.
    """
    original = originals(names)
    sides = random.permutation(original.max() + 1) % 2
    side = sides[original]
    halves = [
        np.sort(random.permutation(np.flatnonzero(side == min(number, sides.max())))[:_READ])
        for number in (0, 1)
    ]
    return halves[0], halves[1]


def colour_axes(signals: Float[np.ndarray, "S P C"]) -> Float[np.ndarray, "C C"]:
    """Directions in which the channels of signals vary independently, as rows, the widest first."""
    rows = _centred(signals).reshape(-1, signals.shape[-1]).astype(np.float64)
    return colour_directions(rows.T @ rows)[:, ::-1].T


def components(signals: Float[np.ndarray, "S P C"], count: int) -> Float[np.ndarray, "K V"]:
    """The leading principal components of signals free of their channels' means, unit rows.

    At most `count`, and at most as many as tell the signals apart.
    """
    rows = _centred(signals)
    return leading(rows, rows @ rows.T, np.ones(len(rows), np.float32), count).T


def _centred(signals):
    """[S, P, C] -> rows [S, V] free of the means of their channels."""
    rows = signals.reshape(len(signals), -1, signals.shape[-1])
    return (rows - rows.mean(1, keepdims=True)).reshape(len(signals), -1)


def without_twins(pool: Float[np.ndarray, "N V"]) -> Float[np.ndarray, "M V"]:
    """Atoms of unit norm, of each pair too much alike only the first: pursuits waver between them,
    and neither looks as used as it is."""
    kept = np.ones(len(pool), bool)
    for first in range(0, len(pool), _BLOCK):
        alike = np.abs(pool[first : first + _BLOCK] @ pool[first:].T) > _TWINS
        for row, twins in enumerate(alike):
            if kept[first + row]:
                kept[first + row + 1 :] &= ~twins[row + 1 :]
    return pool[kept]


def most_used(
    pool: Float[np.ndarray, "N V"],
    signals: Float[np.ndarray, "S P C"],
    count: int,
    top_k: int,
    random: np.random.Generator,
) -> Float[np.ndarray, "E V"]:
    """The `count` atoms of a pool that codes of `top_k` atoms need most.

    pool: unit rows, free of their channels' means. In rounds: code some signals by matching
    pursuit, and let the atoms go whose codes are least, each measured by what was left of its
    signal, until `count` are left. A round keeps half or more, as atoms take over from those that
    went. Raises ArgumentError for more atoms than the pool has.
    """
    if count > len(pool):
        allowed = f"1 to {len(pool)}, the waves there are for these signals"
        raise ArgumentError("num_experts", count, allowed)
    rows = _centred(signals)
    while len(pool) > count:
        some = rows[random.permutation(len(rows))[:_SIGNALS]]
        kept = np.argsort(-usage(pool, some, top_k), kind="stable")
        pool = pool[np.sort(kept[: max(count, int(_KEPT * len(pool)))])]
    return pool


def usage(
    atoms: Float[np.ndarray, "E V"], rows: Float[np.ndarray, "S V"], top_k: int
) -> Float[np.ndarray, " E"]:
    """How much K-sparse codes of signals need each atom: |code| over the norm of what is left.

    atoms of unit norm, rows: signals; both free of their means. Summed over signals.
    """
    top_k = min(top_k, len(atoms))
    zero = jnp.zeros((len(atoms), 1))
    equations = NormalEquations(
        gram=jnp.asarray(atoms @ atoms.T),
        moments=jnp.asarray(rows @ atoms.T),
        energy=jnp.asarray(np.square(rows).sum(1)),
        atom_mean=zero,
        target_mean=jnp.zeros((len(rows), 1)),
        count=jnp.float32(1),
        bias_weight=jnp.float32(1),
    )
    codes = np.asarray(omp_codes(equations, top_k, max(1, top_k // _STEP)).codes)
    energy = np.square(rows, dtype=np.float64).sum(1)
    left = np.square(rows - codes @ atoms, dtype=np.float64).sum(1)
    # A pursuit that went astray among dependent atoms says nothing, nor does a blank signal.
    good = (left <= energy) & (energy > 0)
    left = np.sqrt(np.maximum(left[good], 1e-8 * energy[good]))
    return (np.abs(codes[good]) / left[:, None]).sum(0)


def set_heads(
    dictionary: SharedDictionary,
    points: Float[np.ndarray, "P D"],
    atoms: Float[np.ndarray, "E P C"],
) -> float:
    """Make heads the least squares approximations of atoms, in place.

    Atoms are first scaled to root mean square 1 over points and channels.
    -> the share of the atoms' energy that no heads on these features have.
    """
    features = np.asarray(dictionary.features(jnp.asarray(points)), np.float64)
    features = np.concatenate([features, np.ones((len(features), 1))], 1)
    size = np.sqrt(np.square(atoms).mean((1, 2), keepdims=True))
    atoms = np.moveaxis(atoms / np.where(size > 0, size, 1), 0, 1)
    flat = atoms.reshape(len(atoms), -1)
    solved = np.linalg.pinv(features, _RANK) @ flat
    energy = np.square(flat, dtype=np.float64).sum()
    left = np.square(flat - features @ solved).sum() / energy if energy > 0 else 0.0
    heads = solved.reshape(-1, *atoms.shape[1:]).astype(np.float32)
    dictionary.head_kernel[...] = jnp.asarray(heads[:-1].swapaxes(1, 2))
    dictionary.head_bias[...] = jnp.asarray(heads[-1])
    return float(left)
