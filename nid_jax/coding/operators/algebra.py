"""Operators stacked, and operators on what another one measured."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from nid_jax import numerics
from nid_jax.coding.checks import as_array, whole
from nid_jax.coding.operators import checks
from nid_jax.coding.operators.base import (
    Chain,
    Operator,
    Parts,
    check_chained,
    check_dims,
    joined_points,
)
from nid_jax.coding.operators.sampling import Masked
from nid_jax.errors import ArgumentError


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Stack(Parts):
    """Several operators on one signal, their measurements one after another. See `stack`."""

    about: ClassVar[str] = "several measurements of one signal, one after another"

    @property
    def num_measurements(self):
        return sum(part.num_measurements for part in self.parts)

    def measure(self, samples):
        both = zip(self.parts, self.samples_of_parts(samples), strict=True)
        return jnp.concatenate([part.measure(piece) for part, piece in both], -2)

    def adjoint(self, measurements):
        ends = np.cumsum([part.num_measurements for part in self.parts])
        pieces = jnp.split(measurements, ends[:-1], -2)
        both = zip(self.parts, pieces, strict=True)
        return self.joined([part.adjoint(piece) for part, piece in both])

    def with_parts(self, change):
        made = stack([change(part) for part in self.parts])
        return dataclasses.replace(made, weights=self.weights)


def stack(operators: Sequence[Operator]) -> Operator:
    """Several measurements of one signal: those of the first operator, then the second's, ...

    Weights are joined too, 1 where an operator has none. Local operators stay local: runs are
    filled up to the longest one with points of factor 0, at which the signal is evaluated all the
    same. Stack measurements of very different runs only where that is cheap. Operators that share
    their points (several coils over one grid) are given them once.

    Raises ArgumentError naming `operators` for none, and for different numbers of coordinates.
    """
    allowed = "a list of operators, at least 1"
    if not isinstance(operators, Iterable):
        raise ArgumentError("operators", type(operators).__name__, allowed)
    operators = list(operators)
    if not operators or not all(isinstance(operator, Operator) for operator in operators):
        kinds = [type(operator).__name__ for operator in operators]
        raise ArgumentError("operators", kinds, allowed)
    check_dims(operators)
    weights = _stacked_weights([operator.weights for operator in operators], operators)
    seen = [_seen_of_signals(operator) for operator in operators]
    runs = [_plain(operator).runs() for operator in operators]
    local = [run for run in runs if run is not None]
    if len(local) < len(runs):
        points, shared = joined_points(operators)
        return Stack(points, None, weights, None, tuple(operators), shared)
    length = max(factors.shape[1] for _, factors in local)
    filled = [_filled(points, factors, length) for points, factors in local]
    points = jnp.concatenate([points for points, _ in filled])
    points = points.reshape(-1, points.shape[-1])
    factors = jnp.concatenate([factors for _, factors in filled])
    if all(own is None for own in seen):
        return Operator(points, factors, weights, length)
    return Masked(points, factors, weights, length, seen=_stacked_weights(seen, operators))


def _seen_of_signals(operator):
    """The masks [S, M] of an operator with one for every signal; None for others."""
    masks = isinstance(operator, Masked) and operator.seen.ndim == 2
    return operator.seen if masks else None


def _plain(operator):
    """An operator without the masks of every signal that it may have."""
    return operator if _seen_of_signals(operator) is None else operator.unmasked()


def _filled(points, factors, length):
    """Runs [M, T, D] and [M, T] filled up to a length by their last point, of factor 0."""
    more = length - factors.shape[1]
    points = jnp.pad(points, ((0, 0), (0, more), (0, 0)), mode="edge")
    return points, jnp.pad(factors, ((0, 0), (0, more)))


def _stacked_weights(weights, operators):
    """Weights, each None, [M] or [S, M], one after another; None where none are given."""
    given = [w for w in weights if w is not None]
    if not given:
        return None
    leads = {w.shape[:-1] for w in given if w.ndim == 2}
    if len(leads) > 1:
        counts = sorted(lead[0] for lead in leads)
        raise ArgumentError("operators", counts, "weights of one number of signals")
    lead = leads.pop() if leads else ()
    filled = []
    for w, operator in zip(weights, operators, strict=True):
        ones = jnp.ones(operator.num_measurements, jnp.float32) if w is None else w
        filled.append(jnp.broadcast_to(ones, (*lead, operator.num_measurements)))
    return jnp.concatenate(filled, -1)


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Matrix(Operator):
    """A matrix on what another operator measured: values [M, N]. See `matrix`."""

    about: ClassVar[str] = "sums of measurements, weighted by a matrix"

    run_length: int | None = dataclasses.field(default=None, metadata={"static": True})
    values: jax.Array = dataclasses.field(kw_only=True)

    @property
    def num_measurements(self):
        return self.values.shape[0]

    def measure(self, samples):
        return numerics.einsum("mn,...nc->...mc", self.values, samples)

    def adjoint(self, measurements):
        return numerics.einsum("mn,...mc->...nc", self.values, measurements)


def matrix(values: Float[Array | np.ndarray, "M N"]) -> Matrix:
    """A matrix [M, N] to be put before an operator of N measurements: `matrix(values) @ operator`.

    Its result is no longer local: every measurement mixes all of those before. It has no points in
    space of its own (its points are [N, 0]), so it measures no signal alone; a matrix on the pixels
    of a grid is `matrix(values) @ sample(shape)`. Raises ArgumentError naming `values`.
    """
    held = checks.float32(checks.checked_numbers(values, "values", 2, "[M, N]"))
    return Matrix(jnp.zeros((held.shape[1], 0), jnp.float32), values=held)


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Selection(Operator):
    """Some of what another operator measured: chosen int32 [m]. See `select`."""

    about: ClassVar[str] = "some of all measurements"

    run_length: int | None = dataclasses.field(default=None, metadata={"static": True})
    chosen: jax.Array = dataclasses.field(kw_only=True)

    @property
    def num_measurements(self):
        return self.chosen.shape[0]

    def measure(self, samples):
        return samples[..., self.chosen, :]

    def adjoint(self, measurements):
        *lead, _, channels = measurements.shape
        everything = jnp.zeros((*lead, self.num_points, channels), measurements.dtype)
        return everything.at[..., self.chosen, :].add(measurements)

    def after(self, inner):
        check_chained(self, inner)
        if inner.run_length is not None:
            return inner.of_measurements(self.chosen)
        weights = None if inner.weights is None else inner.weights[..., self.chosen]
        return Chain(inner.points, None, weights, None, outer=self, inner=inner)


def select(chosen: Sequence[int] | Shaped[Array | np.ndarray, "..."], count: int) -> Selection:
    """Some of the `count` measurements of an operator: `select([0, 5], 12) @ operator`.

    chosen: indices [m] from 0 to count - 1, in any order, also repeated; or booleans [count]. Local
    operators stay local, and weights are those of the chosen. Raises ArgumentError naming `chosen`.
    """
    count = whole("count", count, 1)
    allowed = f"indices [m] from 0 to {count - 1}, or booleans [{count}]; at least 1"
    places = as_array("chosen", chosen, allowed)
    if places.dtype == bool and places.shape == (count,):
        places = np.flatnonzero(places)
    if places.ndim != 1 or not places.size or not np.issubdtype(places.dtype, np.integer):
        raise ArgumentError("chosen", f"{places.dtype}{list(places.shape)}", allowed)
    outside = places[(places < 0) | (places >= count)]
    if len(outside):
        raise ArgumentError("chosen", outside[0], allowed)
    everything = jnp.zeros((count, 0), jnp.float32)
    return Selection(everything, chosen=jnp.asarray(places, jnp.int32))
