"""A model: a dictionary and the router that predicts codes for it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from nid_jax.fields import dictionaries
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routers import build_router
from nid_jax.fields.routing import Gates, Router

UNSAID = {"numerics": {"matmul": "float32"}}
"""Groups of a config that dictionaries of before have not, and what they were learned with."""


class Model(nnx.Module):
    """A dictionary of experts with its router (None where codes are only ever solved).

    `model(x, ids)` and `model(x, signals=signals)` render what the router predicts. Attributes:
    dictionary, router, top_k (active experts, 0 for dense codes), grid_shape (of the signals it was
    made for), channels.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        router: Router | None,
        top_k: int,
        grid_shape: Sequence[int],
    ):
        self.dictionary, self.router = dictionary, router
        self.top_k = int(top_k)
        self.grid_shape = tuple(grid_shape)
        self.channels = dictionary.channels

    def __call__(
        self,
        x: Float[Array, "P D"],
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
    ) -> Float[Array, "B P C"]:
        """Signals at points x [P, D] from the codes that the router predicts. -> [B, P, C].

        ids [B] of a codebook, or signals [B, *grid, C] (clouds [B, Q, F] for a point router).
        Raises ValueError as `gates`.
        """
        return self.dictionary.combine(x, self.gates(ids, signals))

    def gates(
        self,
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
        *,
        dense: bool = False,
        key: Key[Array, ""] | None = None,
    ) -> Gates:
        """Codes that the router predicts: ids [B] or signals [B, *grid, C] -> Gates.

        A `key` switches the router's noise on. Raises ValueError for a model without a router.
        """
        if self.router is None:
            raise ValueError(
                "router.kind: 'none' predicts no codes; solve them and call "
                "model.dictionary(x, codes, bias)"
            )
        top_k = None if dense else self.top_k
        return self.router.gates(ids, signals, top_k=top_k, key=key)


def build_model(
    config: ConfigDict, signal_shape: Sequence[int], num_signals: int, seed: int
) -> Model:
    """The model that `config.dictionary` and `config.router` describe, freshly drawn.

    Products are of `config.numerics.matmul`, in float32 where a config has no such group.
    signal_shape: (*grid, C); num_signals: size of the training collection, for a codebook. Raises
    ValueError naming the key that is wrong.
    """
    *grid_shape, channels = signal_shape
    rngs = nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 0))
    dictionary = dictionaries.build_dictionary(
        config.dictionary,
        channels,
        len(grid_shape),
        tuple(grid_shape),
        rngs,
        config.get("numerics", UNSAID["numerics"])["matmul"],
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


def map_axes(function: Callable[[tuple], Any], states: Any) -> Any:
    """An nnx state, or a tree of such, with every leaf replaced by function(its logical axes).

    Axes are () of what is replicated.
    """

    def one(variable: nnx.Variable) -> nnx.Variable:
        axes = variable.get_metadata().get("axes") or ()
        return jax.tree.map(lambda _: function(axes), variable)

    return jax.tree.map(one, states, is_leaf=lambda node: isinstance(node, nnx.Variable))


def parameter_overview(model: Model) -> list[tuple[str, str, str, int]]:
    """(path, type of variable, shape, numbers) of every variable of a model, the trained and not.

    Types are those of `variables`: Kernel and Basis are the dictionary's, Code and RouterParam the
    router's, Constant is not trained.
    """
    return [
        (".".join(map(str, path)), type(variable).__name__, str(variable.shape), variable.size)
        for path, variable in nnx.to_flat_state(nnx.state(model))
    ]


def count_parameters(model: Model) -> dict[str, int]:
    """Numbers per group: {'dictionary': ..., 'router': ...}."""

    def count(part: nnx.Module | None) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(part))) if part else 0

    return {"dictionary": count(model.dictionary), "router": count(model.router)}
