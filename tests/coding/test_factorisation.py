"""Fits of signals measured in one way share a factorisation: the codes of ridge."""

import functools

import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import gram, operators, ridge
from nid_jax.coding.factorisation import Factorisation
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary

EXPERTS, CHANNELS = 12, 2


@functools.cache
def _split(experts, width):
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 16, 3.0, rngs=rngs)
    return nnx.split(
        SharedDictionary(embedding, experts, CHANNELS, Layers(2, width, "relu", 1.0), rngs=rngs)
    )


def make_dictionary(experts=EXPERTS, width=16):
    return nnx.merge(*_split(experts, width), copy=True)


def measure(dictionary, operator, signals=3, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    shape = (signals, operator.num_measurements, dictionary.channels)
    return (scale * generator.normal(0.5, 1, shape)).astype(np.float32)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_factorisation(held, weighted):
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    weights = np.random.default_rng(5).integers(0, 3, 63) if weighted else None
    factorisation = Factorisation(
        dictionary, operator, weights, lam=1e-5, map_numbers=2**27 if held else 0
    )
    for seed in (0, 1):
        y = measure(dictionary, operator, seed=seed, scale=10.0**seed)
        direct = ridge.ridge(gram.normal_equations(dictionary, operator, y, weights), 1e-5)
        if weighted:
            y[:, np.asarray(weights) == 0] = np.nan
        reused = factorisation.solve(y)
        for name in ("codes", "bias", "residual"):
            expected = np.asarray(getattr(direct, name))
            np.testing.assert_allclose(
                getattr(reused, name), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
            )
    with pytest.raises(ValueError, match="allowed"):
        factorisation.solve(y[:, :5])


def test_factorisation_of_masks_is_refused():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    with pytest.raises(ValueError, match="share no factorisation"):
        Factorisation(dictionary, operator, np.ones((3, 63)))
