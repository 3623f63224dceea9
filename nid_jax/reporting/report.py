"""report.html: one self-contained page on a run, made from the files in its workdir alone."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nid_jax.reporting import pictures
from nid_jax.reporting.monitoring import read_metrics
from nid_jax.reporting.tables import format_bytes, format_count, format_duration, format_value
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
    title = f"{task} · {dataset}" if dataset else task
    sections = [
        _overview(config, summary, fits),
        _section("Training", "training", _training(workdir / "metrics.jsonl")),
        *(_section(f"Fit: {fit['name']}", f"fit-{n}", _fit(fit)) for n, fit in enumerate(fits)),
        _section("Dictionary", "dictionary", _dictionary(workdir)),
        _section("Timings and versions", "timings", _timings(summary, summary_note)),
        _section("Configuration", "configuration", _configuration(config, config_note)),
    ]
    if not fits:
        sections.insert(2, _section("Fits", "fits", _missing("No fits in the workdir yet.")))
    versions = summary.get("versions")
    date = str(versions.get("date", "")) if isinstance(versions, dict) else ""
    page = _PAGE.format(
        title=_text(title),
        style=_STYLE,
        subtitle=_text(
            " · ".join(filter(None, [workdir.resolve().name, date[:16].replace("T", " ")]))
        ),
        body="\n".join(sections),
    )
    return write_text(workdir / "report.html", page)


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


def _overview(
    config: Mapping[str, Any], summary: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]
) -> str:
    """The numbers a reader looks for first, and one row for each fit."""
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
    cards = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(unit)}</small></dd></div>"
        for name, value, unit in figures
    )
    body = f'<dl class="figures">{cards}</dl>' if cards else ""
    if fits:
        body += _fit_table(fits)
    body = body or _missing("Nothing has been measured in this workdir yet.")
    return _section("Summary", "summary", body)


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
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "iou": "IoU",
    "chamfer": "Chamfer",
    "hausdorff": "Hausdorff",
    "normal_consistency": "Normals",
    "fscore": "F-score",
    "sdf_error": "Distance error",
    "seconds_per_signal": "Seconds per signal",
    "seconds_compile": "Compile, s",
    "seconds_total": "Total, s",
}


# What only some tasks measure: a column where any fit has it.
_TASK_COLUMNS = (
    "psnr",
    "ssim",
    "lpips",
    "iou",
    "chamfer",
    "hausdorff",
    "normal_consistency",
    "fscore",
    "sdf_error",
)


def _fit_table(fits: Sequence[Mapping[str, Any]]) -> str:
    measured = {key for fit in fits for key, value in fit["metrics"].items() if value is not None}
    shown = [key for key in _FIT_COLUMNS if key in measured or key not in _TASK_COLUMNS]
    rows = []
    for number, fit in enumerate(fits):
        cells = [f'<th scope="row"><a href="#fit-{number}">{_text(fit["name"])}</a></th>']
        cells += [_cell(fit["metrics"].get(key)) for key in shown]
        rows.append("".join(cells))
    return _table(["Fit", *(_FIT_COLUMNS[key] for key in shown)], rows)


def _training(path: Path) -> str:
    """Loss and PSNR side by side; every other metric in small charts, folded away."""
    try:
        entries = read_metrics(path)
    except FileNotFoundError:
        return _missing(f"No {path.name} in {path.parent.name}/.")
    except ValueError as error:
        return _missing(f"{path.name} cannot be read: {error}.")
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
        return _missing(f"{path.name} holds no numbers yet.")
    losses = {name: c for name, c in curves.items() if name == "loss" or name.endswith("_loss")}
    psnrs = {name: c for name, c in curves.items() if "psnr" in name.lower()}
    others = {n: c for n, c in curves.items() if n not in losses and n not in psnrs}
    charts = []
    if losses:
        charts.append(pictures.curves_svg(losses, title="Loss", log=True))
    if psnrs:
        charts.append(pictures.curves_svg(psnrs, title="PSNR", y="dB"))
    body = _charts(charts)
    if others:
        small = [
            pictures.curves_svg({name: curve}, title=name, size=(4.0, 2.2))
            for name, curve in sorted(others.items())
        ]
        body += _folded(f"{len(small)} more curves", _charts(small, small=True))
    return body


def _fit(fit: Mapping[str, Any]) -> str:
    """One fit: what was reached, how it was reached, and what it looks like."""
    metrics, name = fit["metrics"], fit["name"]
    body = ""
    if fit["note"]:
        body += _missing(fit["note"])
    else:
        facts = [(label, metrics.get(key)) for key, label in _FIT_COLUMNS.items()]
        body += _facts([(label, value) for label, value in facts if value is not None])
    body += _surfaces(fit["folder"], name) or _picture(
        fit["folder"] / "comparison.png",
        f"Truth, reconstruction and error of the first signals of {name}",
    )
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
    body += _charts(charts)
    if isinstance(metrics.get("config"), dict) and metrics["config"]:
        body += _folded("The configuration of this fit", _json(metrics["config"]))
    return body


# Meshes of one fit that can be turned on the page; each view also holds its program, 0.7 MB.
_VIEWED = 3


def _surfaces(folder: Path, name: str) -> str:
    """The shaded pictures of a fit with meshes, and the first of them to turn; '' without any."""
    paths = sorted((folder / "views").glob("*.glb"))[:_VIEWED]
    if not paths and not (folder / "shaded.png").is_file():
        return ""
    body = _picture(
        folder / "shaded.png",
        f"Truth, reconstruction and its distance to the truth, first signals of {name}",
    )
    if not paths:
        return body
    # Libraries that only runs with surfaces need.
    from nid_jax.geometry.mesh import load_mesh
    from nid_jax.reporting import viewer

    meshes, names = [], []
    for path in paths:
        try:
            meshes.append(load_mesh(path))
            names.append(path.stem)
        except ValueError as error:
            body += _missing(str(error).replace(str(path), path.name))
    if meshes:
        body += viewer.frame(meshes, f"Surfaces of {name}")
        hint = "Drag to turn, scroll to come closer, right button to move."
        body += f'<p class="hint">{_text(", ".join(names))}. {hint}</p>'
    return body


def _number_of(text: str) -> float | None:
    try:
        return _number(float(text))
    except ValueError:
        return None


def _dictionary(workdir: Path) -> str:
    body = "<h3>Most used atoms</h3>"
    body += _picture(workdir / "atoms.png", "The most used atoms of the dictionary")
    body += "<h3>Expert usage</h3>"
    usage, note = _read_json(workdir / "usage.json")
    if note:
        return body + _missing(note)
    values = usage.get("usage")
    if not isinstance(values, list) or not values or None in map(_number, values):
        return body + _missing('usage.json has no list of numbers under "usage".')
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
    return body + _facts(facts) + _charts(charts)


def _timings(summary: Mapping[str, Any], note: str) -> str:
    if note:
        return _missing(note)
    versions = summary.get("versions")
    facts = [(name, value) for name, value in _flat(summary) if name.split(" · ")[0] != "versions"]
    body = '<div class="columns">'
    body += "<div><h3>Run</h3>" + _pairs([_worded(n, v) for n, v in facts]) + "</div>"
    if isinstance(versions, dict):
        body += "<div><h3>Versions</h3>" + _pairs(list(versions.items())) + "</div>"
    return body + "</div>"


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


def _configuration(config: Mapping[str, Any], note: str) -> str:
    if note:
        return _missing(note)
    return _folded("The resolved configuration", _json(config))


# ---- pieces of HTML ---------------------------------------------------------------------------


def _text(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, anchor: str, body: str) -> str:
    return f'<section id="{anchor}">\n<h2>{_text(title)}</h2>\n{body}\n</section>'


def _missing(note: str) -> str:
    return f'<p class="missing">{_text(note)}</p>'


def _cell(value: Any) -> str:
    kind = "" if isinstance(value, str) else ' class="number"'
    return f"<td{kind}>{_text(format_value(value))}</td>"


def _table(headers: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls sideways in a narrow window; `rows` are the cells' HTML."""
    head = "".join(f'<th scope="col">{_text(header)}</th>' for header in headers)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _pairs(facts: Sequence[tuple[str, Any]]) -> str:
    rows = "".join(
        f"<div><dt>{_text(_label(name))}</dt><dd>{_text(format_value(value))}</dd></div>"
        for name, value in facts
    )
    return f'<dl class="pairs">{rows}</dl>'


def _facts(facts: Sequence[tuple[str, Any]]) -> str:
    """A few numbers in a row, each under its name."""
    return _pairs(facts).replace('class="pairs"', 'class="facts"')


def _json(value: Any) -> str:
    return f"<pre>{_text(json.dumps(value, indent=2))}</pre>"


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _picture(path: Path, caption: str) -> str:
    if not path.is_file():
        return _missing(f"No {path.name} in {path.parent.name}/.")
    content = path.read_bytes()
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return _missing(f"{path.name} is no PNG.")
    # A wide sheet shrinks to the page, but in a narrow window it scrolls and stays legible.
    least = f"min({int.from_bytes(content[16:20], 'big')}px, 60rem)"
    data = base64.b64encode(content).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{data}" alt="{_text(caption)}" '
        f'style="min-width: {least}">'
    )
    return f'<figure class="scroll">{image}</figure>'


def _charts(charts: Sequence[str], *, small: bool = False) -> str:
    """Charts side by side where the window is wide enough. Inline SVG needs no namespaces."""
    if not charts:
        return ""
    kind = "charts small" if small else "charts"
    plain = (re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", chart) for chart in charts)
    figures = "".join(f'<figure role="img">{chart}</figure>' for chart in plain)
    return f'<div class="{kind}">{figures}</div>'


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{body}</details>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{subtitle}</p>
</header>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 72rem;
  color: {pictures.INK}; background: {pictures.PAPER};
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}}
header {{ border-bottom: 1px solid {pictures.GRID}; padding-bottom: 1rem; }}
header p {{ margin: .25rem 0 0; color: {pictures.QUIET}; }}
h1 {{ margin: 0; font-size: 1.75rem; font-weight: 650; letter-spacing: -.01em; }}
h2 {{ margin: 2.75rem 0 1rem; font-size: 1.25rem; font-weight: 650; }}
h3 {{ margin: 1.5rem 0 .5rem; font-size: .95rem; font-weight: 600; color: {pictures.QUIET}; }}
a {{ color: {pictures.COLOURS[0]}; text-decoration: none; }}
a:hover {{ text-decoration: underline; }}
dl, dd, figure {{ margin: 0; }}
.figures {{
  display: grid; gap: .75rem; margin-bottom: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
}}
.figures > div {{ padding: .8rem 1rem; background: #f5f7fa; border-radius: .5rem; }}
.figures dt {{ font-size: .8rem; color: {pictures.QUIET}; }}
.figures dd {{ font-size: 1.5rem; font-weight: 600; line-height: 1.3; }}
.figures small {{
  display: block; min-height: 1.2em; font-size: .8rem; font-weight: 400; color: {pictures.QUIET};
}}
.scroll {{ overflow-x: auto; }}
table {{ width: 100%; border-collapse: collapse; font-size: .9rem; }}
th, td {{
  padding: .45rem .75rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid {pictures.GRID};
}}
thead th {{ font-weight: 500; color: {pictures.QUIET}; }}
tbody th {{ font-weight: 600; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
thead th:nth-child(n+3) {{ text-align: right; }}
.pairs {{ font-size: .9rem; }}
.pairs > div {{
  display: flex; justify-content: space-between; gap: 1.5rem;
  padding: .3rem 0; border-bottom: 1px solid {pictures.GRID};
}}
.pairs dt {{ color: {pictures.QUIET}; }}
.pairs dd {{ text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }}
.facts {{ display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; font-size: .95rem; }}
.facts dt {{ font-size: .8rem; color: {pictures.QUIET}; }}
.facts dd {{ font-variant-numeric: tabular-nums; }}
.columns {{
  display: grid; gap: 0 3rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
}}
.charts {{
  display: grid; gap: 1rem 1.5rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
}}
.charts.small {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }}
.charts figure {{ max-width: 36rem; }}
svg {{ display: block; width: 100%; height: auto; }}
.view {{ display: block; width: 100%; border: 1px solid {pictures.GRID}; border-radius: .5rem; }}
.hint {{ margin: .3rem 0 0; font-size: .8rem; color: {pictures.QUIET}; }}
figure img {{ display: block; max-width: 100%; height: auto; margin: 1rem 0; }}
details {{ margin-top: 1rem; }}
summary {{ cursor: pointer; color: {pictures.COLOURS[0]}; }}
pre {{
  overflow-x: auto; padding: 1rem; background: #f5f7fa; border-radius: .5rem;
  font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}}
.missing {{ color: {pictures.QUIET}; font-style: italic; }}
@media print {{ body {{ max-width: none; padding: 0; }} section {{ break-inside: avoid; }} }}
"""
