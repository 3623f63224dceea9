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


class ColourDCT:
    """The cosine transform that sparse codes compare with: channels decorrelated over the training
    signals [N, *grid, C], and the means of each signal's channels kept beside its coefficients."""

    def __init__(self, signals):
        self.shape = signals.shape[1:]
        self.axes = tuple(range(1, signals.ndim - 1))
        centred = (signals - signals.mean(self.axes, keepdims=True)).reshape(-1, self.shape[-1])
        products = centred.T.astype(np.float64) @ centred
        self.colours = np.linalg.eigh(products)[1].astype(np.float32)

    def encode(self, signals, count):
        """[S, *grid, C] -> (the `count` largest of the coefficients [S, V], means [S, ..., C])."""
        means = signals.mean(self.axes, keepdims=True)
        turned = (signals - means) @ self.colours
        codes = scipy.fft.dctn(turned, axes=self.axes, norm="ortho").reshape(len(signals), -1)
        return largest(codes, count), means

    def decode(self, found):
        """Coefficients and means -> [S, *grid, C]."""
        codes, means = found
        spectra = codes.reshape(-1, *self.shape)
        return scipy.fft.idctn(spectra, axes=self.axes, norm="ortho") @ self.colours.T + means


def largest(codes, count):
    """Codes [S, E] with all but the `count` of largest magnitude set to zero."""
    order = np.argpartition(-np.abs(codes), count - 1, axis=-1)[:, :count]
    kept = np.zeros_like(codes)
    np.put_along_axis(kept, order, np.take_along_axis(codes, order, -1), -1)
    return kept
