"""A fit beside its baselines: what is made, kept, said, and drawn of it."""

import json

import numpy as np
import pytest

from nid_jax.fitting.baselines import score
from nid_jax.reporting import baselines, panels
from nid_jax.reporting.panels import Score
from nid_jax.storage import artefacts
from nid_jax.tasks.task import Baseline, Baselines

PSNR, CHAMFER = Score("psnr", "PSNR", "dB", better="high"), Score("chamfer", "Chamfer", "mm")
SCORES = [PSNR, Score("left", "Misfit", "%"), CHAMFER]


class Task:
    """One that compares with two baselines, of which one has a score of all signals together."""

    scores = SCORES

    def __init__(self):
        self.asked = []

    def baselines(self, collection, measured, fit, prior, most):
        self.asked.append((collection, measured, fit, prior, most))
        signals = np.zeros((most, 4, 4, 1))
        one = Baseline(
            "mean", "All alike.", lambda: (signals, {"psnr": np.full(most, 12.0)}), False
        )
        scores = {"psnr": np.arange(20.0, 20 + most), "left": np.full(most, 0.25), "rank": 3}
        two = Baseline("SART, long", "By views.", lambda: (signals + 1, scores), label="SART")
        return Baselines(most, [one, two], {"left": np.full(most, 0.5)})


def compared(count, signals):
    """What a fit's metrics hold of a comparison of `count` signals of `signals`."""
    own = {"psnr_per_signal": list(np.arange(25.0, 25 + signals)), "rank": 7, "signals": signals}
    found = score(Task(), None, None, None, None, count)
    own |= {"seconds_per_signal": 0.5, "baselines": found.entry(own)}
    own["scores"] = panels.described(SCORES, own | {"psnr": 1.0, "left": 0.1})
    return json.loads(json.dumps(artefacts.plain(own))), found


def test_baselines_are_made_of_as_many_signals_as_are_asked_for_or_not_at_all():
    task = Task()
    assert score(task, None, None, None, None, 0).entry({}) is None
    assert task.asked == []
    metrics, found = compared(3, 5)
    assert list(found.shown) == ["SART"]
    np.testing.assert_array_equal(found.shown["SART"], 1)
    own, mean, sart = metrics["baselines"]["rows"]
    assert own["scores"] == {"psnr": [25, 26, 27], "left": [0.5] * 3}  # the rank is of all five
    assert own["seconds"] is None
    assert mean["scores"]["psnr"] == [12, 12, 12]
    assert sart["seconds"] >= 0
    metrics, _ = compared(5, 5)
    assert metrics["baselines"]["rows"][0]["scores"]["rank"] == 7


def test_the_table_has_means_ranges_and_on_how_many_signals_a_fit_is_better():
    metrics, _ = compared(3, 5)
    scores = panels.scores_of(metrics)
    found = baselines.section(metrics, scores)
    assert [score.key for score in found["columns"]] == ["psnr"]
    assert found["leading"].key == "psnr"
    own, mean, sart = found["rows"]
    assert (own["cells"][0]["text"], own["cells"][0]["range"]) == ("26", "25 to 27")
    assert [row["cells"][0]["best"] for row in found["rows"]] == [True, False, False]
    assert (own["wins"], mean["wins"], sart["wins"]) == ("", "3 of 3", "3 of 3")
    assert found["chart"].count("<circle") == 9
    assert "PSNR, dB; further right is better" in found["chart"]


def test_without_a_score_that_is_better_one_way_all_shared_ones_are_shown():
    metrics, _ = compared(3, 5)
    for row in metrics["baselines"]["rows"]:
        row["scores"].pop("psnr")
    found = baselines.section(metrics, panels.scores_of(metrics))
    assert [score.key for score in found["columns"]] == ["left"]
    assert [row["cells"][0]["text"] for row in found["rows"]] == ["50%", "–", "25%"]
    assert not any(row["cells"][0]["best"] for row in found["rows"])
    assert (found["leading"], found["chart"]) == (None, None)
    assert baselines.line(metrics) == ""


def test_the_terminal_has_one_line_of_it():
    metrics, _ = compared(3, 5)
    assert baselines.line(metrics) == (
        "PSNR (dB) of the first 3 signals: this fit 26; mean 12; SART, long 21"
    )
    assert baselines.line(metrics | {"baselines": None}) == ""


def test_one_signal_has_no_range_and_no_chart():
    metrics, _ = compared(1, 1)
    found = baselines.section(metrics, panels.scores_of(metrics))
    assert found["signals"] == 1
    assert found["rows"][0]["cells"][0] == {
        "text": "25",
        "range": "",
        "mean": 25.0,
        "best": True,
    }
    assert found["chart"] is None


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        {"rows": 4},
        {"rows": [3, {"name": "a"}]},
        {"rows": [{"name": "a", "scores": {"psnr": "high"}}, {"name": "b", "scores": [1]}]},
        {"rows": [{"scores": {"psnr": [None, None]}}, {"scores": {"psnr": [1, 2]}}]},
    ],
)
def test_what_is_damaged_is_no_table(entry):
    assert baselines.section({"baselines": entry}, SCORES) is None


def test_unknown_values_are_left_out():
    rows = [
        {"name": "this fit", "scores": {"psnr": [1, None, 3]}, "seconds": "long"},
        {"name": "other", "scores": {"psnr": [2, 5, 2]}},
    ]
    found = baselines.section({"baselines": {"rows": rows, "signals": None}}, SCORES)
    assert found["rows"][0]["cells"][0]["mean"] == 2
    assert found["rows"][0]["seconds"] is None
    assert found["rows"][1]["wins"] == "1 of 2"
    assert found["signals"] is None
