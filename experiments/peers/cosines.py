"""The cosine transform of whole signals, of which the strongest coefficients are kept."""

import math

import numpy as np
import scipy.fft


class DCT:
    """The orthonormal cosine transform of whole signals, channels included; E coefficients kept.

    Those kept are the E of most energy over the training signals [N, *grid, C].
    """

    def __init__(self, signals, count):
        self.shape, self.axes = signals.shape[1:], tuple(range(1, signals.ndim))
        energy = np.square(self.encode_all(signals)).mean(0)
        self.kept = np.argsort(-energy)[:count]

    def encode(self, signals):
        """[S, *grid, C] -> [S, E]."""
        return self.encode_all(signals)[:, self.kept]

    def encode_all(self, signals):
        """[S, *grid, C] -> all coefficients [S, V]."""
        return scipy.fft.dctn(signals, axes=self.axes, norm="ortho").reshape(len(signals), -1)

    def decode(self, codes):
        """Those kept, [S, E] -> [S, *grid, C]."""
        full = np.zeros((len(codes), math.prod(self.shape)), codes.dtype)
        full[:, self.kept] = codes
        return self.decode_all(full)

    def decode_all(self, codes):
        """All of them, [S, V] -> [S, *grid, C]."""
        return scipy.fft.idctn(codes.reshape(-1, *self.shape), axes=self.axes, norm="ortho")


def largest(codes, count):
    """Codes [S, E] with all but the `count` of largest magnitude set to zero."""
    order = np.argpartition(-np.abs(codes), count - 1, axis=-1)[:, :count]
    kept = np.zeros_like(codes)
    np.put_along_axis(kept, order, np.take_along_axis(codes, order, -1), -1)
    return kept
