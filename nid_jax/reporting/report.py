"""report.html: one self-contained page on a run, made from the files in its workdir alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from nid_jax.notices import shown
from nid_jax.reporting import charts, embedding, fit_section, pictures, samples
from nid_jax.reporting.metrics_log import read_metrics
from nid_jax.reporting.panels import Score
from nid_jax.reporting.reading import number, read_json, within
from nid_jax.reporting.tables import (
    counted,
    format_bytes,
    format_count,
    format_duration,
    format_value,
)
from nid_jax.storage import artefacts
from nid_jax.storage.artefacts import write_text

PICTURED = 5
"""Fits of which the page has pictures; the others are in its table, and their files beside it."""
# Scores of the run's own fit on top of the page.
_HEADLINES = 4


def write_report(workdir: str | Path) -> Path:
    """Write WORKDIR/report.html and return its path.

    It reads config.json, metrics.jsonl, summary.json, usage.json, atoms.png and fits/*/ as a run
    leaves them. What is not there is left out; what is damaged is said. The page needs no network:
    styles, pictures, charts, meshes and movies are inside it, and only a movie above a size is a
    link to its file. Raises FileNotFoundError where there is no such folder.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir}: no such workdir")
    config, config_note = read_json(workdir / "config.json")
    summary, summary_note = read_json(workdir / "summary.json")
    folders = _fit_folders(workdir / "fits", within(config, "fit", "name"))
    fits = [
        fit_section.section(folder.name, folder, workdir, pictured=place < PICTURED)
        for place, folder in enumerate(folders)
    ]
    task, dataset = _subject(config, fits)
    versions = summary.pop("versions", None)
    versions = versions if isinstance(versions, dict) else None
    assumed = fit_section.texts(summary.pop("assumed", None))
    for fit in fits:  # what the run assumed already is said once
        fit["assumed"] = [text for text in fit["assumed"] if text not in assumed]
    date = str((versions or {}).get("date", ""))[:16].replace("T", " ")
    page = _template().render(
        pictures=pictures,
        pictured=PICTURED,
        title=f"{task} · {dataset}" if dataset else task,
        subtitle=" · ".join(filter(None, [workdir.resolve().name, date])),
        learned=_learned(workdir, config),
        figures=_figures(config, summary, fits),
        columns=_columns(fits),
        training=_training(workdir / "metrics.jsonl"),
        fits=fits,
        source="." if (workdir / "checkpoints").is_dir() else "DICTIONARY",
        dictionary=_dictionary(workdir),
        samples=_samples(workdir),
        timings=[_worded(*fact) for fact in _flat(summary)],
        versions=versions,
        notes=[note for note in (summary_note, config_note, _aside(workdir)) if note],
        assumed=assumed,
        config=config,
    )
    return write_text(workdir / "report.html", shown(page))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nid_jax.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "value": format_value,
        "inline": _inline,
        "json": lambda value: json.dumps(value, indent=2),
        "label": _label,
    }
    return environment.get_template("report.html")


# ---- reading ----------------------------------------------------------------------------------


def _fit_folders(folder: Path, own: Any) -> list[Path]:
    """Folders of the fits: the run's own first, then from the newest to the oldest."""
    if not folder.is_dir():
        return []
    complete = [e for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")]

    def place(path):
        file = path / artefacts.METRICS
        made = file.stat().st_mtime if file.is_file() else 0.0
        return path.name != own, -made, path.name

    return sorted(complete, key=place)


def _aside(workdir: Path) -> str:
    """In words, what lies in the workdir and is not on the page: earlier results and checkpoints
    that were moved away; '' for nothing."""
    kept = ("checkpoints/*.damaged", ".old-*", "fits/.old-*", "fits/*/.old-*", "fits/*/*/.old-*")
    found = [path for pattern in kept for path in workdir.glob(pattern)]
    if not found:
        return ""
    names = ", ".join(sorted(path.relative_to(workdir).as_posix() for path in found))
    return f"Kept aside, and not on this page: {names}."


def _subject(config: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    metrics = next((fit["metrics"] for fit in fits if fit["metrics"]), {})
    task = config.get("task") or metrics.get("task") or "run"
    dataset = within(config, "data", "name") or metrics.get("dataset") or ""
    return str(task), str(dataset)


def _learned(workdir: Path, config: Mapping[str, Any]) -> str:
    """In a sentence, what the dictionary was learned from; '' where the workdir does not say."""
    signals, note = read_json(workdir / "signals.json")
    count, title = number(signals.get("count")), signals.get("title")
    if note or count is None or not isinstance(title, str):
        return ""
    experts = number(within(config, "dictionary", "num_experts"))
    what = "A dictionary" if experts is None else f"{experts:.0f} continuous basis functions"
    return f"{what}, learned from {counted(int(count), 'signal')}: {title}."


# ---- sections ---------------------------------------------------------------------------------


def _figures(
    config: Mapping[str, Any], summary: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """(name, value, unit) of the numbers a reader looks for first: those of the first fit."""
    figures = []
    for fit in fits[:1]:
        scores = [s for s in fit["scores"] if s not in fit_section.COMMON]
        scores.sort(key=lambda score: not score.better)  # What is good or bad comes first.
        for score in [s for s in scores if s.key in fit["metrics"]][:_HEADLINES]:
            unit = "" if score.unit == "%" else score.unit
            words = ", ".join(filter(None, [unit, fit["name"]]))
            figures.append((score.label, score.text(fit["metrics"][score.key]), words))
    experts = within(config, "dictionary", "num_experts")
    if experts is not None:
        top_k = within(config, "router", "top_k")
        active = f", {top_k} active" if top_k else ""
        kind = within(config, "dictionary", "kind") or ""
        figures.append(("Experts", str(experts), f"{kind}{active}"))
    parameters = _total(summary.get("parameters"))
    if parameters is not None:
        figures.append(("Parameters", format_count(parameters), ""))
    if (seconds := number(summary.get("train_seconds"))) is not None:
        figures.append(("Training", *_split_unit(format_duration(seconds))))
    memory = summary.get("peak_memory_bytes")
    for kind, peak in memory.items() if isinstance(memory, dict) else [("", memory)]:
        if (size := number(peak)) is not None:
            value, unit = format_bytes(size).split()
            figures.append(("Peak memory", value, f"{unit} {kind}".strip()))
    return figures


def _total(parameters: Any) -> float | None:
    """The number of parameters: given as one number, or by group with or without the total."""
    if not isinstance(parameters, Mapping):
        return number(parameters)
    counts = {name: number(value) for name, value in parameters.items()}
    if counts.get("total") is not None:
        return counts["total"]
    return sum(value for value in counts.values() if value is not None)


def _split_unit(text: str) -> tuple[str, str]:
    value, _, unit = text.partition(" ")
    return value, unit


def _columns(fits: Sequence[Mapping[str, Any]]) -> list[Score]:
    """The columns of the table of fits: all that any of them has, scores of tasks first."""
    common = fit_section.COMMON
    own = {score.key: score for fit in fits for score in fit["scores"] if score not in common}
    there = {key for fit in fits for key, value in fit["metrics"].items() if value is not None}
    others = [score for score in common if score.key not in own]
    return [score for score in [*own.values(), *others] if score.key in there]


def _training(path: Path) -> dict[str, Any] | None:
    """Charts of loss and PSNR, and those of every other metric, or a note; None for no file."""
    try:
        entries = read_metrics(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return {"note": f"{path.name} cannot be read: {error}."}
    curves: dict[str, tuple[list[float], list[float | None]]] = {}
    for entry in entries:
        step = number(entry.get("step"))
        if step is None:
            continue
        for name, value in entry.items():
            if name not in ("step", "time") and (value is None or number(value) is not None):
                xs, ys = curves.setdefault(name, ([], []))
                xs.append(step)
                ys.append(number(value))
    curves = {name: c for name, c in curves.items() if any(y is not None for y in c[1])}
    if not curves:
        return {"note": f"{path.name} holds no numbers yet."}
    losses = {name: c for name, c in curves.items() if name == "loss" or name.endswith("_loss")}
    psnrs = {name: c for name, c in curves.items() if "psnr" in name.lower()}
    others = {n: c for n, c in curves.items() if n not in losses and n not in psnrs}
    drawn = [charts.curves_svg(losses, title="Loss", y="loss", log=True)] if losses else []
    drawn += [charts.curves_svg(psnrs, title="PSNR", y="PSNR, dB")] if psnrs else []
    more = [
        charts.curves_svg({name: curve}, title=name, size=(400, 220))
        for name, curve in sorted(others.items())
    ]
    return {"note": "", "charts": drawn, "more": more}


def _dictionary(workdir: Path) -> dict[str, Any]:
    """Atoms of the largest codes, and how often experts serve, where that differs."""
    found: dict[str, Any] = {"atoms": None, "note": "", "facts": [], "charts": []}
    try:
        caption = "Atoms whose codes are largest in the mean, the largest first"
        found["atoms"] = embedding.picture(workdir / "atoms.png", caption)
    except ValueError as error:
        found["note"] = str(error)
    path = workdir / "usage.json"
    usage, note = read_json(path)
    values = usage.get("usage")
    known = isinstance(values, list) and values and None not in map(number, values)
    if path.is_file() and not note and not known:
        note = f'{path.name} has no list of numbers under "usage".'
    found["note"] = " ".join(filter(None, [found["note"], note]))
    if known:
        found["facts"], found["charts"] = _usage(values, usage.get("importance"))
    return found


def _samples(workdir: Path) -> dict[str, Any]:
    """Signals that were drawn from the prior, and the way from one to another."""
    folder, found = workdir / "samples", {"sheet": None, "path": None, "note": ""}
    try:
        caption = "Drawn from the prior of the training codes"
        found["sheet"] = embedding.picture(folder / samples.SHEET, caption)
    except ValueError as error:
        found["note"] = str(error)
    if (folder / samples.PATH).is_file():
        caption = "From the first of them to the second, along a straight line between codes"
        found["path"] = embedding.movie(folder / samples.PATH, workdir, caption)
    return found


def _usage(values: list[float], importance: Any) -> tuple[list[tuple[str, str]], list[str]]:
    """Facts and charts of how often experts serve; no usage of codes that are dense."""
    shares = np.sort(np.asarray(values, float))[::-1]
    facts, drawn = [], []
    if shares.min() < 1:
        facts.append(("Never used", f"{int((shares == 0).sum())} of {shares.size}"))
        facts.append(("Effective number (by entropy)", f"{_effective(shares):.1f}"))
        rank = f"experts, most used first (of {shares.size})"
        title = "How often each is used"
        drawn.append(charts.bars_svg(shares, title=title, x=rank, y="share of signals"))
    if isinstance(importance, list) and importance and None not in map(number, importance):
        size = np.sort(np.abs(np.asarray(importance, float)))[::-1]
        x = "experts, most important first"
        title = "Mean magnitude of the codes"
        drawn.append(charts.bars_svg(size, title=title, x=x, y="|number of a code|"))
    return facts, drawn


def _effective(values):
    share = values / values.sum() if values.sum() > 0 else np.full(values.size, 1 / values.size)
    return math.exp(-sum(p * math.log(p) for p in share if p > 0))


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested objects as ('outer · inner', value) in order."""
    found = []
    for key, entry in value.items():
        name = prefix + str(key)
        found += _flat(entry, name + " · ") if isinstance(entry, Mapping) else [(name, entry)]
    return found


def _worded(name: str, value: Any) -> tuple[str, Any]:
    """Seconds, bytes and counts as people say them; which it is, the key's own words tell."""
    size = number(value)
    if size is None:
        return name, value
    if name.endswith("seconds"):
        return name.removesuffix("seconds").rstrip("_ ·") or "seconds", format_duration(size)
    if "bytes" in name:
        return name.replace("_bytes", ""), format_bytes(size)
    if "parameters" in name:
        return name, format_count(size)
    return name, value


# ---- pieces -----------------------------------------------------------------------------------


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _inline(chart: str) -> Markup:
    """An SVG for a page, where it needs no namespaces."""
    return Markup(re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", chart))
