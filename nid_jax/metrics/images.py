"""How close a reconstruction is to the truth. Values of images lie in [0, 1]."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MOST_DECIBELS = 120.0
"""PSNR of what is exact but for rounding, so that means over signals stay numbers."""

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def _require_same_shape(prediction: jax.Array, truth: jax.Array) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and truth {tuple(truth.shape)}; "
            "they must be equal"
        )


def mse(
    prediction: Float[Array | np.ndarray, "S *grid C"],
    truth: Float[Array | np.ndarray, "S *grid C"],
    *,
    axes: int | Sequence[int] | None = None,
    clip: bool = False,
) -> jax.Array:
    """Mean squared error of each signal.

    prediction, truth: [S, *grid, C]. `axes` are averaged over; by default all but the first, so
    that the result is [S]. `clip` brings the prediction to [0, 1] first, as a picture written
    to disk would be. Raises ValueError where the shapes differ.
    """
    prediction, truth = jnp.asarray(prediction), jnp.asarray(truth)
    _require_same_shape(prediction, truth)
    if clip:
        prediction = jnp.clip(prediction, 0.0, 1.0)
    if axes is None:
        axes = range(1, prediction.ndim)
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    return jnp.mean(jnp.square(prediction - truth), axis=axes)


def psnr_from_mse(error: Float[Array | np.ndarray, ...]) -> Float[Array, ...]:
    """Peak signal-to-noise ratio in decibels of mean squared errors, for a data range of 1.

    `MOST_DECIBELS`, 120 dB, at most: errors below are rounding, and one exact signal would make
    the mean of a collection inf. NaN stays NaN.
    """
    return -10.0 * jnp.log10(jnp.maximum(jnp.asarray(error), 10 ** (-MOST_DECIBELS / 10)))


def psnr(
    prediction: Float[Array | np.ndarray, "S *grid C"],
    truth: Float[Array | np.ndarray, "S *grid C"],
    *,
    axes: int | Sequence[int] | None = None,
    clip: bool = False,
) -> jax.Array:
    """Peak signal-to-noise ratio in decibels of each signal, for a data range of 1.

    prediction, truth: [S, *grid, C]; `axes` and `clip` as in `mse`. By default the prediction
    is taken as it is: a caller who evaluates pictures passes clip=True. Identical signals have
    `MOST_DECIBELS`. The PSNR of a collection is the mean of this over signals, not that of the
    mean error.
    """
    return psnr_from_mse(mse(prediction, truth, axes=axes, clip=clip))


def _gaussian_window(size: int) -> np.ndarray:
    offsets = np.arange(size) - (size - 1) / 2
    window = np.exp(-0.5 * np.square(offsets / SSIM_SIGMA))
    return window / window.sum()


def _blur(maps: jax.Array, axis: int, padding: str) -> jax.Array:
    """Gaussian mean along one axis, as shifted sums: float32 throughout on every device."""
    length = maps.shape[axis]
    if padding == "zero":
        size = SSIM_WINDOW
        border = [(0, 0)] * maps.ndim
        border[axis] = (size // 2, size // 2)
        maps = jnp.pad(maps, border)
    else:
        size = min(SSIM_WINDOW, length - (length + 1) % 2)
        length = length - size + 1
    shifted = (
        float(weight) * jax.lax.slice_in_dim(maps, start, start + length, axis=axis)
        for start, weight in enumerate(_gaussian_window(size))
    )
    return functools.reduce(operator.add, shifted)


def ssim(
    prediction: Float[Array | np.ndarray, "S H W C"],
    truth: Float[Array | np.ndarray, "S H W C"],
    *,
    padding: str = "valid",
) -> Float[Array, " S"]:
    """Structural similarity of each image: [S, H, W, C] twice -> [S].

    The index of Wang et al. 2004 (eq. 13) with their 11x11 Gaussian window of sigma 1.5, for a
    data range of 1, averaged over positions and channels; 1 for identical images.

    padding='valid' averages over the positions where the whole window lies on the image. Along
    an axis of fewer than 11 samples the window is cut to the largest odd number that fits.
    padding='zero' centres a window on every pixel and takes what lies outside as black in both
    images, which some PyTorch versions do; the values differ near the border.

    Raises ValueError for shapes that differ or are not [S, H, W, C], and for another padding.
    """
    prediction, truth = jnp.asarray(prediction), jnp.asarray(truth)
    _require_same_shape(prediction, truth)
    if prediction.ndim != 4 or 0 in prediction.shape[1:]:
        raise ValueError(f"ssim takes images [S, H, W, C]; got shape {tuple(prediction.shape)}")
    if padding not in ("valid", "zero"):
        raise ValueError(f"ssim padding is {padding!r}; allowed: 'valid', 'zero'")
    return _ssim(prediction.astype(jnp.float32), truth.astype(jnp.float32), padding)


@functools.partial(jax.jit, static_argnums=2)
def _ssim(prediction: jax.Array, truth: jax.Array, padding: str) -> jax.Array:
    maps = jnp.stack(
        [prediction, truth, prediction * prediction, truth * truth, prediction * truth]
    )
    mean_p, mean_t, mean_pp, mean_tt, mean_pt = _blur(_blur(maps, 2, padding), 3, padding)
    variances = (mean_pp - mean_p * mean_p) + (mean_tt - mean_t * mean_t)
    covariance = mean_pt - mean_p * mean_t
    luminance = (2 * mean_p * mean_t + SSIM_C1) / (mean_p**2 + mean_t**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))
