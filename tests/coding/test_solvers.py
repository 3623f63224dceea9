"""Solvers as objects: each by its name, under jit, vmap and grad, and what it refuses."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import prior as priors
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import Operator, mask, sample
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Result, Solution
from nid_jax.coding.solvers import (
    IHT,
    OMP,
    SOLVERS,
    Gaussian,
    Gradient,
    Lasso,
    Ridge,
    Robust,
    RouterCodes,
    RouterRidge,
    Surface,
)
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.router_networks import Conv
from nid_jax.fields.routing import Codebook
from nid_jax.fields.shared import SharedDictionary

SHAPE, CHANNELS, EXPERTS, SIGNALS = (9, 8), 2, 10, 4
# One of each way that a solver goes, all but Surface, which looks on the host.
SOLVED = {
    "ridge": Ridge(),
    "ridge by validation": Ridge(lam="gcv", per_signal=True),
    "gaussian": Gaussian(noise=0.1),
    "gaussian by evidence": Gaussian(),
    "gaussian of neighbours": Gaussian(neighbours=8),
    "lasso": Lasso(fraction=0.05, steps=50),
    "omp": OMP(4),
    "iht": IHT(4),
    "robust": Robust(steps=50),
    "robust without a prior": Robust(loss="huber", use_prior=False, steps=50),
    # So many dense steps that no two experts are as strong: Adam's first ones move all alike.
    "gradient": Gradient(steps=50, learning_rate=0.1, top_k=4, dense_steps=40),
    "gradient of absolute errors": Gradient(steps=5, data="l1", init="router"),
    "gradient of the router": Gradient(steps=3, variables="router"),
    "router": RouterCodes(4),
    "router+ridge": RouterRidge(4, lam=1e-3),
}
each = pytest.mark.parametrize("solver", SOLVED.values(), ids=SOLVED)


@pytest.fixture(scope="module")
def dictionary():
    rngs = nnx.Rngs(0)
    return SharedDictionary(Identity(2), EXPERTS, CHANNELS, Layers(3, 24, "sine", 8.0), rngs=rngs)


@pytest.fixture(scope="module")
def truth(dictionary):
    """Signals [N, M, C] that the dictionary holds exactly, their codes and biases."""
    generator = np.random.default_rng(101)
    codes = generator.normal(size=(40, EXPERTS)).astype(np.float32)
    bias = generator.normal(size=(40, CHANNELS)).astype(np.float32)
    basis = np.asarray(dictionary.basis(grid(SHAPE)))
    return np.einsum("se,pec->spc", codes, basis) + bias[:, None], codes, bias


@pytest.fixture(scope="module")
def problem(dictionary, truth):
    values, codes, _ = truth
    return Problem(
        dictionary,
        sample(SHAPE),
        values[:SIGNALS],
        prior=priors.fit_prior(codes, shrinkage=0.1)._replace(codes=jnp.asarray(codes)),
        router=Conv(EXPERTS, CHANNELS, SHAPE, 4, rngs=nnx.Rngs(1)),
        signals=jnp.asarray(values[:SIGNALS].reshape(SIGNALS, *SHAPE, CHANNELS)),
    )


def with_measurements(problem, measurements):
    signals = measurements.reshape(-1, *SHAPE, CHANNELS)
    return dataclasses.replace(problem, measurements=measurements, signals=signals)


@each
def test_every_solver_answers_in_one_form(solver, problem, truth):
    solution = solver.solve(problem)
    assert solution.codes.shape == (SIGNALS, EXPERTS)
    assert solution.bias.shape == (SIGNALS, CHANNELS)
    assert solution.codes.dtype == solution.bias.dtype == solution.residual.dtype == jnp.float32
    assert solution.converged.dtype == bool
    assert solution.iterations.dtype == solution.result.dtype == jnp.int32
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(solution))
    for number in (solution.converged, solution.iterations, solution.result):
        assert number.shape == (SIGNALS,)
    assert {number.shape for number in solution.stats.values()} <= {(SIGNALS,)}
    assert {curve.shape[-1] for curve in solution.history.values()} <= {SIGNALS}
    assert solver.describe(solution)
    if solver.sparse:
        assert ((np.asarray(solution.codes) != 0).sum(-1) <= solver.top_k).all()
    measurements = np.asarray(problem.measurements)
    basis = np.asarray(problem.dictionary.basis(grid(SHAPE)), np.float64)
    rendered = np.einsum("se,pec->spc", solution.codes, basis) + np.asarray(solution.bias)[:, None]
    residual = np.square(rendered - measurements).mean((1, 2))
    scale = np.square(measurements - measurements.mean(1, keepdims=True)).mean()
    np.testing.assert_allclose(solution.residual, residual, rtol=1e-2, atol=1e-5 * scale)
    if solver == Ridge():
        np.testing.assert_allclose(solution.codes, truth[1][:SIGNALS], atol=0.02)
        np.testing.assert_allclose(solution.bias, truth[2][:SIGNALS], atol=0.02)


def close(found, expected, scale):
    """Rounding of compiled code may differ, by a little of the codes' size."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_allclose(found, expected, atol=2e-3 * scale, rtol=2e-3)


@pytest.mark.parametrize("of", ["all", pytest.param("measurements", marks=pytest.mark.slow)])
@each
def test_every_solver_passes_through_jit(solver, of, problem):
    """Of all that a problem has, and of the measurements alone, as fits are jitted."""
    direct = solver.solve(problem)
    if of == "all":
        compiled = jax.jit(solver.solve)(problem)
    else:
        solve = jax.jit(lambda y: solver.solve(with_measurements(problem, y)))
        compiled = solve(problem.measurements)
    assert isinstance(compiled, Solution)
    assert jax.tree.structure(compiled) == jax.tree.structure(direct)
    scale = float(jnp.abs(direct.codes).max())
    close(compiled.codes, direct.codes, scale)
    close(compiled.bias, direct.bias, scale)
    np.testing.assert_array_equal(compiled.result, direct.result)
    assert solver.describe(compiled)


MAPPED = {
    name: solver
    for name, solver in SOLVED.items()
    if name in ("ridge", "gaussian by evidence", "lasso", "omp", "robust", "router+ridge")
}


@pytest.mark.parametrize("solver", MAPPED.values(), ids=MAPPED)
def test_mapping_over_measurements_is_a_loop(solver, problem, truth):
    batches = jnp.asarray(truth[0][:6].reshape(3, 2, -1, CHANNELS), jnp.float32)

    def codes(measurements):
        return solver.solve(with_measurements(problem, measurements)).codes

    mapped = jax.vmap(codes)(batches)
    looped = jnp.stack([codes(batch) for batch in batches])
    close(mapped, looped, float(jnp.abs(looped).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        Ridge(1e-4),
        Gaussian(noise=0.1),
        OMP(4),
        Lasso(steps=50),
    ],
    ids=["ridge", "gaussian", "omp", "lasso"],
)
def test_mapping_over_weights_and_over_operators_is_a_loop(solver, problem):
    draw = np.random.default_rng(102)
    count = problem.operator.num_measurements
    own = jnp.asarray(draw.uniform(size=(2, SIGNALS, count)) < 0.8, jnp.float32)
    points = problem.operator.points + jnp.asarray([[[0.0, 0.01]], [[0.02, 0.0]]])

    def of_weights(weights):
        return solver.solve(dataclasses.replace(problem, weights=weights)).codes

    def of_points(points):
        operator = dataclasses.replace(problem.operator, points=points)
        return solver.solve(dataclasses.replace(problem, operator=operator)).codes

    def mapped_inside(function):
        """What was compiled is mapped, and that compiled."""
        return jax.jit(jax.vmap(jax.jit(function)))

    for function, cases, mapped in (
        (of_weights, own, mapped_inside(of_weights)),
        (of_weights, own[:, 0], jax.vmap(of_weights)),
        (of_points, points, jax.vmap(of_points)),
    ):
        looped = jnp.stack([function(case) for case in cases])
        close(mapped(cases), looped, float(jnp.abs(looped).max()))


def test_a_problem_itself_is_mapped_over(problem):
    """Its measurements by an axis, all else as it is."""
    twice = dataclasses.replace(problem, router=None, signals=None)
    stacked = jnp.stack([problem.measurements, 2 * problem.measurements])
    axes = jax.tree.map(lambda _: None, twice)
    object.__setattr__(axes, "measurements", 0)
    object.__setattr__(twice, "measurements", stacked)
    codes = jax.vmap(lambda p: Ridge().solve(p).codes, in_axes=(axes,))(twice)
    close(codes[1], 2 * codes[0], float(jnp.abs(codes).max()))


@each
def test_a_derivative_that_is_not_known_is_refused(solver, problem):
    def total(measurements):
        return solver.solve(with_measurements(problem, measurements)).codes.sum()

    held = jax.grad(lambda y: y.sum() + total(jax.lax.stop_gradient(y)))(problem.measurements)
    np.testing.assert_array_equal(held, 1)
    if not solver.differentiable:
        for function in (total, jax.jit(total)):
            with pytest.raises(ValueError, match=f"^{solver.name.replace('+', '.')}: no deriv"):
                jax.grad(function)(problem.measurements)


def test_router_ridge_solves_on_the_routers_support(problem):
    predicted, solved = RouterCodes(3).solve(problem), RouterRidge(3).solve(problem)
    np.testing.assert_array_equal(np.asarray(predicted.codes) != 0, np.asarray(solved.codes) != 0)
    assert (np.asarray(solved.residual) < np.asarray(predicted.residual)).all()
    equations = normal_equations(problem.dictionary, problem.operator, problem.measurements)
    np.testing.assert_allclose(solved.bias, equations.bias(solved.codes), rtol=1e-5)


def test_pursuit_among_what_the_router_proposes(problem):
    proposed = np.asarray(RouterCodes(5).solve(problem).codes) != 0
    among = RouterRidge(3, candidates=5).solve(problem)
    kept = np.asarray(among.codes) != 0
    assert (kept.sum(1) == 3).all()
    assert not (kept & ~proposed).any()
    plain = RouterRidge(3).solve(problem)
    assert np.mean(among.residual) < np.mean(plain.residual)
    # Of all experts it is the pursuit itself.
    whole = RouterRidge(3, candidates=problem.dictionary.num_experts).solve(problem)
    alone = OMP(3, criterion="gain").solve(problem)
    np.testing.assert_array_equal(np.asarray(whole.codes) != 0, np.asarray(alone.codes) != 0)
    np.testing.assert_allclose(whole.codes, alone.codes, atol=1e-5)


def test_pursuit_that_finds_nothing_to_explain_says_so(problem):
    """As a pursuit among all does."""
    blank = dataclasses.replace(problem, measurements=jnp.zeros_like(problem.measurements))
    for solver in (RouterRidge(3, candidates=5), OMP(3)):
        found = solver.solve(blank)
        np.testing.assert_array_equal(found.result, Result.FEWER)
        assert not np.asarray(found.converged).any()
        assert "fewer experts were of use" in solver.describe(found)


def test_what_solvers_say(problem):
    def said(solver, problem=problem):
        return solver.describe(solver.solve(problem))

    assert said(Ridge(1e-3)) == "ridge, lambda 1.0e-03"
    assert said(Ridge("gcv")).startswith("ridge, lambda by generalised cross-validation: ")
    words = "(raised from 0.0e+00: less is lost in the rounding of the equations; lam of so much"
    assert words in said(Ridge(0.0))
    assert "raised" not in said(Ridge(float(Ridge(0.0).solve(problem).stats["lam"][0])))
    assert said(Gaussian(0.1)) == "gaussian prior, noise variance 1.0e-02"
    assert said(Gaussian(neighbours=8)).startswith("gaussian prior of 8 neighbours, noise variance")
    assert said(Gaussian()).endswith(" by evidence")
    assert said(Lasso()) == "lasso, 4 of 4 signals within the duality gap asked for"
    short = said(Lasso(steps=1))
    assert short.startswith("lasso, 0 of 4 signals within the duality gap asked for; 4 of 4 ")
    assert short.endswith("the iterations ended before the stopping rule was met")
    assert said(OMP(3)) == "3 experts by matching pursuit"
    assert said(IHT(3)).startswith("hard thresholding pursuit, 3 active experts")
    assert said(Robust()).startswith("l1 data term, ")
    assert "of the training signals, 100% kept" not in said(Robust())
    trained = dataclasses.replace(problem, prior=problem.prior._replace(noise=np.float32(0.01)))
    words = said(Robust(trim=5.0), trained)
    assert "; then gaussian prior, noise variance 1.0e-02 of the training signals, " in words
    assert words.endswith("% kept")
    assert said(RouterCodes()) == "predicted by the router"
    assert said(RouterRidge(3)) == "ridge on the 3 experts that the router chose"
    words = "3 experts by matching pursuit among 5 of the router's"
    assert said(RouterRidge(3, candidates=5)) == words
    experts = problem.dictionary.num_experts
    assert f" among {experts} of " in said(RouterRidge(3, candidates=experts))
    assert said(Gradient(7)) == "7 steps taken"


def test_samples_have_no_less_noise_than_the_dictionary_leaves_of_its_training_signals(problem):
    """Whatever evidence says of signals that it holds exactly; other operators' units differ."""
    points = np.asarray(grid(SHAPE))
    some = np.random.default_rng(0).random(SHAPE) < 0.4
    known = problem.prior._replace(noise=jnp.float32(0.04))
    for operator, least in (
        (sample(points), True),
        (mask(SHAPE, some), True),
        (Operator(jnp.asarray(points)), True),
        (2 * sample(points), False),
    ):
        asked = dataclasses.replace(problem, operator=operator, prior=known)
        for solver in (Gaussian(), Gaussian(neighbours=8)):
            noise = solver.solve(asked).stats["noise_variance"]
            assert np.allclose(noise, 0.04) if least else np.all(noise < 0.01)
    # More than that is believed.
    draw = np.random.default_rng(1).normal(size=problem.measurements.shape)
    noisy = with_measurements(problem, problem.measurements + draw.astype(np.float32))
    noise = Gaussian().solve(dataclasses.replace(noisy, prior=known)).stats["noise_variance"]
    assert np.all((noise > 0.5) & (noise < 2))


def test_results_are_sentences(problem):
    assert all(result.sentence[0].isupper() for result in Result)
    assert all(result.sentence.endswith(".") for result in Result)
    found = Ridge(0.0).solve(problem)
    np.testing.assert_array_equal(found.result, Result.RAISED)
    np.testing.assert_array_equal(found.stats["asked_lam"], 0)
    assert (np.asarray(found.stats["lam"]) > 0).all()
    broken = dataclasses.replace(problem, measurements=problem.measurements.at[1].set(jnp.inf))
    result = Ridge().solve(broken).result
    assert result[1] == Result.NOT_FINITE
    assert result[0] == Result.FOUND
    # Nothing is left to explain, for which experts could be of use.
    solution = OMP(3).solve(dataclasses.replace(problem, measurements=0 * problem.measurements))
    np.testing.assert_array_equal(solution.result, Result.FEWER)
    assert "4 of 4 signals: fewer experts" in OMP(3).describe(solution)
    np.testing.assert_array_equal(Lasso(steps=1).solve(problem).result, Result.STOPPED)


@pytest.mark.parametrize(
    ("solver", "change", "words"),
    [
        (Gaussian(), {"prior": None}, "prior: None; allowed: .*ridge"),
        (OMP(EXPERTS + 1), {}, f"top_k: {EXPERTS + 1}; allowed: 1 to {EXPERTS} experts"),
        (Gradient(top_k=EXPERTS + 1), {}, r"top_k: 11; allowed: 0 \(dense\) to 10"),
        (RouterCodes(), {"router": None}, "router: None; allowed: linear.*learn it with router"),
        (RouterCodes(), {"router": "codebook"}, "router: 'codebook'; allowed: linear"),
        (RouterRidge(2), {"signals": None}, "signals: None; allowed: whole signals"),
        (Gaussian(neighbours=41), {}, "neighbours: 41; allowed: .*40 training codes"),
        (Ridge(), {"measurements": None}, "measurements: None; allowed: .*which ridge reads"),
        (Surface(), {}, "clouds: None; allowed: .*which surface reads"),
    ],
)
def test_what_a_solver_lacks_is_named(solver, change, words, problem):
    if change.get("router") == "codebook":
        change = {"router": Codebook(3, EXPERTS, CHANNELS, rngs=nnx.Rngs(0))}
    with pytest.raises(ArgumentError, match=words):
        solver.solve(dataclasses.replace(problem, **change))


@pytest.mark.parametrize("kind", SOLVERS.values(), ids=SOLVERS)
def test_a_solver_of_no_arguments_is_made_or_names_the_one_it_wants(kind):
    if not kind.sparse:
        assert isinstance(kind(), kind)
        return
    words = f"top_k: 0; allowed: a whole number, 1 or more of .* such as {kind.__name__}.top_k=32"
    with pytest.raises(ArgumentError, match=words):
        kind()


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "surface"])
def test_fields_refuse_what_is_no_number(name):
    """NaN as well, to which every comparison is false."""
    solver = SOLVERS[name]
    given = {"top_k": 2} if solver.sparse else {}
    for field in dataclasses.fields(solver):
        if field.type in ("float", float, float | str):
            for value in (math.nan, -1.0, "many", None):
                with pytest.raises(ArgumentError, match=f"^{field.name}: .*{value}.*; allowed: "):
                    solver(**{**given, field.name: value})
        if field.type in ("int", int):
            for value in (-1, 1.5, math.nan, "many", True):
                with pytest.raises(ArgumentError, match=f"^{field.name}: .*{value}.*; allowed: "):
                    solver(**{**given, field.name: value})


@pytest.mark.parametrize(
    ("solver", "options", "words"),
    [
        (Surface, {"precision": "float64"}, "precision: 'float64'; allowed: float32"),
        (Ridge, {"lam": "some"}, "lam: 'some'; allowed: a number of 0 or more, 'gcv'"),
        (Gaussian, {"blend": 1.5}, "blend: 1.5; allowed: 0 to 1"),
        (Lasso, {"fraction": 0.0}, "fraction: 0.0; allowed: above 0, at most 1"),
        (OMP, {"top_k": 2, "criterion": "best"}, "criterion: 'best'; allowed: correlation, gain"),
        (Robust, {"loss": "l2"}, "loss: 'l2'; allowed: l1, huber"),
        (Gradient, {"init": "best"}, "init: 'best'; allowed: zero, router"),
    ],
)
def test_fields_say_what_is_allowed(solver, options, words):
    with pytest.raises(ArgumentError, match=words):
        solver(**options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"measurements": np.zeros((4, 71, 2))},
            r"measurements: \(4, 71, 2\); allowed: .signals, 72",
        ),
        ({"measurements": np.zeros((72, 2))}, r"measurements: \(72, 2\)"),
        ({"weights": np.ones(71)}, r"weights: \(71,\); allowed: \(72,\) or \(4, 72\)"),
        ({"weights": np.ones((3, 72))}, r"weights: \(3, 72\)"),
        ({"signals": np.zeros((3, 9, 8, 2))}, "signals: .*those of 4 signals"),
        ({"clouds": np.zeros((4, 30, 3))}, r"clouds: .*allowed: \(signals, points, 4\)"),
        ({"operator": None}, "operator: None; allowed: "),
    ],
)
def test_problems_whose_parts_do_not_fit_together(problem, change, words):
    with pytest.raises(ArgumentError, match=words):
        dataclasses.replace(problem, **change)


def test_trimming_looks_on_the_host(problem):
    solver = Robust(trim=3.0, steps=5)
    with pytest.raises(ArgumentError, match=r"trim: 3.0; allowed: 0 \(off\) inside jit and vmap"):
        jax.jit(solver.solve)(problem)


def test_clouds_are_what_a_solver_of_surfaces_reads():
    solid = SharedDictionary(Identity(2), EXPERTS, 1, Layers(2, 24, "sine", 3.0), rngs=nnx.Rngs(2))
    angle = np.random.default_rng(103).uniform(0, 2 * np.pi, 80)
    normals = np.stack([np.cos(angle), np.sin(angle)], 1)
    clouds = np.concatenate([0.5 * normals, normals], 1)[None].astype(np.float32)
    problem = Problem(solid, clouds=clouds)
    solution = Surface(iterations=3).solve(problem)
    assert solution.codes.shape == (1, EXPERTS)
    values = np.asarray(solid.basis(clouds[0, :, :2]))[..., 0] @ solution.codes[0]
    assert np.abs(values + solution.bias[0]).mean() < 0.1
    with pytest.raises(ArgumentError, match="surface and router do without where there are clouds"):
        Ridge().solve(problem)
