"""One line for what was assumed: a warning in Python, a line of its own on the command line."""

import warnings

import pytest

from nid_jax import notices


def test_a_notice_is_a_warning_of_its_own_category():
    with pytest.warns(notices.Notice, match="taken for degrees"):
        notices.say("angles.npy: taken for degrees")


@pytest.mark.filterwarnings("ignore:of another library")
def test_the_command_line_prints_each_text_once_and_leaves_other_warnings_alone(capsys):
    with notices.printed():
        for _ in range(2):
            notices.say("one.npy:\nread as it is")
        notices.say("two.npy: read as it is")
        warnings.warn("of another library", UserWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == [
        "note: one.npy: read as it is",
        "note: two.npy: read as it is",
    ]


def test_lines_that_were_printed_are_known_once_and_only_there():
    assert notices.printed_lines() == []
    with notices.printed():
        notices.say("first")
        notices.say("first")
        notices.say("second   word")
        assert notices.printed_lines() == ["first", "second word"]
    assert notices.printed_lines() == []
    assert notices.plain("note        3 signals: a 2 -> 1") == "3 signals: a 2 -> 1"
