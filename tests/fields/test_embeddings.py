import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import (
    EMBEDDINGS,
    RBF,
    ChosenCosines,
    CosineLattice,
    FourierFeatures,
    GaussianFourier,
    Identity,
    Positional,
    RandomFeatures,
    Splines,
    build_embedding,
    nyquist_octaves,
)
from nid_jax.fields.variables import Basis, Constant

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=12, deadline=None)


@nnx.jit
def evaluate(embedding, x):
    return embedding(x)


def config(**changes):
    values = {
        "kind": "identity",
        "size": 32,
        "scale": 10.0,
        "num_octaves": 0,
        "trainable": False,
        "kernel": "matern",
        "length_scale": 0.2,
        "shape": 0.0,
        "num_centres": 7,
        "sigma": 10.0,
        "counts": (),
        "band": "box",
        "num_kept": 0,
        "degree": 3,
    }
    return SimpleNamespace(**(values | changes))


def points(seed, count, dims, reach=1.0):
    return np.random.default_rng(seed).uniform(-reach, reach, (count, dims)).astype(np.float32)


def octave_loop(x, octaves):
    """Positional features one by one, float64; octaves per axis."""
    x = x.astype(np.float64)
    columns = [x[:, j] for j in range(x.shape[1])]
    for i in range(max(octaves)):
        for j in range(x.shape[1]):
            if i < octaves[j]:
                columns += [np.sin(2**i * np.pi * x[:, j]), np.cos(2**i * np.pi * x[:, j])]
    return np.stack(columns, axis=1)


@few
@given(seeds, st.integers(1, 3), st.sampled_from([0, 1, 7, 24]))
def test_positional_is_exact_at_every_octave(seed, dims, num_octaves):
    x = points(seed, 20, dims, reach=1.5)
    embedding = Positional(dims, num_octaves)
    assert embedding.size == dims * (1 + 2 * num_octaves)
    np.testing.assert_allclose(
        evaluate(embedding, x), octave_loop(x, (num_octaves,) * dims), atol=1e-6, rtol=0
    )


def test_positional_with_octaves_per_axis():
    x = points(0, 30, 3)
    embedding = Positional(3, (2, 5, 0))
    assert embedding.size == 3 + 2 * 7
    np.testing.assert_allclose(evaluate(embedding, x), octave_loop(x, (2, 5, 0)), atol=1e-6, rtol=0)


def test_positional_gradient_is_that_of_the_waves():
    x = jnp.asarray(points(1, 1, 2)[0])
    octaves = 5
    gradient = jax.jit(jax.jacobian(Positional(2, octaves)))(x)
    expected = [np.eye(2)]
    for i in range(octaves):
        for j in range(2):
            rate = 2**i * np.pi
            row = rate * np.array([[np.cos(rate * x[j])], [-np.sin(rate * x[j])]])
            expected.append(row * np.eye(2)[j])
    np.testing.assert_allclose(gradient, np.concatenate(expected), atol=1e-4)


def test_nyquist_octaves_per_axis():
    assert nyquist_octaves((16, 32, 100, 128, 256, 512)) == (2, 3, 4, 5, 6, 7)
    assert nyquist_octaves((1, 4, 7, 8)) == (0, 0, 0, 1)
    embedding = build_embedding(config(kind="positional"), 2, (64, 128), nnx.Rngs(0))
    assert embedding.size == 2 + 2 * (4 + 5)
    given_octaves = build_embedding(config(kind="positional", num_octaves=3), 2, (), nnx.Rngs(0))
    assert given_octaves.size == 2 * (1 + 2 * 3)


@few
@given(seeds, st.integers(1, 3), st.sampled_from([0.5, 10.0, 300.0]))
def test_gaussian_fourier_layout(seed, dims, scale):
    embedding = GaussianFourier(dims, 24, scale, rngs=nnx.Rngs(seed))
    x = points(seed, 15, dims)
    frequencies = np.asarray(embedding.frequencies[...], np.float64)
    phase = x.astype(np.float64) @ frequencies.T
    expected = np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)
    # Products and sums of the phase are rounded to float32.
    tolerance = 1e-6 + 4e-7 * (np.abs(x) @ np.abs(frequencies).T).max()
    np.testing.assert_allclose(evaluate(embedding, x), expected, atol=tolerance, rtol=0)


def test_gaussian_fourier_frequencies_have_the_scale():
    draws = np.asarray(GaussianFourier(2, 40_000, 7.0, rngs=nnx.Rngs(5)).frequencies[...])
    # Standard errors of the mean and of the deviation of 40,000 normals.
    assert abs(draws.mean()) < 5 * 7 / math.sqrt(draws.size)
    assert abs(draws.std() - 7) < 5 * 7 / math.sqrt(2 * draws.size)


def test_random_features_inner_product_is_the_kernel():
    embedding = RandomFeatures(2, 40_000, "matern", 0.3, 2.5, rngs=nnx.Rngs(11))
    x, y = points(2, 8, 2, 0.3), points(3, 8, 2, 0.3)
    products = (
        np.sum(np.asarray(evaluate(embedding, x) * evaluate(embedding, y), np.float64), axis=-1)
        / 20_000
    )
    z = math.sqrt(5) * np.linalg.norm(x - y, axis=-1) / 0.3
    expected = (1 + z + z**2 / 3) * np.exp(-z)
    np.testing.assert_allclose(products, expected, atol=5 * math.sqrt(0.5 / 20_000))
    assert np.abs(products - (1 + z) * np.exp(-z)).max() > 0.04


@few
@given(seeds, st.integers(1, 3))
def test_rbf_is_the_fourth_power_form(seed, dims):
    rng = np.random.default_rng(seed)
    centres, sigmas = rng.uniform(-1, 1, (5, dims)), rng.uniform(0.5, 12, 5)
    x = points(seed + 1, 20, dims)
    embedding = RBF(centres, sigmas)
    assert embedding.size == 5
    square = ((x[:, None].astype(np.float64) - centres.astype(np.float32)) ** 2).sum(-1)
    np.testing.assert_allclose(evaluate(embedding, x), np.exp(-((sigmas * square) ** 2)), atol=2e-6)


@pytest.mark.parametrize("kind", sorted(EMBEDDINGS))
def test_every_kind_has_size_and_leading_shape(kind):
    embedding = build_embedding(config(kind=kind, trainable=True), 2, (32, 48), nnx.Rngs(0))
    x = points(4, 12, 2)
    flat = evaluate(embedding, x)
    assert flat.shape == (12, embedding.size)
    assert flat.dtype == jnp.float32
    np.testing.assert_array_equal(evaluate(embedding, x.reshape(3, 4, 2)), flat.reshape(3, 4, -1))


@pytest.mark.parametrize(("kind", "numbers"), [("fourier", 1), ("kernel", 1), ("rbf", 2)])
def test_trainable_decides_the_variable_type(kind, numbers):
    for trainable, kept, other in ((True, Basis, Constant), (False, Constant, Basis)):
        embedding = build_embedding(config(kind=kind, trainable=trainable), 2, (8, 8), nnx.Rngs(0))
        assert len(jax.tree.leaves(nnx.state(embedding, kept))) == numbers
        assert not jax.tree.leaves(nnx.state(embedding, other))
    assert not jax.tree.leaves(nnx.state(embedding, nnx.Param))


@pytest.mark.parametrize("kind", sorted(EMBEDDINGS))
def test_state_alone_restores_the_embedding(kind):
    built = build_embedding(config(kind=kind), 3, (16, 16, 16), nnx.Rngs(1))
    # Shapes without numbers is how a checkpoint is read.
    abstract = nnx.eval_shape(
        lambda: build_embedding(config(kind=kind), 3, (16, 16, 16), nnx.Rngs(2))
    )
    restored = nnx.merge(nnx.graphdef(abstract), nnx.state(built))
    x = points(6, 9, 3)
    np.testing.assert_array_equal(evaluate(restored, x), evaluate(built, x))


def test_compact_kernel_can_be_drawn_without_running():
    changes = {"kind": "kernel", "kernel": "compact_polynomial"}
    abstract = nnx.eval_shape(lambda: build_embedding(config(**changes), 2, (8, 8), nnx.Rngs(2)))
    assert abstract.frequencies.shape == (16, 2)


@pytest.mark.parametrize("scale", [1e6, 1e30])
def test_huge_scales_stay_finite_with_finite_gradients(scale):
    seed = 17
    x = jnp.asarray(points(seed, 6, 2))
    x = x.at[0].set(0.0)
    fourier = GaussianFourier(2, 16, scale, trainable=True, rngs=nnx.Rngs(seed))
    rbf = RBF(np.concatenate([points(seed, 3, 2), np.zeros((1, 2))]), scale, trainable=True)
    for embedding in (fourier, rbf):
        graphdef, state = nnx.split(embedding)

        @jax.jit
        def with_gradients(state, x, graphdef=graphdef):
            def call(state, x):
                return nnx.merge(graphdef, state)(x)

            gradients = jax.grad(lambda state, x: jnp.sum(call(state, x) ** 3), (0, 1))(state, x)
            return call(state, x), gradients

        out, gradients = with_gradients(state, x)
        assert np.abs(out).max() <= 1 + 1e-6
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("frequency", [1e3, 2.0**15])
def test_high_frequencies_keep_the_digits_of_float32(frequency):
    x = points(8, 200, 1, 1.5)
    out = FourierFeatures(jnp.full((1, 1), frequency))(x)
    phase = x.astype(np.float64) * frequency
    error = np.abs(out - np.concatenate([np.sin(phase), np.cos(phase)], axis=-1))
    assert error.max() < 1e-6 + 1.5 * frequency * 1.5 * 2.0**-23


def test_identity_returns_the_coordinates():
    x = points(9, 5, 3)
    assert Identity(3).size == 3
    np.testing.assert_array_equal(Identity(3)(x), x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "positionel"}, r"dictionary\.embedding\.kind='positionel'.*did you mean posit"),
        ({"kind": "xyz"}, "allowed: identity, positional, fourier, rbf, kernel, cosine, spline$"),
        ({"kind": "kernel", "kernel": "gausian"}, r"embedding\.kernel=.*did you mean gaussian"),
        ({"kind": "kernel", "size": 33}, r"embedding\.size must be even"),
        ({"kind": "fourier", "size": 0}, r"embedding\.size must be even"),
        ({"kind": "fourier", "scale": 0.0}, r"embedding\.scale"),
        ({"kind": "fourier", "scale": math.inf}, r"embedding\.scale"),
        ({"kind": "rbf", "num_centres": 0}, r"embedding\.num_centres"),
        ({"kind": "rbf", "sigma": -1.0}, r"embedding\.sigma"),
        ({"kind": "positional", "num_octaves": 25}, r"embedding\.num_octaves"),
        ({"kind": "positional", "num_octaves": -1}, r"embedding\.num_octaves"),
    ],
)
def test_bad_values_name_their_key(changes, message):
    with pytest.raises(ValueError, match=message):
        build_embedding(config(**changes), 2, (8, 8), nnx.Rngs(0))


def test_nyquist_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"num_octaves=0 \(Nyquist\)"):
        build_embedding(config(kind="positional"), 3, (), nnx.Rngs(0))


@few
@given(seeds, st.lists(st.integers(1, 7), min_size=1, max_size=3), st.sampled_from(["box", "ball"]))
def test_a_cosine_lattice_is_products_of_cosines_without_the_constant(seed, counts, band):
    kept = [k for k in np.ndindex(*counts) if any(k)]
    if band == "ball":
        kept = [k for k in kept if sum((a / n) ** 2 for a, n in zip(k, counts, strict=True)) < 1]
    if not kept:
        with pytest.raises(ValueError, match=r"counts=.* leaves the constant alone"):
            CosineLattice(counts, band)
        return
    x = points(seed, 20, len(counts), reach=1.2)
    half_turns = (x.astype(np.float64) + 1) / 2
    expected = [np.cos(np.pi * half_turns * k).prod(-1) for k in kept]
    lattice = CosineLattice(counts, band)
    assert lattice.size == len(kept)
    np.testing.assert_allclose(evaluate(lattice, x), np.stack(expected, -1), atol=4e-6)


def test_a_full_cosine_lattice_is_the_discrete_transform_of_its_grid():
    size = 9
    matrix = evaluate(CosineLattice((size,)), grid((size,)))
    weights = np.ones(size)
    weights[[0, -1]] = 0.5
    products = np.asarray(matrix).T @ (weights[:, None] * np.asarray(matrix))
    lengths = np.full(size - 1, (size - 1) / 2)
    lengths[-1] = size - 1
    np.testing.assert_allclose(products, np.diag(lengths), atol=1e-5)


@few
@given(seeds, st.lists(st.integers(2, 6), min_size=1, max_size=3), st.sampled_from(["box", "ball"]))
def test_chosen_cosines_are_those_of_the_lattice(seed, counts, band):
    draw, x = np.random.default_rng(seed), points(seed, 20, len(counts), reach=1.2)
    if band == "ball":
        counts = [count + 1 for count in counts]
    whole = CosineLattice(counts, band)
    some = ChosenCosines(counts, draw.integers(1, whole.size + 1), band)
    assert some.lattice.shape == (whole.size,)
    chosen = np.sort(draw.choice(whole.size, some.size, replace=False))
    some.keep(some.lattice[chosen])
    np.testing.assert_allclose(evaluate(some, x), evaluate(whole, x)[:, chosen], atol=2e-6)


@few
@given(seeds, st.lists(st.integers(2, 5), min_size=1, max_size=3), st.integers(1, 3))
def test_sums_of_chosen_cosines_are_those_of_their_features(seed, counts, num):
    draw, x = np.random.default_rng(seed), points(seed, 20, len(counts), reach=1.2)
    cosines = ChosenCosines(counts, draw.integers(1, np.prod(counts)))
    cosines.keep(np.sort(draw.choice(cosines.lattice, cosines.size, replace=False)))
    weights = draw.normal(size=(cosines.size, num)).astype(np.float32)
    frequencies = np.stack(np.unravel_index(cosines.places[...], tuple(counts)), -1)
    angles = np.pi * (x[:, None].astype(np.float64) + 1) / 2 * frequencies
    tolerance = 1e-5 * np.abs(weights).sum()
    found, slopes = jax.jit(
        lambda x: jax.jvp(lambda x: cosines.sums(x, weights), (x,), (jnp.ones_like(x),))
    )(x)
    np.testing.assert_allclose(found, np.cos(angles).prod(-1) @ weights, atol=tolerance)
    # Along the diagonal, one factor after another.
    expected = 0
    for axis in range(len(counts)):
        rest = np.delete(np.cos(angles), axis, -1).prod(-1)
        expected -= rest * np.sin(angles[..., axis]) * np.pi / 2 * frequencies[:, axis]
    np.testing.assert_allclose(slopes, expected @ weights, atol=20 * tolerance)


def _lattice(kind, draw, counts):
    if kind == "splines":
        return Splines([count + 2 for count in counts], 2)
    if kind == "chosen":
        cosines = ChosenCosines(counts, draw.integers(1, np.prod(counts)))
        cosines.keep(np.sort(draw.choice(cosines.lattice, cosines.size, replace=False)))
        return cosines
    return CosineLattice(counts, kind)


@few
@given(
    seeds,
    st.sampled_from(["box", "ball", "chosen", "splines"]),
    st.lists(st.integers(2, 5), min_size=1, max_size=3),
    st.integers(1, 3),
)
def test_sums_on_a_grid_are_those_of_features_at_its_points(seed, kind, counts, num):
    draw = np.random.default_rng(seed)
    lattice = _lattice(kind, draw, counts)
    axes = [draw.uniform(-1.2, 1.2, draw.integers(1, 7)).astype(np.float32) for _ in counts]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    weights = draw.normal(size=(lattice.size, num)).astype(np.float32)
    expected = np.asarray(evaluate(lattice, x), np.float64) @ weights
    found = np.moveaxis(lattice.grid_sums(axes, lattice.on_lattice(weights)), 0, -1)
    # Splines go on beyond the ends as polynomials, and grow there.
    scale = np.abs(evaluate(lattice, x)).max() * np.abs(weights).sum()
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)


def test_few_sums_are_taken_without_the_features():
    """Of 3900 of 32768 some, of 10 of 10**6 none: the lattice is then more than they are."""
    assert ChosenCosines((32, 32, 32), 3900).most_sums == 13
    assert ChosenCosines((100, 100, 100), 10).most_sums == 0
    assert CosineLattice((32, 32, 32)).most_sums == 0


def test_cosines_are_those_of_lowest_frequency_until_signals_choose():
    found = build_embedding(config(kind="cosine", num_kept=5), 2, (4, 8), nnx.Rngs(0))
    kept = np.stack(np.unravel_index(found.places[...], (4, 8)), -1).tolist()
    # |k / (4, 8)|^2 in 64ths: 1, 4 and 4, 5, 8; the next has 9.
    assert kept == [[0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("places", [[1, 2], [0, 1, 2], [1, 2, 20], [2, 1, 3], [1, 1, 2]])
def test_places_that_are_none(places):
    cosines = ChosenCosines((4, 5), 3)
    with pytest.raises(ValueError, match=r"not 3 of the 19 of .*counts=\(4, 5\), band=box, asc"):
        cosines.keep(np.array(places))


@few
@given(seeds, st.integers(0, 4), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_splines_are_those_of_scipy(seed, degree, more):
    counts = [degree + 1 + extra for extra in more]
    x = points(seed, 20, len(counts))
    expected = np.ones((len(x), 1))
    for axis, count in enumerate(counts):
        pieces = count - degree
        knots = (np.arange(count + degree + 1) - degree) * 2 / pieces - 1
        design = BSpline.design_matrix(x[:, axis].astype(np.float64), knots, degree).toarray()
        expected = (expected[:, :, None] * design[:, None, :]).reshape(len(x), -1)
    splines = Splines(counts, degree)
    dense = evaluate(splines, x)
    np.testing.assert_allclose(dense, expected, atol=3e-6)
    places, values = jax.jit(splines.local)(x)
    assert places.shape == values.shape == (len(x), (degree + 1) ** len(counts))
    scattered = np.zeros_like(dense)
    np.add.at(scattered, (np.arange(len(x))[:, None], np.asarray(places)), np.asarray(values))
    np.testing.assert_allclose(scattered, dense, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4, 5])
def test_splines_of_no_count_take_on_whatever_lies_on_the_grid(degree):
    """64 cubic ones on 64 samples would leave out a direction, by a singular value of 4e-6."""
    sides = (64, 9)
    found = build_embedding(config(kind="spline", degree=degree), 2, sides, nnx.Rngs(0))
    for count, samples in zip(found.counts, sides, strict=True):
        pieces = count - degree
        knots = (np.arange(count + degree + 1) - degree) * 2 / pieces - 1
        x = np.linspace(-1, 1, samples)
        design = BSpline.design_matrix(x, knots, degree).toarray()
        assert np.linalg.svd(design, compute_uv=False)[samples - 1] > 0.01


def test_splines_go_on_beyond_their_ends_as_polynomials():
    x = np.linspace(-1.5, 1.5, 31, dtype=np.float32)[:, None]
    dense = np.asarray(evaluate(Splines((6,), 2), x), np.float64)
    np.testing.assert_allclose(dense.sum(-1), 1, atol=1e-5)
    # A quadratic in their span, found inside, is the same quadratic outside.
    inside = np.abs(x[:, 0]) <= 1
    weights = np.linalg.lstsq(dense[inside], np.square(x[inside, 0]), rcond=None)[0]
    np.testing.assert_allclose(dense @ weights, np.square(x[:, 0]), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cosine", "counts": (8,)}, r"counts=\(8,\); allowed: 2 numbers"),
        ({"kind": "cosine", "counts": (0, 8)}, r"counts=\(0, 8\); allowed: whole numbers, 1 or"),
        ({"kind": "cosine", "counts": (3.5, 4)}, r"counts=\(3.5, 4\); allowed: whole numbers"),
        ({"kind": "spline", "counts": (True, 4)}, r"counts=\(True, 4\); allowed: whole numbers"),
        ({"kind": "spline", "counts": ("a", 4)}, r"counts=\('a', 4\); allowed: whole numbers"),
        ({"kind": "cosine", "counts": (100000, 100000)}, r"these are 10000000000"),
        ({"kind": "cosine", "band": "round"}, r"band='round'; allowed: box, ball"),
        ({"kind": "cosine", "num_kept": 256}, r"num_kept=256; allowed: 1 to 255, .*=\(16, 16\), b"),
        ({"kind": "cosine", "num_kept": -1}, r"num_kept=-1; allowed: 1 to 255, the cosines"),
        ({"kind": "spline", "counts": (3, 8)}, r"counts=\(3, 8\); allowed: whole numbers, 4"),
        ({"kind": "spline", "degree": 9}, r"degree=9; allowed: 0 to 7"),
    ],
)
def test_lattices_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        build_embedding(config(**changes), 2, (16, 16), nnx.Rngs(0))
