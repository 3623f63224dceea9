"""Faults of one and of several processes, once each."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sigterm-one-of-two", "kill-one-process", "kill-one-of-two"])
def test_faults_of_processes(tmp_path, smoke, part):
    smoke("faults", tmp_path, f"--only={part}")
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert row["good"] == row["trials"] == 1, row["wrong"]
