"""The page of experiments/scaling.py."""

from measuring import command

from nid_jax.reporting import tables
from studies.scaling_costs import (
    CHIPS,
    fit_seconds,
    paper_rows,
    step_bytes,
    step_memory,
    step_products,
    step_seconds,
    step_solves,
    wire_bytes,
)


def _beside(name, form):
    def cell(row):
        ours, theirs = row[name]
        ratio = f"{ours / theirs:.2f}" if theirs else "-"
        return f"{form(ours)}, {form(theirs)}, {ratio}"

    return cell


def _millions(value):
    return f"{value / 1e6:.1f} M"


def _sized(value):
    return tables.format_bytes(value) if value else "0"


COMPILED = {
    "step": lambda row: row["step"],
    "shape": lambda row: row["shape"],
    "mesh, data x expert": lambda row: row["mesh"],
    "operations": _beside("flops", _millions),
    "memory of a device": _beside("memory", _sized),
    "results of collectives": _beside("bytes", _sized),
}
PROCESSES = {
    "step": lambda row: row["step"],
    "S": lambda row: row["signals"],
    "processes": lambda row: row["processes"],
    "mesh, data x expert": lambda row: row["mesh"],
    "median, ms": lambda row: f"{1e3 * row['seconds']:.1f}",
    "least, ms": lambda row: f"{1e3 * row['least']:.1f}",
    "results of collectives": lambda row: _sized(row["bytes"]),
    "over one process, ms": lambda row: row["over"],
}
PAPER = {
    "training": lambda row: row["words"],
    "step": lambda row: row["kind"],
    "mesh": lambda row: f"{row['sizes'].data} x {row['sizes'].expert}",
    "S": lambda row: f"{row['sizes'].signals:,}",
    "E": lambda row: f"{row['sizes'].experts:,}",
    "operations of a chip": lambda row: f"{row['operations']:.1e}",
    "whole on every chip": lambda row: f"{row['replicated']:.0%}",
    "sent by a chip": lambda row: _sized(row["sent"]),
    "held by a chip": lambda row: _sized(row["held"]),
    **{
        f"{chip.name}: arithmetic, links": lambda row, chip=chip: _seconds(row, chip)
        for chip in CHIPS
    },
}


def _seconds(row, chip):
    arithmetic, links = step_seconds(row["kind"], row["sizes"], chip)
    if row["held"] > chip.memory:
        return "does not fit"
    return f"{_milliseconds(arithmetic)}, {_milliseconds(links)}"


def _milliseconds(seconds):
    return f"{1e3 * seconds:.0f} ms" if seconds > 0.01 else f"{1e3 * seconds:.2g} ms"


def _paper():
    rows = []
    for words, kind, sizes in paper_rows():
        products, solves = step_products(kind, sizes), step_solves(kind, sizes)
        whole = products["trunk"] + products.get("Gram of features", 0)
        whole += solves.get("factor", 0)
        if sizes.expert == 1:
            whole += products.get("heads of Gram", 0)
        total = sum(products.values()) + sum(solves.values())
        rows.append(
            {
                "words": words,
                "kind": kind,
                "sizes": sizes,
                "operations": total,
                "replicated": whole / total,
                "sent": wire_bytes(step_bytes(kind, sizes)),
                "held": sum(step_memory(kind, sizes).values()),
            }
        )
    return rows


def _overheads(rows):
    """Rows with what several processes take beyond one that has the whole batch."""
    most = max(row["signals"] for row in rows)
    alone = {r["step"]: r for r in rows if r["processes"] == 1 and r["signals"] == most}
    for row in rows:
        over = row["least"] - alone[row["step"]]["least"]
        yield {**row, "over": f"{1e3 * over:.1f}" if row["processes"] > 1 else "-"}


def page(shapes, compiled, processes, cores, load):
    """table.md. cores: that the processes may use; load: of the machine."""
    named = ", ".join(
        f"{name} {side} x {side} pixels, S {signals}, E {experts}, F {width}"
        for name, (side, signals, experts, width) in shapes.items()
    )
    chips = "; ".join(
        f"{chip.name} {chip.flops / 1e12:.1f} TFLOP/s in float32, {chip.memory / 1e9:.0f} GB, "
        f"{chip.link / 1e9:.0f} GB/s a link"
        for chip in CHIPS
    )
    fits = "; ".join(
        f"{chip.name} {fit_seconds(10**8, 4096, chip, solver):.3g} s by {solver}"
        for chip in CHIPS
        for solver in ("ridge", "omp")
    )
    return "\n".join(
        [
            "# Scaling: counted, compiled and over processes\n",
            command.made() + "\n",
            f"Shapes: {named}.\n",
            "## The model beside XLA\n",
            "Each cell: model, XLA, their ratio, for one device and one step. Steps are compiled "
            "for CPU devices and not run. Collectives: bytes of their results in the program's "
            "text, one in a loop once.\n",
            command.table(COMPILED, compiled),
            "\n## On paper\n",
            "The model alone, nothing was run. A trunk of 512 wide and four layers on 512 numbers "
            "of embedding, 4096 points of a step, three channels, 64 active of sparse codes. "
            f"Assumed: {chips}. Least times at these full rates.\n",
            command.table(PAPER, _paper()),
            f"\nFits of 10^8 signals on 4096 chips, E 4096: {fits}.\n",
            "## Over processes of one machine\n",
            f"{cores} core(s) for all processes, load {load:.1f}: overheads and bytes, not speed. "
            "Two processes on one core do the work of one after another, so what they take beyond "
            "one process with the whole batch is what both compute, what they exchange, and "
            "waiting. Strong scaling is the whole batch on 1 and 2, weak is half of it on 1 and "
            "the whole on 2.\n",
            command.table(PROCESSES, list(_overheads(processes))),
        ]
    )
