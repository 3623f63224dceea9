"""Signals that were drawn from a prior: a sheet of them, and a movie from one to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nid_jax.files import atomic_folder
from nid_jax.fitting.fit import Fit
from nid_jax.reporting import movies, pictures

COLUMNS = 8
SHEET, PATH = "sheet.png", "path.gif"
"""What the report's page shows of the folder."""


def write_samples(
    folder: Path,
    drawn: Fit,
    path: Fit,
    view: tuple[Sequence[int], Any],
    surface: Mapping[str, Any] | None,
) -> None:
    """FOLDER/codes.npz, sheet.png of the signals, path.gif and a picture for each of its steps.

    path: signals between two of them; view: the shape of pictures and a window or None; surface:
    truncation and upward axis where signals have one, see `tasks.Task.surface`.
    """
    with atomic_folder(folder) as temporary:
        drawn.save(temporary / "codes.npz")
        images = _pictures(drawn, view, surface)
        pictures.plain_sheet(temporary / SHEET, images, COLUMNS)
        steps = _pictures(path, view, surface)
        for number, image in enumerate(steps):
            pictures.save_png(temporary / "path" / f"{number:05d}.png", image)
        movies.write_movie(temporary / PATH, steps)


def _pictures(fit, view, surface):
    """[S, H, W, C]: of signals in three dimensions the middle slice, of surfaces shaded ones."""
    shape, window = view
    if surface is None:
        values = np.asarray(fit.render(shape, window))
        return values[:, values.shape[1] // 2] if values.ndim == 5 else values
    # Libraries that only surfaces need.
    from nid_jax.geometry import shading

    meshes = fit.mesh(shape, window, surface["truncation"] or None)
    return shading.frames([shading.upright(mesh, surface["up"]) for mesh in meshes])
