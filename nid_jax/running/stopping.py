"""Signals that ask a run to end: Ctrl-C (SIGINT), SIGTERM, SIGHUP, SIGUSR1. The one place for them.

A command goes through three rooms, and what a signal does depends on which one it is in:

- it starts, from `begin()` on, and imports: nothing was begun, so it says one line and is gone;
- it works, `with command():`: `Stopped` is raised in the main thread, so that temporary files go;
  one that is deep in a library and does not come out in a few seconds is left there. What a process
  left half-written goes when its workdir is next written to (`Workdir.writing`);
- it trains, `with Preemption() as preemption:`: `preemption.requested` is set; the loop looks at it
  between steps, saves and leaves.

A second Ctrl-C leaves at once, wherever the command is, also inside a compiler: a thread reads the
signals as they come, while Python calls handlers only between two of its own instructions. Each
ends with exit status 128 + its number. Signals that were ignored when the process began, as under
nohup, stay so.

Several processes: whichever gets a signal tells the others (`ask_others`, which `neighbours` sets);
they leave together. In Python, outside of a command, `Preemption` alone catches signals
and gives them back; the second Ctrl-C is a KeyboardInterrupt then.

Imports nothing but the standard library, as it comes before every other import.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Windows has not all of them.
ASKING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
ENDED = "stopped; nothing is left half-written, the same command may be given again"
# Seconds that a command has to come out of what it is in, and then to close its threads.
_GRACE = 5.0


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; `number` says which."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Command:
    """What is known of the command of this process."""

    def __init__(self, room: str = "") -> None:
        self.room = room
        """'' outside of any, 'starting', 'working', 'ending'."""
        self.asked = 0
        """The first signal that came."""
        self.interrupts = 0


_command = _Command()
ask_others: Callable[[int], None] | None = None
"""Tells the other processes of this run, where there are some, of a signal that came here."""
# Those that wait for a signal themselves, the innermost last.
_waiting: list[Preemption] = []


class Preemption:
    """Context in which a signal to end only sets `requested`, and the second Ctrl-C insists.

    The loop looks at `requested` between steps, saves, and leaves. Batch systems send SIGUSR1 some
    time before the end, a terminal that closes SIGHUP. Outside of a command the handlers that were
    there come back on exit; outside the main thread, where Python allows none, nothing is caught.
    """

    def __init__(self) -> None:
        self.number = 0
        """Of the signal that the run ends by, known to all of its processes; 0: of none."""
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run is to end."""
        return self.number != 0

    @property
    def signal_name(self) -> str:
        """Of the first signal that came, such as 'SIGTERM'; '' where none did."""
        return signal.Signals(self.number).name if self.number else ""

    def reached(self) -> bool:
        """Whether to leave now. To be called wherever a run can be left, in several processes by
        all of them alike."""
        return self.requested

    def ended(self) -> bool:
        """Whether a signal came before the end, to which all have come now."""
        return self.requested

    def ask(self, number: int) -> None:
        """The run is to end, by that signal; the first one names it."""
        if number == signal.SIGINT and self.number == number and not _command.room:
            raise KeyboardInterrupt
        self.number = self.number or number

    def __enter__(self) -> Preemption:
        _waiting.append(self)
        if not _command.room:
            self._previous = _handle()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that C code installed; Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
        _waiting.remove(self)


def ask(number: int) -> None:
    """Do what a signal does that comes here: tell the `Preemption` that waits, or raise `Stopped`.

    number: of the signal. To be called in the main thread, as handlers are. `Stopped` is raised
    once: what unwinds is not to be broken off by the next signal.
    """
    before = _command.asked
    if _command.room:
        _command.asked = before or number
    if _waiting:
        _waiting[-1].ask(number)
    elif not before:
        if ask_others is not None:
            ask_others(number)
        raise Stopped(number)


def asked_elsewhere(number: int) -> None:
    """This run ends by a signal that came to another process: the exit status is that one's."""
    if _command.room:
        _command.asked = _command.asked or number


def leave(number: int) -> None:
    """Leave at once, from whatever thread, with the line of a run that has nothing to save."""
    _leave(number, ENDED)


def status() -> int:
    """The exit status of a command that was asked to end: 128 + the signal's number; 143, that of
    SIGTERM, where the signal came to another process."""
    return 128 + (_command.asked or signal.SIGTERM)


def begin() -> None:
    """Take the signals of this process, which is a command and has its imports before it. To be
    called in the main thread, once."""
    global _command
    _command = _Command("starting")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    sys.unraisablehook = _unraisable
    # The first that is registered is the last that is called.
    atexit.register(_ignore)
    _handle()


@contextmanager
def command() -> Iterator[None]:
    """Context of the work of a command that has begun; the process ends after it.

    A signal that asked for the end is said in one line, and gives the exit status.
    """
    _command.room = "working"
    try:
        yield
    except BaseException as error:
        # Whatever a library made of `Stopped`: who asked for the end hears that it came.
        if not _command.asked or isinstance(error, SystemExit):
            raise
        _say(_command.asked, ENDED)
        raise SystemExit(status()) from None
    finally:
        _command.room = "ending"
        if _command.asked:
            _end_children()
            _later(os._exit, status())


def _handle() -> dict[int, Any]:
    """Takes the signals that are not ignored. -> the handlers that were there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    taken = [number for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, _on_signal) for number in taken}


def _ignore() -> None:
    """All is done, and Python takes its handlers away: a signal would change the exit status."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)


def _on_signal(number: int, frame: Any) -> None:
    del frame
    if _command.room not in ("starting", "ending"):  # which the other thread ends
        ask(number)


def _watch(reader: int) -> None:
    """Thread that sees signals as they come, whatever the main thread is doing."""
    with open(reader, "rb", buffering=0) as pipe:
        while numbers := pipe.read(1):
            number = numbers[0]
            if number not in ASKING:
                continue
            _command.interrupts += number == signal.SIGINT
            if _command.room in ("starting", "ending"):
                _leave(number, ENDED)
            elif _command.interrupts > 1:
                _leave(number, "left at once; the same command may be given again")
            elif not _waiting:
                _later(_leave, number, ENDED)


def _later(function: Callable[..., Any], *arguments: Any) -> None:
    timer = threading.Timer(_GRACE, function, arguments)
    timer.daemon = True
    timer.start()


def _leave(number: int, words: str) -> None:
    """One line, unless it was said, and the process is gone."""
    if _command.room != "ending" or not _command.asked:
        _say(number, words)
    _end_children()
    os._exit(128 + number)


def _end_children() -> None:
    """Processes that worked for this one would wait for it, or finish what nobody needs."""
    module = sys.modules.get("multiprocessing")
    for process in module.active_children() if module else ():
        process.terminate()


def _say(number: int, words: str) -> None:
    # Not by print: the main thread may be inside of it, and holds its lock.
    os.write(2, f"{signal.Signals(number).name}: {words}\n".encode())


def _unraisable(unraisable: Any) -> None:
    """`Stopped` inside a __del__ or a callback, where nobody can catch it, is no news: the command
    is left in a few seconds."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
