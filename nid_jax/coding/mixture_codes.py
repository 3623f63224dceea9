"""Codes under a mixture of Gaussians: each component's most probable one, weighed by its evidence.

The evidence of component k, the density of the measurements under its Gaussian and the noise, says
how likely it made the signal. With the common part M = B common common^T B^T + noise I = T^T T
factored once for all components (and once more, with refinement, for the codes), component k adds
few directions of its own: in the whitened coordinates T^-T z

    covariance of what is measured = I + A_k A_k^T,    A_k = (T^-T B V) rows_k^T  [N, R]

with T^-T B V, of Q columns, for all of them. So a component costs N R (Q + R) and a signal N R,
whatever E^3 is.

What is returned is the mean of the codes over the components, weighed by `coarse_evidence`: no
component is the truth, and evidence that counts every measurement as one of the truth is surer of
one component than it may be.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nid_jax import numerics, platforms
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
    if known.mixture.basis.shape[0] != experts:
        allowed = f"a mixture of {experts} experts, as this dictionary has"
        raise ArgumentError("prior.mixture", known.mixture.basis.shape, allowed)
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


def of_matrix(root, z, mixture, noise, rest, values) -> MixtureCodes:
    """Signals of one matrix B [N, E], z [S, N], under a `mixture.Mixture` and a noise variance [].

    rest [S]: what B does not reach of the measurements, squared, in units of the noise; values [S]:
    their number. Evidences lack the density of that rest.
    """
    seen = _seen(root, z, mixture, noise)
    parts = seen, mixture, rest, values
    found, good = _over_components(*parts, least_squares.damped_all)
    # Right-hand sides of every component's own, and what corrects them, are held too.
    more = 3 * seen.right.size
    # Here, where little is passed on: what a branch gives back is copied.
    return jax.lax.cond(
        good, lambda: found, lambda: _over_components(*parts, _refined, held=more)[0]
    )


def _refined(images, right, offsets):
    """As `least_squares.damped_all`, to rounding."""
    shift = jnp.ones(len(images), images.dtype)
    return least_squares.damped(images, right - offsets[:, None], shift), jnp.asarray(True)


def _over_components(seen, mixture, rest, values, solve, held=0):
    """What `of_matrix` gives, and whether `solve`, as `least_squares.damped_all`, was good.

    held: numbers that `solve` needs for a component beside its matrix and codes.
    """
    right = seen.right

    def step(state, components):
        sums, good = state
        weights, offsets, rows = components
        images = numerics.einsum("nq,krq->knr", seen.matrix, rows)
        found, well = solve(images, right, numerics.einsum("nq,kq->kn", seen.matrix, offsets))
        quadratic, determinant = found.quadratic.T, found.log_determinant
        # Components that fill up the last group have weight 0: their logit is -inf.
        logarithm = jnp.log(weights)
        parts = (logarithm, determinant, jnp.log1p(quadratic + rest[:, None]), values[:, None])
        logits = coarse_evidence(*parts)
        evidences = logarithm - 0.5 * (quadratic + determinant)
        sums = sums.with_more(logits, found.codes, found.error, offsets, rows)
        return (sums, good & well), (evidences.T, logits.T)

    count, rank, basis = mixture.rows.shape
    signals, height = right.shape
    numbers = 2 * (height + signals) * rank + held
    size = numerics.even_size(count, max(1, platforms.sizes().chunk // numbers))
    parts = mixture.weights, mixture.offsets, mixture.rows
    start = _Sums.nothing(signals, basis, right.dtype), jnp.asarray(True)
    if size == count:
        # A loop of one turn would copy all components.
        (sums, good), found = step(start, parts)
        evidences, logits = (part.T for part in found)
    else:
        cut = tuple(numerics.cut(part, size) for part in parts)
        (sums, good), found = jax.lax.scan(step, start, cut)
        evidences, logits = (numerics.joined(part, count).T for part in found)
    codes, error = seen.codes(sums.places / sums.mass[:, None], mixture)
    error = jnp.maximum(error, sums.error / sums.mass)
    evidences = evidences - 0.5 * seen.white.log_determinant
    return MixtureCodes(codes, error, evidences, jax.nn.softmax(logits, 1)), good


class _Sums(NamedTuple):
    """Over the components so far, each times exp(its logit - top [S]): mass [S]; error [S];
    places [S, Q] in the basis."""

    top: jax.Array
    mass: jax.Array
    error: jax.Array
    places: jax.Array

    @classmethod
    def nothing(cls, signals, basis, kind):
        """Those of no component."""
        zero = jnp.zeros(signals, kind)
        return cls(jnp.full_like(zero, -jnp.inf), zero, zero, jnp.zeros((signals, basis), kind))

    def with_more(self, logits, codes, error, offsets, rows):
        """The sums with further components.

        logits [S, K]; codes [K, S, R] and error [K, S]; offsets [K, Q] and rows [K, R, Q], which
        make of codes their places in the basis.
        """
        top = jnp.maximum(self.top, logits.max(1))
        before, more = jnp.exp(self.top - top), jnp.exp(logits - top[:, None])
        # One product of all components, not one of each.
        weighed = numerics.einsum("sk,ksr->skr", more, codes).reshape(len(more), -1)
        flat = rows.reshape(weighed.shape[1], -1)
        places = numerics.einsum("sn,nq->sq", weighed, flat)
        places += numerics.einsum("sk,kq->sq", more, offsets)
        return _Sums(
            top,
            before * self.mass + more.sum(1),
            before * self.error + numerics.einsum("sk,ks->s", more, error),
            before[:, None] * self.places + places,
        )


class _Seen(NamedTuple):
    """What a matrix B sees of a mixture, in coordinates where noise and what is common are white.

    common B common [N, U]; white: T^T T = B common common^T B^T + noise I; offset [S, N], what the
    mean leaves of z; columns B basis [N, Q]; matrix [N, Q], right [S, N]: T^-T of the latter two.
    """

    common: jax.Array
    white: least_squares.Whitening
    noise: jax.Array
    offset: jax.Array
    columns: jax.Array
    matrix: jax.Array
    right: jax.Array

    def codes(self, places, mixture):
        """Of places [.., S, Q] in the basis: with the likeliest of what is common, [.., S, E], and
        the relative residual [.., S] of the system that this solves."""
        left = self.offset - numerics.einsum("...q,nq->...n", places, self.columns)
        codes = mixture.mean + numerics.einsum("...q,eq->...e", places, mixture.basis)
        common, error = self.likeliest(left, mixture)
        return codes + common, error

    def likeliest(self, values, mixture):
        """What is common to all [.., E], from what it is to explain [.., N], and the relative
        residual [..]."""
        rows = values.reshape(-1, values.shape[-1])
        found = least_squares.damped_codes(self.common, rows, self.noise)
        codes = numerics.einsum("su,eu->se", found.codes, mixture.common)
        batch = values.shape[:-1]
        return codes.reshape(*batch, -1), found.error.reshape(batch)


def _seen(root, z, mixture, noise):
    """`_Seen` of B [N, E] and z [S, N]."""
    common = numerics.einsum("ne,eu->nu", root, mixture.common)
    columns = numerics.einsum("ne,eq->nq", root, mixture.basis)
    offset = z - numerics.einsum("ne,e->n", root, mixture.mean)
    white = least_squares.whitening(common, noise)
    whitened = white.whitened(columns.T).T, white.whitened(offset)
    return _Seen(common, white, noise, offset, columns, *whitened)


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
    """`Components` for a noise variance [], at a price per component of a factorisation.

    With C what is common, M = B C C^T B^T + noise I, and A what is seen of its own directions V F:

        covariance = C (I + C^T B^T B C / noise)^-1 C^T + G (I + A^T A)^-1 G^T
        G = (V - C (B C)^T M^-1 B V) F
    """
    equations, mixture = equations.reduced(), known.mixture
    root, z = equations.root, equations.projected
    seen = _seen(root, z, mixture, noise)
    spread = mixture.basis.T - seen.likeliest(seen.columns.T, mixture)[0]
    rest, values = equations.rest / noise, values_of(equations)

    def one(component):
        weight, offset, rows = component
        image = numerics.einsum("nq,rq->nr", seen.matrix, rows)
        right = seen.right - numerics.einsum("nq,q->n", seen.matrix, offset)
        eye, nothing = jnp.eye(image.shape[1]), jnp.zeros((image.shape[1], len(z)))
        # Least |right - image t|^2 + |t|^2, which is the quadratic form of the evidence.
        found = least_squares.factored(
            jnp.concatenate([image, eye]), jnp.concatenate([right.T, nothing])
        )
        solve = functools.partial(
            jax.lax.linalg.triangular_solve, found.triangle, left_side=True, lower=False
        )
        places = offset + numerics.einsum("rs,rq->sq", solve(found.projected), rows)
        remaining = solve(numerics.einsum("rq,qe->re", rows, spread), transpose_a=True)
        determinant = 2 * jnp.log(jnp.abs(jnp.diagonal(found.triangle))).sum()
        logarithm = jnp.log1p(found.rest + rest)
        logit = coarse_evidence(jnp.log(weight), determinant, logarithm, values)
        return logit, places, remaining

    logits, places, remaining = jax.lax.map(one, (mixture.weights, mixture.offsets, mixture.rows))
    codes = seen.codes(places, mixture)[0].swapaxes(0, 1)
    left = left_open(seen.common, mixture.common, noise)
    return Components(jax.nn.softmax(logits.T, 1), codes, left, remaining)


def left_open(scaled, directions, noise):
    """Rows R of R^T R = D (I + (B D)^T B D / noise)^-1 D^T, what measuring leaves of D D^T.

    scaled B D [N, U], directions D [E, U], noise variance []. -> [U, E].
    """
    eye = jnp.eye(scaled.shape[-1], dtype=scaled.dtype)
    triangle = jnp.linalg.qr(jnp.concatenate([scaled / jnp.sqrt(noise), eye]), mode="r")
    return jax.lax.linalg.triangular_solve(
        triangle, directions.T, left_side=True, lower=False, transpose_a=True
    )
