"""Signed distances of unseen shapes: a dictionary beside PCA, networks per shape and DeepSDF.

    python experiments/sdf.py --scale=smoke|cpu|many [--part=grids|networks] --output=DIR

Built-in chairs that no method has seen, from all samples of a 48^3 grid, from 10%, 2%, 0.5% and
0.1% of them, and from clouds of 1000 oriented points; all methods on the same samples, scored on
the same grid. PCA of the grids has the shapes, copies and number of components that the dictionary
has, in the same run. Noise, neighbours and focus on the surface of each Gaussian are chosen on
further shapes.
--part=grids: the dictionary and PCA alone; --part=networks: the rest, beside what DIR holds.
Writes DIR/table.md, metrics.json, figure.png and shapes.png; dictionaries stay in DIR/dictionary.
"""

import dataclasses
import functools
import itertools
import json
import time
from typing import NamedTuple

import numpy as np
import trimesh
from absl import flags
from measuring import command
from measuring.command import clocked
from measuring.dictionaries import changed, learned
from ml_collections import ConfigDict
from peers import components, siren_sdf
from scipy.interpolate import RBFInterpolator

from nid_jax import data, metrics, tasks
from nid_jax.configs.sdf import trunk
from nid_jax.data import SubsetCollection, to_array
from nid_jax.fields.coordinates import grid
from nid_jax.geometry import shading
from nid_jax.geometry.mesh import watertight_mesh

SCALES = ("smoke", "cpu", "many")
FRACTIONS = (1.0, 0.1, 0.02, 0.005, 0.001)
CLOUD = "cloud"
# What a Gaussian may choose from: standard deviation of the noise, neighbours (0: all), width of
# the weights about the surface (0: none).
NOISES = (1e-4, 3e-4, 1e-3, 3e-3)
NEIGHBOURS = (0, 100, 300)
FOCUSES = (0.0, 0.03)
NID = "NID, Gaussian prior"
SIREN_SECONDS = 8.0
"""At most, of a network of one shape that may take longer than a fit."""
DICTIONARY = "dictionary and prior, with the chairs computed"
LONGER = f"SIREN per shape, 10 times, {SIREN_SECONDS:g} s at most"


class Shapes(NamedTuple):
    """Shapes to fit: values [S, M, 1] on the grid, clouds [S, Q, 6], true meshes, and which of the
    test split they are."""

    values: np.ndarray
    clouds: np.ndarray
    meshes: list
    numbers: range = range(0)


class Result(NamedTuple):
    """Distances [S, M] on the grid, and seconds a shape."""

    values: np.ndarray
    seconds: float


# ---- dictionaries -----------------------------------------------------------------------------


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


def joint(config, steps):
    """The paper's way: a codebook that descends with the dictionary, every code at every step.

    Of at most 200 of the shapes, without copies: a row of the codebook moves only when its shape is
    in a batch, and in minutes more shapes than that would hardly be seen.
    """
    count = min(200, config.data.num_train)
    config = config.copy_and_resolve_references()
    trunk(config)
    config = changed(
        config,
        {
            "dictionary.width": 1024,
            "data.num_train": count,
            "data.augment.warps": 0,
            "prior.num_signals": 0,
        },
        **{"router.kind": "codebook", "train.codes": "joint", "fit.solver": "gradient"},
    )
    config.train.update({"batch_size": count, "points": 1024, "steps": steps})
    config.train.optimizer.update({"name": "adam", "learning_rate": 1e-3})
    return config


def fit(dictionary, truth, seen, **changes):
    """Codes of shapes by the library's own fit. -> Result.

    seen: share of the grid's samples, or 'cloud'. changes: of config.fit, by flattened key.
    """
    grids = {"samples.seen": "grid", "samples.fraction": seen}
    changes |= {"samples.seen": CLOUD} if seen == CLOUD else grids
    changes = {f"fit.{key}": value for key, value in changes.items()}
    config = changed(dictionary.config, changes, **{"fit.num_signals": 0})
    task = task_of(config)
    collection = SubsetCollection(task.open("test"), truth.numbers)
    found = dictionary.fit_collection(task, collection, config)
    seconds = (found.seconds - found.compile_seconds) / len(found)
    return Result(found.render().reshape(len(found), -1), seconds)


# ---- the comparison ---------------------------------------------------------------------------


def shapes(config, chosen):
    """What is known of some test shapes, and their true surfaces."""
    task = task_of(config)
    collection = task.open("test")
    clouds = task.measure(collection).cloud
    return Shapes(
        np.stack([collection[i].reshape(-1, 1) for i in chosen]),
        np.stack([clouds(i) for i in chosen]),
        [collection.mesh(i) for i in chosen],
        chosen,
    )


def places_of(config, fraction):
    """The grid's samples that a fit of this share sees, as raster numbers."""
    side = config.data.size[0]
    seen = {"fit.samples.seen": "grid", "fit.samples.fraction": fraction}
    task = task_of(changed(config, seen))
    points = np.asarray(task.measure(task.open("test")).operator.points)
    places = np.round((points + 1) / 2 * (side - 1)).astype(int)
    return np.ravel_multi_index(tuple(places.T), (side,) * 3)


def iou_of(result, truth):
    """Mean volumetric IoU of a Result."""
    return float(metrics.iou(result.values, truth.values[..., 0]).mean())


def tuned(solve, truth, size, fraction):
    """The (noise, neighbours, focus) of highest IoU. solve(noise, neighbours, focus) -> Result.

    size: of the training codes to choose neighbours from, 0: of none. Where all is measured only
    the focus is left to choose; of many samples one prior serves all, and of few none are to spare.
    """
    noises = NOISES if fraction < 1 else NOISES[2:3]
    kinds, focuses = (NEIGHBOURS, FOCUSES[:1]) if fraction < 0.1 else ((0,), FOCUSES)
    options = [o for o in itertools.product(noises, kinds, focuses) if o[1] < max(size, 1)]
    return max(options, key=lambda option: iou_of(solve(*option), truth))


def grid_mesh(values):
    """Surface of distances [N^3] on the grid; empty where they have none. -> trimesh.Trimesh."""
    side = round(len(values) ** (1 / 3))
    if not values.min() < 0 < values.max():
        return trimesh.Trimesh(process=False)
    return watertight_mesh(values.reshape(side, side, side))


def score(result, truth):
    """IoU on the grid and measures of the grid's mesh, each a mean over shapes."""
    pairs = zip(map(grid_mesh, result.values), truth.meshes, strict=True)
    rows = [metrics.compare(found, mesh, 20000, 0, 0.02) for found, mesh in pairs]
    keys = ("chamfer", "normal_consistency", "fscore")
    row = {key: float(np.mean([r[key] for r in rows])) for key in keys}
    row |= {"iou": iou_of(result, truth), "seconds": result.seconds}
    return row | {"empty": sum(not np.isfinite(r["chamfer"]) for r in rows)}


def gaussians(dictionary, pca, fraction, held, truth, tuning):
    """All Gaussians at one share of samples, tuned on the held shapes. -> {name: Result}.

    pca: (Components, their prior).
    """

    def ours(noise, neighbours, focus, some=held, mixture=False):
        changes = {"gaussian.noise": noise, "gaussian.neighbours": neighbours}
        changes |= {"solver": "gaussian", "samples.focus": focus, "gaussian.mixture": mixture}
        return fit(dictionary, some, fraction, **changes)

    def most_probable(noise, neighbours, focus, some=held):
        given = (some.values, places, noise, neighbours, focus)
        distances, spent = clocked(components.most_probable, *pca, *given)
        return Result(distances, spent / len(distances))

    places, size = places_of(dictionary.config, fraction), len(dictionary.prior.codes)
    found, peer = {}, f"PCA of the grids, {len(pca[0].axes)} components"
    ways = [(NID, ours, size), (peer, most_probable, size)]
    if dictionary.prior.mixture is not None:
        ways.insert(1, (f"{NID}, mixture", functools.partial(ours, mixture=True), 0))
    for name, solve, known in ways:
        best = tuned(solve, held, known, fraction)
        tuning[f"{name}, {samples_of(fraction)}"] = best
        # Of all shapes at once, compiled for as many.
        solve(*best, truth)
        found[name] = solve(*best, truth)
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
        spent.append(siren.fit.last.seconds)
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


def peers_of(config, decoder, truth, fraction, seconds):
    """Networks per shape, DeepSDF, and interpolation, at one share. -> {name: Result}."""
    points, places = grid(tuple(config.data.size)), places_of(config, fraction)
    found, quick = {}, max(seconds, 0.02)
    if fraction in (1.0, 0.02):
        found["SIREN per shape, the same seconds"] = sirens(points, truth, quick, places)
        longer = min(10 * quick, SIREN_SECONDS)
        found[LONGER] = sirens(points, truth, longer, places)
    if fraction == 0.02:
        everywhere = np.arange(len(points))
        found["SIREN of all samples, the same seconds"] = sirens(points, truth, quick, everywhere)
    latents, spent = decoder.infer(
        points[places], truth.values[:, places, 0], seconds=max(20 * quick, 1), limit=2000
    )
    values = decoder(latents, points)
    found["auto-decoder (DeepSDF)"] = Result(values, spent.last.seconds / len(values))
    if fraction == 0.02:
        found["biharmonic RBF"] = rbf(points, truth, places)
    return found


def ours_of_clouds(dictionary, truth):
    """The dictionary from oriented points alone. -> {name: Result}."""
    found = {}
    for label, iterations in (("linear", 0), ("Gauss-Newton", 10)):
        changes = {"solver": "surface", "surface.iterations": iterations}
        found[f"{NID}, surface, {label}"] = fit(dictionary, truth, CLOUD, **changes)
    return found


def peers_of_clouds(config, truth, seconds):
    """What else works from oriented points alone. -> {name: Result}."""
    points = grid(tuple(config.data.size))
    return {
        "SIREN per shape, the same seconds": sirens(points, truth, min(seconds, SIREN_SECONDS)),
        LONGER: sirens(points, truth, min(10 * seconds, SIREN_SECONDS)),
        "RBF of offset points (Carr)": rbf(points, truth),
    }


def samples_of(seen):
    """A share of the grid's samples, or the cloud, as tables name it."""
    return "cloud of 1000" if seen == CLOUD else f"{100 * seen:g}%"


def split(config):
    """(shapes that are scored, shapes that options are chosen on)."""
    total = config.data.num_test
    count = total - total // 3
    return tuple(shapes(config, some) for some in (range(count), range(count, total)))


def grids(trained, pca, folder):
    """The dictionary and PCA. -> scores {samples: {method: row}}, choices of the tuning."""
    dictionary = trained.dictionary
    truth, held = split(dictionary.config)
    scores, tuning, drawn = {}, {}, {}
    for fraction in FRACTIONS:
        results = gaussians(dictionary, pca, fraction, held, truth, tuning)
        plain = {"solver": "ridge", "ridge.lam": "gcv", "samples.focus": 0.0}
        samples = samples_of(fraction)
        drawn[samples] = results[NID]
        results["NID, ridge without the prior"] = fit(dictionary, truth, fraction, **plain)
        scores[samples] = scored(results, truth, samples)
    results, samples = ours_of_clouds(dictionary, truth), samples_of(CLOUD)
    scores[samples] = scored(results, truth, samples)
    drawn["cloud"] = next(iter(results.values()))
    draw_shapes(folder / "shapes.png", truth, drawn)
    return scores, tuning


def networks(config, paper, decoder, known):
    """All else, given the seconds that the dictionary's rows `known` took. -> scores."""
    truth, _ = split(config)
    scores = {}
    for fraction in FRACTIONS:
        results, samples = {}, samples_of(fraction)
        if fraction in (1.0, 0.02):
            found = fit(paper, truth, fraction, **{"samples.focus": 0.0})
            results["NID as in the paper: joint, gradient"] = found
        results |= peers_of(config, decoder, truth, fraction, known[samples][NID]["seconds"])
        scores[samples] = scored(results, truth, samples)
    samples = samples_of(CLOUD)
    seconds = next(iter(known[samples].values()))["seconds"]
    scores[samples] = scored(peers_of_clouds(config, truth, seconds), truth, samples)
    return scores


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
    true, rows = truth.meshes[:count], {}
    cameras = [shading.Camera.around([mesh]) for mesh in true]
    found = {name: map(grid_mesh, one.values[: len(true)]) for name, one in drawn.items()}
    for name, meshes in {"truth": true, **found}.items():
        shown = [shading.shade(m, 160, c) for m, c in zip(meshes, cameras, strict=True)]
        rows[name] = np.stack(shown)
    command.sheet(path, rows, count)


def draw(scores):
    """IoU against the share of samples, a curve for each method that has one."""
    figure, ((axis,),) = command.panels(1, 1, 9, 4.2)
    lines = {}
    for share in [name for name in scores if name.endswith("%")]:
        for method, row in scores[share].items():
            x, y = lines.setdefault(method, ([], []))
            x.append(float(share[:-1]))
            y.append(row["iou"])
    lines = {method: line for method, line in lines.items() if len(line[0]) > 1}
    command.curves(axis, lines, "samples of the grid, %", "IoU, unseen shapes")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


COLUMNS = {
    "samples": lambda row: row["samples"],
    "method": lambda row: row["method"],
    "IoU": lambda row: f"{row['iou']:.3f}",
    "chamfer": lambda r: f"{r['chamfer']:.4f}" if np.isfinite(r["chamfer"]) else "no surface",
    "normals": lambda row: f"{row['normal_consistency']:.3f}",
    "F-score": lambda row: f"{row['fscore']:.3f}",
    "seconds a shape": lambda row: f"{row['seconds']:.3g}",
}


def table(scores, note):
    """The comparison in Markdown."""
    rows = [
        {"samples": samples, "method": method, **row}
        for samples, methods in scores.items()
        for method, row in methods.items()
    ]
    return f"{command.table(COLUMNS, rows)}\n{note}\n"


def learn_grids(config, folder, results):
    """The dictionary's part: scores and seconds go into results."""
    trained = learned(task_of(config), config, folder / "dictionary")
    print(f"dictionary: {trained.seconds:.0f} s", flush=True)
    collection = trained.task.open("train")
    rows = to_array(collection).reshape(len(collection), -1)
    pca, spent = clocked(components.Components, rows, config.dictionary.num_experts)
    pca = (pca, components.prior_of(pca, rows))
    del rows
    scores, results["tuning"] = grids(trained, pca, folder)
    join(results, scores, {DICTIONARY: trained.seconds, "PCA": spent})


def learn_networks(scale, config, folder, results):
    """The other methods' part, beside what results hold."""
    own = joint(config, 20 if scale == "smoke" else 500)
    paper = learned(task_of(own), own, folder / "paper")
    print(f"the paper's way: {paper.seconds:.0f} s", flush=True)
    # Originals alone: networks of minutes would hardly see the copies.
    plain = changed(config, {"data.augment.warps": 0})
    given = to_array(task_of(plain).open("train"))
    decoder = siren_sdf.fit_auto_decoder(
        grid(tuple(config.data.size)),
        given.reshape(len(given), -1),
        # Levelled distances reach no limit that a network's would have to be cut off at.
        truncation=config.data.truncation if config.data.truncation_kind == "clip" else None,
        seconds=2 if scale == "smoke" else min(results["training_seconds"][DICTIONARY], 180),
        latent_size=128,
    )
    scores = networks(config, paper.dictionary, decoder, results["scores"])
    spent = {"the paper's way": paper.seconds, "auto-decoder": decoder.fit.last.seconds}
    join(results, scores, spent)


def join(results, scores, seconds):
    """Put scores and seconds of training beside those that results hold."""
    for samples, rows in scores.items():
        results["scores"].setdefault(samples, {}).update(rows)
    results["training_seconds"].update(seconds)


def run(scale, folder, part):
    """Run the comparison, or one part of it beside the other."""
    changes = {"data.num_test": 4 if scale == "smoke" else 15, "prior.components": 0}
    config = command.config_of("sdf", scale, changes)
    results = {"scores": {}, "tuning": {}, "training_seconds": {}}
    if part == "networks":
        results |= json.loads((folder / "metrics.json").read_text())
    if part != "networks":
        learn_grids(config, folder, results)
    if part != "grids":
        learn_networks(scale, config, folder, results)
    seconds = results["training_seconds"].items()
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in seconds)
    warps = config.data.augment.warps
    note = (
        f"Means over {config.data.num_test - config.data.num_test // 3} unseen chairs on "
        f"{config.data.size[0]}^3 samples, after {config.data.num_train} chairs"
        f"{f' and {warps} warped copies of each' if warps else ''}, of which networks have the "
        "chairs alone. Chamfer and F-score (at 0.02) in units of the cube [-1, 1]^3. Seconds "
        f"without compilation; training: {spent}. {command.made()}"
    )
    text = table(results["scores"], note)
    results.pop("versions", None)
    command.write(folder, text, results, draw(results["scores"]))
    print(text)


PART = flags.DEFINE_enum("part", "all", ["all", "grids", "networks"], "Which methods.")

if __name__ == "__main__":
    command.start(run, "sdf", SCALES, PART)
