"""Adam with a clock: descents that are looked at after some steps, or that a clock ends."""

import itertools
import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Steps between two looks at the clock.
BLOCK = 4


class Mark(NamedTuple):
    """A descent after so many steps: seconds without compilation, and the variables there."""

    steps: int
    seconds: float
    variables: Any


class Descent(NamedTuple):
    """Marks, seconds of compilation, and the objective before the last step of every stretch."""

    marks: list
    compile_seconds: float
    curve: np.ndarray

    @property
    def last(self):
        """The last mark."""
        return self.marks[-1]


def descend(
    objective, variables, rate, data=(), *, key=None, marks=(), seconds=math.inf, limit=math.inf
):
    """Adam on objective(variables, data, key), a key of its own for every step. -> `Descent`.

    Ends at the last of the rising `marks`, the time at each being its number of steps times the
    median, over the stretches between marks, of the seconds of a step; without marks after
    `seconds` or `limit` steps, whichever comes first, in blocks of 4 steps, with one mark. The rate
    falls to a tenth along a cosine of what is spent. Raises ValueError for a descent without end.
    """
    if not marks and not (seconds > 0 and limit > 0 and min(seconds, limit) < math.inf):
        raise ValueError(f"seconds={seconds}, limit={limit}; allowed: above 0, one of them finite")
    optimizer = optax.scale_by_adam()
    # Spent are steps of the last mark's, or shares of what may be spent.
    whole = float(marks[-1]) if marks else 1.0
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def advance(carry, data, key, done, count, spent):
        def step(number, carry):
            variables, moments, _ = carry
            own = jax.random.fold_in(key, done + number)
            value, grads = jax.value_and_grad(objective)(variables, data, own)
            updates, moments = optimizer.update(grads, moments)
            reached = jnp.minimum(spent + (number if marks else 0), whole)
            falling = 0.5 * (1 + jnp.cos(jnp.pi * reached / whole))
            step_rate = rate * (0.9 * falling + 0.1)
            updates = jax.tree.map(lambda update: -step_rate * update, updates)
            return optax.apply_updates(variables, updates), moments, value

        return jax.lax.fori_loop(0, count, step, carry)

    def spent():
        return done if marks else max((time.perf_counter() - begun) / seconds, done / limit)

    carry, done = (variables, optimizer.init(variables), jnp.float32(0)), 0
    begun = time.perf_counter()
    jax.block_until_ready(advance(carry, data, key, 0, 0, 0.0))
    compile_seconds = time.perf_counter() - begun
    begun, rates, kept, curve = time.perf_counter(), [], [], []
    for stop in marks or itertools.count(BLOCK, BLOCK):
        stop = int(stop if marks else min(stop, limit))
        start = time.perf_counter()
        carry = advance(carry, data, key, done, stop - done, float(spent()))
        curve.append(float(carry[2]))
        rates.append((time.perf_counter() - start) / (stop - done))
        kept = [*kept, (stop, carry[0])] if marks else [(stop, carry[0])]
        done = stop
        if spent() >= whole:
            break
    if marks:
        pace = statistics.median(rates)
        found = [Mark(steps, steps * pace, at) for steps, at in kept]
    else:
        found = [Mark(done, time.perf_counter() - begun, kept[0][1])]
    return Descent(found, compile_seconds, np.array(curve))
