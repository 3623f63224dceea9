"""Learning from one collection of several geometries: of sinograms, and of volumes."""

import jax.numpy as jnp
import numpy as np
import pytest

import nid_jax as nid
from nid_jax import data
from nid_jax.coding import operators
from nid_jax.fields.coordinates import grid

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(5)


def signals(count, dims, modes=4):
    """Functions of points [Q, D] -> [Q, 1], mixtures of a few waves."""
    waves = np.random.default_rng(9).integers(0, 4, (modes, dims))
    codes = RNG.normal(0, 0.2, (count, modes)) / (1 + np.arange(modes))

    def one(code):
        def at(points):
            phases = np.pi * (np.asarray(points)[:, None] + 1) / 2 * waves
            return (0.5 + np.cos(phases).prod(-1) @ code)[:, None].astype(np.float32)

        return at

    return [one(code) for code in codes]


def test_sinograms_of_different_geometry():
    shape = (12, 12)
    ways = [
        operators.parallel_beam(shape, angles=6),
        operators.parallel_beam(shape, angles=[10.0, 70.0, 130.0], detectors=20),
        operators.fan_beam(shape, angles=5, source_distance=30.0),
    ]
    known = signals(30, 2)
    way = np.arange(30) % 3
    values = [np.asarray(ways[w] @ f) for w, f in zip(way, known, strict=True)]
    collection = data.WaysCollection(values, ways, way, shape, range(30), "three scanners")
    found = nid.learn(collection, num_experts=8)
    unseen = signals(3, 2)
    truth = np.stack([f(grid(shape)).reshape(*shape, 1) for f in unseen])
    sinograms = jnp.stack([ways[0] @ f for f in unseen])
    fit = found.fit(sinograms, operator=ways[0])
    assert np.sqrt(np.square(fit.render(shape) - truth).mean()) < 0.05
    assert truth.std() > 0.1


def test_volumes_of_different_resolution():
    shape, sizes = (6, 6, 6), [(6, 6, 6), (3, 6, 6), (3, 3, 3)]
    known = signals(24, 3)
    volumes = []
    for number, function in enumerate(known):
        size = sizes[number % 3]
        operator = operators.areas(shape, size)
        volumes.append(np.asarray(operator @ function).reshape(*size, 1))
    collection = data.pictures_of_sizes(volumes, range(24), "volumes", shape)
    found = nid.learn(collection, num_experts=8)
    unseen = signals(3, 3)
    truth = np.stack([f(grid(shape)).reshape(*shape, 1) for f in unseen])
    fit = found.fit(truth)
    assert np.sqrt(np.square(fit.render(shape) - truth).mean()) < 0.03
    assert truth.std() > 0.1
