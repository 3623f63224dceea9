"""What is written of a comparison with PyTorch: table.md and figure.png of its outcomes."""

import math
import os

import torch
from measuring import command
from peers.torch_model import ORDERS

from nid_jax import devices
from nid_jax.reporting import tables

AGREEMENT = 1e-5


def milliseconds(spread):
    """'12.3 (11.9..14.0)' of seconds."""
    return spread.scaled(1e3).text()


def rows_of(outcomes):
    """Rows of the main table."""
    rows = []
    for one in outcomes:
        contest = one.contest
        row = [contest.what, contest.size.text(), contest.activation, milliseconds(one.ours)]
        for order in ORDERS:
            row += [milliseconds(one.theirs[order]), one.ratios[order].text(3)]
        trunk = ["", ""]
        if one.trunk:
            trunk = [milliseconds(one.trunk[0]), one.trunk[1].text(3)]
        reached = ["yes" if one.reached else "NO", verdict(one.ratios["folded"])]
        rows.append([*row, *trunk, f"{contest.least:g}", *reached])
    return rows


def verdict(ratio):
    """Whether ours is at least as fast: 'yes', 'even' where rounds disagree, or 'NO'."""
    if ratio.median >= 1:
        return "yes"
    return "even" if ratio.most >= 1 else "NO"


HEADERS = [
    "what",
    "sizes",
    "activation",
    "ours, ms",
    "PyTorch dense, ms",
    "dense / ours",
    "PyTorch folded, ms",
    "folded / ours",
    "our trunk alone, ms",
    "dense / trunk",
    "asked of dense / ours",
    "reached",
    "folded / ours at least 1",
]


def part_rows(outcomes):
    """Where the time of a training step goes: milliseconds of ours and of PyTorch's, folded."""
    rows = []
    for one in outcomes:
        if one.parts:
            cells = [f"{1e3 * ours:.3g} / {1e3 * theirs:.3g}" for _, ours, theirs in one.parts]
            rows.append([one.contest.what, one.contest.size.text(), one.contest.activation, *cells])
    return rows


def agreement_rows(outcomes):
    """Largest relative difference of each comparison, over all sizes."""
    found = {}
    for one in outcomes:
        for name, value in one.contest.differences.items():
            key = (one.contest.what, one.contest.activation, name)
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


def table(scale, outcomes, seconds):
    """table.md: every contest, parts of the steps, agreement."""
    parts = next(one.parts for one in outcomes if one.parts)
    text = [
        f"# Speed beside PyTorch, scale {scale}\n",
        ", ".join(f"{key} {value}" for key, value in versions().items()) + "\n",
        "Medians over rounds, the range over rounds in brackets. In a round both take their turns "
        "at everything; a ratio, PyTorch's time over ours, is of one round. PyTorch's side is "
        "written for this table (peers/torch_model.py) on copied weights: dense evaluates "
        "all experts and multiplies with the codes, folded takes the codes into the heads first. "
        "A fit keeps the basis (dense) or the trunk's features (folded, ours) between steps; ours "
        "on the Gram matrix needs no pixel after the normal equations are built, which is not "
        "counted, just as the basis is not. Renders are of codes with K active experts. Our trunk "
        "alone is what no order of the codes can do without: the features of all points, in a "
        "training step with their backward pass; dense / trunk is the ratio that a combination at "
        "no cost would have.\n",
        tables.markdown_table(rows_of(outcomes), HEADERS),
        "## Where the time of a training step goes\n",
        "Milliseconds of ours / of PyTorch folded: differences of medians of programs that end "
        "there, so a small one may come out below zero.\n",
        tables.markdown_table(
            part_rows(outcomes), ["what", "sizes", "activation", *(name for name, *_ in parts)]
        ),
        "## Agreement\n",
        tables.markdown_table(
            agreement_rows(outcomes),
            ["what", "activation", "compared", "relative", f"at most {AGREEMENT:g}"],
        ),
        f"The whole run took {tables.format_duration(seconds)}.\n",
    ]
    return "\n".join(text)


def draw(outcomes):
    """Time against experts for everything measured, ours and PyTorch's."""
    groups = list(dict.fromkeys(one.contest.what for one in outcomes))
    figure, panels = command.panels(2, math.ceil(len(groups) / 2), 4.2, 4.2)
    for axis in panels.ravel()[len(groups) :]:
        axis.axis("off")
    for axis, group in zip(panels.ravel(), groups, strict=False):
        for number, activation in enumerate(("relu", "sine")):
            wanted = (group, activation)
            line = [o for o in outcomes if (o.contest.what, o.contest.activation) == wanted]
            series = {"ours": ("-", [one.ours for one in line])}
            for order, style in zip(ORDERS, ("--", ":"), strict=True):
                series[f"PyTorch {order}"] = (style, [one.theirs[order] for one in line])
            for label, (style, spreads) in series.items():
                look = {"color": f"C{number}", "ls": style, "label": f"{label}, {activation}"}
                command.error_bars(axis, range(len(line)), spreads, **look)
        axis.set(yscale="log", ylabel="milliseconds", title=group)
        sizes = [f"E={s.E}\nH={s.H} S={s.S}" for s in (one.contest.size for one in line)]
        axis.set_xticks(range(len(line)), sizes, fontsize=8)
        axis.legend(fontsize=6)
    return figure
