"""Codes that wrong measurements do not pull."""

import dataclasses
from typing import ClassVar

import numpy as np

from nid_jax.coding import checks, posterior, ridge, robust, trimmed
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution
from nid_jax.coding.solvers.base import Solver


@dataclasses.dataclass(frozen=True)
class Robust(Solver):
    """An L1 or Huber data term, and on request a second solve without what it finds wrong.

    See `coding.robust` and `coding.trimmed`.
    """

    name: ClassVar[str] = "robust"
    about: ClassVar[str] = (
        "that of least absolute or Huber error, which wrong measurements hardly pull, "
        "under the prior where there is one"
    )
    takes_prior: ClassVar[bool] = True
    dense_only: ClassVar[bool] = True

    loss: str = "l1"
    """'l1' or 'huber'."""
    lam: float = 1e-4
    """Regularisation without a prior, as `Ridge.lam`."""
    use_prior: bool = True
    """Whether to take the prior where the problem has one: one Gaussian, as evidence by squares,
    which outliers decide, cannot tell a mixture's components apart; with trim, in the second solve,
    which has none of them, its mixture where it has one."""
    delta: float = 0.0
    """Huber's threshold, in units of the measurements; 0: 1.345 times the noise."""
    noise: float = 0.0
    """Standard deviation of the clean measurements' noise; 0 estimates it."""
    steps: int = 500
    """At most so many iterations."""
    trim: float = 0.0
    """0, or 1 and more: measurements whose residual is more than so many times the signal's median
    one are left out of a second solve. On the host: not under jit or vmap."""
    reach: float = 0.0
    """With trim: residuals are first averaged over points so near, in coordinates."""
    trim_noise: float = 0.0
    """With trim and a prior: the noise's standard deviation in the second solve; 0: the prior's."""
    tolerance: float = 1e-3
    """A signal has converged when primal and dual residual are below this part of its variation and
    of the dual variable."""

    def __post_init__(self):
        checks.one_of("loss", self.loss, robust.LOSSES)
        for name in ("lam", "delta", "noise", "tolerance"):
            checks.not_negative(name, getattr(self, name))
        for name in ("reach", "trim_noise"):
            checks.not_negative(name, getattr(self, name), known=True)
        checks.flag("use_prior", self.use_prior)
        self._count("steps", 0)
        allowed = "0 (off), or 1 and more"
        checks.numbers("trim", self.trim, lambda v: (v == 0) | (v >= 1), allowed, known=True)

    def _solve(self, problem: Problem) -> Solution:
        known = problem.prior if self.use_prior else None
        one = None if known is None else known.alone()
        pilot = robust.robust_solve(dataclasses.replace(problem, prior=one), self)
        if not self.trim:
            return pilot
        known = None if known is None else known._replace(codes=None)
        return trimmed.trimmed_solve(dataclasses.replace(problem, prior=known), pilot, self)

    def _words(self, solution: Solution) -> str:
        stats, found = solution.stats, int(solution.converged.sum())
        words = f"{self.loss} data term, {found} of {len(solution.codes)} signals converged"
        if not self.trim:
            return words
        second = ridge.words(stats) if "lam" in stats else posterior.words(stats)
        if "lam" not in stats and not self.trim_noise and not np.any(stats["by_evidence"]):
            second += " of the training signals"
        return f"{words}; then {second}, {100 * np.mean(stats['kept']):.0f}% kept"
