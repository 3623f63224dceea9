"""Codes under a mixture of Gaussians: each component's most probable one, weighed by its evidence.

The evidence of component k, the density of the measurements under its Gaussian and the noise, says
how likely it made the signal. With the common part M = B common common^T B^T + noise I = T^T T
factored once, component k adds few directions of its own: in the whitened coordinates T^-T z

    covariance of what is measured = I + A_k A_k^T,    A_k = T^-T B factor_k  [N, R]

so a component costs N R (E + R) and a signal N R, whatever E^3 is.

What is returned is the mean of the codes over the components, weighed by `coarse_evidence`: no
component is the truth, and evidence that counts every measurement as one of the truth is surer of
one component than it may be.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.coding import gram, least_squares, posterior, ridge
from nid_jax.coding.mixture import coarse_evidence
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.prior import GaussianPrior
from nid_jax.coding.solution import Result, Solution
from nid_jax.errors import ArgumentError

_TOLERANCE = 1e-4
# Numbers of the matrices of signals with weights of their own that are held at a time.
_BATCH_NUMBERS = 2**24


class MixtureCodes(NamedTuple):
    """codes [S, E]; error [S], relative residual of the linear systems; evidences [S, K]: log
    density of the measurements and of component k together, so that their log-sum is the evidence
    of the mixture; shares [S, K]: of every component in the codes, of sum 1."""

    codes: jax.Array
    error: jax.Array
    evidences: jax.Array
    shares: jax.Array


def under_prior(equations, known: GaussianPrior, noise) -> Solution:
    """Codes under the mixture of a prior where it has one, else as `posterior.gaussian`."""
    if known.mixture is None:
        return posterior.gaussian(equations, known, noise)
    return most_probable(equations, known, noise)


def most_probable(equations, known: GaussianPrior, noise) -> Solution:
    """The codes of measurements under the mixture of a prior.

    equations: of either kind; known: a prior of E coefficients with its mixture; noise: as in
    `posterior.gaussian`. stats as there, and 'component', the one of most evidence, with its
    'component_share'. Raises ArgumentError for a prior of another dictionary and a bad noise.
    """
    variance, by_evidence = posterior.resolve_noise(equations, known.alone(), noise)
    found = solve(equations, known, variance)
    share = found.shares
    stats = posterior.noise_stats(variance, by_evidence) | {
        "linear_error": found.error,
        "component": share.argmax(1).astype(jnp.int32),
        "component_share": share.max(1),
    }
    converged = found.error < _TOLERANCE
    return ridge.as_solution(
        equations, found.codes, converged, otherwise=Result.INEXACT, stats=stats
    )


def solve(equations, known: GaussianPrior, noise) -> MixtureCodes:
    """The codes for a noise variance []. Raises ArgumentError for a prior of another dictionary."""
    experts = equations.atom_mean.shape[-2]
    if known.mixture.means.shape[1] != experts:
        allowed = f"a mixture of {experts} experts, as this dictionary has"
        raise ArgumentError("prior.mixture", known.mixture.means.shape, allowed)
    noise, known = jnp.asarray(noise, jnp.float32), known._replace(codes=None)
    if not isinstance(equations, OrthonormalEquations):
        return _one_by_one(equations, known, noise)
    equations, signals = equations.reduced(), len(equations.target_mean)
    size = signals if equations.shared else max(1, _BATCH_NUMBERS // experts**2)
    parts = [
        _orthonormal(equations.of_signals(slice(first, first + size)), known, noise)
        for first in range(0, signals, size)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _one_by_one(equations, known, noise):
    """`solve` by a factorisation of each component's whole covariance, in float64."""
    weights = known.mixture.weights
    found = [
        posterior.solve_posterior(equations, known.component(k), noise) for k in range(len(weights))
    ]
    evidences = jnp.stack([one.evidence for one in found], 1) + jnp.log(weights)
    share = shares_of(found, weights, values_of(equations))
    codes, error = (
        sum(share[:, k].reshape(-1, *(1,) * (part[0].ndim - 1)) * one for k, one in enumerate(part))
        for part in ([one.codes for one in found], [one.error for one in found])
    )
    return MixtureCodes(codes, error, evidences, share)


def values_of(equations) -> Float[Array, "*S"]:
    """Values that were measured of a signal, less the free bias: [] or [S]."""
    return (equations.count - 1) * equations.target_mean.shape[-1]


def shares_of(
    found: list[posterior.Posterior], weights: Float[Array, " K"], values: Float[Array, "*S"]
) -> Float[Array, "S K"]:
    """Of every component in the codes, from what each makes of S signals of so many values."""
    quadratic = jnp.stack([one.quadratic for one in found], 1)
    determinant = -2 * jnp.stack([one.evidence for one in found], 1) - quadratic
    values = jnp.broadcast_to(values, quadratic.shape[:1])[:, None]
    logarithm = jnp.log1p(quadratic)
    logits = coarse_evidence(jnp.log(weights), determinant, logarithm, values)
    return jax.nn.softmax(logits, axis=1)


@gram.batched_by_map
def _orthonormal(equations, known, noise):
    equations, known = jax.lax.stop_gradient((equations, known))
    root, z, mixture = equations.root, equations.projected, known.mixture
    counts = values_of(equations)
    level = (counts - z.shape[-1]) * jnp.log(noise) + counts * jnp.log(2 * jnp.pi)
    level = level + equations.rest / noise
    rest, counts = equations.rest / noise, jnp.broadcast_to(counts, len(z))
    if equations.shared:
        found = of_matrix(root, z, mixture, noise, rest, counts)
    else:

        def one(inputs):
            root, *own = inputs
            z, rest, counts = (part[None] for part in own)
            found = of_matrix(root, z, mixture, noise, rest, counts)
            return jax.tree.map(lambda leaf: leaf[0], found)

        found = jax.lax.map(one, (root, z, rest, counts))
    return found._replace(evidences=found.evidences - 0.5 * level[:, None])


class _Sums(NamedTuple):
    """Over the components so far, each times exp(its logit - top [S]): mass [S]; error [S];
    codes [S, E] of the components' own directions; left [S, N], what those leave of z."""

    top: jax.Array
    mass: jax.Array
    error: jax.Array
    codes: jax.Array
    left: jax.Array


def of_matrix(root, z, mixture, noise, rest, values) -> MixtureCodes:
    """Signals of one matrix B [N, E], z [S, N], under a `mixture.Mixture` and a noise variance [].

    rest [S]: what B does not reach of the measurements, squared, in units of the noise; values [S]:
    their number. Evidences are but for the density of that.
    """
    common = numerics.einsum("ne,eu->nu", root, mixture.common)
    factors = least_squares.damping(common, noise)
    atoms, here = factors.whitened(root.T), factors.whitened(z)

    def step(sums, component):
        one = _of_component(atoms, here, *component)
        now = one.logit(component[0], rest, values)
        top = jnp.maximum(sums.top, now)
        before, more = jnp.exp(sums.top - top), jnp.exp(now - top)
        evidence = jnp.log(component[0]) - 0.5 * (one.quadratic + one.determinant)
        return _Sums(
            top,
            before * sums.mass + more,
            before * sums.error + more * one.error,
            before[:, None] * sums.codes + more[:, None] * one.codes,
            before[:, None] * sums.left + more[:, None] * one.left,
        ), (evidence, now)

    zeros, codes = jnp.zeros_like(z[:, 0]), jnp.zeros((len(z), root.shape[1]), z.dtype)
    start = _Sums(jnp.full_like(zeros, -jnp.inf), zeros, zeros, codes, jnp.zeros_like(z))
    sums, (evidences, logits) = jax.lax.scan(step, start, tuple(mixture[:3]))
    along, _ = factors.parts(sums.left / sums.mass[:, None])
    codes = sums.codes / sums.mass[:, None]
    codes = codes + numerics.einsum("su,eu->se", along, mixture.common)
    evidences = evidences.T - 0.5 * factors.log_determinant
    return MixtureCodes(codes, sums.error / sums.mass, evidences, jax.nn.softmax(logits.T, 1))


class _Component(NamedTuple):
    """One component, in whitened coordinates: quadratic form and log determinant of its density of
    the measurements, over those of what is common, [S] and []; error [S]; codes of its own
    directions [S, E]; what they leave of z [S, N]; how these directions are measured [N, R], with
    the triangle of (them; I)."""

    quadratic: jax.Array
    determinant: jax.Array
    error: jax.Array
    codes: jax.Array
    left: jax.Array
    image: jax.Array
    triangle: jax.Array

    def logit(self, weight, rest, values):
        """`coarse_evidence` of a component of this weight. -> [S]."""
        logarithm = jnp.log1p(self.quadratic + rest)
        return coarse_evidence(jnp.log(weight), self.determinant, logarithm, values)


def _of_component(atoms, here, weight, mean, own):
    """`_Component`. atoms [E, N]; here [S, N]; mean [E]; own [E, R]."""
    del weight
    image = numerics.einsum("en,er->nr", atoms, own)
    offset = here - numerics.einsum("en,e->n", atoms, mean)
    eye = jnp.eye(own.shape[1], dtype=here.dtype)
    nothing = jnp.zeros((len(eye), len(here)), here.dtype)
    # Least |offset - image t|^2 + |t|^2, which is the quadratic form of the evidence.
    found = least_squares.factored(
        jnp.concatenate([image, eye]), jnp.concatenate([offset.T, nothing])
    )
    t = jax.lax.linalg.triangular_solve(
        found.triangle, found.projected, left_side=True, lower=False
    ).T
    determinant = 2 * jnp.log(jnp.abs(jnp.diagonal(found.triangle))).sum()
    left = offset - numerics.einsum("sr,nr->sn", t, image)
    before, after = (numerics.einsum("sn,nr->sr", v, image) for v in (offset, left))
    error = jnp.linalg.norm(after - t, axis=1)
    error = numerics.safe_divide(error, jnp.linalg.norm(before, axis=1))
    codes = mean + numerics.einsum("sr,er->se", t, own)
    return _Component(found.rest, determinant, error, codes, left, image, found.triangle)


class Components(NamedTuple):
    """Codes of S signals of one matrix under each component, and what that leaves open of them.

    shares [S, K], as of `MixtureCodes`; codes [S, K, E]. Component k has the covariance of rows,
    common^T common + rows_k^T rows_k: common [U, E], rows [K, R, E].
    """

    shares: jax.Array
    codes: jax.Array
    common: jax.Array
    rows: jax.Array


def components(equations: OrthonormalEquations, known: GaussianPrior, noise) -> Components:
    """`Components` for a noise variance [], at the price of `solve`.

    With C what is common, M = B C C^T B^T + noise I, and A what remains of its own directions F:

        covariance = C (I + C^T B^T B C / noise)^-1 C^T + G (I + A^T A)^-1 G^T
        G = F - C (B C)^T M^-1 B F
    """
    equations, mixture = equations.reduced(), known.mixture
    root, z = equations.root, equations.projected
    common = numerics.einsum("ne,eu->nu", root, mixture.common)
    factors = least_squares.damping(common, noise)
    atoms, here = factors.whitened(root.T), factors.whitened(z)

    def one(component):
        found, own = _of_component(atoms, here, *component), component[2].T
        along, _ = factors.parts(jnp.concatenate([found.image.T, found.left]))
        back = numerics.einsum("su,eu->se", along, mixture.common)
        rows = jax.lax.linalg.triangular_solve(
            found.triangle, own - back[: len(own)], left_side=True, lower=False, transpose_a=True
        )
        logit = found.logit(component[0], equations.rest / noise, values_of(equations))
        return logit, found.codes + back[len(own) :], rows

    logits, codes, rows = jax.lax.map(one, tuple(mixture[:3]))
    left = left_open(common, mixture.common, noise)
    return Components(jax.nn.softmax(logits.T, 1), codes.swapaxes(0, 1), left, rows)


def left_open(scaled, directions, noise):
    """Rows R of R^T R = D (I + (B D)^T B D / noise)^-1 D^T, what measuring leaves of D D^T.

    scaled B D [N, U], directions D [E, U], noise variance []. -> [U, E].
    """
    eye = jnp.eye(scaled.shape[-1], dtype=scaled.dtype)
    triangle = jnp.linalg.qr(jnp.concatenate([scaled / jnp.sqrt(noise), eye]), mode="r")
    return jax.lax.linalg.triangular_solve(
        triangle, directions.T, left_side=True, lower=False, transpose_a=True
    )
