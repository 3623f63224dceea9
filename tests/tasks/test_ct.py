"""Tomography from the command line: phantoms, projections only, files of sinograms, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.transform import radon

import nid_jax
from nid_jax import tasks
from nid_jax.baselines import tomography
from nid_jax.coding import grid_operator, operators
from nid_jax.data import phantoms
from nid_jax.errors import ArgumentError
from nid_jax.notices import Notice
from nid_jax.tasks import ct

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "ct.py"
SMOKE = (f"--config={CONFIG}:smoke", "--config.data.num_train=24", "--config.train.steps=4")


@pytest.fixture(scope="module")
def trained(call, tmp_path_factory):
    """A workdir with a dictionary of 16x16 phantoms and a fit of two, and its options."""
    workdir = tmp_path_factory.mktemp("ct") / "run"
    options = (*SMOKE, f"--workdir={workdir}")
    result = call(*options, "--config.fit.uncertainty=true")
    assert result.code == 0, result.err
    return workdir, options


def config_of(**changes):
    """The smoke config with changes to flattened keys."""
    scope = {"__file__": str(CONFIG)}
    exec(compile(CONFIG.read_text(encoding="utf-8"), str(CONFIG), "exec"), scope)
    config = scope["get_config"]("smoke")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def test_phantoms_are_projected_as_their_ellipses_or_as_pixels():
    found = {}
    for closed_form in (True, False):
        config = config_of(data__size=(64, 64), data__closed_form=closed_form, fit__num_views=5)
        task = tasks.build(config)
        seen = task.measure(task.open("test"))
        assert seen.grid_shape == (64, 64)
        found[closed_form] = seen.values(1)
        assert found[closed_form].shape == (5 * 64, 1)
    scale = found[True].max()
    error = np.abs(found[True] - found[False])
    # Rays that graze the skull differ most: it is thinner than a pixel is wide.
    assert 0 < error.max() < 0.4 * scale
    assert error.mean() < 0.02 * scale


def test_training_may_see_projections_only():
    config = config_of(train__views=6, data__num_train=20)
    task = tasks.build(config)
    collection = task.open("train")
    assert collection.shape == (6, 16, 1)
    seen = task.learned_from(collection)
    assert seen.grid_shape == (16, 16)
    pixels = tasks.build(config_of(data__num_train=20)).open("train")
    on_grid = grid_operator.on_grid(seen.operator, (16, 16))
    expected = np.asarray(on_grid @ pixels[3].reshape(-1, 1))
    assert np.abs(collection[3].reshape(-1, 1) - expected).mean() < 0.1 * expected.max()


def test_a_number_of_views_below_zero():
    config = config_of(train__views=-2)
    with pytest.raises(ArgumentError, match=r"^train\.views: -2; allowed: a whole number, 0 or"):
        tasks.build(config)


@pytest.mark.slow
def test_a_dictionary_learned_from_projections_alone(call, tmp_path):
    options = ("--config.train.views=12", "--config.train.points=100", "--config.fit.num_views=12")
    result = call(*SMOKE, f"--workdir={tmp_path / 'run'}", *options, "--config.train.steps=12")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run/fits/test/metrics.json").read_text())
    assert metrics["psnr"] > 15


@pytest.mark.slow
def test_a_folder_of_sinograms_of_several_geometries(call, tmp_path):
    draw = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(10):
        side, views = 10 + 2 * (number % 2), 5 + number % 3
        angles = np.sort(draw.uniform(0, 180, views))
        rows, columns = np.mgrid[:side, :side] / (side - 1) * 2 - 1
        picture = np.exp(-3 * ((rows - draw.normal(0, 0.2)) ** 2 + columns**2))[..., None]
        beam = grid_operator.on_grid(operators.parallel_beam((side, side), angles), (side, side))
        values = np.asarray(beam @ picture.astype(np.float32).reshape(-1, 1)).reshape(views, side)
        np.savez(tmp_path / "scans" / f"s{number}.npz", sinogram=values, angles=angles)
    options = (
        *(f"--config={CONFIG}:own", f"--workdir={tmp_path / 'run'}"),
        *(f"--config.data.root={tmp_path / 'scans'}", "--config.dictionary.num_experts=20"),
        *("--config.dictionary.embedding.counts=(5,5)", "--config.dictionary.components.rounds=2"),
    )
    result = call(*options, "--mode=train")
    assert result.code == 0, result.err
    assert "10 to 12 detectors; each sinogram taken as of a picture of as many pixels" in result.err
    result = call(*options, "--mode=fit")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "run" / "fits" / "test" / "metrics.json").read_text())
    assert found["signals"] == 2
    assert found["relative_residual"] < 0.3
    options = (options[0], f"--workdir={tmp_path / 'other'}", *options[2:])
    result = call(*options, "--mode=train", "--config.train.views=5")
    assert "train.views: 5; allowed: 0 for data.name=sinograms" in result.complaint()


def test_noise_is_put_on_measurements():
    noisy = config_of(data__noise__kind="gaussian", data__noise__level=0.05)
    clean, task = tasks.build(config_of()), tasks.build(noisy)
    first, second = (t.measure(t.open("test")).values for t in (clean, task))
    change = [second(index) - first(index) for index in (0, 1)]
    assert 0.02 < change[0].std() / first(0).max() < 0.1
    assert not np.allclose(change[0] / first(0).max(), change[1] / first(1).max())


def test_a_refined_fit_keeps_its_correction_and_renders_it(call, trained):
    workdir, options = trained
    folder = workdir / "fits" / "test"
    with np.load(folder / "codes.npz") as stored:
        correction, deviation = stored["correction"], stored["deviation"]
    assert correction.shape == deviation.shape == (2, 16, 16, 1)
    assert np.abs(correction).max() > 1e-3
    assert (deviation > 0).all()
    metrics = json.loads((folder / "metrics.json").read_text())
    again = call(*options, "--mode=eval")
    assert again.code == 0, again.err
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["psnr"] == pytest.approx(metrics["psnr"], abs=1e-3)
    rendered = call(*options, "--mode=render", "--config.render.scale=2")
    assert rendered.code == 0, rendered.err
    view = folder / "render" / "32x32"
    pictures = sorted(path.name for path in view.iterdir())
    assert len(pictures) == 4
    assert pictures[1].endswith("_deviation.png")
    assert Image.open(view / pictures[0]).size == (32, 32)


def sinogram_files(folder, views=6):
    """A sinogram of a disc, which is the same from everywhere, and its angles."""
    position = np.arange(16) - 7.5
    row = 2 * 0.5 * np.sqrt(np.maximum(25 - position**2, 0))
    angles = np.linspace(3, 170, views)
    np.save(folder / "sinogram.npy", np.tile(row, (2, views, 1)))
    np.save(folder / "angles.npy", angles)
    return (
        f"--config.data.sinograms={folder / 'sinogram.npy'}",
        f"--config.data.angles={folder / 'angles.npy'}",
    )


@pytest.mark.parametrize("missing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sinograms_from_files(call, trained, tmp_path, missing):
    workdir, options = trained
    files = sinogram_files(tmp_path)
    if missing:
        values = np.load(tmp_path / "sinogram.npy")
        values[0, 2, 3:9] = np.nan
        np.save(tmp_path / "sinogram.npy", values)
    name = f"--config.fit.name=files{int(missing)}"
    further = ("--mode=fit", name, *files, "--config.data.size=()")
    result = call(*options, *further)
    assert result.code == 0, result.err
    folder = workdir / "fits" / f"files{int(missing)}"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "psnr" not in metrics
    assert metrics["signals"] == 2
    assert metrics["relative_residual"] > 0
    assert "Misfit" in result.out
    # What was measured, and what it gives, is shown though no truth is known.
    kinds = ("pictures", "sinogram", "reconstructions")
    assert [len(list((folder / kind).iterdir())) for kind in kinds] == [2, 2, 2]
    assert Image.open(folder / "sinogram" / "0000_sinogram_00000.png").size == (16, 6)
    page = (workdir / "report.html").read_text()
    assert f"Fit: files{int(missing)}" in page
    assert page.count("What was fitted, and what came of it") >= 2
    # Of values that are no picture's the numbers are kept.
    plain = np.load(folder / "reconstructions" / "0000_sinogram_00000.npy")
    assert plain.shape == (16, 16, 1)
    with np.load(folder / "codes.npz") as stored:
        assert np.isfinite(plain).all()
        assert stored["codes"].shape[0] == 2
    scored = call(*options, *further[1:], "--mode=eval")
    assert scored.code == 2
    assert "without the truth" in scored.err


def head(side=16):
    """A phantom [side, side] that no mirror leaves as it is."""
    return phantoms.draw(phantoms.random_ellipses(np.random.default_rng(2)), (side, side))


def files_of(folder, sinogram, degrees, **changes):
    """The smoke config with files of a sinogram and its angles."""
    np.save(folder / "s.npy", sinogram)
    np.save(folder / "a.npy", degrees)
    names = {"data__sinograms": str(folder / "s.npy"), "data__angles": str(folder / "a.npy")}
    return config_of(**names, **changes)


@pytest.mark.parametrize(
    "degrees",
    [np.arange(9) * 20.0, np.linspace(0, 180, 9), np.arange(9) * 40.0, np.arange(9) * 15.0 - 60],
)
def test_sinograms_of_radon_are_measured_by_its_convention(tmp_path, recwarn, degrees):
    image = ndimage.gaussian_filter(np.pad(head(10), 3), 0.8)
    expected = radon(image, degrees)
    for sinogram in (expected, expected.T, expected.T[None]):
        convention = {"operator__parallel_beam__convention": "skimage"}
        config = files_of(tmp_path, sinogram, degrees, **convention)
        task = tasks.build(config)
        seen = task.measure(task.open("test"))
        assert not [one for one in recwarn if issubclass(one.category, Notice)]
        on_grid = grid_operator.on_grid(seen.operator, (16, 16))
        found = np.asarray(on_grid @ image.reshape(-1, 1).astype(np.float32))
        np.testing.assert_allclose(seen.values(0).reshape(9, 16), expected.T, rtol=1e-5)
        difference = found.reshape(9, 16) - expected.T
        assert np.sqrt(np.square(difference).mean()) < 0.02 * np.sqrt(np.square(expected).mean())


@pytest.mark.parametrize("convention", ["skimage", "astra"])
def test_phantoms_are_simulated_by_a_convention(convention):
    found = {}
    for closed_form in (True, False):
        config = config_of(
            data__size=(64, 64),
            data__closed_form=closed_form,
            fit__num_views=5,
            operator__parallel_beam__convention=convention,
            operator__parallel_beam__offset=1.5,
            operator__parallel_beam__spacing=0.75,
        )
        task = tasks.build(config)
        found[closed_form] = task.measure(task.open("test")).values(0)
    assert np.abs(found[True] - found[False]).mean() < 0.02 * found[True].max()


def test_fewer_detectors_than_pixels_are_a_smaller_picture(tmp_path):
    degrees = np.arange(9) * 20.0
    config = files_of(tmp_path, radon(head(12), degrees).T, degrees)
    with pytest.warns(Notice, match=r"12 detectors for pictures of 16x16 \(data\.size\); taken"):
        collection = tasks.build(config).open("test")
    assert collection.grid_shape == (12, 12)
    wide = files_of(tmp_path, radon(head(), degrees, circle=False).T, degrees)
    assert tasks.build(wide).open("test").grid_shape == (16, 16)
    spaced = {"operator__parallel_beam__spacing": 16 / 12}
    config = files_of(tmp_path, radon(head(12), degrees).T, degrees, **spaced)
    assert tasks.build(config).open("test").grid_shape == (16, 16)


def test_an_axis_elsewhere_is_said_when_the_file_is_opened(tmp_path):
    degrees = np.arange(9) * 20.0
    config = files_of(tmp_path, radon(head(), degrees).T, degrees)
    with pytest.warns(Notice, match="data.sinograms=.*convention=skimage"):
        tasks.build(config).open("test")


@pytest.mark.slow
def test_what_a_fit_leaves_is_printed_and_asked_about(call, trained, tmp_path):
    workdir, options = trained
    degrees = np.arange(9) * 20.0
    sinogram = radon(head(), degrees).T
    np.save(tmp_path / "a.npy", degrees)
    found = {}
    for name, values in (("right", sinogram), ("shares", np.exp(-0.1 * sinogram))):
        np.save(tmp_path / f"{name}.npy", values)
        result = call(
            *options,
            "--mode=fit",
            f"--config.fit.name={name}",
            f"--config.data.sinograms={tmp_path / name}.npy",
            f"--config.data.angles={tmp_path / 'a.npy'}",
            "--config.operator.parallel_beam.convention=skimage",
        )
        assert result.code == 0, result.err
        metrics = json.loads((workdir / f"fits/{name}/metrics.json").read_text())
        found[name] = metrics["relative_residual"]
        asked = "unexplained (relative residual): are they transposed" in result.err
        assert asked == (found[name] > 0.2)
        assert "Misfit" in result.out
        # Of the codes and of what was refined on the grid, together.
        fit = nid_jax.load(workdir).load_fit(workdir / f"fits/{name}/codes.npz")
        operator = operators.parallel_beam((16, 16), degrees, convention="skimage")
        left = np.asarray(fit.measured_by(operator)).reshape(9, 16) - values
        assert fit.correction is not None
        expected = np.linalg.norm(left) / np.linalg.norm(values)
        assert found[name] == pytest.approx(expected, rel=1e-2)
    assert found["right"] < found["shares"]


def test_bad_input_is_one_line(call, trained, tmp_path):
    _, options = trained
    files = sinogram_files(tmp_path)
    np.save(tmp_path / "few.npy", np.arange(4.0))
    np.save(tmp_path / "infinite.npy", np.full((1, 6, 16), np.inf))
    few = f"--config.data.angles={tmp_path / 'few.npy'}"
    cases = (
        (("--config.fit.num_views=0",), "fit.num_views"),
        ((files[0], few), "4 angles"),
        (
            (*files, "--config.operator.parallel_beam.convention=sk"),
            "parallel_beam.convention: 'sk'",
        ),
        (("--config.operator.parallel_beam.convention=sk",), "parallel_beam.convention: 'sk'"),
        ((*files, "--config.data.angle_units=turns"), "data.angle_units: 'turns'"),
        ((f"--config.data.sinograms={tmp_path / 'infinite.npy'}",), "infinite"),
        ((f"--config.data.sinograms={tmp_path / 'none.npy'}",), "no such file"),
        ((*files, "--config.operator.parallel_beam.detectors=9"), "detectors: 9"),
        (
            ("--config.operator.parallel_beam.samples_per_ray=-2",),
            "operator.parallel_beam.samples_per_ray: -2; allowed: a whole number",
        ),
        (
            (*files, "--config.operator.parallel_beam.samples_per_ray=-2"),
            "operator.parallel_beam.samples_per_ray: -2; allowed: a whole number",
        ),
        (("--config.fit.refine.kind=gird",), "fit.refine.kind"),
        (("--config.fit.refine.kind=atoms",), "needs whole signals"),
        (("--config.fit.gaussian.neighbours=9999",), "fit.gaussian.neighbours"),
        (("--config.data.noise.kind=loud",), "data.noise.kind"),
        (("--config.fit.solver=ridge", "--config.fit.uncertainty=true"), "fit.uncertainty"),
    )
    for wrong, words in cases:
        result = call(*options, "--mode=fit", "--config.fit.name=wrong", *wrong)
        assert result.code == 2, (wrong, result.err)
        assert words in result.err, (wrong, result.err)
        assert result.err.strip().splitlines()[-1].startswith("error: "), result.err
        assert "Traceback" not in result.err
    assert not (trained[0] / "fits" / "wrong").exists()


def rows_of(folder):
    """{name: scores} of what a fit is compared with, and how many signals."""
    found = json.loads((folder / "metrics.json").read_text())["baselines"]
    return {row["name"]: row["scores"] for row in found["rows"]}, found["signals"]


def test_a_fit_is_beside_the_mean_and_sart_of_the_same_sinograms(trained):
    workdir, _ = trained
    rows, count = rows_of(workdir / "fits" / "test")
    assert list(rows) == ["this fit", "mean image", "SART"]
    assert count == 2
    assert all(len(scores[key]) == 2 for scores in rows.values() for key in ("psnr", "ssim"))
    config = config_of(data__num_train=24)
    task = tasks.build(config)
    collection = task.open("test")
    seen = task.measure(collection)
    given = np.stack([seen.values(index) for index in range(2)])
    angles = np.arange(8) * 22.5
    found = [tomography.placed_sart(one.reshape(8, 16), angles, (16, 16)) for one in given]
    truth = np.stack([collection[index][..., 0] for index in range(2)])
    expected = -10 * np.log10(np.square(np.array(found) - truth).mean((1, 2)))
    np.testing.assert_allclose(rows["SART"]["psnr"], expected, atol=1e-3)
    told = json.loads((workdir / "fits" / "test" / "metrics.json").read_text())["measured"]
    assert "8 views of 16 detectors; 128 numbers for 256 pixels (50%)" in told


def test_sart_is_of_plain_parallel_beams_without_missing_rays():
    config = config_of()
    slices = tasks.build(config).open("test")
    assert ct.algebraic(slices, config) is not None
    apart = config_of(operator__parallel_beam__spacing=1.5)
    assert ct.algebraic(slices, apart) is None
    values = np.ones((1, 4, 16))
    values[0, 1, 2] = np.nan
    for sinograms, known in ((np.ones((1, 4, 16)), True), (values, False)):
        found = ct.Sinograms(sinograms, np.arange(4) * 45.0, "own", (16, 16))
        assert (ct.algebraic(found, config) is not None) == known
