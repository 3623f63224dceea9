"""What was assumed about an input that is probably not what its owner thinks: one line, said once.

In Python it is a warning of its own category, for filters; the command line prints it.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Notice(UserWarning):
    """One line: what was found, what was assumed, and which key or argument says otherwise."""

    def __init__(self, text: str):
        super().__init__(text)


def say(text: str) -> None:
    """Say one line, once a process for the same text."""
    warnings.warn(text, Notice, stacklevel=2)


@contextmanager
def printed() -> Iterator[None]:
    """Notices inside are lines on standard error, `note: TEXT`, each text once."""
    said = set()
    with warnings.catch_warnings():
        other = warnings.showwarning

        def show(message, category, filename, lineno, file=None, line=None):
            if not issubclass(category, Notice):
                other(message, category, filename, lineno, file, line)
            elif str(message) not in said:
                said.add(str(message))
                print("note:", *str(message).split(), file=sys.stderr)

        warnings.showwarning = show
        warnings.simplefilter("always", Notice)
        yield
