"""What is written of a comparison with PyTorch: table.md and figure.png of its contests."""

import functools
import itertools
import math
import os

import torch
from measuring import command
from peers.torch_model import ORDERS

from nid_jax import devices
from nid_jax.reporting import tables

AGREEMENT = 1e-5


def milliseconds(name):
    """Of a call: '12.3 (11.9..14.0)'."""
    return lambda one: one.spread(name).scaled(1e3).text() if name in one.calls else ""


def times(name, beside="ours"):
    """One call's time over another's."""
    return lambda one: one.ratio(name, beside).text() if beside in one.calls else ""


def verdict(one):
    """Whether ours is at least as fast: 'yes', 'even' where rounds disagree, or 'NO'."""
    ratio = one.ratio("folded")
    return "yes" if ratio.median >= 1 else "even" if ratio.most >= 1 else "NO"


COLUMNS = {
    "what": lambda one: one.what,
    "sizes": lambda one: one.size.text(),
    "activation": lambda one: one.activation,
    "ours, ms": milliseconds("ours"),
    "PyTorch dense, ms": milliseconds("dense"),
    "dense / ours": times("dense"),
    "PyTorch folded, ms": milliseconds("folded"),
    "folded / ours": times("folded"),
    "our trunk alone, ms": milliseconds("trunk"),
    "dense / trunk": times("dense", "trunk"),
    "asked of dense / ours": lambda one: f"{one.least:g}",
    "reached": lambda one: "yes" if one.reached else "NO",
    "folded / ours at least 1": verdict,
}


def part_columns(parts):
    """Where the time of a training step goes: milliseconds of ours / of PyTorch's, folded."""

    def cell(one, number):
        _, ours, theirs = one.part_seconds()[number]
        return f"{1e3 * ours:.3g} / {1e3 * theirs:.3g}"

    common = dict(itertools.islice(COLUMNS.items(), 3))
    return common | {part[0]: functools.partial(cell, number=n) for n, part in enumerate(parts)}


def agreement_rows(contests):
    """Largest relative difference of each comparison, over all sizes."""
    found = {}
    for one in contests:
        for name, value in one.differences.items():
            key = (one.what, one.activation, name)
            found[key] = max(found.get(key, 0.0), value)
    return [[*key, value, "yes" if value <= AGREEMENT else "NO"] for key, value in found.items()]


def versions():
    """As elsewhere, and PyTorch's, with the threads of both."""
    return devices.versions() | {
        "torch": torch.__version__,
        "threads of torch": str(torch.get_num_threads()),
        "threads of XLA": f"{cores()}, one a core",
        "products of torch": "MKL" if torch.backends.mkl.is_available() else "no MKL",
    }


def cores():
    """Cores that this process may use, which is what XLA takes."""
    return len(os.sched_getaffinity(0))


def table(scale, contests, seconds):
    """table.md: every contest, parts of the steps, agreement."""
    steps = [one for one in contests if one.part_seconds()]
    text = [
        f"# Speed beside PyTorch, scale {scale}\n",
        ", ".join(f"{key} {value}" for key, value in versions().items()) + "\n",
        "Medians over rounds, the range over rounds in brackets. In a round both take their turns "
        "at everything; a ratio, PyTorch's time over ours, is of one round. PyTorch's side is "
        "written for this table (experiments/peers/torch_model.py) on copied weights: dense "
        "evaluates all experts and multiplies with the codes, folded takes the codes into the "
        "heads first. A fit keeps the basis (dense) or the features (folded, ours) between steps; "
        "ours on the Gram matrix needs no pixel after the normal equations are built, which is not "
        "counted, just as the basis is not. Renders are of codes with K active experts. Our trunk "
        "alone is what no order of the codes can do without: the features of all points, in a "
        "training step with their backward pass; dense / trunk is the ratio that a combination at "
        "no cost would have.\n",
        command.table(COLUMNS, contests),
        "## Where the time of a training step goes\n",
        "Milliseconds of ours / of PyTorch folded: differences of medians of programs that end "
        "there, so a small one may come out below zero.\n",
        command.table(part_columns(steps[0].part_seconds()), steps),
        "## Agreement\n",
        tables.markdown_table(
            agreement_rows(contests),
            ["what", "activation", "compared", "relative", f"at most {AGREEMENT:g}"],
        ),
        f"The whole run took {tables.format_duration(seconds)}.\n",
    ]
    return "\n".join(text)


def draw(contests):
    """Time against experts for everything measured, ours and PyTorch's."""
    groups = list(dict.fromkeys(one.what for one in contests))
    figure, panels = command.panels(2, math.ceil(len(groups) / 2), 4.2, 4.2)
    for axis in panels.ravel()[len(groups) :]:
        axis.axis("off")
    for axis, group in zip(panels.ravel(), groups, strict=False):
        for number, activation in enumerate(("relu", "sine")):
            wanted = (group, activation)
            line = [o for o in contests if (o.what, o.activation) == wanted]
            series = {"ours": ("-", [one.spread("ours") for one in line])}
            for order, style in zip(ORDERS, ("--", ":"), strict=True):
                series[f"PyTorch {order}"] = (style, [one.spread(order) for one in line])
            for label, (style, spreads) in series.items():
                look = {"color": f"C{number}", "ls": style, "label": f"{label}, {activation}"}
                command.error_bars(axis, range(len(line)), spreads, **look)
        axis.set(yscale="log", ylabel="milliseconds", title=group)
        sizes = [f"E={s.E}\nH={s.H} S={s.S}" for s in (one.size for one in line)]
        axis.set_xticks(range(len(line)), sizes, fontsize=8)
        axis.legend(fontsize=6)
    return figure
