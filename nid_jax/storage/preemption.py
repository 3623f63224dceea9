"""Ending a run when the system or the keyboard asks for it, between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

# Windows has not all of them.
_ASKING = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]


class Preemption:
    """Context in which SIGTERM, SIGUSR1, SIGHUP and the first Ctrl-C only set `requested`.

    The loop looks at `requested` between steps, saves, and leaves; the command's exit status is 143
    then, whichever signal it was. Batch systems send SIGUSR1 some time before the end, a terminal
    that closes SIGHUP; one that is ignored, as under nohup, stays so. A second Ctrl-C raises
    KeyboardInterrupt. The handlers that were there come back on exit. Outside the main thread,
    where Python allows no handlers, nothing is caught.
    """

    def __init__(self):
        self.requested = False
        self.signal_name = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue
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
