"""Every mode in several processes on one machine, held to the numbers of one process.

As a script it is one of those processes: PORT COUNT INDEX MODE,... WORDS of the command line. All
modes go in one process, which starts once.
"""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from studies import fault_trials as trials

MODES = ("run", "eval", "render", "interpolate", "nearest", "sample")
# Name -> processes, devices of each, (data, expert) of the mesh.
MESHES = {
    "1x2": (2, 1, (1, 2)),
    "2x1": (2, 1, (2, 1)),
    "4x2 of 2 processes with 4 devices": (2, 4, (4, 2)),
}
# Sums over devices add up in another order.
_OF_LOSSES, _OF_THE_REST = 1e-5, 1e-4
_PATIENCE = 400
# What differs from run to run, or says where it ran.
_ASIDE = ("second", "time", "versions", "device", "memory", "bytes", "workdir", "mesh", "rate")
# A checksum of a dictionary's bits.
_CHECKSUM = "dictionary"


def words_of(size, folder, workdir, mesh):
    """The command line, without a mode."""
    words = [w for w in trials.arguments(size, folder, workdir, "") if not w.startswith("--mode")]
    changes = {
        "data.num_test": 4,
        "train.steps": 12,
        "train.checkpoint_every": 6,
        "train.log_every": 1,
        "fit.solver": "ridge",
        "fit.ridge.lam": 1e-3,
        "mesh.data": mesh[0],
        "mesh.expert": mesh[1],
        "compilation_cache": "",
    }
    return words + [f"--config.{key}={value}" for key, value in changes.items()]


def in_processes(count, devices, words):
    """All modes by `count` processes. -> (exit statuses of modes in the first, standard error)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    variables = {"PYTHONPATH": f"{trials.ROOT}:{trials.ROOT / 'experiments'}", "XLA_FLAGS": flags}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(port), str(count), str(index), ",".join(MODES), *words],
            env={**os.environ, **variables, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        printed = [process.communicate(timeout=_PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    lines = [out.splitlines()[-1:] for out, _ in printed]
    if not all(line and line[0].startswith("codes ") for line in lines):
        raise RuntimeError("\n".join(err[-1500:] for _, err in printed))
    return json.loads(lines[0][0].removeprefix("codes ")), "".join(err for _, err in printed)


def numbers_of(workdir):
    """All numbers that a run left but times: name -> array."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if name.startswith(("checkpoints", "cache", ".")):
            continue
        if path.suffix == ".npz":
            with np.load(path) as stored:
                for key in stored.files:
                    if key != _CHECKSUM and stored[key].dtype.kind in "fiu":
                        found[f"{name}:{key}"] = stored[key].astype(np.float64)
        elif path.suffix == ".json" and path.name != "config.json":
            leaves = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
            found |= {f"{name}:{key}": np.float64(value) for key, value in leaves.items()}
        elif path.name == "metrics.jsonl":
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                if "loss" in record:
                    found[f"{name}:loss of step {record['step']}"] = np.float64(record["loss"])
    return found


def _leaves(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "config" and not any(word in key.lower() for word in _ASIDE):
                yield from _leaves(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def farthest(mine, theirs):
    """(largest difference relative to the largest number of its array, its name)."""
    if mine.keys() != theirs.keys():
        return np.inf, f"left by one alone: {sorted(mine.keys() ^ theirs.keys())[:5]}"
    worst, name = 0.0, ""
    for key, value in mine.items():
        if value.shape != theirs[key].shape:
            return np.inf, f"{key}: {value.shape} and {theirs[key].shape}"
        far = np.abs(value - theirs[key]).max(initial=0) / max(np.abs(value).max(initial=0), 1e-9)
        worst, name = max((worst, name), (float(far), key))
    return worst, name


def _held_to(tolerance, numbers):
    losses = tolerance == _OF_LOSSES
    return {key: value for key, value in numbers.items() if losses == (":loss of step" in key)}


def modes(size, folder):
    """Every mode in two processes, with devices laid out in three ways."""
    alone = folder / "alone"
    statuses, err = in_processes(1, 1, words_of(size, folder, alone, (1, 1)))
    if any(statuses):
        raise RuntimeError(f"exit statuses {statuses} of one process: {err[-1500:]}")
    mine, rows = numbers_of(alone), []
    hold = (
        f"the numbers of one process: losses to {_OF_LOSSES:g}, codes, scores, prior and samples "
    )
    hold += f"to {_OF_THE_REST:g}"
    for name, (count, devices, mesh) in MESHES.items():
        workdir = folder / name.split()[0]
        statuses, err = in_processes(count, devices, words_of(size, folder, workdir, mesh))
        wrongs = []
        theirs = numbers_of(workdir)
        for mode, status in zip(MODES, statuses, strict=True):
            wrong = f"{mode}: exit status {status}: {err[-300:]}" if status else ""
            trials.judge(wrongs, wrong, f"mesh {name}, {mode}")
        words = f"{len(MODES)} modes and {len(mine)} arrays and numbers, farthest"
        for tolerance in (_OF_LOSSES, _OF_THE_REST):
            far, place = farthest(*(_held_to(tolerance, found) for found in (mine, theirs)))
            wrong = "" if far <= tolerance else f"{place}: {far:.1e}"
            trials.judge(wrongs, wrong, f"mesh {name}, {place}")
            words += f" {far:.1e} of {tolerance:g}"
        rows.append(trials.row_of(f"every mode, mesh {name}", hold, wrongs, words))
    return rows


def _serve(port, count, index, names, *words):
    import jax
    from absl import flags

    if int(count) > 1:
        place = {"num_processes": int(count), "process_id": int(index)}
        jax.distributed.initialize(f"127.0.0.1:{port}", **place)
    from nid_jax import cli

    statuses = []
    for mode in names.split(","):
        argv = ["nid_jax", *words, f"--mode={mode}"]
        values = flags.FlagValues()
        cli.define_flags(values, argv)
        try:
            cli.main(cli.parse(argv, values), values)
            statuses.append(0)
        except SystemExit as leaving:
            statuses.append(leaving.code)
    print("\ncodes", json.dumps(statuses))


if __name__ == "__main__":
    _serve(*sys.argv[1:])
