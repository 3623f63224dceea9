"""Limits of a config are "at most": what is more than there is becomes what there is.

A config is written for its own signals; another's are fewer, smaller, or of other colours. Where a
person gave a key it is refused instead, before anything is trained.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.coding import checks
from nid_jax.errors import ArgumentError
from nid_jax.fields import waves
from nid_jax.reporting.tables import counted


@dataclasses.dataclass(frozen=True)
class Available:
    """What there is, None for what was not looked at.

    learned: signals of the training split; held_out: of the split to fit, both before any copies
    or patches of them; codes: training codes that a prior kept; fitted: signals of a fit that was
    stored.
    """

    learned: data.Survey | None = None
    held_out: data.Survey | None = None
    codes: int | None = None
    fitted: int | None = None


def available(config: ConfigDict, splits: Collection[str], **known: int | None) -> Available:
    """What config.data has of these splits, and what is known of codes and fits.

    Raises ValueError and FileNotFoundError for a source that cannot be read.
    """
    found: dict[str, data.Survey] = {}
    for split in splits:
        # Measurements of their own are no signals of config.data.
        own = split == "test" and (config.data.get("sinograms") or config.data.get("kspace"))
        if split in data.SPLITS and not own:
            found[split] = data.survey(config.data, split, config.seed)
    return Available(found.get("train"), found.get(config.fit.split), **known)


def settled(
    config: ConfigDict, there: Available, typed: Collection[str] = ()
) -> tuple[ConfigDict, str]:
    """A config whose limits are at most what there is, and one line that says which gave way.

    typed: dotted keys that a person gave, which do not give way. -> (config, the line, '' where
    nothing gave way). Raises ArgumentError naming a typed key that is more than there is.
    """
    limits = _Limits(config, typed)
    for survey, split in ((there.learned, "train"), (there.held_out, config.fit.split)):
        if survey is not None:
            _fit_signals(limits, survey, split)
            _fit_holes(limits, survey, split)
    sizes = [survey for survey in (there.learned, there.held_out) if survey is not None]
    shapes = _fit_shapes(limits, sizes[0]) if sizes else ()
    copies = pieces = None
    if sizes:
        _fit_embedding(limits, sizes[0].dims)
    if shapes:
        together = limits.config.data.get("time") == "coordinate"
        _fit_grid(limits, [(sizes[0].count, *shape) if together else shape for shape in shapes])
        pieces = min(_pieces(limits.config, shape) for shape in shapes)
        _fit_turns(limits, shapes)
        _fit_heads(limits, shapes, sizes[0].channels)
    if there.learned is not None:
        copies = _copies(limits.config) * (pieces or 1)
        copies *= _chosen(limits.config, there.learned, "train")
        _check_copies(limits.config, copies)
        copies = 1 if limits.config.data.get("time") == "coordinate" else copies
        _fit_training(limits, copies)
    _fit_supports(limits)
    codes = there.codes
    if codes is None and copies:
        prior = limits.config.prior
        codes = min(prior.num_signals, copies) if prior.keep_codes else 0
    _fit_neighbours(limits, codes)
    if there.held_out is not None:
        _fit_scored(limits, _chosen(limits.config, there.held_out, config.fit.split), pieces or 1)
    if there.fitted is not None:
        for end in ("start", "end"):
            limits.most(f"fit.interpolate.{end}", there.fitted - 1, "numbers of the fit's signals")
    return limits.config, limits.line(there)


# Pictures of several sizes whose largest has so many samples are small.
_MOST_SAMPLES = 4096
# A name, and its place in lists and orders, in numbers of 8 bytes.
_NUMBERS_OF_A_NAME = 16
# Functions along each of D axes, so that their covariance is found in a minute or so.
_FUNCTIONS = {1: 64, 2: 20, 3: 8, 4: 5}


class _Limits:
    """A copy of a config, the keys of it that do not give way, and those that did."""

    def __init__(self, config, typed):
        self.config = config.copy_and_resolve_references()
        self.typed, self.changed = frozenset(typed), {}

    def get(self, key):
        """The value of a dotted key; None where the config has none."""
        value = self.config
        for word in key.split("."):
            value = value.get(word) if isinstance(value, Mapping | ConfigDict) else None
        return value

    def give_way(self, key, value):
        """Change a key that nobody typed."""
        self.changed[key] = (self.changed.get(key, (self.get(key),))[0], value)
        *path, last = key.split(".")
        group = self.config
        for word in path:
            group = group[word]
        with group.unlocked(), group.ignore_type():
            group[last] = value

    def most(self, key, most, what, instead=None):
        """Let a number be at most `most`, of which there are no more `what`; 0 stays 0."""
        value = self.get(key)
        if not isinstance(value, int) or value <= most:
            return
        if key in self.typed:
            raise ArgumentError(key, value, f"at most {most}, {what}")
        self.give_way(key, most if instead is None else instead)

    def line(self, there):
        """What gave way, in one line; '' for nothing."""
        if not self.changed:
            return ""
        counts = []
        if there.learned:
            count, copies = _chosen(self.config, there.learned, "train"), _copies(self.config)
            several = f", {counted(copies * count, 'copy', 'copies')} of them" * (copies > 1)
            counts.append(f"{counted(count, 'signal')} to learn from{several}")
        if there.held_out:
            count = _chosen(self.config, there.held_out, self.config.fit.split)
            count = min(self.config.fit.num_signals or count, count)
            counts.append(f"{counted(count, 'signal')} to fit")
        changes = [f"{key} {old} -> {new}" for key, (old, new) in self.changed.items()]
        return f"note        {', '.join(counts) or 'limits'}: {', '.join(changes)}"


def _fit_signals(limits, survey, split):
    limits.most(f"data.num_{split}", survey.count, f"the signals to {split} on")


def _fit_holes(limits, survey, split):
    """What is missing is not moved about, and filled by what the prior knows."""
    if not survey.holed:
        return
    key, solver = "data.augment.warps", "fit.solver"
    if split == "train" and limits.get(key) and key not in limits.typed:
        limits.give_way(key, 0)
    known = limits.get("prior.num_signals") and limits.get(solver) == "ridge"
    if split != "train" and known and solver not in limits.typed:
        limits.give_way(solver, "gaussian")


def _chosen(config, survey, split):
    """Signals of a split after data.num_train or data.num_test."""
    return min(data.wanted(data.completed(config.data), split) or survey.count, survey.count)


def _fit_shapes(limits, survey):
    """Sizes and colours that occur; -> the shapes [*grid] that signals will have, (): not known.

    Pictures of one size keep it, as do those of several in patches, and small ones of several
    that codes are solved for. Others are brought to data.size, or to the most common.
    """
    config = limits.config.data
    dims = survey.dims or (3 if config.name in data.SHAPES else 2)
    wanted = data.configured_size(config, dims)
    if survey.channels not in (0, 1, 3) and config.get("gray") and "data.gray" not in limits.typed:
        limits.give_way("data.gray", False)
    if not survey.sizes:
        return (wanted,) if wanted else ()
    most_common = survey.sizes[0]
    if set(survey.sizes) == {wanted or most_common} or config.get("resize"):
        return (wanted or most_common,)
    if len(survey.sizes) == 1:
        if "data.size" not in limits.typed:
            # Volumes of an array are not brought to another size.
            sized = len(most_common) == 2 or config.name in data.SHAPES
            limits.give_way("data.size", most_common if sized else ())
            return (most_common,)
    elif limits.get("data.patch.size") and "data.size" not in limits.typed:
        if wanted:
            limits.give_way("data.size", ())
        for key, off in (("mirror", False), ("turns", False), ("shifts", 0), ("warps", 0)):
            key = f"data.augment.{key}"
            if limits.get(key) and key not in limits.typed:
                limits.give_way(key, off)
        return survey.sizes
    elif not wanted and _keeps_sizes(limits, survey.sizes):
        for key in ("data.augment.shifts", "data.augment.warps"):
            if limits.get(key):
                limits.give_way(key, 0)
        return survey.sizes
    elif not {"data.size", "data.resize"} & limits.typed:
        limits.give_way("data.resize", True)
        if not wanted:
            limits.give_way("data.size", most_common)
        if not config.crop and "data.crop" not in limits.typed:
            limits.give_way("data.crop", "center")
    elif not wanted:
        # Each at its own size, as was typed: no copies of one grid.
        for key in ("data.augment.shifts", "data.augment.warps"):
            if limits.get(key) and key not in limits.typed:
                limits.give_way(key, 0)
    return (wanted or most_common,)


def _keeps_sizes(limits, sizes):
    """Whether pictures of several sizes are learned from as they are, each measured in its way."""
    config = limits.config
    # Copies of one grid.
    copied = {"data.augment.shifts", "data.augment.warps"} & limits.typed
    solved = config.task == "image" and config.train.codes == "varpro"
    solved = solved and config.router.kind == "none" and config.operator.kind == "sample"
    small = math.prod(map(max, zip(*sizes, strict=True))) <= _MOST_SAMPLES
    asked = "data.resize" in limits.typed
    return config.data.name == "folder" and solved and not copied and (small or asked)


def _fit_embedding(limits, dims):
    """Functions along each axis of signals that share no grid, which has none to go by."""
    embedding = limits.config.dictionary.embedding
    if dims and embedding.kind in ("cosine", "spline") and not len(tuple(embedding.counts)):
        limits.give_way("dictionary.embedding.counts", (_FUNCTIONS[dims],) * dims)


def _fit_grid(limits, shapes):
    shortest = min(min(shape) for shape in shapes)
    limits.most("data.patch.size", shortest, "the samples along the shorter side")
    if not limits.get("train.views"):
        least = min(math.prod(shape) for shape in shapes)
        limits.most("train.points", least, "the points of a signal")


def _fit_turns(limits, shapes):
    """Signals that are not square have two of its symmetries at least; those of several sizes that
    are cut to patches are not copied."""
    square = all(len(shape) == 2 and shape[0] == shape[1] for shape in shapes)
    square = square and len(shapes) == 1
    if limits.get("data.augment.turns") and not square and "data.augment.turns" not in limits.typed:
        limits.give_way("data.augment.turns", False)
        patched = bool(limits.get("data.patch.size"))
        if (len(shapes) == 1 or not patched) and "data.augment.mirror" not in limits.typed:
            limits.give_way("data.augment.mirror", True)


def _fit_heads(limits, shapes, channels):
    """Pools of waves are of small signals of one or two axes; there are components of any."""
    key, patch = "dictionary.heads", limits.get("data.patch.size")
    if limits.get(key) != "waves" or key in limits.typed:
        return
    channels = 1 if limits.get("data.gray") else channels or 3
    grids = [(patch,) * len(shape) if patch else shape for shape in shapes]
    if not all(waves.suit(grid, channels) for grid in grids):
        limits.give_way(key, "components")


def _copies(config):
    """How many of each training signal data.augment makes."""
    augment = data.completed(config.data).augment
    images = 8 if augment.turns else 1 + augment.mirror
    return images * math.prod(1 + max(augment[key], 0) for key in ("warps", "shifts"))


def _check_copies(config, count):
    """Raise ArgumentError for more copies than memory holds the names of."""
    augment = data.completed(config.data).augment
    key = max(("shifts", "warps"), key=lambda name: augment[name])
    checks.fits(f"data.augment.{key}", augment[key], _NUMBERS_OF_A_NAME * count)


def _pieces(config, shape):
    """Patches of one signal."""
    patch = data.completed(config.data).patch
    return len(data.patch_corners(shape, patch.size, patch.overlap)) if patch.size else 1


def _fit_training(limits, count):
    what = f"of {count} signals to learn from, copies and patches among them"
    limits.most("train.batch_size", count, what)
    limits.most("prior.num_signals", count, what)
    signals = limits.config.prior.num_signals
    if signals > 0:
        limits.most("prior.components", signals, "the codes of prior.num_signals")


def _fit_supports(limits):
    experts = limits.config.dictionary.num_experts
    if experts < 1:
        # What is refused itself limits nothing.
        return
    for key in ("router.top_k", "fit.top_k", "fit.router_ridge.candidates"):
        limits.most(key, experts, "the experts of dictionary.num_experts")
    for key, among in (
        ("train.atoms_per_step", "router.top_k"),
        ("fit.omp.atoms_per_step", "fit.top_k"),
    ):
        if limits.get(among):
            limits.most(key, limits.get(among), f"the active experts of {among}")


def _fit_neighbours(limits, codes):
    """A prior of each signal's own needs two codes; with fewer there is one prior for all."""
    if codes is None or limits.config.fit.solver != "gaussian":
        return
    what = "the training codes that the prior keeps; 0 takes one prior for all"
    limits.most("fit.gaussian.neighbours", codes, what, codes if codes > 1 else 0)


def _fit_scored(limits, count, pieces):
    what = "the signals to fit"
    limits.most("fit.num_signals", count, what)
    if limits.config.train.eval_every:
        limits.most("eval.num_signals", count, what)
    whole = (limits.config.fit.num_signals or count) * pieces
    limits.most("fit.batch_size", whole, what)
