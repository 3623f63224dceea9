"""What a caller measured of signals, checked and brought to the shapes of a problem."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from nid_jax.coding import checks, operators
from nid_jax.errors import ArgumentError
from nid_jax.fields.model import Model
from nid_jax.notices import say

# Signals that differ by more than this factor from those of the training have other units.
OTHER_SCALE = 16
# Values that a median is taken of.
_LOOKED_AT = 2**20
# Coordinates beyond -1 and 1 that are not said: a pixel or so of a coarse picture.
_OUTSIDE = 1.2
# Distances of any shape have more values than two, and of so many some inside of it.
_FEW_DISTANCES, _MANY_DISTANCES = 16, 1000
MOST_WEIGHT = 1e18
"""Of a measurement; its square is float32 still."""
# Products with atoms lose their bits below it, and all of them at 1e-36.
_NEARLY_ZERO = 1e-33


def say_other_scale(
    values: Any,
    weights: Any,
    bounds: tuple[float, float] | list[float] | None,
    what: str = "measurements",
) -> None:
    """A notice where samples of signals are of another scale than those learned from, or most lie
    further from them than they are wide: degrees for kelvins.

    values [S, M, C]; weights None, [M] or [S, M]; bounds: (lowest, highest) of the signals learned
    from; None: not known, mostly 0 to 1, as pictures are. what: was given, in words.
    """
    known = _known(values, weights)
    if not known.size:
        return
    here = float(np.abs(known).max())
    there = 1.0 if bounds is None else max(map(abs, bounds))
    if here > OTHER_SCALE * there or (bounds and _NEARLY_ZERO < here < there / OTHER_SCALE):
        learned = f"learned from signals up to {there:g}"
        if bounds is None:
            learned = "does not say what it learned from, which mostly is 0 to 1"
        say(f"{what}: values up to {here:g}, the dictionary {learned}; taken as they are")
    elif bounds and bounds[0] < bounds[1]:
        low, high = bounds
        middle = float(np.median(known.ravel()[:: -(-known.size // _LOOKED_AT)]))
        if max(low - middle, middle - high) > high - low:
            say(
                f"{what}: half of the values are {'above' if middle > high else 'below'} "
                f"{middle:g}, the dictionary learned from signals of {low:g} to {high:g}; taken as "
                "they are, in the same unit"
            )


def _known(values, weights):
    """Values [n, C] that are finite and of a weight above 0; none where they are being traced."""
    if isinstance(values, jax.core.Tracer) or isinstance(weights, jax.core.Tracer):
        return np.empty((0, 1))
    values = np.asarray(values)
    seen = np.isfinite(values).all(-1)
    # Weights that do not fit are refused where they are solved with.
    if weights is not None and np.shape(weights) in (seen.shape, seen.shape[1:]):
        seen &= np.asarray(weights) > 0
    return values[seen]


def say_no_distances(values: Any, weights: Any, what: str = "measurements") -> None:
    """A notice where samples for a dictionary of signed distances are probably none: occupancy.

    values [S, M, 1]; weights None, [M] or [S, M]; what: was given, in words.
    """
    known = _known(values, weights)
    if known.size < _FEW_DISTANCES:
        return
    low, high = float(known.min()), float(known.max())
    if low < high and ((known == low) | (known == high)).all():
        say(
            f"{what}: all values are {low:g} or {high:g}, as of an occupancy grid, and the "
            "dictionary learned signed distances, below 0 inside of a shape; taken as distances"
        )
    elif low >= 0 and known.size >= _MANY_DISTANCES:
        say(
            f"{what}: none of {known.size} values is below 0, and the dictionary learned "
            "signed distances, below 0 inside of a shape; taken as distances from nothing inside"
        )


def say_stretched(
    grid_shape: tuple[int, ...], learned: tuple[int, ...], what: str, advice: str = ""
) -> None:
    """A notice where signals have another shape than those learned from, which is stretched.

    advice: what they may do who do not want that, in words; '' for none.
    Of pictures another size is said too: more pixels mostly show more. Of other signals those of
    the same proportions, up to a sample, are taken as finer or coarser.
    """
    if tuple(grid_shape) == tuple(learned) or len(grid_shape) != len(learned):
        return
    scale = max(size / side for size, side in zip(grid_shape, learned, strict=True))
    off = max(abs(scale * side - size) for size, side in zip(grid_shape, learned, strict=True))
    if len(learned) != 2 and off <= 1:
        return
    here, there = ("x".join(map(str, sides)) for sides in (grid_shape, learned))
    more = f"; {advice}" if advice else ""
    say(f"{what}: {here}, learned on {there}, which is stretched over it{more}")


def unstretched(signals: ConfigDict, grid_shape: tuple[int, ...], learned: tuple[int, ...]) -> str:
    """Keys of a config's `data` that bring signals to the shape that was learned on, in words; ''
    where it has none."""
    ways, rows = [], learned[-2:]
    if "patch" in signals:
        ways.append(
            f"data.patch.size={min(learned)} with data.size=() fits patches at their own size"
        )
    # Pictures alone, also those that are frames of a movie.
    if "resize" in signals and tuple(grid_shape[-2:]) != tuple(rows):
        size = ",".join(map(str, rows))
        ways.append(f"data.resize=true with data.size=({size}) resizes")
    return ", ".join(ways)


def as_array(values: Any, argument: str) -> Any:
    """Anything like an array, such as lists and tensors of other libraries, as one.

    Arrays of numpy and jax are left as they are. Raises ArgumentError for what is none.
    """
    if isinstance(values, jax.Array | np.ndarray):
        return values
    return checks.as_array(argument, values, "an array of numbers, rows all of one length")


def as_floats(values: Any, argument: str) -> Float[Array, "..."]:
    """Values as float32; whole numbers of 8 or 16 bits become 0 to 1, as pictures hold them.

    Raises ArgumentError for other types, and for other whole numbers that are not 0 and 1.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ArgumentError(argument, "a masked array", "an array, with NaN for what is missing")
    for kind, most in ((np.uint8, 255), (np.uint16, 65535)):
        if values.dtype == kind:
            return values.astype(np.float32) / most
    # Differences of moments are whole numbers to numpy.
    whole = jnp.issubdtype(values.dtype, jnp.integer) and values.dtype.kind != "m"
    # Not numpy's word for it: bfloat16 is no number there.
    if not (whole or jnp.issubdtype(values.dtype, jnp.floating) or values.dtype == bool):
        raise ArgumentError(argument, values.dtype, "real numbers")
    if whole and (isinstance(values, jax.core.Tracer) or not np.isin(values, (0, 1)).all()):
        allowed = "uint8 or uint16, which become 0 to 1, or floating-point numbers"
        raise ArgumentError(argument, values.dtype, allowed)
    # What is infinite then is refused where it was seen.
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def largest_of(values: Any) -> float:
    """The largest magnitude of values in their own type, of those that are not NaN; 0 of none."""
    if not values.size:
        return 0.0
    array = np.asarray(values)
    ends = [abs(float(end.reduce(array, axis=None))) for end in (np.fmin, np.fmax)]
    return 0.0 if np.isnan(ends[0]) else max(ends)


def say_vanishing(given: Any, values: Any, argument: str) -> None:
    """A notice where float32 computes nothing of values that are not 0. given: as they came;
    values: as float32."""
    if isinstance(values, jax.core.Tracer):
        return
    largest = largest_of(values) or largest_of(given)
    if 0 < largest < _NEARLY_ZERO:
        say(
            f"{argument}: values up to {largest:.3g}, too small for float32 to compute with; taken "
            "as 0 or nearly so; in another unit they would not be"
        )


def checked_operator(operator: Any) -> operators.Operator:
    """The operator. Raises ArgumentError for what is none."""
    if not isinstance(operator, operators.Operator):
        raise ArgumentError("operator", operator, "an operator of nid.operators, or your own")
    return operator


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Measurements [S, M, C] by one operator, the weights of each, and the signals' grid."""

    values: Float[Array, "S M C"]
    operator: Any
    weights: Float[Array, "S M"] | None
    grid_shape: tuple[int, ...]
    whole: bool

    @classmethod
    def of(
        cls, model: Model, measurements: Any, operator: Any, seen: Any, weights: Any
    ) -> "Measurements":
        """From the arguments of `NeuralDictionary.fit`. Raises ArgumentError naming one."""
        measured = as_array(measurements, "measurements")
        values = as_floats(measured, "measurements")
        say_vanishing(measured, values, "measurements")
        grid_shape = model.grid_shape
        if operator is None:
            values = _on_grid(values, model.dictionary)
            grid_shape = tuple(values.shape[1:-1])
            operator = operators.sample(grid_shape)
        else:
            _check_points(checked_operator(operator), model.dictionary.dims)
        values, each = _flat(values, checked_operator(operator), model.channels)
        weights = _weights(values, each, seen, weights)
        whole = grid_shape == model.grid_shape and len(each) == len(grid_shape)
        whole = whole and weights is None and operator.weights is None and operator.is_sampling
        return cls(values, operator, weights, grid_shape, whole)


def _check_points(operator, dims):
    """Raise ArgumentError for points of another number of coordinates; a notice for those where no
    signal was learned."""
    points = operator.points
    if points.shape[-1] != dims:
        raise ArgumentError("operator", f"{points.shape[-1]} coordinates", str(dims))
    if isinstance(points, jax.core.Tracer):
        return
    reach = float(jnp.abs(points).max(initial=0))
    if reach > _OUTSIDE:
        outside = int((jnp.abs(points) > _OUTSIDE).any(-1).sum())
        say(
            f"operator: {outside} of {len(points)} points lie outside of [-1, 1], up to {reach:g}, "
            "where nothing was learned; taken as they are"
        )


def _on_grid(values, dictionary):
    """Signals [S, *grid, C] from [S, *grid] or these."""
    dims, channels = dictionary.dims, dictionary.channels
    if values.ndim == dims + 1 and channels == 1:
        values = values[..., None]
    if values.ndim != dims + 2 or values.shape[-1] != channels or 0 in values.shape:
        axes = ", ".join(("rows", "columns")[-dims:] if dims <= 2 else ["depth", "rows", "columns"])
        one = f"(S, {axes}) or " if channels == 1 else ""
        raise ArgumentError(
            "measurements", values.shape, f"{one}(S, {axes}, {channels}), S signals"
        )
    return values


def _flat(values, operator, channels):
    """Measurements [S, M, C] from any shape of that many, and the shape of one signal's M."""
    count, shape = operator.num_measurements, tuple(values.shape[1:])
    each = shape[:-1] if len(shape) > 1 and shape[-1] == channels else shape
    if math.prod(each) != count and channels == 1:
        each = shape
    last = () if each == shape else (channels,)
    if values.ndim < 2 or math.prod(each) != count or (each == shape and channels != 1):
        raise ArgumentError(
            "measurements",
            values.shape,
            f"(S, {count}, {channels}), or as many numbers of each signal in another shape",
        )
    return values.reshape(len(values), count, *(last or (1,))), each


def _weights(values, each, seen, weights):
    """None, [M] or [S, M] from what is missing and what the caller says of it."""
    signals, count, _ = values.shape
    found, blamed = None, "measurements"
    concrete = not isinstance(values, jax.core.Tracer)
    if concrete:
        missing = np.isnan(values).any(-1)
        if np.isinf(values).any():
            allowed = "finite numbers, of float32; NaN is what is missing"
            raise ArgumentError("measurements", np.inf, allowed)
        some = int((missing & ~np.isnan(values).all(-1)).sum())
        if some:
            say(
                f"measurements: {some} of {missing.size} have NaN in some of their channels; one "
                "counts only where all its channels are known"
            )
        found = None if not missing.any() else ~missing
    for argument, given in (("seen", seen), ("weights", weights)):
        if given is None:
            continue
        if not isinstance(given, jax.Array):
            given = checks.as_array(argument, given, "an array of numbers")
        if given.dtype.kind not in "biuf":
            raise ArgumentError(argument, given.dtype, "booleans or numbers")
        one, many = (each, (count,)), ((signals, *each), (signals, count))
        if given.shape in one:
            given = given.reshape(count)
        elif given.shape in many:
            given = given.reshape(signals, count)
        else:
            raise ArgumentError(
                argument, given.shape, f"{each} for all signals, or {(signals, *each)}"
            )
        concrete = concrete and not isinstance(given, jax.core.Tracer)
        if concrete and argument == "seen" and not np.isin(given, (0, 1)).all():
            odd = given[~np.isin(given, (0, 1))][0]
            raise ArgumentError("seen", odd, "booleans, or 0 and 1")
        good = not concrete or (given >= 0) & (given <= MOST_WEIGHT)
        if not np.all(good):
            odd = np.asarray(given)[~np.asarray(good)][0]
            raise ArgumentError(argument, odd, f"finite numbers, 0 to {MOST_WEIGHT:g}")
        found, blamed = given if found is None else found * given, argument
    if found is None:
        return None
    if not concrete:
        return found.astype(jnp.float32)
    found = np.asarray(found, np.float32)
    if found.ndim == 2 and (found == found[:1]).all():
        # One factorisation serves signals that were measured alike.
        found = found[0]
    empty = np.flatnonzero(~(found > 0).any(-1))
    if len(empty):
        where = f"signal {empty[0]}" if found.ndim == 2 else "each signal"
        raise ArgumentError(blamed, 0, f"1 or more of the {count} measurements of {where}")
    return None if (found == 1).all() else found
