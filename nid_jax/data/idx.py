"""Signals from idx files, the format of MNIST and of the data sets that took its place."""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from nid_jax import bounds
from nid_jax.data.array import array_collection
from nid_jax.data.collection import Collection
from nid_jax.data.listing import find_files
from nid_jax.data.splitting import SPLITS
from nid_jax.notices import say

# The third byte of a file -> the type of its values, whose bytes come largest first.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# Of an array: signals, three of a grid, channels.
_MOST_AXES = 5
# In names: which split a file is of.
_WORDS = {"train": ("train",), "test": ("test", "t10k")}
_KINDS = ("ubyte", "byte", "short", "int", "float", "double")
_NUMBERED = [f".idx{axes}-{kind}" for axes in range(1, 6) for kind in _KINDS]
_EXTENSIONS = ("", ".gz", ".idx", *_NUMBERED)
# Files of labels belong to a data set, and are no signals.
_LABELS = ("*labels*", "*-idx1-*", "*.idx1-*")


class _Header(NamedTuple):
    kind: np.dtype
    shape: tuple[int, ...]

    @property
    def start(self):
        """Bytes before the values."""
        return 4 + 4 * len(self.shape)

    @property
    def size(self):
        """Bytes of the values."""
        return self.kind.itemsize * math.prod(self.shape)


def open_idx(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a folder of idx files, as MNIST comes in, or one such file; .gz as it is.

    In a folder one file of signals has `train` in its name and one `test` or `t10k`, which are the
    splits; a file alone is split by data.test_fraction and the seed. Labels are no signals. Of a
    file that is there twice, packed and not, the latter is read, memory-mapped. Axes and values are
    taken as those of arrays are: data.layout, data.range.
    Raises FileNotFoundError, and ValueError naming the file and what it holds instead.
    """
    path, own = _chosen(_signal_files(_root(config)), split, config.root)
    return array_collection(_read(path), str(path), config, split, seed, own=own)


def _root(config):
    if not config.root:
        raise ValueError("data.root is empty: data.name='idx' reads a folder of idx files, or one")
    root = Path(config.root).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"data.root={config.root!r}: does not exist")
    return root


def _signal_files(root: Path) -> list[Path]:
    """The file, or those of signals in a folder; what else is there is said."""
    if root.is_file():
        return [root]
    found = find_files(root, _EXTENSIONS, "idx file", beside=_LABELS)
    named = [path for path in found if "idx" in path.name.lower()]
    if not named:
        raise FileNotFoundError(
            f"{root}: holds no idx files; expected names such as train-images-idx3-ubyte or "
            "train-images-idx3-ubyte.gz"
        )
    plain = {path for path in named if path.suffix != ".gz"}
    kept = [path for path in named if path in plain or path.with_suffix("") not in plain]
    signals = [path for path in kept if len(_header_of(path).shape) > 2]
    if not signals:
        shapes = [f"{path.name} {list(_header_of(path).shape)}" for path in kept]
        raise ValueError(
            f"data.root={str(root)!r}: holds {', '.join(shapes)}; expected signals, of 3 axes or "
            "more; a file alone, data.root=FILE, is read as it is"
        )
    passed = [path.name for path in found if path not in signals]
    if passed:
        names = ", ".join(path.name for path in signals)
        say(f"{root}: signals are {names}; passed over: {', '.join(passed)}")
    return signals


def _chosen(files: Sequence[Path], split: str, root: str) -> tuple[Path, bool]:
    """(the file that holds a split, whether it is the split's own)."""
    own = {
        part: [path for path in files if any(word in path.name.lower() for word in _WORDS[part])]
        for part in SPLITS
    }
    if all(len(found) == 1 for found in own.values()) and own["train"] != own["test"]:
        return own[split][0], True
    if len(files) == 1:
        return files[0], False
    raise ValueError(
        f"data.root={root!r}: holds {', '.join(path.name for path in files)}; "
        "expected one file with 'train' in its name and one with 'test' or 't10k', or one alone"
    )


def _read(path: Path) -> Num[np.ndarray, "..."]:
    """The values of a file. Raises ValueError naming one that is damaged."""
    header = _header_of(path)
    if path.suffix != ".gz":
        _check_size(path, header, path.stat().st_size - header.start)
        if not header.size:
            return np.empty(header.shape, header.kind.newbyteorder("="))
        values = np.memmap(path, header.kind, "r", header.start, header.shape)
    else:
        with _opened(path) as file:
            there = path.stat().st_size
            if header.size > bounds.DEFLATED * there:
                raise ValueError(
                    f"{path}: damaged, or no idx file: {there} packed bytes, where its header, of "
                    f"shape {list(header.shape)}, says {header.size}"
                )
            try:
                bounds.check(header.size)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            # No more is unpacked than there should be.
            content = _bytes_of(path, file, header.start + header.size + 1)
        _check_size(path, header, len(content) - header.start)
        values = np.frombuffer(content, header.kind, offset=header.start).reshape(header.shape)
    return values if header.kind.itemsize == 1 else values.astype(header.kind.newbyteorder("="))


def _check_size(path, header, size):
    if size != header.size:
        more = "more" if size > header.size else f"{size}"
        raise ValueError(
            f"{path}: damaged, or no idx file: {more} bytes of values, where its header, of shape "
            f"{list(header.shape)}, says {header.size}"
        )


def _header_of(path: Path) -> _Header:
    """Type and shape of a file. Raises ValueError naming one that is no idx file."""
    with _opened(path) as file:
        magic = _bytes_of(path, file, 4)
        known = len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES and magic[3]
        sides = _bytes_of(path, file, 4 * magic[3]) if known else b""
        if not known or len(sides) < 4 * magic[3]:
            raise ValueError(f"{path}: no idx file: begins with the bytes {magic.hex() or 'none'}")
    if magic[3] > _MOST_AXES:
        raise ValueError(
            f"{path}: damaged, or no idx file: its header has {magic[3]} axes; allowed: 1 to "
            f"{_MOST_AXES}"
        )
    return _Header(np.dtype(_TYPES[magic[2]]), tuple(map(int, np.frombuffer(sides, ">u4"))))


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _bytes_of(path, file, count):
    try:
        return file.read(count)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error})") from error
