"""Shuffled batches of a collection, as a grain iterator whose state a checkpoint can hold."""

import math
import os
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from nid_jax.data.collection import Collection, to_array

# A random-access source needs a length; this one outlasts any run.
ENDLESS = 2**60

Share = slice | Int[np.ndarray, " b"]
"""Which places of a batch a process reads."""
EVERYTHING = slice(None)

IN_MEMORY_BYTES = 2**31
"""Collections of at most this size, in float32, are read at once for training."""


class EpochOrder:
    """Batch number -> positions int32 [b] of its signals, without end.

    Epoch e visits the signals in a random order that depends on (seed, e) alone, so any batch can
    be computed from its number, whatever came before.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        # Replaced whole, so that threads never see an epoch with another's order.
        self._latest = (None, None)

    def __getitem__(self, number: int) -> Int[np.ndarray, " b"]:
        epoch, batch = divmod(int(number), self.count // self.batch_size)
        latest, order = self._latest
        if latest != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(self.count).astype(np.int32)
            self._latest = (epoch, order)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]


class EpochIds:
    """Batch number -> {'ids': int32 [b]}, without end: `EpochBatches` without the signals."""

    def __init__(self, order: EpochOrder, share: Share):
        self.order, self.share = order, share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return {"ids": self.order[number][self.share]}


class EpochBatches:
    """Batch number -> {'ids': int32 [b], 'signals': float32 [b, *grid, C]}, without end.

    Whole batches are drawn at once: one lookup of ids and one gather, where a pipeline of single
    signals pays for each of them. share: the places in each batch that are read.
    """

    def __init__(
        self,
        collection: Collection,
        batch_size: int,
        seed: int,
        share: Share,
        in_memory: bool | None,
    ):
        self.collection = collection
        self.values = to_array(collection) if in_memory else None
        self.order = EpochOrder(len(collection), batch_size, seed)
        self.share = share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        ids = self.order[number][self.share]
        if self.values is not None:
            signals = self.values[ids]
        else:
            signals = np.stack([self.collection[index] for index in ids])
        return {"ids": ids, "signals": signals}


def check_batch_size(batch_size: int, count: int) -> None:
    """Raise ValueError, naming train.batch_size, for one that `count` signals do not allow."""
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"train.batch_size={batch_size}: must be from 1 to {count}, the number of signals"
        )


def endless(source: Any, threads: int) -> Iterator[dict[str, np.ndarray]]:
    """A batch source as grain's checkpointable iterator, read on so many threads (0: none)."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def batches(
    collection: Collection,
    batch_size: int,
    seed: int,
    share: Share = EVERYTHING,
    in_memory: bool | None = None,
    ids_only: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """An endless, checkpointable iterator over shuffled batches of a collection.

    Yields {'ids': int32 [b], 'signals': float32 [b, *grid, C]}; ids are positions in the
    collection. share: of several processes, the places in a batch that this one reads
    (`sharding.places`); b is batch_size where it reads all. Every epoch is shuffled anew and gives
    S // batch_size batches; the signals that do not fill a batch are others each time. The
    iterator is grain's: next(), get_state(), set_state(), grain.checkpoint.CheckpointSave; after
    set_state the same batches follow, to the bit. A collection of at most 2 GiB as float32 is read
    into memory at once (in_memory=None; True or False decide otherwise), so that a damaged file is
    found before training; a larger one is read batch by batch on several threads. ids_only: the
    same batches, and the same states, without 'signals', for whoever holds those already.
    Raises ValueError naming train.batch_size.
    """
    count = len(collection)
    check_batch_size(batch_size, count)
    if ids_only:
        return endless(EpochIds(EpochOrder(count, batch_size, seed), share), 0)
    if in_memory is None:
        in_memory = 4 * count * math.prod(collection.shape) <= IN_MEMORY_BYTES
    source = EpochBatches(collection, batch_size, seed, share, in_memory)
    # A gather costs less than handing a batch between threads; reading files does not.
    threads = 0 if in_memory else min(8, os.cpu_count() or 1)
    return endless(source, threads)
