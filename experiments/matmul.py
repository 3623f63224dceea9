"""Fits and renderings with layers multiplied in fewer bits, beside float32: numerics.matmul.

    python experiments/matmul.py --scale=smoke|cpu --output=DIR --only='shapes splines,smoke'

A dictionary is learned in float32 and its own fit of unseen signals taken in every precision: of
what is rendered only, the codes being those of float32, and of features in the equations too. On
CPU operands are rounded as matrix units do. Writes DIR/matmul.md and matmul.json.
"""

import dataclasses
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags
from measuring import command
from measuring.dictionaries import changed, learned

from nid_jax import json_files, numerics, tasks
from nid_jax.fields.coordinates import grid
from nid_jax.storage import artefacts

REDUCED = numerics.MATMULS[1:]
SHARED = {
    "dictionary.kind": "shared",
    "dictionary.width": 256,
    "dictionary.num_layers": 3,
    "train.steps": 40,
}
FEWER = {"data.num_train": 1000, "train.batch_size": 200, "prior.num_signals": 1000}
# Row: config, variant, changes. What descends does so for few steps.
ROWS = {
    "smoke": ("image", "smoke", {}),
    "faces cosines": ("image", "cpu", {}),
    "faces independent sines": ("image", "cpu-independent", {"train.steps": 40}),
    "faces sine trunk": ("image", "cpu-independent", SHARED),
    "faces relu trunk on Fourier": (
        "image",
        "cpu-independent",
        SHARED
        | {"dictionary.activation": "relu", "dictionary.embedding.kind": "fourier"}
        | {"dictionary.embedding.size": 256},
    ),
    "photographs cosines": ("image", "photos", FEWER),
    "CT of 32x32 from 8 views": (
        "ct",
        "cpu",
        FEWER
        | {"data.size": (32, 32), "dictionary.num_experts": 256, "dictionary.width": 256}
        | {"dictionary.embedding.size": 256, "train.steps": 20},
    ),
    "shapes splines": ("sdf", "smoke", {}),
    "shapes relu trunk on Fourier": (
        "sdf",
        "smoke",
        {"dictionary.num_layers": 3, "dictionary.width": 64, "dictionary.heads": "drawn"}
        | {"dictionary.embedding.kind": "fourier", "dictionary.embedding.size": 64}
        | {"train.steps": 20, "train.optimizer.name": "adam"},
    ),
}
SCALES = {"smoke": ("smoke",), "cpu": tuple(name for name in ROWS if name != "smoke")}


def compared(name):
    """A row: PSNR of float32, what every other precision takes of it, and errors of atoms."""
    config_name, variant, changes = ROWS[name]
    config = command.config_of(config_name, variant, changes)
    config = changed(config, {"fit.refine.kind": "none"} if "refine" in config.fit else {})
    task = tasks.build(config)
    with tempfile.TemporaryDirectory() as folder:
        full = learned(task, config, folder).dictionary
    collection = task.open(config.fit.split)
    found = full.fit_collection(task, collection, config)
    truth = task.measure(collection).truths(len(found))
    exact = found.score(truth)["psnr"].mean()
    points = some_points(full.grid_shape)
    atoms = np.asarray(full.dictionary(points))
    row = {"what": name, "signals": len(found), "experts": full.num_experts, "float32": exact}
    for matmul in REDUCED:
        dictionary = full.dictionary.multiplied(matmul)
        error = np.asarray(dictionary(points)) - atoms
        row[f"{matmul} atoms"] = float(np.sqrt(np.square(error).mean() / np.square(atoms).mean()))
        drawn = dataclasses.replace(found, dictionary=dictionary)
        row[f"{matmul} rendered"] = drawn.score(truth)["psnr"].mean() - exact
        again = full.with_dictionary(dictionary).fit_collection(task, collection, config)
        row[f"{matmul} fitted"] = again.score(truth)["psnr"].mean() - exact
    command.say(row)
    return row


def some_points(shape, most=2000):
    """Points of a grid, evenly taken."""
    points = grid(shape)
    return jnp.asarray(points[:: max(1, len(points) // most)])


LEGEND = """\
Unseen signals. Atoms: error of all atoms on the grid, in root mean square, beside theirs.
Rendered: dB that drawing codes of float32 in fewer bits gains (+) or loses (-); fitted: where the
equations are made of such atoms too."""
COLUMNS = {
    "dictionary": lambda row: row["what"],
    "S, E": lambda row: f"{row['signals']}, {row['experts']}",
    "float32": lambda row: f"{row['float32']:.2f} dB",
}
for _key in (f"{matmul} {what}" for matmul in REDUCED for what in ("atoms", "rendered", "fitted")):
    _form = ".1e" if _key.endswith("atoms") else "+.3f"
    COLUMNS[_key] = lambda row, key=_key, form=_form: format(row[key], form)


def run(scale, output, only):
    """Measure and write; what was measured before and is not named stays."""
    record = Path(output) / "matmul.json"
    before = json_files.read(record)["rows"] if only and record.exists() else []
    rows = {row["what"]: row for row in before}
    output.mkdir(parents=True, exist_ok=True)
    for name in only or SCALES[scale]:
        rows[name] = compared(name)
        table = command.table(COLUMNS, rows.values())
        command.write_page(output / "matmul.md", f"{table}\n\n{LEGEND}\n\n{command.made()}.")
        artefacts.write_json(record, {"rows": list(rows.values())})
    print(table)


if __name__ == "__main__":
    ONLY = flags.DEFINE_list("only", "", "Rows instead of the scale's own, parted by a comma.")
    command.start(run, "matmul", SCALES, ONLY)
