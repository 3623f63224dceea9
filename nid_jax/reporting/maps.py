"""Fields over axes in their own coordinates, and their numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nid_jax.data.frames import Frame
from nid_jax.files import atomic_path
from nid_jax.notices import one_line
from nid_jax.reporting import pictures
from nid_jax.reporting.panels import Panel
from nid_jax.storage.artefacts import file_name

# Of the picture of a curve, which is twice as wide.
_CURVE_ROWS = 64


def write_fields(
    folder: str | Path,
    fields: Float[np.ndarray, "S *shape C"],
    layout: Mapping[str, Any],
    window: Sequence[tuple[float, float]] | None = None,
    first: int = 0,
) -> None:
    """FOLDER/0000_NAME.npz and .png of every field: numbers with their coordinates, and a drawing.

    fields: in own units; layout: names and the frame; window: the part of [-1, 1]^D that is drawn;
    first: the number of the first. The .npz holds `values` [*shape, C] and of each axis, by its
    name, the coordinates of its samples. Of more than two axes the middle of leading ones is drawn.
    """
    frame = Frame.of_json(layout["frame"]).window(window)
    samples = frame.samples(fields.shape[1:-1])
    axes = {axis.name: places for axis, places in zip(frame.axes, samples, strict=True)}
    for index, values in enumerate(fields, first):
        name = str(layout["names"][index])
        stem = Path(folder) / file_name(index, name)
        with atomic_path(stem.with_name(f"{stem.name}.npz")) as temporary:
            np.savez_compressed(temporary, **{"values": values, **axes})
        draw_field(stem.with_name(f"{stem.name}.png"), values, frame, name)


def draw_field(
    path: Path, values: Float[np.ndarray, "*shape C"], frame: Frame, title: str = ""
) -> Path:
    """A field in own units as a PNG, a map for each channel, or curves of one coordinate."""
    where = []
    while values.ndim > 3:
        at = frame.samples(values.shape[:-1])[0][values.shape[0] // 2]
        where.append(f"{frame.axes[0].name} {at:.4g}")
        values = values[values.shape[0] // 2]
        frame = Frame(frame.axes[1:], frame.channels)
    title = ", ".join([title, *where])
    if values.ndim == 2:
        curves = {c.label: one for c, one in zip(frame.channels, values.T, strict=True)}
        return draw_curves(path, curves, None, None, frame, title)
    figure, panels = _figure(values.shape[-1], frame)
    for axes, channel, image in zip(
        panels, frame.channels, np.moveaxis(values, -1, 0), strict=True
    ):
        _draw_map(axes, image[::-1], frame, channel.label, {"cmap": "magma"})
        axes.set_title(title)
    return _save(figure, path)


def draw_panels(path: Path, panels: Sequence[Panel], frame: Frame, title: str) -> Path:
    """A map of each panel's one picture, first row on top, with its marks, as a PNG.

    panels: of values of the first channel in own units, which the colours' bars are in.
    """
    figure, places = _figure(len(panels), frame)
    unit = frame.channels[0]
    for axes, panel in zip(places, panels, strict=True):
        colours = {"cmap": _MAPS[panel.palette], "vmin": panel.low, "vmax": panel.high}
        other = f"{panel.name}, {unit.unit}" if unit.unit else panel.name
        label = unit.label if panel.name in ("truth", "reconstruction") else other
        _draw_map(axes, np.asarray(panel.images[0])[..., 0], frame, label, colours)
        axes.set_title(" ".join([panel.name, *panel.captions]), fontsize="medium")
        up, right = frame.axes[-2:]
        for marks in panel.marks[0] if panel.marks else ():
            if not len(marks.places):
                continue
            x = right.low + right.span * marks.places[:, 1]
            y = up.high - up.span * marks.places[:, 0]
            look: dict[str, Any] = {"marker": _MARKS[marks.shape], "s": 16, "edgecolors": "#6ec8ff"}
            if np.isnan(marks.values).all():
                axes.scatter(x, y, facecolors="none", linewidths=0.6, **look)
            else:
                axes.scatter(x, y, c=marks.values, linewidths=0.8, **look, **colours)
    shapes = {m.shape for p in panels for m in (p.marks[0] if p.marks else ()) if len(m.places)}
    words = {"circle": "circles: measured", "square": "squares: held out"}
    figure.suptitle("; ".join([title, *(words[one] for one in words if one in shapes)]))
    return _save(figure, path)


def draw_curves(
    path: Path,
    curves: Mapping[str, Float[np.ndarray, " n"]],
    deviation: Float[np.ndarray, " n"] | None,
    given: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    frame: Frame,
    title: str,
) -> Path:
    """Curves of one coordinate, by name, as a PNG.

    deviation: drawn about the last of them, twice; given: coordinates, values and which were held
    out, of measurements.
    """
    # It takes long to come, and only pictures of fields need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        places = frame.samples((len(curve),))[0]
        axes.plot(places, curve, label=name)
    if deviation is not None:
        ends = curve - 2 * deviation, curve + 2 * deviation
        axes.fill_between(places, *ends, alpha=0.2, label="twice the deviation")
    if given is not None:
        for chosen, name, marker in (
            (~given[2], "measured", "o"),
            (given[2], "held out", "s"),
        ):
            if chosen.any():
                axes.plot(given[0][chosen], given[1][chosen], marker, ms=4, mfc="none", label=name)
        axes.set_ylabel(frame.channels[0].label)
    axes.set(xlabel=frame.axes[0].label, title=title)
    axes.legend()
    return _save(figure, path)


_MAPS = {"heat": "magma", "balance": "RdBu_r", "gray": "gray"}
_MARKS = {"circle": "o", "square": "s"}
# Of a map in inches: its longer side, and what labels and the colours' bar take beside it.
_SIDE, _BESIDE, _BELOW = 4.6, 1.5, 1.0


def _figure(count, frame):
    """A figure of so many maps, wide ones below one another, and their axes."""
    from matplotlib.figure import Figure

    proportion = frame.proportion()
    across = 1 if proportion < 0.6 else count if proportion > 1.6 else min(count, 2)
    down = -(-count // across)
    wide, high = _SIDE / max(proportion, 1), _SIDE * min(proportion, 1)
    size = (across * (wide + _BESIDE), down * (high + _BELOW) + 0.3)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for empty in panels[count:]:
        empty.set_visible(False)
    return figure, panels[:count]


def _draw_map(axes, image, frame, label, colours):
    """A picture [H, W], its first row on top, of the last two axes of a frame."""
    up, right = frame.axes[-2:]
    # Samples lie in the middles of what is drawn of them.
    high, wide = (
        axis.span / max(side - 1, 1) / 2
        for axis, side in zip((up, right), image.shape, strict=True)
    )
    extent = (right.low - wide, right.high + wide, up.low - high, up.high + high)
    aspect = frame.proportion() * (extent[1] - extent[0]) / (extent[3] - extent[2])
    shown = axes.imshow(image, extent=extent, aspect=aspect, interpolation="nearest", **colours)
    axes.set(xlabel=right.label, ylabel=up.label)
    # As high as the map, which is not as high as its place.
    axes.figure.colorbar(shown, cax=axes.inset_axes((1.03, 0, 0.03, 1)), label=label)


def _save(figure, path):
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        # Names are no formulas, whatever they hold.
        text.set(parse_math=False, text=one_line(text.get_text()))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def shaded(values: Float[np.ndarray, "T *grid C"]) -> Float[np.ndarray, "T H W c"]:
    """Scaled values of the first channel in colours, 0 black and 1 pale yellow, the second last
    axis upwards, the middle along those before it; of one axis curves from 0 to 1 upwards."""
    shown = values[..., 0]
    while shown.ndim > 3:
        shown = shown[:, shown.shape[1] // 2]
    if shown.ndim == 2:
        return np.stack([curve(one, 0.0, 1.0) for one in shown])
    colours = pictures.palette("heat")[pictures.to_uint8(shown[:, ::-1])]
    return colours.astype(np.float32) / 255


def curve(values: Float[np.ndarray, " N"], low: float, high: float) -> Float[np.ndarray, "H W 1"]:
    """Values from `low` to `high` upwards as a dark line; beyond, it leaves the picture."""
    columns = np.linspace(0, len(values) - 1, 2 * _CURVE_ROWS)
    heights = np.interp(columns, np.arange(len(values)), values)
    place = (high - heights) / (high - low) * (_CURVE_ROWS - 1)
    away = np.abs(np.arange(_CURVE_ROWS)[:, None] - place)
    return np.clip(away, 0, 1)[..., None]
