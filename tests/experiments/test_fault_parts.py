"""What counts as held, with commands that are played."""

import json

import numpy as np
import pytest
from studies import fault_damage, fault_modes, fault_signals
from studies import fault_trials as trials
from studies.fault_trials import Ended, Row


def test_rows_of_other_parts_stay(tmp_path):
    def part(held):
        return lambda size, folder: [Row("a | b", "holds", 2, held, "x | y\nz" * (held < 2))]

    parts = {"first": part(1), "second": part(2)}
    trials.run_parts(parts, trials.SIZES["smoke"], "smoke", tmp_path, ["second"])
    trials.run_parts(parts, trials.SIZES["smoke"], "smoke", tmp_path, ["first"])
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert [(row["part"], row["held"]) for row in rows] == [("first", 1), ("second", 2)]
    assert "1 of 2" in (tmp_path / "table.md").read_text()
    assert "x / y z" in (tmp_path / "table.md").read_text()
    # What a part made stays where something did not hold.
    assert [(tmp_path / name).exists() for name in parts] == [True, False]
    with pytest.raises(ValueError, match="holds first already"):
        trials.run_parts(parts, trials.SIZES["smoke"], "smoke", tmp_path, ["first"])


@pytest.mark.parametrize(
    ("ended", "held"),
    [
        (Ended(143, "SIGTERM: saved step 3; the same command resumes\n", 3.0), True),
        (Ended(143, "Traceback\n", 3.0), False),
        (Ended(143, "SIGTERM: one\nSIGTERM: two\n", 3.0), False),
        (Ended(1, "", 3.0), False),
        (Ended(0, "", 3.0), True),
    ],
)
def test_a_term_held(ended, held):
    assert (fault_signals.term_wrong(ended, 1.0) == "") == held


@pytest.mark.parametrize(
    ("ended", "alone", "held"),
    [
        (Ended(-9, "", 3.0), True, True),
        (Ended(75, "error: gone; the same command goes on\n", 9.0), False, True),
        (Ended(75, "error: gone; the same command goes on\n", 99.0), False, False),
        (Ended(75, "error: gone\n", 9.0), False, False),
        (Ended(1, "Traceback\n", 9.0), True, False),
    ],
)
def test_a_kill_held(ended, alone, held):
    assert (fault_signals.kill_wrong(ended, 1.0, alone) == "") == held


def test_numbers_of_two_runs_are_held_to_one_another(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0 + 1e-4)):
        folder = tmp_path / name / "fits" / "test"
        folder.mkdir(parents=True)
        np.savez(folder / "codes.npz", codes=np.array([100.0, value]))
        metrics = {"psnr": 20.0, "seconds": value, "config": {"x": value}, "rows": [[value]]}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    mine, theirs = (fault_modes.numbers_of(tmp_path / name) for name in "ab")
    assert set(mine) == {
        "fits/test/codes.npz:codes",
        "fits/test/metrics.json:.psnr",
        "fits/test/metrics.json:.rows[0][0]",
    }
    far, name = fault_modes.farthest(mine, theirs)
    assert name == "fits/test/metrics.json:.rows[0][0]"
    np.testing.assert_allclose(far, 1e-4, rtol=1e-3)
    del theirs["fits/test/metrics.json:.psnr"]
    assert fault_modes.farthest(mine, theirs)[0] == np.inf


def test_damage_changes_every_file():
    honest = bytes(range(10))
    found = {kind: fault_damage.damaged(honest, kind) for kind in fault_damage.KINDS}
    assert found["half"] == honest[:5]
    assert found["none"] == b""
    assert sum(a != b for a, b in zip(found["flipped"], honest, strict=True)) == 1
    assert "other" in json.loads(found["wrong JSON"])
