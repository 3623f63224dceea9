"""Trained models: from a workdir's checkpoint back to a model, without any signal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from nid_jax import sharding
from nid_jax.coding.prior import GaussianPrior
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.model import Model, build_model, map_axes
from nid_jax.storage import checkpoints
from nid_jax.storage.workdir import Workdir


@dataclass(frozen=True, repr=False)
class Trained:
    """A trained dictionary, as a workdir and one file keep it."""

    model: Model
    """Dictionary and router."""
    config: ConfigDict
    """What it was trained with."""
    signals: dict[str, Any]
    """What it was trained on: 'shape' (*grid, C), 'count', 'title', and 'ranked_by'."""
    prior: GaussianPrior | None = None
    """The Gaussian of the training signals' codes."""
    step: int | None = field(default=None, kw_only=True)
    """Of training; None where that is not known."""


def abstract(leaf: Any, layout: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, to be laid out so."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)


def skeleton(
    config: ConfigDict,
    signals: dict[str, Any],
    mesh: jax.sharding.Mesh | None = None,
    atoms: int = 0,
) -> tuple[nnx.GraphDef, dict[str, nnx.State]]:
    """The model that a config describes, without its numbers.

    -> (graphdef, {'params', 'constants'} of jax.ShapeDtypeStruct); with a mesh, laid out on it.
    atoms: how many are stored as sums of an independent dictionary's networks; 0: none are.
    Experts that a mesh does not divide lie on every device. Raises ValueError for a config that
    describes none.
    """

    def build() -> Model:
        model = build_model(config, tuple(signals["shape"]), signals["count"], config.seed)
        if atoms:
            dictionary = model.dictionary
            assert isinstance(dictionary, IndependentDictionary), "others mix their own heads"
            experts, channels = dictionary.num_experts, dictionary.channels
            dictionary.put_mixing(jnp.zeros((experts, atoms)), jnp.zeros((atoms, channels)))
            dictionary.num_experts = atoms
        return model

    graphdef, *states = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    if mesh is not None:
        layouts = map_axes(lambda axes: sharding.named(mesh, *axes), states)
        layouts = sharding.fitting(states, layouts)
        states = jax.tree.map(abstract, states, layouts)
    params, constants = states
    return graphdef, {"params": params, "constants": constants}


def load_model(
    workdir: Workdir, step: int | str = "best", mesh: jax.sharding.Mesh | None = None
) -> Trained:
    """The trained model of a workdir, without its prior. Reads no signals.

    step: 'best', 'latest' or a number; mesh: devices to lay the model out on; without it, or where
    they are of several processes, the first one. Raises CheckpointError or FileNotFoundError where
    the workdir holds no good checkpoint.
    """
    config = workdir.load_config()
    signals = workdir.read_signals()
    try:
        graphdef, template = skeleton(config, signals, mesh)
    except (AttributeError, KeyError, TypeError, ArithmeticError) as error:
        words = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        raise ValueError(f"{workdir.config}: describes no model ({words[:200]})") from error
    ranked_by = signals.get("ranked_by", "psnr")
    with checkpoints.Checkpoints(
        workdir.checkpoints, read_only=True, best_metric=ranked_by
    ) as saved:
        restored = saved.restore({"model": template}, step=step)
    items = sharding.own(restored.items["model"])
    model = nnx.merge(graphdef, items["params"], items["constants"])
    return Trained(model, config, signals, step=restored.step)
