"""The importer's command: what an official config says, and what is refused in one line."""

import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags, logging

from nid_jax.interop import official, torch_checkpoint
from nid_jax.interop.torch_checkpoint import Told, convert, read_checkpoint
from nid_jax.storage.workdir import Workdir
from tests.interop.official_numpy import random_state, shape_of

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "official"
BASE = runpy.run_path(str(ROOT / "configs" / "official.py"))["get_config"]("images")


def command(*arguments):
    """(exit status, what was printed, what was complained) of the importer, in this process."""
    argv = ["torch_checkpoint", *map(str, arguments)]
    values = flags.FlagValues()
    torch_checkpoint.define_flags(values, argv)
    out, err, code = io.StringIO(), io.StringIO(), 0
    verbosity = logging.get_verbosity()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            torch_checkpoint.main(torch_checkpoint.parse(argv, values), values)
        except SystemExit as leaving:
            code = leaving.code
        finally:
            logging.set_verbosity(verbosity)
    return code, out.getvalue(), err.getvalue()


CELEBA = """# as shipped, smaller
dataset = celeba
patch_size: 8     ; of 128
num_experts=11
num_topk=4
--hidden_dim 9
num_layers=3
pos_emb=Id
act_type=sine
gate_type=resnet
loss_l1=0.02
l1_exp=0.9
loss_type=l1
loss_cv=0
lr=0.001
batch_size=32
chunk_size=50
warmup_epochs=2
train_subset=-1
restart
"""
SHAPE = shape_of("resnet", (8, 8), 11, 3, 4, 3, "sine", "identity", 2)


def test_an_official_config_says_the_rest(tmp_path, torch_writer):
    state = random_state(SHAPE, np.random.default_rng(0))
    path = torch_writer.write(tmp_path / "a.ckpt", {"model": state, "current_epoch": 0})
    (tmp_path / "a.txt").write_text(CELEBA)
    run = tmp_path / "run"
    options = ("--checkpoint", path, "--workdir", run, "--official-config", tmp_path / "a.txt")
    code, out, err = command(*options)
    assert code == 0, err
    assert "11 experts, 3 layers of 9, sine, identity embedding, resnet router, 4" in out
    config = Workdir(run).load_config()
    assert config.loss.to_dict() == {
        "data": "l1",
        "l1": 0.02,
        "l1_base": 0.9,
        "balance": 0.0,
        "importance": "magnitude",
        "compat": "official",
    }
    train = config.train
    assert (train.points, train.chunks, train.batch_size) == (50, "exhaustive", 32)
    assert (train.warmup_epochs, train.optimizer.learning_rate) == (3, 1e-3)
    data = config.data
    assert (data.name, data.size, data.patch.size) == ("celeb_a", (128, 128), 8)
    assert (data.num_train, data.num_test, data.crop) == (0, 500, "center")
    assert json.loads((run / "signals.json").read_text())["shape"] == [8, 8, 3]
    # The same again: a run is never written over.
    code, out, err = command(*options)
    assert (code, out) == (2, "")
    assert "holds a run already" in err


def small(**changes):
    shape = SHAPE | {"router": "codebook", "rows": 3, "size": (4, 5)} | changes
    return random_state(shape, np.random.default_rng(0))


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


BAD_STATES = {
    "experts.net.net.1.0.bias: is missing": without(small(), "experts.net.net.1.0.bias"),
    "experts.net.net.0.0.weight: is missing": without(small(), "experts.net.net.0.0.weight"),
    "allowed: codebook, conv, resnet": without(small(), "gate_generator.codebook.weight"),
    "extra: is no tensor of the official codebook": small() | {"extra": np.ones(3, "f4")},
    "hidden layers of widths [9, 10]": small()
    | {"experts.net.net.1.0.weight": np.ones((10, 9), "f4")},
    "has the shape [3, 14, 1], 2 axes are wanted": small()
    | {"gate_generator.codebook.weight": np.ones((3, 14, 1), "f4")},
    "experts.net.net.0.0.bias: holds numbers that are not finite": small()
    | {"experts.net.net.0.0.bias": np.full(9, np.nan, "f4")},
    "experts.net.net.0.0.bias: has the shape [8]": small()
    | {"experts.net.net.0.0.bias": np.ones(8, "f4")},
    "takes 4 features": small() | {"experts.net.net.0.0.weight": np.ones((9, 4), "f4")},
    "experts.map.W: kernel features": small() | {"experts.map.W": np.ones((9, 2), "f4")},
    "one network without experts": {"net.net.0.0.weight": np.ones((9, 2), "f4")},
    "is no tensor of real numbers": small() | {"experts.net.net.0.0.bias": np.ones(9, "i8")},
}


@pytest.mark.parametrize("says", BAD_STATES)
def test_a_model_of_another_kind_is_refused(tmp_path, torch_writer, says):
    path = torch_writer.write(tmp_path / "a.ckpt", {"model": BAD_STATES[says]})
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        convert(path, Workdir(tmp_path / "run"), BASE, Told({}, "", "sine", 4, size=(4, 5)))
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


BAD_TOLD = {
    "--activation is missing": {"activation": ""},
    "allowed: sine, relu": {"activation": "tanh"},
    "--top_k is missing: the checkpoint does not tell it; allowed: 1 to 11": {"top_k": 0},
    "--top_k=12: the checkpoint has 11 experts": {"top_k": 12},
    "--size is missing": {"size": ()},
    "--size=4: 2 numbers are wanted": {"size": (4,)},
    "neither fits num_experts=5": {"num_experts": 5},
    "a.txt: num_layers=9, the checkpoint has 3": {"options": {"num_layers": 9}},
    "a.txt: gate_type=conv, the checkpoint has codebook": {"options": {"gate_type": "conv"}},
    "a.txt: pos_emb=ffm, the checkpoint has Id": {"options": {"pos_emb": "ffm"}},
    "--top_k=4: a.txt has num_topk=5": {"options": {"num_topk": 5}},
    "--activation=sine: a.txt has act_type=relu": {"options": {"act_type": "relu"}},
    "--size=4,5: data.size and data.patch.size say 32,32": {"options": {"dataset": "cifar10"}},
}


@pytest.mark.parametrize("says", BAD_TOLD)
def test_what_is_missing_or_contradicts_is_named(tmp_path, torch_writer, says):
    path = torch_writer.write(tmp_path / "a.ckpt", small())
    told = {"options": {}, "source": "a.txt", "activation": "sine", "top_k": 4, "size": (4, 5)}
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        convert(path, Workdir(tmp_path / "run"), BASE, Told(**(told | BAD_TOLD[says])))
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2], "holds no official checkpoint"),
        ({"state_dict": {}}, "holds no official checkpoint"),
        ({"model": 3}, "holds no official checkpoint"),
        ({"model": small(), "current_epoch": -1}, "current_epoch is -1"),
        ({"model": small(), "optimizer": {"state": {}}}, "is not the state of torch's Adam"),
        ({"model": small(), "optimizer": 5}, "is not the state of torch's Adam"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, torch_writer, value, says):
    path = torch_writer.write(tmp_path / "a.ckpt", value)
    with pytest.raises(ValueError, match=says):
        read_checkpoint(path)


def adam_of(state, steps=4, **group):
    names = list(state)
    entries = {
        number: {
            "step": np.array(steps, "f4"),
            "exp_avg": np.full(state[name].shape, 0.1, "f4"),
            "exp_avg_sq": np.full(state[name].shape, 0.2, "f4"),
        }
        for number, name in enumerate(names)
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    settings |= {"amsgrad": False, "maximize": False, "params": list(range(len(names)))}
    return {"state": entries, "param_groups": [settings | group]}


def test_an_adam_of_other_settings_starts_anew_and_says_so(tmp_path, torch_writer):
    for group in ({"weight_decay": 0.1}, {"betas": (0.5, 0.999)}, {"amsgrad": True}):
        saved = {"model": small(), "optimizer": adam_of(small(), **group)}
        found = read_checkpoint(torch_writer.write(tmp_path / "a.ckpt", saved))
        assert (found.adam, found.step) == (None, 0)
        assert next(iter(group)) in found.notes[0]


def test_a_frozen_dictionary_has_moments_of_the_router_alone(tmp_path, torch_writer):
    state = small()
    gates = {name: a for name, a in state.items() if name.startswith("gate_generator")}
    saved = {"model": state, "optimizer": adam_of(gates)}
    found = read_checkpoint(torch_writer.write(tmp_path / "a.ckpt", saved))
    assert set(found.adam["mu"]) == set(gates)
    assert found.step == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("num_expert=4", "line 1: the official code has no option 'num_expert', did you mean 'nu"),
        ("\nnum_experts=four", "line 2: num_experts='four'; a whole number is wanted"),
        ("lr=nan", "lr='nan'; a finite number is wanted"),
        ("act_type=tanh", "act_type='tanh'; allowed: relu, sine"),
        ("= 3", "is no option"),
        ("restart=maybe", "allowed: true, false"),
    ],
)
def test_a_wrong_official_config_is_named_by_line(tmp_path, text, says):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        official.read_options(tmp_path / "a.txt")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--top-k=4"], "--checkpoint is missing"),
        (["--checkpoint=a", "--workdir=b", "--topk=4"], "'topk'. Did you mean: top_k"),
        (["--checkpoint=a", "--workdir=b", "--top_k=four"], "four: a whole number is wanted"),
        (["--config.train.stepz=4"], "the config has no key 'stepz', did you mean 'steps'?"),
        (["--config=a.py", "--checkpoint=a", "--workdir=b"], "--config=a.py: cannot be read"),
        ([f"--checkpoint={DATA / 'codebook_gray_rect_after.ckpt'}", "--workdir=b"], "--activation"),
        (["--checkpoint=a", "--workdir=b", "c"], "unexpected argument 'c'"),
        (["--checkpoint=a.ckpt", "--workdir=b"], "a.ckpt: no such file"),
        (["--checkpoint=a.ckpt", "--workdir=b", "--size=3,x"], "--size=3,x: whole numbers"),
        (["--checkpoint=a.ckpt", "--workdir=b", "--top_k=0"], "--top_k=0: allowed: 1 or more"),
        (["--checkpoint=a.ckpt", "--workdir=b", "--names=c"], "c: No such file"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, says):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_config_given_by_hand_decides_what_the_checkpoint_leaves_open(tmp_path):
    path = DATA / "codebook_gray_rect_after.ckpt"
    options = ["--checkpoint", path, "--activation=relu", "--top_k=6"]
    for config in (ROOT, ROOT / "tests" / ".."):
        celeba = f"--config={config / 'configs' / 'official.py'}:celeba"
        code, _, err = command(*options, f"--workdir={tmp_path / 'a'}", celeba, "--size=24,40")
        assert (code, "--size=24,40: data.size and data.patch.size say 16,16" in err) == (2, True)
    sized = ["--config.data.size=(24,40)", "--config.data.patch.size=0"]
    code, _, err = command(*options, f"--workdir={tmp_path / 'b'}", *sized)
    assert code == 0, err
    assert Workdir(tmp_path / "b").load_config().data.size == (24, 40)
    wrong = [f"--workdir={tmp_path / 'c'}", "--size=24,40", "--config.dictionary.width=3"]
    code, _, err = command(*options, *wrong)
    assert (code, "--config.dictionary.width: is decided by" in err) == (2, True)


@pytest.mark.slow
def test_the_command_runs_as_a_module(tmp_path, environment):
    words = [sys.executable, "-m", "nid_jax.interop.torch_checkpoint", "--workdir", tmp_path / "a"]
    words += ["--checkpoint", DATA / "codebook_gray_rect_after.ckpt", "--activation", "relu"]
    done = subprocess.run(
        [*words, "--size=24,40", "--top-k", "6"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "48 experts, 3 layers of 24" in done.stdout
    assert (tmp_path / "a" / "fits" / "official" / "codes.npz").exists()


def documented(folder):
    """Commands of docs/official.md on an imported folder, of which the data are left out."""
    text = (ROOT / "docs" / "official.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    found = [line for line in lines if line.startswith("nid_jax --config=official:runs/official ")]
    keys = re.compile(r" --config\.data\.\S+")
    return {keys.sub("", line).replace("runs/official", str(folder)) for line in found}


@pytest.mark.parametrize("name", ["codebook_gray_rect_after", "conv_id_sine_after"])
def test_the_commands_printed_are_those_of_the_docs(tmp_path, name):
    folder = tmp_path / "run"
    options = {
        "codebook_gray_rect_after": ("--activation=relu", "--size=24,40", "--top_k=6"),
        "conv_id_sine_after": ("--activation=sine", "--size=16,16", "--top_k=4"),
    }
    words = (f"--checkpoint={DATA / name}.ckpt", f"--workdir={folder}", *options[name])
    code, out, err = command(*words)
    assert code == 0, err
    printed = {line.partition(": ")[2] for line in out.splitlines() if ": nid_jax" in line}
    stored = {line for line in documented(folder) if "fit.name" in line}
    assert stored
    assert printed == documented(folder) - (set() if name.startswith("codebook") else stored)


def test_a_workdir_by_the_name_of_a_variant_is_told_apart(tmp_path, torch_writer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = random_state(SHAPE, np.random.default_rng(0))
    torch_writer.write(tmp_path / "a.ckpt", {"model": state, "current_epoch": 0})
    (tmp_path / "a.txt").write_text(CELEBA)
    options = ("--checkpoint=a.ckpt", "--workdir=celeba", "--official_config=a.txt")
    code, out, err = command(*options)
    assert code == 0, err
    assert "nid_jax --config=official:./celeba --workdir=celeba --mode=fit" in out
    get_config = runpy.run_path(str(ROOT / "configs" / "official.py"))["get_config"]
    assert get_config("celeba").dictionary.num_experts == 4096
    assert get_config("./celeba").dictionary.num_experts == 11
