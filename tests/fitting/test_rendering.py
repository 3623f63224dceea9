"""Rendering in padded chunks, windows and sizes of any kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax import platforms
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates, embeddings, routing
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import rendering

EXPERTS, CHANNELS = 9, 2


@pytest.fixture(scope="module", params=["shared", "independent"])
def dictionary(request):
    kinds = {
        "shared": SharedDictionary,
        "independent": IndependentDictionary,
    }
    return kinds[request.param](
        embeddings.Identity(2), EXPERTS, CHANNELS, Layers(3, 6, "sine", 10.0), rngs=nnx.Rngs(1)
    )


def _gates(signals=3, top_k=0):
    rng = np.random.default_rng(101)
    codes = rng.standard_normal((signals, EXPERTS)).astype(np.float32)
    bias = rng.standard_normal((signals, CHANNELS)).astype(np.float32)
    return routing.gate(jnp.asarray(codes), jnp.asarray(bias), top_k)


def _exact(dictionary, gates, points):
    """The sum over experts in float64, from their basis."""
    basis = np.asarray(dictionary.basis(jnp.asarray(points)), np.float64)
    values = np.einsum("se,pec->spc", np.asarray(gates.values, np.float64), basis)
    return values + np.asarray(gates.bias)[:, None]


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("chunk", [0, 1, 16, 30, 64])
def test_chunks_are_padded_and_joined(dictionary, chunk, top_k):
    points = coordinates.grid((6, 5))
    gates = _gates(2 if chunk else 3, top_k)
    values = rendering.render_points(dictionary, gates, points, chunk)
    assert values.shape == (gates.bias.shape[0], 30, CHANNELS)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, _exact(dictionary, gates, points), atol=2e-5)


def test_one_compilation_serves_every_number_of_points(dictionary):
    gates = _gates()
    rendering.render_points(dictionary, gates, coordinates.grid((7, 7)), 16)
    compiled = rendering._render._cache_size()
    for shape in ((4, 4), (5, 8), (9, 9)):
        rendering.render(dictionary, gates, shape, chunk=16)
    assert rendering._render._cache_size() == compiled


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_a_window_is_a_crop_of_the_whole(dictionary, data):
    shape = (9, 12)
    rows, columns = (
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
        for n in shape
    )
    gates = _gates()
    whole = rendering.render(dictionary, gates, shape, chunk=16)
    window = [
        (2 * first / (n - 1) - 1, 2 * (stop - 1) / (n - 1) - 1)
        for n, (first, stop) in zip(shape, (rows, columns), strict=True)
    ]
    size = (rows[1] - rows[0], columns[1] - columns[0])
    crop = rendering.render(dictionary, gates, size, window, chunk=16)
    wanted = whole[:, rows[0] : rows[1], columns[0] : columns[1]]
    assert crop.shape == (3, *size, CHANNELS)
    np.testing.assert_allclose(crop, wanted, atol=2e-5)


def test_more_pixels_pass_through_the_same_signal(dictionary):
    gates = _gates(1)
    small = rendering.render(dictionary, gates, (5, 4), chunk=16)
    large = rendering.render(dictionary, gates, (9, 7), chunk=16)
    np.testing.assert_allclose(large[:, ::2, ::2], small, atol=2e-5)


def test_raster_order(dictionary):
    """Rows are the first coordinate: the transposed grid gives another picture."""
    gates = _gates(1)
    image = rendering.render(dictionary, gates, (3, 4), chunk=16)[0]
    point = np.array([[1.0, -1.0]], np.float32)
    np.testing.assert_allclose(image[2, 0], _exact(dictionary, gates, point)[0, 0], atol=2e-5)
    assert np.abs(image[2, 0] - image[0, 3]).max() > 1e-3


def test_an_empty_shape(dictionary):
    with pytest.raises(ValueError, match="positive whole numbers"):
        rendering.render(dictionary, _gates(1), (0, 4))


def _codes(signals, active):
    rng = np.random.default_rng(102)
    codes = rng.standard_normal((signals, EXPERTS)).astype(np.float32)
    for row in codes:
        row[rng.permutation(EXPERTS)[active:]] = 0
    return codes, rng.standard_normal((signals, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize("active", [1, 3, 4])
def test_sparse_codes_list_their_experts(active):
    codes, bias = _codes(5, active)
    codes[2, np.flatnonzero(codes[2])[1:]] = 0
    gates = rendering.gates_of(codes, bias)
    assert gates.indices.shape == gates.weights.shape == (5, active)
    assert gates.indices.dtype == jnp.int32
    np.testing.assert_array_equal(gates.values, codes)
    np.testing.assert_array_equal(gates.bias, bias)
    rebuilt = np.zeros_like(codes)
    np.put_along_axis(rebuilt, np.asarray(gates.indices), np.asarray(gates.weights), -1)
    np.testing.assert_array_equal(rebuilt, codes)
    # Each expert is listed once: adding, not setting, gives the code as well.
    added = np.zeros_like(codes)
    np.add.at(added, (np.arange(5)[:, None], gates.indices), np.asarray(gates.weights))
    np.testing.assert_array_equal(added, codes)


def test_few_programs_serve_any_number_of_active_experts():
    codes = np.zeros((1, 400), np.float32)
    listed = []
    for active in range(1, 201):
        codes[0, active - 1] = active
        gates = rendering.gates_of(codes, np.zeros((1, 1), np.float32))
        if gates.indices is not None:
            listed.append(gates.indices.shape[-1])
            assert active <= listed[-1] < 1.5 * active
            np.testing.assert_array_equal(np.sort(gates.weights[0])[-active:], range(1, active + 1))
            assert len(set(np.asarray(gates.indices[0]))) == listed[-1]
    assert sorted(set(listed)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192]
    assert len(listed) == 192


@pytest.mark.parametrize("active", [0, 5, EXPERTS])
def test_dense_and_empty_codes_list_none(active):
    codes, bias = _codes(4, active)
    gates = rendering.gates_of(jnp.asarray(codes), jnp.asarray(bias))
    assert gates.indices is None
    assert gates.weights is None
    np.testing.assert_array_equal(gates.values, codes)


def test_solved_codes_render_alike_sparse_and_dense(dictionary):
    codes, bias = _codes(3, 2)
    gates = rendering.gates_of(codes, bias)
    points = coordinates.grid((4, 4))
    dense = gates._replace(indices=None, weights=None)
    sparse_values = rendering.render_points(dictionary, gates, points)
    dense_values = rendering.render_points(dictionary, dense, points)
    np.testing.assert_allclose(sparse_values, dense_values, atol=1e-5)
    np.testing.assert_allclose(sparse_values, _exact(dictionary, gates, points), atol=2e-5)


def test_the_dictionary_itself_is_left_alone(dictionary):
    before = jax.tree.map(np.asarray, nnx.state(dictionary))
    rendering.render(dictionary, _gates(1), (4, 4))
    jax.tree.map(
        np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(dictionary))
    )


def _cosines(draw, signals):
    """A dictionary of heads alone on cosines, and gates of some signals."""
    cosines = embeddings.ChosenCosines((6, 7, 5), 90)
    dictionary = SharedDictionary(cosines, 8, 2, Layers(1, 1, "relu", 1.0), rngs=nnx.Rngs(0))
    codes, bias = draw.normal(size=(signals, 8)), draw.normal(size=(signals, 2))
    return dictionary, rendering.gates_of(np.float32(codes), np.float32(bias))


def _holding(numbers, monkeypatch):
    """Let so many numbers of what is rendered be held."""
    fewer = dataclasses.replace(platforms.sizes(), layers=numbers)
    monkeypatch.setattr(platforms, "sizes", lambda: fewer)


# Of one signal the lattice has 2 x 210, a row of the grid at most 2 x 54 sums, all rows 1188.
@pytest.mark.parametrize("numbers", [2**21, 1, 300, 2500])
@pytest.mark.parametrize("chunk", [0, 50, 150])
def test_a_grid_of_cosines_is_rendered_in_slabs(numbers, chunk, monkeypatch):
    _holding(numbers, monkeypatch)
    dictionary, gates = _cosines(np.random.default_rng(0), 3)
    shape, window = (11, 6, 9), ((-1, 0.5), (0, 1), (-1.1, 1))
    assert dictionary.grid_is_cheaper(shape, gates)
    found = rendering.render(dictionary, gates, shape, window, chunk)
    expected = rendering.render_points(dictionary, gates, coordinates.grid(shape, window))
    assert found.shape == (3, *shape, 2)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-5)


def test_more_signals_than_are_held_are_folded_once_each_and_are_as_one_by_one(monkeypatch):
    dictionary, gates = _cosines(np.random.default_rng(1), 11)
    shape, folded, sums = (11, 6, 9), [], []
    alone = [
        rendering.render(dictionary, jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], gates), shape)
        for n in range(11)
    ]
    fold, render_axes = rendering._folded, rendering._render_axes

    def counted(graphdef, state, gates):
        folded.append(fold(graphdef, state, gates))
        return folded[-1]

    def summed(*given):
        sums.append(render_axes(*given))
        return sums[-1]

    monkeypatch.setattr(rendering, "_folded", counted)
    monkeypatch.setattr(rendering, "_render_axes", summed)
    # Four whole signals of 2 x 11 x 54 numbers; a half of one.
    for numbers, signals, slabs in ((5000, [4, 4, 4], 1), (1188 // 2, [1] * 11, 3)):
        _holding(numbers, monkeypatch)
        found = rendering.render(dictionary, gates, shape)
        np.testing.assert_allclose(found, np.concatenate(alone), atol=2e-5)
        assert [len(level) for _, level in folded] == signals
        assert len(sums) == slabs * len(folded)
        assert max(lattice.size for lattice, _ in folded) <= numbers
        assert max(part.size for part in sums) <= numbers
        folded.clear()
        sums.clear()


def test_axes_of_another_number_are_refused():
    dictionary, gates = _cosines(np.random.default_rng(2), 1)
    with pytest.raises(ArgumentError, match="axes: 2; allowed: 3, as many as coordinates"):
        rendering.render_axes(dictionary, gates, [np.zeros(3)] * 2)
