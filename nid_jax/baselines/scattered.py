"""Fields from their values at scattered points: kriging, and the value of the nearest point."""

import warnings

import numpy as np
import scipy.spatial
from jaxtyping import Float, Shaped

MOST, LEARNED_FROM = 1000, 200
"""Points that a field is kriged from, and that its covariance is learned from, at most."""
_BLOCK = 4096
# Bounds and start of the parameters: lengths, variance, and noise as a part of that of values.
_LENGTHS, _VARIANCE, _NOISE = (0.05, 20.0), (1e-3, 1e3), (1e-5, 1.0)
_START = (0.5, 1.0, 0.05)


def nearest(
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, "M ..."],
    wanted: Float[np.ndarray, "P D"],
) -> Float[np.ndarray, "P ..."]:
    """The value of the nearest point, in units and type of the values; [P] of values [M]."""
    return np.asarray(values)[scipy.spatial.KDTree(points).query(wanted)[1]]


def drawn(
    points: Float[np.ndarray, "M D"], values: Shaped[np.ndarray, "M ..."], most: int, seed: int
) -> tuple[Float[np.ndarray, "N D"], Shaped[np.ndarray, "N ..."]]:
    """Points and values, or `most` of them, drawn by the seed, where there are more."""
    if len(points) <= most:
        return points, values
    chosen = np.random.default_rng(seed).permutation(len(points))[:most]
    return points[chosen], values[chosen]


def kriging(
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, "M C"],
    wanted: Float[np.ndarray, "P D"],
    seed: int = 0,
) -> Float[np.ndarray, "P C"]:
    """Ordinary kriging: a Gaussian process (scikit-learn) of each channel by itself, float64.

    Its covariance is Matern's of order 3/2 with a length along each axis, its lengths, variance and
    noise those of highest evidence (Rasmussen and Williams 2006, 5.4.1). Of more points than `MOST`
    so many are drawn, by the seed. Values [P, C] are in the units of those given.
    """
    points, values = drawn(np.asarray(points, float), np.asarray(values, float), MOST, seed)
    wanted = np.asarray(wanted, float)
    return np.stack([_kriged(points, channel, wanted, seed) for channel in values.T], -1)


def _kriged(points, values, wanted, seed):
    # Of all commands only those that krige wait for it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    middle, scale = values.mean(), values.std()
    if scale < 1e-12:
        return np.full(len(wanted), middle)
    values = (values - middle) / scale
    length, variance, noise = _START
    lengths = [length] * points.shape[1]
    kernel = kernels.ConstantKernel(variance, _VARIANCE)
    kernel = kernel * kernels.Matern(lengths, _LENGTHS, nu=1.5) + kernels.WhiteKernel(noise, _NOISE)
    with warnings.catch_warnings():
        # Of few points some parameters end on their bounds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        learned = GaussianProcessRegressor(kernel).fit(*drawn(points, values, LEARNED_FROM, seed))
    process = GaussianProcessRegressor(learned.kernel_, optimizer=None).fit(points, values)
    blocks = np.array_split(wanted, -(-len(wanted) // _BLOCK))
    return middle + scale * np.concatenate([process.predict(block) for block in blocks])
