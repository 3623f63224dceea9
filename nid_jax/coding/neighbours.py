"""A Gaussian prior of one signal's own: that of the training signals which measure like it.

Signals seldom fill a Gaussian: where measurements are few, the training signals that would have
measured alike say more of what was not measured than all of them together. So the prior's mean and
covariance are those of the nearest K training codes, by kernel weights, with a share of the
covariance of all (locally weighted learning: Atkeson, Moore and Schaal 1997; here before the
measurements are taken into account, as in an ensemble Kalman step: Evensen 1994).

Near is meant in the measurements, whitened by what the prior of all expects of them: with
r = y - Phi a the residual that a training code leaves, r^T (Phi Sigma Phi^T + s2 I)^-1 r.
"""

import functools

import jax
import jax.numpy as jnp

from nid_jax import numerics
from nid_jax.coding import checks, gram, least_squares, posterior, ridge
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.solution import Result, Solution
from nid_jax.errors import ArgumentError

_TOLERANCE = 1e-4
# Numbers of the products with all training codes that are held at a time.
_BATCH_NUMBERS = 2**24


def check_neighbours(neighbours, blend, known):
    """Raise ArgumentError unless 2 <= neighbours <= known and 0 <= blend <= 1."""
    if not 2 <= neighbours <= known:
        raise ArgumentError(
            "neighbours",
            neighbours,
            f"0 (one prior for all), or 2 to the {known} training codes that were kept "
            "(prior.keep_codes)",
        )
    checks.numbers("blend", blend, lambda v: (v >= 0) & (v <= 1), "0 to 1")


def local_gaussian(equations, known, noise, neighbours, blend=0.1) -> Solution:
    """The most probable codes under the Gaussian of each signal's nearest training codes.

    equations: of either kind; known: `GaussianPrior` of E coefficients with its training codes;
    noise: as in `posterior.gaussian`; neighbours: K; blend: share of the covariance of all training
    codes (its K largest directions) in that of the neighbours. stats as `posterior.gaussian`.
    Raises ArgumentError for a prior without codes, or of another dictionary, and for options out of
    range.
    """
    codes = known.codes
    check_neighbours(neighbours, blend, 0 if codes is None else len(codes))
    experts = equations.atom_mean.shape[-2]
    if codes.shape[1] != experts:
        allowed = f"those of {experts} experts, as this dictionary has"
        raise ArgumentError("prior.codes", codes.shape, allowed)
    noise, by_evidence = posterior.resolve_noise(equations, known, noise)
    signals = len(equations.target_mean)
    size = signals if equations.shared else max(1, _BATCH_NUMBERS // (experts * len(codes)))
    parts = [equations.of_signals(slice(i, i + size)) for i in range(0, signals, size)]
    solved = [_solve(part, known.alone(), codes, noise, blend, neighbours) for part in parts]
    found, error = (jnp.concatenate(pieces) for pieces in zip(*solved, strict=True))
    return ridge.as_solution(
        equations,
        found,
        error < _TOLERANCE,
        otherwise=Result.INEXACT,
        stats=posterior.noise_stats(noise, by_evidence) | {"linear_error": error},
    )


@functools.partial(gram.batched_by_map, static=("neighbours",))
def _solve(equations, known, codes, noise, blend, neighbours):
    """-> codes [S, E], relative residual of the linear system [S]."""
    equations, known, codes = jax.lax.stop_gradient((equations, known, codes))
    noise, blend = jnp.float32(noise), jnp.float32(blend)
    if isinstance(equations, OrthonormalEquations):
        return _orthonormal_solve(equations, known, codes, noise, blend, neighbours)
    solve = functools.partial(_normal_solve, neighbours=neighbours)
    return gram.in_float64(solve, equations, known, codes, noise, blend)


def _normal_solve(equations, known, codes, noise, blend, neighbours):
    """`_solve` of normal equations, in the widest type of the scope."""
    matrix, moments = equations.wide()
    codes, factor, diagonal, energy, noise, blend = gram.wide(
        codes, known.factor, known.diagonal, equations.energy, noise, blend
    )
    precision, _ = posterior.precision_matrix(known)
    common = _largest_columns(factor, diagonal, neighbours)
    one = matrix.ndim == 2
    shared = _metric(matrix, codes, noise, precision) if one else None

    def solve(signal):
        own, moment, power = signal
        gram_matrix = matrix if one else own
        metric = shared if one else _metric(gram_matrix, codes, noise, precision)
        distance = _distances(metric, codes, moment, power)
        negative, chosen = jax.lax.top_k(-distance, neighbours)
        mean, spread = _gaussian_of(-negative, codes[chosen], common, blend)
        return _most_probable(gram_matrix, moment, mean, spread, noise)

    own = jnp.zeros(len(moments)) if one else matrix
    found, error = jax.lax.map(solve, (own, moments, energy))
    return found.astype(jnp.float32), error.astype(jnp.float32)


def _largest_columns(factor, diagonal, neighbours):
    """No more of the covariance of all than there are neighbours: the largest columns of
    [factor, diag(diagonal)^1/2], as rows. Of a prior without correlations all is in the second."""
    experts, rank = factor.shape
    sizes = jnp.concatenate([jnp.square(factor).sum(0), diagonal])
    _, largest = jax.lax.top_k(sizes, min(neighbours, len(sizes)))
    single = jax.nn.one_hot(largest - rank, experts, dtype=factor.dtype) * jnp.sqrt(diagonal)
    if not rank:
        return single
    return jnp.where(largest[:, None] < rank, factor.T[jnp.minimum(largest, rank - 1)], single)


def _gaussian_of(distances, near, common, blend):
    """Mean [E] and spread of the nearest codes [K, E], with a share of what is common to all.

    distances [K], ascending: a code's weight falls linearly to 0 at the last.
    """
    tiny = jnp.finfo(distances.dtype).tiny
    weight = jnp.maximum(1 - distances / jnp.maximum(distances[-1], tiny), 0)
    # Equal distances leave no weight: then all count alike.
    weight = jnp.where(weight.sum() > 0, weight, 1.0)
    weight = weight / weight.sum()
    mean = numerics.einsum("k,ke->e", weight, near)
    spread = jnp.sqrt((1 - blend) * weight)[:, None] * (near - mean)
    return mean, jnp.concatenate([spread, jnp.sqrt(blend) * common])


def _orthonormal_solve(equations, known, codes, noise, blend, neighbours):
    """`_solve` where B Sigma B^T + noise I = R^T R whitens what every code would measure."""
    common = _largest_columns(known.factor, known.diagonal, neighbours)

    def whitened(root, z, scaled):
        size = root.shape[0]
        eye = jnp.sqrt(noise) * jnp.eye(size, dtype=root.dtype)
        triangle = jnp.linalg.qr(jnp.concatenate([scaled.T, eye], 0), mode="r")
        right = jnp.concatenate([numerics.einsum("ne,ke->nk", root, codes), z.T], 1)
        return jax.lax.linalg.triangular_solve(
            triangle, right, left_side=True, lower=False, transpose_a=True
        ).T

    def solve(root, z, rest, there, here):
        distance = noise * jnp.square(there - here).sum(-1) + rest
        negative, chosen = jax.lax.top_k(-distance, neighbours)
        mean, spread = _gaussian_of(-negative, codes[chosen], common, blend)
        image = numerics.einsum("ne,ke->nk", root, spread)
        offset = (z - numerics.einsum("ne,e->n", root, mean))[None]
        found = least_squares.damped_codes(image, offset, noise)
        return mean + numerics.einsum("k,ke->e", found.codes[0], spread), found.error[0]

    equations = equations.reduced()
    scaled = posterior.scaled_rows(equations, known)[0]
    root, z = equations.root, equations.projected
    if equations.shared:
        both = whitened(root, z, scaled)
        there, here = both[: len(codes)], both[len(codes) :]
        signals = (z, equations.rest, here)
        return jax.lax.map(lambda a: solve(root, *a[:2], there, a[2]), signals)

    def one(inputs):
        root, z, rest, scaled = inputs
        both = whitened(root, z[None], scaled)
        return solve(root, z, rest, both[:-1], both[-1])

    return jax.lax.map(one, (root, z, equations.rest, scaled))


def _metric(matrix, codes, noise, precision):
    """What the distances of all signals with this Gram matrix share; codes [N, E].

    -> measured codes G a [N, E], K^-1 G a [N, E], factor of K = G + noise Sigma^-1.
    """
    measured = numerics.einsum("ne,ef->nf", codes, matrix)
    zero = jnp.zeros((), matrix.dtype)
    factor, scale, _, _ = numerics.scaled_cholesky(matrix + noise * precision, zero)
    solved = numerics.solve_scaled_cholesky(factor, scale, measured.T).T
    return measured, solved, (factor, scale)


def _distances(metric, codes, moment, power):
    """r^T (Phi Sigma Phi^T + noise I)^-1 r of every training code's residual r, times noise. [N].

    By Woodbury's identity |r|^2 - v^T K^-1 v with v = Phi^T r, in products of codes only.
    """
    measured, solved, (factor, scale) = metric
    residual = power + jnp.sum(codes * (measured - 2 * moment), 1)
    moment_solved = numerics.solve_scaled_cholesky(factor, scale, moment[:, None])[:, 0]
    explained = jnp.sum((measured - 2 * moment) * solved, 1) + moment @ moment_solved
    return jnp.maximum(residual - explained, 0)


def _most_probable(matrix, moment, mean, spread, noise):
    """Code under N(mean, spread^T spread); spread [N, E]. -> code [E], relative residual []."""
    image = numerics.einsum("ke,ef->kf", spread, matrix)
    system = numerics.einsum("kf,lf->kl", image, spread)
    system = system + noise * jnp.eye(len(spread), dtype=matrix.dtype)
    right = numerics.einsum("ke,e->k", spread, moment - numerics.einsum("ef,f->e", matrix, mean))
    zero = jnp.zeros((), matrix.dtype)
    factor, scale, shift, _ = numerics.scaled_cholesky(system, zero)
    part, error = ridge.refined(system, shift, factor, scale, right[None])
    return mean + numerics.einsum("k,ke->e", part[0], spread), error[0]
