"""Solvers in float32: nothing of float64 in their programs, and its results without it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nid_jax.coding import operators, posterior, prior, uncertainty
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import (
    IHT,
    OMP,
    SOLVERS,
    Gaussian,
    Lasso,
    Ridge,
    Robust,
    solver_from_config,
)
from tests.coding.test_gram import make_dictionary

SOLVED = {
    "ridge": Ridge(),
    "ridge own lam": Ridge(np.array([1e-6, 1e-4, 1e-2], np.float32)),
    "gcv": Ridge("gcv"),
    "gcv per signal": Ridge("gcv", per_signal=True),
    "gaussian": Gaussian(noise=0.05),
    "gaussian by evidence": Gaussian(),
    "neighbours": Gaussian(noise=0.05, neighbours=6),
    "omp": OMP(top_k=4),
}


# Of equations of one mask for all signals or none, and of each its own: what only differs by a
# number that is given is quick once.
QUICK = {
    None: {"ridge", "gcv", "gaussian by evidence", "neighbours", "omp"},
    (3, 72): {"ridge own lam", "gcv per signal", "gaussian by evidence", "neighbours", "omp"},
}
CASES = [
    pytest.param(
        name,
        weights,
        id=f"{name}-{title}",
        marks=[] if name in QUICK.get(weights, ()) else [pytest.mark.slow],
    )
    for name in SOLVED
    for weights, title in ((None, "all"), ((72,), "mask"), ((3, 72), "own masks"))
]


@functools.cache
def a_problem(kind="wide", weights=None, experts=40, bias=True):
    """Three signals near the prior's mean, on fewer numbers than experts where `wide` is."""
    draw = np.random.default_rng(3)
    dictionary, operator = make_dictionary(kind, experts), operators.sample((9, 8))
    codes = draw.normal(size=(30, experts)) @ draw.normal(size=(experts, experts)) / experts
    known = prior.fit_prior(codes, draw.normal(size=(30, 2)) if bias else None, shrinkage=0.1)
    known = known._replace(codes=jnp.asarray(codes, jnp.float32))
    basis = np.asarray(dictionary.basis(operator.points))
    y = np.einsum("se,mec->smc", codes[:3], basis) + 0.05 * draw.normal(size=(3, 72, 2))
    if weights is not None:
        weights = (draw.uniform(size=weights) < 0.5).astype(np.float32)
    return Problem(dictionary, operator, y.astype(np.float32), weights, known)


@pytest.mark.parametrize(("name", "weights"), CASES)
def test_it_is_the_solution_of_double_precision(name, weights):
    problem = a_problem(weights=weights, bias=name != "neighbours")
    solver = SOLVED[name]
    found = solver.solve(problem)
    double = dataclasses.replace(solver, precision="float64").solve(problem)
    # 0.01 dB.
    np.testing.assert_allclose(found.residual, double.residual, rtol=2.3e-3)
    np.testing.assert_array_equal(found.converged, double.converged)
    basis = np.asarray(problem.dictionary.basis(problem.operator.points))
    drawn, expected = (
        np.einsum("se,mec->smc", f.codes, basis) + np.asarray(f.bias)[:, None]
        for f in (found, double)
    )
    np.testing.assert_allclose(drawn, expected, atol=2e-3 * np.ptp(expected))


@pytest.mark.parametrize("bias", [False, True], ids=["free bias", "bias of the prior"])
def test_evidence_and_variance_are_those_of_double_precision(bias):
    problem = a_problem(weights=(72,), bias=bias)
    known = problem.prior.alone()
    pair = [problem.equations(precision) for precision in ("float32", "float64")]
    noises = np.array([1e-4, 1e-2, 1.0], np.float32)
    few, many = (posterior.evidences(equations, known, noises) for equations in pair)
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=0.02)
    few, many = (posterior.solve_posterior(e, known, jnp.float32(1e-2)).evidence for e in pair)
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=0.02)
    x = problem.operator.points[::7]
    few, many = (
        uncertainty.posterior_variance(problem.dictionary, x, e, known, 1e-2) for e in pair
    )
    np.testing.assert_allclose(few, many, rtol=1e-3)


LOWERED = {**SOLVED, "lasso": Lasso(steps=5), "iht": IHT(top_k=4), "robust": Robust(steps=5)}


@pytest.mark.parametrize("name", LOWERED)
def test_its_program_holds_no_float64(name):
    problem = a_problem(bias=name != "neighbours")
    solve = jax.jit(LOWERED[name].solve)
    assert "f64" not in solve.lower(problem).as_text()


def test_a_program_of_double_precision_shows_it():
    solve = jax.jit(Ridge(precision="float64").solve)
    assert "f64" in solve.lower(a_problem()).as_text()


def test_the_config_chooses():
    class Fit(dict):
        __getattr__ = dict.__getitem__

    config = Fit(solver="ridge", top_k=0, precision="float64")
    assert solver_from_config(config).precision == "float64"
    assert all(kind.precision == "float32" for kind in SOLVERS.values())
    config["precision"] = "float16"
    with pytest.raises(ValueError, match=r"^fit.precision: .*float16.*float32, float64"):
        solver_from_config(config)
