"""Slices from sinograms without a dictionary: SART view by view, SIRT of all views together.

SART (simultaneous algebraic reconstruction technique) is scikit-image's: its sinograms are [A, D],
angles (degrees, over [0, 180)) and detectors one pixel apart. SIRT (simultaneous iterative
reconstruction technique) takes any beams that `coding.operators` has, and missing rays.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from skimage.transform import iradon_sart

from nid_jax import numerics
from nid_jax.coding import grid_operator
from nid_jax.coding.operators import Operator

STEPS = 30
"""Of the simultaneous iterative reconstruction, at most."""
# Numbers multiplied in all of its steps together: some seconds of one core.
_WORK = 1.5e9

# Views gone through in all: of phantoms of 64 pixels within 0.5 dB of the best number of passes
# from 2 to 64 views.
_VIEWS, _PASSES = 130, (2, 30)


def passes(views: int) -> int:
    """How often SART best goes through all views: 2 to 30 times, many where they are few."""
    return int(np.clip(round(_VIEWS / views), *_PASSES))


def sart(
    sinogram: Float[np.ndarray, "A D"],
    angles: Float[np.ndarray, " A"],
    iterations: int = 1,
    relaxation: float = 0.15,
    clip: tuple[float, float] = (0.0, 1.0),
    shifts: Float[np.ndarray, " A"] | None = None,
) -> Float[np.ndarray, "D D"]:
    """Simultaneous algebraic reconstruction (Andersen and Kak 1984), float64 [D, D].

    In scikit-image's geometry: pixel D // 2 along either axis and detector D // 2 lie on the centre
    of rotation; shifts: of every view's detectors, in pixels. What lies outside of the circle in
    the image is 0. iterations: passes over all views; clip: the image, after every view.
    """
    columns, degrees = np.asarray(sinogram, float).T, np.asarray(angles, float)
    image = np.zeros((len(columns), len(columns)))
    for _ in range(iterations):
        image = iradon_sart(columns, degrees, image, shifts, clip, relaxation)
    return image


def placed_sart(
    sinogram: Float[np.ndarray, "A D"],
    angles: Float[np.ndarray, " A"],
    shape: Sequence[int],
    centre: Sequence[float] = (0.0, 0.0),
    offset: float = 0.0,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Float[np.ndarray, "H W"]:
    """`sart` of an image of any shape and place, in `passes` of its views.

    centre: of rotation, (rows, columns) in pixels from the image's middle; offset: of all detectors
    from what looks at it, as `coding.operators.parallel_beam` has them. Raises ValueError for fewer
    detectors than pixels along a side.
    """
    sinogram = np.asarray(sinogram, float)
    views, detectors = sinogram.shape
    if detectors < max(shape):
        raise ValueError(f"{detectors} detectors for {tuple(shape)} pixels")
    # Where the centre of rotation is in the image, and in the one that is solved for.
    at = [(side - 1) / 2 + off for side, off in zip(shape, centre, strict=True)]
    first = [round(detectors // 2 - place) for place in at]
    first = [int(np.clip(f, 0, detectors - s)) for f, s in zip(first, shape, strict=True)]
    down, right = (detectors // 2 - f - place for f, place in zip(first, at, strict=True))
    turned = np.deg2rad(np.asarray(angles, float))
    # The ray j of ours is at s = j - (D - 1) / 2 + offset from our centre of rotation.
    middle = offset - (detectors - 1) / 2 + detectors // 2
    shifts = middle + down * np.sin(turned) - right * np.cos(turned)
    image = sart(sinogram, angles, passes(views), clip=clip, shifts=shifts)
    return image[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]


def sirt(
    operator: Operator,
    shape: Sequence[int],
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "... M"] | None = None,
) -> Float[np.ndarray, "S H W C"]:
    """Simultaneous iterative reconstruction (Gilbert 1972) of images [S, *shape, C], not negative.

    With momentum (Nesterov 1983), by as many of `STEPS` steps as take some seconds. operator: of
    beams, or another without negative factors; measurements: line integrals [S, M, C]; weights: of
    every one, 0 where there is none; [S, M], or [M]: all signals alike. Raises ArgumentError for an
    operator that the grid cannot have.
    """
    on_grid = grid_operator.on_grid(operator, tuple(shape))
    values = jnp.asarray(measurements, jnp.float32)
    known = jnp.ones(values.shape[1], jnp.float32) if weights is None else jnp.asarray(weights)
    found = _iterated(on_grid, values, jnp.atleast_2d(known), _steps(on_grid, values))
    return np.asarray(found).reshape(len(values), *shape, -1)


def _steps(on_grid, values):
    """As many as the work allows, and at least a few."""
    numbers = on_grid.values.size + on_grid.column_values.size
    return int(np.clip(_WORK / (numbers * len(values) * values.shape[-1]), 8, STEPS))


@functools.partial(jax.jit, static_argnames="steps")
def _iterated(on_grid, values, known, steps):
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
