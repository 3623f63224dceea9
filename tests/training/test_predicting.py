"""Routers in closed form: they predict ridge codes, and choose supports."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nid_jax.coding import operators
from nid_jax.coding.factorisation import Factorisation
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import CosineLattice
from nid_jax.fields.experts import Layers
from nid_jax.fields.router_networks import Conv, Linear
from nid_jax.fields.shared import SharedDictionary
from nid_jax.training import predicting

GRID, CHANNELS, EXPERTS, LAM = (7, 6), 2, 20, 1e-3


def dictionary_of(seed, experts=EXPERTS, coherence=0.0):
    """Heads on all cosines of the grid; a share of each atom is one and the same."""
    cosines = CosineLattice(GRID, "box")
    made = SharedDictionary(
        cosines, experts, CHANNELS, Layers(1, 1, "relu", 1.0), rngs=nnx.Rngs(seed)
    )
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal(made.head_kernel.shape)
    common = rng.standard_normal((*kernel.shape[:2], 1))
    made.head_kernel[...] = jnp.asarray(kernel + coherence * common, jnp.float32)
    return made


def design_of(dictionary):
    """Atoms without their mean over the points, float64 [P C, E], and those means [E, C]."""
    basis = np.asarray(dictionary.basis(grid(GRID)), np.float64)
    mean = basis.mean(0)
    return (basis - mean).transpose(0, 2, 1).reshape(-1, basis.shape[1]), mean


def ridge_render(dictionary, signals, lam):
    """What ridge codes with a free bias render, by float64 normal equations: [S, P, C]."""
    atoms, _ = design_of(dictionary)
    values = signals.reshape(len(signals), -1, CHANNELS).astype(np.float64)
    level = values.mean(1, keepdims=True)
    gram = atoms.T @ atoms
    shifted = gram + lam * np.trace(gram) / len(gram) * np.eye(len(gram))
    codes = np.linalg.solve(shifted, atoms.T @ (values - level).reshape(len(values), -1).T)
    return (atoms @ codes).T.reshape(values.shape) + level


def linear(seed):
    return Linear(EXPERTS, CHANNELS, GRID, rngs=nnx.Rngs(seed))


def unpooled(seed, width=6):
    return Conv(EXPERTS, CHANNELS, GRID, width, "none", rngs=nnx.Rngs(seed))


def moved(router, seed):
    """A router all of whose numbers have been moved, as training may have."""
    rng = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: leaf + rng.standard_normal(leaf.shape).astype("f4"), nnx.state(router)
    )
    nnx.update(router, state)
    return router


@pytest.mark.slow
@pytest.mark.parametrize("make", [linear, unpooled])
def test_a_router_in_closed_form_renders_what_ridge_does(make):
    dictionary, router = dictionary_of(1, coherence=3.0), moved(make(2), 3)
    signals = np.random.default_rng(4).uniform(0, 1, (5, *GRID, CHANNELS)).astype(np.float32)
    found = predicting.affine_codes(dictionary, operators.sample(GRID), LAM)
    assert router.affine
    assert found.lam == pytest.approx(LAM)
    router.take_affine(found.kernel, found.bias_kernel)
    gates = router.gates(None, jnp.asarray(signals))
    rendered = np.asarray(dictionary.combine(grid(GRID), gates), np.float64)
    wanted = ridge_render(dictionary, signals, LAM)
    assert np.linalg.norm(rendered - wanted) < 1e-5 * np.linalg.norm(wanted)


def sparse_signals(dictionary, seed, count, top_k):
    """Signals of K atoms each, with a level. -> ([S, P, C], bool [S, E])."""
    rng, (atoms, _) = np.random.default_rng(seed), design_of(dictionary)
    codes = np.zeros((count, atoms.shape[1]))
    for row in codes:
        places = rng.choice(len(row), top_k, replace=False)
        row[places] = rng.choice([-1, 1], top_k) * rng.uniform(1, 2, top_k)
    values = (codes @ atoms.T).reshape(count, -1, CHANNELS) + rng.uniform(0, 1, (count, 1, 1))
    return values.astype(np.float32), codes != 0


@pytest.mark.slow
def test_supports_are_those_that_signals_were_made_of():
    top_k, count = 4, 12
    dictionary = dictionary_of(5, coherence=1.5)
    values, truth = sparse_signals(dictionary, 6, count, top_k)
    measured = types.SimpleNamespace(
        operator=operators.sample(GRID), values=lambda index: values[index]
    )
    router = linear(7)
    words = predicting.find_router(router, dictionary, measured, count, LAM, top_k)
    assert "supports of 4" in words
    signals = jnp.asarray(values.reshape(count, *GRID, CHANNELS))
    chosen = np.asarray(router.gates(None, signals, top_k=top_k).indices)
    recall = np.take_along_axis(truth, chosen, 1).mean()
    atoms, _ = design_of(dictionary)
    flat = (values - values.mean(1, keepdims=True)).reshape(count, -1)
    correlated = np.argsort(-np.abs(flat @ atoms) / np.linalg.norm(atoms, axis=0), 1)[:, :top_k]
    assert recall > 0.95 > np.take_along_axis(truth, correlated, 1).mean()


@pytest.mark.slow
def test_an_unpooled_convolution_starts_with_the_signal_and_overfits_a_few():
    router = unpooled(8)
    rng = np.random.default_rng(9)
    signals = jnp.asarray(rng.standard_normal((3, *GRID, CHANNELS)), jnp.float32)
    features = np.asarray(router.features(signals)).reshape(3, *GRID, -1)
    np.testing.assert_array_equal(features[..., 0] - features[..., 1], signals[..., 0])
    np.testing.assert_array_equal(features[..., 2] - features[..., 3], signals[..., 1])
    codes = jnp.asarray(rng.standard_normal((3, EXPERTS)), jnp.float32)
    graphdef, weights = nnx.split(router)
    optimiser = optax.adam(3e-3)

    def error(weights):
        return jnp.square(nnx.merge(graphdef, weights)(None, signals)[0] - codes).mean()

    @jax.jit
    def descend(weights):
        def step(carry, _):
            weights, moments = carry
            value, slope = jax.value_and_grad(error)(weights)
            change, moments = optimiser.update(slope, moments)
            return (optax.apply_updates(weights, change), moments), value

        return jax.lax.scan(step, (weights, optimiser.init(weights)), None, 100)[1]

    values = np.asarray(descend(weights))
    assert values[-1] < 1e-2 * values[0]


def test_what_an_unpooled_convolution_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"router\.width: 3; allowed .* 4 or more"):
        unpooled(0, width=3)
    images = jnp.zeros((1, GRID[0], GRID[1] + 1, CHANNELS))
    with pytest.raises(ValueError, match="router.kind: conv was built for signals"):
        unpooled(0)(None, images)


def test_a_map_that_is_not_held_is_not_given():
    known = Factorisation(dictionary_of(1), operators.sample(GRID), map_numbers=0)
    with pytest.raises(ArgumentError, match="map_numbers"):
        known.affine()
