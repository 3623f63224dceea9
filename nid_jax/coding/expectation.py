"""A Gaussian over coefficients, from signals each of which was measured in a way of its own.

A signal's coefficients w ~ N(mean, covariance) are seen through rows X of measured features, beside
a constant c that is free and white noise: y = X w + c b + e. Expectation maximisation (Dempster,
Laird & Rubin 1977; of principal components with missing values, Roweis 1998) needs no grid that
signals share. In a round, with the kernel K = X covariance X^T + noise I of a signal's rows,

    P = K^-1 - K^-1 c (c^T K^-1 c)^-1 c^T K^-1,      u = P (y - X mean)

say all: coefficients are mean + covariance X^T u, of covariance less covariance X^T P X covariance,
so that the sum over signals of X^T (u u^T - P) X is what the next covariance needs. K is factored
once for all signals of one way, and is as small as the rows are few: of more rows than N
coefficients only the triangle of an orthogonal factorisation is kept.

The covariance is drawn towards a target T, as one under an inverse Wishart prior is:
(1 - shrinkage) S + shrinkage T for the expected second moments S. That is the maximum of a
likelihood with the penalty -nu/2 (log |covariance| + tr(covariance^-1 T)),
nu = shrinkage / (1 - shrinkage) signals, which therefore rises from round to round. The noise is
drawn to that of the target in the same way: of many coefficients and few signals a covariance
explains noise as signal, and the most likely noise alone is far too small.

Before there is a target covariances are diagonal: features of variances of their own, uncorrelated.
These variances v, smoothed over a spectrum, and the noise beside them are the target. As log |K|
lies below its tangents, and u is that of the most probable coefficients, the likelihood rises by

    v <- v sqrt(sum (X^T u)^2 / sum diag(X^T P X)),  noise <- noise sqrt(sum |u|^2 / sum tr P),

with the mean's share taken from the squares (Zhou, Hu, Zhou & Lange 2019, MM algorithms for
variance components models). Expectation maximisation takes several times as many rounds.

Several blocks of coefficients, such as those of channels that were decorrelated, share the rows
and have a Gaussian each. Letters: K blocks, N coefficients, M rows, Q constants, S signals, P rows
of a pool of which signals show some. In float64 inside `gram.working_precision('float64')`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nid_jax.coding import least_squares

# Of the measurements' variance. What is too little is made up for in a round or two, what is too
# much takes many.
_FIRST_NOISE = 1e-2
# Variances are averaged over one of so many parts of a spectrum, of so many features at least.
_BANDS, _LEAST_BAND = 16, 8
# Variances and noise fall to this part in a round at most: what is between them and the best of a
# bound is better than they are, too.
_LEAST_STEP = 0.25


class Gaussian(NamedTuple):
    """mean [K, N], covariance [K, N, N], noise []: the variance of a measurement."""

    mean: Float[Array, "K N"]
    covariance: Float[Array, "K N N"]
    noise: Float[Array, ""]


class Target(NamedTuple):
    """What a Gaussian is drawn to: variances [K, N] of coefficients, and noise []."""

    variances: Float[Array, "K N"]
    noise: Float[Array, ""]


class Rows(NamedTuple):
    """What was measured of S signals in one way, rows scaled by the roots of their weights.

    Rows of zeros pad; `reduced` says what it leaves out.
    """

    design: Float[Array, "M N"]
    constants: Float[Array, "M Q"]
    values: Float[Array, "S M K"]
    rest: Float[Array, "S K"]
    """Squares of what no coefficient reaches, beside `values`."""
    count: Float[Array, ""]
    """Measurements of a signal, padding not among them."""
    signals: Float[Array, ""]
    """How many signals there are: the values of further ones fill up, and are not looked at."""


class Expected(NamedTuple):
    """Sums over signals of what a round needs: all of them may be added."""

    first: Float[Array, "K N"]
    """X^T u."""
    second: Float[Array, "K N N"] | Float[Array, "K N"]
    """X^T (u u^T - P) X; its diagonal where coefficients are uncorrelated, of which rounds of
    variances need no more."""
    pulls: Float[Array, "K N"]
    """Squares of X^T u."""
    misfit: Float[Array, ""]
    """Squares of what the most probable coefficients leave."""
    spare: Float[Array, ""]
    """What is expected beside them, as coefficients are not certain."""
    values: Float[Array, ""]
    likelihood: Float[Array, ""]
    signals: Float[Array, ""]

    def __add__(self, other: "Expected") -> "Expected":  # type: ignore[override]
        # [1, N] and [1, N, N] would be broadcast.
        if self.second.ndim != other.second.ndim:
            shapes = f"{self.second.shape} and {other.second.shape}"
            raise ValueError(f"second: {shapes}; allowed: both whole, or the diagonals of both")
        return jax.tree.map(jnp.add, self, other)


class _Pulled(NamedTuple):
    """Of the rows of one way and one block: u [M, S], P [M, M], and sums over the signals."""

    pulled: Array
    precision: Array
    misfit: Array
    spare: Array
    likelihood: Array


def nothing(blocks: int, coefficients: int, *, diagonal: bool = False) -> Expected:
    """What a sum over signals begins with. diagonal: of coefficients that are uncorrelated."""
    zero = jnp.zeros(())
    first = jnp.zeros((blocks, coefficients))
    second = first if diagonal else jnp.zeros((*first.shape, coefficients))
    return Expected(first, second, first, zero, zero, zero, zero, zero)


def nothing_of(gaussian: Gaussian, *, diagonal: bool) -> Expected:
    """What a sum over signals begins with under a Gaussian."""
    blocks, coefficients = gaussian.mean.shape
    return nothing(blocks, coefficients, diagonal=diagonal)


def reduced(design: Array, constants: Array, values: Array) -> tuple[Array, Array, Array, Array]:
    """(design, constants, values, rest) of no more rows than unknowns. values [S, M, K]."""
    unknowns = design.shape[1] + constants.shape[1]
    if len(design) <= unknowns:
        return design, constants, values, jnp.zeros((len(values), values.shape[-1]))
    signals, rows, blocks = values.shape
    right = values.swapaxes(0, 1).reshape(rows, -1)
    triangle, turned, rest = least_squares.factored(jnp.concatenate([constants, design], 1), right)
    ends = constants.shape[1]
    turned = turned.reshape(unknowns, signals, blocks).swapaxes(0, 1)
    return triangle[:, ends:], triangle[:, :ends], turned, rest.reshape(signals, blocks)


def _found(kernel, constants, right, rest, count, signals, noise):
    """kernel [M, M] without the noise; right [M, S], rest [S], 0 beyond `signals`. -> `_Pulled`."""
    size = len(right)
    factor = jnp.linalg.cholesky(kernel + noise * jnp.eye(size))
    solve = functools.partial(jax.lax.linalg.triangular_solve, factor, left_side=True, lower=True)
    half = solve(jnp.eye(size))
    inverse = half.T @ half
    pulled = inverse @ constants
    seen = jnp.square(constants).sum(0) > 0
    # A constant that is not measured stays as it is.
    inner = constants.T @ pulled + jnp.diag(jnp.where(seen, 0.0, 1.0))
    level = jnp.linalg.cholesky(inner)
    level_half = jax.lax.linalg.triangular_solve(level, pulled.T, left_side=True, lower=True)
    precision = inverse - level_half.T @ level_half
    u = precision @ right
    determinant = 2 * jnp.log(jnp.diagonal(factor)).sum() + (count - size) * jnp.log(noise)
    determinant += 2 * jnp.log(jnp.diagonal(level)).sum()
    determinant += (count - seen.sum()) * math.log(2 * math.pi)
    quadratic = (right * u).sum() + rest.sum() / noise
    misfit = noise**2 * jnp.square(u).sum() + rest.sum()
    spare = signals * (noise * size - noise**2 * jnp.trace(precision))
    return _Pulled(u, precision, misfit, spare, -0.5 * (signals * determinant + quadratic))


@functools.partial(jax.jit, static_argnames="diagonal")
def expected(gaussian: Gaussian, rows: Rows, *, diagonal: bool = False) -> Expected:
    """What signals of one way say, under a Gaussian.

    diagonal: coefficients are uncorrelated: with M rows M^2 N products, not M N^2.
    """
    signals = rows.signals
    real = jnp.arange(len(rows.values)) < signals

    def block(inputs):
        mean, covariance, values, rest = inputs
        design = rows.design
        right = jnp.where(real, (values - design @ mean).T, 0)
        rest = jnp.where(real, rest, 0)
        scaled = design * jnp.diagonal(covariance) if diagonal else design @ covariance
        kernel = scaled @ design.T
        found = _found(kernel, rows.constants, right, rest, rows.count, signals, gaussian.noise)
        pulls = design.T @ found.pulled
        squares = jnp.square(pulls).sum(1)
        if diagonal:
            second = squares - signals * (design * (found.precision @ design)).sum(0)
        else:
            inner = found.pulled @ found.pulled.T - signals * found.precision
            second = design.T @ (inner @ design)
        sums = found.misfit, found.spare, found.likelihood
        return pulls.sum(1), second, squares, jnp.stack(sums)

    inputs = (gaussian.mean, gaussian.covariance, jnp.moveaxis(rows.values, -1, 0), rows.rest.T)
    first, second, pulls, sums = jax.lax.map(block, inputs)
    misfit, spare, likelihood = sums.sum(0)
    values = signals * rows.count * rows.values.shape[-1]
    return Expected(first, second, pulls, misfit, spare, values, likelihood, signals)


@functools.partial(jax.jit, static_argnames="diagonal")
def expected_apart(gaussian: Gaussian, rows: Rows, *, diagonal: bool = False) -> Expected:
    """What signals say of which each has rows of its own: every field of `rows` has an axis B of
    signals in front, before the one of S, which is 1. diagonal: see `expected`."""

    def add(total, one):
        return total + expected(gaussian, Rows(*one), diagonal=diagonal), None

    return jax.lax.scan(add, nothing_of(gaussian, diagonal=diagonal), tuple(rows))[0]


class Levels(NamedTuple):
    """What is known of the constants' coefficients b of S signals under a Gaussian of the others.

    They are free: b is what it is best taken for. cross is the sum over signals of E[(w - mean) b]
    in units of the covariance, X^T (...), so that cross / S is the regression of b on w.
    """

    best: Float[Array, "S K Q"]
    spare: Float[Array, "K Q Q"]
    """Sum over signals of the variance that is left of b."""
    cross: Float[Array, "K N Q"]


@jax.jit
def levels(gaussian: Gaussian, rows: Rows) -> Levels:
    """Of signals of one way. A constant that is not measured is taken for 0."""
    signals = len(rows.values)
    seen = jnp.square(rows.constants).sum(0) > 0

    def block(inputs):
        mean, covariance, values = inputs
        design, size = rows.design, len(rows.design)
        kernel = design @ covariance @ design.T + gaussian.noise * jnp.eye(size)
        factor = jnp.linalg.cholesky(kernel)
        solve = functools.partial(jax.lax.linalg.triangular_solve, factor, left_side=True)
        constants = solve(rows.constants, lower=True)
        right = solve((values - design @ mean).T, lower=True)
        inverse = jnp.linalg.inv(constants.T @ constants + jnp.diag(jnp.where(seen, 0.0, 1.0)))
        inverse = jnp.where(seen[:, None] & seen, inverse, 0.0)
        best = inverse @ constants.T @ right
        left = (right - constants @ best) @ best.T - signals * constants @ inverse
        cross = design.T @ solve(left, lower=True, transpose_a=True)
        return best.T, signals * inverse, cross

    inputs = (gaussian.mean, gaussian.covariance, jnp.moveaxis(rows.values, -1, 0))
    best, spare, cross = jax.lax.map(block, inputs)
    return Levels(best.swapaxes(0, 1), spare, cross)


@jax.jit
def levels_apart(gaussian: Gaussian, rows: Rows) -> Levels:
    """Of signals each of which has rows of its own, see `expected_apart`."""
    found = jax.lax.map(lambda one: levels(gaussian, Rows(*one)), tuple(rows))
    return Levels(found.best[:, 0], found.spare.sum(0), found.cross.sum(0))


class Shown(NamedTuple):
    """B signals that show some rows of a pool: places int [B, m], roots [B, m] of their weights,
    0 where there is none, values [B, m, K] scaled by them."""

    places: Int[Array, "B m"]
    roots: Float[Array, "B m"]
    values: Float[Array, "B m K"]


class Pool(NamedTuple):
    """Rows that signals show some of, and what a Gaussian says of them all."""

    design: Float[Array, "P N"]
    constants: Float[Array, "P Q"]
    kernels: Float[Array, "K P P"]
    offsets: Float[Array, "K P"]


class PoolSums(NamedTuple):
    """`Expected` before the pool's rows are applied: u [K, P] and u u^T - P [K, P, P]."""

    pulled: Float[Array, "K P"]
    inner: Float[Array, "K P P"]
    pulls: Float[Array, "K N"]
    rest: Float[Array, " 4"]
    """misfit, spare, values, likelihood."""
    signals: Float[Array, ""]


@jax.jit
def pool(gaussian: Gaussian, design: Array, constants: Array) -> Pool:
    """A pool of rows under a Gaussian."""
    kernels = jax.lax.map(lambda matrix: design @ matrix @ design.T, gaussian.covariance)
    return Pool(design, constants, kernels, gaussian.mean @ design.T)


def pool_nothing(pool: Pool) -> PoolSums:
    """What the sums over signals of a pool begin with."""
    zeros = jnp.zeros_like(pool.offsets), jnp.zeros_like(pool.kernels)
    pulls = jnp.zeros((len(pool.kernels), pool.design.shape[1]))
    return PoolSums(*zeros, pulls, jnp.zeros(4), jnp.zeros(()))


@functools.partial(jax.jit, donate_argnums=0)
def pool_added(sums: PoolSums, pool: Pool, shown: Shown, noise: Array) -> PoolSums:
    """The sums with further signals.

    Kernels of what a signal shows are read from the pool's, and what they say is added to the
    pool's rows: no product of matrices with the features is made for a signal.
    """
    blocks = len(pool.kernels)

    def add(total, one):
        places, roots, values = one
        count = (roots > 0).sum().astype(roots.dtype)
        both = roots[:, None] * roots
        constants = roots[:, None] * pool.constants[places]
        for block in range(blocks):
            kernel = both * pool.kernels[block][places][:, places]
            right = values[:, block] - roots * pool.offsets[block][places]
            nil = jnp.zeros(1)
            found = _found(kernel, constants, right[:, None], nil, count, 1.0, noise)
            inner = found.pulled @ found.pulled.T - found.precision
            more = jnp.stack([found.misfit, found.spare, count, found.likelihood])
            pulled = roots * found.pulled[:, 0]
            pulls = jnp.square(pulled @ pool.design[places])
            total = total._replace(
                pulled=total.pulled.at[block, places].add(pulled),
                pulls=total.pulls.at[block].add(pulls),
                inner=total.inner.at[block, places[:, None], places].add(both * inner),
                rest=total.rest + more,
            )
        return total._replace(signals=total.signals + (count > 0)), None

    return jax.lax.scan(add, sums, tuple(shown))[0]


@functools.partial(jax.jit, static_argnames="diagonal")
def pool_expected(sums: PoolSums, pool: Pool, *, diagonal: bool = False) -> Expected:
    """The sums over the signals of a pool as those over coefficients. diagonal: see `expected`."""
    first = sums.pulled @ pool.design

    def applied(inner):
        right = inner @ pool.design
        return (pool.design * right).sum(0) if diagonal else pool.design.T @ right

    second = jax.lax.map(applied, sums.inner)
    return Expected(first, second, sums.pulls, *sums.rest, sums.signals)


@jax.jit
def moments(gaussian: Gaussian, sums: Expected) -> tuple[Array, Array]:
    """The next mean [K, N], and the second moments S [K, N, N] about it, of signals' coefficients.

    S is what a covariance without a target would be.
    """

    def block(inputs):
        mean, covariance, first, second = inputs
        step = covariance @ first / sums.signals
        spread = covariance + covariance @ second @ covariance / sums.signals
        spread = spread - step[:, None] * step
        return mean + step, (spread + spread.T) / 2

    return jax.lax.map(block, (gaussian.mean, gaussian.covariance, sums.first, sums.second))


@jax.jit
def maximised(
    gaussian: Gaussian, sums: Expected, target: Target, shrinkage: float, least_noise: float
) -> Gaussian:
    """The Gaussian of the next round, drawn to a target by `shrinkage`.

    least_noise: below which the noise does not go.
    """
    mean, spread = moments(gaussian, sums)
    noise = (sums.misfit + sums.spare) / sums.values
    noise = (1 - shrinkage) * noise + shrinkage * target.noise
    covariance = shrunk(spread, target.variances, shrinkage)
    return Gaussian(mean, covariance, jnp.maximum(noise, least_noise))


@jax.jit
def varied(gaussian: Gaussian, sums: Expected, least_noise: float) -> Gaussian:
    """The next mean, variances and noise, of coefficients that are uncorrelated, as are `sums`.

    What is not measured keeps its variance. least_noise: below which the noise does not go.
    """
    signals = sums.signals
    variance = jnp.diagonal(gaussian.covariance, axis1=1, axis2=2)
    certain = sums.pulls - sums.second
    pulls = jnp.maximum(sums.pulls - jnp.square(sums.first) / signals, 0)
    seen = certain > 0
    grown = jnp.where(seen, jnp.sqrt(pulls / jnp.where(seen, certain, 1)), 1)
    # Of one signal the mean explains all, and the variances that it is found by would be nothing.
    grown = jnp.maximum(grown, _LEAST_STEP) * variance
    covariance = jax.vmap(jnp.diag)(grown)
    mean = gaussian.mean + variance * sums.first / signals
    noise = gaussian.noise
    # noise^2 tr P of all measurements, those that are reduced to nothing too.
    traces = noise * sums.values - sums.spare
    ratio = jnp.where(traces > 0, jnp.sqrt(sums.misfit / traces), 1)
    noise = noise * jnp.maximum(ratio, _LEAST_STEP)
    return Gaussian(mean, covariance, jnp.maximum(noise, least_noise))


def smoothed(
    variances: Float[Array, "K N"], spectrum: Float[np.ndarray, " N"]
) -> Float[Array, "K N"]:
    """Variances half way to the mean of those that have nearly the same place in a spectrum.

    Few places do not tell all features apart: the most likely variances of some are nothing, and
    from there no round would raise them again.
    """
    known, count = np.asarray(variances), len(spectrum)
    width = min(max(_LEAST_BAND, count // _BANDS), count)
    order = np.argsort(spectrum, kind="stable")
    sums = np.pad(np.cumsum(known[:, order], 1), ((0, 0), (1, 0)))
    first = np.clip(np.arange(count) - width // 2, 0, count - width)
    means = np.empty_like(known)
    means[:, order] = (sums[:, first + width] - sums[:, first]) / width
    return jnp.asarray((known + means) / 2)


def shrunk(spread: Array, target: Array, shrinkage: float) -> Array:
    """(1 - shrinkage) S + shrinkage T."""
    return (1 - shrinkage) * spread + shrinkage * jax.vmap(jnp.diag)(target)


def penalty(
    gaussian: Gaussian, target: Target | None, shrinkage: float, signals: int, values: float
) -> float:
    """What is added to the log likelihood so that `maximised` makes the sum rise.

    signals, values: how many signals there are, and measurements of them.
    """
    if target is None or not shrinkage:
        return 0.0
    total = signals * float(_distance(gaussian.covariance, target.variances))
    noise = float(gaussian.noise)
    total += values * (math.log(noise) + float(target.noise) / noise)
    return -0.5 * shrinkage / (1 - shrinkage) * total


@jax.jit
def _distance(covariance, target):
    """log |covariance| + tr(covariance^-1 T) over the blocks."""
    factor = jnp.linalg.cholesky(covariance)
    deviations = jax.vmap(jnp.diag)(jnp.sqrt(target))
    half = jax.lax.linalg.triangular_solve(factor, deviations, left_side=True, lower=True)
    return 2 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum() + jnp.square(half).sum()


def falling(roughness: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """A spectrum of less variance the rougher a feature is.

    roughness: mean squared difference of neighbouring samples as a part of the feature's mean
    square. Energies fall as the third power of frequency, a little faster than those of pictures:
    what few signals show grows to its own in fewer rounds than too much would shrink.
    """
    roughness = np.asarray(roughness, np.float64)
    return (roughness + 1e-3 * np.max(roughness) + 1e-12) ** -1.5


def started(
    spectrum: Float[np.ndarray, " N"], variances: Float[np.ndarray, " K"], design_energy: float
) -> Gaussian:
    """What rounds begin with: no mean, and variances of coefficients as a spectrum has them.

    variances: of the measurements of every block; design_energy: mean square of a feature over a
    signal's measurements.
    """
    shape = np.asarray(spectrum, np.float64)
    shape = shape / (design_energy * shape.sum())
    variances = np.asarray(variances, np.float64)
    covariance = np.stack([np.diag(variance * shape) for variance in variances])
    return Gaussian(
        jnp.zeros(covariance.shape[:2]),
        jnp.asarray(covariance),
        jnp.asarray(np.float64(_FIRST_NOISE * variances.mean())),
    )


def as_float64(tree: Any) -> Any:
    """Arrays of a tree as float64, inside of `gram.working_precision('float64')`."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), tree)
