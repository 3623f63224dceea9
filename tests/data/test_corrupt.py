"""Folders of corrupted pictures: written, read back, and the command that writes them."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ml_collections
import numpy as np
import pytest
from absl import flags
from PIL import Image

from nid_jax.data import Collection, open_collection, to_array
from nid_jax.data.corrupt import _command, define_flags, parse, write
from nid_jax.data.corrupted import corrupt, open_corrupted
from tests.data.corrupt_options import KINDS, make_options

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_config(data_config):
    """make(corrupt options, key of data=value, ...) -> a whole config."""

    def make(options=(), **changes):
        config = ml_collections.ConfigDict({"task": "inpainting", "seed": 4})
        config.data = data_config(**changes)
        config.data.corrupt = make_options(**dict(options))
        return config

    return make


# Folders written and read back


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(tmp_path, make_config, data_config, kind):
    config = make_config({"kind": kind, "share": 0.2}, num_test=3, size=(20, 26), resize=True)
    written = write(config, tmp_path / "new" / "out")
    collection = open_corrupted(data_config(root=tmp_path / "new" / "out"), "test", 0)
    assert isinstance(collection, Collection)
    assert collection.names == ["0000_face_080", "0001_face_081", "0002_face_082"]
    assert len(collection) == 3
    assert collection.shape == (20, 26, 1)
    clean = to_array(open_collection(config.data, "test", 4))
    for index in range(3):
        picture, seen = corrupt(clean[index], config.data.corrupt, 4, index)
        half = 0.5 / 255 + 1e-6
        np.testing.assert_allclose(collection[index], picture, atol=half)
        np.testing.assert_array_equal(collection.seen(index), seen)
        np.testing.assert_allclose(collection.truth(index), clean[index], atol=half)
        np.testing.assert_array_equal(written[index], picture)
    for access in (collection.__getitem__, collection.seen, collection.truth):
        with pytest.raises(IndexError):
            access(3)
    record = json.loads((tmp_path / "new" / "out" / "corruption.json").read_text())
    assert record["options"] == config.data.corrupt.to_dict()
    assert (record["seed"], record["split"]) == (4, "test")
    assert record["names"]["0002_face_082.png"] == "face_082"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"], "nothing left behind"


def test_names_that_are_paths_stay_distinct(tmp_path, make_config, data_config):
    generator = np.random.default_rng(0)
    for name in ("a/b", "a_b", "c d"):
        path = tmp_path / "clean" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 9, 3)).astype(np.uint8)).save(path)
    config = make_config(name="folder", root=tmp_path / "clean", test_fraction=1.0)
    (tmp_path / "out").mkdir()  # an empty folder may be there
    write(config, tmp_path / "out")
    collection = open_corrupted(data_config(root=tmp_path / "out"), "test", 0)
    assert collection.names == ["0000_a_b", "0001_a_b", "0002_c_d"]
    assert collection.shape == (8, 9, 3)
    gray = open_corrupted(data_config(root=tmp_path / "out", gray=True, num_test=2), "test", 0)
    assert (len(gray), gray.shape) == (2, (8, 9, 1))
    luma = collection.truth(1).astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(gray.truth(1)[..., 0], luma, atol=1e-6)


def test_a_folder_that_holds_something_is_left_alone(tmp_path, make_config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out: is there already; needs a new or an empty folder"):
        write(make_config(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"notes\.txt: is there already"):
        write(make_config(), tmp_path / "out" / "notes.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_nothing_is_left_of_a_folder_that_fails(tmp_path, make_config):
    np.save(tmp_path / "four.npy", np.zeros((2, 6, 6, 4), np.float32))
    config = make_config(name="array", root=tmp_path / "four.npy", test_fraction=1.0)
    with pytest.raises(ValueError, match=r"four\.npy.*: 4 channels; PNG files take 1 or 3"):
        write(config, tmp_path / "out")
    (tmp_path / "clean").mkdir()
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "clean" / "a.png")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clean" / "b.png")
    content = (tmp_path / "clean" / "b.png").read_bytes()
    (tmp_path / "clean" / "b.png").write_bytes(content[:-30])
    config = make_config(name="folder", root=tmp_path / "clean", test_fraction=1.0)
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as an image"):
        write(config, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "four.npy"]


# The command

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({config})
"""


@pytest.fixture
def config_file(tmp_path, make_config):
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(config=make_config(num_test=2).to_dict()))
    return path


@pytest.mark.slow
def test_the_command_writes_a_folder_and_says_so(tmp_path, config_file, data_config):
    command = [sys.executable, "-m", "nid_jax.data.corrupt", f"--config={config_file}"]
    command += [f"--output={tmp_path / 'out'}", "--config.data.corrupt.kind=pixels"]

    def run(*more):
        return subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    said = f"2 pictures of 25x25, LFW faces, corrupted by pixels: {tmp_path / 'out'}\n"
    assert done.stdout == said
    collection = open_corrupted(data_config(root=tmp_path / "out"), "test", 0)
    assert [collection.seen(at).sum() for at in range(2)] == [round(0.13 * 625)] * 2
    again = run()
    assert (again.returncode, again.stdout) == (2, "")
    wanted = "is there already; needs a new or an empty folder"
    assert again.stderr == f"error: --output={tmp_path / 'out'}: {wanted}\n"


def test_the_command_prints_what_was_assumed(tmp_path, make_config, capsys):
    for name in ("a.png", "b.png", ".c.png"):
        (tmp_path / "clean").mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9), len(name), np.uint8)).save(tmp_path / "clean" / name)
    config = make_config(name="folder", root=tmp_path / "clean", test_fraction=1.0)
    _command(SimpleNamespace(config=config, output=tmp_path / "out", split="test"))
    said = capsys.readouterr()
    assert said.err == f"note: {tmp_path / 'clean'}: 2 pictures; passed over: 1 hidden\n"
    assert said.out.startswith("2 pictures of 9x9, images in clean, corrupted by ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--output=out"], "--config is missing; such as --config=inpainting"),
        (["CONFIG"], "--output is missing; the folder that takes images, masks and truth"),
        (
            ["CONFIG", "--output=out", "--config.data.corrupt.shares=0.2"],
            "--config.data.corrupt.shares: the config has no key 'shares', did you mean 'share'?",
        ),
        (
            ["CONFIG", "--output=out", "--config.data.corrupt.share=half"],
            "--config.data.corrupt.share=half: could not convert string to float: 'half'",
        ),
        (
            ["--config=nowhere.py", "--output=out"],
            "--config=nowhere.py: cannot be read; such as --config=image",
        ),
        (
            ["BARE", "--output=out"],
            "BARE: the config has no key 'corrupt'",
        ),
        (["CONFIG", "--output=out", "--split=val"], "--split=val: value should be one of"),
        (["CONFIG", "--output=out", "--kind=text"], "Unknown command line flag 'kind'"),
        (["CONFIG", "--output=out", "text"], "unexpected argument 'text'; options are"),
    ],
)
def test_what_is_typed_wrong_is_one_line(config_file, capsys, given, message):
    bare = config_file.with_name("bare.py")
    bare.write_text(CONFIG.format(config={"data": {"name": "faces"}}))
    files = {"CONFIG": f"--config={config_file}", "BARE": f"--config={bare}"}
    argv = ["corrupt", *(files.get(word, word) for word in given)]
    values = flags.FlagValues()
    define_flags(values, argv)
    with pytest.raises(SystemExit) as stopped:
        parse(argv, values)
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith(f"error: {message.replace('BARE', files['BARE'])}")
    assert said.count("\n") == 1
