"""Measured Fourier transforms of pictures, as scanners give them: k-space, and what was sampled.

K-space is read as numpy.fft.fft2(picture, norm='ortho') has it: the zero frequency and the
picture's first pixel at index 0. Letters: S signals, H rows, W columns.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex

from nid_jax.data import measurements
from nid_jax.notices import say

KSPACE_NAMES = ("kspace", "k_space", "ksp", "k", "data", "measurements")
MASK_NAMES = ("mask", "kspace_mask", "sampling", "seen")
CENTRED = {"true": True, "false": False}
ORIGINS = ("corner", "middle")
# Zero-filled pictures within [0, 1] peak about here, less where little was sampled.
_PEAK, _PEAKS = 0.7, (0.05, 4.0)
# Borders are dark below this share of the mean, where others are e to this power brighter; and they
# jump where steps are larger by e to that power than at others.
_DARK, _DARKER, _JUMPS = 0.4, 1.0, 0.5
# Of the energy of a picture: an imaginary part above it is spoken of.
_IMAGINARY = 0.05


class KSpace(NamedTuple):
    """Fourier coefficients of S pictures, and which of them were measured."""

    values: Complex[np.ndarray, "S H W"]
    """complex64, 0 where not measured."""
    measured: Bool[np.ndarray, "S H W"]


def read_kspace(
    path: str | Path,
    mask_path: str | Path = "",
    centred: str = "",
    origin: str = "",
    scale: float = 0.0,
) -> KSpace:
    """K-space from files of measurements.FORMATS.

    path (data.kspace): complex [H, W] or [S, H, W], or real with a last axis of 2 for real and
    imaginary parts. mask_path (data.kspace_mask): 0 and 1, [H, W], [W] for columns, [H, 1] for rows
    or [S, H, W], in the same order of frequencies; '' takes a mask beside the samples in their
    file, else samples of 0 or NaN as not measured.
    centred (data.kspace_centred): whether the zero frequency is in the middle, at N // 2: 'true' or
    'false'. origin (data.kspace_origin): the pixel that phases count from, 'corner' (index 0) or
    'middle' (N // 2). scale (data.kspace_scale): divides all samples: 1 for an orthonormal
    transform, sqrt(H W) for numpy.fft.fft2's default. '' and 0 guess, and say so: from where
    the energy lies, from the borders of the zero-filled picture, which jump or are dark, and from
    its size.
    Raises FileNotFoundError, and ValueError naming the key and the file.
    """
    where = f"data.kspace={str(path)!r}"
    if centred not in ("", *CENTRED):
        raise ValueError(f"data.kspace_centred={centred!r}: allowed: true, false, or ''")
    if origin not in ("", *ORIGINS):
        raise ValueError(f"data.kspace_origin={origin!r}: allowed: {', '.join(ORIGINS)}, or ''")
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"data.kspace_scale={scale}: must be above 0, or 0 to find it")
    arrays = measurements.read_arrays(path, where)
    inside = {name: array for name, array in arrays.items() if name.lower() in MASK_NAMES}
    rest = {name: array for name, array in arrays.items() if name not in inside}
    values = _complex(measurements.named_array(rest, KSPACE_NAMES, (2, 3, 4), where), where)
    mask = _read_mask(mask_path, inside, values.shape, where)
    measured = _measured(values, mask, where)
    values = np.where(measured, values, 0)
    guessed = []
    middle = CENTRED[centred] if centred else _zero_is_in_the_middle(values)
    if not centred:
        place = "in the middle" if middle else "at index 0"
        guessed.append(f"the zero frequency {place} (data.kspace_centred)")
    if middle:
        values, measured = (np.fft.ifftshift(array, axes=(1, 2)) for array in (values, measured))
    if not origin:
        origin, sure = _origin(values)
        doubt = "" if sure else "; not sure: the picture may come out rolled by half"
        guessed.append(f"phases counted from the {origin} (data.kspace_origin{doubt})")
    if origin == "middle":
        values = values * _ramp(values.shape[1:])
    values = values / (scale or _scale(values, guessed, where))
    if guessed:
        say(f"{where}: taken with {', '.join(guessed)}; these keys say otherwise")
    _say_imaginary(values, measured, where)
    return KSpace(values.astype(np.complex64), measured)


def _complex(values, where):
    """Samples [S, H, W] complex128, NaN where either part is."""
    if values.dtype.kind == "c":
        ranks, form = (2, 3), "complex [H, W] or [S, H, W]"
    elif values.ndim in (3, 4) and values.shape[-1] == 2:
        values = values[..., 0] + 1j * values[..., 1].astype(np.float64)
        ranks, form = (2, 3), ""
    else:
        raise ValueError(
            f"{where}: {values.dtype} of shape {list(values.shape)}; expected complex numbers "
            "[H, W] or [S, H, W], or their real and imaginary parts on a last axis of 2"
        )
    if values.ndim not in ranks or 0 in values.shape:
        raise ValueError(f"{where}: an array of shape {list(values.shape)}; expected {form}")
    values = values.astype(np.complex128)
    infinite = np.count_nonzero(np.isinf(values))
    if infinite:
        raise ValueError(f"{where}: {infinite} of {values.size} samples are infinite")
    return values if values.ndim == 3 else values[None]


def _read_mask(path, inside, shape, where):
    """What was measured, bool [S, H, W], or None where nobody says."""
    if not path and not inside:
        return None
    where = f"data.kspace_mask={str(path)!r}" if path else f"{where}, mask"
    arrays = measurements.read_arrays(path, where) if path else inside
    mask = measurements.named_array(arrays, MASK_NAMES, (), where)
    if not np.isin(mask, (0, 1)).all():
        odd = mask[~np.isin(mask, (0, 1))][0]
        raise ValueError(f"{where}: a value of {odd}; allowed: 0 and 1")
    try:
        if mask.ndim not in (1, 2, 3):
            raise ValueError
        return np.broadcast_to(mask.astype(bool), shape)
    except ValueError:
        count, rows, columns = shape
        raise ValueError(
            f"{where}: shape {list(mask.shape)}; expected [{rows}, {columns}], [{columns}] for "
            f"columns, [{rows}, 1] for rows, or [{count}, {rows}, {columns}]"
        ) from None


def _measured(values, mask, where):
    """What was measured of samples [S, H, W], by a mask or by what is there."""
    there = ~np.isnan(values) & (values != 0)
    measured = there if mask is None else mask & ~np.isnan(values)
    for number, own in enumerate(measured & there):
        if not own.any():
            raise ValueError(f"{where}: of signal {number} nothing was measured but 0 and NaN")
    if mask is None:
        return measured
    energy = np.square(np.abs(np.nan_to_num(values)))
    shifted = np.fft.fftshift(mask, axes=(1, 2))
    lost, other = (energy[~one].sum() / energy.sum() for one in (mask, shifted))
    if lost > 0.5 and other < lost / 2:
        say(
            f"{where}: the mask leaves out {lost:.0%} of the energy, and {other:.0%} with its zero "
            "frequency moved by half: is it in another order? taken as it is"
        )
    empty = 1 - (measured & there).sum() / max(measured.sum(), 1)
    if empty > 0.1:
        say(
            f"{where}: {empty:.0%} of what the mask calls measured is 0: is it the mask of other "
            "samples, or in another order? taken as measured"
        )
    return measured


def _zero_is_in_the_middle(values):
    """Whether energy [S, H, W] lies about the middle of both axes rather than about index 0."""
    energy = np.square(np.abs(values)).sum(0)
    near = [np.minimum(np.arange(n), n - np.arange(n)) <= n / 8 for n in energy.shape]
    corner = energy[np.ix_(*near)].sum()
    middle = np.fft.ifftshift(energy)[np.ix_(*near)].sum()
    return middle > corner


def _origin(values):
    """('corner' or 'middle', whether that is sure): where the picture's first pixel lies.

    A picture that reaches its borders jumps where they meet; one on a dark ground is dark there.
    """
    pictures = np.abs(np.fft.ifft2(values, norm="ortho"))
    dark = _darkness(pictures, 0), _darkness(pictures, 1)
    lead = np.log(dark[1] / dark[0])
    sure = min(dark) < _DARK and abs(lead) > _DARKER
    jump = np.log(_jump_at(pictures, 0) / _jump_at(pictures, 1))
    if not sure and abs(jump) > _JUMPS:
        sure, lead = True, jump
    return ("corner" if lead > 0 else "middle"), sure


def _seam(pictures, axis, half):
    """Pictures with pixels 0 and N - 1 along an axis in the middle, or N // 2 and the one before.

    The place of the seam is then the second half's start.
    """
    length = pictures.shape[axis]
    first = (length - length // 2) % length if half else 0
    return np.roll(pictures, length // 2 - first, axis)


def _jump_at(pictures, half):
    """How much larger steps across the borders are than those beside them, as a mean of both axes.

    half: 0 where the borders lie at the array's ends, 1 where its middle.
    """
    ratios = []
    for axis in (1, 2):
        length = pictures.shape[axis]
        turned = _seam(pictures, axis, half)
        steps = np.abs(np.diff(turned, axis=axis)).mean(axis=(0, 3 - axis))
        at = length // 2 - 1
        near = np.delete(steps[max(0, at - 4) : at + 5], min(at, 4))
        floor = 1e-3 * steps.mean() + np.finfo(float).tiny
        ratios.append((steps[at] + floor) / (np.median(near) + floor))
    return float(np.sqrt(np.prod(ratios)))


def _darkness(pictures, half):
    """The mean about the borders in relation to that of all, 1e-3 at least."""
    means = []
    for axis in (1, 2):
        length = pictures.shape[axis]
        wide = max(1, length // 16)
        turned = np.moveaxis(_seam(pictures, axis, half), axis, 0)
        means.append(turned[length // 2 - wide : length // 2 + wide].mean())
    return max(1e-3, float(np.mean(means)) / max(float(pictures.mean()), np.finfo(float).tiny))


def _ramp(shape):
    """Phases [H, W] that move the origin from pixel N // 2 to pixel 0."""
    waves = [np.exp(-2j * np.pi * np.fft.fftfreq(n) * (n // 2)) for n in shape]
    return waves[0][:, None] * waves[1]


def _scale(values, guessed, where):
    """What makes the zero-filled pictures ones within [0, 1]: 1, or that of another norm."""
    root = float(np.sqrt(np.prod(values.shape[1:])))
    peak = float(np.abs(np.fft.ifft2(values, norm="ortho")).max())
    norms = {1.0: "ortho", root: "backward", 1 / root: "forward"}
    scale = min(norms, key=lambda scale: abs(np.log(peak / scale / _PEAK)))
    guessed.append(f"numpy's norm {norms[scale]!r} (data.kspace_scale={scale:.6g})")
    if not _PEAKS[0] <= peak / scale <= _PEAKS[1]:
        say(
            f"{where}: with data.kspace_scale={scale:.6g} the zero-filled picture reaches "
            f"{peak / scale:.3g}, and the dictionary's are within [0, 1]: data.kspace_scale="
            f"{peak:.3g} makes that 1"
        )
    return scale


def _say_imaginary(values, measured, where):
    """Say that pictures are complex, where frequencies and their negatives do not agree."""
    opposite, there = (np.roll(array[:, ::-1, ::-1], 1, (1, 2)) for array in (values, measured))
    both = measured & there
    energy = np.square(np.abs(values[both])).sum()
    if energy == 0:
        return
    share = np.square(np.abs(values[both] - opposite[both].conj())).sum() / (4 * energy)
    if share > _IMAGINARY:
        say(
            f"{where}: {share:.0%} of the energy is in the imaginary part of the picture: the "
            "phase of a coil or an echo, or another data.kspace_origin? taken as it is, and "
            "fitted by real pictures"
        )
