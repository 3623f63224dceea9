"""What was assumed about an input that is probably not what its owner thinks: one line, said once.

In Python it is a warning of its own category, for filters; the command line prints it.
"""

import contextvars
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parent) + os.sep
# Controls but for tabs and ends of lines, marks of direction, and halves of letters.
_MOVING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_said: contextvars.ContextVar[dict[str, None] | None] = contextvars.ContextVar("said", default=None)


class Notice(UserWarning):
    """One line: what was found, what was assumed, and which key or argument says otherwise."""

    def __init__(self, text: str):
        super().__init__(text)


def say(text: str) -> None:
    """Say one line, once for the same text and line of the caller's.

    As a warning it is shown at that line, which called the package, and as this one line: what
    Python shows below a warning, the source there, says nothing of it.
    """
    caller = sys._getframe(1)
    frame: FrameType | None = caller
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
            caller = frame.f_back
        frame = frame.f_back
    where, known = caller.f_globals, caller.f_globals.setdefault("__warningregistry__", {})
    module, path = where.get("__name__", "<string>"), caller.f_code.co_filename
    before, warnings.formatwarning = warnings.formatwarning, _formatted
    try:
        warnings.warn_explicit(Notice(text), None, path, caller.f_lineno, module, known)
    finally:
        warnings.formatwarning = before


def shown(text: str) -> str:
    """A text of many lines of which no letter moves a cursor or turns the writing round: their
    numbers stand for them."""
    return _MOVING.sub(lambda found: _escaped(found[0]), text)


def one_line(text: object) -> str:
    """A text as one line for a terminal: runs of white space as a blank, and what would move the
    cursor, colour, ring, turn the writing round or cannot be encoded as its number, \\x1b.

    Names of files may hold anything but a slash.
    """
    words = " ".join(str(text).split())
    if words.isascii() and words.isprintable():
        return words
    return "".join(one if _harmless(one) else _escaped(one) for one in words)


def sides(shape: Iterable[object]) -> str:
    """The shape of a grid, as texts say it: 25 x 25."""
    return " x ".join(map(str, shape))


def _harmless(letter: str) -> bool:
    # Controls, formats such as a turn of direction, surrogates, private and unassigned ones.
    return not unicodedata.category(letter).startswith("C")


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
    )


def _formatted(message, category, filename, lineno, line=None):
    source = "" if issubclass(category, Notice) else line
    return _format(message, category, filename, lineno, source)


_format = warnings.formatwarning


@contextmanager
def gathered() -> Iterator[list[str]]:
    """Notices inside are not said, but in the list: for many inputs of which one line is said."""
    texts: list[str] = []
    with warnings.catch_warnings():
        other = warnings.showwarning

        def keep(message, category, filename, lineno, file=None, line=None):
            if issubclass(category, Notice):
                texts.append(str(message))
            else:
                other(message, category, filename, lineno, file, line)

        warnings.showwarning = keep
        warnings.simplefilter("always", Notice)
        yield texts


@contextmanager
def printed() -> Iterator[None]:
    """Notices inside are lines on standard error, `note: TEXT`, each text once; `printed_lines`
    has them."""
    said: dict[str, None] = {}
    token = _said.set(said)
    with warnings.catch_warnings():
        other = warnings.showwarning

        def show(message, category, filename, lineno, file=None, line=None):
            if not issubclass(category, Notice):
                other(message, category, filename, lineno, file, line)
            elif str(message) not in said:
                said[str(message)] = None
                print("note:", one_line(message), file=sys.stderr)

        warnings.showwarning = show
        warnings.simplefilter("always", Notice)
        try:
            yield
        finally:
            _said.reset(token)


def printed_lines() -> list[str]:
    """What was said so far within `printed`; none outside of it."""
    return [one_line(text) for text in _said.get() or ()]


def plain(line: str) -> str:
    """A line of the terminal's head, `note        TEXT`, as its text."""
    return " ".join(line.split()).removeprefix("note ")
