"""What becomes of a workdir when two want it, or when its run is killed or interrupted.

    python experiments/faults_workdir.py --scale=smoke|cpu [--only=PART,...] --output=DIR

Whole commands, in processes of their own, of one small training that goes on bit for bit. Moments
are drawn, the same ones each time. PARTS: name -> function(Size, folder) -> Row. table.md and
metrics.json are written again after every part.
"""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags
from measuring import command

from nid_jax.storage import artefacts, manifest

MAIN = Path(__file__).resolve().parents[1] / "main.py"
# Seconds after which a process is taken for one that hangs.
_PATIENCE = 240
# Names that belong to writers under way.
_LEFT = (".tmp-*", ".old-*", ".*.lock*")
# Seconds after the start of the process at which it may first be interrupted.
_EARLIEST = 0.05


@dataclasses.dataclass(frozen=True)
class Size:
    """Of one --scale: how often, and steps of the training."""

    pairs: int
    kills: int
    interrupts: int
    steps: int


SIZES = {"smoke": Size(1, 1, 2, 40), "cpu": Size(20, 6, 16, 200)}


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of one part: trials, how many were as they should be, the first that was not."""

    part: str
    trials: int
    good: int
    wrong: str
    words: str
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


def start(words):
    """A process of the command line."""
    environment = {**os.environ, "PYTHONPATH": str(MAIN.parent)}
    return subprocess.Popen(
        [sys.executable, str(MAIN), *words],
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


def whole(words):
    """A command from its start to its end. Raises RuntimeError where it fails."""
    begun = time.monotonic()
    found = ended(start(words), begun)
    if found.code:
        raise RuntimeError(f"exit status {found.code}: {found.err[-2000:]}")
    return found


def struck(words, number, moment):
    """A command that gets a signal `moment` seconds after its start."""
    begun = time.monotonic()
    process = start(words)
    time.sleep(max(0.0, moment - (time.monotonic() - begun)))
    process.send_signal(number)
    return ended(process, begun)


def state_of(workdir):
    """What is to be the same bit for bit: checksums of the last checkpoint and the prior."""
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
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


def reference_of(size, folder, mode):
    """(workdir of an undisturbed run, its seconds), after one that compiles what others find."""
    whole(arguments(size, folder, folder / "compiling", mode))
    workdir = folder / "undisturbed"
    return workdir, whole(arguments(size, folder, workdir, mode)).seconds


def judge(wrongs, wrong, what):
    """Add what was wrong with a trial, '' for nothing, and say it."""
    wrongs.append(wrong)
    command.say(f"{len(wrongs)}  {what}: {wrong or 'as it should be'}")


def row_of(part, wrongs, words):
    """A row: wrongs has a text for each trial, '' where all was as it should be."""
    first = next(filter(None, wrongs), "")
    return Row(part, len(wrongs), wrongs.count(""), first, words)


# ---- the parts ----------------------------------------------------------------------------------


def two_trainings(size, folder):
    """Two trainings in one workdir: the later one is refused in one line, the other unharmed."""
    reference, seconds = reference_of(size, folder, "train")
    draw, wrongs, waits = random.Random(1), [], []
    for pair in range(size.pairs):
        workdir = folder / f"pair-{pair}"
        words = arguments(size, folder, workdir, "train")
        begun = time.monotonic()
        first = start(words)
        # From the same moment to where the first is half done when the second asks.
        time.sleep(0 if pair % 4 == 0 else draw.uniform(0, seconds / 3))
        after = time.monotonic()
        second = start(words)
        both = [ended(second, after), ended(first, begun)]
        refused, trained = sorted(both, key=lambda one: one.code == 0)
        waits.append(refused.seconds)
        wrong = _pair_wrong(refused, trained) or compared(workdir, reference)
        judge(wrongs, wrong, f"refused after {refused.seconds:.1f} s")
    return row_of(
        "two trainings at once", wrongs, f"refused {np.median(waits):.1f} s after its start"
    )


def _pair_wrong(refused, trained):
    if (trained.code, refused.code) != (0, 2):
        return f"exit statuses {trained.code} and {refused.code}: {refused.err[-300:]}"
    lines = [line for line in refused.err.splitlines() if not line.startswith("note: ")]
    one = len(lines) == 1 and lines[0].startswith("error: ") and "is under way" in lines[0]
    return "" if one else f"refused with {refused.err[-300:]!r}"


def killed(size, folder):
    """kill -9 at any moment of a training: the same command goes on, bit for bit."""
    reference, seconds = reference_of(size, folder, "train")
    draw, wrongs, saved = random.Random(2), [], 0
    for trial in range(size.kills):
        workdir = folder / f"killed-{trial}"
        words = arguments(size, folder, workdir, "train")
        moment = draw.uniform(0.2, 1) * seconds
        struck(words, signal.SIGKILL, moment)
        saved += any((workdir / "checkpoints").glob("[0-9]*"))
        whole(words)
        judge(wrongs, compared(workdir, reference), f"killed at {moment:.1f} s")
    return row_of("kill -9 in training, one process", wrongs, f"{saved} had saved a step before")


def interrupted(size, folder):
    """Ctrl-C at any moment of a run, its fit and report too: one line, status 130; the same command
    goes on, again and again, to what an undisturbed run leaves."""
    reference, seconds = reference_of(size, folder, "run")
    draw, wrongs, late, waits = random.Random(3), [], 0, []
    workdir, count = folder / "interrupted-0", 0
    for trial in range(size.interrupts):
        words = arguments(size, folder, workdir, "run")
        # Half of them among the imports.
        span = (_EARLIEST, seconds / 3) if trial % 2 else (seconds / 3, seconds)
        moment = draw.uniform(*span) if trial else _EARLIEST
        found = struck(words, signal.SIGINT, moment)
        late += found.code == 0
        waits.append(found.seconds - moment)
        wrong = "" if found.code == 0 else _interrupt_wrong(found, moment)
        if found.code == 0:
            wrong = compared(workdir, reference)
            count += 1
            workdir = folder / f"interrupted-{count}"
        judge(wrongs, wrong, f"exit status {found.code} {waits[-1]:.2f} s after {moment:.2f} s")
    whole(arguments(size, folder, workdir, "run"))
    judge(wrongs, compared(workdir, reference), "to the end")
    words = f"gone after {np.median(waits):.2f} s, {max(waits):.1f} s at most"
    return row_of("Ctrl-C in a run, from 50 ms on", wrongs, f"{words}; {late} had ended before")


def _interrupt_wrong(found, moment):
    lines = found.err.splitlines()
    said = [line for line in lines if line.startswith("SIGINT: ")]
    if found.code == 130 and len(said) == 1 and lines[-1] == said[0]:
        return "" if "Traceback" not in found.err else f"a traceback at {moment:.2f} s"
    return f"at {moment:.2f} s: exit status {found.code}: {found.err[-300:]!r}"


PARTS = {
    "two-trainings-at-once": two_trainings,
    "kill-9-one-process": killed,
    "ctrl-c": interrupted,
}


def run(scale, folder, only):
    """All parts, or those of --only; table.md."""
    run_parts(PARTS, SIZES[scale], scale, folder, only)


def run_parts(parts, size, scale, folder, only):
    """All parts, or those in `only`; table.md."""
    chosen = only or list(parts)
    for name in chosen:
        if name not in parts:
            raise ValueError(f"--only={name}: allowed: {', '.join(parts)}")
    folder.mkdir(parents=True, exist_ok=True)
    # What a shell's background job ignores, its children would ignore too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    for name in chosen:
        begun = time.monotonic()
        place = folder.absolute() / name
        if place.exists():
            raise ValueError(f"--output={folder}: holds {name} already; give a new folder")
        place.mkdir()
        row = parts[name](size, place)
        rows.append(dataclasses.replace(row, seconds=time.monotonic() - begun))
        command.say(f"{row.part}: {row.good} of {row.trials}; {row.words}. {row.wrong}")
        (folder / "table.md").write_text(table(rows) + f"\n\n{command.made()}\n", encoding="utf-8")
        artefacts.write_json(folder / "metrics.json", {"scale": scale, "rows": rows})


def table(rows):
    """Rows in Markdown."""
    columns = {
        "fault": lambda row: row.part,
        "as it should be": lambda row: f"{row.good} of {row.trials}",
        "": lambda row: row.words,
        "the first that was not": lambda row: row.wrong or "-",
        "seconds": lambda row: f"{row.seconds:.0f}",
    }
    return command.table(columns, rows)


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", [], "Names of parts; all where none is given.")
    command.start(run, "faults_workdir", SIZES, ONLY)
