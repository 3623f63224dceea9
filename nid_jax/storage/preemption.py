"""Ending a run when the system or the keyboard asks for it, between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Preemption:
    """Context in which SIGTERM and the first Ctrl-C set `requested` instead of ending the process.

    The loop looks at `requested` between steps, saves, and leaves. A second Ctrl-C raises
    KeyboardInterrupt. The handlers that were there come back on exit. Outside the main thread,
    where Python allows no handlers, nothing is caught.
    """

    def __init__(self):
        self.requested = False
        self.signal_name = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: Any) -> None:
        del frame
        self.requested = True
        self.signal_name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that C code installed; Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
