"""Baselines of a fit: what is cheap and usual in the field, made and scored beside it."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nid_jax.coding.prior import GaussianPrior
from nid_jax.fitting.fit import Fit

OWN = "this fit"
"""The name of its row."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One baseline, made: seconds a signal, values per signal (or one of all) by score."""

    name: str
    about: str
    seconds: float | None
    scores: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class BaselineScores:
    """Baselines of the first whole signals, made and scored."""

    signals: int = 0
    rows: Sequence[Row] = ()
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Scores of the fit itself on those signals which its metrics do not have."""
    shown: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Label -> signals, of those that are pictured."""

    def entry(self, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
        """For 'baselines' of metrics.json, the fit's own row first; None without baselines.

        metrics: of the fit, with its values per signal.
        """
        if not self.rows:
            return None
        keys = dict.fromkeys(key for row in self.rows for key in row.scores)
        own = {key: self._own(key, metrics) for key in keys}
        known = {key: value for key, value in own.items() if value is not None}
        rows = [Row(OWN, "", metrics.get("seconds_per_signal"), known), *self.rows]
        return {"signals": self.signals, "rows": [dataclasses.asdict(row) for row in rows]}

    def _own(self, key, metrics):
        if key in self.own:
            return self.own[key]
        each, whole = metrics.get(f"{key}_per_signal"), metrics.get("signals") == self.signals
        if each is not None:  # Those of one signal may be those of its frames.
            return each if whole else each[: self.signals]
        return metrics.get(key) if whole else None


def score(
    task: Any,
    collection: Any,
    measured: Any,
    fit: Fit,
    prior: GaussianPrior | None,
    most: int,
) -> BaselineScores:
    """Make and score a task's baselines of the first `most` whole signals at most; 0: of none.

    task, measured: a `tasks.Task` and its `tasks.Measured`; prior: of the training codes, if known.
    """
    if not (task.baselines and most):
        return BaselineScores()
    found = task.baselines(collection, measured, fit, prior, most)
    if found is None:
        return BaselineScores()
    rows, shown = [], {}
    for baseline in found.methods:
        start = time.perf_counter()
        signals, scores = baseline.make()
        seconds = (time.perf_counter() - start) / found.signals
        rows.append(Row(baseline.name, baseline.about, seconds, dict(scores)))
        if baseline.shown:
            shown[baseline.key] = signals
    return BaselineScores(found.signals, rows, found.own, shown)
