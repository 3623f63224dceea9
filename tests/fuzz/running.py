"""One file read under limits of memory and time: a result, one line that says why not, or a fault.

A fault is anything else: another exception, a message of several lines or that does not name the
file, memory beyond the limit, and time.
"""

import contextlib
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LIMIT_BYTES = 2**28
"""What a file may make its reader allocate, given to it as the library's own bound."""
# Beside it: what libraries take for themselves, and what a picture becomes on its way.
_SLACK = 5 * 2**28
SECONDS = 10


class Outcome(NamedTuple):
    """What came of a file: 'read', 'refused' or 'fault', and in which words."""

    kind: str
    words: str


class TooSlow(BaseException):
    """The time is over."""


@contextlib.contextmanager
def limits(seconds: int = SECONDS) -> Iterator[None]:
    """Memory and time of this process are bounded inside."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LIMIT_BYTES + _SLACK

    def over(number, frame):
        raise TooSlow

    handler = signal.signal(signal.SIGALRM, over)
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def outcome(
    read: Callable[[Path], Any], path: Path, seconds: int = SECONDS, named: str = ""
) -> Outcome:
    """What reading a file comes to. named: what a message may name instead of it."""
    try:
        with warnings.catch_warnings(), limits(seconds):
            warnings.simplefilter("ignore")
            read(path)
        return Outcome("read", "")
    except TooSlow:
        return Outcome("fault", f"took more than {seconds} s")
    except (ValueError, OSError) as error:
        words = str(error)
        if "\n" in words or len(words) > 2000:
            return Outcome("fault", f"several lines: {words[:300]!r}")
        if not any(name and name in words for name in (path.name, path.stem, named)):
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(where.filename)}:{where.lineno}"
            return Outcome("fault", f"names no file: {type(error).__name__} at {place}: {words}")
        return Outcome("refused", words)
    except BaseException as error:  # whatever else a reader raises is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "nid_jax" in frame.filename] or where
        places = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in (ours[-1], where[-1])]
        return Outcome("fault", f"{type(error).__name__} at {' '.join(places)}: {str(error)[:200]}")
