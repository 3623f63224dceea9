"""The task inpainting: what a fit is given of corrupted pictures, and what it leaves behind."""

import json
import runpy

import numpy as np
import pytest
from PIL import Image

from nid_jax import tasks
from nid_jax.data import to_array
from nid_jax.reporting.panels import MISSING

CONFIG = "configs/inpainting.py"
SMALL = (
    "--config.data.num_train=6",
    "--config.data.num_test=3",
    "--config.train.steps=4",
    "--config.train.batch_size=4",
    "--config.dictionary.num_experts=8",
    "--config.dictionary.width=8",
    "--config.dictionary.num_layers=2",
    "--config.dictionary.embedding.size=8",
    "--config.eval.num_signals=2",
    "--config.fit.robust.steps=5",
    "--config.fit.num_pictures=3",
)


def configured(root, variant="smoke"):
    return runpy.run_path(str(root / CONFIG))["get_config"](variant)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Where one run, trained and fitted, is shared by the tests that fit more."""
    return tmp_path_factory.mktemp("inpainting")


@pytest.fixture(scope="module")
def run(call, pytestconfig, workdir):
    """run(*options, mode='fit') -> Result, of the workdir."""

    def command(*options, mode="fit"):
        config = f"--config={pytestconfig.rootpath / CONFIG}:smoke"
        return call(config, *SMALL, f"--workdir={workdir}", f"--mode={mode}", *options)

    assert command(mode="run").code == 0
    return command


def write(root, name, pictures, masks=None, truth=None):
    """A folder of corrupted pictures [S, H, W] as the command writes it."""
    for part, values in (("images", pictures), ("masks", masks), ("truth", truth)):
        if values is None:
            continue
        (root / name / part).mkdir(parents=True)
        for number, one in enumerate(values):
            Image.fromarray(np.uint8(np.round(255 * one))).save(
                root / name / part / f"{number}.png"
            )
    return root / name


def test_training_sees_clean_pictures_and_fits_corrupted_ones(pytestconfig):
    config = configured(pytestconfig.rootpath)
    task = tasks.build(config)
    clean = configured(pytestconfig.rootpath)
    clean.task = "image"
    image = tasks.build(clean)
    np.testing.assert_array_equal(to_array(task.open("train")), to_array(image.open("train")))
    collection, truth = task.open("test"), to_array(image.open("test"))
    measured = task.measure(collection)
    assert measured.weights is None
    for index, expected in enumerate(truth):
        hole = measured.hole(index)
        np.testing.assert_array_equal(measured.truth(index), expected)
        values = measured.values(index).reshape(expected.shape)
        np.testing.assert_array_equal(values[~hole], expected[~hole])
        assert (values[hole] != expected[hole]).all()
        assert hole.sum() == pytest.approx(0.13 * hole.size, rel=0.1)


def test_a_known_mask_weighs_hidden_pixels_with_nothing(pytestconfig):
    config = configured(pytestconfig.rootpath)
    config.fit.known_mask = True
    task = tasks.build(config)
    measured = task.measure(task.open("test"))
    for index in range(4):
        np.testing.assert_array_equal(measured.weights(index), ~measured.hole(index).ravel())


@pytest.mark.parametrize("variant", ["cpu", "known", "pixels", "paper", "smoke"])
def test_variants_describe_fits_that_can_be(variant, pytestconfig):
    from nid_jax.fitting import checks

    config = configured(pytestconfig.rootpath, variant)
    checks.check(config)
    assert config.fit.known_mask == (variant in ("known", "pixels"))


def test_a_run_scores_the_hole_and_shows_what_it_was_given(run, workdir):
    folder = workdir / "fits" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"psnr", "ssim", "psnr_hole", "psnr_corrupted"} <= set(metrics)
    assert len(metrics["psnr_hole_per_signal"]) == 3
    shown = [score["key"] for score in metrics["scores"]]
    assert {"psnr", "psnr_hole", "psnr_corrupted", "hidden_share"} <= set(shown)
    masks = [np.asarray(Image.open(path)) for path in sorted((folder / "mask").glob("*"))]
    assert metrics["hidden_share"] == pytest.approx(np.mean([mask == 0 for mask in masks]))
    given = [np.asarray(Image.open(path)) for path in sorted((folder / "corrupted").glob("*"))]
    assert len(given) == 3
    # Stripes are nearly black and nearly white in turn.
    assert all(one.shape == (25, 25) and np.ptp(one) > 150 for one in given)


@pytest.mark.slow
def test_fits_of_files_with_and_without_their_mask(run, workdir, tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.random((2, 25, 25))
    masks = rng.random(truth.shape) < 0.8
    corrupted = ["--config.data.name=corrupted", "--config.data.num_test=0"]

    def fit(root, *options):
        return run(*corrupted, f"--config.data.root={root}", *options)

    whole = write(tmp_path, "whole", np.where(masks, truth, 1), masks, truth)
    assert fit(whole).code == 0
    known = ("--config.fit.known_mask=true", "--config.fit.solver=gaussian")
    assert fit(whole, *known, "--config.fit.name=known").code == 0

    def codes(name):
        with np.load(workdir / "fits" / name / "codes.npz") as stored:
            return stored["codes"]

    # What is hidden has no say when the mask is known.
    other = write(tmp_path, "other", np.where(masks, truth, 0), masks)
    assert fit(other, *known, "--config.fit.name=other").code == 0
    np.testing.assert_array_equal(codes("known"), codes("other"))
    bare = fit(write(tmp_path, "bare", truth), *known)
    assert bare.code == 2
    assert "fit.known_mask: true, but" in bare.err
    assert "allowed: fit.known_mask=false" in bare.err
    wrong = write(tmp_path, "wrong", truth, masks[:, :20])
    damaged = fit(wrong)
    assert damaged.code == 2
    assert "0.png: is 20x25" in damaged.err


@pytest.mark.slow
def test_nan_is_missing_whether_or_not_masks_are_told(run, workdir, tmp_path):
    rng = np.random.default_rng(1)
    values = rng.random((2, 25, 25)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    np.save(tmp_path / "values.npy", values)
    found = []
    for told in ("true", "false"):
        result = run(
            "--config.data.name=corrupted",
            f"--config.data.root={tmp_path / 'values.npy'}",
            "--config.data.num_test=0",
            f"--config.fit.known_mask={told}",
            f"--config.fit.name={told}",
        )
        assert result.code == 0, result.err
        with np.load(workdir / "fits" / told / "codes.npz") as stored:
            found.append(stored["codes"])
    np.testing.assert_array_equal(*found)
    # No truth is known; what is missing has a colour of its own.
    shown = np.asarray(
        Image.open(workdir / "fits" / "true" / "corrupted" / "0000_signal_00000.png")
    )
    np.testing.assert_array_equal((shown == MISSING).all(-1), np.isnan(values[0]))
    assert (workdir / "fits" / "true" / "comparison.png").exists()
    values[1] = np.nan
    np.save(tmp_path / "values.npy", values)
    empty = run(
        "--config.data.name=corrupted",
        f"--config.data.root={tmp_path / 'values.npy'}",
        "--config.data.num_test=0",
    )
    assert empty.code == 2
    assert "signal 1 is missing all over" in empty.err


def test_damage_is_no_truth_of_the_image_task(pytestconfig, tmp_path):
    config = runpy.run_path(str(pytestconfig.rootpath / "configs/image.py"))["get_config"]()
    config.data.update({"name": "corrupted", "root": str(tmp_path)})
    with pytest.raises(ValueError, match=r"^data\.name: 'corrupted' is fitted by .*inpainting"):
        tasks.build(config).open("test")


def test_photographs_of_several_sizes_are_filled_in_patches(pytestconfig, tmp_path):
    draw = np.random.default_rng(0)
    for number, size in enumerate(((20, 31), (40, 17))):
        picture, seen = draw.random(size), np.ones(size)
        seen[5:9, 4:] = 0
        for part, values in (("images", picture), ("masks", seen)):
            (tmp_path / part).mkdir(exist_ok=True)
            picture = Image.fromarray(np.uint8(np.round(255 * values)))
            picture.save(tmp_path / part / f"{number}.png")
    config = configured(pytestconfig.rootpath, "pictures")
    config.data.update({"name": "corrupted", "root": str(tmp_path), "crops": 0, "size": ()})
    config.data.num_test = 0
    config.data.patch.update({"size": 12, "overlap": 4})
    task = tasks.build(config)
    collection = task.open("test")
    measured, layout = task.measure(collection), task.layout(collection)
    assert layout["grids"] == [[20, 31], [40, 17]]
    weights = [measured.weights(index).reshape(12, 12, 1) for index in range(len(collection))]
    for index, found in enumerate(task.assemble(np.stack(weights), layout)):
        np.testing.assert_array_equal(found[..., 0] < 0.5, measured.hole(index))
        assert measured.hole(index)[5:9, 4:].all()
        assert measured.hole(index).sum() == 4 * (found.shape[1] - 4)
    config.data.patch.size = 0
    with pytest.raises(ValueError, match=r"data\.patch\.size=N with data\.size=\(\)"):
        task.open("test")


def test_a_fit_is_beside_the_damaged_pictures_and_inpainting_that_is_told_the_hole(run, workdir):
    del run
    metrics = json.loads((workdir / "fits" / "test" / "metrics.json").read_text())
    rows = {row["name"]: row for row in metrics["baselines"]["rows"]}
    assert list(rows) == ["this fit", "mean image", "as given", "biharmonic, told the hole"]
    assert "which the fit is not" in rows["biharmonic, told the hole"]["about"]
    assert np.mean(rows["as given"]["scores"]["psnr"]) == pytest.approx(metrics["psnr_corrupted"])
    assert rows["this fit"]["scores"]["psnr"] == metrics["psnr_per_signal"]
    assert len(rows["biharmonic, told the hole"]["scores"]["psnr_hole"]) == 3
    assert "A part of each was painted over; the fit is not told which." in metrics["measured"]
