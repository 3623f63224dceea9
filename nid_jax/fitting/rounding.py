"""Codes in 16 or 8 bits: rounded uniformly, in steps of each number's own range over the signals.

code ~ centre[e] + step[e] q with whole q, |q| <= 2^(bits - 1) - 1: off by at most step / 2. Nothing
is entropy-coded but by the zlib of .npz. Steps and centres are shared by all signals of a file.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Shaped

from nid_jax.errors import ArgumentError

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
        return self.centre + self.step * values


def check(dtype: str) -> str:
    """The dtype. Raises ArgumentError for one that codes are not stored in."""
    if dtype not in DTYPES:
        raise ArgumentError("codes_dtype", dtype, ", ".join(DTYPES))
    return dtype


def rounded(codes: Float[Array | np.ndarray, "S E"], dtype: str) -> Rounded:
    """Codes in fewer bits. Raises ArgumentError for another dtype, or too small a one."""
    codes = np.asarray(codes, np.float32)
    if check(dtype).startswith("float"):
        with np.errstate(over="ignore"):
            values = codes.astype(dtype)
        if not np.isfinite(values).all():
            allowed = f"one that holds {np.abs(codes).max():.3g}"
            raise ArgumentError("codes_dtype", dtype, allowed)
        return Rounded(values, None, None)
    low, high = codes.min(0).astype(np.float64), codes.max(0).astype(np.float64)
    most = np.iinfo(dtype).max
    step = (high - low) / (2 * most)
    centre = ((high + low) / 2).astype(np.float32)
    # What is the same in all signals is its centre.
    step = np.where(step > 0, step, 1).astype(np.float32)
    values = np.clip(np.rint((codes - centre) / step), -most, most)
    return Rounded(values.astype(dtype), step, centre)


def bits_per_signal(numbers: int, channels: int, dtype: str) -> int:
    """Of the codes, and of the bias in float32; without what all signals of a file share."""
    return 8 * np.dtype(check(dtype)).itemsize * numbers + 32 * channels
