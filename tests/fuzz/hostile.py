"""Files made by hand to mislead: bombs, counts without rows, cycles, odd headers."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np

from tests.fuzz.formats import npy, zipped

_GIB = 2**30


def _header(shape, kind="<f8", order=False):
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"


def _declared(content: bytes, size: int) -> bytes:
    """A zip whose one member is said to unfold to `size` bytes."""
    changed = bytearray(content)
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    changed[local + 22 : local + 26] = struct.pack("<I", size)
    changed[central + 24 : central + 28] = struct.pack("<I", size)
    return bytes(changed)


@cache
def _zeros(size: int) -> bytes:
    return bytes(size)


@cache
def _bomb() -> bytes:
    """An .npz of a GiB of zeros, honest in all but its size."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(npy(_header((_GIB // 8,))))
        for _ in range(64):
            member.write(_zeros(_GIB // 64))
    return stream.getvalue()


def _overlapping() -> bytes:
    """A zip whose list has one member five thousand times."""
    member = npy(_header((2**17,)), _zeros(2**20))
    content = zipped({"x.npy": member})
    at, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[at:end]
    entries = b"".join(entry.replace(b"x.npy", bytes(f"{n:05d}", "ascii")) for n in range(5000))
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 5000, 5000, len(entries), at, 0)
    return content[:at] + entries + tail


def _encrypted() -> bytes:
    content = bytearray(zipped({"x.npy": npy(_header((2,)), bytes(16))}))
    content[content.index(b"PK\3\4") + 6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, bits=8, colour=2, before=b"", data=b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = _chunk(b"IDAT", data or zlib.compress(_zeros(2**20)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + before + pixels + _chunk(b"IEND", b"")


def _tiff(*entries, data=bytes(64), order="<") -> bytes:
    """A classic TIFF of one page: entries (tag, type, count, value), data behind them."""
    start = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(
        struct.pack(f"{order}HHII", tag, kind, count, value) for tag, kind, count, value in entries
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, len(entries))
    assert len(head + table) + 4 == start
    return head + table + bytes(4) + data


def _page(width, height, bits=8, samples=1, compression=1, strip=64, rows=0, more=()) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression)]
    entries += [(262, 3, 1, 1), (277, 3, 1, samples), (278, 4, 1, rows or height)]
    entries += [(273, 4, 1, 8 + 2 + 12 * (len(entries) + 2 + len(more)) + 4), (279, 4, 1, strip)]
    return _tiff(*sorted([*entries, *more]), data=zlib.compress(_zeros(2**20)))


def _pickled(content: bytes) -> bytes:
    return zipped({"a/data.pkl": content, "a/byteorder": b"little", "a/version": b"3\n"}, 0)


def _nested(levels: int, end: bytes = b"") -> bytes:
    """Tuples of a tuple twice, through the memo: 2^levels values in some bytes."""
    body = b"K\1\x85q\0"
    for level in range(levels):
        body += b"0h" + bytes([level % 256]) + b"h" + bytes([level % 256]) + b"\x86q"
        body += bytes([(level + 1) % 256])
    return body + end


def _tensor(shape: bytes, stride: bytes, count: int = 4) -> bytes:
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK" + bytes([count])
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQK\0" + shape + stride + b"\x89"
        b"ccollections\nOrderedDict\n)RtR"
    )


def _state(value: bytes) -> bytes:
    return b"\x80\x02}X\5\0\0\0model}X\1\0\0\0w" + value + b"ss."


def _ply(elements: str, body=b"", form="binary_little_endian") -> bytes:
    return f"ply\nformat {form} 1.0\n{elements}end_header\n".encode() + body


_XYZ = "property float x\nproperty float y\nproperty float z\n"
_NORMALS = "property float nx\nproperty float ny\nproperty float nz\n"
_LIST = "property list uchar int vertex_indices\n"


def _glb(described: dict | bytes, length: int | None = None) -> bytes:
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    text += b" " * (-len(text) % 4)
    size = len(text) if length is None else length
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), size, 0x4E4F534A) + text


def _mesh_of(accessors: list, **more) -> dict:
    primitive = {"attributes": {"POSITION": 0}, "indices": 1}
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        **more,
    }


def _points(count: int) -> list:
    return [
        {"componentType": 5126, "count": count, "type": "VEC3"},
        {"componentType": 5125, "count": count, "type": "SCALAR"},
    ]


def _idx(*sides: int, kind=8, body=bytes(64)) -> bytes:
    return bytes([0, 0, kind, len(sides)]) + struct.pack(f">{len(sides)}I", *sides) + body


def _mat(tags: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + tags


def _matrix(rows: int, columns: int, data: bytes) -> bytes:
    inner = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, rows, columns)
    inner += struct.pack("<II", 1, 1) + b"k".ljust(8, b"\0") + data
    return struct.pack("<II", 14, len(inner)) + inner


def _mat_bomb() -> bytes:
    packer = zlib.compressobj()
    count = _GIB // 8
    inner = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, count)
    inner += struct.pack("<II", 1, 1) + b"k".ljust(8, b"\0") + struct.pack("<II", 9, 8 * count)
    packed = packer.compress(struct.pack("<II", 14, len(inner) + 8 * count) + inner)
    for _ in range(64):
        packed += packer.compress(_zeros(_GIB // 64))
    packed += packer.flush()
    return _mat(struct.pack("<II", 15, len(packed)) + packed)


def _dicom(**tags) -> bytes:
    from tests.data import dicomfiles

    stream = io.BytesIO()
    dicomfiles.data_set(np.zeros((4, 4), np.uint16), **tags).save_as(
        stream, enforce_file_format=True
    )
    return stream.getvalue()


def _long_element() -> bytes:
    """The pixels' length is said to be 4 GB."""
    content = _dicom()
    at = content.rindex(b"\xe0\x7f\x10\0OW")
    return content[: at + 8] + struct.pack("<I", 0xFFFFFFF0) + content[at + 12 :]


def _deflated() -> bytes:
    content = _dicom()
    at = content.index(b"1.2.840.10008.1.2.1\0")
    meta = content[:at] + b"1.2.840.10008.1.2.1.99" + content[at + 20 : at + 20]
    # Another length of the tag, and of the group.
    length = struct.unpack("<I", content[140:144])[0]
    meta = bytearray(
        content[: 144 + length].replace(content[at : at + 20], b"1.2.840.10008.1.2.1.99")
    )
    place = bytes(meta).index(b"1.2.840.10008.1.2.1.99")
    meta[place - 2 : place] = struct.pack("<H", 22)
    meta[140:144] = struct.pack("<I", length + 2)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content[144 + length :])
    for _ in range(32):
        packed += packer.compress(_zeros(_GIB // 32))
    return bytes(meta) + packed + packer.flush()


def _webp(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    data = b"\x2f" + struct.pack("<I", bits) + bytes(32)
    chunk = b"VP8L" + struct.pack("<I", len(data)) + data + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _3mf(text: bytes) -> bytes:
    relations = b"<Relationships/>"
    return zipped({"3D/3dmodel.model": text, "_rels/.rels": relations})


_ENTITIES = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10)
)
_GIF = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0xF0, 0, 0) + bytes(6)
_GIF += b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x4c\1\0;"
_DEEP = b"[" * 100_000
_BMP = b"BM" + struct.pack(
    "<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 1, 1, 0, 0
)

Made = Callable[[], bytes]
CASES: dict[str, tuple[str, Made]] = {
    # arrays
    "npy of 1e12 numbers": ("npy", lambda: npy(_header((10**12,)))),
    "npy of 2^62 by 2^62": ("npy", lambda: npy(_header((2**62, 2**62)))),
    "npy of a negative side": ("npy", lambda: npy(_header((-4, 3)), bytes(96))),
    "npy of a text as side": ("npy", lambda: npy(_header("('a',)"))),
    "npy of objects": ("npy", lambda: npy(_header((2,), "|O"), b"\x80\x04K\1.")),
    "npy of long texts": ("npy", lambda: npy(_header((10,), "<U400000000"))),
    "npy of a deep header": ("npy", lambda: npy("(" * 9000)),
    "npy of a sum as header": ("npy", lambda: npy("+".join(["1"] * 4000))),
    "npy of version 9": ("npy", lambda: b"\x93NUMPY\x09\0" + bytes(20)),
    "npy of a header of 4 GB": ("npy", lambda: b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1)),
    "npy of no bytes of a type": ("npy", lambda: npy(_header((10**9, 10**9), "|V0"))),
    "npy of 70 axes": ("npy", lambda: npy(_header((1,) * 70), bytes(8))),
    "npy of a side of no numbers": ("npy", lambda: npy(_header((0, 10**15)))),
    "npy as video of 1e12": ("video npy", lambda: npy(_header((10**6, 10**3, 10**3), "|u1"))),
    "npz of a GiB of zeros": ("npz", _bomb),
    "npz that says a GiB": (
        "npz",
        lambda: _declared(zipped({"x.npy": npy(_header((2**27 - 16,)))}), 2**30),
    ),
    "npz of 1e12 numbers": ("npz", lambda: zipped({"x.npy": npy(_header((10**12,)))})),
    "npz of fewer than it says": ("npz", lambda: zipped({"x.npy": npy(_header((99,)), bytes(8))})),
    "npz of one member often": ("npz", _overlapping),
    "npz behind a password": ("npz", _encrypted),
    "npz of no arrays": ("npz", lambda: zipped({"a.txt": b"words"})),
    "npz without members": ("npz", lambda: zipped({})),
    "npz of an odd packing": (
        "npz",
        lambda: zipped({"x.npy": npy(_header((1,)), bytes(8))}, 0).replace(
            struct.pack("<HHH", 20, 0, 0), struct.pack("<HHH", 20, 0, 97)
        ),
    ),
    "npz packed by lzma": (
        "npz",
        lambda: zipped({"x.npy": npy(_header((2**24,)), _zeros(2**27))}, zipfile.ZIP_LZMA),
    ),
    "npz of names with paths": ("npz", lambda: zipped({"../../x.npy": npy(_header((1,)))})),
    "kspace of texts": ("kspace npz", lambda: zipped({"kspace.npy": npy(_header((1,), "<U1"))})),
    "table of 1e12 rows": ("table npz", lambda: zipped({"x.npy": npy(_header((10**12,)))})),
    "prepared shape of objects": (
        "prepared shape",
        lambda: zipped({f"{k}.npy": npy(_header((1,), "|O")) for k in ("sdf", "version")}),
    ),
    "weights of another kind": ("lpips", lambda: zipped({"network.npy": npy(_header((), "<i8"))})),
    "faces of 1e12": ("olivetti npy", lambda: npy(_header((10**8, 64, 64)))),
    "mat of 4 GB in a tag": ("mat 5", lambda: _mat(struct.pack("<II", 14, 2**32 - 1))),
    "mat of 2^31 by 2^31": (
        "mat 5",
        lambda: _mat(_matrix(2**31 - 1, 2**31 - 1, struct.pack("<II", 9, 8) + bytes(8))),
    ),
    "mat of a negative side": (
        "mat 5",
        lambda: _mat(_matrix(-5, 7, struct.pack("<II", 9, 8) + bytes(8))),
    ),
    "mat of a GiB of zeros": ("mat 5", _mat_bomb),
    "mat 4 of 2^31 rows": (
        "mat 4",
        lambda: struct.pack("<5i", 0, 2**31 - 1, 2**31 - 1, 0, 2) + b"k\0" + bytes(8),
    ),
    "text of one long number": ("measured text", lambda: b"9" * 10**6),
    "text of a NUL": ("measured text", lambda: b"1 2\0\n3 4\n"),
    "text of UTF-16": ("measured text", lambda: "1 2\n3 4\n".encode("utf-16")),
    # idx
    "idx of 4e9 cubed": ("idx", lambda: _idx(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "idx of 255 axes": ("idx", lambda: bytes([0, 0, 8, 255]) + bytes(2000)),
    "idx gz of 4e9 cubed": (
        "idx gz",
        lambda: gzip.compress(_idx(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    ),
    "idx gz of a GiB": (
        "idx gz",
        lambda: (
            gzip.compress(_idx(2**10, 2**10, 2**10, body=b""))
            + b"".join([gzip.compress(_zeros(2**26), 1)] * 16)
        ),
    ),
    "idx gz cut": ("idx gz", lambda: gzip.compress(_idx(4, 4, 4))[:20]),
    # tables
    "csv of one long word": (
        "csv",
        lambda: b"a,b\n" + b"1,x\n" * 20_000 + b"1," + b"y" * 100_000 + b"\n",
    ),
    "csv of a field without end": ("csv", lambda: b'a,b\n1,"' + b"x" * 200_000),
    "csv of UTF-16": ("csv", lambda: "a,b\n1,2\n".encode("utf-16")),
    "csv of a NUL": ("csv", lambda: b"a,b\n1,\0\n"),
    "csv of 1e5 columns": ("csv", lambda: b",".join(b"c%d" % n for n in range(10**5)) + b"\n"),
    # pictures
    "png of 2^31 by 2^31": ("png", lambda: _png(2**31 - 1, 2**31 - 1)),
    "png of 30000 by 30000": ("png", lambda: _png(30_000, 30_000)),
    "png of no columns": ("png", lambda: _png(0, 9)),
    "png of 16 bits, 40000 by 40000": ("png of 16 bits", lambda: _png(40_000, 40_000, 16)),
    "png of 9 bits": ("png", lambda: _png(3, 3, 9)),
    "png of a GiB of text": (
        "png",
        lambda: _png(3, 3, before=_chunk(b"zTXt", b"a\0\0" + zlib.compress(_zeros(2**28), 1))),
    ),
    "png of a profile that unfolds": (
        "png",
        lambda: _png(3, 3, before=_chunk(b"iCCP", b"a\0\0" + zlib.compress(_zeros(2**28), 1))),
    ),
    "apng of 4e9 frames": (
        "apng",
        lambda: _png(3, 3, before=_chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))),
    ),
    "gif of 65535 squared": ("gif", lambda: _GIF),
    "animated gif of 65535 squared": ("animated gif", lambda: _GIF),
    "bmp of 2^30 squared": ("bmp", lambda: _BMP),
    "webp of 16384 squared": ("webp", lambda: _webp(16384, 16384)),
    "tga of 65535 squared": (
        "tga",
        lambda: struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 32, 8),
    ),
    "qoi of 2^31 squared": ("qoi", lambda: b"qoif" + struct.pack(">IIBB", 2**31, 2**31, 3, 0)),
    "pgm of 10^4000 rows": ("pgm", lambda: b"P5\n1 1" + b"0" * 4000 + b"\n4095\n"),
    "pgm of 12000 squared": ("pgm", lambda: b"P5\n12000 12000\n4095\n"),
    "ppm as text of 13000 squared": ("ppm as text", lambda: b"P3\n13000 13000\n99\n1 2 3"),
    "pfm of a negative side": ("pfm", lambda: b"Pf\n-3 4\n-1\n" + bytes(48)),
    "pfm of NaN": ("pfm", lambda: b"Pf\n3 4\nnan\n" + bytes(48)),
    "tiff of 2^31 by 1": ("tiff", lambda: _page(2**31, 1)),
    "tiff of 13000 squared, 64 bits": ("tiff", lambda: _page(13_000, 13_000, 64, compression=8)),
    "tiff of 65535 samples": ("tiff", lambda: _page(9000, 9000, 8, 65535)),
    "tiff of a strip of 4 GB": ("tiff", lambda: _page(9, 9, strip=2**32 - 1)),
    "tiff of a tile of 2^31": (
        "tiff of tiles",
        lambda: _page(9, 9, compression=8, more=((322, 4, 1, 2**31), (323, 4, 1, 2**30))),
    ),
    "tiff whose pages go round": (
        "tiff",
        lambda: (c := _page(3, 3))[:-4] and c[:118] + struct.pack("<I", 8) + c[122:],
    ),
    "tiff stack of 10^9 pages": (
        "tiff stack",
        lambda: _tiff(
            *((256, 4, 1, 30), (257, 4, 1, 30), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
            *((270, 2, 64, 134), (273, 4, 1, 134), (277, 3, 1, 1), (278, 4, 1, 30)),
            (279, 4, 1, 900),
            data=b"ImageJ=1.54\nimages=1000000000\nframes=1000000000\n".ljust(2000, b"\0"),
        ),
    ),
    "measured tiff of 60000 squared": ("measured tiff", lambda: _page(60_000, 60_000, 32)),
    # scanners
    "dicom of 65535 squared": ("dicom", lambda: _dicom(Rows=65535, Columns=65535)),
    "dicom of 2^31 frames": ("dicom", lambda: _dicom(NumberOfFrames=2**31 - 1)),
    "dicom of 4 GB in a tag": ("dicom", _long_element),
    "dicom that unfolds": ("dicom", _deflated),
    "dicom of no syntax": (
        "dicom",
        lambda: _dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
    ),
    "dicom without rows": ("dicom", lambda: _dicom(Rows=None)),
    # shapes
    "ply of 10^12 points": (
        "cloud ply",
        lambda: _ply(f"element vertex {10**12}\n{_XYZ}{_NORMALS}"),
    ),
    "ply of 10^18 faces": (
        "ply mesh",
        lambda: _ply(f"element vertex 1\n{_XYZ}element face {10**18}\n{_LIST}", bytes(64)),
    ),
    "ply of rows without anything": ("ply mesh", lambda: _ply("element vertex 99999999999\n")),
    "ply of a list of 4e9": (
        "ply mesh",
        lambda: _ply(
            f"element vertex 1\n{_XYZ}element face 1\nproperty list uint int vertex_indices\n",
            bytes(12) + b"\xff\xff\xff\xff" + bytes(16),
        ),
    ),
    "ply as text of 10^10": (
        "cloud ply as text",
        lambda: _ply(f"element vertex {10**10}\n{_XYZ}{_NORMALS}", b"1 2 3 4 5 6\n", "ascii"),
    ),
    "stl of 4e9 faces": ("stl", lambda: bytes(80) + struct.pack("<I", 2**32 - 1) + bytes(50)),
    "off of 10^12 points": ("off", lambda: b"OFF\n1000000000000 1 0\n0 0 0\n"),
    "off of a face of 10^9": ("off", lambda: b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n1000000000 1 2\n"),
    "obj of a face of 0": ("obj", lambda: b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n"),
    "glb of zeros without bytes": ("glb", lambda: _glb(_mesh_of(_points(10**10)))),
    "glb of 4 GB of JSON": ("glb", lambda: _glb({}, 2**32 - 1)),
    "glb of deep JSON": ("glb", lambda: _glb(_DEEP)),
    "gltf of another's file": (
        "gltf",
        lambda: json.dumps(
            _mesh_of(_points(3), buffers=[{"uri": "../../../../etc/passwd", "byteLength": 9}])
        ).encode(),
    ),
    "3mf that unfolds": ("3mf", lambda: _3mf(b"<model>" + b" " * 2**29)),
    "3mf of entities": ("3mf", lambda: _3mf(_ENTITIES + b"]><model>&a9;</model>")),
    "dae of entities": ("dae", lambda: _ENTITIES + b"]><COLLADA>&a9;</COLLADA>"),
    "dae that unfolds": ("dae", lambda: zipped({"a.dae": _zeros(2**29)})),
    # JSON and lists
    "split of deep JSON": ("split", lambda: _DEEP),
    "split of a long number": ("split", lambda: b"9" * 10_000),
    "split of numbers": ("split", lambda: b'{"train": 5, "test": [1, null]}'),
    "metrics of deep JSON": ("metrics.jsonl", lambda: _DEEP + b"\n{}\n"),
    "list that leaves its folder": ("celeba", lambda: b"../../../etc/passwd 0\n"),
    "list of an absolute path": ("celeba", lambda: b"/etc/passwd 0\n"),
    # checkpoints of others
    "checkpoint of nested tuples": (
        "torch checkpoint",
        lambda: _pickled(b"\x80\x02" + _nested(60, b".")),
    ),
    "checkpoint of a key of tuples": (
        "torch checkpoint",
        lambda: _pickled(b"\x80\x02" + _nested(60, b"}h\x3cNs.")),
    ),
    "checkpoint of an epoch of tuples": (
        "torch checkpoint",
        lambda: _pickled(
            b"\x80\x02" + _nested(60) + b"0}X\5\0\0\0model}sX\r\0\0\0current_epochh\x3cs."
        ),
    ),
    "checkpoint of lists in themselves": (
        "torch checkpoint",
        lambda: _pickled(b"\x80\x02]q\0" + b"h\0a" * 1000 + b"."),
    ),
    "checkpoint of 10^7 steps": (
        "torch checkpoint",
        lambda: _pickled(b"\x80\x02]" + b"Na" * 10**7 + b"."),
    ),
    "checkpoint of a deep list": (
        "torch checkpoint",
        lambda: _pickled(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    ),
    "checkpoint of a long number": (
        "torch checkpoint",
        lambda: _pickled(b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\1" * 10**6 + b"."),
    ),
    "checkpoint that calls": ("torch checkpoint", lambda: _pickled(b"cos\nsystem\n(X\1\0\0\0ltR.")),
    "checkpoint of a view of 10^9": (
        "torch checkpoint",
        lambda: zipped(
            {
                "a/data.pkl": _state(_tensor(b"J\0\xca\x9a;\x85", b"K\0\x85")),
                "a/data/0": bytes(16),
            },
            0,
        ),
    ),
    "checkpoint of many views": (
        "torch checkpoint",
        lambda: zipped(
            {
                "a/data.pkl": b"\x80\x02](" + _tensor(b"J\0\0\xff\0\x85", b"K\0\x85") * 200 + b"e.",
                "a/data/0": bytes(16),
            },
            0,
        ),
    ),
    "checkpoint that unfolds": (
        "torch checkpoint",
        lambda: zipped({"a/data.pkl": b"\x80\x02" + b"N0" * 2**27 + b"N."}),
    ),
    "official config of a long number": ("official config", lambda: b"num_layers = " + b"9" * 9999),
}
"""What it is -> (the format that it is said to be, its bytes)."""
