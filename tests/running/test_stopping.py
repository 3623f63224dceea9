"""A run that is asked to end is asked once, and insisted on the second time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nid_jax.running import stopping
from nid_jax.running.stopping import Preemption

ROOT = Path(__file__).resolve().parents[2]


def signal_self(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs handlers between two instructions of the main thread


@pytest.fixture(autouse=True)
def not_ignored():
    """Signals as a terminal leaves them: a shell's background jobs begin with some ignored."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_to_end_only_ask():
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    numbers = [getattr(signal, name) for name in names]
    before = [signal.getsignal(number) for number in numbers]
    for number, name in zip(numbers, names, strict=True):
        with Preemption() as preemption:
            assert not preemption.requested
            signal_self(number)
            assert preemption.requested
            assert preemption.signal_name == name
        assert [signal.getsignal(number) for number in numbers] == before


def test_under_nohup_a_closed_terminal_asks_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            signal_self(signal.SIGHUP)
            assert not preemption.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        signal_self(signal.SIGINT)
        assert preemption.requested
        with pytest.raises(KeyboardInterrupt):
            signal_self(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_neighbours_signal_is_as_good_as_ones_own():
    with Preemption() as preemption:
        stopping.ask(signal.SIGUSR1)
        assert preemption.requested
        assert preemption.signal_name == "SIGUSR1"
    assert stopping.status() == 143  # none came here, and no command was under way
    with pytest.raises(stopping.Stopped, match="SIGHUP"):
        stopping.ask(signal.SIGHUP)


# Whole commands, of the standard library only

BODY = """
import os, sys, time, hashlib
from nid_jax.running import stopping
stopping._GRACE = 0.3
stopping.begin()
def ready():
    os.write(1, b".")
def deep():
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no handler of Python is called inside
def slow():
    ready()
    time.sleep(60)
"""
ENDED = f": {stopping.ENDED}\n"


def stopped(code, *numbers):
    """(exit status, standard error, seconds) of a command that gets signals once it is ready."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", BODY + code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = time.monotonic()
    for number in numbers:
        assert process.stdout.read(1) == "."
        time.sleep(0.05)  # two that come at once are one
        begun = time.monotonic()
        process.send_signal(number)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, err, time.monotonic() - begun


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_while_it_starts_one_line_and_gone(name):
    number = getattr(signal, name)
    code, err, _ = stopped("deep()", number)
    assert (code, err) == (128 + number, name + ENDED)


def test_work_is_unwound(tmp_path):
    body = f"""
with stopping.command():
    try:
        slow()
    finally:
        open({str(tmp_path / "unwound")!r}, "w")
"""
    assert stopped(body, signal.SIGTERM)[:2] == (143, "SIGTERM" + ENDED)
    assert (tmp_path / "unwound").exists()


def test_whatever_became_of_the_exception_it_is_one_line():
    body = """
with stopping.command():
    try:
        slow()
    except BaseException as error:
        raise RuntimeError("a library's own") from error
"""
    assert stopped(body, signal.SIGHUP)[:2] == (129, "SIGHUP" + ENDED)


def test_one_that_does_not_come_out_is_left():
    swallowed = """
with stopping.command():
    try:
        slow()
    except BaseException:
        slow()
"""
    for body in (swallowed, "with stopping.command():\n    deep()"):
        code, err, seconds = stopped(body, signal.SIGINT)
        assert (code, err) == (130, "SIGINT" + ENDED)
        assert 0.2 < seconds < 5


def test_what_saves_is_waited_for_and_the_second_interrupt_is_not():
    saving = """
with stopping.command(), stopping.Preemption() as preemption:
    ready()
    while not preemption.requested:
        time.sleep(0.01)
    time.sleep(1)  # longer than others are waited for
    print("saved")
    raise SystemExit(stopping.status())
"""
    code, err, seconds = stopped(saving, signal.SIGTERM)
    assert (code, err) == (143, "")
    assert seconds > 1
    twice = """
with stopping.command(), stopping.Preemption() as preemption:
    ready()
    deep()
"""
    code, err, seconds = stopped(twice, signal.SIGINT, signal.SIGINT)
    assert (code, err) == (130, "SIGINT: left at once; the same command may be given again\n")
    assert seconds < 5


def test_while_the_interpreter_closes_it_is_one_line_too():
    closing = """
import atexit
atexit.register(slow)
with stopping.command():
    pass
"""
    assert stopped(closing, signal.SIGINT)[:2] == (130, "SIGINT" + ENDED)


def test_an_error_is_still_an_error():
    code, err, _ = stopped(
        "ready()\nwith stopping.command():\n    time.sleep(0.1)\n    raise KeyError('mine')",
        signal.SIGCHLD,
    )
    assert code == 1
    assert err.endswith("KeyError: 'mine'\n")


@pytest.mark.parametrize(
    "command", [["main.py"], ["-m", "nid_jax"], ["-m", "nid_jax.data.prepare"]]
)
def test_an_interrupt_among_the_imports(command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *command, "--config=image"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # As soon as it has taken the signals: bits of its status.
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("this system does not tell of its processes")
    caught = 1 << (signal.SIGUSR1 - 1)
    while process.poll() is None:
        line = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(line.split()[1], 16) & caught:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "SIGINT" + ENDED)


@pytest.mark.parametrize("command", [["main.py"], ["-m", "nid_jax"]])
def test_an_interrupt_among_the_first_imports_is_no_traceback(tmp_path, environment, command):
    """It comes with the first import behind the one of signals: before that it is Python's own."""
    interrupt = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    stub = "attach_stub = lambda *_: (None, None, [])\n"
    (tmp_path / "lazy_loader.py").write_text(interrupt if command == ["main.py"] else stub)
    (tmp_path / "threading.py").write_text(interrupt)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_one_that_comes_when_all_is_done_changes_nothing():
    body = """
class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), write=os.write, sleep=time.sleep):
        write(2, b"last")  # after the handlers of Python
        kill(process, 2)
        sleep(0.05)
kept = Last()
with stopping.command():
    pass
"""
    assert stopped(body)[:2] == (0, "last")
