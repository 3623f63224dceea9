"""Heads in closed form on lattices too fine for a covariance of their features.

On a grid the splines of `fields.embeddings.Splines` are products of those along each axis, so that
signals are projected on them axis by axis, and their leading directions are found from the products
of the signals with one another, [S, S] (the method of snapshots: Sirovich 1987). Otherwise as
`components`, without shrinkage.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from nid_jax.coding.prior import Coded
from nid_jax.data.originals import held_out
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import Splines
from nid_jax.fields.shared import SharedDictionary
from nid_jax.training.components import (
    ERRORS,
    ROUNDS,
    Heads,
    error_weights,
    mean_share,
)

MOST_SIGNALS = 4096
"""Signals whose products are held; of more, so many at even distances are taken."""

# Splines that all samples of an axis leave next to nothing of are not told apart by them.
_WEAKEST = 1e-5
# Of a direction, whose square is 1 but for rounding.
_LEAST_SQUARE = 1e-6


def lattice_heads(
    dictionary: SharedDictionary, collection: Any, errors: str = "log", shrinkage: float = 0.0
) -> Heads:
    """The heads that leave least of a collection, for splines without a trunk. -> `Heads`.

    collection: signals [*grid, C] on a whole grid, with names; of those of one name, 'name/copy',
    all are held out together where the error is measured. errors: as in
    `components.component_heads`. Raises ArgumentError for other features, a shrinkage, or another
    word for errors.
    """
    if errors not in ERRORS:
        raise ArgumentError("components.errors", errors, ", ".join(ERRORS))
    if shrinkage > 0:
        allowed = "0 or below: a covariance of so many features is not held"
        raise ArgumentError("components.shrinkage", shrinkage, allowed)
    if not isinstance(dictionary.embedding, Splines) or dictionary.kernels:
        size = dictionary.num_features * dictionary.channels
        allowed = f"'drawn' for {size} features x channels, but of splines with num_layers=1; "
        allowed += "embedding.num_kept keeps fewer cosines"
        raise ArgumentError("heads", "components", allowed)
    *grid_shape, channels = collection.shape
    most = min(MOST_SIGNALS, len(collection))
    chosen = np.unique(np.linspace(0, len(collection) - 1, most).astype(int))
    axes = _Axes(dictionary.embedding, grid_shape)
    signals, means, whole = axes.project_all(collection, chosen)
    products = signals @ signals.T
    experts = min(dictionary.num_experts, signals.shape[1])

    names = [collection.names[int(index)] for index in chosen]
    held = held_out(names)
    energy, weights = np.diag(products), np.ones(len(chosen), np.float32)
    for _ in range(ROUNDS if errors == "log" else 0):
        weights = error_weights(_left(products, weights, experts), energy)
    left = _left(products, np.where(held, 0, weights), experts)[held]
    basis, found = _leading(signals, products, weights, experts)
    kernel = axes.heads(basis, channels)
    share = mean_share(left, energy[held], errors == "log")
    # Atoms have energy 1 a point. Beside the heads is left what their splines leave, too.
    numbers = np.prod(grid_shape)
    residual = np.maximum(whole - np.square(found).sum(1), 0) / (numbers * channels)
    # Experts beyond those that the signals tell apart are not used by them.
    found = np.pad(found, ((0, 0), (0, dictionary.num_experts - found.shape[1])))
    coded = Coded(found / np.sqrt(np.float32(numbers)), means, residual, names)
    # Splines sum to one, and the directions are free of the constant.
    bias = np.zeros((kernel.shape[-1], channels), np.float32)
    some = len(chosen) < len(collection)
    how = f"at even distances among {len(collection)}" if some else ""
    return Heads(kernel, bias, 0.0, len(chosen), share, coded, how, errors)


def _eigen(products, weights, most):
    """Leading eigenvalues [E] and vectors [S, E] of weighted products, the largest first."""
    root = np.sqrt(weights).astype(products.dtype)
    size = len(products)
    subset = (size - min(most, size), size - 1)
    values, vectors = scipy.linalg.eigh(root[:, None] * products * root, subset_by_index=subset)
    kept = values > np.finfo(np.float32).eps * max(values[-1], 0)
    return values[kept][::-1], (root[:, None] * vectors[:, kept])[:, ::-1]


def _left(products, weights, most):
    """Energy [S] of every signal beside the leading directions under weights."""
    values, vectors = _eigen(products, weights, most)
    explained = np.square((products @ vectors) / np.sqrt(values)).sum(1)
    return np.maximum(np.diag(products) - explained, 0)


def leading(
    signals: Float[np.ndarray, "S N"],
    products: Float[np.ndarray, "S S"],
    weights: Float[np.ndarray, " S"],
    most: int,
) -> Float[np.ndarray, "N E"]:
    """Leading directions of signals that count by weights, orthonormal, most energy first.

    products: of the signals with one another. At most `most`, and as many as tell them apart.
    """
    return _leading(signals, products, weights, most)[0]


def _leading(signals, products, weights, most):
    """`leading`, and the signals in these directions [S, E]."""
    values, vectors = _eigen(products, weights, most)
    mixing = (vectors / np.sqrt(values)).astype(np.float32)
    basis, found = signals.T @ mixing, products @ mixing
    # What rounding took from right angles is given back by Cholesky factors, with a share of the
    # identity for directions that are nothing but rounding.
    eye = np.eye(basis.shape[1])
    for _ in range(2):
        factor = np.linalg.cholesky((basis.T @ basis).astype(np.float64) + _LEAST_SQUARE * eye)
        back = scipy.linalg.solve_triangular(factor, eye, lower=True).T
        basis, found = (part @ back.astype(np.float32) for part in (basis, found))
    return basis, found


class _Axes:
    """Orthonormal coordinates of splines on a grid, axis by axis."""

    def __init__(self, embedding: Splines, grid_shape: Sequence[int]):
        self.grid_shape, self.counts = tuple(grid_shape), embedding.counts
        self.bases, self.back = [], []
        for size, count in zip(grid_shape, embedding.counts, strict=True):
            points = jnp.asarray(grid((size,)))
            along = np.asarray(Splines((count,), embedding.degree)(points), np.float64)
            left, sizes, right = np.linalg.svd(along, full_matrices=False)
            kept = sizes > _WEAKEST * sizes[0]
            self.bases.append(left[:, kept].astype(np.float32))
            self.back.append((right[kept].T / sizes[kept]).astype(np.float32))
        ones = np.ones((*grid_shape, 1), np.float32)
        self.constant = self._applied(ones, [basis.T for basis in self.bases])[..., 0]

    @staticmethod
    def _applied(values, matrices):
        """A matrix [n, m] along every axis of values [*m, C]. -> [*n, C]."""
        for axis, matrix in enumerate(matrices):
            values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
        return values

    def project_all(
        self, collection: Any, chosen: np.ndarray
    ) -> tuple[Float[np.ndarray, "S RC"], Float[np.ndarray, "S C"], Float[np.ndarray, " S"]]:
        """Coordinates of signals, each made once, without constant parts; these; and energies."""
        size = self.constant.size * collection.shape[-1]
        signals = np.empty((len(chosen), size), np.float32)
        means = np.empty((len(chosen), collection.shape[-1]), np.float32)
        energies = np.empty(len(chosen), np.float32)
        for row, index in enumerate(chosen):
            signal = collection[int(index)]
            means[row] = signal.mean(tuple(range(len(self.grid_shape))))
            centred = signal - means[row]
            signals[row], energies[row] = self.project(centred), np.square(centred).sum()
        return signals, means, energies

    def project(self, centred: Float[np.ndarray, "*grid C"]) -> Float[np.ndarray, " RC"]:
        """Coordinates of a signal that is free of its constant part."""
        found = self._applied(centred.astype(np.float32), [basis.T for basis in self.bases])
        # What is left of the constant by rounding.
        share = np.tensordot(self.constant, found, self.constant.ndim)
        found -= self.constant[..., None] * (share / np.square(self.constant).sum())
        return found.reshape(-1)

    def heads(self, basis: np.ndarray, channels: int) -> Float[np.ndarray, "F C E"]:
        """Kernel of atoms of energy 1 a point from directions [R C, E]."""
        shape = [base.shape[1] for base in self.bases]
        scale = np.sqrt(np.prod(self.grid_shape))
        values = basis.reshape(*shape, channels * basis.shape[1]) * np.float32(scale)
        kernel = self._applied(values, self.back)
        return kernel.reshape(-1, channels, basis.shape[1])
