"""Codes that a trained router predicts, or whose experts it chooses."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from nid_jax.coding import checks, gradient, greedy, implicit, ridge
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Result, Solution, finished
from nid_jax.coding.solvers.base import Solver
from nid_jax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class RouterCodes(Solver):
    """What the router predicts, as it is. For its derivative take `router.gates` itself.

    One in closed form predicts ridge codes under the regularisation of training, train.lam, or of K
    the one that the training signals chose (`training.predicting`): a fit has no say in it.
    """

    name: ClassVar[str] = "router"
    about: ClassVar[str] = "predicted by the router from what was measured, nothing is solved"
    routed: ClassVar[bool] = True

    top_k: int = 0
    """K, active experts; 0: dense codes."""

    def __post_init__(self):
        self._count("top_k", 0)

    def _check_read(self, problem):
        # A router that read a cloud needs no measurements.
        if problem.clouds is None or problem.operator is not None:
            super()._check_read(problem)

    def _solve(self, problem: Problem) -> Solution:
        gates = problem.routed(self.top_k)
        if problem.operator is None:
            residual = _off_surface(problem, gates)
        else:
            residual = gradient.mean_residual(self._equations(problem), gates.values, gates.bias)
        return finished(gates.values, gates.bias, residual, jnp.isfinite(residual), 0)

    def _words(self, solution: Solution) -> str:
        return "predicted by the router"


def _off_surface(problem, gates):
    """Mean square of what codes render at the points of clouds, where it should be zero. -> [S]."""
    found = []
    for number, cloud in enumerate(jnp.asarray(problem.clouds)):
        one = jax.tree.map(lambda leaf, at=number: leaf[at : at + 1], gates)
        values = problem.dictionary.combine(cloud[:, : problem.dictionary.dims], one)
        found.append(jnp.square(values).mean())
    return jnp.stack(found)


@dataclasses.dataclass(frozen=True)
class RouterRidge(Solver):
    """The router chooses K experts, or more from which matching pursuit takes K; ridge solves."""

    name: ClassVar[str] = "router+ridge"
    about: ClassVar[str] = "experts that the router chose, and least squares on them"
    sparse: ClassVar[bool] = True
    routed: ClassVar[bool] = True

    top_k: int = 0
    """K, active experts, which has to be given: 1 or more."""
    lam: float = ridge.LAMBDA
    """Regularisation on the support, as `Ridge.lam`; which support, the router has decided."""
    candidates: int = 0
    """Experts that the router proposes, of which `greedy.omp_codes` takes K by what lowers the
    residual most; K or fewer: the router's own K."""

    def __post_init__(self):
        self._count("top_k", 1, "of active experts, such as RouterRidge(top_k=32)")
        checks.not_negative("lam", self.lam)
        self._count("candidates", 0)

    def check_experts(self, experts: int) -> None:
        """Also not more candidates than experts."""
        super().check_experts(experts)
        if self.candidates > experts:
            raise ArgumentError("candidates", self.candidates, f"0 to {experts} experts")

    @property
    def differentiable(self) -> bool:
        """The support is held."""
        return True

    @property
    def _proposed(self):
        """How many experts the router proposes."""
        return max(self.candidates, self.top_k)

    def _support(self, problem, equations):
        """Experts [S, K], -1 for a place left empty, and whether K are there [S]."""
        proposed = self._proposed
        places = jax.lax.stop_gradient(jnp.asarray(problem.routed(proposed).indices))
        if proposed > self.top_k:
            products = jax.lax.stop_gradient(equations).products()
            chosen = greedy.omp_codes(products, self.top_k, 1, "gain", candidates=places)
            places = chosen.indices
        return places, (places >= 0).all(-1)

    def _solve(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        places, full = self._support(problem, equations)
        codes = ridge.solve_on_support(equations, places, self.lam)
        done = full & jnp.isfinite(codes).all(-1)
        return ridge.as_solution(equations, codes, done, otherwise=Result.FEWER)

    def _solve_implicitly(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        places, full = self._support(problem, equations)
        found = implicit.support_codes(*problem.measured(), places, self.lam, equations=equations)
        done = full & jnp.isfinite(found.codes).all(-1)
        return finished(*found[:3], done, 1, otherwise=Result.FEWER)

    def _words(self, solution: Solution) -> str:
        proposed = self._proposed
        if proposed <= self.top_k:
            return f"ridge on the {self.top_k} experts that the router chose"
        return f"{self.top_k} experts by matching pursuit among {proposed} of the router's"
