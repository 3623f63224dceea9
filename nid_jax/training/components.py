"""Heads in closed form: the leading components of the training signals in given features.

With the features of a shared dictionary given, the E heads that leave least of a collection are the
leading eigenvectors of the signals' covariance in orthonormal features (functional principal
components: Ramsay & Silverman 2005, chapter 8). Three things make them generalise:

- The covariance is shrunk towards its diagonal in features and decorrelated channels, by the share
  of least error on signals held out.
- What is least is, by choice, the mean logarithm of the signals' errors, of which a mean of
  decibels is made, not their sum, to which smooth signals hardly count. The logarithm is concave:
  signals weighed by the inverse of what is left of each bound it from above, and components under
  those weights can but lower it (majorisation).
- The constant is projected out: every signal has a bias of its own.

The atoms that come out are orthonormal on the training grid, up to one factor, codes of the
training signals uncorrelated and sorted by energy: the canonical form of a dense dictionary.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from nid_jax import numerics
from nid_jax.coding import gram, operators
from nid_jax.coding.prior import Coded
from nid_jax.data.originals import held_out
from nid_jax.errors import ArgumentError
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting.rounds import UNCHOSEN_SHRINKAGE

MOST_COEFFICIENTS = 8192
"""F C of a covariance that is held and taken apart as a whole."""
ERRORS = ("log", "square")
SHRINKAGES = (0.0, 0.1, 0.3)
"""What held-out signals choose from."""

ROUNDS = 2
"""Of weights, each found from what the components under the last ones leave."""

# Errors are told apart down to this share of the median one.
_LEAST_ERROR = 0.01
# Directions of the features weaker than this share of the strongest are rounding.
_WEAKEST = 1e-4
# Signals that weights of errors are first found from.
_FEW_SIGNALS = 6000
# Numbers of signals that are projected at a time, of coefficients that are kept for the next pass,
# and of features at all points that are held.
_BATCH_NUMBERS = 2**24
_KEPT_NUMBERS = 2**28


@dataclasses.dataclass(frozen=True)
class Heads:
    """kernel [F, C, E] and bias [E, C] of heads in closed form, and how they came about."""

    kernel: Float[np.ndarray, "F C E"]
    bias: Float[np.ndarray, "E C"]
    shrinkage: float
    signals: int
    held_out: float
    """Share of the variance of signals held out that so many heads, found without them, leave:
    the geometric mean where errors are 'log'. 0 where none was held out."""
    coded: Coded | None = None
    """The signals in these heads, where finding them left their codes too."""
    how: str = ""
    """What else is to be said: how the signals were measured, or that some were left out."""
    errors: str = "log"

    def words(self) -> str:
        """What a person should know of them."""
        text = f"{self.kernel.shape[-1]} components of {self.signals} signals, shrinkage "
        text += f"{self.shrinkage:g}"
        if self.held_out:
            text += f"; of the energy of signals held out {100 * self.held_out:.2g}% is left"
            text += " (geometric mean)" if self.errors == "log" else ""
        return f"{text}; {self.how}" if self.how else text


def component_heads(
    dictionary: SharedDictionary,
    measured: Any,
    names: Sequence[str],
    errors: str = "log",
    shrinkage: float | None = None,
) -> Heads:
    """The heads that leave least of a collection, for the dictionary's features as they stand.

    Args:
      dictionary: shared, of F features; its own heads are not looked at.
      measured: operator and values(i) [M, C] of the signals, as a task's `learned_from` gives.
      names: of the signals; copies, 'name/copy', are held out together.
      errors: 'log', the mean logarithm of the signals' errors; or 'square', their sum.
      shrinkage: of the covariance, in [0, 1]; None takes the one of `SHRINKAGES` that leaves least
        of signals held out.

    Raises:
      ArgumentError: more than `MOST_COEFFICIENTS` features x channels; another word for errors;
        shrinkage outside; measurements that are not finite.
    """
    if errors not in ERRORS:
        raise ArgumentError("components.errors", errors, ", ".join(ERRORS))
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise ArgumentError("components.shrinkage", shrinkage, "0 to 1, or None")
    size = dictionary.num_features * dictionary.channels
    if size > MOST_COEFFICIENTS:
        allowed = f"'drawn' for {size} features x channels: the most is {MOST_COEFFICIENTS}"
        raise ArgumentError("heads", "components", allowed)
    span = Span(dictionary, measured.operator)
    signals = _Signals(span, measured, len(names))
    weights = _Weights(signals, errors == "log", dictionary.num_experts)
    held = held_out(names)
    covariance = signals.covariance(np.flatnonzero(~held), weights.values)
    left = {}
    if held.any():
        # Of one that was given too: what signals held out lose is said either way.
        for share in SHRINKAGES if shrinkage is None else (shrinkage,):
            basis = span.leading(covariance, share, dictionary.num_experts)
            left[share] = weights.mean_error(basis, np.flatnonzero(held))
    # With one signal alone there is nothing to choose by, and much that it does not tell.
    given = UNCHOSEN_SHRINKAGE if shrinkage is None else shrinkage
    chosen = min(left, key=left.__getitem__) if left else given
    if held.any():
        covariance = covariance + signals.covariance(np.flatnonzero(held), weights.values)
    if not np.isfinite(covariance).all():
        raise ArgumentError("measurements", "some not finite", "finite ones")
    basis = span.leading(covariance, chosen, dictionary.num_experts)
    return Heads(*span.heads(basis), chosen, len(names), left.get(chosen, 0.0), errors=errors)


def put_heads(dictionary: SharedDictionary, heads: Heads) -> str:
    """Give a dictionary heads in closed form; experts beyond their number stay as they are.

    -> words on them all.
    """
    count, experts = heads.kernel.shape[-1], dictionary.num_experts
    kernel, bias = dictionary.head_kernel, dictionary.head_bias
    kernel[...] = kernel[...].at[..., :count].set(heads.kernel)
    bias[...] = bias[...].at[:count].set(heads.bias)
    drawn = f"; the other {experts - count} experts are as drawn" if experts > count else ""
    return heads.words() + drawn


def error_weights(
    left: Float[np.ndarray, " S"], energy: Float[np.ndarray, " S"]
) -> Float[np.ndarray, " S"]:
    """Weights of mean 1 under which squares bound logarithms, after so much was left of signals."""
    # Of what the heads take in entirely, such as flat signals, nothing can be learned.
    floor = _LEAST_ERROR * np.median(left) + np.finfo(np.float32).eps * energy.max()
    weights = (1 / (left + floor) if floor > 0 else np.ones_like(left)).astype(np.float32)
    return weights / weights.mean()


def mean_share(left: Float[np.ndarray, " S"], energy: Float[np.ndarray, " S"], log: bool) -> float:
    """What is left of signals as a share of their energy: the geometric mean, or of the sums."""
    some = energy > 0
    if not some.any():
        return 0.0
    if not log:
        return float(left.sum() / energy.sum())
    least = np.finfo(np.float32).eps * energy[some]
    return float(np.exp(np.mean(np.log(np.maximum(left[some], least) / energy[some]))))


def colour_directions(products: Float[np.ndarray, "C C"]) -> Float[np.ndarray, "C C"]:
    """Directions in which channels vary independently, as columns, the widest last.

    products: of the channels with one another, summed over points and signals.
    """
    return np.linalg.eigh(products)[1]


class Span:
    """Orthonormal coordinates of what the features can say of the measurements, [F, C] numbers.

    They are those nearest to the features themselves (Lowdin 1950), so that a lattice keeps its
    frequencies, and what is no direction of their own is zero.
    """

    def __init__(self, dictionary: SharedDictionary, operator: operators.Operator):
        self.channels = dictionary.channels
        size = max(1, _BATCH_NUMBERS // dictionary.num_features)
        pieces, measure = gram.measured_features(dictionary, operator, min(size, 4096))
        features, constant = jax.lax.map(measure, pieces)
        count = operator.num_measurements
        features = numerics.joined(features, count)[:, 0]
        self.constant = numerics.joined(constant, count)
        weights = operators.combined_weights(operator, None)
        self.weights = jnp.ones(count, jnp.float32) if weights is None else weights
        self.count = float(self.weights.sum())
        self.energy = float((self.weights * self.constant**2).sum())
        self.mean = numerics.einsum("m,mf->f", self.weights * self.constant, features) / self.energy
        centred = features - self.constant[:, None] * self.mean
        weighted = self.weights[:, None] * centred
        with gram.working_precision("float64"):
            products = np.asarray(numerics.einsum("mf,mg->fg", *gram.wide(weighted, centred)))
        values, vectors = np.linalg.eigh(products)
        kept = values > _WEAKEST**2 * values[-1]
        self.axes = vectors[:, kept].astype(np.float32)
        """[F, R], coordinates to independent ones."""
        root = vectors[:, kept] / np.sqrt(values[kept])
        self.root = (root @ vectors[:, kept].T).astype(np.float32)
        """[F, F], orthonormal coordinates to weights of the features."""
        self.projector = numerics.einsum("mf,fg->mg", weighted, self.root)

    def leading(self, covariance: np.ndarray, shrinkage: float, most: int) -> np.ndarray:
        """The leading directions [F C, E] of a covariance [F C, F C], most energy first."""
        features, channels = len(self.root), self.channels
        whole = covariance.reshape(features, channels, features, channels)
        colours = colour_directions(np.einsum("fcfd->cd", whole, dtype=np.float64))
        colours = colours.astype(np.float32)
        whole = np.einsum("fcgd,dk->fcgk", whole, colours, optimize=True)
        whole = np.einsum("fcgk,cl->flgk", whole, colours, optimize=True)
        matrix = whole.reshape(covariance.shape)
        diagonal = np.diag(matrix).copy()
        matrix *= 1 - shrinkage
        matrix[np.diag_indices_from(matrix)] = diagonal
        axes = None
        if self.axes.shape[1] < features:
            axes = np.kron(self.axes, np.eye(channels, dtype=np.float32))
            matrix = axes.T @ matrix @ axes
        size = len(matrix)
        chosen = (size - min(most, size), size - 1)
        found = scipy.linalg.eigh(matrix, subset_by_index=chosen, check_finite=False)[1][:, ::-1]
        found = found if axes is None else axes @ found
        found = found.reshape(features, channels, -1)
        return np.einsum("fle,cl->fce", found, colours).reshape(features * channels, -1)

    def heads(self, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kernel [F, C, E] and bias [E, C] of atoms of energy 1 a point without a constant part.

        Energy a point: squares summed over channels, in the mean over points."""
        directions = basis.reshape(len(self.root), self.channels, -1) * np.sqrt(self.count)
        kernel = np.einsum("fg,gce->fce", self.root, directions, optimize=True)
        bias = -np.einsum("f,fce->ec", np.asarray(self.mean), kernel, optimize=True)
        return kernel.astype(np.float32), bias.astype(np.float32)


class _Signals:
    """The training signals in the coordinates of a `Span`, kept where memory holds them."""

    def __init__(self, span: Span, measured: Any, count: int):
        self.span, self.measured, self.count = span, measured, count
        size = span.root.shape[0] * span.channels
        self.batch = max(1, _BATCH_NUMBERS // max(size, len(span.weights) * span.channels))
        self.kept: tuple[np.ndarray, np.ndarray] | None = None
        if count * size <= _KEPT_NUMBERS:
            coordinates, energies = zip(*self.batches(np.arange(count)), strict=True)
            self.kept = np.concatenate(coordinates), np.concatenate(energies)

    def batches(self, which: Int[np.ndarray, " n"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Coordinates [b, F C] and energies [b] of signals, some at a time."""
        for first in range(0, len(which), self.batch):
            some = which[first : first + self.batch]
            if self.kept is not None:
                yield self.kept[0][some], self.kept[1][some]
                continue
            values = np.stack([self.measured.values(int(index)) for index in some])
            span = self.span
            coordinates, energies = _projected(
                values, span.projector, span.weights, span.constant, span.energy
            )
            yield np.asarray(coordinates), np.asarray(energies)

    def covariance(
        self, which: Int[np.ndarray, " n"], weights: Float[np.ndarray, " S"]
    ) -> Float[np.ndarray, "FC FC"]:
        """Sum over signals of weight times coordinates times coordinates."""
        size = self.span.root.shape[0] * self.span.channels
        total = jnp.zeros((size, size), jnp.float32)
        first = 0
        for coordinates, _ in self.batches(which):
            own = weights[which[first : first + len(coordinates)]]
            total = _accumulated(total, coordinates, own)
            first += len(coordinates)
        return np.array(total)

    def left(
        self, basis: Float[np.ndarray, "FC E"], which: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """What an orthonormal basis leaves of the energy of each signal, and that energy."""
        parts = [(_left(*batch, basis), batch[1]) for batch in self.batches(which)]
        left, energy = (np.concatenate(column) for column in zip(*parts, strict=True))
        return left, energy


@jax.jit
def _projected(values, projector, weights, constant, energy):
    """Orthonormal coordinates [S, F C] of measurements [S, M, C], and their energy without the
    constant's part [S]."""
    values = jnp.where(weights[:, None] > 0, values, 0)
    mean = numerics.einsum("m,m,smc->sc", weights, constant, values) / energy
    centred = values - constant[:, None] * mean[:, None]
    coordinates = numerics.einsum("mf,smc->sfc", projector, centred)
    total = numerics.einsum("m,smc,smc->s", weights, centred, centred)
    return coordinates.reshape(len(values), -1), total


@functools.partial(jax.jit, donate_argnums=0)
def _accumulated(total, coordinates, weights):
    return total + numerics.einsum("si,sj->ij", weights[:, None] * coordinates, coordinates)


@jax.jit
def _left(coordinates, energy, basis):
    found = numerics.einsum("si,ie->se", coordinates, basis)
    return jnp.maximum(energy - jnp.square(found).sum(-1), 0)


class _Weights:
    """Weights of the signals under which a sum of squares stands for the errors that are meant."""

    def __init__(self, signals: _Signals, log: bool, experts: int):
        self.signals, self.log = signals, log
        self.values = np.ones(signals.count, np.float32)
        most = min(_FEW_SIGNALS, signals.count)
        few = np.unique(np.linspace(0, signals.count - 1, most).astype(int))
        for _ in range(ROUNDS if log else 0):
            covariance = signals.covariance(few, self.values)
            basis = signals.span.leading(covariance, SHRINKAGES[1], experts)
            self.values = error_weights(*signals.left(basis, np.arange(signals.count)))

    def mean_error(self, basis: np.ndarray, which: Int[np.ndarray, " n"]) -> float:
        """The mean error of signals in a basis, as a share of their energy."""
        return mean_share(*self.signals.left(basis, which), self.log)
