"""Distances without a dictionary: what each baseline reaches on solids known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest
from peers import siren_sdf
from peers.siren_sdf import Layers

from nid_jax.geometry import primitives

SMALL = {"layers": Layers(32, 3, 10.0), "batch_size": 200}


def anywhere(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3))


def overlap(found, truth):
    return ((found < 0) & (truth < 0)).sum() / ((found < 0) | (truth < 0)).sum()


def test_a_siren_of_samples():
    half = [0.6, 0.4, 0.5]
    points, unseen = anywhere(4000), anywhere(3000, 1)
    siren = siren_sdf.fit_siren(
        points,
        values=primitives.box(points, half),
        limit=300,
        learning_rate=3e-3,
        **SMALL,
    )
    found, truth = siren(unseen, chunk=700), primitives.box(unseen, half)
    assert found.shape == (3000,)
    assert overlap(found, truth) > 0.85
    assert abs(found - truth).mean() < 0.03
    assert siren.fit.last.steps == 4 * len(siren.fit.curve) == 300
    assert siren.fit.curve[-5:].mean() < siren.fit.curve[:5].mean() / 3


def test_a_siren_of_an_oriented_cloud():
    normals = np.random.default_rng(2).normal(size=(1000, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    siren = siren_sdf.fit_siren(
        0.6 * normals, normals=normals, limit=500, learning_rate=1e-3, **SMALL
    )
    unseen = anywhere(3000, 3)
    found, truth = siren(unseen), primitives.sphere(unseen, 0.6)
    assert overlap(found, truth) > 0.8
    # A cloud says nothing far away; near it f is a distance.
    near = abs(truth) < 0.1
    assert abs(found - truth)[near].mean() < 0.03


def test_the_clock_ends_a_fit_and_leaves_compilation_out():
    points = anywhere(100)
    values = primitives.sphere(points, 0.5)
    siren = siren_sdf.fit_siren(points, values=values, seconds=0.2, **SMALL)
    assert siren.fit.last.steps % 4 == 0
    assert siren.fit.last.seconds >= 0.2
    assert siren.fit.compile_seconds > 0
    with pytest.raises(ValueError, match="one of them finite"):
        siren_sdf.fit_siren(points, values=values, **SMALL)


def test_what_a_siren_refuses():
    points = anywhere(10)
    for given in ({}, {"normals": points, "values": points[:, 0]}):
        with pytest.raises(ValueError, match="one of the two"):
            siren_sdf.fit_siren(points, **given)


def test_the_decoder_written_plainly():
    decoder = siren_sdf.fit_auto_decoder(
        anywhere(50), np.zeros((2, 50)), latent_size=4, layers=Layers(32, 5), limit=1
    )
    first, again, *rest = (tuple(np.asarray(p, np.float64) for p in la) for la in decoder.layers)
    latent, points = np.random.default_rng(4).normal(size=4), anywhere(6, 5)
    for point, found in zip(points, decoder(latent[None], points)[0], strict=True):
        entered = np.concatenate([point, latent])
        x = np.maximum(entered @ first[0] + first[1], 0)
        for kernel, bias in rest[:2]:
            x = np.maximum(x @ kernel + bias, 0)
        x = x + entered @ again[0] + again[1]
        x = np.maximum(x @ rest[2][0] + rest[2][1], 0)
        expected = x @ rest[-1][0] + rest[-1][1]
        np.testing.assert_allclose(found, expected[0], atol=1e-4)


@pytest.mark.slow
def test_an_auto_decoder_knows_unseen_balls():
    generator = np.random.default_rng(6)

    def balls(radii, points):
        return np.stack([np.clip(primitives.sphere(points, r), -0.1, 0.1) for r in radii])

    radii = generator.uniform(0.3, 0.8, 12)
    points = anywhere(3000, 7)
    decoder = siren_sdf.fit_auto_decoder(
        points,
        balls(radii, points),
        latent_size=4,
        limit=400,
        learning_rate=3e-3,
        batch=(64, 200),
        layers=Layers(32, 3),
    )
    assert decoder.latents.shape == (12, 4)
    few, other = anywhere(300, 8), np.array([0.4, 0.55, 0.7])
    latents, fit = decoder.infer(few, balls(other, few), limit=200)
    assert fit.curve[-1] < fit.curve[0]
    unseen = anywhere(3000, 9)
    found, truth = decoder(latents, unseen), balls(other, unseen)
    assert found.shape == (3, 3000)
    for one, expected in zip(found, truth, strict=True):
        assert overlap(one, expected) > 0.85
    assert jnp.isfinite(decoder.latents).all()
