"""The command that serves the demonstration: what it says, and how it ends."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nid_jax.running import stopping

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio"),
]


@pytest.fixture
def begun(tmp_path):
    """(*arguments) -> the command, whose temporary files lie in tmp_path."""
    processes = []

    def begin(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        environment.pop("GRADIO_TEMP_DIR", None)
        process = subprocess.Popen(
            [sys.executable, "-m", "nid_jax.demo", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a terminal leaves it, also where this runs in a shell's background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def until(process, words):
    """The line of the command that has these words."""
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(process.stderr.read())


def ended(process, number=signal.SIGINT):
    """(exit status, standard error) after a signal; it may take no longer than two seconds."""
    start = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 2
    return process.returncode, said


ONE_LINE = f"SIGINT: {stopping.ENDED}\n"


@pytest.mark.parametrize("words", ["starting", "compiling"])
def test_an_interrupt_before_the_page_is_one_line(begun, words, tmp_path):
    process = begun("--port=0")
    until(process, words)
    time.sleep(1)
    assert ended(process) == (130, ONE_LINE)
    assert not list(tmp_path.glob("nid_jax_demo_*"))


def test_an_interrupt_while_the_page_is_served_is_one_line(begun, tmp_path):
    process = begun("--port=0")
    address = until(process, "open http").split("open ")[1].split()[0]
    with urllib.request.urlopen(address) as page:
        assert page.status == 200
    assert list(tmp_path.glob("nid_jax_demo_*"))
    # Other tabs are inside the compiler by then.
    time.sleep(1)
    assert ended(process) == (130, ONE_LINE)
    assert not list(tmp_path.glob("nid_jax_demo_*"))


def test_a_port_that_is_taken_is_one_line_before_anything_is_compiled(begun):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = begun(f"--port={port}")
        out, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.startswith(f"error: --port={port}: ")
    assert said.count("\n") == 1
    assert "compiling" not in out
