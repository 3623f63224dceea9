"""Pictures through the command line: scores that a fit reports on request."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import data, metrics
from nid_jax.metrics import perceptual
from nid_jax.storage import models
from nid_jax.storage.workdir import Workdir


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the smaller network, as a file of converted ones."""
    draw, named = np.random.default_rng(0), {"network": np.asarray("alex")}
    for name, shape in perceptual.expected_shapes("alex").items():
        scale = np.sqrt(2 / np.prod(shape[:3])) if name.startswith("kernel") else 0.1
        values = scale * draw.standard_normal(shape)
        named[name] = (np.abs(values) if name.startswith("linear") else values).astype(np.float32)
    path = tmp_path_factory.mktemp("lpips") / "alex.npz"
    np.savez(path, **named)
    return path


@pytest.mark.slow
def test_a_fit_reports_lpips_where_the_config_names_weights(call, copied, tiny, weights):
    """Of pictures brought to 31x31, the smallest that the network takes."""
    large = ("--config.data.size=(31,31)", "--config.data.resize=true")
    given = (*tiny, *large, f"--workdir={copied}", f"--config.eval.lpips={weights}")
    given = (*given, "--config.fit.solver=ridge", "--config.fit.name=seen")
    result = call(*given, "--mode=fit")
    assert result.code == 0, result.err
    assert "LPIPS" in result.out
    folder = copied / "fits" / "seen"
    reported = json.loads((folder / "metrics.json").read_text())
    assert len(reported["lpips_per_signal"]) == 2
    assert reported["lpips"] == pytest.approx(np.mean(reported["lpips_per_signal"]))
    result = call(*given, "--mode=eval")
    assert result.code == 0, result.err
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["lpips"] == pytest.approx(reported["lpips"], rel=1e-4)
    assert "LPIPS" in (copied / "report.html").read_text()
    # What is reported is the distance of what the stored codes render from the truth.
    rendered, truth = reconstructed(copied, folder)
    expected = metrics.lpips(rendered, truth, perceptual.load_weights(weights))
    np.testing.assert_allclose(reported["lpips_per_signal"], expected, rtol=1e-3)
    assert min(reported["lpips_per_signal"]) > 0


def reconstructed(workdir, folder):
    """Clipped pictures of a fit's codes on 31x31, and the true ones. [S, 31, 31, 1] twice."""
    model = models.load_model(Workdir(workdir, read_only=True)).model
    config = ConfigDict(json.loads((folder / "metrics.json").read_text())["config"])
    truth = data.to_array(data.open_collection(config.data, "test", config.seed))
    axis = np.linspace(-1, 1, 31)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    basis = np.asarray(model.dictionary.basis(points.astype(np.float32)), float)
    with np.load(folder / "codes.npz") as stored:
        values = np.einsum("se,pec->spc", stored["codes"], basis) + stored["bias"][:, None]
    return np.clip(values, 0, 1).reshape(truth.shape).astype(np.float32), truth


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("eval.lpips=nowhere.npz", "nowhere.npz: no such file"),
        ("eval.lpips={weights}", "takes images of 31x31 pixels or more"),
    ],
)
def test_lpips_that_cannot_be_is_said_before_training(
    call, tiny, weights, tmp_path, option, expected
):
    option = option.format(weights=weights)
    result = call(*tiny, f"--workdir={tmp_path / 'run'}", f"--config.{option}")
    assert expected in result.complaint()
    assert not (tmp_path / "run").exists()
