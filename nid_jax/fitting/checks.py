"""What a config asks of a fit, checked before any work begins: one line that names the key."""

from typing import Any

import jax
from ml_collections import ConfigDict

from nid_jax import settings
from nid_jax.coding.solvers import SOLVERS, Gaussian, Solver, config_group, solver_from_config
from nid_jax.errors import named
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fitting import refining, rounding

SPLITS = ("train", "test")
# Routers that store codes, or are not there: neither predicts those of new signals.
_UNPREDICTING = ("codebook", "none")


def check(config: ConfigDict) -> Solver:
    """The solver of config.fit. Raises ValueError for a fit that cannot be, whatever the signals.

    Of the rest of the config dictionary.num_experts and router.kind are read.
    """
    wanted, router = config.fit, config.router.kind
    settings.check(config)
    solver = solver_from_config(wanted)
    group = config_group(solver.name)
    with named("fit", only=["top_k"]), named(group, only=["candidates"]):
        solver.check_experts(config.dictionary.num_experts)
    if wanted.split not in SPLITS:
        raise ValueError(f"fit.split: {wanted.split!r}; allowed: {', '.join(SPLITS)}")
    with named("fit"):
        rounding.check(wanted.codes_dtype)
    if wanted.numbers > config.dictionary.num_experts:
        raise ValueError(
            f"fit.numbers: {wanted.numbers}; allowed: at most dictionary.num_experts="
            f"{config.dictionary.num_experts}"
        )
    refining.check(wanted)
    if "mesh" in wanted:
        # Libraries that only runs with surfaces need.
        from nid_jax.fitting import meshing

        meshing.check(wanted.mesh)
    if wanted.uncertainty and not isinstance(solver, Gaussian):
        raise ValueError(
            f"fit.uncertainty: true, but fit.solver={wanted.solver}; allowed: fit.solver=gaussian"
        )
    refinement = "none" if "refine" not in wanted else wanted.refine.kind
    for key, value, plain in (
        ("uncertainty", wanted.uncertainty, False),
        ("refine.kind", refinement, "none"),
    ):
        if value != plain and jax.process_count() > 1:
            raise ValueError(
                f"fit.{key}: {value!r}; allowed in several processes (--distributed): {plain!r}"
            )
    if solver.uses_router and router in _UNPREDICTING:
        asking = f"fit.solver={solver.name}"
        if not solver.routed:
            asking = f"{config_group(solver.name)}.{solver.router_field}=router"
        raise ValueError(
            f"{asking}: router.kind={router} predicts no codes of new signals; allowed: linear, "
            "conv, resnet, point; this dictionary has none; learn it with "
            "--config.router.kind=linear"
        )
    return solver


def check_measured(config: ConfigDict, measured: Any) -> None:
    """Raise ValueError, naming the key, for a fit that these measurements do not allow."""
    name, solver = config.fit.solver, SOLVERS[config.fit.solver]
    on_clouds = solver.reads == "clouds"
    if on_clouds and measured.cloud is None:
        raise ValueError(
            f"fit.solver: {name} reads points on surfaces and their normals, which these signals "
            "lack"
        )
    routed = name == "router" and config.router.kind == "point"
    if measured.values is None and not (on_clouds or routed):
        without = [other for other, kind in SOLVERS.items() if kind.reads == "clouds"]
        raise ValueError(
            f"fit.solver: {name} needs measurements, of which there are none; allowed without: "
            f"{', '.join(without)}, or router with router.kind=point"
        )
    refining.check_measured(config.fit, measured)


def check_signals(dictionary: Dictionary, measured: Any, title: str) -> None:
    """Raise ValueError for signals that are no functions of the dictionary's kind."""
    dims, channels = len(measured.grid_shape), measured.channels
    if (dims, channels) != (dictionary.dims, dictionary.channels):
        gray = dims == dictionary.dims and dictionary.channels == 1 and channels == 3
        raise ValueError(
            f"data.name: signals of {title} are {[*measured.grid_shape, channels]}, the "
            f"dictionary has {dictionary.dims} coordinates and {dictionary.channels} channels"
            + ("; data.gray=true turns colour to gray" if gray else "")
        )


def check_frame(learned: Any, collection: Any) -> None:
    """Raise ValueError for signals whose coordinates or values are scaled otherwise than those
    learned from. learned: the dictionary's `data.Frame`, None without."""
    own = getattr(collection, "frame", None)
    if learned is None or own is None:
        return
    for mine, theirs in zip(
        (*own.axes, *own.channels), (*learned.axes, *learned.channels), strict=True
    ):
        if (mine.low, mine.high) != (theirs.low, theirs.high):
            raise ValueError(
                f"data.points.frame, data.points.range: {collection.title} has {mine.label} from "
                f"{mine.low:.6g} to {mine.high:.6g}, the dictionary learned from {theirs.low:.6g} "
                f"to {theirs.high:.6g}; allowed: those, as data.take_frame gives a config"
            )
