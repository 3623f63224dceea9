"""What a run says while it goes: metrics on disk, time, one progress line, devices."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from nid_jax.files import refusals_named
from nid_jax.reporting import tables
from nid_jax.reporting.pictures import displayed, to_uint8
from nid_jax.storage.artefacts import plain, write_text

# ---- metrics on disk --------------------------------------------------------------------------


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, in the order written; `path` is the file or its workdir.

    A last line that is torn (the run was killed as it wrote) is left out. Raises
    FileNotFoundError where there is no such file and ValueError for any other bad line.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, line {number}: a metric is a JSON object, not {line[:40]}")
        entries.append(entry)
    return entries


# How long TensorBoard may wait to see a number.
_FLUSH_SECONDS = 10


class MetricWriter:
    """Scalars to WORKDIR/metrics.jsonl and TensorBoard, pictures to TensorBoard.

    metrics.jsonl holds one JSON object a line: "step", "time" (seconds since the run began,
    taken up where an earlier process of the same run ended) and the scalars; NaN and infinities
    are null. Each line is on disk when `scalars` returns. With active=False (any process of a
    distributed run but the first) nothing is written.
    """

    def __init__(self, workdir: str | Path, *, active: bool = True):
        self.path = Path(workdir) / "metrics.jsonl"
        self._events = Path(workdir) / "events"
        self._active = active
        self._purge_step: int | None = None
        self._board: EventsWriter | None = None
        self._flushed = time.time()
        self._file: TextIO | None = None
        self._elapsed = 0.0
        self._started = time.perf_counter()
        if active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._tidy(keep=lambda entry: True)

    def _tidy(self, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        """Rewrite the file without a torn last line and without the lines that are not kept."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        entries = [entry for entry in read_metrics(self.path) if keep(entry)]
        tidied = "".join(json.dumps(entry) + "\n" for entry in entries)
        if tidied != text:
            write_text(self.path, tidied)
        self._elapsed = max((float(entry.get("time") or 0) for entry in entries), default=0.0)
        self._started = time.perf_counter()

    def truncate_after(self, step: int) -> None:
        """Drop the lines of steps later than `step`: a resumed run writes them again.

        Call it before anything is written; TensorBoard is told to hide its later events.
        """
        if not self._active:
            return
        self.close()
        self._purge_step = step + 1
        self._tidy(keep=lambda entry: int(entry.get("step", 0)) <= step)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Record named numbers of a step: Python, numpy or jax scalars."""
        if not self._active:
            return
        entry: dict[str, Any] = {"step": int(step), "time": round(self._seconds(), 3)}
        for name, value in values.items():
            array = np.asarray(value)
            if array.size != 1:
                raise ValueError(f"metric {name!r} is not a number but has shape {array.shape}")
            entry[name] = plain(array.reshape(()))
        with refusals_named(self.path):
            if self._file is None:
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - kept open
            self._file.write(json.dumps(entry, allow_nan=False) + "\n")
            self._file.flush()
        for name in values:
            if isinstance(entry[name], int | float):
                self._show(step, summary.scalar(name, entry[name]))

    def images(self, step: int, pictures: Mapping[str, Any]) -> None:
        """Send named pictures [H, W, C], floats in [0, 1] or uint8, to TensorBoard."""
        if not self._active:
            return
        for name, picture in pictures.items():
            shown = displayed(picture)
            shown = shown if shown.dtype == np.uint8 else to_uint8(shown)
            layout = "HWC" if shown.ndim == 3 else "HW"
            self._show(step, summary.image(name, shown, dataformats=layout))
        if self._board is not None:
            self._board.flush()

    def _seconds(self) -> float:
        return self._elapsed + time.perf_counter() - self._started

    def _show(self, step: int, value: Any) -> None:
        """Write a summary to TensorBoard's file, in this thread.

        tensorboardX's SummaryWriter has a thread for it, which dies of a full disk; whoever writes
        next then waits for it for ever.
        """
        with refusals_named(self._events):
            if self._board is None:
                self._events.mkdir(parents=True, exist_ok=True)
                self._board = EventsWriter(str(self._events / "events"))
                if self._purge_step is not None:
                    start = SessionLog(status=SessionLog.START)
                    self._board.write_event(Event(step=self._purge_step, session_log=start))
            now = time.time()
            self._board.write_event(Event(wall_time=now, step=int(step), summary=value))
            if now - self._flushed > _FLUSH_SECONDS:
                self._board.flush()
                self._flushed = now

    def close(self) -> None:
        """Flush and close both; writing afterwards opens them again."""
        file, board = self._file, self._board
        self._file = self._board = None
        with refusals_named(self._events):
            try:
                if board is not None:
                    board.close()
            finally:
                if file is not None:
                    file.close()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


# ---- time -------------------------------------------------------------------------------------


class Chronometer:
    """Seconds a run spends running, apart from compiling, evaluating and whatever else pauses it.

        with chronometer.pause('compile'): ...
        chronometer.advance(steps=10, signals=640)

    It starts when it is made. `state` and `restore` carry it over a restart; rate and ETA then
    count this process alone, since the next machine may be a faster one.
    """

    RUN = "run"

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._seconds = {self.RUN: 0.0}
        self._before: dict[str, float] = {}
        self._stack = [self.RUN]
        self._mark = clock()
        self.steps = self._steps_before = 0
        self.signals = self._signals_before = 0

    def _credit(self) -> None:
        now = self._clock()
        name = self._stack[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
        self._mark = now

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Count the time inside under `name`; within another pause only the inner one counts."""
        self._credit()
        self._stack.append(name)
        try:
            yield
        finally:
            self._credit()
            self._stack.pop()

    def advance(self, steps: int = 1, signals: int = 0) -> None:
        """Note that so many steps were finished, which saw so many signals."""
        self.steps += steps
        self.signals += signals

    def seconds(self, name: str = RUN) -> float:
        """Seconds counted under `name` so far, earlier processes of the run included."""
        self._credit()
        return self._before.get(name, 0.0) + self._seconds.get(name, 0.0)

    def total(self) -> float:
        """All seconds, pauses included."""
        return sum(self.summary().values())

    def summary(self) -> dict[str, float]:
        """Seconds by name: 'run' and every pause there was."""
        self._credit()
        names = [*self._before, *(name for name in self._seconds if name not in self._before)]
        return {name: self.seconds(name) for name in names}

    def signals_per_second(self) -> float:
        """Signals seen per second of running, in this process; NaN before any time has passed."""
        self._credit()
        seconds = self._seconds[self.RUN]
        return (self.signals - self._signals_before) / seconds if seconds > 0 else math.nan

    def eta(self, total_steps: int) -> float:
        """Seconds of running left until `total_steps`; NaN before this process's first step."""
        self._credit()
        done = self.steps - self._steps_before
        if done <= 0:
            return math.nan
        return self._seconds[self.RUN] / done * max(0, total_steps - self.steps)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in JSON types."""
        return {"seconds": self.summary(), "steps": self.steps, "signals": self.signals}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier process's `state`."""
        self._before = {name: float(value) for name, value in state["seconds"].items()}
        self._seconds = {self.RUN: 0.0}
        self._mark = self._clock()
        self.steps = self._steps_before = int(state["steps"])
        self.signals = self._signals_before = int(state["signals"])


# ---- the progress line ------------------------------------------------------------------------


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


# ---- devices ----------------------------------------------------------------------------------


def device_summary(
    mesh: jax.sharding.Mesh,
    parameters: Mapping[str, int],
    *,
    config_path: str | Path = "",
) -> list[str]:
    """The lines a run prints on start.

    `parameters` counts numbers by group (dictionary, router); `config_path` is the resolved
    config, left out when empty.
    """
    devices = mesh.devices.flat
    kinds = sorted({device.device_kind for device in devices})
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    counts = ", ".join(f"{name} {tables.format_count(count)}" for name, count in parameters.items())
    total = tables.format_count(sum(parameters.values()))
    lines = [
        f"devices     {mesh.devices.size} x {', '.join(kinds)}; mesh {axes}{hosts}",
        f"parameters  {total}" + (f": {counts}" if len(parameters) > 1 else ""),
    ]
    if config_path:
        lines.append(f"config      {config_path}")
    return lines
