"""What goes wrong, once each."""

import json

import pytest

PARTS = (
    *("two-trainings-at-once", "ctrl-c", "kill-one-process", "sigterm-one-of-two"),
    *("kill-one-of-two", "modes", "files", "settings", "damage", "soak"),
)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_faults(tmp_path, smoke, part):
    smoke("faults", tmp_path, f"--only={part}")
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert rows
    for row in rows:
        assert row["held"] == row["trials"] > 0, row["wrong"]


@pytest.mark.slow
def test_an_unknown_part_is_refused(tmp_path, smoke):
    done = smoke("faults", tmp_path, "--only=fire", code=2)
    assert "--only=fire: allowed: two-trainings-at-once, ctrl-c, kill-one-process" in done.stderr
