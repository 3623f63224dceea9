"""How sure a rendered signal is: the spread of what the codes may be, given the measurements."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.coding import gram
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.posterior import (
    extended,
    precision_matrix,
    resolve_noise,
    scaled_rows,
    solve_posterior,
)
from nid_jax.coding.prior import GaussianPrior
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates

# Components that made a signal by less than this are left out of its variance.
_LEAST_SHARE = 1e-4


def _orthonormal_root(equations, prior, noise):
    """`_posterior_root` of one matrix: R = T^-T P^T, T^T T = I + (B R)^T B R / noise."""
    scaled, _, directions = scaled_rows(equations, prior)
    size = scaled.shape[-1]

    def one(scaled):
        both = jnp.concatenate([scaled / jnp.sqrt(noise), jnp.eye(size, dtype=scaled.dtype)], 0)
        triangle = jnp.linalg.qr(both, mode="r")
        root = jax.lax.linalg.triangular_solve(
            triangle, directions.T, left_side=True, lower=False, transpose_a=True
        )
        return jnp.linalg.qr(root, mode="r")

    return one(scaled) if equations.shared else jax.lax.map(one, scaled)


@gram.batched_by_map
def _posterior_root(equations, prior, noise):
    """A matrix R [.., N, N] with R^T R the covariance of the coefficients after measuring."""
    if isinstance(equations, OrthonormalEquations):
        return _orthonormal_root(equations, prior, noise)
    with gram.working_precision("float64"):
        matrix, _, _ = extended(equations, prior.mean.shape[0])
        noise = gram.wide(jnp.asarray(noise, jnp.float32))[0]
        system = matrix / noise + precision_matrix(prior)[0]
        zero = jnp.zeros(system.shape[:-2], system.dtype)
        factor, scale, _, _ = numerics.scaled_cholesky(system, zero)
        identity = jnp.broadcast_to(jnp.eye(system.shape[-1], dtype=system.dtype), system.shape)
        root = jax.lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True)
        return (root * scale[..., None, :]).astype(jnp.float32)


def posterior_variance(
    dictionary: Dictionary,
    x: Float[Array | np.ndarray, "P D"],
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    noise: float | str | None = None,
    chunk: int = 1024,
) -> Float[Array, "S P C"]:
    """Variance of the rendered signal at points, given the measurements: where a render is unsure.

    x [P, D] -> [S, P, C], or [1, P, C] where all signals are measured alike. noise as in
    `gaussian`. With a prior that leaves the bias free, the bias is taken at its best for each code,
    and the variance of the measured mean itself is added.

    With a mixture, always [S, P, C]: that within the components and that between them, each
    weighed by its evidence.
    """
    variance, _ = resolve_noise(equations, prior.alone(), noise)
    x = jnp.asarray(x, jnp.float32)
    if prior.mixture is not None:
        return _mixture_variance(dictionary, x, equations, prior, variance, chunk)
    return _gaussian_variance(dictionary, x, equations, prior.alone(), variance, chunk)


def _mixture_variance(dictionary, x, equations, prior, noise, chunk):
    """Components one after another, their mean and variance summed as they come (West 1979)."""
    weights = prior.mixture.weights
    parts = [prior.component(number) for number in range(len(weights))]
    found = [solve_posterior(equations, part, noise) for part in parts]
    evidences = jnp.stack([one.evidence for one in found], 1) + jnp.log(weights)
    shares, mass, mean, square = jax.nn.softmax(evidences, 1), 0.0, 0.0, 0.0
    for part, one, share in zip(parts, found, shares.T, strict=True):
        if not np.any(share > _LEAST_SHARE):
            continue
        within = _gaussian_variance(dictionary, x, equations, part, noise, chunk)
        gates = Gates(one.codes, None, None, one.bias)
        pieces = [dictionary.combine(x[i : i + chunk], gates) for i in range(0, len(x), chunk)]
        step = jnp.concatenate(pieces, 1) - mean
        share = share[:, None, None]
        mass = mass + share
        mean = mean + step * numerics.safe_divide(share, mass)
        square = square + share * within
        square = square + share * numerics.safe_divide(mass - share, mass) * jnp.square(step)
    return square / mass


def _gaussian_variance(dictionary, x, equations, prior, variance, chunk):
    """`posterior_variance` of one Gaussian."""
    free_bias = prior.mean.shape[0] == equations.atom_mean.shape[-2]
    signals = 1 if equations.shared else len(equations.target_mean)
    variances = []
    for signal in range(signals):
        part = equations.of_signals(slice(signal, signal + 1))
        root, mean, weight = (
            _posterior_root(part, prior, variance),
            part.atom_mean,
            part.bias_weight,
        )
        if not equations.shared:
            root, mean, weight = root[0], mean[0], weight[0]

        def at(points, root=root, mean=mean, weight=weight):
            basis = dictionary.basis(points)
            if free_bias:
                shifted = numerics.einsum("re,pec->prc", root, basis - mean)
                return jnp.square(shifted).sum(1) + variance / weight
            experts = basis.shape[1]
            shifted = numerics.einsum("re,pec->prc", root[:, :experts], basis)
            return jnp.square(shifted + root[:, experts:]).sum(1)

        pieces = [at(x[i : i + chunk]) for i in range(0, len(x), chunk)]
        variances.append(jnp.concatenate(pieces))
    return jnp.stack(variances)
