"""What a fit leaves in its folder besides its codes: scores, pictures, frames and meshes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image

from nid_jax import notices
from nid_jax.coding.prior import GaussianPrior
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import Model
from nid_jax.files import atomic_folder, refusals_named
from nid_jax.fitting import baselines, rounding, scoring
from nid_jax.fitting.fit import Fit
from nid_jax.fitting.scoring import reconstruct, summarise
from nid_jax.notices import say
from nid_jax.reporting import gallery, movies, panels, pictures
from nid_jax.storage import artefacts
from nid_jax.storage.artefacts import file_name, write_json
from nid_jax.storage.workdir import Workdir


def write_fit(
    task: Any,
    fit: Fit,
    collection: Any,
    config: ConfigDict,
    workdir: Workdir,
    notes: Sequence[str] = (),
    prior: GaussianPrior | None = None,
    solved: str = "",
) -> dict[str, Any]:
    """Score a fit and write WORKDIR/fits/NAME. -> the metrics.

    notes: on what gave way before it; prior: of the training codes, for the baselines of
    config.fit.baseline_signals signals; solved: in sentences, what was solved for and how.

    codes.npz, metrics.json, reconstructions/ and what the task shows of a fit (`tasks.Extras`):
    comparison.png of the first signals, pictures/ of at most config.fit.num_pictures, frames and
    a movie of them. The whole folder takes the place of an earlier fit of that name, or nothing
    does. Raises ValueError for a `name` that is no folder's or where it cannot be written.
    """
    dtype, exact = config.fit.codes_dtype, fit
    # Rendered are the codes as they are stored; residuals stay those of what was solved for.
    fit = fit.rounded(dtype)
    reconstruction, truth = reconstruct(task, fit, collection, config.render.chunk)
    measured, layout = task.measure(collection), task.layout(collection)
    metrics = summarise(task, fit, reconstruction, truth, collection, config)
    metrics |= _storage(task, exact, fit, truth, collection, config)
    metrics["layout"] = layout
    describe = task.describe or (lambda *given: "")
    metrics["measured"] = describe(collection, measured, len(reconstruction))
    metrics["solved"] = solved
    names = layout["names"][: len(reconstruction)]
    most = config.fit.baseline_signals
    others = baselines.score(task, collection, measured, fit, prior, most)
    with atomic_folder(workdir.fit(config.fit.name)) as folder:
        exact.save(folder / artefacts.CODES, dtype)
        unit = True
        if "surface" in layout:
            # Libraries that only runs with surfaces need.
            from nid_jax.reporting import surfaces

            metrics |= surfaces.write_surfaces(
                folder, fit, measured, layout, config.fit, others.shown
            )
        if task.extras is not None:
            extras = task.extras(collection, measured, fit, reconstruction, truth, others.shown)
            metrics |= extras.metrics
            metrics |= _write_extras(folder, extras, names, config.fit.get("movies", ()))
            unit = extras.unit
        write_plain(folder / artefacts.RECONSTRUCTIONS, reconstruction, names, unit)
        if len(names) > panels.COLUMNS:
            gallery.write_gallery(folder, names, config.fit.name)
        metrics["baselines"] = others.entry(metrics)
        metrics["scores"] = panels.described(task.scores, metrics)
        metrics["assumed"] = [*map(notices.plain, notes), *notices.printed_lines()]
        write_json(folder / artefacts.METRICS, metrics)
    return metrics


def _write_extras(folder, extras, names, formats):
    """What a task shows of a fit; formats: of movies of its frames. -> what of it are metrics."""
    _write_panels(folder, extras, names)
    if not extras.frames:
        return {}
    _write_frames(folder, extras.frames, formats, extras.frame_rate)
    return {"frames_per_second": extras.frame_rate or None}


def write_usage(workdir: Workdir, model: Model, found: Fit) -> None:
    """usage.json and atoms.png: how often and how much experts serve, and what they look like."""
    importance = np.abs(found.codes).mean(0)
    usage = (found.codes != 0).mean(0)
    workdir.write_json("usage.json", {"usage": usage, "importance": importance})
    if len(model.grid_shape) != 2:
        return
    order = np.argsort(-importance)[:32].astype(np.int32)
    atoms = model.dictionary.basis_of(grid(model.grid_shape), order)
    images = np.moveaxis(np.asarray(atoms), 1, 0).reshape(len(order), *model.grid_shape, -1)
    # Where codes are dense every expert serves every signal.
    shares = usage[order] if usage.min() < 1 else None
    pictures.atoms_sheet(workdir.atoms, images, usage=shares, experts=order.tolist())


def _storage(task, exact, fit, truth, collection, config):
    """Bits of a stored signal, and what rounding its codes costs."""
    dtype, signals = config.fit.codes_dtype, len(fit)
    experts, correction = fit.dictionary.num_experts, fit.correction
    sparse = bool(config.fit.top_k)
    found = {
        "codes_dtype": dtype,
        "bits_per_signal": rounding.bits_per_signal(exact.codes, fit.channels, dtype, sparse),
        "shared_bits_per_signal": rounding.shared_bits(experts, dtype) / signals,
        "correction_bits_per_signal": 0 if correction is None else 32 * correction[0].size,
    }
    if dtype == "float32":
        return found
    found["residual_of"] = "codes in float32"
    own = 8 * np.dtype(dtype).itemsize * experts
    if own + found["shared_bits_per_signal"] >= 32 * experts:
        say(
            f"fit.codes_dtype: {dtype}: with the range of every number, which signals share, "
            f"{signals} of them take no less than in float32; fit.codes_dtype=float32 loses nothing"
        )
    if truth is not None:
        scores = [
            scoring.evaluate(task, some, collection, config.render.chunk) for some in (exact, fit)
        ]
        if "psnr" in scores[0]:
            found["rounding_loss"] = scores[0]["psnr"] - scores[1]["psnr"]
    return found


def storage_line(metrics: Mapping[str, Any]) -> str:
    """In words what rounded codes take and lose; '' where nothing was rounded or known."""
    if "rounding_loss" not in metrics:
        return ""
    words = f"codes in {metrics['codes_dtype']}: {metrics['bits_per_signal']} bits a signal"
    for key, what in (("shared", "of what signals share"), ("correction", "of the correction")):
        bits = metrics[f"{key}_bits_per_signal"]
        words += f" + {bits:.0f} {what}" if bits else ""
    return f"{words}, {metrics['rounding_loss']:.3f} dB lost"


def write_plain(
    folder: Path, signals: Sequence[Float[np.ndarray, "*grid C"]], names: Sequence[str], unit: bool
) -> None:
    """FOLDER/0000_NAME.png of every signal at its own size, or .npy of what is no picture.

    unit: whether values are those of pictures, from 0 to 1; others are kept as the numbers they
    are, as are signals of other than two axes and of other than one or three channels. Within a
    folder that is renamed as a whole: files are not secured one by one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with refusals_named(folder):
        for index, (signal, name) in enumerate(zip(signals, names, strict=True)):
            target = folder / file_name(index, name)
            if unit and signal.ndim == 3 and signal.shape[-1] in (1, 3):
                image = pictures.displayed(pictures.to_uint8(signal))
                Image.fromarray(image).save(target.with_name(f"{target.name}.png"))
            else:
                np.save(target.with_name(f"{target.name}.npy"), np.asarray(signal, np.float32))


def _write_panels(folder, extras, names):
    """comparison.png, and of panels whose columns are signals pictures/ and each kept panel's."""
    rows = extras.panels
    if not rows:
        return
    columns = list(extras.columns or names)
    shown = range(min(panels.COLUMNS, max(len(panel.images) for panel in rows)))
    panels.write_sheet(folder / artefacts.COMPARISON, [panel.of(shown) for panel in rows], columns)
    if extras.frames:
        return
    for index, name in enumerate(columns[: max(len(panel.images) for panel in rows)]):
        file = f"{file_name(index, name)}.png"
        if extras.draw is None:
            one = [panel.of([index]) for panel in rows if panel.has(index)]
            panels.write_sheet(folder / artefacts.PICTURES / file, one, [name])
        else:
            extras.draw(folder / artefacts.PICTURES / file, index)
        for panel in rows:
            if panel.kept and index < len(panel.images):
                image = panel.painted(index)
                gray = (image == image[..., :1]).all()
                plain = image[..., :1] if gray else image
                pictures.save_png(folder / _folder_name(panel) / file, plain)


def _folder_name(panel):
    return panel.name.replace(" ", "_")


def _write_frames(
    folder: Path,
    stacks: Mapping[str, Float[np.ndarray, "T H W C"]],
    formats: Sequence[str],
    frame_rate: float,
) -> None:
    """NAME/00000.png of every stack of frames, and all of them side by side."""
    for name, frames in stacks.items():
        for number, frame in enumerate(frames):
            pictures.save_png(folder / name / f"{number:05d}.png", frame)
    if formats:
        words = [name.replace("_", " ") for name in stacks]
        together = movies.side_by_side(list(stacks.values()), words)
    for suffix in formats:
        path = folder / f"{artefacts.SIDE_BY_SIDE}.{suffix}"
        movies.write_movie(path, together, frame_rate or movies.FRAME_RATE)
