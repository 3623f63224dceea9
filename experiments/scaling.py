"""What a step of training costs on a mesh: counted, as XLA compiles it, and over processes.

    python experiments/scaling.py --scale=smoke|cpu --output=docs/results/scaling

Writes table.md and metrics.json. The cost model of studies/scaling_costs.py beside XLA's own
analysis of steps compiled for meshes of CPU devices; the model
alone out to 4096 chips; and steps of one and of two processes of this machine, which are joined as
machines are.
"""

import json
import os
import socket
import subprocess
import sys
from unittest import mock

import numpy as np
from absl import flags
from measuring import command
from measuring.lowering import collective_bytes, collectives
from measuring.training_step import TrainingStep
from studies import lowering_cases, scaling_text
from studies.scaling_costs import KINDS, Sizes, step_bytes, step_memory, step_products

from nid_jax import devices
from nid_jax.running import joining

# (side, signals, experts, width) of shapes; meshes.
SHAPES = {"small": (25, 32, 256, 64), "larger": (32, 128, 1024, 128), "timed": (16, 64, 64, 32)}
MESHES = ((1, 1), (2, 1), (1, 2), (4, 2), (8, 1), (1, 8))
# Meshes of shapes and kinds of steps that are compiled; kinds that are timed, steps of each.
SCALES = {
    "smoke": ({"small": ((1, 1), (2, 1))}, ("joint, dense",), ("joint, dense",), 5),
    "cpu": ({"small": MESHES, "larger": ((1, 1), (4, 2))}, KINDS, ("joint, dense", "varpro"), 50),
}
LAYERS, ACTIVE, EMBEDDED = 3, 4, 8
# Processes, mesh, parts of the batch.
RUNS = ((1, (1, 1), (2, 1)), (2, (2, 1), (1,)), (2, (1, 2), (1,)))


def sizes_of(shape, data, expert, part=1):
    """What the cost model is told of a shape and a mesh."""
    side, signals, experts, width = SHAPES[shape]
    layers = (EMBEDDED, *(width,) * (LAYERS - 1))
    signals = signals // part
    return Sizes(
        signals, side**2, experts, ACTIVE, layers, 1, 2 * signals, data=data, expert=expert
    )


def step_of(kind, shape, sizes):
    """The compiled step of a training on its mesh."""
    config = lowering_cases.config_of()
    config.dictionary.update({"num_experts": sizes.experts, "width": sizes.features})
    config.train.batch_size = sizes.signals
    if kind != "varpro":
        config.router.kind, config.train.codes = "codebook", "joint"
    if kind == "joint, sparse":
        config.router.top_k = ACTIVE
    config.mesh.update({"data": sizes.data, "expert": sizes.expert})
    images = command.noise(sizes.collection, SHAPES[shape][0], 1)
    return TrainingStep(config, images, dense=False)


def compiled(kind, shape, sizes):
    """Model and XLA of one step: a row."""
    program = step_of(kind, shape, sizes).program
    text = program.as_text()
    return {
        "step": kind,
        "shape": shape,
        "mesh": f"{sizes.data} x {sizes.expert}",
        "flops": (sum(step_products(kind, sizes).values()), program.cost_analysis()["flops"]),
        "memory": (sum(step_memory(kind, sizes).values()), devices.compiled_bytes(program)),
        "bytes": (sum(step_bytes(kind, sizes).values()), sum(collective_bytes(text).values())),
        "by kind": collective_bytes(text),
        "collectives": collectives(text),
    }


def compiled_rows(scale):
    """`compiled` of every shape, mesh and kind, in this process, which has devices for all."""
    shapes, kinds, *_ = SCALES[scale]
    return [
        compiled(kind, shape, sizes_of(shape, *mesh))
        for shape, meshes in shapes.items()
        for mesh in meshes
        for kind in kinds
    ]


def compiled_apart(scale):
    """`compiled_rows`; the devices of a mesh are threads of one CPU."""
    command.say("compiling steps for meshes")
    flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    with mock.patch.dict(os.environ, {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}):
        return command.apart(__file__, f"--scale={scale}", "--part=compiled")


def timed(kind, steps, mesh, part):
    """Seconds of a step, after one that is not counted: a row. part: the batch is divided by it."""
    sizes = sizes_of("timed", *mesh, part)
    step = step_of(kind, "timed", sizes)
    step()

    def one():
        np.asarray(step()["loss"].addressable_data(0))

    seconds = [command.clocked(one)[1] for _ in range(steps)]
    sent = sum(collective_bytes(step.program.as_text()).values())
    return {
        "step": kind,
        "mesh": f"{mesh[0]} x {mesh[1]}",
        "signals": sizes.signals,
        "seconds": float(np.median(seconds)),
        # Of a busy machine the least says most.
        "least": min(seconds),
        "bytes": sent,
    }


def joined_rows(scale, processes, mesh, parts):
    """`timed` of all kinds in so many processes, as the first of them says."""
    command.say(f"{processes} process(es), mesh {mesh[0]} x {mesh[1]}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = [sys.executable, __file__, f"--scale={scale}"]
    shares = ",".join(map(str, parts))
    started = []
    for number in range(processes):
        place = f"--part=timed,{port},{processes},{number},{mesh[0]},{mesh[1]},{shares}"
        given = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        pipe = subprocess.PIPE if number == 0 else subprocess.DEVNULL
        started.append(subprocess.Popen([*words, place], stdout=pipe, env=given, text=True))
    out, _ = started[0].communicate()
    for process in started:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return [row | {"processes": processes} for row in json.loads(out.splitlines()[-1])]


def run_joined(scale, port, processes, number, data, expert, *parts):
    """What one of several processes does. -> rows."""
    *_, kinds, steps = SCALES[scale]
    where = joining.Place(f"127.0.0.1:{port}", processes, number)
    with joining.joined(where if processes > 1 else None):
        return [timed(kind, steps, (data, expert), part) for part in parts for kind in kinds]


def run(scale, output, part):
    """Everything, or one part in this process, which prints JSON."""
    if part:
        found = run_joined(scale, *map(int, part[1:])) if part[1:] else compiled_rows(scale)
        command.tell(found)
        return
    rows = compiled_apart(scale)
    joined = [row for given in RUNS for row in joined_rows(scale, *given)]
    cores = len(os.sched_getaffinity(0))
    text = scaling_text.page(SHAPES, rows, joined, cores, os.getloadavg()[0])
    command.write(output, text, {"scale": scale, "compiled": rows, "processes": joined})
    print(output / "table.md")


if __name__ == "__main__":
    PART = flags.DEFINE_list("part", [], "One part alone, in this process; prints JSON.")
    command.start(run, "scaling", SCALES, PART)
