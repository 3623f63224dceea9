"""Arguments, checked where they are given: what kind of number each of them is.

Numbers that are being traced by jit or vmap are not known yet; their type and shape are.
"""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from nid_jax.devices import memory_bytes
from nid_jax.errors import ArgumentError
from nid_jax.files import local

MOST_WHOLE = 2**31 - 1
"""What an int32 holds, which JAX counts in."""
MOST_SEED = 2**32 - 1
"""jax.random.key drops what is above 32 bits: keys of larger seeds are those of smaller ones."""
# Squares of such numbers, and sums of them, are numbers of float32 yet.
_LARGEST = 1e18
# Any machine has memory for so many.
_FEW_NUMBERS = 2**24
_TOP_LEVEL = get_opaque_trace_state()


def transforming() -> bool:
    """Whether a transformation (jit, vmap, grad) is under way.

    Inside of one even constants may lead to values that are not known yet: what needs them on the
    host asks this first.
    """
    return get_opaque_trace_state() != _TOP_LEVEL


def as_array(argument: str, value: Any, allowed: str) -> np.ndarray:
    """The value as an array of NumPy. Raises ArgumentError for one that is being traced, rows of
    different lengths, objects, and what another library does not give out as an array."""
    if isinstance(value, jax.core.Tracer):
        raise ArgumentError(argument, "traced by a transformation", f"{allowed}, known before it")
    try:
        array = np.asanyarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(argument, value, allowed) from error
    if array.dtype.kind == "O":
        raise ArgumentError(argument, value, allowed)
    return array


def real(dtype: Any) -> bool:
    """Whether a dtype is of real numbers: no booleans, no text, nothing complex."""
    return jax.numpy.issubdtype(dtype, np.floating) or jax.numpy.issubdtype(dtype, np.integer)


def numbers(
    argument: str,
    value: Any,
    holds: Callable,
    allowed: str,
    rank: int = 0,
    known: bool = False,
) -> None:
    """Raise ArgumentError unless value is real numbers, all finite, for which `holds`.

    rank: of an array the most axes it may have; 0: one number. known: refuse what is traced.
    """
    traced = isinstance(value, jax.core.Tracer) and not known
    array = value if traced else as_array(argument, value, allowed)
    if not real(array.dtype):
        raise ArgumentError(argument, value, allowed)
    if array.ndim > rank:
        most = f"at most {rank} axes" if rank else "one number"
        raise ArgumentError(argument, f"an array {list(array.shape)}", f"{most}, {allowed}")
    if traced:
        return
    if not (np.isfinite(array).all() and np.all(holds(array))):
        raise ArgumentError(argument, value, allowed)
    if np.abs(array).max(initial=0) > _LARGEST:
        raise ArgumentError(argument, value, f"{allowed}, at most {_LARGEST:g}")


def not_negative(argument: str, value: Any, rank: int = 0, known: bool = False) -> None:
    """Raise ArgumentError unless value is finite and 0 or more. rank, known: as in `numbers`."""
    numbers(argument, value, lambda v: v >= 0, "finite, 0 or more", rank, known)


def positive(argument: str, value: Any, rank: int = 0, known: bool = False) -> None:
    """Raise ArgumentError unless value is finite and above 0. rank, known: as in `numbers`."""
    numbers(argument, value, lambda v: v > 0, "finite, above 0", rank, known)


def share(argument: str, value: Any, rank: int = 0, known: bool = False) -> None:
    """Raise ArgumentError unless value is above 0 and at most 1. rank, known: as in `numbers`."""
    numbers(argument, value, lambda v: (v > 0) & (v <= 1), "above 0, at most 1", rank, known)


def whole(argument: str, value: Any, least: int, where: str = "", most: int | None = None) -> int:
    """The value as an int. Raises ArgumentError unless it is a whole number, `least` to `most`.

    where: for the message, under what condition; most: None is `MOST_WHOLE`, which only what is
    above it is told.
    """
    span = f"{least} or more" if most is None else f"{least} to {most}"
    allowed = f"a whole number, {span}{where and ' '}{where}"
    if isinstance(value, jax.core.Tracer):
        raise ArgumentError(argument, "traced by a transformation", f"{allowed}, known before it")
    try:
        # Of arrays what has no axes and holds a whole number is one.
        number = operator.index(value)
    except TypeError as error:
        raise ArgumentError(argument, value, allowed) from error
    if isinstance(value, bool | np.bool_) or number < least:
        raise ArgumentError(argument, value, allowed)
    if number > (MOST_WHOLE if most is None else most):
        raise ArgumentError(argument, value, allowed.replace("or more", f"to {MOST_WHOLE}"))
    return number


def fits(argument: str, value: Any, count: int) -> None:
    """Raise ArgumentError where what a value asks for, so many numbers, is more than memory holds.

    Of 8 bytes each, as they are made in float64 first.
    """
    if count < _FEW_NUMBERS:
        return
    held, gib = memory_bytes(), 2.0**30
    if held and 8 * count > held:
        allowed = (
            f"what fits into the {held / gib:.3g} GiB there are; this takes {8 * count / gib:.3g}"
        )
        raise ArgumentError(argument, value, f"{allowed} GiB")


def flag(argument: str, value: Any) -> None:
    """Raise ArgumentError unless value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(argument, value, "True, False")


def path(argument: str, value: Any) -> Path:
    """The value as a path, ~ expanded. Raises ArgumentError for what names none, ValueError for
    one with a scheme, as `files.local`."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ArgumentError(argument, value, "the path of a file or folder")
    return local(value if isinstance(value, str) else os.fspath(value), argument)


def one_of(argument: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ArgumentError unless value is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(argument, value, ", ".join(word or "''" for word in allowed))


def one_by_one(kind: Callable, options: Mapping[str, Any], **given: Any) -> None:
    """Raise ArgumentError for the first of a dataclass's options that it refuses, each beside
    `given` and the others' defaults: what options are beside one another is not looked at."""
    for name, value in options.items():
        try:
            kind(**given, **{name: value})
        except ArgumentError as error:
            if error.argument == name:
                raise


def traced(*trees) -> bool:
    """Whether a transformation of JAX is looking on: then nothing may leave for NumPy."""
    leaves = jax.tree.leaves([nnx.state(t) if isinstance(t, nnx.Module) else t for t in trees])
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def values_known(what: str, *trees) -> None:
    """ValueError where values are traced: a derivative would stop at NumPy, and look like zero."""
    if traced(*trees):
        raise ValueError(
            f"{what}: traced values; allowed: outside of jax.jit, jax.vmap and jax.grad alone"
        )
