"""How fast, beside how fast this machine could be: training, basis evaluation, rendering, fitting.

    python experiments/speed.py --scale=cpu --output=DIR

Writes table.md, metrics.json and figure.png. Every time stands beside its floor: the operations of
its matrix products over this machine's rate of them plus its sines over the rate of those, or the
bytes it must move where that takes longer. With --peer=torch it is measured beside PyTorch instead:
see torch_peer.py.
"""

import dataclasses
import functools
import itertools
import math
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.figure
import matplotlib.ticker
import numpy as np
from absl import app, flags
from flax import nnx
from measuring import Case, Machine, Work, compiled, measure, timed

from nid_jax import devices, numerics, sharding, tasks
from nid_jax.coding import gradient
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.coding.ridge import Factorisation
from nid_jax.fields import dictionary as dictionaries
from nid_jax.fields import embeddings
from nid_jax.fields.experts import Layers
from nid_jax.files import atomic_path
from nid_jax.fitting import rendering
from nid_jax.reporting import tables
from nid_jax.storage.artefacts import write_json, write_text
from nid_jax.training.loop import Trainer

LAYERS = 4
FEATURES = 256
LETTERS = {"E": "experts", "P": "points", "S": "signals", "H": "width", "K": "active"}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Sizes to vary one at a time around the first of each."""

    E: Sequence[int]
    P: Sequence[int] = (0,)
    S: Sequence[int] = (1,)
    H: Sequence[int] = (16,)
    K: Sequence[int] = (0,)

    def sizes(self):
        """The base first, then one dict of sizes for every other value of every letter."""
        values = dataclasses.asdict(self)
        base = {letter: options[0] for letter, options in values.items()}
        others = [
            base | {letter: value} for letter, options in values.items() for value in options[1:]
        ]
        return [base, *others]


@dataclasses.dataclass(frozen=True)
class Scale:
    """What one --scale measures; side is that of the square training images."""

    rounds: int
    least_seconds: float
    side: int
    basis: dict[str, Sweep]
    train: dict[str, Sweep]
    render: dict[str, Sweep]
    fit: Sweep
    shared_coordinates: Sweep


SCALES = {
    "smoke": Scale(
        rounds=2,
        least_seconds=0.0,
        side=6,
        basis={"shared": Sweep(E=(8, 16), P=(64,)), "independent": Sweep(E=(8, 16), P=(64,))},
        train={"shared": Sweep(E=(8,), S=(4,)), "independent": Sweep(E=(8,), S=(4,))},
        render={
            "shared": Sweep(E=(8, 16), P=(64,)),
            "independent": Sweep(E=(8,), P=(64,), K=(0, 2)),
        },
        fit=Sweep(E=(8,), S=(4,)),
        shared_coordinates=Sweep(E=(8,), S=(16,)),
    ),
    "cpu": Scale(
        rounds=7,
        least_seconds=0.02,
        side=25,
        basis={
            "shared": Sweep(E=(1024, 512, 2048), P=(4096, 1024, 2048, 8192), H=(256, 128, 512)),
            "independent": Sweep(E=(256, 128, 512), P=(2048, 1024, 4096), H=(16, 32)),
        },
        train={
            "shared": Sweep(E=(256, 512, 1024), P=(625, 312), S=(16, 32, 64), H=(512, 256)),
            "independent": Sweep(E=(256, 128, 512), P=(625, 312), S=(16, 32, 64), H=(16, 32)),
        },
        render={
            "shared": Sweep(
                E=(1024, 256, 4096), P=(65536, 32768, 131072), S=(4, 1, 16), H=(512, 256)
            ),
            "independent": Sweep(E=(256, 128, 512), P=(16384, 32768), S=(4, 8), K=(0, 8)),
        },
        fit=Sweep(E=(256, 512, 1024), S=(20, 40, 80)),
        shared_coordinates=Sweep(E=(256, 512, 1024), S=(1000, 2000), H=(512,)),
    ),
    "paper": Scale(
        rounds=9,
        least_seconds=0.05,
        side=128,
        basis={
            "shared": Sweep(E=(1024, 2048, 4096), P=(4096, 8192, 16384, 65536), H=(256, 512, 1024)),
            "independent": Sweep(E=(1024, 2048, 4096), P=(4096, 8192), H=(16, 32, 64)),
        },
        train={
            "shared": Sweep(
                E=(4096, 1024, 2048), P=(4096, 8192, 16384), S=(16, 32, 64), H=(512, 256)
            ),
            "independent": Sweep(E=(256, 512, 1024), P=(4096, 8192), S=(16, 32, 64), H=(16, 32)),
        },
        render={
            "shared": Sweep(
                E=(4096, 1024), P=(2**18, 2**19, 2**20), S=(4, 1, 16), H=(512, 256), K=(0, 256)
            ),
            "independent": Sweep(E=(1024, 2048), P=(65536, 131072), S=(4, 8), K=(0, 8, 64)),
        },
        fit=Sweep(E=(1024, 2048, 4096), S=(64, 128, 256)),
        shared_coordinates=Sweep(E=(1024, 2048, 4096), S=(1000, 2000, 4000), H=(512,)),
    ),
}

# ---- what is measured -------------------------------------------------------------------------


def make_dictionary(kind, sizes, channels=1):
    """A trunk on Fourier features with rectifiers, or a stack of SIRENs on the coordinates."""
    rngs = nnx.Rngs(params=0)
    layers = Layers(LAYERS, sizes["H"], "relu" if kind == "shared" else "sine", 30.0)
    if kind == "shared":
        embedding = embeddings.GaussianFourier(2, FEATURES, 8.0, rngs=rngs)
        return dictionaries.SharedDictionary(embedding, sizes["E"], channels, layers, rngs=rngs)
    embedding = embeddings.Identity(2)
    return dictionaries.IndependentDictionary(embedding, sizes["E"], channels, layers, rngs=rngs)


def network_work(kind, sizes, passes=1):
    """Operations and sines of the trunk or of all E experts at P points, backward too if passes=3.

    Three passes are values, gradients of weights, and gradients of inputs, which the first layer
    does not need; a backward pass takes every sine's cosine.
    """
    points, width, num_experts = sizes["P"], sizes["H"], sizes["E"]
    inner = 2 * width * width * (LAYERS - 2)
    first = 2 * width * (FEATURES if kind == "shared" else 2)
    flops = passes * inner + min(passes, 2) * first
    if kind == "shared":
        return points * flops, points * FEATURES
    flops += passes * 2 * width
    sines = width * (LAYERS - 1) * min(passes, 2)
    return points * num_experts * flops, points * num_experts * sines


def combine_flops(kind, sizes, passes=1):
    """Operations of the cheapest order of the product with the codes."""
    signals, points, num_experts, width = (sizes[letter] for letter in "SPEH")
    evaluate = 2 * signals * points * num_experts
    if kind == "shared":
        evaluate += 2 * points * width * num_experts
        evaluate = min(evaluate, 2 * signals * width * (num_experts + points))
    return passes * evaluate


def largest_product(kind, sizes, points):
    """The shape of the network's products: one wide one, or one small one per expert."""
    width = sizes["H"]
    if kind == "shared":
        return (1, points, width, width)
    chunk = dictionaries._points_at_a_time(sizes["E"] * width)
    return (sizes["E"], min(points, chunk), width, width)


def basis_case(kind, sizes):
    """Every expert at every point."""
    graphdef, state = nnx.split(make_dictionary(kind, sizes))
    points = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (sizes["P"], 2)), jnp.float32)
    program, seconds, memory, moved = compiled(
        lambda state, x: nnx.merge(graphdef, state, copy=True).basis(x), state, points
    )
    flops, sines = network_work(kind, sizes)
    product = largest_product(kind, sizes, sizes["P"])
    if kind == "shared":
        flops += 2 * sizes["P"] * sizes["H"] * sizes["E"]
        product = (1, sizes["P"], sizes["H"], sizes["E"])
    return Case(
        f"basis, {kind}",
        sizes,
        lambda: program(state, points),
        Work(flops, sines, moved, product),
        items=sizes["P"],
        item="points",
        memory=memory,
        compile_seconds=seconds,
    )


class Noise:
    """A collection of random gray images."""

    def __init__(self, count, side):
        self.shape, self.title = (side, side, 1), "noise"
        self.names = [str(index) for index in range(count)]
        self._images = np.random.default_rng(0).random((count, *self.shape), np.float32)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index]


def train_config(kind, sizes):
    """configs/image.py with these sizes, the paper's joint training."""
    path = Path(__file__).resolve().parents[1] / "configs" / "image.py"
    config = runpy.run_path(str(path))["get_config"]("cpu")
    activation, embedding = {
        "shared": ("relu", "fourier"),
        "independent": ("sine", "identity"),
    }[kind]
    config.dictionary.update(
        {
            "kind": kind,
            "num_experts": sizes["E"],
            "width": sizes["H"],
            "num_layers": LAYERS,
            "activation": activation,
        }
    )
    config.dictionary.embedding.update({"kind": embedding, "size": FEATURES})
    config.router.update({"kind": "codebook", "top_k": 0})
    config.train.update({"codes": "joint", "batch_size": sizes["S"], "points": sizes["P"]})
    return config


def train_case(kind, sizes, side, label=""):
    """One step of joint training as the trainer compiles it, its state donated."""
    sizes = sizes | {"P": min(sizes["P"] or side * side, side * side)}
    config = train_config(kind, sizes)
    trainer = Trainer(tasks.build(config), config, None, Noise(2 * sizes["S"], side))
    batch = sharding.place_batch(next(trainer.batches), trainer.mesh)
    start = time.perf_counter()
    program = trainer.step_for(0, batch)
    seconds = time.perf_counter() - start
    state = [trainer.state]

    def step():
        state[0], terms = program(state[0], batch)
        return terms

    flops, sines = network_work(kind, sizes, passes=3)
    flops += combine_flops(kind, sizes, passes=3)
    # Adam reads and writes weights and both moments, and reads the gradient.
    moved = 4 * 7 * sum(trainer.parameters.values())
    return Case(
        f"train step, {kind}{label}",
        sizes,
        step,
        Work(flops, sines, moved, largest_product(kind, sizes, sizes["P"])),
        items=sizes["S"],
        item="signals",
        memory=trainer.compiled_bytes,
        compile_seconds=seconds,
    )


def render_case(kind, sizes):
    """Signals at many points, back in NumPy; K active experts, 0 being all."""
    dictionary = make_dictionary(kind, sizes)
    draw = np.random.default_rng(0)
    codes = draw.standard_normal((sizes["S"], sizes["E"]), np.float32) / math.sqrt(sizes["E"])
    if sizes["K"]:
        codes[:, sizes["K"] :] = 0
    gates = rendering.gates_of(codes, np.zeros((sizes["S"], 1), np.float32))
    points = draw.uniform(-1, 1, (sizes["P"], 2)).astype(np.float32)
    seconds = timed(lambda: rendering.render_points(dictionary, gates, points))
    work = sizes
    if sizes["K"] and kind == "independent":
        # Each signal evaluates its own experts; never more than all of them once.
        active = min(sizes["S"] * sizes["K"], sizes["E"])
        work = sizes | {"E": active}
    flops, sines = network_work(kind, work)
    flops += combine_flops(kind, work if kind == "shared" else work | {"S": 1})
    chunk = min(sizes["P"], 4096)
    return Case(
        f"render, {kind}",
        sizes,
        lambda: rendering.render_points(dictionary, gates, points),
        Work(flops, sines, 4.0 * sizes["P"] * (2 + sizes["S"]), largest_product(kind, work, chunk)),
        items=sizes["S"] * sizes["P"],
        item="values",
        compile_seconds=seconds,
    )


def fit_case(sizes, side, steps=50):
    """One step of a fit by gradient: the Gram matrix with the codes of all signals."""
    sizes = sizes | {"H": 512, "P": side * side}
    dictionary, operator = make_dictionary("shared", sizes), sample((side, side))
    images = np.stack(list(Noise(sizes["S"], side))).reshape(sizes["S"], -1, 1)
    equations = normal_equations(dictionary, operator, images)
    codes, bias = jnp.zeros((sizes["S"], sizes["E"])), jnp.zeros((sizes["S"], 1))
    program, seconds, memory, _ = compiled(
        functools.partial(gradient.descend_codes, steps=steps, learning_rate=0.03),
        equations,
        codes,
        bias,
    )
    flops = 2 * sizes["S"] * sizes["E"] ** 2
    # Codes, two moments and the gradient go through memory, and the Gram matrix once.
    moved = 4 * (sizes["E"] ** 2 + 7 * sizes["S"] * sizes["E"])
    return Case(
        "fit by gradient, one step",
        sizes,
        lambda: program(equations, codes, bias),
        Work(flops, 0, moved, (1, sizes["S"], sizes["E"], sizes["E"])),
        repeats=steps,
        items=sizes["S"],
        item="signals",
        memory=memory,
        compile_seconds=seconds,
    )


def shared_coordinates_case(sizes, side):
    """Codes and residuals of many signals measured alike, the factorisation at hand."""
    sizes = sizes | {"P": side * side}
    dictionary, operator = make_dictionary("shared", sizes), sample((side, side))
    images = jnp.asarray(np.stack(list(Noise(sizes["S"], side))).reshape(sizes["S"], -1, 1))
    start = time.perf_counter()
    factorisation = Factorisation(dictionary, operator)
    jax.block_until_ready(factorisation.solve(images).codes)
    seconds = time.perf_counter() - start
    signals, points, num_experts = sizes["S"], sizes["P"], sizes["E"]
    flops = 2 * 2 * signals * points * num_experts
    moved = 4 * (signals * (2 * points + num_experts) + 2 * points * num_experts)
    return Case(
        "fit by ridge, factorised",
        sizes,
        lambda: factorisation.solve(images).codes,
        Work(flops, 0, moved, (1, signals, points, num_experts)),
        items=signals,
        item="signals",
        compile_seconds=seconds,
    )


def build_cases(scale, progress):
    """Every case of a scale, compiled."""
    makers = []
    for kind in dictionaries.KINDS:
        for sizes in scale.basis[kind].sizes():
            makers.append(functools.partial(basis_case, kind, sizes))
        for sizes in scale.train[kind].sizes():
            makers.append(functools.partial(train_case, kind, sizes, scale.side))
        for sizes in scale.render[kind].sizes():
            makers.append(functools.partial(render_case, kind, sizes))
    for sizes in scale.fit.sizes():
        makers.append(functools.partial(fit_case, sizes, scale.side))
    for sizes in scale.shared_coordinates.sizes():
        makers.append(functools.partial(shared_coordinates_case, sizes, scale.side))
    cases = []
    for number, make in enumerate(makers):
        progress(f"compiling {number + 1} of {len(makers)}")
        cases.append(make())
    return cases


def sine_cases(scale):
    """The independent stack with our sine and with jnp.sin. -> cases, difference of the basis."""
    sizes = scale.basis["independent"].sizes()[0]
    training = scale.train["independent"].sizes()[0]
    ours = [basis_case("independent", sizes), train_case("independent", training, scale.side)]
    with mock.patch.object(numerics, "sin", jnp.sin):
        theirs = [
            basis_case("independent", sizes),
            train_case("independent", training, scale.side),
        ]
    difference = float(jnp.abs(ours[0].call() - theirs[0].call()).max())
    for case in theirs:
        case.group += ", jnp.sin"
    return ours + theirs, difference


# ---- what is written --------------------------------------------------------------------------


def size_text(sizes):
    return " ".join(f"{letter}={sizes[letter]}" for letter in LETTERS if sizes.get(letter))


def rows_of(results):
    """Rows of the main table, milliseconds with the range over rounds."""
    rows = []
    for result in results:
        case = result.case
        rate = case.items / result.seconds.median
        rows.append(
            [
                case.group,
                size_text(case.sizes),
                dataclasses.replace(
                    result.seconds,
                    **{k: 1e3 * v for k, v in dataclasses.asdict(result.seconds).items()},
                ).text(),
                1e3 * result.floor.median,
                result.reached.text(2),
                result.shaped.text(2),
                f"{tables.format_count(rate)} {case.item}/s",
                tables.format_bytes(case.memory) if case.memory else None,
                case.compile_seconds,
            ]
        )
    return rows


HEADERS = [
    "what",
    "sizes",
    "ms (min..max)",
    "floor ms",
    "floor / time",
    "floor of such products / time",
    "throughput",
    "memory",
    "compile s",
]


def sweeps_of(results):
    """Results that differ in one size alone, by rising size: [(group, letter, [Result])]."""
    found = []
    for group, members in itertools.groupby(results, key=lambda result: result.case.group):
        members = list(members)
        base = members[0].case.sizes
        for letter in LETTERS:
            line = [
                result
                for result in members
                if result.case.sizes.get(letter)
                and result.case.sizes | {letter: 0} == base | {letter: 0}
            ]
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
            large.case.memory / small.case.memory if small.case.memory else None,
        ]
        for group, letter, line in sweeps_of(results)
        for small, large in itertools.pairwise(line)
    ]


def promises(results, sines, difference):
    """What the library promises beside what was measured: [what, measured, promised]."""
    shared = next(result for result in results if result.case.group == "basis, shared")
    basis, step, basis_library, step_library = (result.seconds.median for result in sines)
    # A layer multiplies the error of the sines below it by about omega0.
    bound = 3 * 30 * numerics.SINE_ERROR * LAYERS
    return [
        [
            f"share of the matrix-product rate, basis of a trunk, {size_text(shared.case.sizes)}",
            shared.product_share.text(2),
            "at least 0.7",
        ],
        [
            "independent basis, time with jnp.sin / with our sine",
            basis_library / basis,
            "at least 3",
        ],
        ["independent train step, the same", step_library / step, ""],
        ["largest difference of that basis with jnp.sin", difference, f"below {bound:.1e}"],
    ]


def write_table(path, scale, results, sines, rates, difference, seconds):
    """table.md: rates of the machine, promises, every case, growth."""
    memory = devices.peak_memory_bytes()
    machine = [[name, spread.median, spread.least, spread.most] for name, spread in rates.items()]
    parts = [
        f"# Speed, scale {scale}\n",
        ", ".join(f"{key} {value}" for key, value in devices.versions().items()) + "\n",
        "Medians over rounds in which every case ran once; the range over rounds in brackets. "
        "Floor: operations of the matrix products over the machine's rate, plus sines over its "
        "rate, or bytes over bandwidth where that is more. The next column takes the rate of "
        "products of the case's own shape. Compile time is apart; where one function serves many "
        "calls it is the first call's. Memory is what the compiled function holds.\n",
        tables.markdown_table(machine, ["this machine", "median", "least", "most"]),
        "## Promises\n",
        tables.markdown_table(
            promises(results, sines, difference), ["what", "measured", "promised"]
        ),
        "## Cases\n",
        tables.markdown_table(rows_of(results + sines), HEADERS),
        "## Growth\n",
        tables.markdown_table(
            growth_of(results),
            ["what", "letter", "from", "to", "time x", "floor x", "memory x"],
        ),
        ", ".join(f"{letter}: {word}" for letter, word in LETTERS.items()) + ". "
        f"Most memory the process held: {tables.format_bytes(memory['host'])}. "
        f"The whole run took {tables.format_duration(seconds)}.\n",
    ]
    write_text(path, "\n".join(parts))


def plain(result):
    """A result in JSON types."""
    entry = {
        field.name: dataclasses.asdict(getattr(result, field.name))
        for field in dataclasses.fields(result)
        if field.name != "case"
    }
    case = result.case
    return {
        "what": case.group,
        "sizes": case.sizes,
        "work": dataclasses.asdict(case.work),
        "memory_bytes": case.memory,
        "compile_seconds": case.compile_seconds,
        "items_per_second": case.items / result.seconds.median,
        "item": case.item,
        **entry,
    }


def draw_figure(path, results):
    """figure.png: time against each letter, measured and floor."""
    lines = sweeps_of(results)
    letters = [letter for letter in LETTERS if any(line[1] == letter for line in lines)]
    figure = matplotlib.figure.Figure(figsize=(4.2 * max(len(letters), 1), 5.2), layout="tight")
    axes = figure.subplots(1, max(len(letters), 1), squeeze=False)[0]
    groups = list(dict.fromkeys(group for group, _, _ in lines))
    for axis, letter in zip(axes, letters, strict=False):
        for group, _, line in (line for line in lines if line[1] == letter):
            colour = f"C{groups.index(group)}"
            x = [result.case.sizes[letter] for result in line]
            spread = np.array([dataclasses.astuple(result.seconds) for result in line]).T * 1e3
            errors = [spread[0] - spread[1], spread[2] - spread[0]]
            axis.errorbar(x, spread[0], errors, marker="o", color=colour, capsize=2, label=group)
            axis.plot(x, [1e3 * r.floor.median for r in line], "--", color=colour, linewidth=1)
        axis.set(xscale="log", yscale="log", xlabel=LETTERS[letter], ylabel="milliseconds")
        axis.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axis.set_xticks(
            sorted(
                {r.case.sizes[letter] for _, name, line in lines if name == letter for r in line}
            )
        )
        axis.tick_params(axis="x", rotation=60)
        axis.set_title(f"time over {LETTERS[letter]}; dashed: floor", fontsize=9)
        axis.legend(fontsize=6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def run(scale_name, output):
    """Measure and write. -> the content of metrics.json."""
    start = time.perf_counter()
    scale = SCALES[scale_name]
    progress = functools.partial(print, flush=True)
    cases = build_cases(scale, progress)
    sines, difference = sine_cases(scale)
    results, rates = measure(cases + sines, Machine(), scale.rounds, scale.least_seconds, progress)
    results, sines = results[: len(cases)], results[len(cases) :]
    seconds = time.perf_counter() - start
    metrics = {
        "scale": scale_name,
        "versions": devices.versions(),
        "seconds": seconds,
        "machine": {name: dataclasses.asdict(spread) for name, spread in rates.items()},
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "promises": promises(results, sines, difference),
        "cases": [plain(result) for result in results + sines],
        "growth": growth_of(results),
    }
    write_json(output / "metrics.json", metrics)
    draw_figure(output / "figure.png", results)
    write_table(output / "table.md", scale_name, results, sines, rates, difference, seconds)
    print(output / "table.md")
    return metrics


def main(argv):
    del argv
    if PEER.value == "torch":
        try:
            # Here, as nothing else of this library's needs PyTorch.
            import torch_peer
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            print("error: --peer=torch: PyTorch is missing: pip install torch", file=sys.stderr)
            sys.exit(2)
        torch_peer.run(SCALE.value, Path(OUTPUT.value))
    else:
        run(SCALE.value, Path(OUTPUT.value))


if __name__ == "__main__":
    SCALE = flags.DEFINE_enum("scale", "cpu", list(SCALES), "How much to measure.")
    OUTPUT = flags.DEFINE_string("output", "runs/speed", "Folder of the table and the figure.")
    PEER = flags.DEFINE_enum("peer", "", ["", "torch"], "What to measure beside.")
    app.run(main)
