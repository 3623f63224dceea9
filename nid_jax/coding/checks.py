"""Arguments of solvers and their functions, checked where they are given.

Numbers that are being traced by jit or vmap are not known yet and pass.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state

from nid_jax.errors import ArgumentError

_TOP_LEVEL = get_opaque_trace_state()


def transforming() -> bool:
    """Whether a transformation (jit, vmap, grad) is under way.

    Inside of one even constants may lead to values that are not known yet: what needs them on the
    host asks this first.
    """
    return get_opaque_trace_state() != _TOP_LEVEL


def numbers(argument: str, value: Any, holds: Callable, allowed: str) -> None:
    """Raise ArgumentError unless value is numbers, all finite, for which `holds`."""
    if isinstance(value, jax.core.Tracer):
        return
    array = np.asarray(value)
    known = array.dtype.kind in "fiu" or jax.numpy.issubdtype(array.dtype, np.floating)
    if not (known and np.isfinite(array).all() and np.all(holds(array))):
        raise ArgumentError(argument, value, allowed)


def not_negative(argument: str, value: Any) -> None:
    """Raise ArgumentError unless all numbers are finite and 0 or more."""
    numbers(argument, value, lambda v: v >= 0, "finite, 0 or more")


def positive(argument: str, value: Any) -> None:
    """Raise ArgumentError unless all numbers are finite and above 0."""
    numbers(argument, value, lambda v: v > 0, "finite, above 0")


def share(argument: str, value: Any) -> None:
    """Raise ArgumentError unless all numbers are above 0 and at most 1."""
    numbers(argument, value, lambda v: (v > 0) & (v <= 1), "above 0, at most 1")


def whole(argument: str, value: Any, least: int) -> None:
    """Raise ArgumentError unless value is a whole number of `least` or more."""
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (number and value >= least):
        raise ArgumentError(argument, value, f"a whole number, {least} or more")


def one_of(argument: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ArgumentError unless value is one of the allowed words."""
    if value not in allowed:
        raise ArgumentError(argument, value, ", ".join(allowed))
