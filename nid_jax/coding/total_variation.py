"""What a frozen dictionary cannot say, under total variation: images that leave its span.

Where there are many measurements the dictionary's span is the limit of a fit. Here the image itself
moves off what the codes render, towards the measurements, by the alternating direction method of
multipliers.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.coding import checks, conjugate_gradients
from nid_jax.coding.operators import Operator, combined_weights
from nid_jax.errors import ArgumentError

# Gradients of an image are compared with this step of brightness, which sets ADMM's stiffness.
_CONTRAST = 0.05
_RELAXATION = 1.6
# Grids of at most so many points have their normal matrix factorised; larger ones use conjugate
# gradients, so many of them in every iteration.
_DENSE_POINTS = 4608
_CONJUGATE_STEPS = 8
_IDENTITY_COLUMNS = 256


@dataclasses.dataclass(frozen=True)
class TotalVariation:
    """Images near a start that agree with their measurements and have little total variation.

    Minimises over x, for every signal and channel by itself,

        1/2 |W^(1/2) (A x - y)|^2 / d + lam/2 |x - start|^2 + tv TV(x)

    with d the mean energy of a grid point in the measurements, so that lam and tv are pure numbers
    for values in [0, 1]; TV sums the lengths of forward differences (Rudin, Osher and Fatemi
    1992). By ADMM (Boyd et al. 2011).

    Raises ArgumentError, naming the field, for one that is out of range.
    """

    tv: float = 0.003
    """Weight of the total variation, 0 or more."""
    lam: float = 0.01
    """Weight of the tie to the start, 0 or more, and not 0 where tv is."""
    steps: int = 100
    """Iterations of ADMM, 1 or more."""
    bounds: tuple[float, float] | None = None
    """(low, high), what values may be; None: anything."""

    def __post_init__(self):
        for name in ("tv", "lam"):
            checks.not_negative(name, getattr(self, name), known=True)
        if not (self.tv or self.lam):
            raise ArgumentError("tv", self.tv, "above 0 where lam is 0; one of them must be")
        object.__setattr__(self, "steps", checks.whole("steps", self.steps, 1))
        if self.bounds is not None:
            allowed = "None, or (low, high), numbers with low < high"
            ends = checks.as_array("bounds", self.bounds, allowed)
            if not checks.real(ends.dtype) or ends.shape != (2,) or not ends[0] < ends[1]:
                raise ArgumentError("bounds", self.bounds, allowed)

    def refine(
        self,
        operator: Operator,
        shape: Sequence[int],
        start: Float[Array, "S P C"],
        measurements: Float[Array, "S M C"],
        weights: Float[Array | np.ndarray, "..."] | None = None,
    ) -> Float[Array, "S P C"]:
        """Images [S, P, C] on the grid.

        Args:
          operator: on the grid (`grid_operator.on_grid`).
          shape: of the grid.
          start: what the codes render.
          measurements: those of weight 0 are not read.
          weights: None, [M] or [S, M], on top of the operator's own.

        Raises:
          ValueError: weights of another shape, negative or not finite.
        """
        weights = combined_weights(operator, weights)
        energy = _mean_energy(operator, weights)
        weights = jnp.ones(operator.num_measurements, jnp.float32) if weights is None else weights
        weights = jnp.broadcast_to(weights / energy, (len(start), operator.num_measurements))
        measurements = jnp.where(weights[..., None] > 0, measurements, 0)
        bounds = None if self.bounds is None else tuple(jnp.float32(b) for b in self.bounds)
        problem = _Problem(
            operator,
            start,
            measurements,
            weights,
            jnp.float32(self.tv),
            jnp.float32(self.lam),
            bounds,
        )
        shared = bool((weights == weights[:1]).all())
        dense = shared and math.prod(shape) <= _DENSE_POINTS
        return _admm(problem, tuple(shape), self.steps, dense)


class _Problem(NamedTuple):
    """The objective of `TotalVariation`, weights [S, M] divided by the mean energy."""

    operator: Operator
    start: jax.Array
    measurements: jax.Array
    weights: jax.Array
    tv: jax.Array
    lam: jax.Array
    bounds: tuple[jax.Array, jax.Array] | None


class _Splitting(NamedTuple):
    """ADMM's variables: the image, its gradient and the image within bounds, each with the scaled
    multiplier of its tie to the image."""

    x: jax.Array
    slopes: jax.Array
    slopes_dual: jax.Array
    inside: jax.Array
    inside_dual: jax.Array


def _mean_energy(operator, weights):
    """Mean over grid points of what the weighted measurements see of one: sum of squares.

    By random signs (Hutchinson 1989), which serves operators without a matrix.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (8, len(operator.points), 1))
    seen = np.square(operator.measure(jnp.asarray(signs, jnp.float32)))[..., 0]
    if weights is not None:
        seen = seen * np.asarray(weights).reshape(-1, seen.shape[-1]).mean(0)
    return max(float(seen.sum(-1).mean()) / signs.shape[1], 1e-12)


@functools.partial(jax.jit, static_argnames=("shape", "steps", "dense"))
def _admm(problem, shape, steps, dense):
    operator, start, measurements, weights, tv, lam, bounds = problem
    stiffness = jnp.maximum(tv, 1e-3 * lam) / _CONTRAST
    ties = jnp.float32(0.0 if bounds is None else 1.0)
    solve = (_direct if dense else _iterative)(problem, shape, stiffness, ties)
    fixed = operator.adjoint(weights[..., None] * measurements) + lam * start

    def step(_, state):
        right = _gradient_adjoint(state.slopes - state.slopes_dual, shape)
        right = right + ties * (state.inside - state.inside_dual)
        x = solve(fixed + stiffness * right, state.x)
        relaxed = _RELAXATION * _gradient(x, shape) + (1 - _RELAXATION) * state.slopes
        slopes = _group_norm_prox(relaxed + state.slopes_dual, tv / stiffness)
        slopes_dual = state.slopes_dual + relaxed - slopes
        relaxed = _RELAXATION * x + (1 - _RELAXATION) * state.inside
        inside = relaxed + state.inside_dual
        if bounds is not None:
            inside = jnp.clip(inside, *bounds)
        return _Splitting(x, slopes, slopes_dual, inside, state.inside_dual + relaxed - inside)

    slopes = _gradient(start, shape)
    state = _Splitting(start, slopes, jnp.zeros_like(slopes), start, jnp.zeros_like(start))
    state = jax.lax.fori_loop(0, steps, step, state)
    return state.x if bounds is None else state.inside


def _iterative(problem, shape, stiffness, ties):
    """A solver (right side, start) -> x of the image's normal equations: a few steps from there."""
    operator, weights = problem.operator, problem.weights[..., None]

    def normal(x):
        data = operator.adjoint(weights * operator.measure(x))
        smooth = _gradient_adjoint(_gradient(x, shape), shape) + ties * x
        return data + problem.lam * x + stiffness * smooth

    def solve(right, start):
        return conjugate_gradients.solve(
            normal, right, start, axis=1, iterations=_CONJUGATE_STEPS
        ).x

    return solve


def _direct(problem, shape, stiffness, ties):
    """As `_iterative`, where all signals share their weights: by one Cholesky factor."""
    operator, weights = problem.operator, problem.weights[0]
    points = math.prod(shape)
    size = min(_IDENTITY_COLUMNS, points)
    blocks = -(-points // size)

    def columns(block):
        unit = jax.nn.one_hot(block * size + jnp.arange(size), points, dtype=jnp.float32).T[None]
        seen = operator.adjoint(weights[:, None] * operator.measure(unit))
        return (seen + stiffness * _gradient_adjoint(_gradient(unit, shape), shape))[0].T

    matrix = jax.lax.map(columns, jnp.arange(blocks)).reshape(-1, points)[:points]
    diagonal = problem.lam + stiffness * ties + 1e-6
    matrix = (matrix + matrix.T) / 2 + diagonal * jnp.eye(points, dtype=matrix.dtype)
    factor = jax.scipy.linalg.cho_factor(matrix)
    inverse = jax.scipy.linalg.cho_solve(factor, jnp.eye(points, dtype=matrix.dtype))
    inverse = (inverse + inverse.T) / 2

    def solve(right, _):
        return numerics.einsum("pq,sqc->spc", inverse, right)

    return solve


def _gradient(x, shape):
    """Forward differences, zero after the last sample. [S, P, C] -> [S, D, P, C]."""
    grid = x.reshape(len(x), *shape, -1)
    slopes = []
    for axis in range(1, len(shape) + 1):
        edge = jax.lax.slice_in_dim(grid, grid.shape[axis] - 1, None, axis=axis)
        slopes.append(jnp.diff(grid, axis=axis, append=edge).reshape(x.shape))
    return jnp.stack(slopes, 1)


def _gradient_adjoint(slopes, shape):
    """The adjoint of `_gradient`, minus the divergence. [S, D, P, C] -> [S, P, C]."""
    total = jnp.zeros((), slopes.dtype)
    for number, axis in enumerate(range(1, len(shape) + 1)):
        grid = slopes[:, number].reshape(len(slopes), *shape, -1)
        inner = jax.lax.slice_in_dim(grid, 0, grid.shape[axis] - 1, axis=axis)
        widths = [(0, 0)] * grid.ndim
        widths[axis] = (1, 1)
        total = total - jnp.diff(jnp.pad(inner, widths), axis=axis)
    return total.reshape(slopes.shape[0], *slopes.shape[2:])


def _group_norm_prox(slopes, amount):
    """Proximal operator of amount |slope|_2 at every point: group soft thresholding.

    [S, D, P, C] -> the same, the length over D reduced by `amount`, to zero at least.
    """
    length = jnp.sqrt(jnp.square(slopes).sum(1, keepdims=True))
    return slopes * numerics.safe_divide(jnp.maximum(length - amount, 0), length)
