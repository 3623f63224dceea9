"""Codes under a mixture of Gaussians: each component's most probable one, weighed by its evidence.

The evidence of component k, the density of the measurements under its Gaussian and the noise, says
how likely it made the signal. With the common part M = B common common^T B^T + noise I = T^T T
factored once, component k adds few directions of its own: in the whitened coordinates T^-T z

    covariance of what is measured = I + A_k A_k^T,    A_k = T^-T B factor_k  [N, R]

so a component costs N R (E + R) and a signal N R, whatever E^3 is.

What is returned is the mean of the codes over the components, weighed by evidence: the code of
least expected squared error, which the best component alone never was (measured on phantoms from 2
to 16 views, 60 unseen: 0.02 to 0.5 dB more).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nid_jax import numerics
from nid_jax.coding import gram, least_squares, posterior, ridge
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
    of the mixture."""

    codes: jax.Array
    error: jax.Array
    evidences: jax.Array

    @property
    def responsibility(self) -> jax.Array:
        """How likely each component made the signal, given its measurements. [S, K]."""
        return jax.nn.softmax(self.evidences, axis=1)


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
    share = found.responsibility
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
    share = jax.nn.softmax(evidences, axis=1)
    codes, error = (
        sum(share[:, k].reshape(-1, *(1,) * (part[0].ndim - 1)) * one for k, one in enumerate(part))
        for part in ([one.codes for one in found], [one.error for one in found])
    )
    return MixtureCodes(codes, error, evidences)


@gram.batched_by_map
def _orthonormal(equations, known, noise):
    equations, known = jax.lax.stop_gradient((equations, known))
    root, z, mixture = equations.root, equations.projected, known.mixture
    counts = (equations.count - 1) * equations.target_mean.shape[-1]
    level = (counts - z.shape[-1]) * jnp.log(noise) + counts * jnp.log(2 * jnp.pi)
    level = level + equations.rest / noise
    if equations.shared:
        codes, error, evidences = of_matrix(root, z, mixture, noise)
    else:

        def one(inputs):
            found = of_matrix(inputs[0], inputs[1][None], mixture, noise)
            return jax.tree.map(lambda leaf: leaf[0], found)

        codes, error, evidences = jax.lax.map(one, (root, z))
    return MixtureCodes(codes, error, evidences - 0.5 * level[:, None])


class _Sums(NamedTuple):
    """Over the components so far, each times exp(its evidence - top [S]): mass [S]; error [S];
    codes [S, E] of the components' own directions; left [S, N], what those leave of z."""

    top: jax.Array
    mass: jax.Array
    error: jax.Array
    codes: jax.Array
    left: jax.Array


def of_matrix(root, z, mixture, noise):
    """Signals of one matrix B [N, E], z [S, N], under a `mixture.Mixture` and a noise variance [].

    -> codes [S, E], error [S], evidences [S, K] but for the density of what B does not reach.
    """
    common = numerics.einsum("ne,eu->nu", root, mixture.common)
    factors = least_squares.damping(common, noise)
    atoms, here = factors.whitened(root.T), factors.whitened(z)

    def step(sums, component):
        evidence, error, codes, left = _of_component(atoms, here, *component)[:4]
        top = jnp.maximum(sums.top, evidence)
        before, now = jnp.exp(sums.top - top), jnp.exp(evidence - top)
        return _Sums(
            top,
            before * sums.mass + now,
            before * sums.error + now * error,
            before[:, None] * sums.codes + now[:, None] * codes,
            before[:, None] * sums.left + now[:, None] * left,
        ), evidence

    zeros, codes = jnp.zeros_like(z[:, 0]), jnp.zeros((len(z), root.shape[1]), z.dtype)
    start = _Sums(jnp.full_like(zeros, -jnp.inf), zeros, zeros, codes, jnp.zeros_like(z))
    sums, evidences = jax.lax.scan(step, start, tuple(mixture[:3]))
    along, _ = factors.parts(sums.left / sums.mass[:, None])
    codes = sums.codes / sums.mass[:, None]
    codes = codes + numerics.einsum("su,eu->se", along, mixture.common)
    return codes, sums.error / sums.mass, evidences.T - 0.5 * factors.log_determinant


def _of_component(atoms, here, weight, mean, own):
    """One component, in whitened coordinates. atoms [E, N]; here [S, N]; mean [E]; own [E, R].

    -> evidence [S], error [S], codes of its own directions [S, E], what they leave of z [S, N]; and
    these directions as they are measured [N, R], with the triangle of (them; I).
    """
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
    evidence = jnp.log(weight) - 0.5 * (found.rest + determinant)
    left = offset - numerics.einsum("sr,nr->sn", t, image)
    before, after = (numerics.einsum("sn,nr->sr", v, image) for v in (offset, left))
    error = jnp.linalg.norm(after - t, axis=1)
    error = numerics.safe_divide(error, jnp.linalg.norm(before, axis=1))
    codes = mean + numerics.einsum("sr,er->se", t, own)
    return evidence, error, codes, left, image, found.triangle


class Components(NamedTuple):
    """Codes of S signals of one matrix under each component, and what that leaves open of them.

    evidences [S, K], but for what is the same for all; codes [S, K, E]. Component k has the
    covariance of rows, common^T common + rows_k^T rows_k: common [U, E], rows [K, R, E].
    """

    evidences: jax.Array
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
        own = component[2]
        evidence, _, codes, left, image, triangle = _of_component(atoms, here, *component)
        along, _ = factors.parts(jnp.concatenate([image.T, left]))
        back = numerics.einsum("su,eu->se", along, mixture.common)
        rows = jax.lax.linalg.triangular_solve(
            triangle, own.T - back[: len(image.T)], left_side=True, lower=False, transpose_a=True
        )
        return evidence, codes + back[len(image.T) :], rows

    evidences, codes, rows = jax.lax.map(one, tuple(mixture[:3]))
    left = left_open(common, mixture.common, noise)
    return Components(evidences.T, codes.swapaxes(0, 1), left, rows)


def left_open(scaled, directions, noise):
    """Rows R of R^T R = D (I + (B D)^T B D / noise)^-1 D^T, what measuring leaves of D D^T.

    scaled B D [N, U], directions D [E, U], noise variance []. -> [U, E].
    """
    eye = jnp.eye(scaled.shape[-1], dtype=scaled.dtype)
    triangle = jnp.linalg.qr(jnp.concatenate([scaled / jnp.sqrt(noise), eye]), mode="r")
    return jax.lax.linalg.triangular_solve(
        triangle, directions.T, left_side=True, lower=False, transpose_a=True
    )
