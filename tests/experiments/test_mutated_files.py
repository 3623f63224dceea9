"""The script that reads damaged files by the thousand: every format has its share."""

import collections
import operator

import mutated_files
import pytest

from tests.fuzz import formats, hostile, workdirs


def test_every_format_has_its_share():
    found = collections.Counter(case.format for case in mutated_files.cases(2000))
    hand_made = found.pop("hostile")
    assert set(found) == {*formats.PLAIN, *workdirs.files()}
    assert hand_made == len(hostile.CASES)
    assert 1900 < found.total() < 2100
    assert mutated_files.cases(2000) == mutated_files.cases(2000)
    only = mutated_files.cases(2000, only="ply")
    assert {case.format for case in only if case.format != "hostile"} == {
        name for name in formats.PLAIN if "ply" in name
    }


def test_a_process_that_does_not_begin_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(mutated_files, "_serve", operator.truediv)  # of a pipe and a folder
    process = mutated_files.Process(tmp_path)
    says = "^the process that reads did not begin: TypeError: unsupported operand .*'Connection'"
    with pytest.raises(ChildProcessError, match=says) as complaint:
        process.read(mutated_files.Case("ply", 0))
    assert "\n" not in str(complaint.value)
    assert process.child is None
    assert mutated_files._ending("\n \n", -9) == "it left with status -9 and said nothing"


@pytest.mark.slow
def test_a_share_of_them_is_read():
    rows = mutated_files.measure(300, only="split")
    assert {row["format"] for row in rows} == {"split", "hostile"}
    assert sum(row["fault"] for row in rows) == 0
    assert sum(row["refused"] for row in rows) > 3
