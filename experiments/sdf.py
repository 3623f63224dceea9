"""Signed distances of unseen shapes: a dictionary beside networks per shape, DeepSDF and PCA.

    python experiments/sdf.py --scale=smoke|cpu|many --output=DIR

Built-in chairs that no method has seen, from all samples of a 48^3 grid, from 10%, 2%, 0.5% and
0.1% of them, and from clouds of 1000 oriented points; all methods in one run on the same samples,
scored on the same grid. Noise, neighbours and focus on the surface of each Gaussian are chosen on
further shapes.
Writes DIR/table.md, metrics.json, figure.png and shapes.png; dictionaries stay in DIR/dictionary.
"""

import dataclasses
import functools
import itertools
import json
import runpy
import time
from pathlib import Path
from typing import Any, NamedTuple

import grid_components
import jax
import matplotlib
import numpy as np
import siren_sdf
import trimesh
from absl import app, flags
from ml_collections import ConfigDict
from scipy.interpolate import RBFInterpolator

from nid_jax import data, devices, metrics, tasks
from nid_jax.data import to_array
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import build_model
from nid_jax.files import atomic_path
from nid_jax.fitting import batched, priors, rendering
from nid_jax.geometry import shading
from nid_jax.geometry.mesh import watertight_mesh
from nid_jax.storage import artefacts
from nid_jax.storage.workdir import Workdir
from nid_jax.training import loop

matplotlib.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
SCALES = ("smoke", "cpu", "many")
FRACTIONS = (1.0, 0.1, 0.02, 0.005, 0.001)
CLOUD = "cloud"
# What a Gaussian may choose from: standard deviation of the noise, neighbours (0: all), width of
# the weights about the surface (0: none).
NOISES = (1e-3, 3e-3, 1e-2)
NEIGHBOURS = (0, 100, 300)
FOCUSES = (0.0, 0.03)
HEADERS = ("samples", "method", "IoU", "chamfer", "normals", "F-score", "seconds a shape")


class Shapes(NamedTuple):
    """Shapes to fit: values [S, M, 1] on the grid, clouds [S, Q, 6] and true meshes."""

    values: np.ndarray
    clouds: np.ndarray
    meshes: list


class Result(NamedTuple):
    """Distances [S, M] on the grid, seconds a shape, what they took to prepare for all shapes."""

    values: np.ndarray
    seconds: float
    message: str = ""


class Setting(NamedTuple):
    """A config and the model, prior and seconds that its training gave."""

    config: Any
    task: Any
    model: Any
    prior: Any
    seconds: float


# ---- dictionaries -----------------------------------------------------------------------------


def configured(scale):
    """The config of the shapes and of the dictionary."""
    get_config = runpy.run_path(str(ROOT / "configs" / "sdf.py"))["get_config"]
    config = get_config(scale)
    config.data.num_test = 4 if scale == "smoke" else 15
    return config


@functools.cache
def opened(shapes_json, split, seed):
    """A collection of configs' data; shapes are computed once for all that look at them."""
    return data.open_collection(ConfigDict(json.loads(shapes_json)), split, seed)


def task_of(config):
    """The task of a config, on the collections that all tasks here share."""
    shapes_json = config.data.to_json(sort_keys=True)
    return dataclasses.replace(
        tasks.build(config), open=lambda split: opened(shapes_json, split, config.seed)
    )


def joint(config):
    """The paper's way: a codebook that descends with the dictionary, every code at every step.

    Of at most 200 of the shapes, without copies: a row of the codebook moves only when its shape is
    in a batch, and in minutes more shapes than that would hardly be seen.
    """
    config = config.copy_and_resolve_references()
    config.data.num_train = min(200, config.data.num_train)
    config.data.augment.warps = 0
    config.router.kind = "codebook"
    config.train.codes = "joint"
    config.train.update({"batch_size": config.data.num_train, "points": 1024})
    config.train.optimizer.update({"name": "adam", "learning_rate": 1e-3})
    config.fit.solver = "gradient"
    return config


def trained(config, folder, steps=None):
    """Train in a folder, or go on from what it holds. -> Setting."""
    if steps:
        config.train.steps = steps
    task, workdir = task_of(config), Workdir(folder)
    start = time.perf_counter()
    found = loop.train(task, config, workdir)
    prior = None
    if config.train.codes != "joint":
        prior = priors.learn_prior(task, found.model, task.open("train"), config)
    spent = time.perf_counter() - start - found.summary["compile_seconds"]
    seconds = max(spent, found.summary["train_seconds"])
    return Setting(config, task, found.model, prior, seconds)


def untrained(setting):
    """The same dictionary as it was drawn, with the prior of its own codes."""
    config = setting.config
    train = setting.task.open("train")
    model = build_model(config, train.shape, len(train), config.seed)
    prior = priors.learn_prior(setting.task, model, train, config)
    return setting._replace(model=model, prior=prior)


def fit(setting, chosen, seen, **changes):
    """Codes of chosen test shapes by the library's own fit. -> Result.

    seen: share of the grid's samples, or 'cloud'. changes: of config.fit, by flattened key.
    """
    config = setting.config.copy_and_resolve_references()
    config.fit.samples.seen = CLOUD if seen == CLOUD else "grid"
    if seen != CLOUD:
        config.fit.samples.fraction = seen
    config.fit.update_from_flattened_dict(changes)
    config.fit.num_signals = 0
    task = task_of(config)
    collection = Chosen(task.open("test"), chosen)
    fitted = batched.fit(task, setting.model, collection, config, prior=setting.prior)
    gates = rendering.gates_of(fitted.codes, fitted.bias)
    values = rendering.render(setting.model.dictionary, gates, collection.shape[:-1])
    seconds = (fitted.seconds_total - fitted.seconds_compile) / len(chosen)
    return Result(values.reshape(len(values), -1), seconds, fitted.message)


class Chosen:
    """Some shapes of a collection, with all that the collection knows of them."""

    def __init__(self, collection, chosen):
        self._collection, self._chosen = collection, list(chosen)
        self.names = [collection.names[i] for i in chosen]
        self.shape, self.title = collection.shape, collection.title

    def __len__(self):
        return len(self._chosen)

    def __getitem__(self, index):
        return self._collection[self._chosen[index]]

    def cloud(self, index):
        """Of the collection's shape."""
        return self._collection.cloud(self._chosen[index])

    def denormalise(self, index):
        """Of the collection's shape."""
        return self._collection.denormalise(self._chosen[index])


# ---- the comparison ---------------------------------------------------------------------------


def shapes(setting, chosen):
    """What is known of some test shapes, and their true surfaces."""
    collection = setting.task.open("test")
    clouds = setting.task.measure(collection).cloud
    return Shapes(
        np.stack([collection[i].reshape(-1, 1) for i in chosen]),
        np.stack([clouds(i) for i in chosen]),
        [collection.mesh(i) for i in chosen],
    )


def places_of(setting, fraction):
    """The grid's samples that a fit of this share sees, as raster numbers."""
    side = setting.config.data.size[0]
    config = setting.config.copy_and_resolve_references()
    config.fit.samples.update({"seen": "grid", "fraction": fraction})
    task = task_of(config)
    points = np.asarray(task.measure(task.open("test")).operator.points)
    return np.ravel_multi_index(
        tuple(np.round((points + 1) / 2 * (side - 1)).astype(int).T), (side,) * 3
    )


def iou_of(result, truth):
    """Mean volumetric IoU of a Result."""
    return float(metrics.iou(result.values, truth.values[..., 0]).mean())


def tuned(solve, truth, size, fraction):
    """The (noise, neighbours, focus) of highest IoU. solve(noise, neighbours, focus) -> Result.

    Where all is measured only the focus is left to choose; of many samples one prior serves all.
    """
    noises = NOISES if fraction < 1 else NOISES[:1]
    kinds = NEIGHBOURS if fraction < 0.1 else (0,)
    options = [o for o in itertools.product(noises, kinds, FOCUSES) if o[1] < size]
    return max(options, key=lambda option: iou_of(solve(*option), truth))


def grid_mesh(values):
    """Surface of distances [N^3] on the grid; empty where they have none. -> trimesh.Trimesh."""
    side = round(len(values) ** (1 / 3))
    if not values.min() < 0 < values.max():
        return trimesh.Trimesh(process=False)
    return watertight_mesh(values.reshape(side, side, side))


def score(result, truth):
    """IoU on the grid and measures of the grid's mesh, each a mean over shapes."""
    rows = []
    for values, mesh in zip(result.values, truth.meshes, strict=True):
        found = grid_mesh(values)
        rows.append(metrics.compare(found, mesh, 20000, 0, 0.02))
    keys = ("chamfer", "normal_consistency", "fscore")
    row = {key: float(np.mean([r[key] for r in rows])) for key in keys}
    row |= {"iou": iou_of(result, truth), "seconds": result.seconds}
    return row | {"empty": sum(not np.isfinite(r["chamfer"]) for r in rows)}


def most_probable_components(known, places, values, noise, neighbours, focus):
    """`grid_components.fit`, timed. -> Result."""
    start = time.perf_counter()
    found = grid_components.fit(known, values, places, noise, neighbours, focus)
    return Result(found, (time.perf_counter() - start) / len(values))


def gaussians(settings, known, fraction, held, truth, tuning):
    """Every Gaussian at one share of samples, tuned on the held shapes. -> {name: Result}."""
    found = {}
    count, extra = len(truth.values), range(len(truth.values), len(truth.values) + len(held.values))
    for name, setting in settings.items():

        def solve(noise, neighbours, focus, chosen=extra, setting=setting):
            changes = {"gaussian.noise": noise, "gaussian.neighbours": neighbours}
            changes["samples.focus"] = focus
            return fit(setting, chosen, fraction, solver="gaussian", **changes)

        best = tuned(solve, held, len(setting.prior.codes), fraction)
        tuning[f"{name}, {fraction}"] = best
        found[name] = solve(*best, chosen=range(count))
    solve = functools.partial(most_probable_components, known, places_of(setting, fraction))
    best = tuned(
        lambda n, k, f: solve(held.values, noise=n, neighbours=k, focus=f),
        held,
        len(known.prior.codes),
        fraction,
    )
    tuning[f"PCA, {fraction}"] = best
    # Once for what is compiled.
    solve(truth.values, *best)
    found[f"PCA of the grids, {len(known.modes)} components"] = solve(truth.values, *best)
    return found


def sirens(points, truth, seconds, places=None):
    """A SIREN per shape from samples at places, or from clouds (None). -> Result."""
    values, spent = [], []
    for number, grid_values in enumerate(truth.values):
        cloud = truth.clouds[number]
        if places is None:
            given = {"points": cloud[:, :3], "normals": cloud[:, 3:]}
        else:
            given = {"points": points[places], "values": grid_values[places, 0]}
        siren = siren_sdf.fit_siren(**given, seconds=seconds, seed=number)
        values.append(siren(points))
        spent.append(siren.fit.seconds)
    return Result(np.stack(values), float(np.mean(spent)))


def rbf(points, truth, places=None, delta=0.02):
    """Radial basis functions through samples, or through a cloud and points off it. -> Result.

    Biharmonic, of the 50 nearest points; off the surface as Carr et al. 2001.
    """
    start, values = time.perf_counter(), []
    for number, grid_values in enumerate(truth.values):
        if places is None:
            x, normals = np.split(truth.clouds[number].astype(np.float64), 2, 1)
            x = np.concatenate([x, x + delta * normals, x - delta * normals])
            y = np.repeat([0.0, delta, -delta], len(normals))
        else:
            x, y = points[places], grid_values[places, 0]
        model = RBFInterpolator(x, y, neighbors=50, kernel="linear", degree=0)
        values.append(model(points))
    return Result(np.stack(values), (time.perf_counter() - start) / len(truth.values))


def peers(setting, decoder, truth, fraction, seconds):
    """Networks per shape, DeepSDF, and interpolation, at one share. -> {name: Result}."""
    points = grid(tuple(setting.config.data.size))
    places = places_of(setting, fraction)
    found = {}
    quick = max(seconds, 0.02)
    if fraction in (1.0, 0.02):
        found["SIREN per shape, the same seconds"] = sirens(points, truth, quick, places)
        found["SIREN per shape, 10 times"] = sirens(points, truth, 10 * quick, places)
    if fraction == 0.02:
        everywhere = np.arange(len(points))
        found["SIREN of all samples, the same seconds"] = sirens(points, truth, quick, everywhere)
    latents, spent = decoder.infer(
        points[places], truth.values[:, places, 0], seconds=max(20 * quick, 1), limit=2000
    )
    values = decoder(latents, points)
    found["auto-decoder (DeepSDF)"] = Result(values, spent.seconds / len(values))
    if fraction < 0.1:
        found["biharmonic RBF"] = rbf(points, truth, places)
    return found


def from_clouds(settings, truth):
    """All that works from oriented points alone. -> {name: Result}."""
    points = grid(tuple(next(iter(settings.values())).config.data.size))
    found = {}
    for name, setting in settings.items():
        for label, iterations in (("surface, linear", 0), ("surface, Gauss-Newton", 10)):
            changes = {"solver": "surface", "surface.iterations": iterations}
            result = fit(setting, range(len(truth.values)), CLOUD, **changes)
            found[f"{name}, {label}"] = result
        seconds = result.seconds
    found["SIREN per shape, the same seconds"] = sirens(points, truth, seconds)
    found["SIREN per shape, 10 times, 8 s at most"] = sirens(points, truth, min(10 * seconds, 8))
    found["RBF of offset points (Carr)"] = rbf(points, truth)
    return found


def compare(settings, paper, decoder, known, folder):
    """All methods at all shares. -> scores {samples: {method: row}}, choices of the tuning."""
    main = next(iter(settings.values()))
    total = main.config.data.num_test
    held_count = total // 3
    truth = shapes(main, range(total - held_count))
    held = shapes(main, range(total - held_count, total))
    scores, tuning, drawn = {}, {}, {}
    for fraction in FRACTIONS:
        results = gaussians(settings, known, fraction, held, truth, tuning)
        count = range(len(truth.values))
        results["NID, ridge without the prior"] = fit(
            main, count, fraction, **{"solver": "ridge", "ridge.lam": "gcv", "samples.focus": 0.0}
        )
        if fraction in (1.0, 0.02):
            results["NID as in the paper: joint, gradient"] = fit(
                paper, count, fraction, **{"samples.focus": 0.0}
            )
        results |= peers(main, decoder, truth, fraction, next(iter(results.values())).seconds)
        scores[f"{100 * fraction:g}%"] = scored(results, truth, f"{100 * fraction:g}%")
        drawn[f"{100 * fraction:g}%"] = next(iter(results.values()))
    results = from_clouds(dict([next(iter(settings.items()))]), truth)
    scores["cloud of 1000"] = scored(results, truth, "cloud")
    drawn["cloud"] = next(iter(results.values()))
    draw_shapes(folder / "shapes.png", truth, drawn)
    return scores, tuning


def scored(results, truth, samples):
    """Score results and say so as they come."""
    rows = {}
    for name, result in results.items():
        rows[name] = score(result, truth)
        print(f"{samples}: {name}: {rows[name]}", flush=True)
    return rows


# ---- what is written --------------------------------------------------------------------------


def draw_shapes(path, truth, drawn, count=5):
    """Truth above what the dictionary makes of less and less."""
    count = min(count, len(truth.meshes))
    rows = [shading.frames(truth.meshes[:count], 160)]
    for result in drawn.values():
        meshes = [grid_mesh(values) for values in result.values[:count]]
        pairs = zip(meshes, truth.meshes, strict=False)
        cameras = [(mesh, shading.Camera.around([true])) for mesh, true in pairs]
        rows.append(np.stack([shading.shade(mesh, 160, camera) for mesh, camera in cameras]))
    figure, axes = pyplot.subplots(len(rows), count, figsize=(1.5 * count, 1.5 * len(rows)))
    for line, pictures, name in zip(axes, rows, ("truth", *drawn), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        line[0].set_ylabel(name)
    save(figure, path)


def draw(path, scores):
    """IoU against the share of samples, a curve for each method that has one."""
    shares = [name for name in scores if name.endswith("%")]
    methods = dict.fromkeys(method for share in shares for method in scores[share])
    figure, axis = pyplot.subplots(figsize=(7, 4.2))
    for method in methods:
        have = [share for share in shares if method in scores[share]]
        if len(have) > 1:
            x = [float(share[:-1]) for share in have]
            y = [scores[share][method]["iou"] for share in have]
            axis.plot(x, y, marker="o", markersize=3, label=method)
    axis.set(xscale="log", xlabel="samples of the grid, %", ylabel="IoU, unseen shapes")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.grid(alpha=0.3)
    save(figure, path)


def save(figure, path):
    """A figure as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def table(scores, note):
    """The comparison in Markdown."""
    lines = ["| " + " | ".join(HEADERS) + " |", "| --- | --- |" + " ---: |" * (len(HEADERS) - 2)]
    for samples, rows in scores.items():
        for method, row in rows.items():
            numbers = [
                f"{row['iou']:.3f}",
                f"{row['chamfer']:.4f}" if np.isfinite(row["chamfer"]) else "no surface",
                f"{row['normal_consistency']:.3f}",
                f"{row['fscore']:.3f}",
                f"{row['seconds']:.3g}",
            ]
            lines.append("| " + " | ".join([samples, method, *numbers]) + " |")
    return "\n".join([*lines, "", note, ""])


def main(argv):
    """Run the comparison."""
    del argv
    folder, scale = Path(OUTPUT.value), SCALE.value
    config = configured(scale)
    setting = trained(config, folder / "dictionary")
    print(f"dictionary: {setting.seconds:.0f} s", flush=True)
    paper = trained(joint(config), folder / "paper", 20 if scale == "smoke" else 1500)
    print(f"the paper's way: {paper.seconds:.0f} s", flush=True)
    collection = setting.task.open("train")
    known = grid_components.components(collection, config.dictionary.num_experts)
    decoder = siren_sdf.fit_auto_decoder(
        grid(tuple(config.data.size)),
        to_array(collection).reshape(len(collection), -1),
        # Levelled distances reach no limit that a network's would have to be cut off at.
        truncation=config.data.truncation if config.data.truncation_kind == "clip" else None,
        seconds=2 if scale == "smoke" else min(setting.seconds, 180),
        latent_size=128,
    )
    settings = {"NID, Gaussian prior": setting, "untrained, Gaussian prior": untrained(setting)}
    scores, tuning = compare(settings, paper, decoder, known, folder)
    made = ", ".join(f"{key} {value}" for key, value in devices.versions().items())
    training_seconds = {
        "dictionary and prior, with the chairs computed": setting.seconds,
        "the paper's way": paper.seconds,
        "auto-decoder": decoder.fit.seconds,
    }
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in training_seconds.items())
    note = (
        f"Means over {config.data.num_test - config.data.num_test // 3} unseen chairs on "
        f"{config.data.size[0]}^3 samples; {len(collection)} training grids of "
        f"{config.data.num_train} chairs. Chamfer and F-score (at 0.02) in units of the cube "
        f"[-1, 1]^3. Seconds without compilation; training: {spent}. {made}"
    )
    text = table(scores, note)
    artefacts.write_text(folder / "table.md", text)
    results = {"scores": scores, "tuning": tuning, "training_seconds": training_seconds}
    artefacts.write_json(folder / "metrics.json", {**results, "versions": devices.versions()})
    draw(folder / "figure.png", scores)
    jax.clear_caches()
    print(text)


if __name__ == "__main__":
    SCALE = flags.DEFINE_enum("scale", "cpu", SCALES, "How large.")
    OUTPUT = flags.DEFINE_string("output", "runs/sdf", "Folder of the results.")
    app.run(main)
