"""What a frozen dictionary cannot say, solved for on the grid after the codes.

Where there are many measurements the dictionary's span is the limit of a fit. Two ways past it:

grid   the image itself moves off the dictionary's, towards the measurements, under total variation
atoms  the atoms move, each on the grid, for all signals of a collection together: its rank stays

Both give a correction on the grid that is added to what the codes render.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax import numerics

KINDS = ("none", "grid", "atoms")

# Gradients of an image are compared with this step of brightness, which sets ADMM's stiffness.
_STEP = 0.05
_RELAXATION = 1.6
# Grids of at most so many points have their normal matrix factorised; larger ones use conjugate
# gradients, so many of them in every iteration.
_DENSE_POINTS = 4608
_CONJUGATE_STEPS = 8
_IDENTITY_COLUMNS = 256


def refine_grid(operator, shape, start, measurements, weights=None, *, tv, lam, steps, bounds=None):
    """Images near `start` that agree with their measurements and have little total variation.

    Minimises over x, for every signal and channel by itself,

        1/2 |W^(1/2) (A x - y)|^2 / d + lam/2 |x - start|^2 + tv TV(x)

    with d the mean energy of a grid point in the measurements, so that lam and tv are pure numbers
    for values in [0, 1]; TV sums the lengths of forward differences (Rudin, Osher and Fatemi
    1992). By ADMM (Boyd et al. 2011).

    Args:
      operator: on the grid (`operators.on_grid`).
      shape: of the grid.
      start: [S, P, C], what the codes render.
      measurements: [S, M, C].
      weights: None, [M] or [S, M].
      tv, lam: 0 or more, not both 0.
      steps: iterations.
      bounds: None or (low, high), what values may be.

    Returns:
      [S, P, C].

    Raises:
      ValueError: tv or lam negative or both 0, or no steps; names the key of the config.
    """
    _check_grid(tv, lam, steps)
    energy = _mean_energy(operator, weights)
    weights = jnp.ones(operator.num_measurements) if weights is None else jnp.asarray(weights)
    weights = jnp.broadcast_to(weights / energy, (len(start), operator.num_measurements))
    measurements = jnp.where(weights[..., None] > 0, measurements, 0)
    given = {"tv": jnp.float32(tv), "lam": jnp.float32(lam)}
    bounds = None if bounds is None else tuple(jnp.float32(b) for b in bounds)
    one_mask = bool((weights == weights[:1]).all())
    dense = one_mask and math.prod(shape) <= _DENSE_POINTS
    return _admm(
        operator, tuple(shape), start, measurements, weights, given, bounds, int(steps), dense
    )


def _check_grid(tv, lam, steps):
    for name, value in (("tv", tv), ("lam", lam)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"fit.refine.{name}: {value}; allowed: 0 or more")
    if not (tv or lam):
        raise ValueError("fit.refine.tv: 0, but fit.refine.lam is 0 too; one must be above 0")
    if steps < 1:
        raise ValueError(f"fit.refine.steps: {steps}; allowed: 1 or more")


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
def _admm(operator, shape, start, measurements, weights, given, bounds, steps, dense):
    tv, lam = given["tv"], given["lam"]
    stiffness = jnp.maximum(tv, 1e-3 * lam) / _STEP
    ties = jnp.float32(0.0 if bounds is None else 1.0)

    def normal(x):
        """Of the quadratic part: x [S, P, C]."""
        data = operator.adjoint(weights[..., None] * operator.measure(x))
        return data + lam * x + stiffness * (_divergence(_gradient(x, shape), shape) + ties * x)

    if dense:
        solve = _factorised(operator, shape, weights[0], lam, stiffness, ties)
    else:
        solve = functools.partial(_conjugate_gradients, normal)
    fixed = operator.adjoint(weights[..., None] * measurements) + lam * start

    def step(_, state):
        x, slopes, slopes_dual, inside, inside_dual = state
        right = _divergence(slopes - slopes_dual, shape) + ties * (inside - inside_dual)
        x = solve(fixed + stiffness * right, x)
        found = _RELAXATION * _gradient(x, shape) + (1 - _RELAXATION) * slopes
        slopes = _shortened(found + slopes_dual, tv / stiffness)
        slopes_dual = slopes_dual + found - slopes
        found = _RELAXATION * x + (1 - _RELAXATION) * inside
        inside = found + inside_dual
        if bounds is not None:
            inside = jnp.clip(inside, *bounds)
        inside_dual = inside_dual + found - inside
        return x, slopes, slopes_dual, inside, inside_dual

    slopes = _gradient(start, shape)
    state = (start, slopes, jnp.zeros_like(slopes), start, jnp.zeros_like(start))
    x, *_, inside, _ = jax.lax.fori_loop(0, steps, step, state)
    return x if bounds is None else inside


def _factorised(operator, shape, weights, lam, stiffness, ties):
    """A solver of the normal equations that all signals share, by one Cholesky factor."""
    points = math.prod(shape)
    size = min(_IDENTITY_COLUMNS, points)
    blocks = -(-points // size)

    def columns(block):
        unit = jax.nn.one_hot(block * size + jnp.arange(size), points).T[None]
        seen = operator.adjoint(weights[:, None] * operator.measure(unit))
        return (seen + stiffness * _divergence(_gradient(unit, shape), shape))[0].T

    matrix = jax.lax.map(columns, jnp.arange(blocks)).reshape(-1, points)[:points]
    matrix = (matrix + matrix.T) / 2 + (lam + stiffness * ties + 1e-6) * jnp.eye(points)
    factor = jax.scipy.linalg.cho_factor(matrix)
    inverse = jax.scipy.linalg.cho_solve(factor, jnp.eye(points))
    inverse = (inverse + inverse.T) / 2

    def solve(right, _):
        return numerics.einsum("pq,sqc->spc", inverse, right)

    return solve


def _conjugate_gradients(normal, right, x):
    """A few steps from x, for every signal and channel apart."""

    def dot(a, b):
        return jnp.sum(a * b, 1, keepdims=True)

    def step(_, state):
        x, residual, direction, square = state
        image = normal(direction)
        length = numerics.safe_divide(square, dot(direction, image))
        x, residual = x + length * direction, residual - length * image
        new = dot(residual, residual)
        return x, residual, residual + numerics.safe_divide(new, square) * direction, new

    residual = right - normal(x)
    state = (x, residual, residual, dot(residual, residual))
    return jax.lax.fori_loop(0, _CONJUGATE_STEPS, step, state)[0]


def _gradient(x, shape):
    """Forward differences, zero after the last sample. [S, P, C] -> [S, D, P, C]."""
    grid = x.reshape(len(x), *shape, -1)
    slopes = []
    for axis in range(1, len(shape) + 1):
        edge = jax.lax.slice_in_dim(grid, grid.shape[axis] - 1, None, axis=axis)
        slopes.append(jnp.diff(grid, axis=axis, append=edge).reshape(x.shape))
    return jnp.stack(slopes, 1)


def _divergence(slopes, shape):
    """The transpose of `_gradient`. [S, D, P, C] -> [S, P, C]."""
    total = 0.0
    for number, axis in enumerate(range(1, len(shape) + 1)):
        grid = slopes[:, number].reshape(len(slopes), *shape, -1)
        inner = jax.lax.slice_in_dim(grid, 0, grid.shape[axis] - 1, axis=axis)
        widths = [(0, 0)] * grid.ndim
        widths[axis] = (1, 1)
        total = total - jnp.diff(jnp.pad(inner, widths), axis=axis)
    return total.reshape(slopes.shape[0], *slopes.shape[2:])


def _shortened(slopes, amount):
    """Slopes [S, D, P, C] with their length reduced by `amount`, to zero at least."""
    length = jnp.sqrt(jnp.square(slopes).sum(1, keepdims=True))
    return slopes * numerics.safe_divide(jnp.maximum(length - amount, 0), length)


@functools.partial(jax.jit, static_argnames="steps")
def refine_atoms(codes, residual, weights=None, *, lam=1e-6, steps=30):
    """A change of atoms and mean on the grid that best explains residuals, in absolute value.

    codes [S, E], residual [S, P, C] (measured minus rendered, on the grid), weights None, [P] or
    [S, P]. -> correction [S, P, C] = codes @ change of atoms [E, P, C] + change of the mean [P, C].
    Every grid point is a least-absolute-deviations regression of its own, by reweighting
    (Holland and Welsch 1977), so what is there in fewer than half the signals does not enter.
    lam: penalty on the change, relative.
    """
    signals, points, channels = residual.shape
    design = jnp.concatenate([codes, jnp.ones((signals, 1))], 1)
    # Orthonormal, so that dependent codes do no harm and the penalty weighs all alike.
    design, sizes, _ = jnp.linalg.svd(design, full_matrices=False)
    design = jnp.where(sizes > 1e-5 * sizes[0], design, 0)
    seen = jnp.ones(points) if weights is None else weights
    seen = jnp.broadcast_to(seen, (signals, points))[..., None]
    residual = jnp.where(seen > 0, residual, 0)
    flat = residual.reshape(signals, -1)
    known = jnp.broadcast_to(seen, residual.shape).reshape(signals, -1)
    floor = 1e-3 * jnp.maximum(jnp.abs(flat).mean(), 1e-6)

    def step(_, correction):
        weight = known / jnp.maximum(jnp.abs(flat - correction), floor)
        matrix = jnp.einsum("sv,se,sf->vef", weight, design, design, precision="highest")
        size = jnp.trace(matrix, axis1=-2, axis2=-1)[:, None, None] / design.shape[1]
        matrix = matrix + jnp.maximum(lam * size, 1e-12) * jnp.eye(design.shape[1])
        right = jnp.einsum("sv,se->ve", weight * flat, design, precision="highest")
        change = jax.scipy.linalg.solve(matrix, right[..., None], assume_a="pos")[..., 0]
        return numerics.einsum("se,ve->sv", design, change)

    correction = jax.lax.fori_loop(0, steps, step, jnp.zeros_like(flat))
    return correction.reshape(residual.shape)
