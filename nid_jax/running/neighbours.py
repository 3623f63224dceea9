"""Ending together: a signal that comes to one of several processes is every one's.

Who is asked to end writes so to the key-value store of `jax.distributed`. In each process a thread
waits for that word, and writes how often the training there has asked whether to leave: `reached`,
called by all of them in the same order, once for each place where a run can be left. All of them
leave at the first such place that none has passed yet. A thread holds its process there until it
knows which it is, and asks nothing of the main thread, which may be compiling, or wait for the
others inside of a step.

Where a process is not in training, all of them are gone at once: there is nothing to save.

This is what `multihost_utils.reached_preemption_sync_point` does, whose notifier knows SIGTERM
alone, takes it from Python, and is moved by the numbers of steps that orbax tells it as it saves.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from contextlib import suppress
from typing import Any

import jax
from jax._src import distributed  # the client has no public name

from nid_jax.running import stopping

_ASKED, _PLACE = "nid_jax/asked", "nid_jax/place"
_NOT_TRAINING = -1
# Seconds between two looks whether another one was asked.
_LOOK = 1.0
# Milliseconds: for the others to say where they are, and to come to the end.
_ANSWER, _END = 60_000, 24 * 3_600_000


class Neighbours:
    """The other processes of this run."""

    def __init__(self, client: Any, index: int, count: int):
        self.number = 0
        """Of the signal that ends the run, known once it is to be left."""
        self._client, self._index, self._count = client, index, count
        self._lock = threading.Lock()
        self._calls = _NOT_TRAINING
        self._until: int | None = None
        self._trainings = 0
        self.asked = 0
        """The signal to one of them, once this process knows; others may not yet."""
        self._told = self._ending = False
        self._closed = threading.Event()
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        # Python aborts where a thread is still inside of the client as it closes.
        atexit.register(self._close)

    def tell(self, number: int) -> None:
        """This process was asked to end by that signal. To be called by a handler, so without the
        lock that its thread may hold."""
        self.asked, self._told = self.asked or number, True
        self._set(_ASKED, number)
        if self._calls == _NOT_TRAINING:
            self._set(f"{_PLACE}/{self._index}", _NOT_TRAINING)

    def begin(self) -> None:
        """A training begins."""
        with self._lock:
            self._calls = 0

    def reached(self) -> bool:
        """Whether the training is to be left here."""
        with self._lock:
            self._calls += 1
            return self._until is not None and self._calls >= self._until

    def end(self) -> bool:
        """The training has ended, in all processes. -> whether a signal came before."""
        with self._lock:
            self._ending = True
        self._trainings += 1
        here = f"nid_jax/trained/{self._trainings}"
        self._client.wait_at_barrier(here, _END)
        if self._index == 0:
            found = "0"
            with suppress(jax.errors.JaxRuntimeError):  # where nobody was asked
                found = self._client.key_value_try_get(_ASKED)
            self._client.key_value_set(here, found)
        # One process decides: a signal may come between the looks of two.
        self.number = int(self._client.blocking_key_value_get(here, _ANSWER))
        self.cut()
        return self.number > 0

    def cut(self) -> None:
        """The training has ended in this process."""
        with self._lock:
            self._calls, self._ending = _NOT_TRAINING, False

    def _set(self, key: str, value: int) -> None:
        # It was said before, or the store is gone with the first process, which is seen elsewhere.
        with suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(key, str(value))

    def _listen(self) -> None:
        try:
            number = self._heard()
            if number == 0:
                return
            self.asked = number
            with self._lock:
                training, ending = self._calls != _NOT_TRAINING, self._ending or self.number
                self._set(f"{_PLACE}/{self._index}", self._calls)
                wait = self._client.blocking_key_value_get
                calls = [int(wait(f"{_PLACE}/{n}", _ANSWER)) for n in range(self._count)]
                together = min(calls) != _NOT_TRAINING
                if together:
                    self.number, self._until = number, max(calls) + 1
        except jax.errors.JaxRuntimeError:
            return  # a process is gone, or this one is at its end
        # At the end of a training its own thread looks at `asked`.
        if together or ending or (self._told and not training):
            return
        if training:
            stopping.leave(number)
        ignored = signal.getsignal(number) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM if ignored else number)

    def _heard(self) -> int:
        """The signal that one of them was asked to end by, once there is one; 0 at the end."""
        while not self._closed.wait(_LOOK):
            try:
                return int(self._client.key_value_try_get(_ASKED))
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" not in str(error):
                    raise
        return 0

    def _close(self) -> None:
        self._closed.set()
        self._listening.join()


_known: Neighbours | None = None


def of_this_run() -> Neighbours:
    """Those of this process, which `jax.distributed` has joined to them."""
    global _known
    if _known is None:
        client = distributed.global_state.client
        _known = Neighbours(client, jax.process_index(), jax.process_count())
        stopping.ask_others = _known.tell
    return _known
