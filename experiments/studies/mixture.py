"""Codes under a mixture beside neighbours and one Gaussian: quality, and seconds by signals a call.

All find codes of the same unseen signals from the same equations in the same run: faces from some
of their pixels, tomograms from few views, chairs from few samples. Seconds are those of the codes
once the equations are there, the methods in turn, so that a busy moment slows all alike, without
the first call, which compiles.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from measuring import command, rates
from measuring.dictionaries import changed, learned

import nid_jax as nid
from nid_jax import data, metrics, tasks
from nid_jax.coding import mixture_codes, neighbours, posterior

METHODS = ("one", "mixture", "neighbours")
NAMES = {"one": "one Gaussian", "mixture": "mixture", "neighbours": "neighbours"}
LEAST_ROUNDS = 3
# A sample of a call repeats it until it lasted so long.
LEAST_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the contest is.

    Of each collection: changes to its config; what is seen, shares of pixels, views, or shares of
    samples; of that what is timed. drawn: masks of every face; calls: signals of a call; rounds: at
    most; budget: seconds of rounds at most, of which there are `LEAST_ROUNDS` at least.
    """

    changes: dict[str, dict[str, Any]]
    seen: dict[str, tuple[float, ...]]
    timed: dict[str, tuple[float, ...]]
    drawn: int
    calls: tuple[int, ...]
    rounds: int
    budget: float


_TWO = {"prior.components": 2}
_CHOSEN = {"prior.components": 0}
_CHAIRS = {"data.size": (24, 24, 24), "dictionary.embedding.counts": (24, 24, 24)}
_CHAIRS |= {"data.num_test": 100, **_CHOSEN}
SIZES = {
    "smoke": Size(
        {"faces": {"data.augment.warps": 0, **_TWO}, "CT": _TWO, "chairs": _TWO},
        {"faces": (0.1,), "CT": (2,), "chairs": (0.1,)},
        {"faces": (), "CT": (2,), "chairs": ()},
        *(2, (1, 3), 3, 0.1),
    ),
    "cpu": Size(
        {"faces": _CHOSEN, "CT": {"data.num_test": 100, **_CHOSEN}, "chairs": _CHAIRS},
        {
            "faces": (0.02, 0.05, 0.1, 0.2, 0.5),
            "CT": (2, 4, 8, 16),
            "chairs": (0.001, 0.005, 0.02),
        },
        {"faces": (0.1,), "CT": (2, 8), "chairs": (0.005, 0.02)},
        *(1, (1, 10, 100, 400), 9, 4.0),
    ),
}
# Of signals each measured in its own way, which are solved for one by one.
MOST_OWN = 10
# Of configs: the collection's name, task and variant (smoke at that scale).
CONFIGS = {"faces": ("inpainting", "pixels"), "CT": ("ct", "cpu"), "chairs": ("sdf", "cpu")}
# Standard deviations of the noise, those of the configs.
NOISES = {"faces": 0.03, "CT": 0.5, "chairs": 1e-3}
# Of the training codes; as docs/ct.md and docs/shapes.md have found best where little is measured.
NEIGHBOURS = {"faces": 300, "CT": 500, "chairs": 300}


class Seen(NamedTuple):
    """Unseen signals, and what was measured of them.

    values, how: what `NeuralDictionary.fit` takes; truth [S, *grid, C]; same int [S]: draws of one
    signal have one number.
    """

    what: str
    values: np.ndarray
    how: dict[str, Any]
    truth: np.ndarray
    same: np.ndarray


class Study:
    """A dictionary with both priors, and its unseen signals."""

    def __init__(self, name, scale, folder):
        self.name, self.size = name, SIZES[scale]
        task, variant = CONFIGS[name]
        variant = "smoke" if scale == "smoke" else variant
        changes = {"prior.keep_codes": True, **self.size.changes[name]}
        self.config = command.config_of(task, variant, changes)
        self.unit = "IoU" if name == "chairs" else "dB"
        self.task = tasks.build(self.config)
        file = folder / f"{name}.safetensors"
        if not file.exists():
            learned(self.task, self.config, folder / name).dictionary.save(file)
        self.dictionary = nid.load(file)
        test = self.task.open("test")
        self.test = test.collection if name == "faces" else test
        self.noise = NOISES[name]
        known = len(self.dictionary.prior.codes)
        self.neighbours = min(NEIGHBOURS[name], known // 2)
        command.say(f"{name}: {self.described()}")

    def described(self):
        """The prior, in a few words."""
        prior, experts = self.dictionary.prior, self.dictionary.num_experts
        count = 1 if prior.mixture is None else len(prior.mixture.weights)
        return f"{experts} experts, {len(prior.codes)} training codes, {count} components"

    def seen(self):
        """`Seen` by how many pixels, views or samples."""
        return {number: self._of(number) for number in self.size.seen[self.name]}

    def _of(self, number):
        if self.name == "faces":
            return self.masked(number)
        if self.name == "CT":
            return self._measured(f"{number} views", num_views=number)
        grid = {"samples.fraction": number, "samples.focus": 0.0, "samples.seen": "grid"}
        return self._measured(f"{100 * number:g}% of the samples", **grid)

    def masked(self, share, own=True):
        """Faces of which some pixels are seen: each its own, in every draw, or all the same."""
        truth, draw = data.to_array(self.test), np.random.default_rng(0)
        drawn = self.size.drawn if own else 1
        truth, same = np.tile(truth, (drawn, 1, 1, 1)), np.tile(np.arange(len(truth)), drawn)
        seen = draw.uniform(size=truth.shape[:3] if own else truth.shape[1:3]) < share
        whose = "" if own else ", the same of all"
        what = f"{100 * share:g}% of the pixels{whose}"
        return Seen(what, truth, {"seen": seen}, truth, same)

    def _measured(self, what, **fit):
        """What a config's fit would measure."""
        config = changed(self.config, {f"fit.{key}": value for key, value in fit.items()})
        measured, count = tasks.build(config).measure(self.test), len(self.test)
        values = np.stack([measured.values(i) for i in range(count)])
        how = {"operator": measured.operator}
        return Seen(what, values, how, measured.truths(count), np.arange(count))

    def fit(self, seen, method):
        """A fit by one of METHODS."""
        near = self.neighbours if method == "neighbours" else 0
        solver = nid.Gaussian(noise=self.noise, neighbours=near, mixture=method == "mixture")
        return self.dictionary.fit(seen.values, solver=solver, **seen.how)

    def scores(self, fit, seen):
        """Of every signal [S]: IoU, or PSNR of pictures clipped to [0, 1]."""
        found = np.asarray(fit.render())
        if self.name == "chairs":
            return metrics.iou(found.reshape(len(found), -1), seen.truth.reshape(len(found), -1))
        return np.asarray(metrics.psnr(found, seen.truth, clip=True), float)


# ---- quality ------------------------------------------------------------------------------------


def quality(study, seen):
    """Mean scores of the methods, and of the mixture's beyond neighbours' with its standard error
    over signals, draws of one in the mean. -> {.., each method: its mean, 'gain', 'error'}."""
    scores = {}
    for method in METHODS:
        values = study.scores(study.fit(seen, method), seen)
        scores[method] = np.bincount(seen.same, values) / np.bincount(seen.same)
    gain = scores["mixture"] - scores["neighbours"]
    row = {"collection": study.name, "seen": seen.what, "unit": study.unit, "signals": len(gain)}
    row |= {method: float(values.mean()) for method, values in scores.items()}
    row |= {"gain": float(gain.mean()), "error": float(gain.std(ddof=1) / np.sqrt(len(gain)))}
    digits = DIGITS[study.unit]
    told = ", ".join(f"{NAMES[method]} {row[method]:.{digits}f}" for method in METHODS)
    command.say(f"{study.name}, {seen.what}: {told}")
    return row


# ---- seconds ------------------------------------------------------------------------------------


def floor_flops(rows: int, experts: int, ways: int, signals: int) -> float:
    """Operations that codes under any one Gaussian take, of matrices of rows <= experts.

    Of every way the half that differs of B B^T and its Cholesky factor; of every signal two
    products with B, of what a code renders and of what measurements say of codes.
    """
    return ways * (rows**2 * experts + rows**3 / 3) + 4 * signals * rows * experts


def calls_of(study, problem) -> dict[str, Callable]:
    """What is timed: equations, and from those the codes by each method."""
    noise, prior = study.noise**2, study.dictionary.prior
    equations = problem.equations()
    return {
        "equations": problem.equations,
        "one": lambda: posterior.gaussian(equations, prior.alone(), noise),
        "mixture": lambda: mixture_codes.under_prior(equations, prior, noise),
        "neighbours": lambda: neighbours.local_gaussian(equations, prior, noise, study.neighbours),
    }


def times(study, seen, machine):
    """Seconds a signal by signals a call. -> rows."""
    whole = study.fit(seen, "one").problem
    own, rows = not whole.equations().shared, []
    for count in study.size.calls:
        if own and count > MOST_OWN:
            continue
        problem = whole.of_signals(np.arange(count) % len(seen.values))
        shape = problem.of_signals(slice(1)).equations().reduced().root.shape[-2:]
        found = _timed(calls_of(study, problem), machine, study.size)
        flops = floor_flops(*shape, count if own else 1, count) / count
        rate = float(np.median(found.pop("rate")))
        row = {"collection": study.name, "seen": seen.what, "own": own, "signals": count}
        row |= {"rows": shape[0], "experts": shape[1], "flops": flops, "floor": flops / rate}
        row |= {name: float(np.median(values)) / count for name, values in found.items()}
        ratio = rates.Spread.of(np.divide(found["mixture"], found["neighbours"]))
        row["ratio"] = dataclasses.asdict(ratio)
        told = ", ".join(f"{NAMES[method]} {1e3 * row[method]:.2f}" for method in METHODS)
        command.say(f"{study.name}, {seen.what}, {count} a call: ms a signal {told}")
        rows.append(row)
    return rows


def _timed(calls, machine, size):
    """{name: seconds of a call in every round}, and the 'rate' of the machine's products beside
    them, operations a second."""
    repeats = {}
    for name, call in calls.items():
        rates.timed(call)
        repeats[name] = max(1, round(LEAST_SECONDS / rates.timed(call)))
    machine.product_rate()
    found = {name: [] for name in (*calls, "rate")}
    spent = 0.0
    while (done := len(found["rate"])) < size.rounds and (
        done < LEAST_ROUNDS or spent < size.budget
    ):
        found["rate"].append(machine.product_rate())
        for name, call in calls.items():
            # They are no part of the ratio, and of rays they take longest.
            if name == "equations" and done:
                continue
            seconds = sum(rates.timed(call) for _ in range(repeats[name]))
            found[name].append(seconds / repeats[name])
            spent += seconds
    return found


# ---- the contest --------------------------------------------------------------------------------


def compared(scale, folder):
    """Rows of `quality`, rows of `times`, and what each dictionary is, after every collection."""
    machine, found = rates.Machine(), {"quality": [], "times": [], "dictionaries": {}}
    for name in CONFIGS:
        study = Study(name, scale, folder)
        found["dictionaries"][name] = study.described()
        timed = []
        for number, seen in study.seen().items():
            found["quality"].append(quality(study, seen))
            if number in study.size.timed[name]:
                timed.append(seen)
                if name == "faces":
                    timed.append(study.masked(number, own=False))
        for seen in timed:
            found["times"] += times(study, seen, machine)
        # Compiled for no other collection.
        jax.clear_caches()
        yield found


DIGITS = {"dB": 2, "IoU": 3}


def tables(found):
    """Quality, and seconds a signal."""

    def score(row, key):
        return f"{row[key]:.{DIGITS[row['unit']]}f}"

    good = {
        "signals": lambda row: f"{row['collection']}, {row['unit']}",
        "from": lambda r: r["seen"],
    }
    good |= {NAMES[m]: lambda row, m=m: score(row, m) for m in METHODS}
    good["mixture less neighbours"] = lambda row: f"{score(row, 'gain')} ± {score(row, 'error')}"
    fast = {"signals": lambda row: row["collection"], "from": lambda row: row["seen"]}
    fast |= {"rows": lambda row: row["rows"], "a call": lambda row: row["signals"]}
    fast |= {NAMES[m]: lambda row, m=m: _milliseconds(row[m]) for m in METHODS}
    fast["mixture / neighbours"] = lambda row: rates.Spread(**row["ratio"]).text(2)
    fast["floor"] = lambda row: _milliseconds(row["floor"])
    fast["mixture / floor"] = lambda row: f"{row['mixture'] / row['floor']:.2g}"
    fast["equations"] = lambda row: _milliseconds(row["equations"])
    return command.table(good, found["quality"]), command.table(fast, found["times"])


def _milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def page(found):
    """What mixture.md says."""
    good, fast = tables(found)
    of = "; ".join(f"{name}: {text}" for name, text in found["dictionaries"].items())
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "as many as it likes")
    return (
        "# Codes under a mixture beside neighbours and one Gaussian\n\n"
        "Codes under a mixture of Gaussians (`prior.components`), under the Gaussian of each "
        "signal's nearest training codes (`fit.gaussian.neighbours`), and under one Gaussian of "
        "all, of the same unseen signals by the same noise, that of their configs. The difference "
        "has its standard error over signals.\n\n"
        f"{good}\n"
        "Milliseconds a signal of the codes, once the equations are there, by signals a call; "
        "compiling is no part of it. Each is the median of rounds in which the methods take turns, "
        "the ratio the median, least and most of the rounds'. Faces have pixels of their own each "
        f"and are solved for one by one, {MOST_OWN} a call at most, "
        "unless it says that all have the same; views and samples are the same of all signals. "
        "Rows: of the matrix of one way of measuring; pixels that are not seen are rows of zeros. "
        "Floor: what codes under one Gaussian cannot do without, "
        "of every way the product of its matrix with itself and a Cholesky factor, of every signal "
        "two products with the matrix, at the rate of a product of 1024 x 1024 matrices, taken "
        "beside each round. Equations: their time, the same for all methods, no part of the rest."
        f"\n\n{fast}\n"
        f"Dictionaries: {of}. Neighbours: "
        f"{', '.join(f'{n} of {name}' for name, n in NEIGHBOURS.items())}, of few training codes "
        f"half as many. Threads of BLAS (OPENBLAS_NUM_THREADS): {threads}. {command.made()}"
    )


def draw(found):
    """Milliseconds a signal by signals a call, a panel for each case."""
    cases = list(dict.fromkeys((row["collection"], row["seen"]) for row in found["times"]))
    columns = 3 if len(cases) > 2 else len(cases)
    figure, axes = command.panels(-(-len(cases) // columns), columns, 3.6, 3.0)
    for axis in axes.flat[len(cases) :]:
        axis.remove()
    for axis, case in zip(axes.flat, cases, strict=False):
        own = [row for row in found["times"] if (row["collection"], row["seen"]) == case]
        calls = [row["signals"] for row in own]
        for key in (*METHODS, "floor"):
            look = {"color": "C7", "linestyle": "--"} if key == "floor" else {"marker": "o"}
            values = [1e3 * row[key] for row in own]
            axis.loglog(calls, values, markersize=4, label=NAMES.get(key, key), **look)
        axis.set_xticks(calls, [str(count) for count in calls])
        axis.minorticks_off()
        axis.set(xlabel="signals a call", ylabel="ms a signal")
        axis.set_title(", ".join(case), fontsize=8)
        axis.grid(alpha=0.3)
    axes.flat[len(cases) - 1].legend(frameon=False, fontsize=7)
    return figure
