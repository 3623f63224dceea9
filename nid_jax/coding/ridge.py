"""Ridge codes: least squares with a penalty on the squared code, in closed form.

The objective, per measured value: with n measured values and v = trace(gram) / (E n), the mean
variance of an atom over the measurements,

    |y - Phi a|^2 / n + lam v |a|^2        i.e.        (gram + lam trace(gram) / E I) a = moments.

So `lam` is a pure number: it does not change with the number of points, the scale of the signals or
that of the atoms. The experts of a trunk are nearly dependent, and float32 normal equations lose
the small eigenvalues that a good fit lives on (their Cholesky factor fails below lam 1e-5). So the
equations are those of `orthonormal`, which `least_squares` solves in float32; of normal equations
the E x E matrix is factorised in float64. So are those of a training step
(`training.strategies`), summed in float32: their condition number may reach 2e6, where a float32
factor fails.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nid_jax import numerics, platforms, sharding
from nid_jax.coding import checks, gram, least_squares
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.solution import Result, Solution, finished

LAMBDA = 1e-6
"""The default regularisation for signals measured on more values than there are experts."""

LAMBDAS = tuple(float(10.0**power) for power in np.arange(-10, 2.01, 0.25))
"""What cross-validation chooses from."""

# Gram matrices summed in float32 carry errors of this many roundings of their largest eigenvalue.
_SINGLE_ROUNDINGS = 4
_TOLERANCE = 1e-4


class Solved(NamedTuple):
    """codes [S, E]; lam [S], the one used; error [S], relative residual of the linear system."""

    codes: jax.Array
    lam: jax.Array
    error: jax.Array


def ridge(
    equations: gram.NormalEquations | OrthonormalEquations,
    lam: float | str | Float[Array | np.ndarray, "*S"] = LAMBDA,
    per_signal: bool = False,
) -> Solution:
    """Ridge codes of all signals.

    lam: a number as defined above, [S], or 'gcv' for generalised cross-validation, of all signals
    together or `per_signal`. `converged` says that the linear system was solved to 1e-4; stats has
    'lam' as used and, unless chosen, 'asked_lam'. Raises ArgumentError for a negative lam or
    another word.
    """
    if isinstance(lam, str) and lam == "gcv":
        solved = solve_by_validation(equations, per_signal=per_signal)
        asked = {}
    else:
        checks.numbers("lam", lam, lambda v: v >= 0, "a number of 0 or more, 'gcv'", rank=1)
        solved = solve_dense(equations, lam)
        asked = {"asked_lam": jnp.asarray(lam, jnp.float32)}
    stats = {"lam": solved.lam, **asked, "linear_error": solved.error}
    bias, residual = _completed(equations, solved.codes)
    return with_outcome(solved.codes, bias, residual, stats)


def with_outcome(
    codes: Float[Array, "S E"],
    bias: Float[Array, "S C"],
    residual: Float[Array, " S"],
    stats: dict[str, Any],
) -> Solution:
    """A Solution of ridge codes [S, E], bias [S, C] and residual [S] whose `stats` say how they
    came about: 'lam' as used, 'linear_error', and 'asked_lam' unless it was chosen."""
    found = stats["linear_error"] < _TOLERANCE
    solution = finished(codes, bias, residual, found, 1, otherwise=Result.INEXACT, stats=stats)
    if "asked_lam" not in stats:
        return solution
    raised = (solution.result == Result.FOUND) & _raised(solution.stats)
    return solution._replace(
        result=jnp.where(raised, Result.RAISED, solution.result).astype(jnp.int32)
    )


def as_solution(
    equations: gram.NormalEquations | OrthonormalEquations,
    codes: Float[Array, "S E"],
    converged: Bool[Array, " S"],
    iterations: Any = 1,
    *,
    otherwise: Result = Result.STOPPED,
    stats: dict[str, Array] | None = None,
) -> Solution:
    """A Solution of codes [S, E] with their best bias and exact residual. See `finished`."""
    bias, residual = _completed(equations, codes)
    return finished(codes, bias, residual, converged, iterations, otherwise=otherwise, stats=stats)


@jax.jit
def _completed(equations, codes):
    """The best bias of codes, and their exact residual."""
    return equations.bias(codes), equations.mean_residual(codes, exact=True)


@jax.jit
def mean_residual(
    equations: gram.NormalEquations | OrthonormalEquations,
    codes: Float[Array, "S E"],
    bias: Float[Array, "S C"],
) -> Float[Array, " S"]:
    """Exact mean squared residual [S] of codes [S, E] with a bias [S, C] of their own: off its
    least-squares value, by which the error grows."""
    excess = jnp.square(bias - equations.bias(codes)).mean(-1)
    excess = excess * numerics.safe_divide(equations.bias_weight, equations.count)
    return equations.mean_residual(codes, exact=True) + excess


def _raised(stats):
    return stats["lam"] > jnp.float32(1.01) * stats["asked_lam"]


def words(stats: dict) -> str:
    """What a person should know of the `stats` of ridge codes: lambda, and how it came about."""
    if "asked_lam" not in stats:
        return "ridge, lambda by generalised cross-validation: " + _span(stats["lam"])
    if "descent_error" in stats:
        lam = _span(stats["lam"])
        return f"ridge, lambda {lam}, weights of every signal's own by conjugate gradients"
    text = f"ridge, lambda {_span(stats['lam'])}"
    if np.any(_raised(stats)):
        text += f" (raised from {_span(stats['asked_lam'])}: less is lost in the rounding of the "
        text += "equations; lam of so much or more is taken as it is)"
    return text


def _span(values):
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.1e}" if high <= low * 1.001 else f"{low:.1e} to {high:.1e}"


def mean_diagonal(matrix: Float[Array, "*S E E"]) -> Float[Array, "*S"]:
    """trace / E, and 1 for a zero matrix. [..., E, E] -> [...]."""
    mean = jnp.trace(matrix, axis1=-2, axis2=-1) / matrix.shape[-1]
    return jnp.where(mean > 0, mean, 1.0)


def least_lambda(
    equations: gram.NormalEquations, matrix: Float[Array, "*S E E"]
) -> Float[Array, "*S"]:
    """The smallest regularisation that the precision of the Gram matrix bears."""
    relative = _rounding(equations, matrix.shape[-1])
    return relative * numerics.spectral_bound(matrix) / mean_diagonal(matrix)


def _rounding(equations, size):
    """The error of a Gram matrix of so many rows, as a part of its largest eigenvalue."""
    (one,) = gram.wide(jnp.ones((), jnp.float32))
    if equations.gram_low is None or one.dtype == jnp.float32:
        return _SINGLE_ROUNDINGS * jnp.finfo(jnp.float32).eps
    return size * jnp.finfo(jnp.float64).eps


def on_support(
    equations: gram.NormalEquations, indices: Int[Array, "S K"]
) -> tuple[Float[Array, "S K K"], Float[Array, "*S"], Float[Array, " S"]]:
    """The Gram matrix on a support of every signal, as `solve_on_support` takes it.

    indices as there. -> (block [S, K, K] in the widest type of the scope, rows of the identity at
    the matrix's own scale for empty places; that scale, [] or [S]; the least lam [S] that the
    precision of the matrix bears there).
    """
    signals, size = len(indices), equations.moments.shape[-1]
    empty = indices < 0
    places = jnp.where(empty, 0, indices)
    at: tuple = (places[:, :, None], places[:, None, :])
    if not equations.shared:
        at = (jnp.arange(signals)[:, None, None], *at)
    parts = [p for p in (equations.gram, equations.gram_low) if p is not None]
    block = sum(gram.wide(*(part[at] for part in parts)))
    mean = mean_diagonal(gram.wide(equations.gram)[0])
    used = ~(empty[:, :, None] | empty[:, None, :])
    eye = jnp.eye(indices.shape[1], dtype=mean.dtype)
    unit = eye * jnp.broadcast_to(mean, (signals,))[:, None, None]
    block = jnp.where(used, block, unit)
    return block, mean, _rounding(equations, size) * numerics.spectral_bound(block) / mean


@gram.batched_by_map
def least_on_support(
    equations: gram.NormalEquations | OrthonormalEquations, indices: Int[Array, "S K"]
) -> Float[Array, " S"]:
    """The least lam of every signal that its equations bear on a support, as `on_support` has."""
    if isinstance(equations, OrthonormalEquations):
        return jnp.full(len(indices), orthonormal_least(equations), jnp.float32)

    def least(equations, indices):
        return on_support(equations, indices)[-1].astype(jnp.float32)

    return gram.in_float64(least, equations, indices)


def orthonormal_scale(equations: OrthonormalEquations) -> Float[Array, "*S"]:
    """`mean_diagonal` of B^T B."""
    mean = jnp.square(equations.root).sum((-2, -1)) / equations.root.shape[-1]
    return jnp.where(mean > 0, mean, 1.0)


def orthonormal_least(equations: OrthonormalEquations) -> float:
    """The least lam that B in float32 bears: its root, beside the norm of B, is two roundings."""
    return 4 * float(jnp.finfo(jnp.float32).eps) ** 2 * equations.root.shape[-1]


def _orthonormal_dense(equations, lam):
    lam = jnp.maximum(lam, orthonormal_least(equations))
    if lam.ndim and equations.shared:
        equations = equations.reduced()
        return _orthonormal_spectral(equations, lam, _singular(equations))
    shift = lam * orthonormal_scale(equations)
    found = least_squares.damped_codes(equations.root, equations.projected, shift)
    return Solved(found.codes, jnp.broadcast_to(lam, found.error.shape), found.error)


def _singular(equations):
    """U [.., N, N], singular values [.., N], V^T [.., N, E] of B, and U^T z [S, N]."""
    left, values, right = jnp.linalg.svd(equations.root, full_matrices=False)
    one = "nk" if equations.shared else "snk"
    return left, values, right, numerics.einsum(f"sn,{one}->sk", equations.projected, left)


def _orthonormal_spectral(equations, lam, singular):
    """Ridge codes with one lam for every signal [S], corrected once by what they leave."""
    left, values, right, target = singular
    shift = (lam * orthonormal_scale(equations))[:, None]
    lifted = jnp.square(values) + shift
    one = ("nk", "ke") if equations.shared else ("snk", "ske")

    def solve(target):
        codes = numerics.einsum(f"sk,{one[1]}->se", values / lifted * target, right)
        return codes, numerics.einsum(f"sk,{one[0]}->sn", target / lifted, left)

    codes, dual = solve(target)
    remainder = equations.projected - equations.rendered(codes) - shift * dual
    more, further = solve(numerics.einsum(f"sn,{one[0]}->sk", remainder, left))
    codes, dual = codes + more, dual + further
    remainder = equations.projected - equations.rendered(codes) - shift * dual
    size = jnp.linalg.norm(equations.projected, axis=-1)
    error = numerics.safe_divide(jnp.linalg.norm(remainder, axis=-1), size)
    return Solved(codes, jnp.broadcast_to(lam, error.shape), error)


@gram.batched_by_map
def solve_dense(
    equations: gram.NormalEquations | OrthonormalEquations, lam: float | Float[Array, "*S"]
) -> Solved:
    """Ridge codes for a given lam, [] or [S], usable inside a jitted step. -> Solved.

    lam is raised to what the precision of the matrix bears, and for normal equations tenfold as
    often as the factorisation fails. No gradient flows through it.
    """
    equations, given = jax.lax.stop_gradient((equations, jnp.asarray(lam, jnp.float32)))
    if isinstance(equations, OrthonormalEquations):
        return _orthonormal_dense(equations, given)
    return gram.in_float64(_normal_dense, equations, given)


def _normal_dense(equations, lam):
    """`solve_dense` of normal equations, in the widest type of the scope."""
    matrix, moments = equations.wide()
    asked = gram.wide(lam)[0]
    if asked.ndim and equations.shared:
        return _solve_spectrally(equations, asked)
    mean = mean_diagonal(matrix)
    shift = jnp.maximum(asked, least_lambda(equations, matrix)) * mean
    codes, shift, error = _dealt_out(matrix, shift, moments)
    used = jnp.broadcast_to(shift / mean, moments.shape[:1])
    return Solved(codes, used.astype(jnp.float32), error)


def _dealt_out(matrix, shift, moments):
    """-> codes [S, E], the shift as used, [] or [S], and errors [S]; codes and errors float32.

    matrix [E, E] or [S, E, E], shift, moments [S, E]. Each device solves for its own share of the
    signals. One matrix is factorised by every device alike, matrices of the signals' own where
    their signals are.
    """

    def solve(common, rows):
        found = refined(*common, *rows)
        return tuple(value.astype(jnp.float32) for value in found)

    def factorised(_, rows):
        matrix, shift, moments = rows
        factor, scale, shift, _ = numerics.scaled_cholesky(matrix, shift)
        codes, error = solve((), (matrix, shift, factor, scale, moments))
        return codes, shift, error

    if matrix.ndim == 3:
        return sharding.dealt_out(factorised, (), (matrix, shift, moments))
    factor, scale, shift, _ = numerics.scaled_cholesky(matrix, shift)
    common = matrix, shift, factor, scale
    codes, error = sharding.dealt_out(solve, common, (moments,))
    return codes, shift, error


def refined(
    matrix: Float[Array, "*S E E"],
    shift: Float[Array, "*S"],
    factor: Float[Array, "*S E E"],
    scale: Float[Array, "*S E"],
    moments: Float[Array, "S E"],
) -> tuple[Float[Array, "S E"], Float[Array, " S"]]:
    """Solve, correct once by the residual, and measure what is left. -> codes, error [S]."""

    def solve(right):
        if matrix.ndim == 2:
            return numerics.solve_scaled_cholesky(factor, scale, right.T).T
        return numerics.solve_scaled_cholesky(factor, scale, right[..., None])[..., 0]

    def residual(codes):
        one = "ef" if matrix.ndim == 2 else "sef"
        shifted = jnp.broadcast_to(shift, codes.shape[:1])[:, None] * codes
        return moments - numerics.einsum(f"se,{one}->sf", codes, matrix) - shifted

    codes = solve(moments)
    codes = codes + solve(residual(codes))
    size = jnp.linalg.norm(moments, axis=-1)
    return codes, numerics.safe_divide(jnp.linalg.norm(residual(codes), axis=-1), size)


def _spectrum(equations):
    """Eigenvalues [.., E] not below 0, eigenvectors [.., E, E], moments in them [S, E]."""
    matrix, moments = equations.wide()
    values, vectors = jnp.linalg.eigh(matrix)
    one = "ef" if matrix.ndim == 2 else "sef"
    return jnp.maximum(values, 0), vectors, numerics.einsum(f"se,{one}->sf", moments, vectors)


def _solve_spectrally(equations, lam, spectrum=None):
    """Ridge codes with one lam for every signal [S], in the widest type of the scope. -> Solved."""
    matrix, _ = equations.wide()
    values, vectors, moments = _spectrum(equations) if spectrum is None else spectrum
    lam = jnp.maximum(lam, least_lambda(equations, matrix))
    lifted = values + (lam * mean_diagonal(matrix))[:, None]
    one = "fe" if matrix.ndim == 2 else "sfe"
    codes = numerics.einsum(f"se,{one}->sf", moments / lifted, vectors)
    error = jnp.where(jnp.isfinite(codes).all(-1), 0.0, jnp.inf)
    return Solved(*(value.astype(jnp.float32) for value in (codes, lam, error)))


@functools.partial(gram.batched_by_map, static=("per_signal", "lambdas"))
def solve_by_validation(
    equations: gram.NormalEquations | OrthonormalEquations,
    per_signal: bool = False,
    lambdas: tuple[float, ...] = LAMBDAS,
) -> Solved:
    """Ridge codes with lam chosen by generalised cross-validation. -> Solved.

    The score is |y - Phi a|^2 / (n - degrees of freedom)^2 with the bias counted as C degrees
    (Golub, Heath and Wahba 1979), summed over the signals unless `per_signal`. One
    eigendecomposition serves every lam. Signals with no degrees to spare take the largest.
    """
    equations = jax.lax.stop_gradient(equations)
    if isinstance(equations, OrthonormalEquations):
        return _orthonormal_validated(equations, per_signal, lambdas)
    validated = functools.partial(_normal_validated, per_signal=per_signal, lambdas=lambdas)
    return gram.in_float64(validated, equations)


def _normal_validated(equations, per_signal, lambdas):
    """`solve_by_validation` of normal equations, in the widest type of the scope."""
    matrix, _ = equations.wide()
    spectrum = _spectrum(equations)
    values, _, moments = spectrum
    mean, least = mean_diagonal(matrix), least_lambda(equations, matrix)
    energy, count = gram.wide(equations.energy, equations.count)
    channels = equations.target_mean.shape[-1]

    def score(lam):
        used = jnp.maximum(lam, least)
        lifted = values + (used * mean)[..., None]
        fitted = (moments**2 * (2 * lifted - values) / lifted**2).sum(-1)
        freedom = (count - 1) * channels - (values / lifted).sum(-1)
        # Less than a thousandth of the values left to judge by says nothing.
        enough = freedom > 1e-3 * count * channels
        residual = jnp.maximum(energy - fitted, 0)
        return jnp.where(enough, residual / jnp.where(enough, freedom, 1.0) ** 2, jnp.inf)

    # Relative to the signal: every signal counts alike, whatever its scale.
    choice = jnp.asarray(lambdas)
    relative = jax.lax.map(score, choice)
    relative = (relative / jnp.where(energy > 0, energy, 1.0) * count).astype(jnp.float32)
    chosen = _least_scores(relative, per_signal)
    return _solve_spectrally(equations, choice[chosen], spectrum)


def _orthonormal_validated(equations, per_signal, lambdas):
    """`solve_by_validation` with singular values for eigenvalues: sums of squares alone."""
    equations = equations.reduced()
    singular = _singular(equations)
    _, values, _, target = singular
    mean, energy, count = orthonormal_scale(equations), equations.energy, equations.count
    channels = equations.target_mean.shape[-1]
    choice = jnp.maximum(jnp.asarray(lambdas, jnp.float32), orthonormal_least(equations))

    def score(lam):
        shift = (lam * mean)[..., None]
        lifted = jnp.square(values) + shift
        residual = jnp.square(shift / lifted * target).sum(-1) + equations.rest
        freedom = (count - 1) * channels - (jnp.square(values) / lifted).sum(-1)
        enough = freedom > 1e-3 * count * channels
        return jnp.where(enough, residual / jnp.where(enough, freedom, 1.0) ** 2, jnp.inf)

    relative = jax.lax.map(score, choice) / jnp.where(energy > 0, energy, 1.0) * count
    lam = choice[_least_scores(relative, per_signal)]
    if per_signal:
        return _orthonormal_spectral(equations, lam, singular)
    found = _orthonormal_dense(equations, lam[0])
    return found._replace(lam=lam)


def _least_scores(scores, per_signal):
    """The place of the least score for every signal. scores [L, S], inf where undecided -> [S]."""
    usable = jnp.isfinite(scores)
    if not per_signal:
        # A signal with too few measurements to judge any lam has no say.
        says = usable.any(0)
        total = jnp.where(says, scores, 0).sum(-1, keepdims=True)
        scores = jnp.broadcast_to(jnp.where(says.any(), total, jnp.inf), scores.shape)
    undecided = ~jnp.isfinite(scores).any(0)
    # In a scope of float64 jnp.argmin counts in int64, which does not leave it.
    return jnp.where(undecided, scores.shape[0] - 1, jax.lax.argmin(scores, 0, jnp.int32))


@gram.batched_by_map
def solve_on_support(
    equations: gram.NormalEquations | OrthonormalEquations,
    indices: Int[Array, "S K"],
    lam: float | Float[Array, ""] = LAMBDA,
) -> Float[Array, "S E"]:
    """Ridge codes on a chosen support of every signal.

    indices: int32 [S, K], distinct; -1 leaves a place empty. lam as in `ridge`, relative to the
    mean diagonal of the whole Gram matrix. -> codes [S, E], zero off the support. No gradient
    flows through it.
    """
    equations = jax.lax.stop_gradient(equations)
    lam = jnp.asarray(lam, jnp.float32)
    signals, num_experts = len(indices), equations.atom_mean.shape[-2]
    rows = jnp.arange(signals)[:, None]
    empty = indices < 0
    places = jnp.where(empty, 0, indices)
    if isinstance(equations, OrthonormalEquations):
        values = _orthonormal_on_support(equations, places, empty, lam)
        return jnp.zeros((signals, num_experts), jnp.float32).at[rows, places].add(values)
    values = gram.in_float64(_normal_on_support, equations, indices, lam)
    return jnp.zeros((signals, num_experts), jnp.float32).at[rows, places].add(values)


def _normal_on_support(equations, indices, lam):
    """Codes [S, K] of normal equations at places [S, K], 0 where empty."""
    rows, empty = jnp.arange(len(indices))[:, None], indices < 0
    places = jnp.where(empty, 0, indices)
    block, mean, least = on_support(equations, indices)
    parts = [p for p in (equations.moments, equations.moments_low) if p is not None]
    moments = jnp.where(empty, 0, sum(gram.wide(*(part[rows, places] for part in parts))))
    shift = jnp.maximum(gram.wide(lam)[0], least) * mean
    values, _, _ = _dealt_out(block, shift, moments)
    return jnp.where(empty, 0, values)


def _orthonormal_on_support(equations, places, empty, lam):
    """Codes [S, K] at places [S, K], 0 where empty."""
    shift = jnp.maximum(lam, orthonormal_least(equations)) * orthonormal_scale(equations)
    shift = jnp.broadcast_to(shift, (len(places),))
    size = platforms.sizes().chunk // (equations.root.shape[-2] * places.shape[1])
    size = numerics.even_size(len(places), max(1, size))

    def some(inputs):
        place, used, shift, z, root = inputs
        part = equations if root is None else equations._replace(root=root)
        root = jnp.where(used[:, None, :], part.columns(place), 0)
        return least_squares.damped_codes(root, z, shift).codes

    own = None if equations.shared else equations.root
    inputs = (places, ~empty, shift, equations.projected, own)
    inputs = jax.tree.map(lambda leaf: numerics.cut(leaf, size), inputs)
    codes = numerics.joined(jax.lax.map(some, inputs), len(places))
    return jnp.where(empty, 0, codes)
