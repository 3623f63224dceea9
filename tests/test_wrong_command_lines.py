"""Command lines drawn from all keys: each is refused in one line, or goes on rightly."""

from pathlib import Path

import pytest

from experiments.studies import wrong_command_lines as lines
from experiments.studies.wrong_command_lines import Case, Outcome


def test_the_generator_draws_the_same_and_all_kinds():
    cases = lines.drawn(80, seed=3)
    assert cases == lines.drawn(80, seed=3)
    assert len(set(cases)) == 80
    assert {case.kind for case in lines.every_case()} == {case.kind for case in cases}


def test_faults_are_told_from_what_is_right():
    zero = Case("image:smoke", ("--config.train.points=0",), "int zero")
    steps = Case("image:smoke", ("--config.fit.lasso.steps=nan",), "int nan")
    right = [Outcome(zero, "goes on", "", 0.1), Outcome(steps, "refused", "error: no", 0.1)]
    assert lines.faults(right) == []
    noted = "note: typed, but not used: fit.lasso.steps (fit.solver=ridge)"
    assert lines.faults([Outcome(steps, "goes on", noted, 0.1)]) == []
    wrong = [Outcome(steps, what, "", 0.1) for what in ("hangs", "traceback", "wrote", "goes on")]
    assert lines.faults(wrong) == wrong
    assert dict(lines.summary([*right, *wrong])) == {
        "goes on": 1,
        "goes on, wrongly": 1,
        "hangs": 1,
        "refused": 1,
        "traceback": 1,
        "wrote": 1,
    }


def test_a_line_that_ends_in_a_traceback_is_seen(tmp_path, monkeypatch):
    def broken(argv, values):
        raise KeyError("no such thing")

    monkeypatch.setattr(lines.cli, "main", broken)
    case = Case("image:smoke", ("--config.seed=1",), "")
    assert lines.outcome(case, tmp_path).what == "traceback"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "dictionary.width=1000000000",
            "dictionary.width: 1000000000; allowed: what fits",
        ),
        ("fit.refine.bounds=(1,0)", "fit.refine.bounds: (1, 0); allowed: (), or (low, high)"),
        ("train.optimizer.lr_end=nan", "train.optimizer.lr_end: nan; allowed: finite, 0 or more"),
        ("fit.robust.noise=nan", "fit.robust.noise: nan; allowed: finite, 0 or more"),
    ],
)
def test_lines_that_were_accepted_once(words, expected, tmp_path):
    found = lines.outcome(Case("image:smoke", (f"--config.{words}",), ""), tmp_path)
    assert found.what == "refused"
    assert expected in found.said


def test_some_lines_of_all_kinds():
    outcomes = lines.part(30, seed=11)
    assert lines.faults(outcomes) == []
    assert not Path("run").exists()


@pytest.mark.slow
def test_many_lines():
    assert lines.faults(lines.part(600, seed=0)) == []
    assert lines.faults(lines.part_of_trained(120, seed=0)) == []
