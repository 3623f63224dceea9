"""Heads in closed form where signals share no grid: from what was measured of each.

Coefficients of the features are Gaussian and found by rounds of expectation maximisation
(`fitting.rounds`), whatever points, pixels or beams a signal was seen by. The leading directions of
their covariance are the heads, as those of `components` are where all signals are known on one
grid, and the Gaussian along them is the prior of the codes. Signals' codes do not tell what all
signals share, so that the mean has an atom where the leading directions lack it.

Coefficients are of the features made orthonormal on the grid that the dictionary is drawn on, and
of channels decorrelated: blocks of one channel each, so that a signal's factorisation is that of
its points, not of its points times channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nid_jax import numerics
from nid_jax.coding import expectation, gram, operators
from nid_jax.coding.drawing import level_of_moments
from nid_jax.coding.expectation import Gaussian
from nid_jax.coding.prior import GaussianPrior
from nid_jax.data.originals import held_out
from nid_jax.errors import ArgumentError
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import rounds, ways
from nid_jax.training.components import Heads, Span, colour_directions

MOST_FEATURES = 4096
"""F of a covariance of one channel that is held and taken apart as a whole, in float64."""

# Signals that channels are decorrelated by.
_COLOUR_SIGNALS = 256
# Variance of a code that is always zero, as a share of the mean one: no solver divides by zero.
_LEAST_VARIANCE = 1e-8


def partial_heads(
    dictionary: SharedDictionary,
    measured: Any,
    grid_shape: Sequence[int],
    names: Sequence[str],
    num_rounds: int,
    shrinkage: float | None = None,
    state: rounds.State | None = None,
    told: rounds.Told = rounds.UNTOLD,
) -> tuple[Heads, GaussianPrior] | None:
    """Heads and the prior of their codes from signals each of which was measured in its own way.

    Args:
      dictionary: shared, of F features; its own heads are not looked at.
      measured: ways, way, values and weights of the signals, see `tasks.Measured`.
      grid_shape: of the grid on which features are made orthonormal.
      names: of the signals; copies, 'name/copy', are held out together.
      num_rounds: with covariances.
      shrinkage: of the covariance towards its diagonal, in [0, 1); None chooses.
      state, told: see `rounds.learned`; None where it stopped the rounds.

    Raises:
      ArgumentError: more than `MOST_FEATURES` features, or shrinkage outside.
    """
    if shrinkage is not None and not 0 <= shrinkage < 1:
        raise ArgumentError("components.shrinkage", shrinkage, "0 to below 1, or None")
    if dictionary.num_features > MOST_FEATURES:
        allowed = f"'drawn' for {dictionary.num_features} features: the most is {MOST_FEATURES}"
        raise ArgumentError("heads", "components", allowed)
    columns = FeatureColumns(dictionary, grid_shape, measured, len(names))
    found = rounds.learned(
        columns,
        measured,
        held_out(names),
        expectation.falling(columns.roughness),
        num_rounds,
        shrinkage,
        state,
        told,
    )
    if found.round < rounds.spectrum_rounds(num_rounds) + num_rounds:
        return None
    levels = rounds.levels(columns, measured, found.gaussian, len(names))
    kernel, bias, prior = columns.heads(found, levels, dictionary.num_experts)
    how = f"{ways.in_words(measured, len(names))}; {num_rounds} rounds after "
    how += f"{rounds.spectrum_rounds(num_rounds)} of variances alone, deviation of noise "
    how += f"{float(np.sqrt(found.gaussian.noise)):.2g} in values as scaled"
    heads = Heads(kernel, bias, float(found.shrinkage or 0), len(names), 0.0, how=how)
    return heads, prior


class FeatureColumns:
    """Features orthonormal on a grid, without their means, as columns of `rounds.Columns`."""

    def __init__(
        self, dictionary: SharedDictionary, grid_shape: Sequence[int], measured: Any, signals: int
    ):
        self.dictionary = dictionary
        self.channels = self.blocks = dictionary.channels
        self.coefficients = dictionary.num_features
        reference = operators.sample(tuple(grid_shape))
        self.span = Span(dictionary, reference)
        self.roughness = self._roughness(reference, tuple(grid_shape))
        self.colours = _colours(measured, signals, self.channels)

    def _roughness(self, reference, grid_shape):
        """Squared differences of neighbours on the grid as a part of a column's squares [F]."""
        on_grid = np.asarray(self.rows(reference)[0], np.float64)
        energy = np.square(on_grid).sum(0)
        on_grid = on_grid.reshape(*grid_shape, -1)
        total = sum(
            np.square(np.diff(on_grid, axis=axis)).sum(tuple(range(len(grid_shape))))
            for axis in range(len(grid_shape))
        )
        # What the grid does not see is as rough as can be.
        seen = energy > 1e-6 * energy.max()
        rough = np.where(seen, total / np.where(seen, energy, 1), 0)
        return np.where(seen, rough, rough.max())

    def rows(self, operator: operators.Operator) -> tuple[jax.Array, jax.Array]:
        """(design [M, F], the constant's response [M, 1])."""
        count = operator.num_measurements
        pieces, measure = gram.measured_features(self.dictionary, operator, min(count, 4096))
        features, constant = jax.lax.map(measure, pieces)
        features = numerics.joined(features, count)[:, 0]
        constant = numerics.joined(constant, count)[:, None]
        features, constant, mean, root = gram.wide(
            features, constant, self.span.mean, jnp.asarray(self.span.root)
        )
        return numerics.einsum("mf,fg->mg", features - constant * mean, root), constant

    def values(self, measurements: Float[np.ndarray, "S M C"]) -> Float[np.ndarray, "S M C"]:
        """Decorrelated channels."""
        return measurements @ self.colours

    def heads(
        self, state: rounds.State, levels: rounds.Levels, experts: int
    ) -> tuple[Float[np.ndarray, "F C E"], Float[np.ndarray, "E C"], GaussianPrior]:
        """Kernel, bias and prior of the leading directions of the Gaussian, and of its mean."""
        found = _leading(state.gaussian, self.span.axes.astype(np.float64), experts)
        basis = np.einsum("nke,ck->nce", found.basis, self.colours)
        kernel, bias = self.span.heads(basis.reshape(-1, basis.shape[-1]))
        count, share = self.span.count, max(float(state.shrinkage or 0), _LEAST_VARIANCE)
        variance = np.maximum(found.variances, _LEAST_VARIANCE * found.variances.mean()) / count
        prior = GaussianPrior.single(
            found.mean / np.sqrt(count),
            np.diag(np.sqrt((1 - share) * variance)),
            share * variance,
            float(state.gaussian.noise) + found.left / count / self.channels,
            share,
        )
        # Codes are uncorrelated, so that each has a regression of its own.
        covariances = np.asarray(state.gaussian.covariance, np.float64)
        products = np.einsum("knm,km->nk", covariances, levels.slope[..., 0])
        slope = np.einsum("nke,nk->ek", found.basis, products) / np.sqrt(count)
        slope = slope / variance[:, None] @ self.colours.T
        spread = self.colours @ levels.covariance @ self.colours.T
        level = level_of_moments(np.diag(variance), self.colours @ levels.mean, spread, slope)
        return kernel, bias, _filled(prior._replace(level=level), experts)


class _Leading(NamedTuple):
    """Orthonormal directions of coefficients, uncorrelated, and what they leave of a signal."""

    basis: Float[np.ndarray, "N K E"]
    mean: Float[np.ndarray, " E"]
    variances: Float[np.ndarray, " E"]
    left: float
    """Expected squares of a signal's coefficients in all other directions."""


def _leading(gaussian: Gaussian, axes: Float[np.ndarray, "N R"], most: int) -> _Leading:
    """Up to `most` directions in the span of `axes` that leave little of signals of a Gaussian.

    E eigenvectors V of the covariance, of the largest eigenvalues, leave the sum of the others, and
    what they lack of the mean m: |r|^2 of every signal, r = m - V V^T m. E - 1 of them beside
    r / |r| leave none of the mean. What leaves less is taken. As r is orthogonal to eigenvectors,
    V^T covariance r = 0: the directions stay uncorrelated. The best of all, leading eigenvectors of
    covariance + m m^T, leave less by the E-th eigenvalue of the covariance at most (interlacing),
    but would be correlated, and mix blocks in every direction.
    """
    means_of, covariances = (np.asarray(leaf, np.float64) for leaf in gaussian[:2])
    energies, vectors = np.linalg.eigh(axes.T @ covariances @ axes)
    vectors = axes @ vectors
    means = np.einsum("knr,kn->kr", vectors, means_of)
    order = np.argsort(-energies, axis=None)
    values, along = energies.ravel()[order], means.ravel()[order]
    number = min(most, len(order))
    left = np.maximum(values[number:], 0).sum() + np.square(along[number:]).sum()
    # The mean's direction in place of the last one.
    rest = along[number - 1 :]
    squares = np.square(rest).sum()
    spread = (np.square(rest) * values[number - 1 :]).sum() / squares if squares else 0.0
    with_mean = max(values[number - 1 :].sum() - spread, 0.0)
    single = number - 1 if with_mean < left else number
    blocks, places = np.divmod(order[:single], energies.shape[1])
    basis = np.zeros((len(axes), len(energies), number))
    basis[:, blocks, np.arange(single)] = vectors[blocks, :, places].T
    mean, variances = along[:number].copy(), values[:number].copy()
    if single < number:
        parts = np.zeros(energies.size)
        parts[order[single:]] = rest / np.sqrt(squares)
        basis[..., -1] = np.einsum("knr,kr->nk", vectors, parts.reshape(energies.shape))
        mean[-1], variances[-1], left = np.sqrt(squares), spread, with_mean
    return _Leading(basis, mean, variances, float(left))


def _colours(measured, count, channels):
    """Axes [C, C] along which the channels of measurements are uncorrelated."""
    total = np.zeros((channels, channels))
    for index in np.unique(np.linspace(0, count - 1, min(count, _COLOUR_SIGNALS)).astype(int)):
        values = np.asarray(measured.values(int(index)), np.float64)
        weights = ways.weights_of(measured, int(index))
        values = values if weights is None else values[weights > 0]
        centred = values - values.mean(0)
        total += centred.T @ centred / len(centred)
    return colour_directions(total)


def _filled(prior, experts):
    """The prior of a dictionary of more experts than directions were found: those have none."""
    more = experts - len(prior.mean)
    least = jnp.full(more, _LEAST_VARIANCE * prior.diagonal.mean())
    slope = np.pad(prior.level.slope, ((0, more), (0, 0)))
    return prior._replace(
        level=prior.level._replace(slope=slope),
        mean=jnp.pad(prior.mean, (0, more)),
        factor=jnp.pad(prior.factor, ((0, more), (0, 0))),
        diagonal=jnp.concatenate([prior.diagonal, least]),
    )
