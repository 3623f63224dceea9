"""Our training, fitting and rendering beside PyTorch's: one model, one batch, one machine.

    python experiments/speed.py --peer=torch --scale=cpu --output=DIR

Needs PyTorch beside this library in one environment. PyTorch's side is peers/torch_model.py.
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from measuring import command
from measuring.rates import Spread, compiled_method, timed
from measuring.training_step import TrainingStep
from peers.torch_model import (
    FIT_RATE,
    LEARNING_RATE,
    ORDERS,
    TorchModel,
    TorchTraining,
    tensor,
    torch_fit,
    torch_render,
)

from nid_jax import devices, numerics, tasks
from nid_jax.coding import gradient
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.fields.coordinates import grid
from nid_jax.fields.routing import Gates
from nid_jax.fitting import rendering
from nid_jax.training.loop import Trainer
from studies.torch_table import cores, draw, table, versions

CHANNELS, LAYERS = 3, 4
# What must be reached, as PyTorch's time over ours: everywhere, and where codes are sparse or few.
LEAST, LEAST_SPARSE = 1.0, 2.0


@dataclasses.dataclass(frozen=True)
class Size:
    """experts E, active K, width H, batch S, side of the square training images."""

    E: int
    K: int
    H: int
    S: int
    side: int
    features: int = 2048

    def text(self):
        """'E=256 K=32 H=128 S=16 P=1024'."""
        return f"E={self.E} K={self.K} H={self.H} S={self.S} P={self.side**2}"


@dataclasses.dataclass(frozen=True)
class Scale:
    """What one --scale measures."""

    rounds: int
    least_seconds: float
    sizes: tuple[Size, ...]
    render_side: int
    rendered: tuple[int, ...]
    fit_steps: int


SIZES = (Size(256, 32, 128, 16, 32), Size(1024, 64, 256, 32, 32), Size(4096, 256, 512, 8, 32))
SCALES = {
    "smoke": Scale(2, 0.0, (Size(8, 2, 16, 4, 6, 32), Size(16, 4, 16, 4, 6, 32)), 12, (1, 3), 3),
    "cpu": Scale(5, 0.03, SIZES, 128, (1, 4, 64), 10),
    "paper": Scale(15, 0.2, (*SIZES, Size(4096, 256, 512, 256, 32)), 128, (1, 4, 64), 50),
}

# ---- contests ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Contest:
    """One thing that both do. Every call does the work `repeats` times over.

    calls: "ours", PyTorch's by order, "trunk" where there is one: ours up to the features and no
    further, which no order of the codes can avoid; and (PART, "ours") and (PART, "folded"), each
    with all before it inside, to say where time goes.
    least: what PyTorch's dense order should take, in times of ours. differences: relative, by what
    was compared. samples: seconds of every call, one a round.
    """

    what: str
    size: Size
    activation: str
    calls: dict[Any, Callable[[], Any]]
    least: float
    repeats: int = 1
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    samples: dict[Any, list] = dataclasses.field(default_factory=dict)

    def spread(self, name):
        """Seconds of a call."""
        return Spread.of(np.array(self.samples[name]) / self.repeats)

    def ratio(self, name, beside="ours"):
        """One call's time over another's, round by round."""
        return Spread.of(np.array(self.samples[name]) / np.array(self.samples[beside]))

    @property
    def reached(self):
        """Whether what is asked of PyTorch's dense order was reached, at the median."""
        return self.ratio("dense").median >= self.least

    def part_seconds(self):
        """[(name, ours, PyTorch's folded)] of medians."""
        names = [call[0] for call in self.calls if "ours" in call[1:]]
        medians = [[self.spread((n, side)).median for side in ("ours", "folded")] for n in names]
        own = np.diff(np.reshape(medians, (-1, 2)), axis=0, prepend=0)
        return [(name, *map(float, pair)) for name, pair in zip(names, own, strict=True)]


def train_config(size, activation, top_k):
    """configs/official.py with these sizes, a codebook and the data term alone."""
    config = command.config_of("official", "celeba")
    config.dictionary.update({"num_experts": size.E, "width": size.H, "num_layers": LAYERS})
    config.dictionary.activation = activation
    # Frequencies at which float32 phases are good to the agreement that is asked for.
    config.dictionary.embedding.update({"size": size.features, "scale": 8.0})
    config.router.update({"kind": "codebook", "top_k": top_k})
    config.loss.update({"l1": 0.0, "balance": 0.0, "compat": ""})
    batch = {"batch_size": size.S, "points": 0, "chunks": "random", "warmup_epochs": 0}
    config.train.update(batch)
    config.train.optimizer.learning_rate = LEARNING_RATE
    return config


def relative(ours, theirs):
    """Largest difference over largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def train_contest(size, activation, sparse):
    """One step of joint training as the trainer compiles it, and PyTorch's."""
    top_k = size.K if sparse else 0
    config = train_config(size, activation, top_k)
    step = TrainingStep(config, command.noise(4 * size.S, size.side))
    batch, model = step.batch, step.trainer.model()
    points = grid((size.side, size.side))
    inputs = (tensor(points), torch.from_numpy(np.array(batch["ids"], np.int64)))
    targets = tensor(batch["signals"]).reshape(size.S, -1, CHANNELS)
    theirs = {o: TorchTraining(TorchModel(model, o), top_k, *inputs, targets) for o in ORDERS}
    calls = {"ours": step, **{order: one.step for order, one in theirs.items()}}
    calls["trunk"] = trunk_step(model, jnp.asarray(points))
    if sparse:
        calls |= train_parts(model, jnp.asarray(points), batch, theirs["folded"])
        end = "Adam and the rest"
        calls |= {(end, "ours"): step, (end, "folded"): theirs["folded"].step}
    last = [float(step()["loss"]) for _ in range(3)][-1]
    differences = {
        f"loss of step 3, {order}": relative(last, [one.step() for _ in range(3)][-1])
        for order, one in theirs.items()
    }
    kind, least = ("sparse", LEAST_SPARSE) if sparse else ("dense warm-up", LEAST)
    what = f"train step, {kind}"
    return Contest(what, size, activation, calls, least, differences=differences)


def trunk_step(model, points):
    """Forward and backward pass of the trunk alone: the call of a compiled function."""
    pull = jnp.ones((len(points), model.dictionary.num_features), jnp.float32)

    def gradients(dictionary, pull):
        graphdef, params, rest = nnx.split(dictionary, nnx.Param, ...)

        def features(params):
            return nnx.merge(graphdef, params, rest, copy=True).features(points)

        return jax.vjp(features, params)[1](pull)

    return compiled_method(model.dictionary, gradients, pull).call


def train_parts(model, points, batch, theirs):
    """What a step does before its optimiser, cumulative: {(name, side): call}."""
    targets = batch["signals"].reshape(len(batch["ids"]), -1, CHANNELS)

    def loss(model):
        gates = model.gates(batch["ids"])
        return jnp.square(model.dictionary.combine(points, gates) - targets).mean()

    def gradients(model):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        return jax.value_and_grad(lambda p: loss(nnx.merge(graphdef, p, rest, copy=True)))(params)

    def ours(method):
        return compiled_method(model, method).call

    peer, alone, at = theirs.model, torch.no_grad(), theirs.points
    features = ours(lambda m: m.dictionary.embedding(points))
    return {
        ("Fourier features", "ours"): features,
        ("Fourier features", "folded"): alone(lambda: peer.embed(at)),
        ("trunk", "ours"): ours(lambda m: m.dictionary.features(points)),
        ("trunk", "folded"): alone(lambda: peer.trunk(at)),
        ("codes and heads", "ours"): ours(loss),
        ("codes and heads", "folded"): alone(theirs.loss),
        ("backward pass", "ours"): ours(gradients),
        ("backward pass", "folded"): theirs.gradient,
    }


def sparse_codes(size, count, draw):
    """Codes [count, E] of K active experts each, and biases [count, C]."""
    codes = np.zeros((count, size.E), np.float32)
    for row in codes:
        row[draw.choice(size.E, size.K, replace=False)] = draw.standard_normal(size.K) / size.K
    return codes, draw.random((count, CHANNELS), np.float32)


def render_contest(model, size, activation, side, count):
    """`count` signals of K active experts on a grid, back in NumPy."""
    draw = np.random.default_rng(0)
    codes, bias = sparse_codes(size, count, draw)
    gates, points = rendering.gates_of(codes, bias), grid((side, side))
    dictionary = model.dictionary
    inputs = tensor(codes), tensor(bias), tensor(points)

    def ours():
        return rendering.render_points(dictionary, gates, points)

    models = {order: TorchModel(model, order) for order in ORDERS}
    calls = {order: functools.partial(torch_render, one, *inputs) for order, one in models.items()}
    exact = TorchModel(model, "folded").double()
    few = np.random.default_rng(1).choice(len(points), min(256, len(points)), replace=False)
    wide = [one.double() for one in (*inputs[:2], inputs[2][few])]
    truth = exact.signals_first(exact.combine(exact.trunk(wide[2]), *wide[:2])).numpy()
    values, others = ours(), {order: call() for order, call in calls.items()}
    differences = {order: relative(values, other) for order, other in others.items()}
    differences["ours and float64"] = relative(values[:, few], truth)
    differences["dense and float64"] = relative(others["dense"][:, few], truth)
    # Few beside what a trunk spends on the points anyway: the dense order pays for all E then.
    least = LEAST_SPARSE if count < 16 else LEAST
    calls |= {"ours": ours, "trunk": trunk_render(dictionary, gates, points)}
    what = f"render {count} at {side}x{side}"
    return Contest(what, size, activation, calls, least, differences=differences)


def trunk_render(dictionary, gates, points):
    """Features of all points in the chunks of a render, each left where it is."""
    graphdef, state = nnx.split(dictionary)
    chunk = min(rendering.points_at_once(dictionary, gates), len(points))
    program = jax.jit(lambda state, x: nnx.merge(graphdef, state, copy=True).features(x))

    def call():
        return [program(state, piece) for piece in numerics.cut(points, chunk)][-1]

    return call


def fit_contests(model, size, activation, steps):
    """One step of Adam over K-sparse codes, the dictionary frozen: pixels, and the Gram matrix."""
    draw = np.random.default_rng(2)
    codes, bias = sparse_codes(size, size.S, draw)
    points, operator = grid((size.side, size.side)), sample((size.side, size.side))
    targets = draw.random((size.S, len(points), CHANNELS)).astype(np.float32)
    mask = (codes != 0).astype(np.float32)

    def descend(dictionary, features, codes, targets):
        def objective(codes):
            gates = Gates(codes * mask, None, None, bias)
            values = dictionary.combine_features(features, gates)
            return jnp.square(values - targets).mean((1, 2))

        return gradient.descend(objective, codes, steps, FIT_RATE)

    features = jax.jit(model.dictionary.trunk)(jnp.asarray(points))
    arrays = (features, jnp.asarray(codes), jnp.asarray(targets))
    pixels = compiled_method(model.dictionary, descend, *arrays).call
    equations = normal_equations(model.dictionary, operator, targets)

    def gram():
        return gradient.descend_codes(equations, codes, None, steps, FIT_RATE, size.K)

    calls = torch_fits(model, points, codes, bias, targets, mask, steps)
    residual = float(pixels()[1][-1].sum())
    differences = {
        f"error after {steps} steps, {name}": relative(residual, call())
        for name, call in calls.items()
    }
    of_pixels, of_gram = ({"ours": ours, **calls} for ours in (pixels, gram))
    common, asked = (size, activation), (LEAST_SPARSE, steps)
    return [
        Contest("fit step, pixels", *common, of_pixels, *asked, differences=differences),
        Contest("fit step, ours on the Gram matrix", *common, of_gram, *asked),
    ]


def torch_fits(model, points, codes, bias, targets, mask, steps):
    """PyTorch's fits. What no step changes is kept: the basis, or the trunk's features."""
    calls = {}
    for order in ORDERS:
        peer = TorchModel(model, order)
        with torch.no_grad():
            features = peer.trunk(tensor(points))
            fixed = features if order == "folded" else peer.basis(features)
        predict = functools.partial(peer.fold if order == "folded" else peer.mix, fixed)
        arrays = (tensor(codes), tensor(bias), peer.arranged(tensor(targets)), tensor(mask))
        calls[order] = functools.partial(torch_fit, peer, predict, *arrays, steps)
    return calls


def build_contests(scale, progress):
    """All contests of a scale."""
    contests = []
    for size, activation in itertools.product(scale.sizes, ("relu", "sine")):
        progress(f"compiling {size.text()} {activation}")
        contests += [train_contest(size, activation, sparse) for sparse in (True, False)]
        config = train_config(size, activation, size.K)
        model = Trainer(tasks.build(config), config, None, command.noise(size.S, size.side)).model()
        contests += fit_contests(model, size, activation, scale.fit_steps)
        for count in scale.rendered:
            contests.append(render_contest(model, size, activation, scale.render_side, count))
    return contests


# ---- measuring --------------------------------------------------------------------------------


def sampled(call, least_seconds):
    """Mean seconds of a call, after one that does not count where calls are short.

    The other library's threads may still spin, and its arrays fill the caches.
    """
    first = timed(call)
    if first > max(least_seconds, 0.2):
        return first
    repeats = max(1, min(1000, math.ceil(least_seconds / first)))
    return sum(timed(call) for _ in range(repeats)) / repeats


def measure(contests, rounds, least_seconds, progress):
    """Every contest once a round, ours and theirs in turn: fills their samples."""
    for contest in contests:
        for call in contest.calls.values():
            # Whatever is compiled or allocated once.
            timed(call)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for contest in contests:
            for name, call in contest.calls.items():
                contest.samples.setdefault(name, []).append(sampled(call, least_seconds))


def plain(one):
    """A measured Contest in JSON types."""
    spreads = {
        "ours": one.spread("ours"),
        "theirs": {order: one.spread(order) for order in ORDERS},
        "ratios": {order: one.ratio(order) for order in ORDERS},
    }
    known = {key: getattr(one, key) for key in ("what", "activation", "least", "reached")}
    known |= {"sizes": one.size, "parts": one.part_seconds(), "differences": one.differences}
    return known | spreads


def run(scale_name, output):
    """Measure and write."""
    start = time.perf_counter()
    torch.set_num_threads(cores())
    scale = SCALES[scale_name]
    contests = build_contests(scale, command.say)
    measure(contests, scale.rounds, scale.least_seconds, command.say)
    seconds = time.perf_counter() - start
    metrics = {
        "scale": scale_name,
        "versions": versions(),
        "seconds": seconds,
        "peak_memory_bytes": devices.peak_memory_bytes(),
        "contests": [plain(one) for one in contests],
    }
    command.write(output, table(scale_name, contests, seconds), metrics, draw(contests))
    print(output / "table.md")
