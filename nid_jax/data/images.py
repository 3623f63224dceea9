"""Pictures as signals: read, scale to [0, 1], make gray or colour, crop, resize.

Letters: H rows, W columns, C channels (1 or 3 unless an array brought more). Every function works
on one picture and returns float32 in [0, 1], channel last.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float, Num
from PIL import Image, ImageOps

from nid_jax.notices import say

EXTENSIONS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip

# What Pillow and tifffile raise for contents they cannot decode. Files are opened before, so
# missing files and permissions are not among them.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")

_PALETTE = 3  # the TIFF photometric interpretation of indexed colour

# ITU-R 601 luma, the weights Pillow and most image libraries use for gray.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

FULL_SCALE = {"bool": (0.0, 1.0), "uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
"""Type -> what is black and what is white in it; other types are guessed from their values."""

# Resampling overshoots by that much at edges; signed scales go much farther down.
_OVERSHOOT = 0.1
# Of 255: what is darker than this everywhere need not be on that scale.
_LEAST_OF_255 = 16


def to_unit(
    values: Num[np.ndarray, "*shape"],
    where: str | Path,
    value_range: tuple[float, float] | tuple[()] = (),
) -> Float[np.ndarray, "*shape"]:
    """Values to float32 in [0, 1]: (low, high) of value_range to 0 and 1, the rest cut off.

    values: array of any shape; where: the file or array named in errors; value_range: what
    `guessed_range` finds where it is (). Values outside a given range are counted in a notice.
    Raises ValueError for NaN or infinity, and what `guessed_range` does.
    """
    values = np.asarray(values)
    _check_numbers(values, where)
    low, high = value_range or guessed_range(values, where)
    if values.dtype.name not in FULL_SCALE:
        check_finite(values, where)
    # Integers are exact in double precision, where single would round those above 2^24.
    double = values.dtype.itemsize > 2 and values.dtype != np.float32
    scaled = values.astype(np.float64 if double else np.float32)
    if (low, high) != (0.0, 1.0):
        scaled = (scaled - low) / (high - low)
    outside = int(np.count_nonzero((scaled < 0) | (scaled > 1)))
    if outside:
        if value_range:
            say(f"{where}: {outside} of {values.size} values lie outside ({low:g}, {high:g}); cut")
        scaled = np.clip(scaled, 0, 1)
    return scaled.astype(np.float32)


def guessed_range(values: Num[np.ndarray, "*shape"], where: str | Path) -> tuple[float, float]:
    """(low, high): what is black and what is white in values whose owner said nothing of it.

    values: all that are scaled alike, so that none is brighter than it was beside the others;
    where: what they are called in the notice. See `range_between`. Raises ValueError for NaN or
    infinity, types that are no numbers, and what `range_between` does.
    """
    values = np.asarray(values)
    _check_numbers(values, where)
    if not values.size or values.dtype.name in ("bool", "uint8"):
        return range_between(values.dtype, 0, 0, where)
    if values.dtype.name not in FULL_SCALE:
        check_finite(values, where)
    return range_between(values.dtype, float(values.min()), float(values.max()), where)


def _check_numbers(values, where):
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: values of type {values.dtype}; allowed: real numbers")


def range_between(
    kind: np.dtype, lowest: float, highest: float, where: str | Path
) -> tuple[float, float]:
    """(low, high), black and white of values of type `kind` from `lowest` to `highest`.

    bool, uint8, uint16: the type's full scale. Floats: [0, 1], [-1, 1] or [0, 255]; larger
    integers: [0, 1], [0, 255] or [0, 65535], the narrowest that holds them. A notice says what was
    assumed, of uint16 too where the values need 12 bits or fewer. Raises ValueError naming
    `where` and data.range for values that fit none of them.
    """
    found = f"{where}: values from {lowest:.6g} to {highest:.6g}"
    if kind.name in FULL_SCALE:
        if kind.name == "uint16" and 0 < highest <= 4095:
            say(
                f"{where}: 16-bit values up to {highest:g} of 65535; taken as they are, dark; "
                f"data.range=(0, {255 if highest <= 255 else 4095}) says otherwise"
            )
        return FULL_SCALE[kind.name]
    if np.issubdtype(kind, np.floating):
        taken = _float_range(lowest, highest)
        overshoot = taken == (0.0, 1.0) and (lowest < -1e-5 or highest > 1 + 1e-5)
        if overshoot:
            say(f"{found}; cut to [0, 1]; data.range=(low, high) says otherwise")
    else:
        taken = _integer_range(lowest, highest)
    if not taken:
        raise ValueError(
            f"{found} of type {kind}; allowed: uint8, uint16, floats in [0, 1], or "
            "data.range=(low, high) that says what is black and what is white"
        )
    if taken != (0.0, 1.0):
        low, high = taken
        say(f"{found}; taken as from {low:g} to {high:g}; data.range=(low, high) says otherwise")
    return taken


def _float_range(lowest, highest):
    """(low, high) of floats between these, () where it cannot be told."""
    if lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT:
        return 0.0, 1.0
    if lowest >= -1 - 1e-5 and highest <= 1 + 1e-5:
        return -1.0, 1.0
    # Resampling overshoots here too.
    slack = 255 * _OVERSHOOT
    if lowest >= -slack and _LEAST_OF_255 <= highest <= 255 + slack:
        return 0.0, 255.0
    return ()


def _integer_range(lowest, highest):
    """(low, high) of whole numbers between these, () where it cannot be told."""
    if lowest < 0 or highest == 0:
        return ()
    return next(((0.0, full) for full in (1.0, 255.0, 65535.0) if highest <= full), ())


def check_unit(values: Num[np.ndarray, "*shape"], where: str | Path) -> None:
    """Raise ValueError unless values are uint8, uint16, bool, or finite floats within [0, 1]."""
    if values.dtype.name in FULL_SCALE:
        return
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"{where}: values of type {values.dtype}; allowed: uint8, uint16, or floats in [0, 1]"
        )
    check_finite(values, where)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low < 0 or high > 1:
        raise ValueError(
            f"{where}: floating-point values from {low:.6g} to {high:.6g}; allowed: [0, 1], "
            "or uint8 and uint16, which are scaled"
        )


def check_finite(values: Num[np.ndarray, "*shape"], where: str | Path) -> None:
    """Raise ValueError naming `where` and counting the values that are NaN or infinite."""
    # The extremes carry NaN and infinity along and need no temporary the size of the data.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise ValueError(f"{where}: {bad} of {values.size} values are NaN or infinite")


def read_header(path: str | Path) -> tuple[int, int, int]:
    """(rows, columns, channels) of a picture file without decoding its pixels.

    channels is 1 or 3. Raises FileNotFoundError, and ValueError naming a file that is no picture.
    """
    with Path(path).open("rb") as stream:
        try:
            if _is_tiff(stream.read(4)):
                stream.seek(0)
                with tifffile.TiffFile(stream) as tiff:
                    page = tiff.pages[0]
                    rows, columns = page.imagelength, page.imagewidth
                    colour = page.samplesperpixel >= 3 or page.photometric == _PALETTE
                    turned = page.bitspersample <= 8 and _orientation(page.tags.get(274)) >= 5
            else:
                picture = Image.open(stream)
                columns, rows = picture.size
                colour = picture.mode not in _GRAY_MODES
                # Asking a PNG that has no EXIF before its pixels would decode it.
                asked = picture.format != "PNG" or "exif" in picture.info
                turned = asked and picture.getexif().get(0x0112, 1) >= 5
        except _UNDECODABLE as error:
            raise _undecodable(path, error) from error
    if turned:  # EXIF orientations 5 to 8 lay rows and columns the other way round
        rows, columns = columns, rows
    return rows, columns, 3 if colour else 1


def _is_tiff(start):
    return start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _orientation(tag):
    return 1 if tag is None else int(tag.value)


def read_image(
    path: str | Path, value_range: tuple[float, float] | tuple[()] = ()
) -> Float[np.ndarray, "H W C"]:
    """A picture file as float32 [H, W, C], C = 1 (gray) or 3 (colour), values in [0, 1].

    16-bit PNG and TIFF keep all their bits; transparency is composited on white; the EXIF
    orientation is applied; of several frames the first is read.
    Raises FileNotFoundError, and ValueError naming the file if it is truncated or damaged, holds
    NaN or infinity, or floats outside [0, 1].
    """
    content = Path(path).read_bytes()
    try:
        pixels = _decode(content)
    except _UNDECODABLE as error:
        raise _undecodable(path, error) from error
    image = to_unit(pixels, str(path), value_range)
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-1] in (2, 4):
        alpha = image[..., -1:]
        image = image[..., :-1] * alpha + (1 - alpha)
    return np.ascontiguousarray(image)


def _undecodable(path, error):
    reason = "it is no picture" if "cannot identify" in str(error) else str(error)
    return ValueError(
        f"{path}: cannot be read as an image, truncated or damaged ({reason}); "
        f"allowed: {', '.join(EXTENSIONS)}"
    )


def _decode(content):
    """Pixels [H, W] or [H, W, C] in the type the file holds; C = 2 and 4 end in alpha."""
    if _is_tiff(content[:4]):
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            page = tiff.pages[0]
            if page.bitspersample > 8:  # Pillow drops the low byte of 16-bit colour
                pixels = page.asarray()
                return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    picture = Image.open(io.BytesIO(content))
    if picture.format == "PNG" and content[24] == 16:
        return _decode_png16(content)
    if picture.mode.startswith("I"):  # 16-bit PGM, which Pillow scales to the full range
        return np.asarray(picture).astype(np.uint16)
    picture = ImageOps.exif_transpose(picture)
    if "transparency" in picture.info or picture.mode in ("PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    return np.asarray(picture)


def _decode_png16(content):
    """All 16 bits of a PNG, uint16. Pillow keeps the high byte of colour only.

    Its decoder undoes the PNG filters on bytes, so asking once for each byte order gives the high
    and then the low byte of every sample.
    """

    def bytes_as(raw_mode):
        picture = Image.open(io.BytesIO(content))
        picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
        return np.asarray(picture).astype(np.uint16)

    picture = Image.open(io.BytesIO(content))
    raw_mode = picture.tile[0].args
    if picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.uint16)
    if raw_mode == "LA;16B":
        # Four bytes a pixel: gray high, gray low, alpha high, alpha low.
        quads = bytes_as("RGBA")
        return quads[..., 0::2] * 256 + quads[..., 1::2]
    return bytes_as(raw_mode) * 256 + bytes_as(raw_mode.replace("16B", "16L"))


def to_channels(image: Float[np.ndarray, "H W C"], channels: int) -> Float[np.ndarray, "H W K"]:
    """Gray to colour by repetition, colour to gray by ITU-R 601 luma; [H, W, C] -> [..., channels].

    Raises ValueError when neither applies.
    """
    have = image.shape[-1]
    if have == channels:
        return image
    if channels == 1 and have == 3:
        return (image @ _LUMA)[..., None]
    if have == 1:
        return np.repeat(image, channels, axis=-1)
    raise ValueError(f"cannot make {channels} channels of {have}; data.gray needs 1 or 3")


def centre_crop(
    image: Float[np.ndarray, "H W *C"], aspect: tuple[int, int]
) -> Float[np.ndarray, "h w *C"]:
    """The largest centred window [h, w, C] of [H, W, C] with rows : columns as in `aspect`."""
    rows, columns = image.shape[:2]
    want_rows, want_columns = aspect
    height = min(rows, max(1, round(columns * want_rows / want_columns)))
    width = min(columns, max(1, round(rows * want_columns / want_rows)))
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return image[top : top + height, left : left + width]


def resize(image: Float[np.ndarray, "H W C"], size: tuple[int, int]) -> Float[np.ndarray, "h w C"]:
    """Bicubic resampling of [H, W, C] to [*size, C], antialiased, clipped to [0, 1]."""
    if image.shape[:2] == tuple(size):
        return image
    columns_rows = (size[1], size[0])
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
                columns_rows, Image.Resampling.BICUBIC
            )
        )
        for channel in range(image.shape[-1])
    ]
    return np.clip(np.stack(planes, axis=-1), 0, 1)


def fit_to_size(
    image: Float[np.ndarray, "H W C"],
    size: tuple[int, int],
    resizing: bool,
    crop: str,
    where: str | Path,
) -> Float[np.ndarray, "h w C"]:
    """[H, W, C] -> [*size, C]: as it is, or cropped to the aspect and resized if `resizing`.

    Raises ValueError naming `where`, both sizes and the way out when sizes differ and resizing
    is off.
    """
    if image.shape[:2] == tuple(size):
        return image
    if not resizing:
        raise ValueError(size_complaint(where, image.shape[:2], size))
    if crop == "center":
        image = centre_crop(image, size)
    return resize(image, size)


def size_complaint(where: str | Path, found: Sequence[int], expected: Sequence[int]) -> str:
    """The one line that says a signal has another size than expected and offers resizing."""
    return (
        f"{where}: is {found[0]}x{found[1]} (rows x columns), expected "
        f"{expected[0]}x{expected[1]}; set data.resize=true to resize every signal"
    )
