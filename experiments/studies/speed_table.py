"""What is written of the speed of the library: table.md, metrics.json and figure.png."""

import dataclasses
import itertools

import matplotlib.ticker
from measuring import command

from nid_jax import devices, numerics
from nid_jax.reporting import tables
from studies.speed_cases import LAYERS

GROWTH = ["what", "letter", "from", "to", "time x", "floor x", "memory x"]
LETTERS = {"E": "experts", "P": "points", "S": "signals", "H": "width", "K": "active"}


def size_text(sizes):
    return " ".join(f"{letter}={sizes[letter]}" for letter in LETTERS if sizes.get(letter))


def throughput(result):
    """Items a second."""
    items, what = result.case.items
    return f"{tables.format_count(items / result.seconds.median)} {what}/s"


COLUMNS = {
    "what": lambda result: result.case.group,
    "sizes": lambda result: size_text(result.case.sizes),
    "ms (min..max)": lambda result: result.seconds.scaled(1e3).text(),
    "floor ms": lambda result: 1e3 * result.floor.median,
    "floor / time": lambda result: result.reached.text(2),
    "floor of such products / time": lambda result: result.shaped.text(2),
    "throughput": throughput,
    "memory": lambda r: tables.format_bytes(m) if (m := r.case.program.memory) else None,
    "compile s": lambda result: result.case.program.seconds,
}


def sweeps_of(results):
    """Results that differ in one size alone, by rising size: [(group, letter, [Result])]."""
    found = []
    for group, members in itertools.groupby(results, key=lambda result: result.case.group):
        members = list(members)
        for letter in LETTERS:
            base = members[0].case.sizes | {letter: 0}
            line = [r for r in members if r.case.sizes.get(letter)]
            line = [r for r in line if r.case.sizes | {letter: 0} == base]
            line.sort(key=lambda result: result.case.sizes[letter])
            if len(line) > 1:
                found.append((group, letter, line))
    return found


def growth_of(results):
    """Neighbours of all sweeps: group, letter, from, to, ratios of time, floor and memory."""
    return [
        [
            group,
            letter,
            small.case.sizes[letter],
            large.case.sizes[letter],
            large.seconds.median / small.seconds.median,
            large.floor.median / small.floor.median,
            large.case.program.memory / small.case.program.memory
            if small.case.program.memory
            else None,
        ]
        for group, letter, line in sweeps_of(results)
        for small, large in itertools.pairwise(line)
    ]


def promises(results, sines, difference):
    """What the library promises beside what was measured: [what, measured, promised]."""
    shared = next(result for result in results if result.case.group == "basis, shared")
    basis, step, basis_library, step_library = (result.seconds.median for result in sines)
    share = f"share of the matrix-product rate, basis of a trunk, {size_text(shared.case.sizes)}"
    # A layer multiplies the error of the sines below it by about omega0.
    bound = f"below {3 * 30 * numerics.SINE_ERROR * LAYERS:.1e}"
    ours = "independent basis, time with jnp.sin / with our sine"
    return [
        [share, shared.product_share.text(2), "at least 0.7"],
        [ours, basis_library / basis, "at least 3"],
        ["independent train step, the same", step_library / step, ""],
        ["largest difference of that basis with jnp.sin", difference, bound],
    ]


def table(scale, results, sines, rates, difference, seconds):
    """table.md: rates of the machine, promises, every case, growth."""
    memory, promised = devices.peak_memory_bytes(), promises(results, sines, difference)
    machine = [[name, spread.median, spread.least, spread.most] for name, spread in rates.items()]
    parts = [
        f"# Speed, scale {scale}\n",
        command.made() + "\n",
        "Medians over rounds in which every case ran once; the range over rounds in brackets. "
        "Floor: operations of the matrix products over the machine's rate, plus sines over its "
        "rate, or bytes over bandwidth where that is more. The next column takes the rate of "
        "products of the case's own shape. Compile time is apart; where one function serves many "
        "calls it is the first call's. Memory is what the compiled function holds.\n",
        tables.markdown_table(machine, ["this machine", "median", "least", "most"]),
        "## Promises\n",
        tables.markdown_table(promised, ["what", "measured", "promised"]),
        "## Cases\n",
        command.table(COLUMNS, results + sines),
        "## Growth\n",
        tables.markdown_table(growth_of(results), GROWTH),
        ", ".join(f"{letter}: {word}" for letter, word in LETTERS.items()) + ". "
        f"Most memory the process held: {tables.format_bytes(memory['host'])}. "
        f"The whole run took {tables.format_duration(seconds)}.\n",
    ]
    return "\n".join(parts)


def plain(result):
    """A result as metrics.json has it."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    case = fields.pop("case")
    return fields | {
        "what": case.group,
        "sizes": case.sizes,
        "work": case.work,
        "memory_bytes": case.program.memory,
        "compile_seconds": case.program.seconds,
        "items_per_second": case.items[0] / result.seconds.median,
        "item": case.items[1],
    }


def draw(results):
    """Time against each letter, measured and floor."""
    lines = sweeps_of(results)
    letters = [letter for letter in LETTERS if any(line[1] == letter for line in lines)]
    figure, panels = command.panels(1, max(len(letters), 1), 4.2, 5.2)
    groups = list(dict.fromkeys(group for group, _, _ in lines))
    for axis, letter in zip(panels[0], letters, strict=False):
        own = [(group, line) for group, other, line in lines if other == letter]
        for group, line in own:
            colour = f"C{groups.index(group)}"
            x = [result.case.sizes[letter] for result in line]
            command.error_bars(axis, x, [r.seconds for r in line], color=colour, label=group)
            axis.plot(x, [1e3 * r.floor.median for r in line], "--", color=colour, linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=LETTERS[letter], ylabel="milliseconds")
        axis.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axis.set_xticks(sorted({r.case.sizes[letter] for _, line in own for r in line}))
        axis.tick_params(axis="x", rotation=60)
        axis.set_title(f"time over {LETTERS[letter]}; dashed: floor", fontsize=9)
        axis.legend(fontsize=6)
    return figure
