"""What hides parts of a picture: blocks of stripes, missing pixels, text, scribbles.

Every drawing takes the picture's shape (H rows, W columns, C channels), the options data.corrupt
and a numpy generator, and returns hidden, bool [H, W], and paint, float32 [H, W, C]: what stands
where the picture is hidden, 0 elsewhere.
"""

import colorsys
import math
import string

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

_LETTERS = string.ascii_letters + string.digits
_GOLDEN = 0.618034  # of a turn: neighbouring hues end up far apart


def nothing(
    shape: tuple[int, ...], options: ConfigDict, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "H W"], Float[np.ndarray, "H W C"]]:
    """Hides no pixel."""
    del options, generator
    return _blank(shape)


def stripes(
    shape: tuple[int, ...], options: ConfigDict, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "H W"], Float[np.ndarray, "H W C"]]:
    """`count` blocks at random places, each of `stripes` saturated stripes in one direction.

    A block covers `share` of the picture, has its aspect, and lies wholly inside; blocks may
    overlap.
    """
    hidden, paint = _blank(shape)
    rows, columns, channels = shape
    height, width = _block_size(rows, columns, options.share)
    for _ in range(options.count):
        top = int(generator.integers(rows - height + 1))
        left = int(generator.integers(columns - width + 1))
        block = (slice(top, top + height), slice(left, left + width))
        length = (height, width)[upright := int(generator.integers(2))]
        colours = palette(options.stripes, channels, generator)
        lines = colours[np.arange(length) * options.stripes // length]
        paint[block] = lines[None, :] if upright else lines[:, None]
        hidden[block] = True
    return hidden, paint


def pixels(
    shape: tuple[int, ...], options: ConfigDict, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "H W"], Float[np.ndarray, "H W C"]]:
    """All but max(1, round(share * H * W)) pixels, at random; painted black.

    For one generator state, what a smaller share shows a larger one shows too.
    """
    hidden, paint = _blank(shape)
    count = max(1, round(options.share * hidden.size))
    hidden.flat[generator.permutation(hidden.size)[count:]] = True
    return hidden, paint


def text(
    shape: tuple[int, ...], options: ConfigDict, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "H W"], Float[np.ndarray, "H W C"]]:
    """Words of random letters that hide about `share`, in `count` colours and sizes in turn."""
    from PIL import ImageFont

    hidden, paint = _blank(shape)
    colours = palette(options.count, shape[-1], generator)
    covered = 0
    for limit, colour in zip(_limits(hidden.size, options), colours, strict=True):
        size = round(max(7, min(shape[:2]) / 9) * generator.uniform(1, 1.5))
        font = ImageFont.load_default(size=size)
        letters = 0
        while covered < limit:
            if not letters:
                letters = int(generator.integers(3, 10))
                # About a place where something can still be hidden, so that the loop ends.
                row, column = _seen_pixel(hidden, generator)
                row, column = row - size // 2, column - letters * size // 4
            letter = _LETTERS[generator.integers(len(_LETTERS))]
            places = np.argwhere(_glyph(letter, font, size)) + (row, column)
            covered += _stamp(hidden, paint, places, colour)
            column += math.ceil(font.getlength(letter))
            letters -= 1
    return hidden, paint


def scribble(
    shape: tuple[int, ...], options: ConfigDict, generator: np.random.Generator
) -> tuple[Bool[np.ndarray, "H W"], Float[np.ndarray, "H W C"]]:
    """`count` winding strokes a few pixels wide, one colour each, that together hide `share`."""
    from skimage.draw import disk

    hidden, paint = _blank(shape)
    colours = palette(options.count, shape[-1], generator)
    last = np.array(shape[:2]) - 1
    covered = 0
    for limit, colour in zip(_limits(hidden.size, options), colours, strict=True):
        # From 0.75 on, a disc holds the pixel nearest to its centre.
        radius = max(0.75, min(shape[:2]) / 80) * generator.uniform(1, 1.7)
        place, heading, bend, idle = None, generator.uniform(0, 2 * np.pi), 0.0, 0
        step = np.array([np.sin(heading), np.cos(heading)])
        while covered < limit:
            if place is None or idle > sum(shape[:2]):
                place, idle = np.array(_seen_pixel(hidden, generator), float), 0
            added = _stamp(hidden, paint, np.transpose(disk(place, radius)), colour)
            covered, idle = covered + added, 0 if added else idle + 1
            # The curvature changes slowly, in turns that are some widths of the stroke long.
            bend = 0.95 * bend + generator.normal(0, 0.06) / radius
            sine, cosine = np.sin(bend), np.cos(bend)
            step = np.array([[cosine, -sine], [sine, cosine]]) @ step
            step = np.where((place + step < 0) | (place + step > last), -step, step)
            place = np.clip(place + step, 0, last)
    return hidden, paint


DRAWINGS = {
    "none": nothing,
    "stripes": stripes,
    "pixels": pixels,
    "text": text,
    "scribble": scribble,
}


def palette(number: int, channels: int, generator: np.random.Generator) -> Float[np.ndarray, "N C"]:
    """`number` saturated colours that differ from their neighbours, float32 [number, C].

    C = 3: hues of full saturation and value; otherwise dark and bright levels in turn.
    """
    start = generator.uniform()
    if channels == 3:
        hues = (start + _GOLDEN * np.arange(number)) % 1
        return np.array([colorsys.hsv_to_rgb(hue, 1, 1) for hue in hues], np.float32)
    bright = (np.arange(number)[:, None] + (start < 0.5)) % 2
    return (0.8 * bright + generator.uniform(0, 0.2, (number, channels))).astype(np.float32)


def _block_size(rows, columns, share):
    """(height, width) of a block of this share of rows x columns and of about its aspect."""
    if rows < columns:
        return _block_size(columns, rows, share)[::-1]
    # The longer side last: rounding it to whole pixels changes the area less.
    width = min(columns, max(1, round(columns * math.sqrt(share))))
    return min(rows, max(1, round(share * rows * columns / width))), width


def _blank(shape):
    return np.zeros(shape[:2], bool), np.zeros(shape, np.float32)


def _limits(size, options):
    """Pixels of `size` to be hidden once each string or stroke is drawn; never all of them."""
    target = min(max(1, round(options.share * size)), size - 1)
    return [round(target * (number + 1) / options.count) for number in range(options.count)]


def _seen_pixel(hidden, generator):
    """(row, column) of a random pixel that is not hidden."""
    row, column = np.unravel_index(generator.choice(np.flatnonzero(~hidden)), hidden.shape)
    return int(row), int(column)


def _glyph(letter, font, size):
    """A letter of Pillow's font without antialiasing, bool [2 size, 2 size]."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (2 * size, 2 * size))
    ImageDraw.Draw(canvas).text((0, 0), letter, fill=1, font=font)
    return np.asarray(canvas)


def _stamp(hidden, paint, places, colour):
    """Paint those of `places` [n, 2] that lie inside; returns how many were not hidden before."""
    places = places[((places >= 0) & (places < hidden.shape)).all(axis=1)]
    rows, columns = places.T
    added = int(np.count_nonzero(~hidden[rows, columns]))
    hidden[rows, columns] = True
    paint[rows, columns] = colour
    return added
