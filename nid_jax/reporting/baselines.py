"""What is said of a fit and its baselines: a table with the spread, a chart of it, one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nid_jax.reporting import charts, panels
from nid_jax.reporting.panels import Score
from nid_jax.reporting.reading import number
from nid_jax.reporting.tables import counted, format_value

# Scores of the table, at most: more are wider than the page.
_COLUMNS = 5


def section(metrics: Mapping[str, Any], scores: Sequence[Score]) -> dict[str, Any] | None:
    """The table of 'baselines' of metrics.json, the fit's own row first; None where there is none.

    -> signals; columns of `Score`; rows of name, about, seconds, cells (mean, range, best) and on
    how many signals the fit is better; leading: the score that decides that, or None; chart.
    """
    entry = metrics.get("baselines")
    given = entry.get("rows") if isinstance(entry, Mapping) else None
    rows = (
        [_row(one) for one in given if isinstance(one, Mapping)] if isinstance(given, list) else []
    )
    columns = _columns(scores, rows) if len(rows) > 1 else []
    if not columns:
        return None
    for row in rows:
        row["cells"] = [_cell(score, row["values"].get(score.key)) for score in columns]
    for place, score in enumerate(columns):
        _mark_best(score, [row["cells"][place] for row in rows])
    leading = next((s for s in columns if s.better and all(_each(r, s.key) for r in rows)), None)
    if leading is not None:
        for row in rows[1:]:
            row["wins"] = _wins(leading, rows[0]["values"][leading.key], row["values"][leading.key])
    count = number(entry.get("signals"))
    return {
        "signals": None if count is None else int(count),
        "columns": columns,
        "rows": rows,
        "leading": leading,
        "chart": None if leading is None else _chart(leading, rows),
    }


def _columns(scores, rows):
    """Scores that the fit and a baseline have: those of which one way is better, all if none is."""
    known = [
        score
        for score in scores
        if score.key in rows[0]["values"] and any(score.key in row["values"] for row in rows[1:])
    ]
    return ([score for score in known if score.better] or known)[:_COLUMNS]


def _row(entry):
    """A row of the file, with the values of each of its scores that can be read."""
    found = entry.get("scores")
    values = {
        key: [number(one) for one in value] if isinstance(value, list) else [number(value)]
        for key, value in (found.items() if isinstance(found, Mapping) else ())
    }
    return {
        "name": str(entry.get("name")),
        "about": str(entry.get("about") or ""),
        "seconds": number(entry.get("seconds")),
        "values": {k: v for k, v in values.items() if any(one is not None for one in v)},
        "wins": "",
    }


def _each(row, key):
    return len(row["values"].get(key, ())) > 1


def _cell(score, values):
    """The mean, the range in words, and the mean as a number."""
    known = [one for one in values or () if one is not None]
    if not known:
        return {"text": score.text(None), "range": "", "mean": None, "best": False}
    middle = float(np.mean(known))
    ends = ""
    if len(known) > 1:
        ends = f"{score.text(min(known))} to {score.text(max(known))}"
    return {"text": score.text(middle), "range": ends, "mean": middle, "best": False}


def _mark_best(score, cells):
    known = [cell for cell in cells if cell["mean"] is not None]
    if score.better and len(known) > 1:
        means = [cell["mean"] for cell in known]
        best = max(means) if score.better == "high" else min(means)
        for cell in known:
            cell["best"] = cell["mean"] == best


def _wins(score, own, others):
    """On how many of the signals that both have the fit is better."""
    pairs = [(a, b) for a, b in zip(own, others, strict=False) if None not in (a, b)]
    better = sum(a > b if score.better == "high" else a < b for a, b in pairs)
    return f"{better} of {len(pairs)}"


def _chart(score, rows):
    scale = 100 if score.unit == "%" else 1
    values = {
        row["name"]: [scale * one for one in row["values"][score.key] if one is not None]
        for row in rows
    }
    direction = "further right is better" if score.better == "high" else "further left is better"
    x = f"{score.header}; {direction}"
    return charts.strips_svg(values, title=f"{score.label}, a point for each signal", x=x)


def line(metrics: Mapping[str, Any]) -> str:
    """The first score of which one way is better, in one line for the terminal; '' without."""
    entry = metrics.get("baselines")
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
