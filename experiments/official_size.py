"""A checkpoint of the official code of the size that was released: time and memory of each command.

    python experiments/official_size.py --scale=smoke|released --output=docs/results/official

The file has the tensors that configs/celeba_train.txt of the official code makes, Adam's moments
among them, by name, shape and type; its numbers are random, drawn as PyTorch draws new weights.
Scores therefore say nothing; that the numbers are taken over is checked against NumPy in float64.
Every command runs in a process of its own, whose peak is its own. Writes table.md and metrics.json.
"""

import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import skimage.data
from measuring import command, torch_files
from measuring.command import say

import nid_jax as nid
from nid_jax.interop import official
from nid_jax.reporting import tables

IMAGES = 4
# Side of a picture and of a patch, and what the text file of the official run says of sizes.
SCALES = {
    "smoke": (
        *(32, 8),
        {"num_experts": 24, "num_topk": 4, "hidden_dim": 16, "ffm_map_size": 32, "patch_size": 8},
    ),
    "released": (
        *(128, 16),
        {"num_experts": 4096, "num_topk": 256, "hidden_dim": 512, "ffm_map_size": 2048},
    ),
}
OPTIONS = {
    "dataset": "celeba",
    "batch_size": 256,
    "num_layers": 4,
    "pos_emb": "ffm",
    "act_type": "relu",
    "gate_type": "resnet",
    "ffm_map_scale": 256,
}
WIDTHS = {"smoke": (4, 6), "released": (128, 256)}
POINTS = 64
"""Of the comparison with float64."""


def tensors(scale):
    """A state dict of random numbers, in the official order."""
    _, patch, options = SCALES[scale]
    found = official.Architecture(
        options["num_experts"],
        channels=3,
        dims=2,
        num_layers=OPTIONS["num_layers"],
        width=options["hidden_dim"],
        embedding="fourier",
        features=options["ffm_map_size"],
        router="resnet",
        router_widths=WIDTHS[scale],
        pixels=patch * patch,
    )
    draw, state, bound = np.random.default_rng(0), OrderedDict(), 1.0
    for name, shape in official.expected_shapes(found).items():
        if name == "experts.map.B":
            numbers = draw.normal(0, OPTIONS["ffm_map_scale"], shape)
        else:
            # A bias is drawn as the kernel before it.
            bound = bound if name.endswith("bias") else np.prod(shape[1:]) ** -0.5
            numbers = draw.uniform(-bound, bound, shape)
        state[name] = numbers.astype(np.float32)
    return state


def write_checkpoint(path, state):
    """{'model', 'optimizer', 'current_epoch'} as the official code saves it after 5000 epochs."""
    trained = [name for name in state if name != "experts.map.B"]
    draw = np.random.default_rng(1)
    moments = {
        number: {
            "step": np.array(125 * 5001, np.float32),
            "exp_avg": draw.normal(0, 1e-6, state[name].shape).astype(np.float32),
            "exp_avg_sq": draw.uniform(0, 1e-9, state[name].shape).astype(np.float32),
        }
        for number, name in enumerate(trained)
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    group |= {"maximize": False, "params": list(range(len(trained)))}
    optimizer = {"state": moments, "param_groups": [group]}
    saved = {"current_epoch": 5000, "model": state, "optimizer": optimizer}
    torch_files.write(path, saved)


def pictures(side):
    """A few colour pictures [S, side, side, 3] of scikit-image's, bytes."""
    sources = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee")]
    found = [source[60 : 60 + side, 100 : 100 + side] for source in sources]
    return np.stack([*found, sources[0][180 : 180 + side, 180 : 180 + side]])[:IMAGES]


def processor_seconds():
    """Of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def largest_resident(pid):
    """Bytes that a process has had in memory at once, so far; 0 where it has ended.

    Not ru_maxrss of a child, to which what this process has counts too.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def measured(name, arguments, folder):
    """Run a command in `folder`. -> its name and words, and what it took."""
    typed = f"python -m {shlex.join(arguments)}"
    say(typed)
    with (folder / "log.txt").open("w+") as log:
        begun, used, peak = time.perf_counter(), processor_seconds(), 0
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, stdout=log, stderr=log
        )
        while process.poll() is None:
            peak = max(peak, largest_resident(process.pid))
            time.sleep(0.05)
        seconds, used = time.perf_counter() - begun, processor_seconds() - used
        log.seek(0)
        told = log.read()
    if process.returncode:
        raise ValueError(f"{typed}: exit status {process.returncode}: {told[-2000:]}")
    took = {"seconds": seconds, "processor_seconds": used, "peak_bytes": peak}
    return {"name": name, "command": typed, **took}


def farthest(run, state):
    """Largest difference of the imported basis from the file's in float64, of its size."""
    points = np.random.default_rng(2).uniform(-1, 1, (POINTS, 2)).astype(np.float32)
    turns = points.astype(float) @ state["experts.map.B"].astype(float).T
    values = np.concatenate([np.sin(turns), np.cos(turns)], 1)
    for layer in range(OPTIONS["num_layers"]):
        name = f"experts.net.net.{layer}.0"
        values = np.maximum(values, 0) if layer else values
        values = values @ state[f"{name}.weight"].astype(float).T + state[f"{name}.bias"]
    found = np.asarray(nid.load(run).model.dictionary.basis(points))
    return float(np.abs(found.reshape(values.shape) - values).max() / np.abs(values).max())


def commands(side):
    """(what it does, arguments after python -m) in the order in which they are typed."""
    here = ["--config=official:runs/celeba", "--workdir=runs/celeba"]
    mine = ["--config.data.name=array", "--config.data.root=images.npz"]
    importer = [
        "nid_jax.interop.torch_checkpoint",
        "--checkpoint=celeba_pretrained.ckpt",
        "--workdir=runs/celeba",
        "--official_config=celeba_train.txt",
    ]
    if side != 128:
        importer.append(f"--config.data.size=({side}, {side})")
    nid_jax = ["nid_jax", *here]
    return {
        "import": importer,
        "fit, all experts, ridge": [*nid_jax, "--mode=fit", *mine],
        "score": [*nid_jax, "--mode=eval", *mine],
        "render": [*nid_jax, "--mode=render"],
        "fit one picture by its router": [
            *nid_jax,
            "--mode=fit",
            *mine,
            "--config.fit.solver=router",
            "--config.fit.name=router",
            "--config.fit.num_signals=1",
        ],
    }


def run(scale, output):
    """Write the file, type the commands, say what they took."""
    side, _, options = SCALES[scale]
    state = tensors(scale)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "celeba_pretrained.ckpt"
        write_checkpoint(path, state)
        lines = [f"{key}={value}" for key, value in (OPTIONS | options).items()]
        (folder / "celeba_train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        np.savez(folder / "images.npz", train=pictures(side), test=pictures(side))
        found = [measured(*one, folder) for one in commands(side).items()]
        size, error = path.stat().st_size, farthest(folder / "runs" / "celeba", state)
    columns = {
        "step": lambda row: row["name"],
        "wall clock": lambda row: f"{row['seconds']:.1f} s",
        "processor time": lambda row: f"{row['processor_seconds']:.1f} s",
        "peak of the process": lambda row: tables.format_bytes(row["peak_bytes"]),
    }
    numbers = sum(tensor.size for tensor in state.values())
    parts = [
        f"# An official checkpoint of the released size, scale {scale}\n",
        command.made() + "\n",
        f"A file of {size / 1e6:.0f} MB: {len(state)} tensors of {numbers} numbers and Adam's two "
        f"moments of each, made by `experiments/official_size.py`; {IMAGES} colour pictures of "
        f"{side}x{side}. The numbers are random, so that there are no scores here. The basis of "
        f"the imported dictionary at {POINTS} points differs from the file's in float64 by "
        f"{error:.1e} of its largest value at most. Every command is a process of its own, "
        "compilation included. Wall clock is of a machine that does other work too; processor time "
        "is the command's own.\n",
        command.table(columns, found),
        "\n".join(["", "    " + "\n    ".join(row["command"] for row in found)]),
    ]
    metrics = {"scale": scale, "file_bytes": size, "numbers": numbers, "largest_error": error}
    command.write(output, "\n".join(parts), metrics | {"commands": found})
    print(output / "table.md")


if __name__ == "__main__":
    command.start(run, "official_size", SCALES, default="released")
