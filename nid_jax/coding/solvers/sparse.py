"""Sparse codes: under an L1 penalty, or of exactly K experts."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax.coding import checks, greedy, implicit, lasso, ridge
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Result, Solution, finished
from nid_jax.coding.solvers.base import Solver
from nid_jax.fields.routing import expert_weights


@dataclasses.dataclass(frozen=True)
class Lasso(Solver):
    """Least squares with a penalty on the magnitude of the codes. See `coding.lasso`."""

    name: ClassVar[str] = "lasso"
    about: ClassVar[str] = (
        "least squares with a penalty on the absolute code, which sets numbers to 0"
    )
    dense_only: ClassVar[bool] = True

    fraction: float | Float[Array | np.ndarray, " S"] = 0.001
    """The penalty, as a part of the one that makes every code zero: above 0, at most 1; a number,
    or one for every signal."""
    weights_base: float = 1.0
    """Expert e costs weights_base ** -e."""
    tolerance: float = 1e-3
    """Duality gap at which a signal has converged, as a part of its objective."""
    steps: int = 1000
    """At most so many."""

    def __post_init__(self):
        checks.share("fraction", self.fraction, rank=1)
        checks.positive("weights_base", self.weights_base)
        checks.not_negative("tolerance", self.tolerance)
        self._count("steps", 0)

    def _solve(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        weights = expert_weights(problem.dictionary.num_experts, self.weights_base)
        penalty = lasso.Penalty(fraction=self.fraction, weights=weights)
        found = lasso.lasso_codes(equations.products(), penalty, self.tolerance, self.steps)
        stats = {"gap": found.gap, "penalty": found.penalty}
        return ridge.as_solution(
            equations, found.codes, found.converged, found.iterations, stats=stats
        )

    def _words(self, solution: Solution) -> str:
        found, count = int(solution.converged.sum()), len(solution.codes)
        return f"lasso, {found} of {count} signals within the duality gap asked for"


@dataclasses.dataclass(frozen=True)
class OMP(Solver):
    """Supports of K experts by orthogonal matching pursuit, then ridge on them.

    See `greedy.omp_codes`.
    """

    name: ClassVar[str] = "omp"
    about: ClassVar[str] = (
        "experts chosen one after the other (orthogonal matching pursuit), and least "
        "squares on them"
    )
    sparse: ClassVar[bool] = True

    top_k: int = 0
    """K, active experts, which has to be given: 1 or more."""
    lam: float = ridge.LAMBDA
    """Regularisation on the support, as `Ridge.lam`."""
    atoms_per_step: int = 1
    """Experts that are taken at once: cheaper, a little worse. At most top_k are."""
    criterion: str = "correlation"
    """'correlation' with the residual, or 'gain': what lowers it most."""

    def __post_init__(self):
        self._count("top_k", 1, "of active experts, such as OMP(top_k=32)")
        checks.not_negative("lam", self.lam)
        self._count("atoms_per_step", 1)
        checks.one_of("criterion", self.criterion, greedy.CRITERIA)

    @property
    def differentiable(self) -> bool:
        """The support is held."""
        return True

    def _support(self, equations):
        """Experts [S, K], -1 for a place left empty, and how many there are [S]."""
        step = min(self.atoms_per_step, self.top_k)
        chosen = greedy.omp_codes(equations.products(), self.top_k, step, self.criterion)
        places = jnp.where(chosen.chosen, chosen.indices, -1)
        return places, chosen.chosen.sum(-1, dtype=jnp.int32)

    def _solve(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        places, count = self._support(equations)
        codes = ridge.solve_on_support(equations, places, self.lam)
        return ridge.as_solution(
            equations, codes, count == self.top_k, count, otherwise=Result.FEWER
        )

    def _solve_implicitly(self, problem: Problem) -> Solution:
        equations = jax.lax.stop_gradient(self._equations(problem))
        places, count = self._support(equations)
        found = implicit.support_codes(*problem.measured(), places, self.lam, equations=equations)
        done = count == self.top_k
        return finished(*found[:3], done, count, otherwise=Result.FEWER)

    def _words(self, solution: Solution) -> str:
        return f"{self.top_k} experts by matching pursuit"


@dataclasses.dataclass(frozen=True)
class IHT(Solver):
    """Codes of K experts by hard thresholding pursuit. See `greedy.iht_codes`."""

    name: ClassVar[str] = "iht"
    about: ClassVar[str] = (
        "experts chosen together and anew in every step (iterative hard thresholding)"
    )
    sparse: ClassVar[bool] = True

    top_k: int = 0
    """K, active experts, which has to be given: 1 or more."""
    steps: int = 30
    """At most so many."""

    def __post_init__(self):
        self._count("top_k", 1, "of active experts, such as IHT(top_k=32)")
        self._count("steps", 1)

    def _solve(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        found, converged, iterations = greedy.iht_codes(
            equations.products(), self.top_k, self.steps
        )
        return ridge.as_solution(equations, found.codes, converged, iterations)

    def _words(self, solution: Solution) -> str:
        return f"hard thresholding pursuit, {self.top_k} active experts"
