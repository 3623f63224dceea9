"""Images from measurements without a dictionary: what a fit is to be compared with."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.coding import conjugate_gradients, grid_operator
from nid_jax.coding.operators import FanBeam, Fourier, Operator, ParallelBeam

STEPS = 30
"""Of the simultaneous algebraic reconstruction, at most."""
LEAST_SQUARES_STEPS = 8
# Numbers multiplied in all steps together: some seconds of one core.
_WORK = 1.5e9


def method(operator: Operator) -> tuple[str, str]:
    """What `reference` does with measurements of such an operator: its name, and a sentence."""
    if isinstance(operator, ParallelBeam | FanBeam):
        return "SIRT", (
            "Simultaneous iterative reconstruction: pixels that are not negative and explain the "
            "sinogram, by a few steps from zero. Nothing was learned."
        )
    if isinstance(operator, Fourier):
        return "zero filling", "Zeros for frequencies that were not measured. Nothing was learned."
    return "least squares", (
        "Pixels that explain the measurements, by a few steps of conjugate gradients from zero. "
        "Nothing was learned."
    )


def reference(
    operator: Operator,
    shape: Sequence[int],
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "... M"] | None = None,
) -> Float[np.ndarray, "S *shape C"]:
    """Images [S, *shape, C] from their measurements [S, M, C] alone: see `method`.

    Of parallel and fan beams the simultaneous iterative algebraic reconstruction (Gilbert 1972),
    kept from going negative, with momentum (Nesterov 1983); of any other operator least squares by
    a few steps of conjugate gradients from zero, which for Fourier samples is zeros for the rest.
    weights: of every measurement, 0 where there is none; [M]: all signals alike. Raises
    ArgumentError for an operator that cannot be had on the grid.
    """
    on_grid = grid_operator.on_grid(operator, tuple(shape))
    values = jnp.asarray(measurements, jnp.float32)
    known = jnp.ones(values.shape[1], jnp.float32) if weights is None else jnp.asarray(weights)
    known = jnp.atleast_2d(known)
    if isinstance(operator, ParallelBeam | FanBeam):
        found = _algebraic(on_grid, values, known, _steps(on_grid, values))
    else:
        found = _least_squares(on_grid, values, known)
    return np.asarray(found).reshape(len(values), *shape, -1)


def _steps(on_grid, values):
    """As many as the work allows, and at least a few."""
    numbers = on_grid.values.size + on_grid.column_values.size
    return int(np.clip(_WORK / (numbers * len(values) * values.shape[-1]), 8, STEPS))


@functools.partial(jax.jit, static_argnames="steps")
def _algebraic(on_grid, values, known, steps):
    known = known[..., None]
    ones = jnp.ones((on_grid.num_points, 1), jnp.float32)
    per_ray = on_grid.measure(ones)
    per_pixel = on_grid.adjoint(known)
    # A ray that only touches the image would have its noise divided by next to nothing.
    rays = jnp.where(per_ray > 1e-3 * per_ray.max(), 1 / jnp.maximum(per_ray, 1e-12), 0)

    def step(_, state):
        image, ahead, pace = state
        left = known * rays * (values - on_grid.measure(ahead))
        moved = numerics.safe_divide(on_grid.adjoint(left), per_pixel)
        new = jnp.maximum(ahead + moved, 0)
        faster = (1 + jnp.sqrt(1 + 4 * pace**2)) / 2
        return new, new + (pace - 1) / faster * (new - image), faster

    start = jnp.zeros_like(per_pixel * values[:, :1])
    return jax.lax.fori_loop(0, steps, step, (start, start, jnp.float32(1)))[0]


@jax.jit
def _least_squares(on_grid, values, known):
    known = known[..., None]

    def normal(image):
        return on_grid.adjoint(known * on_grid.measure(image))

    right = on_grid.adjoint(known * values)
    # Solved exactly, as Fourier samples are after two steps, rounding would be all that is left.
    solved = conjugate_gradients.solve(
        normal, right, axis=-2, iterations=LEAST_SQUARES_STEPS, tolerance=1e-4
    )
    return solved.x
