"""Principal components of training signals, and a Gaussian of them: our prior without atoms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.linalg

from nid_jax.coding.gram import NormalEquations
from nid_jax.coding.neighbours import local_gaussian
from nid_jax.coding.posterior import gaussian
from nid_jax.coding.prior import GaussianPrior
from nid_jax.data.originals import held_out
from nid_jax.tasks.sdf import surface_weights

# Absolute residuals below it weigh alike, in units of the values.
LEAST_RESIDUAL = 3e-3
REWEIGHTINGS = 15
# Signals, or values of them, that are multiplied in float64 at a time.
BLOCK = 2048


class Components:
    """Principal components of training signals, rows [N, V]: mean [V], axes [K, V].

    At most as many as tell the signals apart; their variances fall. From the eigenvectors of the
    smaller of the two products of the centred rows, summed in float64; kept in the type of the
    rows.
    """

    def __init__(self, rows, count):
        signals, values = rows.shape
        count = min(count, signals - 1, values)
        mean = rows.mean(0)
        few = values > signals
        # The shorter side of all parts is whole.
        parts = [slice(at, at + BLOCK) for at in range(0, values if few else signals, BLOCK)]
        wide = (
            (rows[:, part] - mean[part] if few else (rows[part] - mean).T).astype(np.float64)
            for part in parts
        )
        squares, vectors = np.linalg.eigh(sum(part @ part.T for part in wide))
        told = squares > max(rows.shape) * np.finfo(np.float64).eps * squares[-1]
        count = min(count, int(told.sum()))
        vectors = vectors[:, ::-1][:, :count]
        if few:
            vectors = vectors / np.sqrt(squares[::-1][:count])
            vectors = np.concatenate(
                [((rows[:, p] - mean[p]).T @ vectors).astype(rows.dtype) for p in parts]
            )
            # Directions of small variance have lost their right angles to the others.
            vectors = np.linalg.qr(vectors)[0]
        self._keep(mean, np.ascontiguousarray(vectors.T, rows.dtype))

    def _keep(self, mean, axes):
        self.mean, self.axes = mean, axes
        # By the same library as all other fits.
        self._encode = jax.jit(lambda rows: jnp.dot(rows - mean, axes.T, precision="highest"))

    def encode(self, rows):
        """[S, V] -> float32 [S, K]."""
        return np.asarray(self._encode(rows))

    def decode(self, codes):
        """[S, K] -> [S, V]."""
        return codes @ self.axes + self.mean

    def project(self, rows):
        """Least squares onto the components. [S, V] -> [S, V]."""
        return self.decode((rows - self.mean) @ self.axes.T)

    def project_robustly(self, rows):
        """Least absolute error onto the components, by reweighting. [S, V] -> [S, V]."""
        found = self.project(rows)
        for _ in range(REWEIGHTINGS):
            weight = 1 / np.maximum(np.abs(rows - found), LEAST_RESIDUAL)
            matrix = np.einsum("sv,ev,fv->sef", weight, self.axes, self.axes, optimize=True)
            right = (weight * (rows - self.mean)) @ self.axes.T
            found = self.decode(np.linalg.solve(matrix, right[..., None])[..., 0])
        return found


def prior_of(known, rows):
    """The Gaussian of the components of training signals: rows [N, V] -> GaussianPrior.

    Its noise is what the components leave of the signals, in the mean over values.
    """
    centred = rows - known.mean
    codes = centred @ known.axes.T
    left = np.square(centred).mean() - np.square(codes).sum(1).mean() / rows.shape[1]
    empty = np.zeros((len(known.axes), 1), np.float32)
    return GaussianPrior(codes.mean(0), empty, codes.var(0), max(left, 0.0), 1.0, codes)


def most_probable(known, prior, values, places, noise, neighbours, focus):
    """The most probable signals given samples at some places. values [S, V, 1] -> [S, V].

    noise: standard deviation; neighbours: how many of the training signals the prior is of, 0: of
    all; focus: width of the weights about the zero level of distances, 0: none.
    """
    seen = known.axes[:, places]
    given = values[:, places, 0]
    y = given - known.mean[places]
    weights = surface_weights(given, focus) if focus else np.ones_like(y)
    # Of weights of its own every signal has a Gram matrix.
    gram = np.stack([(seen * row) @ seen.T for row in weights]) if focus else seen @ seen.T
    counts = weights.sum(1) if focus else np.float32(len(places))
    atom_mean = np.zeros((*gram.shape[:-1], 1))
    equations = NormalEquations(
        gram=jnp.asarray(gram),
        moments=jnp.asarray((weights * y) @ seen.T),
        energy=jnp.asarray((weights * np.square(y)).sum(1)),
        atom_mean=jnp.asarray(atom_mean),
        target_mean=jnp.zeros((len(y), 1)),
        count=jnp.asarray(counts),
        bias_weight=jnp.asarray(counts),
    )
    if neighbours:
        codes = local_gaussian(equations, prior, noise**2, neighbours, 0.1).codes
    else:
        codes = gaussian(equations, prior.alone(), noise**2).codes
    return known.decode(np.asarray(codes))


def codes_of_few(axes, prior, values):
    """The most probable codes [S, K] given values [S, M] less the mean, of axes [K, M] there.

    prior: of independent codes; the noise is the variance of highest evidence of a few, or what
    the components leave of the training signals where that is more, as of our own.
    """
    axes = np.asarray(axes, float)
    spread, mean = np.square(np.asarray(prior.factor, float)).sum(1), np.asarray(prior.mean, float)
    spread = spread + np.asarray(prior.diagonal, float)
    left = values - mean @ axes
    eigen, vectors = np.linalg.eigh((axes.T * spread) @ axes)
    turned = left @ vectors
    noises = np.square(left).mean() * 10.0 ** np.arange(-5, 0.6, 0.25)
    noises = np.maximum(noises, prior.noise)
    costs = [
        (np.square(turned) / (eigen + noise)).sum() + len(left) * np.log(eigen + noise).sum()
        for noise in noises
    ]
    noise = noises[int(np.argmin(costs))]
    return mean + turned / (eigen + noise) @ vectors.T @ axes.T * spread


class PixelGaussian:
    """The Gaussian of training pictures, rows [N, V], shrunk towards its diagonal.

    Our prior without a dictionary: it knows one grid of pixels, and no other operator.
    """

    def __init__(self, train, shrinkage):
        self.mean = train.mean(0)
        covariance = np.cov(train.T, bias=True)
        self.covariance = (1 - shrinkage) * covariance
        self.covariance += shrinkage * np.diag(np.diag(covariance))

    def complete(self, row, seen, noise):
        """The most probable picture [V] given the values seen, of that noise variance."""
        inner = self.covariance[np.ix_(seen, seen)] + noise * np.eye(seen.sum())
        return self.mean + self.covariance[:, seen] @ np.linalg.solve(
            inner, row[seen] - self.mean[seen]
        )

    def fit_robustly(self, row, scale):
        """The most probable picture [V] under Laplace noise of that scale, by reweighting."""
        found = self.mean
        for _ in range(REWEIGHTINGS):
            noise = scale * np.maximum(np.abs(row - found), LEAST_RESIDUAL)
            inner = self.covariance + np.diag(noise)
            found = self.mean + self.covariance @ np.linalg.solve(inner, row - self.mean)
        return found


class CosineComponents(Components):
    """What a careful user of one grid of pixels would take: components of cosine coefficients.

    Each signal's own mean is kept apart, so that C more numbers are stored; channels are
    decorrelated; the covariance of the coefficients is shrunk towards its diagonal by the share
    that leaves least of pictures held out; and signals count by the logarithm of their error, as
    decibels do. Shrunk by 1 the components are single cosines, chosen by the same measure.

    Args:
      signals: [N, *grid, C].
      names: of the signals; copies 'name/copy' are held out with 'name'.
      count: K, components beside the means.
      shares: of shrinkage, to choose from.
    """

    def __init__(self, signals, names, count, shares=(0.0, 0.1, 0.3)):
        self.shape = signals.shape[1:]
        grid_axes = tuple(range(1, signals.ndim - 1))
        centred = signals - signals.mean(grid_axes, keepdims=True)
        colours = np.linalg.eigh(np.tensordot(centred, centred, (range(signals.ndim - 1),) * 2))[1]
        turned = (centred @ colours).astype(np.float32)
        rows = scipy.fft.dctn(turned, axes=grid_axes, norm="ortho").reshape(len(signals), -1)
        self.share, found = _shrunk_components(rows, held_out(names), count, shares)
        axes = scipy.fft.idctn(found.T.reshape(-1, *self.shape), axes=grid_axes, norm="ortho")
        points = math.prod(self.shape[:-1])
        means = np.tile(np.eye(self.shape[-1]), (1, points)) / np.sqrt(points)
        axes = np.concatenate([means, (axes @ colours.T).reshape(len(axes), -1)])
        self._keep(np.zeros(rows.shape[1], np.float32), axes.astype(np.float32))


def _shrunk_components(rows, held, count, shares):
    """(share of shrinkage, orthonormal components [V, K]) of coefficients [N, V]."""
    energy, weights = np.square(rows).sum(1), np.ones(len(rows), np.float32)
    few = np.arange(0, len(rows), -(-len(rows) // 6000))
    for _ in range(2):
        basis = _leading(_products(rows[few], weights[few]), min(shares[-1], 0.1), count)
        left = np.maximum(energy - np.square(rows @ basis).sum(1), 0)
        weights = 1 / (left + 0.01 * np.median(left) + 1e-9)
        weights /= weights.mean()
    seen, others = (_products(rows[which], weights[which]) for which in (~held, held))
    errors = {}
    for share in shares if len(shares) > 1 else ():
        basis = _leading(seen, share, count)
        left = energy[held] - np.square(rows[held] @ basis).sum(1)
        errors[share] = np.log(np.maximum(left, 1e-9 * energy[held]) + 1e-12).mean()
    share = min(errors, key=errors.get) if errors else shares[0]
    return share, _leading(seen + others, share, count)


def _products(rows, weights):
    """Weighted sum of squares and products [V, V], some rows at a time."""
    parts = range(0, len(rows), 4096)
    return sum(
        (rows[at : at + 4096] * weights[at : at + 4096, None]).T @ rows[at : at + 4096]
        for at in parts
    )


def _leading(covariance, share, count):
    """The leading directions [V, K] of a covariance shrunk towards its diagonal."""
    diagonal = np.diag(covariance)
    if share == 1:
        return np.eye(len(covariance), dtype=covariance.dtype)[:, np.argsort(-diagonal)[:count]]
    shrunk = (1 - share) * covariance
    np.fill_diagonal(shrunk, diagonal)
    chosen = (len(shrunk) - min(count, len(shrunk)), len(shrunk) - 1)
    return scipy.linalg.eigh(shrunk, subset_by_index=chosen)[1][:, ::-1]
