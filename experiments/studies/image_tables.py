"""What image regression writes: table.md, metrics.json and figure.png."""

from measuring import command, operations

from nid_jax import devices
from nid_jax.reporting import tables

# A solver has reached a gradient fit when it is within this many dB of where that converges.
REACHED = 0.1
# Networks with more numbers than the image has values go far above; no picture shows it.
HIGHEST_PSNR = 50.0


def speed_ups(results):
    """How much sooner a solver is where a gradient fit converges. -> rows of a table.

    A gradient fit has converged where it first comes within REACHED of its last PSNR. Compared is
    the fastest solver on a trained dictionary that stores no more numbers and comes as near; of
    those with the factorisation kept, the fastest as well.
    """
    rows = []
    for slow in results:
        if "gradient" not in slow.method or not slow.curve:
            continue
        level = slow.curve[-1][1]
        seconds = next(time for time, psnr in slow.curve if psnr >= level - REACHED)
        start = [slow.method, level, 1e3 * seconds]
        rivals = [
            fast
            for fast in sorted(results, key=lambda fast: fast.seconds)
            if fast.method.startswith(("NID: ", "NID sparse: "))
            and "gradient" not in fast.method
            and fast.psnr >= level - REACHED
            and fast.numbers <= slow.numbers
        ]
        for kept in (False, True):
            for fast in [fast for fast in rivals if ("kept" in fast.method) == kept][:1]:
                quick = [fast.method, fast.psnr, 1e3 * fast.seconds, seconds / fast.seconds]
                rows.append(start + quick)
        if not rivals:
            rows.append([*start, "none gets there", None, None, None])
    return rows


COLUMNS = {
    "method": lambda result: result.method,
    "PSNR dB": lambda result: result.psnr,
    "SSIM": lambda result: result.ssim,
    "numbers per signal": lambda result: round(result.numbers),
    "MFLOP per signal": lambda result: result.operations / 1e6,
    "ms per signal": lambda result: 1e3 * result.seconds,
    "signals per s": lambda result: float(1 / result.seconds),
    "training s": lambda result: result.training_seconds or None,
}
SPEED_UP_HEADERS = ["gradient fit", "converges to dB", "ms per signal", "solver that gets there"]
SPEED_UP_HEADERS += ["PSNR dB", "ms per signal", "times faster"]


def table(studies, notes):
    """One table a data set, how the numbers were taken, and on what."""
    parts = ["# Image regression\n"]
    for study in studies:
        signals = f"{study.count} unseen signals of {list(study.truth.shape[1:])}"
        parts += [f"## {study.title}\n", f"{signals}, all fitted at once.\n"]
        parts.append(command.table(COLUMNS, study.results))
        rows = speed_ups(study.results)
        if rows:
            parts.append(
                f"Time to within {REACHED} dB of where a gradient fit converges, against solvers "
                "that store no more numbers:\n"
            )
            parts.append(tables.markdown_table(rows, SPEED_UP_HEADERS))
    parts += ["## How it was measured\n", *(f"- {note}" for note in (*NOTES, *notes)), ""]
    parts.append(tables.markdown_table(list(devices.versions().items()), ["", ""]))
    return "\n".join(parts)


NOTES = (
    "PSNR and SSIM are means over the signals, clipped to [0, 1]. Times are medians without "
    "compilation; a descent's is its number of steps times the median of a step. All signals are "
    "fitted together and the time is divided by their number; what they share (atoms at the "
    "points, Gram matrix, factor) is included, except where the factorisation is said to be kept.",
    "A sparse code of K experts stores 2 K numbers, values and places.",
    f"Operations: {operations.RULE}",
    "NID: heads in closed form, the components of the training signals; NID by descent: features "
    "and heads trained, codes solved in the step (variable projection); NID sparse: with K experts "
    "chosen by matching pursuit; NID as in the paper: codebook and dictionary trained "
    "together, top-k gating, of so many of the training signals as every code of them can be "
    "learned for in the time; untrained: the dictionary as drawn.",
    "Training s: without compilation; of PCA and DCT all that finds their axes. They see the "
    "training signals that NID sees, copies included; by log errors: signals weighed as for heads "
    "in closed form, coefficients of a signal without its mean, which is stored beside them.",
)


SHAPES = {
    "ridge, factorisation kept": "^",
    "ridge": "s",
    "gaussian": "*",
    "lasso": "v",
    "omp": "P",
    "iht": "X",
    "router": "p",
    "router+ridge": "h",
}
COLOURS = {
    "NID untrained": "0.6",
    "NID": "C0",
    "NID sparse": "C3",
    "NID by descent": "C5",
    "NID linear router, alone": "C8",
    "NID conv router, alone": "C6",
    "NID sparse, linear router": "C4",
}
# Of what is no dictionary's, by the beginning of its name.
PEERS = {
    "PCA of cosines": ">",
    "PCA": "D",
    "DCT, colours": "<",
    "DCT": "d",
    "K-SVD": "o",
}


def draw(studies):
    """PSNR against seconds per signal, a panel for each data set.

    Descents are lines; what is solved at once are markers: a colour for each dictionary and a shape
    for each solver.
    """
    figure, panels = command.panels(len(studies), 1, 12, 6.2)
    for axes, study in zip(panels[:, 0], studies, strict=True):
        lines = [result for result in study.results if result.curve]
        for number, result in enumerate(lines):
            seconds, psnr = zip(*result.curve, strict=True)
            colour = ("C0", "C9", "C1", "C2", "C4", "C5", "deeppink")[number % 7]
            axes.plot(seconds, psnr, "o-", ms=3, color=colour, label=result.family)
        in_lines, edge = {result.family for result in lines}, {"markeredgecolor": "black"}
        for result in study.results:
            if result.family in in_lines:
                continue
            dictionary, _, solver = result.family.partition(": ")
            peer = next((mark for name, mark in PEERS.items() if dictionary.startswith(name)), "p")
            shape = SHAPES.get(solver, peer) if dictionary.startswith("NID") else peer
            shape = "D" if "among" in result.method else shape
            colour = COLOURS.get(dictionary, "gold" if "largest" in result.method else "black")
            look = {"ms": 9, "color": colour, "markeredgewidth": 0.5, "linestyle": "none", **edge}
            axes.plot(result.seconds, result.psnr, shape, label=result.method, **look)
        scores = [result.psnr for result in study.results]
        axes.set(
            xscale="log",
            xlabel="seconds per signal",
            ylabel="PSNR of unseen signals, dB",
            title=study.title,
            ylim=(max(min(scores) - 1, 5), min(max(scores) + 1, HIGHEST_PSNR)),
        )
        axes.grid(alpha=0.3, which="both")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    return figure


def write(output, studies, notes, scale):
    """table.md, metrics.json and figure.png."""
    metrics = {
        "scale": scale,
        "rule": operations.RULE,
        "notes": notes,
        "studies": {
            study.name: {
                "title": study.title,
                "signals": study.count,
                "setting": study.setting,
                "results": study.results,
                "speed_ups": speed_ups(study.results),
            }
            for study in studies
        },
    }
    command.write(output, table(studies, notes), metrics, draw(studies))
