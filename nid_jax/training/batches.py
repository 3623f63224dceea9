"""Batches of signals that were not measured alike.

A batch is of signals of one way, or of padded measurements whose points each signal brings, where
ways have too few signals to fill one. So few shapes are compiled however many ways there are.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from nid_jax.data.loading import ENDLESS, Share, check_batch_size
from nid_jax.fitting import ways


class WayBatches:
    """Batch number -> {'ids' [b], 'signals' [b, M, C], 'weights' [b, M]}, without end.

    With 'way', the operator of all of the batch, where there are several ways that fill a batch, or
    'operators', one for each signal, every array with an axis b in front. Each epoch visits the
    signals of every group in a random order, and the groups' batches in one too; a group too small
    for a batch repeats its signals, and others leave out what does not fill one. share as
    `data.batches`.

    measured: `tasks.Measured` of `count` signals. Raises ArgumentError naming a signal of which
    nothing was measured.
    """

    def __init__(self, measured: Any, count: int, batch_size: int, seed: int, share: Share):
        check_batch_size(batch_size, count)
        self.measured, self.batch_size, self.seed = measured, batch_size, seed
        self.share = share
        self.groups = grouped(measured, count, batch_size)
        self.per_epoch = [max(1, len(signals) // batch_size) for _, signals in self.groups]
        self._latest: tuple[Any, Any] = (None, None)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, at = divmod(int(number), sum(self.per_epoch))
        latest, order = self._latest
        if latest != epoch:
            order = self._order(epoch)
            self._latest = (epoch, order)
        length, ids = order[at]
        return self._batch(length, ids[self.share])

    def _order(self, epoch):
        """The batches of an epoch: lengths, None for whole ways, and numbers of signals."""
        generator = np.random.default_rng([self.seed, epoch])
        found = []
        for (length, signals), batches in zip(self.groups, self.per_epoch, strict=True):
            order = np.resize(generator.permutation(signals), batches * self.batch_size)
            found += [(length, part) for part in np.split(order, batches)]
        return [found[place] for place in generator.permutation(len(found))]

    def _batch(self, length, ids):
        ids = ids.astype(np.int32)
        if length is not None:
            padded = [ways.padded(self.measured, int(index), length) for index in ids]
            operators, values, weights = zip(*padded, strict=True)
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *operators)
            return {
                "ids": ids,
                "signals": np.stack(values).astype(np.float32),
                "weights": np.stack(weights).astype(np.float32),
                "operators": stacked,
            }
        values = np.stack([self.measured.values(int(index)) for index in ids])
        weights = [ways.weights_of(self.measured, int(index)) for index in ids]
        ones = np.ones(values.shape[1])
        weights = np.stack([ones if one is None else one for one in weights])
        batch = {"ids": ids, "signals": values, "weights": weights.astype(np.float32)}
        if len(self.measured.ways) > 1:
            batch["way"] = ways.operator_of(self.measured, int(ids[0]))
        return batch


def grouped(
    measured: Any, count: int, batch_size: int
) -> list[tuple[int | None, Int[np.ndarray, " n"]]]:
    """Signals that batches are made of: (None, those of one way), or (length, padded to it).

    Signals of ways that fill no batch are brought to the next of few lengths, and to one further up
    until they do.
    """
    of = np.array([measured.way_of(index) for index in range(count)])
    counts = np.array([ways.count_seen(measured, index) for index in range(count)])
    found: list[tuple[int | None, Any]] = []
    forms: dict[Any, dict[int, list[int]]] = {}
    parts = ways.parts_of(of)
    for signals in parts:
        operator = measured.ways[of[signals[0]]]
        alone = operator.run_length is None or len(parts) == 1
        if alone or len(signals) >= batch_size:
            found.append((None, signals))
            continue
        lengths = forms.setdefault(ways.form_of(operator), {})
        for index in signals:
            lengths.setdefault(ways.padded_length(counts[index]), []).append(int(index))
    for lengths in forms.values():
        waiting: list[int] = []
        groups: list[tuple[int | None, Any]] = []
        for length in sorted(lengths):
            waiting += lengths[length]
            if len(waiting) >= batch_size:
                groups.append((length, waiting))
                waiting = []
        if waiting and groups:
            waiting = groups.pop()[1] + waiting
        found += groups + ([(max(lengths), waiting)] if waiting else [])
    return [(length, np.array(signals)) for length, signals in found]
