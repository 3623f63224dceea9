"""What a frozen dictionary cannot say, by low rank: many signals refined together.

Where there are many measurements the dictionary's span is the limit of a fit. Here the atoms move,
each free on the grid, for all signals of a collection together, and with them the few factors that
say how much of each a signal has: an image of low rank, and what stands out from it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.coding import checks
from nid_jax.coding.operators import Operator, combined_weights
from nid_jax.errors import ArgumentError

# Numbers of a chunk of the grid's regressions.
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
# A further direction must exceed so many times the median singular value of the residual.
_OVER_NOISE = 2.0
# It stays where it foretells frames held out in so many runs, by more than this in the mean loss.
_FOLDS = 3
_FORETOLD = 0.01
# Ridge of a value's regression without the frames held out, relative to what they hold.
_HELD_OUT_RIDGE = 1e-3
_NOTHING = 1e-6


@dataclasses.dataclass(frozen=True)
class LowRank:
    """Images of low rank near a start from which most measurements hardly differ.

    Images [S, V] are a product of temporal factors [S, R] and atoms [R, V], both free on the grid.
    The first of each is the leading one of what the codes render; a further one is the leading
    direction of the residual, foreground apart, and enters once the others have settled. In between
    factors and atoms alternate (Ke and Kanade 2005 for the absolute error): every value of the grid
    is a robust regression over the signals, and every signal one over the grid. A third of the
    rounds minimises absolute errors; the rest Tukey's biweight (Beaton and Tukey 1974), whose width
    shrinks (Blake and Zisserman 1987) to 4.685 times the noise, so that in the end what stands out
    has no weight and the rest is averaged about as well as by least squares. Each round reweights
    once (Holland and Welsch 1977).

    The noise of a lossy video is no white noise: it has directions of its own, and so have the
    traces of what moves. Neither says anything of other frames. So with rank 0 a direction stays
    only if it foretells frames that its atom has not seen: signals are held out in thirds, runs of
    neighbours, each value's regression is done without them, and the mean of log(1 + (residual /
    noise)^2) over what was held out has to fall (cross-validation of two ways, after Owen and
    Perry 2009, under Cauchy's loss).

    Raises ArgumentError, naming the field, for one that is out of range.
    """

    rank: int = 0
    """R, a whole number, at most S or P C; 0: directions enter as long as they stand out from the
    noise and foretell signals held out, but not more than the start has singular values above
    `share` of its largest."""
    share: float = 0.001
    """Of the largest singular value, what a direction must exceed; above 0, below 1."""
    steps: int = 20
    """Rounds after each direction, 1 or more."""

    def __post_init__(self):
        object.__setattr__(self, "rank", checks.whole("rank", self.rank, 0))
        allowed = "above 0, below 1"
        checks.numbers("share", self.share, lambda v: (v > 0) & (v < 1), allowed, known=True)
        object.__setattr__(self, "steps", checks.whole("steps", self.steps, 1))

    def refine(
        self,
        operator: Operator,
        shape: Sequence[int],
        start: Float[Array, "S P C"],
        measurements: Float[Array, "S P C"],
        weights: Float[Array | np.ndarray, "..."] | None = None,
    ) -> Float[Array, "S P C"]:
        """Images [S, P, C] on the grid, of rank R at most; zeros for a start of zeros.

        Args:
          operator: on the grid, a sample or a mask of all of it.
          shape: of the grid.
          start: what the codes render.
          measurements: values of every grid point. Those of weight 0 are not read.
          weights: None, [P] or [S, P], on top of the operator's own. A grid point that was seen in
            no signal keeps the start's projection on its leading factor.

        Raises:
          ArgumentError: measurements are not one for every grid point.
          ValueError: weights of another shape, negative or not finite.
        """
        size = np.shape(start)
        if np.shape(measurements) != size or size[1] != np.prod(shape):
            words = f"{list(size)}, values of every point of the grid {list(shape)}"
            raise ArgumentError("measurements", list(np.shape(measurements)), words)
        weights = combined_weights(operator, weights)
        first = np.asarray(start, np.float32).reshape(len(start), -1)
        known = np.ones(size[:2], np.float32) if weights is None else np.asarray(weights)
        known = np.broadcast_to(np.broadcast_to(known, size[:2])[..., None], size)
        known = known.reshape(first.shape)
        values = np.asarray(measurements, np.float32).reshape(first.shape)
        return jnp.asarray(self._factorised(first, np.where(known > 0, values, 0), known, size))

    def _factorised(self, start, values, known, size):
        """start, values and known [S, V] -> [S, V] of low rank, shaped as `size`."""
        sizes, vectors = _left_singular(start.astype(np.float64) @ start.T)
        largest = self.rank or int((sizes > self.share * sizes[0]).sum())
        largest = min(largest, *start.shape)
        if sizes[0] <= 0 or not (known > 0).any():
            return (vectors[:, :largest] @ (vectors[:, :largest].T @ start)).reshape(size)
        chunks = _Chunks(_chunked(values, largest), _chunked(known, largest))
        factors = vectors[:, :1]
        atoms, factors = _chunked(factors.T @ start, largest), jnp.asarray(factors)
        atoms, factors = _alternate(atoms, factors, chunks, int(self.steps))
        while factors.shape[1] < largest:
            share = 0.0 if self.rank else self.share
            further = _further_factor(atoms, factors, chunks, share)
            if further is None:
                break
            grown = jnp.pad(atoms, ((0, 0), (0, 0), (0, 1))), jnp.concatenate([factors, further], 1)
            grown = _alternate(*grown, chunks, int(self.steps))
            if share and not _foretells((atoms, factors), grown, chunks):
                break
            atoms, factors = grown
        atoms = np.asarray(atoms).reshape(-1, factors.shape[1])[: start.shape[1]]
        return (np.asarray(factors) @ atoms.T).reshape(size)


class _Chunks(NamedTuple):
    """Measured values and their weights, each [N, m, S]: N chunks of m values of the grid."""

    values: jax.Array
    known: jax.Array


def _chunked(rows, rank):
    """[K, V] -> [N, m, K], padded with zeros: chunks whose matrices [m, R, R] can be held."""
    most = max(1, _HELD_NUMBERS // (_SIGNALS_HELD + rank**2))
    return jnp.asarray(numerics.cut(rows.T, numerics.even_size(rows.shape[1], most)))


def _left_singular(gram):
    """Singular values, largest first, and left vectors [S, S] of a matrix with this Gram matrix."""
    squares, vectors = np.linalg.eigh(np.asarray(gram, np.float64))
    sizes = np.sqrt(np.maximum(squares[::-1], 0))
    return sizes, vectors[:, ::-1].astype(np.float32)


def _further_factor(atoms, factors, chunks, share):
    """The leading left singular vector [S, 1] of the residual, or None where none stands out.

    To stand out, above share 0, it has to exceed `share` of the largest singular value that there
    is, and twice the median one of the rest: those of noise alone lie close together.
    """
    gram, size = _residual_gram(atoms, factors, chunks)
    sizes, vectors = _left_singular(gram)
    # The factors themselves have no residual.
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


def _foretells(few, more, chunks):
    """Whether factors and atoms `more` foretell signals held out better than `few` do."""
    count = len(few[1])
    if count - -(-count // _FOLDS) < more[1].shape[1]:
        return True  # too few signals to hold any out
    width, _ = _biweight_widths(_residual(few[0], few[1], chunks), chunks)
    noise = width / _TUKEY
    before, after = (float(_loss_held_out(*pair, chunks, noise)) for pair in (few, more))
    return after < before - _FORETOLD


@jax.jit
def _loss_held_out(atoms, factors, chunks, noise):
    """Mean Cauchy loss of signals that were held out of the atoms' regressions, in turn.

    Runs of neighbours, without a seed: frames beside one another are alike, and one would foretell
    the other."""
    values, known = chunks
    count, rank = factors.shape
    width, _ = _biweight_widths(_residual(atoms, factors, chunks), chunks)
    pairs = (factors[:, :, None] * factors[:, None, :]).reshape(count, -1)
    fold = jnp.arange(count) * _FOLDS // count

    def step(total, piece):
        rows, values, known = piece
        weight = known * _biweight(width, values - numerics.einsum("mr,sr->ms", rows, factors))
        losses = jnp.zeros_like(values)
        for number in range(_FOLDS):
            seen = weight * (fold != number)
            matrix = numerics.einsum("ms,sq->mq", seen, pairs)
            right = numerics.einsum("ms,sr->mr", seen * values, factors)
            found = _newton_step(jnp.zeros_like(rows), matrix, right, _HELD_OUT_RIDGE)
            error = (values - numerics.einsum("mr,sr->ms", found, factors)) / noise
            losses = jnp.where(fold == number, jnp.log1p(error**2), losses)
        return total + (known * losses).sum(), None

    total, _ = jax.lax.scan(step, 0.0, (atoms, values, known))
    return total / known.sum()


@jax.jit
def _residual_gram(atoms, factors, chunks):
    """Gram matrix [S, S] of the robustly weighted residual; the model's largest singular value."""
    residual = _residual(atoms, factors, chunks)
    width, _ = _biweight_widths(residual, chunks)
    weighted = chunks.known * _biweight(width, residual) * residual
    gram = jnp.einsum("nms,nmt->st", weighted, weighted, precision="highest")
    return gram, jnp.sqrt(jnp.square(atoms).sum((0, 1)).max())


def _residual(atoms, factors, chunks):
    return chunks.values - jnp.einsum("nmr,sr->nms", atoms, factors, precision="highest")


def _biweight_widths(residual, chunks):
    """The biweight's width for the noise in residuals [N, m, S], and the least that is allowed."""
    values, known = chunks
    size = jnp.sqrt((known * values**2).sum() / known.sum())
    least = _LEAST_WIDTH * jnp.where(size > 0, size, 1.0)
    errors = jnp.where(known > 0, jnp.abs(residual), jnp.nan)
    some = errors[:, :: -(-errors.size // _MEDIAN_NUMBERS)]
    noise = jnp.nan_to_num(_GAUSSIAN_MAD * jnp.nanmedian(some))
    return jnp.maximum(_TUKEY * noise, least), least


@functools.partial(jax.jit, static_argnames="steps")
def _alternate(atoms, factors, chunks, steps):
    """`steps` rounds of robust alternating least squares. atoms [N, m, R], factors [S, R]."""
    known = chunks.known
    absolute = -(-steps // 3)

    def residual_of(carry):
        atoms, factors = carry
        return _residual(atoms, factors, chunks)

    def orthogonal_round(weigh, carry):
        atoms, factors = _reweighted_round(weigh, carry, chunks)
        factors, turn = jnp.linalg.qr(factors)
        return jnp.einsum("nmr,qr->nmq", atoms, turn, precision="highest"), factors

    least = _biweight_widths(residual_of((atoms, factors)), chunks)[1]
    floor = _SMALLEST_RESIDUAL / _LEAST_WIDTH * least

    def absolute_round(_, carry):
        return orthogonal_round(lambda r: floor / jnp.maximum(jnp.abs(r), floor), carry)

    carry = jax.lax.fori_loop(0, absolute, absolute_round, (atoms, factors))
    squares = jnp.square(residual_of(carry))
    first = jnp.maximum(_FIRST_WIDTH * jnp.sqrt((known * squares).sum() / known.sum()), least)

    def biweight_round(step, carry):
        noise, least = _biweight_widths(residual_of(carry), chunks)
        shrunk = first * (least / first) ** (jnp.float32(step) / max(steps - absolute - 1, 1))
        return orthogonal_round(functools.partial(_biweight, jnp.maximum(shrunk, noise)), carry)

    return jax.lax.fori_loop(0, steps - absolute, biweight_round, carry)


def _biweight(width, residual):
    """Tukey's weights. A little is left beyond the width, for who has nothing within it."""
    ratio = jnp.abs(residual) / width
    inside = jnp.square(jnp.maximum(1 - ratio**2, 0))
    return inside + _OUTSIDE / jnp.maximum(ratio, 1)


def _reweighted_round(weigh, carry, chunks):
    """Atoms, then factors, one weighted least-squares step each from where they are."""
    atoms, factors = carry
    rank = factors.shape[1]

    def outer(rows):
        return (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)

    pairs = outer(factors)

    def step(sums, piece):
        rows, values, known = piece
        residual = values - numerics.einsum("mr,sr->ms", rows, factors)
        weight = known * weigh(residual)
        right = numerics.einsum("ms,sr->mr", weight * residual, factors)
        rows = _newton_step(rows, numerics.einsum("ms,sq->mq", weight, pairs), right)
        residual = values - numerics.einsum("mr,sr->ms", rows, factors)
        weight = known * weigh(residual)
        matrix = numerics.einsum("ms,mq->sq", weight, outer(rows))
        right = numerics.einsum("ms,mr->sr", weight * residual, rows)
        return (sums[0] + matrix, sums[1] + right), rows

    zeros = (jnp.zeros((len(factors), rank**2), factors.dtype), jnp.zeros_like(factors))
    (matrix, right), atoms = jax.lax.scan(step, zeros, (atoms, *chunks))
    return atoms, _newton_step(factors, matrix, right)


def _newton_step(rows, matrix, right, ridge=_STABILITY):
    """rows + matrix^-1 right [K, R], and the rows themselves where the matrix [R^2] is zero."""
    rank = rows.shape[1]
    matrix = matrix.reshape(-1, rank, rank)
    level = jnp.trace(matrix, axis1=-2, axis2=-1)[:, None, None] / rank
    matrix = matrix + jnp.where(level > 0, ridge * level, 1.0) * jnp.eye(rank, dtype=matrix.dtype)
    factor = jnp.linalg.cholesky(matrix)
    solved = jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]
    return rows + jnp.where(jnp.isfinite(solved), solved, 0)
