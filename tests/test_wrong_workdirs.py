"""Workdirs that hold nothing, something else or damage, and disks that refuse: one line each."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from nid_jax.storage import lock, models
from nid_jax.storage.workdir import Workdir


def snapshot(folder):
    """Every file of a folder with its content, to show that nothing was touched."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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


@pytest.mark.parametrize("mode", ["eval", "render", "interpolate", "nearest"])
def test_a_fit_whose_codes_are_not_finite(call, copied, mode, tiny):
    path = copied / "fits" / "test" / "codes.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["codes"][1, 0] = np.nan
    np.savez(path, **arrays)
    before = snapshot(copied)
    complaint = call(*tiny, f"--workdir={copied}", f"--mode={mode}").complaint()
    assert complaint.startswith(f"error: {path}: 'codes' of signal 1, ")
    assert complaint.endswith("holds nan; allowed: finite numbers, as of a fit that went well")
    assert snapshot(copied) == before


def test_a_solver_that_is_not_there(call, trained, tiny):
    result = call(*tiny, f"--workdir={trained}", "--mode=fit", "--config.fit.solver=rigde")
    assert "fit.solver: 'rigde' is unknown, did you mean 'ridge'?" in result.complaint()


def test_a_second_writer_is_refused_and_the_first_unharmed(call, copied, tiny, monkeypatch):
    monkeypatch.setattr(lock, "SETTLED", 0.02)
    first, arguments = Workdir(copied), [*tiny, f"--workdir={copied}"]
    with first.writing(first.checkpoints), first.writing(first.fit("test")):
        before = snapshot(copied)
        complaint = call(*arguments, "--mode=train").complaint()
        assert f"{copied}: a training is under way in process {os.getpid()} since" in complaint
        assert complaint.endswith("; give another --workdir, or wait for it")
        for mode in ("fit", "eval", "render"):
            complaint = call(*arguments, f"--mode={mode}").complaint()
            assert f"{copied}: work on the fit 'test' is under way" in complaint
            assert complaint.endswith("; give another --config.fit.name, or wait for it")
        assert snapshot(copied) == before
        result = call(*arguments, "--mode=fit", "--config.fit.name=other")
        assert result.code == 0, result.err
    assert first.fit_names() == ["other", "test"]
    assert not [path for path in copied.rglob("*") if path.name.startswith(".")]


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


def test_a_dictionary_in_one_file_of_another_kind(call, tmp_path, tiny):
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", "--checkpoint=chairs", "--mode=fit")
    note, *_, error = result.err.splitlines()
    assert "chairs/model.safetensors: its dictionary was learned for task sdf, from " in note
    assert error.endswith("has 3 coordinates and 1 channels")  # colour is not what differs


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
        "workdir=ftp://host/run",
        "checkpoint=hf+x://host/run",
        "checkpoint=file:///tmp/faces.safetensors",
        "config.data.root=gs://bucket/pictures",
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
    options = ["--config.train.optimizer.learning_rate=1e18", "--config.train.checkpoint_every=1"]
    result = call(*tiny, f"--workdir={workdir}", *options)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert "the loss or a gradient was not finite at step 1" in last
    assert "the checkpoint of step 1 is kept" in last
    assert "train.optimizer.learning_rate=1e+18" in last
    assert os.listdir(workdir / "checkpoints") == ["1"]
    model = models.load_model(Workdir(workdir)).model
    assert np.isfinite(model.dictionary.head_kernel[...]).all()


@pytest.mark.slow
def test_a_damaged_prior_stands_in_the_way_of_those_who_ask_for_it_alone(copied, call, tiny):
    (copied / "prior.npz").write_bytes(b"PK\3\4")
    command = *tiny, f"--workdir={copied}", "--mode=fit", "--config.fit.name=again"
    for options in (["ridge"], ["omp", "--config.fit.top_k=2"]):
        result = call(*command, f"--config.fit.solver={options[0]}", *options[1:])
        assert result.code == 0, result.err
        assert re.search(r"prior\.npz: .*; only some baselines need it\n", result.err)
    result = call(*command, "--config.fit.solver=ridge", "--config.fit.baseline_signals=0")
    assert (result.code, "prior.npz" in result.err) == (0, False), result.err
    result = call(*command, "--config.fit.solver=gaussian")
    assert result.code == 2
    assert re.search(r"error: \S+prior\.npz: cannot be read as an array file", result.err)
