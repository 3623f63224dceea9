"""What the axes of an array are: named by letters, or guessed from their lengths.

S signals, T frames, D depth (or time as a coordinate), H rows, W columns, C channels, in any order:
'SHWC' are colour pictures with channels last, 'SCHW' with channels first, 'HWC' is one of them,
'SDHW' are volumes, 'THWC' the frames of a video, 'SW' signals of one coordinate.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from nid_jax.errors import ArgumentError
from nid_jax.notices import say, sides

LETTERS = "STDHWC"
# An axis of at most so many samples may be one of channels.
MOST_CHANNELS = 4
_ALLOWED = (
    "a letter for each axis: S signals, T frames, D depth, H rows, W columns, C channels, such as "
    "SHWC"
)


def arranged(values: Num[np.ndarray, "..."], letters: str) -> Num[np.ndarray, "S *grid C"]:
    """An array whose axes the letters name as [S, *grid, C], a view where that can be.

    The grid's axes in the order D, H, W. Frames are signals: with both S and T the frames of the
    first come before those of the second. S and C are 1 where the letters have none.
    """
    order = [letters.index(letter) for letter in LETTERS if letter in letters]
    values = values.transpose(order)
    signals = sum(letter in letters for letter in "ST")
    if signals != 1:
        values = values.reshape(math.prod(values.shape[:signals]), *values.shape[signals:])
    return values if "C" in letters else values[..., None]


def checked(letters: Any, shape: Sequence[int]) -> str:
    """The letters in upper case, if they name the axes of an array of this shape.

    Raises ArgumentError naming `layout`.
    """
    found = letters.upper() if isinstance(letters, str) else ""
    known = found and len(set(found)) == len(found) and set(found) <= set(LETTERS)
    # Rows without columns are columns, and a depth has both.
    nested = "W" in found and ("D" not in found or "H" in found)
    if not (known and nested):
        raise ArgumentError("layout", letters, _ALLOWED)
    if len(found) != len(shape):
        raise ArgumentError(
            "layout", letters, f"{len(shape)} letters for an array of shape {list(shape)}"
        )
    return found


def guessed(
    shape: Sequence[int], where: str, key: str, frames: bool = False, lines: bool = False
) -> str:
    """Letters for an array of this shape, with a notice where another meaning is as likely.

    where: the array in the notice; key: how one says otherwise, 'data.layout={}'; frames: that
    signals are frames, T; lines: that they may have one coordinate, which pictures have not. Raises
    ArgumentError naming `layout` for shapes that tell nothing.
    """
    letters, doubt = _guess(tuple(shape), lines)
    if not letters:
        raise ArgumentError("layout", "", f"for an array of shape {list(shape)} {_ALLOWED}")
    if frames:
        letters = letters.replace("S", "T")
    if doubt:
        found, other = doubt
        other = other.replace("S", "T") if frames and "T" not in other else other
        taken, other = _described(shape, letters), key.format(other)
        say(f"{where}: {found}; taken as {taken}; {other} says otherwise")
    return letters


def _described(shape, letters):
    """'SHW, 64 signals of 48 x 3'."""
    lengths = dict(zip(letters, shape, strict=True))
    count = math.prod(lengths.get(letter, 1) for letter in "ST")
    grid = sides(lengths[letter] for letter in "DHW" if letter in lengths)
    channels = f", {lengths['C']} channels" if "C" in lengths else ""
    what = "signal" if count == 1 else "frames" if "T" in lengths else "signals"
    return f"{letters}, {count} {what} of {grid}{channels}"


def _guess(shape, lines):
    """(letters, None or (what was found, what else it may be)); no letters where nothing tells."""
    count, small = len(shape), [side <= MOST_CHANNELS for side in shape]
    found = f"an array of shape {list(shape)}"
    if count == 2:
        return ("SW", (found, "HW")) if lines else ("HW", None)
    if count == 3:
        if small[2] and lines:
            return "SWC", (found, "HWC")
        if small[2] and not (small[0] or small[1]):
            return "SHW", (f"{found} looks like one picture, channels last", "HWC")
        if shape[0] in (3, 4) and not (small[1] or small[2]):
            return "SHW", (f"{found} looks like one picture, channels first", "CHW")
        if shape[0] == shape[1] != shape[2]:
            return "SHW", (f"{found} looks like square pictures side by side as in MATLAB", "HWS")
        return "SHW", None
    if count == 4:
        if shape[0] == shape[1] and small[2] and not (small[0] or small[3]):
            return "SDHW", (f"{found} looks like square pictures as in MATLAB", "HWCS")
        if small[3]:
            return "SHWC", None
        if small[1] and not small[2]:
            return "SCHW", (f"{found}, channels first", "SDHW")
        return "SDHW", (f"{found}, no axis of channels", "SHWC")
    if count == 5 and small[4]:
        return "SDHWC", (found, "STHWC")
    if count == 5 and small[1]:
        return "SCDHW", (f"{found}, channels first", "STCHW")
    return "", None
