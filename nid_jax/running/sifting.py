"""Standard error of one of several processes, without what JAX says below Python.

Run as a script beside that process, whose standard error it reads. Lines of the service that joins
processes are left out. That service ends a process whose neighbours are gone by abort(), with a
page of its own words; one line says what to do instead, unless Python has said so before.
Imports nothing but the standard library.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TextIO

LOST = (
    "another process of this run is gone; when all have ended, the same command goes on from the "
    "last checkpoint"
)
# A message of the native code, its first line: kind, date, time, thread, file:line.
_NATIVE = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([\w./]+):\d+\] ")
_OF_THE_SERVICE = (b"coordination_service", b"preemption_", b"client.h", b"distributed/")
_FATAL = b"Terminating process because the JAX distributed service"
_GREETING = b"[Gloo] Rank"


def start() -> None:
    """From now on standard error of this process goes through the sieve, and no core is left.

    What is below Python and says something on standard output, as Gloo does, says it there too:
    standard output is Python's alone.
    """
    import resource  # Windows has none

    limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limit[1]))
    sys.stderr.flush()
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    sieve = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert sieve.stdin is not None
    os.dup2(sieve.stdin.fileno(), 2, inheritable=True)
    sieve.stdin.close()
    # It ends when the last that writes to it does, after this process.
    sieve.returncode = 0
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        sys.stdout = _apart(sys.stdout)


def _apart(stream: io.TextIOWrapper) -> TextIO:
    """The same as another descriptor; its own becomes that of standard error."""
    stream.flush()
    own = os.dup(stream.fileno())
    os.dup2(2, stream.fileno(), inheritable=True)
    lines = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(own, "w")), stream.encoding, stream.errors, line_buffering=lines
    )


def sift(lines: BinaryIO, out: BinaryIO) -> None:
    """Copy lines, each as it comes, without those of the service."""
    dropping = fatal = said = False
    for line in lines:
        begins = _NATIVE.match(line)
        if begins:
            dropping = any(name in begins[1] for name in _OF_THE_SERVICE)
            fatal = fatal or (dropping and _FATAL in line)
        if line.startswith(b"error: "):
            dropping, said = False, True
        if fatal and not line.startswith(b"error: "):
            continue
        # What follows on a first line belongs to it, in whatever form.
        if not dropping and not line.startswith(_GREETING):
            _write(out, line)
    if fatal and not said:
        _write(out, f"error: {LOST}\n".encode())


def _write(out: BinaryIO, line: bytes) -> None:
    # A terminal that is gone is no reason to stop a process that still writes to this one.
    with suppress(OSError):
        out.write(line)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with open(2, "wb", buffering=0) as terminal:
        sift(sys.stdin.buffer, terminal)
