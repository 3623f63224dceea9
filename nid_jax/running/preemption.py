"""When a training is left: one process by its own signals, several together."""

from __future__ import annotations

import jax

from nid_jax.running import neighbours, stopping
from nid_jax.running.stopping import Preemption


class Together(Preemption):
    """`Preemption` of several processes: a signal to one of them is known to all at the next place
    where all of them can leave, `reached`."""

    def __enter__(self) -> Together:
        self._neighbours = neighbours.of_this_run()
        super().__enter__()
        self._neighbours.begin()
        return self

    @property
    def requested(self) -> bool:
        """Whether this process knows of a signal: for what it does alone, while others wait."""
        return self.number != 0 or self._neighbours.asked != 0

    def ask(self, number: int) -> None:
        """The run is to end, by that signal, once all of them know."""
        self._neighbours.tell(number)

    def reached(self) -> bool:
        """Whether all leave now."""
        if not self.number and self._neighbours.reached():
            self._leave()
        return self.number != 0

    def ended(self) -> bool:
        """Whether a signal came before the end, to which all have come now; alike in all."""
        if self._neighbours.end() and not self.number:
            self._leave()
        return self.number != 0

    def _leave(self) -> None:
        self.number = self._neighbours.number
        stopping.asked_elsewhere(self.number)

    def __exit__(self, *error: object) -> None:
        self._neighbours.cut()
        super().__exit__(*error)
        # One that came too late for all to leave by it is that of a process that works.
        if error[0] is None and not self.number and self._neighbours.asked:
            stopping.asked_elsewhere(self._neighbours.asked)
            raise stopping.Stopped(self._neighbours.asked)


def preemption_of_all() -> Preemption:
    """What this process, and all of its run, is to look at."""
    return Together() if jax.process_count() > 1 else Preemption()
