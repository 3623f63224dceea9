"""New codes, drawn from a prior: signals like those of the training that none of them is.

A prior leaves the bias of a signal free, so that a signal's level costs nothing when codes are
solved for. To draw signals it is needed: the bias is regressed on the code, under the prior's own
covariance, and what that leaves is drawn as well.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from nid_jax.coding import checks
from nid_jax.coding.mixture import Mixture
from nid_jax.coding.prior import GaussianPrior
from nid_jax.errors import ArgumentError


class Level(NamedTuple):
    """The bias of a code: N(mean + slope^T (code - the prior's mean), factor factor^T).

    mean [C]; slope [E, C]; factor [C, C].
    """

    mean: jax.Array
    slope: jax.Array
    factor: jax.Array

    def first(self, count: int, covariance: Float[np.ndarray, "E E"]) -> "Level":
        """That of the first `count` coefficients: what only the others say of a bias is left open.

        covariance: of all coefficients.
        """
        covariance = np.asarray(covariance, np.float64)
        slope, own = (np.asarray(part, np.float64) for part in (self.slope, self.factor))
        spread = slope.T @ covariance @ slope + own @ own.T
        kept = covariance[:count, :count]
        fewer = np.linalg.lstsq(kept, covariance[:count] @ slope, rcond=None)[0]
        return level_of_moments(kept, np.asarray(self.mean), spread, fewer)

    def transformed(
        self,
        mixing: Float[np.ndarray, "E E"],
        level: Float[np.ndarray, "E C"],
        mean: Float[np.ndarray, " E"],
    ) -> "Level":
        """That of code', code = mixing code', and bias' = bias + level^T code'. mean: of code'."""
        slope = np.asarray(mixing, np.float64).T @ np.asarray(self.slope, np.float64) + level
        return Level(*map(_single, (self.mean + np.asarray(mean) @ level, slope, self.factor)))


def _single(values):
    return np.asarray(values, np.float32)


def level_of(
    known: GaussianPrior,
    codes: Float[np.ndarray, "S E"],
    bias: Float[np.ndarray, "S C"],
) -> Level:
    """The regression of training signals' biases on their codes, with the covariance of a prior.

    Raises ArgumentError for a prior that holds the bias itself.
    """
    if known.mean.shape[0] != codes.shape[1]:
        allowed = f"{codes.shape[1]} coefficients, without the bias"
        raise ArgumentError("prior", f"{known.mean.shape[0]} coefficients", allowed)
    factor = np.asarray(known.factor, np.float64)
    covariance = factor @ factor.T + np.diag(np.asarray(known.diagonal, np.float64))
    centred = np.asarray(codes, np.float64) - np.asarray(known.mean, np.float64)
    bias = np.asarray(bias, np.float64)
    mean = bias.mean(0)
    slope = np.linalg.solve(covariance, centred.T @ (bias - mean) / len(codes))
    left = bias - mean - centred @ slope
    return Level(*map(_single, (mean, slope, _root(left.T @ left / len(codes)))))


def level_of_moments(
    covariance: Float[np.ndarray, "E E"],
    mean: Float[np.ndarray, " C"],
    spread: Float[np.ndarray, "C C"],
    slope: Float[np.ndarray, "E C"],
) -> Level:
    """The level where codes and biases are not known themselves, of the covariance [E, E] of codes,
    the mean and covariance `spread` of biases, and their regression `slope` on codes."""
    left = spread - slope.T @ covariance @ slope
    return Level(*map(_single, (mean, slope, _root(left))))


def _root(covariance):
    """A factor [C, C]; of what is below 0 by rounding none."""
    variances, axes = np.linalg.eigh(np.atleast_2d(covariance))
    return axes * np.sqrt(np.maximum(variances, 0))


def drawn(
    known: GaussianPrior, count: int, seed: int = 0
) -> tuple[Float[Array | np.ndarray, "S E"], Float[Array | np.ndarray, "S C"]]:
    """Codes and biases of `count` new signals, float32: of the mixture where a prior has one.

    Raises ArgumentError for a count below 1, a seed below 0, and a prior that does not know the
    bias of its signals.
    """
    count, seed = checks.whole("count", count, 1), checks.whole("seed", seed, 0)
    if known.level is None:
        raise ArgumentError(
            "prior.level", None, "that which learning leaves beside a prior; learn anew"
        )
    checks.fits("count", count, count * (known.factor.shape[1] + 3 * len(known.mean)))
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return generator.standard_normal(shape)

    mean, factor, diagonal = (np.asarray(part, np.float64) for part in known[:3])
    if known.mixture is None:
        codes = normal(count, factor.shape[1]) @ factor.T
        codes = mean + codes + normal(count, len(mean)) * np.sqrt(diagonal)
    else:
        mixture = Mixture(*(np.asarray(part, np.float64) for part in known.mixture))
        weights, rows = mixture.weights, mixture.rows
        chosen = generator.choice(len(weights), size=count, p=weights / weights.sum())
        own = np.einsum("srq,sr->sq", rows[chosen], normal(count, rows.shape[1]))
        codes = mixture.mean + (mixture.offsets[chosen] + own) @ mixture.basis.T
        codes = codes + normal(count, mixture.common.shape[1]) @ mixture.common.T
    level = known.level
    bias = level.mean + (codes - mean) @ np.asarray(level.slope, np.float64)
    bias = bias + normal(count, len(level.mean)) @ np.asarray(level.factor, np.float64).T
    return codes.astype(np.float32), bias.astype(np.float32)
