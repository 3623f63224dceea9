"""The page is well-formed, self-contained, tells what the files say, and survives their absence."""

import html
import json
import os
import re
import shutil
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest
import trimesh
from PIL import Image

from nid_jax.geometry.writing import export_mesh
from nid_jax.reporting import fit_section, metrics_log, movies, panels, pictures, report
from nid_jax.reporting.panels import Panel, Score
from nid_jax.storage import artefacts

SCORES = (
    Score("psnr", "PSNR", "dB"),
    Score("ssim", "SSIM"),
    Score("left", "Misfit", "%", "What is left."),
)
EVIL = "<script>alert('&\"')</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that every tag is closed in its turn, and gathers what links where."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.words, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def workdir(tmp_path):
    """What a finished run leaves, small."""
    folder = tmp_path / "run-7"
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, (4, 12, 9, 1)).astype(np.float32)
    with metrics_log.MetricWriter(folder) as writer:
        for step in range(0, 30, 10):
            writer.scalars(step, {"loss": 1 / (step + 1), "train_psnr": step, "balance": 0.5})
        writer.scalars(30, {"loss": float("nan")})
    artefacts.write_json(
        folder / "config.json",
        {
            "task": "image",
            "data": {"name": "faces"},
            "dictionary": {"kind": "shared", "num_experts": 48},
            "router": {"top_k": 6},
            "fit": {"name": "gradient"},
        },
    )
    for name, psnr in (("gradient", 23.456), ("ridge", 26.5)):
        artefacts.write_json(
            folder / "fits" / name / "metrics.json",
            {
                "task": "image",
                "dataset": "faces",
                "solver": name + "-solver",
                "signals": 4,
                "psnr": psnr,
                "ssim": 0.777,
                "active_experts": 6,
                "seconds_total": 1.5,
                "seconds_compile": 0.75,
                "seconds_per_signal": 0.01,
                "psnr_per_signal": [psnr - 1, psnr, psnr, psnr, psnr + 1, None],
                "scores": panels.described(SCORES, {"psnr": psnr, "ssim": 0.777}),
                "message": f"{name} went well",
                "psnr_per_step": {"0": 12.0, "5": 18.0, "10": psnr},
                "config": {"fit": {"name": name}},
            },
        )
        panels.write_sheet(folder / "fits" / name / "comparison.png", [Panel("truth", truth)], [])
    pictures.atoms_sheet(folder / "atoms.png", truth - 0.5)
    usage = np.array([1.0, 0.5, 0.0, 0.5])
    artefacts.write_json(folder / "usage.json", {"usage": usage, "importance": -usage})
    artefacts.write_json(
        folder / "summary.json",
        {
            "train_seconds": 185.0,
            "peak_memory_bytes": {"host": 3 * 2**30},
            "parameters": {"dictionary": 900_000, "router": 100_000},
            "versions": {"jax": "9.8.7", "date": "2030-01-02T03:04:05+00:00"},
        },
    )
    return folder


def _read(path):
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def _words(page):
    return " ".join(" ".join(page.words).split())


def test_the_page_tells_what_the_files_say(workdir):
    path = report.write_report(workdir)
    assert path == workdir / "report.html"
    words = _words(_read(path)[1])
    for expected in [
        "image · faces",
        "run-7 · 2030-01-02 03:04",
        "PSNR 23.46 dB, gradient",  # the run's own fit is the one on top
        "48 shared, 6 active",
        "26.50",
        "1M",
        "3:05 min",
        "3.0 GiB",
        "23.46",
        "gradient-solver",
        "Never used 1 of 4",
        "Effective number (by entropy) 2.8",
        "9.8.7",
        '"num_experts": 48',
        "1 more curves",
        "PSNR over steps",
        "lowest 25.50, median 26.50, highest 27.50",
        "ridge went well",
    ]:
        assert expected in words, expected


@pytest.mark.parametrize(("top_k", "shown"), [(0, False), (6, True)])
def test_active_experts_are_told_of_sparse_fits(workdir, top_k, shown):
    folder = workdir / "fits" / "ridge"
    metrics = json.loads((folder / "metrics.json").read_text())
    artefacts.write_json(
        folder / "metrics.json", metrics | {"config": {"fit": {"name": "ridge", "top_k": top_k}}}
    )
    facts = dict(fit_section.section("ridge", folder, workdir, pictured=False)["facts"])
    assert ("Active experts" in facts) == shown
    assert facts["Signals"] == "4"


def test_the_size_of_a_code_and_the_precision_of_a_fit_are_in_the_tables(workdir):
    for name, more in (
        ("ridge", {"numbers_per_signal": 65.0, "codes_dtype": "int8", "bits_per_signal": 544}),
        ("gradient", {"precision": "float64"}),
    ):
        path = workdir / "fits" / name / "metrics.json"
        artefacts.write_json(path, json.loads(path.read_text()) | more)
    text = _read(report.write_report(workdir))[0]
    table = text[text.index("<thead>") : text.index("</table>")]
    rows = [
        re.findall(r"<t[dh][^>]*>(?:<a [^>]*>)?([^<]*)", row) for row in table.split("<tr>")[1:]
    ]
    found = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    wanted = {"Numbers": "65", "Codes in": "int8", "Bits": "544", "Equations in": "–"}
    assert wanted.items() <= found["ridge"].items()
    assert found["gradient"]["Equations in"] == "float64"
    facts = dict(fit_section.section("ridge", workdir / "fits" / "ridge", workdir)["facts"])
    assert (facts["Numbers"], facts["Codes in"], facts["Bits"]) == ("65", "int8", "544")


def test_what_lies_beside_the_page_is_said(workdir):
    assert "Kept aside" not in _words(_read(report.write_report(workdir))[1])
    (workdir / "checkpoints" / "20.damaged").mkdir(parents=True)
    (workdir / "fits" / ".old-1-2-ridge").mkdir()
    for shape in "abcd":
        pictures.save_png(workdir / f"fits/ridge/render/{shape}/0.png", np.zeros((2, 2, 1)))
    for number in range(7):
        pictures.save_png(workdir / f"fits/ridge/render/a/{number}.png", np.zeros((2, 2, 1)))
        os.utime(workdir / "fits/ridge/render/a", (2e9, 2e9))
    words = _words(_read(report.write_report(workdir))[1])
    aside = "checkpoints/20.damaged, fits/.old-1-2-ridge"
    assert f"Kept aside, and not on this page: {aside}." in words
    assert "1 more render lies in fits/ridge/render." in words
    assert "3 more pictures lie in fits/ridge/render/a." in words
    assert "more path" not in words


def test_the_page_needs_no_network_and_its_ids_are_unique(workdir):
    text, page = _read(report.write_report(workdir))
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    inside = [link for link in page.links if link.startswith("#")]
    assert {link[1:] for link in inside} <= set(page.ids)
    drawn = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert len(drawn) == 3  # two comparisons and the atoms
    beside = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert beside
    assert all((workdir / link).is_file() for link in beside)


def test_it_is_written_again_in_place_and_leaves_nothing_else(workdir):
    before = {entry.name for entry in workdir.iterdir()}
    first = report.write_report(workdir).read_bytes()
    assert report.write_report(workdir).read_bytes() == first
    assert {entry.name for entry in workdir.iterdir()} == before | {"report.html"}


FILES = ["config.json", "metrics.jsonl", "summary.json", "usage.json", "atoms.png"]
FIT_FILES = ["fits/ridge/metrics.json", "fits/ridge/comparison.png"]


def test_what_is_missing_is_simply_absent(workdir):
    for name in FILES + FIT_FILES:
        (workdir / name).unlink()
    text, page = _read(report.write_report(workdir))
    words = _words(page)
    assert "No " not in words
    for heading in ("Training", "Dictionary", "Timings", "Configuration"):
        assert f"<h2>{heading}" not in text
    assert "Fit: ridge" in words
    assert "23.46" in words  # the other fit is still there
    shutil.rmtree(workdir / "fits")
    words = _words(_read(report.write_report(workdir))[1])
    assert "Fit" not in words


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe\xff", "cannot be read"),
        (b"[1, 2]", "holds no JSON object"),
        (b"", "cannot be read"),
    ],
)
def test_what_is_damaged_is_said(workdir, content, said):
    for name in FILES + FIT_FILES:
        (workdir / name).write_bytes(content)
    words = _words(_read(report.write_report(workdir))[1])
    for name in FILES + FIT_FILES:
        file = name.rsplit("/", 1)[-1]
        if name.endswith(".json"):
            assert f"{file} {said}" in words
        elif name.endswith(".png"):
            assert f"{file} is no PNG." in words
        elif content == b"[1, 2]":
            assert f"{file} cannot be read" in words
        else:  # one torn line is what a killed run leaves, and no damage
            assert f"{file} holds no numbers yet." in words


def test_a_damaged_line_of_metrics_is_named(workdir):
    lines = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text("nonsense\n" + lines)
    assert "line 1: is not valid JSON" in _words(_read(report.write_report(workdir))[1])


@pytest.mark.parametrize(
    "files",
    [
        {
            "usage.json": {"usage": [0, 0]},
            "summary.json": {"versions": 3, "parameters": None, "peak_memory_bytes": None},
            "config.json": {"data": 5, "dictionary": None, "task": None},
            "fits/ridge/metrics.json": {"psnr": None, "psnr_per_step": {"a": 1}, "config": 4},
            "metrics.jsonl": {"loss": 1},
        },
        {
            "usage.json": {"usage": [None]},
            "summary.json": {"x": [1, {"y": 2}], "train_seconds": "long"},
            "config.json": {"task": ["a"], "data": {"name": 7}},
            "fits/ridge/metrics.json": {"psnr_per_step": [1], "psnr_per_signal": "no"},
            "metrics.jsonl": {"step": 2, "loss": [1], "note": "text"},
        },
        {"usage.json": {"usage": "many"}, "metrics.jsonl": {"step": "two", "loss": 1}},
    ],
)
def test_unexpected_values_do_not_stop_the_page(workdir, files):
    for name, value in files.items():
        (workdir / name).write_text(json.dumps(value) + "\n")
    words = _words(_read(report.write_report(workdir))[1])
    assert "23.46" in words


def test_an_empty_workdir_gives_a_page_and_a_missing_one_an_error(tmp_path):
    words = _words(_read(report.write_report(tmp_path))[1])
    assert "Nothing has been measured in this workdir yet." in words
    with pytest.raises(FileNotFoundError, match="no such workdir"):
        report.write_report(tmp_path / "nowhere")


def test_everything_written_by_others_is_escaped(workdir):
    config = {"task": EVIL, "data": {"name": EVIL}, EVIL: EVIL}
    artefacts.write_json(workdir / "config.json", config)
    artefacts.write_json(workdir / "summary.json", {EVIL: EVIL, "versions": {EVIL: EVIL}})
    metrics = json.loads((workdir / "fits" / "ridge" / "metrics.json").read_text())
    folder = workdir / "fits" / EVIL.replace("/", "")
    artefacts.write_json(folder / "metrics.json", {**metrics, "solver": EVIL, "config": config})
    with metrics_log.MetricWriter(workdir) as writer:
        writer.scalars(40, {EVIL: 1.0, EVIL + "_loss": 2.0, EVIL + "psnr": 3.0})
    text, page = _read(report.write_report(workdir))
    assert "script" not in page.tags
    assert "<script" not in text
    assert EVIL in html.unescape(text)


def test_the_runs_own_fit_comes_first_then_the_newest(workdir):
    for age, name in enumerate(("a", "z", "m")):
        file = workdir / "fits" / name / "metrics.json"
        artefacts.write_json(file, {"solver": "ridge", "signals": 1})
        os.utime(file, (2e9 - age, 2e9 - age))
    words = _words(_read(report.write_report(workdir))[1])
    places = [words.index(f"Fit: {name}") for name in ("gradient", "a", "z", "m", "ridge")]
    assert "The run's own fit first, then from the newest to the oldest." in words
    # Once, where the first fit's numbers stand.
    assert words.count("Mean number of codes that are not 0.") <= 1
    assert places == sorted(places)


@pytest.mark.slow
def test_a_page_of_many_signals_and_fits_stays_small(workdir):
    count = 10_000
    metrics = json.loads((workdir / "fits" / "ridge" / "metrics.json").read_text())
    names = [f"signal_{number:05d}" for number in range(count)]
    values = np.random.default_rng(0).normal(30, 2, count).round(3).tolist()
    metrics |= {"signals": count, "layout": {"names": names}, "psnr_per_signal": values}
    near = {name: [{"name": names[0], "distance": 0.25}] * 2 for name in names}
    noise = np.random.default_rng(0).integers(0, 256, (1400, 2800, 3)).astype(np.uint8)
    Image.fromarray(noise).save(workdir / "fits" / "ridge" / "comparison.png", compress_level=1)
    for number in range(8):
        folder = workdir / "fits" / f"fit_{number}"
        shutil.copytree(workdir / "fits" / "ridge", folder)
        artefacts.write_json(folder / "metrics.json", metrics)
        artefacts.write_json(folder / "nearest.json", {"among": folder.name, "nearest": near})
    text, page = _read(report.write_report(workdir))
    assert page.tags.count("img") == report.PICTURED + 1  # and the atoms
    assert len(text) < 12_000_000
    words = _words(page)
    assert "PSNR of 10000 signals" in words
    assert "of the first 8 of 10000 signals" in words
    # Sheets beyond a size are lossy; a table has all of the fits.
    assert "data:image/jpeg" in text
    assert sum(f"fit_{number}" in words for number in range(8)) == 8


@pytest.mark.parametrize("count", [1, 10_000])
def test_one_and_ten_thousand_signals_make_a_small_page_that_says_what_it_leaves_out(
    workdir, count
):
    folder = workdir / "fits" / "gradient"
    metrics = json.loads((folder / "metrics.json").read_text())
    values = np.random.default_rng(0).normal(30, 2, count).round(3).tolist()
    names = [f"signal <{number}> #{number}?" for number in range(count)]
    shown = min(count, 10)
    row = {"about": "How.", "seconds": 0.1, "scores": {"psnr": values[:shown]}}
    rows = [{"name": "this fit", **row}, {"name": "biharmonic", **row}]
    metrics |= {
        "signals": count,
        "layout": {"names": names},
        "psnr_per_signal": values,
        "measured": "What was seen.",
        "solved": "What was found.",
        "baselines": {"signals": shown, "rows": rows},
        "scores": panels.described([Score("psnr", "PSNR", "dB", better="high")], {"psnr": 1.0}),
    }
    artefacts.write_json(folder / "metrics.json", metrics, None)
    made = folder / "reconstructions"
    made.mkdir()
    best = int(np.argmax(values))
    for index in {*range(min(count, 500)), best}:
        (made / f"{artefacts.file_name(index, names[index])}.png").touch()
    text, page = _read(report.write_report(workdir))
    words = _words(page)
    assert len(text) < 200_000
    assert "What was measured What was seen." in words
    assert "What was solved What was found." in words
    assert "biharmonic How." in words
    assert ("on the one signal" if count == 1 else "on the first 10 signals") in words
    many = count > 1
    assert ("The sheet shows the first 10 of 10000 signals" in words) == many
    assert ("the lowest, the middle and the highest of 10000 signals" in words) == many
    assert (f"signal <{best}> #{best}? {max(values):#.4g}" in words) == many
    assert f"{len(list(made.iterdir()))} file" in words
    links = [urllib.parse.unquote(link) for link in page.links if link.startswith("fits/gradient")]
    assert len(links) < 30
    assert all((workdir / link).exists() for link in links)


def test_movies_renders_paths_and_neighbours_are_on_the_page(workdir):
    folder = workdir / "fits" / "ridge"
    frames = np.linspace(0, 1, 4 * 8 * 8).reshape(4, 8, 8, 1)
    movies.write_movie(folder / "side_by_side.gif", frames)
    movies.write_movie(folder / "interpolate" / "0000_0003.gif", frames)
    for number in range(6):
        pictures.save_png(folder / "render" / "16x16" / f"{number:04d}_a.png", frames[0])
        pictures.save_png(folder / "reconstructions" / f"{number:04d}_face.png", frames[0])
    metrics = json.loads((folder / "metrics.json").read_text())
    artefacts.write_json(folder / "metrics.json", metrics | {"layout": {"names": ["face"]}})
    near = {"face": [{"name": "face", "distance": 0.125}, {"name": "gone", "distance": None}]}
    artefacts.write_json(folder / "nearest.json", {"among": "ridge", "nearest": near})
    _, page = _read(report.write_report(workdir))
    words = _words(page)
    assert "Rendered: 16x16" in words
    assert "0003_a" in words
    assert "0004_a" not in words
    assert "From signal 0000 to signal 0003" in words
    assert "All frames, 10 a second; their own rate is not known" in words
    assert "Nearest in ridge" in words
    assert "face 0.1250" in words
    sources = [link for link in page.links if link.startswith("data:image/gif")]
    assert len(sources) == 2
    # Two sheets, the atoms, two movies, four renders, a signal and its neighbour.
    assert page.tags.count("img") == 11


def test_a_large_movie_is_a_link(workdir, monkeypatch):
    from nid_jax.reporting import embedding

    (workdir / "fits" / "ridge" / "side_by_side.mp4").write_bytes(bytes(100))
    _, page = _read(report.write_report(workdir))
    assert any(link.startswith("data:video/mp4") for link in page.links)
    monkeypatch.setattr(embedding, "MOVIE_BYTES", 50)
    _, page = _read(report.write_report(workdir))
    assert "fits/ridge/side_by_side.mp4" in page.links
    assert page.tags.count("video") == 1


def test_usage_is_drawn_of_sparse_codes_only(workdir):
    artefacts.write_json(workdir / "usage.json", {"usage": [1.0, 1.0], "importance": [0.5, 0.1]})
    words = _words(_read(report.write_report(workdir))[1])
    assert "Never used" not in words
    assert "Mean magnitude of the codes" in words


@pytest.fixture
def surfaces(workdir):
    """The same run with a fit of surfaces."""
    folder = workdir / "fits" / "shapes"
    metrics = {"solver": "ridge", "signals": 4, "iou": 0.912, "chamfer": 0.00123, "fscore": 0.87}
    names = {"iou": "IoU", "chamfer": "Chamfer", "fscore": "F-score"}
    scores = [Score(key, label) for key, label in names.items()]
    metrics["scores"] = panels.described(scores, metrics)
    artefacts.write_json(folder / "metrics.json", metrics)
    for number, name in enumerate(["ball", "box", "ring", "rest"]):
        mesh = trimesh.creation.icosphere(subdivisions=1, radius=0.5)
        export_mesh(mesh, folder / "views" / f"{number:04d}_{name}.glb")
    pictures.save_png(folder / "shaded.png", np.full((20, 30, 3), 0.5))
    return workdir


def test_surfaces_are_measured_pictured_and_can_be_turned(surfaces):
    text, page = _read(report.write_report(surfaces))
    words = _words(page)
    for expected in ["IoU", "Chamfer", "F-score", "0.912", "0.00123"]:
        assert expected in words, expected
    assert "Normals" not in words  # no fit has it
    assert "PSNR" in words  # the other fits have it
    assert page.tags.count("iframe") == 1
    assert "script" not in page.tags
    assert "0000_ball, 0001_box, 0002_ring. Drag to turn" in words
    drawn = [link for link in page.links if link.startswith("data:")]
    assert len(drawn) == 4
    assert all(link.startswith("data:image/png;base64,") for link in drawn)
    assert len(text) < 2_000_000


def test_what_is_wrong_with_surfaces_is_said(surfaces):
    folder = surfaces / "fits" / "shapes"
    (folder / "shaded.png").unlink()
    (folder / "views" / "0001_box.glb").write_bytes(b"no mesh")
    words = _words(_read(report.write_report(surfaces))[1])
    assert "shaded.png" not in words
    assert "0001_box.glb: cannot be read" in words
    assert "0000_ball, 0002_ring. Drag" in words
    for path in (folder / "views").iterdir():
        path.write_bytes(b"")
    page = _read(report.write_report(surfaces))[1]
    assert "iframe" not in page.tags
    assert "0002_ring.glb: is empty" in _words(page)


def test_drawn_signals_and_the_way_between_two_are_on_the_page(workdir):
    assert "New signals" not in _words(_read(report.write_report(workdir))[1])
    frames = np.linspace(0, 1, 4 * 8 * 8).reshape(4, 8, 8, 1)
    pictures.plain_sheet(workdir / "samples" / "sheet.png", frames, 2)
    movies.write_movie(workdir / "samples" / "path.gif", frames)
    words = _words(_read(report.write_report(workdir))[1])
    assert "New signals" in words
    assert "From the first of them to the second" in words
    (workdir / "samples" / "sheet.png").write_bytes(b"no picture")
    assert "sheet.png is no PNG" in _words(_read(report.write_report(workdir))[1])
