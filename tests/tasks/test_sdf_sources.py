"""Shapes from files: prepared volumes and oriented clouds, from reading to meshes in own units."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from ml_collections import ConfigDict

from nid_jax import tasks
from nid_jax.data import open_collection, to_array
from nid_jax.data.cloud_reading import read_cloud
from nid_jax.data.prepared import write_prepared
from nid_jax.data.shapes import ShapeCollection
from nid_jax.data.volume_batches import Sampling, point_batches
from nid_jax.geometry import level_set, primitives
from nid_jax.geometry.truncation import Truncation
from nid_jax.metrics.surfaces import nearest_on
from nid_jax.notices import Notice

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "sdf.py"
# From the cube to the units of the files.
SCALE, SHIFT = 20.0, np.array([5.0, -7.0, 100.0])
DENORMALISE = np.diag([SCALE, SCALE, SCALE, 1.0])
DENORMALISE[:3, 3] = SHIFT


def write_ball(path, radii, side=17, truncation=0.0):
    """A prepared file of an ellipsoid about the origin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    radii = np.broadcast_to(radii, 3)
    axis = np.linspace(-1, 1, side)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    distances = primitives.ellipsoid(points.reshape(-1, 3), radii).reshape(points.shape[:-1])
    mesh = trimesh.creation.icosphere(3)
    normals = mesh.vertices / radii
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    mesh.apply_scale(radii)
    draw = np.random.default_rng(side)
    near = mesh.vertices + draw.normal(0, 0.1, mesh.vertices.shape)
    write_prepared(
        path,
        source=path.stem,
        settings={},
        sdf=np.clip(distances, -truncation, truncation) if truncation else distances,
        truncation=truncation,
        points=near,
        distances=primitives.ellipsoid(near, radii),
        surface=mesh.vertices,
        normals=normals,
        vertices=mesh.vertices,
        faces=mesh.faces,
        normalise=np.linalg.inv(DENORMALISE),
        denormalise=DENORMALISE,
    )


def volumes(root, split="train", **changes):
    """Prepared files as a collection."""
    values = {
        "name": "volumes",
        "root": str(root),
        "size": (),
        "truncation": 0.0,
        "truncation_kind": "clip",
        "num_train": 0,
        "num_test": 0,
        "test_fraction": 0.4,
        "cache": "",
        "margin": 0.1,
        "normals": "auto",
        "augment": {"mirror": False, "shifts": 0, "max_shift": 1},
        "patch": {"size": 0, "overlap": 0},
    }
    return open_collection(ConfigDict(values | changes), split, 0)


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """Five prepared balls of radii 0.4 to 0.8 at 17^3."""
    folder = tmp_path_factory.mktemp("balls")
    for number in range(5):
        write_ball(folder / f"ball{number}.npz", 0.4 + 0.1 * number)
    return folder


def radius_of(name):
    return 0.4 + 0.1 * int(name[-1])


def test_volumes_are_split_and_read_as_they_were_written(balls):
    train, test = (volumes(balls, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2)
    assert sorted(train.names + test.names) == [f"ball{n}" for n in range(5)]
    axis = np.linspace(-1, 1, 17)
    length = np.sqrt(sum(np.square(a) for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    for collection in (train, test):
        assert collection.shape == (17, 17, 17, 1)
        for index, name in enumerate(collection.names):
            values = collection[index]
            assert values.dtype == np.float32
            np.testing.assert_allclose(values[..., 0], length - radius_of(name), atol=1e-5)
    clipped = volumes(balls, truncation=0.05)[0]
    np.testing.assert_allclose(clipped, np.clip(train[0], -0.05, 0.05))
    assert len(volumes(balls, num_train=2)) == 2


def test_folders_named_after_splits_are_the_splits(tmp_path):
    for split, names in (("train", "ab"), ("test", "c")):
        for name in names:
            write_ball(tmp_path / split / f"{name}.npz", 0.5, side=9)
    assert volumes(tmp_path).names == ["a", "b"]
    assert volumes(tmp_path, "test").names == ["c"]


def test_another_size_is_interpolated(balls):
    own = volumes(balls)[1][..., 0]
    half = volumes(balls, size=(9, 9, 9))[1][..., 0]
    # Every other sample is one of the file's own.
    np.testing.assert_allclose(half, own[::2, ::2, ::2], atol=1e-6)
    double = volumes(balls, size=(33, 33, 33))[1][..., 0]
    np.testing.assert_allclose(double[::2, ::2, ::2], own, atol=1e-6)
    np.testing.assert_allclose(double[1, 0, ::2], (own[0, 0] + own[1, 0]) / 2, atol=1e-6)


def test_what_else_volumes_know(balls):
    collection = volumes(balls, truncation=0.05)
    radius = radius_of(collection.names[2])
    points, distances = collection.near(2)
    exact = np.linalg.norm(points, axis=1) - radius
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(distances, np.clip(exact, -0.05, 0.05), atol=1e-5)
    cloud = collection.cloud(2)
    np.testing.assert_allclose(np.linalg.norm(cloud[:, :3], axis=1), radius, atol=1e-5)
    np.testing.assert_allclose(cloud[:, 3:] * radius, cloud[:, :3], atol=1e-5)
    mesh = collection.mesh(2)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    np.testing.assert_array_equal(collection.denormalise(2), DENORMALISE)


def test_volumes_that_memory_does_not_hold_are_kept_beside_the_files(tmp_path):
    for number in range(2):
        write_ball(tmp_path / f"{number}.npz", 0.5 + 0.2 * number, side=9)
    collection = volumes(tmp_path, test_fraction=0.0)
    kept, mapped = (
        next(point_batches(collection, Sampling(2, 0, 50), memory=m)) for m in (2**30, 0)
    )
    np.testing.assert_array_equal(kept["signals"], mapped["signals"])
    assert len(list((tmp_path / ".cache").glob("*.npy"))) == 1
    # What is kept there is no shape.
    assert volumes(tmp_path, test_fraction=0.0).names == ["0", "1"]


def of_two_resolutions(folder):
    write_ball(folder / "a.npz", 0.5, side=9)
    write_ball(folder / "b.npz", 0.5, side=10)


def cut_short(folder):
    for name in "ab":
        write_ball(folder / f"{name}.npz", 0.5, side=9)
    content = (folder / "b.npz").read_bytes()
    (folder / "b.npz").write_bytes(content[: len(content) // 2])


def other_arrays(folder):
    write_ball(folder / "a.npz", 0.5, side=9)
    np.savez(folder / "b.npz", sdf=np.zeros((9, 9, 9)))


def truncated(folder):
    for name in "ab":
        write_ball(folder / f"{name}.npz", 0.5, side=9, truncation=0.2)


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (of_two_resolutions, {}, r"b\.npz: a grid of 10\^3, the others have 9\^3"),
        (cut_short, {}, r"b\.npz: cannot be read as an array file"),
        (other_arrays, {}, r"b\.npz: is not a prepared shape: has no array 'truncation'"),
        (truncated, {}, r"data\.truncation: 0\.0; .* was truncated at 0\.2"),
        (
            truncated,
            {"truncation": 0.1, "truncation_kind": "tanh"},
            r"data\.truncation: 0\.1; .* was truncated at 0\.2: give at most 0\.0666667, above 0",
        ),
        (truncated, {"truncation": 0.3}, r"data\.truncation: 0\.3; .* was truncated at 0\.2"),
        (truncated, {"size": (9, 9, 8), "truncation": 0.1}, r"data\.size: \(9, 9, 8\)"),
        (lambda folder: None, {}, "holds no .npz file"),
    ],
)
def test_volumes_that_are_wrong(tmp_path, make, changes, expected):
    make(tmp_path)
    with pytest.raises(ValueError, match=expected) as caught:
        to_array(volumes(tmp_path, test_fraction=0.0, **changes))
    assert "\n" not in str(caught.value)


def test_truncation_below_that_of_the_file(tmp_path):
    truncated(tmp_path)
    values = volumes(tmp_path, truncation=0.1)[0]
    assert np.abs(values).max() == np.float32(0.1)


def test_folders_that_are_missing(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root is empty"):
        volumes("")
    with pytest.raises(FileNotFoundError, match="no such"):
        volumes(tmp_path / "none")
    write_ball(tmp_path / "train" / "a.npz", 0.5, side=9)
    with pytest.raises(FileNotFoundError, match="no such"):
        volumes(tmp_path, "test")


# Clouds


def sphere_cloud(count=400, radius=30.0, centre=(100.0, 0.0, -5.0)):
    """Points on a sphere, and their outward normals. [Q, 6]."""
    normals = np.random.default_rng(1).standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.concatenate([radius * normals + centre, normals], 1)


def write_ply(path, rows, names=("x", "y", "z", "nx", "ny", "nz")):
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {name}" for name in names] + ["end_header"]
    lines = [" ".join(map(repr, map(float, row))) for row in rows]
    path.write_text("\n".join(header + lines) + "\n")


def write_xyz(path, rows):
    np.savetxt(path, rows)


@pytest.mark.parametrize(("write", "suffix"), [(write_xyz, "xyz"), (write_ply, "ply")])
def test_clouds_and_the_way_back_to_their_units(tmp_path, write, suffix):
    cloud = sphere_cloud()
    # Normals of any length.
    write(tmp_path / f"sphere.{suffix}", cloud * [1, 1, 1, 3, 3, 3])
    collection = volumes(
        tmp_path / f"sphere.{suffix}", name="pointcloud", size=(16, 16, 16), margin=0.2
    )
    assert (len(collection), collection.names) == (1, ["sphere"])
    found = collection.cloud(0).astype(np.float64)
    np.testing.assert_allclose(found[:, 3:], cloud[:, 3:], atol=1e-5)
    assert np.ptp(found[:, :3], axis=0).max() == pytest.approx(2 * (1 - 0.2))
    back = found[:, :3] @ collection.denormalise(0)[:3, :3].T + collection.denormalise(0)[:3, 3]
    np.testing.assert_allclose(back, cloud[:, :3], atol=1e-4)
    assert collection.truth(0) is None
    with pytest.raises(ValueError, match="point clouds hold no distances"):
        collection[0]


def test_a_mesh_gives_its_vertices(tmp_path):
    mesh = trimesh.creation.icosphere(2)
    mesh.export(tmp_path / "ball.ply", vertex_normal=True)
    points, normals = read_cloud(tmp_path / "ball.ply")
    np.testing.assert_allclose(points, mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(normals, mesh.vertex_normals, atol=1e-5)


def with_nan(cloud):
    cloud[3, 1] = np.nan
    return cloud


def with_a_zero_normal(cloud):
    cloud[7, 3:] = 0
    return cloud


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_nan, "holds NaN or infinity"),
        (with_a_zero_normal, "the normal of point 7 has length zero"),
        (lambda cloud: cloud[:, :5], "5 numbers a line; expected 6"),
        (lambda cloud: cloud[:, :3], "3 numbers a line; expected 6"),
        (lambda cloud: cloud[:7], "7 points; at least 8"),
        (lambda cloud: cloud[:0], "0 points; at least 8"),
        (lambda cloud: np.repeat(cloud[:1], 20, 0), "all of its points are one and the same"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_clouds_that_are_wrong(tmp_path, change, expected):
    write_xyz(tmp_path / "cloud.xyz", change(sphere_cloud(20)))
    with pytest.raises(ValueError, match=rf"cloud\.xyz: .*{expected}") as caught:
        read_cloud(tmp_path / "cloud.xyz")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_files_that_are_no_clouds(tmp_path):
    write_ply(tmp_path / "bare.ply", sphere_cloud(20)[:, :3], ("x", "y", "z"))
    (tmp_path / "words.xyz").write_text("x y z\nno numbers\n")
    (tmp_path / "binary.xyz").write_bytes(bytes(range(256)))
    header = b"ply\nformat binary_little_endian 1.0\nelement vertex"
    (tmp_path / "damaged.ply").write_bytes(header[:-3])
    (tmp_path / "short.ply").write_bytes(header + b" 9\nproperty float x\nend_header\n1234")
    (tmp_path / "faces.ply").write_bytes(
        header.replace(b"vertex", b"face") + b" 1\nproperty float x\nend_header\n1234"
    )
    (tmp_path / "foreign.ply").write_bytes(bytes(range(128, 256)))
    write_ply(tmp_path / "words.ply", sphere_cloud(20))
    words = (tmp_path / "words.ply").read_text().replace("end_header\n", "end_header\nnone ")
    (tmp_path / "words.ply").write_text(words)
    for name, expected in (
        ("bare.ply", "has no normals"),
        ("words.xyz", "cannot be read as lines of numbers"),
        ("binary.xyz", "cannot be read as lines of numbers"),
        ("damaged.ply", "cannot be read as PLY .*header has no end"),
        ("short.ply", "cannot be read as PLY .*end-of-file"),
        ("faces.ply", "has no points; expected the vertex properties x, y, z"),
        ("foreign.ply", "cannot be read as PLY"),
        ("words.ply", "cannot be read as PLY .*row 0: property 'x'"),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            read_cloud(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_cloud(tmp_path / "none.xyz")


def test_folders_of_clouds(tmp_path):
    options = {"name": "pointcloud", "size": (16, 16, 16)}
    with pytest.raises(ValueError, match=r"holds no \.xyz, \.ply, .* file; points with normals"):
        volumes(tmp_path, **options)
    for name in "abcde":
        write_xyz(tmp_path / f"{name}.xyz", sphere_cloud(20))
    (tmp_path / "notes.txt").write_text("no cloud")
    train, test = (volumes(tmp_path, split, **options).names for split in ("train", "test"))
    assert sorted(train + test) == list("abcde")
    assert len(test) == 2
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        volumes(tmp_path / "none", **options)
    with pytest.raises(ValueError, match=r"data\.margin: 1\.0"):
        volumes(tmp_path, **(options | {"margin": 1.0}))


# Whole runs


@pytest.fixture(scope="module")
def learned(call, tmp_path_factory):
    """A workdir with a dictionary of prepared ellipsoids, streamed, with points near surfaces."""
    folder = tmp_path_factory.mktemp("learned")
    draw = np.random.default_rng(4)
    for number in range(12):
        write_ball(folder / "balls" / f"{number:02d}.npz", draw.uniform(0.4, 0.9, 3))
    options = (
        f"--config={CONFIG}:volumes",
        f"--config.data.root={folder / 'balls'}",
        "--config.data.size=()",
        "--config.dictionary.num_layers=2",
        "--config.train.optimizer.learning_rate=5e-3",
        "--config.data.truncation=0.3",
        "--config.dictionary.num_experts=64",
        "--config.dictionary.width=64",
        "--config.dictionary.embedding.size=64",
        "--config.dictionary.embedding.scale=1",
        "--config.train.steps=80",
        "--config.train.batch_size=8",
        "--config.train.points=1024",
        "--config.prior.points=2000",
        "--config.fit.mesh.samples=1000",
    )
    result = call(*options, f"--workdir={folder / 'run'}")
    assert result.code == 0, result.err
    return folder / "run", options


def only_mesh(folder):
    (path,) = folder.glob("*.ply")
    return trimesh.load(path)


@pytest.mark.slow
def test_a_run_on_volumes_gives_meshes_in_the_units_of_their_files(learned):
    workdir, _ = learned
    folder = workdir / "fits" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["signals"] == 2
    assert metrics["iou"] > 0.9
    assert metrics["chamfer"] < 0.05
    for path in (folder / "meshes").glob("*.ply"):
        mesh = trimesh.load(path)
        assert np.abs(mesh.vertices.mean(0) - SHIFT).max() < 0.1 * SCALE
        assert 0.35 * SCALE < np.ptp(mesh.vertices, axis=0).min() / 2 < SCALE


@pytest.mark.slow
def test_a_sphere_from_its_oriented_points(call, learned, tmp_path):
    workdir, options = learned
    write_xyz(tmp_path / "sphere.xyz", sphere_cloud(800))
    result = call(
        *options,
        f"--workdir={workdir}",
        "--mode=fit",
        "--config.fit.name=cloud",
        "--config.data.name=pointcloud",
        f"--config.data.root={tmp_path / 'sphere.xyz'}",
        "--config.data.size=(16,16,16)",
        "--config.data.margin=0.3",
        "--config.fit.solver=surface",
        "--config.fit.samples.seen=cloud",
    )
    assert result.code == 0, result.err
    folder = workdir / "fits" / "cloud"
    metrics = json.loads((folder / "metrics.json").read_text())
    # No distance is known, so nothing is scored against one.
    assert "iou" not in metrics
    mesh = only_mesh(folder / "meshes")
    radius = np.linalg.norm(mesh.vertices - [100, 0, -5], axis=1)
    assert np.abs(radius - 30).max() < 2
    assert np.abs(radius - 30).mean() < 0.6


@pytest.mark.slow
def test_one_shape_without_a_dictionary(call, tmp_path):
    write_ply(tmp_path / "sphere.ply", sphere_cloud(800))
    workdir = tmp_path / "run"
    result = call(
        f"--config={CONFIG}:single",
        f"--workdir={workdir}",
        f"--config.data.root={tmp_path / 'sphere.ply'}",
        "--config.data.size=(16,16,16)",
        "--config.dictionary.width=48",
        "--config.dictionary.num_layers=4",
        "--config.dictionary.omega0=10",
        "--config.train.steps=300",
        "--config.train.points=200",
        "--config.train.cloud_points=200",
        "--config.train.optimizer.learning_rate=1e-3",
        "--config.train.log_every=10",
        "--config.fit.samples.cloud_points=300",
    )
    assert result.code == 0, result.err
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.2 * losses[0]
    mesh = only_mesh(workdir / "fits" / "test" / "meshes")
    radius = np.linalg.norm(mesh.vertices - [100, 0, -5], axis=1)
    assert np.abs(np.median(radius) - 30) < 2


def test_clouds_are_told_how_they_are_fitted(call, tmp_path):
    write_xyz(tmp_path / "sphere.xyz", sphere_cloud())
    given = (f"--config={CONFIG}:single", f"--config.data.root={tmp_path / 'sphere.xyz'}")
    for wrong, expected in (
        ("fit.samples.seen=grid", "point clouds hold no distances"),
        ("fit.solver=ridge", "fit.solver: ridge needs measurements"),
        ("train.cloud_points=0", "train.cloud_points: 0; train.codes=surface wants 1 or more"),
        ("train.points=0", "train.points: 0; train.codes=surface wants 1 or more"),
        ("train.codes=joint", "point clouds hold no distances"),
        ("loss.surface.on=-1", "loss.surface.on: -1.0; allowed: finite, 0 or more"),
        ("train.reseed_every=5", "train.reseed_every: 0 is wanted by train.codes=surface"),
        ("prior.num_signals=1", "prior.num_signals: 1; allowed for data.name=pointcloud"),
    ):
        short = ("--config.train.steps=1", "--config.dictionary.width=8")
        result = call(*given, *short, f"--workdir={tmp_path / 'run'}", f"--config.{wrong}")
        assert expected in result.complaint()
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_from_a_mesh_file_through_codes_back_to_a_mesh(call, environment, tmp_path):
    """A torus in its own units: prepared, learned with three lamps, fitted, and meshed again."""
    major, minor, side = 0.6, 0.25, 48

    def torus(points):
        return primitives.torus(points, major, minor)

    vertices, faces, _ = level_set.extract(torus, 64)
    mesh = trimesh.Trimesh(SCALE * vertices + SHIFT, faces, process=False)
    (tmp_path / "meshes").mkdir()
    mesh.export(tmp_path / "meshes" / "torus.ply")
    lamps = ShapeCollection(["lamps"], 3, 16, Truncation(), seed=0)
    for number in range(3):
        lamps.mesh(number, 40).export(tmp_path / "meshes" / f"lamp{number}.ply")
    prepared = subprocess.run(
        [
            *(sys.executable, "-m", "nid_jax.data.prepare", tmp_path / "meshes"),
            *(f"--output={tmp_path / 'volumes'}", f"--resolution={side}", "--workers=1"),
            *("--samples=2000", "--near_samples=2000"),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert prepared.returncode == 0, prepared.stderr
    result = call(
        f"--config={CONFIG}:volumes",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={tmp_path / 'volumes'}",
        "--config.data.size=()",
        "--config.dictionary.num_layers=2",
        "--config.train.optimizer.learning_rate=5e-3",
        "--config.data.test_fraction=0.0",
        "--config.dictionary.num_experts=128",
        "--config.dictionary.width=128",
        "--config.dictionary.embedding.size=128",
        "--config.train.steps=150",
        "--config.train.batch_size=4",
        "--config.train.points=2048",
        "--config.prior.num_signals=0",
        "--config.fit.split=train",
        "--config.fit.solver=ridge",
        "--config.fit.num_pictures=0",
        "--config.fit.mesh.samples=2000",
    )
    assert result.code == 0, result.err
    folder = tmp_path / "run" / "fits" / "test"
    (path,) = (folder / "meshes").glob("*torus.ply")
    found = trimesh.load(path)
    own = (found.vertices - SHIFT) / SCALE
    there = np.abs(torus(own)).mean()
    turns = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 2000))
    ring = major + minor * np.cos(turns[1])
    exact = np.stack(
        [ring * np.cos(turns[0]), ring * np.sin(turns[0]), minor * np.sin(turns[1])], 1
    )
    back = np.asarray(nearest_on(trimesh.Trimesh(own, found.faces, process=False), exact)[0]).mean()
    voxel = 2 / (side - 1)
    assert (there + back) / 2 < voxel


def test_layouts_say_units_and_what_is_up(tmp_path):
    write_ball(tmp_path / "ball.npz", 0.5, side=9)
    config = importlib.import_module("nid_jax.configs.sdf").get_config("volumes")
    config.data.update({"root": str(tmp_path / "ball.npz"), "size": ()})
    surface = tasks.build(config).layout(volumes(tmp_path / "ball.npz"))["surface"]
    assert (surface["units"], surface["up"]) == ("units of the file", ["y"])
    config.data.up = "z"
    assert tasks.build(config).layout(volumes(tmp_path / "ball.npz"))["surface"]["up"] == ["z"]
    write_xyz(tmp_path / "sphere.xyz", sphere_cloud())
    cloud = volumes(tmp_path / "sphere.xyz", name="pointcloud", size=(16, 16, 16))
    assert (cloud.units(0), cloud.up(0)) == ("units of the file", "z")
    made = ShapeCollection(["lamps"], 1, 16, Truncation(), seed=0)
    assert (made.units(0), made.up(0)) == ("units of the cube [-1, 1]^3", "y")
    config.data.up = "w"
    with pytest.raises(ValueError, match=r"data\.up: 'w'; allowed: auto, x, y, z"):
        tasks.build(config)


def test_larger_grids_than_the_files_are_said(balls):
    with pytest.warns(Notice, match=r"grids of 17\^3 samples are interpolated to 33\^3"):
        volumes(balls, size=(33, 33, 33))
