"""What an expert sees of a coordinate: the coordinate itself, or features of it.

Its numbers are variables, trained with the dictionary (`Basis`) or fixed (`Constant`), and saved
with it either way.
"""

from nid_jax.fields.embeddings.base import Embedding, Identity
from nid_jax.fields.embeddings.by_name import EMBEDDINGS, build_embedding
from nid_jax.fields.embeddings.features import (
    MAX_OCTAVES,
    RBF,
    FourierFeatures,
    GaussianFourier,
    Positional,
    RandomFeatures,
    nyquist_octaves,
)
from nid_jax.fields.embeddings.lattices import (
    BANDS,
    MAX_DEGREE,
    MAX_FUNCTIONS,
    ChosenCosines,
    CosineLattice,
    Splines,
)

__all__ = [
    "BANDS",
    "EMBEDDINGS",
    "MAX_DEGREE",
    "MAX_FUNCTIONS",
    "MAX_OCTAVES",
    "RBF",
    "ChosenCosines",
    "CosineLattice",
    "Embedding",
    "FourierFeatures",
    "GaussianFourier",
    "Identity",
    "Positional",
    "RandomFeatures",
    "Splines",
    "build_embedding",
    "nyquist_octaves",
]
