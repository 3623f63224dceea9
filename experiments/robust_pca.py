"""Background and foreground of a video: a dictionary beside robust PCA.

    python experiments/robust_pca.py --scale=smoke|cpu|paper --output=DIR

The built-in clip, whose background and moving objects are known, without and with noise; all
methods on the same frames in one run, all masks by one threshold. Writes DIR/table.md,
metrics.json, figure.png and frames.png; the dictionaries it trained stay in DIR/dictionary.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from measuring import command, dictionaries
from measuring.command import clocked
from peers import low_rank

from nid_jax.coding.refinement import refine_atoms
from nid_jax.data import to_array
from nid_jax.fitting import rendering
from nid_jax.reporting import tables
from nid_jax.storage import artefacts

SCALES = ("smoke", "cpu", "paper")
# Name -> (gray, standard deviation of the noise).
CLIPS = {"gray": (True, 0.0), "gray, noise 0.02": (True, 0.02), "colour": (False, 0.0)}
HEADERS = ("clip", "method", "background dB", "precision", "recall", "F", "rank", "seconds")


class Clip(NamedTuple):
    """frames, truth [T, H, W, C]: with and without what moves; moving bool [T, H, W]."""

    frames: np.ndarray
    truth: np.ndarray
    moving: np.ndarray


class Result(NamedTuple):
    """A background [T, H, W, C], the seconds it took and those of training before."""

    background: np.ndarray
    seconds: float
    training: float = 0.0


def known(collection):
    """A clip of a collection that knows its truth."""
    count = len(collection)
    truth = np.stack([collection.truth(index) for index in range(count)])
    moving = np.stack([collection.foreground(index) for index in range(count)])
    return Clip(to_array(collection), truth, moving)


def timed(function, *arguments):
    """Result of function(*arguments) -> background."""
    background, seconds = clocked(function, *arguments)
    return Result(np.asarray(background, np.float32), seconds)


def truncated_svd(frames, rank):
    """The nearest frames of that rank in squared error: PCA without a mean."""
    left, values, right = np.linalg.svd(frames.reshape(len(frames), -1), full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(frames.shape)


def pursuit(frames):
    """The low-rank part of principal component pursuit, at its authors' settings."""
    low, _, _ = low_rank.principal_component_pursuit(frames.reshape(len(frames), -1))
    return low.reshape(frames.shape)


def refined_from(start, frames, rank, steps):
    """What the refinement makes of any start of that rank, no dictionary needed."""
    flat = [values.reshape(len(frames), -1, frames.shape[-1]) for values in (start, frames)]
    return np.asarray(refine_atoms(*flat, rank=rank, steps=steps)).reshape(frames.shape)


def as_trained(model, shape):
    """Frames from the codebook that was trained along with the dictionary, as the paper has it."""
    gates = model.gates(jnp.arange(shape[0]))
    return rendering.render(model.dictionary, gates, shape[1:-1])


def dictionary_methods(config, folder):
    """-> (Clip, {method: Result} of the dictionary's, trained and untrained)."""
    trained = dictionaries.trained(config, folder, prior=False)
    fresh = dictionaries.untrained(config, prior=False)
    collection = trained.task.open("train")
    clip = known(collection)
    results = {"NID, codes as trained": timed(as_trained, trained.model, clip.frames.shape)}
    for name, dictionary, refine in (
        ("NID, robust codes", trained, "none"),
        ("NID, refined", trained, "atoms"),
        ("untrained, refined", fresh, "atoms"),
    ):
        # Codes by the robust solver, the dictionary frozen.
        found = dictionary.fit(collection, dictionary.wanted(**{"refine.kind": refine}))
        results[name] = Result(found.values, found.seconds)
    for name, result in results.items():
        if name.startswith("NID"):
            results[name] = result._replace(training=trained.training)
    return clip, results


def peer_methods(clip, rank, steps):
    """{method: Result} of what learns nothing. rank: of the dictionary's background."""
    frames = clip.frames
    svd = timed(truncated_svd, frames, rank)
    refined_from(svd.background, frames, rank, steps)  # compiles
    refined = timed(refined_from, svd.background, frames, rank, steps)
    return {
        "principal component pursuit": timed(pursuit, frames),
        "median": timed(low_rank.median_background, frames),
        "truncated SVD": svd,
        "truncated SVD, refined": refined._replace(seconds=refined.seconds + svd.seconds),
        "true background": Result(clip.truth, 0.0),
    }


def score(clip, background, threshold) -> dict[str, Any]:
    """PSNR of the background as saved (mean over frames), its rank, and the mask's score."""
    shown = np.clip(background, 0, 1)
    errors = np.square(shown - clip.truth).mean((1, 2, 3))
    mask = low_rank.foreground_mask(clip.frames - shown, threshold)
    found = low_rank.f_measure(mask, clip.moving)
    with np.errstate(divide="ignore"):
        psnr = float(-10 * np.log10(errors).mean()) if errors.any() else None
    rank = low_rank.numerical_rank(background)
    return {"psnr": psnr, **found._asdict(), "rank": rank}


def sheet(path, clip, results, threshold, number):
    """One frame under every method."""
    frame, rows = clip.frames[number], {}
    for name, result in results.items():
        shown = np.clip(result.background[number], 0, 1)
        mask = low_rank.foreground_mask((frame - shown)[None], threshold)[0, ..., None]
        residual = 0.5 + 2 * (frame - shown)
        rows[name] = np.stack([frame, shown, residual, np.broadcast_to(mask, frame.shape)])
    command.sheet(path, rows, title="frame, background, 0.5 + 2 x residual, mask")


def draw(scores):
    """PSNR of the background and F of the foreground, clip by clip."""
    figure, panels = command.panels(1, len(scores), 4.2, 4.2)
    colours = matplotlib.colormaps["tab10"]
    for panel, (name, rows) in zip(panels[0], scores.items(), strict=True):
        for number, (method, row) in enumerate(rows.items()):
            if row["psnr"] is None:
                panel.axhline(row["f"], color="0.6", linewidth=1, linestyle="--")
                continue
            label = f"{method} (rank {row['rank']})"
            # Rings of several sizes, because some lie on one another.
            ring = {"s": 300 - 34 * number, "facecolors": "none", "linewidths": 2}
            panel.scatter(row["psnr"], row["f"], edgecolors=colours(number), label=label, **ring)
        panel.set(title=name, xlabel="background, dB", ylabel="foreground, F-measure")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=7, loc="lower right", markerscale=0.5)
    figure.suptitle("Dashed: the mask that the true background gives")
    return figure


def write(folder, scores, note):
    """table.md, metrics.json and figure.png. -> the table."""
    rows = [
        [
            clip,
            method,
            "exact" if row["psnr"] is None else f"{row['psnr']:.2f}",
            *(f"{row[key]:.3f}" for key in ("precision", "recall", "f")),
            row["rank"],
            f"{row['seconds']:.2f}" + (f" + {row['training']:.0f}" if row["training"] else ""),
        ]
        for clip, methods in scores.items()
        for method, row in methods.items()
    ]
    table = tables.markdown_table(rows, list(HEADERS))
    command.write(folder, f"{table}\n{note}", {"results": scores}, draw(scores))
    return table


def configured(scale, gray, noise):
    """The config of one clip."""
    config = command.config_of("video", "smoke" if scale == "smoke" else "cpu")
    config.data.gray, config.data.clip.noise = gray, noise
    if scale == "paper":
        # Frames of a surveillance camera's size.
        config.data.size = (240, 320)
        config.data.clip.num_frames = 200
        config.train.steps = 5000
    return config


def run(scale, folder):
    """Run the comparison."""
    scores, clips = {}, list(CLIPS.items())
    for number, (name, (gray, noise)) in enumerate(clips[: 1 if scale == "smoke" else None]):
        config = configured(scale, gray, noise)
        place = folder / "dictionary" / artefacts.file_name(number, name)
        clip, results = dictionary_methods(config, place)
        rank = low_rank.numerical_rank(results["NID, refined"].background)
        results |= peer_methods(clip, rank, config.fit.refine.steps)
        scores[name] = {}
        for method, result in results.items():
            row = score(clip, result.background, config.fit.threshold)
            row |= {"seconds": result.seconds, "training": result.training}
            scores[name][method] = row
            print(f"{name}: {method}: {row}", flush=True)
        name = f"frames_{number}.png" if number else "frames.png"
        middle = len(clip.frames) // 2
        sheet(folder / name, clip, results, config.fit.threshold, middle)
    note = (
        f"{len(clip.frames)} frames of {' x '.join(map(str, clip.frames.shape[1:3]))}; masks: "
        f"residuals above {config.fit.threshold}; rank: singular values above 1e-3 of the largest; "
        f"seconds without compilation, + training. {command.made()}"
    )
    print(write(folder, scores, note))
    print(folder / "table.md")


if __name__ == "__main__":
    command.start(run, "robust_pca", SCALES)
