"""Prepare meshes: signed distances on a grid, points near and on the surface, one .npz a mesh.

python -m nid_jax.data.prepare INPUT... --output=DIR [options]

INPUT is a mesh (obj, off, ply, stl, glb, ...), a folder of them with all its folders, or the root
of ShapeNet, v1 (ROOT/SYNSET/MODEL/model.obj) or v2 (ROOT/SYNSET/MODEL/models/model_normalized.obj).
DIR takes NAME.npz for each mesh, by --split in train/, val/, test/; nid_jax.data.prepared says what
is in them. What is there already, made with the same options, stays: the command, stopped, goes on.
A mesh that cannot be prepared is named in one line and left out; summary.json lists all of them.

Exit status: 0, all is there; 1, some is, the rest was named; 2, mistaken options, or nothing done.
"""

# The package itself must not import this file, or running it as a module would load it twice.

from nid_jax.running import stopping

if __name__ == "__main__":
    stopping.begin()  # what follows takes its time

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from nid_jax.data.cloud_writing import CLOUDS, write_cloud
from nid_jax.data.mesh_listing import LAYOUTS, Source, find_sources
from nid_jax.data.prepared import DTYPES, read_prepared, write_prepared
from nid_jax.files import atomic_path, local, recover, running
from nid_jax.geometry import distance
from nid_jax.geometry.mesh import (
    MARGIN,
    Normalisation,
    check_mesh,
    facts,
    load_mesh,
    watertight_mesh,
)
from nid_jax.geometry.writing import export_mesh
from nid_jax.notices import Notice, one_line, printed

__all__ = ["Options", "Source", "main", "prepare", "prepare_all"]

MAX_RESOLUTION = 1024


@dataclasses.dataclass(frozen=True)
class Options:
    """How meshes are prepared. Lengths are in the normalised cube [-1, 1]^3.

    resolution: N samples along an axis; samples: points on the surface; near_samples: points near
    it; truncation: distances of the grid are clipped there (0: nowhere); margin: what the longest
    side leaves of the cube at either end; dtype of the grid; clouds: '' or the format of an
    oriented point cloud to write, of cloud_points points in cloud_units; watertight: write the
    zero level set.
    """

    resolution: int = 128
    samples: int = 100_000
    near_samples: int = 100_000
    truncation: float = 0.0
    margin: float = MARGIN
    dtype: str = "float32"
    seed: int = 0
    clouds: str = ""
    cloud_points: int = 10_000
    cloud_units: str = "original"
    watertight: bool = False

    def check(self) -> None:
        """Raises ValueError naming the option that is out of its range."""
        whole = {"resolution": (2, MAX_RESOLUTION), "samples": (1, None), "near_samples": (1, None)}
        for key, (least, most) in {**whole, "cloud_points": (1, None), "seed": (0, None)}.items():
            value = getattr(self, key)
            if value < least or (most is not None and value > most):
                upper = f" and at most {most}" if most else ""
                raise ValueError(f"--{key}={value}: must be at least {least}{upper}")
        if not 0 <= self.truncation < np.inf:
            raise ValueError(f"--truncation={self.truncation}: must be 0 (none) or more")
        if not 0 <= self.margin < 1:
            raise ValueError(f"--margin={self.margin}: must be at least 0 and less than 1")

    def wanted(self) -> dict[str, Any]:
        """Those that matter: of the cloud and the watertight mesh only where they are written."""
        unused = [] if self.clouds else ["clouds", "cloud_points", "cloud_units"]
        unused += [] if self.watertight else ["watertight"]
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in unused}


def prepare(
    path: str | Path, target: str | Path, options: Options, name: str | None = None
) -> dict[str, Any]:
    """Prepare one mesh: write `target` (.npz), and beside it what else `options` ask for.

    -> {"warning": str or "", "facts": dict, "seconds": float}. What was assumed is a notice. Raises
    ValueError naming the mesh.
    """
    begun = time.perf_counter()
    path, target = Path(path), Path(target)
    original = load_mesh(path)
    normalisation = Normalisation.of(original, options.margin)
    mesh = normalisation.apply(original)
    check_mesh(mesh, path)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    grid = distance.distance_grid(vertices, faces, options.resolution, options.truncation or None)
    points, distances = distance.near_surface_samples(
        vertices, faces, options.near_samples, options.seed
    )
    surface, normals = distance.surface_samples(vertices, faces, options.samples, options.seed)
    arrays = {
        "sdf": grid.astype(options.dtype),
        "truncation": options.truncation,
        "points": points,
        "distances": distances,
        "surface": surface,
        "normals": normals,
        "vertices": vertices,
        "faces": faces,
        "normalise": normalisation.matrix(),
        "denormalise": normalisation.inverse_matrix(),
    }
    _write_beside(mesh, grid, normalisation, target, options, path)
    # Last: where it is, all that belongs to it is.
    settings = {**dataclasses.asdict(options), **_signature(path), **original.metadata}
    write_prepared(target, source=name or path.name, settings=settings, **arrays)
    about = facts(original)
    warning = "" if (grid < 0).any() else _why_nothing_is_inside(about)
    seconds = time.perf_counter() - begun
    return {"warning": warning, "facts": about, "seconds": seconds}


def _why_nothing_is_inside(about):
    if about["open_edges"]:
        return f"nothing inside: open, {about['open_edges']} edges have one face only"
    if not about["consistent"] or about["nonmanifold_edges"]:
        return "nothing inside: closed, but its faces look both ways, or are there twice"
    return "nothing inside: thinner than the grid; --resolution is to be larger"


def _write_beside(mesh, grid, normalisation, target, options, path):
    """The point cloud and the watertight mesh, where they are asked for."""
    if options.clouds:
        surface, normals = distance.surface_samples(
            mesh.vertices, mesh.faces, options.cloud_points, options.seed + 1
        )
        if options.cloud_units == "original":
            surface = normalisation.invert(surface)
        write_cloud(target.with_suffix(f".{options.clouds}"), surface, normals)
    if options.watertight:
        try:
            closed = watertight_mesh(grid)
        except ValueError as error:
            raise ValueError(f"{path}: --watertight: {error}") from error
        export_mesh(normalisation.invert(closed), _watertight_path(target))


def _watertight_path(target):
    return target.with_name(f"{target.stem}.watertight.ply")


def _signature(path):
    """What tells whether the mesh file is still the one that was prepared."""
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def is_prepared(path: str | Path, target: Path, options: Options) -> bool:
    """Whether `target` is there whole, made from this mesh file with these options."""
    beside = [target.with_suffix(f".{options.clouds}")] if options.clouds else []
    beside += [_watertight_path(target)] if options.watertight else []
    if not target.exists() or not all(file.exists() for file in beside):
        return False
    try:
        settings = read_prepared(target, keys=("settings",)).settings
    except ValueError:
        return False
    return {**options.wanted(), **_signature(Path(path))}.items() <= settings.items()


def _job(source, options, overwrite):
    """prepare() for a process of a pool: -> (state, what it found or why not)."""
    try:
        if not overwrite and is_prepared(source.path, source.target, options):
            return "present", {}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", Notice)
            found = prepare(source.path, source.target, options, source.name)
        texts = [str(one.message) for one in said if issubclass(one.category, Notice)]
        return "prepared", {**found, "notices": texts}
    except (ValueError, OSError, MemoryError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        return "failed", words.removeprefix(f"{source.path}: ")


def _in_worker(threads):
    # libigl's own threads; read when it first queries.
    os.environ["IGL_NUM_THREADS"] = str(threads)
    # A terminal sends Ctrl-C to all; the one that gave the work says so, and ends the others.
    for number in stopping.ASKING:
        signal.signal(number, signal.SIG_DFL)
    # Without it there is nobody to work for.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


_SILENT_TRACKER = "ignore::UserWarning:multiprocessing.resource_tracker"


class _Pool:
    """Processes that prepare meshes; one that dies takes down its own mesh only."""

    def __init__(self, workers, options, overwrite):
        self.workers, self.options, self.overwrite = workers, options, overwrite

    def _executor(self, workers):
        threads = max(1, (os.cpu_count() or 1) // workers)
        # A command that is told to end leaves at once. What it shared with its workers is taken
        # away by Python's own process for that, begun here, which would say so.
        sys.warnoptions.append(_SILENT_TRACKER)
        try:
            return concurrent.futures.ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),
                initializer=_in_worker,
                initargs=(threads,),
            )
        finally:
            sys.warnoptions.remove(_SILENT_TRACKER)

    def run(self, sources):
        """Yields (source, state, found) as they are done."""
        waiting = list(reversed(sources))
        while waiting:
            suspects = yield from self._until_one_dies(waiting)
            for source in suspects:
                died = yield from self._until_one_dies([source], workers=1)
                if died:
                    yield source, "failed", "the process that prepared it died (out of memory?)"

    def _until_one_dies(self, waiting, workers=None):
        """Takes from `waiting`; -> those that were under way when a process died, or []."""
        running = {}
        workers = workers or self.workers
        with self._executor(workers) as executor:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        source = waiting.pop()
                        arguments = (source, self.options, self.overwrite)
                        try:
                            running[executor.submit(_job, *arguments)] = source
                        except concurrent.futures.process.BrokenProcessPool:
                            return [*running.values(), source]
                    done, _ = concurrent.futures.wait(
                        running, return_when=concurrent.futures.FIRST_COMPLETED
                    )
                    for future in done:
                        if future.exception():
                            return list(running.values())
                        yield running.pop(future), *future.result()
            except (KeyboardInterrupt, GeneratorExit):
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        return []


def prepare_all(
    sources: Sequence[Source],
    output: str | Path,
    options: Options,
    workers: int = 1,
    overwrite: bool = False,
    missing: Sequence[str] = (),
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Prepare many meshes in parallel, named lines of trouble through say(text).

    sources: of find_sources; missing: lines for what was asked for and is not there. Writes
    output/summary.json: options, counts, seconds, and by name what each mesh is like or why it was
    left out; and failed.txt, a line each, where there are any. -> the summary, a dict.
    """
    output, begun = Path(output), time.perf_counter()
    _make_folder(output)
    for folder in {source.target.parent for source in sources}:
        recover(folder, lambda process, name: not running(process))
    meshes, failed, cautions, notes = {}, {}, {}, []
    states = {"prepared": 0, "present": 0}
    progress = _Progress(len(sources))
    for source, state, found in _Pool(workers, options, overwrite).run(sources):
        if state == "failed":
            failed[str(source.path)] = found
            progress.message(f"left out: {source.path}: {found}", say)
        else:
            states[state] += 1
            for text in found.get("notices", ()):
                notes.append(text)
                progress.message(f"note: {text}", say)
            if found.get("warning"):
                cautions[source.name] = found["warning"]
                progress.message(f"warning: {source.path}: {found['warning']}", say)
            if found:
                meshes[source.name] = {**found["facts"], "seconds": round(found["seconds"], 3)}
        progress.update(sum(states.values()) + len(failed), len(failed))
    progress.close()
    summary = {
        **states,
        "failed": len(failed),
        "missing": len(missing),
        "seconds": round(time.perf_counter() - begun, 3),
        "options": dataclasses.asdict(options),
        "failures": failed,
        "absent": list(missing),
        "warnings": cautions,
        "notices": notes,
        "meshes": dict(sorted(meshes.items())),
    }
    _write_summary(output, summary)
    return summary


def _make_folder(output):
    """Before any work: an output that cannot be written is the command's mistake, not a mesh's."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output={output}: cannot be written: {error.strerror}") from error


def _write_summary(output, summary):
    with atomic_path(output / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    lines = [f"{path}: {why}" for path, why in summary["failures"].items()] + summary["absent"]
    if lines:
        with atomic_path(output / "failed.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        (output / "failed.txt").unlink(missing_ok=True)


class _Progress:
    """How many of the meshes are done: on a terminal in place, elsewhere a line now and then."""

    def __init__(self, total, stream=None, every=10.0):
        self.total, self.stream = total, stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.begun = self.last = time.monotonic()
        self.shown = ""

    def update(self, done, failed):
        """Show it, unless it was shown a moment ago."""
        now = time.monotonic()
        if now - self.last < self.every and done < self.total:
            return
        self.last = now
        left = (now - self.begun) / done * (self.total - done)
        line = f"meshes {done}/{self.total}" + (f", {failed} left out" if failed else "")
        line += f", about {_duration(left)} to go" if done < self.total else ""
        if self.terminal:
            filled = 24 * done // self.total
            line = f"[{'#' * filled}{'.' * (24 - filled)}] {line}"
            self.stream.write("\r" + line.ljust(len(self.shown)))
            self.shown = line
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def message(self, text, say):
        """A line of its own."""
        self.close()
        say(text)

    def close(self):
        """End the line that is rewritten."""
        if self.shown:
            self.stream.write("\r" + " " * len(self.shown) + "\r")
            self.stream.flush()
            self.shown = ""


def _duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


# ---- the command line ---------------------------------------------------------------------------


def main() -> None:
    """The command line; whatever is wrong with it is one line, and exit status 2."""
    from absl import app, flags

    define_flags(flags.FLAGS)
    app.run(
        lambda argv: command(argv, flags.FLAGS),
        flags_parser=lambda argv: parse(argv, flags.FLAGS),
    )


def define_flags(values: flags.FlagValues) -> None:
    """Define the options on `values`."""
    from absl import flags

    default, here = Options(), {"flag_values": values}
    flags.DEFINE_string("output", None, "Folder to write to; made where it is absent.", **here)
    flags.DEFINE_enum("layout", "auto", LAYOUTS, "What INPUT is; auto looks.", **here)
    flags.DEFINE_list(
        "category", [], "ShapeNet categories, names or synsets: chair,02691156.", **here
    )
    flags.DEFINE_string(
        "split", None, "JSON file of the models in train, val and test; others are left.", **here
    )
    flags.DEFINE_integer("resolution", default.resolution, "Samples along an axis.", **here)
    flags.DEFINE_integer("samples", default.samples, "Points on the surface.", **here)
    flags.DEFINE_integer("near_samples", default.near_samples, "Points near it.", **here)
    flags.DEFINE_float(
        "truncation", 0.0, "Clip the grid's distances there, in the cube; 0: not at all.", **here
    )
    flags.DEFINE_float(
        "margin", default.margin, "Left of the cube [-1, 1]^3 at either end.", **here
    )
    names = [np.dtype(kind).name for kind in DTYPES["sdf"]]
    flags.DEFINE_enum("dtype", default.dtype, names, "Numbers of the grid.", **here)
    flags.DEFINE_enum(
        "clouds", "none", ("none", *CLOUDS), "Write an oriented point cloud beside.", **here
    )
    flags.DEFINE_integer("cloud_points", default.cloud_points, "Points of the cloud.", **here)
    flags.DEFINE_enum(
        "cloud_units", default.cloud_units, ("original", "normalised"), "Of the cloud.", **here
    )
    flags.DEFINE_bool(
        "watertight",
        False,
        "Write NAME.watertight.ply, the zero level set, original units.",
        **here,
    )
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Meshes at a time.", **here)
    flags.DEFINE_bool("overwrite", False, "Prepare anew what is there already.", **here)
    flags.DEFINE_integer("seed", default.seed, "Of the random points.", **here)


def parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Read the command line; what is wrong with it is one line, and exit status 2."""
    from absl import flags

    try:
        rest = values(argv)
    except flags.Error as error:
        _complain(str(error).strip().removeprefix("flag "))
    if len(rest) < 2:
        _complain("no INPUT: a mesh, a folder of meshes, or the root of ShapeNet")
    if not values.output:
        _complain("--output is missing; the folder that takes the prepared shapes")
    if values.workers < 1:
        _complain(f"--workers={values.workers}: must be at least 1")
    return rest


def command(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Prepare what the parsed command line asks for; ends the process with its exit status."""
    keys = [field.name for field in dataclasses.fields(Options)]
    chosen = {key: getattr(values, key) for key in keys}
    options = Options(**{**chosen, "clouds": chosen["clouds"].removeprefix("none")})
    output = local(values.output, "--output")
    try:
        options.check()
        with printed():
            sources, missing = find_sources(
                argv[1:], output, values.layout, values.category, values.split
            )
        for line in missing:
            _say(f"missing: {line}")
        summary = prepare_all(
            sources, output, options, values.workers, values.overwrite, missing, _say
        )
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error)
    except ValueError as error:
        _complain(error)
    done = summary["prepared"] + summary["present"]
    print(
        f"{summary['prepared']} prepared, {summary['present']} already there, "
        f"{summary['failed']} left out, {summary['missing']} missing, "
        f"{summary['seconds']:.1f} s: {output}"
    )
    if not done:
        _complain(f"nothing was prepared; {output / 'failed.txt'} says why")
    sys.exit(1 if summary["failed"] or summary["missing"] else 0)


def _say(text):
    print(one_line(text), file=sys.stderr, flush=True)


def _complain(message):
    print("error:", one_line(message), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    with stopping.command():
        main()
