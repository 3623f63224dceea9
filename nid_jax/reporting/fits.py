"""What a fit leaves in its folder besides its codes: scores, pictures, frames and meshes."""

from typing import Any

from ml_collections import ConfigDict

from nid_jax.files import atomic_folder
from nid_jax.fitting.fit import Fit
from nid_jax.fitting.scoring import reconstruct, summarise
from nid_jax.reporting import movies, pictures, surfaces
from nid_jax.storage.artefacts import file_name, write_json
from nid_jax.storage.workdir import Workdir


def write_fit(
    task: Any, fit: Fit, collection: Any, config: ConfigDict, workdir: Workdir
) -> dict[str, Any]:
    """Score a fit and write WORKDIR/fits/NAME: codes.npz, metrics.json, pictures. -> the metrics.

    The whole folder takes the place of an earlier fit of that name, or nothing does. Pictures show
    at most config.fit.num_pictures signals. task: measure, layout, metrics, assemble and extras of
    it are called. Raises ValueError for a `name` that is no folder's or where it cannot be written.
    """
    reconstruction, truth = reconstruct(task, fit, collection, config.render.chunk)
    measured, layout = task.measure(collection), task.layout(collection)
    metrics = summarise(task, fit, reconstruction, truth, collection, config)
    metrics["layout"] = layout
    with atomic_folder(workdir.fit(config.fit.name)) as folder:
        fit.save(folder / "codes.npz")
        _write_pictures(folder, truth, reconstruction, layout["names"], config.fit.num_pictures)
        if "surface" in layout:
            metrics |= surfaces.write_surfaces(folder, fit, measured, layout, config.fit)
        if task.extras is not None:
            extras = task.extras(collection, measured, reconstruction)
            metrics |= extras.metrics
            _write_frames(folder, extras.frames, config.fit.movies)
        write_json(folder / "metrics.json", metrics)
    return metrics


def _write_pictures(folder, truth, reconstruction, names, count):
    """comparison.png and pictures/: truth, reconstruction and error of the first `count`.

    Reconstructions alone where the truth is not known.
    """
    shown = min(count, len(reconstruction))
    if not shown or reconstruction.ndim != 4:
        return
    names = names[:shown]
    files = [folder / "pictures" / f"{file_name(i, name)}.png" for i, name in enumerate(names)]
    if truth is None:
        for file, image in zip(files, reconstruction, strict=False):
            pictures.save_png(file, image)
        return
    pictures.comparison_sheet(
        folder / "comparison.png", truth, reconstruction, names=names, count=min(shown, 10)
    )
    for index, file in enumerate(files):
        one = slice(index, index + 1)
        pictures.comparison_sheet(file, truth[one], reconstruction[one], names=names[one])


def _write_frames(folder, stacks, formats):
    """NAME/00000.png of every stack of frames [T, H, W, C], and all of them side by side."""
    for name, frames in stacks.items():
        for number, frame in enumerate(frames):
            pictures.save_png(folder / name / f"{number:05d}.png", frame)
    for suffix in formats:
        together = movies.side_by_side(list(stacks.values()), list(stacks))
        movies.write_movie(folder / f"side_by_side.{suffix}", together)
