"""Measured k-space from the command line, fitted by a dictionary of phantoms."""

import json
from pathlib import Path

import numpy as np
import pytest

import nid_jax
from nid_jax import tasks
from nid_jax.coding import operators
from nid_jax.configs import mri
from nid_jax.data import phantoms

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "mri.py"
SHAPE = (12, 12)


def heads(count=3):
    """Phantoms [S, *SHAPE]."""
    generator = np.random.default_rng(5)
    return phantoms.draw([phantoms.random_ellipses(generator) for _ in range(count)], SHAPE)


def mask():
    """Rows next to zero and every other, bool [H, W]."""
    rows = np.abs(np.fft.fftfreq(SHAPE[0]) * SHAPE[0]) < 3
    return np.tile((rows | (np.arange(SHAPE[0]) % 2 == 0))[:, None], SHAPE[1])


def config_of(folder, values, **changes):
    np.save(folder / "k.npy", values)
    config = mri.get_config("smoke")
    config.data.kspace = str(folder / "k.npy")
    config.data.update(changes)
    return config


def test_measurements_are_the_samples_and_the_operator_measures_them(tmp_path):
    pictures = heads()
    values = np.fft.fft2(pictures, norm="ortho") * mask()
    config = config_of(
        tmp_path, values, kspace_centred="false", kspace_origin="corner", kspace_scale=1.0
    )
    task = tasks.build(config)
    seen = task.measure(task.open("test"))
    assert (seen.grid_shape, seen.channels, seen.weights) == (SHAPE, 1, None)
    assert seen.operator.num_measurements == 2 * mask().sum()
    for number, picture in enumerate(pictures):
        found = np.asarray(seen.operator @ picture.reshape(-1, 1).astype(np.float32))
        np.testing.assert_allclose(found, seen.values(number), atol=1e-4)


def test_each_scan_may_have_its_own_samples(tmp_path):
    values = np.fft.fft2(heads(2), norm="ortho")
    values[0, ~mask()] = np.nan
    config = config_of(
        tmp_path, values, kspace_centred="false", kspace_origin="corner", kspace_scale=1.0
    )
    task = tasks.build(config)
    seen = task.measure(task.open("test"))
    assert seen.operator.num_measurements == 2 * mask().size
    np.testing.assert_array_equal(seen.weights(0), np.tile(mask().ravel(), 2))
    assert seen.weights(1).all()


def test_another_operator_has_no_kspace(tmp_path):
    config = config_of(tmp_path, np.fft.fft2(heads()))
    config.operator.kind = "blur"
    with pytest.raises(ValueError, match=r"^operator\.kind: 'blur'; with data\.kspace: fourier"):
        tasks.build(config).open("test")


@pytest.mark.slow
def test_even_the_smallest_run_is_better_than_zeros_and_the_mean(call, tmp_path):
    result = call(f"--config={CONFIG}:smoke", f"--workdir={tmp_path}")
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "fits/test/metrics.json").read_text())["baselines"]["rows"]
    psnr = {row["name"]: np.mean(row["scores"]["psnr"]) for row in rows}
    assert psnr["this fit"] > 1 + max(psnr["zero filling"], psnr["mean image"])


@pytest.mark.slow
def test_kspace_by_the_command_line(call, tmp_path):
    pictures = heads()
    np.save(tmp_path / "k.npy", np.fft.fftshift(np.fft.fft2(pictures), axes=(1, 2)))
    np.save(tmp_path / "mask.npy", np.fft.fftshift(mask()))
    files = (f"kspace={tmp_path / 'k.npy'}", f"kspace_mask={tmp_path / 'mask.npy'}")
    options = (f"--config={CONFIG}:smoke", f"--workdir={tmp_path / 'run'}")
    options += tuple(f"--config.data.{one}" for one in files)
    result = call(*options, "--config.train.steps=5")
    assert result.code == 0, result.err
    notes = [line for line in result.err.splitlines() if line.startswith("note: data.kspace=")]
    (note,) = notes
    assert "the zero frequency in the middle" in note
    assert "numpy's norm 'backward'" in note
    assert "Misfit" in result.out
    folder = tmp_path / "run" / "fits" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["signals"] == 3
    found = nid_jax.load(tmp_path / "run").load_fit(folder / "codes.npz")
    operator = operators.fourier_samples(SHAPE, mask())
    samples = np.fft.fft2(pictures, norm="ortho")[:, mask()]
    samples = np.concatenate([samples.real, samples.imag], 1)
    left = np.asarray(found.measured_by(operator))[..., 0] - samples
    expected = np.linalg.norm(left) / np.linalg.norm(samples)
    assert metrics["relative_residual"] == pytest.approx(expected, rel=1e-2)
    asked = "unexplained (relative residual): are samples in another order" in result.err
    assert asked == (expected > 0.4)
    assert len(list((folder / "pictures").iterdir())) == 3
    # In the wrong order nearly nothing is explained, and the fit asks.
    options += ("--mode=fit", "--config.fit.name=wrong")
    wrong = call(*options, "--config.data.kspace_centred=false")
    assert wrong.code == 0, wrong.err
    assert "unexplained (relative residual): are samples in another order" in wrong.err
    np.save(tmp_path / "mask.npy", np.ones(5))
    refused = call(*options)
    assert refused.code == 2
    assert refused.err.strip().splitlines()[-1].startswith("error: data.kspace_mask=")
