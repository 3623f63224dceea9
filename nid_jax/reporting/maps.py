"""Fields over axes in their own coordinates, and their numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nid_jax.data.frames import Frame
from nid_jax.files import atomic_path
from nid_jax.reporting import pictures
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
    # It takes long to come, and only renders of fields need it.
    from matplotlib.figure import Figure

    where = []
    while values.ndim > 3:
        at = frame.samples(values.shape[:-1])[0][values.shape[0] // 2]
        where.append(f"{frame.axes[0].name} {at:.4g}")
        values = values[values.shape[0] // 2]
        frame = Frame(frame.axes[1:], frame.channels)
    title = ", ".join([title, *where])
    count = values.shape[-1] if values.ndim == 3 else 1
    figure = Figure(figsize=(5.6 * count, 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    if values.ndim == 2:
        places = frame.samples(values.shape[:-1])[0]
        for channel, curve in zip(frame.channels, values.T, strict=True):
            panels[0].plot(places, curve, label=channel.label)
        panels[0].set(xlabel=frame.axes[0].label, title=title)
        panels[0].legend()
    else:
        up, right = frame.axes
        # Samples lie in the middles of what is drawn of them.
        halves = [
            axis.span / max(side - 1, 1) / 2
            for axis, side in zip(frame.axes, values.shape, strict=False)
        ]
        extent = (right.low - halves[1], right.high + halves[1])
        extent += (up.low - halves[0], up.high + halves[0])
        for axis, channel, image in zip(
            panels, frame.channels, np.moveaxis(values, -1, 0), strict=True
        ):
            shown = axis.imshow(image, origin="lower", extent=extent, aspect="auto", cmap="magma")
            axis.set(xlabel=right.label, ylabel=up.label, title=title)
            figure.colorbar(shown, ax=axis, label=channel.label)
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
