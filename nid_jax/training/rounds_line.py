"""How far rounds of expectation maximisation are, and whether they go on."""

import time
from typing import Any

from nid_jax import processes
from nid_jax.reporting.progress import Progress
from nid_jax.stopping import Preemption


class RoundsLine:
    """A line that says how far rounds are, none where heads come without."""

    def __init__(self, preemption: Preemption):
        self.preemption = preemption
        self.line: Progress | None = None
        self.first, self.start = 0, 0.0

    def go_on(self, done: int, total: int) -> bool:
        """Whether another round may begin."""
        now = time.monotonic()
        if self.line is None:
            # The first one is beside what is compiled and measured once.
            self.line = Progress(total, label="round", active=processes.first())
            self.first, self.start = done, now
        each = (now - self.start) / max(done - self.first, 1)
        self.line.update(done, eta=each * (total - done) if done > self.first else None)
        return not self.preemption.requested

    def __enter__(self) -> "RoundsLine":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.line is not None:
            self.line.close()
