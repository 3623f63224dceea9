"""Arrays as pictures of one size in the browser."""

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from nid_jax import metrics

SIDE = 320
"""Pixels along the longer side of every picture."""
LARGEST = 0.2
"""Standard deviation that is drawn brightest."""
UNSURE = f"unsure by 0 (dark) to {LARGEST}"
"""What is written above its picture."""
DRAWN = 100
"""Samples along the longer side of a picture of the continuous signal, at most."""


def gray(
    values: Float[np.ndarray, "H W"], hidden: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Values of 0 to 1 as gray, pixels as squares; what is hidden is blue."""
    picture = np.repeat((np.clip(values, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    if hidden is not None:
        picture[hidden] = (38, 70, 140)
    return enlarged(picture)


def unsure(deviation: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w 3"]:
    """Standard deviations from 0 to `LARGEST` in colours from dark to bright."""
    colours = matplotlib.colormaps["magma"](np.clip(deviation / LARGEST, 0, 1))
    return enlarged((colours[..., :3] * 255).astype(np.uint8))


def enlarged(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Whole times as large, so that a pixel stays a square."""
    times = max(SIDE // max(picture.shape[:2]), 1)
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def fine(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Samples of a picture that is drawn from the continuous signal, in tens of milliseconds."""
    times = max(DRAWN // max(shape), 1)
    return tuple(times * side for side in shape)


def decibels(found: Float[np.ndarray, "H W"], truth: Float[np.ndarray, "H W"]) -> float:
    """PSNR of a picture, clipped to [0, 1]."""
    one, other = (values[None, ..., None] for values in (np.clip(found, 0, 1), truth))
    return float(metrics.psnr(one, other)[0])
