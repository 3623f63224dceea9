"""The command that prepares meshes, its files, and what it says of meshes that are no good."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import trimesh
from absl import flags

from nid_jax.data import prepare as command
from nid_jax.data.mesh_listing import CATEGORIES, find_sources, read_split, synset_of
from nid_jax.data.prepared import DTYPES, read_prepared, write_prepared
from nid_jax.geometry import distance
from nid_jax.geometry.mesh import facts
from nid_jax.running import stopping

SMALL = ("--resolution=20", "--samples=300", "--near_samples=200", "--workers=1")
V3 = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
BAD = {
    "empty.obj": "",
    "nan.obj": "v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
    "line.obj": "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n",
}


def box(size=(1.0, 2.0, 3.0), centre=(10, 0, 0)):
    return trimesh.creation.box(size).apply_translation(centre)


@pytest.fixture
def prepare(environment):
    """prepare(*arguments) -> the command, done."""

    def run(*arguments):
        command = [sys.executable, "-m", "nid_jax.data.prepare", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    return run


@pytest.fixture
def folder(tmp_path):
    """Good meshes of several kinds and bad ones."""
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    box().export(root / "box.obj")
    scene = trimesh.Scene()
    scene.add_geometry(box((1, 1, 1), (0, 0, 0)))
    scene.add_geometry(box((1, 1, 1), (5, 0, 0)))
    scene.export(root / "scene.glb")
    # A wing on an edge that has two faces already; boxes that cross.
    solid = box()
    wing = np.r_[solid.faces, [[*solid.faces[0][:2], 8]]]
    vertices = np.r_[solid.vertices, [[11, 3, 3]]]
    trimesh.Trimesh(vertices, wing, process=False).export(root / "sub" / "nonmanifold.ply")
    crossing = trimesh.util.concatenate([box(), box(centre=(10.5, 0.5, 0.5))])
    crossing.export(root / "sub" / "crossing.off")
    for name, content in BAD.items():
        (root / name).write_text(content)
    return root


def test_a_folder_with_good_and_bad_meshes(prepare, folder, tmp_path):
    output = tmp_path / "out"
    options = (*SMALL, "--clouds=xyz", "--cloud_points=50", "--watertight")
    done = prepare(folder, f"--output={output}", *options)
    assert done.returncode == 1, done.stderr
    names = {"box", "scene", "sub-nonmanifold", "sub-crossing"}
    assert {path.stem for path in output.glob("*.npz")} == names
    assert "4 prepared, 0 already there, 3 left out" in done.stdout
    for name in BAD:
        assert sum(name in line for line in done.stderr.splitlines()) == 1
        assert name in (output / "failed.txt").read_text()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["prepared"] == 4
    assert len(summary["failures"]) == 3
    assert summary["meshes"]["sub-nonmanifold"]["nonmanifold_edges"] == 1
    check_box(output)
    # Once more: what is there stays, unless its mesh is another now, or it is damaged.
    times = {path: path.stat().st_mtime_ns for path in output.glob("sub*.npz")}
    box((2, 2, 2)).export(folder / "box.obj")
    (output / "scene.npz").write_bytes((output / "scene.npz").read_bytes()[:500])
    done = prepare(folder, f"--output={output}", *options)
    assert "2 prepared, 2 already there, 3 left out" in done.stdout
    assert times == {path: path.stat().st_mtime_ns for path in output.glob("sub*.npz")}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"resolution": 11}, False),
        ({"truncation": 0.1}, False),
        ({"seed": 1}, False),
        ({"cloud_points": 5}, True),
        ({"clouds": "xyz"}, False),
        ({"watertight": True}, False),
    ],
)
def test_what_is_there_stays_if_made_with_the_same_options(tmp_path, changes, same):
    path, target = tmp_path / "box.ply", tmp_path / "box.npz"
    box().export(path)
    options = command.Options(resolution=10, samples=10, near_samples=10)
    command.prepare(path, target, options)
    assert command.is_prepared(path, target, dataclasses.replace(options, **changes)) is same


def test_a_warning_where_nothing_is_inside(tmp_path):
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0.1], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    sheet.export(tmp_path / "a.ply")
    options = command.Options(resolution=10, samples=10, near_samples=10)
    found = command.prepare(tmp_path / "a.ply", tmp_path / "a.npz", options)
    assert "nothing inside" in found["warning"]


def check_box(output):
    """All that is in box.npz and beside it."""
    shape = read_prepared(output / "box.npz")
    assert shape.source == "box"
    assert shape.sdf.shape == (20, 20, 20)
    assert shape.sdf[10, 10, 10] < 0 < shape.sdf[0, 0, 0]
    # The longest axis is the third: there the box reaches 0.9, along the first 0.3.
    assert shape.sdf[10, 10, 17] < 0 < shape.sdf[17, 10, 10]
    assert shape.surface.shape == shape.normals.shape == (300, 3)
    found = distance.signed_distance(shape.vertices, shape.faces, shape.points)
    np.testing.assert_allclose(shape.distances, found, atol=1e-6)
    assert (np.abs(shape.surface * shape.normals).sum(1) > 0.29).all()
    columns = np.c_[shape.vertices, np.ones(8)].T
    restored = (shape.denormalise @ columns)[:3].T
    np.testing.assert_allclose(restored.min(0), [9.5, -1, -1.5], atol=1e-6)
    np.testing.assert_allclose(shape.denormalise @ shape.normalise, np.eye(4), atol=1e-12)
    cloud = np.loadtxt(output / "box.xyz")
    assert cloud.shape == (50, 6)
    assert (cloud[:, 0] > 9.4).all()
    np.testing.assert_allclose(np.linalg.norm(cloud[:, 3:], axis=1), 1, rtol=1e-6)
    closed = trimesh.load(output / "box.watertight.ply")
    assert facts(closed)["watertight"]
    np.testing.assert_allclose(closed.bounds, [[9.5, -1, -1.5], [10.5, 1, 1.5]], atol=0.2)


@pytest.mark.slow
def test_clouds_as_ply_in_normalised_units(prepare, tmp_path):
    box().export(tmp_path / "box.stl")
    options = ("--clouds=ply", "--cloud_points=70", "--cloud_units=normalised", "--dtype=float16")
    done = prepare(tmp_path / "box.stl", f"--output={tmp_path / 'out'}", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    cloud = trimesh.load(tmp_path / "out" / "box.ply")
    assert cloud.vertices.shape == (70, 3)
    assert np.abs(cloud.vertices).max() == pytest.approx(0.9, abs=0.01)
    assert read_prepared(tmp_path / "out" / "box.npz").sdf.dtype == np.float16


@pytest.mark.slow
def test_killed_and_run_again(environment, prepare, tmp_path):
    root, output = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for number in range(6):
        trimesh.creation.icosphere(3, 1 + number).export(root / f"{number}.ply")
    arguments = (root, f"--output={output}", *SMALL, "--resolution=64", "--workers=1")
    command = [sys.executable, "-m", "nid_jax.data.prepare", *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    # Without those that are half written.
    while not list(output.glob("[!.]*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done_before = list(output.glob("[!.]*.npz"))
    assert 0 < len(done_before) < 6
    for path in done_before:
        assert read_prepared(path, keys=DTYPES).sdf.shape == (64,) * 3
    (output / f".tmp-{process.pid}-00000000-x.npz").write_text("half")
    done = prepare(*arguments)
    assert done.returncode == 0, done.stderr
    prepared, present = 6 - len(done_before), len(done_before)
    assert f"{prepared} prepared, {present} already there" in done.stdout
    assert not list(output.glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_with_its_workers(environment, tmp_path, number):
    """Ctrl-C goes to the workers too, SIGTERM to the command alone."""
    # What a shell's background job ignores, its children would ignore too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root, output = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for name in range(6):
        trimesh.creation.icosphere(3, 1 + name).export(root / f"{name}.ply")
    arguments = (root, f"--output={output}", *SMALL, "--resolution=512", "--workers=2")
    command = [sys.executable, "-m", "nid_jax.data.prepare", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(4)
    assert process.poll() is None
    send = os.killpg if number == signal.SIGINT else os.kill
    send(process.pid, number)
    _, err = process.communicate(timeout=20)  # the workers have its standard error too
    assert process.returncode == 128 + number
    assert err == f"{signal.Signals(number).name}: {stopping.ENDED}\n"


def shapenet(root, version, models):
    """A root with boxes for models, [(synset, model)]."""
    for synset, model in models:
        folder = root / synset / model / ("models" if version == 2 else "")
        folder.mkdir(parents=True)
        box().export(folder / ("model_normalized.obj" if version == 2 else "model.obj"))
    return root


CHAIR, TABLE = CATEGORIES["chair"], CATEGORIES["table"]
MODELS = [(CHAIR, "a1"), (CHAIR, "b2"), (CHAIR, "c3"), (TABLE, "d4")]


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_shapenet_with_a_split(prepare, tmp_path, version):
    root = shapenet(tmp_path / "root", version, MODELS)
    split = {
        "train": {CHAIR: {"a1": list(range(24))}, TABLE: {"d4": [0]}},
        "test": {CHAIR: {"b2": [0, 1], "gone": [0]}},
    }
    (tmp_path / "split.json").write_text(json.dumps(split))
    output = tmp_path / "out"
    done = prepare(
        root, f"--output={output}", *SMALL, f"--split={tmp_path / 'split.json'}", "--category=chair"
    )
    assert done.returncode == 1
    written = {str(path.relative_to(output)) for path in output.rglob("*.npz")}
    assert written == {"train/chair-a1.npz", "test/chair-b2.npz"}
    assert f"missing: test model {CHAIR}/gone of the split is not there" in done.stderr


def test_sources_of_shapenet(tmp_path):
    root = shapenet(tmp_path / "root", 1, MODELS)
    sources, missing = find_sources([root], tmp_path / "out")
    assert [source.name for source in sources] == ["chair-a1", "chair-b2", "chair-c3", "table-d4"]
    assert missing == []
    sources, missing = find_sources([root], tmp_path / "out", categories=["table", "lamp"])
    assert [source.name for source in sources] == ["table-d4"]
    assert missing == [f"{root / CATEGORIES['lamp']}: no model of category 'lamp'"]
    with pytest.raises(ValueError, match="no mesh to prepare"):
        find_sources([root], tmp_path / "out", layout="shapenet2")


def test_names_that_clash_and_earlier_output_within_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("x.obj", "x.ply", "a/x.obj", "a-x.obj", "out/x.watertight.ply"):
        box().export(tmp_path / name)
    sources, _ = find_sources([tmp_path], tmp_path / "out")
    names = [source.name for source in sources]
    assert len(set(names)) == len(names) == 4
    assert {"x", "x-ply", "a-x"} <= set(names)


@pytest.mark.parametrize(
    "content",
    [
        {CHAIR: {"train": ["a"], "test": ["b"]}},
        {"train": {CHAIR: ["a"]}, "test": {CHAIR: ["b"]}},
        {"train": {CHAIR: {"a": [0, 1]}}, "test": {CHAIR: {"b": [2], "a": [3]}}},
        {"train": [f"{CHAIR}/a"], "test": [f"{CHAIR}/b"]},
        {"chair": {"train": ["a"], "test": ["b"]}},
    ],
)
def test_split_files_of_every_kind(tmp_path, content):
    (tmp_path / "s.json").write_text(json.dumps(content))
    found = read_split(tmp_path / "s.json")
    assert found == {(CHAIR, "a"): "train", (CHAIR, "b"): "test"}


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"03001627": ["a"]}', '"train"'])
def test_split_files_that_are_none(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ValueError, match=r"s\.json") as caught:
        read_split(tmp_path / "s.json")
    assert "\n" not in str(caught.value)


def test_categories():
    assert len(CATEGORIES) == 13
    assert synset_of(" Chair ") == synset_of("03001627") == "03001627"
    with pytest.raises(ValueError, match="did you mean 'chair'"):
        synset_of("chiar")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no INPUT"),
        (("gone.obj", "--output=out"), "gone.obj: no such file or folder"),
        (("box.obj",), "--output is missing"),
        (("box.obj", "--output=out", "--resolution=1"), "--resolution=1"),
        (("box.obj", "--output=out", "--margin=1"), "--margin=1"),
        (("box.obj", "--output=out", "--dtype=int8"), "dtype"),
        (("box.obj", "--output=out", "--category=chair"), "no root of ShapeNet"),
        (("box.obj", "--output=out", "--category=chiar"), "did you mean 'chair'"),
        (("box.obj", "--output=out", "--split=gone.json"), "gone.json: no such file"),
        (("box.obj", "--output=out", "--resolutoin=3"), "resolutoin"),
        (("box.obj", "--output=box.obj/out"), "cannot be written"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    box().export("box.obj")
    values = flags.FlagValues()
    command.define_flags(values)
    with pytest.raises(SystemExit) as leaving:
        command.command(command.parse(["meshes", *arguments], values), values)
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_mistake_and_help_of_the_command_itself(prepare):
    done = prepare("gone.obj", "--output=out")
    assert (done.returncode, done.stderr) == (2, "error: gone.obj: no such file or folder\n")
    assert "watertight" in prepare("--help").stdout


def arrays(size=4):
    generator = np.random.default_rng(0)
    shapes = {"sdf": (size,) * 3, "truncation": (), "distances": (5,), "faces": (2, 3)}
    square = {"normalise": (4, 4), "denormalise": (4, 4)}
    return {key: generator.random(({**shapes, **square}).get(key, (5, 3))) for key in DTYPES}


def test_prepared_files_there_and_back(tmp_path):
    given = arrays()
    write_prepared(tmp_path / "a.npz", source="a", settings={"seed": 3}, **given)
    shape = read_prepared(tmp_path / "a.npz", keys=("sdf",))
    assert (shape.source, shape.settings, shape.version) == ("a", {"seed": 3}, 1)
    for key, types in DTYPES.items():
        value = np.asarray(getattr(shape, key))
        assert value.dtype == types[0], key
        np.testing.assert_allclose(value, given[key].astype(types[0]))
    with pytest.raises(AttributeError, match="nothing"):
        _ = shape.nothing
    with pytest.raises(ValueError, match="no array 'sfd'"):
        read_prepared(tmp_path / "a.npz", keys=("sfd",))
    with pytest.raises(ValueError, match="absent or unknown: more"):
        write_prepared(tmp_path / "b.npz", source="", settings={}, **given, more=1)


def test_foreign_and_damaged_files(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        read_prepared(path)
    np.savez(path, sdf=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz: is not a prepared shape"):
        read_prepared(path)
    for content in (b"", b"hello", np.zeros(5).tobytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz"):
            read_prepared(path)
    write_prepared(path, source="a", settings={}, **arrays(16))
    content = bytearray(path.read_bytes())
    middle = len(content) // 4
    for at in range(middle, middle + 60):
        content[at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read as an array file"):
        read_prepared(path, keys=DTYPES)
