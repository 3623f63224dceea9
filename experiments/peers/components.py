"""Principal components of training signals, and a Gaussian of them: our prior without atoms."""

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax.coding.gram import NormalEquations
from nid_jax.coding.neighbours import local_gaussian
from nid_jax.coding.prior import GaussianPrior, gaussian
from nid_jax.tasks.sdf import surface_weights

# Absolute residuals below it weigh alike, in units of the values.
LEAST_RESIDUAL = 3e-3
REWEIGHTINGS = 15


class Components:
    """Principal components of training signals, rows [N, V]: mean [V], axes [K, V].

    At most as many as tell the signals apart; their variances fall. From the eigenvectors of the
    smaller of the two products of the centred rows, in float64; kept in the type of the rows.
    """

    def __init__(self, rows, count):
        signals, values = rows.shape
        count = min(count, signals - 1, values)
        self.mean = rows.mean(0)
        centred = rows - self.mean
        if values <= signals:
            _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
            axes = vectors[:, ::-1][:, :count].T
        else:
            squares, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
            squares, vectors = squares[::-1][:count, None], vectors[:, ::-1][:, :count]
            axes = vectors.T.astype(rows.dtype) @ centred / np.sqrt(squares)
        self.axes = np.ascontiguousarray(axes, rows.dtype)
        # By the same library as all other fits.
        self._encode = jax.jit(
            lambda rows: jnp.dot(rows - self.mean, self.axes.T, precision="highest")
        )

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
    """The Gaussian of the components of training signals: rows [N, V] -> GaussianPrior."""
    codes = (rows - known.mean) @ known.axes.T
    empty = np.zeros((len(known.axes), 1), np.float32)
    return GaussianPrior(codes.mean(0), empty, codes.var(0), 0.0, 1.0, codes)


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
        codes = gaussian(equations, prior._replace(codes=None), noise**2).codes
    return known.decode(np.asarray(codes))


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
