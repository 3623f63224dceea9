"""Pictures as signals: scale to [0, 1], make gray or colour, crop, resize.

Letters: H rows, W columns, C channels (1 or 3 unless an array brought more). Every function works
on one picture and returns float32 in [0, 1], channel last.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from PIL import Image

from nid_jax.notices import say


class Pixels(NamedTuple):
    """A picture as a file holds it, upright, its values in the file's own type.

    H rows, W columns, C samples of colour: 1, 3, or 4 inks.
    """

    colours: Num[np.ndarray, "H W C"]
    alpha: Num[np.ndarray, "H W"] | None = None
    premultiplied: bool = False
    """Colours are multiplied by alpha already."""
    full: tuple[float, float] | tuple[()] = ()
    """Black and white where the file says them; () is what the type or the values say."""
    inverted: bool = False
    """White is the lowest value."""
    ink: bool = False
    """Cyan, magenta, yellow, black."""


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
    `guessed_range` finds where it is (). A notice says where values lie outside a given range.
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
    if scaled.size and (scaled.min() < 0 or scaled.max() > 1):
        if value_range:  # said once of all signals of one name
            say(f"{where}: values outside ({low:g}, {high:g}) are cut off")
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


def say_binary(values: Num[np.ndarray, "*shape"], where: str | Path) -> None:
    """Say that whole numbers of a full scale are 0 and 1 alone, which is nearly black in it."""
    if values.dtype.name not in ("uint8", "uint16") or not values.size:
        return
    if all(part.max() <= 1 for part in values) and values.any():
        full = FULL_SCALE[values.dtype.name][1]
        say(
            f"{where}: {values.dtype} values of 0 and 1 alone, of {full:g}; taken as they are, "
            "dark; data.range=(0, 1) says otherwise"
        )


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
        largest = max(abs(lowest), abs(highest))
        if largest and not np.float32(largest):
            say(
                f"{where}: values up to {largest:.3g}, too small for float32; taken as 0; "
                "data.range=(low, high) says otherwise"
            )
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


def check_finite(values: Num[np.ndarray, "*shape"], where: str | Path) -> None:
    """Raise ValueError naming `where` and counting the values that are NaN or infinite."""
    # The extremes carry NaN and infinity along and need no temporary the size of the data.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise ValueError(f"{where}: {bad} of {values.size} values are NaN or infinite")


def from_pillow(picture: Image.Image) -> Pixels:
    """The pixels of a picture that Pillow has opened, of any mode, in 8 bits unless it is gray."""
    if picture.mode.startswith("I;16"):
        return Pixels(np.asarray(picture).astype(np.uint16)[..., None])
    if picture.has_transparency_data:
        gray = picture.mode in ("1", "L", "LA", "La")
        picture = picture.convert("LA") if picture.mode == "La" else picture
        values = np.asarray(picture.convert("RGBA"))
        return Pixels(values[..., :1] if gray else values[..., :3], values[..., 3])
    if picture.mode in ("1", "L", "I", "F"):
        return Pixels(np.asarray(picture)[..., None])
    return Pixels(np.asarray(picture.convert("RGB")))


def composed(
    pixels: Pixels, where: str | Path, value_range: tuple[float, float] | tuple[()] = ()
) -> Float[np.ndarray, "H W C"]:
    """Pixels as a file has them to float32 [H, W, C] in [0, 1], C = 1 or 3, on a white ground.

    value_range: as in `to_unit`, of the colours. Raises what `to_unit` does.
    """
    image = _colours(pixels, where, value_range)
    if pixels.alpha is None:
        return np.ascontiguousarray(image)
    alpha = opacity(pixels)[..., None]
    if not pixels.premultiplied:
        image = image * alpha + (1 - alpha)
    elif not pixels.inverted:  # where white is 0, the ground's share is 0 already
        image = np.minimum(image + (1 - alpha), 1)
    return np.ascontiguousarray(image)


def uncovered(
    pixels: Pixels, where: str | Path, value_range: tuple[float, float] | tuple[()] = ()
) -> Float[np.ndarray, "H W C"]:
    """Colours alone, float32 [H, W, C] in [0, 1], whatever their transparency; 0 without any."""
    image = _colours(pixels, where, value_range)
    if pixels.alpha is not None:
        alpha = opacity(pixels)[..., None]
        if pixels.premultiplied:
            image = 1 - image if pixels.inverted else image
            image = np.clip(image / np.maximum(alpha, np.finfo(np.float32).tiny), 0, 1)
            image = 1 - image if pixels.inverted else image
        image = np.where(alpha > 0, image, 0)
    return np.ascontiguousarray(image)


def _colours(pixels, where, value_range):
    image = to_unit(pixels.colours, where, value_range or pixels.full)
    if pixels.inverted:
        image = 1 - image
    if pixels.ink:  # cyan, magenta, yellow and black take from white, one after the other
        image = (1 - image[..., :3]) * (1 - image[..., 3:])
    return image


def opacity(pixels: Pixels) -> Float[np.ndarray, "H W"]:
    """How opaque pixels are, float32 [H, W] from 0 to 1; 1 where a file has no transparency."""
    alpha = pixels.alpha
    if alpha is None:
        return np.ones(pixels.colours.shape[:2], np.float32)
    low, high = FULL_SCALE.get(alpha.dtype.name, (0.0, 1.0))
    if alpha.dtype.name not in FULL_SCALE and alpha.size and alpha.max() > 1:
        high = 255.0 if alpha.max() <= 255 else float(alpha.max())
    return np.clip(alpha.astype(np.float32) / np.float32(high - low), 0, 1)


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


def size_complaint(
    where: str | Path, found: Sequence[int], expected: Sequence[int], crops: bool = False
) -> str:
    """The one line that says a signal has another size than expected and the ways out.

    crops: whether the source can cut crops.
    """
    line = (
        f"{where}: is {found[0]}x{found[1]} (rows x columns), expected "
        f"{expected[0]}x{expected[1]}; set data.resize=true (squashes), with data.crop=center "
        "(cuts to the aspect), or data.patch.size=N with data.size=() (patches of each at its own "
        "size)"
    )
    return f"{line}, or data.crops=N (random crops at native resolution)" if crops else line
