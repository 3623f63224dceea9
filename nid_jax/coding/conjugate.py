"""Weighted least squares of many signals on one factorisation, by conjugate gradients.

Signals that weigh the same measurements differently have a Gram matrix each, E^2 M operations and
E^3 for its factor. But where weights are bounded, all of those matrices are close to the one of
the mean weights: with L L^T = Phi^T diag(mean w) Phi + R, the coordinates z = L^T a make the mean
problem's matrix the identity, and a signal's own one has the spread of its weights about the mean.
So a few dozen products with Q = Phi L^-T, S E M operations each, solve all signals together
(preconditioned conjugate gradients: Golub and Van Loan, 11.5). L is made in float64, Q from it in
float32, to the rounding with which the codes L^-T z are rendered; its columns are nearly
orthonormal, so nothing cancels in it afterwards.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nid_jax import numerics
from nid_jax.coding import checks, conjugate_gradients, gram, operators, posterior, ridge
from nid_jax.coding.prior import GaussianPrior
from nid_jax.coding.solution import Solution, finished

ITERATIONS = 60
TOLERANCE = 1e-3
LEAST_SHARE = 1e-3
"""Of the largest weight the least one may be: below, conjugate gradients take too long."""

# Numbers of Q, and of a batch of signals, that are held: 1 GB each.
_HELD_NUMBERS = 2**28
_CHUNK_NUMBERS = 2**23


def applies(dictionary, operator, weights):
    """Whether `weighted_codes` should solve this: weights of several signals' own, none of them
    next to nothing, and more measurements than experts.

    weights: as the caller's, None, [M] or [S, M]. Weights that are being traced are not known, and
    have Gram matrices of their own.
    """
    if weights is None or isinstance(weights, jax.core.Tracer):
        return False
    if jnp.ndim(weights) != 2 or len(weights) < 2:
        return False
    rows = operator.num_measurements * dictionary.channels
    columns = dictionary.num_experts + dictionary.channels
    if operator.weights is not None or rows <= 2 * columns or rows * columns > _HELD_NUMBERS:
        return False
    weights = np.asarray(weights)
    return bool(weights.min() > LEAST_SHARE * weights.max())


class Penalty(NamedTuple):
    """What holds the codes: ridge with `lam`, in units of the mean weights' problem, or a prior.

    prior: `prior.GaussianPrior`, with or without the bias, or None; noise: variance of a measured
    value of weight 1, above 0, with a prior; None: that of the prior.
    """

    lam: float | jax.Array | np.ndarray = ridge.LAMBDA
    prior: GaussianPrior | None = None
    noise: float | None = None


class Factorised(NamedTuple):
    """What all signals share. basis Q [M, C, N] and level [M, C], the values at the prior's mean;
    penalty [N, N] in coordinates of Q; root L^-T [N, N] and mean [N] lead back, each with what
    float32 rounded off: code and bias are mean + L^-T z; lam [] as used. Under the mean weights w,
    Q^T w Q + penalty = I."""

    basis: jax.Array
    level: jax.Array
    penalty: jax.Array
    root: tuple[jax.Array, jax.Array]
    mean: tuple[jax.Array, jax.Array]
    lam: jax.Array


def weighted_codes(problem, penalty, iterations=ITERATIONS, tolerance=TOLERANCE) -> Solution:
    """Codes of S signals with weights of their own: under a Gaussian prior, or ridge.

    Args:
      problem: `problem.Problem` with weights [S, M], above 0; the closer to their mean over the
        signals, the fewer iterations.
      penalty: what holds the codes; the problem's own prior is not read.
      iterations, tolerance: conjugate gradients end where the residual of the equations has fallen
        to this share for all signals.

    Returns:
      Solution; residual is weighted, `converged` says that the tolerance was met. stats as those of
      `ridge.ridge` or `posterior.gaussian`, with 'descent_error', the residual of the equations.

    Raises:
      ArgumentError: for a prior of another dictionary or a bad noise.
    """
    dictionary, operator, measurements = problem.dictionary, problem.operator, problem.measurements
    weights = operators.combined_weights(operator, problem.weights)
    shared, stats = factorised(dictionary, operator, measurements, weights.mean(0), penalty)
    # Weights, values and residuals: three numbers of every measurement.
    size = max(1, _HELD_NUMBERS // (3 * shared.basis[..., 0].size))
    parts = []
    for first in range(0, len(weights), size):
        some = slice(first, first + size)
        parts.append(
            _descend_batched(shared, measurements[some], weights[some], iterations, tolerance)
        )
    coefficients, residual, counts, error = (
        jnp.concatenate(part) for part in zip(*parts, strict=True)
    )
    experts = dictionary.num_experts
    stats = {"descent_error": error} | stats
    codes, bias = coefficients[:, :experts], coefficients[:, experts:]
    return finished(codes, bias, residual, error <= tolerance, counts, stats=stats)


def factorised(dictionary, operator, measurements, weights, penalty, exact=False):
    """`Factorised` of mean weights [M], and what a solution says of lam or noise in its stats.

    measurements: [S, M, C], of which the first signal's are read where the penalty leaves the noise
    open. exact: Q is summed in float64 too, for maps that are kept and never refined; its entries
    are float32 either way. Raises ArgumentError for a prior of another dictionary or a bad noise.
    """
    # Of these equations the matrix alone is used, which all signals share: one signal will do.
    equations = gram.normal_equations(dictionary, operator, measurements[:1], weights)
    known, noise = penalty.prior, 0.0
    checks.not_negative("lam", penalty.lam)
    if known is not None:
        known = known.alone()
        noise, by_evidence = posterior.resolve_noise(equations, known, penalty.noise)
    graphdef, state = nnx.split(dictionary)
    chunk = max(16, _CHUNK_NUMBERS // dictionary.num_experts)
    held = known, noise, penalty.lam
    shared = _factorised(graphdef, state, operator, equations, held, chunk=chunk, exact=exact)
    if known is None:
        return shared, {"lam": shared.lam, "asked_lam": jnp.asarray(penalty.lam, jnp.float32)}
    return shared, posterior.noise_stats(noise, by_evidence)


@functools.partial(gram.batched_by_map, static=("graphdef", "chunk", "exact"))
def _factorised(graphdef, state, operator, equations, held, chunk, exact):
    """held: (known, noise, lam)."""
    state, operator, equations = jax.lax.stop_gradient((state, operator, equations))
    made = functools.partial(_made, graphdef, chunk=chunk, exact=exact)
    return gram.in_float64(made, state, operator, equations, held)


def _made(graphdef, state, operator, equations, held, chunk, exact):
    """`_factorised` in the widest type of the scope."""
    known, noise, lam = held
    dictionary = nnx.merge(graphdef, state)
    experts, channels = dictionary.num_experts, dictionary.channels
    size = experts + channels
    pieces, function = gram.measured_features(dictionary, operator, chunk)
    matrix, _, _ = posterior.extended(equations, size)
    mean, penalty = jnp.zeros(size, matrix.dtype), jnp.zeros_like(matrix)
    if known is None:
        typical = ridge.mean_diagonal(equations.wide()[0])
        lam = jnp.maximum(lam, ridge.least_lambda(equations, matrix))
        penalty = penalty.at[jnp.arange(experts), jnp.arange(experts)].set(lam * typical)
    else:
        spoken = len(known.mean)
        mean = mean.at[:spoken].set(gram.wide(known.mean)[0])
        precision, _ = posterior.precision_matrix(known)
        penalty = penalty.at[:spoken, :spoken].set(noise * precision)
    zero = jnp.zeros((), matrix.dtype)
    factor, scale, _, _ = numerics.scaled_cholesky(matrix + penalty, zero)
    identity = jnp.eye(size, dtype=matrix.dtype)
    # matrix + penalty = D F F^T D: L = D F, and L^-T = D^-1 F^-T.
    root = scale[:, None] * jax.lax.linalg.triangular_solve(
        factor, identity, left_side=True, lower=True, transpose_a=True
    )
    columns = jnp.concatenate([root, mean[:, None]], 1)
    columns = columns if exact else columns.astype(jnp.float32)

    def rows(_, piece):
        values, constant = function(piece)
        atoms = gram.measured_atoms(dictionary, values, constant)
        ones = constant[:, None, None] * jnp.eye(channels, dtype=jnp.float32)
        both = jnp.concatenate([atoms, ones], 1).astype(columns.dtype)
        return None, numerics.einsum("mnc,nk->mck", both, columns).astype(jnp.float32)

    _, basis = jax.lax.scan(rows, None, pieces)
    basis = basis.reshape(-1, channels, size + 1)[: operator.num_measurements]
    coordinates = (root.T @ penalty @ root).astype(jnp.float32)
    back = gram.split(root), gram.split(mean)
    lam = jnp.asarray(lam, jnp.float32)
    return Factorised(basis[..., :size], basis[..., size], coordinates, *back, lam)


@jax.jit
def _descend(shared, measurements, weights, iterations, tolerance):
    """Conjugate gradients in coordinates z, and back.

    -> coefficients [S, N], mean squared residual [S], iterations [S], relative error [S].
    """
    # One axis of values and a flat basis: two plain matrix products, ten times as fast as the same
    # contractions over [M, C, N].
    basis = shared.basis.reshape(-1, shared.basis.shape[-1])
    level, penalty = shared.level.reshape(-1), shared.penalty
    channels = shared.level.shape[1]
    weights = jnp.repeat(weights, channels, 1)
    measurements = measurements.reshape(len(measurements), -1)

    def rendered(z):
        return numerics.einsum("sk,mk->sm", z, basis)

    def gathered(values):
        return numerics.einsum("sm,mk->sk", values, basis)

    def apply(z):
        return gathered(weights * rendered(z)) + numerics.einsum("sk,kl->sl", z, penalty)

    right = gathered(weights * (measurements - level))
    z, error, count = conjugate_gradients.solve(
        apply, right, axis=-1, iterations=iterations, tolerance=tolerance
    )
    squares = jnp.square(measurements - level - rendered(z))
    residual = numerics.safe_divide((weights * squares).sum(-1), weights.sum(-1))

    def back(root, mean, z):
        root, mean = (jnp.add(*gram.wide(*pair)) for pair in (root, mean))
        return (mean + gram.wide(z)[0] @ root.T).astype(jnp.float32)

    found = gram.in_float64(back, shared.root, shared.mean, z)
    return found, residual, jnp.full(len(z), count), error[:, 0]


_descend_batched = gram.batched_by_map(_descend)
