"""The signals of the lowest, the middle and the highest score, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from nid_jax.reporting.panels import Score
from nid_jax.reporting.reading import number

# Signals from which the lowest and the highest are named, and so many of them.
_MANY, _NAMED = 8, 3


def extremes(
    metrics: Mapping[str, Any], scores: Sequence[Score], names: Sequence[str]
) -> dict[str, Any] | None:
    """The signals of lowest and highest first score; None where they are few or not known.

    -> score, count, and rows (words, [(number of the signal, name, value in words)]).
    """
    for score in scores:
        values = metrics.get(f"{score.key}_per_signal")
        if not isinstance(values, list) or len(values) != len(names):
            continue
        known = [(number(one), index) for index, one in enumerate(values)]
        ranked = sorted((one, index) for one, index in known if one is not None)
        if len(ranked) < _MANY:
            return None
        middle = len(ranked) // 2
        parts = {
            "lowest": ranked[:_NAMED],
            "median": ranked[middle : middle + 1],
            "highest": ranked[-_NAMED:][::-1],
        }
        rows = [
            (words, [(index, names[index], score.text(one)) for one, index in part])
            for words, part in parts.items()
        ]
        return {"score": score, "count": len(ranked), "rows": rows}
    return None
