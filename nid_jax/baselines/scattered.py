"""Fields from their values at scattered points: kriging, and the value of the nearest point."""

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.spatial
from jaxtyping import Float

MOST, LEARNED_FROM = 1000, 200
"""Points that a field is kriged from, and that its covariance is learned from, at most."""
_BLOCK = 4096
# Logarithms of the parameters: lengths, variance, and noise as a part of the variance of values.
_LENGTHS, _VARIANCE, _NOISE = (0.05, 20.0), (1e-3, 1e3), (1e-5, 1.0)
_START = (0.5, 1.0, 0.05)


def nearest(
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, "M ..."],
    wanted: Float[np.ndarray, "P D"],
) -> Float[np.ndarray, "P ..."]:
    """The value of the nearest point, in units and type of the values; [P] of values [M]."""
    return np.asarray(values)[scipy.spatial.KDTree(points).query(wanted)[1]]


def kriging(
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, "M C"],
    wanted: Float[np.ndarray, "P D"],
    seed: int = 0,
) -> Float[np.ndarray, "P C"]:
    """Ordinary kriging, as a Gaussian process of each channel by itself, float64.

    Its covariance is Matern's of order 3/2 with a length along each axis, its lengths, variance and
    noise those of highest evidence (Rasmussen and Williams 2006, 5.4.1). Of more points than `MOST`
    so many are drawn, by the seed. Values [P, C] are in the units of those given.
    """
    draw = np.random.default_rng(seed)
    points, values = np.asarray(points, float), np.asarray(values, float)
    if len(points) > MOST:
        chosen = draw.permutation(len(points))[:MOST]
        points, values = points[chosen], values[chosen]
    some = draw.permutation(len(points))[:LEARNED_FROM]
    found = [_kriged(points, channel, np.asarray(wanted, float), some) for channel in values.T]
    return np.stack(found, -1)


def _kriged(points, values, wanted, some):
    middle, scale = values.mean(), values.std()
    if scale < 1e-12:
        return np.full(len(wanted), middle)
    values = (values - middle) / scale
    parameters = _most_evident(points[some], values[some])
    lengths, variance, noise = _parts(parameters)
    factor = scipy.linalg.cho_factor(_matern(points, points, lengths, variance, noise))
    weights = scipy.linalg.cho_solve(factor, values)
    blocks = np.array_split(wanted, -(-len(wanted) // _BLOCK))
    found = [_matern(block, points, lengths, variance) @ weights for block in blocks]
    return middle + scale * np.concatenate(found)


def _most_evident(points, values):
    lengths, variance, noise = _START
    start = np.log([*[lengths] * points.shape[1], variance, noise])
    bounds = np.log([*[_LENGTHS] * points.shape[1], _VARIANCE, _NOISE])
    found = scipy.optimize.minimize(
        negative_log_evidence, start, (points, values), method="L-BFGS-B", bounds=bounds
    )
    return found.x


def _parts(parameters):
    *lengths, variance, noise = np.exp(parameters)
    return np.array(lengths), variance, noise


def negative_log_evidence(
    parameters: Float[np.ndarray, " D+2"],
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, " M"],
) -> float:
    """Minus the logarithm of the evidence of values about 0 (Rasmussen and Williams 2006, 5.8).

    parameters: logarithms of D lengths, in units of the points, of the variance, and of the noise
    as a part of that of values. 1e25 where the covariance has no Cholesky factor.
    """
    matrix = _matern(points, points, *_parts(parameters))
    try:
        factor = scipy.linalg.cholesky(matrix, lower=True)
    except np.linalg.LinAlgError:
        return (
            1e25  # Not positive definite in float64: L-BFGS-B turns back; infinity would stop it.
        )
    white = scipy.linalg.solve_triangular(factor, values, lower=True)
    constant = len(values) / 2 * np.log(2 * np.pi)
    return float(white @ white / 2 + np.log(np.diag(factor)).sum() + constant)


def _matern(points, others, lengths, variance, noise=0.0):
    """Covariances [P, M]; noise: on the diagonal, of the same points."""
    away = np.sqrt(3) * scipy.spatial.distance.cdist(points / lengths, others / lengths)
    found = variance * (1 + away) * np.exp(-away)
    if noise:
        found[np.diag_indices(len(found))] += noise
    return found
