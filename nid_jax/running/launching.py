"""Several processes of one run on this machine, for trying it out: --local_processes=N."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from nid_jax.running.stopping import ASKING, Preemption

PARENT = "NID_JAX_PARENT"
"""Environment variable: the descriptor that closes when whoever started this process is gone."""
_OPTION = re.compile(r"--?local_processes(=.*)?", re.DOTALL)
# Seconds: that others have to say what they know once one is gone; between two looks.
_GRACE, _LOOK = 10.0, 0.05


def command_of(words: Sequence[str], count: int, number: int, port: int) -> list[str]:
    """The command line of process `number`: this one's, with its place instead of the option."""
    kept: list[str] = []
    given = iter(words)
    for word in given:
        found = _OPTION.fullmatch(word)
        if found and found[1] is None:
            next(given, None)
        elif not found:
            kept.append(word)
    here = f"--coordinator=127.0.0.1:{port} --num_processes={count} --process_id={number}"
    return [sys.executable, *kept, "--distributed", *here.split()]


def run(count: int) -> int:
    """Start `count` processes of this command, and wait for all. -> the first status but 0.

    A signal to end goes on to all of them. Where one is gone otherwise, the others end.
    Shown is what the first says; of the others, what they say of an error and none said before.
    """
    alive, ours = os.pipe()
    port = _free_port()
    shown = _Shown()
    processes = []
    with Preemption() as preemption:
        for number in range(count):
            command = command_of(sys.orig_argv[1:], count, number, port)
            processes.append(_start(command, number, alive, shown))
        os.close(alive)
        status = _wait(processes, preemption, shown)
    os.close(ours)
    return status


def follow_parent(environment: Mapping[str, str] = os.environ) -> None:
    """Ask this process to end once whoever started it is gone; to be called when it has begun."""
    if PARENT in environment:
        file = int(environment[PARENT])
        os.set_inheritable(file, False)
        threading.Thread(target=_follow, args=(file,), daemon=True).start()


def _follow(file: int) -> None:
    os.read(file, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _Shown:
    """Lines on standard error: those of the first process as they come, of others at their end."""

    def __init__(self) -> None:
        self.lines: set[bytes] = set()
        self.of_others: dict[int, list[bytes]] = {}
        self.readers: dict[int, threading.Thread] = {}

    def read(self, number: int, lines: IO[bytes]) -> None:
        """In a thread, as long as the process says something."""
        kept = self.of_others.setdefault(number, [])
        for line in lines:
            if number == 0:
                self.write(line)
            else:
                kept.append(line)
                del kept[:-100]

    def errors(self, number: int) -> None:
        """What a process that failed has said."""
        self.readers[number].join(_GRACE)
        kept = self.of_others[number]
        first = next((at for at, line in enumerate(kept) if line.startswith(_WRONG)), len(kept))
        for line in kept[first:]:
            self.write(line)

    def write(self, line: bytes) -> None:
        """Unless it was shown before and says what is wrong: all may say the same."""
        if line not in self.lines or not line.startswith(_WRONG):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
        self.lines.add(line)

    def wrong(self) -> bool:
        """Whether some line said what is wrong."""
        return any(line.startswith(_WRONG) for line in self.lines)


_WRONG = (b"error: ", b"Traceback ")


def _start(command: list[str], number: int, alive: int, shown: _Shown) -> subprocess.Popen:
    environment = {"JAX_LOCAL_DEVICE_IDS": str(number), **os.environ, PARENT: str(alive)}
    process = subprocess.Popen(
        command,
        env=environment,
        pass_fds=(alive,),
        # A terminal's signals come from here, once.
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=None if number == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    reader = threading.Thread(target=shown.read, args=(number, process.stderr), daemon=True)
    shown.readers[number] = reader
    reader.start()
    return process


def _wait(processes: Sequence[subprocess.Popen], preemption: Preemption, shown: _Shown) -> int:
    status, forwarded, gone, gone_at = 0, False, "", float("inf")
    running = dict(enumerate(processes))
    while running:
        if preemption.requested and not forwarded:
            forwarded = True
            _send(running, preemption.number)
        for number, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[number]
            status = status or (code if code >= 0 else 128 - code)
            if code == 0:
                continue
            by = -code if code < 0 else code - 128
            if by in ASKING and not forwarded:
                # Before it was joined to the others: they would wait for it.
                forwarded = True
                _send(running, by)
            elif by not in ASKING:
                shown.errors(number)
                gone = gone or f"process {number} {_ending(code)}"
                gone_at = min(gone_at, time.monotonic())
        if running and time.monotonic() > gone_at + _GRACE:
            for process in running.values():
                process.kill()
            gone_at = float("inf")
        time.sleep(_LOOK)
    for reader in shown.readers.values():
        reader.join(_GRACE)
    if gone and not shown.wrong():
        shown.write(f"error: {gone}; the same command goes on from the last checkpoint\n".encode())
    return status


def _send(running: Mapping[int, subprocess.Popen], number: int) -> None:
    for process in running.values():
        process.send_signal(number)


def _ending(code: int) -> str:
    return f"left with status {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
