"""Conjugate gradients for many linear systems at once, each with steps of its own.

`jax.scipy.sparse.linalg.cg` takes a batch for one long vector, with one step length for all of it,
and reports neither how many iterations it took nor what residual it left.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nid_jax import numerics


class Solved(NamedTuple):
    """x [..., N, ...] as the right side; residual: norm of b - A x over that of b, the axis of
    vectors kept with length 1, 0 for b = 0; iterations taken, of all systems together."""

    x: Float[Array, "..."]
    residual: Float[Array, "..."]
    iterations: Int[Array, ""]


def solve(
    matrix: Callable[[Array], Array],
    right: Float[Array, "..."],
    start: Float[Array, "..."] | None = None,
    *,
    axis: int,
    iterations: int,
    tolerance: float = 0.0,
) -> Solved:
    """Solve A x = b for symmetric positive definite A, a batch of systems by itself each.

    Hestenes and Stiefel 1952. Ends where every system's residual has fallen to `tolerance` of its
    right side's norm, or after `iterations`. A system that is solved exactly stands still.

    Args:
      matrix: x -> A x for the whole batch.
      right: b, vectors along `axis`, all other axes count systems.
      start: where x begins, shaped as b; None for zeros.
      axis: that of the vectors.
      iterations: at most; may be traced, as may tolerance.
      tolerance: relative to the norm of b; 0 for all iterations.
    """

    def squared_norm(x):
        return jnp.square(x).sum(axis, keepdims=True)

    least = tolerance * jnp.sqrt(squared_norm(right))

    def going(state):
        *_, square, count = state
        return (count < iterations) & (jnp.sqrt(square) > least).any()

    def step(state):
        x, residual, direction, square, count = state
        image = matrix(direction)
        curvature = (direction * image).sum(axis, keepdims=True)
        length = numerics.safe_divide(square, curvature)
        x, residual = x + length * direction, residual - length * image
        new = squared_norm(residual)
        direction = residual + numerics.safe_divide(new, square) * direction
        return x, residual, direction, new, count + 1

    if start is None:
        start, residual = jnp.zeros_like(right), right
    else:
        residual = right - matrix(start)
    state = (start, residual, residual, squared_norm(residual), jnp.int32(0))
    x, _, _, square, count = jax.lax.while_loop(going, step, state)
    left = numerics.safe_divide(jnp.sqrt(square), jnp.sqrt(squared_norm(right)))
    return Solved(x, left, count)
