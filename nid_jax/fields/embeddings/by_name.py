"""The embedding that a config names."""

import difflib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.fields.embeddings.base import Embedding, Identity
from nid_jax.fields.embeddings.features import (
    MAX_OCTAVES,
    RBF,
    GaussianFourier,
    Positional,
    RandomFeatures,
    check_positive,
    nyquist_octaves,
)
from nid_jax.fields.embeddings.lattices import ChosenCosines, CosineLattice, Splines


def _counts(config, dims, grid_shape):
    """Functions along each axis. Raises ValueError where neither config nor grid says them."""
    counts = tuple(config.counts) or tuple(grid_shape)
    if len(counts) != dims:
        raise ValueError(
            f"dictionary.embedding.counts={tuple(config.counts)}; allowed: {dims} numbers, one for "
            "each axis of the signals, or () where they lie on a grid"
        )
    return counts


def _identity(
    config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs
) -> Embedding:
    return Identity(dims)


def _positional(
    config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs
) -> Embedding:
    octaves = config.num_octaves
    if octaves == 0:
        if len(grid_shape) != dims:
            raise ValueError(
                "dictionary.embedding.num_octaves=0 (Nyquist) needs signals on a grid of "
                f"{dims} axes, got {tuple(grid_shape)}; give a number from 1 to {MAX_OCTAVES}"
            )
        octaves = nyquist_octaves(grid_shape)
    return Positional(dims, octaves)


def _fourier(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    return GaussianFourier(dims, config.size, config.scale, config.trainable, rngs=rngs)


def _rbf(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    if config.num_centres < 1:
        raise ValueError(
            f"dictionary.embedding.num_centres must be at least 1, got {config.num_centres}"
        )
    check_positive("sigma", config.sigma)
    centres = jax.random.uniform(rngs.params(), (config.num_centres, dims), jnp.float32, -1.0, 1.0)
    return RBF(centres, config.sigma, config.trainable)


def _kernel(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    return RandomFeatures(
        dims,
        config.size,
        config.kernel,
        config.length_scale,
        config.shape,
        config.trainable,
        rngs=rngs,
    )


def _cosine(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    counts = _counts(config, dims, grid_shape)
    # Dictionaries of before have no such key.
    num_kept = getattr(config, "num_kept", 0)
    if num_kept:
        return ChosenCosines(counts, num_kept, config.band)
    return CosineLattice(counts, config.band)


def _spline(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    counts = _counts(config, dims, grid_shape)
    if not config.counts:
        # As many cubic splines as samples leave out what alternates from sample to sample: of 64 a
        # singular value of 4e-6. With knots on the samples, or in their middle for an even degree,
        # all of what lies on the grid is said.
        counts = tuple(count + 2 * max((config.degree - 1) // 2, 0) for count in counts)
    return Splines(counts, config.degree)


EMBEDDINGS: dict[str, Callable[[ConfigDict, int, Sequence[int], nnx.Rngs], Embedding]] = {
    "identity": _identity,
    "positional": _positional,
    "fourier": _fourier,
    "rbf": _rbf,
    "kernel": _kernel,
    "cosine": _cosine,
    "spline": _spline,
}


def build_embedding(
    config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs
) -> Embedding:
    """The embedding that `dictionary.embedding` of the config names.

    Args:
      config: kind, one of EMBEDDINGS, and the keys of every kind: size, scale, num_octaves (0 is
        Nyquist from grid_shape), trainable, kernel, length_scale, shape (0 is the kernel's
        default), num_centres, sigma, counts (() is those of grid_shape), band, num_kept (0: all),
        degree. Centres of the RBF are uniform on [-1, 1].
      dims: D.
      grid_shape: samples per axis of the training signals, () where they lie on no grid.
      rngs: `nnx.Rngs`; random numbers are drawn from its `params` stream.

    Returns:
      An Embedding.

    Raises:
      ValueError: an unknown kind or kernel, or a value outside what the kind allows.
    """
    if config.kind not in EMBEDDINGS:
        nearest = difflib.get_close_matches(str(config.kind), EMBEDDINGS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(
            f"dictionary.embedding.kind={config.kind!r} is unknown; "
            f"allowed: {', '.join(EMBEDDINGS)}{hint}"
        )
    return EMBEDDINGS[config.kind](config, dims, grid_shape, rngs)
