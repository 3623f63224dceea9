"""A small writer of TIFF files in every layout, by the TIFF 6.0 specification alone."""

import struct
import zlib

import numpy as np

# Stored pixels -> upright ones, by the tables of TIFF 6.0 and EXIF 2.3.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, -1)[::-1],
    8: lambda a: np.rot90(a, 1),
}


def lzw(content):
    """LZW as TIFF has it, without ever using its table: codes of 9 bits, cleared in time."""
    codes = [256]
    for at, byte in enumerate(content):
        codes += [256] if at and at % 250 == 0 else []
        codes.append(byte)
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def packbits(content):
    """Runs of literal bytes."""
    parts = [content[at : at + 128] for at in range(0, len(content), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


CODECS = {1: bytes, 5: lzw, 8: zlib.compress, 32773: packbits}


def _row_bytes(values, bits, order, predictor):
    """Bytes of rows [rows, columns, samples]."""
    if bits not in (8, 16, 32, 64):
        flags = (values.astype(int)[..., None] >> np.arange(bits)[::-1]) & 1
        return np.packbits(flags.reshape(len(values), -1).astype(bool), axis=1).tobytes()
    if predictor == 2:
        values = np.diff(values, axis=1, prepend=np.zeros_like(values[:, :1]))
    if predictor == 3:
        rows, columns, samples = values.shape
        size = values.dtype.itemsize
        planes = values.astype(values.dtype.newbyteorder(">")).view(np.uint8)
        planes = planes.reshape(rows, columns * samples, size).transpose(0, 2, 1)
        planes = planes.reshape(rows, -1, samples)
        return np.diff(planes, axis=1, prepend=np.zeros_like(planes[:, :1])).tobytes()
    return values.astype(values.dtype.newbyteorder(order)).tobytes()


def write_tiff(path, values, photometric, options=None, tags=None):
    """Write samples [H, W, S] as stored; options: order '<' or '>', bits, compression, predictor,
    planar, rows (of a strip), tile (rows, columns), big, before: pages [(values, subfile type)].
    tags: {number: (type, values)} more.
    """
    options = {
        "order": "<",
        "bits": 8 * values.dtype.itemsize,
        "compression": 1,
        "predictor": 1,
        "planar": False,
        "rows": 5,
        "tile": None,
        "big": False,
        "before": (),
        "subfile": 0,
        **(options or {}),
    }
    order, big = options["order"], options["big"]
    out = bytearray({"<": b"II", ">": b"MM"}[order])
    out += struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8)))
    pages = [*options["before"], (values, options["subfile"])]
    link = len(out) - (8 if big else 4)
    for page, subfile in pages:
        link = _page(out, page, photometric, {**options, "subfile": subfile}, tags or {}, link)
    path.write_bytes(out)


def _page(out, values, photometric, options, tags, link):
    """Append strips or tiles and their table; returns where the next table's place belongs."""
    rows, columns, samples = values.shape
    order, big = options["order"], options["big"]
    planes = [values[..., at : at + 1] for at in range(samples)] if options["planar"] else [values]
    offsets, counts = [], []
    for part in (part for plane in planes for part in _segments(plane, options)):
        content = _row_bytes(part, options["bits"], order, options["predictor"])
        content = CODECS[options["compression"]](content)
        offsets.append(len(out))
        counts.append(len(content))
        out += content + b"\0" * (len(content) % 2)
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    if options["tile"]:
        places = {322: (4, [options["tile"][1]]), 323: (4, [options["tile"][0]])}
        places |= {324: (4, offsets), 325: (4, counts)}
    else:
        places = {273: (4, offsets), 278: (4, [options["rows"]]), 279: (4, counts)}
    entries = {
        254: (4, [options["subfile"]]),
        256: (4, [columns]),
        257: (4, [rows]),
        258: (3, [options["bits"]] * samples),
        259: (3, [options["compression"]]),
        262: (3, [photometric]),
        277: (3, [samples]),
        284: (3, [1 + options["planar"]]),
        317: (3, [options["predictor"]]),
        339: (3, [kind] * samples),
        **places,
        **tags,
    }
    count, place, inline = ("Q", "Q", 8) if big else ("H", "I", 4)
    table = bytearray()
    for number, (type_, contents) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(contents)}{'?BsHI'[type_]}", *contents)
        if len(content) > inline:
            table += struct.pack(f"{order}HH{place}{place}", number, type_, len(contents), len(out))
            out += content + b"\0" * (len(content) % 2)
        else:
            table += struct.pack(f"{order}HH{place}", number, type_, len(contents))
            table += content.ljust(inline, b"\0")
    struct.pack_into(order + place, out, link, len(out))
    out += struct.pack(order + count, len(entries)) + table
    out += bytes(inline)
    return len(out) - inline


def _segments(plane, options):
    if not options["tile"]:
        yield from (
            plane[at : at + options["rows"]] for at in range(0, len(plane), options["rows"])
        )
        return
    tall, wide = options["tile"]
    for row in range(0, plane.shape[0], tall):
        for column in range(0, plane.shape[1], wide):
            part = plane[row : row + tall, column : column + wide]
            yield np.pad(part, ((0, tall - part.shape[0]), (0, wide - part.shape[1]), (0, 0)))
