"""Operators composed: linear algebra in float64 by hand, and normal equations of the results."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import gram, grid_operator, operators
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary

SHAPE = (7, 5)
RNG = np.random.default_rng(0)


def beam(samples=4):
    """15 measurements of runs."""
    return operators.parallel_beam(SHAPE, 3, detectors=5, samples_per_ray=samples)


def some_points(count=15, seed=1):
    return operators.sample(np.random.default_rng(seed).uniform(-1, 1, (count, 2)))


def frequencies(seed=0):
    return operators.fourier(SHAPE, 0.2, 0.05, seed)


def seen(*shape, seed=0):
    chosen = np.random.default_rng(seed).uniform(size=shape) < 0.6
    chosen[..., 0] = True
    return chosen


# ---- a matrix of every operator, by hand ---------------------------------------------------------


def signal(points):
    """Three channels of a smooth function, float64."""
    row, column = np.asarray(points, np.float64).T
    return np.stack([np.sin(2 * row + column), row * column + 0.3, np.cos(3 * column)], 1)


def of_runs(operator, values):
    """What a local operator measures of values [Q, ...], from its factors alone."""
    runs = values.reshape(operator.num_measurements, operator.run_length, *values.shape[1:])
    if operator.factors is None:
        return runs.sum(1)
    return np.einsum("mt...,mt->m...", runs, np.asarray(operator.factors, np.float64))


def of_frequencies(operator, values):
    grid = values.reshape(*SHAPE, *values.shape[1:])
    spectrum = np.fft.fftn(grid, axes=(0, 1), norm="ortho").reshape(values.shape)
    chosen = spectrum[np.asarray(operator.kept)]
    return np.concatenate([chosen.real, chosen.imag])


def measured(operator, function):
    """A leaf operator's measurements of a function, float64."""
    values = function(np.asarray(operator.points))
    apply = of_frequencies if isinstance(operator, operators.Fourier) else of_runs
    return apply(operator, values)


# name -> (operator, function from a function of points to what it must measure, float64)
def cases():
    a, b, f = beam(), some_points(), frequencies()
    g = frequencies(3)
    one, mixing = seen(15), RNG.normal(size=(4, 15))
    chosen = np.array([3, 14, 3, 0])
    half = len(f.kept)
    return {
        "multiple": (2.5 * a, lambda h: 2.5 * measured(a, h)),
        "multiple from the right": (a * -3, lambda h: -3 * measured(a, h)),
        "multiple of samples": (2 * b, lambda h: 2 * measured(b, h)),
        "multiple of a mask": (
            2 * operators.mask(b, one),
            lambda h: 2 * one[:, None] * measured(b, h),
        ),
        "negative of frequencies": (-f, lambda h: -measured(f, h)),
        "sum": (a + b, lambda h: measured(a, h) + measured(b, h)),
        "difference": (a - b, lambda h: measured(a, h) - measured(b, h)),
        "sum at the same points": (a + 0.5 * a, lambda h: 1.5 * measured(a, h)),
        "sum of masks": (
            operators.mask(b, one) + operators.mask(a, seen(15, seed=2)),
            lambda h: one[:, None] * measured(b, h) + seen(15, seed=2)[:, None] * measured(a, h),
        ),
        "sum of frequencies": (f - 2 * g, lambda h: measured(f, h) - 2 * measured(g, h)),
        "stack": (
            operators.stack([a, b, 2 * a]),
            lambda h: np.concatenate([measured(a, h), measured(b, h), 2 * measured(a, h)]),
        ),
        "stack of one grid": (
            operators.stack([f, g]),
            lambda h: np.concatenate([measured(f, h), measured(g, h)]),
        ),
        "stack of all kinds": (
            operators.stack([f, a, operators.sample(SHAPE)]),
            lambda h: np.concatenate([measured(f, h), measured(a, h), h(coordinates.grid(SHAPE))]),
        ),
        "masked rays": (operators.mask(a, one), lambda h: one[:, None] * measured(a, h)),
        "masked frequencies": (
            operators.mask(f, np.arange(2 * half) % 3 == 0),
            lambda h: (np.arange(2 * half) % 3 == 0)[:, None] * measured(f, h),
        ),
        "mask before rays": (
            operators.mask((3, 5), one.reshape(3, 5)) @ a,
            lambda h: one[:, None] * measured(a, h),
        ),
        "selection": (operators.select(chosen, 15) @ a, lambda h: measured(a, h)[chosen]),
        "selection of frequencies": (
            operators.select([1, 0], 2 * half) @ f,
            lambda h: measured(f, h)[[1, 0]],
        ),
        "matrix": (operators.matrix(mixing) @ a, lambda h: mixing @ measured(a, h)),
        "runs of measurements": (
            operators.Operator(jnp.zeros((15, 0)), jnp.full((5, 3), 0.5), run_length=3) @ a,
            lambda h: 0.5 * measured(a, h).reshape(5, 3, -1).sum(1),
        ),
        "matrix, selection, stack": (
            operators.matrix(mixing[:, :6])
            @ (operators.select(np.arange(6) * 2, 15) @ (a + b) + 3 * some_points(6, 9)),
            lambda h: (
                mixing[:, :6]
                @ ((measured(a, h) + measured(b, h))[::2][:6] + 3 * measured(some_points(6, 9), h))
            ),
        ),
        "sum of matrices": (
            (operators.matrix(mixing) - 2 * operators.matrix(mixing[::-1])) @ a,
            lambda h: (mixing - 2 * mixing[::-1]) @ measured(a, h),
        ),
    }


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_measures_what_algebra_says(name):
    operator, expected = CASES[name]
    values = expected(signal)
    assert operator.shape == (len(values), len(operator.points))
    samples = signal(operator.points).astype(np.float32)
    np.testing.assert_allclose(operator @ samples, values, atol=3e-5)
    batch = jnp.stack([samples, 2 * samples])
    np.testing.assert_allclose(operator.measure(batch)[1], 2 * values, atol=6e-5)
    assert operator.adjoint_error() < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_is_an_argument_of_jitted_and_mapped_functions(name):
    operator, expected = CASES[name]
    samples = jnp.asarray(signal(operator.points), jnp.float32)
    jitted = jax.jit(lambda a, x: a.adjoint(a.measure(x)))(operator, samples)
    np.testing.assert_allclose(jitted, operator.adjoint(operator.measure(samples)), atol=1e-3)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), operator)
    mapped = jax.vmap(lambda a, x: a.measure(x))(several, jnp.stack([samples, -samples]))
    values = expected(signal)
    np.testing.assert_allclose(mapped, np.stack([values, -values]), atol=3e-5)


LOCAL = {name for name, (operator, _) in CASES.items() if operator.run_length is not None}


def test_what_is_made_of_local_operators_is_local():
    """Normal equations of these stream; whatever holds frequencies or a matrix cannot."""
    words = ("frequencies", "matrix", "matrices", "grid", "all kinds")
    assert {name for name in CASES if not any(word in name for word in words)} == LOCAL
    assert CASES["sum at the same points"][0].run_length == 4
    assert CASES["sum"][0].run_length == 5
    assert CASES["stack"][0].run_length == 4


def test_one_grid_is_evaluated_once():
    f, g = frequencies(), frequencies(3)
    for operator in (f + g, operators.stack([f, g]), operators.stack([f, operators.stack([g, f])])):
        assert operator.num_points == 35
    assert operators.stack([f, beam()]).num_points == 35 + 60


def test_composing_inside_a_jitted_function():
    a, b, x = frequencies(), frequencies(3), signal(coordinates.grid(SHAPE)).astype(np.float32)
    expected = (a + b) @ x

    def sums(a, b, x):
        made = a + b
        return made @ jnp.tile(x, (made.num_points // len(x), 1))

    np.testing.assert_allclose(jax.jit(sums)(a, b, x), expected, atol=1e-5)


@pytest.mark.parametrize("number", [np.float64(2), np.int32(2), jnp.float32(2), np.array(2.0), 2])
def test_numbers_of_every_kind(number):
    a = beam()
    for operator in (number * a, a * number):
        assert isinstance(operator, operators.Operator)
        np.testing.assert_allclose(operator.factors, 2 * a.factors)


def test_what_cannot_be_added_is_left_to_python():
    for wrong in (lambda: beam() + 1, lambda: beam() - "x", lambda: beam() * np.ones(3)):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError):
        np.ones((3, 15)) @ beam()


# ---- numbers about operators ---------------------------------------------------------------------


def dense(operator):
    """The matrix [M, Q] that `measure` is."""
    return np.asarray(operator.measure(jnp.eye(operator.num_points)), np.float64)


@pytest.mark.parametrize("name", ["sum", "matrix", "stack of all kinds", "masked frequencies"])
def test_norm_is_the_largest_singular_value(name):
    operator = CASES[name][0]
    expected = np.linalg.norm(dense(operator), 2)
    assert float(operator.norm(steps=300)) == pytest.approx(expected, rel=2e-3)
    assert float((-2 * operator).norm(steps=300)) == pytest.approx(2 * expected, rel=2e-3)


def test_norm_of_nothing():
    assert float((beam() - beam()).norm()) == 0
    per_signal = operators.mask(2 * some_points(), seen(3, 15))
    assert float(per_signal.norm()) == pytest.approx(2, rel=1e-3)


@operators.register
@dataclasses.dataclass(frozen=True, eq=False)
class Wrong(operators.Operator):
    """Says of its transpose what is not so."""

    def adjoint(self, measurements):
        return 1.01 * super().adjoint(measurements)


def test_the_error_of_a_wrong_adjoint_shows():
    a = beam()
    assert Wrong(a.points, a.factors, run_length=4).adjoint_error() > 1e-4
    assert a.adjoint_error() < 1e-6


# ---- weights -------------------------------------------------------------------------------------


def with_weights(operator, weights):
    return operators.Operator(
        operator.points, operator.factors, jnp.asarray(weights, jnp.float32), operator.run_length
    )


def test_weights_of_what_is_made():
    u, v = RNG.uniform(size=(2, 15)).astype(np.float32)
    a, b = with_weights(beam(), u), with_weights(some_points(), v)
    np.testing.assert_allclose((a + b).weights, u * v, rtol=1e-6)
    np.testing.assert_allclose((a + some_points()).weights, u)
    np.testing.assert_allclose((3 * a).weights, u)
    one = np.ones(15)
    np.testing.assert_allclose(operators.stack([a, some_points(), b]).weights, [*u, *one, *v])
    assert operators.stack([beam(), some_points()]).weights is None
    np.testing.assert_allclose((operators.select([4, 2], 15) @ a).weights, u[[4, 2]])
    np.testing.assert_allclose(operators.mask(a, seen(15)).weights, u * seen(15))
    assert (operators.matrix(np.ones((2, 15))) @ a).weights is None


@pytest.mark.parametrize("part", [beam, frequencies], ids=["local", "global"])
def test_masks_of_every_signal(part):
    count = part().num_measurements
    masks = seen(2, count)
    operator = operators.mask(part(), masks)
    samples = np.stack([signal(operator.points)] * 2).astype(np.float32)
    every = measured(part(), signal)
    np.testing.assert_allclose(operator.measure(samples), masks[..., None] * every, atol=2e-5)
    # Atoms belong to no signal.
    np.testing.assert_allclose(operator.measure(samples[0]), every, atol=2e-5)
    np.testing.assert_array_equal(operator.weights, masks)
    stacked = operators.stack([operator, some_points()])
    np.testing.assert_allclose(stacked.weights, np.hstack([masks, np.ones((2, 15))]))
    joined = np.stack([signal(stacked.points)] * 2).astype(np.float32)
    found = np.asarray(stacked.measure(joined))
    np.testing.assert_allclose(found[:, :count], masks[..., None] * every, atol=2e-5)
    rest = np.stack([measured(some_points(), signal)] * 2)
    np.testing.assert_allclose(found[:, count:], rest, atol=2e-5)
    assert stacked.adjoint_error() < 1e-5
    assert (stacked.run_length is None) == (part is frequencies)
    some = operators.select([1, 5], count) @ operator
    its = np.stack([signal(some.points)] * 2).astype(np.float32)
    np.testing.assert_allclose(some.measure(its), operator.measure(samples)[:, [1, 5]], atol=1e-6)
    sums = operator + 2 * part()
    np.testing.assert_allclose(sums.weights, masks)


# ---- normal equations ----------------------------------------------------------------------------


@functools.cache
def dictionary(kind):
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 8, 1.0, rngs=rngs)
    return kind(embedding, 5, 2, Layers(2, 8, "relu", 1.0), rngs=rngs)


@pytest.mark.parametrize("kind", [SharedDictionary, IndependentDictionary])
@pytest.mark.parametrize(
    "name",
    ["sum", "stack of all kinds", "masked frequencies", "multiple of a mask"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("stack", "sum of masks", "masked rays", "matrix, selection, stack")
    ],
)
def test_normal_equations(kind, name):
    """Those by definition, of atoms measured in float64 by hand."""
    atoms = dictionary(kind)
    operator, expected = CASES[name]

    def basis(points):
        values = atoms.basis(jnp.asarray(points, jnp.float32))
        return np.asarray(values, np.float64).reshape(len(points), -1)

    measured_atoms = expected(basis).reshape(-1, 5, 2)
    one = expected(lambda points: np.ones((len(points), 1)))[:, 0]
    y = RNG.normal(size=(3, len(one), 2)).astype(np.float32)
    given_weights = RNG.uniform(size=len(one)).astype(np.float32)
    w = given_weights if operator.weights is None else given_weights * operator.weights
    found = gram.normal_equations(atoms, operator, y, given_weights, chunk=4)
    w, total = np.asarray(w, np.float64), (w * one**2).sum()
    mean = np.einsum("m,m,mec->ec", w, one, measured_atoms) / total
    target = np.einsum("m,m,smc->sc", w, one, y) / total
    free = measured_atoms - one[:, None, None] * mean
    rest = y - one[:, None] * target[:, None]
    scale = np.abs(free).max() ** 2 * len(one)
    close = functools.partial(np.testing.assert_allclose, atol=2e-6 * scale)
    close(found.gram, np.einsum("m,mec,mfc->ef", w, free, free))
    close(found.moments, np.einsum("m,mec,smc->se", w, free, rest))
    close(found.energy, np.einsum("m,smc->s", w, rest**2))
    close(found.atom_mean, mean)
    close(found.target_mean, target)


def test_normal_equations_of_masks_for_every_signal():
    """As many as there are signals, each as if its mask were alone."""
    atoms = dictionary(SharedDictionary)
    for part in (beam(), frequencies()):
        masks = seen(2, part.num_measurements)
        y = RNG.normal(size=(2, part.num_measurements, 2)).astype(np.float32)
        together = gram.normal_equations(atoms, operators.mask(part, masks), y)
        for signal_number in range(2):
            own = operators.mask(part, masks[signal_number])
            alone = gram.normal_equations(atoms, own, y[signal_number][None])
            np.testing.assert_allclose(together.gram[signal_number], alone.gram, atol=1e-4)
            np.testing.assert_allclose(together.moments[signal_number], alone.moments[0], atol=1e-4)


# ---- on a grid -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["sum", "stack", "stack of all kinds", "masked rays", "sum of masks", "matrix", "selection"]
    + ["multiple of samples", "masked frequencies", "mask before rays"],
)
def test_on_a_grid(name):
    """Linear functions are interpolated exactly, so the image measures as the function does."""
    operator, expected = CASES[name]

    def linear(points):
        return np.asarray(points, np.float64) @ np.array([[0.3, -1.0], [-0.7, 0.2]]) + 0.2

    on_grid = grid_operator.on_grid(operator, SHAPE)
    lattice = coordinates.grid(SHAPE)
    np.testing.assert_array_equal(on_grid.points, lattice)
    image = linear(lattice).astype(np.float32)
    np.testing.assert_allclose(on_grid @ image, expected(linear), atol=1e-4)
    assert on_grid.adjoint_error() < 1e-5
    if operator.weights is not None:
        np.testing.assert_array_equal(on_grid.weights, operator.weights)


def test_on_a_grid_with_masks_of_every_signal():
    operator = operators.mask(beam(), seen(2, 15))
    on_grid = grid_operator.on_grid(operator, SHAPE)
    images = RNG.normal(size=(2, 35, 1)).astype(np.float32)
    plain = grid_operator.on_grid(beam(), SHAPE).measure(images)
    np.testing.assert_allclose(on_grid.measure(images), plain * seen(2, 15)[..., None], atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: operators.matrix(np.eye(3)),
        lambda: operators.stack([operators.fourier((4, 4)), beam()]),
        lambda: operators.select([1], 3),
    ],
)
def test_no_image_of_the_grid(make):
    with pytest.raises(ArgumentError, match=r"^operator: '.*'; allowed: one of signals \[7, 5\]"):
        grid_operator.on_grid(make(), SHAPE)


# ---- random trees --------------------------------------------------------------------------------


def leaves(shape):
    kinds = [
        operators.sample(shape),
        operators.parallel_beam(shape, 2, detectors=3, samples_per_ray=2),
        operators.fan_beam(shape, 2, detectors=3, samples_per_ray=2, arc=True),
        operators.fourier(shape, 0.5, 0.1),
        operators.nonuniform_fourier(shape, spokes=2, samples=3),
        operators.point_derivatives(shape),
        operators.blur(shape, 0.5),
        operators.random_mask(shape, 0.5),
    ]
    return st.sampled_from(kinds)


@st.composite
def trees(draw):
    """An operator composed at random."""
    shape = (draw(st.integers(1, 5)), draw(st.sampled_from([1, 3, 5])))
    operator = draw(leaves(shape))
    for _ in range(draw(st.integers(1, 3))):
        count = operator.num_measurements
        generator = np.random.default_rng(draw(st.integers(0, 99)))
        step = draw(st.sampled_from(["scale", "add", "stack", "mask", "select", "matrix"]))
        if step == "scale":
            operator = -1.5 * operator
        elif step == "add":
            operator = operator - some_points(count)
        elif step == "stack":
            operator = operators.stack([draw(leaves(shape)), operator])
        elif step == "mask":
            operator = operators.mask(operator, seen(count))
        elif step == "select":
            operator = operators.select(generator.integers(count, size=3), count) @ operator
        else:
            operator = operators.matrix(generator.normal(size=(2, count))) @ operator
    return operator


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(operator=trees())
def test_every_composition_and_its_transpose_belong_together(operator):
    assert operator.adjoint_error() < 1e-5
    measured_ones = operator @ jnp.ones((operator.num_points, 1))
    assert measured_ones.shape == (operator.num_measurements, 1)
    assert np.isfinite(measured_ones).all()


# ---- errors --------------------------------------------------------------------------------------

P = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: beam() + some_points(7), r"operators: \[7, 15\]; allowed: one number of meas"),
        (lambda: some_points(4) + operators.sample(P[:, :1]), r"operators: \[1, 2\]"),
        (lambda: operators.stack([]), r"operators: \[\]; allowed: a list of operators"),
        (lambda: operators.stack([beam(), 3]), r"operators: \['ParallelBeam', 'int'\]"),
        (lambda: operators.matrix(np.ones((2, 7))) @ beam(), "inner: 15; allowed: 7 meas.*Matrix"),
        (lambda: operators.select([1], 7) @ beam(), "inner: 15; allowed: 7"),
        (lambda: operators.mask((2, 2), np.ones(4)) @ beam(), "inner: 15; allowed: 4"),
        (lambda: operators.mask(beam(), np.ones(3)), r"seen: \(3,\); allowed: the shape \(15,\)"),
        (lambda: operators.select([15], 15), "chosen: 15; allowed: indices"),
        (lambda: operators.select([0.5], 15), "chosen: 'float64"),
        (lambda: operators.select([1], 0), "count: 0"),
        (lambda: operators.matrix([1.0]), r"values: \(1,\); allowed: the shape \[M, N\]"),
        (lambda: operators.matrix([[np.inf]]), "values: inf"),
        (lambda: np.inf * beam(), "scale: inf"),
        (lambda: jnp.complex64(1j) * beam(), "scale: 1j"),
        (lambda: operators.matrix(np.eye(2)) @ (lambda x: x), "signal: 'a function'.*Matrix"),
        (lambda: frequencies().of_measurements([0]), "operator: 'Fourier'; allowed: a local"),
        (
            lambda: operators.matrix(np.ones((2, 15))) @ operators.mask(beam(), seen(3, 15)),
            r"inner: \(3, 15\); allowed: weights \[M\]",
        ),
        (
            lambda: operators.stack(
                [operators.mask(beam(), seen(2, 15)), operators.mask(beam(), seen(3, 15))]
            ),
            r"operators: \[2, 3\]; allowed: weights of one number of signals",
        ),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ArgumentError, match=says) as error:
        make()
    assert "\n" not in str(error.value)
