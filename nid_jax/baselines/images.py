"""Pictures by themselves: holes filled in smoothly, and cosines of low frequency."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float
from skimage.restoration import inpaint_biharmonic

# Hidden pixels of one hole after the other that a few seconds of one core fill.
_HIDDEN = 60_000


def affordable(seen: Sequence[Bool[np.ndarray, "H W"]]) -> int:
    """How many of the first pictures `biharmonic` fills in a few seconds, by their hidden pixels.

    seen: [H, W] of each. Those before one of which nothing was seen.
    """
    hidden, found = 0, 0
    for one in seen:
        hidden += int((~one).sum())
        if hidden > _HIDDEN or not one.any():
            break
        found += 1
    return found


def biharmonic(
    picture: Float[np.ndarray, "H W C"], seen: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W C"]:
    """Biharmonic inpainting (scikit-image) of what was not seen; what it holds there has no say.

    Values [H, W, C] are in the units of the picture, within the range of what was seen, float64.
    """
    known = np.where(seen[..., None], picture, 0)
    return np.asarray(inpaint_biharmonic(known, ~seen, channel_axis=-1))


def cosines(signal: Float[np.ndarray, "*grid C"], count: int) -> Float[np.ndarray, "*grid C"]:
    """What `count` numbers of the cosine transform say, channels included: of lowest frequency.

    Frequencies are counted as parts of the highest along each axis. Differences between channels
    are smoother than their mean: the n-th of them counts as of n + 1 times the frequency. float64,
    in the units of the signal [*grid, C].
    """
    axes = tuple(range(signal.ndim))
    spectrum = scipy.fft.dctn(np.asarray(signal, float), axes=axes, norm="ortho")
    along = np.ix_(*(np.arange(side) / side for side in signal.shape[:-1]))
    frequency = np.sqrt(sum(np.square(one) for one in along))
    frequency = (frequency[..., None] * (1 + np.arange(signal.shape[-1]))).ravel()
    spectrum.ravel()[np.argsort(frequency, kind="stable")[count:]] = 0
    return np.asarray(scipy.fft.idctn(spectrum, axes=axes, norm="ortho"))
