"""Faults of one workdir, each once."""

import json

import pytest


@pytest.mark.slow
def test_faults_of_a_workdir(tmp_path, smoke):
    smoke("faults_workdir", tmp_path)
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert len(rows) == 3
    for row in rows:
        assert row["good"] == row["trials"] > 0, row["wrong"]


def test_an_unknown_part_is_refused(tmp_path, smoke):
    done = smoke("faults_workdir", tmp_path, "--only=fire", code=2)
    assert "--only=fire: allowed: two-trainings-at-once, kill-9" in done.stderr
