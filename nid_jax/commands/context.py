"""What a command begins with: a config settled by what there is, and a dictionary."""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from nid_jax import data, notices, sharding
from nid_jax.fields.model import UNSAID
from nid_jax.fitting import checks
from nid_jax.fitting.priors import PriorError
from nid_jax.neural_dictionary import NeuralDictionary, open_workdir
from nid_jax.neural_dictionary import load as load_dictionary
from nid_jax.storage import config_json
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import limits, unused
from nid_jax.tasks.unused import LEARNED, LEARNING

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
    say_unused(context, config)
    notes = (*context.notes, line) if line else context.notes
    return dataclasses.replace(context, config=config, notes=notes)


def say_unused(context: Context, config: ConfigDict) -> None:
    """A notice of what was typed and is not read."""
    asked = None if context.mode in LEARNING else context.config
    if line := unused.line(config, context.typed, context.mode, asked):
        notices.say(line)


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


def load(
    context: Context, with_prior: bool = False, needed: bool = True
) -> tuple[NeuralDictionary, ConfigDict]:
    """The dictionary on the caller's mesh, and the config with its own sections in place.

    needed: False goes on without a prior that cannot be read, and says so.
    """
    mesh = sharding.make_mesh(context.config.mesh.data, context.config.mesh.expert)
    # What the storage found damaged it has said already.
    if isinstance(context.source, Workdir):
        try:
            dictionary = open_workdir(context.source, mesh=mesh, with_prior=with_prior)
        except PriorError as error:
            if needed:
                raise
            dictionary = open_workdir(context.source, mesh=mesh, with_prior=False)
            notices.say(f"{error}; only some baselines need it")
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


def settled_fit(context, dictionary, config):
    prior = dictionary.prior
    kept = 0 if prior is None or prior.codes is None else len(prior.codes)
    return settle(context, {config.fit.split}, config, codes=kept)
