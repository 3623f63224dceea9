"""Dictionaries against numpy in float64, and the three orders of one product against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from nid_jax import numerics, platforms
from nid_jax.fields import dictionaries, independent, routing
from nid_jax.fields import dictionary as base
from nid_jax.fields.embeddings import ChosenCosines, Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fields.variables import Basis


def _config(kind="shared", **changes):
    embedding = {
        "kind": changes.pop("embedding", "identity"),
        "size": changes.pop("size", 16),
        "scale": 3.0,
        "num_octaves": 2,
        "trainable": False,
        "kernel": "matern",
        "length_scale": 0.3,
        "shape": 0.0,
        "num_centres": 9,
        "sigma": 2.0,
        "counts": changes.pop("counts", ()),
        "band": "box",
        "degree": 3,
    }
    values = {
        "kind": kind,
        "num_experts": 10,
        "num_layers": 3,
        "width": 12,
        "activation": "sine",
        "omega0": 30.0,
    }
    return ConfigDict({**values, **changes, "embedding": embedding})


def _build(kind="shared", channels=1, dims=2, **changes):
    """A dictionary whose every weight is random, the biases too."""
    config = _config(kind, **changes)
    dictionary = nnx.eval_shape(
        lambda: dictionaries.build_dictionary(config, channels, dims, (8,) * dims, nnx.Rngs(0))
    )
    draw = np.random.default_rng()
    scale = 1.5 / config.omega0 if config.activation == "sine" else 0.3

    def fill(variable):
        size = scale if isinstance(variable, Basis) else 1.0
        return jax.tree.map(
            lambda leaf: jnp.asarray(
                np.float32(size) * draw.standard_normal(leaf.shape, np.float32)
            ),
            variable,
        )

    state = nnx.state(dictionary)
    filled = jax.tree.map(fill, state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    nnx.update(dictionary, filled)
    return dictionary


def _points(count, dims=2):
    return np.random.default_rng().uniform(-1, 1, (count, dims)).astype(np.float32)


def _gates(signals, experts, channels, top_k=None):
    rng = np.random.default_rng()
    logits = rng.standard_normal((signals, experts)).astype(np.float32)
    bias = rng.standard_normal((signals, channels)).astype(np.float32)
    return routing.gate(jnp.asarray(logits), jnp.asarray(bias), top_k)


def _float64(variable):
    return np.asarray(variable[...], np.float64)


def _numpy_basis(dictionary, x):
    """[P, E, C] from the weights, one expert at a time."""
    embedded = np.asarray(dictionary.embedding(jnp.asarray(x)), np.float64)
    kernels = [_float64(k) for k in dictionary.kernels]
    biases = [_float64(b) for b in dictionary.biases]

    def activate(z):
        sine = dictionary.activation == "sine"
        return np.sin(dictionary.omega0 * z) if sine else np.maximum(z, 0)

    if dictionary.kind == "shared":
        h = embedded
        for kernel, bias in zip(kernels, biases, strict=True):
            h = activate(h @ kernel + bias)
        kernel = _float64(dictionary.head_kernel).swapaxes(1, 2)
        return np.tensordot(h, kernel, 1) + _float64(dictionary.head_bias)
    values = []
    for e in range(dictionary.num_experts):
        h = embedded
        for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
            h = activate(h @ kernel[e] + bias[e])
        values.append(h @ kernels[-1][e] + biases[-1][e])
    return np.stack(values, 1)


CASES = [
    ("shared", 1, 2, "sine", "identity"),
    ("shared", 3, 3, "relu", "fourier"),
    ("independent", 3, 2, "sine", "identity"),
    ("independent", 1, 3, "relu", "rbf"),
    # More features than are copied to every expert.
    ("independent", 2, 2, "sine", "wide"),
]


@pytest.mark.parametrize(("kind", "channels", "dims", "activation", "embedding"), CASES)
def test_basis_against_numpy(kind, channels, dims, activation, embedding):
    changes = {"embedding": embedding, "activation": activation}
    if embedding == "wide":
        changes |= {"embedding": "fourier", "size": 2 * independent._COPIED_FEATURES}
    dictionary = _build(kind, channels, dims, **changes)
    x = _points(33, dims)
    basis = nnx.jit(lambda d, x: d.basis(x))(dictionary, x)
    assert basis.shape == (33, 10, channels)
    exact = _numpy_basis(dictionary, x)
    scale = np.abs(exact).max()
    # omega0 = 30 multiplies the rounding of each layer.
    np.testing.assert_allclose(basis, exact, atol=scale * (1e-4 if activation == "sine" else 1e-6))


@pytest.mark.parametrize("kind", dictionaries.KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_basis_of_chosen_experts(kind, channels):
    dictionary = _build(kind, channels)
    x, chosen = _points(17), jnp.array([7, 0, 7, 3], jnp.int32)
    np.testing.assert_allclose(
        dictionary.basis_of(x, chosen), dictionary.basis(x)[:, chosen], atol=1e-5
    )


def _orders(dictionary, sparse):
    return [order for order in dictionary.orders if sparse or order != "gather"]


def _rendered(dictionary, x, gates, order):
    """Values, and the gradients of a random quadratic of them in weights, logits and bias."""
    graphdef, state = nnx.split(dictionary)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((len(gates.bias), len(x), dictionary.channels)).astype(np.float32)

    @jax.jit
    def run(state, logits, bias):
        def loss(state, logits, bias):
            top_k = None if gates.indices is None else gates.indices.shape[-1]
            values = nnx.merge(graphdef, state, copy=True).combine(
                x, routing.gate(logits, bias, top_k), order
            )
            return (weight * values + values**2).mean(), values

        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(state, logits, bias)

    logits = jnp.asarray(rng.standard_normal(gates.values.shape).astype(np.float32))
    (_, values), grads = run(state, logits, gates.bias)
    return values, grads, logits


@pytest.mark.parametrize(
    ("kind", "channels", "dims", "top_k"),
    [
        ("shared", 1, 2, None),
        ("shared", 3, 3, 4),
        ("independent", 3, 2, None),
        ("independent", 1, 3, 4),
    ],
)
def test_orders_agree_with_numpy_and_in_their_gradients(kind, channels, dims, top_k):
    dictionary = _build(kind, channels, dims, omega0=5.0)
    x, gates = _points(40, dims), _gates(6, 10, channels, top_k)
    results = {
        order: _rendered(dictionary, x, gates, order)
        for order in _orders(dictionary, top_k is not None)
    }
    _, reference_grads, logits = results["evaluate"]
    codes = np.asarray(routing.gate(logits, gates.bias, top_k).values, np.float64)
    exact = np.einsum("se,pec->spc", codes, _numpy_basis(dictionary, x))
    exact += np.asarray(gates.bias)[:, None]
    assert len(results) == (1 if kind == "independent" and top_k is None else 2)
    for values, grads, _ in results.values():
        np.testing.assert_allclose(values, exact, atol=1e-5 * max(1, np.abs(exact).max()))
        for one, other in zip(
            jax.tree.leaves(grads), jax.tree.leaves(reference_grads), strict=True
        ):
            size = max(1, np.abs(np.asarray(other)).max())
            np.testing.assert_allclose(one, other, atol=1e-5 * size)
    assert any(np.abs(np.asarray(leaf)).max() > 1e-3 for leaf in jax.tree.leaves(reference_grads))


@pytest.mark.parametrize(
    ("kind", "top_k", "order"),
    [("shared", 3, "gather"), ("independent", None, "gather"), ("independent", 3, "fold")],
)
def test_orders_that_do_not_fit(kind, top_k, order):
    dictionary = _build(kind)
    with pytest.raises(ValueError, match=f"order '{order}' does not fit .*{kind}.*allowed: auto"):
        dictionary.combine(_points(4), _gates(2, 10, 1, top_k), order)


@pytest.mark.parametrize(("kind", "top_k"), [("shared", None), ("independent", 1)])
def test_order_is_picked_by_cost(kind, top_k):
    dictionary, x, gates = _build(kind), _points(9), _gates(3, 10, 1, top_k)
    order = dictionary.cheapest(9, 3, 10 if top_k is None else top_k, top_k is not None)
    picked = jax.make_jaxpr(lambda: dictionary.combine(x, gates))()
    assert str(picked) == str(jax.make_jaxpr(lambda: dictionary.combine(x, gates, order))())
    np.testing.assert_array_equal(dictionary.combine(x, gates), dictionary.combine(x, gates, order))


def test_shared_order_in_clear_cases():
    """Fold costs S H C (E + P), evaluate P E C (H + S)."""
    dictionary = _build("shared", num_experts=1024, width=256)
    assert dictionary.cheapest(512 * 512, 1, 1024, False) == "fold"
    assert dictionary.cheapest(625, 16, 64, True) == "fold"
    small = _build("shared", num_experts=8, width=256)
    assert small.cheapest(10_000, 5_000, 8, False) == "evaluate"
    assert small.cheapest(10_000, 1, 8, False) == "fold"
    costs = [dictionary.cost("fold", 100, 4, k) for k in (1, 64, 1024)]
    assert len(set(costs)) == 1
    # By hand: 2 S H C (E + P) and 2 P E C (H + S).
    assert costs[0] == 2 * 4 * 256 * (1024 + 100)
    assert dictionary.cost("evaluate", 100, 4, 64) == 2 * 100 * 1024 * (256 + 4)


def test_independent_order_in_clear_cases():
    dictionary = _build("independent", num_experts=256, width=16)
    # One signal with 8 of 256 experts; a training batch that shares its points; dense codes.
    assert dictionary.cheapest(10_000, 1, 8, True) == "gather"
    assert dictionary.cheapest(10_000, 64, 64, True) == "evaluate"
    assert dictionary.cheapest(10_000, 1, 256, False) == "evaluate"
    # A handful of points does not pay for copying whole networks.
    assert dictionary.cheapest(1, 16, 16, True) == "evaluate"
    assert dictionary.cost("gather", 500, 3, 8) == 3 * dictionary.cost("gather", 500, 1, 8)
    assert dictionary.cost("evaluate", 500, 3, 8) == dictionary.cost("evaluate", 500, 3, 200)


def _flops_and_bytes(dictionary, x, gates):
    graphdef, state = nnx.split(dictionary)
    compiled = (
        jax.jit(lambda s, x, g: nnx.merge(graphdef, s, copy=True).combine(x, g))
        .lower(state, x, gates)
        .compile()
    )
    return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("top_k", [None, 16])
def test_shared_render_costs_nothing_per_expert_and_pixel(top_k):
    points, width = 4096, 32
    x = _points(points)
    measured = {}
    for experts in (64, 256):
        dictionary = _build("shared", num_experts=experts, width=width)
        measured[experts] = _flops_and_bytes(dictionary, x, _gates(2, experts, 1, top_k))
        text = str(
            jax.make_jaxpr(lambda x, g, d=dictionary: d.combine(x, g))(
                x, _gates(2, experts, 1, top_k)
            )
        )
        # The points meet the trunk's width and never the experts.
        assert f"[{points},{width}]" in text
        assert f"[{points},{experts}" not in text
    extra = measured[256][0] - measured[64][0]
    # Folding 192 experts more into 2 signals, and not 192 products for each point.
    assert 0 < extra < 4 * 2 * 192 * (width + 1)
    assert measured[256][1] < measured[64][1] + 2 * 192 * width * 4


def test_evaluating_does_cost_per_expert_and_pixel():
    x = _points(512)
    flops = [
        _flops_and_bytes(_build("independent", num_experts=e, width=8), x, _gates(1, e, 1))[0]
        for e in (8, 16)
    ]
    assert flops[1] > 1.8 * flops[0]


@pytest.mark.parametrize("chunk", [1, 7, 10, 33, 40, 100])
def test_chunks_of_points_change_nothing(chunk):
    x = jnp.asarray(_points(40))
    weight = jnp.asarray(_points(6))

    def total(weight, x, chunk):
        values = base.over_points(
            lambda p: numerics.sin(jnp.einsum("pd,ed->pe", p, weight))[:, :, None], x, chunk
        )
        return (values**2 * jnp.arange(40.0)[:, None, None]).sum(), values

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True), static_argnames="chunk")
    (_, whole), grads = run(weight, x, chunk=40)
    (_, cut), cut_grads = run(weight, x, chunk=chunk)
    assert cut.shape == (40, 6, 1)
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    for one, other in zip(grads, cut_grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_chunks_are_even_and_bound_memory():
    """640 points in chunks of at most 512 are two of 320."""
    x = jnp.zeros((640, 2))
    seen = []

    def record(p):
        seen.append(p.shape)
        return p

    assert base.over_points(record, x, 512).shape == (640, 2)
    assert set(seen) == {(320, 2)}


@pytest.mark.parametrize(
    ("kind", "order", "top_k"),
    [("independent", "evaluate", None), ("independent", "gather", 4), ("shared", "evaluate", None)],
)
def test_orders_in_chunks_equal_orders_in_one_piece(monkeypatch, kind, order, top_k):
    dictionary, gates = _build(kind, 3, omega0=5.0), _gates(5, 10, 3, top_k)
    x = _points(101)
    whole = _rendered(dictionary, x, gates, order)
    assert dictionary._chunk() > len(x)
    # The least chunk is 32 points: four pieces of 26, the last one padded.
    least = dataclasses.replace(platforms.sizes(), activations=1)
    monkeypatch.setattr(platforms, "sizes", lambda: least)
    assert dictionary._chunk() == 32
    cut = _rendered(dictionary, x, gates, order)
    np.testing.assert_allclose(cut[0], whole[0], atol=1e-5 * np.abs(whole[0]).max())
    for one, other in zip(jax.tree.leaves(cut[1]), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))


def test_chunk_counts_what_a_point_holds():
    """A trunk's heads give E C numbers a point, an independent stack's layers E H."""
    numbers = base.points_at_a_time(1)
    assert _build("shared", 1, num_experts=1024, width=256)._chunk() == numbers // 1024
    assert _build("shared", 3, num_experts=64, width=512)._chunk() == numbers // 512
    assert _build("independent", 3, num_experts=256, width=16)._chunk() == numbers // (256 * 16)


def test_span_of_a_trunk_is_bounded_and_of_a_stack_is_not():
    x = _points(300)
    shared = _build("shared", 1, num_experts=60, width=12)
    independent = _build("independent", 1, num_experts=60, width=12)
    basis = _numpy_basis(shared, x)[..., 0]
    assert np.linalg.matrix_rank(basis) == 13
    assert np.linalg.matrix_rank(_numpy_basis(independent, x)[..., 0]) == 60


def test_heads_and_folded_heads():
    dictionary = _build("shared", 3)
    x, gates = _points(21), _gates(4, 10, 3, 5)
    trunk = np.asarray(dictionary.features(x), np.float64)
    heads = np.asarray(dictionary.heads(), np.float64)
    assert heads.shape == (13, 10, 3)
    ones = np.concatenate([trunk, np.ones((21, 1))], 1)
    np.testing.assert_allclose(np.tensordot(ones, heads, 1), _numpy_basis(dictionary, x), atol=1e-3)
    kernel, bias = dictionary.folded_heads(gates)
    values = np.einsum("ph,shc->spc", trunk, kernel) + np.asarray(bias)[:, None]
    np.testing.assert_allclose(values, dictionary.combine(x, gates, "evaluate"), atol=1e-4)


@pytest.mark.parametrize("kind", dictionaries.KINDS)
def test_variables_are_basis_and_carry_the_expert_axis(kind):
    dictionary = _build(kind, 3, embedding="fourier")
    state = nnx.state(dictionary, Basis)
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    for variable in leaves:
        axes = variable.get_metadata().get("axes") or ()
        for size, axis in zip(variable[...].shape, axes, strict=False):
            assert (axis == "expert") == (size == 10)
    # Fixed frequencies of the embedding are saved but never trained.
    everything = jax.tree.leaves(nnx.state(dictionary))
    assert len(everything) == len(leaves) + 1


def test_experts_of_a_stack_are_drawn_apart():
    kernels = _float64(_build("independent").kernels[1]).reshape(10, -1)
    correlation = np.corrcoef(kernels) - np.eye(10)
    assert np.abs(correlation).max() < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "tied"}, r"dictionary\.kind: 'tied'; allowed: independent, shared"),
        ({"num_experts": 0}, r"dictionary\.num_experts: 0; allowed: 1 or more"),
        ({"num_layers": 0}, r"dictionary\.num_layers: 0; allowed: 1 or more"),
        (
            {"kind": "independent", "num_layers": 1},
            r"dictionary\.num_layers: 1; allowed: 2 or more",
        ),
        ({"width": -3}, r"dictionary\.width: -3; allowed: 1 or more"),
        ({"activation": "tanh"}, r"dictionary\.activation: 'tanh'; allowed: sine, relu"),
        ({"embedding": "fourrier"}, r"dictionary\.embedding\.kind.*fourier"),
    ],
)
def test_configs_that_cannot_be_built(changes, message):
    kind = changes.pop("kind", "shared")
    with pytest.raises(ValueError, match=message):
        dictionaries.build_dictionary(_config(kind, **changes), 1, 2, (8, 8), nnx.Rngs(0))


@pytest.mark.parametrize("kind", dictionaries.KINDS)
def test_least_sizes_work(kind):
    dictionary = _build(kind, 1, 1, num_experts=1, num_layers=2, width=1)
    values = dictionary.combine(_points(3, 1), _gates(1, 1, 1, 1))
    assert values.shape == (1, 3, 1)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("kind", dictionaries.KINDS)
def test_a_call_is_the_basis_or_what_codes_make_of_it(kind):
    dictionary = _build(kind, 2)
    x, gates = _points(5), _gates(3, 10, 2)
    exact = _numpy_basis(dictionary, x)
    np.testing.assert_array_equal(dictionary(x), dictionary.basis(x))
    rendered = np.einsum("se,pec->spc", np.asarray(gates.values, np.float64), exact)
    with_bias = rendered + np.asarray(gates.bias, np.float64)[:, None]
    near = {"rtol": 1e-4, "atol": 1e-4 * np.abs(with_bias).max()}
    np.testing.assert_allclose(dictionary(x, gates.values, gates.bias), with_bias, **near)
    np.testing.assert_allclose(dictionary(x, gates.values), rendered, **near)
    one = dictionary(x, gates.values[1], gates.bias[1])
    np.testing.assert_allclose(one, with_bias[1], **near)
    grid = dictionary(x, gates.values.reshape(3, 1, 10), gates.bias.reshape(3, 1, 2))
    np.testing.assert_allclose(grid, with_bias[:, None], **near)


def test_a_call_refuses_codes_that_do_not_fit():
    dictionary = _build(channels=2)
    x, codes = _points(4), np.zeros((3, 10), np.float32)
    with pytest.raises(ValueError, match=r"codes: \(3, 9\); allowed: \(\.\.\., 10\)"):
        dictionary(x, codes[:, :9])
    with pytest.raises(ValueError, match=r"bias: \(2,\); allowed: \(3, 2\)"):
        dictionary(x, codes, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"bias: \(3, 2\); allowed: None"):
        dictionary(x, bias=np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(("num_layers", "skip"), [(3, True), (1, False), (1, True)])
def test_heads_read_the_embedding_too(num_layers, skip):
    dictionary = _build("shared", 2, 2, num_layers=num_layers, skip=skip)
    x = np.random.default_rng().uniform(-1, 1, (15, 2)).astype(np.float32)
    embedded = np.asarray(dictionary.embedding(x), np.float64)
    features = np.asarray(dictionary.features(x), np.float64)
    width = 12 if num_layers == 3 else 0
    assert dictionary.num_features == width + embedded.shape[1] == features.shape[1]
    np.testing.assert_allclose(features[:, width:], embedded, atol=1e-6)
    full = np.concatenate([features, np.ones((len(x), 1))], 1)
    expected = np.einsum("pf,fec->pec", full, np.asarray(dictionary.heads(), np.float64))
    np.testing.assert_allclose(dictionary.basis(x), expected, atol=2e-5)
    codes = np.random.default_rng().normal(size=(4, 10)).astype(np.float32)
    rendered = dictionary(x, codes)
    np.testing.assert_allclose(rendered, np.einsum("se,pec->spc", codes, expected), atol=1e-4)


@pytest.mark.slow
def test_local_features_are_read_as_the_dense_ones():
    x = jnp.asarray(np.random.default_rng().uniform(-1, 1, (40, 2)).astype(np.float32))
    splines = {"num_layers": 1, "embedding": "spline", "counts": (31, 30)}
    dictionary = _build("shared", 2, 2, **splines)
    assert dictionary.local
    full = np.asarray(dictionary.features(x), np.float64)
    heads = np.asarray(dictionary.heads(), np.float64)
    expected = np.einsum("pf,fec->pec", full, heads[:-1]) + heads[-1]
    np.testing.assert_allclose(dictionary.basis(x), expected, atol=1e-4)
    chosen = jnp.asarray([3, 0, 7])
    np.testing.assert_allclose(dictionary.basis_of(x, chosen), expected[:, [3, 0, 7]], atol=1e-4)
    codes = np.random.default_rng().normal(size=(4, 10)).astype(np.float32)
    rendered = np.einsum("se,pec->spc", codes, expected)
    for order in dictionary.orders:
        gates = routing.Gates(jnp.asarray(codes), None, None, jnp.zeros((4, 2)))
        np.testing.assert_allclose(dictionary.combine(x, gates, order), rendered, atol=3e-4)

    def value(at):
        return dictionary(at[None], codes[0])[0, 0]

    slope = jax.vmap(jax.grad(value))(x)
    step = 1e-3
    for axis in range(2):
        moved = [x.at[:, axis].add(sign * step) for sign in (1, -1)]
        ends = [np.asarray(jax.vmap(value)(at), np.float64) for at in moved]
        np.testing.assert_allclose(slope[:, axis], (ends[0] - ends[1]) / (2 * step), atol=0.3)


@pytest.mark.parametrize("channels", [1, 2])
def test_few_signals_of_chosen_cosines_are_summed_without_features(channels, monkeypatch):
    cosines = ChosenCosines((12, 11), 7)
    layers = Layers(1, 4, "relu", 1.0)
    dictionary = SharedDictionary(cosines, 10, channels, layers, rngs=nnx.Rngs(0))
    x, most = _points(40), cosines.most_sums // channels
    gates = [_gates(count, 10, channels) for count in (most, most + 1)]
    values = [dictionary.combine(x, some, "fold") for some in gates]
    for some, found in zip(gates, values, strict=True):
        expected = np.einsum("se,pec->spc", some.values, _numpy_basis(dictionary, x))
        np.testing.assert_allclose(found, expected + np.asarray(some.bias)[:, None], atol=1e-5)

    def refused(self, x):
        raise AssertionError("features at every point")

    monkeypatch.setattr(SharedDictionary, "features", refused)
    np.testing.assert_array_equal(dictionary.combine(x, gates[0], "fold"), values[0])
    for other, some in ((dictionary, gates[1]), (dictionary.multiplied("tf32"), gates[0])):
        with pytest.raises(AssertionError, match="features at every point"):
            other.combine(x, some, "fold")


@pytest.mark.parametrize("channels", [1, 3])
def test_signals_on_a_grid_are_those_at_its_points(channels):
    layers = Layers(1, 4, "relu", 1.0)
    cosines = ChosenCosines((12, 11), 40)
    dictionary = SharedDictionary(cosines, 10, channels, layers, rngs=nnx.Rngs(0))
    draw, gates = np.random.default_rng(0), _gates(5, 10, channels)
    axes = [draw.uniform(-1, 1, count).astype(np.float32) for count in (30, 20)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    found = dictionary.combine_on_grid(axes, *dictionary.folded_on_lattice(gates))
    expected = np.einsum("se,pec->spc", gates.values, _numpy_basis(dictionary, points))
    expected = expected.reshape(5, 30, 20, channels) + np.asarray(gates.bias)[:, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_grid_is_taken_axis_by_axis_where_that_is_less():
    one = Layers(1, 4, "relu", 1.0)

    def cheaper(embedding, shape, layers=one, **rest):
        dictionary = SharedDictionary(embedding, 10, 1, layers, rngs=nnx.Rngs(0))
        return dictionary.grid_is_cheaper(shape, _gates(1, 10, 1), **rest)

    chosen = ChosenCosines((12, 11), 40)
    assert cheaper(chosen, (30, 20))
    assert not cheaper(chosen, (30, 20), points=20)
    # Few points, and few of a fine lattice, are less than the lattice.
    assert not cheaper(chosen, (1, 2))
    assert not cheaper(ChosenCosines((200, 200), 3), (30, 20))
    # A trunk, and products of another precision.
    assert not cheaper(chosen, (30, 20), layers=Layers(2, 4, "relu", 1.0))
    assert not cheaper(chosen, (30, 20), layers=Layers(1, 4, "relu", 1.0, "tf32"))
    assert not cheaper(Identity(2), (30, 20))
