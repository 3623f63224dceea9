"""Codes of solids from oriented points on their surfaces."""

import dataclasses
from typing import ClassVar

import numpy as np

from nid_jax.coding import checks, surface
from nid_jax.coding.problem import Problem
from nid_jax.coding.solution import Solution
from nid_jax.coding.solvers.base import Solver
from nid_jax.errors import ArgumentError
from nid_jax.geometry.truncation import KINDS, Truncation


@dataclasses.dataclass(frozen=True)
class Surface(Solver):
    """Signed distances from points and normals alone. See `coding.surface`, which runs on the host.

    Minimises sum_terms weight sum_i residual_i^2 + noise^2 |t|^2, (code, bias) = mean + root t with
    the prior's mean and covariance root root^T; without a prior t is (code, bias) itself and its
    factor lam times the mean eigenvalue of the linear terms. Of a mixture every solid takes the one
    component of most evidence, not the mean over them that `Gaussian` gives: the terms that are not
    linear need one Gaussian to start from and to stay near.
    """

    name: ClassVar[str] = "surface"
    about: ClassVar[str] = "the surface through the points, with their normals"
    takes_prior: ClassVar[bool] = True
    dense_only: ClassVar[bool] = True
    reads: ClassVar[str] = "clouds"
    # On the host all is summed in float64, whatever is asked for.
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    on: float = 1.0
    """Weight of f = 0 on the surface."""
    normal: float = 1e-2
    """Weight of grad f = n there. Gradients are known about as well as a value over a length of
    sqrt(weight)."""
    eikonal: float = 1e-3
    """Weight of |grad f| = 1 near the surface."""
    off: float = 1.0
    """Weight of the distances off it."""
    truncation: float = 0.0
    """0, or the largest distance that the dictionary was made for."""
    truncation_kind: str = "clip"
    """'clip' or 'tanh'."""
    noise: float = 0.0
    """Standard deviation of an error of f; 0 takes the prior's, or 0.01 where it has none."""
    lam: float = 1e-5
    """Regularisation without a prior."""
    delta: float = 0.02
    """Offset of the pseudo-samples along the normals; well under the solid's thickness."""
    samples: int = 2000
    """Points anywhere in the cube."""
    method: str = "gauss-newton"
    """'gauss-newton', or 'gradient': Adam on the same objective."""
    iterations: int = 10
    """Of Gauss-Newton, at most; 0 from init 'linear' is the linear solution."""
    tolerance: float = 1e-4
    """Gauss-Newton ends where the objective falls by less than this part of it."""
    steps: int = 300
    """Of Adam."""
    learning_rate: float = 0.05
    """Of Adam, in units of the prior's standard deviations."""
    init: str = "linear"
    """'linear': the solution of the linear terms; 'mean' of the prior, 'zero', or 'router'."""
    seed: int = 0
    """Of the samples."""

    def __post_init__(self):
        checks.one_of("precision", self.precision, self.precisions)
        checks.one_of("method", self.method, surface.METHODS)
        checks.one_of("init", self.init, surface.INITS)
        checks.one_of("truncation_kind", self.truncation_kind, tuple(KINDS))
        for name in ("on", "normal", "eikonal", "off", "truncation", "noise", "lam", "tolerance"):
            checks.not_negative(name, getattr(self, name), known=True)
        checks.positive("delta", self.delta, known=True)
        checks.not_negative("learning_rate", self.learning_rate, known=True)
        for name in ("samples", "iterations", "steps", "seed"):
            self._count(name, 0)
        if self.truncation and not self.delta <= self.truncation:
            allowed = f"up to the truncation, {self.truncation}"
            raise ArgumentError("delta", self.delta, allowed)

    @property
    def terms(self) -> surface.Terms:
        """The weights of the terms."""
        return surface.Terms(self.on, self.normal, self.eikonal, self.off)

    @property
    def distances(self) -> Truncation:
        """The truncation of the distances."""
        return Truncation(self.truncation, self.truncation_kind)

    def _solve(self, problem: Problem) -> Solution:
        if checks.transforming():
            raise ArgumentError(
                "clouds",
                "traced",
                "known values; surface looks for neighbours on the host and "
                "does not run inside jit, vmap or grad",
            )
        start = problem.routed(0) if self.init == "router" else None
        return surface.surface_codes(
            problem.dictionary, np.asarray(problem.clouds), problem.prior, self, start
        )

    def _words(self, solution: Solution) -> str:
        found, count = int(solution.converged.sum()), len(solution.codes)
        points = int(solution.stats["points"][0])
        return f"{self.method} on {points} oriented points, {found} of {count} signals converged"
