"""A mixture of Gaussians over codes: signals of several kinds, or along a curve, fill no ellipsoid.

    p(code) = sum_k weight_k N(code; mean + V offset_k, V rows_k^T rows_k V^T + common common^T)

A component has a place and few directions of its own in a subspace V of the Q leading coordinates,
and in all others what is common to all (a mixture of factor analysers: Ghahramani and Hinton 1996;
common is diagonal for canonical codes). That takes K Q R numbers instead of K N^2, and the
measurements are factored, and V seen through them, once for all components.

Fitted by expectation maximisation (Dempster, Laird and Rubin 1977) from k-means (Lloyd 1982; seeds
after Arthur and Vassilvitskii 2007). Which signal belongs to which component is decided in the
leading coordinates of canonical codes, which hold nearly all of a signal's energy; there components
have full covariances. In the end every component takes in what lies near it, responsibilities being
raised to a power below 1 (as in deterministic annealing: Ueda and Nakano 1998), so that it has more
signals to learn its covariance from, and overlaps with others. The power is chosen by the
likelihood of signals held out. How many components there are, and the share of what is common in
each, are those by which signals held out are known best from few measurements: random projections
stand for them. Likelihood, which asks for every coefficient, chooses fewer and wider components
(chairs: 10, by which 0.1% of the samples give an IoU of 0.68, where 50 give 0.72). With few signals
one Gaussian is all that can be known.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.cluster.vq import kmeans2
from scipy.linalg import solve_triangular
from scipy.special import logsumexp, softmax

from nid_jax.coding import checks
from nid_jax.errors import ArgumentError

COUNTS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of components that signals held out choose from."""
# Evidence of n values counts as that of so many at most, and of fewer as nearly all of them. Beside
# n 40 / (40 + n): phantoms from 2, 4, 8, 16 views -0.28, +0.08, +0.08, +0.08 dB, chairs from 14,
# 69, 276 samples an IoU of +0.003, +0.002, +0.004; at 10 the fewest views and samples lose as much
# again.
_WORTH = 16.0
# How sharply: n / (1 + (n / worth)^p)^(1/p).
_SHARPNESS = 4

# Leading coordinates: those that hold such a part of the energy, at most so many.
_LEADING_ENERGY = 0.95
_MOST_LEADING = 64
# Those that components differ in, and the directions that each has of its own there. Chairs of 1000
# components, IoU from 110, 553 and 2765 of 24^3 samples: 0.846, 0.918 and 0.956; by 256 and 64 of
# them 0.846, 0.914 and 0.950, at two thirds of the time.
_MOST_COORDINATES = 512
_MOST_DIRECTIONS = 96
# Share of the covariance of all codes in that of every component: while it is fitted, and those to
# choose from in the end.
_SHARE = 0.03
_SHARES = (0.01, 0.1, 0.3)
_ROUNDS = 50
_LEAST_GAIN = 1e-3
_KMEANS_ROUNDS = 20
# A component of fewer signals says nothing.
_LEAST_SIGNALS = 2.0
# One part in so many is held out.
_FOLDS = 5
# Measurements of signals held out, to each of the leading coordinates.
_MEASURED = (0.25, 1.0, 4.0)
# What is measured beside the leading coordinates is noise, of at least such a part of the energy.
_LEAST_NOISE = 1e-2
# Powers of responsibilities to choose from.
_POWERS = (1.0, 0.1, 0.05, 0.02)
# Signals that belong to a component by less than this are left out of its covariance.
_LEAST_RESPONSIBILITY = 1e-4
_LEAST_OVERLAP = 1e-2
# Of a coefficient, relative to the mean one.
_LEAST_VARIANCE = 1e-8


class Mixture(NamedTuple):
    """K Gaussians of N coefficients.

    weights [K], of sum 1; mean [N]; basis [N, Q]; offsets [K, Q]; rows [K, R, Q]; common [N, U]:
    component k has the mean `mean` + basis offsets_k and the covariance
    basis rows_k^T rows_k basis^T + common common^T.
    """

    weights: jax.Array
    mean: jax.Array
    basis: jax.Array
    offsets: jax.Array
    rows: jax.Array
    common: jax.Array

    def means(self) -> Float[Array, "K N"]:
        """Those of the components."""
        return self.mean + self.offsets @ self.basis.T

    def directions(self, number: int) -> Float[Array, "N R"]:
        """Those of component `number` alone."""
        return self.basis @ self.rows[number].T

    def first(self, count: int) -> "Mixture":
        """That of the first `count` coefficients, the others left out."""
        parts = self.mean[:count], self.basis[:count], self.common[:count]
        return self._replace(mean=parts[0], basis=parts[1], common=parts[2])

    def transformed(self, matrix: Float[np.ndarray, "M N"]) -> "Mixture":
        """That of matrix @ code."""
        matrix = np.asarray(matrix, np.float64)
        parts = (self.mean, self.basis, self.common)
        mean, basis, common = (_single(matrix @ np.asarray(p, np.float64)) for p in parts)
        return self._replace(mean=mean, basis=basis, common=common)


def _single(values):
    return np.asarray(values, np.float32)


def coarse_evidence(log_weight, log_determinant, log_quadratic, values):
    """Log of how far a component of a mixture is believed, but for a constant.

    From the determinant and the quadratic form of its density of so many measured values, the form
    as log(1 + ..): a Gaussian whose scale is not known. It counts as that of `_WORTH` values at
    most: coarsened (Miller and Dunson 2019), since no component is what a signal is made of, and
    evidence that takes it for the truth is the surer the more is measured. Numbers, or arrays that
    broadcast, of NumPy or JAX.
    """
    worth = values / (1 + (values / _WORTH) ** _SHARPNESS) ** (1 / _SHARPNESS)
    return log_weight - 0.5 * worth * (log_determinant / values + log_quadratic)


def fit_mixture(
    codes: Float[np.ndarray, "S N"],
    counts: int | Sequence[int] | None = None,
    groups: Int[np.ndarray, " S"] | None = None,
    seed: int = 0,
) -> Mixture | None:
    """The mixture of training codes; None where one Gaussian is as good, if that may be chosen.

    The number of components, their overlap, and the share of the covariance of all codes in that
    of each are chosen together.

    Args:
      codes: [S, N], canonical: of falling energy, uncorrelated.
      counts: of components, or those to choose from by signals held out; None: `COUNTS`, as far as
        there are codes.
      groups: int [S]; signals of one group are held out together. None: all are independent.
      seed: of k-means.

    Raises:
      ArgumentError: no codes, a count that is not 1 to S.
    """
    codes = np.asarray(codes, np.float64)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ArgumentError("codes", codes.shape, "(signals, experts), 1 or more")
    if counts is None:
        counts = [count for count in COUNTS if count <= len(codes)]
    counts = [counts] if np.ndim(counts) == 0 else list(counts)
    for count in counts:
        if not 1 <= checks.whole("components", count, 1) <= len(codes):
            raise ArgumentError("components", count, f"1 to the {len(codes)} training signals")
    leading = _leading(codes)
    known, left = codes[:, :leading], codes[:, leading:].var(0).sum()
    if counts == [1]:
        return None
    count, power, share = choose(known, counts, groups, left, seed)
    if count == 1:
        return None
    found = expectation_maximisation(known, count, seed)
    overlap = found.responsibility(known, power)
    return moments(codes, found.weights, overlap).mixture(codes.var(0), share)


def _leading(codes):
    """How many leading coordinates tell the components apart."""
    energy = np.cumsum(codes.var(0))
    enough = int(np.searchsorted(energy, _LEADING_ENERGY * energy[-1])) + 1
    return min(enough, _MOST_LEADING, codes.shape[1])


def choose(
    known: Float[np.ndarray, "S N"],
    counts: Sequence[int],
    groups: Int[np.ndarray, " S"] | None = None,
    left: float = 0.0,
    seed: int = 0,
) -> tuple[int, float, float]:
    """(number of components, power, share) by which codes held out are known best from few values.

    known: leading coordinates; left: energy of the others; groups as in `fit_mixture`. Numbers are
    tried from the least on. One has to be better than the best of the lesser by more than the
    standard error of its gain over the groups; two in a row that are not end the search. Where
    nothing can be held out the least number is taken.
    """
    held, group = _held_out(len(known), groups)
    counts = sorted(set(counts))
    best, before, misses = (counts[0], _POWERS[0], _SHARE), None, 0
    if not held.any():
        return best
    train, test = known[~held], Measured.drawn(known[held], left)
    for count in counts:
        if count > len(train) or misses == 2:
            break
        way, gain = _best_way(train, test, count, seed)
        each = _of_groups(gain, group[held])
        if before is not None and not _gains(each - before):
            misses += 1
            continue
        best, before, misses = (count, *way), each, 0
    return best


class Measured(NamedTuple):
    """Codes [T, N], random projections [M, N] of several M, what these measure of the codes [T, M],
    and the variance of the noise in that."""

    codes: np.ndarray
    projections: list
    values: list
    noise: float

    @classmethod
    def drawn(cls, codes: Float[np.ndarray, "T N"], left: float) -> "Measured":
        """Of codes beside which there are others, of such an energy."""
        draw, size = np.random.default_rng(0), codes.shape[1]
        noise = max(left, _LEAST_NOISE * codes.var(0).sum(), np.finfo(np.float32).tiny)
        shapes = [(max(1, round(share * size)), size) for share in _MEASURED]
        projections = [draw.normal(size=shape) for shape in shapes]
        values = [
            codes @ one.T + np.sqrt(noise) * draw.normal(size=(len(codes), len(one)))
            for one in projections
        ]
        return cls(codes, projections, values, noise)

    def gain(self, found: "_Components") -> Float[np.ndarray, " T"]:
        """How well components know the codes from these values: the log of one over the squared
        error, in the mean over the projections."""
        errors = [
            np.square(self._codes(found, *one) - self.codes).sum(1)
            for one in zip(self.projections, self.values, strict=True)
        ]
        tiny = np.finfo(np.float64).tiny
        return -np.log(np.maximum(errors, tiny)).mean(0)

    def _codes(self, found, projection, values):
        """As `mixture_codes.solve` finds them. -> [T, N]."""
        logits, codes = [], []
        for weight, mean, root in zip(*found, strict=True):
            seen = projection @ root
            triangle = np.linalg.cholesky(seen @ seen.T + self.noise * np.eye(len(seen)))
            white = solve_triangular(triangle, (values - mean @ projection.T).T, lower=True)
            back = solve_triangular(triangle, white, lower=True, trans="T")
            codes.append(mean + back.T @ seen @ root.T)
            quadratic = np.square(white).sum(0)
            determinant = 2 * np.log(np.diag(triangle)).sum()
            parts = (np.log(weight), determinant, np.log1p(quadratic), len(seen))
            logits.append(coarse_evidence(*parts))
        return np.einsum("kt,ktn->tn", softmax(np.stack(logits), 0), np.stack(codes))


def _held_out(count, groups):
    """Which of the signals are held out, bool [S], and the group of each [S]: by their numbers, as
    in `prior.fit_prior`, whatever the seed of k-means."""
    groups = np.arange(count) if groups is None else np.asarray(groups)
    if groups.shape != (count,):
        raise ArgumentError("groups", groups.shape, f"({count},)")
    _, group = np.unique(groups, return_inverse=True)
    return group % _FOLDS == _FOLDS - 1, group


def _of_groups(values, group):
    """Means over each group that is there."""
    _, number = np.unique(group, return_inverse=True)
    return np.bincount(number, values) / np.bincount(number)


def _gains(gain):
    """Whether gains are above 0 by more than their standard error."""
    return len(gain) > 1 and gain.mean() > gain.std() / np.sqrt(len(gain))


def _best_way(train, test, count, seed):
    """(power, share) of so many components, and their gains [T].

    The least power, so the most overlap, under which the test's codes are no less likely than
    without: where few measurements leave open which component made a signal, wide ones err less
    (phantoms from 4, 16 views: 28.84 and 30.97 dB, at the most likely power 28.73 and 30.80). Then
    the share of most gain.
    """
    found = expectation_maximisation(train, count, seed)
    common = _common(train)

    def wider(power, share):
        other = _maximised(train, found.responsibility(train, power), common, share)
        same = len(other.weights) == len(found.weights)
        return other._replace(weights=found.weights) if same else other

    several = count > 1
    powers = _POWERS if several else _POWERS[:1]
    likely = {power: wider(power, _SHARE).log_likelihood(test.codes).mean() for power in powers}
    power = min(p for p in powers if likely[p] >= likely[powers[0]])
    shares = (_SHARE, *_SHARES) if several else (_SHARE,)
    gains = {share: test.gain(wider(power, share)) for share in shares}
    share = max(gains, key=lambda share: gains[share].mean())
    return (power, share), gains[share]


class _Components(NamedTuple):
    """Full covariances in few coordinates. weights [K]; means [K, N]; roots [K, N, N], lower
    triangles of the covariances."""

    weights: np.ndarray
    means: np.ndarray
    roots: np.ndarray

    def log_densities(self, known):
        """log weight_k N(code; mean_k, covariance_k). -> [S, K]."""
        found = []
        for weight, mean, root in zip(self.weights, self.means, self.roots, strict=True):
            squares = np.square(solve_triangular(root, (known - mean).T, lower=True)).sum(0)
            level = 2 * np.log(np.diag(root)).sum() + len(root) * np.log(2 * np.pi)
            found.append(np.log(weight) - 0.5 * (squares + level))
        return np.stack(found, 1)

    def log_likelihood(self, known):
        """Of every code. -> [S]."""
        return logsumexp(self.log_densities(known), 1)

    def responsibility(self, known, power=1.0):
        """How much every code belongs to every component, to a power, of sum 1. -> [S, K]."""
        logs = power * self.log_densities(known)
        return softmax(logs, 1)


def expectation_maximisation(known, count, seed=0, share=_SHARE, rounds=_ROUNDS) -> _Components:
    """A mixture of `count` Gaussians of full covariances, each with `share` of that of all codes.

    known [S, N]. Components that end up with fewer than two signals are dropped.
    """
    common = _common(known)
    # Components without a signal are dropped, as all that have hardly any.
    centres = {"minit": "++", "rng": seed, "missing": "warn"}
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        _, label = kmeans2(known, count, _KMEANS_ROUNDS, **centres)
    responsibility = np.eye(count)[label]
    before = -np.inf
    for _ in range(rounds if count > 1 else 1):
        found = _maximised(known, responsibility, common, share)
        logs = found.log_densities(known)
        responsibility = softmax(logs, 1)
        now = logsumexp(logs, 1).mean()
        if now - before < _LEAST_GAIN:
            break
        before = now
    return found


def _common(known):
    """The covariance of all codes [N, N], positive definite."""
    found = np.cov(known.T, bias=True).reshape(known.shape[1], -1)
    level = np.trace(found) / len(found) or 1.0
    return found + 1e-9 * level * np.eye(len(found))


def _maximised(known, responsibility, common, share):
    """The components of most likelihood for given responsibilities [S, K]."""
    signals = responsibility.sum(0)
    kept = signals >= min(_LEAST_SIGNALS, signals.max())
    responsibility, signals = responsibility[:, kept], signals[kept]
    means = (responsibility.T @ known) / signals[:, None]
    roots = []
    for mean, own, size in zip(means, responsibility.T, signals, strict=True):
        # Most signals belong to one component, and hardly to any other.
        some = own > _LEAST_RESPONSIBILITY
        centred = known[some] - mean
        covariance = (centred * (own[some] / size)[:, None]).T @ centred
        roots.append(np.linalg.cholesky((1 - share) * covariance + share * common))
    return _Components(signals / signals.sum(), means, np.stack(roots))


class Moments(NamedTuple):
    """Components of N coefficients that differ in the first Q of them. weights [K]; means [K, N],
    in the others that of all; factors [K, Q, R] of their covariances; left [N], the variance that
    these leave, in the mean over the components."""

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    left: np.ndarray

    def unique(self, variance, share):
        """What is common to all components [N], for a share of the variance [N] of all codes."""
        floor = _LEAST_VARIANCE * (variance.mean() or 1.0)
        return np.maximum((1 - share) * self.left + share * variance, floor)

    def mixture(self, variance, share):
        """The `Mixture` with such a share of the variance [N] of all codes in every component."""
        common = np.diag(np.sqrt(self.unique(variance, share)))
        size, leading = self.means.shape[1], self.factors.shape[1]
        mean = self.weights @ self.means
        offsets = (self.means - mean)[:, :leading]
        rows = np.sqrt(1 - share) * self.factors.swapaxes(1, 2)
        parts = (self.weights, mean, np.eye(size, leading), offsets, rows, common)
        return Mixture(*map(_single, parts))


def moments(
    codes: Float[np.ndarray, "S N"],
    weights: Float[np.ndarray, " K"],
    overlap: Float[np.ndarray, "S K"],
) -> Moments:
    """`Moments` of components of weights [K], from how much every signal counts for each."""
    means, factors, left = [], [], []
    leading = min(_MOST_COORDINATES, codes.shape[1])
    rank, middle = min(_MOST_DIRECTIONS, leading), codes.mean(0)
    for own in overlap.T:
        weight = np.where(own < _LEAST_OVERLAP * own.max(), 0, own)
        weight, some = weight[weight > 0] / weight.sum(), codes[weight > 0]
        mean = np.concatenate([weight @ some[:, :leading], middle[leading:]])
        rows = np.sqrt(weight)[:, None] * (some - mean)
        factor = _largest_directions(rows[:, :leading], rank)
        means.append(mean)
        factors.append(factor)
        variance = np.square(rows).sum(0)
        variance[:leading] -= np.square(factor).sum(1)
        left.append(variance)
    weights = weights / weights.sum()
    left = np.maximum(weights @ np.stack(left), 0)
    return Moments(weights, np.stack(means), np.stack(factors), left)


def _largest_directions(rows, rank):
    """A factor [N, R] of the covariance rows^T rows, of its largest directions. rows [n, N]."""
    if len(rows) > rows.shape[1]:
        variances, axes = np.linalg.eigh(rows.T @ rows)
        factor = axes * np.sqrt(np.maximum(variances, 0))
    else:
        # rows^T u, for the eigenvectors u of the smaller matrix.
        factor = rows.T @ np.linalg.eigh(rows @ rows.T)[1]
    factor = factor[:, ::-1][:, :rank]
    return np.pad(factor, ((0, 0), (0, rank - factor.shape[1])))
