"""Files of torch.save read into NumPy without PyTorch, and without running anything in them.

A file of PyTorch 1.6 or later is a zip: data.pkl is a pickle of the saved object in which every
tensor is a call of one function with a reference to its storage, and data/N holds the numbers of
storage N. A pickle can name any function of any module, so this reader knows a handful of names,
gives each a meaning of its own, and refuses the rest; no name is ever looked up.
"""

import math
import pickle
import reprlib
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nid_jax import bounds
from nid_jax.errors import reason
from nid_jax.interop import plain_pickle
from nid_jax.interop.plain_pickle import Refused

# Kind of storage -> (type of its numbers in the file, what they become).
STORAGES = {
    "DoubleStorage": ("f8", np.float64),
    "FloatStorage": ("f4", np.float32),
    "HalfStorage": ("f2", np.float16),
    # The upper half of a float32, for which NumPy has no type.
    "BFloat16Storage": ("u2", np.float32),
    "LongStorage": ("i8", np.int64),
    "IntStorage": ("i4", np.int32),
    "ShortStorage": ("i2", np.int16),
    "CharStorage": ("i1", np.int8),
    "ByteStorage": ("u1", np.uint8),
    "BoolStorage": ("u1", np.bool_),
}
# What a view may repeat the numbers of its storage up to, in bytes: a view of stride 0 can ask for
# any amount of memory.
_REPEATED_BYTES = 2**26
_MOST_AXES = 32
# What zipfile and zlib raise.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError)
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class _Storage(NamedTuple):
    kind: str
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple
    stride: tuple


class _Kind(NamedTuple):
    """Stands for a storage class of PyTorch, as the first half of a reference to a storage."""

    name: str


def read_torch(path):
    """The object that torch.save wrote to `path`, its tensors as NumPy arrays.

    Dicts, lists, tuples, numbers, strings and None come back as they were saved; a tensor of
    bfloat16 comes back as float32. Views are copied. Files older than PyTorch 1.6 are read by
    PyTorch where it is installed (`torch.load(weights_only=True)`). Raises FileNotFoundError, and
    ValueError in one line for a file that is damaged, of another kind, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(len(_LEGACY))
    if head == _LEGACY:
        return _read_legacy(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is not a file of torch.save, or its end is cut off")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: is damaged: its containers are nested too deeply") from None
    except (*_DAMAGE, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: is damaged: {reason(error)}") from error


def _read_archive(archive):
    bounds.check_members(archive.infolist(), bounds.size_of(archive.fp))
    names = set(archive.namelist())
    folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise Refused("is a zip, but no file of torch.save: it holds no data.pkl")
    (folder,) = folders
    order = "little"
    if f"{folder}byteorder" in names:
        order = archive.read(f"{folder}byteorder").decode("ascii", "replace")
        if order not in ("little", "big"):
            raise Refused(f"its byteorder is {order!r}; allowed: little, big")
    if archive.getinfo(f"{folder}data.pkl").file_size > plain_pickle.MOST_BYTES:
        raise Refused(f"its data.pkl has more than {plain_pickle.MOST_BYTES} bytes")
    meaning = _Meanings()
    content = archive.read(f"{folder}data.pkl")
    found, _ = plain_pickle.load(content, meaning.found, meaning.storage)
    return _Reader(archive, folder, "<" if order == "little" else ">").resolved(found)


class _Meanings:
    """What the names in a pickle mean: containers, and records in the place of tensors."""

    def found(self, module, name):
        """What stands for a name. Raises Refused for one that is not known."""
        if module in ("torch", "torch.storage") and name in STORAGES:
            return _Kind(name)
        meanings = {
            ("collections", "OrderedDict"): self.ordered,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
            ("torch", "Size"): self.size,
        }
        if (module, name) not in meanings:
            raise Refused(
                f"asks for {module}.{name}, which is refused: only tensors, numbers, strings and "
                "containers of them are read"
            )
        return meanings[module, name]

    def storage(self, reference):
        """A storage of numbers as the pickle refers to it."""
        known = isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage"
        if not known or not isinstance(reference[1], _Kind):
            raise Refused("refers to something that is no storage of numbers")
        _, kind, key, _, count = reference
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            told = f"{reprlib.repr(key)} of {reprlib.repr(count)} numbers"
            raise Refused(f"refers to a storage {told}")
        return _Storage(kind.name, key, count)

    def tensor(self, storage, offset, shape, stride, *_):
        """A tensor as the pickle describes it; nothing is read yet."""
        if not isinstance(shape, tuple | list) or not isinstance(stride, tuple | list):
            raise Refused("holds a tensor whose shape or stride is no tuple")
        numbers = (offset, *shape, *stride)
        whole = all(isinstance(number, int) and number >= 0 for number in numbers)
        same = len(shape) == len(stride) <= _MOST_AXES
        if not isinstance(storage, _Storage) or not whole or not same:
            told = f"{reprlib.repr(shape)}, stride {reprlib.repr(stride)}"
            raise Refused(f"holds a tensor of shape {told} and offset {reprlib.repr(offset)}")
        return _Tensor(storage, offset, tuple(shape), tuple(stride))

    def ordered(self, pairs=()):
        """A dict; protocol 2 fills it afterwards, older ones give its pairs."""
        if not isinstance(pairs, list | tuple) or not all(map(_is_pair, pairs)):
            raise Refused("holds an OrderedDict of something else than pairs")
        return OrderedDict(pairs)

    def parameter(self, data, *_):
        """A trained tensor is a tensor."""
        return data

    def size(self, values=()):
        """A shape is a tuple."""
        return tuple(values)


def _is_pair(value):
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str | int)


class _Reader:
    """Puts arrays in the place of the records, reading every storage once."""

    def __init__(self, archive, folder, order):
        self.archive, self.folder, self.order = archive, folder, order
        self.storages = {}
        self.done = {}
        self.copied = 0

    def resolved(self, value):
        # The same container may be met again, also inside itself.
        if id(value) in self.done:
            return self.done[id(value)][1]
        if isinstance(value, _Tensor):
            return self.array(value)
        if isinstance(value, dict):
            plain = {}
            self.done[id(value)] = value, plain
            plain.update((key, self.resolved(entry)) for key, entry in value.items())
            return plain
        if isinstance(value, list):
            filled = []
            self.done[id(value)] = value, filled
            filled.extend(map(self.resolved, value))
            return filled
        if type(value) is tuple:
            found = tuple(map(self.resolved, value))
            self.done[id(value)] = value, found
            return found
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise Refused(f"holds a {type(value).__name__.strip('_')} where a value is wanted")

    def array(self, tensor):
        numbers = self.storage(tensor.storage)
        count = math.prod(tensor.shape)
        pairs = list(zip(tensor.shape, tensor.stride, strict=True))
        last = tensor.offset + sum((size - 1) * step for size, step in pairs)
        if count and last >= len(numbers):
            raise Refused(
                f"is damaged: a tensor of shape {list(tensor.shape)} reaches number {last} of "
                f"storage {tensor.storage.key}, which has {len(numbers)}"
            )
        if count * numbers.itemsize > max(numbers.nbytes, _REPEATED_BYTES):
            raise Refused(
                f"a tensor of shape {list(tensor.shape)} repeats the {len(numbers)} numbers of "
                f"storage {tensor.storage.key} beyond what is read"
            )
        if not count:
            return self.empty(tensor.shape, numbers.dtype)
        self.copied += count * numbers.itemsize
        bounds.check(self.copied, 4 * bounds.size_of(self.archive.fp), "a copy of its tensors")
        # The step along an axis of one number is never taken, and may be any number.
        strides = [step * numbers.itemsize * (size > 1) for size, step in pairs]
        view = np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :], tensor.shape, strides, writeable=False
        )
        return view.copy()

    def empty(self, shape, kind):
        """An array without numbers; no axis of it may be too long for NumPy."""
        if max(shape) >= 2**31:
            raise Refused(f"holds an empty tensor of shape {list(shape)}")
        return np.zeros(shape, kind)

    def storage(self, storage):
        if storage not in self.storages:
            self.storages[storage] = self.read(storage)
        return self.storages[storage]

    def read(self, storage):
        kind, target = STORAGES[storage.kind]
        stored = np.dtype(self.order + kind)
        try:
            entry = self.archive.getinfo(f"{self.folder}data/{storage.key}")
        except KeyError:
            raise Refused(f"is damaged: storage {storage.key} is missing") from None
        if entry.file_size != storage.count * stored.itemsize:
            raise Refused(
                f"is damaged: storage {storage.key} has {entry.file_size} bytes, "
                f"{storage.count} numbers of {stored.itemsize} bytes are wanted"
            )
        numbers = np.frombuffer(self.archive.read(entry), stored)
        if storage.kind == "BFloat16Storage":
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers != 0 if target is np.bool_ else numbers.astype(target)


def _read_legacy(path):
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path}: is of a PyTorch older than 1.6; pip install 'nid_jax[torch]' to read it, or "
            "save it again with a newer one: torch.save(torch.load(FILE, 'cpu'), FILE)"
        ) from None
    _check_legacy(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: PyTorch cannot read it: {reason}") from error
    return _without_torch(found, torch, {})


def _check_legacy(path):
    """Raise ValueError where one of the pickles that a file begins with is not plain."""
    content, place = path.read_bytes(), 0
    try:
        # A magic number, the protocol, the machine, and what was saved.
        for _ in range(4):
            _, place = plain_pickle.load(
                content, lambda module, name: lambda *_: None, lambda reference: None, place
            )
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None


def _without_torch(value: Any, torch, done):
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = found = _plain(value, torch, done)
    return found


def _plain(value, torch, done):
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: _without_torch(entry, torch, done) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_torch(entry, torch, done) for entry in value)
    return value
