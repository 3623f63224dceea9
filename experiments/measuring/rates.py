"""Timing beside floors: what a computation took, and the least that this machine needs for it.

The machine's own rates (matrix product, sine, memory) are taken again beside every sample, so that
a busy moment slows both alike; a ratio is the median over rounds of what was measured together.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from measuring.command import clocked
from nid_jax import devices, numerics

SIDE = 1024
"""Rows and columns of the matrix product whose rate is called the machine's."""
# Repeated sines of a megabyte, which stays in cache; sums over 64 MB, which does not.
_SINES, _SINE_PASSES = 2**18, 8
_MEMORY_NUMBERS, _MEMORY_PASSES = 2**24, 2


@dataclasses.dataclass(frozen=True)
class Work:
    """What a computation cannot avoid: operations of matrix products, sines, bytes in and out.

    product: (batch, m, k, n), the shape of its largest product.
    """

    flops: float
    sines: float = 0.0
    bytes: float = 0.0
    product: tuple[int, int, int, int] = (1, SIDE, SIDE, SIDE)


class Program(NamedTuple):
    """What is called, seconds that its compilation took, bytes held at its peak (0: not known), its
    bytes in and out."""

    call: Callable[[], Any]
    seconds: float
    memory: int = 0
    moved: int = 0


@dataclasses.dataclass
class Case:
    """One thing to time. program.call() returns arrays; it does the work `repeats` times over.

    items: (how many, of what) a call is for.
    """

    group: str
    sizes: dict[str, int]
    program: Program
    work: Work
    items: tuple[int, str]
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and range over rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values):
        """Of numbers, one per round."""
        return cls(float(np.median(values)), float(np.min(values)), float(np.max(values)))

    def scaled(self, factor):
        """In other units."""
        return Spread(factor * self.median, factor * self.least, factor * self.most)

    def text(self, digits=3):
        """'12.3 (11.9..14.0)'."""
        return f"{self.median:.{digits}g} ({self.least:.{digits}g}..{self.most:.{digits}g})"


@dataclasses.dataclass(frozen=True)
class Result:
    """A case and its spreads: seconds, floor in seconds, floor / seconds, and rates used.

    floor: (flops / matrix-product rate + sines / sine rate), or bytes / bandwidth where that is
    more. shaped: the same with the rate of products of the case's own shape. product_share: the
    rate of its products in units of the machine's, as if nothing else took time.
    """

    case: Case
    seconds: Spread
    floor: Spread
    reached: Spread
    shaped: Spread
    product_share: Spread


def timed(call):
    """Seconds that call() takes until its arrays are there."""
    return clocked(lambda: jax.block_until_ready(call()))[1]


def median_seconds(function, repeats=7, budget=4.0):
    """-> (result, median seconds, seconds of the first call). Ends early when the budget is spent.

    The first call compiles and is no part of the median.
    """
    first, seconds, begun = timed(function), [], time.perf_counter()
    while len(seconds) < repeats and (not seconds or time.perf_counter() - begun < budget):
        result, spent = clocked(lambda: jax.block_until_ready(function()))
        seconds.append(spent)
    return result, float(np.median(seconds)), first


def compiled(function, *arguments):
    """The Program of a function with arguments."""
    program, seconds = clocked(lambda: jax.jit(function).lower(*arguments).compile())
    analysis = program.memory_analysis()
    moved = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    held = devices.compiled_bytes(program)
    return Program(functools.partial(program, *arguments), seconds, held, moved)


def compiled_method(module, method, *arguments):
    """The Program of method(module, *arguments), the arrays of a Flax module as arguments."""
    graphdef, state = nnx.split(module)

    def function(state, *arguments):
        return method(nnx.merge(graphdef, state, copy=True), *arguments)

    return compiled(function, state, *arguments)


class Machine:
    """This machine's rates, measured on demand."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self._square = jnp.asarray(draw.standard_normal((1, SIDE, SIDE), np.float32) / SIDE)
        self._angles = jnp.asarray(draw.standard_normal(_SINES, np.float32))
        self._memory = jnp.zeros(_MEMORY_NUMBERS)
        self._loop = jax.jit(
            lambda x: jax.lax.fori_loop(0, _SINE_PASSES, lambda _, v: numerics.sin(30 * v), x)
        )
        self._add = jax.jit(
            lambda x: jax.lax.fori_loop(0, _MEMORY_PASSES, lambda _, v: v + 1, x), donate_argnums=0
        )
        for rate in (self.product_rate, self.sine_rate, self.bandwidth):
            rate()

    def product_rate(self, shape=(1, SIDE, SIDE, SIDE)):
        """Operations a second of a product [b, m, k] x [b, k, n], two per multiply-add."""
        left, right = _operands(shape)
        seconds = timed(lambda: _product(left, right))
        if seconds < 2e-3:
            repeats = int(2e-3 / seconds) + 1
            seconds = timed(lambda: [_product(left, right) for _ in range(repeats)]) / repeats
        return 2 * np.prod(shape, dtype=float) / seconds

    def sine_rate(self):
        """Sines a second, in cache."""
        return _SINES * _SINE_PASSES / timed(lambda: self._loop(self._angles))

    def bandwidth(self):
        """Bytes a second read and written by an addition in place, out of cache."""

        def add():
            self._memory = self._add(self._memory)
            return self._memory

        return 8 * _MEMORY_NUMBERS * _MEMORY_PASSES / timed(add)


@jax.jit
def _product(left, right):
    return numerics.einsum("bmk,bkn->bmn", left, right)


@functools.lru_cache(maxsize=256)
def _operands(shape):
    batch, m, k, n = shape
    draw = np.random.default_rng(0)
    scale = np.float32(k**-0.5)
    operands = tuple(
        jnp.asarray(scale * draw.standard_normal(size, np.float32))
        for size in ((batch, m, k), (batch, k, n))
    )
    jax.block_until_ready(_product(*operands))
    return operands


def measure(cases, machine, rounds, least_seconds, progress=lambda text: None):
    """Time every case once a round, the machine's rates beside it. -> [Result], {rate: Spread}.

    A sample repeats a call until it lasted least_seconds.
    """
    # [case][round] of seconds, products, shaped products, sines, bytes a second.
    samples = [[] for _ in cases]
    repeats = []
    for case in cases:
        _operands(case.work.product)
        timed(case.program.call)
        repeats.append(max(1, min(1000, round(least_seconds / timed(case.program.call)))))
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for index, case in enumerate(cases):
            products = machine.product_rate(), machine.product_rate(case.work.product)
            rates = (*products, machine.sine_rate(), machine.bandwidth())
            seconds = sum(timed(case.program.call) for _ in range(repeats[index]))
            samples[index].append((seconds / repeats[index] / case.repeats, *rates))
    rates = np.array(samples)[..., 1:].reshape(-1, 4)
    names = ("matrix product, flop/s", "", "sine, 1/s", "memory, byte/s")
    machine_rates = {n: Spread.of(rates[:, i]) for i, n in enumerate(names) if n}
    return [_result(c, np.array(s)) for c, s in zip(cases, samples, strict=True)], machine_rates


def _result(case, samples):
    seconds, product, shaped, sine, memory = samples.T
    work = case.work

    def floor(rate):
        return np.maximum(work.flops / rate + work.sines / sine, work.bytes / memory)

    return Result(
        case,
        Spread.of(seconds),
        Spread.of(floor(product)),
        Spread.of(floor(product) / seconds),
        Spread.of(floor(shaped) / seconds),
        Spread.of(work.flops / seconds / product),
    )
