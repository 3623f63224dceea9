"""How the heads of a shared dictionary begin: dictionary.heads."""

from typing import Any

from ml_collections import ConfigDict

from nid_jax.coding.prior import Coded
from nid_jax.fields.shared import SharedDictionary
from nid_jax.training.atoms import wave_heads
from nid_jax.training.components import (
    ERRORS,
    MOST_COEFFICIENTS,
    component_heads,
    put_heads,
)
from nid_jax.training.lattice_components import lattice_heads

HEADS = ("drawn", "components", "waves")


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for heads that cannot be."""
    dictionary = config.dictionary
    if dictionary.heads not in HEADS:
        raise ValueError(f"dictionary.heads: {dictionary.heads!r}; allowed: {', '.join(HEADS)}")
    if dictionary.heads != "drawn" and dictionary.kind != "shared":
        raise ValueError(
            f"dictionary.heads: {dictionary.heads!r}; allowed for dictionary.kind="
            f"{dictionary.kind}, whose experts share no features: drawn"
        )
    if dictionary.heads == "waves" and not config.router.top_k:
        raise ValueError("router.top_k: 0 is dense; dictionary.heads=waves needs 1 or more")
    wanted = dictionary.components
    if wanted.errors not in ERRORS:
        raise ValueError(
            f"dictionary.components.errors: {wanted.errors!r}; allowed: {', '.join(ERRORS)}"
        )
    if not wanted.shrinkage <= 1:
        raise ValueError(
            f"dictionary.components.shrinkage: {wanted.shrinkage}; allowed: at most 1, below 0 "
            "chooses"
        )


def find(
    dictionary: SharedDictionary, measured: Any, collection: Any, config: ConfigDict
) -> tuple[str, Coded | None]:
    """Give a dictionary the heads that config.dictionary.heads asks for.

    -> words on them, and the signals in them where finding the heads left their codes too.

    measured: what training sees of the collection, as a task's `learned_from` gives. Components are
    those of a covariance, or of the signals' products where features are too many for one. Raises
    ArgumentError for features or signals of which such heads cannot be found.
    """
    if config.dictionary.heads == "waves":
        names, top_k = collection.names, config.router.top_k
        return wave_heads(dictionary, measured, names, top_k, config.seed), None
    wanted = config.dictionary.components
    if dictionary.num_features * dictionary.channels > MOST_COEFFICIENTS:
        found = lattice_heads(dictionary, collection, wanted.errors, max(wanted.shrinkage, 0.0))
    else:
        shrinkage = None if wanted.shrinkage < 0 else wanted.shrinkage
        names = collection.names
        found = component_heads(dictionary, measured, names, wanted.errors, shrinkage)
    put_heads(dictionary, found)
    return found.words(), found.coded
