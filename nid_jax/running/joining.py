"""Joining this process to the others of its run, and what is said where that goes wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax

from nid_jax.running import neighbours, sifting

# Seconds: without a sign of life, after which a process is gone; for all to arrive; for those that
# end for the same reason to do so together.
_HEARTBEAT, _ARRIVAL, _TOGETHER = 30, 300, 5.0
# Of a run that another attempt may bring to its end (EX_TEMPFAIL).
TRY_AGAIN = 75
# What Gloo, NCCL, MPI and the service that joins processes say of one that does not answer.
_GONE = re.compile(
    r"gloo|nccl.*(remote|peer|abort)|coordination service|heartbeat|socket closed"
    r"|connection (reset|closed|refused)|closed by peer|barrier (failed|timed out)|unhealthy",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/]+):(\d{1,5})")
_VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Of one process among several. All None: a cluster's own variables say it."""

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def place(
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """Where this process stands, by its options and else by the environment; None: it is alone.

    Raises ValueError, in one line, for options that do not go together.
    """
    given: dict[str, str | int | None] = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    typed = [name for name, value in given.items() if value is not None]
    if not distributed:
        if typed:
            raise ValueError(f"--{typed[0]}={given[typed[0]]}: allowed with --distributed")
        return None
    said = {name: f"--{name}={given[name]}" for name in typed}
    for name, variable in _VARIABLES.items():
        if name not in said and (value := environment.get(variable)):
            given[name], said[name] = value, f"{variable}={value}"
    if not said:
        return Place()
    missing = [f"--{name} or {_VARIABLES[name]}" for name in given if name not in said]
    # A cluster may know the rest, where only the address is said.
    if missing and (typed or set(said) != {"coordinator"}):
        present = ", ".join(said.values())
        raise ValueError(f"{present}: {' and '.join(missing)} must be given too, or none of them")
    return _checked(given, said)


def _checked(given, said):
    address = _ADDRESS.fullmatch(str(given["coordinator"]))
    if address is None or not 0 < int(address[2]) < 2**16:
        raise ValueError(f"{said['coordinator']}: allowed: HOST:PORT of process 0")
    if set(said) == {"coordinator"}:
        return Place(given["coordinator"])
    numbers: list[int] = []
    for name, least in (("num_processes", 1), ("process_id", 0)):
        text = str(given[name])
        most = "" if not numbers else f" to {numbers[0] - 1}, below the number of processes"
        good = text.isdecimal() and int(text) >= least and (not numbers or int(text) < numbers[0])
        if not good:
            raise ValueError(f"{said[name]}: allowed: whole numbers from {least}{most}")
        numbers.append(int(text))
    return Place(given["coordinator"], *numbers)


@contextmanager
def joined(where: Place | None) -> Iterator[None]:
    """Context of the work of this process, joined to the others unless it is alone.

    Raises ValueError where they do not come together. A process that finds another one gone says so
    in one line, and leaves with exit status TRY_AGAIN: what waits for that one would never end.
    """
    if where is None:
        yield
        return
    sifting.start()
    # Signals are agreed on by `neighbours`; JAX's own notifier would take SIGTERM from Python.
    jax.config.update("jax_enable_preemption_service", False)
    _join(where)
    try:
        neighbours.of_this_run()
        yield
    except Exception as error:
        if reason := _others_are_gone(error):
            sys.stdout.flush()
            os.write(2, f"error: {sifting.LOST} ({reason})\n".encode())
            os._exit(TRY_AGAIN)
        # Others end for the same reason, or wait for this process until it is gone.
        _leave_soon(2 if isinstance(error, ValueError | OSError) else 1)
        raise


def _join(where: Place) -> None:
    try:
        jax.distributed.initialize(
            where.coordinator,
            where.num_processes,
            where.process_id,
            initialization_timeout=_ARRIVAL,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except ValueError as error:
        raise ValueError(
            "--distributed: no cluster was found (Slurm, Open MPI, Kubernetes, TPU); "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I say where this process is, "
            f"--local_processes=N starts them here ({error})"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(
            f"--distributed: the processes did not come together at {_address(where)}: {reason}"
        ) from error


def _address(where):
    return where.coordinator or "the address that the cluster gives"


def _others_are_gone(error: BaseException | None) -> str:
    """What the transport says where an error is of a process that does not answer; else ''."""
    while error is not None:
        text = " ".join(str(error).split())
        if isinstance(error, RuntimeError | ValueError) and _GONE.search(text):
            return text[:120]
        error = error.__cause__ or error.__context__
    return ""


def _leave_soon(status: int) -> None:
    timer = threading.Timer(_TOGETHER, os._exit, (status,))
    timer.daemon = True
    timer.start()
