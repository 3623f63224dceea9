"""The comparison of tomography methods, run as a command at its smallest scale."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "ct.py"


@pytest.mark.slow
def test_the_smallest_scale(tmp_path, environment):
    command = [sys.executable, str(SCRIPT), "--scale=smoke", f"--output={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    names = {"table.md", "metrics.json", "figure.png", "slices_32_2.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    (result,) = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert result["views"] == [2, 4]
    assert len(result["methods"]) >= 7
    for name, entries in result["methods"].items():
        for entry in entries.values():
            assert len(entry["psnr"]) == result["phantoms"], name
            assert np.isfinite(entry["psnr"]).all(), name
    # More views say more, for a method that uses nothing else.
    projected = result["methods"]["filtered back projection"]
    assert np.mean(projected["4"]["psnr"]) > np.mean(projected["2"]["psnr"])


def test_an_unknown_scale_is_refused(environment):
    command = [sys.executable, str(SCRIPT), "--scale=tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode != 0
    assert "scale" in done.stderr
