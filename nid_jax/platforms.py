"""What differs between kinds of device: how many numbers are held at a time, and float64.

The one place that chooses by the kind of device at hand, or names one.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from nid_jax import devices


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is computed at a time, in float32 numbers unless a name says otherwise."""

    activations: int
    """Of one activation of a stack of experts."""
    layers: int
    """Of one layer of what is rendered."""
    mesh_points: int
    """Points that a surface is looked for at."""
    chunk: int
    """Of one chunk of measurements, as equations are summed over them."""
    held: int
    """Of matrices of the signals' own, and of what a pursuit has chosen for all of its signals."""
    pursued: int
    """Signals of one block of a matching pursuit at most; 0: as many as are held."""
    matrices: int
    """Signals with operators of their own whose equations are solved together at most; 0: as many
    as are held."""


# On CPU 2 and 8 MB stay in cache and are not paged in anew by every step, nor is the basis of a few
# signals: a third of the time of rendering, half of that of a pursuit. So does the matrix of one
# signal: of 64 with 256 experts 0.22 s, together 0.41 s.
_CPU = Sizes(
    activations=2**19,
    layers=2**21,
    mesh_points=2**12,
    chunk=2**22,
    held=2**25,
    pursued=8,
    matrices=1,
)
# Of an accelerator's memory one activation is this part at most: a backward pass holds some 16 of
# them, a quarter of the memory.
_PART = 64
# What an accelerator is taken to have that does not say.
_UNTOLD_BYTES = 2**34

_single = False


def sizes() -> Sizes:
    """What suits the devices at hand: a CPU's caches, or an accelerator's memory."""
    if jax.default_backend() == "cpu":
        return _CPU
    return of_memory(devices.memory_bytes() or _UNTOLD_BYTES)


@functools.cache
def of_memory(there: int) -> Sizes:
    """What an accelerator of so many bytes holds at a time.

    Powers of two, so that devices that differ by little compile the same programs; never less than
    a mebibyte, or 256 points.
    """
    activations = 2 ** max(21, (there // (4 * _PART)).bit_length() - 1)
    return Sizes(
        activations=activations,
        layers=activations // 8,
        mesh_points=activations // 2**11,
        chunk=activations // 8,
        held=activations,
        pursued=0,
        matrices=0,
    )


def has_float64() -> bool:
    """Whether the device at hand computes in float64: all but a TPU do."""
    return not _single and jax.default_backend() != "tpu"


def by_float64(double: Callable, single: Callable, *arrays: Any) -> Any:
    """double(*arrays) where the device computes in float64, single(*arrays) on a TPU.

    Both give arrays of the same shapes and dtypes. It is the device that a program is lowered for
    that decides, not the one at hand.
    """
    if _single:
        return single(*arrays)
    return jax.lax.platform_dependent(*arrays, tpu=single, default=double)


@contextlib.contextmanager
def without_float64() -> Iterator[None]:
    """Takes what a TPU gets on any device, to measure what it costs. Compiles everything anew."""
    global _single
    before, _single = _single, True
    jax.clear_caches()
    try:
        yield
    finally:
        _single = before
        jax.clear_caches()
