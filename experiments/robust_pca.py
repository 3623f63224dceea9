"""Background and foreground of a video: a dictionary beside robust PCA.

    python experiments/robust_pca.py --scale=smoke|cpu|paper --output=DIR

The built-in clip, whose background and moving objects are known, without and with noise; all
methods on the same frames in one run, all masks by one threshold. Writes DIR/table.md,
metrics.json, figure.png and frames.png; the dictionaries it trained stay in DIR/dictionary.

    python experiments/robust_pca.py --codings --output=DIR

Instead: what rank and mask are chosen for a moving disc coded with loss, or under noise. Writes
DIR/codings.md and codings.json; nothing is trained.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from measuring import command
from measuring.command import clocked
from measuring.dictionaries import learned
from peers import low_rank
from studies import video_codings

from nid_jax import LowRank, learning, tasks
from nid_jax.coding.operators import sample
from nid_jax.coding.solvers import solver_from_config
from nid_jax.data import to_array
from nid_jax.fitting import refining, rendering
from nid_jax.notices import sides
from nid_jax.storage import artefacts
from nid_jax.tasks import video

SCALES = ("smoke", "cpu", "paper")
# One for all methods, which the dictionary's own choice would not be.
THRESHOLD = 0.05
# Name -> (gray, standard deviation of the noise).
CLIPS = {"gray": (True, 0.0), "gray, noise 0.02": (True, 0.02), "colour": (False, 0.0)}
NUMBERS = {"precision": "precision", "recall": "recall", "F": "f"}
COLUMNS = {
    "clip": lambda row: row["clip"],
    "method": lambda row: row["method"],
    "background dB": lambda row: "exact" if row["psnr"] is None else f"{row['psnr']:.2f}",
    **{head: lambda row, key=key: f"{row[key]:.3f}" for head, key in NUMBERS.items()},
    "rank": lambda row: row["rank"],
    "seconds": lambda r: f"{r['seconds']:.2f}" + (f" + {r['training']:.0f}" * (r["training"] > 0)),
}


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
    """The clip of a collection that knows its truth."""
    count = range(len(collection))
    parts = (collection.truth, collection.foreground)
    return Clip(to_array(collection), *(np.stack([one(i) for i in count]) for one in parts))


def timed(shape, function, *arguments):
    """Result of function(*arguments), a background of that shape however laid out."""
    background, seconds = clocked(function, *arguments)
    return Result(np.asarray(background, np.float32).reshape(shape), seconds)


def truncated_svd(rows, rank):
    """The nearest frames [T, V] of that rank in squared error: PCA without a mean."""
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def as_trained(model, shape):
    """Frames from the codebook that was trained along with the dictionary, as the paper has it."""
    gates = model.gates(jnp.arange(shape[0]))
    return rendering.render(model.dictionary, gates, shape[1:-1])


def dictionary_methods(config, folder):
    """-> (Clip, {method: Result} of the dictionary's, trained and untrained)."""
    task = tasks.build(config)
    trained = learned(task, config, folder)
    clip = known(task.open("train"))
    shape = clip.frames.shape
    codes = timed(shape, as_trained, trained.dictionary.model, shape)
    # Codes by the robust solver, the dictionary frozen.
    solver, refinement = solver_from_config(config.fit), refining.from_config(config.fit.refine)
    robust = trained.dictionary.fit(clip.frames, solver=solver)
    fresh = learning.untrained(task, config).fit(clip.frames, solver=solver).refine(refinement)
    results = {"NID, codes as trained": codes._replace(training=trained.training)}
    for name, fit, training in (
        ("NID, robust codes", robust, trained.training),
        ("NID, refined", robust.refine(refinement), trained.training),
        ("untrained, refined", fresh, 0.0),
    ):
        results[name] = Result(fit.render(), fit.seconds - fit.compile_seconds, training)
    return clip, results


def peer_methods(clip, rank, steps):
    """{method: Result} of what learns nothing. rank: of the dictionary's background."""
    frames, shape = clip.frames, clip.frames.shape
    rows, grid, cube = frames.reshape(len(frames), -1), shape[1:-1], (len(frames), -1, shape[-1])
    svd = timed(shape, truncated_svd, rows, rank)

    def refined():
        """What the refinement makes of any start of that rank, no dictionary needed."""
        start, given = svd.background.reshape(cube), frames.reshape(cube)
        return LowRank(rank=rank, steps=steps).refine(sample(grid), grid, start, given)

    refined()  # compiles
    after = timed(shape, refined)
    return {
        "principal component pursuit": timed(
            shape, lambda: low_rank.principal_component_pursuit(rows)[0]
        ),
        "median": timed(shape, lambda: np.broadcast_to(np.median(frames, axis=0), shape)),
        "truncated SVD": svd,
        "truncated SVD, refined": after._replace(seconds=after.seconds + svd.seconds),
        "true background": Result(clip.truth, 0.0),
    }


def mask_of(difference, threshold):
    """bool [T, H, W]: where any channel of frame - background [T, H, W, C] exceeds `threshold`."""
    return np.abs(difference).max(axis=-1) > threshold


def rank_of(background):
    """Singular values above 1e-3 of the largest."""
    return video.numerical_rank(background.reshape(len(background), -1))


def score(clip, background, threshold) -> dict[str, Any]:
    """PSNR of the background as saved (mean over frames), its rank, and the mask's score."""
    shown = np.clip(background, 0, 1)
    errors = np.square(shown - clip.truth).mean((1, 2, 3))
    found = video.mask_score(mask_of(clip.frames - shown, threshold), clip.moving)
    with np.errstate(divide="ignore"):
        psnr = float(-10 * np.log10(errors).mean()) if errors.any() else None
    found = {key.replace("f_measure", "f"): float(value) for key, value in found.items()}
    return {"psnr": psnr, **found, "rank": rank_of(background)}


def sheet(path, clip, results, threshold, number):
    """One frame under every method."""
    frame, rows = clip.frames[number], {}
    for name, result in results.items():
        shown = np.clip(result.background[number], 0, 1)
        mask = mask_of((frame - shown)[None], threshold)[0, ..., None]
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
        {"clip": clip, "method": method, **row}
        for clip, methods in scores.items()
        for method, row in methods.items()
    ]
    table = command.table(COLUMNS, rows)
    command.write(folder, f"{table}\n{note}", {"results": scores}, draw(scores))
    return table


def configured(scale, gray, noise):
    """The config of one clip."""
    changes = {"data.gray": gray, "data.clip.noise": noise, "fit.threshold": THRESHOLD}
    if scale == "paper":
        # Frames of a surveillance camera's size.
        changes |= {"data.size": (240, 320), "data.clip.num_frames": 200, "train.steps": 5000}
    return command.config_of("video", "smoke" if scale == "smoke" else "cpu", changes)


def run_codings(folder):
    """codings.md and codings.json."""
    rows = []
    for row in video_codings.study():
        rows.append(row)
        print(row, flush=True)
    table = command.table(video_codings.COLUMNS, rows)
    note = f"Rank and threshold as chosen, from a truncated SVD. {command.made()}"
    command.write_page(folder / "codings.md", f"{table}\n{note}")
    artefacts.write_json(folder / "codings.json", {"results": rows}, 2)
    print(table)


def run(scale, folder, codings):
    """Run the comparison, or the study of codings."""
    if codings:
        run_codings(folder)
        return
    scores, clips = {}, list(CLIPS.items())
    for number, (name, (gray, noise)) in enumerate(clips[: 1 if scale == "smoke" else None]):
        config = configured(scale, gray, noise)
        place = folder / "dictionary" / artefacts.file_name(number, name)
        clip, results = dictionary_methods(config, place)
        rank = rank_of(results["NID, refined"].background)
        results |= peer_methods(clip, rank, config.fit.refine.steps)
        scores[name] = {}
        for method, result in results.items():
            row = score(clip, result.background, config.fit.threshold)
            row |= {"seconds": result.seconds, "training": result.training}
            scores[name][method] = row
            print(f"{name}: {method}: {row}", flush=True)
        name = f"frames_{number}.png" if number else "frames.png"
        sheet(folder / name, clip, results, config.fit.threshold, len(clip.frames) // 2)
    note = (
        f"{len(clip.frames)} frames of {sides(clip.frames.shape[1:3])}; masks: "
        f"residuals above {config.fit.threshold}; rank: singular values above 1e-3 of the largest; "
        f"seconds without compilation, + training. {command.made()}"
    )
    print(write(folder, scores, note))
    print(folder / "table.md")


if __name__ == "__main__":
    codings = flags.DEFINE_bool("codings", False, "The study of lossy codings and noise instead.")
    command.start(run, "robust_pca", SCALES, codings)
