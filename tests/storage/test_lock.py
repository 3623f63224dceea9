"""A place has one writer; of one that is gone nothing is in the way."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nid_jax.storage import lock

ROOT = Path(__file__).resolve().parents[2]


def take(path):
    return lock.held(path, path.parent, "a training", "wait for it")


def refused(path):
    with pytest.raises(lock.Busy) as excinfo, take(path):
        pass
    text = str(excinfo.value)
    assert "\n" not in text
    return text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / ".checkpoints.lock"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lock, "SETTLED", 0.02)


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_second_is_refused_and_told_whom_to_wait_for(path):
    assert not lock.is_held(path)
    with take(path):
        assert lock.is_held(path)
        content = json.loads(path.read_text())
        assert {"host", "process", "started"} <= set(content)
        text = refused(path)
        with pytest.raises(lock.Busy, match=re.escape(text)):
            lock.check_free(path, path.parent, "a training", "wait for it")
        since = rf"in process {os.getpid()} since \d+-\d\d-\d\d \d\d:\d\d:\d\d"
        assert re.fullmatch(rf"{path.parent}: a training is under way {since}; wait for it", text)
        assert json.loads(path.read_text()) == content
    assert not path.parent.exists()
    assert not lock.is_held(path)


def test_what_was_written_beside_it_stays(path):
    with take(path):
        (path.parent / "config.json").touch()
    assert os.listdir(path.parent) == ["config.json"]


HOLD = """
import sys, time
from pathlib import Path
from nid_jax.storage import lock
path = Path(sys.argv[1])
with lock.held(path, path.parent, "a training", ""):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_no_lock(path):
    process = python(HOLD, path)
    assert process.stdout.readline() == "held\n"
    assert f"in process {process.pid} since" in refused(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    with take(path):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert not path.exists()


def test_a_dead_ones_file_goes_when_it_is_looked_at(path):
    process = python(HOLD, path)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    assert not lock.is_held(path)
    assert not path.exists()


def elsewhere(path, age, machine="another"):
    """A file that a holder left, `age` seconds after its last sign of life."""
    path.parent.mkdir(parents=True)
    content = {"host": "node7", "machine": machine, "process": 17, "started": "2026-01-02 03:04:05"}
    path.write_text(json.dumps(content))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))


def test_a_holder_on_another_machine_lives_while_it_shows_signs(path):
    elsewhere(path, 5)
    text = refused(path)
    assert "in process 17 on node7 since 2026-01-02 03:04:05, it seems" in text
    assert f"go on in 60 s, or remove {path}" in text
    assert lock.is_held(path)
    assert json.loads(path.read_text())["host"] == "node7"
    assert os.listdir(path.parent) == [path.name]


def test_a_holder_on_another_machine_is_gone_without(path):
    elsewhere(path, 2 * lock.STALE)
    with take(path):
        assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("kind", ["no module", "no locks"])
def test_where_the_system_has_no_locks_signs_of_life_count(path, monkeypatch, kind):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    if kind == "no module":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", flock)
    with take(path):
        assert f"in process {os.getpid()} since" in refused(path)
        assert lock.is_held(path)
    assert not path.exists()
    elsewhere(path, 2 * lock.STALE, lock._machine())
    with take(path):
        pass


def test_a_holder_shows_signs(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with take(path):
        os.utime(path, (1, 1))
        while path.stat().st_mtime == 1:
            pass


def test_other_errors_name_the_place(path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(ValueError, match=f"^{path.parent}: cannot be written: "), take(path):
        pass


CONTEND = """
import os, sys, time
from pathlib import Path
from nid_jax.storage import lock
path, inside = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
for child in range(3):
    if not os.fork():
        break
until = time.monotonic() + 0.7
lock.SETTLED = 0.02
while time.monotonic() < until:
    try:
        with lock.held(path, path.parent, "", ""):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            done += 1
            os.unlink(inside)
    except lock.Busy:
        pass
os.write(1, f"{done}\\n".encode())
os._exit(0)
"""


def test_never_two_at_a_time(path, tmp_path):
    """The file goes and comes all the while."""
    path.parent.mkdir()
    out, _ = python(CONTEND, path, tmp_path / "inside").communicate(timeout=60)
    counts = [int(line) for line in out.split()]
    assert len(counts) == 4
    assert sum(counts) > 40
    assert os.listdir(path.parent) == []
