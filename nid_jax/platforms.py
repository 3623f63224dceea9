"""What differs between kinds of device: how many numbers are held at a time, and float64.

The one place that asks for the kind of device at hand, or names one.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is computed at a time, in float32 numbers unless a name says otherwise."""

    activations: int
    """Of one activation of a stack of experts."""
    layers: int
    """Of one layer of what is rendered."""
    mesh_points: int
    """Points that a surface is looked for at."""
    pursued: int
    """Signals of one block of a matching pursuit; 0: all."""
    matrices: int
    """Signals with operators of their own whose equations are solved together; 0: what is held."""


# On CPU 2 and 8 MB stay in cache and are not paged in anew by every step, nor is the basis of a few
# signals: a third of the time of rendering, half of that of a pursuit. So does the matrix of one
# signal: of 64 with 256 experts 0.22 s, together 0.41 s.
_CPU = Sizes(activations=2**19, layers=2**21, mesh_points=2**12, pursued=8, matrices=1)
_ACCELERATOR = Sizes(activations=2**27, layers=2**24, mesh_points=2**16, pursued=0, matrices=0)

_single = False


def sizes() -> Sizes:
    """What suits the devices at hand."""
    return _CPU if jax.default_backend() == "cpu" else _ACCELERATOR


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
