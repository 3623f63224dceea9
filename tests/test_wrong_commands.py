"""Command lines and signals that are wrong: the one line there is for each, nothing written."""

import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from nid_jax import commands
from tests.photos import make_photos

ROOT = Path(__file__).resolve().parents[1]
SMOKE = f"--config={ROOT / 'configs' / 'image.py'}:smoke"


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
    ("seed=-1", "seed: -1; allowed: a whole number, 0 to 4294967295"),
    ("data.name=facess", "data.name='facess' is unknown; did you mean 'faces'?"),
    ("data.size=(25.5,25)", "data.size: (25.5, 25); allowed: (), or whole numbers"),
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
    ("dictionary.num_experts=0", "dictionary.num_experts: 0; allowed: a whole number, 1 or more"),
    ("dictionary.activation=sin", "dictionary.activation: 'sin'; allowed: sine, relu"),
    ("dictionary.embedding.kind=fouri", "did you mean fourier?"),
    ("router.kind=codebok", "router.kind: 'codebok' is unknown, did you mean 'codebook'?"),
    ("router.top_k=9", "router.top_k: 9; allowed: at most 8, the experts of dictionary.num_exp"),
    ("loss.data=l3", "loss.data: 'l3'; allowed: l2, l1"),
    ("train.codes=joined", "train.codes: 'joined' is unknown, did you mean 'joint'?"),
    ("train.steps=0", "train.steps: 0; allowed: 1 or more"),
    ("train.points=-1", "train.points: -1; allowed: a whole number, 0 or more"),
    ("train.batch_size=9", "train.batch_size: 9; allowed: at most 8, of 8 signals to learn from"),
    ("train.chunks=all", "train.chunks: 'all'; allowed: random, exhaustive"),
    ("train.optimizer.name=adma", "train.optimizer.name: 'adma' is unknown, did you mean 'adam'?"),
    ("train.optimizer.schedule=cos", "train.optimizer.schedule: 'cos' is unknown"),
    ("train.optimizer.learning_rate=nan", "train.optimizer.learning_rate: nan; allowed: finite, 0"),
    ("checkpoint.keep_latest=0", "checkpoint.keep_latest: 0; allowed: a whole number, 1 or more"),
    ("mesh.data=64", "mesh.data=64 times mesh.expert=1 needs 64 devices"),
    ("mesh.expert=0", "mesh.expert: 0; allowed: a whole number, 1 or more"),
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
    ("fit.num_signals=-1", "fit.num_signals: -1; allowed: a whole number, 0 or more"),
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


def test_an_array_with_an_infinite_value(call, tmp_path, tiny):
    values = np.full((12, 25, 25), 0.5, np.float32)
    values[7, 3, 2] = np.inf
    np.save(tmp_path / "signals.npy", values)
    result = call(
        *tiny,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.name=array",
        f"--config.data.root={tmp_path / 'signals.npy'}",
    )
    assert "signals.npy: signal 7 holds infinity; allowed: finite numbers" in result.complaint()
    assert os.listdir(tmp_path) == ["signals.npy"]


@pytest.mark.parametrize(
    ("mode", "act", "expected"),
    [
        (
            "train",
            lambda _: jax.numpy.zeros(2**45).block_until_ready(),
            r"error: train\.batch_size, train\.points, dictionary\.num_experts: memory does not "
            r"hold what they ask for: Out of memory allocating \d+ bytes; there are \d+ bytes; al",
        ),
        ("render", lambda _: np.zeros(2**50), r"error: render\.chunk, .*Unable to allocate 8\.00 "),
    ],
)
def test_memory_that_runs_out_is_one_line(call, tmp_path, monkeypatch, mode, act, expected):
    monkeypatch.setitem(commands.MODES, mode, act)
    found = call(SMOKE, f"--workdir={tmp_path / 'W'}", f"--mode={mode}")
    assert re.match(expected, found.complaint())
    assert found.code == 2


def test_other_errors_of_a_device_pass(call, tmp_path, monkeypatch):
    def act(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setitem(commands.MODES, "train", act)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        call(SMOKE, f"--workdir={tmp_path / 'W'}", "--mode=train")
