"""Picture files: what their headers say, their pixels, and parts of pictures too large to decode.

Letters: H rows, W columns, C channels. TIFF files are read by nid_jax.data.tiff, all others by
Pillow, which drops the low byte of 16-bit colour: PNG, and PGM and PPM by nid_jax.data.netpbm, keep
it here.
"""

import contextlib
import importlib.util
import io
import itertools
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps, features

from nid_jax import errors
from nid_jax.data import images, netpbm, tiff
from nid_jax.data.images import Pixels
from nid_jax.data.tiff import Header, TooLarge

_HEIF = (".heic", ".heif", ".hif")
_JPEG2000 = (".j2k", ".jp2", ".jpf", ".jpx")
_ALWAYS = (
    *(".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pfm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff"),
)
# What reading a kind needs -> its extensions, and whether that is here.
_OPTIONAL = {
    "pillow-heif: pip install 'nid_jax[pictures]'": (
        _HEIF,
        importlib.util.find_spec("pillow_heif") is not None,
    ),
    "Pillow 11.3 with AVIF": ((".avif", ".avifs"), "avif" in features.get_supported_modules()),
    "Pillow with OpenJPEG": (_JPEG2000, bool(features.check("jpg_2000"))),
    "Pillow with WebP": ((".webp",), bool(features.check("webp"))),
}
EXTENSIONS = tuple(
    sorted([*_ALWAYS, *(name for names, here in _OPTIONAL.values() if here for name in names)])
)
"""Of the picture files that are read here, in lower case."""
NEEDS = {name: what for what, (names, here) in _OPTIONAL.items() if not here for name in names}
"""Extension of a kind that cannot be read here -> what reading it needs."""


_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_KINDS = {"1": "bool", "I": "int32", "F": "float32"}
_ORIENTATION = ExifTags.Base.Orientation


class PictureFile(NamedTuple):
    """A picture file of a collection."""

    path: Path
    name: str
    value_range: tuple[float, float] | tuple[()] = ()
    """What is black and what is white in it, as in `images.to_unit`."""
    size: tuple[int, int] = (0, 0)
    """(rows, columns), where its header was read."""


def read_header(path: str | Path) -> Header:
    """Size, channels (1 or 3) and kind of a picture file without decoding its pixels.

    Of any size. Raises FileNotFoundError, and ValueError naming a file that is no picture.
    """
    with _opened(path) as (stream, start):
        if tiff.is_tiff(start):
            return tiff.read_header(stream)
        if known := netpbm.read_header(stream):
            kind = np.dtype(known.kind).name
            return Header(*(known.rows, known.columns, known.channels, kind), full=kind[0] == "u")
        return _pillow_header(_pillow_open(stream), stream)


def read_image(
    path: str | Path,
    value_range: tuple[float, float] | tuple[()] = (),
    at_least: tuple[int, int] | None = None,
    title: str = "",
) -> Float[np.ndarray, "H W C"]:
    """A picture file as float32 [H, W, C], C = 1 (gray) or 3 (colour), values in [0, 1].

    All bits are kept; transparency is composited on white; the orientation is applied; of several
    frames or pages the first whole one is read. value_range: as in `images.to_unit`. at_least: a
    size (rows, columns) that the picture will be brought to: one too large to decode may then
    come reduced, not below it. title: what notices name instead of the file.
    Raises FileNotFoundError, and ValueError naming the file if it is truncated or damaged, too
    large, holds NaN or infinity, or values of which it cannot be told what is black and white.
    """
    try:
        pixels = read_pixels(path)
    except TooLarge:
        return _read_reduced(path, value_range, at_least, title)
    images.check_finite(pixels.colours, path)
    return images.composed(pixels, title or path, value_range)


def read_pixels(path: str | Path) -> Pixels:
    """The pixels of a picture file in its own type, upright. Raises as `read_image`."""
    try:
        with _opened(path) as (stream, start):
            if tiff.is_tiff(start):
                return tiff.read_pixels(stream, most=limit())
            if known := netpbm.read_header(stream):
                if known.rows * known.columns > limit():
                    raise TooLarge
                return netpbm.read_pixels(stream, known)
            return _pillow_pixels(stream)
    except TooLarge as error:
        raise TooLarge(too_large(path, read_header(path))) from error


def read_window(
    path: str | Path,
    corner: tuple[int, int],
    size: tuple[int, int],
    value_range: tuple[float, float] | tuple[()] = (),
    title: str = "",
) -> Float[np.ndarray, "h w C"]:
    """A part of a TIFF file, float32 [*size, C] as in `read_image`, of which no more is decoded.

    corner: (row, column) of its first pixel, upright. Raises as `read_image`.
    """
    with _opened(path) as (stream, _):
        pixels = tiff.read_pixels(stream, (*corner, *size))
    images.check_finite(pixels.colours, path)
    return images.composed(pixels, title or path, value_range)


def extremes(path: str | Path, header: Header) -> tuple[float, float]:
    """(lowest, highest) value of a picture file in its own type, without its transparency.

    Of one too large to decode, those of nine parts. Raises as `read_image`.
    """
    if header.rows * header.columns <= limit():
        parts = [read_pixels(path).colours]
    elif header.parts == "windows":
        size = min(256, header.rows), min(256, header.columns)
        starts = [
            np.linspace(0, have - part, 3).astype(int).tolist()
            for have, part in zip(header[:2], size, strict=True)
        ]
        parts = []
        with _opened(path) as (stream, _):
            for corner in itertools.product(*starts):
                parts.append(tiff.read_pixels(stream, (*corner, *size)).colours)
    else:
        raise TooLarge(too_large(path, header))
    for part in parts:
        images.check_finite(part, path)
    return float(min(part.min() for part in parts)), float(max(part.max() for part in parts))


def too_large(path: str | Path, header: Header) -> str:
    """The one line that says that a picture is too large to be decoded whole, and the ways out."""
    sample = np.dtype(header.kind).itemsize
    size = header.rows * header.columns * header.channels * sample / 1e9
    way = {
        "": "cut it, or save it as a TIFF of tiles, deflated or LZW: parts of it are read",
        "reduced": "data.resize=true with data.size, or save it as a TIFF of tiles, deflated or "
        "LZW: parts of it are read",
        "windows": "data.resize=true with data.size, or data.patch.size",
    }[header.parts]
    return (
        f"{path}: {header.rows}x{header.columns} pixels (rows x columns), {size:.1f} GB decoded, "
        f"more than is read at once; {way}"
    )


# ---- how large a picture may be ---------------------------------------------------------------


class _Unlimited:
    """Pillow's limit of pixels, lifted while anything here decodes: sizes are checked before."""

    def __init__(self):
        self.lock, self.users, self.limit = threading.Lock(), 0, None

    def __enter__(self):
        with self.lock:
            if not self.users:
                self.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self.users += 1

    def __exit__(self, *_):
        with self.lock:
            self.users -= 1
            if not self.users:
                Image.MAX_IMAGE_PIXELS = self.limit


_UNLIMITED = _Unlimited()


def limit() -> float:
    """Pixels of a picture that is decoded whole: twice PIL.Image.MAX_IMAGE_PIXELS."""
    with _UNLIMITED.lock:
        pixels = _UNLIMITED.limit if _UNLIMITED.users else Image.MAX_IMAGE_PIXELS
    return np.inf if pixels is None else 2 * pixels


def reduction(header: Header, at_least: tuple[int, int]) -> int:
    """The whole factor by which a picture can be had smaller without decoding all of it.

    at_least: (rows, columns) that it must keep. 0: not at all, or what is left were too large.
    """
    factor = min(have // need for have, need in zip(header[:2], at_least, strict=True))
    if header.parts == "windows":
        factor //= 2  # averages over blocks are resampled once more: from twice the size at least
    elif header.parts == "reduced":
        factor = 1 << min(3, factor.bit_length() - 1) if factor else 0  # 1, 2, 4 or 8, of JPEG
    if not header.parts or not factor or header.rows * header.columns / factor**2 > limit():
        return 0
    return factor


def _read_reduced(path, value_range, at_least, title):
    """A picture above the limit, smaller by a whole factor and not below the size `at_least`."""
    header = read_header(path)
    factor = reduction(header, at_least) if at_least else 0
    if not factor:
        raise TooLarge(too_large(path, header))
    if header.parts == "windows":
        return _averaged(path, header, factor, value_range, title)
    with _opened(path) as (stream, _):
        pixels = _pillow_pixels(stream, at_least)
    return images.composed(pixels, title or path, value_range)


def _averaged(path, header, factor, value_range, title):
    """Means over blocks of factor x factor, read in bands; what is left over at the edges is cut.

    -> float32 [H // factor, W // factor, C]
    """
    rows, columns = header.rows // factor, header.columns // factor
    top, left = (header.rows - rows * factor) // 2, (header.columns - columns * factor) // 2
    step = max(1, int(2**24 // (columns * factor**2)))
    bands = []
    for first in range(0, rows, step):
        height = min(step, rows - first)
        corner, size = (top + first * factor, left), (height * factor, columns * factor)
        band = read_window(path, corner, size, value_range, title)
        bands.append(band.reshape(height, factor, columns, factor, -1).mean(axis=(1, 3)))
    return np.concatenate(bands)


# ---- files that Pillow reads ------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[BinaryIO, bytes]]:
    """The open file and its first bytes; what cannot be decoded inside is one line."""
    with Path(path).open("rb") as stream, _UNLIMITED:
        start = stream.read(16)
        stream.seek(0)
        try:
            yield stream, start
        except TooLarge:
            raise
        except tiff.Unsupported as error:
            raise ValueError(f"{path}: {error}") from error
        except Exception as error:  # of damaged files decoders raise what they lead them to
            raise _undecodable(path, start, error) from error


def _undecodable(path, start, error):
    if _is_heif(start) and ".heic" in NEEDS:
        return ValueError(f"{path}: is HEIC, which needs {NEEDS['.heic']}")
    reason = "it is empty" if not start else errors.reason(error)
    reason = "it is no picture" if "cannot identify" in reason else reason
    return ValueError(
        f"{path}: cannot be read as an image, truncated or damaged ({reason}); "
        f"allowed: {', '.join(EXTENSIONS)}"
    )


def _is_heif(start):
    return start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1")


def _pillow_open(stream: BinaryIO) -> Any:
    start = stream.read(16)
    stream.seek(0)
    if _is_heif(start) and ".heic" in EXTENSIONS:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.open(stream)


def _pillow_header(picture, stream):
    columns, rows = picture.size
    deep = _png_start(stream)[0] == 16 or picture.mode.startswith("I;16")
    kind = "uint16" if deep else _KINDS.get(picture.mode, "uint8")
    # Asking a PNG that has no EXIF before its pixels would decode it.
    asked = picture.format != "PNG" or _png_says_orientation(stream)
    if asked and picture.getexif().get(_ORIENTATION, 1) >= 5:
        rows, columns = columns, rows
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    # Pillow has no gray with alpha of 16 bits, and opens it as colour.
    gray = picture.mode in _GRAY_MODES or _png_start(stream)[1] == _PNG_GRAY_ALPHA
    return Header(
        rows,
        columns,
        1 if gray else 3,
        kind,
        alpha=picture.has_transparency_data and not _alpha_is_none(picture, stream),
        pages=frames,
        parts="reduced" if picture.format in ("JPEG", "MPO") else "",
    )


def _pillow_pixels(stream, at_least=None):
    """Pixels of a file that Pillow reads; a JPEG may come reduced to not less than `at_least`."""
    picture = _pillow_open(stream)
    if at_least:
        turned = picture.getexif().get(_ORIENTATION, 1) >= 5
        picture.draft(None, at_least if turned else at_least[::-1])
    if picture.width * picture.height > limit():
        raise TooLarge
    if _png_start(stream)[0] == 16:
        return _png16_pixels(stream)
    bits, colour = _png_start(stream)
    alphaless = _alpha_is_none(picture, stream)
    stream.seek(0)
    if colour == 0 and bits in (2, 4) and "transparency" in picture.info:
        # Pillow brings pixels to 8 bits, and leaves the one gray that is transparent.
        picture.info["transparency"] = picture.info["transparency"] % 2**bits * 255 // (2**bits - 1)
    picture = ImageOps.exif_transpose(picture)
    return images.from_pillow(picture.convert("RGB") if alphaless else picture)


def _alpha_is_none(picture, stream):
    """Whether a TGA says that none of its 32 bits are of transparency, where Pillow has alpha."""
    if picture.format != "TGA" or picture.mode != "RGBA":
        return False
    place = stream.tell()
    stream.seek(17)
    bits = stream.read(1)[0] & 15
    stream.seek(place)
    return bits == 0


# ---- PNG of 16 bits ----------------------------------------------------------------------


_PNG_GRAY_ALPHA = 4


def _png_start(stream):
    """(bits of a sample, type of colour) of a PNG; (0, 0) for other files."""
    stream.seek(0)
    start = stream.read(26)
    stream.seek(0)
    is_png = start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) == 26
    return (start[24], start[25]) if is_png else (0, 0)


def _png_chunks(stream):
    """(type, first bytes) of each chunk of a PNG; pixels are passed over."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = stream.read(min(length, 1024))
        yield kind, content
        stream.seek(length - len(content) + 4, io.SEEK_CUR)


def _png_says_orientation(stream):
    place = stream.tell()
    said = any(
        kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(keys))
        for keys in [(b"Raw profile type exif", b"XML:com.adobe.xmp")]
        for kind, content in _png_chunks(stream)
    )
    stream.seek(place)
    return said


def _png16_pixels(stream):
    """All 16 bits of a PNG, uint16. Pillow keeps the high byte of colour only.

    Its decoder undoes the PNG filters on bytes, so asking once for each byte order gives the high
    and then the low byte of every sample.
    """

    def bytes_as(raw_mode):
        stream.seek(0)
        picture = Image.open(stream)
        picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
        return np.asarray(picture).astype(np.uint16)

    transparent = next((c for kind, c in _png_chunks(stream) if kind == b"tRNS"), b"")
    stream.seek(0)
    picture = Image.open(stream)
    raw_mode = picture.tile[0].args
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.uint16)[..., None]
    elif raw_mode == "LA;16B":
        # Four bytes a pixel: gray high, gray low, alpha high, alpha low.
        quads = bytes_as("RGBA")
        values = quads[..., 0::2] * 256 + quads[..., 1::2]
    else:
        values = bytes_as(raw_mode) * 256 + bytes_as(raw_mode.replace("16B", "16L"))
    orientation = 1
    if _png_says_orientation(stream):
        stream.seek(0)
        orientation = Image.open(stream).getexif().get(_ORIENTATION, 1)
    values = tiff.oriented(values, orientation)
    if values.shape[-1] in (2, 4):
        return Pixels(values[..., :-1], values[..., -1])
    if transparent:  # one colour is wholly transparent
        colour = np.frombuffer(transparent[: 2 * values.shape[-1]], ">u2")
        alpha = np.where((values == colour).all(axis=-1), 0, 65535).astype(np.uint16)
        return Pixels(values, alpha)
    return Pixels(values)
