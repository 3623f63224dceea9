"""Pictures of what was learned: arrays as pixels, sheets of them as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nid_jax.files import atomic_path
from nid_jax.notices import one_line

# One style for every picture and for the report's page.
INK, QUIET, GRID, PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
COLOURS = ("#2f6690", "#d1773c", "#3f8f6b", "#8a5a9e", "#b23a48", "#6b7280")

TILE = 128  # a picture's longer side on a sheet, at least, in pixels
TILE_LIMIT = 256  # and at most: larger pictures are reduced
GAP = 8
TEXT = 16


# ---- arrays to pixels -------------------------------------------------------------------------


def to_uint8(image: Any) -> np.ndarray:
    """[..., ] values in [0, 1] -> uint8, rounded. Values outside are clipped and NaN is black."""
    image = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def displayed(image: Any) -> np.ndarray:
    """[H, W, C] or [H, W] -> what can be shown: [H, W, 3] for colour, [H, W] for anything else.

    Of images with other than 1 or 3 channels the first channel is shown, in gray.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        return image
    if image.ndim != 3 or image.shape[-1] == 0:
        raise ValueError(f"a picture is [H, W, C] or [H, W]; got shape {image.shape}")
    return image if image.shape[-1] == 3 else image[..., 0]


def save_png(path: str | Path, image: Any) -> Path:
    """Write [H, W, C] or [H, W], floats in [0, 1] or uint8, as PNG, whole or not at all."""
    image = displayed(image)
    picture = Image.fromarray(image if image.dtype == np.uint8 else to_uint8(image))
    return save(path, picture)


def save(path: str | Path, picture: Image.Image) -> Path:
    """Write a picture as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)
    return Path(path)


# ---- sheets -----------------------------------------------------------------------------------


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a tile: a whole multiple of a small picture keeps its pixels square."""
    longest = max(height, width)
    if longest > TILE_LIMIT:
        factor = TILE_LIMIT / longest
        return max(1, round(height * factor)), max(1, round(width * factor))
    factor = max(1, math.ceil(TILE / longest))
    return height * factor, width * factor


def tile(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """uint8 [H, W] or [H, W, 3] at `size`, rows and columns, in colour."""
    picture = Image.fromarray(image)
    smaller = size[0] < image.shape[0]
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return picture.resize((size[1], size[0]), method).convert("RGB")


def font_of(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The sheets' font, `size` pixels high."""
    return ImageFont.load_default(size)


def shortened(text: str, width: float, font: Any) -> str:
    """`text` in one line, cut with an ellipsis to `width` pixels."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def palette(name: str) -> np.ndarray:
    """256 colours uint8 [256, 3]: 'heat' from black over red to pale yellow, 'balance' from blue
    over white to red. Matplotlib's magma and RdBu_r, to a few levels, without its import."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _ANCHORS[name].split()])
    places = np.linspace(0, len(anchors) - 1, 256)
    table = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.round(np.stack(table, 1)).astype(np.uint8)


_ANCHORS = {
    "heat": "000004 1d1147 51127c 832681 b73779 e75263 fc8961 fec488 fcfdbf",
    "balance": "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f",
}


def atoms_sheet(
    path: str | Path,
    basis: Any,
    *,
    usage: Any = None,
    experts: Sequence[int] = (),
    columns: int = 8,
) -> Path:
    """Draw atoms of the dictionary as they look on a grid, in the order given.

    basis: [n, H, W, C]. Each atom is scaled by its own largest magnitude, symmetrically about
    zero: one channel runs from blue (negative) over white (zero) to red; of three channels zero
    is mid-gray. `experts` [n] are the atoms' numbers and `usage` [n] the fraction of signals
    that use them, written below where given. Other numbers of channels: the first is shown.
    """
    basis = np.asarray(basis, np.float32)
    if basis.ndim != 4 or basis.shape[0] == 0:
        raise ValueError(f"atoms are [n, H, W, C]; got shape {basis.shape}")
    colours = palette("balance")
    images = []
    for atom in basis:
        shown = displayed(atom)
        largest = np.nanmax(np.abs(shown), initial=0.0) or 1.0
        symmetric = to_uint8(0.5 + 0.5 * shown / largest)
        images.append(symmetric if shown.ndim == 3 else colours[symmetric])
    captions = []
    for index in range(len(images)):
        parts = [f"#{experts[index]}"] if len(experts) else []
        parts += [f"{100 * float(usage[index]):.0f}%"] if usage is not None else []
        captions.append(" · ".join(parts))
    return save(path, _wrapped(images, captions, columns))


def plain_sheet(path: str | Path, images: Any, columns: int) -> Path:
    """Pictures [n, H, W, C] in [0, 1] in reading order, without captions."""
    shown = [to_uint8(displayed(image)) for image in images]
    return save(path, _wrapped(shown, [""] * len(shown), columns))


def _wrapped(images: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> Image.Image:
    """Pictures of one size in reading order, a caption below each."""
    font = font_of(TEXT - 2)
    height, width = tile_size(*images[0].shape[:2])
    cell = max(width, *(math.ceil(font.getlength(text)) for text in captions))
    columns = min(columns, len(images))
    line = height + (TEXT + 10 if any(captions) else GAP)
    size = (GAP + columns * (cell + GAP), GAP + math.ceil(len(images) / columns) * line)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        x = GAP + index % columns * (cell + GAP)
        y = GAP + index // columns * line
        sheet.paste(tile(image, (height, width)), (x + (cell - width) // 2, y))
        draw.text((x + cell / 2, y + height + 3), captions[index], QUIET, font, anchor="mt")
    return sheet
