"""A writer of torch.save's format without PyTorch: any file, good or bad."""

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

KINDS = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}


class Call:
    """module.name(*arguments), as a pickle says it."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class View:
    """A tensor of any shape and stride over a storage."""

    def __init__(self, numbers, shape, stride, offset=0, kind=None, count=None):
        self.numbers, self.shape, self.stride, self.offset = numbers, shape, stride, offset
        self.kind, self.count = kind or KINDS[numbers.dtype.str[1:]], count


def pickled(value, storages):
    """Protocol 2, opcode by opcode; storages [(array)] takes the numbers of every tensor."""
    if isinstance(value, np.ndarray):
        strides = [step // value.itemsize for step in np.empty(value.shape, value.dtype).strides]
        return pickled(View(value.ravel(), value.shape, tuple(strides)), storages)
    if isinstance(value, View):
        key = str(len(storages))
        storages.append(value.numbers)
        count = value.numbers.size if value.count is None else value.count
        reference = b"(" + pickled("storage", storages) + b"ctorch\n" + value.kind.encode() + b"\n"
        reference += b"".join(pickled(part, storages) for part in (key, "cpu", count)) + b"tQ"
        rest = (value.offset, tuple(value.shape), tuple(value.stride), False, OrderedDict())
        return (
            b"ctorch._utils\n_rebuild_tensor_v2\n("
            + reference
            + b"".join(pickled(part, storages) for part in rest)
            + b"tR"
        )
    if isinstance(value, Call):
        start = f"c{value.module}\n{value.name}\n".encode()
        return start + pickled(tuple(value.arguments), storages) + b"R"
    if isinstance(value, OrderedDict):
        return b"ccollections\nOrderedDict\n)R" + _items(value, storages)
    if isinstance(value, dict):
        return b"}" + _items(value, storages)
    if isinstance(value, list):
        return b"](" + b"".join(pickled(entry, storages) for entry in value) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(pickled(entry, storages) for entry in value) + b"t"
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    text = value.encode()
    return b"X" + struct.pack("<I", len(text)) + text


def _items(value, storages):
    pairs = [pickled(part, storages) for pair in value.items() for part in pair]
    return b"(" + b"".join(pairs) + b"u"


def write(path, value, order="little", raw=None, skip=(), folder="archive"):
    """Write `value` as torch.save would. raw: another data.pkl; skip: entries left out."""
    storages = []
    data = b"\x80\x02" + pickled(value, storages) + b"."
    entries = {"data.pkl": data if raw is None else raw, "byteorder": order.encode()}
    for key, numbers in enumerate(storages):
        stored = numbers.astype(numbers.dtype.newbyteorder("<" if order == "little" else ">"))
        entries[f"data/{key}"] = stored.tobytes()
    entries["version"] = b"3\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if name not in skip:
                archive.writestr(f"{folder}/{name}", content)
    return Path(path)
