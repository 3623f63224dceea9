"""What image regression compares, and at which size: a data set, its dictionaries, its results."""

import dataclasses
import functools
import shutil

import numpy as np
from measuring import command
from measuring.command import say
from measuring.dictionaries import changed, learned

from nid_jax import tasks
from nid_jax.coding.solvers import solver_from_config
from nid_jax.data import to_array
from nid_jax.fields.coordinates import grid


@dataclasses.dataclass(frozen=True)
class Setting:
    """One data set's dictionaries and budgets. Changes are dotted keys of the config."""

    title: str
    variant: str
    """Of configs/image.py."""
    changes: dict
    descent: dict
    """Features that descend under drawn heads, where the variant has heads in closed form."""
    sparse: dict
    joint: dict
    """The paper's training; it sees fewer signals, which every one of its codes needs."""
    routers: dict
    """Router kind -> changes, beside the variant's heads in closed form."""
    network: dict
    """Networks per image: width, layers and the most steps of the large ones, with the size and
    scale of their features; width of the small one, which stores as much as a dense code."""
    marks: tuple
    """Steps of every gradient descent at which it is looked at."""
    ksvd_passes: int
    """Over all atoms; about as long as the library takes, or longer."""
    start_seconds: float
    """Training of the learned start."""


def optimiser(steps, batch_size, rate):
    """Length, batch and learning rate of a training, as changes of the config."""
    sizes = {"train.steps": steps, "train.batch_size": batch_size}
    return sizes | {"train.optimizer.learning_rate": rate}


NETWORK = {"width": 64, "num_layers": 4, "steps": 200, "size": 128, "scale": 8.0}
MARKS = (5, 10, 20, 50, 100, 200, 400, 700, 1000)
LINEAR = {"linear": {}}
ROUTERS = {**LINEAR, "conv": {"router.width": 8, "router.pool": "none"}}
LAM = {"train.lam": 1e-3}
TRUNK = {
    "dictionary.num_layers": 4,
    "dictionary.heads": "drawn",
    "dictionary.embedding.kind": "fourier",
    "data.augment.turns": False,
    "data.augment.warps": 0,
}
SHIFTED = {**TRUNK, "data.augment.shifts": 24, "data.augment.max_shift": 2}
# Supports by what lowers the error most, on atoms of the pool that such supports use.
WAVES = {
    "dictionary.num_layers": 1,
    "dictionary.embedding.kind": "cosine",
    "dictionary.heads": "waves",
    "train.steps": 0,
}
GAIN = {"fit.omp.criterion": "gain"}
FACES = Setting(
    title="Faces",
    variant="cpu",
    changes={"router.top_k": 32, **GAIN},
    descent={**SHIFTED, **optimiser(80, 500, 3e-3), **LAM},
    sparse=WAVES,
    joint={**TRUNK, **optimiser(1000, 16, 1e-3), "data.augment.mirror": False},
    routers=ROUTERS,
    network={**NETWORK, "small_width": 10},
    marks=MARKS,
    ksvd_passes=6,
    start_seconds=20.0,
)
PHOTOS = Setting(
    title="Photographs",
    variant="photos",
    changes={"data.num_train": 4000, "router.top_k": 64, **GAIN},
    descent={**TRUNK, **optimiser(80, 400, 2e-3), **LAM},
    sparse={**WAVES, "dictionary.num_experts": 4096},
    joint={
        **TRUNK,
        **optimiser(600, 16, 1e-3),
        "data.num_train": 340,
        "train.warmup_epochs": 10,
    },
    routers=ROUTERS,
    network={**NETWORK, "small_width": 20},
    marks=MARKS,
    ksvd_passes=4,
    start_seconds=40.0,
)
_CELEB_A = {"name": "celeb_a", "size": (32, 32), "resize": True, "crop": "center", "num_test": 60}
_CELEB_A = {f"data.{key}": value for key, value in _CELEB_A.items()}
CELEB_A = dataclasses.replace(PHOTOS, title="CelebA", changes={**PHOTOS.changes, **_CELEB_A})
FASHION = dataclasses.replace(
    PHOTOS,
    title="Fashion-MNIST",
    variant="fashion",
    changes={"router.top_k": 32, **GAIN},
    network={**NETWORK, "small_width": 10},
    start_seconds=20.0,
)
SETTINGS = {"faces": FACES, "photos": PHOTOS, "fashion": FASHION, "celeb_a": CELEB_A}
PATCHES = {
    **SHIFTED,
    "data.name": "array",
    "dictionary.num_experts": 256,
    "router.top_k": 32,
    "data.augment.mirror": True,
    "data.augment.shifts": 4,
    "data.augment.warps": 0,
    **WAVES,
    **GAIN,
}


TINY = {
    "data.num_train": 16,
    "data.num_test": 4,
    "data.augment.shifts": 0,
    "data.augment.warps": 0,
    "train.batch_size": 8,
    "dictionary.num_experts": 32,
    "dictionary.width": 16,
    "dictionary.embedding.size": 16,
    "router.top_k": 8,
}
TINY_NETWORK = {"width": 8, "num_layers": 2, "size": 8, "small_width": 6, "steps": 10}


def setting_of(name, scale):
    """The Setting of a data set at a scale."""
    setting, further = SETTINGS[name], {}
    ways = {key: getattr(setting, key) for key in ("descent", "sparse", "joint")}
    if scale == "smoke":
        short = optimiser(3, 8, 1e-3)
        further = {key: {**way, **short} for key, way in ways.items()} | {
            "changes": {**setting.changes, **TINY},
            "joint": {**TRUNK, **short},
            "sparse": {**WAVES, "dictionary.num_experts": TINY["dictionary.num_experts"]},
            "ksvd_passes": 1,
            "routers": LINEAR,
            "network": {**NETWORK, **TINY_NETWORK},
            "marks": (5, 10),
            "start_seconds": 0.5,
        }
    if scale == "paper":
        large = {"width": 256, "num_layers": 5, "steps": 5000, "size": 256}
        further = {k: {**w, "train.steps": 10 * w["train.steps"]} for k, w in ways.items()} | {
            "network": {**setting.network, **large},
            "marks": (*MARKS, 2000, 5000),
            "start_seconds": 600.0,
        }
    return dataclasses.replace(setting, **further)


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


class Study:
    """One data set: its signals, its dictionaries, and the results so far."""

    def __init__(self, name, setting, output):
        self.name, self.setting, self.output = name, setting, output
        self.base = command.config_of("image", setting.variant, setting.changes)
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
        """The config of a dictionary: train.codes, router kind, and dotted changes.

        Without a prior, unless the changes name one.
        """
        quiet = {f"train.{key}_every": 0 for key in ("log", "eval", "checkpoint")}
        kinds = {"train.codes": codes, "router.kind": router, "prior.num_signals": 0}
        config = changed(self.base, {**kinds, **quiet, **changes})
        if codes == "varpro":
            config.router.top_k = 0
        return config

    def solver(self, name, top_k=0):
        """The solver of a name with the options of the study's config."""
        return solver_from_config(changed(self.base.fit, {"solver": name, "top_k": top_k}))

    def train(self, name, config):
        """A dictionary trained anew: all numbers are of one run. -> `Learned`."""
        say(f"{self.name}: training {name}, {config.train.steps} steps")
        folder = self.output / "dictionaries" / f"{self.name}_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        found = learned(tasks.build(config), config, folder)
        say(f"{self.name}: trained {name} in {found.training:.1f} s")
        return found

    def add(self, method, family, prediction, **fields):
        """Score a prediction [S, *grid, C] and keep the result."""
        scores = self.task.metrics(np.asarray(prediction).reshape(self.truth.shape), self.truth)
        result = Result(
            method, family, *(float(np.mean(scores[key])) for key in ("psnr", "ssim")), **fields
        )
        self.results.append(result)
        say(f"{self.name}: {method}: {result.psnr:.2f} dB, {1e3 * result.seconds:.4g} ms a signal")
        return result

    def add_descent(self, method, descent, render, cost, shown, **fields):
        """A result for each of the `shown` steps; the last one carries the curve.

        method: (name, family); render(variables) -> [S, P, C]; cost(steps) -> operations per
        signal.
        """
        curve, (name, family) = [], method
        for mark in descent.marks:
            prediction = np.asarray(render(mark.variables)).reshape(self.truth.shape)
            psnr = float(np.mean(self.task.metrics(prediction, self.truth)["psnr"]))
            curve.append([mark.seconds / self.count, psnr])
            if mark.steps in shown:
                result = self.add(
                    f"{name}, {mark.steps} steps",
                    family,
                    prediction,
                    operations=cost(mark.steps),
                    seconds=mark.seconds / self.count,
                    compile_seconds=descent.compile_seconds,
                    **fields,
                )
        result.curve = curve
