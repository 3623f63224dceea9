"""PGM, PPM and PFM files whose values are not of 255, which Pillow brings to 8 bits or cannot read.

Letters: H rows, W columns, C channels.
"""

from typing import BinaryIO, NamedTuple

import numpy as np

from nid_jax import bounds
from nid_jax.data.images import Pixels

# Magic number -> channels, and whether numbers are text.
_KINDS = {b"P2": (1, True), b"P3": (3, True), b"P5": (1, False), b"P6": (3, False)}
_FLOATS = {b"Pf": 1, b"PF": 3}


class Header(NamedTuple):
    """What stands before the values; white: the largest value, of floats the scale."""

    columns: int
    rows: int
    channels: int
    white: float
    place: int
    """Of the first value, in bytes."""
    kind: str
    """The numpy type of the values."""
    text: bool


def read_header(stream: BinaryIO) -> Header | None:
    """The header of a file that is read here; None for all others, those of 255 too."""
    stream.seek(0)
    start = stream.read(4096)
    stream.seek(0)
    magic = start[:2]
    if magic not in _KINDS and magic not in _FLOATS:
        return None
    words: list[bytes] = []
    place = 2
    while len(words) < 3:
        while start[place : place + 1].isspace():
            place += 1
        if start[place : place + 1] == b"#":
            place += len(start[place:].partition(b"\n")[0])
            continue
        end = place
        while start[end : end + 1].strip():
            end += 1
        words.append(start[place:end])
        place = end
    try:
        columns, rows, white = int(words[0]), int(words[1]), float(words[2])
    except ValueError:
        return None
    if not (0 < columns < 2**31 and 0 < rows < 2**31):
        return None
    if magic in _FLOATS:
        kind = "<f4" if white < 0 else ">f4"
        return Header(columns, rows, _FLOATS[magic], abs(white), place + 1, kind, False)
    channels, text = _KINDS[magic]
    if white == 255 or not 0 < white < 65536 or min(rows, columns) < 1:
        return None
    return Header(columns, rows, channels, white, place + 1, "u1" if white < 256 else ">u2", text)


def read_pixels(stream: BinaryIO, header: Header) -> Pixels:
    """The pixels of a file with this header. Raises ValueError where values are missing."""
    shape = header.rows, header.columns, header.channels
    count, kind = header.rows * header.columns * header.channels, np.dtype(header.kind)
    there = bounds.size_of(stream) - header.place
    # Of text a value takes two bytes at least, with what separates it.
    least = 2 * count - 1 if header.text else count * kind.itemsize
    if there < least:
        raise ValueError(f"{there} bytes of values, where {count} values take {least}")
    stream.seek(header.place)
    if header.text:
        lines = stream.read().split(b"\n")
        words = b" ".join(line.partition(b"#")[0] for line in lines).split()[:count]
        values = np.array([int(word) for word in words], np.int64)
        if values.size and not 0 <= values.min() <= values.max() < 65536:
            raise ValueError(f"values from {values.min()} to {values.max()}")
    else:
        content = stream.read(count * kind.itemsize)
        values = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)
    if values.size < count:
        raise ValueError(f"{values.size} of {count} values")
    values = values.astype(kind.newbyteorder("=")).reshape(shape)
    if kind.kind == "f":  # the last row comes first
        return Pixels(values[::-1])
    return Pixels(values, full=(0.0, header.white))
