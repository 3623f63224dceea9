"""What a dictionary of a config's sizes takes at least, counted before anything is made."""

import math
from collections.abc import Callable

import jax
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.errors import ArgumentError
from nid_jax.fields.model import Model
from nid_jax.reporting import tables

# What each of these is made to ask how much of the whole is due to it.
_LEAST = {
    "dictionary.num_experts": 1,
    "dictionary.width": 1,
    "dictionary.num_layers": 1,
    "dictionary.embedding.size": 2,
    "dictionary.embedding.num_centres": 1,
    "router.width": 64,
}
# Keys that other keys must not be above.
_BELOW = {"dictionary.num_experts": ("router.top_k",)}


def least_bytes(config: ConfigDict, model: Model) -> int:
    """Bytes that training holds at least: parameters, gradients, moments, products of atoms.

    model: of abstract arrays. Steps hold more: rendered signals and what lies between the layers.
    """
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model))) - trained
    train = config.train
    moments = {"none": 0, "sgd": 1}.get(train.optimizer.name, 2)
    copies = 2 + moments if train.steps else 1
    experts = config.dictionary.num_experts
    products = experts**2 if train.codes in ("varpro", "sparse_varpro") else 0
    return 4 * (copies * trained + held + products)


def check(config: ConfigDict, build: Callable[[ConfigDict], Model], there: int) -> Model:
    """The model of abstract arrays. Raises ArgumentError, naming the key most to blame, for one
    that takes more bytes than there are.

    build: config -> model; there: 0 is not known.
    """
    model = nnx.eval_shape(lambda: build(config))
    needed = least_bytes(config, model)
    if not there or needed <= there:
        return model
    without = {}
    for key, least in _LEAST.items():
        smaller = _changed(config, key, least)
        if smaller is not None:
            without[key] = least_bytes(smaller, nnx.eval_shape(lambda c=smaller: build(c)))
    key = min(without, key=without.__getitem__)
    raise ArgumentError(
        key,
        _value(config, key),
        f"what fits into the {tables.format_bytes(there)} there are; weights, gradients, moments "
        f"and products of atoms take {tables.format_bytes(needed)}",
    )


def _value(config, key):
    for word in key.split("."):
        config = config[word]
    return config


def _changed(config, key, value):
    """A copy with the key at so small a value; None where it is as small already."""
    if _value(config, key) <= value:
        return None
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict({key: value, **dict.fromkeys(_BELOW.get(key, ()), 0)})
    return copy
