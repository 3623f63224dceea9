"""What a run says while it goes: metrics on disk, one progress line, time, memory, tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from nid_jax.run.artefacts import plain, refusals_named, write_text
from nid_jax.run.pictures import displayed, to_uint8

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
        parts += [f"{format_count(signals_per_second)} signals/s"] if signals_per_second else []
        if eta is not None and not last:
            parts.append(f"ETA {format_duration(eta)}")
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


# ---- devices, memory, versions ----------------------------------------------------------------


def device_summary(
    mesh: jax.sharding.Mesh,
    parameters: Mapping[str, int],
    *,
    peak_bytes: int = 0,
    config_path: str | Path = "",
) -> list[str]:
    """The lines a run prints on start.

    `parameters` counts numbers by group (dictionary, router, codebook); `peak_bytes` is the
    estimate of peak memory and `config_path` the resolved config; both are left out when empty.
    """
    devices = mesh.devices.flat
    kinds = sorted({device.device_kind for device in devices})
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    counts = ", ".join(f"{name} {format_count(count)}" for name, count in parameters.items())
    total = format_count(sum(parameters.values()))
    lines = [
        f"devices     {mesh.devices.size} x {', '.join(kinds)}; mesh {axes}{hosts}",
        f"parameters  {total}" + (f": {counts}" if len(parameters) > 1 else ""),
    ]
    if peak_bytes:
        lines.append(f"memory      about {format_bytes(peak_bytes)} at the peak of a step")
    if config_path:
        lines.append(f"config      {config_path}")
    return lines


def compiled_bytes(compiled: jax.stages.Compiled) -> int:
    """XLA's own estimate of what a compiled function holds at its peak; 0 where it gives none."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return int(held + analysis.temp_size_in_bytes - analysis.alias_size_in_bytes)


def peak_memory_bytes() -> dict[str, int]:
    """Most memory this process has held so far: 'host', and 'device' where the backend tells.

    'device' is the largest over local devices; on CPU there is none, as the host's counts it.
    """
    # getrusage counts in bytes on macOS and in KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    device = max(int(entry.get("peak_bytes_in_use", 0)) for entry in stats)
    return {**peak, "device": device} if device else peak


def versions() -> dict[str, str]:
    """Date, software and machine, to stand beside every number a run reports."""
    found = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
    }
    for package in ("jax", "jaxlib", "flax", "numpy"):
        found[package] = importlib.metadata.version(package)
    kinds = sorted({device.device_kind for device in jax.devices()})
    found["devices"] = f"{jax.device_count()} x {', '.join(kinds)}"
    found["machine"] = f"{_processor()}, {os.cpu_count()} cores"
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


# ---- words and tables -------------------------------------------------------------------------


def format_count(number: float) -> str:
    """A number in three digits: 950, 12.3k, 4.56M."""
    if not math.isfinite(number):
        return str(number)
    unit = next((u for u in (1e9, 1e6, 1e3) if abs(number) >= 0.9995 * u), 1.0)
    scaled = number / unit
    digits = f"{scaled:.0f}" if abs(scaled) >= 99.95 else f"{scaled:.3g}"
    return digits + {1.0: "", 1e3: "k", 1e6: "M", 1e9: "G"}[unit]


def format_bytes(number: float) -> str:
    """Bytes in binary units: 512 B, 3.2 MiB, 140 GiB."""
    if abs(number) < 1024:
        return f"{number:.0f} B"
    power = min(4, int(math.log2(abs(number)) // 10))
    scaled = number / 1024**power
    unit = ("KiB", "MiB", "GiB", "TiB")[power - 1]
    return f"{scaled:.0f} {unit}" if abs(scaled) >= 100 else f"{scaled:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: 0.42 s, 12.3 s, 3:05 min, 2:07:31 h."""
    if not math.isfinite(seconds):
        return "--"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def format_value(value: Any) -> str:
    """A table's cell: floats in four significant digits, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if 1000 <= abs(value) < 1e6:
            return f"{value:.0f}"
        return f"{value:#.4g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"
    return str(value)


def _cells(
    rows: Sequence[Sequence[Any]], headers: Sequence[str]
) -> tuple[list[list[str]], list[bool]]:
    """Text of each cell, the header's line first, and which columns hold numbers alone."""
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row has {len(row)} cells and the table {len(headers)} columns")
    numeric = [
        any(not isinstance(row[c], str) and row[c] is not None for row in rows)
        and all(row[c] is None or not isinstance(row[c], str | bool) for row in rows)
        for c in range(len(headers))
    ]
    return [list(headers), *([format_value(cell) for cell in row] for row in rows)], numeric


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Aligned text for the terminal: a header, a rule, the rows; numbers to the right."""
    lines, numeric = _cells(rows, headers)
    widths = [max(len(line[c]) for line in lines) for c in range(len(headers))]

    def aligned(line: Sequence[str]) -> str:
        cells = zip(line, widths, numeric, strict=True)
        return "  ".join(t.rjust(w) if n else t.ljust(w) for t, w, n in cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([aligned(lines[0]), rule, *map(aligned, lines[1:])])


def markdown_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """The same table in Markdown, for a table.md; a bar inside a cell is escaped."""
    lines, numeric = _cells(rows, headers)
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]) + "\n"


class CompileTime:
    """Seconds that jax spends tracing and compiling inside the block, as `seconds`."""

    _EVENTS = (
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    )

    def __init__(self):
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """The total so far."""
        return sum(end - start for start, end in self._spans)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        if event not in self._EVENTS:
            return
        end = time.perf_counter()
        # A function is traced within the tracing of the one that calls it: count it once.
        while self._spans and self._spans[-1][0] >= end - duration:
            self._spans.pop()
        self._spans.append((end - duration, end))

    def __enter__(self) -> CompileTime:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
