"""The task of shapes through the command line: what it writes, draws, finds and refuses."""

import json
import shutil
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
import trimesh
from PIL import Image

from nid_jax.configs import sdf as configs
from nid_jax.tasks import sdf
from nid_jax.tasks.sdf import surface_weights

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "sdf.py"
# Lamps are thick enough for 16 samples a side, and far distances hold more of them than near ones.
SMALL = (
    f"--config={CONFIG}:smoke",
    "--config.data.shapes.families=lamps",
    "--config.data.truncation=0.3",
    "--config.dictionary.num_experts=16",
    "--config.fit.mesh.samples=500",
)


@pytest.fixture(scope="module")
def trained(call, tmp_path_factory):
    """A workdir with a small dictionary of lamps and a fit of two; read it, or fit into it."""
    workdir = tmp_path_factory.mktemp("sdf") / "run"
    result = call(*SMALL, f"--workdir={workdir}")
    assert result.code == 0, result.err
    (workdir / "stdout").write_text(result.out)
    return workdir


@pytest.fixture
def on_trained(call, trained):
    """on_trained(mode, *options) -> Result of a command on that workdir."""

    def run(mode, *options):
        words = (f"--config.{option}" for option in options)
        return call(*SMALL, f"--workdir={trained}", f"--mode={mode}", *words)

    return run


@pytest.fixture
def fitted(on_trained, trained):
    """fitted(name, *options) -> the metrics of a fit of that name."""

    def run(name, *options):
        result = on_trained("fit", f"fit.name={name}", *options)
        assert result.code == 0, result.err
        return json.loads((trained / "fits" / name / "metrics.json").read_text())

    return run


def codes_of(folder):
    with np.load(folder / "codes.npz") as stored:
        return stored["codes"], stored["bias"]


def test_a_fit_leaves_codes_scores_meshes_and_pictures(trained):
    folder = trained / "fits" / "test"
    names = ["lamp_1000000", "lamp_1000001"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "codes.npz",
        "meshes",
        "metrics.json",
        "reconstructions",
        "shaded.png",
        "views",
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["task"] == "sdf"
    assert metrics["layout"]["names"] == names
    assert [score["key"] for score in metrics["scores"]][:2] == ["iou", "chamfer"]
    plain = [np.load(path) for path in sorted((folder / "reconstructions").iterdir())]
    assert [volume.shape for volume in plain] == [(*metrics["layout"]["grid"], 1)] * 2
    assert (metrics["empty_meshes"], metrics["mesh_resolution"]) == (0, 24)
    # Two blobs in the same place have something in common; the same blob all.
    assert 0.3 < metrics["iou"] < 1
    assert metrics["iou"] == pytest.approx(np.mean(metrics["iou_per_signal"]))
    assert 0 < metrics["sdf_error"] < 0.05
    assert 0 < metrics["chamfer"] < 0.2
    assert len(metrics["chamfer_per_signal"]) == 2
    for number, name in enumerate(names):
        mesh = trimesh.load(folder / "meshes" / f"{number:04d}_{name}.ply")
        assert len(mesh.faces) > 50
        # A lamp is taller than wide, and stands in the middle of the cube.
        assert np.abs(mesh.vertices).max() <= 1
        view = trimesh.load(folder / "views" / f"{number:04d}_{name}.glb", force="mesh")
        assert len(view.faces)
    with Image.open(folder / "shaded.png") as picture:
        assert np.asarray(picture).std() > 5
    out = (trained / "stdout").read_text()
    assert "IoU Chamfer, of cube -1..1 Hausdorff, of cube -1..1 Normals" in " ".join(out.split())
    assert "PSNR" not in out


def test_the_scores_are_those_of_the_stored_codes(on_trained, trained):
    """IoU from the codes, the checkpoint and the shapes' own distances, in float64."""
    from nid_jax import data, load

    folder = trained / "fits" / "test"
    codes, bias = (part.astype(np.float64) for part in codes_of(folder))
    loaded = load(trained)
    model, config = loaded.model, loaded.config
    axis = np.linspace(-1, 1, 16)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    basis = np.asarray(model.dictionary.basis(points.astype(np.float32)), np.float64)[..., 0]
    inside = codes @ basis.T + bias < 0
    collection = data.open_collection(config.data, "test", config.seed)
    true = np.stack([collection.solid(i).distance(points) < 0 for i in range(2)])
    iou = (inside & true).sum(1) / (inside | true).sum(1)
    reported = json.loads((folder / "metrics.json").read_text())
    np.testing.assert_allclose(reported["iou_per_signal"], iou, atol=0.01)
    result = on_trained("eval")
    assert result.code == 0, result.err
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["iou"] == pytest.approx(reported["iou"], abs=1e-6)
    assert again["sdf_error"] == pytest.approx(reported["sdf_error"], abs=1e-6)
    (folder / "evaluation.json").unlink()


@pytest.mark.slow
def test_meshes_at_another_resolution_and_in_a_window(on_trained, trained):
    folder = trained / "fits" / "test" / "render" / "20x20x20"
    result = on_trained("render", "render.shape=(20,20,20)", "fit.mesh.format=obj")
    assert result.code == 0, result.err
    assert "2 meshes at 20 x 20 x 20 rendered" in result.out
    kinds = sorted(path.suffix for path in folder.iterdir())
    assert kinds == [".obj", ".obj", ".png", ".png"]
    whole = trimesh.load(folder / "0000_lamp_1000000.obj")
    window = "render.window=((-1,1),(0,1),(-1,1))"
    result = on_trained("render", "render.shape=(20,10,20)", window)
    assert result.code == 0, result.err
    part = folder.with_name("20x10x20_-1to1_0to1_-1to1")
    upper = trimesh.load(part / "0000_lamp_1000000.ply")
    assert upper.vertices[:, 1].min() >= 0 > whole.vertices[:, 1].min()
    assert upper.vertices[:, 1].max() == pytest.approx(whole.vertices[:, 1].max(), abs=0.05)
    # The one did not overwrite the other.
    assert (folder / "0000_lamp_1000000.obj").exists()
    shutil.rmtree(folder.parent)


@pytest.mark.slow
def test_shapes_between_two(on_trained, trained):
    frames = "fit.interpolate.frames=3"
    ends = ("fit.interpolate.start=1", "fit.interpolate.end=0")
    result = on_trained("interpolate", "render.scale=1", frames, *ends)
    assert result.code == 0, result.err
    folder = trained / "fits" / "test" / "interpolate"
    meshes = [trimesh.load(folder / "0001_0000" / f"0000{n}.ply") for n in range(3)]
    assert on_trained("render", "render.scale=1").code == 0
    (rendered,) = (trained / "fits" / "test" / "render").iterdir()
    for mesh, name in ((meshes[0], "0001_lamp_1000001"), (meshes[2], "0000_lamp_1000000")):
        end = trimesh.load(rendered / f"{name}.ply")
        np.testing.assert_allclose(mesh.vertices, end.vertices, atol=1e-5)
    shutil.rmtree(rendered.parent)
    assert len(imageio.v3.imread(folder / "0001_0000.gif")) == 3


def test_shapes_are_drawn_from_the_prior(on_trained, trained):
    result = on_trained("sample", "sample.count=3", "sample.frames=2", "render.scale=1")
    assert result.code == 0, result.err
    assert "3 signals drawn from one Gaussian" in result.out
    names = sorted(path.name for path in (trained / "samples").iterdir())
    assert names == ["codes.npz", "path", "path.gif", "sheet.png"]
    assert len(list((trained / "samples" / "path").glob("*.png"))) == 2
    result = on_trained("sample", "sample.count=0")
    assert result.code == 2
    assert "sample.count: 0; allowed: a whole number, 1 or more" in result.err


def test_the_shapes_most_alike(on_trained, trained):
    result = on_trained("nearest")
    assert result.code == 0, result.err
    target = trained / "fits" / "test" / "nearest.json"
    found = json.loads(target.read_text())
    assert found["among"] == "test"
    # Of two, each is the other's neighbour, at the same distance.
    ((first,), (second,)) = (found["nearest"][f"lamp_100000{n}"] for n in (0, 1))
    assert (first["name"], second["name"]) == ("lamp_1000001", "lamp_1000000")
    assert first["distance"] == pytest.approx(second["distance"], rel=1e-4)
    assert first["distance"] > 0
    assert "lamp_1000001" in result.out
    target.unlink()


@pytest.mark.slow
def test_the_training_shapes_most_alike(on_trained, fitted, trained):
    fitted("known", "fit.split=train", "fit.num_pictures=0")
    result = on_trained("nearest", "fit.nearest.among=known", "fit.nearest.count=3")
    assert result.code == 0, result.err
    target = trained / "fits" / "test" / "nearest.json"
    rows = json.loads(target.read_text())["nearest"].values()
    for row in rows:
        assert len({entry["name"] for entry in row}) == 3
        assert all(entry["name"].startswith("lamp_0000") for entry in row)
        distances = [entry["distance"] for entry in row]
        assert distances == sorted(distances)
    target.unlink()


@pytest.mark.slow
def test_a_part_of_the_grid_and_one_side_of_it(fitted):
    whole = fitted("whole", "fit.num_pictures=0")
    part = fitted("part", "fit.samples.fraction=0.2", "fit.num_pictures=0")
    assert part["iou"] == pytest.approx(whole["iou"], abs=0.25)
    assert part["iou_per_signal"] != whole["iou_per_signal"]
    few = fitted("few", "fit.samples.fraction=0.001", "fit.num_pictures=0")
    assert few["sdf_error"] > whole["sdf_error"]
    # The far side is not measured, so what is known of it is the prior's.
    seen = {"front": None, "above": None}
    for view in seen:
        options = ("fit.samples.seen=view", f"fit.samples.view={view}", "fit.num_pictures=0")
        seen[view] = fitted(view, *options)
        # Of squares the fit of all has the least, of the mean error that is scored not quite.
        assert few["sdf_error"] > seen[view]["sdf_error"] > 0.9 * whole["sdf_error"]
    assert seen["front"]["iou_per_signal"] != seen["above"]["iou_per_signal"]


@pytest.mark.slow
def test_a_fit_that_looks_at_surfaces(fitted):
    alike = fitted("alike", "fit.num_pictures=0")
    near = fitted("near", "fit.num_pictures=0", "fit.samples.focus=0.1")
    # Residuals are weighted, so that only where the surface lies can be compared.
    assert near["residual"] != alike["residual"]
    assert near["iou"] > alike["iou"] - 0.02


def test_the_score_says_what_is_near():
    config = configs.get_config("smoke")
    config.fit.mesh.threshold = 0.0125
    (score,) = [score for score in sdf.build(config).scores if score.key == "fscore"]
    assert score.header == "F-score, within 0.0125 of cube -1..1"


def test_weights_by_how_near_the_surface_is():
    distances = np.random.default_rng(101).normal(0, 0.1, 500)
    weights = surface_weights(distances, 0.05)
    order = np.argsort(abs(distances))
    assert (np.diff(weights[order]) <= 0).all()
    assert weights.max() <= 1
    assert weights.min() >= 0.02
    # One standard deviation away, above the floor.
    np.testing.assert_allclose(
        surface_weights(np.array([0.0, 0.05, -0.05, 5]), 0.05), [1, 0.6144, 0.6144, 0.02], rtol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["grid", "cloud"])
def test_codes_from_clouds_alone(fitted, seen):
    """Where a grid is measured as well, it is not looked at."""
    options = ("fit.solver=surface", "fit.samples.cloud_points=200", "fit.num_pictures=0")
    metrics = fitted(f"surface_{seen}", f"fit.samples.seen={seen}", *options)
    assert metrics["iou"] > 0.3
    assert metrics["chamfer"] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("fit.solver=ridge", "fit.ridge.lam=1e-3"),
        ("fit.solver=omp", "fit.top_k=16"),
        ("fit.solver=robust", "fit.robust.steps=50"),
        ("fit.solver=gradient", "fit.gradient.steps=200", "fit.gradient.learning_rate=0.01"),
        ("fit.solver=ridge", "fit.ridge.lam=1e-3", "fit.samples.seen=view"),
        ("fit.solver=surface", "fit.surface.method=gradient", "fit.samples.seen=cloud"),
    ],
)
def test_every_solver_takes_points_of_space(fitted, options):
    metrics = fitted("solver", "fit.num_pictures=0", *options)
    assert np.isfinite(metrics["residual"])
    assert metrics["sdf_error"] < 0.06


@pytest.mark.slow
def test_a_router_reads_clouds(call, tmp_path):
    options = ("--config.router.kind=point", "--config.router.width=16")
    few = ("--config.train.cloud_points=64", "--config.train.near=0.5")
    few += ("--config.train.steps=30", "--config.train.optimizer.name=adam")
    cloud = ("--config.fit.samples.seen=cloud", "--config.fit.num_pictures=0")
    arguments = (*SMALL, f"--workdir={tmp_path / 'run'}", *options, *few, *cloud)
    result = call(*arguments, "--config.fit.solver=router")
    assert result.code == 0, result.err
    target = tmp_path / "run" / "fits" / "test" / "metrics.json"
    routed = json.loads(target.read_text())
    assert routed["solver"] == "router"
    start = ("--config.fit.solver=surface", "--config.fit.surface.init=router")
    result = call(*arguments, "--mode=fit", *start)
    assert result.code == 0, result.err
    # After so few steps its codes are a start and no more.
    assert json.loads(target.read_text())["sdf_error"] < routed["sdf_error"] < 0.5


WRONG_TRAINING = [
    ("train.chunks=exhaustive", "train.chunks: 'exhaustive'; allowed for shapes: random"),
    ("data.shapes.families=lamp", "'lamp' is unknown, did you mean 'lamps'?"),
    ("data.size=(16,16,8)", "data.size: (16, 16, 8); allowed: three equal whole numbers"),
    ("data.size=(16,16)", "data.size=(16, 16): must be 3 whole numbers"),
    ("data.truncation=-1", "data.truncation: -1.0; allowed: finite, 0 or more"),
    ("data.truncation_kind=soft", "data.truncation_kind: 'soft'; allowed: clip, tanh"),
    ("data.name=faces", "data.name: 'faces'; allowed: shapes, meshes, volumes, pointcloud"),
    ("train.near=2", "train.near: 2.0; allowed: 0 to 1"),
    ("train.batch_size=0", "train.batch_size: 0; allowed: a whole number, 1 or more"),
    ("train.codes=surface", "router.kind: 'none' gives no codes to train"),
    # What is only needed after training, but would be a pity to learn then.
    ("fit.samples.seen=all", "fit.samples.seen: 'all'; allowed: grid, view, cloud"),
    ("fit.samples.fraction=0", "fit.samples.fraction: 0.0; allowed: above 0 to 1"),
    ("fit.samples.focus=-1", "fit.samples.focus: -1.0; allowed: finite, 0 or more"),
    ("fit.samples.view=top", "fit.samples.view: 'top'; allowed: left, right, below"),
    ("fit.samples.cloud_points=-1", "fit.samples.cloud_points: -1; allowed: a whole number, 0"),
    ("fit.samples.cloud_points=5", "fit.samples.cloud_points: 5; allowed: 0 (all), 8 or more"),
    ("router.kind=point", "router.kind: 'point' descends, and train.steps=0"),
    ("fit.samples.seen=cloud", "fit.solver: gaussian needs measurements"),
    ("fit.mesh.format=vrml", "fit.mesh.format: 'vrml'; allowed: "),
    (
        "fit.mesh.resolution=1",
        "fit.mesh.resolution: 1; allowed: 0 (the signals'), or a whole number, 2",
    ),
    ("fit.mesh.samples=0", "fit.mesh.samples: 0; allowed: a whole number, 1 or more"),
    ("fit.mesh.threshold=0", "fit.mesh.threshold: 0.0; allowed: finite, above 0"),
]


@pytest.mark.parametrize(("option", "expected"), WRONG_TRAINING)
def test_values_that_are_wrong_write_nothing(call, option, expected, tmp_path):
    result = call(*SMALL, f"--workdir={tmp_path / 'run'}", f"--config.{option}")
    assert expected in result.complaint()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mode", "option", "expected"),
    [
        (
            "interpolate",
            "fit.interpolate.start=2",
            "fit.interpolate.start: 2; allowed: at most 1",
        ),
        (
            "interpolate",
            "fit.interpolate.end=-1",
            "fit.interpolate.end: -1; allowed: a whole number",
        ),
        (
            "interpolate",
            "fit.interpolate.frames=1",
            "fit.interpolate.frames: 1; allowed: a whole number, 2",
        ),
        (
            "nearest",
            "fit.nearest.count=0",
            "fit.nearest.count: 0; allowed: a whole number, 1 or more",
        ),
        ("nearest", "fit.nearest.among=none", "fits/none/codes.npz: no such fit"),
        ("render", "fit.mesh.format=vrml", "fit.mesh.format: 'vrml'"),
        ("render", "render.shape=(9,9)", "render.shape: (9, 9); allowed: 3 whole numbers"),
        ("fit", "fit.surface.method=newton", "fit.surface.method"),
        ("fit", "fit.surface.init=midle", "fit.surface.init"),
    ],
)
def test_commands_that_cannot_be(on_trained, trained, mode, option, expected):
    further = ("fit.solver=surface", "fit.name=wrong") if mode == "fit" else ()
    result = on_trained(mode, option, *further)
    assert expected in result.err
    assert result.code == 2
    assert result.err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.err
    assert not (trained / "fits" / "wrong").exists()


def test_pictures_have_no_clouds(call, tiny, tmp_path):
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", "--config.fit.solver=surface")
    assert "fit.solver: surface reads points on surfaces" in result.complaint()
    assert not (tmp_path / "run").exists()


def test_pictures_are_no_shapes(call, tiny, tmp_path):
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", "--config.data.name=shapes")
    assert "data.name='shapes': is for shapes, as configs/sdf.py has them" in result.complaint()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_fit_is_beside_the_mean_and_the_nearest_shape_and_its_samples(trained, fitted):
    metrics = json.loads((trained / "fits" / "test" / "metrics.json").read_text())
    names = [row["name"] for row in metrics["baselines"]["rows"]]
    assert names == ["this fit", "mean shape", "nearest training shape"]
    own, mean, nearest = (row["scores"] for row in metrics["baselines"]["rows"])
    assert own["iou"] == metrics["iou_per_signal"]
    assert np.mean(nearest["iou"]) > np.mean(mean["iou"])
    assert all(len(scores["chamfer"]) == 2 for scores in (own, mean, nearest))
    few = fitted("few", "fit.samples.fraction=0.1")
    assert [row["name"] for row in few["baselines"]["rows"]][-1] == "between samples"
    assert "of which 410 (10%) were measured." in few["measured"]
    none = fitted("alone", "fit.baseline_signals=0")
    assert none["baselines"] is None
