"""What becomes of a training of one or several processes when they are ended at any moment.

    python experiments/faults.py --scale=smoke|cpu [--only=PART,...] --output=DIR

Whole commands of one small training (`--local_processes`, where they are several), ended at moments
that are drawn, the same ones each time; then the same command again, whose last checkpoint must be
that of an undisturbed run bit for bit. PARTS: name -> function(Size, folder) -> Row. table.md and
metrics.json are written again after every part. `faults_workdir.py` has what two commands do to one
another.
"""

import dataclasses
import os
import random
import signal
import time
from pathlib import Path

import faults_workdir as workdirs
import numpy as np
from absl import flags
from measuring import command

# The part of the undisturbed run's seconds from which moments are drawn: among the imports before.
_FIRST = 0.1
# Seconds within which all are gone once one is.
_A_MINUTE = 60
_RESUMES = "the same command"


@dataclasses.dataclass(frozen=True)
class Size:
    """Of one --scale: moments for SIGTERM, for kill -9, and steps of the training."""

    terms: int
    kills: int
    steps: int


SIZES = {"smoke": Size(1, 1, 40), "cpu": Size(20, 20, 200)}


def arguments(size, folder, workdir, processes):
    """The command line of a training in so many processes."""
    words = workdirs.arguments(size, folder, workdir, "train")
    if processes == 1:
        return words
    return [*words, f"--local_processes={processes}", "--config.mesh.data=0"]


def reference_of(size, folder, processes):
    """(workdir of an undisturbed run, its seconds), after one that compiles what others find."""
    workdirs.whole(arguments(size, folder, folder / "compiling", processes))
    workdir = folder / "undisturbed"
    return workdir, workdirs.whole(arguments(size, folder, workdir, processes)).seconds


def children(process):
    """Numbers of the processes that a process has started, in that order (Linux)."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def struck(words, number, moment, which):
    """A command of which one process gets a signal `moment` seconds after its start.

    which: its place among those that the command started; None: the command itself.
    """
    begun = time.monotonic()
    process = workdirs.start(words)
    found = children(process)
    while which is not None and len(found) <= which and process.poll() is None:
        time.sleep(0.01)
        found = children(process)
    time.sleep(max(0.0, moment - (time.monotonic() - begun)))
    if process.poll() is None:
        target = process.pid if which is None else found[which]
        if Path(f"/proc/{target}").exists():
            os.kill(target, number)
    return workdirs.ended(process, begun)


def said(err, begins):
    """Lines of standard error that begin so."""
    return [line for line in err.splitlines() if line.startswith(begins)]


def term_wrong(found, moment):
    """What is wrong with how a command ended that got SIGTERM, in words; '' for nothing."""
    if found.code == 0:
        return ""
    lines = said(found.err, "SIGTERM: ")
    if found.code == 143 and len(lines) <= 1 and "Traceback" not in found.err:
        return ""
    return f"at {moment:.2f} s: exit status {found.code}: {found.err[-300:]!r}"


def kill_wrong(found, moment, alone):
    """What is wrong with how a command ended of which a process was killed."""
    if found.code in (0, -signal.SIGKILL if alone else 0):
        return ""
    if alone or "Traceback" in found.err or found.seconds - moment > _A_MINUTE:
        return (
            f"at {moment:.2f} s: status {found.code}, {found.seconds:.0f} s: {found.err[-300:]!r}"
        )
    lines = said(found.err, "error: ")
    if len(lines) != 1 or _RESUMES not in lines[0]:
        return f"at {moment:.2f} s: status {found.code}: {found.err[-300:]!r}"
    return ""


def trials(size, folder, processes, number, count):
    """`count` commands that are struck, and gone on with. -> (wrongs, seconds until all had gone,
    how many had saved a step, how many had ended before)."""
    reference, seconds = reference_of(size, folder, processes)
    draw = random.Random(10 * processes + number)
    wrongs, waits, saved, late = [], [], 0, 0
    for trial in range(count):
        workdir = folder / f"trial-{trial}"
        words = arguments(size, folder, workdir, processes)
        moment = draw.uniform(_FIRST, 1) * seconds
        which = None if processes == 1 else draw.randrange(processes)
        found = struck(words, number, moment, which)
        late += found.code == 0
        waits.append(found.seconds - moment)
        if number == signal.SIGTERM:
            wrong = term_wrong(found, moment)
        else:
            wrong = kill_wrong(found, moment, processes == 1)
        saved += any((workdir / "checkpoints").glob("[0-9]*"))
        workdirs.whole(words)
        wrongs.append(wrong or workdirs.compared(workdir, reference))
    return wrongs, waits, saved, late


def told(waits, saved, late):
    """What else there is to say of trials."""
    gone = f"all gone after {np.median(waits):.1f} s, {max(waits):.1f} s at most"
    return f"{gone}; {saved} had saved a step, {late} had ended before"


# ---- the parts ----------------------------------------------------------------------------------


def sigterm_one_of_two(size, folder):
    """SIGTERM to one of two processes: both save the same step, and leave together."""
    wrongs, *rest = trials(size, folder, 2, signal.SIGTERM, size.terms)
    return workdirs.row_of("SIGTERM to one of two processes", wrongs, told(*rest))


def kill_one_process(size, folder):
    """kill -9 of the only process."""
    wrongs, *rest = trials(size, folder, 1, signal.SIGKILL, size.kills)
    return workdirs.row_of("kill -9, one process", wrongs, told(*rest))


def kill_one_of_two(size, folder):
    """kill -9 of one of two processes: the other ends too, and says what to do."""
    wrongs, *rest = trials(size, folder, 2, signal.SIGKILL, size.kills)
    return workdirs.row_of("kill -9 of one of two processes", wrongs, told(*rest))


PARTS = {
    "sigterm-one-of-two": sigterm_one_of_two,
    "kill-one-process": kill_one_process,
    "kill-one-of-two": kill_one_of_two,
}


def run(scale, folder, only, moments):
    """All parts, or those of --only, with --moments each; table.md."""
    size = SIZES[scale]
    if moments:
        size = dataclasses.replace(size, terms=moments, kills=moments)
    workdirs.run_parts(PARTS, size, scale, folder, only)


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", [], "Names of parts; all where none is given.")
    MOMENTS = flags.DEFINE_integer("moments", 0, "Of each part, instead of the scale's.")
    command.start(run, "faults", SIZES, ONLY, MOMENTS)
