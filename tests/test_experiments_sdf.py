"""The comparison of shapes: its PCA against a dense formula, its choices, its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grid_components
import numpy as np
import pytest
import sdf

ROOT = Path(__file__).resolve().parents[1]


class Grids:
    """Random volumes that share a few patterns."""

    shape = (6, 6, 6, 1)

    def __init__(self, count, draw):
        patterns = draw.standard_normal((4, *self.shape))
        self.values = np.tensordot(draw.standard_normal((count, 4)), patterns, 1).astype("f4")

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


@pytest.mark.parametrize("focus", [0.0, 0.5])
def test_components_and_their_most_probable_values(focus):
    """Against (U^T W U / s2 + L^-1)^-1 U^T W (y - mean) / s2 in float64."""
    draw = np.random.default_rng(8)
    grids = Grids(30, draw)
    known = grid_components.components(grids, 3)
    np.testing.assert_allclose(known.modes @ known.modes.T, np.eye(3), atol=1e-4)
    places = draw.choice(216, 9, replace=False)
    values = grids.values[:5].reshape(5, -1, 1)
    noise = 0.3
    found = grid_components.fit(known, values, places, noise, 0, focus)
    seen = known.modes[:, places].astype(np.float64)
    y = values[:, places, 0] - known.mean[places].astype(np.float64)
    precision = np.diag(1 / np.asarray(known.prior.diagonal, np.float64))
    centre = np.asarray(known.prior.mean, np.float64)
    for row, found_row, known_values in zip(y, found, values, strict=True):
        near = np.exp(-((known_values[places, 0] / focus) ** 2) / 2) if focus else 1.0
        weights = (0.02 + 0.98 * near) * np.ones(len(places))
        system = (seen * weights) @ seen.T / noise**2 + precision
        right = seen @ (weights * row) / noise**2 + precision @ centre
        expected = known.mean + np.linalg.solve(system, right) @ known.modes
        np.testing.assert_allclose(found_row, expected, atol=1e-3 * np.abs(expected).max())


def test_what_is_tuned_is_the_best_of_what_may_be_chosen():
    truth = sdf.Shapes(-np.ones((1, 10, 1)), None, [])
    asked = []

    def solve(*option):
        asked.append(option)
        inside = 7 if option == (sdf.NOISES[1], 100, sdf.FOCUSES[1]) else 3
        return sdf.Result(np.where(np.arange(10) < inside, -1.0, 1.0)[None], 0.0)

    assert sdf.tuned(solve, truth, 200, 0.01) == (sdf.NOISES[1], 100, sdf.FOCUSES[1])
    assert {neighbours for _, neighbours, _ in asked} == {0, 100}
    asked.clear()
    assert sdf.tuned(solve, truth, 200, 1.0)[:2] == (sdf.NOISES[0], 0)
    assert {option[:2] for option in asked} == {(sdf.NOISES[0], 0)}


def test_the_table_says_where_there_is_no_surface():
    row = {"iou": 0.5, "chamfer": np.inf, "normal_consistency": 0.0, "fscore": 0.0, "seconds": 2.0}
    text = sdf.table({"2%": {"a method": row}}, "a note")
    assert "| 2% | a method | 0.500 | no surface | 0.000 | 0.000 | 2 |" in text
    assert text.endswith("a note\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdf", "preparation"])
def test_smoke_scale_runs(tmp_path, name):
    command = [sys.executable, str(ROOT / "experiments" / f"{name}.py")]
    command += ["--scale=smoke", f"--output={tmp_path / 'out'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "table.md").read_text().count("|") > 50
    json.loads((tmp_path / "out" / "metrics.json").read_text())
