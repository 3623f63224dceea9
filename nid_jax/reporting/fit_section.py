"""What the page says of one fit, read from its folder; what is not there is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from nid_jax.reporting import baselines, charts, downloads, embedding, movies, panels, ranking
from nid_jax.reporting.panels import Score, scores_of
from nid_jax.reporting.reading import number, read_json, within
from nid_jax.reporting.tables import counted
from nid_jax.storage import artefacts
from nid_jax.storage.artefacts import file_name

COMMON = (
    Score("solver", "Solver"),
    Score("signals", "Signals"),
    Score("active_experts", "Active experts", about="Mean number of codes that are not 0."),
    Score(
        "numbers_per_signal",
        "Numbers",
        about="Stored of each signal: its code, with sparse codes the places too, and its bias.",
    ),
    Score("codes_dtype", "Codes in", about="What each number of a stored code is held in."),
    Score("bits_per_signal", "Bits", about="Of a stored code and its bias."),
    Score("precision", "Equations in", about="The numbers that codes were solved in."),
    Score("seconds_per_signal", "Per signal", "s", "Solving, without what was compiled."),
    Score("seconds_compile", "Compile", "s"),
    Score("seconds_total", "Total", "s", "Solving and compiling."),
)
"""What every fit has, whatever it is of; shown after what its task asks for."""
# Sheets that a fit may have, and what they show.
_SHEETS = {
    artefacts.COMPARISON: "What was fitted, and what came of it",
    artefacts.SHADED: "Surfaces, and where the truth is known the distance to it",
}
# Folders of renders, pictures of each and their longer side; paths between signals; rows of
# neighbours, neighbours in a row and the side of their pictures.
_RENDERS, _RENDERED, _RENDER_SIDE = 3, 4, 512
_PATHS = 3
_ROWS, _NEIGHBOURS, _THUMBNAIL = 8, 5, 64


def section(name: str, folder: Path, page: Path, pictured: bool = True) -> dict[str, Any]:
    """All that the template asks of the fit `name` in `folder`.

    page: the folder of the page; pictured: False leaves out pictures, movies and meshes.
    """
    metrics, note = read_json(folder / artefacts.METRICS)
    own = scores_of(metrics)
    # A task may have a score by the name of what every fit has.
    scores = [*own, *(score for score in COMMON if score.key not in {one.key for one in own})]
    facts = [(s.header, s.text(metrics[s.key])) for s in scores if _shown(metrics, s.key)]
    config, units = metrics.get("config"), within(metrics, "layout", "surface", "units")
    if units:
        kinds = dict.fromkeys(map(str, units if isinstance(units, list) else [units]))
        facts.append(("Meshes in", ", ".join(list(kinds)[:3])))
    found = {
        "name": name,
        "note": note,
        "metrics": metrics,
        "scores": scores,
        "facts": facts,
        "explained": [(s.label, s.about) for s in scores if s.about and _shown(metrics, s.key)],
        "measured": text(metrics.get("measured")),
        "solved": text(metrics.get("solved")),
        "message": text(metrics.get("message")),
        "baselines": baselines.section(metrics, scores),
        "extremes": _extremes(metrics, scores, folder, page),
        "files": downloads.of_fit(folder, page),
        "left_out": _left_out(metrics, folder),
        "all_signals": _link_to_all(folder, page),
        "charts": _charts(metrics),
        "assumed": texts(metrics.get("assumed")),
        "config": config if isinstance(config, dict) else None,
        "notes": [],
        "sheets": [],
        "movies": [],
        "renders": [],
        "paths": [],
        "neighbours": None,
        "view": None,
        "viewed": [],
    }
    if pictured:
        _Pictures(found, folder, page).gather()
    return found


def text(value: Any) -> str:
    """The text; '' where it is none."""
    return value if isinstance(value, str) else ""


def texts(value: Any) -> list[str]:
    """The texts of a list; none where it is no list."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _extremes(metrics, scores, folder, page):
    """The lowest and highest signals, each with a link to what was made of it where that lies."""
    names = names_of(metrics)
    found = ranking.extremes(metrics, scores, names)
    if found is None:
        return None
    rows = []
    for words, signals in found["rows"]:
        linked = []
        for index, name, value in signals:
            stem = folder / artefacts.RECONSTRUCTIONS / file_name(index, name)
            paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".npy")]
            address = next((downloads.link(p, page) for p in paths if p.is_file()), "")
            linked.append((name, value, address))
        rows.append((words, linked))
    return found | {"rows": rows}


def _left_out(metrics, folder):
    """What of the signals is not pictured on the page, in a sentence; '' for nothing."""
    count = number(metrics.get("signals"))
    shown = panels.COLUMNS
    if count is None or count <= shown or not (folder / artefacts.COMPARISON).is_file():
        return ""
    return (
        f"The sheet shows the first {shown} of {count:.0f} signals; what was made of the others "
        f"lies in {artefacts.RECONSTRUCTIONS}/."
    )


def _link_to_all(folder, page):
    """The address of a page of every signal; '' where there is none."""
    path = folder / artefacts.SIGNALS
    return downloads.link(path, page) if path.is_file() else ""


def _shown(metrics, key):
    dense = within(metrics, "config", "fit", "top_k") == 0 and metrics.get("solver") != "lasso"
    if key == "active_experts" and dense:
        # It has all of them, whatever rounding makes of its smallest codes.
        return False
    if key == "precision" and isinstance(metrics.get(key), int | float):
        # That of a surface, or of a mask, which its task shows where it is asked for.
        return key in {score.key for score in scores_of(metrics)}
    return metrics.get(key) is not None and not isinstance(metrics[key], dict | list)


class _Pictures:
    """Adds what the files of a fit show to its section."""

    def __init__(self, found, folder, page):
        self.found, self.folder, self.page = found, folder, page

    def gather(self):
        for sheet, caption in _SHEETS.items():
            self.found["sheets"] += self._picture(self.folder / sheet, caption)
        self.found["movies"] = self._movies(
            self.folder, artefacts.SIDE_BY_SIDE, _frames(self.found["metrics"])
        )
        self._surfaces()
        self._renders()
        paths = _newest(self.folder / artefacts.INTERPOLATE, "*.gif")
        self._say_more(len(paths) - _PATHS, "path", artefacts.INTERPOLATE)
        for path in paths[:_PATHS]:
            caption = "From signal {} to signal {}".format(*(path.stem.split("_") + ["?"])[:2])
            self.found["paths"].append(embedding.movie(path, self.page, caption))
        self._neighbours()

    def _picture(self, path, caption, longest=0):
        """[] or [the picture]; what is wrong with the file is among the notes."""
        try:
            found = embedding.picture(path, caption, longest)
        except ValueError as error:
            self.found["notes"].append(str(error))
            return []
        return [] if found is None else [found]

    def _say_more(self, count, what, where):
        """That files are not on the page, and where they lie."""
        if count > 0:
            lie = "lies" if count == 1 else "lie"
            place = f"fits/{self.folder.name}/{where}"
            self.found["notes"].append(f"{counted(count, f'more {what}')} {lie} in {place}.")

    def _movies(self, folder, stem, caption):
        """The MP4, or the GIF where there is none."""
        paths = [folder / f"{stem}{suffix}" for suffix in movies.SUFFIXES]
        there = [path for path in paths if path.is_file()]
        return [embedding.movie(path, self.page, caption) for path in there[:1]]

    def _surfaces(self):
        paths = sorted((self.folder / artefacts.VIEWS).glob("*.glb"))[: artefacts.VIEWED]
        if not paths:
            return
        # Libraries that only runs with surfaces need.
        from nid_jax.geometry.mesh import load_mesh
        from nid_jax.reporting import viewer

        meshes = []
        for path in paths:
            try:
                meshes.append(load_mesh(path))
                self.found["viewed"].append(path.stem)
            except ValueError as error:
                self.found["notes"].append(str(error).replace(str(path), path.name))
        if meshes:
            title = f"Surfaces of {self.found['name']}"
            self.found["view"] = Markup(viewer.frame(meshes, title))

    def _renders(self):
        folders = [path for path in _newest(self.folder / artefacts.RENDER, "*") if path.is_dir()]
        self._say_more(len(folders) - _RENDERS, "render", artefacts.RENDER)
        for folder in folders[:_RENDERS]:
            shown, found = [], sorted(folder.glob("*.png"))
            where = f"{artefacts.RENDER}/{folder.name}"
            self._say_more(len(found) - _RENDERED, "picture", where)
            for path in found[:_RENDERED]:
                shown += self._picture(path, path.stem, _RENDER_SIDE)
            stems = sorted(
                {path.stem for path in folder.glob("*.*") if path.suffix in movies.SUFFIXES}
            )
            for stem in stems[:_RENDERED]:
                shown += self._movies(folder, stem, stem)
            if shown:
                self.found["renders"].append((folder.name, shown))

    def _neighbours(self):
        """Rows of a signal and its neighbours, each with its picture where there is one."""
        path = self.folder / artefacts.NEAREST
        if not path.is_file():
            return
        found, note = read_json(path)
        nearest, among = found.get("nearest"), found.get("among")
        if note or not isinstance(nearest, dict) or not isinstance(among, str):
            self.found["notes"].append(note or f"{path.name} has no list of neighbours.")
            return
        other = self.folder.parent / Path(among).name
        places = {name: index for index, name in enumerate(_names(other))}
        rows = []
        for index, (name, entries) in enumerate(list(nearest.items())[:_ROWS]):
            row = [self._signal(self.folder, index, name, None)]
            for entry in entries[:_NEIGHBOURS] if isinstance(entries, list) else []:
                if isinstance(entry, dict):
                    near, distance = str(entry.get("name")), number(entry.get("distance"))
                    row.append(self._signal(other, places.get(near), near, distance))
            rows.append(row)
        self.found["neighbours"] = {"among": among, "rows": rows, "count": len(nearest)}

    def _signal(self, folder, index, name, distance):
        if index is None:
            return name, distance, []
        file = folder / artefacts.RECONSTRUCTIONS / f"{file_name(index, name)}.png"
        return name, distance, self._picture(file, name, _THUMBNAIL)


def _frames(metrics):
    """What the movie of all frames is, and how fast."""
    rate = number(metrics.get("frames_per_second"))
    if rate is None:
        return f"All frames, {movies.FRAME_RATE:g} a second; their own rate is not known"
    return f"All frames, {rate:g} a second, as they were taken"


def _names(folder):
    """Names of the signals of the fit in a folder, in order."""
    return names_of(read_json(folder / artefacts.METRICS)[0])


def names_of(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the signals of a fit, in order; none where they are not known."""
    layout = metrics.get("layout")
    names = layout.get("names") if isinstance(layout, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _newest(folder: Path, pattern: str) -> list[Path]:
    paths = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (-path.stat().st_mtime, path.name))


def _charts(metrics: Mapping[str, Any]) -> list[str]:
    """PSNR over the steps of fitting, and how scores are distributed over the signals."""
    drawn = []
    per_step = metrics.get("psnr_per_step")
    if isinstance(per_step, dict) and per_step:
        pairs = [(_number_of(step), number(value)) for step, value in per_step.items()]
        points = sorted((step, value) for step, value in pairs if None not in (step, value))
        if points:
            xs, ys = zip(*points, strict=True)
            drawn.append(
                charts.curves_svg({"psnr": (xs, ys)}, title="PSNR over steps", y="PSNR, dB")
            )
    for score in scores_of(metrics):
        per_signal = metrics.get(f"{score.key}_per_signal")
        values = [number(v) for v in per_signal] if isinstance(per_signal, list) else []
        known = [value for value in values if value is not None]
        # A few signals are a row of captions on the sheet.
        if len(known) >= charts.FEWEST and len(drawn) < 3:
            drawn.append(_distribution(score, np.asarray(known)))
    return drawn


def _distribution(score, values):
    low, middle, high = (score.text(float(v)) for v in np.quantile(values, [0.0, 0.5, 1.0]))
    scaled = 100 * values if score.unit == "%" else values
    unit = f"{score.label}, %" if score.unit == "%" else score.header
    x = f"{unit} (lowest {low}, median {middle}, highest {high})"
    bins = min(20, max(5, len(values) // 3))
    title = f"{score.label} of {len(values)} signals"
    return charts.histogram_svg(list(scaled), title=title, x=x, y="signals", bins=bins)


def _number_of(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None
