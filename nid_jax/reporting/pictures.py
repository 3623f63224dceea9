"""Pictures of what was learned: sheets as PNG, curves as SVG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nid_jax.files import atomic_path

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
    return _save(path, picture)


def _save(path: str | Path, picture: Image.Image) -> Path:
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)
    return Path(path)


# ---- sheets -----------------------------------------------------------------------------------


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a tile: a whole multiple of a small picture keeps its pixels square."""
    longest = max(height, width)
    if longest > TILE_LIMIT:
        factor = TILE_LIMIT / longest
        return max(1, round(height * factor)), max(1, round(width * factor))
    factor = max(1, math.ceil(TILE / longest))
    return height * factor, width * factor


def _tile(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(image)
    smaller = size[0] < image.shape[0]
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    return picture.resize((size[1], size[0]), method).convert("RGB")


def _font(size: int = TEXT) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shorten(text: str, width: float, font: Any) -> str:
    """`text`, cut with an ellipsis to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _colour_table(name: str) -> np.ndarray:
    # matplotlib takes long to import, and a training step that draws nothing should not wait.
    from matplotlib import colormaps

    return np.round(colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


def _error_scale(error: np.ndarray) -> float:
    """The round number that most of the error lies below, at which the colours end."""
    finite = error[np.isfinite(error)]
    high = float(np.quantile(finite, 0.99)) if finite.size else 1.0
    return next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if high <= s), 1.0)


def _psnr(prediction: np.ndarray, truth: np.ndarray) -> float:
    error = np.mean(np.square(np.clip(prediction, 0, 1).astype(np.float64) - truth))
    return math.inf if error == 0 else -10 * math.log10(error)


def comparison_sheet(
    path: str | Path,
    truth: Any,
    reconstruction: Any,
    *,
    names: Sequence[str] = (),
    count: int = 8,
    error_scale: float = 0.0,
) -> Path:
    """Draw the first `count` signals: truth, reconstruction and error below one another.

    truth, reconstruction: [S, H, W, C], gray or colour, of any size; small images are enlarged
    pixel by pixel. The error is the absolute difference, clipped reconstruction against truth,
    averaged over channels, and coloured from zero to `error_scale` (0: a round number that 99%
    of the error lies below), which the sheet states. Under each column stands the PSNR of that
    signal. Where C is neither 1 nor 3 the pictures show the first channel, and the sheet says so.
    Raises ValueError where the two shapes differ or are not [S, H, W, C].
    """
    truth, reconstruction = np.asarray(truth), np.asarray(reconstruction)
    if truth.shape != reconstruction.shape or truth.ndim != 4 or truth.shape[0] == 0:
        raise ValueError(
            "a comparison takes truth and reconstruction [S, H, W, C] of one shape; got "
            f"{truth.shape} and {reconstruction.shape}"
        )
    truth, reconstruction = truth[:count], reconstruction[:count]
    error = np.abs(np.clip(reconstruction, 0, 1) - truth).mean(-1)
    scale = error_scale or _error_scale(error)
    heat = _colour_table("magma")
    rows = {
        "truth": [to_uint8(displayed(image)) for image in truth],
        "reconstruction": [to_uint8(displayed(image)) for image in reconstruction],
        "error": [heat[to_uint8(image / scale)] for image in error],
    }
    captions = [f"{_psnr(r, t):.1f} dB" for r, t in zip(reconstruction, truth, strict=True)]
    note = f"error: |difference|, black 0 to pale yellow {scale:g} and above"
    if truth.shape[-1] not in (1, 3):
        note += f"; the first of {truth.shape[-1]} channels is shown"
    return _save(path, _labelled_rows(rows, list(names)[:count], captions, note))


def _labelled_rows(
    rows: Mapping[str, Sequence[np.ndarray]],
    names: Sequence[str],
    captions: Sequence[str],
    note: str,
) -> Image.Image:
    """Rows of pictures of one size, a label left of each, names above and captions below."""
    font, small = _font(), _font(TEXT - 2)
    first = next(iter(rows.values()))
    height, width = _tile_size(*first[0].shape[:2])
    column = max(width, 56)  # room for a caption under a narrow picture
    left = max(math.ceil(font.getlength(label)) for label in rows) + 2 * GAP
    top = GAP + (TEXT + 6 if names else 0)
    bottom = top + len(rows) * (height + GAP)
    total = max(left + len(first) * (column + GAP), math.ceil(small.getlength(note)) + 2 * GAP)
    sheet = Image.new("RGB", (total, bottom + 2 * (TEXT + 8)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (label, images) in enumerate(rows.items()):
        y = top + row * (height + GAP)
        draw.text((left - GAP, y + height / 2), label, QUIET, font, anchor="rm")
        for index, image in enumerate(images):
            x = left + index * (column + GAP) + (column - width) // 2
            sheet.paste(_tile(image, (height, width)), (x, y))
    for index in range(len(first)):
        middle = left + index * (column + GAP) + column / 2
        if index < len(names):
            name = _shorten(str(names[index]), column, small)
            draw.text((middle, GAP), name, QUIET, small, anchor="mt")
        draw.text((middle, bottom), captions[index], INK, font, anchor="mt")
    draw.text((GAP, bottom + TEXT + 10), note, QUIET, small, anchor="lt")
    return sheet


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
    colours = _colour_table("RdBu_r")
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
    return _save(path, _wrapped(images, captions, columns))


def _wrapped(images: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> Image.Image:
    """Pictures of one size in reading order, a caption below each."""
    font = _font(TEXT - 2)
    height, width = _tile_size(*images[0].shape[:2])
    cell = max(width, *(math.ceil(font.getlength(text)) for text in captions))
    columns = min(columns, len(images))
    line = height + (TEXT + 10 if any(captions) else GAP)
    size = (GAP + columns * (cell + GAP), GAP + math.ceil(len(images) / columns) * line)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        x = GAP + index % columns * (cell + GAP)
        y = GAP + index // columns * line
        sheet.paste(_tile(image, (height, width)), (x + (cell - width) // 2, y))
        draw.text((x + cell / 2, y + height + 3), captions[index], QUIET, font, anchor="mt")
    return sheet


# ---- curves -----------------------------------------------------------------------------------

_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def _literal(text: str) -> str:
    """A name as it is: between two dollars matplotlib would read a formula."""
    return text.replace("$", r"\$")


def _svg(draw: Any, title: str, size: tuple[float, float]) -> str:
    """One chart as SVG text, the same for the same data; ids carry the title to stay unique."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if title:
            axes.set_title(_literal(title), loc="left", fontsize=11, color=INK)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"\W+", "-", title.lower()) + "-"
    return re.sub(r'(\bid="|href="#|url\(#)', lambda match: match[0] + prefix, svg)


def curves_svg(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "",
    x: str = "step",
    y: str = "",
    log: bool = False,
    size: tuple[float, float] = (5.2, 2.8),
) -> str:
    """Curves as SVG text: name -> (abscissae, ordinates), in one chart; `size` in inches.

    Ordinates that are None, NaN or infinite leave a gap. `log` draws a logarithmic ordinate where
    all values are positive. Raises ValueError when there is nothing to draw.
    """
    if not curves:
        raise ValueError("no curves to draw")
    arrays = {
        name: (np.asarray(xs, float), np.array([math.nan if v is None else v for v in ys], float))
        for name, (xs, ys) in curves.items()
    }

    def draw(axes):
        for index, (name, (xs, ys)) in enumerate(arrays.items()):
            ys = np.where(np.isfinite(ys), ys, np.nan)
            marker = "o" if len(xs) <= 24 else ""
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(xs, ys, label=_literal(name), color=colour, marker=marker, markersize=3.5)
        values = np.concatenate([ys[np.isfinite(ys)] for _, ys in arrays.values()])
        if log and values.size and values.min() > 0:
            axes.set_yscale("log")
        axes.set_xlabel(_literal(x))
        axes.set_ylabel(_literal(y))
        if len(arrays) > 1:
            axes.legend(fontsize=9)

    return _svg(draw, title, size)


def bars_svg(
    values: Sequence[float],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    size: tuple[float, float] = (5.2, 2.8),
) -> str:
    """Values as adjoining bars, as SVG text: for how often each expert is used."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"bars are [n] with n > 0; got shape {values.shape}")

    def draw(axes):
        # One filled outline instead of a rectangle each: a thousand experts stay a small file.
        axes.stairs(np.nan_to_num(values), np.arange(values.size + 1), fill=True, color=COLOURS[0])
        axes.set_xlim(0, values.size)
        axes.set_ylim(0, None)
        axes.set_xlabel(_literal(x))
        axes.set_ylabel(_literal(y))

    return _svg(draw, title, size)


def histogram_svg(
    values: Sequence[float],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    bins: int = 20,
    size: tuple[float, float] = (5.2, 2.8),
) -> str:
    """How the finite values are distributed, as SVG text."""
    values = np.asarray([v for v in values if v is not None], float)
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("no finite values to draw")

    def draw(axes):
        axes.hist(values, bins=bins, color=COLOURS[0], histtype="stepfilled")
        axes.set_xlabel(_literal(x))
        axes.set_ylabel(_literal(y))

    return _svg(draw, title, size)
