"""Fits in float32, on orthonormal equations, beside the normal equations in float64.

    python experiments/precision.py --scale=smoke|cpu --output=DIR --only=image:cpu,ct:smoke

Every config is learned for a few steps, and its own fit of unseen signals taken twice: what
`fit.precision` says is all that differs. The time is that of equations and codes, without
compilation, of the same signals, one after the other in one process. Writes DIR/table.md and
metrics.json.
"""

import dataclasses
import tempfile

import numpy as np
from absl import flags
from measuring import command
from measuring.dictionaries import changed, learned
from measuring.rates import median_seconds

from nid_jax import tasks
from nid_jax.coding.gram import PRECISIONS
from nid_jax.coding.solvers import Gaussian, Ridge
from nid_jax.storage import artefacts

# Configs and variants, and the most steps of their training: the algebra is that of any dictionary.
SCALES = {
    "smoke": (("image:smoke",), 5),
    "cpu": (
        (
            "image:smoke",
            "image:cpu",
            "image:cpu-sparse",
            "image:cpu-independent",
            "image:photos",
            "ct:cpu",
            "inpainting:cpu",
            "mri:cpu",
            "video:cpu",
            "sdf:smoke",
        ),
        40,
    ),
}


def compared(name, steps):
    """A row for every solver: that of the config and, where there are, ridge and Gaussian."""
    config = command.config_of(*name.split(":"))
    config = changed(config, {"train.steps": min(config.train.steps, steps)})
    task = tasks.build(config)
    with tempfile.TemporaryDirectory() as folder:
        dictionary = learned(task, config, folder).dictionary
    config = changed(config, {"fit.refine.kind": "none"} if "refine" in config.fit else {})
    collection = task.open(config.fit.split)
    found = dictionary.fit_collection(task, collection, config)
    truth = task.measure(collection).truths(len(found))
    solvers = {type(found.solver): found.solver, Ridge: Ridge()}
    if dictionary.prior is not None:
        solvers.setdefault(Gaussian, Gaussian())
    return [one(name, found, truth, solver) for solver in solvers.values()]


def one(name, found, truth, solver):
    """The same problem in both precisions."""
    row, scores, residuals = {"config": name, "solver": solver.name}, {}, {}
    for precision in PRECISIONS:
        same = dataclasses.replace(solver, precision=precision)
        solution, row[f"{precision} seconds"], _ = median_seconds(
            lambda same=same: same.solve(found.problem), repeats=5, budget=6.0
        )
        again = dataclasses.replace(found, solution=solution)
        scores[precision] = None if truth is None else again.score(truth)["psnr"]
        residuals[precision] = np.asarray(solution.residual)
    row["signals"], row["experts"] = len(found), found.dictionary.num_experts
    row["residual dB"] = decibels(residuals["float32"] / residuals["float64"])
    if truth is not None:
        row["psnr"] = float(np.mean(scores["float64"]))
        row["psnr difference"] = float(np.mean(scores["float32"] - scores["float64"]))
        row["least difference"] = float(np.min(scores["float32"] - scores["float64"]))
    command.say(row)
    return row


def decibels(ratios):
    """The largest ratio of powers."""
    return float(10 * np.log10(ratios).max())


COLUMNS = {
    "config": lambda row: row["config"],
    "solver": lambda row: row["solver"],
    "S, E": lambda row: f"{row['signals']}, {row['experts']}",
    "PSNR, float64": lambda row: row.get("psnr", "") and f"{row['psnr']:.2f} dB",
    "float32, mean": lambda row: row.get("psnr", "") and f"{row['psnr difference']:+.4f} dB",
    "worst signal": lambda row: row.get("psnr", "") and f"{row['least difference']:+.4f} dB",
    "worst residual": lambda row: f"{row['residual dB']:+.4f} dB",
    "float64": lambda row: f"{1e3 * row['float64 seconds']:.1f} ms",
    "float32": lambda row: f"{1e3 * row['float32 seconds']:.1f} ms",
    "times as fast": lambda row: f"{row['float64 seconds'] / row['float32 seconds']:.2f}",
}


def run(scale, output, only):
    """Measure and write."""
    names, steps = SCALES[scale]
    names = only or names
    rows = [row for name in names for row in compared(name, steps)]
    output.mkdir(parents=True, exist_ok=True)
    table = command.table(COLUMNS, rows)
    command.write_page(output / "table.md", f"{table}\n\n{command.made()}.")
    artefacts.write_json(output / "metrics.json", {"scale": scale, "rows": rows})
    print(table)


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", "", "Configs CONFIG:VARIANT instead of the scale's own.")
    command.start(run, "precision", SCALES, ONLY)
