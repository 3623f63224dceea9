"""The verbs of the command line: run, train, fit, eval, render, interpolate, nearest, sample.

Each takes the task's builder, the caller's config, and the workdirs; none knows a task by name.
"""

import math
import sys
from typing import Any, cast

from jax.sharding import Mesh

from nid_jax import learning
from nid_jax.coding.solvers import SOLVERS, solver_kind
from nid_jax.commands.context import (
    Context,
    as_fitted,
    check_fit,
    load,
    on_stored_data,
    say_unused,
    settle,
    settled_fit,
)
from nid_jax.commands.drawing import interpolate, render, sample
from nid_jax.errors import named
from nid_jax.fitting import checks, code_space, scoring
from nid_jax.neural_dictionary import NeuralDictionary
from nid_jax.reporting import announcing, baselines, panels, tables
from nid_jax.reporting.fits import storage_line, write_fit, write_usage
from nid_jax.reporting.progress import Counted
from nid_jax.reporting.report import write_report
from nid_jax.running import processes, stopping
from nid_jax.storage import artefacts
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import describing

# Signals of at most this size are read once before training, to find those that cannot be.
_READ_BYTES = 2**28


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


def fit(context: Context, announced: bool = False) -> dict[str, Any]:
    """Codes of unseen signals with the dictionary frozen; scores, pictures, report."""
    workdir = context.workdir
    if not announced:
        context = on_stored_data(context)
    known = solver_kind(context.config.fit.solver).takes_prior
    # That some baselines know.
    asked = bool(context.config.fit.baseline_signals)
    # What a solver does not ask for cannot stop it by being damaged.
    dictionary, config = load(context, known or asked, needed=known)
    if not announced:
        settled = settled_fit(context, dictionary, config)
        if SOLVERS[settled.config.fit.solver].takes_prior and not known:
            dictionary, _ = load(context, True)  # it gave way to one that does
            settled = settled_fit(context, dictionary, config)
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
        with Counted("fitted", processes.first()) as counted:
            found = dictionary.fit_collection(task, collection, config, told=counted.update)
        return processes.once(
            lambda: _written(context, task, dictionary, found, collection, config)
        )


def _written(context, task, dictionary, found, collection, config):
    """A fit's scores, pictures and report. -> its metrics."""
    workdir = context.workdir
    notes, prior, solved = context.notes, dictionary.prior, describing.solved(found, config)
    metrics = write_fit(task, found, collection, config, workdir, notes, prior, solved)
    write_usage(workdir, dictionary.model, found)
    _print_scores(config.fit.name, metrics)
    for line in filter(None, (storage_line(metrics), baselines.line(metrics))):
        print(line)
    print(f"report: {write_report(workdir.root)}")
    return metrics


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


def nearest(context: Context) -> None:
    """The signals most like each of a fit, by what their codes render: nearest.json and a table."""
    loaded = load(context)
    processes.once(lambda: _nearest(context, *loaded))


def _nearest(context, dictionary, config):
    wanted = config.fit.nearest
    say_unused(context, config)
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
