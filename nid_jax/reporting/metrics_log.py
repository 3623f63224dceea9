"""Metrics of a run on disk: scalars as JSON lines and for TensorBoard, pictures for TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from nid_jax import json_files
from nid_jax.files import refusals_named
from nid_jax.reporting.pictures import displayed, to_uint8
from nid_jax.storage.artefacts import plain, write_text

# How long TensorBoard may wait to see a number.
_FLUSH_SECONDS = 10


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
            entry = json_files.parsed(line, f"{path}, line {number}")
        except ValueError:
            if number == len(lines):
                break
            raise
        json_files.check(entry, {}, f"{path}, line {number}")
        entries.append(entry)
    return entries


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
