"""How signals reach the steps of a training: train.scan.

Signals that fit lie on the device from the start. Steps gather their batches there and run many in
one program, which costs one call for all of them. Others are brought batch by batch, for one step
each; the device computes while a thread reads the next ones and puts them there.
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import devices, sharding
from nid_jax.data.loading import IN_MEMORY_BYTES
from nid_jax.reporting import tables
from nid_jax.training.steps import Batch, Terms, TrainState, Window

SCANS = ("auto", "on", "off")
# Of the device's memory, what signals may take beside all that a step does.
_SHARE = 1 / 4
# A program of several steps lasts about so long at most: nobody is heard before it ends.
_SECONDS = 1.0
# More steps in one program save nothing that could be measured.
_MOST_STEPS = 1000
# Batches on the device before their steps begin, and steps under way: what one more needs is there
# when the one before it ends, and no more of either is held.
_AHEAD = 2


def obstacle(config: ConfigDict, task: Any, measured: Any, collection: Any, shared: int) -> str:
    """Why signals are brought batch by batch, in a few words; '' where they lie on the device.

    task: `asked.Task`; measured: what training sees of the collection; shared: by how many devices
    a batch is. Raises ValueError naming train.scan, which was 'on' where that cannot be.
    """
    wanted = config.train.scan
    if wanted == "off":
        return "train.scan=off"
    found = _obstacle(task, measured, collection, shared)
    if found and wanted == "on":
        raise ValueError(f"train.scan: 'on', but {found}; allowed: auto, off")
    return found


def _obstacle(task, measured, collection, shared):
    if not measured.alike:
        return "signals were not measured alike"
    if task.order is None:
        return "points are drawn for every batch"
    if shared > 1:
        return f"{shared} devices share it"
    size, room = 4 * len(collection) * math.prod(collection.shape), _room()
    if size > room:
        whole, most = tables.format_bytes(size), tables.format_bytes(room)
        return f"of signals of {whole} {most} may lie on the device"
    return ""


def _room() -> int:
    """Bytes that signals may take on the device."""
    there = devices.memory_bytes()
    return min(IN_MEMORY_BYTES, int(_SHARE * there)) if there else IN_MEMORY_BYTES


class Pace:
    """How many steps the next program takes at most: few at first, then what fits into a second.

    width: the most of all; per_batch: steps taken on one batch, which are kept together.
    """

    def __init__(self, width: int, per_batch: int):
        self.width, self.per_batch = width, per_batch
        self._limit = 1

    def most(self, step: int) -> int:
        """From `step` on."""
        limit = self._limit + -(step + self._limit) % self.per_batch
        return min(limit, self.width)

    @contextmanager
    def timed(self, count: int) -> Iterator[None]:
        """Learn from how long the block takes to end `count` steps."""
        begun = time.perf_counter()
        yield
        seconds = (time.perf_counter() - begun) / count
        # A short program says little of a long one.
        self._limit = max(1, min(int(_SECONDS / max(seconds, 1e-9)), 8 * count))


class _Placed:
    """Batches on the device, with the state of the iterator that they come from."""

    def __init__(self, batches: Any, mesh: jax.sharding.Mesh):
        self.batches, self.mesh = batches, mesh
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return sharding.place_batch(next(self.batches), self.mesh)


class Feeder:
    """What the next steps are given, on the device.

    batches: grain's iterator; held: all signals [S, *grid, C], of which the batches say the numbers
    alone, or None; per_batch: steps that are taken on a batch. The feeder's own `batches` is the
    iterator whose state goes with the steps that were fed.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        held: Float[np.ndarray, "S *grid C"] | None,
        mesh: jax.sharding.Mesh,
        per_batch: int,
        train: ConfigDict,
    ):
        self.batches: Any = batches
        self.mesh, self.per_batch = mesh, per_batch
        self.held = None if held is None else jax.device_put(held, sharding.named(mesh))
        if held is None:
            placed = _Placed(batches, mesh)
            self.batches = grain.experimental.ThreadPrefetchDatasetIterator(placed, _AHEAD)
        # No more than ever lie between two things to do.
        every = (train.log_every, train.eval_every, train.reseed_every, train.steps, _MOST_STEPS)
        width = min(number for number in every if number > 0)
        self.pace = Pace(width, per_batch)
        self._shape = width, train.batch_size
        self._batch: Batch = {}
        self._under_way: deque[Terms] = deque()

    def close(self) -> None:
        """Read no further."""
        if self.held is None:
            self.batches.close()

    @property
    def held_bytes(self) -> int:
        """Of the signals on the device."""
        return 0 if self.held is None else self.held.nbytes

    def coming_bytes(self, fed: Batch | Window) -> int:
        """Of batches like this one on a device, ahead of steps and of steps under way."""
        if self.held is not None:
            return 0
        return 2 * _AHEAD * devices.bytes_of(fed)

    def most(self, step: int) -> int:
        """Steps from `step` on that one program takes at most."""
        return 1 if self.held is None else self.pace.most(step)

    def feed(self, step: int, count: int) -> Batch | Window:
        """Batches of `count` steps: all steps on a batch are given the same."""
        if self.held is None:
            if step % self.per_batch == 0:
                self._batch = next(self.batches)
            return self._batch
        ids = np.zeros(self._shape, np.int32)
        for at in range(count):
            if (step + at) % self.per_batch == 0:
                self._batch = next(self.batches)
            ids[at] = self._batch["ids"]
        everywhere = sharding.named(self.mesh)
        return Window(self.held, *jax.device_put((ids, np.int32(count)), everywhere))

    def take(
        self, program: jax.stages.Compiled, state: TrainState, fed: Batch | Window, count: int
    ) -> tuple[TrainState, Terms]:
        """So many steps. -> (state, terms, numbers or [N], of which the first `count` are known).

        Single steps go on while the next are prepared; a program of several is waited for, so that
        no more than one is under way when the run is told to stop.
        """
        if self.held is None:
            state, terms = program(state, fed)
            self._under_way.append(terms)
            if len(self._under_way) > _AHEAD:
                jax.block_until_ready(self._under_way.popleft())
            return state, terms
        with self.pace.timed(count):
            return jax.block_until_ready(program(state, fed))

    def words(self, obstacle: str) -> str:
        """One line on how signals come."""
        if self.held is None:
            return f"feeding     batch by batch: {obstacle}"
        size = tables.format_bytes(self.held_bytes)
        return f"feeding     {len(self.held)} signals on the device, {size}; many steps a program"


def mean_of(pending: list[tuple[Terms, int]]) -> dict[str, float]:
    """Over steps. pending: terms, numbers or [N], and of how many steps."""
    fetched = jax.device_get([terms for terms, _ in pending])
    counts = [count for _, count in pending]

    def steps(name):
        found = (np.reshape(terms[name], -1) for terms in fetched)
        return np.concatenate([one[:count] for one, count in zip(found, counts, strict=True)])

    return {name: float(np.mean(steps(name))) for name in fetched[0]}


def due(step: int, every: int) -> bool:
    """Whether something is to be done at a step; every: 0 for never."""
    return every > 0 and step % every == 0


def due_within(step: int, every: int, width: int) -> bool:
    """Whether a multiple of `every` lies in (step - width, step]."""
    return every > 0 and step // every > (step - width) // every
