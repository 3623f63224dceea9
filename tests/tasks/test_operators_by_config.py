"""Operators that no task knows by name: Fourier samples, coarser and blurred pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

MRI = Path(__file__).resolve().parents[2] / "configs" / "mri.py"


@pytest.fixture(scope="module")
def workdir(call, tmp_path_factory):
    """A dictionary of 12x12 phantoms fitted to some of their frequencies."""
    folder = tmp_path_factory.mktemp("mri") / "run"
    result = call(f"--config={MRI}:smoke", f"--workdir={folder}", "--config.train.steps=5")
    assert result.code == 0, result.err
    return folder


def fit(call, workdir, name, *options):
    """metrics.json of a further fit."""
    result = call(
        f"--config={MRI}:smoke",
        f"--workdir={workdir}",
        "--mode=fit",
        f"--config.fit.name={name}",
        *options,
    )
    assert result.code == 0, result.err
    return json.loads((workdir / "fits" / name / "metrics.json").read_text())


@pytest.mark.slow
def test_more_frequencies_say_more(call, workdir):
    few = fit(call, workdir, "few", "--config.operator.fourier.share=0.05")
    many = fit(call, workdir, "many", "--config.operator.fourier.share=0.5")
    assert many["psnr"] > few["psnr"]
    assert np.isfinite(few["psnr"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["downsample", "blur", "mask"])
def test_any_operator_by_its_name(call, workdir, kind):
    assert fit(call, workdir, kind, f"--config.operator.kind={kind}")["psnr"] > 5


OPTIONS = {
    "fan_beam": ({"angles": 6, "detectors": 0, "arc": False}, "angles=0"),
    "nonuniform_fourier": ({"frequencies": "radial", "spokes": 4}, "spokes=0"),
}


@pytest.fixture
def config_of(tmp_path):
    """Function from a kind to a config file with the options of OPTIONS."""

    def write(kind):
        path = tmp_path / f"{kind}.py"
        path.write_text(
            f"import runpy\n\n\ndef get_config(variant):\n"
            f"    config = runpy.run_path({str(MRI)!r})['get_config'](variant)\n"
            f"    config.operator = {{'kind': {kind!r}, {kind!r}: {OPTIONS[kind][0]!r}}}\n"
            "    return config\n"
        )
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
def test_options_by_a_config(call, workdir, config_of, kind):
    options = (f"--config={config_of(kind)}:smoke", f"--workdir={workdir}", "--mode=fit")
    result = call(*options, f"--config.fit.name={kind}")
    assert result.code == 0, result.err
    metrics = json.loads((workdir / "fits" / kind / "metrics.json").read_text())
    assert metrics["psnr"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_key_of_a_wrong_option_is_named(call, workdir, config_of, kind):
    wrong = OPTIONS[kind][1]
    options = (f"--config={config_of(kind)}:smoke", f"--workdir={workdir}", "--mode=fit")
    result = call(*options, f"--config.operator.{kind}.{wrong}")
    assert result.code == 2
    key, value = wrong.split("=")
    assert f"operator.{kind}.{key}: {value}; allowed:" in result.err
    assert result.err.count("\n") == 1


def test_unknown_operator_is_one_line(call, tmp_path):
    options = (f"--config={MRI}:smoke", f"--workdir={tmp_path / 'run'}")
    result = call(*options, "--config.operator.kind=furier")
    assert result.code == 2
    assert "did you mean 'fourier'" in result.err
    assert result.err.count("\n") == 1
