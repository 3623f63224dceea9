"""The dictionary that a config describes."""

import functools
from collections.abc import Callable

from flax import nnx
from ml_collections import ConfigDict

from nid_jax import errors
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.embeddings import build_embedding
from nid_jax.fields.experts import Layers, check_matmul
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary

KINDS = ("independent", "shared")


def build_dictionary(
    config: ConfigDict,
    channels: int,
    dims: int,
    grid_shape: tuple[int, ...],
    rngs: nnx.Rngs,
    matmul: str = "float32",
) -> Dictionary:
    """The dictionary that `config.dictionary` describes.

    config: kind, num_experts, num_layers, width, activation, omega0, skip, embedding. dims D and
    grid_shape belong to the signals; matmul: of the layers, `config.numerics.matmul`. Raises
    ValueError naming the key that is wrong and what is allowed.
    """
    with errors.named("numerics"):
        check_matmul(matmul)
    kinds: dict[str, Callable[..., Dictionary]] = {
        "independent": IndependentDictionary,
        "shared": functools.partial(SharedDictionary, skip=config.get("skip", False)),
    }
    with errors.named("dictionary"):
        if config.kind not in kinds:
            raise ArgumentError("kind", config.kind, ", ".join(kinds))
        layers = Layers(config.num_layers, config.width, config.activation, config.omega0, matmul)
        embedding = build_embedding(config.embedding, dims, grid_shape, rngs)
        return kinds[config.kind](embedding, config.num_experts, channels, layers, rngs=rngs)
