"""Codes under a Gaussian prior, their evidence, and the noise of most evidence.

With code and bias z = (a, b) ~ N(mean, Sigma) and measurements y = Phi z + noise of variance s2,
the most probable code solves (Phi^T Phi + s2 Sigma^-1)(z - mean) = Phi^T (y - Phi mean).
Directions that the measurements do not determine are filled in as in the training signals.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nid_jax import numerics
from nid_jax.coding import checks, gram, least_squares, ridge
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.prior import GaussianPrior, check_size
from nid_jax.coding.solution import Result, Solution, finished

# Signals that take part in estimating the noise, and the numbers of a batch of own Gram matrices.
_NOISE_SIGNALS = 8
_BATCH_NUMBERS = 2**24
# Noise variances to choose from, as powers of ten of the measurements' mean square.
_NOISE_EXPONENTS = np.arange(-63, 8) / 8
_TOLERANCE = 1e-4
# A noise of so many roundings of the largest eigenvalue hides the errors of the small ones.
_EIGENVALUE_ROUNDINGS = 64


class Posterior(NamedTuple):
    """codes [S, E]; bias [S, C]; error [S], relative residual of the linear system; evidence [S],
    quadratic [S].

    evidence: the log density of the measurements under the prior and the noise; quadratic: the form
    in it, of as many as the values measured where signals are as the prior says.
    """

    codes: jax.Array
    bias: jax.Array
    error: jax.Array
    evidence: jax.Array
    quadratic: jax.Array


class Estimated(NamedTuple):
    """A noise variance of highest evidence, `least` or more: see `estimate_noise`."""

    least: float | Float[Array, ""] = 0.0


Noise = float | Float[Array, ""] | Estimated | None
"""A variance, `Estimated`, or None for that of the prior."""


def gaussian(
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    noise: Noise = None,
) -> Solution:
    """The most probable codes under a Gaussian prior.

    noise: variance of a measured value; `Estimated` for that of highest evidence over the signals
        together, from a least value on; None for that of the prior.
    stats has 'noise_variance' and 'by_evidence'. Raises ArgumentError for a prior of another
    dictionary or a bad noise.
    """
    if isinstance(equations, OrthonormalEquations):
        # Once, not for the noise and again for the codes.
        equations = equations.reduced()
    variance, by_evidence = resolve_noise(equations, prior, noise)
    parts = [solve_posterior(part, prior, variance) for part in _batches(equations)]
    posterior = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    residual = ridge.mean_residual(equations, posterior.codes, posterior.bias)
    found = (posterior.codes, posterior.bias, residual, posterior.error)
    return with_outcome(found, variance, by_evidence)


def with_outcome(found: tuple, noise: Float[Array, ""], by_evidence: Bool[Array, ""]) -> Solution:
    """A Solution of codes, bias, residual and linear error, for a noise as `resolve_noise` says."""
    codes, bias, residual, error = found[:4]
    stats = noise_stats(noise, by_evidence) | {"linear_error": error}
    done = error < _TOLERANCE
    return finished(codes, bias, residual, done, 1, otherwise=Result.INEXACT, stats=stats)


def resolve_noise(
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    noise: Noise,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """What `gaussian` takes as a variance [] and whether it is by evidence, bool [].

    Raises ArgumentError as there.
    """
    experts, channels = equations.atom_mean.shape[-2:]
    check_size(prior, experts, channels)
    if noise is None:
        return _noise_of_prior(equations, prior)
    if isinstance(noise, Estimated):
        return estimate_noise(equations, prior, noise.least), jnp.asarray(True)
    checks.numbers("noise", noise, lambda v: v > 0, "finite and above 0, or Estimated()")
    return jnp.asarray(noise, jnp.float32), jnp.asarray(False)


def _noise_of_prior(equations, prior):
    """That of the training signals; the one of highest evidence where it is not known."""
    known = jnp.asarray(prior.noise, jnp.float32)

    def estimated():
        return estimate_noise(equations, prior)

    if isinstance(prior.noise, jax.core.Tracer):
        return jax.lax.cond(known > 0, lambda: known, estimated), known <= 0
    trained = bool(np.asarray(prior.noise) > 0)
    return known if trained else estimated(), jnp.asarray(not trained)


def noise_stats(noise: Array, by_evidence: Array) -> dict[str, Array]:
    """What `resolve_noise` gives, as the statistics of a solution."""
    return {"noise_variance": noise, "by_evidence": by_evidence}


def words(stats: dict, neighbours: int = 0) -> str:
    """What a person should know of the `stats` of most probable codes.

    neighbours: the number of training codes of a prior of neighbours.
    """
    text = f"gaussian prior of {neighbours} neighbours" if neighbours else "gaussian prior"
    if "component" in stats:
        used = len(np.unique(stats["component"]))
        text = f"mixture prior, {used} of its Gaussians in use"
    text += f", noise variance {float(np.max(stats['noise_variance'])):.1e}"
    if np.any(stats["by_evidence"]):
        text += " by evidence"
    if "descent_error" in stats:
        text += ", weights of every signal's own by conjugate gradients"
    return text


def _batches(equations):
    """Signals with Gram matrices of their own, a few at a time."""
    signals, experts = len(equations.target_mean), equations.atom_mean.shape[-2]
    size = signals if equations.shared else max(1, _BATCH_NUMBERS // experts**2)
    return [equations.of_signals(slice(i, i + size)) for i in range(0, signals, size)]


def estimate_noise(
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    least: float | Float[Array, ""] = 0.0,
) -> Float[Array, ""]:
    """The noise variance of highest evidence, over a decade's eighths. -> float32 [].

    One variance for all signals; of many, the first few decide. least: below it none is looked at.
    Evidence takes the noise to be alike everywhere, but what a dictionary leaves of a signal is
    not: where signals are flat it leaves nothing. Few samples tell little but of such places, and
    would be believed to the last digit everywhere.
    """
    equations = equations.of_signals(slice(0, _NOISE_SIGNALS))
    noises, silent = _noises(equations)
    noises = jnp.maximum(noises, least)
    total = functools.reduce(jnp.add, evidences(equations, prior, noises))
    return jnp.maximum(jnp.where(silent, 1e-6, noises[jnp.argmax(total)]), least)


def _noises(equations):
    """Variances to choose from [L], and whether the measurements are all zero []."""
    values = jnp.max(equations.count) * equations.target_mean.shape[-1]
    typical = jnp.mean(equations.energy) / values
    silent = ~(typical > 0)
    exponents = jnp.asarray(_NOISE_EXPONENTS, jnp.float32)
    return jnp.where(silent, 1.0, typical) * 10.0**exponents, silent


def evidences(
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    noises: Float[Array, " L"],
) -> Float[Array, "S L"]:
    """`Posterior.evidence` for many noise variances [L] at the price of about one. -> [S, L].

    With Sigma = R R^T and the eigenvalues d of R^T Phi^T Phi R, what depends on the noise is a sum
    over d: of each Gram matrix one eigendecomposition is taken. No gradient flows through it.
    """
    return _evidences(equations, prior, jnp.asarray(noises, jnp.float32))


@gram.batched_by_map
def _evidences(equations, prior, noises):
    equations, prior = jax.lax.stop_gradient((equations, prior))
    if isinstance(equations, OrthonormalEquations):
        return _orthonormal_evidences(equations, prior, noises)
    return gram.in_float64(_normal_evidences, equations, prior, noises)


def _normal_evidences(equations, prior, noises):
    """`_evidences` of normal equations, in the widest type of the scope."""
    size, (experts, channels) = prior.mean.shape[0], equations.atom_mean.shape[-2:]
    matrix, moments, energy = extended(equations, size)
    mean, noises, count = gram.wide(prior.mean, noises, equations.count)
    one = "ef" if matrix.ndim == 2 else "sef"
    offset = moments - numerics.einsum(f"f,{one}->{one[:-1]}", mean, matrix)
    misfit = energy - moments @ mean - offset @ mean
    root = _root(prior)
    eigenvalues, vectors = jnp.linalg.eigh(root.T @ matrix @ root)
    eigenvalues = jnp.maximum(eigenvalues, 0)[..., None, :] + noises[:, None]
    rotated = numerics.einsum(f"se,{one}->sf", offset @ root, vectors)
    explained = (jnp.square(rotated)[:, None] / eigenvalues).sum(-1)
    quadratic = jnp.maximum(misfit[:, None] - explained, 0) / noises
    values = (count - (0 if size > experts else 1)) * channels
    values = jnp.broadcast_to(values, misfit.shape)[:, None]
    determinant = jnp.log(eigenvalues).sum(-1) + (values - size) * jnp.log(noises)
    evidence = -0.5 * (quadratic + determinant + values * math.log(2 * math.pi))
    return evidence.astype(jnp.float32)


def _root(prior):
    """A square root R [N, N] of the prior's covariance R R^T."""
    factor, diagonal = gram.wide(prior.factor, prior.diagonal)
    covariance = factor @ factor.T + jnp.diag(diagonal)
    zero = jnp.zeros((), covariance.dtype)
    cholesky, scale, _, _ = numerics.scaled_cholesky(covariance, zero)
    return cholesky / scale[:, None]


def extended(equations: gram.NormalEquations, size: int) -> tuple[Array, Array, Array]:
    """(gram [.., N, N], moments [S, N], energy [S]) of the coefficients that the prior speaks of.

    With the bias among them, what the centring took away is put back.
    """
    matrix, moments = equations.wide()
    energy, mean, target_mean, weight = gram.wide(
        equations.energy, equations.atom_mean, equations.target_mean, equations.bias_weight
    )
    if size == moments.shape[1]:
        return matrix, moments, energy
    one = "ec" if equations.shared else "sec"
    scaled = weight[..., None, None] * mean
    target_sum = weight[..., None] * target_mean
    corner = weight[..., None, None] * jnp.eye(mean.shape[-1], dtype=mean.dtype)
    matrix = matrix + numerics.einsum("...ec,...fc->...ef", scaled, mean)
    matrix = jnp.concatenate(
        [
            jnp.concatenate([matrix, scaled], -1),
            jnp.concatenate([scaled.swapaxes(-1, -2), corner], -1),
        ],
        -2,
    )
    moments = moments + numerics.einsum(f"sc,{one}->se", target_sum, mean)
    moments = jnp.concatenate([moments, target_sum], -1)
    return matrix, moments, energy + (target_sum * target_mean).sum(-1)


def precision_matrix(prior: GaussianPrior) -> tuple[Float[Array, "N N"], Float[Array, ""]]:
    """Inverse of the prior's covariance [N, N] and the log determinant of the covariance."""
    factor, diagonal = gram.wide(prior.factor, prior.diagonal)
    covariance = factor @ factor.T + jnp.diag(diagonal)
    zero = jnp.zeros((), covariance.dtype)
    cholesky, scale, _, _ = numerics.scaled_cholesky(covariance, zero)
    identity = jnp.eye(len(diagonal), dtype=covariance.dtype)
    inverse = numerics.solve_scaled_cholesky(cholesky, scale, identity)
    return (inverse + inverse.T) / 2, _log_determinant(cholesky, scale)


def _log_determinant(factor, scale):
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return 2 * (jnp.log(diagonal) - jnp.log(scale)).sum(-1)


def scaled_rows(
    equations: OrthonormalEquations, prior: GaussianPrior
) -> tuple[Float[Array, "*S K U"], Float[Array, "S K"], Float[Array, "N U"]]:
    """(B R, z - B mean, directions R [N, R + N]) with R R^T the prior's covariance.

    The bias, where the prior speaks of it, has rows of its own: the constants'. B R [K, R + N] or
    [S, K, R + N]; z - B mean [S, K]. B R is never multiplied out as a covariance: that would square
    what float32 has to hold.
    """
    root, z = equations.root, equations.projected
    if prior.mean.shape[0] > equations.atom_mean.shape[-2]:
        size = jnp.sqrt(equations.bias_weight)[..., None, None]
        mean = equations.atom_mean.swapaxes(-1, -2)
        unit = jnp.broadcast_to(jnp.eye(mean.shape[-2]), (*mean.shape[:-1], mean.shape[-2]))
        level = size * jnp.concatenate([mean, unit], -1)
        root = jnp.pad(root, [(0, 0)] * (root.ndim - 1) + [(0, mean.shape[-2])])
        root = jnp.concatenate([root, level], -2)
        z = jnp.concatenate([z, size[..., 0] * equations.target_mean], -1)
    deviation = jnp.sqrt(prior.diagonal)
    scaled = jnp.concatenate(
        [numerics.einsum("...ne,er->...nr", root, prior.factor), root * deviation], -1
    )
    offset = z - numerics.einsum("...ne,e->...n", root, prior.mean)
    return scaled, offset, jnp.concatenate([prior.factor, jnp.diag(deviation)], -1)


def _measured_values(equations, free_bias):
    """Values that were measured of every signal [S], less a free bias."""
    count = equations.count - (1 if free_bias else 0)
    return count * equations.target_mean.shape[-1] * jnp.ones_like(equations.rest)


def _orthonormal_evidences(equations, prior, noises):
    """`_evidences` by the eigenvalues of B R (B R)^T, where the best noise is well above what
    float32 leaves of them, else by the singular values of B R."""
    equations = equations.reduced()
    scaled, offset, _ = scaled_rows(equations, prior)
    free = prior.mean.shape[0] == equations.atom_mean.shape[-2]
    counts = _measured_values(equations, free)[:, None]

    def found(left, values):
        """Of left singular vectors [.., N, K] and the squares of the values [.., K]."""
        one = "nk" if equations.shared else "snk"
        rotated = numerics.einsum(f"sn,{one}->sk", offset, left)
        lifted = values[..., None, :] + noises[:, None]
        quadratic = (jnp.square(rotated)[:, None] / lifted).sum(-1)
        quadratic = quadratic + equations.rest[:, None] / noises
        determinant = jnp.log(lifted).sum(-1) + (counts - rotated.shape[-1]) * jnp.log(noises)
        return -0.5 * (quadratic + determinant + counts * math.log(2 * math.pi))

    def by_singular_values():
        triangle = jnp.linalg.qr(scaled.swapaxes(-1, -2), mode="r").swapaxes(-1, -2)
        left, values, _ = jnp.linalg.svd(triangle, full_matrices=False)
        return found(left, jnp.square(values))

    values, left = jnp.linalg.eigh(least_squares.products(scaled.swapaxes(-1, -2)))
    short = found(left, jnp.maximum(values, 0))
    best = noises[jnp.argmax(short.sum(0))]
    good = best > _EIGENVALUE_ROUNDINGS * jnp.finfo(jnp.float32).eps * values.max()
    return jax.lax.cond(good, lambda: short, by_singular_values)


def _orthonormal_posterior(equations, prior, noise):
    equations = equations.reduced()
    scaled, offset, directions = scaled_rows(equations, prior)
    found = least_squares.damped_codes(scaled, offset, noise)
    coefficients = prior.mean + numerics.einsum("su,nu->sn", found.codes, directions)
    experts = equations.atom_mean.shape[-2]
    free = prior.mean.shape[0] == experts
    counts = _measured_values(equations, free)
    quadratic = found.quadratic + equations.rest / noise
    determinant = found.log_determinant + (counts - offset.shape[-1]) * jnp.log(noise)
    evidence = -0.5 * (quadratic + determinant + counts * math.log(2 * math.pi))
    codes, bias = coefficients[:, :experts], coefficients[:, experts:]
    bias = equations.bias(codes) if free else bias
    return Posterior(codes, bias, found.error, evidence, quadratic)


@gram.batched_by_map
def solve_posterior(
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    noise: Float[Array, ""],
) -> Posterior:
    """Most probable codes for a noise variance []; usable inside a jitted step. -> Posterior.

    No gradient flows through it.
    """
    equations, prior = jax.lax.stop_gradient((equations, prior))
    size, experts = prior.mean.shape[0], equations.atom_mean.shape[-2]
    noise = jnp.asarray(noise, jnp.float32)
    if isinstance(equations, OrthonormalEquations):
        return _orthonormal_posterior(equations, prior, noise)
    coefficients, *numbers = gram.in_float64(_normal_posterior, equations, prior, noise)
    codes, bias = coefficients[:, :experts], coefficients[:, experts:]
    bias = bias if size > experts else equations.bias(codes)
    return Posterior(codes, bias, *numbers)


def _normal_posterior(equations, prior, noise):
    """Coefficients, error, evidence and its quadratic form by normal equations, in the widest type
    of the scope."""
    size, experts = prior.mean.shape[0], equations.atom_mean.shape[-2]
    matrix, moments, energy = extended(equations, size)
    precision, log_covariance = precision_matrix(prior)
    mean, noise, count = gram.wide(prior.mean, noise, equations.count)
    one = "ef" if matrix.ndim == 2 else "sef"
    product = numerics.einsum(f"f,{one}->{one[:-1]}", mean, matrix)
    offset = moments - product
    misfit = energy - moments @ mean - offset @ mean
    system = matrix + noise * precision
    zero = jnp.zeros(system.shape[:-2], system.dtype)
    factor, scale, shift, _ = numerics.scaled_cholesky(system, zero)
    step, error = ridge.refined(system, shift, factor, scale, offset)
    channels = equations.target_mean.shape[1]
    values = (count - (0 if size > experts else 1)) * channels
    quadratic = jnp.maximum(misfit - (offset * step).sum(-1), 0) / noise
    determinant = _log_determinant(factor, scale) + log_covariance
    determinant = determinant + (values - size) * jnp.log(noise)
    evidence = -0.5 * (quadratic + determinant + values * math.log(2 * math.pi))
    return tuple(value.astype(jnp.float32) for value in (mean + step, error, evidence, quadratic))
