"""Trained models: from a workdir's checkpoint back to a model, without any signal."""

import functools

import jax
from flax import nnx

from nid_jax import sharding
from nid_jax.fields.model import build_model, map_axes
from nid_jax.storage import checkpoints


def abstract(leaf, layout):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)


def load_model(workdir, step="best", mesh=None):
    """The trained model of a workdir, its config and what it was trained on. Reads no signals.

    mesh: devices to lay the model out on; without it, the first one.
    -> (Model, ConfigDict, {'shape', 'count', 'title'}, lines about damaged checkpoints). Raises
    CheckpointError or FileNotFoundError where the workdir holds no good checkpoint.
    """
    config = workdir.load_config()
    signals = workdir.read_json("signals.json")
    build = functools.partial(
        build_model, config, tuple(signals["shape"]), signals["count"], config.seed
    )
    graphdef, params, constants = nnx.split(nnx.eval_shape(build), nnx.Param, ...)
    if mesh is not None:
        sharding.check_divisible(mesh, config.dictionary.num_experts, mesh.shape["data"])
        layouts = map_axes(lambda axes: sharding.named(mesh, *axes), (params, constants))
        params, constants = jax.tree.map(abstract, (params, constants), layouts)
    templates = {"model": {"params": params, "constants": constants}}
    ranked_by = signals.get("ranked_by", "psnr")
    with checkpoints.Checkpoints(
        workdir.checkpoints, read_only=True, best_metric=ranked_by
    ) as saved:
        restored = saved.restore(templates, step=step)
    items = restored.items["model"]
    model = nnx.merge(graphdef, items["params"], items["constants"])
    return model, config, signals, restored.skipped
