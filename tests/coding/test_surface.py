"""Codes from oriented clouds: against plain float64 algebra, and on solids known in closed form."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.coding import gram, operators, ridge, surface
from nid_jax.coding.mixture import moments
from nid_jax.coding.prior import fit_prior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Surface
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import FourierFeatures, Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.router_networks import Linear
from nid_jax.fields.routing import Gates
from nid_jax.fields.shared import SharedDictionary
from nid_jax.geometry import primitives
from nid_jax.geometry.truncation import Truncation

TRUNCATION = Truncation(0.25)
EXPERTS = 120


def make_dictionary(kind="shared"):
    """Random features of about the solids' size: unseen ones are spanned, not exactly."""
    if kind == "shared":
        frequencies = 2.5 * np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
        embedding = FourierFeatures(jnp.asarray(frequencies))
        shape = (embedding, EXPERTS, 1, Layers(2, EXPERTS, "sine", 1.0))
        return SharedDictionary(*shape, rngs=nnx.Rngs(0))
    return IndependentDictionary(
        Identity(3), EXPERTS, 1, Layers(2, 8, "sine", 5.0), rngs=nnx.Rngs(0)
    )


compiled_basis = nnx.jit(lambda dictionary, x: dictionary.basis(x))


def directions(generator, count):
    normals = generator.normal(size=(count, 3))
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def balls(radii, points, seed=0):
    """Clouds of balls about the origin: points and normals [S, Q, 3]."""
    normals = np.stack(
        [directions(np.random.default_rng([seed, i]), points) for i in range(len(radii))]
    )
    return np.asarray(radii)[:, None, None] * normals, normals


def distances(radii, x):
    return np.stack([TRUNCATION(primitives.sphere(x, r)) for r in radii])


def trained(kind="shared", with_bias=True):
    """A dictionary and the prior of balls of many radii in it."""
    return made_once(kind, with_bias)


@functools.cache
def made_once(kind, with_bias):
    dictionary = make_dictionary(kind)
    x = np.random.default_rng(2).uniform(-1, 1, (1500, 3)).astype(np.float32)
    values = distances(np.linspace(0.3, 0.8, 30), x)[..., None]
    equations = gram.normal_equations(dictionary, operators.Sample(jnp.asarray(x)), values)
    solved = ridge.ridge(equations, 1e-4)
    bias = solved.bias if with_bias else None
    return dictionary, fit_prior(solved.codes, bias, solved.residual, shrinkage=1e-3)


def surface_codes(dictionary, points, normals, prior=None, start=None, truncation=None, **options):
    terms = options.pop("terms", surface.Terms())._asdict()
    truncation = truncation or Truncation()
    limits = {"truncation": truncation.limit, "truncation_kind": truncation.kind}
    clouds = np.concatenate([points, normals], -1)
    return surface.surface_codes(
        dictionary, clouds, prior, Surface(**terms, **limits, **options), start
    )


def rendered(dictionary, solution, x):
    gates = Gates(solution.codes, None, None, solution.bias)
    return np.asarray(dictionary.combine(jnp.asarray(x, jnp.float32), gates))[..., 0]


def overlap(found, truth):
    return ((found < 0) & (truth < 0)).sum(1) / ((found < 0) | (truth < 0)).sum(1)


# What is taken for known of a cloud


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    truncation=st.sampled_from([Truncation(0.1), Truncation(), Truncation(0.1, "tanh")]),
)
def test_samples_tell_the_truth_about_a_ball(seed, truncation):
    points, normals = (part[0] for part in balls([0.6], 800, seed))
    generator = np.random.default_rng(seed)
    samples = surface.cloud_samples(points, normals, 0.03, truncation, 500, generator)
    near = truncation(primitives.sphere(samples.near, 0.6))
    np.testing.assert_allclose(near, samples.near_values, atol=1e-5)
    assert samples.near_weights.mean() > 0.9
    truth = truncation(primitives.sphere(samples.far, 0.6))
    known = samples.far_signs != 0
    assert known.mean() > 0.9
    # Random points leave holes: few distances are off by more than the gaps between them.
    signed = samples.far_signs * samples.far_sizes
    assert np.sqrt(np.square(signed - truth)[known].mean()) < 0.02
    assert np.quantile(abs(samples.far_sizes - abs(truth)), 0.95) < 0.02
    offsets = primitives.sphere(samples.band, 0.6)
    assert abs(offsets).max() <= 0.15 + 1e-5
    step = 1e-4
    slope = (truncation(offsets + step) - truncation(offsets - step)) / (2 * step)
    inside = abs(offsets) < 0.999 * (truncation.limit or math.inf)
    np.testing.assert_allclose(samples.steepness[inside], slope[inside], atol=1e-2)


def test_offset_points_within_a_thin_sheet_do_not_count():
    generator = np.random.default_rng(0)
    sheet = generator.uniform(-0.5, 0.5, (2000, 3)) * [1, 1, 0] + [0, 0, 0.01]
    points = np.concatenate([sheet, -sheet])
    normals = np.sign(points[:, 2:]) * [0.0, 0.0, 1.0]
    samples = surface.cloud_samples(points, normals, 0.1, Truncation(0.2), 100, generator)
    outside, inside = np.split(samples.near_weights, 2)
    assert outside.all()
    assert not inside.any()


# The algebra


def plain_rows(dictionary, x, step=5e-3):
    """Atoms and their slopes by differences, the constant last: [P, E + 1], [P, 3, E + 1]."""
    moved = [x + sign * step * axis for axis in np.eye(3) for sign in (1, -1)]
    points = jnp.asarray(np.concatenate([x, *moved]), jnp.float32)
    atoms = np.asarray(compiled_basis(dictionary, points), np.float64)[..., 0]
    atoms = np.concatenate([atoms, np.ones((len(atoms), 1))], 1)
    here, *pairs = np.split(atoms, 7)
    slopes = [(up - down) / (2 * step) for up, down in zip(pairs[::2], pairs[1::2], strict=True)]
    return here, np.stack(slopes, 1)


def plain_objective(dictionary, cloud, samples, terms):
    """A and b of z A z - 2 b z + constant for (code, bias), from the linear terms, in float64."""
    points, normals = cloud
    on, slopes = plain_rows(dictionary, points)
    near, far = (plain_rows(dictionary, x)[0] for x in (samples.near, samples.far))
    known = abs(samples.far_signs)
    blocks = [
        (on, np.zeros(len(on)), np.full(len(on), terms.on)),
        (
            slopes.reshape(-1, slopes.shape[-1]),
            normals.ravel(),
            np.full(normals.size, terms.normal),
        ),
        (near, samples.near_values, terms.off * samples.near_weights),
        (far, samples.far_signs * samples.far_sizes, terms.off * known),
    ]
    rows, targets, weights = (
        np.concatenate(part).astype(float) for part in zip(*blocks, strict=True)
    )
    return rows.T @ (weights[:, None] * rows), rows.T @ (weights * targets)


@pytest.mark.parametrize(
    ("kind", "with_bias"),
    [
        ("shared", True),
        ("shared", False),
        pytest.param("independent", True, marks=pytest.mark.slow),
    ],
)
def test_the_linear_solution_is_the_most_probable_code(kind, with_bias):
    dictionary, prior = trained(kind, with_bias)
    points, normals = balls([0.5], 60)
    terms, noise = surface.Terms(1.0, 0.02, 0.0, 0.5), 0.05
    options = {"terms": terms, "noise": noise, "samples": 100, "iterations": 0}
    found = surface_codes(dictionary, points, normals, prior, truncation=TRUNCATION, **options)
    samples = surface.cloud_samples(
        points[0], normals[0], 0.02, TRUNCATION, 100, np.random.default_rng([0, 0])
    )
    matrix, moments = plain_objective(dictionary, (points[0], normals[0]), samples, terms)
    size = len(prior.mean)
    factor, diagonal = (np.asarray(part, float) for part in prior[1:3])
    precision = np.zeros((EXPERTS + 1, EXPERTS + 1))
    precision[:size, :size] = np.linalg.inv(factor @ factor.T + np.diag(diagonal))
    mean = np.zeros(EXPERTS + 1)
    mean[:size] = prior.mean
    step = np.linalg.solve(matrix + noise**2 * precision, moments - matrix @ mean)
    x = np.random.default_rng(3).uniform(-1, 1, (200, 3))
    expected = plain_rows(dictionary, x)[0] @ (mean + step)
    np.testing.assert_allclose(rendered(dictionary, found, x)[0], expected, atol=2e-3)
    coefficients = np.concatenate([found.codes[0], found.bias[0]])
    scale = abs(mean + step).max()
    np.testing.assert_allclose(coefficients, mean + step, atol=1e-2 * scale)
    assert found.converged.all()
    on = plain_rows(dictionary, points[0])[0] @ (mean + step)
    np.testing.assert_allclose(found.residual[0], (on**2).mean(), rtol=0.05)


def assembled(dictionary, prior, terms, truncation=TRUNCATION):
    points, normals = balls([0.45], 40)
    generator = np.random.default_rng(4)
    samples = surface.cloud_samples(points[0], normals[0], 0.02, truncation, 60, generator)
    # As of points whose side no normal tells.
    samples = samples._replace(far_signs=samples.far_signs * (np.arange(60) % 2))
    cloud = jnp.concatenate([points[0], normals[0]], 1).astype(jnp.float32)
    coordinates = surface._coordinates(dictionary, prior)
    graphdef, state = nnx.split(dictionary)

    @jax.jit
    def assemble(state, penalty):
        model = nnx.merge(graphdef, state)
        signal = surface._Signal(cloud, samples, None)
        numbers = surface._Numbers(terms, penalty, 0.0, 0.0)
        return surface._assemble(model, signal, coordinates, numbers, False)

    return assemble(state, 1e-3)


@pytest.mark.slow
def test_gauss_newton_descends_along_the_gradient_of_the_objective():
    modules = trained()
    with jax.enable_x64(True):
        system = assembled(*modules, surface.Terms(1.0, 0.01, 0.1, 1.0))
        assert float(system.unknown.sum()) >= 30
        s = jnp.asarray(np.random.default_rng(5).normal(size=len(system.moments)))
        slope = jax.grad(system.objective)(s)
        matrix, downhill = system.normal_equations(s)
        np.testing.assert_allclose(-2 * downhill, slope, rtol=1e-6, atol=1e-8 * abs(slope).max())
        # Of a part whose residuals are linear the matrix is the whole curvature.
        linear = system._replace(eikonal=0 * system.eikonal)
        curvature = jax.jacfwd(jax.grad(linear.objective))(s)
        np.testing.assert_allclose(
            2 * linear.normal_equations(s)[0], curvature, atol=1e-6 * abs(curvature).max()
        )


@pytest.mark.slow
def test_iterations_end_where_the_objective_is_level():
    modules = trained()
    with jax.enable_x64(True):
        system = assembled(*modules, surface.Terms(1.0, 0.01, 0.3, 1.0))
        start = system.linear()
        s, converged, count, history = surface._gauss_newton(system, start, 50, 1e-9)
        assert bool(converged)
        assert 1 < int(count) < 50
        assert (np.diff(history) <= 0).all()
        assert history[-1] < 0.999 * history[0]
        before, after = (jnp.linalg.norm(jax.grad(system.objective)(x)) for x in (start, s))
        assert float(after) < 1e-3 * float(before)
        np.testing.assert_allclose(history[-1], system.objective(s), rtol=1e-9)
        # From far away, where a full step overshoots, too.
        far = surface._gauss_newton(system, start + 3.0, 50, 1e-9)[3]
        assert (np.diff(far) <= 0).all()
        assert far[-1] < far[0]


# Unseen solids


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_unseen_balls_from_few_points(kind):
    dictionary, prior = trained(kind)
    radii = [0.42, 0.63]
    x = np.random.default_rng(6).uniform(-1, 1, (4000, 3))
    truth = distances(radii, x)
    found = surface_codes(dictionary, *balls(radii, 40), prior, truncation=TRUNCATION, samples=200)
    assert overlap(rendered(dictionary, found, x), truth).min() > 0.85
    assert (np.diff(found.history["objective"], axis=0) <= 1e-9).all()
    assert found.codes.shape == (2, EXPERTS)
    assert found.bias.shape == (2, 1)
    assert found.iterations.dtype == jnp.int32
    # Normals tell the sides: the inside out is another solid.
    points, normals = balls(radii, 40)
    inverted = surface_codes(
        dictionary, points, -normals, prior, truncation=TRUNCATION, samples=200
    )
    assert overlap(rendered(dictionary, inverted, x), truth).max() < 0.7


@pytest.mark.slow
def test_without_a_prior_many_points_do():
    dictionary, _ = trained()
    x = np.random.default_rng(7).uniform(-1, 1, (4000, 3))
    found = surface_codes(dictionary, *balls([0.6], 400), truncation=TRUNCATION, samples=800)
    assert overlap(rendered(dictionary, found, x), distances([0.6], x)).min() > 0.8


@pytest.mark.slow
def test_adam_reaches_what_gauss_newton_reaches():
    dictionary, prior = trained()
    options = {"truncation": TRUNCATION, "samples": 200}
    cloud = balls([0.5], 40)
    direct = surface_codes(dictionary, *cloud, prior, **options)
    found = surface_codes(
        dictionary, *cloud, prior, method="gradient", init="mean", steps=200, **options
    )
    history = found.history["objective"][:, 0]
    assert history.shape == (201,)
    assert history[-1] < 1.3 * direct.history["objective"][-1, 0] < 0.5 * history[0]


@pytest.mark.slow
def test_the_start_is_what_is_asked_for():
    dictionary, prior = trained()
    cloud = balls([0.5], 40)
    options = {"truncation": TRUNCATION, "samples": 100, "iterations": 0}
    x = np.random.default_rng(8).uniform(-1, 1, (100, 3))

    def start(init, **more):
        found = surface_codes(dictionary, *cloud, prior, init=init, **options, **more)
        return rendered(dictionary, found, x)[0]

    codes = np.random.default_rng(9).normal(size=(1, EXPERTS)).astype(np.float32)
    gates = Gates(jnp.asarray(codes), None, None, jnp.full((1, 1), 0.3))
    atoms = plain_rows(dictionary, x)[0]
    scale = abs(atoms @ np.append(codes[0], 0.3)).max()
    given = start("router", start=gates)
    np.testing.assert_allclose(given, atoms @ np.append(codes[0], 0.3), atol=1e-3 * scale)
    np.testing.assert_allclose(start("zero"), 0, atol=1e-3)
    np.testing.assert_allclose(start("mean"), atoms @ np.asarray(prior.mean), atol=1e-3)


# As a solver, and what is refused


def cloud_of(*radii, points=40):
    return np.concatenate(balls(radii, points), -1)


@pytest.mark.slow
def test_as_a_solver():
    dictionary, prior = trained()
    clouds = cloud_of(0.5)
    options = {"truncation": TRUNCATION.limit, "samples": 100, "iterations": 2}
    solver = Surface(**options)
    found = solver.solve(Problem(dictionary, clouds=clouds, prior=prior))
    same = {**options, "truncation": TRUNCATION}
    direct = surface_codes(dictionary, clouds[..., :3], clouds[..., 3:], prior, **same)
    np.testing.assert_array_equal(found.codes, direct.codes)
    assert solver.describe(found).startswith("gauss-newton on 40 oriented points, ")
    with pytest.raises(ArgumentError, match="clouds: None; allowed: points on surfaces"):
        solver.solve(Problem(dictionary, prior=prior))
    with pytest.raises(ArgumentError, match=r"clouds: \(1, 40, 3\); allowed: .signals, points, 6"):
        Problem(dictionary, clouds=clouds[..., :3])
    routed = Surface(init="router", **options)
    with pytest.raises(ArgumentError, match="router: None; allowed: linear"):
        routed.solve(Problem(dictionary, clouds=clouds))
    router = Linear(EXPERTS, 1, (40,), rngs=nnx.Rngs(0))
    given = {"router": router, "signals": jnp.zeros((1, 40, 1))}
    found = routed.solve(Problem(dictionary, clouds=clouds, prior=prior, **given))
    assert np.isfinite(found.codes).all()


def test_what_is_not_known_yet_is_refused():
    """Neighbours are looked for on the host."""
    dictionary, prior = trained()
    solver = Surface(samples=50, iterations=1)

    def codes(clouds):
        return solver.solve(Problem(dictionary, clouds=clouds, prior=prior)).codes

    clouds = jnp.asarray(cloud_of(0.5), jnp.float32)
    with pytest.raises(ArgumentError, match="clouds: 'traced'; allowed: known values"):
        jax.jit(codes)(clouds)
    with pytest.raises(ArgumentError, match="clouds: 'traced'"):
        jax.jit(lambda: codes(clouds))()
    with pytest.raises(ValueError, match="surface: no derivative"):
        jax.grad(lambda clouds: codes(clouds).sum())(clouds)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"clouds: \(1, 5, 6\); allowed: .*8 or more", {"clouds": np.zeros((1, 5, 6))}),
        (r"clouds: \(1, 40, 5\)", {"clouds": np.ones((1, 40, 5))}),
        ("40 normals of length 0", {"clouds": cloud_of(0.5) * [1, 1, 1, 0, 0, 0]}),
        ("clouds: 'NaN or infinity'", {"clouds": np.full((1, 40, 6), np.nan)}),
        (r"this dictionary has 120", {"prior": fit_prior(np.eye(3))}),
    ],
)
def test_refusals(message, change):
    dictionary, prior = trained()
    given = {"clouds": cloud_of(0.5), "prior": prior, **change}
    with pytest.raises(ArgumentError, match=message):
        surface.surface_codes(dictionary, given["clouds"], given["prior"], Surface())


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("method: 'newton'; allowed: gauss-newton", {"method": "newton"}),
        ("init: 'random'; allowed: linear", {"init": "random"}),
        ("truncation_kind: 'cut'; allowed: clip", {"truncation_kind": "cut"}),
        ("delta: 0", {"delta": 0.0}),
        ("delta: 0.3; allowed: up to the truncation", {"delta": 0.3, "truncation": 0.25}),
        ("noise: nan", {"noise": math.nan}),
        ("eikonal: -1", {"eikonal": -1.0}),
        ("iterations: 1.5", {"iterations": 1.5}),
    ],
)
def test_options_that_cannot_be(message, options):
    with pytest.raises(ArgumentError, match=message):
        Surface(**options)


def test_a_dictionary_of_colours_is_refused():
    shape = (Identity(3), 8, 3, Layers(2, 8, "sine", 1.0))
    dictionary = SharedDictionary(*shape, rngs=nnx.Rngs(0))
    with pytest.raises(ArgumentError, match="'3 channels'; allowed: one of distances, 1 channel"):
        surface_codes(dictionary, *balls([0.5], 40))


# Beside another implementation


@pytest.mark.slow
def test_gauss_newton_is_where_levenberg_marquardt_of_another_library_is():
    modules = trained()
    with jax.enable_x64(True):
        system = assembled(*modules, surface.Terms(1.0, 0.01, 0.3, 1.0))
        system = small_part(system, 6)
        start = system.linear()
        s, _, _, history = surface._gauss_newton(system, start, 100, 1e-14)
        root = jnp.linalg.cholesky(system.matrix + 1e-12 * jnp.eye(6)).T
        target = jnp.linalg.solve(root.T, system.moments)

        def residuals(s, _):
            excess, values = system._steepness(s)[0] - system.steepness, system.far_level
            values = jnp.abs(values + system.far @ s) - system.sizes
            parts = (root @ s - target, jnp.sqrt(system.eikonal) * excess)
            more = (jnp.sqrt(system.unknown) * values, jnp.sqrt(system.penalty) * s)
            return jnp.concatenate([*parts, *more])

        solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-12)
        other = optimistix.least_squares(residuals, solver, start, max_steps=2000).value
        np.testing.assert_allclose(history[-1], system.objective(other), rtol=1e-8)
        np.testing.assert_allclose(s, other, atol=1e-4 * abs(other).max())


def small_part(system, size):
    """The same problem in its first coordinates alone."""
    return system._replace(
        matrix=system.matrix[:size, :size],
        moments=system.moments[:size],
        band=system.band[..., :size],
        far=system.far[:, :size],
    )


@pytest.mark.slow
def test_a_solid_takes_the_component_that_its_points_speak_for():
    """Of a mixture of small and of large balls: the side of few points is that of its own kind."""
    dictionary, _ = made_once("shared", False)
    radii = np.concatenate([np.linspace(0.2, 0.4, 15), np.linspace(0.6, 0.8, 15)])
    x = np.random.default_rng(2).uniform(-1, 1, (1500, 3)).astype(np.float32)
    equations = gram.normal_equations(
        dictionary, operators.Sample(jnp.asarray(x)), distances(radii, x)[..., None]
    )
    solved = ridge.ridge(equations, 1e-4)
    known = fit_prior(solved.codes, residual=solved.residual, shrinkage=1e-3)
    codes, own = np.asarray(solved.codes, np.float64), np.repeat(np.eye(2), 15, 0)
    mixture = moments(codes, own.mean(0), own).mixture(codes.var(0), 0.03)
    mixed = known._replace(mixture=mixture)
    points, normals = balls([0.3, 0.7], 60, seed=3)
    options = {"truncation": TRUNCATION, "iterations": 0}
    found = surface_codes(dictionary, points, normals, mixed, **options)
    for signal in range(2):
        alone = surface_codes(
            dictionary,
            points[signal : signal + 1],
            normals[signal : signal + 1],
            mixed.component(signal),
            **options,
        )
        scale = np.abs(np.asarray(alone.codes)).max()
        if signal == 0:  # the samples of a solid are drawn by its number
            np.testing.assert_allclose(found.codes[0], alone.codes[0], atol=1e-4 * scale)
        truth = distances([0.3, 0.7][signal : signal + 1], x)
        own = jax.tree.map(lambda leaf, n=signal: leaf[n : n + 1], found._replace(history={}))
        assert overlap(rendered(dictionary, own, x), truth)[0] > (0.6, 0.9)[signal]
