"""What becomes of commands, workdirs and files when something goes wrong.

    python experiments/faults.py --scale=smoke|cpu [--only=PART,...] --output=DIR

Trainings are ended at any moment, files damaged, command lines typed wrong, meshes laid out in all
ways, one process kept at work for minutes. PARTS: name -> function(Size, folder) -> rows. table.md
and metrics.json are written again after every part; rows of parts that ran into the same folder
before stay.
"""

import collections
import dataclasses
import sys

from absl import flags
from measuring import command
from studies import fault_damage, fault_modes, fault_signals, fault_soak, fault_trials

# The readers' cases and the command lines are those of the tests, beside this folder.
sys.path.insert(0, str(fault_trials.ROOT))
import mutated_files
from studies import wrong_command_lines


def files_that_lie(size, folder):
    """Damaged copies of every format, and files made by hand, read within memory and time."""
    del folder
    rows = mutated_files.measure(size.files, minutes=size.most_minutes)
    total = {key: sum(row[key] for row in rows) for key in ("files", "read", "refused", "fault")}
    wrong = ", ".join(f"{row['format']}: {row['fault']}" for row in rows if row["fault"])
    hold = "a result, or one line that names the file; 10 s and NID_JAX_READ_GIB at most"
    words = f"{len(rows)} formats; {total['read']} read, {total['refused']} refused"
    held = total["files"] - total["fault"]
    return [fault_trials.Row("files that lie", hold, total["files"], held, wrong, words)]


def wrong_settings(size, folder):
    """Command lines that are wrong, of a new run and of one that stands."""
    del folder
    hold = "exit status 2 and one line, nothing written; what goes on is right, each with a reason"
    return [
        _lines_row(
            "wrong command lines",
            hold,
            wrong_command_lines.part(size.lines, minutes=size.most_minutes),
        ),
        _lines_row(
            "wrong command lines for a run that stands",
            hold,
            wrong_command_lines.part_of_trained(size.lines_of_runs, minutes=size.most_minutes),
        ),
    ]


def _lines_row(test, hold, outcomes):
    wrong = wrong_command_lines.faults(outcomes)
    counts = collections.Counter(one.what for one in outcomes)
    first = f"{wrong[0].what}: {' '.join(wrong[0].case.words)}: {wrong[0].said}" if wrong else ""
    words = f"{counts['refused']} refused, {counts['goes on']} go on"
    return fault_trials.Row(test, hold, len(outcomes), len(outcomes) - len(wrong), first, words)


PARTS = {
    "two-trainings-at-once": fault_signals.two_trainings,
    "ctrl-c": fault_signals.interrupted,
    "kill-one-process": fault_signals.kill_one_process,
    "sigterm-one-of-two": fault_signals.sigterm_one_of_two,
    "kill-one-of-two": fault_signals.kill_one_of_two,
    "modes": fault_modes.modes,
    "files": files_that_lie,
    "settings": wrong_settings,
    "damage": fault_damage.damage,
    "soak": fault_soak.soak,
}


def run(scale, folder, only, count, minutes):
    """All parts, or those of --only; table.md. count, minutes: 0 for those of the scale."""
    size = fault_trials.SIZES[scale]
    if count:
        names = [one.name for one in dataclasses.fields(size) if one.type is int]
        changes = dict.fromkeys(set(names) - {"steps"}, count)
        size = dataclasses.replace(size, **changes)
    if minutes:
        size = dataclasses.replace(size, minutes=minutes, most_minutes=minutes)
    fault_trials.run_parts(PARTS, size, scale, folder, only)


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", [], "Names of parts; all where none is given.")
    COUNT = flags.DEFINE_integer("count", 0, "Trials of each part, instead of the scale's.")
    MINUTES = flags.DEFINE_float("minutes", 0, "Of the soak, and of each other part at most.")
    command.start(run, "faults", fault_trials.SIZES, ONLY, COUNT, MINUTES)
