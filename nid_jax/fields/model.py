"""A model: a dictionary and the router that predicts codes for it."""

import jax
from flax import nnx

from nid_jax.fields import dictionary as dictionaries
from nid_jax.fields.routers import build_router


class Model(nnx.Module):
    """A dictionary of experts with its router (None where codes are only ever solved).

    Attributes: dictionary, router, top_k (active experts, 0 for dense codes), grid_shape (of the
    signals it was made for), channels.
    """

    def __init__(self, dictionary, router, top_k, grid_shape):
        self.dictionary, self.router = dictionary, router
        self.top_k = int(top_k)
        self.grid_shape = tuple(grid_shape)
        self.channels = dictionary.channels

    def gates(self, ids=None, signals=None, *, dense=False, key=None):
        """Codes that the router predicts: ids [B] or signals [B, *grid, C] -> Gates."""
        top_k = None if dense else self.top_k
        return self.router.gates(ids, signals, top_k=top_k, key=key)


def build_model(config, signal_shape, num_signals, seed):
    """The model that `config.dictionary` and `config.router` describe, freshly drawn.

    signal_shape: (*grid, C); num_signals: size of the training collection, for a codebook. Raises
    ValueError naming the key that is wrong.
    """
    *grid_shape, channels = signal_shape
    rngs = nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 0))
    dictionary = dictionaries.build_dictionary(
        config.dictionary, channels, len(grid_shape), tuple(grid_shape), rngs
    )
    router = build_router(
        config.router,
        config.dictionary.num_experts,
        channels,
        tuple(grid_shape),
        num_signals,
        rngs=rngs,
    )
    return Model(dictionary, router, config.router.top_k, grid_shape)


def map_axes(function, state):
    """An nnx state with every leaf replaced by function(its logical axes, () if replicated)."""

    def one(variable):
        axes = variable.get_metadata().get("axes") or ()
        return jax.tree.map(lambda _: function(axes), variable)

    return jax.tree.map(one, state, is_leaf=lambda node: isinstance(node, nnx.Variable))


def count_parameters(model):
    """Numbers per group: {'dictionary': ..., 'router': ...}."""

    def count(part):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part))) if part else 0

    return {"dictionary": count(model.dictionary), "router": count(model.router)}
