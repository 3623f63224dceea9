"""Image regression: a dictionary and its solvers beside one network per image, PCA and DCT.

    python experiments/image_regression.py --scale=smoke|cpu|paper --output=DIR

Every method fits the same unseen signals in one run on one machine. Writes DIR/table.md,
metrics.json and figure.png; the dictionaries it trained stay in DIR/dictionaries.
"""

import dataclasses
import functools
import runpy
import shutil
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import operations
import peers
from absl import app, flags, logging

from nid_jax import tasks
from nid_jax.coding.ridge import Factorisation
from nid_jax.data import to_array
from nid_jax.fields import routing
from nid_jax.fields.coordinates import grid
from nid_jax.fields.model import build_model
from nid_jax.run import artefacts, fitting, monitoring, priors, rendering, training
from nid_jax.run.workdir import Workdir

ROOT = Path(__file__).resolve().parents[1]
DATA = ("faces", "photos", "celeb_a")
# A solver has reached a gradient fit when it is within this many dB of where that converges.
REACHED = 0.1
# Of gradient fits, for atoms of root mean square 1: of 0.1, 0.03, 0.01 and 0.003 the best, or
# within 0.5 dB of it, for the dictionaries here, after 10 steps and after 1000.
RATE = 3e-3
# Networks with more numbers than the image has values go far above; no picture shows it.
HIGHEST_PSNR = 50.0

FLAGS = flags.FLAGS


def define_flags():
    """Define the options on the command line's own values."""
    flags.DEFINE_enum("scale", "cpu", ["smoke", "cpu", "paper"], "How large, how long.")
    flags.DEFINE_string("output", "runs/image_regression", "Folder of the results.")
    flags.DEFINE_list("data", list(DATA), f"Data sets: {', '.join(DATA)}.")
    flags.DEFINE_string("celeb_a", "", "Folder of CelebA; left out where it is not found.")
    flags.DEFINE_string(
        "patches", "", "An .npz file of images `train` and `test` [S, H, W, C]: K = 32 of E = 256."
    )


# ---- what is compared at which size -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """One data set's dictionaries and budgets. Changes are dotted keys of the config."""

    title: str
    variant: str
    """Of configs/image.py."""
    changes: dict
    varpro: dict
    sparse: dict
    joint: dict
    """The paper's training; it sees fewer signals, which every one of its codes needs."""
    routers: dict
    """Router kind -> changes to `varpro`."""
    network: dict
    """Networks per image: width, layers and the most steps of the large ones, with the size and
    scale of their features; width of the small one, which stores as much as a dense code."""
    marks: tuple
    """Steps of every gradient descent at which it is looked at."""
    start_seconds: float
    """Training of the learned start."""


def optimiser(steps, batch_size, rate):
    """Length, batch and learning rate of a training, as changes of the config."""
    return {
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.optimizer.learning_rate": rate,
    }


NETWORK = {"width": 64, "num_layers": 4, "steps": 200, "size": 128, "scale": 8.0}
MARKS = (5, 10, 20, 50, 100, 200, 400, 700, 1000)
CONV = {"conv": {"router.kind": "conv", "router.width": 16, "train.steps": 30}}
LINEAR = {"linear": {"router.kind": "linear", "train.steps": 160}}
FACES = Setting(
    title="Faces",
    variant="cpu",
    changes={
        "data.augment.mirror": True,
        "data.augment.shifts": 24,
        "data.augment.max_shift": 2,
        "router.top_k": 32,
    },
    varpro={**optimiser(80, 500, 3e-3), "train.lam": 1e-3},
    sparse={**optimiser(100, 500, 3e-3), "train.lam": 1e-3, "train.atoms_per_step": 2},
    joint={**optimiser(1000, 16, 1e-3), "data.augment.mirror": False, "data.augment.shifts": 0},
    routers={**LINEAR, **CONV},
    network={**NETWORK, "small_width": 10},
    marks=MARKS,
    start_seconds=20.0,
)
PHOTOS = Setting(
    title="Photographs",
    variant="photos",
    changes={"data.num_train": 4000, "router.top_k": 64},
    varpro={**optimiser(80, 400, 2e-3), "train.lam": 1e-3},
    sparse={**optimiser(40, 200, 2e-3), "train.lam": 1e-3, "train.atoms_per_step": 4},
    joint={**optimiser(600, 16, 1e-3), "data.num_train": 340, "train.warmup_epochs": 10},
    routers=CONV,
    network={**NETWORK, "small_width": 20},
    marks=MARKS,
    start_seconds=40.0,
)
CELEB_A = dataclasses.replace(
    PHOTOS,
    title="CelebA",
    changes={
        **PHOTOS.changes,
        "data.name": "celeb_a",
        "data.size": (32, 32),
        "data.resize": True,
        "data.crop": "center",
        "data.num_test": 60,
    },
)
SETTINGS = {"faces": FACES, "photos": PHOTOS, "celeb_a": CELEB_A}
PATCHES = {
    "data.name": "array",
    "dictionary.num_experts": 256,
    "dictionary.width": 128,
    "router.top_k": 32,
    "dictionary.embedding.scale": 6.0,
    **optimiser(100, 200, 6e-3),
    "train.lam": 1e-3,
    "train.atoms_per_step": 2,
    "data.augment.mirror": True,
    "data.augment.shifts": 4,
}


def setting_of(name, scale):
    """The Setting of a data set at a scale."""
    setting = SETTINGS[name]
    if scale == "smoke":
        tiny = {
            "data.num_train": 16,
            "data.num_test": 4,
            "data.augment.shifts": 0,
            "dictionary.num_experts": 32,
            "dictionary.width": 16,
            "dictionary.embedding.size": 16,
            "router.top_k": 8,
        }
        short = optimiser(3, 8, 1e-3)
        return dataclasses.replace(
            setting,
            changes={**setting.changes, **tiny},
            varpro={**setting.varpro, **short},
            sparse={**setting.sparse, **short},
            joint={**short},
            routers={"linear": {**LINEAR["linear"], **short}},
            network={
                "width": 8,
                "num_layers": 2,
                "steps": 10,
                "size": 8,
                "scale": 8.0,
                "small_width": 6,
            },
            marks=(5, 10),
            start_seconds=0.5,
        )
    if scale == "paper":
        longer = {
            key: {"train.steps": 10 * getattr(setting, key)["train.steps"]}
            for key in ("varpro", "sparse", "joint")
        }
        return dataclasses.replace(
            setting,
            **{key: {**getattr(setting, key), **change} for key, change in longer.items()},
            network={
                **setting.network,
                "width": 256,
                "num_layers": 5,
                "steps": 5000,
                "size": 256,
            },
            marks=(*MARKS, 2000, 5000),
            start_seconds=600.0,
        )
    return setting


# ---- results ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    """One method on one data set. seconds, operations and numbers are per signal."""

    method: str
    family: str
    psnr: float
    ssim: float
    numbers: float
    operations: float
    seconds: float
    training_seconds: float = 0.0
    compile_seconds: float = 0.0
    curve: list = dataclasses.field(default_factory=list)
    """[seconds per signal, PSNR] along a descent; empty for what is solved at once."""

    def row(self):
        return [
            self.method,
            self.psnr,
            self.ssim,
            round(self.numbers),
            self.operations / 1e6,
            1e3 * self.seconds,
            float(1 / self.seconds),
            self.training_seconds or None,
        ]


HEADERS = [
    "method",
    "PSNR dB",
    "SSIM",
    "numbers per signal",
    "MFLOP per signal",
    "ms per signal",
    "signals per s",
    "training s",
]


def timed(function, repeats=7, budget=4.0):
    """-> (result, median seconds, seconds of the first call). Ends early when the budget is spent.

    The first call compiles and is no part of the median.
    """
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    first = time.perf_counter() - start
    seconds, begun = [], time.perf_counter()
    while len(seconds) < repeats and (not seconds or time.perf_counter() - begun < budget):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds), first


def say(text):
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


class Study:
    """One data set: its signals, its dictionaries, and the results so far."""

    def __init__(self, name, setting, output):
        self.name, self.setting, self.output = name, setting, output
        get_config = runpy.run_path(str(ROOT / "configs" / "image.py"))["get_config"]
        self.base = get_config(setting.variant)
        self.base.update_from_flattened_dict(setting.changes)
        self.task = tasks.build(self.base)
        self.test = self.task.open("test")
        self.truth = to_array(self.test)
        self.count, *self.grid_shape, self.channels = self.truth.shape
        self.points = grid(tuple(self.grid_shape))
        self.targets = self.truth.reshape(self.count, len(self.points), self.channels)
        self.top_k = self.base.router.top_k
        self.results = []
        size = "x".join(map(str, self.truth.shape[1:]))
        experts = self.base.dictionary.num_experts
        self.title = f"{setting.title}, {size}, {experts} experts"

    @functools.cached_property
    def train_signals(self):
        """All training signals, augmented, in memory."""
        return to_array(self.task.open("train"))

    def config(self, codes, router, changes):
        """The config of a dictionary: train.codes, router kind, and dotted changes."""
        config = self.base.copy_and_resolve_references()
        config.train.codes, config.router.kind = codes, router
        config.train.update({"log_every": 0, "eval_every": 0, "checkpoint_every": 0})
        config.update_from_flattened_dict(changes)
        if codes == "varpro":
            config.router.top_k = 0
        return config

    def train(self, name, config):
        """-> (Model, seconds of training without compilation)."""
        say(f"{self.name}: training {name}, {config.train.steps} steps")
        folder = self.output / "dictionaries" / f"{self.name}_{name}"
        # Not resumed: all numbers are of one run.
        shutil.rmtree(folder, ignore_errors=True)
        workdir = Workdir(folder)
        trained = training.train(tasks.build(config), config, workdir)
        seconds = trained.summary["train_seconds"]
        say(f"{self.name}: trained {name} in {seconds:.1f} s")
        return trained.model, seconds

    def untrained(self, config):
        """A dictionary as drawn."""
        return build_model(config, self.test.shape, self.count, config.seed)

    def add(self, method, family, prediction, **fields):
        """Score a prediction [S, *grid, C] and keep the result."""
        scores = self.task.metrics(np.asarray(prediction).reshape(self.truth.shape), self.truth)
        result = Result(
            method, family, *(float(np.mean(scores[key])) for key in ("psnr", "ssim")), **fields
        )
        self.results.append(result)
        say(f"{self.name}: {method}: {result.psnr:.2f} dB, {1e3 * result.seconds:.4g} ms a signal")
        return result

    def add_marks(self, method, family, marks, render, numbers, cost, shown, **fields):
        """A descent: a result for each of the `shown` steps; the last one carries the curve.

        render(variables) -> [S, P, C]; cost(steps) -> operations per signal.
        """
        curve = []
        for mark in marks:
            prediction = np.asarray(render(mark.variables)).reshape(self.truth.shape)
            psnr = float(np.mean(self.task.metrics(prediction, self.truth)["psnr"]))
            curve.append([mark.seconds / self.count, psnr])
            if mark.steps in shown:
                result = self.add(
                    f"{method}, {mark.steps} steps",
                    family,
                    prediction,
                    numbers=numbers,
                    operations=cost(mark.steps),
                    seconds=mark.seconds / self.count,
                    **fields,
                )
        result.curve = curve


# ---- the methods ------------------------------------------------------------------------------


def small_siren(study):
    """A SIREN that stores about as many numbers as a dense code."""
    return peers.siren(study.points, study.channels, study.setting.network["small_width"], 4)


def per_image_networks(study):
    """SIRENs and a Fourier-feature network for every signal, by Adam."""
    shape, marks, key = study.setting.network, study.setting.marks, jax.random.key(0)
    few = tuple(mark for mark in marks if mark <= shape["steps"])
    size = (study.channels, shape["width"], shape["num_layers"])
    features = {"size": shape["size"], "scale": shape["scale"], "key": key}
    networks = (
        ("small SIREN per image", small_siren(study), 3e-3, marks),
        ("SIREN per image", peers.siren(study.points, *size), 1e-3, few),
        (
            "Fourier network per image",
            peers.fourier_network(study.points, *size, **features),
            3e-3,
            few,
        ),
    )
    for name, network, rate, until in networks:
        found, compiling = peers.fit_networks(network, study.targets, rate, until, key)
        study.add_marks(
            name,
            name,
            found,
            jax.jit(jax.vmap(network.render)),
            network.numbers,
            functools.partial(operations.network_fit, network.sizes, len(study.points)),
            (10, 100, until[-1]),
            compile_seconds=compiling,
        )


def learned_start(study):
    """The small SIREN from a start learned by MAML on the training signals."""
    network, seconds = small_siren(study), study.setting.start_seconds
    signals = study.train_signals
    signals = signals.reshape(len(signals), -1, study.channels)
    say(f"{study.name}: learning a start for {seconds:.0f} s")
    start, count, spent, compiling = peers.learn_start(
        network, signals, jax.random.key(0), seconds, learning_rate=3e-3
    )
    say(f"{study.name}: learned a start in {count} steps")
    render = jax.jit(jax.vmap(network.render))
    curve = []
    for steps in (5, 10):
        adapt = jax.jit(functools.partial(peers.adapt, network, steps=steps))
        layers, taken, _ = timed(lambda adapt=adapt: adapt(start, study.targets))
        result = study.add(
            f"learned start (MAML), {steps} steps",
            "learned start (MAML)",
            render(layers),
            numbers=network.numbers,
            operations=operations.network_fit(network.sizes, len(study.points), steps),
            seconds=taken / study.count,
            training_seconds=spent,
            compile_seconds=compiling,
        )
        curve.append([result.seconds, result.psnr])
    result.curve = curve


def transforms(study):
    """PCA and DCT with as many coefficients as there are experts, and with K of them."""
    experts, top_k = study.base.dictionary.num_experts, study.top_k
    flat, values = study.truth.reshape(study.count, -1), study.truth[0].size
    start = time.perf_counter()
    pca = peers.PCA(study.train_signals.reshape(-1, values), experts)
    seconds = time.perf_counter() - start
    dct = peers.DCT(study.train_signals, experts)
    kept = len(pca.components)
    cosine = operations.cosine_transform(study.truth.shape[1:])
    methods = (
        ("PCA", kept, kept, lambda: pca.encode(flat), pca.decode, 2 * kept * values),
        ("DCT", experts, experts, lambda: dct.encode(study.truth), dct.decode, cosine),
        (
            "PCA",
            top_k,
            2 * top_k,
            lambda: peers.largest(pca.encode(flat), top_k),
            pca.decode,
            2 * kept * values,
        ),
        (
            "DCT",
            top_k,
            2 * top_k,
            lambda: peers.largest(dct.encode_all(study.truth), top_k),
            dct.decode_all,
            cosine,
        ),
    )
    for name, count, numbers, encode, decode, cost in methods:
        codes, taken, _ = timed(encode)
        study.add(
            f"{name}, {count} coefficients" + (" (largest)" if count == top_k else ""),
            name,
            decode(codes),
            numbers=numbers,
            operations=cost,
            seconds=taken / study.count,
            training_seconds=seconds if name == "PCA" else 0.0,
        )


def solved(study, name, model, config, solver, top_k=0, spent=0.0, prior=None, **options):
    """One solver on one dictionary, behind the library's own door. -> Fitted.

    name: of the dictionary. options: of the solver; `steps` are named in the table.
    """
    config = config.copy_and_resolve_references()
    config.fit.update({"solver": solver, "top_k": top_k, "num_signals": 0, "batch_size": 0})
    if options:
        config.fit[solver.replace("+", "_")].update(options)
    task = study.task
    first = fitting.fit(task, model, study.test, config, prior=prior)
    seconds = []
    while len(seconds) < 7 and (not seconds or sum(seconds) < 4.0):
        fitted = fitting.fit(task, model, study.test, config, prior=prior)
        seconds.append(fitted.seconds_total)
    prediction, _ = fitting.reconstruct(task, model, fitted, study.test, config)
    words = f"{solver}, K = {top_k}" if top_k else solver
    if solver == "gradient":
        words += f", {options['steps']} steps"
    study.add(
        f"{name}: {words}",
        f"{name}: {solver}",
        prediction,
        numbers=(2 * top_k or fitted.codes.shape[-1]) + study.channels,
        operations=solver_cost(study, model, config, fitted),
        seconds=statistics.median(seconds) / study.count,
        training_seconds=spent,
        compile_seconds=first.seconds_compile,
    )
    return fitted


def solver_cost(study, model, config, fitted):
    """Operations of a signal's fit; see `operations`."""
    dictionary, wanted = model.dictionary, config.fit
    experts, points, count = dictionary.num_experts, len(study.points), study.count
    top_k, steps = wanted.top_k, float(np.mean(fitted.iterations))
    cost = operations.equations(dictionary, points, count)
    if "router" in wanted.solver:
        if config.router.kind == "conv":
            cost += operations.convolutions(points, study.channels, config.router.width, experts)
        else:
            cost += operations.network((points * study.channels, experts))
        return cost + 2 * top_k**3 / 3
    return (
        cost
        + {
            "ridge": lambda: operations.ridge(experts, count),
            "gaussian": lambda: operations.gaussian(experts, count, NOISES_TRIED),
            "lasso": lambda: operations.lasso(experts, steps),
            "omp": lambda: operations.omp(experts, top_k),
            "iht": lambda: operations.iht(experts, top_k, steps),
            "gradient": lambda: operations.gradient_on_gram(experts, steps),
        }[wanted.solver]()
    )


# About as many variances as the search for the noise of highest evidence looks at, and the last.
NOISES_TRIED = 15


def gradient_on_gram(study, name, model, config, spent):
    """The library's own gradient fit, whose steps need no pixels."""
    last = study.setting.marks[-1]
    timings = []
    for steps in (5, 10, last):
        fitted = solved(
            study, name, model, config, "gradient", spent=spent, steps=steps, learning_rate=RATE
        )
        timings.append((steps, study.results[-1].seconds))
    # Seconds of a step from the longest and the shortest, so that what precedes them is kept.
    (few, short), (many, long) = timings[0], timings[-1]
    rate = max(long - short, 0) / (many - few)
    psnr = -10 * np.log10(np.maximum(fitted.history["residual"], 1e-12)).mean(-1)
    study.results[-1].curve = [
        [short + (step - few) * rate, float(psnr[step])] for step in study.setting.marks
    ]


def gradient_on_pixels(study, name, model, top_k, spent):
    """The paper's fit: Adam on the codes through every pixel, top-k gating inside.

    Starts from the mean of the codebook where there is one, as a learned start does; else from
    zero. Atoms are scaled to root mean square 1 first, as in the library's own descent, or no one
    learning rate would do for two dictionaries.
    """
    dictionary, points, targets = model.dictionary, study.points, jnp.asarray(study.targets)
    atoms = jnp.sqrt(jnp.square(dictionary.basis(points)).mean((0, 2)))
    scale = jnp.where(atoms > 0, 1 / jnp.where(atoms > 0, atoms, 1.0), 0.0)
    codes = jnp.zeros((study.count, dictionary.num_experts))
    bias = targets.mean(1)
    if model.router is not None:
        codes += model.router.codes[...].mean(0) * atoms
        bias = jnp.zeros_like(bias) + model.router.bias[...].mean(0)

    def render(variables):
        codes, bias = variables
        return dictionary.combine(points, routing.gate(codes * scale, bias, top_k))

    def residuals(variables):
        return jnp.square(render(variables) - targets).mean((1, 2))

    found, compiling = peers.descend(residuals, (codes, bias), RATE, study.setting.marks)
    study.add_marks(
        f"{name}: gradient through pixels" + (f", K = {top_k}" if top_k else ""),
        f"{name}: gradient through pixels",
        found,
        jax.jit(render),
        (2 * top_k or dictionary.num_experts) + study.channels,
        functools.partial(operations.gradient_on_pixels, dictionary, len(points), study.count),
        (5, 10, study.setting.marks[-1]),
        training_seconds=spent,
        compile_seconds=compiling,
    )


def kept_factorisation(study, name, model, config, spent):
    """Ridge with the factorisation made beforehand, as for every later signal of these points."""
    factorisation = Factorisation(
        model.dictionary, study.task.measure(study.test).operator, lam=float(config.fit.ridge.lam)
    )
    solution, seconds, first = timed(lambda: tuple(factorisation.solve(study.targets))[:2])
    gates = rendering.gates_of(*solution)
    experts, values = model.dictionary.num_experts, study.truth[0].size
    study.add(
        f"{name}: ridge, factorisation kept",
        f"{name}: ridge, factorisation kept",
        rendering.render(model.dictionary, gates, tuple(study.grid_shape)),
        numbers=experts + study.channels,
        operations=4 * experts * values,
        seconds=seconds / study.count,
        training_seconds=spent,
        compile_seconds=first - seconds,
    )


def dictionaries(study):
    """Dictionaries, trained in each way and not at all, with every solver."""
    setting, top_k = study.setting, study.top_k
    config = study.config("varpro", "none", setting.varpro)
    blank = study.untrained(config)
    for solver in ("ridge", "lasso"):
        solved(study, "NID untrained", blank, config, solver)
    for solver in ("omp", "iht"):
        solved(study, "NID untrained", blank, config, solver, top_k)

    model, spent = study.train("varpro", config)
    prior = priors.learn_prior(study.task, model, study.task.open("train"), config)
    name = "NID"
    kept_factorisation(study, name, model, config, spent)
    solved(study, name, model, config, "ridge", spent=spent)
    solved(study, name, model, config, "gaussian", spent=spent, prior=prior)
    solved(study, name, model, config, "lasso", spent=spent)
    for solver in ("omp", "iht"):
        solved(study, name, model, config, solver, top_k, spent)
    gradient_on_gram(study, name, model, config, spent)
    gradient_on_pixels(study, name, model, 0, spent)

    sparse = study.config("sparse_varpro", "none", setting.sparse)
    model, spent = study.train("sparse_varpro", sparse)
    solved(study, "NID sparse", model, sparse, "ridge", spent=spent)
    for solver in ("omp", "iht"):
        solved(study, "NID sparse", model, sparse, solver, top_k, spent)

    for kind, changes in setting.routers.items():
        routed = study.config("varpro", kind, {**setting.varpro, **changes})
        model, spent = study.train(f"{kind}_router", routed)
        name = f"NID {kind} router"
        solved(study, name, model, routed, "router", spent=spent)
        solved(study, name, model, routed, "router+ridge", top_k, spent)

    paper = study.config("joint", "codebook", setting.joint)
    model, spent = study.train("joint", paper)
    gradient_on_pixels(study, "NID as in the paper", model, top_k, spent)


# ---- patches of the sizes that the original code was measured at ---------------------------------


def patches(path, scale, output):
    """K = 32 of E = 256 on a trunk of width 128: seconds of training, milliseconds of fitting."""
    changes = {**PATCHES, "data.root": path}
    if scale == "smoke":
        changes |= {**optimiser(3, 4, 1e-3), "dictionary.width": 16}
    empty = dataclasses.replace(FACES, title="Patches", changes=changes, sparse={})
    study = Study("patches", empty, output)
    config = study.config("sparse_varpro", "none", {})
    model, spent = study.train("sparse_varpro", config)
    for solver in ("omp", "iht"):
        solved(study, "NID sparse", model, config, solver, study.top_k, spent)
    solved(study, "NID sparse", model, config, "ridge", spent=spent)
    kept_factorisation(study, "NID sparse", model, config, spent)
    return study


# ---- what is written --------------------------------------------------------------------------


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
        rivals = [
            fast
            for fast in results
            if fast.method.startswith(("NID: ", "NID sparse: "))
            and "gradient" not in fast.method
            and fast.psnr >= level - REACHED
            and fast.numbers <= slow.numbers
        ]
        fastest = [
            min(group, key=lambda fast: fast.seconds)
            for kept in (False, True)
            if (group := [fast for fast in rivals if ("kept" in fast.method) == kept])
        ]
        start = [slow.method, level, 1e3 * seconds]
        rows += [
            [*start, fast.method, fast.psnr, 1e3 * fast.seconds, seconds / fast.seconds]
            for fast in fastest
        ]
        if not fastest:
            rows.append([*start, "none gets there", None, None, None])
    return rows


SPEED_UP_HEADERS = [
    "gradient fit",
    "converges to dB",
    "ms per signal",
    "solver that gets there",
    "PSNR dB",
    "ms per signal",
    "times faster",
]


def write_table(path, studies, notes, versions):
    """table.md: one table a data set, how the numbers were taken, and on what."""
    parts = ["# Image regression\n"]
    for study in studies:
        signals = f"{study.count} unseen signals of {list(study.truth.shape[1:])}"
        parts += [f"## {study.title}\n", f"{signals}, all fitted at once.\n"]
        parts.append(monitoring.markdown_table([r.row() for r in study.results], HEADERS))
        rows = speed_ups(study.results)
        if rows:
            parts.append(
                f"Time to within {REACHED} dB of where a gradient fit converges, against solvers "
                "that store no more numbers:\n"
            )
            parts.append(monitoring.markdown_table(rows, SPEED_UP_HEADERS))
    parts += ["## How it was measured\n", *(f"- {note}" for note in (*NOTES, *notes)), ""]
    parts.append(monitoring.markdown_table(list(versions.items()), ["", ""]))
    artefacts.write_text(path, "\n".join(parts))


NOTES = (
    "PSNR and SSIM are means over the signals, clipped to [0, 1]. Times are medians without "
    "compilation; a descent's is its number of steps times the median of a step. All signals are "
    "fitted together and the time is divided by their number; what they share (atoms at the "
    "points, Gram matrix, factor) is included, except where the factorisation is said to be kept.",
    "A sparse code of K experts stores 2 K numbers, values and places.",
    f"Operations: {operations.RULE}",
    "NID: codes solved inside the training step (variable projection); NID sparse: the same with K "
    "experts chosen by matching pursuit; NID as in the paper: codebook and dictionary trained "
    "together, top-k gating; untrained: the dictionary as drawn.",
    "Training s: without compilation; PCA's is its eigendecomposition.",
)


def draw(path, studies):
    """figure.png: PSNR against seconds per signal, a panel for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(studies), 1, figsize=(12, 6.2 * len(studies)), squeeze=False, layout="constrained"
    )
    for axes, study in zip(panels[:, 0], studies, strict=True):
        _panel(axes, study)
    with artefacts.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


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
    "NID linear router": "C8",
    "NID conv router": "C6",
}


def _panel(axes, study):
    """Descents as lines; what is solved at once as markers: a colour for each dictionary and a
    shape for each solver."""
    lines = [result for result in study.results if result.curve]
    in_lines = {result.family for result in lines}
    for number, result in enumerate(lines):
        seconds, psnr = zip(*result.curve, strict=True)
        colour = ("C0", "C9", "C1", "C2", "C4", "C5", "deeppink")[number % 7]
        axes.plot(seconds, psnr, "o-", ms=3, color=colour, label=result.family)
    for result in study.results:
        if result.family in in_lines:
            continue
        dictionary, _, solver = result.family.partition(": ")
        axes.plot(
            result.seconds,
            result.psnr,
            SHAPES.get(solver, "D" if dictionary == "PCA" else "d"),
            ms=9,
            color=COLOURS.get(dictionary, "gold" if "largest" in result.method else "black"),
            markeredgecolor="black",
            markeredgewidth=0.5,
            linestyle="none",
            label=result.method,
        )
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


def write(output, studies, notes):
    """table.md, metrics.json and figure.png."""
    versions = monitoring.versions()
    write_table(output / "table.md", studies, notes, versions)
    draw(output / "figure.png", studies)
    metrics = {
        "versions": versions,
        "scale": FLAGS.scale,
        "rule": operations.RULE,
        "notes": notes,
        "studies": {
            study.name: {
                "title": study.title,
                "signals": study.count,
                "setting": dataclasses.asdict(study.setting),
                "results": [dataclasses.asdict(result) for result in study.results],
                "speed_ups": speed_ups(study.results),
            }
            for study in studies
        },
    }
    artefacts.write_json(output / "metrics.json", metrics)


def run(output):
    """All data sets that are asked for and there. -> studies, notes on those left out."""
    unknown = [name for name in FLAGS.data if name not in DATA]
    if unknown:
        raise ValueError(f"--data={unknown[0]}: allowed: {', '.join(DATA)}")
    if FLAGS.patches and not Path(FLAGS.patches).is_file():
        raise FileNotFoundError(f"--patches={FLAGS.patches}: no such file")
    studies, notes = [], []
    for name in FLAGS.data:
        setting = setting_of(name, FLAGS.scale)
        if name == "celeb_a":
            setting = dataclasses.replace(
                setting, changes={**setting.changes, "data.root": FLAGS.celeb_a}
            )
        try:
            study = Study(name, setting, output)
        except (ValueError, FileNotFoundError) as error:
            # The one data set that need not be there, unless a folder was given.
            if name != "celeb_a" or FLAGS.celeb_a:
                raise
            notes.append(f"CelebA is left out: {error}")
            say(notes[-1])
            continue
        transforms(study)
        dictionaries(study)
        per_image_networks(study)
        learned_start(study)
        studies.append(study)
        # What a long run has found is on disk before the next data set begins.
        write(output, studies, notes)
    if FLAGS.patches:
        studies.append(patches(FLAGS.patches, FLAGS.scale, output))
    return studies, notes


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    start = time.perf_counter()
    output = Path(FLAGS.output)
    try:
        studies, notes = run(output)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    write(output, studies, notes)
    say(f"done in {monitoring.format_duration(time.perf_counter() - start)}: {output / 'table.md'}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
