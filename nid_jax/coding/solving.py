"""One door to all solvers: measurements in, codes out."""

import dataclasses
import difflib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nid_jax.coding import gradient
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import Sample
from nid_jax.coding.solution import CodeSolution
from nid_jax.fields.routing import Codebook


@dataclasses.dataclass(frozen=True)
class Problem:
    """What was measured, and with what: the arguments of `solve`."""

    dictionary: Any
    operator: Any
    measurements: jax.Array
    weights: jax.Array | None = None
    top_k: int = 0
    prior: Any = None
    router: Any = None
    signals: jax.Array | None = None
    """[S, *grid, C], what a router looks at; the measurements themselves where all was sampled."""

    def equations(self):
        """The normal equations of these measurements."""
        return normal_equations(self.dictionary, self.operator, self.measurements, self.weights)

    def routed(self):
        """The router's prediction. Raises ValueError where there is none that takes signals."""
        if self.router is None or isinstance(self.router, Codebook):
            kind = "none" if self.router is None else "codebook"
            raise ValueError(
                f"router.kind: {kind} predicts no codes for new signals, which this fit asks for; "
                "allowed: linear, conv, resnet"
            )
        if self.signals is None:
            raise ValueError("a router needs whole signals on its own grid, not partial ones")
        return self.router.gates(None, self.signals, top_k=self.top_k)


def solve(dictionary, operator, measurements, method, **arguments):
    """Codes of S signals from what was measured of them, with the dictionary frozen.

    dictionary, operator: see `fields.dictionary` and `coding.operators`; measurements [S, M, C];
    method: one of `METHODS`. Further arguments are those of `Problem` (weights [M] or [S, M],
    top_k, prior, router, signals) and the method's own options. -> CodeSolution. Raises ValueError
    naming fit.solver for an unknown method, and for what the method lacks.
    """
    check_method(method)
    fields = {field.name for field in dataclasses.fields(Problem)}
    given = {name: arguments.pop(name) for name in list(arguments) if name in fields}
    problem = Problem(dictionary, operator, jnp.asarray(measurements), **given)
    return METHODS[method](problem, **arguments)


def check_method(method):
    """Raise ValueError, naming fit.solver and the nearest name, for a method that is not there."""
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, 1, 0.0)[0]
        raise ValueError(
            f"fit.solver: {method!r} is unknown, did you mean {near!r}? "
            f"allowed: {', '.join(METHODS)}"
        )


def _router(problem):
    gates = problem.routed()
    equations = problem.equations()
    residual = gradient.mean_residual(equations, gates.values, gates.bias)
    return _finished(gates.values, gates.bias, residual, 0, "predicted by the router")


def _gradient(
    problem, steps=100, learning_rate=0.03, init="zero", variables="codes", dense_steps=0, data="l2"
):
    """init: 'zero' or 'router'; variables: 'codes' or 'router'; data: 'l2' or 'l1'."""
    _check("fit.gradient.init", init, ("zero", "router"))
    _check("fit.gradient.variables", variables, gradient.VARIABLES)
    _check("fit.gradient.data", data, ("l2", "l1"))
    equations = problem.equations()
    if variables == "router":
        problem.routed()
        graphdef, params, rest = nnx.split(problem.router, nnx.Param, ...)
        codes, bias, history = gradient.descend_router(
            graphdef,
            params,
            rest,
            problem.signals,
            equations,
            steps,
            learning_rate,
            top_k=problem.top_k,
        )
        return _finished(codes, bias, history[-1], steps, "", {"residual": history})
    signals, experts = equations.moments.shape
    codes, bias = jnp.zeros((signals, experts)), jnp.zeros_like(equations.target_mean)
    if init == "router":
        gates = problem.routed()
        codes, bias = gates.values, gates.bias
    settings = {"top_k": problem.top_k, "dense_steps": dense_steps}
    if data == "l2":
        codes, history = gradient.descend_codes(
            equations, codes, bias, steps, learning_rate, **settings
        )
        bias = equations.bias(codes)
        return _finished(codes, bias, history[-1], steps, "", {"residual": history})
    if problem.weights is not None or not isinstance(problem.operator, Sample):
        raise ValueError("fit.gradient.data: 'l1' takes whole samples; use fit.solver=robust")
    graphdef, state = nnx.split(problem.dictionary)
    codes, bias, history, residual = gradient.descend_absolute(
        graphdef,
        state,
        problem.operator.points,
        problem.measurements,
        codes,
        bias,
        steps,
        learning_rate,
        **settings,
    )
    return _finished(codes, bias, residual, steps, "", {"absolute": history})


def _finished(codes, bias, residual, iterations, message, history=None):
    count = codes.shape[0]
    return CodeSolution(
        codes,
        bias,
        residual,
        jnp.isfinite(residual),
        jnp.full((count,), iterations, jnp.int32),
        message or f"{iterations} steps taken",
        history or {},
    )


def _check(key, value, allowed):
    if value not in allowed:
        raise ValueError(f"{key}: {value!r} is unknown; allowed: {', '.join(allowed)}")


METHODS = {"gradient": _gradient, "router": _router}
