"""Backgrounds of videos without a dictionary."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Frames that a median is taken of, at most.
_MOST = 200


def median_background(frames: Sequence[Float[np.ndarray, "H W C"]]) -> Float[np.ndarray, "H W C"]:
    """The median of every pixel over the frames, of 200 at most, spread over all of them.

    frames: [i] -> [H, W, C], in any units, which are the background's too.
    """
    count = len(frames)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST)).round().astype(int))
    return np.median(np.stack([frames[index] for index in chosen]), 0)
