"""What a frozen dictionary cannot say, solved for on the grid after the codes.

Where there are many measurements the dictionary's span is the limit of a fit. Two ways past it:

grid   the image itself moves off the dictionary's, towards the measurements, under total variation
atoms  the atoms move, each on the grid, for all signals of a collection together, and with them the
       few factors that say how much of each a signal has: an image of low rank, and the rest

Both start from what the codes render, and give images on the grid.
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

# Of `refine_atoms`. Numbers of a chunk of the grid's regressions.
_HELD_NUMBERS = 2**22
_SIGNALS_HELD = 64
# Residuals below it weigh alike under the absolute error; relative to the measurements' size.
_SMALLEST_RESIDUAL = 2e-3
# Biweight: its first width, in residuals' root mean square, its last, relative to the measurements'
# size, and in deviations of the noise: 95% as efficient as least squares where that is Gaussian.
_FIRST_WIDTH = 2.0
_LEAST_WIDTH = 3e-3
_TUKEY = 4.685
_OUTSIDE = 1e-4
# A Gaussian's standard deviation over its median absolute deviation, and how many residuals tell.
_GAUSSIAN_MAD = 1.4826
_MEDIAN_NUMBERS = 2**16
_STABILITY = 1e-6
# A further direction must exceed so many times the median of what is left over.
_OVER_NOISE = 2.0
_NOTHING = 1e-6


def refine_grid(operator, shape, start, measurements, weights=None, *, tv, lam, steps, bounds=None):
    """Images near `start` that agree with their measurements and have little total variation.

    Minimises over x, for every signal and channel by itself,

        1/2 |W^(1/2) (A x - y)|^2 / d + lam/2 |x - start|^2 + tv TV(x)

    with d the mean energy of a grid point in the measurements, so that lam and tv are pure numbers
    for values in [0, 1]; TV sums the lengths of forward differences (Rudin, Osher and Fatemi
    1992). By ADMM (Boyd et al. 2011).

    Args:
      operator: on the grid (`grid_operator.on_grid`).
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


def refine_atoms(start, measurements, weights=None, *, rank=0, share=0.001, steps=20):
    """Images of low rank near `start` from which most measurements hardly differ.

    Images [S, V] are a product of temporal factors [S, R] and atoms [R, V], both free on the grid.
    The first of each is the leading one of what the codes render; a further one is the leading
    direction of what the others leave over, foreground apart, and enters once they have settled.
    In between factors and atoms alternate (Ke and Kanade 2005 for the absolute error): every value
    of the grid is a robust regression over the signals, and every signal one over the grid. A
    third of the rounds minimises absolute errors; the rest Tukey's biweight (Beaton and Tukey
    1974), whose width shrinks (Blake and Zisserman 1987) to 4.685 times the noise, so that in the
    end what stands out has no weight and the rest is averaged about as well as by least squares.
    Each round reweights once (Holland and Welsch 1977).

    Args:
      start: [S, P, C], what the codes render.
      measurements: [S, P, C], values of every grid point. Those of weight 0 are not read.
      weights: None, [P] or [S, P]. A grid point that was seen in no signal keeps the start's
        projection on its leading factor.
      rank: R, at most S or P C; 0: directions enter as long as they stand out from the noise, but
        not more than `start` has singular values above `share` of its largest.
      share: of the largest singular value, what a direction must exceed; above 0, below 1.
      steps: rounds after each direction.

    Returns:
      [S, P, C] of rank R at most; zeros for a start of zeros.

    Raises:
      ValueError: rank, share or steps out of range; names the key of the config.
    """
    check_atoms(rank, share, steps)
    shape = start.shape
    start = np.asarray(start, np.float32).reshape(len(start), -1)
    known = np.ones(shape[:2], np.float32) if weights is None else np.asarray(weights, np.float32)
    known = np.broadcast_to(np.broadcast_to(known, shape[:2])[..., None], shape)
    known = known.reshape(start.shape)
    values = np.asarray(measurements, np.float32).reshape(start.shape)
    values = np.where(known > 0, values, 0)
    sizes, vectors = _left_directions(start.astype(np.float64) @ start.T)
    largest = min(rank or int((sizes > share * sizes[0]).sum()), *start.shape)
    if sizes[0] <= 0 or not (known > 0).any():
        return jnp.asarray((vectors[:, :largest] @ (vectors[:, :largest].T @ start)).reshape(shape))
    pieces = _cut(values, largest), _cut(known, largest)
    factors = vectors[:, :1]
    atoms, factors = _cut(factors.T @ start, largest), jnp.asarray(factors)
    while True:
        atoms, factors = _alternate(atoms, factors, pieces, int(steps))
        more = None
        if factors.shape[1] < largest:
            more = _next_factor(atoms, factors, pieces, 0.0 if rank else share)
        if more is None:
            break
        factors = jnp.concatenate([factors, more], 1)
        atoms = jnp.pad(atoms, ((0, 0), (0, 0), (0, 1)))
    atoms = np.asarray(atoms).reshape(-1, factors.shape[1])[: start.shape[1]]
    return jnp.asarray((np.asarray(factors) @ atoms.T).reshape(shape))


def _cut(rows, rank):
    """[K, V] -> [N, m, K], padded with zeros: chunks whose matrices [m, R, R] can be held."""
    count, total = len(rows), rows.shape[1]
    chunks = -(-total // max(1, _HELD_NUMBERS // (_SIGNALS_HELD + rank**2)))
    size = -(-total // chunks)
    return jnp.asarray(
        np.pad(rows.T, ((0, chunks * size - total), (0, 0))).reshape(chunks, size, count)
    )


def _left_directions(gram):
    """Singular values, largest first, and left vectors [S, S] of a matrix with this Gram matrix."""
    squares, vectors = np.linalg.eigh(np.asarray(gram, np.float64))
    sizes = np.sqrt(np.maximum(squares[::-1], 0))
    return sizes, vectors[:, ::-1].astype(np.float32)


def _next_factor(atoms, factors, pieces, share):
    """The leading direction [S, 1] of what is left over, or None where none stands out.

    To stand out, above share 0, it has to exceed `share` of the largest singular value that there
    is, and twice the median one of the rest: those of noise alone lie close together.
    """
    gram, size = _left_over(atoms, factors, pieces)
    sizes, vectors = _left_directions(gram)
    # The factors themselves have nothing left over.
    rest = sizes[: max(len(sizes) - factors.shape[1], 1)]
    if not sizes[0] > max(share, _NOTHING) * float(size):
        return None
    if share and not sizes[0] > _OVER_NOISE * np.median(rest):
        return None
    new = vectors[:, :1]
    for _ in range(2):
        new = new - np.asarray(factors) @ (np.asarray(factors).T @ new)
        length = np.linalg.norm(new)
        if not length > 0.1:
            return None
        new = new / length
    return jnp.asarray(new, jnp.float32)


@jax.jit
def _left_over(atoms, factors, pieces):
    """Gram matrix [S, S] of weighted residuals, foreground apart; the largest singular value."""
    residual = _residual(atoms, factors, pieces)
    width, _ = _widths(residual, pieces)
    left = pieces[1] * _biweight(width, residual) * residual
    gram = jnp.einsum("nms,nmt->st", left, left, precision="highest")
    return gram, jnp.sqrt(jnp.square(atoms).sum((0, 1)).max())


def check_atoms(rank, share, steps):
    """Raise ValueError, naming the key of the config, for options that `refine_atoms` refuses."""
    if int(rank) != rank or rank < 0:
        raise ValueError(f"fit.refine.rank: {rank}; allowed: 0 or more, a whole number")
    if not 0 < share < 1:
        raise ValueError(f"fit.refine.share: {share}; allowed: above 0, below 1")
    if steps < 1:
        raise ValueError(f"fit.refine.steps: {steps}; allowed: 1 or more")


def _residual(atoms, factors, pieces):
    return pieces[0] - jnp.einsum("nmr,sr->nms", atoms, factors, precision="highest")


def _widths(residual, pieces):
    """The biweight's width for the noise in residuals [N, m, S], and the least that is allowed."""
    values, known = pieces
    size = jnp.sqrt((known * values**2).sum() / known.sum())
    least = _LEAST_WIDTH * jnp.where(size > 0, size, 1.0)
    errors = jnp.where(known > 0, jnp.abs(residual), jnp.nan)
    some = errors[:, :: -(-errors.size // _MEDIAN_NUMBERS)]
    noise = jnp.nan_to_num(_GAUSSIAN_MAD * jnp.nanmedian(some))
    return jnp.maximum(_TUKEY * noise, least), least


@functools.partial(jax.jit, static_argnames="steps")
def _alternate(atoms, factors, pieces, steps):
    """`steps` rounds. atoms [N, m, R], factors [S, R], pieces: values and weights [N, m, S]."""
    known = pieces[1]
    absolute = -(-steps // 3)

    def round_of(weigh, carry):
        atoms, factors = _one_round(weigh, *carry, pieces)
        factors, turn = jnp.linalg.qr(factors)
        return jnp.einsum("nmr,qr->nmq", atoms, turn, precision="highest"), factors

    start = _residual(atoms, factors, pieces)
    least = _widths(start, pieces)[1]
    floor = _SMALLEST_RESIDUAL / _LEAST_WIDTH * least

    def by_size(_, carry):
        return round_of(lambda r: floor / jnp.maximum(jnp.abs(r), floor), carry)

    carry = jax.lax.fori_loop(0, absolute, by_size, (atoms, factors))
    squares = jnp.square(_residual(*carry, pieces))
    first = jnp.maximum(_FIRST_WIDTH * jnp.sqrt((known * squares).sum() / known.sum()), least)

    def by_width(step, carry):
        noise, least = _widths(_residual(*carry, pieces), pieces)
        shrunk = first * (least / first) ** (step / max(steps - absolute - 1, 1))
        return round_of(functools.partial(_biweight, jnp.maximum(shrunk, noise)), carry)

    return jax.lax.fori_loop(0, steps - absolute, by_width, carry)


def _biweight(width, residual):
    """Tukey's weights. A little is left beyond the width, for who has nothing within it."""
    ratio = jnp.abs(residual) / width
    inside = jnp.square(jnp.maximum(1 - ratio**2, 0))
    return inside + _OUTSIDE / jnp.maximum(ratio, 1)


def _one_round(weigh, atoms, factors, pieces):
    """Atoms, then factors, one weighted least-squares step each from where they are."""
    rank = factors.shape[1]

    def squares(rows):
        return (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)

    def improved(rows, matrix, right):
        """rows + matrix^-1 right, and the rows themselves where the matrix is zero."""
        matrix = matrix.reshape(-1, rank, rank)
        level = jnp.trace(matrix, axis1=-2, axis2=-1)[:, None, None] / rank
        matrix = matrix + jnp.where(level > 0, _STABILITY * level, 1.0) * jnp.eye(rank)
        factor = jnp.linalg.cholesky(matrix)
        solved = jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]
        return rows + jnp.where(jnp.isfinite(solved), solved, 0)

    both = squares(factors)

    def step(sums, piece):
        rows, values, known = piece
        residual = values - numerics.einsum("mr,sr->ms", rows, factors)
        weight = known * weigh(residual)
        right = numerics.einsum("ms,sr->mr", weight * residual, factors)
        rows = improved(rows, numerics.einsum("ms,sq->mq", weight, both), right)
        residual = values - numerics.einsum("mr,sr->ms", rows, factors)
        weight = known * weigh(residual)
        matrix = numerics.einsum("ms,mq->sq", weight, squares(rows))
        right = numerics.einsum("ms,mr->sr", weight * residual, rows)
        return (sums[0] + matrix, sums[1] + right), rows

    zeros = (jnp.zeros((len(factors), rank**2)), jnp.zeros_like(factors))
    (matrix, right), atoms = jax.lax.scan(step, zeros, (atoms, *pieces))
    return atoms, improved(factors, matrix, right)
