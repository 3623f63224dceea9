"""The verbs of the command line: run, train, fit, eval, render, interpolate, nearest, sample.

Each takes the task's builder, the caller's config, and the workdirs; none knows a task by name.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nid_jax import data, learning, notices, processes, sharding, stopping
from nid_jax.coding import checks as argument_checks
from nid_jax.coding.solvers import SOLVERS
from nid_jax.errors import ArgumentError, named
from nid_jax.fields.model import UNSAID
from nid_jax.files import atomic_folder
from nid_jax.fitting import checks, code_space, rendering, scoring
from nid_jax.neural_dictionary import NeuralDictionary, open_workdir
from nid_jax.neural_dictionary import load as load_dictionary
from nid_jax.reporting import announcing, movies, panels, pictures, samples, tables
from nid_jax.reporting.fits import storage_line, write_fit, write_usage
from nid_jax.reporting.report import write_report
from nid_jax.storage import artefacts, config_json
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import limits, unused

# What belongs to the dictionary, so comes from its workdir; the rest is the caller's.
LEARNED = ("dictionary", "numerics", "router", "loss", "train")
# Signals of at most this size are read once before training, to find those that cannot be.
_READ_BYTES = 2**28
# Keys of `data` that say where signals come from.
_SOURCES = ("name", "root", "sinograms", "angles", "kspace")


@dataclasses.dataclass(frozen=True)
class Context:
    """What a command works on. source: the workdir with the dictionary, often the same, or one
    file of it."""

    build_task: Callable[[ConfigDict], Any]
    config: ConfigDict
    workdir: Workdir
    source: Workdir | Path
    typed: frozenset = frozenset()
    """Keys of the config that a person gave: only these are refused for being too much."""
    notes: tuple[str, ...] = ()
    """Lines to say once it is sure that the command can be done."""
    mode: str = ""
    """The command, one of `MODES`; '' where none was typed."""


def run(context: Context) -> dict[str, Any]:
    """Train, fit the split of config.fit.split, write the report."""
    context.workdir.check_free(context.workdir.checkpoints)
    context = settle(context, {"train", context.config.fit.split})
    # A bad file among the signals to fit should not come to light after hours of training.
    task = context.build_task(context.config)
    held_out = check_fit(context, task, context.config)
    solver = SOLVERS[context.config.fit.solver]
    if solver.needs_prior and not context.config.prior.num_signals:
        raise ValueError(
            f"prior.num_signals: 0 learns no prior; fit.solver={solver.name} needs one"
        )
    seen = task.measure(held_out)
    read = seen.cloud if seen.values is None else held_out.__getitem__
    count = context.config.fit.num_signals or len(held_out)
    if 4 * count * math.prod(held_out.shape) <= _READ_BYTES:
        mine = processes.own_part(min(count, len(held_out)))
        processes.together(lambda: [read(index) for index in mine])
    _train(context)
    return fit(context, announced=True)


def settle(
    context: Context,
    splits: Collection[str],
    config: ConfigDict | None = None,
    **known: int | None,
) -> Context:
    """The context with limits that its signals allow, and a note of what gave way."""
    config = config or context.config
    # What is wrong with a config is said before its signals are looked at.
    context.build_task(config)
    there = limits.available(config, splits, **known)
    config, line = limits.settled(config, there, context.typed)
    _say_unused(context, config)
    notes = (*context.notes, line) if line else context.notes
    return dataclasses.replace(context, config=config, notes=notes)


def _say_unused(context: Context, config: ConfigDict) -> None:
    """A notice of what was typed and is not read."""
    asked = None if context.mode in LEARNING else context.config
    if line := unused.line(config, context.typed, context.mode, asked):
        notices.say(line)


def train(context: Context) -> NeuralDictionary:
    """Train the dictionary; a workdir that holds a checkpoint of the same config goes on."""
    context.workdir.check_free(context.workdir.checkpoints)
    splits = {"train", context.config.fit.split} if context.config.train.eval_every else {"train"}
    return _train(settle(context, splits))


def _train(context: Context) -> NeuralDictionary:
    config, workdir = context.config, context.workdir
    task = context.build_task(config)
    evaluate = None
    if config.train.eval_every:
        quick = config.copy_and_resolve_references()
        with quick.unlocked():
            quick.fit.num_signals = config.eval.num_signals
        held_out = check_fit(context, task, quick)

        def evaluate(dictionary):
            found = dictionary.fit_collection(task, held_out, quick)
            return processes.once(
                lambda: scoring.evaluate(task, found, held_out, quick.render.chunk)
            )

    dictionary, trained = learning.train(
        task, config, workdir, evaluate, context.notes, context.typed
    )
    if trained.interrupted:
        raise SystemExit(stopping.status())
    seconds = trained.summary
    spent, compiled = (f"{seconds[f'{key}_seconds']:.1f} s" for key in ("train", "compile"))
    if trained.step:
        print(f"trained {trained.step} steps in {spent} (and {compiled} to compile)")
    else:
        print(f"heads in closed form, {spent}")
    return dictionary


def on_stored_data(context: Context) -> Context:
    """The context with the data of the fit that fit.name names, else of the workdir's own run.

    Where a person typed nothing of `data`: a fit is made again, or another beside it, of the same
    signals. The seed, which splits them, comes along unless it was typed.
    """
    if any(key.startswith("data.") for key in context.typed):
        return context
    workdir, name = context.workdir, context.config.fit.name
    stored, what = workdir.load_fit_config(name), f"the fit {name!r}"
    if stored is None and context.source is workdir and workdir.config.exists():
        stored, what = workdir.load_config(), "the run"
    if stored is None or stored.task != context.config.task:
        return context
    config = context.config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for key in {"data", "seed"} - context.typed:
            config[key] = stored[key]
    source, given = _source_of(config), _source_of(config_json.located(context.config))
    if source != given:
        notices.say(
            f"{workdir.root}: fitting the signals of {what}, {source}, as no data.KEY was typed; "
            "--config.data.name=NAME and --config.data.root=PATH take others"
        )
    return dataclasses.replace(context, config=config)


def _source_of(config):
    """Where the signals of a config come from, in words."""
    found = [config.data.get(key) for key in _SOURCES]
    return " ".join(
        f"data.{key}={value}" for key, value in zip(_SOURCES, found, strict=True) if value
    )


def as_fitted(context: Context) -> Context:
    """The context with the config that the fit fit.name was made with, and over it what was typed.

    As it is where there is no such fit. Raises ValueError for a fit of another task, for a typed
    key that its config does not have, and for one that would score it on what it has seen.
    """
    name = context.config.fit.name
    stored = context.workdir.load_fit_config(name)
    if stored is None:
        return context
    if stored.task != context.config.task:
        raise ValueError(
            f"--config: task {context.config.task}, but the fit {name!r} is of task {stored.task}; "
            f"allowed: --config={stored.task}"
        )
    # What the fit did not see, to be scored there.
    unseen = ("fit.held_out", "seed") if stored.fit.get("held_out") else ("fit.held_out",)
    with stored.unlocked(), stored.ignore_type():
        stored.mesh = context.config.mesh  # of the devices that are here now
        for key in (*sorted(context.typed), "fit.name"):
            *path, last = key.split(".")
            group, typed = stored, context.config
            for word in path:
                group, typed = group.get(word), typed[word]
            if not isinstance(group, ConfigDict):
                raise ValueError(f"{key}: the config of the fit {name!r} has no such key")
            if key in unseen and group[last] != typed[last]:
                raise ValueError(
                    f"{key}: {typed[last]}; allowed: {group[last]}, as the fit {name!r} was made; "
                    "another would score it on what it has seen"
                )
            group[last] = typed[last]
    return dataclasses.replace(context, config=stored)


def check_fit(context: Context, task: Any, config: ConfigDict) -> Any:
    """The signals to fit, opened; ValueError or FileNotFoundError for a fit that cannot be."""
    checks.check(config)
    context.workdir.fit(config.fit.name)
    collection = task.open(config.fit.split)
    checks.check_measured(config, task.measure(collection))
    return collection


def load(context: Context, with_prior: bool = False) -> tuple[NeuralDictionary, ConfigDict]:
    """The dictionary on the caller's mesh, and the config with its own sections in place."""
    mesh = sharding.make_mesh(context.config.mesh.data, context.config.mesh.expert)
    # What the storage found damaged it has said already.
    if isinstance(context.source, Workdir):
        dictionary = open_workdir(context.source, mesh=mesh, with_prior=with_prior)
    else:
        dictionary = load_dictionary(context.source, mesh=mesh)
    learned, task = dictionary.config.task, context.config.task
    if learned != task:
        path = context.source.root if isinstance(context.source, Workdir) else context.source
        notices.say(
            f"{path}: its dictionary was learned for task {learned}, from "
            f"{dictionary.signals.get('title')}; taken for signals of task {task}; "
            "--checkpoint=DIR takes another"
        )
    config = context.config.copy_and_resolve_references()
    with config.unlocked():
        for section in LEARNED:
            config[section] = dictionary.config.get(section, UNSAID.get(section))
        if dictionary.frame is not None and "points" in config.data:
            # New data are read as the run's own were, which column tells signals apart too.
            own = dictionary.config.data.get("points", {}).get("signal", "")
            typed = "data.points.signal" in context.typed
            data.take_frame(config.data.points, dictionary.frame, "" if typed else own)
    return dictionary, config


def fit(context: Context, announced: bool = False) -> dict[str, Any]:
    """Codes of unseen signals with the dictionary frozen; scores, pictures, report."""
    workdir = context.workdir
    if not announced:
        context = on_stored_data(context)
    known = SOLVERS[context.config.fit.solver].takes_prior
    dictionary, config = load(context, known)  # what is not asked for cannot be damaged
    if not announced:
        settled = _settled(context, dictionary, config)
        if SOLVERS[settled.config.fit.solver].takes_prior and not known:
            dictionary, _ = load(context, True)  # it gave way to one that does
            settled = _settled(context, dictionary, config)
        context, config = settled, settled.config
    task = context.build_task(config)
    collection = check_fit(context, task, config)
    checks.check_signals(dictionary.dictionary, task.measure(collection), collection.title)
    with workdir.writing(workdir.fit(config.fit.name)):
        if not announced:
            source = context.source
            path = source.config if isinstance(source, Workdir) else source
            mesh = cast(Mesh, dictionary.mesh)  # `load` has laid it out on one
            announcing.start(dictionary.model, mesh, path, context.notes)
        found = dictionary.fit_collection(task, collection, config)
        return processes.once(
            lambda: _written(context, task, dictionary, found, collection, config)
        )


def _written(context, task, dictionary, found, collection, config):
    """A fit's scores, pictures and report. -> its metrics."""
    workdir = context.workdir
    metrics = write_fit(task, found, collection, config, workdir, context.notes)
    write_usage(workdir, dictionary.model, found)
    _print_scores(config.fit.name, metrics)
    if line := storage_line(metrics):
        print(line)
    print(f"report: {write_report(workdir.root)}")
    return metrics


def _settled(context, dictionary, config):
    prior = dictionary.prior
    kept = 0 if prior is None or prior.codes is None else len(prior.codes)
    return settle(context, {config.fit.split}, config, codes=kept)


def evaluate(context: Context) -> dict[str, Any]:
    """Score an earlier fit's codes again, against signals on disk; nothing is solved.

    Against those that it was fitted to, unless others are typed.
    """
    context = as_fitted(context)
    dictionary, config = load(context)
    context = settle(context, {config.fit.split}, config)
    return processes.once(lambda: _evaluate(context, dictionary))


def _evaluate(context, dictionary):
    config = context.config
    task = context.build_task(config)
    path = context.workdir.fit(config.fit.name) / artefacts.CODES
    found = dictionary.load_fit(path)
    collection = check_fit(context, task, config)
    wanted = collection.names[: len(found)]
    for index, name in enumerate(found.names):
        if index >= len(wanted) or wanted[index] != name:
            place = "in another place" if name in collection.names else "not there"
            raise ValueError(
                f"{path}: its signal {index}, {name!r}, is {place} in the {config.fit.split} split "
                f"of {collection.title}; give the data.* that it was fitted with"
            )
    reconstruction, truth = scoring.reconstruct(task, found, collection, config.render.chunk)
    scores = scoring.scored(task, found, reconstruction, truth, collection)
    if not scores:
        raise ValueError(f"data.root: {collection.title} comes without the truth to score against")
    for line in context.notes:
        print(line, file=sys.stderr)
    count = len(reconstruction)
    metrics = {"solver": "stored codes", "signals": count, "active_experts": found.active}
    metrics |= scoring.means_of(scores)
    metrics |= scoring.per_signal(scores)
    metrics["scores"] = panels.described(task.scores, metrics)
    with context.workdir.writing(path.parent):
        context.workdir.write_json(path.with_name(artefacts.EVALUATION), metrics)
    _print_scores(config.fit.name, metrics)
    return metrics


def render(context: Context) -> None:
    """Pictures or meshes of an earlier fit's codes at any resolution; no signal is read.

    Each shape and window has a folder of its own, FIT/render/128x128.
    """
    loaded = load(context)
    processes.once(lambda: _render(context, *loaded))


def _render(context, dictionary, config):
    task = context.build_task(config)
    _say_unused(context, config)
    folder = context.workdir.fit(config.fit.name)
    found = dictionary.load_fit(folder / artefacts.CODES)
    layout = context.workdir.read_layout(config.fit.name)
    start = time.perf_counter()
    shape, window = _what_to_render(config.render, layout)
    target = folder / artefacts.RENDER / _view_name(shape, layout, config.render)
    draw = _render_pictures
    if "surface" in layout:
        # Libraries that only runs with surfaces need.
        from nid_jax.fitting import meshing

        meshing.check(config.fit.mesh)
        draw = _render_surfaces
    elif "frame" in layout:
        draw = _render_fields
    with context.workdir.writing(folder), atomic_folder(target) as temporary:
        what = draw(temporary, task, found, layout, config, (shape, window))
    print(f"{what} rendered in {time.perf_counter() - start:.2f} s: {target}")
    print(f"report: {write_report(context.workdir.root)}")


def _view_name(shape, layout, wanted):
    """The name of a render's folder: of what comes out, as patches are put together."""
    if "patch" not in layout:
        return artefacts.view_name(shape, wanted.window)
    if "grid" not in layout:
        return f"times_{wanted.scale}"
    return artefacts.view_name([side * wanted.scale for side in layout["grid"]], ())


def _render_surfaces(folder, task, found, layout, config, view):
    """A mesh and a picture of every shape. -> what was rendered, in words."""
    from nid_jax.reporting import surfaces

    del task
    shape, window = view
    count = surfaces.render_surfaces(folder, found, layout, shape, config, window)
    return f"{tables.counted(count, 'mesh', 'meshes')} at {' x '.join(map(str, shape))}"


def _render_fields(folder, task, found, layout, config, view):
    """Every signal over axes in its own coordinates, and its numbers. -> what was rendered."""
    from nid_jax.reporting import maps

    shape, window = view
    for start, stop in rendering.together([1] * len(found), math.prod(shape) * found.channels):
        values = found[start:stop].render(shape, window, config.render.chunk)
        fields = task.assemble(values, layout, scale=config.render.scale, first=start)
        maps.write_fields(folder, fields, layout, window, start)
    return f"{tables.counted(len(found), 'field')} at {' x '.join(map(str, shape))}"


def _render_pictures(folder, task, found, layout, config, view):
    """A picture of every signal, frames where it has three axes. -> what was rendered, in words."""
    shape, window = view
    pieces = layout.get("pieces") or [1] * len(found)
    first = 0
    for start, stop in rendering.together(pieces, math.prod(shape) * found.channels):
        chosen = found[first : first + sum(pieces[start:stop])]
        first += len(chosen)
        if not len(chosen):
            break
        values = chosen.render(shape, window, config.render.chunk)
        wholes = task.assemble(values, layout, scale=config.render.scale, first=start)
        for count, image in enumerate(wholes, start):
            target = folder / artefacts.file_name(count, layout["names"][count])
            if image.ndim == 4:
                _save_frames(target, image, config.fit.get("movies", ()))
            else:
                pictures.save_png(target.with_name(f"{target.name}.png"), image)
    if found.known_deviation is not None:
        _render_deviation(folder, task, found, layout, (shape, window), config.render.scale)
    sides = " x ".join(str(side) for side in image.shape[:-1])
    if "patch" in layout and "grid" not in layout:
        sides = "several sizes"
    return f"{tables.counted(count + 1, 'signal')} of {sides}"


def interpolate(context: Context) -> None:
    """Signals between two of a fit: frames, or meshes, and a movie of them."""
    loaded = load(context)
    processes.once(lambda: _interpolate(context, *loaded))


def _interpolate(context, dictionary, config):
    folder = context.workdir.fit(config.fit.name)
    found = dictionary.load_fit(folder / artefacts.CODES)
    config = settle(context, (), config, fitted=len(found)).config
    task, wanted = context.build_task(config), config.fit.interpolate
    layout = context.workdir.read_layout(config.fit.name)
    if "patch" in layout:
        raise ValueError("data.patch.size: signals in patches have several codes each; allowed: 0")
    with named("fit.interpolate"):
        path = code_space.path_between(found, wanted.start, wanted.end, wanted.frames)
    target = folder / artefacts.INTERPOLATE / f"{wanted.start:04d}_{wanted.end:04d}"
    view = _what_to_render(config.render, layout)
    with context.workdir.writing(folder):
        _write_path(target, task, path, layout, config.render, view)
    print(f"{wanted.frames} signals from {wanted.start} to {wanted.end}: {target}")
    print(f"report: {write_report(context.workdir.root)}")


def _write_path(target, task, path, layout, wanted, view):
    """The signals of a path, and a movie of them."""
    shape, window = view
    if "surface" in layout:
        from nid_jax.reporting import surfaces

        surfaces.write_sequence(target, path, shape, layout)
        return
    values = path.render(shape, window, wanted.chunk)
    if "frame" in layout:
        from nid_jax.reporting import maps

        frames = maps.shaded(np.asarray(values))
    else:
        frames = task.assemble(values, layout, scale=wanted.scale)
    _save_frames(target, frames, ("gif",))


def nearest(context: Context) -> None:
    """The signals most like each of a fit, by what their codes render: nearest.json and a table."""
    loaded = load(context)
    processes.once(lambda: _nearest(context, *loaded))


def _nearest(context, dictionary, config):
    wanted = config.fit.nearest
    _say_unused(context, config)
    folder = context.workdir.fit(config.fit.name)
    among = context.workdir.fit(wanted.among or config.fit.name)
    found, known = (dictionary.load_fit(path / artefacts.CODES) for path in (folder, among))
    with named("fit.nearest"):
        indices, distances = code_space.nearest(found, known, wanted.count, among == folder)
    near = {
        name: [{"name": known.names[i], "distance": float(d)} for i, d in zip(row, ds, strict=True)]
        for name, row, ds in zip(found.names, indices, distances, strict=True)
    }
    target = folder / artefacts.NEAREST
    with context.workdir.writing(folder):
        context.workdir.write_json(target, {"among": among.name, "nearest": near})
    rows = [[name, *(entry["name"] for entry in entries)] for name, entries in near.items()]
    print(tables.table(rows, ["signal", *(f"{n + 1}." for n in range(indices.shape[1]))]))
    print(f"distances: {target}")
    print(f"report: {write_report(context.workdir.root)}")


def sample(context: Context) -> None:
    """New signals drawn from the prior of the dictionary, and a path between two: a sheet, a movie.

    In WORKDIR/samples.
    """
    loaded = load(context, with_prior=True)
    processes.once(lambda: _sample(context, *loaded))


def _sample(context, dictionary, config):
    task, wanted = context.build_task(config), config.sample
    _say_unused(context, config)
    with named("sample"):
        drawn = dictionary.sample(wanted.count, wanted.seed)
        path = code_space.path_between(drawn, 0, min(1, len(drawn) - 1), wanted.frames)
    view = _what_to_render(config.render, {"grid": dictionary.grid_shape}, len(drawn))
    target = context.workdir.samples
    with context.workdir.writing(target):
        samples.write_samples(target, drawn, path, view, task.surface, dictionary.frame)
    prior = dictionary.prior
    kind = "one Gaussian"
    if prior is not None and prior.mixture is not None:
        kind = f"a mixture of {len(prior.mixture.weights)} Gaussians"
    known = min(dictionary.config.prior.num_signals, dictionary.signals.get("count", 0))
    kind += f" of the codes of {tables.counted(known, 'signal')}" if known else ""
    print(f"{tables.counted(len(drawn), 'signal')} drawn from {kind}: {target / samples.SHEET}")
    print(f"report: {write_report(context.workdir.root)}")


def _save_frames(folder, frames, formats):
    """FOLDER/00000.png of frames [T, H, W, C] along the first axis, and FOLDER.mp4 or .gif."""
    with atomic_folder(folder) as temporary:
        for number, frame in enumerate(frames):
            pictures.save_png(temporary / f"{number:05d}.png", frame)
    for suffix in formats:
        movies.write_movie(folder.with_name(f"{folder.name}.{suffix}"), frames)


def _render_deviation(folder, task, found, layout, view, scale):
    """Where renders are unsure: standard deviations, white at the largest of all signals."""
    deviations = task.assemble(
        rendering.resampled(found.known_deviation, *view), layout, scale=scale
    )
    largest = max(1e-12, *(image.max() for image in deviations))
    for index, image in enumerate(deviations):
        name = artefacts.file_name(index, layout["names"][index])
        shown = image.mean(-1, keepdims=True) / largest
        pictures.save_png(folder / f"{name}_deviation.png", shown)


def _what_to_render(wanted, layout, signals=1):
    """(samples along each axis, window or None) of config.render; ValueError naming the key.

    signals: that are rendered at a time.
    """
    tile = layout["patch"] if "patch" in layout else layout["grid"]
    shape, window = wanted.shape, wanted.window
    if "patch" in layout and (shape or window):
        raise ValueError("render.shape, render.window: signals in patches take render.scale only")
    shape = tuple(shape) or tuple(side * wanted.scale for side in tile)
    if len(shape) != len(tile):
        raise ArgumentError("render.shape", shape, f"{len(tile)} whole numbers, each 1 or more")
    argument_checks.fits("render.shape", shape, math.prod(shape) * (len(shape) + signals))
    if "patch" in layout:
        return shape, _patch_window(tile, wanted.scale)
    if not window:
        return shape, None
    if len(window) != len(tile):
        allowed = f"{len(tile)} pairs (low, high), where an axis spans -1 to 1"
        raise ArgumentError("render.window", window, allowed)
    return shape, window


def _patch_window(tile, scale):
    """The window of a patch whose every sample becomes `scale` samples centred on it.

    Whole signals end on -1 and 1 at any scale. Patches that did would not meet: neighbours are one
    sample apart, and a patch ends half a sample before its neighbour begins.
    """
    reach = [1 + (1 - 1 / scale) / max(side - 1, 1) for side in tile]
    return tuple((-end, end) for end in reach)


def _print_scores(name, metrics):
    """A table of what the task asks for, and of what every fit has."""
    scores = panels.scores_of(metrics)
    headers = ["fit", "solver", "signals", *(s.header for s in scores), "active", "s/signal"]
    row = [name, metrics["solver"], metrics["signals"]]
    row += [s.text(metrics[s.key]) if s.unit == "%" else metrics[s.key] for s in scores]
    row += [metrics["active_experts"], metrics.get("seconds_per_signal")]
    print(tables.table([row], headers))


MODES = {
    "run": run,
    "train": train,
    "fit": fit,
    "eval": evaluate,
    "render": render,
    "interpolate": interpolate,
    "nearest": nearest,
    "sample": sample,
}
LEARNING = ("run", "train")
"""Modes that make a dictionary; the others take one."""
