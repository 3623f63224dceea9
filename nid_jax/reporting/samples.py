"""Signals that were drawn from a prior: a sheet of them, and a movie from one to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nid_jax.data.frames import Frame
from nid_jax.files import atomic_folder
from nid_jax.fitting.fit import Fit
from nid_jax.reporting import maps, movies, pictures

COLUMNS = 8
SHEET, PATH = "sheet.png", "path.gif"
"""What the report's page shows of the folder."""
FIELDS = "fields"


def write_samples(
    folder: Path,
    drawn: Fit,
    path: Fit,
    view: tuple[Sequence[int], Any],
    surface: Mapping[str, Any] | None,
    frame: Frame | None = None,
) -> None:
    """FOLDER/codes.npz, sheet.png of the signals, path.gif and a picture for each of its steps.

    path: signals between two of them; view: the shape of pictures and a window or None; surface:
    truncation and upward axis where signals have one, see `tasks.Task.surface`; frame: of signals
    in coordinates and units of their own, whose numbers are in FOLDER/fields, see
    `maps.write_fields`.
    """
    with atomic_folder(folder) as temporary:
        drawn.save(temporary / "codes.npz")
        images = _pictures(drawn, view, surface, frame)
        pictures.plain_sheet(temporary / SHEET, images, COLUMNS)
        if frame is not None:
            layout = {"names": drawn.names, "frame": frame.as_json()}
            fields = frame.values(drawn.render(*view))
            maps.write_fields(temporary / FIELDS, fields, layout, view[1])
        steps = _pictures(path, view, surface, frame)
        for number, image in enumerate(steps):
            pictures.save_png(temporary / "path" / f"{number:05d}.png", image)
        movies.write_movie(temporary / PATH, steps)


def _pictures(fit, view, surface, frame):
    """[S, H, W, C]: of signals in three dimensions the middle slice, of surfaces shaded ones, of
    fields in colours or as curves."""
    shape, window = view
    if frame is not None:
        return maps.shaded(np.asarray(fit.render(shape, window)))
    if surface is None:
        values = np.asarray(fit.render(shape, window))
        return values[:, values.shape[1] // 2] if values.ndim == 5 else values
    # Libraries that only surfaces need.
    from nid_jax.geometry import shading

    meshes = fit.mesh(shape, window, surface["truncation"] or None)
    return shading.frames([shading.upright(mesh, surface["up"]) for mesh in meshes])
