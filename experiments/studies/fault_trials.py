"""Commands that are run to be disturbed: one small training in processes of its own, the rows of
what came of it, and what is compared.

The training goes on bit for bit, so that a run that was disturbed is held to one that was not.
"""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measuring import command

from nid_jax.storage import manifest

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "main.py"
# Seconds after which a process is taken for one that hangs.
_PATIENCE = 240
# Names that belong to writers under way.
_LEFT = (".tmp-*", ".old-*", ".*.lock*")


@dataclasses.dataclass(frozen=True)
class Size:
    """Of one --scale: how often each part tries, steps of the training, minutes of the soak, and
    after how many minutes the others try no more."""

    pairs: int = 20
    terms: int = 20
    kills: int = 20
    interrupts: int = 16
    damages: int = 300
    files: int = 5000
    lines: int = 600
    lines_of_runs: int = 200
    minutes: float = 10.0
    steps: int = 200
    most_minutes: float = math.inf


SIZES = {"smoke": Size(1, 1, 1, 2, 6, 60, 6, 4, 0.1, 40), "cpu": Size()}


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of a test: trials, how many held, the first that did not, what else to say."""

    test: str
    to_hold: str
    trials: int
    held: int
    wrong: str = ""
    words: str = ""
    part: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Ended:
    """Of a process: exit status, what it printed, seconds."""

    code: int
    err: str
    seconds: float


def arguments(size, folder, workdir, mode):
    """The command line of the training, or of the run that fits and reports too."""
    changes = {
        "data.num_train": 8,
        "data.num_test": 2,
        "dictionary.kind": "shared",
        "dictionary.activation": "relu",
        "dictionary.num_layers": 3,
        "dictionary.num_experts": 8,
        "dictionary.width": 8,
        "dictionary.embedding.size": 8,
        "router.kind": "codebook",
        "train.codes": "joint",
        "train.steps": size.steps,
        "train.batch_size": 4,
        "train.checkpoint_every": max(size.steps // 20, 1),
        "train.log_every": max(size.steps // 10, 1),
        "compilation_cache": folder / "compiled",
    }
    keys = [f"--config.{key}={value}" for key, value in changes.items()]
    return ["--config=image:smoke", f"--workdir={workdir}", f"--mode={mode}", *keys]


def start(words, script=MAIN, **variables):
    """A process of the command line. variables: further ones of its environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process, begun):
    """Wait for a process; one that hangs is killed, and its status -9."""
    try:
        _, err = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
    return Ended(process.returncode, err, time.monotonic() - begun)


def whole(words, script=MAIN, **variables):
    """A command from its start to its end. Raises RuntimeError where it fails."""
    begun = time.monotonic()
    found = ended(start(words, script, **variables), begun)
    if found.code:
        raise RuntimeError(f"exit status {found.code}: {found.err[-2000:]}")
    return found


def reference_of(words_of, folder):
    """(workdir of an undisturbed run, its seconds), after one that compiles what others find.

    words_of: workdir -> command line.
    """
    whole(words_of(folder / "compiling"))
    workdir = folder / "undisturbed"
    return workdir, whole(words_of(workdir)).seconds


def state_of(workdir):
    """What is to be the same bit for bit: checksums of the last checkpoint and the prior."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    items = manifest.read(workdir / "checkpoints" / str(max(steps)))["items"]
    path = workdir / "prior.npz"
    if not path.exists():
        return max(steps), items, {}
    with np.load(path) as stored:
        return max(steps), items, {name: stored[name].tobytes() for name in stored.files}


def left_in(workdir):
    """Names of what writers left."""
    return sorted(path.name for pattern in _LEFT for path in workdir.rglob(pattern))


def compared(workdir, reference):
    """What is wrong with a workdir whose run has ended, in words; '' for nothing."""
    if left := left_in(workdir):
        return f"left: {', '.join(left)}"
    return "" if state_of(workdir) == state_of(reference) else "not bit for bit the undisturbed run"


def within(minutes, cases):
    """Cases, the first and as many more as begin within the minutes."""
    begun = time.monotonic()
    for number, case in enumerate(cases):
        if number and time.monotonic() - begun > 60 * minutes:
            return
        yield case


def judge(wrongs, wrong, what):
    """Add what was wrong with a trial, '' for nothing, and say it."""
    wrongs.append(wrong)
    command.say(f"{len(wrongs)}  {what}: {wrong or 'held'}")


def row_of(test, to_hold, wrongs, words=""):
    """A row: wrongs has a text for each trial, '' where it held."""
    first = next(filter(None, wrongs), "")
    return Row(test, to_hold, len(wrongs), wrongs.count(""), first, words)


def run_parts(parts, size, scale, folder, only):
    """All parts, or those in `only`; table.md and metrics.json, written after each.

    parts: name -> function(size, folder) -> rows. Rows of other parts in the folder's metrics.json
    stay. What a part made is kept where something did not hold.
    """
    chosen = only or list(parts)
    for name in chosen:
        if name not in parts:
            raise ValueError(f"--only={name}: allowed: {', '.join(parts)}")
    folder.mkdir(parents=True, exist_ok=True)
    # What a shell's background job ignores, its children would ignore too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = _rows_in(folder)
    for name in chosen:
        begun = time.monotonic()
        place = folder.absolute() / name
        if place.exists():
            raise ValueError(f"--output={folder}: holds {name} already; give a new folder")
        place.mkdir()
        found = parts[name](size, place)
        spent = time.monotonic() - begun
        found = [dataclasses.replace(row, part=name, seconds=spent) for row in found]
        rows = [row for row in rows if row.part != name] + found
        rows.sort(key=lambda row: list(parts).index(row.part))
        for row in found:
            command.say(f"{row.test}: {row.held} of {row.trials}; {row.words}. {row.wrong}")
        if all(row.held == row.trials for row in found):
            shutil.rmtree(place)
        command.write(folder, table(rows), {"scale": scale, "rows": rows})


def _rows_in(folder):
    path = folder / "metrics.json"
    if not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def table(rows):
    """Rows in Markdown."""
    columns = {
        "test": lambda row: row.test,
        "to hold": lambda row: row.to_hold,
        "held of tried": lambda row: f"{row.held} of {row.trials}",
        "besides": lambda row: row.words or "-",
        "the first that did not": lambda row: _cell(row.wrong) or "-",
        "seconds": lambda row: f"{row.seconds:.0f}",
    }
    return f"{command.table(columns, rows)}\n\n{command.made()}"


def _cell(text):
    return " ".join(text.replace("|", "/").split())[:300]
