"""The script that reads damaged files by the thousand: every format has its share."""

import collections

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


@pytest.mark.slow
def test_a_share_of_them_is_read():
    rows = mutated_files.measure(300, only="split")
    assert {row["format"] for row in rows} == {"split", "hostile"}
    assert sum(row["fault"] for row in rows) == 0
    assert sum(row["refused"] for row in rows) > 3
