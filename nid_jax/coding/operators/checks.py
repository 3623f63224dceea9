"""What arguments of operators must be, and the arrays that they become."""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import errors
from nid_jax.coding.checks import as_array, fits, real

T = TypeVar("T")


def register(cls: type[T]) -> type[T]:
    """Make an operator class a pytree: its static fields are part of the type.

    Stands above `@dataclasses.dataclass(frozen=True, eq=False)` of every class of operators, also
    of a user's own.
    """
    return jax.tree_util.register_dataclass(cls)


def checked_shape(shape: Iterable[int], argument: str = "shape") -> tuple[int, ...]:
    """A grid's shape as whole numbers. Raises ArgumentError naming the argument for what is none,
    and for a grid whose points memory does not hold."""
    allowed = "a grid's shape, positive whole numbers"
    sides = as_array(argument, shape, allowed)
    whole = real(sides.dtype) and np.array_equal(sides, np.floor(sides))
    if sides.ndim != 1 or not len(sides) or not whole or not (sides >= 1).all():
        raise errors.ArgumentError(argument, shape, allowed)
    if any(isinstance(side, bool | np.bool_) for side in shape):
        raise errors.ArgumentError(argument, shape, allowed)
    found = tuple(int(side) for side in sides)
    fits(argument, found, len(found) * math.prod(found))
    return found


def checked_picture(shape: Iterable[int]) -> tuple[int, ...]:
    """(rows, columns) of a picture. Raises ArgumentError naming `shape` for another rank."""
    shape = checked_shape(shape)
    if len(shape) != 2:
        raise errors.ArgumentError("shape", shape, "(rows, columns) of a picture")
    return shape


def checked_numbers(values: Any, argument: str, rank: int, form: str) -> np.ndarray:
    """Finite real numbers of a rank, none of its axes empty, float64.

    form: the shape in words, as '[P, D]'. Raises ArgumentError naming the argument.
    """
    array = as_array(argument, values, f"real numbers {form}")
    if array.dtype.kind != "b" and not real(array.dtype):
        raise errors.ArgumentError(argument, array.dtype, f"real numbers {form}")
    if array.ndim != rank or 0 in array.shape:
        raise errors.ArgumentError(argument, array.shape, f"the shape {form}, no axis empty")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise errors.ArgumentError(argument, array[~np.isfinite(array)][0], "finite numbers")
    return array


def float32(values: Any) -> jax.Array:
    """A device's array of float32."""
    return jnp.asarray(np.asarray(values, np.float32))


def combined_weights(
    operator: Any, weights: Float[Array | np.ndarray, "*S M"] | None
) -> Float[Array, "*S M"] | None:
    """The operator's own weights times those of the caller: None, [M] or [S, M].

    weights: None, [M] or [S, M], not negative. Raises ArgumentError naming `weights` for another
    shape, and where they can be read (outside jit) for negative or non-finite values.
    """
    if weights is None:
        return operator.weights
    if not isinstance(weights, jax.core.Tracer):
        weights = as_array("weights", weights, "finite numbers, 0 or more")
        if weights.dtype.kind not in "biuf":
            raise errors.ArgumentError("weights", weights.dtype, "finite numbers, 0 or more")
    weights = jnp.asarray(weights, jnp.float32)
    count = operator.num_measurements
    if weights.ndim not in (1, 2) or weights.shape[-1] != count:
        allowed = f"the shape ({count},) or (signals, {count})"
        raise errors.ArgumentError("weights", weights.shape, allowed)
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        good = np.isfinite(values) & (values >= 0)
        if not good.all():
            raise errors.ArgumentError("weights", values[~good][0], "finite numbers, 0 or more")
    return weights if operator.weights is None else weights * operator.weights
