"""A fit beside what is cheap and usual in the field: made, scored, and said in words."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax.coding.prior import GaussianPrior
from nid_jax.fitting.fit import Fit
from nid_jax.reporting import panels
from nid_jax.reporting.tables import counted, format_value

OWN = "this fit"
"""The name of its row."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One baseline, made: seconds a signal, values per signal (or one of all) by score."""

    name: str
    about: str
    seconds: float
    scores: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Baselines of the first whole signals."""

    signals: int = 0
    rows: Sequence[Row] = ()
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Scores of the fit itself on those signals which its metrics do not have."""
    shown: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Name in few words -> signals, of those that are pictured."""

    def entry(self, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
        """For 'beside' of metrics.json, the fit's own row first; None without baselines.

        metrics: of the fit, with its values per signal.
        """
        if not self.rows:
            return None
        keys = dict.fromkeys(key for row in self.rows for key in row.scores)
        own = {key: self._own(key, metrics) for key in keys}
        known = {key: value for key, value in own.items() if value is not None}
        seconds = metrics.get("seconds_per_signal")
        rows = [Row(OWN, "", seconds, known), *self.rows]
        return {"signals": self.signals, "rows": [dataclasses.asdict(row) for row in rows]}

    def _own(self, key, metrics):
        if key in self.own:
            return self.own[key]
        each, whole = metrics.get(f"{key}_per_signal"), metrics.get("signals") == self.signals
        if each is not None:  # Those of one signal may be those of its frames.
            return each if whole else each[: self.signals]
        return metrics.get(key) if whole else None


def made(
    task: Any,
    collection: Any,
    measured: Any,
    fit: Fit,
    prior: GaussianPrior | None,
    most: int,
) -> Compared:
    """What a task compares its fit with, of the first `most` whole signals at most; 0: nothing."""
    found = task.beside(collection, measured, fit, prior, most) if task.beside and most else None
    if found is None:
        return Compared()
    rows, shown = [], {}
    for baseline in found.baselines:
        start = time.perf_counter()
        signals, scores = baseline.make()
        seconds = (time.perf_counter() - start) / found.signals
        rows.append(Row(baseline.name, baseline.about, seconds, dict(scores)))
        if baseline.shown:
            shown[baseline.name.split(",")[0]] = signals
    return Compared(found.signals, rows, found.own, shown)


def solved(fit: Fit, config: ConfigDict) -> str:
    """In sentences, what was solved for and how."""
    experts, channels = fit.dictionary.num_experts, fit.channels
    what = (
        f"{counted(experts, 'number')} and a bias"
        if channels == 1
        else (f"{counted(experts, 'number')} and a bias of each channel")
    )
    words = f"A code of {what} for each signal"
    if config.fit.top_k:
        words = (
            f"A code for each signal, of which {config.fit.top_k} of {experts} numbers are not 0"
        )
    about = getattr(fit.solver, "about", "")
    words = f"{words}: {about}." if about else f"{words}."
    kind = config.fit.get("refine", {}).get("kind", "none")
    refined = {
        "grid": " Pixels then moved off what codes render, tied to it.",
        "atoms": " All signals together then left the dictionary, as images of low rank.",
    }
    return words + refined.get(kind, "")


def line(metrics: Mapping[str, Any]) -> str:
    """The first score of which one way is better, in one line for the terminal; '' without."""
    entry = metrics.get("beside")
    scores = panels.scores_of(metrics)
    if not entry or not scores:
        return ""
    shared = [
        s for s in scores if s.better and all(s.key in row["scores"] for row in entry["rows"])
    ]
    if not shared:
        return ""
    score = shared[0]
    unit = f" ({score.unit})" if score.unit not in ("", "%") else ""
    parts = [f"{row['name']} {_mean(score, row['scores'][score.key])}" for row in entry["rows"]]
    signals = counted(entry["signals"], "signal")
    return f"{score.label}{unit} of the first {signals}: {'; '.join(parts)}"


def _mean(score, values):
    known = np.asarray(values, float)[~np.isnan(np.asarray(values, float))]
    return score.text(float(known.mean())) if known.size else format_value(None)
