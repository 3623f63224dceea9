"""Workdir: the config round trip, JSON, and refusals in one line."""

import dataclasses
import errno
import json
import math
import os
import re
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import json_files
from nid_jax.running import processes
from nid_jax.storage.artefacts import file_name, write_json
from nid_jax.storage.workdir import Workdir


def example_config(**dictionary):
    config = ConfigDict()
    config.task = "image"
    config.seed = 3
    config.dictionary = ConfigDict({"num_experts": 256, "kind": "shared", **dictionary})
    config.dictionary.embedding = ConfigDict({"kind": "fourier", "octaves": (1, 2, (3, 4))})
    config.data = ConfigDict({"name": "faces", "size": (25, 25), "shifts": [1, 2], "root": ""})
    config.train = ConfigDict({"steps": 100, "learning_rate": 1e-4})
    return config


def one_line(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text
    return text


# Files


def test_json_round_trip(tmp_path):
    value = {
        "psnr": np.float32(25.5),
        "signals": np.int64(3),
        "list": np.arange(2),
        "bad": math.nan,
    }
    path = write_json(tmp_path / "m.json", value)
    assert json_files.read(path) == {"psnr": 25.5, "signals": 3, "list": [0, 1], "bad": None}


def test_reading_json_that_is_damaged_or_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        json_files.read(tmp_path / "absent.json")
    (tmp_path / "m.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"m\.json: is not valid JSON") as excinfo:
        json_files.read(tmp_path / "m.json")
    one_line(excinfo)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("face_080", "0007_face_080"),
        ("test/dir/a b.PNG", "0007_test_dir_a_b"),
        ("../../é:*?.jpeg", "0007_.._.._é_"),
        ("x" * 300, "0007_" + "x" * 80),
        ("", "0007_"),
    ],
)
def test_names_of_signals_make_safe_file_names(name, expected):
    assert file_name(7, name) == expected


# The folder


def write_nothing(workdir):
    with workdir.writing(workdir.checkpoints):
        pass


def test_relative_path_is_made_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = Workdir("runs/one")
    monkeypatch.chdir("/")
    assert workdir.root == tmp_path / "runs" / "one"
    assert not workdir.root.parent.exists()
    with workdir.writing(workdir.checkpoints):
        assert os.listdir(workdir.root) == [".checkpoints.lock"]
    assert not workdir.root.parent.exists()  # as nothing was written
    assert workdir.checkpoints == workdir.root / "checkpoints"
    assert workdir.fit("ridge-1e-3") == workdir.root / "fits" / "ridge-1e-3"


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(ValueError, match="run") as excinfo:
            write_nothing(Workdir(path))
        one_line(excinfo)
        assert str(path) in str(excinfo.value)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(ValueError, match="Permission denied") as excinfo:
            write_nothing(Workdir(tmp_path / "new"))
    assert one_line(excinfo).startswith(str(tmp_path / "new"))

    (tmp_path / "old").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(ValueError, match="Permission denied"):
            write_nothing(Workdir(tmp_path / "old"))
    assert os.listdir(tmp_path / "old") == []


def test_read_only_makes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Workdir(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()
    workdir = Workdir(tmp_path, read_only=True)
    with pytest.raises(ValueError, match="reading only"):
        workdir.write_json("summary.json", {})
    with pytest.raises(ValueError, match="reading only"):
        workdir.save_config(example_config())
    with pytest.raises(ValueError, match="reading only"):
        write_nothing(workdir)
    with pytest.raises(FileNotFoundError, match="--checkpoint=absent: no such folder"):
        Workdir("absent", read_only=True, argument="--checkpoint")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/a", ".hidden", "a b", "-x", "é"])
def test_unsafe_fit_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(f"fit.name={name!r}")):
        Workdir(tmp_path).fit(name)


def test_fit_names_lists_complete_fits(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.fit_names() == []
    write_json(workdir.fit("omp") / "metrics.json", {})
    write_json(workdir.fit("lasso") / "metrics.json", {})
    workdir.fit("cut-short").mkdir()
    write_json(workdir.fits / ".tmp-1-omp" / "metrics.json", {})
    assert workdir.fit_names() == ["lasso", "omp"]


# The config


def test_config_round_trip_keeps_tuples_lists_and_types(tmp_path):
    config = example_config(omega0=np.float32(30.0), empty=(), flag=True, nothing=None)
    config.dictionary.bound = math.inf
    config.dictionary.width = ml_collections.config_dict.placeholder(int)
    config.dictionary.width = 16
    workdir = Workdir(tmp_path)
    workdir.save_config(config)
    loaded = Workdir(tmp_path, read_only=True).load_config()
    assert loaded.to_dict() == config.to_dict()
    assert loaded.dictionary.embedding.octaves == (1, 2, (3, 4))
    assert isinstance(loaded.data.size, tuple)
    assert isinstance(loaded.data.shifts, list)
    assert isinstance(loaded.train.steps, int)
    assert isinstance(loaded.dictionary, ConfigDict)


def test_config_with_something_that_is_no_value(tmp_path):
    config = example_config()
    config.dictionary.thing = object()
    with pytest.raises(ValueError, match=r"dictionary\.thing: object cannot be saved"):
        Workdir(tmp_path).save_config(config)
    assert os.listdir(tmp_path) == []


def test_config_absent_or_damaged(tmp_path):
    workdir = Workdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        workdir.load_config()
    for damaged in ('{"seed": 1', "[1]"):
        workdir.config.write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json"):
            workdir.load_config()


def test_checkpoints_are_seen_whatever_their_state(tmp_path):
    workdir = Workdir(tmp_path)
    assert not workdir.holds_checkpoint()
    (workdir.checkpoints / "40.damaged").mkdir(parents=True)
    assert not workdir.holds_checkpoint()
    (workdir.checkpoints / "20").mkdir()
    assert workdir.holds_checkpoint()


SECTIONS = ("task", "data", "dictionary", "train")


def test_same_config_passes_and_an_empty_folder_too(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.check_same_config(example_config(), SECTIONS)
    workdir.save_config(example_config())
    workdir.check_same_config(example_config(), SECTIONS)
    other_seed = example_config()
    other_seed.seed = 4
    workdir.check_same_config(other_seed, SECTIONS)
    longer = example_config()
    longer.train.steps = 200
    workdir.check_same_config(longer, SECTIONS, ignore=("train.steps",))


def change_experts(config):
    config.dictionary.num_experts = 512


def change_size(config):
    config.data.size = (25, 32)


def change_task(config):
    config.task = "ct"


def change_octaves(config):
    config.dictionary.embedding.octaves = ()


@pytest.mark.parametrize(
    ("change", "key", "old", "new"),
    [
        (change_experts, "dictionary.num_experts", "256", "512"),
        (change_size, "data.size", "(25,25)", "(25,32)"),
        (change_task, "task", "image", "ct"),
        (change_octaves, "dictionary.embedding.octaves", "(1,2,(3,4))", "()"),
    ],
)
def test_another_config_names_key_values_and_remedies(tmp_path, change, key, old, new):
    for argument, prefix in (("--workdir", "--config."), ("workdir", "")):
        workdir = Workdir(tmp_path, argument=argument)
        workdir.save_config(example_config())
        config = example_config()
        change(config)
        with pytest.raises(ValueError, match="holds a run with") as excinfo:
            workdir.check_same_config(config, SECTIONS)
        text = one_line(excinfo)
        assert text.startswith(str(tmp_path))
        assert f"{key}={old}, not {key}={new}: give another {argument}, or " in text
        assert text.endswith(f" {prefix}{key}={old}")


def test_paths_are_stored_so_that_commands_elsewhere_find_them(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = example_config()
    config.data.update({"root": "photos", "sinograms": "~/s.npy", "angles": "", "name": "folder"})
    config.eval = ConfigDict({"lpips": "../weights.npz", "num_signals": 3})
    typed = config.to_dict()
    Workdir("run").save_config(config)
    assert config.to_dict() == typed
    monkeypatch.chdir(elsewhere)
    workdir = Workdir(home / "run")
    stored = workdir.load_config()
    assert stored.data.root == str(home / "photos")
    assert stored.data.sinograms == str(tmp_path / "s.npy")
    assert (stored.data.angles, stored.data.name) == ("", "folder")
    assert Path(stored.eval.lpips).resolve() == tmp_path / "weights.npz"
    assert stored.eval.num_signals == 3
    # The same command there is of other pictures, unless it names the first ones.
    with pytest.raises(ValueError, match=rf"data.root={home}/photos, not data.root={elsewhere}"):
        workdir.check_same_config(config, SECTIONS)
    config.data.root = str(home / "photos")
    workdir.check_same_config(config, SECTIONS)


def test_keys_that_came_or_went_count_as_different(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.save_config(example_config(gone=1))
    with pytest.raises(ValueError, match=r"dictionary\.gone=1, .* dictionary\.gone=\(absent\)"):
        workdir.check_same_config(example_config(), SECTIONS)
    with pytest.raises(ValueError, match=r"dictionary\.came=\(absent\), .* dictionary\.came=2"):
        workdir.check_same_config(example_config(gone=1, came=2), SECTIONS)


def test_config_file_is_plain_json(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.save_config(example_config())
    assert json.loads(workdir.config.read_text())["data"]["size"] == [25, 25]
    assert json_files.read(workdir.config)["dictionary"]["num_experts"] == 256


def test_dataclasses_are_written_as_their_fields(tmp_path):
    @dataclasses.dataclass
    class Spread:
        median: float
        rounds: np.ndarray

    path = write_json(tmp_path / "m.json", {"one": Spread(np.nan, np.arange(2))})
    assert json.loads(path.read_text()) == {"one": {"median": None, "rounds": [0, 1]}}


# One writer


def test_a_place_has_one_writer_and_places_have_many(tmp_path):
    first, second = (Workdir(tmp_path / "run", argument="--workdir") for _ in range(2))
    with first.writing(first.checkpoints), first.writing(first.fit("omp")):
        for place, words in (
            (second.checkpoints, "a training is under way in process"),
            (second.fit("omp"), "work on the fit 'omp' is under way in process"),
        ):
            with pytest.raises(ValueError, match=words) as excinfo, second.writing(place):
                pass
            assert one_line(excinfo).startswith(f"{tmp_path / 'run'}: {words} {os.getpid()} since")
        assert "give another --config.fit.name, or wait for it" in str(excinfo.value)
        with second.writing(second.fit("ridge")), second.writing(second.samples):
            pass
    with second.writing(second.checkpoints):
        pass


def test_what_killed_writers_left_is_put_right(tmp_path):
    workdir = Workdir(tmp_path)
    gone, mark = 2**22 + 1, "01234567"  # no process has that number
    fits, omp = workdir.fits, workdir.fit("omp")
    for folder in (fits / f".old-{gone}-{mark}-omp", omp / "render" / f".old-{gone}-{mark}-8x8"):
        folder.mkdir(parents=True)
        (folder / "codes.npz").write_text("earlier")
    (fits / f".old-{gone}-{mark}-ridge").mkdir()
    for path in (omp / f".tmp-{gone}-{mark}-metrics.json", tmp_path / f".tmp-{gone}-{mark}-a.png"):
        path.write_text("half")
    others = tmp_path / f".tmp-{os.getppid()}-{mark}-report.html"
    others.write_text("under way")
    with workdir.writing(workdir.samples):
        pass
    assert not (tmp_path / f".tmp-{gone}-{mark}-a.png").exists()
    assert others.exists()
    (omp / "codes.npz").write_text("later")
    with workdir.writing(omp):
        pass
    assert (omp / "codes.npz").read_text() == "later"
    assert (omp / "render" / "8x8" / "codes.npz").read_text() == "earlier"
    # Another fit's is left to it, which may be under way elsewhere.
    assert sorted(os.listdir(fits)) == [f".old-{gone}-{mark}-ridge", "omp"]
    with workdir.writing(workdir.fit("ridge")):
        assert workdir.fit("ridge").is_dir()
    assert not list(fits.rglob(".*"))
    # Shared places are nobody's while anybody writes.
    left = tmp_path / f".tmp-{gone}-{mark}-a.png"
    left.write_text("half")
    with workdir.writing(workdir.fit("other")):
        assert not left.exists()
        left.write_text("half")
        with workdir.writing(workdir.samples):
            assert left.exists()


def test_of_several_processes_the_first_has_the_lock(tmp_path, monkeypatch):
    workdir, agreed = Workdir(tmp_path), []

    def everywhere(good):
        agreed.append(good)
        return all(agreed)

    monkeypatch.setattr(processes, "everywhere", everywhere)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with workdir.writing(workdir.checkpoints):
        assert os.listdir(tmp_path) == []
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with workdir.writing(workdir.checkpoints):
        with pytest.raises(ValueError, match="a training is under way"):
            write_nothing(Workdir(tmp_path))
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with pytest.raises(ValueError, match="refused to the first process"):
            write_nothing(Workdir(tmp_path))
    assert agreed == [True, True, False, True]
