"""Fits of signals that share no points: of one padded length, all in one program."""

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax import devices
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Gaussian, Solver
from nid_jax.coding.uncertainty import posterior_variance
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import Model
from nid_jax.fitting.fit import Fit
from nid_jax.fitting.ways import Stacked


def fit_apart(
    model: Model,
    prior: object,
    stacked: Stacked,
    solver: Solver,
    grid_shape: Sequence[int],
    names: Sequence[str],
    uncertainty: bool = False,
) -> Fit:
    """Codes of signals with operators of their own, one after another on the device.

    prior: `GaussianPrior` or None; uncertainty: also `Fit.deviation`. Raises ArgumentError for what
    the solver cannot solve, numbers of its for each signal among that, and for another solver than
    `Gaussian` where uncertainty is asked for.
    """
    for field in dataclasses.fields(solver):
        if np.ndim(getattr(solver, field.name)):
            shown = f"an array {list(np.shape(getattr(solver, field.name)))}"
            raise ArgumentError(field.name, shown, "one number, where signals share no points")
    if uncertainty and not isinstance(solver, Gaussian):
        raise ArgumentError("solver", solver.name, "gaussian")
    start, shape = time.perf_counter(), tuple(grid_shape)
    with devices.CompileTime() as compiling:
        given = model.dictionary, prior, model.router, stacked
        found = _solved(*given, solver=solver, shape=shape if uncertainty else None)
        solution, variance = jax.device_get(found)
    seconds = time.perf_counter() - start
    history = {name: np.moveaxis(c[..., 0], 0, -1) for name, c in solution.history.items()}
    solution = jax.tree.map(lambda leaf: leaf[:, 0], solution._replace(history={}))
    deviation = None
    if variance is not None:
        deviation = np.sqrt(variance).reshape(len(names), *shape, -1)
    return Fit(
        model.dictionary,
        solution._replace(history=history),
        shape,
        tuple(names),
        solver,
        known_deviation=deviation,
        seconds=seconds,
        compile_seconds=min(compiling.seconds, seconds),
    )


@functools.partial(jax.jit, static_argnames=("solver", "shape"))
def _solved(dictionary, prior, router, stacked, solver, shape):
    """Solutions of one signal each, stacked, and variances on a grid [S, P, C], or None."""

    def one(own):
        values = own.values[None]
        problem = Problem(dictionary, own.operator, values, own.weights, prior=prior, router=router)
        solution = solver.solve(problem)
        if shape is None:
            return solution, None
        known = prior._replace(codes=None)
        known = solver.taken(known)
        equations = problem.equations(solver.precision)
        noise = solution.stats["noise_variance"][0]
        x = jnp.asarray(grid(shape))
        return solution, posterior_variance(dictionary, x, equations, known, noise)[0]

    return jax.lax.map(one, stacked)
