"""Memory of one training step of the CelebA configuration, on this machine.

    python experiments/memory.py --scale=paper --output=DIR

Writes table.md and metrics.json. Images are random; sizes are those of configs/official.py:celeba
(4096 experts, 256 active, width 512, 2048 Fourier features, batches of 256 colour signals), each
case in a process of its own, for the dense step of the warm-up and for the sparse step after it:

    patches   as shipped: patches of 16x16, codes from the residual network
    images    whole images of 128x128, 1024 points of each in a step, codes from a codebook
"""

import dataclasses
import time

import jax
import numpy as np
from absl import flags
from measuring import command

from nid_jax import data, devices, sharding, tasks
from nid_jax.reporting import tables
from nid_jax.training.loop import Trainer

LIMIT = 24 * 2**30
"""Bytes of host memory that a step may take."""
CASES = ("patches", "images")
PHASES = ("dense", "sparse")


@dataclasses.dataclass(frozen=True)
class Scale:
    """side of the square images, how many there are, and what of the config is made smaller."""

    side: int
    images: int
    steps: int
    dictionary: dict
    router: dict
    train: dict
    features: int = 2048
    patch: int = 16


SCALES = {
    "smoke": Scale(
        side=16,
        images=8,
        steps=1,
        dictionary={"num_experts": 16, "width": 16},
        router={"top_k": 4, "widths": (4, 8)},
        train={"batch_size": 8, "points": 32},
        features=32,
        patch=8,
    ),
    "paper": Scale(side=128, images=500, steps=1, dictionary={}, router={}, train={}),
}


def build(scale, case):
    """The trainer of a case."""
    config = command.config_of("official", "celeba")
    config.dictionary.update(scale.dictionary)
    config.dictionary.embedding.size = scale.features
    config.router.update(scale.router)
    config.train.update(scale.train)
    collection = command.noise(scale.images, scale.side)
    if case == "patches":
        collection = data.PatchCollection(collection, scale.patch, 0)
    else:
        config.router.kind = "codebook"
    return Trainer(tasks.build(config), config, None, collection)


def measure(scale, case, phase):
    """Train a few steps in this process. -> what they took, in JSON types."""
    trainer = build(scale, case)
    number = 0 if phase == "dense" else trainer.warmup_steps
    batch = sharding.place_batch(next(trainer.batches), trainer.mesh)
    start = time.perf_counter()
    program = trainer.step_for(number, batch)
    compiling = time.perf_counter() - start
    seconds, state = [], trainer.state
    # The trainer lets go of the state, as its loop does, so that the step may write over it.
    trainer.state = None
    for _ in range(scale.steps):
        start = time.perf_counter()
        state, terms = program(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    points = min(trainer.config.train.points or np.inf, trainer.operator.num_measurements)
    return {
        "case": case,
        "phase": phase,
        "parameters": trainer.parameters,
        "points": int(points),
        "batch": trainer.config.train.batch_size,
        "compiled_bytes": trainer.compiled_bytes,
        "peak_bytes": devices.peak_memory_bytes()["host"],
        "compile_seconds": compiling,
        "step_seconds": min(seconds),
        "loss": float(terms["loss"]),
    }


HEADERS = [
    "case",
    "step",
    "numbers",
    "batch",
    "points",
    "compiled step",
    "peak of the process",
    f"under {tables.format_bytes(LIMIT)}",
    "compile s",
    "step s",
]


def row_of(found):
    """A row of the table."""
    return [
        found["case"],
        found["phase"],
        tables.format_count(sum(found["parameters"].values())),
        found["batch"],
        found["points"],
        tables.format_bytes(found["compiled_bytes"]),
        tables.format_bytes(found["peak_bytes"]),
        found["peak_bytes"] < LIMIT,
        found["compile_seconds"],
        found["step_seconds"],
    ]


def run(scale, output, only):
    """Measure every case in a process of its own, or the one of `only`, which prints JSON."""
    if only:
        command.tell(measure(SCALES[scale], *only))
        return
    found = []
    for case in CASES:
        for phase in PHASES:
            print(f"{case}, {phase}", flush=True)
            found.append(command.apart(__file__, f"--scale={scale}", f"--only={case},{phase}"))
    parts = [
        f"# Memory of a training step, scale {scale}\n",
        command.made() + "\n",
        "configs/official.py:celeba on random images; patches: as shipped, with the residual "
        "network; images: whole ones, a chunk of points in a step, with a codebook. Numbers: "
        "trained and fixed ones. Compiled step: what XLA says it holds, weights and Adam's moments "
        "included. The peak is the largest resident set of a process that made the data, compiled "
        "and took the steps; the quickest step counts.\n",
        tables.markdown_table([row_of(one) for one in found], HEADERS),
    ]
    metrics = {"scale": scale, "limit_bytes": LIMIT, "cases": found}
    command.write(output, "\n".join(parts), metrics)
    print(output / "table.md")


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", [], "One case and step, such as patches,dense; prints JSON.")
    command.start(run, "memory", SCALES, ONLY, default="paper")
