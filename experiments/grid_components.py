"""A Gaussian of the grids themselves: their principal components, and the most probable ones."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from nid_jax.coding.gram import NormalEquations
from nid_jax.coding.neighbours import local_gaussian
from nid_jax.coding.prior import GaussianPrior, gaussian
from nid_jax.data import to_array
from nid_jax.tasks.sdf import surface_weights


class Components(NamedTuple):
    """Principal components [K, M] of training grids, their mean [M], and a prior of the codes."""

    mean: np.ndarray
    modes: np.ndarray
    prior: GaussianPrior


def components(collection, count):
    """PCA of all training grids: as many numbers a shape as the dictionary has experts."""
    values = to_array(collection).reshape(len(collection), -1)
    mean = values.mean(0)
    values = values - mean
    squares, vectors = np.linalg.eigh((values @ values.T).astype(np.float64))
    order = np.argsort(-squares)[: min(count, len(squares) - 1)]
    modes = (values.T @ vectors[:, order].astype(np.float32)).T
    modes /= np.sqrt(squares[order]).astype(np.float32)[:, None]
    codes = values @ modes.T
    variance = codes.var(0)
    empty = np.zeros((len(order), 1), np.float32)
    prior = GaussianPrior(codes.mean(0), empty, variance, 0.0, 1.0, codes)
    return Components(mean, modes, prior)


def fit(known, values, places, noise, neighbours, focus):
    """The most probable components given samples at some places. values [S, M, 1] -> [S, M]."""
    seen = known.modes[:, places]
    given = values[:, places, 0]
    y = given - known.mean[places]
    if focus:
        weights = surface_weights(given, focus)
        gram = np.stack([(seen * row) @ seen.T for row in weights])
        atom_mean, counts = np.zeros((len(y), len(seen), 1)), weights.sum(1)
    else:
        weights, gram = np.ones_like(y), seen @ seen.T
        atom_mean, counts = np.zeros((len(seen), 1)), np.float32(len(places))
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
        solved = local_gaussian(equations, known.prior, noise**2, neighbours, 0.1)
    else:
        solved = gaussian(equations, known.prior._replace(codes=None), noise**2)
    codes = np.asarray(solved.codes)
    return known.mean + codes @ known.modes
