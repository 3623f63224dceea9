"""The command line: what a run prints and leaves, renders, evaluations, and whole processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nid_jax import configs
from nid_jax.storage import models
from nid_jax.storage.workdir import Workdir
from tests.photos import make_photos

ROOT = Path(__file__).resolve().parents[1]
SMOKE = f"--config={ROOT / 'configs' / 'image.py'}:smoke"


# What a run prints and leaves


def test_a_run_says_what_it_does_and_leaves_all_of_it(trained):
    out, err = (trained / "stdout").read_text(), (trained / "stderr").read_text()
    for line in ("devices     1 x ", "parameters  ", "memory      about ", "config      "):
        assert sum(printed.startswith(line) for printed in err.splitlines()) == 1, err
    assert str(trained / "config.json") in err
    assert "WARNING" not in err
    assert "Traceback" not in err
    lines = out.splitlines()
    assert lines[0].startswith("trained 6 steps in ")
    assert " ".join(lines[1].split()) == "fit solver signals PSNR, dB SSIM Misfit active s/signal"
    assert lines[3].split()[:3] == ["test", "gradient", "2"]
    assert lines[-1] == f"report: {trained / 'report.html'}"
    expected = (
        "config.json signals.json metrics.jsonl summary.json usage.json atoms.png report.html"
    )
    assert {*expected.split(), "checkpoints", "events", "fits"} <= set(os.listdir(trained))
    assert not [path for path in trained.rglob("*") if path.name.startswith(".")]


def test_a_fit_writes_its_codes_its_metrics_and_pictures(trained):
    folder = trained / "fits" / "test"
    files = ["codes.npz", "comparison.png", "metrics.json", "pictures", "reconstructions"]
    assert sorted(os.listdir(folder)) == files
    for kind in ("pictures", "reconstructions"):
        pictures = sorted(os.listdir(folder / kind))
        assert pictures == ["0000_face_080.png", "0001_face_081.png"]
    with np.load(folder / "codes.npz", allow_pickle=False) as stored:
        assert stored["codes"].shape == (2, 8)
        assert stored["bias"].shape == (2, 1)
        assert stored["names"].tolist() == ["face_080", "face_081"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["task"], metrics["solver"], metrics["signals"]) == ("image", "gradient", 2)
    assert "faces" in metrics["dataset"]
    assert metrics["psnr"] == pytest.approx(np.mean(metrics["psnr_per_signal"]))
    assert -1 <= metrics["ssim"] <= 1
    assert metrics["active_experts"] == 8
    assert 0 < metrics["seconds_per_signal"] * 2 <= metrics["seconds_total"]
    assert list(metrics["psnr_per_step"]) == ["0", "5"]
    assert metrics["config"]["dictionary"]["num_experts"] == 8
    assert metrics["config"]["fit"]["gradient"]["steps"] == 5


def test_the_codes_are_what_the_scores_say(trained):
    """The stored codes and the checkpoint alone give the PSNR that the fit reported."""
    loaded = models.load_model(Workdir(trained, read_only=True))
    assert loaded.signals["shape"] == [25, 25, 1]
    folder = trained / "fits" / "test"
    with np.load(folder / "codes.npz") as stored:
        codes, bias = stored["codes"].astype(float), stored["bias"].astype(float)
    axis = np.linspace(-1, 1, 25)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    basis = np.asarray(loaded.model.dictionary.basis(points.astype(np.float32)), float)
    values = np.einsum("se,pec->spc", codes, basis) + bias[:, None]
    from skimage import data

    truth = data.lfw_subset()[80:82].reshape(2, -1, 1)
    errors = np.square(np.clip(values, 0, 1) - truth).mean((1, 2))
    reported = json.loads((folder / "metrics.json").read_text())["psnr_per_signal"]
    np.testing.assert_allclose(-10 * np.log10(errors), reported, atol=1e-3)
    assert loaded.config.dictionary.num_experts == 8


# Rendering


def test_render_any_shape_window_and_scale(call, copied, tiny):
    arguments = [*tiny, f"--workdir={copied}", "--mode=render"]
    folder = copied / "fits" / "test" / "render"

    def rendered(view, *options):
        result = call(*arguments, *(f"--config.render.{option}" for option in options))
        assert result.code == 0, result.err
        assert f": {folder / view}" in result.out
        with Image.open(folder / view / "0001_face_081.png") as picture:
            return np.asarray(picture).astype(int)

    assert rendered("512x512", "shape=(512,512)").shape == (512, 512)
    whole = rendered("49x97", "shape=(49,97)", "chunk=100")
    assert whole.shape == (49, 97)
    corner = rendered("25x49_-1to0_0to1", "shape=(25,49)", "window=((-1,0),(0,1))")
    np.testing.assert_allclose(corner, whole[:25, 48:], atol=1)
    assert rendered("50x50", "scale=2").shape == (50, 50)
    # Each has a folder of its own, and the page shows them.
    assert len(os.listdir(folder)) == 4
    assert "Rendered: 50x50" in (copied / "report.html").read_text()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("shape=(0,3)", "render.shape: (0, 3); allowed: (), or whole numbers, each 1 or more"),
        ("shape=512", "render.shape: (512,); allowed: 2 whole numbers"),
        ("shape=(5.5,5)", "render.shape: (5.5, 5); allowed: (), or whole numbers"),
        ("shape=(8,8,8)", "render.shape: (8, 8, 8); allowed: 2 whole numbers"),
        (
            "window=((0,-1),(0,1))",
            "render.window: ((0, -1), (0, 1)); allowed: (), or pairs (low, high)",
        ),
        ("window=(0,1)", "render.window: (0, 1); allowed: (), or pairs"),
        ("window=(('a','b'),(0,1))", "allowed: (), or pairs"),
        ("scale=0", "render.scale: 0; allowed: a whole number, 1 or more"),
        ("chunk=-1", "render.chunk: -1; allowed: a whole number, 0 or more"),
    ],
)
def test_renders_that_cannot_be(call, trained, option, expected, tiny):
    result = call(*tiny, f"--workdir={trained}", "--mode=render", f"--config.render.{option}")
    assert expected in result.complaint()
    assert not (trained / "fits" / "test" / "render").exists()


def test_evaluate_scores_the_stored_codes_again(call, copied, tiny):
    result = call(*tiny, f"--workdir={copied}", "--mode=eval")
    assert result.code == 0, result.err
    folder = copied / "fits" / "test"
    before = json.loads((folder / "metrics.json").read_text())
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["psnr"] == pytest.approx(before["psnr"], abs=1e-4)
    assert again["ssim"] == pytest.approx(before["ssim"], abs=1e-4)
    complaint = call(*tiny, f"--workdir={copied}", "--mode=eval", "--config.data.num_test=1")
    assert "its signal 1, 'face_081', is not there in the test split" in complaint.complaint()


@pytest.fixture
def own_fit(call, copied, tiny, tmp_path, monkeypatch):
    """Options of the workdir of a run on faces that holds a fit, 'mine', of one's own pictures.

    Made in the folder of the pictures, which later commands are not typed in.
    """
    photos = make_photos(tmp_path / "photos", 3)
    here = os.getcwd()
    monkeypatch.chdir(photos.parent)
    result = call(
        *tiny,
        f"--workdir={copied}",
        "--mode=fit",
        "--config.fit.name=mine",
        "--config.fit.solver=ridge",
        "--config.data.name=folder",
        f"--config.data.root={photos.name}",
        "--config.data.test_fraction=1.0",
    )
    assert result.code == 0, result.err
    monkeypatch.chdir(here)
    return (SMOKE, f"--workdir={copied}", "--config.fit.solver=ridge")


def test_a_fit_is_scored_on_what_it_was_fitted_to(call, copied, own_fit, tmp_path):
    result = call(*own_fit, "--mode=eval", "--config.fit.name=mine")
    assert result.code == 0, result.err
    folder = copied / "fits" / "mine"
    before, again = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "evaluation")
    )
    assert before["signals"] == again["signals"] == 2
    assert again["psnr"] == pytest.approx(before["psnr"], abs=1e-4)
    moved = tmp_path / "moved"
    typed = ("--mode=eval", "--config.fit.name=mine", f"--config.data.root={moved}")
    assert f"data.root={moved}" in call(*own_fit, *typed).complaint().replace("'", "")


def test_a_fit_is_made_again_of_the_same_signals(call, copied, own_fit):
    result = call(*own_fit, "--mode=fit", "--config.fit.name=mine", "--config.fit.num_signals=1")
    assert result.code == 0, result.err
    (note,) = [line for line in result.err.splitlines() if "no data.KEY was typed" in line]
    assert "fitting the signals of the fit 'mine', data.name=folder data.root=" in note
    assert "photos, as no data.KEY was typed; " in note
    metrics = json.loads((copied / "fits" / "mine" / "metrics.json").read_text())
    assert (metrics["signals"], metrics["dataset"]) == (1, "images in photos")
    result = call(*own_fit, "--mode=fit", "--config.fit.name=other")
    assert result.code == 0, result.err
    assert "no data.KEY was typed" not in result.err
    metrics = json.loads((copied / "fits" / "other" / "metrics.json").read_text())
    # The run's own two faces, though the config that was named has four.
    assert (metrics["signals"], "faces" in metrics["dataset"]) == (2, True)


# Whole processes


def test_the_shell_sees_one_line_and_status_2(shell, tmp_path, tiny):
    arguments = [*tiny, f"--workdir={tmp_path / 'run'}", "--config.router.top_k=9"]
    complaint = shell(*arguments).complaint()
    assert "router.top_k: 9; allowed: at most 8, the experts" in complaint
    assert os.listdir(tmp_path) == []


def test_help_names_the_options(shell):
    result = shell("--help")
    assert result.code == 0
    for option in ("--config", "--workdir", "--checkpoint", "--mode", "--[no]distributed"):
        assert option in result.out
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    for mode, words in (("nearest", "The signals most like each of a fit"), ("fit", "Codes of")):
        assert any(line.startswith(f"{mode} {words}") for line in lines)
    for config in configs.names():
        words, variants = configs.described(config)
        assert f"{config} {words}" in lines
        assert ", ".join(variants) in lines
    assert f"{ROOT / 'configs' / 'parts'}/" in result.out


@pytest.mark.slow
def test_an_image_fit_imports_no_library_of_other_tasks(copied, tiny, environment):
    """They would cost a third of its time."""
    code = (
        "import sys\n"
        "from nid_jax.__main__ import run\n"
        "try:\n    run()\n"
        "finally:\n"
        "    others = 'trimesh igl tensorflow_datasets matplotlib pydicom imageio'.split()\n"
        "    print(*(name for name in others if name in sys.modules), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, *tiny, f"--workdir={copied}", "--mode=fit"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""


def test_sigterm_saves_and_the_same_command_goes_on(call, tmp_path, tiny, environment):
    workdir = tmp_path / "run"
    arguments = [*tiny, f"--workdir={workdir}", "--mode=train", "--config.train.checkpoint_every=0"]
    command = [sys.executable, str(ROOT / "main.py"), *arguments, "--config.train.steps=1000000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    deadline = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    (saved,) = (int(name) for name in os.listdir(workdir / "checkpoints"))
    assert f"SIGTERM: saved step {saved}; the same command resumes" in err
    result = call(*arguments, f"--config.train.steps={saved + 2}")
    assert result.code == 0, result.err
    assert f"resumed from step {saved} of" in result.err
    assert result.out.startswith(f"trained {saved + 2} steps in ")
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]
    assert steps == list(range(1, saved + 3))


def test_a_checkpoint_of_no_name_is_not_the_workdir(call, tmp_path, tiny):
    """As of --checkpoint=$NAME where there is no NAME."""
    result = call(*tiny, f"--workdir={tmp_path}", "--checkpoint=", "--mode=fit")
    assert result.code == 2
    assert re.fullmatch("error: --checkpoint: ''; allowed: a workdir, .*\n", result.err)
