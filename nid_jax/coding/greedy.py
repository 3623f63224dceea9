"""Codes with exactly K atoms: orthogonal matching pursuit and hard thresholding, on Gram matrices.

Atoms compete as unit vectors, free of their mean (the bias is already eliminated from the normal
equations), and the codes of the chosen ones are their least squares solution.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nid_jax import numerics, platforms
from nid_jax.coding import checks
from nid_jax.errors import ArgumentError

CRITERIA = ("correlation", "gain")

# An atom that lies within this squared sine of the span of those chosen adds only rounding error.
RANK_TOLERANCE = 1e-5
# Correlations below this cosine with the signal are rounding of the float32 moments.
_SILENCE = 1e-6
# The rows grow in stages, so that early steps do not read those of later ones: a third of the time,
# for as many times the compilation. Not worth it for few numbers.
_STAGES = 4
_STAGED_NUMBERS = 2**12


class SparseCodes(NamedTuple):
    """Codes and where they are not zero.

    codes [S, E]; indices int32 [S, K] and weights [S, K], the codes at them; chosen bool [S, K]:
    False where a signal ran out of independent atoms, with index -1 and weight 0 there.
    """

    codes: jax.Array
    indices: jax.Array
    weights: jax.Array
    chosen: jax.Array


def omp_codes(
    equations, top_k, atoms_per_step=1, criterion="correlation", block=0, candidates=None
):
    """Orthogonal matching pursuit on Gram matrices, all signals at once.

    A step takes the atom that correlates best with the residual (Pati et al. 1993) and updates the
    correlations through the Cholesky factor of the chosen atoms, which grows by a row (Rubinstein
    et al. 2008). What is kept is the factor's inverse times the Gram matrix: rows D, each the
    correlations of one orthogonalised atom with every atom. So a step is one product of k numbers
    with k rows, and the distance of every atom to the span of the chosen ones comes free: those
    too near (RANK_TOLERANCE) do not compete.

    Args:
      equations: NormalEquations of S signals.
      top_k: K atoms for each signal, 1 <= K <= E. A signal gets fewer when no further atom is
        independent of those it has, or when nothing is left to explain.
      atoms_per_step: take the best few at once (generalised OMP, Wang et al. 2012): cheaper, a
        little worse. One that turns out dependent on the others of its step leaves its slot empty.
      criterion: 'correlation', or 'gain': the atom that lowers the squared residual most (order
        recursive matching pursuit, also orthogonal least squares), at the same cost.
      block: signals at a time; 0 chooses.
      candidates: int [S, N], distinct: the atoms that a signal's own are taken from; None: all.

    Returns:
      SparseCodes; indices in the order of choice.

    Raises:
      ArgumentError: top_k, atoms_per_step or criterion outside what is allowed.
    """
    _check_top_k(top_k, (equations.moments if candidates is None else candidates).shape[-1])
    if not 1 <= atoms_per_step <= top_k:
        raise ArgumentError("atoms_per_step", atoms_per_step, f"1 to top_k={top_k}")
    checks.one_of("criterion", criterion, CRITERIA)
    if not block:
        block = _block(equations, top_k)
    return _omp(equations, candidates, top_k, atoms_per_step, criterion, block)


def _block(equations, top_k):
    """Signals at a time: each holds rows [k, E], and a matrix [E, E] where it has its own."""
    sizes, (signals, experts) = platforms.sizes(), equations.moments.shape
    numbers = experts * (top_k if equations.shared else top_k + experts)
    return sizes.pursued or numerics.even_size(signals, max(1, sizes.held // numbers))


@functools.partial(jax.jit, static_argnames=("top_k", "atoms_per_step", "criterion", "block"))
def _omp(equations, candidates, top_k, atoms_per_step, criterion, block):
    own = {"moments": equations.moments, "energy": equations.energy}
    if not equations.shared:
        own["gram"] = equations.gram
    if candidates is not None:
        own["candidates"] = candidates

    def one_block(piece):
        gram = equations.gram if equations.shared else piece["gram"]
        moments, few = piece["moments"], piece.get("candidates")
        if few is not None:
            gram, moments = _among(gram, few), _at(moments, few)
        pursuit = _Pursuit(gram, criterion, atoms_per_step)
        state = pursuit.run(moments, piece["energy"], top_k)
        weights = _weights(gram, moments, state, top_k)
        indices = state.indices[:, :top_k]
        if few is not None:
            indices = _at(few, indices)
        return indices, weights, state.chosen[:, :top_k]

    signals = equations.moments.shape[0]
    return _sparse(*_in_blocks(one_block, own, signals, block), equations.moments)


def _sparse(indices, weights, chosen, like):
    codes = _scatter(indices, weights, like)
    return SparseCodes(codes, jnp.where(chosen, indices, -1), weights, chosen)


def _in_blocks(function, arrays, signals, block):
    """Apply `function` to blocks of signals, one after another. Leaves [S, ...] -> [S, ...]."""
    if signals <= block:
        return function(arrays)
    values = jax.lax.map(function, jax.tree.map(lambda a: numerics.cut(a, block), arrays))
    return jax.tree.map(lambda v: numerics.joined(v, signals), values)


class _State(NamedTuple):
    """correlations [S, E] of atoms with the residual; distance [S, E]: squared norm of each atom
    outside the span of the chosen ones; rows [S, k, E]: correlations of the orthonormal atoms with
    all; indices, chosen, coordinates [S, k]: choice, whether made, the signal along it."""

    correlations: jax.Array
    distance: jax.Array
    rows: jax.Array
    indices: jax.Array
    chosen: jax.Array
    coordinates: jax.Array


class _Pursuit:
    """The loop of `omp_codes` for one block of signals. gram [E, E] or [S, E, E]."""

    def __init__(self, gram, criterion, atoms_per_step):
        self.gram, self.criterion, self.step_size = gram, criterion, atoms_per_step
        self.square_norm = jnp.maximum(jnp.diagonal(gram, axis1=-2, axis2=-1), 0)

    def run(self, moments, energy, top_k):
        signals, experts = moments.shape
        square_norm = jnp.broadcast_to(self.square_norm, moments.shape)
        self.silence = _SILENCE * jnp.sqrt(energy)[:, None]
        self.inverse_norm = _inverse_root(square_norm)
        steps = -(-top_k // self.step_size)
        slots = steps * self.step_size
        stage = -(-steps // (_STAGES if slots * experts >= _STAGED_NUMBERS else 1))
        none = jnp.zeros((signals, slots), moments.dtype)
        state = _State(
            moments,
            square_norm,
            jnp.zeros((signals, 0, experts), moments.dtype),
            none.astype(jnp.int32),
            none.astype(bool),
            none,
        )
        for first in range(0, steps, stage):
            last = min(first + stage, steps)
            grown = (0, (last - first) * self.step_size)
            state = state._replace(rows=jnp.pad(state.rows, ((0, 0), grown, (0, 0))))
            step = functools.partial(self._step, top_k=top_k)
            state = jax.lax.fori_loop(first, last, step, state)
        return state

    def _scores(self, state):
        square_norm = self.square_norm
        free = state.distance > RANK_TOLERANCE * square_norm
        cosine = jnp.abs(state.correlations) * self.inverse_norm
        worth = free & (cosine > self.silence)
        if self.criterion == "gain":
            cosine = jnp.abs(state.correlations) * _inverse_root(state.distance)
        return jnp.where(worth, cosine, -1.0)

    def _step(self, step, state, top_k):
        """Choose the atoms of one step, make them orthonormal to the rest, and remove them."""
        scores = self._scores(state)
        best, picks = _largest(scores, self.step_size)
        if self.gram.ndim == 2:
            new = self.gram[picks]
        else:
            new = jnp.take_along_axis(self.gram, picks[:, :, None], axis=1)
        known = jnp.take_along_axis(state.rows, picks[:, None, :], axis=2)
        new = new - numerics.einsum("skj,ske->sje", known, state.rows)
        own = jnp.take_along_axis(new, picks[:, None, :], axis=2)
        least = RANK_TOLERANCE * _at(jnp.broadcast_to(self.square_norm, scores.shape), picks)
        slots = step * self.step_size + jnp.arange(self.step_size)
        transform, good = _orthonormalising(own, least, (best >= 0) & (slots < top_k))
        if self.step_size == 1:
            new = new * transform
        else:
            new = numerics.einsum("sij,sje->sie", transform, new)
        coordinates = numerics.einsum("sij,sj->si", transform, _at(state.correlations, picks))

        def put(array, value):
            return jax.lax.dynamic_update_slice_in_dim(array, value, slots[0], 1)

        return _State(
            state.correlations - numerics.einsum("si,sie->se", coordinates, new),
            state.distance - (new * new).sum(1),
            put(state.rows, new),
            put(state.indices, jnp.where(good, picks, 0)),
            put(state.chosen, good),
            put(state.coordinates, coordinates),
        )


def _orthonormalising(gram, least, wanted):
    """T with T gram T^T = identity, row by row; a dependent or unwanted vector gets a row of zeros.

    gram [S, m, m]; least [S, m]: squared length below which a vector is dependent on those before;
    wanted bool [S, m]. -> (T lower triangular [S, m, m], bool [S, m]).
    """
    size = gram.shape[-1]
    # Orthogonalise the rows of (gram, identity): what becomes of the identity is T.
    both = jnp.concatenate(
        [gram, jnp.broadcast_to(jnp.eye(size, dtype=gram.dtype), gram.shape)], -1
    )
    rows, good = [], []
    for j in range(size):
        row = both[:, j]
        for earlier in rows:
            row = row - earlier[:, j : j + 1] * earlier
        length = row[:, j : j + 1]
        good.append(wanted[:, j : j + 1] & (length > least[:, j : j + 1]))
        rows.append(row * jnp.where(good[-1], _inverse_root(length), 0.0))
    return jnp.stack(rows, 1)[:, :, size:], jnp.concatenate(good, 1)


def _among(gram, places):
    """Gram matrices [S, N, N] of the atoms at places [S, N]; gram [E, E] or [S, E, E]."""
    rows, columns = places[:, :, None], places[:, None, :]
    if gram.ndim == 2:
        return gram[rows, columns]
    return gram[jnp.arange(len(places))[:, None, None], rows, columns]


def _at(values, indices):
    """values [S, E] at indices [S, k]."""
    return jnp.take_along_axis(values, indices, axis=1)


def _inverse_root(square):
    return jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _largest(scores, count):
    """Values and indices of the `count` largest, [S, count] each; the first of equals."""
    if count > 1:
        return jax.lax.top_k(scores, count)
    # Two plain reductions vectorise on CPU where a reduction of pairs does not.
    best = scores.max(-1, keepdims=True)
    places = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    pick = jnp.where(scores == best, places, scores.shape[-1] - 1).min(-1, keepdims=True)
    return best, pick


def _weights(gram, moments, state, top_k):
    """Codes of the chosen atoms [S, K] by back substitution, refined once against the Gram matrix.

    The chosen columns of the rows are the upper triangular factor R of G_II = R^T R.
    """
    indices, chosen = state.indices[:, :top_k], state.chosen[:, :top_k]
    factor = jnp.take_along_axis(state.rows[:, :top_k], indices[:, None, :], axis=2)
    identity = jnp.eye(top_k, dtype=factor.dtype)
    factor = jnp.where(chosen[:, None, :] & chosen[:, :, None], jnp.triu(factor), identity)

    def solve(right, transpose):
        return jax.lax.linalg.triangular_solve(
            factor, right[..., None], left_side=True, lower=False, transpose_a=transpose
        )[..., 0]

    weights = solve(jnp.where(chosen, state.coordinates[:, :top_k], 0.0), False)
    product = numerics.einsum("sij,sj->si", _among(gram, indices), weights)
    residual = jnp.where(chosen, _at(moments, indices) - product, 0.0)
    weights = weights + solve(solve(residual, True), False)
    return jnp.where(chosen, weights, 0.0)


def _scatter(indices, weights, like):
    # Added, not set: empty slots all point at atom 0.
    signals = jnp.arange(len(indices))[:, None]
    return jnp.zeros_like(like).at[signals, indices].add(weights)


def iht_codes(equations, top_k, steps=30):
    """Normalised hard thresholding pursuit (Foucart 2011), with least squares on every support.

    A step moves along the gradient, keeps the K largest codes (of unit atoms) and solves for them.
    It is taken only where it lowers the residual, else halved: so the residual never rises. About
    the price of two products S E^2 and S factorisations K x K a step, and a handful of steps where
    `omp_codes` takes K: of use where many small steps are slow. On CPU it is the dearer of the two
    up to some hundred experts, and it finds worse supports when atoms are coherent.

    Args:
      equations: NormalEquations of S signals.
      top_k: K atoms for each signal, 1 <= K <= E.
      steps: at most so many.

    Returns:
      (SparseCodes, converged bool [S]: no step changes the support any more, iterations int32 [S]).

    Raises:
      ArgumentError: top_k outside 1 to E, or steps below 1.
    """
    _check_top_k(top_k, equations.moments.shape[-1])
    checks.whole("steps", steps, 1)
    return _iht(equations, top_k, steps)


class _Thresholding(NamedTuple):
    """weights, indices [S, K] of the best support yet; residual [S]: its squared error less the
    energy; pace [S]: by how much steps are cut; done bool [S]; iterations int32 [S]."""

    weights: jax.Array
    indices: jax.Array
    residual: jax.Array
    pace: jax.Array
    done: jax.Array
    iterations: jax.Array


@functools.partial(jax.jit, static_argnames=("top_k",))
def _iht(equations, top_k, steps):
    moments = equations.moments
    square_norm = jnp.maximum(jnp.diagonal(equations.gram, axis1=-2, axis2=-1), 0)
    scale = jnp.broadcast_to(_inverse_root(square_norm), moments.shape)

    def candidate(state):
        codes = _scatter(state.indices, state.weights, moments)
        gradient = (moments - equations.apply(codes)) * scale
        _, largest = jax.lax.top_k(jnp.abs(gradient), top_k)
        direction = _scatter(largest, _at(gradient, largest), moments)
        curvature = (direction * equations.apply(direction * scale) * scale).sum(-1)
        step = numerics.safe_divide((direction**2).sum(-1), curvature) * state.pace
        unit_codes = codes * jnp.sqrt(square_norm)
        _, indices = jax.lax.top_k(jnp.abs(unit_codes + step[:, None] * gradient), top_k)
        indices = jnp.sort(indices, axis=-1)
        weights, residual = _on_support(equations.gram, moments, scale, indices)
        return indices, weights, residual

    def step(state):
        indices, weights, residual = candidate(state)
        better = residual < state.residual - 1e-6 * equations.energy
        better, halve = better & ~state.done, ~better & ~state.done
        same = (indices == state.indices).all(-1)
        pace = jnp.where(better, 1.0, jnp.where(halve, state.pace / 2, state.pace))
        return _Thresholding(
            jnp.where(better[:, None], weights, state.weights),
            jnp.where(better[:, None], indices, state.indices),
            jnp.where(better, residual, state.residual),
            pace,
            state.done | (halve & (same | (pace < 1 / 32))),
            state.iterations + ~state.done,
        )

    def going(carry):
        count, state = carry
        return (count < steps) & ~state.done.all()

    signals = moments.shape[0]
    indices = jnp.zeros((signals, top_k), jnp.int32)
    zero = jnp.zeros(signals, moments.dtype)
    start = _Thresholding(
        jnp.zeros((signals, top_k), moments.dtype),
        indices,
        zero,
        zero + 1,
        zero > 0,
        zero.astype(jnp.int32),
    )
    _, state = jax.lax.while_loop(going, lambda c: (c[0] + 1, step(c[1])), (0, start))
    chosen = state.weights != 0
    sparse = _sparse(state.indices, state.weights, chosen, moments)
    return sparse, state.done, state.iterations


def _on_support(gram, moments, scale, indices):
    """Least squares on given supports [S, K] -> (weights [S, K], squared error less energy [S]).

    Unit atoms, a jitter against dependent ones, and refinement that takes the jitter's bias away.
    """
    own = _at(scale, indices)
    size = indices.shape[-1]
    matrix = _among(gram, indices) * own[:, :, None] * own[:, None, :]
    right = _at(moments, indices) * own
    jitter = 1e-6 * size
    factor = jnp.linalg.cholesky(matrix + jitter * jnp.eye(size, dtype=matrix.dtype))

    def solve(right):
        return jax.scipy.linalg.cho_solve((factor, True), right[..., None])[..., 0]

    codes = solve(right)
    for _ in range(3):
        codes = codes + solve(right - numerics.einsum("sij,sj->si", matrix, codes))
    codes = jnp.where(own > 0, codes, 0.0)
    product = numerics.einsum("sij,sj->si", matrix, codes)
    return codes * own, (codes * (product - 2 * right)).sum(-1)


def _check_top_k(top_k, experts):
    if not 1 <= top_k <= experts:
        raise ArgumentError("top_k", top_k, f"1 to {experts} experts")
