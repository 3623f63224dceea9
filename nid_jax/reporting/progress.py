"""The one line that says how far a run is."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from nid_jax.reporting import tables


class Progress:
    """One line that says how far a run is: step, loss, PSNR, signals per second, time left.

    On a terminal it is rewritten in place; elsewhere (a file, a pipe) a plain line is printed at
    most every `every` seconds, and one for the last step. active=False prints nothing.
    """

    def __init__(
        self,
        total: int,
        *,
        label: str = "step",
        stream: TextIO | None = None,
        every: float = 10.0,
        active: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._label = total, label
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = 0.1 if self._terminal else every
        self._active = active
        self._clock = clock
        self._last = -math.inf
        self._shown = ""

    def update(
        self,
        step: int,
        *,
        loss: float | None = None,
        psnr: float | None = None,
        signals_per_second: float | None = None,
        eta: float | None = None,
    ) -> None:
        """Show where the run is; what is None is left out. Cheap to call at every log."""
        now = self._clock()
        last = step >= self._total
        if not self._active or (now - self._last < self._every and not last):
            return
        self._last = now
        width = len(str(self._total))
        parts = [f"{self._label} {step:>{width}}/{self._total}"]
        parts += [f"loss {loss:.3e}"] if loss is not None else []
        parts += [f"PSNR {psnr:5.2f} dB"] if psnr is not None else []
        parts += (
            [f"{tables.format_count(signals_per_second)} signals/s"] if signals_per_second else []
        )
        if eta is not None and not last:
            parts.append(f"ETA {tables.format_duration(eta)}")
        self._show("  ".join(parts))

    def _show(self, line: str) -> None:
        if self._terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            self._stream.write("\r" + line.ljust(len(self._shown)))
            self._shown = line
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def message(self, text: str) -> None:
        """Print a line of its own without tearing the progress line."""
        if not self._active:
            return
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
        self._stream.write(text + "\n" + self._shown)
        self._stream.flush()

    def close(self) -> None:
        """End the line, so that what is printed next begins on a new one."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class RoundsProgress:
    """A line that says how far rounds are, none where there are none.

    stopped: whether no further round may begin; active=False prints nothing.
    """

    def __init__(self, stopped: Callable[[], bool], active: bool = True):
        self._stopped, self._active = stopped, active
        self._line: Progress | None = None
        self._first, self._start = 0, 0.0

    def go_on(self, done: int, total: int) -> bool:
        """Whether another round may begin."""
        now = time.monotonic()
        if self._line is None:
            # The first one is beside what is compiled and measured once.
            self._line = Progress(total, label="round", active=self._active)
            self._first, self._start = done, now
        each = (now - self._start) / max(done - self._first, 1)
        self._line.update(done, eta=each * (total - done) if done > self._first else None)
        return not self._stopped()

    def __enter__(self) -> RoundsProgress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._line is not None:
            self._line.close()
