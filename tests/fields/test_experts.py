"""One network: initialisers by their statistics, values against numpy in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.errors import ArgumentError
from nid_jax.fields import experts

OMEGA0 = 30.0


_init = jax.jit(experts.init_layers, static_argnums=(1, 2, 3, 4))


def _layers(sizes, activation="sine", final=True, seed=None):
    seed = np.random.default_rng().integers(2**31) if seed is None else seed
    layers = _init(jax.random.key(seed), tuple(sizes), activation, OMEGA0, final)
    return [(np.asarray(kernel), np.asarray(bias)) for kernel, bias in layers]


def _uniform(values, bound):
    """Whether values look uniform on +-bound: inside, filling it, with its mean and variance."""
    count = values.size
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > bound * (1 - 20 / count)
    assert abs(values.mean()) < 6 * bound / np.sqrt(3 * count)
    assert values.var() == pytest.approx(bound**2 / 3, rel=6 / np.sqrt(count))


def _normal(values, deviation):
    count = values.size
    assert abs(values.mean()) < 6 * deviation / np.sqrt(count)
    assert values.std() == pytest.approx(deviation, rel=6 / np.sqrt(2 * count))
    # Normal, not uniform of that variance.
    assert np.abs(values).max() > 2 * deviation


def test_siren_initialisation():
    sizes = (3, 400, 300, 200, 50)
    first, second, third, last = _layers(sizes)
    _uniform(first[0], 1 / 3)
    _uniform(second[0], np.sqrt(6 / 400) / OMEGA0)
    _uniform(third[0], np.sqrt(6 / 300) / OMEGA0)
    for (_, bias), fan_in in zip((first, second, third), (3, 400, 300), strict=True):
        _uniform(bias, 1 / np.sqrt(fan_in))
    _normal(last[0], np.sqrt(2 / 200))
    assert not last[1].any()


def test_he_initialisation():
    *hidden, last = _layers((100, 400, 300, 50), "relu")
    for kernel, bias in hidden:
        _normal(kernel, np.sqrt(2 / kernel.shape[0]))
        assert not bias.any()
    _normal(last[0], np.sqrt(2 / 300))


def test_a_trunk_has_no_linear_layer():
    kernels = [kernel for kernel, _ in _layers((2, 500, 400), final=False)]
    _uniform(kernels[1], np.sqrt(6 / 500) / OMEGA0)


@pytest.mark.parametrize("activation", experts.ACTIVATIONS)
def test_outputs_start_of_order_one(activation):
    rng = np.random.default_rng()
    x = rng.uniform(-1, 1, (400, 2))
    if activation == "relu":
        # What an embedding of waves gives: a mean square of 1/2.
        x = np.sin(rng.uniform(0, 2 * np.pi, (400, 64)))
    layers = _layers((x.shape[1], 256, 256, 256, 128), activation)
    values = experts.apply_layers(layers, x.astype(np.float32), activation, OMEGA0)
    assert 0.5 < np.square(values).mean() < 2


def test_layers_and_keys_are_drawn_apart():
    layers = _layers((64, 64, 64, 64))
    kernels = [kernel / kernel.std() for kernel, _ in layers]
    for a in range(3):
        for b in range(a):
            assert abs(np.mean(kernels[a] * kernels[b])) < 0.1
    again, other = _layers((4, 5, 6), seed=1), _layers((4, 5, 6), seed=2)
    same = _layers((4, 5, 6), seed=1)
    np.testing.assert_array_equal(again[0][0], same[0][0])
    assert (again[0][0] != other[0][0]).all()


def _numpy_network(layers, x, activation, final):
    x = x.astype(np.float64)
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel.astype(np.float64) + bias
        if not final or index < len(layers) - 1:
            x = np.sin(OMEGA0 * x) if activation == "sine" else np.maximum(x, 0)
    return x


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(experts.ACTIVATIONS),
    st.booleans(),
    st.sampled_from(((1, 1), (2, 16, 16, 3), (20, 7, 1))),
    st.integers(0, 2**31),
)
def test_values_against_numpy(activation, final, sizes, seed):
    layers = _layers(sizes, activation, final, seed)
    x = np.random.default_rng(seed).uniform(-1, 1, (9, sizes[0])).astype(np.float32)
    values = experts.apply_layers(layers, x, activation, OMEGA0, final)
    assert values.shape == (9, sizes[-1])
    # omega0 multiplies the rounding of every layer.
    expected = _numpy_network(layers, x, activation, final)
    np.testing.assert_allclose(values, expected, atol=2e-4 if activation == "sine" else 2e-5)


def test_unknown_activation():
    with pytest.raises(ValueError, match="activation: 'tanh'; allowed: sine, relu"):
        experts.check_activation("tanh")
    with pytest.raises(ValueError, match="activation"):
        experts.init_layers(jax.random.key(0), (2, 3), "gelu", OMEGA0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_layers": 0}, "num_layers: 0; allowed: 1 or more"),
        ({"width": 0}, "width: 0; allowed: 1 or more"),
        ({"activation": "tanh"}, "activation: 'tanh'; allowed: sine, relu"),
    ],
)
def test_layers_that_cannot_be(changed, message):
    given = {"num_layers": 3, "width": 8, "activation": "sine", "omega0": 30.0}
    with pytest.raises(ArgumentError) as caught:
        experts.Layers(**{**given, **changed})
    assert str(caught.value) == message


def test_cost_counts_products_and_activations():
    for activation in experts.ACTIVATIONS:
        cost = experts.layer_cost((2, 16, 16, 3), activation)
        products = 2 * (2 * 16 + 16 * 16 + 16 * 3)
        assert cost == products + 32 * experts.ACTIVATION_COST[activation]
    assert experts.layer_cost((5, 7), "sine") == 70
