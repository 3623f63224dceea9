"""The canonical form of a dense dictionary: orthonormal atoms, uncorrelated codes, by energy.

Only the span of the atoms matters to a dense code. So atoms B may be replaced by B T, and codes a
by P a with B T P = B, without a change to what is rendered. T is chosen such that on a grid of M
points, with the constant taken off every atom,

    sum_pc atom_e atom_f = M where e = f, else 0        and        covariance(P a) is diagonal,

largest first: functional principal components (Ramsay & Silverman 2005, chapter 8) within the span
of the dictionary. An atom's energy a point, its squares summed over channels in the mean over
points, is 1, so that a code is of the size of what it adds to the signal.

With G = V L V^T the Gram matrix of the centred atoms over M and C the covariance of codes, L^1/2
V^T C V L^1/2 = U D U^T gives T = V L^-1/2 U, P = U^T L^1/2 V^T. Directions that are rounding of the
strongest have no atom: those at the end are zero, and so are their codes.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nid_jax.coding import gram, operators
from nid_jax.coding.prior import GaussianPrior
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.embeddings import Splines
from nid_jax.fields.shared import SharedDictionary

# Atoms' directions below this share of the strongest one's energy are rounding: the weights that
# would make atoms of them are so large that float32 no longer renders them.
_WEAKEST = 1e-10
# Rows of orthonormal coordinates that are held in float64 at a time.
_ROWS = 8192
# How far from orthonormal the atoms of a canonical dictionary may be: what float32 leaves.
_TOLERANCE = 0.02
# Of the way to canonical form and back, in float32.
_ROUNDING = 1e-5
# Variance of a code that is always zero, as a share of the mean one: no solver divides by zero.
_LEAST_VARIANCE = 1e-8


class Transform(NamedTuple):
    """From a dictionary's atoms and codes to the canonical ones, float64.

    mixing [E, E] T: atoms' = atoms @ mixing - level; level [E, C]; inverse [E, E] P: code' =
    inverse @ code, and bias' = bias + level^T code'; energies [E], the codes' variances.
    """

    mixing: Float[np.ndarray, "E E"]
    level: Float[np.ndarray, "E C"]
    inverse: Float[np.ndarray, "E E"]
    energies: Float[np.ndarray, " E"]

    @property
    def rank(self) -> int:
        """Atoms that are not zero."""
        return int((np.abs(self.mixing).max(0) > 0).sum())

    def codes(
        self, codes: Float[np.ndarray, "S E"], bias: Float[np.ndarray, "S C"]
    ) -> tuple[Float[np.ndarray, "S E"], Float[np.ndarray, "S C"]]:
        """Codes and bias in the canonical dictionary that render the same signals."""
        found = np.asarray(codes, np.float64) @ self.inverse.T
        return found.astype(np.float32), (bias + found @ self.level).astype(np.float32)

    def prior(self, prior: GaussianPrior) -> GaussianPrior:
        """The same Gaussian over canonical codes: its covariance is the diagonal alone.

        Raises ArgumentError for a prior that holds the bias beside the codes.
        """
        _covariance(prior, len(self.inverse))
        least = _LEAST_VARIANCE * max(self.energies.mean(), np.finfo(np.float32).tiny)
        variance = np.maximum(self.energies, least)
        codes = prior.codes
        if codes is not None:
            codes = (np.asarray(codes, np.float64) @ self.inverse.T).astype(np.float32)
        mean = self.inverse @ np.asarray(prior.mean, np.float64)
        mixture, level = prior.mixture, prior.level
        if mixture is not None:
            mixture = _leading(mixture.transformed(self.inverse))
        if level is not None:
            level = level.transformed(self.mixing, self.level, mean)
        return prior._replace(
            mean=_single(mean),
            # No directions beside the codes themselves: solvers pay for each, and files hold it.
            factor=jnp.zeros((len(mean), 0), jnp.float32),
            diagonal=_single(variance),
            codes=codes,
            mixture=mixture,
            level=level,
        )


def _leading(mixture):
    """A mixture whose basis is that of the leading coordinates but for rounding, without that."""
    identity = np.eye(*mixture.basis.shape, dtype=np.float32)
    near = np.abs(mixture.basis - identity).max(initial=0) < _ROUNDING
    return mixture._replace(basis=identity) if near else mixture


def canonical_transform(
    dictionary: Dictionary, grid_shape: tuple[int, ...], prior: GaussianPrior
) -> Transform:
    """The transform to canonical form on a grid, for codes distributed as `prior` says.

    Raises ArgumentError for a prior of other codes, or with the bias beside them.
    """
    covariance = _covariance(prior, dictionary.num_experts)
    matrix, mean = _grid_gram(dictionary, grid_shape)
    return transform_of(matrix, mean, covariance)


def transform_of(
    matrix: Float[np.ndarray, "E E"],
    mean: Float[np.ndarray, "E C"],
    covariance: Float[np.ndarray, "E E"],
) -> Transform:
    """The transform from the Gram matrix of centred atoms over points, their means, and codes'
    covariance."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > _WEAKEST * max(values[-1], 0)
    root, vectors = np.sqrt(values[kept]), vectors[:, kept]
    half = root[:, None] * vectors.T
    energies, axes = np.linalg.eigh(half @ covariance @ half.T)
    energies, axes = energies[::-1], axes[:, ::-1]
    size, rank = len(matrix), len(root)
    mixing, inverse, full = np.zeros((size, size)), np.zeros((size, size)), np.zeros(size)
    mixing[:, :rank] = (vectors / root) @ axes
    inverse[:rank] = axes.T @ half
    full[:rank] = np.maximum(energies, 0)
    # A vector and its negative are one axis: the larger half of an atom's weights is positive.
    signs = np.where(mixing.sum(0) < 0, -1.0, 1.0)
    return Transform(mixing * signs, (mixing * signs).T @ mean, inverse * signs[:, None], full)


def is_canonical(dictionary: Dictionary, grid_shape: tuple[int, ...]) -> bool:
    """Whether the atoms are orthonormal on a grid, without a constant, zeros last."""
    matrix, mean = _grid_gram(dictionary, grid_shape)
    rank = int((np.diag(matrix) > 0.5).sum())
    wanted = np.diag(np.arange(len(matrix)) < rank)
    return bool(
        rank and np.abs(matrix - wanted).max() < _TOLERANCE and np.abs(mean).max() < _TOLERANCE
    )


def _grid_gram(dictionary, grid_shape):
    """The Gram matrix [E, E] of the atoms without their means [E, C], over the points, float64."""
    if isinstance(dictionary, SharedDictionary) and dictionary.local:
        return _lattice_gram(dictionary, grid_shape)
    operator = operators.sample(grid(grid_shape))
    nothing = jnp.zeros((1, operator.num_measurements, dictionary.channels), jnp.float32)
    found = gram.normal_equations(dictionary, operator, nothing)
    matrix = np.asarray(found.gram, np.float64) + np.asarray(found.gram_low, np.float64)
    return matrix / operator.num_measurements, np.asarray(found.atom_mean, np.float64)


def _lattice_gram(dictionary, grid_shape):
    """`_grid_gram` of splines, whose products over a grid are those along its axes.

    Of heads W on splines S = S_1 x S_2 x .. the atoms' products are those of (R_1 x R_2 x ..) W,
    with S_a = Q_a R_a: no point of the grid is looked at.
    """
    embedding, heads = dictionary.embedding, np.asarray(dictionary.head_kernel[...])
    experts = heads.shape[-1]
    values = heads.reshape(*embedding.counts, -1)
    # Splines sum to one: the constant in the same coordinates, of unit norm.
    constant = np.ones((1,) * len(grid_shape))
    for axis, (size, count) in enumerate(zip(grid_shape, embedding.counts, strict=True)):
        along = np.asarray(Splines((count,), embedding.degree)(grid((size,))), np.float32)
        root = np.linalg.qr(along.astype(np.float64), mode="r") / np.sqrt(size)
        values = np.moveaxis(np.tensordot(root.astype(np.float32), values, (1, axis)), 0, axis)
        shape = [-1 if other == axis else 1 for other in range(len(grid_shape))]
        constant = constant * root.sum(1).reshape(shape)
    rows, constant = values.reshape(constant.size, -1, experts), constant.reshape(-1, 1, 1)
    pieces = [slice(first, first + _ROWS) for first in range(0, len(rows), _ROWS)]
    mean = sum((constant[piece] * rows[piece]).sum(0) for piece in pieces)
    matrix = np.zeros((experts, experts))
    for piece in pieces:
        # What is constant is taken off before the product: after it, the rest would be rounding.
        some = (rows[piece] - constant[piece] * mean).reshape(-1, experts)
        matrix += some.T @ some
    return matrix, mean.T + np.asarray(dictionary.head_bias[...], np.float64)


def _covariance(prior, experts):
    """Of the codes, float64 [E, E]."""
    if len(prior.mean) != experts:
        raise ArgumentError("prior", f"{len(prior.mean)} numbers", f"{experts}, codes alone")
    factor = np.asarray(prior.factor, np.float64)
    return factor @ factor.T + np.diag(np.asarray(prior.diagonal, np.float64))


def _single(values):
    return jnp.asarray(values.astype(np.float32))
