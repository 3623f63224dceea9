"""Frequencies anywhere, derivatives at points, and every kind by its name."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from nid_jax.coding import gram, grid_operator, operators
from nid_jax.coding.operators import frequencies
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary

# ---- frequencies anywhere ------------------------------------------------------------------------


def explicit(shape, waves, values):
    """The sum as written down, float64: values [P, C] -> complex [K, C]."""
    pixels = np.indices(shape).reshape(len(shape), -1)
    turns = waves @ (pixels / np.array(shape)[:, None])
    return np.exp(-2j * np.pi * turns) @ values / np.sqrt(np.prod(shape))


@settings(max_examples=5, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    seed=st.integers(0, 1000),
)
def test_frequencies_anywhere(shape, seed):
    generator = np.random.default_rng(seed)
    waves = generator.uniform(-20, 20, (6, len(shape)))
    operator = operators.nonuniform_fourier(shape, waves)
    image = generator.normal(size=(int(np.prod(shape)), 2))
    expected = explicit(shape, waves, image)
    measured = np.asarray(operator @ image.astype(np.float32))
    np.testing.assert_allclose(measured, np.r_[expected.real, expected.imag], atol=1e-5)
    assert operator.shape == (12, len(image))
    assert operator.adjoint_error() < 1e-5


@pytest.mark.parametrize("shape", [(6, 5), (8,)])
def test_whole_frequencies_are_those_of_fourier(shape):
    ours = operators.fourier(shape, 0.5, 0.1)
    whole = np.stack(np.unravel_index(np.asarray(ours.kept), shape), 1)
    anywhere = operators.nonuniform_fourier(shape, whole)
    image = np.random.default_rng(0).normal(size=(2, ours.num_points, 3)).astype(np.float32)
    np.testing.assert_allclose(anywhere.measure(image), ours.measure(image), atol=1e-5)
    y = np.random.default_rng(1).normal(size=(2, ours.num_measurements, 3)).astype(np.float32)
    np.testing.assert_allclose(anywhere.adjoint(y), ours.adjoint(y), atol=1e-5)


def test_normal_equations_at_whole_frequencies_are_those_of_fourier():
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 8, 1.0, rngs=rngs)
    dictionary = SharedDictionary(embedding, 5, 1, Layers(2, 8, "relu", 1.0), rngs=rngs)
    ours = operators.fourier((6, 5), 0.5, 0.1)
    whole = np.stack(np.unravel_index(np.asarray(ours.kept), (6, 5)), 1)
    anywhere = operators.nonuniform_fourier((6, 5), whole)
    y = np.random.default_rng(1).normal(size=(2, ours.num_measurements, 1)).astype(np.float32)
    found, expected = (gram.normal_equations(dictionary, a, y) for a in (anywhere, ours))
    for name in ("gram", "moments", "energy", "atom_mean", "target_mean"):
        close = np.testing.assert_allclose
        close(getattr(found, name), getattr(expected, name), atol=1e-4, err_msg=name)


def test_pieces_of_frequencies(monkeypatch):
    operator = operators.nonuniform_fourier((6, 7), spokes=5, samples=3)
    x = np.random.default_rng(0).normal(size=(2, 42, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(2, 30, 2)).astype(np.float32)
    whole = operator.measure(x), operator.adjoint(y)
    monkeypatch.setattr(frequencies, "_HELD_NUMBERS", 4 * 7 * 4)
    np.testing.assert_allclose(operator.measure(x), whole[0], atol=1e-6)
    np.testing.assert_allclose(operator.adjoint(y), whole[1], atol=1e-6)


def test_trajectories():
    radial = operators.radial_frequencies((8, 6), 4).reshape(4, 8, 2)
    np.testing.assert_allclose(radial[0], np.stack([np.arange(-4, 4), np.zeros(8)], 1), atol=1e-12)
    np.testing.assert_allclose(radial[2, :, 1], np.arange(-4, 4) * 0.75, atol=1e-12)
    assert (radial[:, 4] == 0).all()
    spiral = operators.spiral_frequencies((8, 6), 2, 40, 3.0).reshape(2, 40, 2) / [4, 3]
    radius = np.hypot(*spiral.T)
    np.testing.assert_allclose(radius, np.tile(np.arange(40) / 40, (2, 1)).T, atol=1e-12)
    np.testing.assert_allclose(spiral[0], -spiral[1], atol=1e-12)
    turned = np.unwrap(np.angle(spiral[0, 1:] @ [1, 1j]))
    assert turned[-1] - turned[0] == pytest.approx(2 * np.pi * 3 * 38 / 40)
    named = operators.nonuniform_fourier((8, 6), "spiral", spokes=2, samples=40, turns=3.0)
    given_ones = operators.nonuniform_fourier((8, 6), spiral.reshape(-1, 2) * [4, 3])
    np.testing.assert_allclose(named.waves[0], given_ones.waves[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frequencies": "star"}, "^frequencies: 'star'; allowed: radial, spiral"),
        ({"frequencies": np.ones((3, 3))}, r"^frequencies: \(3, 3\); allowed: the shape \[K, 2\]"),
        ({"frequencies": np.ones(3)}, r"^frequencies: \(3,\)"),
        ({"frequencies": np.ones((2, 2)) * 1j}, "^frequencies: complex128; allowed: real"),
        ({"spokes": 0}, "^spokes: 0"),
        ({"samples": -1}, "^samples: -1"),
        ({"frequencies": "spiral", "turns": 0}, "^turns: 0"),
        ({"shape": (3, 3, 3)}, r"^shape: \(3, 3, 3\)"),
    ],
)
def test_refused_frequencies(options, says):
    with pytest.raises(ArgumentError, match=says):
        operators.nonuniform_fourier(**{"shape": (4, 4), **options})


# ---- derivatives at points -----------------------------------------------------------------------


def wave(omega):
    """sin(omega . x) and its gradient, float64."""

    def value(points):
        return np.sin(np.asarray(points, np.float64) @ omega)[:, None]

    def gradient(points):
        return np.cos(points @ omega)[:, None] * omega

    return value, gradient


@pytest.mark.parametrize(("omega", "error"), [(1.0, 4e-4), (10.0, 6e-5), (100.0, 6e-4)])
def test_derivatives_are_as_exact_as_said(omega, error):
    """Relative to the largest derivative, values rounded to float32 as everywhere."""
    points = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    frequency = omega * np.array([0.8, -0.6])
    value, gradient = wave(frequency)
    operator = operators.point_derivatives(points)
    assert operator.run_length == 2
    measured = np.asarray(operator @ value(operator.points).astype(np.float32))
    expected = gradient(points.astype(np.float64)).T.reshape(-1)
    assert np.abs(measured[:, 0] - expected).max() < error * omega


def test_directions():
    points = np.random.default_rng(1).uniform(-1, 1, (9, 3))
    directions = np.array([[1.0, 2.0, -2.0], [0.0, 0.0, 0.5]])
    value, gradient = wave(np.array([1.0, 0.5, -2.0]))
    operator = operators.point_derivatives(points, directions=directions)
    measured = np.asarray(operator @ value(operator.points).astype(np.float32)).reshape(2, 9)
    np.testing.assert_allclose(measured, (gradient(points) @ directions.T).T, atol=4e-3)
    axes = operators.point_derivatives(points, axes=(2, 0))
    twice = operators.point_derivatives(points, directions=np.eye(3)[[2, 0]])
    np.testing.assert_array_equal(axes.points, twice.points)
    np.testing.assert_array_equal(axes.factors, twice.factors)


def test_a_constant_has_no_derivative():
    operator = operators.point_derivatives((5, 3))
    assert operator.num_measurements == 30
    np.testing.assert_array_equal(operator @ jnp.ones((60, 1)), 0)


def test_derivatives_of_pixels_are_slopes():
    """Between samples an image is linear; its edge goes on beyond it, so slopes halve there."""
    image = coordinates.grid((5, 4)) @ np.array([[2.0], [-3.0]], np.float32)
    on_grid = grid_operator.on_grid(operators.point_derivatives((5, 4)), (5, 4))
    row, column = np.asarray(on_grid @ image).reshape(2, 5, 4)
    np.testing.assert_allclose(row[1:-1], 2, atol=2e-3)
    np.testing.assert_allclose(column[:, 1:-1], -3, atol=2e-3)
    np.testing.assert_allclose(row[0], 1, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"axes": (2,)}, r"^axes: \(2,\); allowed: some of \[0, 1\]"),
        ({"axes": ()}, "^axes: "),
        ({"directions": np.ones((1, 3))}, r"^directions: .*; allowed: vectors \[n, 2\]"),
        ({"directions": np.zeros((1, 2))}, "^directions: .*none of them zero"),
        ({"axes": (0,), "directions": [[1.0, 0]]}, "^directions: .* None beside axes"),
        ({"step": 0.0}, "^step: 0.0; allowed: finite, above 0"),
        ({"step": 1e-12}, "^step: 1e-12; allowed: more than the rounding"),
        ({"points": np.ones(3)}, "^points: "),
    ],
)
def test_refused_derivatives(options, says):
    with pytest.raises(ArgumentError, match=says):
        operators.point_derivatives(**{"points": (3, 3), **options})


# ---- operators in place of shapes, and by name ---------------------------------------------------


def test_an_operator_in_place_of_points():
    beam = operators.parallel_beam((6, 7), 4, samples_per_ray=3)
    np.testing.assert_array_equal(operators.sample(beam).points, beam.points)
    derivatives = operators.point_derivatives(operators.sample((3, 3)))
    assert derivatives.num_measurements == 18
    shown = operators.random_mask(beam, 0.5)
    assert shown.num_measurements == 28
    assert float(shown.weights.sum()) == 14
    pixels = operators.mask(operators.sample((2, 2)), [0, 1, 1, 0])
    assert isinstance(pixels, operators.Mask)
    again = operators.mask(pixels, [1, 1, 0, 0])
    np.testing.assert_array_equal(again.measure(jnp.ones((4, 1)))[:, 0], [0, 1, 0, 0])


OPTIONS = {
    "parallel_beam": {"angles": 3},
    "fan_beam": {"angles": [0.0, 270.0], "arc": True, "detectors": [-1.0, 0.0, 2.0]},
    "nonuniform_fourier": {"frequencies": ((0.5, 1.0), (2.0, -0.25))},
    "point_derivatives": {"axes": (1,)},
    "downsample": {"factor": 3},
}


@pytest.mark.parametrize("kind", operators.KINDS)
def test_every_kind_by_name(kind):
    config = ConfigDict({"kind": kind, kind: OPTIONS.get(kind, {})})
    operator = operators.build_operator(config, (9, 3))
    samples = np.random.default_rng(0).normal(size=(operator.num_points, 2)).astype(np.float32)
    assert (operator @ samples).shape == (operator.num_measurements, 2)
    assert operator.adjoint_error() < 1e-5
    assert np.isfinite(operator @ samples).all()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"kind": "parallel_beam"}, r"^operator\.parallel_beam\.angles: None; allowed: a value"),
        (
            {"kind": "fan_beam", "fan_beam": {"angles": 3, "source_distance": 1.0}},
            r"^operator\.fan_beam\.source_distance: 1\.0; allowed",
        ),
        (
            {"kind": "parallel_beam", "parallel_beam": {"angles": 3, "convention": "scikit"}},
            r"^operator\.parallel_beam\.convention: 'scikit'",
        ),
        (
            {"kind": "blur", "blur": {"sigm": 1}},
            r"^operator\.blur\.sigm: 1; allowed: the options of blur: sigma, radius",
        ),
        ({"kind": "sample", "sample": {"points": 1}}, r"^operator\.sample\.points: .*: none$"),
        ({"kind": "blurr"}, r"^operator\.kind: 'blurr'; allowed: sample.*did you mean 'blur'\?"),
    ],
)
def test_the_key_is_named(config, says):
    with pytest.raises(ArgumentError, match=says):
        operators.build_operator(ConfigDict(config), (6, 6))


def test_areas_are_means_over_pixels_of_another_size():
    signal = np.random.default_rng(101).normal(size=(6 * 9, 2)).astype(np.float32)
    coarse, blocks = operators.areas((6, 9), (2, 3)), operators.downsample((6, 9), 3)
    np.testing.assert_allclose(coarse.points, blocks.points, atol=1e-6)
    np.testing.assert_allclose(coarse @ signal, blocks @ signal, atol=1e-6)
    np.testing.assert_allclose(coarse.weights, 9)
    # Not a whole number of samples: means of a slope are those at the areas' middles.
    odd = operators.areas((60, 90), (25, 7))
    middle = ((np.arange(25) + 0.5) * 60 / 25 - 0.5) * 2 / 59 - 1
    rows = (odd @ (lambda x: x[:, :1])).reshape(25, 7)
    np.testing.assert_allclose(rows[1:-1], np.tile(middle[1:-1, None], 7), atol=1e-5)
    assert operators.areas((4, 4), (8, 8)).run_length == 1
    with pytest.raises(ArgumentError, match="size: .*2 whole numbers"):
        operators.areas((4, 4), (8,))


HUGE = {
    "shape": lambda: operators.areas((10**6, 10**6), (1, 1)),
    "size": lambda: operators.areas((6, 6), (10**6, 10**6)),
    "sigma": lambda: operators.blur((6, 6), 1e9),
    "radius": lambda: operators.blur((6, 6), 1, 10**6),
    "samples_per_side": lambda: operators.downsample((6, 6), 2, 10**6),
}


@pytest.mark.parametrize("argument", HUGE)
def test_what_memory_does_not_hold_is_one_line(argument):
    with pytest.raises(ArgumentError, match=f"^{argument}: .*; allowed: what fits into the .* GiB"):
        HUGE[argument]()


@pytest.mark.parametrize("size", [(0, 3), (3.5, 3), ("3", "3"), None, (True, 3)])
def test_a_size_that_is_none_is_called_so(size):
    with pytest.raises(ArgumentError, match="^size: .* positive whole numbers"):
        operators.areas((6, 6), size)
