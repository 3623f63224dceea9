"""Pictures decoded once: in memory, or in a memory-mapped file of which windows are read.

Cut into patches and shifted, a picture is read hundreds of times; its file should be decoded once.
"""

import contextlib
import contextvars
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nid_jax import npy_files
from nid_jax.data.collection import ArrayCollection, Collection
from nid_jax.files import atomic_path
from nid_jax.notices import say

# Collections of at most this size, in float32, are not kept on disk.
UNKEPT_BYTES = 2**28
_GIB = 2**30
_PREFIX = "decoded-"

_folder: contextvars.ContextVar[Path | None] = contextvars.ContextVar("folder", default=None)


@contextlib.contextmanager
def kept_in(folder: str | Path) -> Iterator[None]:
    """Collections opened inside keep what they decode in `folder`, for the next time too."""
    token = _folder.set(Path(folder))
    try:
        yield
    finally:
        _folder.reset(token)


def kept_folder() -> Path | None:
    """The folder of `kept_in`, None outside of it."""
    return _folder.get()


def decoded(collection: Collection, most_gib: float) -> Collection:
    """The same signals, of which each file is decoded once, and whose windows are cheap to read.

    most_gib: what may be kept on disk; 0: nothing, as each signal is decoded when it is read then.
    Small collections stay in memory, larger ones are kept in a memory-mapped file: in the folder of
    `kept_in`, found again by files and settings, else in a temporary one. A notice says where, or
    that they are too large. Raises ValueError naming data.decoded_gib, and as the collection does.
    """
    if not 0 <= most_gib < math.inf:
        raise ValueError(f"data.decoded_gib={most_gib}: must be 0 (nothing is kept) or more")
    if getattr(collection, "windows", False) or not most_gib:
        return collection
    numbers = len(collection) * math.prod(collection.shape)
    if 4 * numbers <= UNKEPT_BYTES:
        values = _decode(collection, np.empty((len(collection), *collection.shape), np.float32))
        return ArrayCollection(values, collection.names, collection.title)
    values = _kept(collection, np.uint8 if are_bytes(collection[0]) else np.float32, most_gib)
    if values is None:
        return collection
    return ArrayCollection(values, collection.names, collection.title)


def are_bytes(values: Float[np.ndarray, "*shape"]) -> bool:
    """Whether values in [0, 1] are whole numbers of 0 to 255 by 255, to the bit."""
    return np.array_equal(np.rint(values * 255) / np.float32(255), values)


class _NotBytes(Exception):
    """A signal holds more than bytes do."""


def _kept(collection, dtype, most_gib):
    """Values [S, *grid, C] on disk, or None and a notice where they would take too much of it."""
    gib = np.dtype(dtype).itemsize * len(collection) * math.prod(collection.shape) / _GIB
    if gib > most_gib:
        say(
            f"{collection.title}: {gib:.1f} GiB decoded, more than data.decoded_gib={most_gib:g}: "
            "files are decoded each time they are read, which is slow where they are cut or shifted"
        )
        return None
    try:
        return _on_disk(collection, dtype)
    except _NotBytes:
        return _kept(collection, np.float32, most_gib)


def _on_disk(collection, dtype):
    """Values [S, *grid, C] in a memory-mapped file, made where it is not there yet."""
    shape = (len(collection), *collection.shape)
    folder, fingerprint = kept_folder(), getattr(collection, "fingerprint", None)
    if folder is None or fingerprint is None:
        # Nobody could find it again: the file has no name and goes with this process.
        with tempfile.TemporaryFile(dir=folder) as file:
            return _decode(collection, np.memmap(file, dtype, "w+", shape=shape))
    path = folder / f"{_PREFIX}{fingerprint()}.npy"
    if not path.exists():
        say(
            f"{collection.title}: decoded once into {folder} "
            f"({math.prod(shape) * np.dtype(dtype).itemsize / _GIB:.1f} GiB)"
        )
        with atomic_path(path) as temporary:
            _decode(collection, np.lib.format.open_memmap(temporary, "w+", dtype, shape)).flush()
        for other in folder.glob(f"{_PREFIX}*.npy"):
            if other != path:
                other.unlink(missing_ok=True)
    values = npy_files.read(path, mmap=True).get("")
    # Of pictures that are no bytes there are floats, whatever was looked for.
    if values is None or values.shape != shape or values.dtype not in (np.uint8, np.float32):
        raise ValueError(f"{path}: damaged, or of other pictures: remove it, it is made again")
    return values


def _decode(
    collection: Collection, values: Float[np.ndarray, "S *grid C"]
) -> Float[np.ndarray, "S *grid C"]:
    """`values`, filled with all signals; uint8 takes bytes. Raises _NotBytes where it cannot."""

    def store(index):
        signal = collection[index]
        if values.dtype == np.uint8:
            if not are_bytes(signal):
                raise _NotBytes
            signal = np.rint(signal * 255)
        values[index] = signal

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(store, range(len(collection))):
            pass
    return values
