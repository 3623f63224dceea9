"""Embeddings whose features stand beside one another: octaves, random frequencies, radial bumps."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.fields.embeddings.base import Embedding
from nid_jax.fields.kernels import sample_frequencies
from nid_jax.fields.variables import Basis, Constant

MAX_OCTAVES = 24
"""float32 coordinates have no finer digits."""


class Positional(Embedding):
    """Sines and cosines of octaves (NeRF): x, then sin(2^i pi x_j), cos(2^i pi x_j).

    The octave i runs slowest, then the axis j, then sine before cosine.

    Args:
      dims: D.
      num_octaves: for all axes, or one number per axis; an axis of fewer octaves is left out of
        the later ones.

    Raises:
      ValueError: an octave count that is not a whole number in [0, MAX_OCTAVES].
    """

    def __init__(self, dims: int, num_octaves: int | Sequence[int]):
        octaves = (num_octaves,) * dims if isinstance(num_octaves, int) else tuple(num_octaves)
        if len(octaves) != dims or not all(0 <= octave <= MAX_OCTAVES for octave in octaves):
            raise ValueError(
                f"dictionary.embedding.num_octaves must be 0 to {MAX_OCTAVES} on each of {dims} "
                f"axes, got {num_octaves}"
            )
        self.features = tuple(
            (octave, axis)
            for octave in range(max(octaves))
            for axis in range(dims)
            if octave < octaves[axis]
        )
        self.dims, self.size = dims, dims + 2 * len(self.features)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., D + 2 * octaves summed over the axes]."""
        x = jnp.asarray(x)
        if not self.features:
            return x
        scales = np.zeros((x.shape[-1], len(self.features)), x.dtype)
        for column, (octave, axis) in enumerate(self.features):
            scales[axis, column] = 2.0**octave
        # One power of two per column and a remainder: both exact, no octave loses digits to pi.
        half_turns = jnp.matmul(x, scales, precision="highest")
        phase = math.pi * (half_turns - 2 * jnp.round(half_turns / 2))
        waves = jnp.stack([numerics.sin(phase), numerics.cos(phase)], axis=-1)
        return jnp.concatenate([x, waves.reshape(*x.shape[:-1], -1)], axis=-1)


def nyquist_octaves(grid_shape: Sequence[int]) -> tuple[int, ...]:
    """Octaves that each axis of n samples can carry: floor(log2(n / 4)), at least 0.

    grid_shape: samples per axis -> one number per axis.
    """
    return tuple(max(math.floor(math.log2(n / 4)), 0) for n in grid_shape)


class FourierFeatures(Embedding):
    """[sin(x B^T), cos(x B^T)] of frequencies B [size / 2, D], with no factor 2 pi and no scaling.

    The inner product of two points' features, divided by size / 2, is the mean of cos(w . d).

    Args:
      frequencies: [size / 2, D], radians per unit of coordinate.
      trainable: whether the frequencies train with the dictionary.
    """

    def __init__(self, frequencies: Float[Array, "F/2 D"], trainable: bool = False):
        self.frequencies = (Basis if trainable else Constant)(frequencies)
        self.size, self.dims = 2 * frequencies.shape[0], frequencies.shape[1]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., size]."""
        frequencies = self.frequencies[...]
        # One sine over the whole width, the cosine a quarter turn ahead: half the time of writing
        # two waves and joining them. Whole turns are dropped, so that any frequency is safe.
        both = jnp.concatenate([frequencies, frequencies])
        turns = jnp.matmul(jnp.asarray(x), both.T, precision="highest") * (0.5 / math.pi)
        turns += jnp.repeat(jnp.asarray([0.0, 0.25], turns.dtype), len(frequencies))
        return numerics.sin((2 * math.pi) * (turns - jnp.round(turns)))


class GaussianFourier(FourierFeatures):
    """Fourier features with B ~ N(0, scale^2) (Tancik et al. 2020, there with a factor 2 pi).

    Args:
      dims: D.
      size: output width, even.
      scale: standard deviation of the frequencies, radians per unit of coordinate.
      trainable: whether B trains with the dictionary.
      rngs: its `params` stream draws B.

    Raises:
      ValueError: size not even and positive, or scale not positive and finite.
    """

    def __init__(
        self, dims: int, size: int, scale: float, trainable: bool = False, *, rngs: nnx.Rngs
    ):
        check_positive("scale", scale)
        frequencies = scale * jax.random.normal(rngs.params(), (_half(size), dims), jnp.float32)
        super().__init__(frequencies, trainable)


class RandomFeatures(FourierFeatures):
    """Random features of a stationary kernel (Rahimi & Recht 2007), in the layout of Fourier's.

    Args:
      dims: D.
      size: output width, even.
      kernel: a name of `kernels.KERNELS`.
      length_scale: in units of the coordinates.
      shape: nu, gamma, alpha or power of the kernel; 0 is its default.
      trainable: whether the frequencies train with the dictionary.
      rngs: its `params` stream draws the frequencies.

    Raises:
      ValueError: size not even and positive, or what `kernels.sample_frequencies` refuses.
    """

    def __init__(
        self,
        dims: int,
        size: int,
        kernel: str,
        length_scale: float = 1.0,
        shape: float = 0.0,
        trainable: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        frequencies = sample_frequencies(
            rngs.params(), kernel, _half(size), dims, length_scale, shape
        )
        super().__init__(frequencies, trainable)


class RBF(Embedding):
    """Radial bumps exp(-(sigma |x - c|^2)^2), one per centre.

    The exponent is the fourth power of the distance: the form of the official code, a bump with a
    flat top and sharper flanks than a Gaussian, half as high at |x - c| = 0.912 / sqrt(sigma).

    Args:
      centres: [N, D].
      sigma: a number, or one per centre [N]; 1 / coordinate^2.
      trainable: whether centres and sigmas train with the dictionary.
    """

    def __init__(
        self,
        centres: Float[Array, "N D"],
        sigma: float | Float[Array, " N"],
        trainable: bool = False,
    ):
        kind = Basis if trainable else Constant
        centres = jnp.asarray(centres, jnp.float32)
        self.centres = kind(centres)
        self.sigma = kind(jnp.full(centres.shape[:1], sigma, jnp.float32))
        self.size, self.dims = centres.shape

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., N]."""
        offsets = jnp.asarray(x)[..., None, :] - self.centres[...]
        exponent = self.sigma[...] * jnp.sum(offsets**2, axis=-1)
        # exp(-12^2) is 0 in float32; further out the gradient would be 0 times infinity.
        return jnp.exp(-(jnp.clip(exponent, -12.0, 12.0) ** 2))


def _half(size: int) -> int:
    if size < 2 or size % 2:
        raise ValueError(
            f"dictionary.embedding.size must be even and at least 2 (sines and cosines), got {size}"
        )
    return size // 2


def check_positive(name: str, value: float) -> None:
    """Raise ValueError, naming the key of `dictionary.embedding`, for a value not above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"dictionary.embedding.{name} must be positive and finite, got {value}")
