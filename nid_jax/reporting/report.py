"""report.html: one self-contained page on a run, made from the files in its workdir alone."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from nid_jax.reporting import pictures
from nid_jax.reporting.monitoring import read_metrics
from nid_jax.reporting.tables import (
    SCORES,
    format_bytes,
    format_count,
    format_duration,
    format_value,
)
from nid_jax.storage.artefacts import write_text


def write_report(workdir: str | Path) -> Path:
    """Write WORKDIR/report.html and return its path.

    It reads config.json, metrics.jsonl, summary.json, usage.json, atoms.png and fits/*/ as a run
    leaves them; of fits/*/views/*.glb the first few can be turned on the page. Any of them may
    be missing or damaged: its section then says so. The page needs no network: styles, pictures,
    charts and meshes are inside it. Raises FileNotFoundError where there is no such folder.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir}: no such workdir")
    config, config_note = _read_json(workdir / "config.json")
    summary, summary_note = _read_json(workdir / "summary.json")
    fits = _read_fits(workdir / "fits")
    task, dataset = _subject(config, fits)
    versions = summary.pop("versions", None)
    versions = versions if isinstance(versions, dict) else None
    date = str((versions or {}).get("date", ""))[:16].replace("T", " ")
    page = _template().render(
        pictures=pictures,
        title=f"{task} · {dataset}" if dataset else task,
        subtitle=" · ".join(filter(None, [workdir.resolve().name, date])),
        figures=_figures(config, summary, fits),
        columns=_columns(fits),
        training=_training(workdir / "metrics.jsonl"),
        fits=[_fit(fit) for fit in fits],
        atoms=_picture(workdir / "atoms.png", "The most used atoms of the dictionary"),
        usage=_usage(workdir / "usage.json"),
        timings=[_worded(*fact) for fact in _flat(summary)],
        versions=versions,
        summary_note=summary_note,
        config=config,
        config_note=config_note,
    )
    return write_text(workdir / "report.html", page)


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


def _read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a file, and what to say where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, f"No {path.name} in {path.parent.name}/."
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return {}, f"{path.name} cannot be read: {error}."
    if not isinstance(value, dict):
        return {}, f"{path.name} holds no JSON object."
    return value, ""


def _read_fits(folder: Path) -> list[dict[str, Any]]:
    """Each fit's name, folder, metrics and what is wrong with them, in order of name."""
    if not folder.is_dir():
        return []
    fits = []
    complete = (e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    for path in sorted(complete):
        metrics, note = _read_json(path / "metrics.json")
        fits.append({"name": path.name, "folder": path, "metrics": metrics, "note": note})
    return fits


def _subject(config: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    metrics = next((fit["metrics"] for fit in fits if fit["metrics"]), {})
    task = config.get("task") or metrics.get("task") or "run"
    dataset = _within(config, "data", "name") or metrics.get("dataset") or ""
    return str(task), str(dataset)


def _within(value: Any, *keys: str) -> Any:
    """value[keys[0]][keys[1]]..., or None where the path ends early."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _number(value: Any) -> float | None:
    """The value where it is a finite number, else None: NaN reaches JSON as null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


# ---- sections ---------------------------------------------------------------------------------


def _figures(
    config: Mapping[str, Any], summary: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """(name, value, unit) of the numbers a reader looks for first."""
    scored = [fit for fit in fits if _number(fit["metrics"].get("psnr")) is not None]
    best = max(scored, key=lambda fit: fit["metrics"]["psnr"], default=None)
    figures = []
    if best:
        metrics = best["metrics"]
        figures.append(("PSNR", f"{metrics['psnr']:.2f}", f"dB, {best['name']}"))
        if (ssim := _number(metrics.get("ssim"))) is not None:
            figures.append(("SSIM", f"{ssim:.3f}", best["name"]))
    experts = _within(config, "dictionary", "num_experts")
    if experts is not None:
        top_k = _within(config, "router", "top_k")
        active = f", {top_k} active" if top_k else ""
        kind = _within(config, "dictionary", "kind") or ""
        figures.append(("Experts", str(experts), f"{kind}{active}"))
    parameters = _total(summary.get("parameters"))
    if parameters is not None:
        figures.append(("Parameters", format_count(parameters), ""))
    if (seconds := _number(summary.get("train_seconds"))) is not None:
        figures.append(("Training", *_split_unit(format_duration(seconds))))
    memory = summary.get("peak_memory_bytes")
    for kind, peak in memory.items() if isinstance(memory, dict) else [("", memory)]:
        if (size := _number(peak)) is not None:
            value, unit = format_bytes(size).split()
            figures.append(("Peak memory", value, f"{unit} {kind}".strip()))
    return figures


def _total(parameters: Any) -> float | None:
    """The number of parameters: given as one number, or by group with or without the total."""
    if not isinstance(parameters, Mapping):
        return _number(parameters)
    counts = {name: _number(value) for name, value in parameters.items()}
    if counts.get("total") is not None:
        return counts["total"]
    return sum(value for value in counts.values() if value is not None)


def _split_unit(text: str) -> tuple[str, str]:
    value, _, unit = text.partition(" ")
    return value, unit


_FIT_COLUMNS = {
    "solver": "Solver",
    "signals": "Signals",
    "active_experts": "Active experts",
    **SCORES,
    "seconds_per_signal": "Seconds per signal",
    "seconds_compile": "Compile, s",
    "seconds_total": "Total, s",
}


def _columns(fits: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Keys and headers of the table of fits."""
    measured = {key for fit in fits for key, value in fit["metrics"].items() if value is not None}
    return {
        key: header for key, header in _FIT_COLUMNS.items() if key in measured or key not in SCORES
    }


def _training(path: Path) -> dict[str, Any]:
    """Charts of loss and PSNR, and those of every other metric, or a note."""
    try:
        entries = read_metrics(path)
    except FileNotFoundError:
        return {"note": f"No {path.name} in {path.parent.name}/."}
    except ValueError as error:
        return {"note": f"{path.name} cannot be read: {error}."}
    curves: dict[str, tuple[list[float], list[float | None]]] = {}
    for entry in entries:
        step = _number(entry.get("step"))
        if step is None:
            continue
        for name, value in entry.items():
            if name not in ("step", "time") and (value is None or _number(value) is not None):
                xs, ys = curves.setdefault(name, ([], []))
                xs.append(step)
                ys.append(_number(value))
    curves = {name: c for name, c in curves.items() if any(y is not None for y in c[1])}
    if not curves:
        return {"note": f"{path.name} holds no numbers yet."}
    losses = {name: c for name, c in curves.items() if name == "loss" or name.endswith("_loss")}
    psnrs = {name: c for name, c in curves.items() if "psnr" in name.lower()}
    others = {n: c for n, c in curves.items() if n not in losses and n not in psnrs}
    charts = [pictures.curves_svg(losses, title="Loss", log=True)] if losses else []
    charts += [pictures.curves_svg(psnrs, title="PSNR", y="dB")] if psnrs else []
    more = [
        pictures.curves_svg({name: curve}, title=name, size=(4.0, 2.2))
        for name, curve in sorted(others.items())
    ]
    return {"note": "", "charts": charts, "more": more}


def _fit(fit: Mapping[str, Any]) -> dict[str, Any]:
    """One fit: what was reached, how it was reached, and what it looks like."""
    metrics, name = fit["metrics"], fit["name"]
    facts = [(label, metrics.get(key)) for key, label in _FIT_COLUMNS.items()]
    config = metrics.get("config")
    return {
        "name": name,
        "note": fit["note"],
        "metrics": dict.fromkeys(_FIT_COLUMNS) | metrics,
        "facts": [(label, value) for label, value in facts if value is not None],
        "charts": _fit_charts(metrics, name),
        "config": config if isinstance(config, dict) else None,
        **_surfaces(fit["folder"], name),
    }


def _fit_charts(metrics: Mapping[str, Any], name: str) -> list[str]:
    """PSNR over the steps of fitting and over the signals, where they were measured."""
    charts = []
    per_step = metrics.get("psnr_per_step")
    if isinstance(per_step, dict) and per_step:
        pairs = [(_number_of(step), _number(value)) for step, value in per_step.items()]
        points = sorted((step, value) for step, value in pairs if None not in (step, value))
        if points:
            title = f"PSNR over steps of fitting, {name}"
            curve = tuple(zip(*points, strict=True))
            charts.append(pictures.curves_svg({"psnr": curve}, title=title, y="dB"))
    per_signal = metrics.get("psnr_per_signal")
    values = [_number(v) for v in per_signal] if isinstance(per_signal, list) else []
    values = [value for value in values if value is not None]
    if values:
        low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
        title = f"PSNR of the signals, {name}"
        x = f"dB (lowest {low:.2f}, median {middle:.2f}, highest {high:.2f})"
        bins = min(20, max(5, len(values) // 3))
        charts.append(pictures.histogram_svg(values, title=title, x=x, y="signals", bins=bins))
    return charts


# Meshes of one fit that can be turned on the page; each view also holds its program, 0.7 MB.
_VIEWED = 3


def _surfaces(folder: Path, name: str) -> dict[str, Any]:
    """What a fit looks like: a sheet of pictures and, of meshes, the first ones to turn."""
    paths = sorted((folder / "views").glob("*.glb"))[:_VIEWED]
    if paths or (folder / "shaded.png").is_file():
        sheet, third = "shaded.png", "its distance to the truth, first"
    else:
        sheet, third = "comparison.png", "error of the first"
    found: dict[str, Any] = {
        "picture": _picture(folder / sheet, f"Truth, reconstruction and {third} signals of {name}"),
        "viewed": [],
        "view_notes": [],
    }
    if not paths:
        return found
    # Libraries that only runs with surfaces need.
    from nid_jax.geometry.mesh import load_mesh
    from nid_jax.reporting import viewer

    meshes = []
    for path in paths:
        try:
            meshes.append(load_mesh(path))
            found["viewed"].append(path.stem)
        except ValueError as error:
            found["view_notes"].append(str(error).replace(str(path), path.name))
    if meshes:
        found["view"] = Markup(viewer.frame(meshes, f"Surfaces of {name}"))
    return found


def _number_of(text: str) -> float | None:
    try:
        return _number(float(text))
    except ValueError:
        return None


def _usage(path: Path) -> dict[str, Any]:
    """Charts and facts of how often experts serve, or a note."""
    usage, note = _read_json(path)
    values = usage.get("usage")
    if not note and (not isinstance(values, list) or not values or None in map(_number, values)):
        note = f'{path.name} has no list of numbers under "usage".'
    if note:
        return {"note": note}
    values = np.sort(np.asarray(values, float))[::-1]
    share = values / values.sum() if values.sum() > 0 else np.full(values.size, 1 / values.size)
    effective = math.exp(-sum(p * math.log(p) for p in share if p > 0))
    rank = f"experts, most used first (of {values.size})"
    charts = [
        pictures.bars_svg(values, title="How often each is used", x=rank, y="share of signals")
    ]
    importance = usage.get("importance")
    if isinstance(importance, list) and importance and None not in map(_number, importance):
        size = np.sort(np.abs(np.asarray(importance, float)))[::-1]
        x = "experts, most important first"
        charts.append(pictures.bars_svg(size, title="Importance, by magnitude", x=x))
    facts = [
        ("Never used", f"{int((values == 0).sum())} of {values.size}"),
        ("Effective number (by entropy)", f"{effective:.1f}"),
    ]
    return {"note": "", "facts": facts, "charts": charts}


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested objects as ('outer · inner', value) in order."""
    found = []
    for key, entry in value.items():
        name = prefix + str(key)
        found += _flat(entry, name + " · ") if isinstance(entry, Mapping) else [(name, entry)]
    return found


def _worded(name: str, value: Any) -> tuple[str, Any]:
    """Seconds, bytes and counts as people say them; which it is, the key's own words tell."""
    number = _number(value)
    if number is None:
        return name, value
    if name.endswith("seconds"):
        return name.removesuffix("seconds").rstrip("_ ·") or "seconds", format_duration(number)
    if "bytes" in name:
        return name.replace("_bytes", ""), format_bytes(number)
    if "parameters" in name:
        return name, format_count(number)
    return name, value


# ---- pieces -----------------------------------------------------------------------------------


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _picture(path: Path, caption: str) -> dict[str, Any]:
    """A PNG as text with its width, or a note where there is none."""
    if not path.is_file():
        return {"note": f"No {path.name} in {path.parent.name}/."}
    content = path.read_bytes()
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return {"note": f"{path.name} is no PNG."}
    data = base64.b64encode(content).decode("ascii")
    width = int.from_bytes(content[16:20], "big")
    return {"note": "", "data": data, "width": width, "caption": caption}


def _inline(chart: str) -> Markup:
    """An SVG for a page, where it needs no namespaces."""
    return Markup(re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", chart))
