"""TIFF files of any depth and layout, whole or a window of them.

tifffile reads the tags. Strips and tiles are decompressed by the library that Pillow brings, which
as a whole reads 8 bits only of most kinds; other compressions are Pillow's or imagecodecs's own.
Letters: H rows, W columns, S samples of a pixel.
"""

import importlib.util
import io
import itertools
import math
import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from jaxtyping import Num
from PIL import Image, ImageOps

from nid_jax import bounds
from nid_jax.data.images import Pixels, from_pillow


class Unsupported(Exception):
    """A file that is whole but of a kind that is not read; says which."""


class TooLarge(ValueError):
    """A picture of more pixels than are decoded at once."""


class Header(NamedTuple):
    """What is known of a picture file before its pixels are decoded."""

    rows: int
    columns: int
    channels: int
    """1 or 3."""
    kind: str = "uint8"
    """The numpy type of its values."""
    alpha: bool = False
    full: bool = False
    """The file itself says what is white."""
    pages: int = 1
    """Pages or frames like the one that is read."""
    notes: tuple[str, ...] = ()
    """What else of the file is not read, or was assumed, each in some words."""
    parts: str = ""
    """What can be had without decoding all: 'windows' of it, it 'reduced', or ''."""


# What samples mean: photometric interpretations and extra samples.
_GRAY, _RGB, _PALETTE, _INKS, _LAB = (0, 1), 2, 3, 5, 8
_ASSOCIATED, _STRAIGHT = 1, 2
_UNCOMPRESSED = 1
# Compressions of bytes that Pillow's library has: LZW, deflate, PackBits, LZMA, Zstandard.
_LIBTIFF = (5, 8, 32946, 32773, 34925, 50000)
_PACKBITS = 32773
_PREDICTED = tuple(kind for kind in _LIBTIFF if kind != _PACKBITS)

# Orientation -> whether rows and columns change places, then whether rows, columns are reversed.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is a TIFF or BigTIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def oriented(values: Num[np.ndarray, "H W S"], orientation: int) -> Num[np.ndarray, "h w S"]:
    """Stored pixels upright, by the orientation 1 to 8 of TIFF and EXIF; others count as 1."""
    swapped, rows, columns = _TURNS.get(orientation, _TURNS[1])
    values = np.swapaxes(values, 0, 1) if swapped else values
    return values[:: -1 if rows else 1, :: -1 if columns else 1]


def read_header(stream: BinaryIO) -> Header:
    """The header of the page that is read: the first of full resolution."""
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page, count = _main_page(file)
        layout = _layout(page)
        rows, columns = page.imagelength, page.imagewidth
        if _TURNS.get(orientation(page), _TURNS[1])[0]:
            rows, columns = columns, rows
        kind = "uint8" if page.bitspersample < 8 else np.dtype(page.dtype or "uint8").name
        tall, wide = _segment_size(page)
        windows = _by_segments(page) and (page.compression == _UNCOMPRESSED or tall * wide < 2**26)
        return Header(
            rows,
            columns,
            1 if layout.colours == 1 and page.photometric != _PALETTE else 3,
            "uint16" if page.photometric == _PALETTE else kind,
            alpha=layout.alpha is not None,
            full=bool(_full(page)),
            pages=count,
            notes=layout.notes,
            parts="windows" if windows else "",
        )


def read_pixels(
    stream: BinaryIO, window: tuple[int, int, int, int] | None = None, most: float = math.inf
) -> Pixels:
    """The pixels of the page that is read, upright.

    window: (row, column, rows, columns) of the upright picture; None: all of it; most: pixels that
    may be decoded. Raises Unsupported, TooLarge, and what tifffile and Pillow raise for damaged
    files.
    """
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page, _ = _main_page(file)
        if window is None and page.imagelength * page.imagewidth > most:
            raise TooLarge
        return page_pixels(stream, page, window)


def page_pixels(
    stream: BinaryIO,
    page: Any,
    window: tuple[int, int, int, int] | None = None,
    usual: int = 1,
) -> Pixels:
    """The pixels of a tifffile.TiffPage of an open file, or a window of them, upright.

    window: as in `read_pixels`; usual: the orientation of a page that says none. Raises what
    `read_pixels` does.
    """
    _check_size(page, window)
    if not _by_segments(page):
        if window is not None:
            raise Unsupported("is compressed so that no parts of it can be read")
        return _whole(stream, page, usual)
    turn = orientation(page, usual)
    values = _samples(page, _stored_window(page, window, turn))
    return _interpreted(page, oriented(values, turn))


def interpreted(page: Any, values: Num[np.ndarray, "..."], usual: int = 1) -> Pixels:
    """Stored values of a page, in the order of its axes, as pixels, upright as `page_pixels`."""
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = values if values.ndim == 3 else values[..., None]
    return _interpreted(page, oriented(values, orientation(page, usual)))


def stored(page: Any) -> Num[np.ndarray, "..."]:
    """The values of a page as they are stored, in the order of its axes.

    Raises Unsupported, and what tifffile and Pillow raise for damaged files.
    """
    _check_size(page)
    if not _by_segments(page):
        return _decoded_by_tifffile(page)
    values = _samples(page, _stored_window(page, None, 1))
    values = np.moveaxis(values, -1, 0) if page.axes == "SYX" else values
    return values.reshape(page.shape)


def notes(page: Any) -> tuple[str, ...]:
    """What of a page is not read, or was assumed, each in some words."""
    return _layout(page).notes


# ---- pages and what their samples mean --------------------------------------------------------


def _main_page(file):
    """(the first page of full resolution, how many pages of its size look like a stack)."""
    first = file.pages[0]
    candidates = itertools.chain(
        [first], first.pages or () if first.subifds else (), (file.pages[i] for i in _after(file))
    )
    page = first
    if _secondary(first):
        page = next((other for other in candidates if not _secondary(other)), first)
    count = 1
    if page is first and len(file.pages) > 1:
        second = file.pages[1]
        alike = (second.imagelength, second.imagewidth) == (page.imagelength, page.imagewidth)
        count = len(file.pages) if alike and not _secondary(second) else 1
    if file.is_imagej:  # one page stands for all that follow it
        count = max(count, int((file.imagej_metadata or {}).get("images", 1)))
    return page, count


def _after(file):
    return range(1, len(file.pages))


def _secondary(page):
    """Whether a page is a preview of another, or a mask of it."""
    return bool(int(page.subfiletype or 0) & 5)


def orientation(page: Any, usual: int = 1) -> int:
    """The orientation 1 to 8 of a page, `usual` where it says none."""
    tag = page.tags.get(274)
    return usual if tag is None else int(tag.value)


class _Layout(NamedTuple):
    """Which samples of a pixel are what: colours come first; alpha is the place of one sample."""

    colours: int
    alpha: int | None
    premultiplied: bool
    notes: tuple[str, ...]


def _layout(page):
    samples, kind = page.samplesperpixel, int(page.photometric)
    extra = [int(tag) for tag in page.extrasamples or ()]
    notes = ()
    colours = 1 if kind in (*_GRAY, _PALETTE) else 4 if kind == _INKS else 3
    opaque = not {_ASSOCIATED, _STRAIGHT} & set(extra)
    if kind in _GRAY and samples in (3, 4) and (opaque or len(extra) == samples - 3):
        # Written by programs that were not told what the samples are.
        notes = (
            f"{samples} samples of a pixel that are said to be gray; taken as red, green, blue",
        )
        colours, extra = 3, extra[2:] if len(extra) == samples - 1 else extra
    if samples < colours:
        raise Unsupported(f"has {samples} samples of a pixel as {_meaning(kind)}")
    if not extra and kind == _RGB and samples == 4:
        extra = [_STRAIGHT]
    alphas = [at for at, tag in enumerate(extra) if tag in (_ASSOCIATED, _STRAIGHT)]
    alpha = colours + alphas[0] if alphas else None
    left = samples - colours - (alpha is not None)
    if left:
        notes += (f"{samples} samples of a pixel, of which the last {left} are not read",)
    return _Layout(colours, alpha, bool(alphas) and extra[alphas[0]] == _ASSOCIATED, notes)


def _meaning(photometric):
    names = {0: "gray", 1: "gray", 2: "red, green, blue", 3: "a palette", 5: "inks"}
    return names.get(photometric, f"photometric interpretation {photometric}")


def _full(page):
    """(0, white) where the bits of a sample say it and the numpy type does not."""
    bits = page.bitspersample
    unsigned = page.dtype is not None and np.dtype(page.dtype).kind in "ub"
    return (0.0, 2.0**bits - 1) if unsigned and bits not in (8, 16, 32, 64) else ()


def _interpreted(page, values):
    """Samples [H, W, S] as Pixels."""
    layout, kind = _layout(page), int(page.photometric)
    full = _full(page)
    alpha = None if layout.alpha is None else values[..., layout.alpha]
    if kind == _PALETTE:
        table = np.asarray(page.tags[320].value, np.uint16).reshape(3, -1)
        # Some programs write 8 bits where the format has 16, or in the upper half alone.
        white = 255.0 if table.max() <= 255 else 65280.0 if not (table % 256).any() else 65535.0
        colours = np.moveaxis(table[:, values[..., 0].astype(int)], 0, -1)
        return Pixels(colours, alpha, full=(0.0, white))
    if alpha is not None and full:
        alpha = alpha.astype(np.float32) / np.float32(full[1])
    return Pixels(
        values[..., : layout.colours],
        alpha,
        layout.premultiplied,
        full,
        inverted=kind == 0,
        ink=kind == _INKS,
    )


# ---- strips and tiles -------------------------------------------------------------------------


def _by_segments(page):
    """Whether the page is decoded here, a strip or tile at a time."""
    if page.dtype is None or page.imagedepth > 1:
        what = "a volume" if page.imagedepth > 1 else f"samples of {page.bitspersample} bits"
        raise Unsupported(f"holds {what}: not read; allowed: one picture, alike samples")
    meant = int(page.photometric) in (*_GRAY, _RGB, _PALETTE, _INKS)
    packed = page.fillorder == 1 or page.compression == _UNCOMPRESSED
    return meant and packed and page.compression in (_UNCOMPRESSED, *_LIBTIFF)


def check_memory(wanted: int, there: int, what: str) -> None:
    """`bounds.check`, whose line says of a file that it is whole but not read."""
    try:
        bounds.check(wanted, there, what)
    except ValueError as error:
        raise Unsupported(str(error)) from error


def _check_size(page, window=None):
    """Raise ValueError where a page, or a window of it, takes more memory than is allowed."""
    rows, columns = (window or (0, 0, page.imagelength, page.imagewidth))[2:]
    sample = np.dtype(page.dtype or "uint8").itemsize
    packed = page.compression != _UNCOMPRESSED
    there = 0 if packed else bounds.size_of(page.parent.filehandle)
    # Of fewer than 8 bits there are as many samples to a byte.
    bits = max(1, int(page.bitspersample or 1))
    there = there * 8 * sample // bits
    pixels = int(rows) * int(columns) * int(page.samplesperpixel)
    if pixels < 1:
        raise Unsupported(f"is damaged: a page of {rows}x{columns} pixels")
    check_memory(pixels * sample, there, f"a page of {rows}x{columns} pixels")
    tall, wide = _segment_size(page)
    if packed:
        line = int(wide) * int(page.samplesperpixel) * max(8, bits) // 8
        check_memory(int(tall) * line, 0, f"a strip or tile of {tall}x{wide} pixels")


def _segment_size(page):
    """(rows, columns) of a strip or tile."""
    if page.is_tiled:
        if min(page.tilelength, page.tilewidth) < 1:
            raise Unsupported(f"is damaged: tiles of {page.tilelength}x{page.tilewidth} pixels")
        return page.tilelength, page.tilewidth
    rows = max(1, min(page.rowsperstrip or page.imagelength, page.imagelength))
    return rows, max(1, page.imagewidth)


def _stored_window(page, window, turn):
    """A window of the upright picture as (row, column, rows, columns) of the stored one."""
    if window is None:
        return 0, 0, page.imagelength, page.imagewidth
    top, left, height, width = window
    swapped, rows, columns = _TURNS.get(turn, _TURNS[1])
    tall, wide = page.imagelength, page.imagewidth
    if swapped:
        tall, wide = wide, tall
    top = tall - top - height if rows else top
    left = wide - left - width if columns else left
    return (left, top, width, height) if swapped else (top, left, height, width)


def _samples(page, window):
    """Samples [height, width, S] of a window of the stored page, of which no more is decoded."""
    top, left, height, width = window
    tall, wide = _segment_size(page)
    down, across = -(-page.imagelength // tall), -(-page.imagewidth // wide)
    separate = page.planarconfig == 2 and page.samplesperpixel > 1
    values = np.zeros((height, width, page.samplesperpixel), page.dtype)
    places = itertools.product(
        range(page.samplesperpixel if separate else 1),
        range(top // tall, -(-(top + height) // tall)),
        range(left // wide, -(-(left + width) // wide)),
    )
    for plane, row, column in places:
        # The part of this segment that lies in the window.
        above, below = max(top, row * tall), min(top + height, (row + 1) * tall)
        before, behind = max(left, column * wide), min(left + width, (column + 1) * wide)
        index = (plane * down + row) * across + column
        rows = slice(above - row * tall, below - row * tall)
        last = min(tall, page.imagelength - row * tall)
        part = _segment(page, index, rows, tall if page.is_tiled else last)
        if part is not None:
            part = part[:, before - column * wide : behind - column * wide]
            samples = slice(plane, plane + 1) if separate else slice(None)
            values[above - top : below - top, before - left : behind - left, samples] = part
    return values


def _segment(page, index, rows, tall):
    """Some rows of a strip or tile of `tall` rows, [rows, columns, samples]; None for an empty one.

    Files of which parts were never written have empty ones.
    """
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if not count:
        return None
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    wide = _segment_size(page)[1]
    line = -(-wide * samples * page.bitspersample // 8)
    file = page.parent.filehandle
    if page.compression == _UNCOMPRESSED:
        # Of a strip that may be all of a large picture, only those rows.
        offset, count = offset + rows.start * line, (rows.stop - rows.start) * line
    file.seek(offset)
    # Not more than there is, or room would be made for it.
    content = file.read(min(count, max(0, bounds.size_of(file) - offset)))
    if len(content) < count:
        raise EOFError(f"{len(content)} of {count} bytes of strip or tile {index}")
    if page.compression == _UNCOMPRESSED:
        return _decoded(page, content, line, samples)
    content = _decompressed(content, int(page.compression), line, tall)
    return _decoded(page, content, line, samples)[rows]


def _decoded(page, content, line, samples):
    """Bytes of whole rows, `line` each, as values [rows, columns, samples] of the page's type."""
    kind, bits = np.dtype(page.dtype), page.bitspersample
    lines = np.frombuffer(content, np.uint8).reshape(-1, line)
    if page.fillorder == 2:  # the lowest bit of every byte first
        lines = np.packbits(np.unpackbits(lines, axis=1, bitorder="little"), axis=1)
    wide = _segment_size(page)[1]
    if bits != 8 * kind.itemsize:
        # Packed without gaps but at the end of a row, the highest bit first.
        packed = np.unpackbits(lines, axis=1)
        packed = packed[:, : wide * samples * bits].reshape(len(lines), wide, samples, bits)
        return (packed @ (1 << np.arange(bits)[::-1])).astype(kind)
    # Left over in files of other compressions, where it means nothing.
    predictor = int(page.predictor or 1) if page.compression in _PREDICTED else 1
    if predictor == 3:  # differences of bytes, the high ones of a row first
        lines = np.cumsum(lines.reshape(len(lines), -1, samples), axis=1, dtype=np.uint8)
        planes = lines.reshape(len(lines), kind.itemsize, wide * samples).transpose(0, 2, 1)
        values = np.ascontiguousarray(planes).view(kind.newbyteorder(">"))
        return values.reshape(-1, wide, samples).astype(kind)
    values = lines.view(kind.newbyteorder(page.parent.byteorder)).astype(kind)
    values = values.reshape(-1, wide, samples)
    return np.cumsum(values, axis=1, dtype=kind) if predictor == 2 else values


def _decompressed(content, compression, line, rows):
    """The bytes of a compressed strip or tile of `rows` rows, `line` bytes each.

    As the one strip of a gray picture of 8 bits they are Pillow's to decompress, whatever they
    hold.
    """
    entries = [(256, line), (257, rows), (258, 8), (259, compression), (262, 1), (273, 0)]
    entries += [(277, 1), (278, rows), (279, len(content))]
    start = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(
        struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    return Image.open(io.BytesIO(head + content)).tobytes()


# ---- what is not decoded by strips and tiles --------------------------------------------------


def _whole(stream, page, usual):
    """A page of another compression or kind of colour: as Pillow reads it, or imagecodecs does."""
    in_chain = isinstance(page.index, int)
    if page.bitspersample <= 8 and in_chain and int(page.photometric) != _LAB:
        stream.seek(0)
        picture = Image.open(stream)
        picture.seek(page.index)
        picture.load()
        pixels = from_pillow(ImageOps.exif_transpose(picture))
        if 274 in page.tags:
            return pixels
        alpha = None if pixels.alpha is None else oriented(pixels.alpha[..., None], usual)[..., 0]
        return pixels._replace(colours=oriented(pixels.colours, usual), alpha=alpha)
    if int(page.photometric) not in (*_GRAY, _RGB, _PALETTE, _INKS):
        raise Unsupported(f"holds {_meaning(int(page.photometric))}; allowed: gray, RGB, CMYK")
    return interpreted(page, _decoded_by_tifffile(page), usual)


def _decoded_by_tifffile(page):
    """Values of a page that tifffile decodes, by imagecodecs where it is compressed."""
    if page.compression != _UNCOMPRESSED and importlib.util.find_spec("imagecodecs") is None:
        name = getattr(page.compression, "name", page.compression)
        raise Unsupported(
            f"is compressed by {name}, which needs imagecodecs: pip install 'nid_jax[pictures]'"
        )
    return page.asarray()
