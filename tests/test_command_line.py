"""The command line: what it does, and the one line it has for what it cannot do."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from nid_jax import configs
from nid_jax.storage import models
from nid_jax.storage.workdir import Workdir

ROOT = Path(__file__).resolve().parents[1]
SMOKE = f"--config={ROOT / 'configs' / 'image.py'}:smoke"


def snapshot(folder):
    """Every file of a folder with its content, to show that nothing was touched."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def make_photos(folder, count=10, size=(25, 25), seed=0, gray=True):
    """Smooth pictures as PNG files."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    for number in range(count):
        a, b, c = generator.uniform(1, 5, 3)
        picture = 0.5 + 0.2 * np.sin(a * rows + c) + 0.2 * np.cos(b * columns)
        pixels = (255 * picture).astype(np.uint8)
        if not gray:
            pixels = np.stack([pixels, pixels[::-1], 255 - pixels], -1)
        Image.fromarray(pixels).save(folder / f"photo_{number:02d}.png")
    return folder


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


# Command lines that are wrong

WRONG_WORDS = [
    ([], "--config is missing; such as --config=image"),
    ([SMOKE], "--workdir is missing"),
    ([SMOKE, "--workdir="], "--workdir is missing"),
    (["--config=nowhere.py", "--workdir=W"], "--config=nowhere.py: cannot be read"),
    (["--config=imag", "--workdir=W"], "--config=imag: no config of that name, did you mean 'im"),
    (
        ["--config=imag", "--workdir=W"],
        "allowed: ct, fields, image, inpainting, mri, official, sdf, video",
    ),
    (
        ["--config=video:tim", "--workdir=W"],
        "video: no variant 'tim', did you mean 'time'? allowed",
    ),
    (
        [f"{SMOKE}y", "--workdir=W"],
        "image: no variant 'smokey', did you mean 'smoke'? allowed: smo",
    ),
    ([SMOKE, "--workdir=W", "--mode=fitt"], "--mode=fitt: value should be one of <run|train|fit"),
    ([SMOKE, "--workdri=W"], "'workdri'. Did you mean: workdir"),
    ([SMOKE, "--workdir=W", "--config.train=3"], "--config.train=3: is a group of keys"),
    ([SMOKE, "--workdir=W", "more"], "unexpected argument 'more'"),
    (
        [SMOKE, "--workdir=W", "--config.train.steps.x=3"],
        "--config.train.steps.x: train.steps is a value, not a group of keys",
    ),
    ([SMOKE, "--workdir=W", "--config.data.size[0]=3"], "--config.data.size[0]: the config has no"),
    ([SMOKE, "--workdir=W", "--config.=3"], "--config.: the config has no key ''"),
    (
        [SMOKE, "--workdir=W", "--mode=train", "--checkpoint=X"],
        "--checkpoint=X: --mode=train learns a dictionary of its own; allowed with --mode=fit",
    ),
    ([SMOKE, "--workdir=W", "--checkpoint=X"], "--checkpoint=X: --mode=run learns a dictionary"),
]


@pytest.mark.parametrize(("arguments", "expected"), WRONG_WORDS)
def test_words_that_are_wrong(call, arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in call(*arguments).complaint()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 3", "defines no function get_config"),
        ("def get_config(:", "line 1: invalid syntax"),
        ("def get_config():\n    return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("import nothing_here", "line 1: ModuleNotFoundError: No module named 'nothing_here'"),
        ("def get_config():\n    return 3", "its get_config gives int, not a ConfigDict"),
        ("def get_config():\n    raise ValueError('no such size')", "no such size"),
        ("def get_config(size):\n    pass", "missing 1 required positional argument: 'size'"),
        (
            "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()",
            "the config has no key 'task'",
        ),
    ],
)
def test_config_files_that_are_wrong(call, text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    complaint = call("--config=mine.py", "--workdir=W", "--config.seed=3").complaint()
    assert complaint.startswith("error: --config=mine.py: ")
    assert expected in complaint
    assert not (tmp_path / "W").exists()


WRONG_VALUES = [
    # Keys and types, which the flags see to.
    ("train.stepz=3", "--config.train.stepz: the config has no key 'stepz', did you mean 'steps'?"),
    ("trian.steps=3", "--config.trian.steps: the config has no key 'trian', did you mean 'train'?"),
    ("qqqqqq=3", "--config.qqqqqq: the config has no key 'qqqqqq'"),
    ("fit.candidates=3", "no key 'candidates', did you mean 'fit.router_ridge.candidates'?"),
    ("num_experts=3", "no key 'num_experts', did you mean 'dictionary.num_experts'?"),
    ("train.steps=many", "--config.train.steps=many: a whole number is wanted"),
    ("train.steps=1.5", "--config.train.steps=1.5: a whole number is wanted"),
    ("loss.l1=x", "--config.loss.l1=x: a number is wanted"),
    ("data.gray=perhaps", "--config.data.gray=perhaps: true or false is wanted"),
    ("data.size=(25,", "--config.data.size=(25,: numbers in parentheses are wanted"),
    # Values, which the part that takes them sees to.
    ("task=imag", "task: 'imag' is unknown, did you mean 'image'?"),
    ("seed=-1", "seed: -1; allowed: 0 to 4294967295"),
    ("data.name=facess", "data.name='facess' is unknown; did you mean 'faces'?"),
    ("data.size=(25.5,25)", "data.size=(25.5, 25): must be (rows, columns)"),
    ("data.size=(30,30)", "is 25x25 (rows x columns), expected 30x30; set data.resize=true"),
    ("data.num_train=99", "data.num_train: 99; allowed: at most 80, the signals to train on"),
    (
        "data.patch.size=26",
        "data.patch.size: 26; allowed: at most 25, the samples along the short",
    ),
    (
        "dictionary.kind=sharde",
        "dictionary.kind: 'sharde'; allowed: independent, shared",
    ),
    ("dictionary.num_experts=0", "dictionary.num_experts: 0; allowed: 1 or more"),
    ("dictionary.activation=sin", "dictionary.activation: 'sin'; allowed: sine, relu"),
    ("dictionary.embedding.kind=fouri", "did you mean fourier?"),
    ("router.kind=codebok", "router.kind: 'codebok' is unknown, did you mean 'codebook'?"),
    ("router.top_k=9", "router.top_k: 9; allowed: at most 8, the experts of dictionary.num_exp"),
    ("loss.data=l3", "loss.data: 'l3' is unknown; allowed: l2, l1"),
    ("train.codes=joined", "train.codes: 'joined' is unknown, did you mean 'joint'?"),
    ("train.steps=0", "train.steps: 0; allowed: 1 or more"),
    ("train.points=-1", "train.points: -1; allowed: 0 or more"),
    ("train.batch_size=9", "train.batch_size: 9; allowed: at most 8, of 8 signals to learn from"),
    ("train.chunks=all", "train.chunks: 'all' is unknown; allowed: random, exhaustive"),
    ("train.optimizer.name=adma", "train.optimizer.name: 'adma' is unknown, did you mean 'adam'?"),
    ("train.optimizer.schedule=cos", "train.optimizer.schedule: 'cos' is unknown"),
    ("train.optimizer.learning_rate=nan", "train.optimizer.learning_rate: nan; allowed: 0 or more"),
    ("checkpoint.keep_latest=0", "checkpoint.keep_latest: 0; allowed: 1 or more"),
    ("mesh.data=64", "mesh.data=64 times mesh.expert=1 needs 64 devices"),
    ("mesh.expert=0", "mesh.expert=0 must be at least 1"),
    # What is only needed after training, but would be a pity to learn then.
    ("prior.num_signals=9", "prior.num_signals: 9; allowed: at most 8, of 8 signals to learn from"),
    ("fit.num_signals=3", "fit.num_signals: 3; allowed: at most 2, the signals to fit"),
    ("fit.solver=gradientt", "fit.solver: 'gradientt' is unknown, did you mean 'gradient'?"),
    ("fit.solver=router", "fit.solver=router: router.kind=codebook predicts no codes"),
    (
        "fit.gradient.init=router",
        "fit.gradient.init=router: router.kind=codebook predicts no codes",
    ),
    ("fit.top_k=9", "fit.top_k: 9; allowed: at most 8, the experts of dictionary.num_experts"),
    ("fit.name=a/b", "fit.name='a/b': letters, digits"),
    ("fit.split=dev", "fit.split: 'dev'; allowed: train, test"),
    ("fit.num_signals=-1", "fit.num_signals: -1; allowed: 0 or more"),
]


@pytest.mark.parametrize(("option", "expected"), WRONG_VALUES)
def test_values_that_are_wrong_write_nothing(call, option, expected, tmp_path, tiny):
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", f"--config.{option}")
    assert expected in result.complaint()
    assert result.out == ""
    assert os.listdir(tmp_path) == []


# Signals that are wrong


def empty(folder):
    folder.mkdir()


def truncated(folder):
    path = make_photos(folder) / "photo_03.png"
    path.write_bytes(path.read_bytes()[:-60])


def of_two_sizes(folder):
    make_photos(folder)
    Image.new("L", (20, 30)).save(folder / "photo_99.png")


def with_nan(folder):
    picture = np.full((25, 25), 0.5, np.float32)
    picture[3, 4] = np.nan
    make_photos(folder)
    tifffile.imwrite(folder / "photo_99.tif", picture)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: None, "does not exist"),
        (empty, "holds no images; allowed extensions: "),
        (truncated, "photo_03.png: cannot be read as an image, truncated or damaged"),
        (of_two_sizes, "photo_99.png: is 30x20 (rows x columns), expected 25x25; set data.resize"),
        (with_nan, "photo_99.tif: 1 of 625 values are NaN or infinite"),
    ],
)
def test_folders_that_are_wrong(call, make, expected, split, tmp_path, tiny):
    """Whichever split the bad file falls in, it is found before training."""
    make(tmp_path / split)
    other = {"train": "test", "test": "train"}[split]
    if (tmp_path / split).exists():
        make_photos(tmp_path / other)
    result = call(
        *tiny,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=folder",
        f"--config.data.root={tmp_path if (tmp_path / split).exists() else tmp_path / 'nowhere'}",
        "--config.data.num_train=0",
        "--config.data.num_test=0",
        "--config.data.size=(25,25)",
        "--config.data.resize=false",
    )
    assert expected in result.complaint()
    assert not (tmp_path / "run").exists()


def test_an_array_with_nan(call, tmp_path, tiny):
    values = np.full((12, 25, 25), 0.5, np.float32)
    values[7, 3, 2] = np.nan
    np.save(tmp_path / "signals.npy", values)
    result = call(
        *tiny,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=array",
        f"--config.data.root={tmp_path / 'signals.npy'}",
    )
    assert "signals.npy: 1 of 7500 values are NaN or infinite" in result.complaint()
    assert os.listdir(tmp_path) == ["signals.npy"]


# Workdirs that are wrong


@pytest.mark.parametrize("mode", ["fit", "eval", "render"])
def test_nothing_was_trained(call, mode, tmp_path, tiny):
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", f"--mode={mode}")
    assert "--workdir holds no run yet: train into it first" in result.complaint()
    arguments = [*tiny, f"--workdir={tmp_path / 'run'}", f"--mode={mode}"]
    result = call(*arguments, f"--checkpoint={tmp_path / 'other'}")
    assert f"--checkpoint={tmp_path / 'other'}: no such folder" in result.complaint()
    result = call(*arguments, f"--checkpoint={tmp_path}")
    assert "--checkpoint holds no run yet: train into it first" in result.complaint()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", ["eval", "render"])
def test_nothing_was_fitted(call, mode, trained, tiny):
    before = snapshot(trained)
    arguments = [*tiny, f"--workdir={trained}", f"--mode={mode}", "--config.fit.name=ridge"]
    assert "fits/ridge/codes.npz: no such fit" in call(*arguments).complaint()
    assert snapshot(trained) == before


def test_another_configs_workdir(call, trained, tiny):
    before = snapshot(trained)
    result = call(*tiny, f"--workdir={trained}", "--config.dictionary.num_experts=16")
    complaint = result.complaint()
    assert "holds a run with dictionary.num_experts=8" in complaint
    assert "give another --workdir, or --config.dictionary.num_experts=8" in complaint
    assert snapshot(trained) == before


def test_a_fit_takes_the_dictionary_from_the_checkpoint(call, copied, tiny):
    """The caller's copy of what belongs to the dictionary is not looked at."""
    result = call(*tiny, f"--workdir={copied}", "--mode=fit", "--config.dictionary.num_experts=16")
    assert result.code == 0, result.err
    metrics = json.loads((copied / "fits" / "test" / "metrics.json").read_text())
    assert metrics["config"]["dictionary"]["num_experts"] == 8


def test_a_dictionary_of_another_task_is_said(call, trained, copied, tiny):
    options = [*tiny, "--config.task=inpainting", f"--workdir={copied}", "--mode=interpolate"]
    result = call(*options, "--config.fit.name=absent")
    note, error = result.err.splitlines()
    assert note.startswith(f"note: {copied}: its dictionary was learned for task image, from ")
    assert "taken for signals of task inpainting" in note
    assert "absent/codes.npz: no such fit" in error


def test_signals_of_another_kind_than_the_dictionary(call, trained, tmp_path, tiny):
    arguments = [*tiny, f"--workdir={tmp_path / 'run'}", f"--checkpoint={trained}", "--mode=fit"]
    result = call(*arguments, "--config.data.name=photos")
    assert "1 channels; data.gray=true turns colour to gray" in result.complaint()
    assert os.listdir(tmp_path) == []


def damage(workdir, step):
    """Flip one bit of the largest file of a checkpoint's weights."""
    files = (workdir / "checkpoints" / str(step) / "model").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(call, copied, tiny):
    damage(copied, 6)
    result = call(*tiny, f"--workdir={copied}", "--mode=fit", "--config.fit.name=again")
    assert result.code == 0, result.err
    assert "checkpoints/6: damaged checkpoint skipped" in result.err
    assert result.err.count("damaged checkpoint skipped") == 1
    result = call(*tiny, f"--workdir={copied}", "--mode=train")
    assert result.code == 0, result.err
    assert "checkpoints/6: damaged checkpoint skipped" in result.err
    assert "resumed from step 3 of" in result.err
    assert sorted(os.listdir(copied / "checkpoints")) == ["3", "6", "6.damaged"]
    for step in (3, 6):
        damage(copied, step)
    result = call(*tiny, f"--workdir={copied}", "--mode=fit")
    assert result.code == 2
    assert "none of its 2 checkpoints is good" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "option",
    [
        "workdir=gs://bucket/run",
        "checkpoint=s3://bucket/run",
        "checkpoint=file:///tmp/faces.safetensors",
        "config.data.root=memory://pictures",
        "config.compilation_cache=gs://bucket/xla",
        "config.eval.lpips=https://host/alex.npz",
    ],
)
def test_places_elsewhere(call, tmp_path, monkeypatch, tiny, option):
    monkeypatch.chdir(tmp_path)
    name, _, value = option.partition("=")
    name = f"--{name}" if "config." not in name else name.removeprefix("config.")
    mode = "--mode=fit" if name == "--checkpoint" else "--mode=run"
    complaint = call(*tiny, "--workdir=run", f"--{option}", mode).complaint()
    assert complaint.startswith(f"error: {name}={value}: {value.partition(':')[0]}:/ is no place")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/dev/null", "/dev/null/run"])
def test_a_workdir_that_cannot_be(call, path, tiny):
    assert path in call(*tiny, f"--workdir={path}").complaint()


def test_no_permission_in_the_workdir(call, tmp_path, monkeypatch, tiny):
    make = Path.mkdir

    def refuse(self, *arguments, **options):
        if self == tmp_path / "run":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    complaint = call(*tiny, f"--workdir={tmp_path / 'run'}").complaint()
    assert f"{tmp_path / 'run'}: cannot be written: Permission denied" in complaint


@pytest.mark.slow
def test_no_space_in_the_workdir(shell, tmp_path, tiny):
    """A limit on the size of files is a disk that fills up as the checkpoint is written."""
    result = shell(
        *tiny,
        "--config.dictionary.width=64",
        f"--workdir={tmp_path / 'run'}",
        prefix="ulimit -f 8; ",
    )
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert "File too large" in result.err.splitlines()[-1]
    leftovers = [path.name for path in (tmp_path / "run").rglob("*") if "tmp" in path.name]
    assert leftovers == []


def test_a_loss_that_is_not_finite(call, tmp_path, tiny):
    workdir = tmp_path / "run"
    options = ["--config.train.optimizer.learning_rate=1e20", "--config.train.checkpoint_every=1"]
    result = call(*tiny, f"--workdir={workdir}", *options)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert "the loss or a gradient was not finite at step 1" in last
    assert "the checkpoint of step 1 is kept" in last
    assert "train.optimizer.learning_rate=1e+20" in last
    assert os.listdir(workdir / "checkpoints") == ["1"]
    model = models.load_model(Workdir(workdir)).model
    assert np.isfinite(model.dictionary.head_kernel[...]).all()


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
        ("shape=(0,3)", "render.shape: (0, 3); allowed: 2 whole numbers, each 1 or more"),
        ("shape=512", "render.shape: (512,); allowed: 2 whole numbers"),
        ("shape=(5.5,5)", "render.shape: (5.5, 5); allowed: 2 whole numbers"),
        ("shape=(8,8,8)", "render.shape: (8, 8, 8); allowed: 2 whole numbers"),
        ("window=((0,-1),(0,1))", "render.window: ((0, -1), (0, 1)); allowed: 2 pairs (low, high)"),
        ("window=(0,1)", "render.window: (0, 1); allowed: 2 pairs"),
        ("window=(('a','b'),(0,1))", "allowed: 2 pairs"),
        ("scale=0", "render.scale: 0; allowed: 1 or more"),
        ("chunk=-1", "render.chunk: -1; allowed: 0 or more"),
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
    assert result.code in (0, 1)
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
        "from nid_jax import cli\n"
        "try:\n    cli.run()\n"
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
