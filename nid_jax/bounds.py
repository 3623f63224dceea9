"""What a file may make the program hold before its header has been held to the file's own size.

What a file really contains is its owner's business. What it merely says of itself, or unfolds to
when it is unpacked, is bounded: a hundred bytes can ask for a terabyte.
"""

from __future__ import annotations

import functools
import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from nid_jax.errors import reason

VARIABLE = "NID_JAX_READ_GIB"
"""Of the environment: the bound in GiB. Without it 4, or half of the machine's memory if less."""
_GIB = 2**30
DEFLATED = 1032
"""Bytes that deflate packs into one at most."""
# Packings that have no such limit.
_PACKED_TIGHTER = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def most_bytes() -> int:
    """Bytes that a file may unfold to. Raises ValueError for a variable that is no number."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        return min(4 * _GIB, _memory() // 2)
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0 < found < 2**30:
        raise ValueError(f"{VARIABLE}={given}: allowed: a number of GiB above 0")
    return int(found * _GIB)


@functools.cache
def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * _GIB


def check(wanted: int, there: int = 0, what: str = "its values") -> None:
    """Raise ValueError where `wanted` bytes are beyond the bound, and beyond what is there.

    there: bytes of the file itself, as far as they are not packed. what: takes them, as the line
    begins; the file's name belongs before it.
    """
    most = max(most_bytes(), there)
    if wanted > most:
        raise ValueError(
            f"{what}: {_shown(wanted)} of memory, more than the {_shown(most)} that a file may "
            f"unfold to; {VARIABLE}=N allows N GiB"
        )


def _shown(count: int) -> str:
    # Of what a header says there may be more than a float holds.
    if count < _GIB:
        return f"{-(-count // 2**20)} MiB"
    return f"{count / _GIB:.1f} GiB" if count < 10**8 * _GIB else "over 10^8 GiB"


def check_members(members: Iterable[zipfile.ZipInfo], there: int) -> None:
    """Raise ValueError where members of a zip of `there` bytes unfold to more than is allowed, or
    say that they hold more than their packing can."""
    total = 0
    for one in members:
        tighter = one.compress_type in _PACKED_TIGHTER
        ratio = 1 if one.compress_type == zipfile.ZIP_STORED else DEFLATED
        if one.compress_size > there or (
            not tighter and one.file_size > ratio * one.compress_size + 64
        ):
            raise ValueError(
                f"damaged: {one.filename!r} is said to be {one.file_size} bytes in "
                f"{one.compress_size} packed ones, of a file of {there}"
            )
        total += one.file_size
    check(total, there, "its content")


def check_zip(path: Path) -> None:
    """Raise ValueError where a file that is a zip unfolds to more than is allowed; of others
    nothing is said."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise ValueError(f"damaged: {reason(error)}") from error
    check_members(members, path.stat().st_size)


def size_of(stream: BinaryIO) -> int:
    """Bytes of an open file, whose place stays."""
    place = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(place)
    return size


class Clamped(io.RawIOBase):
    """An open file of which never more is asked for than there is.

    Python makes room for all that `read` is told to read, however little the file has.
    """

    def __init__(self, path: str | Path):
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._size = size_of(self._file)
        self.name = str(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size is None or size < 0 else min(size, left))

    def close(self) -> None:
        self._file.close()
        super().close()
