"""What a dictionary is compared with on pictures of which a part is missing or painted over.

Pictures are [S, H, W, C] in [0, 1], or rows of V values; seen is bool [S, H, W], False where a
picture is hidden. What fills in a known hole leaves the pixels around it as they are.
"""

import functools

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter

from nid_jax.baselines import images
from nid_jax.coding.operators import sample
from nid_jax.coding.total_variation import TotalVariation


def filled(reconstruction, pictures, seen):
    """The reconstruction inside holes, the picture elsewhere."""
    return np.where(seen[..., None], pictures, reconstruction)


def biharmonic(pictures, seen):
    """Biharmonic inpainting (scikit-image)."""
    return np.stack([images.biharmonic(*pair) for pair in zip(pictures, seen, strict=True)])


def total_variation(pictures, seen, weight, steps=200):
    """The least total variation that agrees with the pixels seen, as closely as `weight` says."""
    signals, *shape, channels = pictures.shape
    values = jnp.asarray(pictures.reshape(signals, -1, channels))
    weights = jnp.asarray(seen.reshape(signals, -1), jnp.float32)
    mean = (weights[..., None] * values).sum(1, keepdims=True) / weights.sum(1)[:, None, None]
    start = jnp.broadcast_to(mean, values.shape)
    refinement = TotalVariation(tv=weight, lam=0.0, steps=steps)
    found = refinement.refine(sample(tuple(shape)), tuple(shape), start, values, weights)
    return filled(np.asarray(found).reshape(pictures.shape), pictures, seen)


def masked_residual(network, power):
    """Mean |error|^power over what is seen: function (layers, target [P, C], seen [P]) -> []."""

    def residual(layers, target, seen):
        error = jnp.abs(network.render(layers) - target) ** power
        return (seen[:, None] * error).sum() / seen.sum() / target.shape[-1]

    return residual


def detected(pictures, fits, trim, reach):
    """What a fit believes: bool [S, H, W], True where its residual is near the usual.

    Residuals are averaged under a Gaussian of `reach` pixels and compared with `trim` medians.
    """
    sizes = np.abs(pictures - fits).mean(-1)
    smooth = functools.partial(gaussian_filter, sigma=reach, mode="constant")
    total = smooth(np.ones(sizes.shape[1:]))
    sizes = np.stack([smooth(one) / total for one in sizes])
    return sizes <= trim * np.median(sizes, axis=(1, 2), keepdims=True)


def whole_psnr(reconstruction, truth):
    """PSNR [S] of pictures clipped to [0, 1], of 90 dB at most."""
    return hole_psnr(reconstruction, truth, np.zeros(truth.shape[:3], bool))


def hole_psnr(reconstruction, truth, seen):
    """PSNR [S] over the hidden pixels alone; NaN for a picture without any."""
    error = np.square(np.clip(reconstruction, 0, 1) - truth).mean(-1)
    inside = [e[~s].mean() if not s.all() else np.nan for e, s in zip(error, seen, strict=True)]
    return -10 * np.log10(np.maximum(inside, 1e-9))
