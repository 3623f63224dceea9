"""Arrays in .npy and .npz, checked against what is there before room is made for them.

Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nid_jax import bounds
from nid_jax.errors import reason

_MAGIC = b"\x93NUMPY"
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_PIECE = 2**20
_MOST_HEADER = 2**16
_WORDS = {"b": "truth values", "f": "numbers", "U": "texts", "u": "whole numbers"}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    columns: bool
    """Whether the first axis is the quickest."""
    start: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(
    path: str | Path,
    names: Collection[str] | None = None,
    where: str = "",
    mmap: bool = False,
) -> dict[str, np.ndarray | None]:
    """Arrays of an .npz by name, or the array of an .npy, whose name is ''.

    names: of an .npz, those to read where they are there; None: all. None stands for an array of
    objects among them. where: what errors name instead of the path; mmap: an .npy is memory-mapped.
    Raises OSError for a file that may not be opened or is not there, and ValueError of one line,
    beginning with its name, for another kind of file, a damaged one, and one that unfolds to more
    than `bounds.most_bytes()`.
    """
    path = Path(path)
    with path.open("rb") as file:
        # zipfile, zlib and NumPy have an error of their own for every kind of damage.
        try:
            if file.read(len(_MAGIC)) == _MAGIC:
                return {"": _npy(path, file, mmap)}
            return _npz(file, names)
        except Exception as error:
            raise _unreadable(where or path, error) from error


def _unreadable(where, error):
    return ValueError(f"{where}: cannot be read as an array file ({reason(error)})")


def member_names(path: str | Path) -> list[str]:
    """Names of the arrays in an .npz. Raises as `read`."""
    path = Path(path)
    with path.open("rb") as file:
        try:
            return [name for name, _ in _members(file)]
        except Exception as error:
            raise _unreadable(path, error) from error


def _npy(path, file, mmap):
    file.seek(0)
    header = _header(file)
    there = bounds.size_of(file) - header.start
    if header.dtype.hasobject:
        raise ValueError("it holds objects, which are never unpickled")
    if header.size > there:
        raise ValueError(f"damaged: {there} bytes of values, where its header says {header.size}")
    order = "F" if header.columns else "C"
    if mmap and header.size:
        return np.memmap(path, header.dtype, "r", header.start, header.shape, order)
    return _values(file, header)


def _npz(file, names):
    found: dict[str, np.ndarray | None] = {}
    with zipfile.ZipFile(file) as archive:
        chosen = [pair for pair in _members(file) if names is None or pair[0] in names]
        bounds.check_members([info for _, info in chosen], bounds.size_of(file))
        for name, info in chosen:
            try:
                with archive.open(info) as member:
                    found[name] = _member(member, info)
            except Exception as error:
                raise ValueError(f"damaged: {name!r}: {reason(error)}") from error
    return found


def _members(file):
    """(name, its entry) of the arrays of an open .npz."""
    if bounds.size_of(file) == 0:
        raise ValueError("is empty, and no .npz of arrays")
    file.seek(0)
    if not zipfile.is_zipfile(file):
        raise ValueError("is no .npy or .npz, or its end is cut off")
    with zipfile.ZipFile(file) as archive:
        return [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]


def _member(member, info):
    header = _header(member)
    if header.dtype.hasobject:
        return None
    if header.size != info.file_size - header.start:
        there = info.file_size - header.start
        raise ValueError(f"{there} bytes of values, where its header says {header.size}")
    return _values(member, header)


def _header(file: BinaryIO) -> _Header:
    version = np.lib.format.read_magic(file)
    if version not in _READERS:
        raise ValueError(f"version {version} of .npy; allowed: 1.0 and 2.0")
    length = file.read(version[0] * 2)
    size = int.from_bytes(length, "little")
    if size > _MOST_HEADER:
        raise ValueError(f"damaged: a header of {size} bytes")
    shape, columns, dtype = _READERS[version](io.BytesIO(length + file.read(size)))
    if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 64:
        raise ValueError(f"damaged: an array of shape {list(shape)[:8]}")
    # Axes without numbers between others that are too long for NumPy.
    if any(side >= 2**62 for side in shape):
        raise ValueError("damaged: an axis beyond 2^62 values")
    return _Header(tuple(shape), np.dtype(dtype), bool(columns), file.tell())


def _values(file: Any, header: _Header) -> np.ndarray:
    """The values after a header, of a file that has them."""
    values = np.empty(header.size, np.uint8)
    view, place = memoryview(values), 0
    while place < header.size:
        count = file.readinto(view[place : place + _PIECE])
        if not count:
            raise ValueError(f"cut short after {place} of {header.size} bytes of values")
        place += count
    # Reads on to the end of a packed member, where its checksum is compared.
    file.read(1)
    order: Any = "F" if header.columns else "C"
    if not header.size:
        return np.empty(header.shape, header.dtype, order)
    return values.view(header.dtype).reshape(header.shape, order=order)
