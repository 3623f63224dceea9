"""One line for what was assumed: a warning in Python, a line of its own on the command line."""

import subprocess
import sys
import warnings

import pytest

from nid_jax import notices


def test_a_notice_is_a_warning_of_its_own_category():
    with pytest.warns(notices.Notice, match="taken for degrees"):
        notices.say("angles.npy: taken for degrees")


def test_in_python_a_notice_is_one_line_at_the_line_that_called_the_package(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import warnings\nfrom nid_jax.data.frames import Frame, Scale\n"
        "from nid_jax.data import roles\n"
        "spots = {'a': __import__('numpy').zeros((1, 2))}\n"
        "for _ in range(2):\n    roles.check_angles(['lat', 'lon'], spots, 'mine.csv')\n"
        "warnings.warn('of mine')\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    notice, other, source = ran.stderr.splitlines()
    assert notice.startswith(f"{script}:6: Notice: mine.csv: lat 0 to 0 and lon 0 to 0 taken as")
    assert (other, source) == (f"{script}:7: UserWarning: of mine", "  warnings.warn('of mine')")


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


def test_one_line_shows_what_would_do_something_to_a_terminal():
    odd = "a\n\tb\x1b[31m\u202e\udcff\x07 é 中 \N{GRINNING FACE}"
    assert notices.one_line(odd) == r"a b\x1b[31m\u202e\xff\x07 é 中 " + "\N{GRINNING FACE}"
    assert notices.one_line("as it is: 'x'") == "as it is: 'x'"
    notices.one_line(odd).encode()  # no half of a letter is left


def test_shapes_in_words():
    assert notices.sides((25, 24)) == "25 x 24"
    assert notices.sides(side for side in [7]) == "7"
