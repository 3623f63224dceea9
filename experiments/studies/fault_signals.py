"""Trainings of one or several processes that are ended at any moment, and two at once.

Moments are drawn, the same ones each time; then the same command goes on, and its last checkpoint
must be that of an undisturbed run bit for bit.
"""

import functools
import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from studies import fault_trials as trials

# The part of the undisturbed run's seconds from which moments are drawn: among the imports before.
_FIRST = 0.1
# Seconds within which all are gone once one is.
_A_MINUTE = 60
_RESUMES = "the same command"
# Seconds after the start of the process at which it may first be interrupted.
_EARLIEST = 0.05


def _arguments(size, folder, processes, workdir):
    """The command line of a training in so many processes."""
    words = trials.arguments(size, folder, workdir, "train")
    if processes == 1:
        return words
    return [*words, f"--local_processes={processes}", "--config.mesh.data=0"]


def children(process):
    """Numbers of the processes that a process has started, in that order (Linux)."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def struck(words, number, moment, which=None, saving=None):
    """A command of which one process gets a signal `moment` seconds after its start. -> Ended, its
    seconds from the signal on.

    which: its place among those that the command started; None: the command itself. saving: a
    folder of checkpoints; the moment counts from when one is there.
    """
    begun = time.monotonic()
    process = trials.start(words)
    found = children(process)
    while which is not None and len(found) <= which and process.poll() is None:
        time.sleep(0.01)
        found = children(process)
    while saving and not saved_in(saving) and process.poll() is None:
        time.sleep(0.01)
        begun = time.monotonic()
    time.sleep(max(0.0, moment - (time.monotonic() - begun)))
    if process.poll() is None:
        target = process.pid if which is None else found[which]
        if Path(f"/proc/{target}").exists():
            os.kill(target, number)
    return trials.ended(process, time.monotonic())


def saved_in(checkpoints):
    """Folders of steps that were saved."""
    return list(checkpoints.glob("[0-9]*"))


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
    if alone or "Traceback" in found.err or found.seconds > _A_MINUTE:
        return (
            f"at {moment:.2f} s: status {found.code}, {found.seconds:.0f} s: {found.err[-300:]!r}"
        )
    lines = said(found.err, "error: ")
    if len(lines) != 1 or _RESUMES not in lines[0]:
        return f"at {moment:.2f} s: status {found.code}: {found.err[-300:]!r}"
    return ""


def _ended(size, folder, processes, number, count):
    """`count` commands that are struck, and gone on with. -> (wrongs, what else to say)."""
    words_of = functools.partial(_arguments, size, folder, processes)
    reference, seconds = trials.reference_of(words_of, folder)
    draw = random.Random(10 * processes + number)
    wrongs, waits, saved, late = [], [], 0, 0
    for trial in trials.within(size.most_minutes, range(count)):
        workdir = folder / f"trial-{trial}"
        words = words_of(workdir)
        # Half of them at any moment, half while steps are saved.
        saving = workdir / "checkpoints" if trial % 2 else None
        moment = draw.uniform(0, seconds / 3) if saving else draw.uniform(_FIRST, 1) * seconds
        which = None if processes == 1 else draw.randrange(processes)
        found = struck(words, number, moment, which, saving)
        late += found.code == 0
        waits.append(found.seconds)
        if number == signal.SIGTERM:
            wrong = term_wrong(found, moment)
        else:
            wrong = kill_wrong(found, moment, processes == 1)
        saved += bool(saved_in(workdir / "checkpoints"))
        trials.whole(words)
        wrong = wrong or trials.compared(workdir, reference)
        trials.judge(wrongs, wrong, f"after {moment:.1f} s of {seconds:.1f}")
    gone = f"gone after {np.median(waits):.1f} s, {max(waits):.1f} s at most"
    return wrongs, f"{gone}; {saved} had saved a step, {late} had ended before"


def sigterm_one_of_two(size, folder):
    """SIGTERM to one of two processes."""
    found = _ended(size, folder, 2, signal.SIGTERM, size.terms)
    hold = "both save the same step and leave with 143; the same command goes on bit for bit"
    return [trials.row_of("SIGTERM to one of two processes", hold, *found)]


def kill_one_process(size, folder):
    """kill -9 of the only process."""
    found = _ended(size, folder, 1, signal.SIGKILL, size.kills)
    hold = "the same command goes on from the last checkpoint, bit for bit"
    return [trials.row_of("kill -9, one process", hold, *found)]


def kill_one_of_two(size, folder):
    """kill -9 of one of two processes."""
    found = _ended(size, folder, 2, signal.SIGKILL, size.kills)
    hold = "the other ends within a minute, in one line; the same command goes on bit for bit"
    return [trials.row_of("kill -9 of one of two processes", hold, *found)]


def two_trainings(size, folder):
    """Two trainings in one workdir."""
    words_of = functools.partial(_arguments, size, folder, 1)
    reference, seconds = trials.reference_of(words_of, folder)
    draw, wrongs, waits = random.Random(1), [], []
    for pair in trials.within(size.most_minutes, range(size.pairs)):
        workdir = folder / f"pair-{pair}"
        begun = time.monotonic()
        first = trials.start(words_of(workdir))
        # From the same moment to where the first is half done when the second asks.
        time.sleep(0 if pair % 4 == 0 else draw.uniform(0, seconds / 3))
        after = time.monotonic()
        second = trials.start(words_of(workdir))
        both = [trials.ended(second, after), trials.ended(first, begun)]
        refused, trained = sorted(both, key=lambda one: one.code == 0)
        waits.append(refused.seconds)
        wrong = _pair_wrong(refused, trained) or trials.compared(workdir, reference)
        trials.judge(wrongs, wrong, f"refused after {refused.seconds:.1f} s")
    hold = "the later one is refused in one line, with 2; the first as if alone, bit for bit"
    words = f"refused {np.median(waits):.1f} s after its start"
    return [trials.row_of("two trainings in one workdir", hold, wrongs, words)]


def _pair_wrong(refused, trained):
    if (trained.code, refused.code) != (0, 2):
        return f"exit statuses {trained.code} and {refused.code}: {refused.err[-300:]}"
    lines = [line for line in refused.err.splitlines() if not line.startswith("note: ")]
    one = len(lines) == 1 and lines[0].startswith("error: ") and "is under way" in lines[0]
    return "" if one else f"refused with {refused.err[-300:]!r}"


def interrupted(size, folder):
    """Ctrl-C at any moment of a run, its fit and report too, again and again to the end."""

    def words_of(workdir):
        return trials.arguments(size, folder, workdir, "run")

    reference, seconds = trials.reference_of(words_of, folder)
    draw, wrongs, late, waits = random.Random(3), [], 0, []
    workdir, count = folder / "interrupted-0", 0
    for trial in trials.within(size.most_minutes, range(size.interrupts)):
        # Half of them among the imports.
        span = (_EARLIEST, seconds / 3) if trial % 2 else (seconds / 3, seconds)
        moment = draw.uniform(*span) if trial else _EARLIEST
        found = struck(words_of(workdir), signal.SIGINT, moment)
        late += found.code == 0
        waits.append(found.seconds)
        wrong = "" if found.code == 0 else _interrupt_wrong(found, moment)
        if found.code == 0:
            wrong = trials.compared(workdir, reference)
            count += 1
            workdir = folder / f"interrupted-{count}"
        trials.judge(wrongs, wrong, f"status {found.code} {waits[-1]:.2f} s after {moment:.2f} s")
    trials.whole(words_of(workdir))
    trials.judge(wrongs, trials.compared(workdir, reference), "to the end")
    hold = "one line, 130; the same command goes on, again and again, bit for bit"
    words = f"gone after {np.median(waits):.2f} s, {max(waits):.1f} s at most"
    words += f"; {late} had ended before"
    return [trials.row_of("Ctrl-C in a run, from 50 ms on", hold, wrongs, words)]


def _interrupt_wrong(found, moment):
    lines = found.err.splitlines()
    told = [line for line in lines if line.startswith("SIGINT: ")]
    if found.code == 130 and len(told) == 1 and lines[-1] == told[0]:
        return "" if "Traceback" not in found.err else f"a traceback at {moment:.2f} s"
    return f"at {moment:.2f} s: exit status {found.code}: {found.err[-300:]!r}"
