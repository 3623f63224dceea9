"""Paths between codes, and neighbours by what codes render, against brute force in float64."""

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import code_space
from nid_jax.fitting.fit import Fit

EXPERTS = 6


def dictionary_of(kind, dims, channels, seed):
    cls = {"shared": SharedDictionary, "independent": IndependentDictionary}[kind]
    return cls(Identity(dims), EXPERTS, channels, Layers(2, 8, "sine", 3.0), rngs=nnx.Rngs(seed))


def fit_of(dictionary, codes, bias):
    return Fit.of_codes(dictionary, codes, bias, (3,) * dictionary.dims)


def codes_of(draw, count, channels):
    codes = draw.standard_normal((count, EXPERTS)).astype(np.float32)
    return codes, draw.standard_normal((count, channels)).astype(np.float32)


DICTIONARY = dictionary_of("shared", 2, 2, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 9))
def test_a_path_is_straight_and_ends_where_it_should(seed, frames):
    draw = np.random.default_rng(seed)
    codes, bias = codes_of(draw, 5, 2)
    start, end = draw.integers(5, size=2)
    fit = Fit.of_codes(DICTIONARY, codes, bias, (3, 3))
    along = code_space.path_between(fit, start, end, frames)
    path, levels = along.codes, along.bias
    assert path.shape == (frames, EXPERTS)
    assert levels.shape == (frames, 2)
    assert path.dtype == levels.dtype == np.float32
    for found, ends in ((path, codes), (levels, bias)):
        np.testing.assert_array_equal(found[0], ends[start])
        np.testing.assert_array_equal(found[-1], ends[end])
        step = (ends[end].astype(float) - ends[start]) / (frames - 1)
        np.testing.assert_allclose(np.diff(found, axis=0), [step] * (frames - 1), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [((3, 0, 2), "start: 3"), ((-1, 0, 2), "start: -1"), ((0, 9, 2), "end: 9"), ((0, 1, 1), "fr")],
)
def test_paths_that_cannot_be(arguments, key):
    codes, bias = codes_of(np.random.default_rng(101), 3, 2)
    fit = Fit.of_codes(DICTIONARY, codes, bias, (3, 3))
    with pytest.raises(ArgumentError, match=rf"^{key}"):
        code_space.path_between(fit, *arguments)


@pytest.mark.parametrize(
    ("kind", "dims", "channels"),
    [("shared", 2, 2), ("independent", 2, 3), pytest.param("shared", 3, 1, marks=pytest.mark.slow)],
)
def test_neighbours_are_those_of_brute_force(monkeypatch, kind, dims, channels):
    seed = int(np.random.default_rng(102).integers(2**31))
    draw = np.random.default_rng(seed)
    dictionary = dictionary_of(kind, dims, channels, seed)
    codes, bias = codes_of(draw, 4, channels)
    known, known_bias = codes_of(draw, 7, channels)
    # Known signals come in groups of three, the last one smaller.
    monkeypatch.setattr(code_space, "_NUMBERS", 3 * code_space._POINTS * channels)
    mine, theirs = (fit_of(dictionary, *some) for some in ((codes, bias), (known, known_bias)))
    indices, distances = code_space.nearest(mine, theirs, 5)
    points = np.random.default_rng(seed + 1).uniform(-1, 1, (8000, dims)).astype(np.float32)
    basis = np.asarray(dictionary.basis(points), np.float64)
    change = codes[:, None].astype(np.float64) - known
    levels = bias[:, None].astype(np.float64) - known_bias
    rendered = np.einsum("snk,pkc->snpc", change, basis) + levels[:, :, None]
    exact = np.sqrt(np.square(rendered).mean((2, 3)))
    assert indices.shape == distances.shape == (4, 5)
    # Both are means over random points, so equal to a few percent.
    np.testing.assert_allclose(distances, np.take_along_axis(exact, indices, 1), rtol=0.05)
    np.testing.assert_allclose(distances, np.sort(exact, 1)[:, :5], rtol=0.05)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_codes_that_render_alike_are_near_however_unlike_they_are():
    dictionary = dictionary_of("shared", 2, 1, 3)
    kernel = np.array(dictionary.head_kernel[...])
    # The second expert is the first one again.
    kernel[..., 1] = kernel[..., 0]
    dictionary.head_kernel[...] = kernel
    level = np.array(dictionary.head_bias[...])
    level[1] = level[0]
    dictionary.head_bias[...] = level
    codes = np.zeros((3, EXPERTS), np.float32)
    codes[0, 0], codes[1, 1], codes[2, 0] = 5, 5, 4.5
    bias = np.zeros((3, 1), np.float32)
    fit = fit_of(dictionary, codes, bias)
    indices, distances = code_space.nearest(fit, fit, 9, same=True)
    assert indices.shape == (3, 2)
    assert indices[:, 0].tolist() == [1, 0, 0] or indices[:, 0].tolist() == [1, 0, 1]
    assert distances[0, 0] < 0.01 * distances[0, 1]
    assert all(number not in row for number, row in enumerate(indices))


def test_a_signal_is_its_own_neighbour_in_another_fit():
    codes, bias = codes_of(np.random.default_rng(103), 4, 1)
    dictionary = dictionary_of("shared", 2, 1, 1)
    fit = fit_of(dictionary, codes, bias)
    indices, distances = code_space.nearest(fit, fit, 1)
    assert indices[:, 0].tolist() == [0, 1, 2, 3]
    assert distances.max() < 1e-2


def test_how_many_is_one_at_least():
    codes, bias = codes_of(np.random.default_rng(104), 2, 1)
    dictionary = dictionary_of("shared", 2, 1, 1)
    fit = fit_of(dictionary, codes, bias)
    with pytest.raises(ArgumentError, match=r"^count: 0"):
        code_space.nearest(fit, fit, 0)
