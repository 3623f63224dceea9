"""What a compiler says of every function for GPUs and TPUs, from a machine that has neither.

    python experiments/lowering.py --scale=cpu --output=docs/results/lowering

Writes table.md and metrics.json; with --costs instead costs.md: what the float32 that a TPU gets
costs where others get float64, taken on this machine. Every compiled function that a user reaches
(studies/lowering_cases.py) is lowered for `cuda` and for `tpu`: what it holds of float64, of calls
to the host, of custom calls and of products in fewer bits than float32. Steps of training are also
compiled for one CPU device and for a mesh of 4 x 2, in processes of their own: collective
operations of a step, and bytes that each device holds.
"""

import math
import os
from unittest import mock

from absl import flags
from measuring import command
from measuring.lowering import CUSTOM_CALLS, PLATFORMS, collectives, lowered
from studies import lowering_cases, lowering_costs

from nid_jax import devices, tasks
from nid_jax.reporting import tables
from nid_jax.storage import artefacts
from nid_jax.training.loop import Trainer

# Side of the images, signals of a batch, experts, width; the first words of cases that are taken.
SCALES = {
    "smoke": (6, 8, 8, 8, ("training step: joint, dense", "many training steps: varpro", "render")),
    "cpu": (25, 32, 256, 64, ("",)),
}
MESHES = ((1, 1), (4, 2))
STEPS = {
    "joint, dense": {"router.kind": "codebook", "train.codes": "joint"},
    "joint, sparse": {"router.kind": "codebook", "train.codes": "joint", "router.top_k": 4},
    "varpro": {},
    "varpro, through the solve": {"train.differentiate": "solve"},
    "varpro, amortised": {"router.kind": "conv", "router.width": 16},
    "sparse_varpro": {"train.codes": "sparse_varpro", "router.top_k": 4},
    "varpro, muon": {"train.optimizer.name": "muon"},
    "joint, dense, independent": {
        "router.kind": "codebook",
        "train.codes": "joint",
        "dictionary.kind": "independent",
        "dictionary.activation": "sine",
        "dictionary.embedding.kind": "identity",
        "dictionary.width": 16,
    },
}


def cases_of(starts):
    """A row for every case and platform."""
    rows = []
    chosen = [case for case in lowering_cases.cases() if case.name.startswith(starts)]
    for number, case in enumerate(chosen):
        if not number % 20:
            command.say(f"lowering {number + 1} of {len(chosen)}")
        for platform, found in lowered(*case.make()).items():
            rows.append({"case": case, "platform": platform, "found": found})
    return rows


def compiled_step(scale, name, data, expert, scan=False):
    """A step of training, or many in one program, compiled for a mesh, in this process. -> JSON
    types."""
    side, signals, experts, width, _ = SCALES[scale]
    config = lowering_cases.config_of()
    config.dictionary.update({"num_experts": experts, "width": width})
    config.train.batch_size = signals
    config.update_from_flattened_dict(STEPS[name])
    config.mesh.update({"data": data, "expert": expert})
    config.train.scan = "on" if scan else "off"
    collection = command.noise(2 * signals, side, 1)
    trainer = Trainer(tasks.build(config), config, None, collection)
    program = trainer.step_for(trainer.warmup_steps, trainer.feeder.feed(0, 1))
    trainer.feeder.close()
    return {
        "step": f"{name}, many in one program" if scan else name,
        "mesh": f"{data} x {expert}",
        "collectives": collectives(program.as_text()),
        "bytes": devices.compiled_bytes(program),
    }


def steps_of(scale):
    """`compiled_step` of every step and mesh; the devices of a mesh are threads of one CPU."""
    found = []
    for data, expert in MESHES:
        command.say(f"compiling steps for a mesh of {data} x {expert}")
        given = f"{os.environ.get('XLA_FLAGS', '')} "
        flag = f"--xla_force_host_platform_device_count={data * expert}"
        with mock.patch.dict(os.environ, {"XLA_FLAGS": given + flag, "JAX_PLATFORMS": "cpu"}):
            mesh = f"--mesh={data},{expert}"
            found += command.apart(__file__, f"--scale={scale}", mesh)
    return found


def _counts(found):
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items())) or "none"


def _double(row):
    found = row["found"].float64
    if not found:
        return "no"
    where = sorted(found, key=found.get, reverse=True)
    named = [name for name in where if not name.startswith(("_where", "trace"))]
    return f"{sum(found.values())}: {', '.join((named or where)[:3])}"


COLUMNS = {
    "function": lambda row: row["case"].name,
    "platform": lambda row: row["platform"],
    "lowered": lambda row: f"{row['found'].operations} operations",
    "with float64": _double,
    "calls to the host": lambda row: row["found"].callbacks or "none",
    "custom calls": lambda row: _counts(row["found"].custom_calls),
    "products below float32": lambda row: _counts(row["found"].short_products),
}
STEP_COLUMNS = {
    "step": lambda row: row["step"],
    "mesh, data x expert": lambda row: row["mesh"],
    "collectives": lambda row: _counts(row["collectives"]),
    "bytes of a device": lambda row: tables.format_bytes(row["bytes"]),
}


def text_of(scale, rows, steps):
    """The page."""
    side, signals, experts, width, _ = SCALES[scale]
    seen = sorted({name for row in rows for name in row["found"].custom_calls})
    reasons = [f"- {case.name}: {case.float64}" for case in lowering_cases.cases() if case.float64]
    counts = {
        name: sum(bool(r["found"].float64) for r in rows if r["platform"] == name)
        for name in PLATFORMS
    }
    return "\n".join(
        [
            "# What a compiler says of every function for GPUs and TPUs\n",
            command.made() + "\n",
            "Lowered by `jax.export` on a machine without either: nothing here has been run on a "
            "GPU or a TPU. Counts are of StableHLO's operations: with float64, by the functions "
            "that hold most of them; products below float32 are those that leave the precision to "
            "the platform, on a TPU bfloat16.\n",
            *[f"With float64 on {name}: {count} functions." for name, count in counts.items()],
            "\nFloat64 on a TPU, deliberately:\n",
            *reasons,
            "\nProducts below float32, deliberately:\n",
            *[f"- {word}: {why}" for word, why in lowering_cases.SHORT.items()],
            "",
            command.table(COLUMNS, rows),
            "\n## Custom calls\n",
            *[f"- `{name}`: {CUSTOM_CALLS[name]}" for name in seen],
            "\n## Steps of training on a mesh\n",
            f"Compiled for CPU devices: images of {side} x {side} x 1, {signals} of them in a "
            f"batch, {experts} experts, width {width}. Collectives are counted in the text of the "
            "compiled program: one inside of a loop counts once. Bytes are XLA's own estimate of a "
            "step's peak on each device, weights and moments included.\n",
            command.table(STEP_COLUMNS, steps),
        ]
    )


def write_costs(scale, output):
    """costs.md."""
    words = (
        "# What float32 costs where a CPU or GPU gets float64\n",
        command.made() + "\n",
        "Both on this CPU, the float32 path of a TPU forced. 80 faces of 25 x 25 and copies of "
        "them, 256 atoms on a trunk of width 160, 40 steps; unseen faces fitted by ridge. Positive "
        "is better. Derivatives and surfaces: length of the difference, relative. What was "
        "predicted was written down before.\n",
        command.table(lowering_costs.COLUMNS, list(lowering_costs.costs(scale))),
    )
    artefacts.write_text(output / "costs.md", "\n".join(words).strip() + "\n")
    print(output / "costs.md")


def run(scale, output, mesh, costs):
    """Lower and compile everything, or the steps of one mesh, which prints JSON, or the costs."""
    if costs:
        write_costs(scale, output)
        return
    if mesh:
        sides = tuple(map(int, mesh))
        # Signals lie on one device only.
        ways = (False, True) if math.prod(sides) == 1 else (False,)
        names = ("varpro",) if scale == "smoke" else STEPS
        command.tell([compiled_step(scale, name, *sides, w) for name in names for w in ways])
        return
    rows, steps = cases_of(SCALES[scale][-1]), steps_of(scale)
    metrics = {
        "scale": scale,
        "functions": [
            {"case": row["case"].name, "platform": row["platform"], **vars(row["found"])}
            for row in rows
        ],
        "steps": steps,
    }
    command.write(output, text_of(scale, rows, steps), metrics)
    print(output / "table.md")


if __name__ == "__main__":
    MESH = flags.DEFINE_list("mesh", [], "One mesh's steps alone, such as 4,2; prints JSON.")
    COSTS = flags.DEFINE_bool("costs", False, "What float32 costs, instead.")
    command.start(run, "lowering", SCALES, MESH, COSTS)
