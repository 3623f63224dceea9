"""Several processes of one run: what one does for all, what each does of its part, and errors.

In one process all of this is a plain call. In several every process makes the same calls in the
same order, as `jax.distributed` wants it; an error in one of them is raised in all, as the others
would otherwise wait for it.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")
_by_itself_now: ContextVar[bool] = ContextVar("by_itself", default=False)


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


@contextmanager
def heard() -> Iterator[None]:
    """What is printed inside is printed once, by the first process; errors are everybody's."""
    if first():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def alone() -> bool:
    """Whether no other process takes part: there is none, or this is the first within `once`."""
    return jax.process_count() == 1 or _by_itself_now.get()


def own_part(count: int) -> range:
    """Which of `count` things are this process's: as many in a row as others have, or one more."""
    index, processes = (0, 1) if alone() else (jax.process_index(), jax.process_count())
    return range(index * count // processes, (index + 1) * count // processes)


def once(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, in all of them; within it that one is alone.

    Of arrays, each gets its own on its first device. Raises what `work` raises; in other processes
    a ValueError or RuntimeError of the same words.
    """
    if alone():
        return work()
    value, error = _attempt(lambda: _by_itself(work)) if first() else (None, None)
    _raise_together(error)
    sent = pickle.dumps(value) if first() else b""
    size = max(_numbers(len(sent)))
    content = np.frombuffer(sent.ljust(size, b"\0"), np.uint8)
    found = np.asarray(multihost_utils.broadcast_one_to_all(content), np.uint8)
    return cast(T, value if first() else pickle.loads(found.tobytes()))


def gathered(work: Callable[[], T]) -> list[T]:
    """What `work` gives in every process, in their order. Raises as `once`."""
    if alone():
        return [work()]
    value, error = _attempt(work)
    _raise_together(error)
    sent = pickle.dumps(value)
    sizes = _numbers(len(sent))
    content = np.frombuffer(sent.ljust(max(sizes), b"\0"), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(content), np.uint8)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(found, sizes, strict=True)]


def together(work: Callable[[], T]) -> T:
    """This process's own `work`, once it went well in all of them. Raises as `once`."""
    if alone():
        return work()
    value, error = _attempt(work)
    _raise_together(error)
    return cast(T, value)


def everywhere(good: bool) -> bool:
    """Whether it is so in every process."""
    return all(gathered(lambda: good))


def _by_itself(work):
    token = _by_itself_now.set(True)
    try:
        return work()
    finally:
        _by_itself_now.reset(token)


def _attempt(work):
    try:
        return work(), None
    except Exception as error:  # every kind: the others wait
        return None, error


def _raise_together(error):
    """Raise the error of the first process that has one."""
    mendable = isinstance(error, ValueError | OSError)
    said = b"" if error is None else pickle.dumps((mendable, str(error)))
    sizes = _numbers(len(said))
    if not any(sizes):
        return
    content = np.frombuffer(said.ljust(max(sizes), b"\0"), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(content), np.uint8)
    if error is not None:
        raise error
    number = next(number for number, size in enumerate(sizes) if size)
    mendable, words = pickle.loads(found[number].tobytes())
    raise ValueError(words) if mendable else RuntimeError(f"process {number}: {words}")


def _numbers(value):
    """One whole number of each process."""
    halves = np.array([value >> 31, value & (2**31 - 1)], np.int32)
    return [(int(high) << 31) + int(low) for high, low in multihost_utils.process_allgather(halves)]
