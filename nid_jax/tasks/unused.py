"""Keys that a person typed and nothing reads, as something else was chosen: one line says which."""

import fnmatch
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from nid_jax import data, settings
from nid_jax.coding.solvers import SOLVERS, config_group
from nid_jax.settings import REFINEMENTS

LEARNING = ("run", "train")
"""Modes of the command line that make a dictionary; the others take one."""
LEARNED = ("dictionary", "numerics", "router", "loss", "train")
"""Groups of a config that belong to the dictionary, and come with one that is taken."""
# Modes that draw at any size.
_DRAWING = ("render", "interpolate", "sample")
# Keys of dictionary.embedding that each of its kinds reads.
_EMBEDDINGS = {
    "identity": (),
    "positional": ("num_octaves",),
    "fourier": ("size", "scale", "trainable"),
    "rbf": ("num_centres", "sigma", "trainable"),
    "kernel": ("size", "kernel", "length_scale", "shape", "trainable"),
    "cosine": ("counts", "band", "num_kept"),
    "spline": ("counts", "degree"),
}
# Keys of router that each of its kinds reads, beside kind, top_k and noise.
_ROUTERS = {
    "codebook": ("max_norm", "scale"),
    "linear": (),
    "conv": ("width", "pool"),
    "resnet": ("width", "widths"),
    "point": ("width", "pool", "point_features"),
}
# Sources whose signals are made, or come with a package.
_WITHOUT_ROOT = ("faces", "photos", "phantoms", "clip", "shapes", "stations")
# Groups of data that one source reads.
_OF_SOURCES = {
    "phantom": "phantoms",
    "clip": "clip",
    "video": "video",
    "dicom": "dicom",
    "points": "points",
    "stations": "stations",
    "masks": "corrupted",
    "shapes": "shapes",
}
_STEPS = ("optimizer.*", "chunks", "scan", "reseed_every", "dead_below", "differentiate", "near")


def line(
    config: ConfigDict, typed: Collection[str], mode: str = "", asked: ConfigDict | None = None
) -> str:
    """What was typed and is not read, and what says so; '' where all of it is.

    typed: dotted keys; mode: of the command, '' for none; asked: the config before a dictionary's
    own groups took their places in it, of which only what differs is told.
    """
    if asked is not None:
        theirs, own = (dict(settings.leaves(one)) for one in (asked, config))
        typed = [
            key
            for key in typed
            if key.split(".")[0] not in LEARNED or not _same(theirs.get(key), own.get(key))
        ]
    rows = list(_rows(config, mode))
    found: dict[str, list[str]] = {}
    for key in sorted(typed):
        why = next((why for pattern, why in rows if fnmatch.fnmatchcase(key, pattern)), None)
        if why is not None:
            found.setdefault(why, []).append(key)
    parts = [f"{', '.join(keys)} ({why})" for why, keys in found.items()]
    return f"typed, but not used: {'; '.join(parts)}" if parts else ""


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one; JSON's lists are tuples of configs."""
    lists = isinstance(one, tuple | list) and isinstance(other, tuple | list)
    return tuple(one) == tuple(other) if lists else one == other


def _rows(config: ConfigDict, mode: str) -> Iterator[tuple[str, str]]:
    """(pattern of keys that are not read, what says so)."""
    if mode:
        yield from _of_mode(mode)
    yield from _of_data(data.completed(config.data))
    if mode in ("", *LEARNING):
        yield from _of_dictionary(config)
        yield from _of_training(config)
    yield from _of_fit(config.fit)


def _of_mode(mode):
    why = f"--mode={mode}"
    if mode not in LEARNING:
        for group in LEARNED:
            yield f"{group}.*", f"{why} takes the dictionary as it was learned"
        yield "prior.*", f"{why} takes the prior as it was learned"
    if mode not in _DRAWING:
        for key in ("shape", "scale", "window"):
            yield f"render.{key}", why
    for group in ("interpolate", "nearest"):
        if mode != group:
            yield f"fit.{group}.*", why
    if mode != "sample":
        yield "sample.*", why


def _of_data(signals):
    why = f"data.name={signals.name}"
    if signals.name in _WITHOUT_ROOT:
        yield "data.root", why
        yield "data.test_fraction", why
    for group, source in _OF_SOURCES.items():
        if signals.name != source:
            yield f"data.{group}.*", why
    if signals.name != "pointcloud":
        yield "data.normals", why
    if not signals.augment.warps:
        for key in ("rotation", "zoom", "move", "strength", "pieces"):
            yield f"data.augment.{key}", "data.augment.warps=0"
    if not signals.augment.shifts:
        yield "data.augment.max_shift", "data.augment.shifts=0"
    if not signals.patch.size:
        yield "data.patch.overlap", "data.patch.size=0"
    if not signals.get("sinograms") and signals.name != "sinograms":
        for key in ("angles", "angle_units", "sinogram_layout", "open_beam", "transmission"):
            yield f"data.{key}", "data.sinograms=''"
    if not signals.get("kspace"):
        yield "data.kspace_*", "data.kspace=''"
    if signals.get("noise", {}).get("kind") == "none":
        yield "data.noise.level", "data.noise.kind=none"


def _of_dictionary(config):
    dictionary, router = config.dictionary, config.router
    embedding = dictionary.embedding.kind
    if embedding in _EMBEDDINGS:
        read = ("kind", *_EMBEDDINGS[embedding])
        for key in dictionary.embedding:
            if key not in read:
                yield f"dictionary.embedding.{key}", f"dictionary.embedding.kind={embedding}"
    if dictionary.heads != "components":
        yield "dictionary.components.*", f"dictionary.heads={dictionary.heads}"
    if dictionary.kind == "shared" and dictionary.num_layers == 1:
        for key in ("width", "activation", "omega0"):
            yield f"dictionary.{key}", "dictionary.num_layers=1"
    if dictionary.activation != "sine":
        yield "dictionary.omega0", f"dictionary.activation={dictionary.activation}"
    if router.kind == "none":
        yield "router.noise", "router.kind=none"
        if config.train.codes != "sparse_varpro" and dictionary.heads != "waves":
            yield "router.top_k", f"router.kind=none, train.codes={config.train.codes}"
    for key in ("max_norm", "scale", "width", "widths", "pool", "point_features"):
        if key not in _ROUTERS.get(router.kind, ()):
            yield f"router.{key}", f"router.kind={router.kind}"


def _of_training(config):
    train, loss, prior = config.train, config.loss, config.prior
    if not train.steps:
        for key in _STEPS:
            yield f"train.{key}", "train.steps=0"
        yield "loss.*", "train.steps=0"
    if train.codes not in ("varpro", "sparse_varpro"):
        yield "train.lam", f"train.codes={train.codes}"
    if train.codes != "sparse_varpro":
        yield "train.atoms_per_step", f"train.codes={train.codes}"
    if train.codes != "surface":
        yield "loss.surface.*", f"train.codes={train.codes}"
    if not config.router.top_k:
        yield "train.warmup_epochs", "router.top_k=0"
    if not train.reseed_every:
        yield "train.dead_below", "train.reseed_every=0"
    if not train.eval_every:
        yield "eval.num_signals", "train.eval_every=0"
    if train.optimizer.name not in ("adamw", "lamb", "muon"):
        name = train.optimizer.name
        yield "train.optimizer.weight_decay", f"train.optimizer.name={name}"
    if not loss.balance:
        yield "loss.importance", "loss.balance=0"
    if not loss.l1:
        yield "loss.l1_base", "loss.l1=0"
    if not prior.num_signals:
        for key in ("lam", "shrinkage", "components", "keep_codes", "points"):
            yield f"prior.{key}", "prior.num_signals=0"


def _of_fit(fit):
    why = f"fit.solver={fit.solver}"
    for name in SOLVERS:
        if name != fit.solver:
            yield f"{config_group(name)}.*", why
    if fit.solver == "gaussian" and not fit.gaussian.neighbours:
        yield "fit.gaussian.blend", "fit.gaussian.neighbours=0"
    if fit.solver == "robust" and not fit.robust.trim:
        yield "fit.robust.reach", "fit.robust.trim=0"
        yield "fit.robust.trim_noise", "fit.robust.trim=0"
    if fit.solver == "robust" and fit.robust.loss != "huber":
        yield "fit.robust.delta", f"fit.robust.loss={fit.robust.loss}"
    if fit.solver == "ridge" and fit.ridge.lam != "gcv":
        yield "fit.ridge.per_signal", "fit.ridge.lam is a number"
    if "refine" in fit:
        read = {"grid": ("bounds",)}.get(fit.refine.kind, ())
        if fit.refine.kind in REFINEMENTS:
            read = (*read, *REFINEMENTS[fit.refine.kind][1])
        for key in fit.refine:
            if key not in ("kind", *read):
                yield f"fit.refine.{key}", f"fit.refine.kind={fit.refine.kind}"
