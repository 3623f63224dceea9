"""The verbs of the command line: run, train, fit, eval, render.

Each takes the task's builder, the caller's config, and the workdirs; none knows a task by name.
"""

import dataclasses
import time

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from nid_jax.fields.coordinates import grid
from nid_jax.run import fitting, monitoring, pictures, rendering, sharding, training
from nid_jax.run.report import write_report
from nid_jax.run.workdir import Workdir

# What defines the run of a workdir, and what of it may change when training goes on.
SECTIONS = ("task", "seed", "data", "dictionary", "router", "loss", "train")
CHANGEABLE = (
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "data.num_test",
)
# What belongs to the dictionary, so comes from its workdir; the rest is the caller's.
LEARNED = ("dictionary", "router", "loss", "train")


@dataclasses.dataclass(frozen=True)
class Context:
    """What a command works on. source: the workdir with the dictionary, often the same."""

    build_task: object
    config: ConfigDict
    workdir: Workdir
    source: Workdir


def run(context):
    """Train, fit the split of config.fit.split, write the report."""
    train(context)
    return fit(context)


def train(context):
    """Train the dictionary; a workdir that holds a checkpoint of the same config goes on."""
    config, workdir = context.config, context.workdir
    workdir.check_same_config(config, SECTIONS, CHANGEABLE)
    task = context.build_task(config)
    evaluate = None
    if config.train.eval_every:
        quick = config.copy_and_resolve_references()
        with quick.unlocked():
            quick.fit.num_signals = config.eval.num_signals
        held_out = task.open(config.fit.split)

        def evaluate(model):
            return fitting.evaluate(task, model, held_out, quick)

    training.check(config)
    workdir.save_config(config)
    trained = training.train(task, config, workdir, evaluate)
    if trained.interrupted:
        raise SystemExit(143)
    seconds = trained.summary
    print(
        f"trained {trained.step} steps in {seconds['train_seconds']:.1f} s "
        f"(and {seconds['compile_seconds']:.1f} s to compile)"
    )
    return trained


def load(context):
    """The trained model, and the config with the dictionary's own sections in place."""
    model, saved, signals, skipped = training.load_model(context.source)
    for line in skipped:
        print(line)
    config = context.config.copy_and_resolve_references()
    with config.unlocked():
        for section in LEARNED:
            config[section] = saved[section]
    return model, config, signals


def fit(context):
    """Codes of unseen signals with the dictionary frozen; scores, pictures, report."""
    workdir = context.workdir
    model, config, _ = load(context)
    task = context.build_task(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.expert)
    collection = task.open(config.fit.split)
    fitted = fitting.fit(task, model, collection, config, mesh)
    metrics = fitting.write_fit(
        task, model, fitted, collection, config, workdir, config.fit.name
    )
    _write_usage(workdir, model, fitted)
    _finish(context, metrics)
    return metrics


def evaluate(context):
    """Score an earlier fit's codes again, against signals on disk; nothing is solved."""
    model, config, _ = load(context)
    task = context.build_task(config)
    collection = task.open(config.fit.split)
    folder = context.workdir.fit(config.fit.name)
    codes, bias, names = fitting.read_codes(folder / "codes.npz")
    where = {name: index for index, name in enumerate(collection.names)}
    missing = [name for name in names if name not in where]
    if missing:
        raise ValueError(
            f"{folder / 'codes.npz'}: signal {missing[0]!r} is not in the {config.fit.split} split "
            f"of {collection.title}"
        )
    chosen = [where[name] for name in names]
    if chosen != list(range(len(chosen))):
        raise ValueError(
            f"{folder / 'codes.npz'}: its signals stand in another order than {collection.title}"
        )
    fitted = fitting.Fitted.from_codes(codes, bias, names)
    reconstruction, truth = fitting.reconstruct(task, model, fitted, collection, config)
    scores = task.metrics(reconstruction, truth)
    metrics = {"solver": "stored codes", "signals": len(names), "active_experts": fitted.active}
    metrics |= {name: float(np.mean(values)) for name, values in scores.items()}
    metrics |= {f"{name}_per_signal": values.tolist() for name, values in scores.items()}
    context.workdir.write_json(folder / "evaluation.json", metrics)
    _print_scores(config.fit.name, metrics)
    return metrics


def render(context):
    """Pictures of an earlier fit's codes at any resolution and window; no signal is read."""
    model, config, signals = load(context)
    task = context.build_task(config)
    folder = context.workdir.fit(config.fit.name)
    codes, bias, names = fitting.read_codes(folder / "codes.npz")
    layout = context.workdir.read_json(folder / "metrics.json")["layout"]
    wanted = config.render
    window = wanted.window or None
    if "patch" in layout and (wanted.shape or window):
        raise ValueError("render.shape, render.window: signals in patches take render.scale only")
    if wanted.scale < 1:
        raise ValueError(f"render.scale: {wanted.scale}; allowed: 1 or more")
    tile = layout.get("patch", layout["grid"])
    shape = tuple(wanted.shape) or tuple(side * wanted.scale for side in tile)
    if len(shape) != len(tile) or min(shape) < 1:
        raise ValueError(f"render.shape: {shape}; allowed: {len(tile)} numbers, each 1 or more")
    start = time.perf_counter()
    gates = rendering.gates_of(codes, bias)
    values = rendering.render(model.dictionary, gates, shape, window, wanted.chunk)
    seconds = time.perf_counter() - start
    values = task.assemble(values, layout, scale=wanted.scale)
    for index, name in enumerate(layout["names"][: len(values)]):
        safe = name.replace("/", "_")
        pictures.save_png(folder / "render" / f"{index:04d}_{safe}.png", values[index])
    size = " x ".join(str(side) for side in values.shape[1:-1])
    print(f"{len(values)} signals of {size} rendered in {seconds:.2f} s: {folder / 'render'}")
    return values


def _write_usage(workdir, model, fitted):
    """usage.json and atoms.png: how often and how much each expert serves, and what it looks like."""
    importance = np.abs(fitted.codes).mean(0)
    usage = (fitted.codes != 0).mean(0)
    workdir.write_json("usage.json", {"usage": usage, "importance": importance})
    if len(model.grid_shape) != 2:
        return
    atoms = model.dictionary.basis_of(
        grid(model.grid_shape), np.argsort(-importance)[:32].astype(np.int32)
    )
    order = np.argsort(-importance)[:32]
    images = np.moveaxis(np.asarray(atoms), 1, 0).reshape(len(order), *model.grid_shape, -1)
    pictures.atoms_sheet(workdir.atoms, images, usage=usage[order], experts=order.tolist())


def _print_scores(name, metrics):
    headers = ["fit", "solver", "signals", "PSNR dB", "SSIM", "active", "s/signal"]
    row = [
        name,
        metrics["solver"],
        metrics["signals"],
        metrics.get("psnr", float("nan")),
        metrics.get("ssim", float("nan")),
        metrics["active_experts"],
        metrics.get("seconds_per_signal", float("nan")),
    ]
    print(monitoring.table([row], headers))


def _finish(context, metrics):
    _print_scores(context.config.fit.name, metrics)
    print(f"report: {write_report(context.workdir.root)}")


MODES = {"run": run, "train": train, "fit": fit, "eval": evaluate, "render": render}
