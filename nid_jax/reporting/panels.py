"""What a task shows of a fit: numbers by name, and rows of pictures with their scales.

A task makes `Score`s and `Panel`s; what is drawn, printed and written here and in the report knows
no task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from nid_jax.reporting import pictures
from nid_jax.reporting.pictures import GAP, GRID, INK, PAPER, QUIET, TEXT
from nid_jax.reporting.tables import format_value

COLUMNS = 10
"""Signals of one sheet, at most."""
MISSING = (221, 206, 231)
"""The colour of what is not there (NaN): pale violet."""
# Columns of pixels of a sheet, at least: notes are broken into lines of its width.
_LEAST_WIDTH = 480
# Rows of pixels of a panel that need not be square, at least.
_LEAST_HEIGHT = 96
# Half the side of a mark in pixels, and the colour of its edge.
_MARK, _EDGE = 3.5, (110, 200, 255)


@dataclasses.dataclass(frozen=True)
class Score:
    """A number of metrics.json that people look for: its key, its name, its unit, what it is."""

    key: str
    label: str
    unit: str = ""
    """'%' shows a share in hundredths."""
    about: str = ""
    """In a sentence; '' where the name says it all."""
    better: str = ""
    """high or low; '' where neither is better."""

    def text(self, value: Any) -> str:
        """The value as a table's cell; a dash for none."""
        if self.unit == "%" and isinstance(value, int | float) and math.isfinite(value):
            return f"{100 * value:.3g}%"
        return format_value(value)

    @property
    def header(self) -> str:
        """The name, with the unit where the values do not say it."""
        return f"{self.label}, {self.unit}" if self.unit not in ("", "%") else self.label


@dataclasses.dataclass(frozen=True)
class Marks:
    """Places that are drawn over a picture."""

    places: Float[np.ndarray, "n 2"]
    """(down, right) as parts of the picture, 0 to 1 from its first pixel to its last."""
    values: Float[np.ndarray, " n"]
    """In the picture's colours; NaN: hollow."""
    shape: str = "circle"
    """circle or square."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One kind of picture of a fit's signals: a row of the sheet, a column for each signal."""

    name: str
    images: Sequence[Float[np.ndarray, "*grid C"]] | Float[np.ndarray, "n *grid C"]
    """Of each column, or one for all of them. NaN is what is not there. Of three axes the middle
    slice along the first is drawn."""
    low: float = 0.0
    high: float = 1.0
    """Values at which the colours begin and end."""
    palette: str = "gray"
    """gray (three channels: in their colours), heat, or balance, about the middle of low, high."""
    note: str = ""
    """What it is and what its colours mean, with the unit; '' where the name says it all."""
    captions: Sequence[str] = ()
    """Below the pictures."""
    square: bool = True
    """Whether pixels are as high as wide; what has few rows is drawn higher otherwise."""
    kept: bool = False
    """Whether its pictures are also written one by one, in a folder of its name."""
    marks: Sequence[Sequence[Marks]] = ()
    """Of each column what is drawn over its picture on the sheet."""

    def has(self, index: int) -> bool:
        """Whether it has a picture of a column."""
        return len(self.images) == 1 or index < len(self.images)

    def of(self, chosen: Sequence[int]) -> Panel:
        """The same of some columns, those that it has."""
        if len(self.images) == 1:
            return self
        chosen = [index for index in chosen if self.has(index)]
        captions = [self.captions[i] for i in chosen] if self.captions else ()
        marks = [self.marks[i] for i in chosen] if self.marks else ()
        images = [self.images[i] for i in chosen]
        return dataclasses.replace(self, images=images, captions=captions, marks=marks)

    def painted(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a column in its colours."""
        image = np.asarray(self.images[index], np.float32)
        if image.ndim == 4:
            image = image[len(image) // 2]
        missing = np.isnan(image).any(-1)
        shown = self.coloured(image)
        shown[missing] = MISSING
        return shown

    def coloured(self, image: Float[np.ndarray, "*n C"]) -> UInt8[np.ndarray, "*n 3"]:
        """Values in the panel's colours."""
        span = (self.high - self.low) or 1.0
        if self.palette == "gray":
            shown = image if image.shape[-1] == 3 else image[..., :1]
            shown = pictures.to_uint8((shown - self.low) / span)
            return np.broadcast_to(shown, (*shown.shape[:-1], 3)).copy()
        places = pictures.to_uint8((image.mean(-1) - self.low) / span)
        return pictures.palette(self.palette)[places]

    def draw_marks(self, tile: Image.Image, index: int) -> None:
        """Draw the marks of a column over its picture."""
        draw = ImageDraw.Draw(tile)
        for marks in self.marks[index] if self.marks else ():
            corners = np.array([tile.height - 1, tile.width - 1]) * marks.places
            colours = self.coloured(marks.values[:, None])
            shape = draw.ellipse if marks.shape == "circle" else draw.rectangle
            for (y, x), value, colour in zip(corners, marks.values, colours, strict=True):
                fill = None if np.isnan(value) else tuple(map(int, colour))
                # Ends are light, so that marks of the colour behind them are still seen.
                shape([x - _MARK, y - _MARK, x + _MARK, y + _MARK], fill=fill, outline=_EDGE)


def described(scores: Sequence[Score], metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The scores that metrics has, in JSON types, for its 'scores'."""
    known = {key for key, value in metrics.items() if not _is_nothing(value)}
    return [dataclasses.asdict(score) for score in scores if score.key in known]


def _is_nothing(value):
    return value is None or (isinstance(value, float) and math.isnan(value))


def scores_of(metrics: Mapping[str, Any]) -> list[Score]:
    """What `described` wrote into metrics.json; none where it is not there or damaged."""
    names = {field.name for field in dataclasses.fields(Score)}
    entries = metrics.get("scores")
    return [
        Score(**entry)
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
        and {"key", "label"} <= set(entry) <= names
        and all(isinstance(word, str) for word in entry.values())
    ]


def write_sheet(path: Path, panels: Sequence[Panel], names: Sequence[str]) -> Path:
    """Panels below one another as one PNG, names above the columns. Raises ValueError for none."""
    if not panels or not max(len(panel.images) for panel in panels):
        raise ValueError(f"{path}: a sheet needs panels with pictures")
    return pictures.save(path, _laid_out(panels, names))


def _laid_out(panels, names):
    """The sheet: labels left of the rows, captions below their pictures, notes at the end."""
    font, small = pictures.font_of(), pictures.font_of(TEXT - 2)
    sizes = [_sizes(panel) for panel in panels]
    columns = max(len(panel.images) for panel in panels)
    column = max(72, *(width for row in sizes for _, width in row))
    left = max(math.ceil(font.getlength(panel.name)) for panel in panels) + 2 * GAP
    top = GAP + (TEXT + 6 if names else 0)
    heights = [max(height for height, _ in row) for row in sizes]
    rows = [height + (TEXT + 2 if panel.captions else 0) + GAP for panel, height in zip(
        panels, heights, strict=True
    )]  # fmt: skip
    total = max(left + columns * (column + GAP), _LEAST_WIDTH)
    notes = [
        line
        for panel in panels
        for note in _notes(panel)
        for line in _broken(note, total - 2 * GAP, small)
    ]
    height = top + sum(rows) + (TEXT + 4) * len(notes) + GAP
    sheet = Image.new("RGB", (total, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, name in enumerate(names[:columns]):
        middle = left + index * (column + GAP) + column / 2
        word = pictures.shortened(str(name), column, small)
        draw.text((middle, GAP), word, QUIET, small, anchor="mt")
    y = top
    for panel, each, most, row in zip(panels, sizes, heights, rows, strict=True):
        draw.text((left - GAP, y + most / 2), panel.name, QUIET, font, anchor="rm")
        for index, (high, wide) in enumerate(each):
            x = left + index * (column + GAP)
            tile = pictures.tile(panel.painted(index), (high, wide))
            panel.draw_marks(tile, index)
            corner = (x + (column - wide) // 2, y)
            # A white picture would have no end on white paper.
            frame = [corner[0] - 1, y - 1, corner[0] + wide, y + high]
            draw.rectangle(frame, outline=GRID)
            sheet.paste(tile, corner)
            if panel.captions:
                place = (x + column / 2, y + most + 3)
                draw.text(place, panel.captions[index], INK, small, anchor="mt")
        y += row
    for note in notes:
        draw.text((GAP, y + 4), note, QUIET, small, anchor="lt")
        y += TEXT + 4
    return sheet


def _sizes(panel):
    """Rows and columns of pixels of each of its pictures on a sheet."""
    return [_size(np.shape(image)[-3:-1], panel.square) for image in panel.images]


def _size(shape, square):
    rows, columns = pictures.tile_size(*shape)
    if not square and rows < _LEAST_HEIGHT:
        rows = shape[0] * math.ceil(_LEAST_HEIGHT / shape[0])
    return rows, columns


def _broken(text, width, font):
    """Lines of whole words that are no wider than so many pixels, if one word is not."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(f"  {word}")
        else:
            lines[-1] = longer if len(lines) == 1 else f"{lines[-1]} {word}"
    return lines


def _notes(panel):
    first = panel.images[0]
    found = [f"{panel.name}: {panel.note}"] if panel.note else []
    if first.ndim == 4:
        found.append(f"{panel.name}: the middle slice of {len(first)}")
    if panel.palette == "gray" and first.shape[-1] not in (1, 3):
        found.append(f"{panel.name}: the first of {first.shape[-1]} channels")
    if any(np.isnan(image).any() for image in panel.images):
        found.append(f"{panel.name}: pale violet where nothing was measured")
    return found
