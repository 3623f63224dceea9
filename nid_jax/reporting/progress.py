"""The one line that says how far a run is."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, Self, TextIO

from nid_jax.reporting import tables

# Seconds in which nothing is said of what is counted.
_QUIET = 2.0


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


class Counted:
    """A line that says how many are done of how many, and how long the others will take.

    None in the first two seconds of each thing counted: what is short needs none. label: what is
    counted; active=False prints nothing; further arguments are those of `Progress`.
    """

    def __init__(self, label: str, active: bool = True, **options: Any):
        self._label, self._options = label, {"active": active, **options}
        self._clock: Callable[[], float] = options.get("clock", time.monotonic)
        self._line: Progress | None = None
        self._counted, self._first, self._start = "", 0, 0.0

    def update(self, done: int, total: int, label: str = "") -> None:
        """So many are done. label: where another thing is counted than at first."""
        now, label = self._clock(), label or self._label
        if self._line is None or label != self._counted:
            self.close()
            # The first one is beside what is compiled and measured once.
            self._line, self._counted = Progress(total, label=label, **self._options), label
            self._first, self._start = done, now
        if now - self._start >= _QUIET:
            each = (now - self._start) / max(done - self._first, 1)
            self._line.update(done, eta=each * (total - done) if done > self._first else None)

    def close(self) -> None:
        """End the line."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
