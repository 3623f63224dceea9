"""Linear operators from a continuous signal to what was measured of it.

An operator names the points at which it must know the signal and reduces the samples there to
measurements; it acts on every channel alike. So it measures a signal [Q, C], a batch [S, Q, C] and
the features of a dictionary [Q, E] by the same call.

A local operator's measurement m depends on its own run of points only, points[m*T : (m+1)*T], as a
weighted sum: T = 1 is sampling, T > 1 a ray or the footprint of a blurred pixel. Normal equations
of local operators stream over measurements. An operator without that structure sets
`run_length = None` and overrides `measure` and `adjoint`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax import numerics
from nid_jax.fields import coordinates


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A local operator: runs of T points, each summed to one measurement with given factors.

    points [Q, D], Q = M T; factors [M, T] or None for a plain sum; weights [M], [S, M] or None:
    the weight of each measurement in a fit, 0 where nothing was measured.
    Arrays are leaves of a pytree, so an operator is an argument of a jitted function.
    """

    points: jax.Array
    factors: jax.Array | None = None
    weights: jax.Array | None = None
    run_length: int | None = dataclasses.field(default=1, metadata={"static": True})

    @property
    def num_measurements(self):
        """M, measurements per channel."""
        return self.points.shape[0] // self.run_length

    def measure(self, samples):
        """Samples at `points` [..., Q, C] -> measurements [..., M, C]."""
        if self.run_length == 1 and self.factors is None:
            return samples
        return reduce_runs(samples, self.factors, self.run_length)

    def adjoint(self, measurements):
        """The transpose of `measure`. measurements [..., M, C] -> [..., Q, C]."""
        if self.run_length == 1 and self.factors is None:
            return measurements
        *lead, count, channels = measurements.shape
        spread = jnp.broadcast_to(
            measurements[..., :, None, :], (*lead, count, self.run_length, channels)
        )
        if self.factors is not None:
            spread = spread * self.factors[:, :, None]
        return spread.reshape(*lead, count * self.run_length, channels)


def reduce_runs(samples, factors, run_length):
    """Weighted sums over runs of T points. samples [..., M T, C], factors [M, T] -> [..., M, C]."""
    *lead, count, channels = samples.shape
    runs = samples.reshape(*lead, count // run_length, run_length, channels)
    if factors is None:
        return runs.sum(-2)
    return numerics.einsum("...mtc,mt->...mc", runs, factors)


def register(cls):
    """Make an operator class a pytree: its static fields are part of the type."""
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, data, static)


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Sample(Operator):
    """The signal's values at points: one measurement per point. See `sample`."""


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Operator):
    """The signal on all points, of which some were seen: measurements elsewhere are 0.

    `weights` [M] or [S, M] holds the mask, 1 where seen. A fit ignores what lies elsewhere.
    """

    def measure(self, samples):
        return samples * self.weights[..., None]

    def adjoint(self, measurements):
        return measurements * self.weights[..., None]


@functools.singledispatch
def _as_points(points):
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[0] < 1:
        raise ValueError(f"points must be [P, D] with P at least 1, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite, got NaN or infinity")
    return jnp.asarray(points)


@_as_points.register
def _(points: tuple):
    return jnp.asarray(coordinates.grid(points))


def sample(points):
    """The operator that samples a signal.

    points: [P, D] coordinates, or a grid shape as a tuple of whole numbers. Raises ValueError for
    points that are not finite or not [P, D], and for an impossible grid.
    """
    return Sample(_as_points(points))


def mask(points, seen):
    """The operator of a signal of which only some points were seen.

    points: as in `sample`. seen: bool or 0/1, [*grid] or [P], or [S, *grid] or [S, P] with a mask
    for every signal. Raises ValueError for a mask of another size, other values, or one that shows
    nothing at all.
    """
    grid_shape = points if isinstance(points, tuple) else None
    points = _as_points(points)
    seen = np.asarray(seen)
    count = points.shape[0]
    one = seen.shape in ((count,), grid_shape)
    many = seen.ndim > 0 and seen.shape[1:] in ((count,), grid_shape) and seen.shape[0] > 0
    if not (one or many):
        expected = f"{grid_shape}, " if grid_shape else ""
        raise ValueError(
            f"mask has shape {seen.shape}; allowed: {expected}({count},), or the same with one "
            "mask per signal in front"
        )
    if not np.isin(seen, (0, 1)).all():
        raise ValueError("mask must hold booleans, or 0 and 1 only")
    weights = seen.astype(np.float32).reshape((count,) if one else (len(seen), count))
    empty = np.flatnonzero(~weights.any(-1))
    if len(empty):
        where = "" if one else f" of signal {empty[0]}"
        raise ValueError(f"mask{where} shows no point; at least 1 must be seen")
    return Mask(points, weights=jnp.asarray(weights))


def combined_weights(operator, weights):
    """The operator's own weights times those of the caller: None, [M] or [S, M].

    weights: None, [M] or [S, M], not negative. Raises ValueError for another shape, and where they
    can be read (outside jit) for negative or non-finite values.
    """
    if weights is None:
        return operator.weights
    weights = jnp.asarray(weights, jnp.float32)
    if weights.ndim not in (1, 2) or weights.shape[-1] != operator.num_measurements:
        raise ValueError(
            f"weights have shape {weights.shape}; allowed: ({operator.num_measurements},) or "
            f"(signals, {operator.num_measurements})"
        )
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("weights must be finite and not negative")
    return weights if operator.weights is None else weights * operator.weights
