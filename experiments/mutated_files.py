"""Files that lie: damaged copies of every format that is read, and files made by hand to mislead.

python experiments/mutated_files.py [--count=5000] [--only=NAME] [--seed=0]

Each is read under limits of memory and time, see tests/fuzz/running.py, in a process of its own
that is replaced where it dies or hangs. Whatever comes of a file but a result or one line that
names it is a fault, and listed.
"""

import collections
import contextlib
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from nid_jax.reporting import tables

ROOT = Path(__file__).resolve().parents[1]
# Seconds after which a process that does not answer is ended: what runs in C hears no alarm.
_PATIENCE = 25
SECONDS = 10


class Case(NamedTuple):
    """One file: of which format, and which of its copies; 'hostile' with the name of one."""

    format: str
    what: str | int


def cases(count: int, seed: int = 0, only: str = "") -> list[Case]:
    """About `count` mutated files, spread over the formats by their weights, and all made by hand.

    only: part of the names of formats and files.
    """
    from tests.fuzz import formats, hostile, workdirs

    every = formats.PLAIN | workdirs.files()
    weights = {name: one.weight for name, one in every.items()}
    total = sum(weights.values())
    found = [
        Case(name, seed + copy)
        for name, weight in weights.items()
        for copy in range(max(1, round(count * weight / total)))
    ]
    found += [Case("hostile", name) for name in hostile.CASES]
    return [case for case in found if only in case.format or only in str(case.what)]


class Reader:
    """What runs in the process that reads: honest files made once, copies read one by one."""

    def __init__(self, folder: Path):
        from tests.fuzz import formats, workdirs

        self.folder, self.number = folder, 0
        self.honest: dict[str, bytes] = {}
        self.plain = formats.PLAIN
        self.run = workdirs.make(folder / "honest")
        self.files = workdirs.files()
        for name, one in self.plain.items():
            path = folder / "made" / one.file
            path.parent.mkdir(exist_ok=True)
            one.make(path)
            self.honest[name] = path.read_bytes()
            shutil.rmtree(path.parent)

    def read(self, case: Case) -> tuple[str, str, str]:
        """(kind, words, what was done) of a case."""
        from tests.fuzz import hostile, running, workdirs

        self.number += 1
        place = self.folder / f"case-{self.number}"
        place.mkdir()
        try:
            if case.format in self.files:
                root = Path(shutil.copytree(self.run, place / workdirs.RUN))
                found = self.files[case.format]
                path = root / found.file
                if case.format == workdirs.CHECKPOINT:
                    paths = workdirs.checkpoint_files(root)
                    path = paths[case.what % len(paths)]
                done, content = self.content(path.read_bytes(), case.what)
            else:
                name = hostile.CASES[str(case.what)][0] if case.format == "hostile" else case.format
                found = self.plain[name]
                path = place / found.file
                if name in ("celeba", "gltf"):
                    found.make(path)  # with the files beside it
                if case.format == "hostile":
                    done, content = str(case.what), hostile.CASES[str(case.what)][1]()
                else:
                    done, content = self.content(self.honest[name], case.what)
            path.write_bytes(content)
            named = workdirs.RUN if case.format in self.files else ""
            kind, words = running.outcome(found.read, path, SECONDS, named)
            return kind, words, done
        finally:
            shutil.rmtree(place)

    def content(self, honest, number):
        from tests.fuzz import mutations

        whole = list(mutations.empty_and_wrong(honest, dict(list(self.honest.items())[:60:9])))
        if number < len(whole):
            return whole[number]
        return mutations.mutated(honest, number)


def _serve(pipe, folder):
    os.environ["NID_JAX_READ_GIB"] = "0.25"
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # what libraries say of damage
    reader = Reader(Path(folder))
    pipe.send("ready")
    while (case := pipe.recv()) is not None:
        pipe.send(reader.read(case))


@contextlib.contextmanager
def _errors_to(path):
    """What a process that is begun inside says on its standard error goes to a file."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _ending(said, status):
    """Why a process ended: the last line that it said, or its status."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it left with status {status} and said nothing"


class Process:
    """A process that reads, begun anew where it died."""

    def __init__(self, folder: Path):
        self.folder, self.child = folder, None

    def read(self, case: Case) -> tuple[str, str, str]:
        """What comes of a case."""
        if self.child is None:
            self.start()
        self.pipe.send(case)
        try:
            if self.pipe.poll(_PATIENCE):
                return self.pipe.recv()
            words = f"does not answer for {_PATIENCE} s"
        except (EOFError, ConnectionError):
            words = "the process died"
        self.stop()
        return "fault", words, str(case.what)

    def start(self):
        """Begin a process; the first answer is that it is ready. Raises ChildProcessError, in one
        line, for one that ends before."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        place = Path(tempfile.mkdtemp(dir=self.folder))
        (place / "honest").mkdir()
        self.child = context.Process(target=_serve, args=(other, str(place)), daemon=True)
        said = place / "said.txt"
        with _errors_to(said):
            self.child.start()
        other.close()
        try:
            self.pipe.recv()
        except (EOFError, ConnectionError):
            self.child.join()
            ended = _ending(said.read_text(errors="replace"), self.child.exitcode)
            self.child = None
            raise ChildProcessError(f"the process that reads did not begin: {ended}") from None

    def stop(self):
        """End the process."""
        if self.child is not None:
            self.child.kill()
            self.child.join()
            self.child = None


def measure(
    count: int = 5000, seed: int = 0, only: str = "", minutes: float = math.inf
) -> list[dict[str, Any]]:
    """Rows of a table by format: files, read, refused in one line, faults; faults are printed.

    minutes: after which no more are read; they are read in an order that is drawn.
    """
    rows: dict[str, collections.Counter] = {}
    drawn, until = cases(count, seed, only), time.monotonic() + 60 * minutes
    random.Random(seed).shuffle(drawn)
    with tempfile.TemporaryDirectory() as folder:
        process = Process(Path(folder))
        for case in drawn:
            if time.monotonic() > until:
                break
            kind, words, done = process.read(case)
            rows.setdefault(case.format, collections.Counter())[kind] += 1
            if kind == "fault":
                print(f"{case.format}, {case.what} ({done}): {words}", flush=True)
        process.stop()
    return [
        {
            "format": name,
            "files": found.total(),
            **{k: found[k] for k in ("read", "refused", "fault")},
        }
        for name, found in sorted(rows.items())
    ]


def main(argv):
    """The whole, and a table by format."""
    del argv
    values, start = flags.FLAGS, time.perf_counter()
    try:
        rows = measure(values.count, values.seed, values.only)
    except ChildProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    headers = ["format", "files", "read", "refused", "fault"]
    total = {"format": "all", **{key: sum(row[key] for row in rows) for key in headers[1:]}}
    print(tables.table([[row[key] for key in headers] for row in [*rows, total]], headers))
    print(f"{time.perf_counter() - start:.0f} s")
    sys.exit(bool(total["fault"]))


if __name__ == "__main__":
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    flags.DEFINE_integer("count", 5000, "Mutated files.")
    flags.DEFINE_integer("seed", 0, "Of the first copy of each format.")
    flags.DEFINE_string("only", "", "Part of the names of formats, or of files made by hand.")
    app.run(main)
