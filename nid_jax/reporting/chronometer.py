"""Where the time of a run goes: running, compiling, evaluating, and how much of it is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


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
