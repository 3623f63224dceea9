"""Which cosines of a lattice a dictionary keeps: those of most energy in the training signals.

On a grid of n samples along an axis, its ends at +-1, the cosines k = 0 to n - 1 are orthogonal
under the trapezoid rule, which counts a sample at an end by half: the discrete cosine transform of
type I (Strang, SIAM Review 1999). So a signal f has of each cosine of the lattice one coefficient,

    a_k = <f, c_k> / <c_k, c_k>,    c_k(x) = prod_j cos(pi k_j (x_j + 1) / 2),

whatever others there are, and the constant, which every signal has of its own, is in none of them.
The energy of a cosine is a_k^2 <c_k, c_k>, summed over signals and channels. Of all sets of so many
cosines those of most energy leave least of the signals' energy in the lattice, by Parseval.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.fields.embeddings import ChosenCosines
from nid_jax.training.components import MOST_COEFFICIENTS

_KEY = "dictionary.embedding.num_kept"
# Numbers of signals that are transformed at a time.
_BATCH_NUMBERS = 2**22


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a config that keeps cosines and chooses none."""
    num_kept = _num_kept(config)
    if num_kept and config.dictionary.heads != "components":
        raise ValueError(
            f"{_KEY}: {num_kept}; allowed with dictionary.heads={config.dictionary.heads}: 0, as "
            "components alone choose cosines"
        )


def check_signals(config: ConfigDict, measured: Any, shape: Sequence[int]) -> None:
    """Raise ValueError, naming the key, for signals of which no cosines can be chosen.

    measured: `tasks.Measured`; shape: of the collection, (*grid, C).
    """
    num_kept = _num_kept(config)
    if not num_kept:
        return
    *grid_shape, channels = shape
    whole = (*measured.grid_shape, measured.channels) == tuple(shape)
    if not (measured.alike and whole and _all_samples(measured)):
        raise ValueError(
            f"{_KEY}: {num_kept}; allowed: 0 where not all samples of every signal are known on "
            "one grid"
        )
    counts = tuple(config.dictionary.embedding.counts) or tuple(grid_shape)
    if len(counts) != len(grid_shape):
        raise ValueError(
            f"dictionary.embedding.counts: {counts}; allowed: {len(grid_shape)} numbers, or () for "
            "those of the grid"
        )
    if any(count > size for count, size in zip(counts, grid_shape, strict=True)):
        raise ValueError(
            f"dictionary.embedding.counts: {counts}; allowed with num_kept={num_kept}: at most "
            f"{tuple(grid_shape)}, the samples of a signal, which tell no more cosines apart"
        )
    if num_kept * channels > MOST_COEFFICIENTS:
        raise ValueError(
            f"{_KEY}: {num_kept}; allowed: at most {MOST_COEFFICIENTS // channels}, of which a "
            "covariance is held"
        )


def _all_samples(measured):
    """Whether one operator measured the signals, and that is every sample of their grid."""
    if len(measured.ways) != 1 or not measured.operator.is_sampling:
        return False
    whole = measured.operator.num_measurements == math.prod(measured.grid_shape)
    return whole and measured.operator.weights is None


def choose(embedding: ChosenCosines, collection: Any) -> str:
    """Keep the cosines of most energy in a collection, of equal ones the first. -> words on them.

    collection: finite signals [*grid, C] on a whole grid, no axis of fewer samples than the lattice
    has frequencies along it. Each is read once.
    """
    energies, lattice = lattice_energies(embedding, collection), embedding.lattice
    chosen = np.sort(np.argsort(-energies, kind="stable")[: embedding.size])
    embedding.keep(lattice[chosen])
    share = energies[chosen].sum() / max(energies.sum(), np.finfo(float).tiny)
    return (
        f"{embedding.size} of {len(lattice)} cosines, with {100 * share:.4g}% of their energy in "
        "the signals"
    )


def lattice_energies(embedding: ChosenCosines, collection: Any) -> Float[np.ndarray, " N"]:
    """Energy of every cosine of `embedding.lattice` in a collection, float64, as `choose` reads
    it."""
    *grid_shape, channels = collection.shape
    total = np.zeros(embedding.counts)
    size = max(1, _BATCH_NUMBERS // (math.prod(grid_shape) * channels))
    for first in range(0, len(collection), size):
        some = range(first, min(first + size, len(collection)))
        values = np.stack([collection[index] for index in some]).astype(np.float64)
        for axis, count in enumerate(embedding.counts, start=1):
            values = _transformed(values, axis).take(np.arange(count), axis)
        total += np.square(values).sum((0, -1))
    return total.reshape(-1)[embedding.lattice]


def _transformed(values, axis):
    """Coefficients of cosines along an axis times their norms under the trapezoid rule."""
    size = values.shape[axis]
    if size == 1:
        return values
    roots = np.ones(size)
    roots[[0, -1]] = np.sqrt(0.5)
    roots = roots.reshape(-1, *[1] * (values.ndim - 1 - axis))
    return scipy.fft.dct(values * roots, type=1, axis=axis, norm="ortho")


def _num_kept(config):
    """Cosines that a config keeps of a lattice; 0: all, or another embedding."""
    embedding = config.dictionary.embedding
    return embedding.get("num_kept", 0) if embedding.kind == "cosine" else 0
