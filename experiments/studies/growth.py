"""How learning grows with the number of ways in which the same signals were measured.

Every case is measured in a process of its own, so that its peak of memory is its own: gray crops of
photographs of which each way shows another half of the pixels, beside the same crops on one grid.
"""

import dataclasses
import tempfile

import jax
import numpy as np
from measuring import command
from measuring.command import clocked

from nid_jax import data, devices, learning, tasks
from nid_jax.coding import operators
from nid_jax.fitting.rounds import spectrum_rounds
from nid_jax.reporting import tables
from nid_jax.storage.workdir import Workdir

# Rounds: heads and prior in closed form. Steps: a trunk descends, codes solved in the step.
KINDS = ("rounds", "steps")
# Functions along each axis, and the trunk beside which codes are solved.
FUNCTIONS, WIDTH, EXPERTS, BATCH = 12, 128, 64, 16
# JAX's own clocks of lowering and of the compiler; tracing, whose clocks run within each other, is
# part of the work.
COMPILING = ("jaxpr_to_mlir_module_duration", "backend_compile_duration")


def collection_of(signals, side, ways):
    """Crops measured in so many ways, in turn; 0: all of their pixels on one grid."""
    changes = {"data.num_train": signals, "data.size": (side, side), "data.gray": True}
    changes |= {"data.augment.turns": False}
    config = command.config_of("image", "photos", changes)
    whole = data.to_array(data.open_collection(config.data, "train", 0))
    if not ways:
        return data.ArrayCollection(whole, range(signals), "one grid")
    draw, count = np.random.default_rng(ways), side**2
    chosen = [np.sort(draw.permutation(count)[: count // 2]) for _ in range(ways)]
    points = operators.sample((side, side))
    way = np.arange(signals) % ways
    values = [crop.reshape(count, -1)[chosen[at]] for crop, at in zip(whole, way, strict=True)]
    those = [points.of_measurements(one) for one in chosen]
    return data.WaysCollection(values, those, way, (side, side), range(signals), f"{ways} ways")


def _config(kind, count, signals):
    """The config of rounds or steps, so many of them."""
    config = command.config_of("image", "cpu")
    config.dictionary.num_experts = EXPERTS
    config.train.update({"batch_size": min(BATCH, signals), "steps": 0, "log_every": 0})
    config.prior.num_signals = 0
    if kind == "rounds":
        config.dictionary.embedding.counts = (FUNCTIONS, FUNCTIONS)
        config.dictionary.components.update({"rounds": count, "shrinkage": 0.3})
        return config
    config.dictionary.update({"heads": "drawn", "num_layers": 2, "width": WIDTH, "skip": False})
    config.dictionary.embedding.update({"kind": "fourier", "size": WIDTH})
    config.train.update({"steps": count, "checkpoint_every": 0})
    return config


def measured(signals, side, kind, ways, count):
    """Learn in this process. -> what it took, in JSON types.

    count: rounds or steps. Seconds of compiling are those of `COMPILING` wherever in the work they
    fall, of steps what training counts itself; the rest is work.
    """
    compiling = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiling.append(seconds) if name.endswith(COMPILING) else None
    )
    collection = collection_of(signals, side, ways)
    config = _config(kind, count, signals)
    before = devices.peak_memory_bytes()["host"]
    task = dataclasses.replace(tasks.build(config), open=lambda split: collection)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(folder, kept=False)
        (_, trained), spent = clocked(lambda: learning.train(task, config, workdir))
    compiled = sum(compiling)
    if kind == "steps":
        spent, compiled = (trained.summary[f"{name}_seconds"] for name in ("train", "compile"))
        spent += compiled
    # On one grid heads come in closed form, without rounds.
    done = count + spectrum_rounds(count) * (kind == "rounds")
    return {
        "kind": kind,
        "ways": ways,
        "seconds": spent,
        "compile_seconds": compiled,
        "per_second": done / (spent - compiled) if ways or kind == "steps" else None,
        "peak_bytes": devices.peak_memory_bytes()["host"],
        "base_bytes": before,
    }


def compared(script, scale, size):
    """What every case took, each in a process of its own of a script that takes --case.

    size: its ways; -> rows of `measured`.
    """
    rows = []
    for kind in KINDS:
        for ways in (0, *size.ways):
            case = f"--case={kind},{ways}"
            rows.append(command.apart(script, f"--scale={scale}", "--contests=growth", case))
            command.say(f"{kind}, {ways} ways: {rows[-1]['seconds']:.1f} s")
    return rows


def table(rows):
    """A line for each number of ways, steps beside those on one grid."""
    found = {(row["kind"], row["ways"]): row for row in rows}
    rate = found["steps", 0]["per_second"]
    columns = {"ways": lambda ways: ways or "one grid"}
    for kind in KINDS:
        columns |= {
            f"{kind}: compile s": lambda ways, kind=kind: f"{_of(found, kind, ways)[0]:.1f}",
            f"{kind}: work s": lambda ways, kind=kind: f"{_of(found, kind, ways)[1]:.1f}",
            f"{kind}/s": lambda ways, kind=kind: _rate(found[kind, ways]["per_second"]),
            f"{kind}: peak": lambda ways, kind=kind: tables.format_bytes(
                found[kind, ways]["peak_bytes"]
            ),
        }
    columns["of the steps/s on one grid"] = lambda ways: _rate(
        found["steps", ways]["per_second"] / rate
    )
    return command.table(columns, [ways for kind, ways in found if kind == KINDS[0]])


def _of(found, kind, ways):
    """Seconds of compiling and of work."""
    row = found[kind, ways]
    return row["compile_seconds"], row["seconds"] - row["compile_seconds"]


def _rate(value):
    return "" if value is None else f"{value:.3g}"


def draw(rows):
    """Seconds of work, and peaks of memory, over the number of ways; dashed is one grid."""
    figure, axes = command.panels(1, 3, 3.4, 3.0)
    for axis, kind in zip(axes[0], KINDS, strict=False):
        own = [row for row in rows if row["kind"] == kind]
        ways = [row["ways"] for row in own if row["ways"]]
        work = [row["seconds"] - row["compile_seconds"] for row in own]
        axis.loglog(ways, work[1:], "o-", label="work")
        axis.loglog(ways, [row["compile_seconds"] for row in own[1:]], "s:", label="compiling")
        axis.axhline(work[0], color="C7", linestyle="--", label="work on one grid")
        axis.set(xlabel="ways", ylabel="seconds", title=kind)
        axis.legend(frameon=False, fontsize=7)
        peaks = [row["peak_bytes"] / 2**20 for row in own]
        (line,) = axes[0, 2].semilogx(ways, peaks[1:], "o-", label=kind)
        axes[0, 2].axhline(peaks[0], color=line.get_color(), linestyle="--")
    axes[0, 2].set(xlabel="ways", ylabel="peak of the process, MiB", ylim=(0, None))
    axes[0, 2].legend(frameon=False, fontsize=7)
    return figure
