"""Memory of one training step of the CelebA configuration, on this machine.

    python experiments/memory.py --scale=paper --output=DIR

Writes table.md and metrics.json. Images are random; sizes are those of configs/official.py:celeba
(4096 experts, 256 active, width 512, 2048 Fourier features, batches of 256 colour signals), each
case in a process of its own, for the dense step of the warm-up and for the sparse step after it:

    patches   as shipped: patches of 16x16, codes from the residual network
    images    whole images of 128x128, 1024 points of each in a step, codes from a codebook
"""

import itertools

import jax
import numpy as np
from absl import flags
from measuring import command
from measuring.command import clocked
from measuring.training_step import TrainingStep

from nid_jax import data, devices
from nid_jax.reporting import tables

LIMIT = 24 * 2**30
"""Bytes of host memory that a step may take."""
# Side of the images, how many, side of a patch, and what of the config is made smaller.
SCALES = {
    "smoke": (
        *(16, 8, 8),
        {
            "dictionary.num_experts": 16,
            "dictionary.width": 16,
            "dictionary.embedding.size": 32,
            "router.top_k": 4,
            "router.widths": (4, 8),
            "train.batch_size": 8,
            "train.points": 32,
        },
    ),
    "paper": (128, 500, 16, {"dictionary.embedding.size": 2048}),
}


def measure(scale, case, phase):
    """Take a step in this process. -> what it took, in JSON types."""
    side, images, patch, changes = scale
    config = command.config_of("official", "celeba", changes)
    collection = command.noise(images, side)
    if case == "patches":
        collection = data.PatchCollection(collection, patch, 0)
    else:
        config.router.kind = "codebook"
    step = TrainingStep(config, collection, phase == "dense")
    trainer = step.trainer
    terms, seconds = clocked(lambda: jax.block_until_ready((step(), trainer.state))[0])
    points = min(trainer.config.train.points or np.inf, trainer.operator.num_measurements)
    return {
        "case": case,
        "phase": phase,
        "parameters": trainer.parameters,
        "points": int(points),
        "batch": trainer.config.train.batch_size,
        "compiled_bytes": trainer.compiled_bytes,
        "peak_bytes": devices.peak_memory_bytes()["host"],
        "compile_seconds": step.compile_seconds,
        "step_seconds": seconds,
        "loss": float(terms["loss"]),
    }


COLUMNS = {
    "case": lambda found: found["case"],
    "step": lambda found: found["phase"],
    "numbers": lambda found: tables.format_count(sum(found["parameters"].values())),
    "batch": lambda found: found["batch"],
    "points": lambda found: found["points"],
    "compiled step": lambda found: tables.format_bytes(found["compiled_bytes"]),
    "peak of the process": lambda found: tables.format_bytes(found["peak_bytes"]),
    f"under {tables.format_bytes(LIMIT)}": lambda found: found["peak_bytes"] < LIMIT,
    "compile s": lambda found: found["compile_seconds"],
    "step s": lambda found: found["step_seconds"],
}


def run(scale, output, only):
    """Measure every case in a process of its own, or the one of `only`, which prints JSON."""
    if only:
        command.tell(measure(SCALES[scale], *only))
        return
    found = []
    for case, phase in itertools.product(("patches", "images"), ("dense", "sparse")):
        print(f"{case}, {phase}", flush=True)
        found.append(command.apart(__file__, f"--scale={scale}", f"--only={case},{phase}"))
    parts = [
        f"# Memory of a training step, scale {scale}\n",
        command.made() + "\n",
        "configs/official.py:celeba on random images; patches: as shipped, with the residual "
        "network; images: whole ones, a chunk of points in a step, with a codebook. Numbers: "
        "trained and fixed ones. Compiled step: what XLA says it holds, weights and Adam's moments "
        "included. The peak is the largest resident set of a process that made the data, compiled "
        "and took the step.\n",
        command.table(COLUMNS, found),
    ]
    metrics = {"scale": scale, "limit_bytes": LIMIT, "cases": found}
    command.write(output, "\n".join(parts), metrics)
    print(output / "table.md")


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", [], "One case and step, such as patches,dense; prints JSON.")
    command.start(run, "memory", SCALES, ONLY, default="paper")
