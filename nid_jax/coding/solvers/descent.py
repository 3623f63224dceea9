"""The paper's own way of fitting: Adam on codes, or on the router that predicts them."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from nid_jax.coding import checks, gradient, ridge
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Result, Solution, finished
from nid_jax.coding.solvers.base import Solver
from nid_jax.errors import ArgumentError

INITS = ("zero", "router")
DATA = ("l2", "l1")


@dataclasses.dataclass(frozen=True)
class Gradient(Solver):
    """Adam for a fixed number of steps. See `coding.gradient`."""

    name: ClassVar[str] = "gradient"
    about: ClassVar[str] = "found by steps of descent (Adam), as the paper does"

    steps: int = 1000
    """So many are taken."""
    learning_rate: float = 0.003
    """Adam's, at the start of a cosine to a tenth."""
    init: str = "zero"
    """'zero', or 'router': from its prediction."""
    variables: str = "codes"
    """'codes', or 'router': its weights move."""
    dense_steps: int = 0
    """Steps before the top_k experts are chosen."""
    data: str = "l2"
    """'l2' or 'l1', the data term."""
    top_k: int = 0
    """K, active experts; 0: dense codes."""

    def __post_init__(self):
        self._count("steps", 0)
        checks.not_negative("learning_rate", self.learning_rate)
        checks.one_of("init", self.init, INITS)
        checks.one_of("variables", self.variables, gradient.VARIABLES)
        self._count("dense_steps", 0)
        checks.one_of("data", self.data, DATA)
        self._count("top_k", 0)

    def _solve(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        if self.variables == "router":
            return self._of_router(problem, equations.products())
        bias = jnp.zeros_like(equations.target_mean)
        codes = jnp.zeros((len(bias), problem.dictionary.num_experts), bias.dtype)
        if self.init == "router":
            gates = problem.routed(self.top_k)
            codes, bias = gates.values, gates.bias
        settings = {"top_k": self.top_k, "dense_steps": self.dense_steps}
        if self.data == "l1":
            return self._absolute(problem, (codes, bias), settings)
        codes, history = gradient.descend_codes(
            equations.products(), codes, bias, self.steps, self.learning_rate, **settings
        )
        good = jnp.isfinite(codes).all(-1)
        solution = ridge.as_solution(
            equations, codes, good, self.steps, otherwise=Result.NOT_FINITE
        )
        return solution._replace(history={"residual": history})

    def _of_router(self, problem, equations):
        codes, bias, history = gradient.descend_router(
            *nnx.split(problem.router, nnx.Param, ...),
            problem.signals,
            equations,
            self.steps,
            self.learning_rate,
            top_k=self.top_k,
        )
        return self._finished(codes, bias, history[-1], {"residual": history})

    def _absolute(self, problem, start, settings):
        operator = problem.operator
        weighted = problem.weights is not None or operator.weights is not None
        if weighted or not operator.is_sampling:
            raise ArgumentError("data", "l1", "l2, or Robust; l1 takes whole samples, unweighted")
        codes, bias, history, residual = gradient.descend_absolute(
            *nnx.split(problem.dictionary),
            (operator.points, problem.measurements),
            start,
            self.steps,
            self.learning_rate,
            **settings,
        )
        return self._finished(codes, bias, residual, {"absolute": history})

    def _finished(self, codes, bias, residual, history):
        good = jnp.isfinite(residual)
        return finished(codes, bias, residual, good, self.steps, history=history)

    def _words(self, solution: Solution) -> str:
        return f"{self.steps} steps taken"
