"""The measurement of extraction, run as a command at its smallest scale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "extraction.py"


@pytest.mark.slow
def test_the_smallest_scale(tmp_path, environment):
    command = [sys.executable, str(SCRIPT), "--scale=smoke", f"--output={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "metrics.json", "figure.png"}
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert [row["resolution"] for row in rows] == [24, 40]
    for row in rows:
        assert row["same_triangles"]
        assert row["farthest_vertex_cells"] < 2e-4
        assert row["points"] < row["points_dense"] == row["resolution"] ** 3
        assert row["base_bytes"] <= row["peak_bytes"]
    shares = [row["points"] / row["points_dense"] for row in rows]
    assert shares[1] < shares[0]
