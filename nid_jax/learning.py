"""Learning: a collection of signals in, a neural dictionary out."""

import dataclasses
import functools
import math
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from nid_jax import data, settings, sharding, tasks
from nid_jax.coding import checks
from nid_jax.coding.canonical import canonical_transform
from nid_jax.configs import image as image_config
from nid_jax.data import layout as layouts
from nid_jax.errors import ArgumentError
from nid_jax.fields.model import build_model
from nid_jax.fitting import priors
from nid_jax.fitting.measurements import OTHER_SCALE, as_array, as_floats, largest_of
from nid_jax.neural_dictionary import NeuralDictionary
from nid_jax.notices import say
from nid_jax.running import processes
from nid_jax.storage.bucket_copy import worked_on
from nid_jax.storage.workdir import Workdir
from nid_jax.tasks import limits
from nid_jax.tasks.task import Task
from nid_jax.training import checks as training_checks
from nid_jax.training import loop
from nid_jax.training.components import MOST_COEFFICIENTS

# Features of heads by rounds, each of which factors matrices of so many rows.
_MOST_OF_ROUNDS = 1024
# Numbers of signals that an error lists.
_LISTED = 20
# What defines the run of a workdir, and what of it may change when training goes on.
SECTIONS = ("task", "seed", "data", "dictionary", "numerics", "router", "loss", "train")
CHANGEABLE = (
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "data.num_test",
)


def learn(
    signals: Float[Array | np.ndarray, "S *grid C"] | data.Collection | ConfigDict,
    *,
    steps: int | None = None,
    seed: int | None = None,
    seen: Bool[Array | np.ndarray, "S ..."] | None = None,
    num_experts: int | None = None,
    layout: str = "",
    workdir: str | Path | None = None,
) -> NeuralDictionary:
    """Learn a dictionary from a collection of signals, with sizes that suit them.

    Args:
      signals: [S, *grid] or [S, *grid, C] with values about 0 to 1 (whole numbers of 8 or 16 bits
        become so), a list of pictures [h, w] or [h, w, C] of several sizes, a collection
        of `nid_jax.data`, or a config, such as those of
        `nid_jax.configs`, which says all there is to say and names its data.
      seen: bool, what is known of an array: [*grid] of all signals, or [S, *grid], axes in the
        order of the array's; so are values
        that are not NaN. What is missing is learned from the others.
      steps: of descent; None: the config's, or none, as heads begin in closed form
        (`training.components`).
      seed: of everything random, 0 to 2**32 - 1; None: 0, or the config's.
      num_experts: E; None: as many as a signal has numbers, at most 1024.
      layout: a letter for each axis of an array, 'SCHW' where channels come first, see
        `nid_jax.data.layout`; '' guesses, with a `Notice` where the shape may mean another.
      workdir: keep the run there, as the command line does, also in a bucket, gs:// or s3://; the
        same call then goes on where it stopped. None keeps nothing on disk.

    Returns:
      `NeuralDictionary`. Progress is shown on standard error.

    Raises:
      ArgumentError: naming the argument, for what cannot be learned from.
      loop.TrainingDiverged: where a loss or a gradient was not finite.
    """
    typed = {"train.steps": "steps"} if steps is not None else {}
    if not isinstance(signals, ConfigDict):
        typed |= {"dictionary.num_experts": "num_experts", "data.name": "signals"}
    with _arguments_named(typed):
        return _learned(signals, steps, seed, seen, num_experts, layout, workdir)


@contextmanager
def _arguments_named(typed: Mapping[str, str]) -> Iterator[None]:
    """Errors inside name the argument that a key of the config was made of. typed: by keys."""
    try:
        yield
    except ValueError as error:
        key, _, rest = str(error).partition(": ")
        if key not in typed:
            raise
        if isinstance(error, ArgumentError):
            raise ArgumentError(typed[key], error.value, error.allowed) from error
        raise ValueError(f"{typed[key]}: {rest}") from error


def _learned(signals, steps, seed, seen, num_experts, layout, workdir):
    notes: tuple[str, ...] = ()
    if isinstance(signals, ConfigDict):
        for argument, value in (
            ("num_experts", num_experts),
            ("layout", layout or None),
            ("seen", seen),
        ):
            if value is not None:
                raise ArgumentError(argument, value, "None beside a config, which says it itself")
        settings.check(signals)
        # A config's limits are at most what there is, as on the command line.
        config, line = limits.settled(signals, limits.available(signals, {"train"}))
        notes = (line,) if line else ()
        task = tasks.build(config)
    else:
        collection = _collection(signals, layout, seen)
        config = _suited(collection, num_experts)
        task = dataclasses.replace(tasks.build(config), open=lambda split: collection)
    with config.unlocked():
        if seed is not None:
            config.seed = checks.whole("seed", seed, 0, most=checks.MOST_SEED)
        if steps is not None:
            config.train.steps = checks.whole("steps", steps, 0)
    if workdir is not None:
        with worked_on(workdir, "workdir") as folder:
            kept = Workdir(checks.path("workdir", folder))
            if not isinstance(signals, ConfigDict) and kept.holds_checkpoint():
                _check_same_signals(kept, task)
            return _trained(task, config, kept, notes)
    with tempfile.TemporaryDirectory() as folder:
        return _trained(task, config, Workdir(folder, kept=False), notes)


def _trained(task, config, workdir, notes):
    """The dictionary; KeyboardInterrupt where a signal to stop came."""
    with data.kept_in(workdir.root / "cache"):
        dictionary, trained = train(task, config, workdir, notes=notes)
    if trained.interrupted:
        again = "the same call goes on" if workdir.kept else "nothing is kept without a workdir"
        raise KeyboardInterrupt(f"training was stopped at step {trained.step}; {again}")
    return dictionary


def untrained(task: Task, config: ConfigDict) -> NeuralDictionary:
    """The dictionary that training would begin with, and the prior of its codes: a baseline.

    Raises ValueError naming the key of a config that describes none.
    """
    collection = task.open("train")
    signals = loop.signals_of(task, collection)
    model = build_model(config, tuple(signals["shape"]), len(collection), config.seed)
    prior = None
    if config.prior.num_signals:
        prior = priors.learn_prior(task, model, collection, config)
    return NeuralDictionary(model, config, signals, prior)


def train(
    task: Task,
    config: ConfigDict,
    workdir: Workdir,
    evaluate: Callable[[NeuralDictionary], dict[str, float]] | None = None,
    notes: Sequence[str] = (),
    typed: Collection[str] = (),
) -> tuple[NeuralDictionary, loop.Trained]:
    """Train in a workdir, from its latest checkpoint if it holds one, and learn the prior.

    evaluate: scores of the dictionary as it stands, taken every config.train.eval_every steps;
    notes: lines to say at the start; typed: keys that a person gave. -> the dictionary, without a
    prior where a signal to stop came, and how training went: all is saved then, and the same call
    goes on. Raises ValueError where the workdir holds a run of another config or other signals, and
    as `training.loop.train`.
    """
    with workdir.writing(workdir.checkpoints):
        return _train(task, config, workdir, evaluate, notes, typed)


def _train(task, config, workdir, evaluate, notes, typed):
    kept = False
    if workdir.holds_checkpoint():
        workdir.check_same_config(config, SECTIONS, CHANGEABLE)
        kept = not config.train.steps and workdir.load_config().prior == config.prior
    scores = None if evaluate is None else functools.partial(_scores, evaluate, config)
    trained = loop.train(task, config, workdir, scores, notes, typed)
    signals = workdir.read_signals()
    prior, path = None, workdir.root / priors.FILE
    if config.prior.num_signals and not trained.interrupted:
        prior = trained.prior
        if trained.coded is not None:
            coded = trained.coded
            prior = processes.once(lambda: priors.prior_of(trained.model, coded, config.prior))
        elif prior is None and kept:
            # Heads that nothing descends from are as they were, and so is all that is of them.
            prior = priors.load_prior(path)
        if prior is None:
            prior = priors.learn_prior(task, trained.model, task.open("train"), config)
        found = prior
        processes.once(lambda: priors.save_prior(path, found, trained.step))
    elif not config.prior.num_signals:
        # That of an earlier training is not this dictionary's.
        for name in (priors.FILE, priors.TRANSFORM_FILE):
            processes.once(functools.partial((workdir.root / name).unlink, missing_ok=True))
    dictionary = NeuralDictionary(trained.model, config, signals, prior)
    if prior is not None and _dense(config, trained.model):
        transform = processes.once(lambda: _transform(dictionary, workdir, trained.step))
        dictionary = dictionary.transformed(transform)
    return dictionary, trained


def _transform(dictionary, workdir, step):
    """The way to canonical form, saved."""
    transform = canonical_transform(dictionary.dictionary, dictionary.grid_shape, dictionary.prior)
    priors.save_transform(workdir.root / priors.TRANSFORM_FILE, transform, step)
    return transform


def _dense(config, model):
    """Whether any dictionary of the same span is as good, so that it may take canonical form."""
    return config.train.codes == "varpro" and not model.top_k and model.router is None


def _scores(evaluate, config, model):
    """Scores of a model in training: of several processes together."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.expert)
    several = mesh if mesh.is_multi_process else None
    return evaluate(NeuralDictionary(model, config, {}, mesh=several))


def _check_same_signals(workdir, task):
    there = workdir.read_signals()
    here = loop.signals_of(task, task.open("train"))
    for key in ("shape", "title"):
        if there.get(key) != here[key]:
            raise ValueError(
                f"{workdir.root}: holds a run of other signals, {key} {there.get(key)}, these have "
                f"{here[key]}: give another workdir"
            )


def _collection(signals, letters, seen=None):
    """Signals as a collection in memory. Raises ArgumentError for arrays that are none."""
    if hasattr(signals, "names") and hasattr(signals, "title"):
        if letters:
            raise ArgumentError("layout", letters, "'' beside a collection")
        if seen is not None:
            raise ArgumentError("seen", type(seen).__name__, "None beside a collection")
        return signals
    several = isinstance(signals, list | tuple) and all(hasattr(one, "shape") for one in signals)
    if several and len({tuple(one.shape) for one in signals}) > 1:
        return _pictures(signals, letters, seen)
    given = as_array(signals, "signals")
    values, largest = np.asarray(as_floats(given, "signals")), largest_of(given)
    if values.ndim < 2 or 0 in values.shape:
        raise ArgumentError("signals", values.shape, "(S, *grid) or (S, *grid, C), none of them 0")
    if letters:
        letters = layouts.checked(letters, values.shape)
    else:
        letters = layouts.guessed(values.shape, "signals", "layout='{}'", lines=True)
    told = _arranged_seen(seen, values.shape, letters)
    values = np.ascontiguousarray(layouts.arranged(values, letters))
    shown = _shown(values, told)
    known = values if shown is None else np.where(shown[..., None], values, 0)
    bad = np.flatnonzero(~np.isfinite(known).reshape(len(values), -1).all(1))
    if len(bad):
        allowed = f"finite numbers of float32, NaN where missing; signal {bad[0]} holds others"
        raise ArgumentError("signals", np.inf, allowed)
    names = [f"{number:05d}" for number in range(len(values))]
    # The title tells two arrays apart: a run goes on with its own.
    crc = zlib.crc32(known.data if shown is None else shown.data, zlib.crc32(known.data))
    title = f"an array, CRC {crc:08x}"
    return _of_one_scale(data.ArrayCollection(known, names, title, None, shown), largest)


def _of_one_scale(collection, largest):
    """The collection; a notice of values that are not about 0 to 1. largest: magnitude before they
    became float32. Raises ArgumentError for values of another scale than float32 computes with."""
    training_checks.check_values(collection, prior=True, largest=largest)
    low, high = collection.bounds
    if max(-low, high) > OTHER_SCALE:
        say(
            f"signals: values from {low:g} to {high:g}; taken as they are, while scores suppose 0 "
            "to 1; signals / 255 or the like says otherwise"
        )
    return collection


def _pictures(signals, letters, seen):
    """Pictures of several sizes as a collection."""
    for argument, value in (("layout", letters or None), ("seen", seen)):
        if value is not None:
            raise ArgumentError(argument, value, "None for pictures of several sizes")
    given = [as_array(one, "signals") for one in signals]
    pictures = [np.asarray(as_floats(one, "signals")) for one in given]
    _check_pictures(pictures, {str(one.dtype) for one in signals})
    pictures = [one[..., None] if one.ndim == 2 else one for one in pictures]
    names = [f"{number:05d}" for number in range(len(pictures))]
    crc = 0
    for one in pictures:
        crc = zlib.crc32(np.ascontiguousarray(one).data, crc)
    title = f"pictures of several sizes, CRC {crc:08x}"
    largest = max(map(largest_of, given))
    return _of_one_scale(data.pictures_of_sizes(pictures, names, title), largest)


def _check_pictures(pictures, types):
    """Raise ArgumentError for arrays that are no pictures of several sizes. types: they had."""
    ranks = {one.ndim for one in pictures}
    if len(ranks) > 1 or not ranks <= {2, 3} or any(0 in one.shape for one in pictures):
        shapes = sorted({one.shape for one in pictures})[:4]
        raise ArgumentError("signals", shapes, "pictures [h, w], or [h, w, C] of one C")
    if ranks == {3}:
        shapes = sorted({one.shape for one in pictures})[:4]
        first, last = ({one.shape[axis] for one in pictures} for axis in (0, -1))
        most = layouts.MOST_CHANNELS
        if len(first) == 1 and max(first) <= most < max(last):
            allowed = "channels last, [h, w, C]; np.moveaxis(one, 0, -1) puts them there"
            raise ArgumentError("signals", shapes, allowed)
        if len(last) > 1:
            raise ArgumentError("signals", shapes, "pictures [h, w, C] of one C")
    bad = [number for number, one in enumerate(pictures) if not np.isfinite(one).all()]
    if bad:
        odd = pictures[bad[0]][~np.isfinite(pictures[bad[0]])][0]
        allowed = f"finite numbers in pictures of several sizes; signal {bad[0]} holds others"
        raise ArgumentError("signals", odd, allowed)
    largest = max(float(np.abs(one).max()) for one in pictures)
    if types & {"uint8", "uint16"} and largest > OTHER_SCALE:
        allowed = f"one range for all; whole numbers become 0 to 1, and others reach {largest:g}"
        raise ArgumentError("signals", " beside ".join(sorted(types)), allowed)


def _arranged_seen(seen, shape, letters):
    """What a caller says is known of an array, in the order of its axes: as [S, *grid], or [*grid]
    of all signals. None where nothing is said."""
    if seen is None:
        return None
    given = np.asarray(as_array(seen, "seen"))
    sides = dict(zip(letters, shape, strict=True))
    forms = [[axis for axis in letters if axis not in absent] for absent in ("C", "STC")]
    every, grid = ([sides[axis] for axis in form] for form in forms)
    if list(given.shape) not in (every, grid) or given.dtype.kind not in "biuf":
        allowed = f"booleans {every}, or {grid} for all signals, axes as those of the signals"
        raise ArgumentError("seen", f"{given.dtype}{list(given.shape)}", allowed)
    if list(given.shape) == every:
        return layouts.arranged(given, "".join(forms[0]))[..., 0]
    return layouts.arranged(given, "".join(forms[1]))[0, ..., 0]


def _shown(values, given):
    """What is known of signals [S, *grid, C], bool [S, *grid]; None where all is. Says how much.

    given: what a caller says of it, [S, *grid] or [*grid].
    """
    missing = np.isnan(values)
    shown = ~missing.any(-1)
    part = (
        "; a pixel counts only where all its channels are known"
        if (missing.any(-1) & ~missing.all(-1)).any()
        else ""
    )
    if given is not None:
        if not np.isin(given, (0, 1)).all():
            raise ArgumentError("seen", given[~np.isin(given, (0, 1))][0], "booleans, or 0 and 1")
        shown &= given.astype(bool)
    empty = np.flatnonzero(~shown.reshape(len(shown), -1).any(1))
    if len(empty):
        name = "signals" if given is None else "seen"
        listed = empty[:_LISTED].tolist()
        more = f" and {len(empty) - _LISTED} more" if len(empty) > _LISTED else ""
        beside = "" if given is None or given.ndim < shown.ndim else " and of seen"
        allowed = (
            f"1 or more samples seen of signal {empty[0]}{part}; numpy.delete(signals, {listed}, 0)"
            f"{beside} leaves out what nothing is seen of{more}"
        )
        raise ArgumentError(name, 0, allowed)
    if shown.all():
        return None
    if given is None or part:
        say(
            f"signals: {1 - shown.mean():.1%} of the samples are NaN; taken as missing; "
            f"learned from what is seen of each signal{part}"
        )
    return np.ascontiguousarray(shown)


def _suited(collection, num_experts):
    """A config whose sizes suit a collection. Raises ArgumentError for num_experts below 1."""
    config = image_config.base()
    *grid_shape, channels = collection.shape
    points = math.prod(grid_shape)
    experts = min(points * channels, 1024)
    if num_experts is not None:
        experts = checks.whole("num_experts", num_experts, 1)
    # As fine as the grid, or as fine as a covariance of all frequencies allows.
    alike = not len(getattr(collection, "ways", ())) and not data.holed(collection)
    features = MOST_COEFFICIENTS / channels if alike else _MOST_OF_ROUNDS
    most = math.floor(features ** (1 / len(grid_shape)) + 1e-9)
    counts = tuple(max(2, min(size, most)) for size in grid_shape)
    experts = min(experts, channels * math.prod(counts)) if num_experts is None else experts
    count = len(collection)
    with config.unlocked():
        config.data.update({"name": "array", "size": tuple(grid_shape)})
        image_config.components(config)
        config.dictionary.num_experts = experts
        config.dictionary.embedding.counts = counts
        config.train.update({"batch_size": min(count, 400)})
        config.train.update({"points": 4096 if points > 4096 else 0, "checkpoint_every": 0})
        config.prior.update({"num_signals": min(count, 4000), "keep_codes": True})
    return config
