"""What was measured of one signal of many, and signals of several ways brought to few shapes."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from nid_jax.coding.operators import Operator
from nid_jax.errors import ArgumentError

# Lengths grow by this factor, from this one on.
_LENGTH_STEP, _LEAST_LENGTH = 1.25, 16
# Runs of no more points than this are filled up to a square number: 1, 4, 9, 16.
_SHORT_RUN = 16
# Signals that stand for all.
_FEW = 8


def operator_of(measured: Any, index: int) -> Operator:
    """What measured a signal. measured: `tasks.Measured`."""
    return measured.ways[measured.way_of(index)]


def weights_of(measured: Any, index: int) -> Float[np.ndarray, " M"] | None:
    """Weights of a signal's measurements, those of its operator among them; None: all alike."""
    own = None if measured.weights is None else measured.weights(index)
    given = operator_of(measured, index).weights
    if given is None or own is None:
        return own if given is None else np.asarray(given)
    return np.asarray(given) * own


def count_seen(measured: Any, index: int) -> int:
    """How many measurements of a signal have a weight. Raises ArgumentError for none at all."""
    weights = weights_of(measured, index)
    if weights is None:
        return operator_of(measured, index).num_measurements
    found = int((weights > 0).sum())
    if not found:
        raise ArgumentError("signals", f"0 measurements of signal {index}", "1 or more of each")
    return found


def some_measurements(
    measured: Any, count: int
) -> tuple[Float[np.ndarray, "N C"], Bool[np.ndarray, " N"]]:
    """What was measured, and has a weight, of a few signals spread over `count`. -> (that, which of
    it are samples of the signals)."""
    found, sampled = [np.zeros((0, measured.channels), np.float32)], [np.zeros(0, bool)]
    for index in np.unique(np.linspace(0, count - 1, min(count, _FEW)).astype(int)).tolist():
        if measured.values is not None:
            weights, values = weights_of(measured, index), np.asarray(measured.values(index))
            found.append(values if weights is None else values[weights > 0])
            sampled.append(np.full(len(found[-1]), operator_of(measured, index).is_sampling))
    return np.concatenate(found), np.concatenate(sampled)


def in_words(measured: Any, count: int) -> str:
    """How signals were measured."""
    different = len({measured.way_of(index) for index in range(count)})
    words = "one way" if different == 1 else f"{different} ways"
    return words if measured.weights is None else f"{words}, weights of their own"


def parts_of(numbers: Int[np.ndarray, " S"]) -> list[Int[np.ndarray, " n"]]:
    """Places of equal numbers, the least number first, places in their order."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []


def padded_length(count: int) -> int:
    """The next length of a geometric series, so that there are few of them."""
    steps = math.ceil(math.log(max(count / _LEAST_LENGTH, 1), _LENGTH_STEP) - 1e-9)
    return max(count, round(_LEAST_LENGTH * _LENGTH_STEP**steps))


def form_of(operator: Operator) -> tuple[int | None, bool]:
    """What operators must share to be stacked, once they are of one length and run."""
    run = operator.run_length
    return run and _padded_run(run), operator.factors is None and run == _padded_run(run or 1)


def _padded_run(count):
    """The length that runs are filled up to: pictures of several sizes have many."""
    return math.ceil(math.sqrt(count)) ** 2 if count <= _SHORT_RUN else count


def padded(
    measured: Any, index: int, length: int
) -> tuple[Operator, Float[np.ndarray, "L C"], Float[np.ndarray, " L"]]:
    """What was seen of a signal, its first measurement repeated up to a length with weight 0.

    -> (operator, without weights, values, weights). For a local operator.
    """
    operator, weights = operator_of(measured, index), weights_of(measured, index)
    weights = np.ones(operator.num_measurements) if weights is None else weights
    seen = np.flatnonzero(weights)
    more = length - len(seen)
    places = np.pad(seen, (0, more), constant_values=seen[0])
    count = operator.run_length or 1
    points = np.asarray(operator.points).reshape(len(weights), count, -1)[places]
    factors = None if operator.factors is None else np.asarray(operator.factors)[places]
    wider = _padded_run(count) - count
    if wider:
        points = np.pad(points, ((0, 0), (0, wider), (0, 0)), "edge")
        factors = np.ones((length, count), np.float32) if factors is None else factors
        factors = np.pad(factors, ((0, 0), (0, wider)))
    run = None if operator.run_length is None else count + wider
    own: Any = (points.reshape(length * (count + wider), -1), factors, None, run)
    return Operator(*own), measured.values(index)[places], np.pad(weights[seen], (0, more))


class Stacked(NamedTuple):
    """Signals of one padded length, every array with an axis S in front: what measured each,
    values [S, L, C] and weights [S, L], 0 where nothing was measured."""

    operator: Operator
    values: Float[np.ndarray, "S L C"]
    weights: Float[np.ndarray, "S L"]


def by_way(
    measured: Any, count: int, together: bool = True
) -> list[tuple[Any, Int[np.ndarray, " n"]]]:
    """The first `count` signals as collections of one way each, and their numbers.

    together: signals that nothing shares a way with are `Stacked`, those of one of few lengths,
    where they can be.
    """
    of = np.array([measured.way_of(index) for index in range(count)])
    found: list[tuple[Any, Any]] = []
    alone: dict[Any, list[int]] = {}
    for which in parts_of(of):
        operator = measured.ways[of[which[0]]]
        if together and len(which) == 1 and operator.run_length is not None:
            length = padded_length(count_seen(measured, int(which[0])))
            alone.setdefault((form_of(operator), length), []).append(int(which[0]))
        else:
            found.append((_of_signals(measured, which, (operator,)), which))
    for (_, length), numbers in alone.items():
        found.append((_stacked(measured, numbers, length), np.array(numbers)))
    return found


def _stacked(measured, which, length):
    each = [padded(measured, index, length) for index in which]
    operators, values, weights = zip(*each, strict=True)
    operator = jax.tree.map(lambda *leaves: np.stack(leaves), *operators)
    return Stacked(operator, np.stack(values), np.stack(weights).astype(np.float32))


def _of_signals(measured, which, operators):
    def renumbered(known):
        return None if known is None else lambda index: known(int(which[index]))

    names = ("values", "weights", "truth", "cloud", "mesh")
    changed = {name: renumbered(getattr(measured, name)) for name in names}
    # Holes are of whole signals, which some of the patches do not make.
    return dataclasses.replace(measured, ways=operators, way=None, hole=None, **changed)
