"""The commands of experiments, each in a process of its own at its smallest scale."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="session")
def smoke(environment):
    """smoke(name, folder, *arguments, code=0) -> the finished process, which ended with `code`."""

    def run(name, folder, *arguments, code=0):
        script = str(FOLDER / f"{name}.py")
        done = subprocess.run(
            [sys.executable, script, "--scale=smoke", f"--output={folder}", *arguments],
            capture_output=True,
            text=True,
            timeout=600,
            env={**environment, "JAX_PLATFORMS": "cpu"},
        )
        assert done.returncode == code, done.stderr[-2000:]
        return done

    return run
