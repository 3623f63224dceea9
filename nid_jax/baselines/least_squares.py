"""Images that explain linear measurements, without a dictionary: conjugate gradients from zero."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax.coding import conjugate_gradients, grid_operator
from nid_jax.coding.operators import Operator

STEPS = 8
"""Of conjugate gradients (Hestenes and Stiefel 1952), at most."""


def reconstruct(
    operator: Operator,
    shape: Sequence[int],
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "... M"] | None = None,
) -> Float[np.ndarray, "S *shape C"]:
    """Images [S, *shape, C] by least squares from their measurements [S, M, C] alone.

    A few steps from zero, which for Fourier samples is zeros for the frequencies that are missing.
    weights: of every measurement, 0 where there is none; [S, M], or [M]: all signals alike. Values
    are in the units of the signals. Raises ArgumentError for an operator that the grid cannot have.
    """
    on_grid = grid_operator.on_grid(operator, tuple(shape))
    values = jnp.asarray(measurements, jnp.float32)
    known = jnp.ones(values.shape[1], jnp.float32) if weights is None else jnp.asarray(weights)
    found = _least_squares(on_grid, values, jnp.atleast_2d(known))
    return np.asarray(found).reshape(len(values), *shape, -1)


@jax.jit
def _least_squares(on_grid, values, known):
    known = known[..., None]

    def normal(image):
        return on_grid.adjoint(known * on_grid.measure(image))

    right = on_grid.adjoint(known * values)
    # Solved exactly, as Fourier samples are after two steps, rounding would be all that is left.
    solved = conjugate_gradients.solve(normal, right, axis=-2, iterations=STEPS, tolerance=1e-4)
    return solved.x
