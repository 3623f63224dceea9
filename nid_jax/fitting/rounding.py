"""Codes in 16 or 8 bits: rounded uniformly, in steps of each number's own range over the signals.

code ~ centre[e] + step[e] q with whole q, |q| <= 2^(bits - 1) - 1: off by at most step / 2. Zero
is a level wherever codes lie on both sides of it, so what is zero stays so. The one whole number
that is left, -2^(bits - 1), is what is not finite. Nothing is entropy-coded but by the zlib of
.npz. Steps and centres are shared by all signals of a file.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Shaped

from nid_jax.errors import ArgumentError
from nid_jax.notices import say

DTYPES = ("float32", "float16", "int16", "int8")
"""What codes are stored in."""


class Rounded(NamedTuple):
    """Codes as they are stored: values [S, E], and of whole ones step [E] and centre [E]."""

    values: Shaped[np.ndarray, "S E"]
    step: Float[np.ndarray, " E"] | None
    centre: Float[np.ndarray, " E"] | None

    def codes(self) -> Float[np.ndarray, "S E"]:
        """What they stand for, float32."""
        values = self.values.astype(np.float32)
        if self.step is None or self.centre is None:
            return values
        found = self.centre + self.step * values
        found[self.values == np.iinfo(self.values.dtype).min] = np.nan
        return found


def check(dtype: str) -> str:
    """The dtype. Raises ArgumentError for one that codes are not stored in."""
    if dtype not in DTYPES:
        raise ArgumentError("codes_dtype", dtype, ", ".join(DTYPES))
    return dtype


def rounded(codes: Float[Array | np.ndarray, "S E"], dtype: str) -> Rounded:
    """Codes in fewer bits.

    Signals with numbers that are not finite take no part in the ranges, and are said; whole numbers
    keep such signals as nan. Raises ArgumentError for another dtype, or one too small for finite
    codes.
    """
    codes = np.asarray(codes, np.float32)
    finite = np.isfinite(codes)
    lost = int((~finite.all(1)).sum())
    if lost:
        how = "as they are" if dtype.startswith("float") else "as nan"
        say(
            f"codes_dtype={dtype}: codes of {lost} of {len(codes)} signals are not finite; stored "
            f"{how}, and refused where they are read; a fit of the other signals would not be"
        )
    if check(dtype).startswith("float"):
        with np.errstate(over="ignore"):
            values = codes.astype(dtype)
        if not np.isfinite(values[finite]).all():
            allowed = f"one that holds {np.abs(codes[finite]).max():.3g}"
            raise ArgumentError("codes_dtype", dtype, allowed)
        return Rounded(values, None, None)
    return _whole(codes, dtype)


def _whole(codes, dtype):
    """`rounded` to whole numbers."""
    finite = np.isfinite(codes).all(1)
    # Of no signal at all the range is 0.
    known = codes[finite].astype(np.float64) if finite.any() else np.zeros((1, codes.shape[1]))
    low, high, most = known.min(0), known.max(0), np.iinfo(dtype).max
    crossing = (low <= 0) & (high >= 0)
    # Centres at whole steps, where zero is to be a level, move by half a step at most.
    step = (high - low) / np.where(crossing, 2 * most - 1, 2 * most)
    # What is the same in all signals, or all but, is its centre.
    step = step.astype(np.float32)
    step = np.where(step > 0, step, np.float32(1))
    centre = (low + high) / 2
    centre = np.where(crossing, step * np.rint(centre / step).astype(np.float32), centre)
    centre = centre.astype(np.float32)
    values = np.full(codes.shape, -most - 1, dtype)
    values[finite] = np.clip(np.rint((codes[finite] - centre) / step), -most, most).astype(dtype)
    return Rounded(values, step, centre)


def bits_per_signal(
    codes: Float[Array | np.ndarray, "S E"], channels: int, dtype: str, sparse: bool = False
) -> int:
    """Of the codes, and of the bias in float32; without what all signals of a file share.

    sparse: of as many weights and their places as the fullest signal has, not of every number.
    """
    codes = np.asarray(codes)
    weight, numbers = 8 * np.dtype(check(dtype)).itemsize, codes.shape[1]
    bits = weight * numbers
    if sparse:
        most = int(np.count_nonzero(codes, axis=1).max(initial=0))
        bits = min(bits, most * (weight + math.ceil(math.log2(max(numbers, 2)))))
    return bits + 32 * channels


def shared_bits(numbers: int, dtype: str) -> int:
    """Of the steps and centres that all signals of a file share, in float32."""
    return 64 * numbers if check(dtype).startswith("int") else 0
