"""The point router: symmetry, shapes, gradients, and that it learns."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.fields import routers
from nid_jax.fields.point_encoder import PointEncoder
from nid_jax.fields.variables import RouterParam


def make(pool="max", features=6, width=16, **options):
    return PointEncoder(5, 1, features, width, pool, rngs=nnx.Rngs(0), **options)


def clouds(seed, count=3, points=11, features=6):
    return np.random.default_rng(seed).normal(size=(count, points, features)).astype(np.float32)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), pool=st.sampled_from(["max", "max+mean"]))
def test_the_order_of_points_does_not_matter(seed, pool):
    router, cloud = make(pool), clouds(seed)
    order = np.random.default_rng(seed).permutation(cloud.shape[1])
    found = router(None, cloud)
    for got, expected in zip(router(None, cloud[:, order]), found, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    # What the points are does matter.
    assert float(jnp.abs(router(None, cloud + 1)[0] - found[0]).max()) > 1e-3


def test_repeated_points_matter_to_the_mean_alone():
    cloud = clouds(1)
    repeated = np.concatenate([cloud, cloud[:, :4]], 1)
    for pool, same in (("max", True), ("max+mean", False)):
        router = make(pool)
        gap = jnp.abs(router(None, repeated)[0] - router(None, cloud)[0]).max()
        assert (float(gap) < 1e-5) == same


def test_it_is_a_network_of_every_point_written_plainly():
    router, cloud = make("max+mean"), clouds(2)

    def apply(layer, x):
        kernel, bias = (np.asarray(v[...], np.float64) for v in (layer.kernel, layer.bias))
        return x @ kernel + bias

    for signal in range(len(cloud)):
        rows = []
        for point in cloud[signal].astype(np.float64):
            for layer in router.layers:
                point = np.maximum(apply(layer, point), 0)
            rows.append(point)
        pooled = np.concatenate([np.max(rows, 0), np.mean(rows, 0)])
        pooled = np.maximum(apply(router.after[0], pooled), 0)
        logits, bias = router(None, cloud)
        np.testing.assert_allclose(logits[signal], apply(router.head, pooled), atol=1e-4)
        np.testing.assert_allclose(bias[signal], apply(router.bias_head, pooled), atol=1e-4)


def test_any_number_of_points_and_sparse_codes():
    router = make()
    for points in (1, 7, 50):
        gates = router.gates(None, clouds(3, points=points), top_k=2)
        assert gates.values.shape == (3, 5)
        assert (np.count_nonzero(gates.values, 1) == 2).all()


@pytest.mark.parametrize("shape", [(3, 11, 4), (3, 6), (2, 0, 6), (2, 4, 4, 6)])
def test_clouds_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"router\.point_features.*got"):
        make()(None, np.zeros(shape, np.float32))


def test_options_are_refused():
    with pytest.raises(ValueError, match=r"router\.pool: 'sum'.*max, max\+mean"):
        make("sum")
    with pytest.raises(ValueError, match=r"router\.point_features: 0"):
        make(features=0)
    with pytest.raises(ValueError, match="none were given"):
        make()(None, None)


def test_built_from_a_config():
    config = ml_collections.ConfigDict({"kind": "point", "top_k": 0, "width": 32})
    router = routers.build_router(config, 7, 1, (8, 8, 8), 4, rngs=nnx.Rngs(0))
    assert isinstance(router, PointEncoder)
    assert (router.point_features, router.pool) == (6, "max")
    assert router(None, clouds(4))[0].shape == (3, 7)
    config.update({"point_features": 4, "pool": "max+mean", "noise": True})
    router = routers.build_router(config, 7, 1, (8, 8, 8), 4, rngs=nnx.Rngs(0))
    assert router.route(None, clouds(4, features=4)).noise_scale.shape == (3, 7)
    config.pool = "mean"
    with pytest.raises(ValueError, match=r"router\.pool: 'mean'"):
        routers.build_router(config, 7, 1, (8, 8, 8), 4, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_gradients_reach_every_weight():
    router = make("max+mean", noise=True)
    graph, params = nnx.split(router)

    def loss(params):
        routed = nnx.merge(graph, params).route(None, clouds(5))
        return sum(jnp.square(part - 1).sum() for part in routed)

    for path, leaf in jax.tree.leaves_with_path(jax.grad(loss)(params)):
        assert float(jnp.abs(leaf).max()) > 0, path


def balls(generator, count, points):
    """Clouds [B, Q, 6] on spheres about scattered centres, and their radii [B]."""
    radii = generator.uniform(0.2, 0.8, count)
    normals = generator.normal(size=(count, points, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    centres = generator.uniform(-0.2, 0.2, (count, 1, 3))
    cloud = np.concatenate([centres + radii[:, None, None] * normals, normals], -1)
    return cloud.astype(np.float32), radii.astype(np.float32)


@pytest.mark.slow
def test_it_learns_the_radius_of_spheres():
    generator = np.random.default_rng(0)
    router = PointEncoder(1, 1, 6, 32, rngs=nnx.Rngs(1))
    graph, params, rest = nnx.split(router, RouterParam, ...)
    optimizer = optax.adam(3e-3)

    def error(params, cloud, radii):
        logits = nnx.merge(graph, params, rest)(None, cloud)[0]
        return jnp.square(logits[:, 0] - radii).mean()

    @jax.jit
    def step(params, moments, cloud, radii):
        updates, moments = optimizer.update(jax.grad(error)(params, cloud, radii), moments)
        return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for _ in range(150):
        params, moments = step(params, moments, *balls(generator, 32, 32))
    # Unseen spheres, with another number of points.
    cloud, radii = balls(generator, 100, 50)
    assert float(error(params, cloud, radii)) < 0.05 * radii.var()
