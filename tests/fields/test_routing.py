"""Gating and routers against independent float64 implementations."""

import types

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from nid_jax.fields import router_networks, routers, routing
from nid_jax.fields.variables import Code, RouterParam

FLOATS = st.floats(-5, 5, width=32, allow_subnormal=False)


def rng(seed=0):
    return np.random.default_rng(seed)


def to64(variable):
    return np.asarray(variable[...], np.float64)


def random_module(build, seed=5):
    """Every parameter random and none zero, so that a forgotten bias shows."""
    module = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    draw = rng(seed)

    def fill(x):
        return jnp.asarray(0.3 * draw.standard_normal(x.shape), jnp.float32)

    nnx.update(module, jax.tree.map(fill, nnx.state(module)))
    return module


@nnx.jit
def call(module, signals):
    return module(None, signals)


def config(kind, **more):
    return types.SimpleNamespace(kind=kind, **({"top_k": 0} | more))


# --- gating ---


compiled_gate = jax.jit(routing.gate, static_argnums=2)


# Few shapes, because each is compiled.
@given(st.sampled_from([(1, 1, 1), (3, 7, 1), (3, 7, 4), (3, 7, 7)]), st.data())
@settings(max_examples=40, deadline=None)
def test_gate_keeps_the_largest_magnitudes_signed(shape, data):
    batch, num_experts, k = shape
    logits = data.draw(hnp.arrays(np.float32, (batch, num_experts), elements=FLOATS))
    bias = np.ones((batch, 2), np.float32)
    gates = compiled_gate(jnp.asarray(logits), jnp.asarray(bias), k)
    expected = np.zeros_like(logits)
    gates = jax.device_get(gates)
    for row in range(batch):
        order = sorted(range(num_experts), key=lambda e: (-abs(logits[row, e]), e))[:k]
        expected[row, order] = logits[row, order]
        np.testing.assert_array_equal(gates.indices[row], order)
        np.testing.assert_array_equal(gates.weights[row], logits[row, order])
    np.testing.assert_array_equal(gates.values, expected)
    np.testing.assert_array_equal(gates.bias, bias)
    assert gates.load is None


@pytest.mark.parametrize("top_k", [None, 0])
def test_gate_without_top_k_is_dense(top_k):
    logits = jnp.asarray(rng().standard_normal((3, 5)), jnp.float32)
    gates = routing.gate(logits, jnp.zeros((3, 1)), top_k, noise_scale=jnp.ones((3, 5)))
    np.testing.assert_array_equal(gates.values, logits)
    assert gates.indices is None
    assert gates.weights is None


def test_gradient_reaches_the_kept_logits_only():
    logits = jnp.asarray([[0.5, -2.0, 1.0, -0.1]])
    upstream = jnp.asarray([[1.0, 10.0, 100.0, 1000.0]])

    def through_values(x):
        return (routing.gate(x, jnp.zeros((1, 1)), 2).values * upstream).sum()

    def through_weights(x):
        gates = routing.gate(x, jnp.zeros((1, 1)), 2)
        return (gates.weights * jnp.take_along_axis(upstream, gates.indices, -1)).sum()

    for function in (through_values, through_weights):
        np.testing.assert_array_equal(jax.grad(function)(logits), [[0.0, 10.0, 100.0, 0.0]])


@pytest.mark.parametrize("top_k", [-1, 6])
def test_top_k_out_of_range_names_both_keys(top_k):
    with pytest.raises(ValueError, match=r"router\.top_k.*dictionary\.num_experts"):
        routing.gate(jnp.zeros((1, 5)), jnp.zeros((1, 1)), top_k)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_smooth_load_is_the_probability_of_being_kept(k):
    draw = rng(3)
    logits = draw.standard_normal((2, 6)).astype(np.float32)
    scale = draw.uniform(0.2, 1.5, (2, 6)).astype(np.float32)
    gates = compiled_gate(logits, jnp.zeros((2, 1)), k, noise_scale=scale, key=jax.random.key(7))
    gates = jax.device_get(gates)
    # The noise that was drawn, redrawn for one expert at a time with all others held.
    noisy = logits + scale * np.asarray(jax.random.normal(jax.random.key(7), (2, 6)))
    np.testing.assert_allclose(gates.values[gates.values != 0], noisy[gates.values != 0], atol=1e-6)
    samples = 40_000
    for b in range(2):
        for e in range(6):
            trial = np.repeat(np.abs(noisy[b])[None].astype(np.float64), samples, 0)
            trial[:, e] = np.abs(logits[b, e] + scale[b, e] * draw.standard_normal(samples))
            rank = (trial > trial[:, e : e + 1]).sum(1)
            # Five standard errors of a proportion, at its widest.
            assert abs((rank < k).mean() - float(gates.load[b, e])) < 5 * 0.5 / samples**0.5


def test_smooth_load_has_the_gradient_of_its_formula():
    draw = rng(4)
    with jax.enable_x64(True):
        logits, scale = (jnp.asarray(x) for x in draw.uniform(0.3, 1.5, (2, 2, 6)))
        weight = jnp.asarray(draw.standard_normal((2, 6)))

        def weighted_load(logits, scale):
            gates = routing.gate(
                logits, jnp.zeros((2, 1)), 3, noise_scale=scale, key=jax.random.key(0)
            )
            return (gates.load * weight).sum()

        check_grads(jax.jit(weighted_load), (logits, scale), order=1, modes=["rev"], rtol=1e-5)


def test_importance_and_load_of_each_kind():
    logits = jnp.asarray([[3.0, -2.0, 0.5], [-1.0, 2.5, 0.1]])
    gates = routing.gate(logits, jnp.zeros((2, 1)), 2)
    np.testing.assert_allclose(routing.importance(gates), [4.0, 4.5, 0.0])
    np.testing.assert_allclose(routing.importance(gates, "signed"), [2.0, 0.5, 0.0])
    np.testing.assert_allclose(routing.load(gates), [2, 2, 0])
    np.testing.assert_allclose(routing.load(gates, "positive"), [1, 1, 0])
    smooth = gates._replace(load=jnp.asarray([[0.5, 0.25, 0.0], [0.25, 0.5, 1.0]]))
    np.testing.assert_allclose(routing.load(smooth, "smooth"), [0.75, 0.75, 1.0])
    with pytest.raises(ValueError, match="noisy"):
        routing.load(gates, "smooth")
    with pytest.raises(ValueError, match="allowed"):
        routing.load(gates, "other")
    with pytest.raises(ValueError, match=r"loss\.importance"):
        routing.importance(gates, "other")


# --- codebook ---


def raw_codebook(max_norm):
    book = random_module(lambda rngs: routing.Codebook(5, 6, 2, max_norm, rngs=rngs))
    # Rows of length 0.4 to 4: some inside and some outside of the unit ball.
    table = rng(2).standard_normal((5, 8))
    table *= np.linspace(0.4, 4, 5)[:, None] / np.linalg.norm(table, axis=1, keepdims=True)
    book.codes[...] = jnp.asarray(table[:, :6], jnp.float32)
    book.bias[...] = jnp.asarray(table[:, 6:], jnp.float32)
    return book, table


def test_codebook_prepare_scales_looked_up_rows_in_place():
    book, table = raw_codebook(1.0)
    ids = jnp.asarray([4, 0, 2, 4])
    graph, state = nnx.split(book)

    @jax.jit
    def prepare(state):
        book = nnx.merge(graph, state)
        book.prepare(ids)
        return nnx.state(book)

    nnx.update(book, prepare(state))
    expected = table.copy()
    for row in (2, 4):
        expected[row] /= np.linalg.norm(table[row]) + 1e-7
    got = np.concatenate([book.codes[...], book.bias[...]], 1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    logits, bias = book(ids)
    np.testing.assert_allclose(logits, expected[np.asarray(ids), :6], atol=1e-6)
    np.testing.assert_allclose(bias, expected[np.asarray(ids), 6:], atol=1e-6)


def test_codebook_gradient_is_that_of_the_row_itself():
    book, _ = raw_codebook(1.0)
    book.prepare(jnp.asarray([3, 3, 1]))

    def total(book):
        return book(jnp.asarray([3, 3, 1]))[0].sum()

    gradient = nnx.grad(total, argnums=nnx.DiffState(0, Code))(book)
    expected = np.zeros((5, 6))
    expected[1], expected[3] = 1, 2
    np.testing.assert_array_equal(gradient["codes"][...], expected)


def test_codebook_without_max_norm_is_left_alone_and_starts_at_unit_length():
    book, table = raw_codebook(0.0)
    book.prepare(jnp.asarray([4]))
    np.testing.assert_allclose(book.codes[...], table[:, :6], atol=1e-6)
    fresh = routing.Codebook(50, 300, 3, rngs=nnx.Rngs(0))
    lengths = np.linalg.norm(np.concatenate([fresh.codes[...], fresh.bias[...]], 1), axis=1)
    assert abs(lengths.mean() - 1) < 0.02
    capped = routing.Codebook(50, 300, 3, max_norm=0.5, scale=1.0, rngs=nnx.Rngs(0))
    lengths = np.linalg.norm(np.concatenate([capped.codes[...], capped.bias[...]], 1), axis=1)
    np.testing.assert_allclose(lengths, 0.5, atol=1e-5)
    scaled = routing.Codebook(50, 300, 3, scale=0.2, rngs=nnx.Rngs(0))
    assert abs(float(scaled.codes[...].std()) - 0.2) < 0.01


def test_codebook_errors():
    book, _ = raw_codebook(0.0)
    with pytest.raises(ValueError, match="ids"):
        book(None, jnp.zeros((1, 2, 2, 2)))
    assert np.isnan(book(jnp.asarray([5]))[0]).all()
    with pytest.raises(ValueError, match=r"^max_norm: -1.0; allowed"):
        routing.Codebook(2, 2, 1, max_norm=-1.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="at least 1"):
        routing.Codebook(0, 2, 1, rngs=nnx.Rngs(0))


# --- networks, in float64 ---


def convolve(x, layer):
    """Images [B, H, W, F] through 'same' cross-correlations, by scipy."""
    kernel, bias = to64(layer.kernel), to64(layer.bias)
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for b, f, g in np.ndindex(x.shape[0], x.shape[3], kernel.shape[-1]):
        out[b, :, :, g] += scipy.signal.correlate2d(x[b, :, :, f], kernel[:, :, f, g], "same")
    return out + bias


def relu(x):
    return np.maximum(x, 0)


def heads(router, features):
    return (
        features @ to64(router.head.kernel) + to64(router.head.bias),
        features @ to64(router.bias_head.kernel) + to64(router.bias_head.bias),
    )


def check(router, images, features):
    logits, bias = call(router, jnp.asarray(images, jnp.float32))
    expected_logits, expected_bias = heads(router, features)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-5, atol=1e-5)


def test_linear_router():
    router = random_module(lambda rngs: router_networks.Linear(6, 2, (3, 4, 2), rngs=rngs))
    volumes = rng(6).uniform(size=(3, 3, 4, 2, 2))
    check(router, volumes, volumes.reshape(3, -1))


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_conv_router(pool):
    router = random_module(
        lambda rngs: router_networks.Conv(6, 3, (7, 9), width=4, pool=pool, rngs=rngs)
    )
    images = rng(6).uniform(size=(2, 7, 9, 3))
    x = relu(convolve(relu(convolve(images, router.first)), router.second))
    check(router, images, getattr(x, pool)((1, 2)))


def test_resnet_router_on_an_oblong_image():
    router = random_module(
        lambda rngs: router_networks.ResNet(6, 3, (6, 8), widths=(2, 3), rngs=rngs)
    )
    images = rng(6).uniform(size=(2, 6, 8, 3))
    x = relu(convolve(relu(convolve(images, router.first)), router.second))
    for block in router.blocks:
        x = relu(x + relu(convolve(relu(convolve(x, block.first)), block.second)))
    x = relu(convolve(x, router.last)).reshape(2, 48, 3)
    x = np.einsum("bpf,p->bf", x, to64(router.pixels.kernel)[:, 0]) + to64(router.pixels.bias)
    encoded = nnx.jit(lambda router, images: router.encode(images))(
        router, jnp.asarray(images, jnp.float32)
    )
    np.testing.assert_allclose(encoded, x, rtol=1e-5, atol=1e-5)
    check(router, images, relu(x))


KINDS = ("codebook", "linear", "conv", "resnet")


@pytest.mark.parametrize("kind", KINDS)
def test_every_router_starts_useful_and_of_order_one(kind):
    keys = config(kind, top_k=8, width=16)
    # One map over the pixels, shared by all channels: a quarter of a resnet's draws start weaker.
    router = routers.build_router(keys, 32, 3, (8, 12), 6, rngs=nnx.Rngs(0))
    images = jnp.asarray(rng(7).uniform(size=(6, 8, 12, 3)), jnp.float32)
    logits, bias = nnx.jit(lambda router: router(jnp.arange(6), images))(router)
    assert logits.shape == (6, 32)
    assert bias.shape == (6, 3)
    assert 0.02 < float(logits.std()) < 3
    leaves = jax.tree.leaves(nnx.state(router), is_leaf=lambda x: isinstance(x, nnx.Variable))
    wanted = Code if kind == "codebook" else RouterParam
    assert all(type(leaf) is wanted for leaf in leaves)
    assert all(leaf[...].dtype == jnp.float32 for leaf in leaves)

    def error(router):
        return jnp.square(router.gates(jnp.arange(6), images, 8).values - 1).sum()

    gradient = nnx.jit(nnx.grad(error, argnums=nnx.DiffState(0, wanted)))(router)
    name = "codes" if kind == "codebook" else "head"
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient[name]))
    # What the training step calls before every lookup, whatever the router.
    router.prepare(jnp.arange(6))


@pytest.mark.parametrize("kind", ["codebook", "linear"])
def test_noise_needs_a_key_and_learns_its_scale(kind):
    keys = config(kind, top_k=4, width=8, noise=True)
    router = routers.build_router(keys, 12, 1, (6, 6), 3, rngs=nnx.Rngs(1))
    images = jnp.asarray(rng(7).uniform(size=(3, 6, 6, 1)), jnp.float32)
    ids = jnp.arange(3)
    routed = nnx.jit(lambda router: router.route(ids, images))(router)
    scale = routed.noise_scale
    assert scale.shape == (3, 12)
    np.testing.assert_allclose(scale, routing.NOISE_START + routing.NOISE_FLOOR, rtol=1e-4)
    quiet = nnx.jit(lambda router: router.gates(ids, images, 4))(router)
    strongest = jnp.abs(routed.logits).max(1)
    np.testing.assert_array_equal(jnp.abs(quiet.weights[:, 0]), strongest)
    assert quiet.load is None
    noisy = nnx.jit(lambda router: router.gates(ids, images, 4, key=jax.random.key(1)))(router)
    assert not np.array_equal(noisy.weights, quiet.weights)

    def unevenness(router):
        return jnp.square(router.gates(ids, images, 4, key=jax.random.key(1)).load.sum(0)).sum()

    gradient = nnx.jit(nnx.grad(unevenness, argnums=nnx.DiffState(0, RouterParam)))(router)
    noise = gradient["noise"] if kind == "codebook" else gradient["noise_head"]
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(noise))


# --- what is refused ---


@pytest.mark.parametrize("kind", ["conv", "resnet"])
@pytest.mark.parametrize("grid", [(8,), (4, 4, 4)])
def test_image_routers_refuse_other_grids(kind, grid):
    with pytest.raises(ValueError, match=rf"router\.kind: {kind} .*{len(grid)} dim"):
        routers.build_router(config(kind), 8, 1, grid, 2, rngs=nnx.Rngs(0))


def test_build_router_names_the_nearest_kind_and_checks_top_k():
    with pytest.raises(ValueError, match="did you mean 'resnet'"):
        routers.build_router(config("resnt"), 8, 1, (4, 4), 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"router\.top_k: 9 "):
        routers.build_router(config("linear", top_k=9), 8, 1, (4, 4), 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"router\.pool"):
        routers.build_router(config("conv", pool="max"), 8, 1, (4, 4), 2, rngs=nnx.Rngs(0))
    assert routers.build_router(config("none"), 8, 1, (4, 4), 2, rngs=nnx.Rngs(0)) is None


def test_networks_refuse_signals_of_another_shape():
    linear = random_module(lambda rngs: router_networks.Linear(4, 1, (4, 5), rngs=rngs))
    with pytest.raises(ValueError, match=r"\(4, 5, 1\), got \(5, 4, 1\)"):
        linear(None, jnp.zeros((2, 5, 4, 1)))
    with pytest.raises(ValueError, match="none were given"):
        linear(jnp.arange(2))
    conv = random_module(lambda rngs: router_networks.Conv(4, 1, (4, 5), width=2, rngs=rngs))
    assert call(conv, jnp.zeros((2, 9, 7, 1)))[0].shape == (2, 4)
    with pytest.raises(ValueError, match=r"any, any, 1"):
        conv(None, jnp.zeros((2, 9, 7, 3)))


def test_resnet_widths_follow_width_unless_given():
    def shapes(**given):
        keys = config("resnet", **given)
        router = random_module(lambda rngs: routers.build_router(keys, 4, 1, (4, 4), 2, rngs=rngs))
        return router.first.kernel.shape, router.second.kernel.shape

    assert shapes(width=6) == ((3, 3, 1, 3), (3, 3, 3, 6))
    assert shapes(widths=(2, 5)) == ((3, 3, 1, 2), (3, 3, 2, 5))
