"""Commands of several processes on this machine: how they end, and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


def start(workdir, tiny, environment):
    """A training in two processes that would last for hours. -> it, and the two of them."""
    words = [*tiny, f"--workdir={workdir}", "--mode=train", "--local_processes=2"]
    words += ["--config.mesh.data=0", "--config.train.checkpoint_every=0"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *words, "--config.train.steps=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "JAX_PLATFORMS": "cpu"},
    )
    deadline = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    return process, [int(number) for number in children]


@pytest.mark.slow
def test_sigterm_to_one_of_two_is_both_s(tmp_path, tiny, environment):
    process, (_, second) = start(tmp_path / "run", tiny, environment)
    os.kill(second, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    (saved,) = (int(name) for name in os.listdir(tmp_path / "run" / "checkpoints"))
    said = [line for line in err.splitlines() if line.startswith("SIGTERM")]
    assert said == [f"SIGTERM: saved step {saved}; the same command resumes"]
    assert "Traceback" not in err
    # Both came to the same step: what each has of the data order is beside the rest.
    states = tmp_path / "run" / "checkpoints" / str(saved) / "iterator"
    assert len(list(states.glob("process_*-of-2.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_killed_ends_the_other_in_one_line(tmp_path, tiny, environment, which):
    process, children = start(tmp_path / "run", tiny, environment)
    os.kill(children[which], signal.SIGKILL)
    begun = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60
    assert process.returncode in (75, 134, 137)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "the same command goes on from the last checkpoint" in lines[0]
    assert "Traceback" not in err


@pytest.mark.slow
def test_no_process_outlives_the_command(tmp_path, tiny, environment):
    process, children = start(tmp_path / "run", tiny, environment)
    process.kill()
    process.communicate(timeout=120)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{n}").exists() for n in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{number}").exists() for number in children)
    (saved,) = os.listdir(tmp_path / "run" / "checkpoints")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert int(saved) == max(steps)
