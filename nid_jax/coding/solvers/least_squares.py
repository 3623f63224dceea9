"""Codes in closed form: ridge, and the most probable ones under a Gaussian prior."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import notices
from nid_jax.coding import (
    checks,
    conjugate,
    implicit,
    mixture_codes,
    neighbours,
    posterior,
    ridge,
)
from nid_jax.coding.prior import GaussianPrior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution
from nid_jax.coding.solvers.base import Solver, no_gradient
from nid_jax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Ridge(Solver):
    """Least squares with a penalty on the squared code. See `coding.ridge`."""

    name: ClassVar[str] = "ridge"
    about: ClassVar[str] = (
        "least squares with a penalty on the squared code, in closed form, without a prior"
    )
    dense_only: ClassVar[bool] = True

    lam: float | str | Float[Array | np.ndarray, " S"] = ridge.LAMBDA
    """Regularisation, a pure number of 0 or more, or one for every signal; or 'gcv': generalised
    cross-validation. Signals that are weighed differently, none of their weights next to nothing,
    are solved together: then one number is relative to the atoms under their mean weights."""
    per_signal: bool = False
    """Whether cross-validation chooses for every signal by itself."""

    def __post_init__(self):
        if not self.validated:
            allowed = "a number of 0 or more, 'gcv'"
            checks.numbers("lam", self.lam, lambda v: v >= 0, allowed, rank=1)
        checks.flag("per_signal", self.per_signal)

    @property
    def differentiable(self) -> bool:
        """In all that was measured, and in lam."""
        return True

    @property
    def validated(self) -> bool:
        """Whether lam is chosen by cross-validation."""
        return isinstance(self.lam, str) and self.lam == "gcv"

    def _solve(self, problem: Problem) -> Solution:
        if not isinstance(self.lam, str) and np.ndim(self.lam) == 0 and self._descends(problem):
            return conjugate.weighted_codes(problem, conjugate.Penalty(self.lam))
        return ridge.ridge(self._equations(problem), self.lam, self.per_signal)

    def _solve_implicitly(self, problem: Problem) -> Solution:
        equations = self._equations(problem)
        found = implicit.ridge_codes(
            *problem.measured(), self.lam, self.per_signal, equations=equations
        )
        stats = {"lam": found.lam, "linear_error": found.error}
        if not self.validated:
            stats["asked_lam"] = jnp.asarray(self.lam, jnp.float32)
        return ridge.with_outcome(found.codes, found.bias, found.residual, stats)

    def _words(self, solution: Solution) -> str:
        return ridge.words(solution.stats)


@dataclasses.dataclass(frozen=True)
class Gaussian(Solver):
    """The most probable codes under the Gaussian of the training codes, or their mixture.

    See `coding.posterior` and `coding.mixture_codes`.
    """

    name: ClassVar[str] = "gaussian"
    about: ClassVar[str] = (
        "the most probable one under the Gaussian prior of the training codes and what "
        "was measured, in closed form"
    )
    needs_prior: ClassVar[bool] = True
    takes_prior: ClassVar[bool] = True
    dense_only: ClassVar[bool] = True

    noise: float = 0.0
    """Standard deviation of the measurements' noise; 0 takes the one of highest evidence, of all
    signals together, which derivatives hold constant. Samples of signals, of weight 1, have no less
    than what the dictionary leaves of those that it was learned from."""
    neighbours: int = 0
    """0: one prior for all; else the training codes that make up each signal's own prior."""
    blend: float = 0.1
    """Share of the covariance of all training codes in that of the neighbours, 0 to 1."""
    mixture: bool = True
    """Whether to take the mixture of Gaussians where the prior has one, and no neighbours are asked
    for; codes are then the mean over its components, weighed by their evidence."""
    level: bool = False
    """Whether the bias is held as well, to what that of training signals is beside their codes: of
    few measurements it says more. False leaves it free, so that a signal's level costs nothing. One
    Gaussian for all."""

    def __post_init__(self):
        checks.not_negative("noise", self.noise)
        checks.flag("level", self.level)
        if self.level and self.neighbours:
            raise ArgumentError("level", True, "False beside neighbours, which leave the bias free")
        checks.flag("mixture", self.mixture)
        self._count("neighbours", 0)
        checks.numbers("blend", self.blend, lambda v: (v >= 0) & (v <= 1), "0 to 1")

    @property
    def differentiable(self) -> bool:
        """With one Gaussian for all and a free bias; which neighbours or components are near is
        not, and derivatives with a bias that is held are not implemented."""
        return not self.neighbours and not self.level

    def mixes(self, known: GaussianPrior) -> bool:
        """Whether codes are solved for under the mixture of a prior."""
        one = self.neighbours or self.level
        return self.mixture and not one and known.mixture is not None

    def taken(self, known: GaussianPrior) -> GaussianPrior:
        """What of a prior holds the codes, where not its neighbours."""
        if self.level:
            return known.with_level()
        return known if self.mixes(known) else known.alone()

    @property
    def noise_known(self) -> bool:
        """Whether the noise was given."""
        return isinstance(self.noise, jax.core.Tracer) or bool(np.all(self.noise > 0))

    def check(self, problem: Problem) -> None:
        """As `Solver.check`; there has to be a prior."""
        super().check(problem)
        if problem.prior is None:
            raise ArgumentError(
                "prior",
                None,
                "that of the training codes, which learning leaves beside the dictionary "
                "(prior.num_signals above 0); or solve by ridge",
            )
        if self.level:
            problem.prior.with_level()
            if self.mixture and problem.prior.mixture is not None:
                notices.say(
                    "prior: one Gaussian of it, not its mixture, as level=True holds the bias"
                )

    def _solve(self, problem: Problem) -> Solution:
        known, mixed = problem.prior, self.mixes(problem.prior)
        one = not mixed and not self.neighbours and not self.level
        if self.noise_known and one and self._descends(problem):
            penalty = conjugate.Penalty(prior=known.alone(), noise=self.noise**2)
            return conjugate.weighted_codes(problem, penalty)
        noise, equations = self._variance(problem), self._equations(problem)
        if self.neighbours:
            return neighbours.local_gaussian(equations, known, noise, self.neighbours, self.blend)
        return mixture_codes.under_prior(equations, self.taken(known), noise)

    def _variance(self, problem):
        """The noise variance given, or how it is to be estimated."""
        if self.noise_known:
            return self.noise**2
        # Other operators measure in units of their own.
        return posterior.Estimated(problem.prior.noise if problem.operator.is_sampling else 0.0)

    def _solve_implicitly(self, problem: Problem) -> Solution:
        if self.mixes(problem.prior):
            return self._solve(no_gradient(problem, self.name))
        problem = dataclasses.replace(problem, prior=problem.prior.alone())
        equations = jax.lax.stop_gradient(self._equations(problem))
        asked = self._variance(problem)
        noise, by_evidence = posterior.resolve_noise(equations, problem.prior, asked)
        found = implicit.gaussian_codes(
            *problem.measured(), problem.prior, noise, equations=equations
        )
        return posterior.with_outcome(found, noise, by_evidence)

    def _words(self, solution: Solution) -> str:
        return posterior.words(solution.stats, self.neighbours)
