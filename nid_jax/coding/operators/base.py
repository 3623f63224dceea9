"""What an operator is, and what sums, multiples and products of operators are.

An operator names the points at which it must know the signal and reduces the samples there to
measurements; it acts on every channel alike. So it measures a signal [Q, C], a batch [S, Q, C] and
the features of a dictionary [Q, E] by the same call.

A local operator's measurement m depends on its own run of points only, points[m*T : (m+1)*T], as a
weighted sum: T = 1 is sampling, T > 1 a ray or the footprint of a blurred pixel. Normal equations
of local operators stream over measurements. What is made of local operators is local where it can
be: a multiple scales the factors, a sum joins the runs measurement by measurement.

Letters: S signals, Q points of an operator, D dims, M measurements, T points of a run, C channels.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nid_jax import numerics
from nid_jax.coding.checks import numbers, whole
from nid_jax.coding.operators import checks
from nid_jax.errors import ArgumentError


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A local operator: runs of T points, each summed to one measurement with given factors.

    points [Q, D], Q = M T; factors [M, T] or None for a plain sum; weights [M], [S, M] or None:
    the weight of each measurement in a fit, 0 where nothing was measured.
    Arrays are leaves of a pytree, so an operator is an argument of a jitted function.

    A subclass says what it measures, for reports: `about`. One that is not local sets
    `run_length = None` and defines `measure`; `adjoint` and `num_measurements` follow from it, by
    transposition and by its result's shape, unless they are defined too.
    """

    points: jax.Array
    factors: jax.Array | None = None
    weights: jax.Array | None = None
    run_length: int | None = dataclasses.field(default=1, metadata={"static": True})

    about: ClassVar[str] = ""
    """What it measures, in words that go on after a colon; '' says nothing."""

    # NumPy leaves arithmetic with an operator to the operator.
    __array_ufunc__ = None

    @property
    def num_measurements(self) -> int:
        """M, measurements per channel."""
        if self.run_length is not None:
            return self.points.shape[0] // self.run_length
        samples = jax.ShapeDtypeStruct((self.num_points, 1), jnp.float32)
        return jax.eval_shape(self.measure, samples).shape[-2]

    @property
    def num_points(self) -> int:
        """Q, points at which the signal must be known."""
        return self.points.shape[0]

    @property
    def is_sampling(self) -> bool:
        """Whether each measurement is the signal's value at one point, in the signal's own unit,
        seen or not."""
        return self.run_length == 1 and self.factors is None

    @property
    def shape(self) -> tuple[int, int]:
        """(M, Q), that of the matrix from samples to measurements."""
        return self.num_measurements, self.num_points

    def measure(self, samples: Float[Array, "*S Q C"]) -> Float[Array, "*S M C"]:
        """Samples at `points` [..., Q, C] -> measurements [..., M, C]."""
        if self.run_length is None:
            raise NotImplementedError(f"{type(self).__name__} is not local: it defines `measure`")
        if self.is_sampling:
            return samples
        return reduce_runs(samples, self.factors, self.run_length)

    def adjoint(self, measurements: Float[Array, "*S M C"]) -> Float[Array, "*S Q C"]:
        """The transpose of `measure`. measurements [..., M, C] -> [..., Q, C]."""
        *lead, count, channels = measurements.shape
        if self.run_length is None:
            samples = jax.ShapeDtypeStruct((*lead, self.num_points, channels), measurements.dtype)
            return jax.linear_transpose(self.measure, samples)(measurements)[0]
        if self.is_sampling:
            return measurements
        spread = jnp.broadcast_to(
            measurements[..., :, None, :], (*lead, count, self.run_length, channels)
        )
        if self.factors is not None:
            spread = spread * self.factors[:, :, None]
        return spread.reshape(*lead, count * self.run_length, channels)

    def runs(self) -> tuple[Float[Array, "M T D"], Float[Array, "M T"]] | None:
        """(points [M, T, D], factors [M, T]) that say all of `measure`; None where none do."""
        if self.run_length is None:
            return None
        factors = self.factors
        if factors is None:
            factors = jnp.ones((self.num_measurements, self.run_length), jnp.float32)
        return self.points.reshape(*factors.shape, -1), factors

    def of_signals(self, which: Any) -> Self:
        """The same for some of the signals, where each has weights or a mask of its own."""
        own = {
            name: array[which]
            for name in ("weights", "seen")
            if (array := getattr(self, name, None)) is not None and array.ndim == 2
        }
        return dataclasses.replace(self, **own) if own else self

    def of_measurements(self, chosen: Int[Array | np.ndarray, " m"]) -> Self:
        """The operator of some of the measurements, by index [m].

        Raises ArgumentError for an operator that is not local: `select(chosen, M) @ operator`.
        """
        if self.run_length is None:
            name = type(self).__name__
            raise ArgumentError("operator", name, "a local one; else select(chosen, M) @ operator")
        count, length = self.num_measurements, self.run_length
        points = self.points.reshape(count, length, -1)[chosen]
        weights = None if self.weights is None else self.weights[..., chosen]
        return dataclasses.replace(
            self,
            points=points.reshape(len(chosen) * length, -1),
            factors=None if self.factors is None else self.factors[chosen],
            weights=weights,
        )

    def with_parts(self, change: Callable[["Operator"], "Operator"]) -> "Operator":
        """The same made of other parts, each changed by a function; itself where it has none."""
        del change
        return self

    # ---- algebra ---------------------------------------------------------------------------------

    def __matmul__(self, signal: Any) -> Any:
        """A @ signal: what is measured of it; A @ B: the operator that gives A what B measures.

        signal: a function from points [Q, D] to values [Q, ...] (an image, or all atoms of a
        dictionary), or samples at `points` [..., Q, C]; B: an operator of as many measurements as
        A has points, which A takes for its samples, in order.
        """
        if isinstance(signal, Operator):
            return self.after(signal)
        if not callable(signal):
            return self.measure(jnp.asarray(signal))
        if self.points.shape[-1] == 0:
            name = type(self).__name__
            raise ArgumentError("signal", "a function", f"an operator: {name} acts on measurements")
        values = signal(self.points)
        flat = self.measure(values.reshape(len(values), -1))
        return flat.reshape(len(flat), *values.shape[1:])

    def after(self, inner: "Operator") -> "Operator":
        """`self @ inner`, the operator that gives this one what `inner` measures.

        Local where both are. Raises ArgumentError where the numbers do not fit, and where `inner`
        was masked otherwise for every signal and this one mixes its measurements.
        """
        check_chained(self, inner)
        mine, its = self.runs(), inner.runs()
        weights = self.weights
        if self.run_length == 1:
            weights = product_of_weights([self.weights, inner.weights])
        elif inner.weights is not None and inner.weights.ndim == 2:
            shape, name = inner.weights.shape, type(self).__name__
            raise ArgumentError("inner", shape, f"weights [M] alone where {name} mixes them")
        if mine is None or its is None:
            return Chain(inner.points, None, weights, None, outer=self, inner=inner)
        factors = mine[1][:, :, None] * its[1].reshape(*mine[1].shape, -1)
        factors = factors.reshape(len(factors), -1)
        return Operator(inner.points, factors, weights, factors.shape[1])

    def scaled(self, scale: float | Float[Array, ""]) -> "Operator":
        """`scale * self`."""
        return combination((self,), (scale,))

    def __mul__(self, scale: Any) -> "Operator":
        return self.scaled(_checked_scale(scale)) if _is_number(scale) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> "Operator":
        return self.scaled(-1.0)

    def __add__(self, other: Any) -> "Operator":
        return combination((self, other), (1, 1)) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Any) -> "Operator":
        return (
            combination((self, other), (1, -1)) if isinstance(other, Operator) else NotImplemented
        )

    @property
    def T(self) -> "_Adjoint":
        """The adjoint: A.T @ measurements [..., M, C] -> [..., Q, C]."""
        return _Adjoint(self)

    # ---- numbers about an operator ---------------------------------------------------------------

    def norm(self, steps: int = 100, seed: int = 0) -> jax.Array:
        """The largest singular value of the matrix [M, Q] from samples to measurements. -> [].

        Of the sampled signal, not of the continuous one: finer runs change it. By `steps` power
        iterations on A^T A from a random start (Golub and Van Loan, Matrix Computations, 8.2),
        which approach it from below. Of masks for every signal, that of the largest.
        """
        return _largest_singular_value(self, whole("steps", steps, 1), whole("seed", seed, 0))

    def adjoint_error(self, seed: int = 0) -> float:
        """|<A x, y> - <x, A^T y>| / (|A x| |y|) for random x [Q, 2] and y; 0 but for rounding.

        Rounding leaves below 1e-6. What is larger says that `measure` and `adjoint` of an operator
        do not belong together, and fits would be wrong.
        """
        keys = jax.random.split(jax.random.key(whole("seed", seed, 0)))
        lead = self._signals()
        x = jax.random.normal(keys[0], (*lead, self.num_points, 2), jnp.float32)
        y = jax.random.normal(keys[1], (*lead, self.num_measurements, 2), jnp.float32)
        measured, spread = self.measure(x), self.adjoint(y)
        a, b, c, d = (np.asarray(array, np.float64) for array in (measured, y, x, spread))
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(abs(np.vdot(a, b) - np.vdot(c, d)) / max(size, 1e-30))

    def _signals(self):
        """(S,) of an operator with weights for every signal, else ()."""
        return () if self.weights is None else self.weights.shape[:-1]


class _Adjoint:
    """What `Operator.T` gives."""

    def __init__(self, operator):
        self.operator = operator

    def __matmul__(self, measurements):
        return self.operator.adjoint(jnp.asarray(measurements))

    @property
    def T(self) -> Operator:
        """The operator itself."""
        return self.operator


@functools.partial(jax.jit, static_argnames="steps")
def _largest_singular_value(operator, steps, seed):
    shape = (*operator._signals(), operator.num_points, 1)
    start = jax.random.normal(jax.random.key(seed), shape, jnp.float32)

    def step(_, state):
        x, _ = state
        x = operator.adjoint(operator.measure(x))
        size = jnp.sqrt(jnp.square(x).sum((-2, -1), keepdims=True))
        return numerics.safe_divide(x, size), size

    start = start / jnp.sqrt(jnp.square(start).sum((-2, -1), keepdims=True))
    _, size = jax.lax.fori_loop(
        0, steps, step, (start, jnp.zeros((*start.shape[:-2], 1, 1), start.dtype))
    )
    return jnp.sqrt(size.max())


def reduce_runs(
    samples: Float[Array, "*S Q C"],
    factors: Float[Array, "M T"] | None,
    run_length: int,
) -> Float[Array, "*S M C"]:
    """Weighted sums over runs of T points. samples [..., M T, C], factors [M, T] -> [..., M, C]."""
    *lead, count, channels = samples.shape
    runs = samples.reshape(*lead, count // run_length, run_length, channels)
    if factors is None:
        return runs.sum(-2)
    return numerics.einsum("...mtc,mt->...mc", runs, factors)


def product_of_weights(weights):
    """Weights multiplied, each None, [M] or [S, M]. -> None, [M] or [S, M]."""
    given = [w for w in weights if w is not None]
    return functools.reduce(jnp.multiply, given) if given else None


def check_chained(outer, inner):
    """Raises ArgumentError where `inner` does not measure as much as `outer` has points."""
    if outer.num_points != inner.num_measurements:
        raise ArgumentError(
            "inner",
            inner.num_measurements,
            f"{outer.num_points} measurements, the points of {type(outer).__name__} on its left",
        )


def check_dims(operators):
    """Raises ArgumentError for operators whose points differ in the number of coordinates."""
    dims = sorted({operator.points.shape[-1] for operator in operators})
    if len(dims) > 1:
        raise ArgumentError("operators", dims, "points of one number of coordinates")


def _is_number(value):
    real = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    return real and not isinstance(value, bool) and jnp.ndim(value) == 0


def _checked_scale(scale):
    """A real, finite number; what jit traces cannot be read. Raises ArgumentError."""
    numbers("scale", scale, np.isfinite, "a real, finite number")
    return scale


# ---- what is made of several ------------------------------------------------------------------


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Parts(Operator):
    """Operators that act on one signal, side by side: what sums and stacks have in common.

    Their points are joined, or are those of all of them where these are the same (`shared`).
    """

    run_length: int | None = dataclasses.field(default=None, metadata={"static": True})
    parts: tuple[Operator, ...] = ()
    shared: bool = dataclasses.field(default=False, metadata={"static": True})

    def samples_of_parts(self, samples):
        """Samples [..., Q, C] -> those of every part, a list."""
        if self.shared:
            return [samples] * len(self.parts)
        ends = np.cumsum([part.num_points for part in self.parts])
        return jnp.split(samples, ends[:-1], -2)

    def joined(self, samples):
        """The transpose of `samples_of_parts`: a list -> [..., Q, C]."""
        return sum(samples) if self.shared else jnp.concatenate(samples, -2)


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Combination(Parts):
    """The sum of multiples of operators: scales [n] of its n parts."""

    about: ClassVar[str] = "sums of multiples of measurements"

    scales: jax.Array = dataclasses.field(kw_only=True)

    @property
    def num_measurements(self):
        return self.parts[0].num_measurements

    def measure(self, samples):
        pieces = zip(self.scales, self.parts, self.samples_of_parts(samples), strict=True)
        return sum(scale * part.measure(piece) for scale, part, piece in pieces)

    def adjoint(self, measurements):
        both = zip(self.scales, self.parts, strict=True)
        return self.joined([part.adjoint(scale * measurements) for scale, part in both])

    def with_parts(self, change):
        made = combination([change(part) for part in self.parts], self.scales)
        return dataclasses.replace(made, weights=self.weights)


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Chain(Operator):
    """`outer @ inner`: what `inner` measures are the samples of `outer`."""

    about: ClassVar[str] = "measurements of measurements"

    run_length: int | None = dataclasses.field(default=None, metadata={"static": True})
    outer: Operator = dataclasses.field(kw_only=True)
    inner: Operator = dataclasses.field(kw_only=True)

    @property
    def num_measurements(self):
        return self.outer.num_measurements

    def measure(self, samples):
        return self.outer.measure(self.inner.measure(samples))

    def adjoint(self, measurements):
        return self.inner.adjoint(self.outer.adjoint(measurements))

    def with_parts(self, change):
        return dataclasses.replace(self.outer @ change(self.inner), weights=self.weights)


def joined_points(operators):
    """The points of operators side by side, [Q, D], and whether all have the same ones."""
    first = operators[0].points
    if all(_same_points(first, operator.points) for operator in operators):
        return first, True
    return jnp.concatenate([operator.points for operator in operators]), False


def _same_points(a, b):
    if a is b or (a.shape == b.shape and a.shape[-1] == 0):
        return True
    traced = isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer)
    return not traced and a.shape == b.shape and bool(np.array_equal(a, b))


def combination(operators, scales):
    """The sum of scales [n] times n operators.

    Local where all of them are; runs at the same points keep their length, others are joined. The
    weight of a sum is the product of the weights. Raises ArgumentError where the numbers of
    measurements or of coordinates differ.
    """
    counts = sorted({operator.num_measurements for operator in operators})
    if len(counts) > 1:
        raise ArgumentError("operators", counts, "one number of measurements")
    check_dims(operators)
    scales = jnp.stack([jnp.asarray(scale, jnp.float32) for scale in scales])
    weights = product_of_weights([operator.weights for operator in operators])
    runs = [operator.runs() for operator in operators]
    points, shared = joined_points(operators)
    if any(run is None for run in runs):
        parts = tuple(operators)
        return Combination(points, None, weights, None, parts, shared, scales=scales)
    scaled = [scale * factors for scale, (_, factors) in zip(scales, runs, strict=True)]
    if shared and len({factors.shape for factors in scaled}) == 1:
        return Operator(points, sum(scaled), weights, scaled[0].shape[1])
    factors = jnp.concatenate(scaled, 1)
    points = jnp.concatenate([points for points, _ in runs], 1).reshape(factors.size, -1)
    return Operator(points, factors, weights, factors.shape[1])
