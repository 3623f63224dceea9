"""Our training, fitting and rendering beside PyTorch's: one model, one batch, one machine.

    python experiments/speed.py --peer=torch --scale=cpu --output=DIR

Needs PyTorch beside this library in one environment. The model is the official code's: Fourier
features, a trunk, E heads, codes in a codebook. Weights are copied from ours. PyTorch's side is
written here as PyTorch allows: one matrix product per layer, layouts in which none needs a
transposed copy, fused Adam, inference mode for rendering. It comes in two orders:

    dense   all experts at every point, then one product with the codes, zeros included
    folded  the codes into the heads first, which is this library's order for a trunk
"""

import dataclasses
import functools
import itertools
import math
import os
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import torch
from flax import nnx
from measuring import Spread, timed
from torch.nn import functional

from nid_jax import tasks
from nid_jax.coding import gradient
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.fields.coordinates import grid
from nid_jax.fields.routing import Gates
from nid_jax.run import monitoring, rendering, sharding
from nid_jax.run.artefacts import atomic_path, write_json, write_text
from nid_jax.run.training import Trainer

CHANNELS, LAYERS = 3, 4
LEARNING_RATE = 1e-4
FIT_RATE = 1e-2
# Points whose basis PyTorch's dense order holds at a time when it renders.
DENSE_CHUNK = 1024
FOLDED_CHUNK = 4096
ORDERS = ("dense", "folded")
# What must be reached, as PyTorch's time over ours: everywhere, and where codes are sparse or few.
LEAST, LEAST_SPARSE = 1.0, 2.0
AGREEMENT = 1e-5


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


SCALES = {
    "smoke": Scale(2, 0.0, (Size(8, 2, 16, 4, 6, 32), Size(16, 4, 16, 4, 6, 32)), 12, (1, 3), 3),
    "cpu": Scale(
        5,
        0.03,
        (Size(256, 32, 128, 16, 32), Size(1024, 64, 256, 32, 32), Size(4096, 256, 512, 8, 32)),
        128,
        (1, 4, 64),
        10,
    ),
    "paper": Scale(
        15,
        0.2,
        (
            Size(256, 32, 128, 16, 32),
            Size(1024, 64, 256, 32, 32),
            Size(4096, 256, 512, 8, 32),
            Size(4096, 256, 512, 256, 32),
        ),
        128,
        (1, 4, 64),
        50,
    ),
}

# ---- the model in PyTorch ---------------------------------------------------------------------


def tensor(array):
    """A contiguous copy of a jax or NumPy array."""
    return torch.from_numpy(np.array(array, np.float32))


class TorchModel:
    """The trunk, the heads and the codebook of a `Model`, its heads laid out for one order."""

    def __init__(self, model, order):
        dictionary = model.dictionary
        self.order, self.activation = order, dictionary.activation
        self.omega0, self.channels = dictionary.omega0, dictionary.channels
        self.num_experts, self.width = dictionary.num_experts, dictionary.width
        self.frequencies = tensor(dictionary.embedding.frequencies[...]).T.contiguous()
        self.kernels = [tensor(kernel[...].T) for kernel in dictionary.kernels]
        self.biases = [tensor(bias[...]) for bias in dictionary.biases]
        # Folded: [E, H C] and [E, C]. Dense, as a layer whose outputs have experts last: [C E, H].
        axes = (2, 0, 1) if order == "folded" else (1, 2, 0)
        heads = np.transpose(np.asarray(dictionary.head_kernel[...]), axes)
        head_bias = np.asarray(dictionary.head_bias[...])
        if order == "folded":
            self.heads, self.head_bias = tensor(heads.reshape(len(heads), -1)), tensor(head_bias)
        else:
            self.heads = tensor(heads.reshape(-1, heads.shape[-1]))
            self.head_bias = tensor(head_bias.T.reshape(-1))
        self.codes, self.bias = tensor(model.router.codes[...]), tensor(model.router.bias[...])

    def parameters(self):
        """Everything that training moves, with gradients switched on."""
        tensors = [*self.kernels, *self.biases, self.heads, self.head_bias, self.codes, self.bias]
        return [one.requires_grad_() for one in tensors]

    def double(self):
        """The same in float64, in place."""
        for name, value in list(vars(self).items()):
            if torch.is_tensor(value):
                setattr(self, name, value.double())
            elif isinstance(value, list):
                setattr(self, name, [one.double() for one in value])
        return self

    def embed(self, x):
        """x [P, D] -> [P, F]."""
        phase = x @ self.frequencies
        return torch.cat([torch.sin(phase), torch.cos(phase)], 1)

    def trunk(self, x):
        """x [P, D] -> [P, H]."""
        x = self.embed(x)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = functional.linear(x, kernel, bias)
            x = torch.sin(self.omega0 * x) if self.activation == "sine" else torch.relu(x)
        return x

    def combine(self, features, codes, bias):
        """Features [P, H], codes [S, E], bias [S, C] -> [P, C, S] dense or [P, S, C] folded."""
        if self.order == "folded":
            return self.fold(features, codes, bias)
        return self.mix(self.basis(features), codes, bias)

    def basis(self, features):
        """All experts: features [P, H] -> [P C, E]."""
        values = functional.linear(features, self.heads, self.head_bias)
        return values.view(-1, self.num_experts)

    def mix(self, basis, codes, bias):
        """Basis [P C, E] times codes [S, E], with bias [S, C] -> [P, C, S]."""
        return functional.linear(basis, codes).view(-1, self.channels, len(codes)) + bias.T

    def fold(self, features, codes, bias):
        """Codes into the heads, then the points -> [P, S, C]."""
        kernel = (codes @ self.heads).view(len(codes), self.width, self.channels)
        kernel = kernel.transpose(0, 1).reshape(self.width, -1)
        level = codes @ self.head_bias + bias
        values = torch.addmm(level.reshape(-1), features, kernel)
        return values.view(-1, len(codes), self.channels)

    def arranged(self, values):
        """Values [S, P, C] in the layout that `combine` returns."""
        return values.permute((1, 0, 2) if self.order == "folded" else (1, 2, 0)).contiguous()

    def signals_first(self, values):
        """What `combine` returns as [S, P, C]."""
        return values.permute((1, 0, 2) if self.order == "folded" else (2, 0, 1))


def kept(codes, top_k):
    """The codes with all but the top_k of largest magnitude zero; top_k 0 keeps all."""
    if not top_k:
        return codes
    chosen = codes.detach().abs().topk(top_k, sorted=False).indices
    return codes * torch.zeros_like(codes).scatter_(1, chosen, 1.0)


class TorchTraining:
    """One batch and a fused Adam over trunk, heads and codebook."""

    def __init__(self, model, top_k, points, ids, targets):
        self.model, self.top_k, self.points, self.ids = model, top_k, points, ids
        self.targets = model.arranged(targets)
        self.optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, fused=True)

    def loss(self):
        """Mean squared error of the batch."""
        codes = kept(functional.embedding(self.ids, self.model.codes), self.top_k)
        bias = functional.embedding(self.ids, self.model.bias)
        prediction = self.model.combine(self.model.trunk(self.points), codes, bias)
        return functional.mse_loss(prediction, self.targets)

    def gradient(self):
        """-> the loss; gradients lie in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss

    def step(self):
        """One step. -> the loss before it."""
        loss = self.gradient()
        self.optimizer.step()
        return loss.detach()


@torch.inference_mode()
def torch_render(model, codes, bias, points):
    """As `rendering.render_points`: -> NumPy [S, P, C]."""
    chunk = FOLDED_CHUNK if model.order == "folded" else DENSE_CHUNK
    values = torch.empty(len(codes), len(points), model.channels)
    for start in range(0, len(points), chunk):
        piece = model.combine(model.trunk(points[start : start + chunk]), codes, bias)
        values[:, start : start + chunk] = model.signals_first(piece)
    return values.numpy()


def torch_fit(model, predict, codes, bias, targets, mask, steps):
    """`gradient.descend` over codes on a support: predict(codes, bias) -> prediction."""
    codes = codes.clone().requires_grad_()
    optimizer = torch.optim.Adam([codes], FIT_RATE, fused=True)
    for number in range(steps):
        share = 0.5 * (1 + math.cos(math.pi * number / steps))
        optimizer.param_groups[0]["lr"] = FIT_RATE * (0.9 * share + 0.1)
        optimizer.zero_grad(set_to_none=True)
        loss = len(codes) * functional.mse_loss(predict(codes * mask, bias), targets)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return len(codes) * functional.mse_loss(predict(codes * mask, bias), targets)


# ---- contests ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Contest:
    """One thing that both do. Every call does the work `repeats` times over.

    parts: [(name, ours, theirs)], each with all before it inside, to say where time goes.
    differences: relative, by what was compared. least: what theirs[dense] / ours should reach.
    """

    what: str
    size: Size
    activation: str
    ours: Callable[[], Any]
    theirs: dict[str, Callable[[], Any]]
    least: float
    repeats: int = 1
    parts: list = dataclasses.field(default_factory=list)
    differences: dict[str, float] = dataclasses.field(default_factory=dict)


class Noise:
    """A collection of random colour images."""

    def __init__(self, count, side):
        self.shape, self.title = (side, side, CHANNELS), "noise"
        self.names = [str(index) for index in range(count)]
        self._images = np.random.default_rng(0).random((count, *self.shape), np.float32)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index]


def train_config(size, activation, top_k):
    """configs/official.py with these sizes, a codebook and the data term alone."""
    path = Path(__file__).resolve().parents[1] / "configs" / "official.py"
    config = runpy.run_path(str(path))["get_config"]("celeba")
    config.dictionary.update({"num_experts": size.E, "width": size.H, "num_layers": LAYERS})
    config.dictionary.activation = activation
    # Frequencies at which float32 phases are good to the agreement that is asked for.
    config.dictionary.embedding.update({"size": size.features, "scale": 8.0})
    config.router.update({"kind": "codebook", "top_k": top_k})
    config.loss.update({"l1": 0.0, "balance": 0.0, "compat": ""})
    config.train.update({"batch_size": size.S, "points": 0, "chunks": "random"})
    config.train.update({"warmup_epochs": 0})
    config.train.optimizer.learning_rate = LEARNING_RATE
    return config


def relative(ours, theirs):
    """Largest difference over largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def jitted(function, *arguments):
    """The call of a compiled function."""
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: program(*arguments)


def train_contest(size, activation, sparse):
    """One step of joint training as the trainer compiles it, and PyTorch's."""
    top_k = size.K if sparse else 0
    config = train_config(size, activation, top_k)
    trainer = Trainer(tasks.build(config), config, None, Noise(4 * size.S, size.side))
    batch = sharding.place_batch(next(trainer.batches), trainer.mesh)
    model = trainer.model()
    points = grid((size.side, size.side))
    inputs = (tensor(points), torch.from_numpy(np.array(batch["ids"], np.int64)))
    targets = tensor(batch["signals"]).reshape(size.S, -1, CHANNELS)
    theirs = {o: TorchTraining(TorchModel(model, o), top_k, *inputs, targets) for o in ORDERS}
    program, state = trainer.step_for(0, batch), [trainer.state]

    def step():
        state[0], terms = program(state[0], batch)
        return terms

    parts = []
    if sparse:
        parts = train_parts(model, jnp.asarray(points), batch, theirs["folded"])
        parts.append(("Adam and the rest", step, theirs["folded"].step))
    losses = [float(step()["loss"]) for _ in range(3)]
    differences = {
        f"loss of step {len(losses)}, {order}": relative(
            losses[-1], [one.step() for _ in losses][-1]
        )
        for order, one in theirs.items()
    }
    name, least = ("sparse", LEAST_SPARSE) if sparse else ("dense warm-up", LEAST)
    calls = {order: one.step for order, one in theirs.items()}
    what = f"train step, {name}"
    return Contest(what, size, activation, step, calls, least, 1, parts, differences)


def train_parts(model, points, batch, theirs):
    """What a step does before its optimiser: [(name, ours, theirs)], cumulative."""
    graphdef, state = nnx.split(model)
    targets = batch["signals"].reshape(len(batch["ids"]), -1, CHANNELS)

    def embed(state):
        return nnx.merge(graphdef, state, copy=True).dictionary.embedding(points)

    def trunk(state):
        return nnx.merge(graphdef, state, copy=True).dictionary.trunk(points)

    def loss(state):
        merged = nnx.merge(graphdef, state, copy=True)
        gates = merged.gates(batch["ids"])
        return jnp.square(merged.dictionary.combine(points, gates) - targets).mean()

    def gradients(state):
        params, rest = nnx.split_state(state, nnx.Param, ...)
        return jax.value_and_grad(lambda params: loss(nnx.merge_state(params, rest)))(params)

    torch_calls = [
        torch.no_grad()(lambda: theirs.model.embed(theirs.points)),
        torch.no_grad()(lambda: theirs.model.trunk(theirs.points)),
        torch.no_grad()(theirs.loss),
        theirs.gradient,
    ]
    names = ("Fourier features", "trunk", "codes and heads", "backward pass")
    functions = (embed, trunk, loss, gradients)
    ours = [jitted(function, state) for function in functions]
    return list(zip(names, ours, torch_calls, strict=True))


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
    what = f"render {count} at {side}x{side}"
    return Contest(what, size, activation, ours, calls, least, differences=differences)


def fit_contests(model, size, activation, steps):
    """One step of Adam over K-sparse codes, the dictionary frozen: pixels, and the Gram matrix."""
    draw = np.random.default_rng(2)
    codes, bias = sparse_codes(size, size.S, draw)
    points, operator = grid((size.side, size.side)), sample((size.side, size.side))
    targets = draw.random((size.S, len(points), CHANNELS)).astype(np.float32)
    mask = (codes != 0).astype(np.float32)
    graphdef, state = nnx.split(model.dictionary)

    def descend(state, points, codes, targets):
        dictionary = nnx.merge(graphdef, state, copy=True)

        def objective(codes):
            values = dictionary.combine(points, Gates(codes * mask, None, None, bias))
            return jnp.square(values - targets).mean((1, 2))

        return gradient.descend(objective, codes, steps, FIT_RATE)

    pixels = jitted(descend, state, jnp.asarray(points), jnp.asarray(codes), jnp.asarray(targets))
    equations = normal_equations(model.dictionary, operator, targets)

    def gram():
        return gradient.descend_codes(equations, codes, None, steps, FIT_RATE, size.K)

    calls = torch_fits(model, points, codes, bias, targets, mask, steps)
    residual = float(pixels()[1][-1].sum())
    differences = {
        f"error after {steps} steps, {name}": relative(residual, call())
        for name, call in calls.items()
    }
    common = (calls, LEAST_SPARSE, steps)
    return [
        Contest("fit step, pixels", size, activation, pixels, *common, differences=differences),
        Contest("fit step, ours on the Gram matrix", size, activation, gram, *common),
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
        model = Trainer(tasks.build(config), config, None, Noise(size.S, size.side)).model()
        contests += fit_contests(model, size, activation, scale.fit_steps)
        for count in scale.rendered:
            contests.append(render_contest(model, size, activation, scale.render_side, count))
    return contests


# ---- measuring --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A contest's seconds, PyTorch's over ours by order, and what of ours and theirs each part
    took, in seconds of medians."""

    contest: Contest
    ours: Spread
    theirs: dict[str, Spread]
    ratios: dict[str, Spread]
    parts: list

    @property
    def reached(self):
        """Whether what the contest asks for was reached, at the median."""
        asked = [self.ratios["dense"].median >= self.contest.least]
        return all([*asked, *(ratio.median >= LEAST for ratio in self.ratios.values())])


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
    """Every contest once a round, ours and theirs in turn. -> [Outcome]."""
    samples = [[] for _ in contests]
    calls = [
        [c.ours, *c.theirs.values(), *(call for _, *pair in c.parts for call in pair)]
        for c in contests
    ]
    for call in itertools.chain(*calls):
        # Whatever is compiled or allocated once.
        timed(call)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for group, rows in zip(calls, samples, strict=True):
            rows.append([sampled(call, least_seconds) for call in group])
    return [outcome(c, np.array(rows)) for c, rows in zip(contests, samples, strict=True)]


def outcome(contest, rows):
    """rows [rounds, calls] of seconds -> Outcome."""
    rows = rows / contest.repeats
    count = 1 + len(contest.theirs)
    ours, theirs, parts = rows[:, 0], rows[:, 1:count].T, np.median(rows[:, count:], 0)
    pairs = np.diff(parts.reshape(-1, 2), axis=0, prepend=0)
    return Outcome(
        contest,
        Spread.of(ours),
        {name: Spread.of(one) for name, one in zip(contest.theirs, theirs, strict=True)},
        {name: Spread.of(one / ours) for name, one in zip(contest.theirs, theirs, strict=True)},
        [(name, *map(float, pair)) for (name, *_), pair in zip(contest.parts, pairs, strict=True)],
    )


# ---- what is written --------------------------------------------------------------------------


def milliseconds(spread):
    """'12.3 (11.9..14.0)' of seconds."""
    return Spread(*(1e3 * value for value in dataclasses.astuple(spread))).text()


def rows_of(outcomes):
    """Rows of the main table."""
    rows = []
    for one in outcomes:
        contest = one.contest
        asked = f"{contest.least:g} dense, {LEAST:g} folded"
        row = [contest.what, contest.size.text(), contest.activation, milliseconds(one.ours)]
        for order in ORDERS:
            row += [milliseconds(one.theirs[order]), one.ratios[order].text(3)]
        rows.append([*row, asked, "yes" if one.reached else "NO"])
    return rows


HEADERS = [
    "what",
    "sizes",
    "activation",
    "ours, ms",
    "PyTorch dense, ms",
    "dense / ours",
    "PyTorch folded, ms",
    "folded / ours",
    "asked for",
    "reached",
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
    return monitoring.versions() | {
        "torch": torch.__version__,
        "threads of torch": str(torch.get_num_threads()),
        "threads of XLA": f"{cores()}, one a core",
        "products of torch": "MKL" if torch.backends.mkl.is_available() else "no MKL",
    }


def cores():
    """Cores that this process may use, which is what XLA takes."""
    return len(os.sched_getaffinity(0))


def write_table(path, scale, outcomes, seconds):
    """table.md: every contest, parts of the steps, agreement."""
    parts = next(one.parts for one in outcomes if one.parts)
    text = [
        f"# Speed beside PyTorch, scale {scale}\n",
        ", ".join(f"{key} {value}" for key, value in versions().items()) + "\n",
        "Medians over rounds, the range over rounds in brackets. In a round both take their turns "
        "at everything; a ratio, PyTorch's time over ours, is of one round. PyTorch's side is "
        "written for this table (experiments/torch_peer.py) on copied weights: dense evaluates all "
        "experts and multiplies with the codes, folded takes the codes into the heads first. "
        "A fit keeps the basis (dense) or the trunk's features (folded) between steps; ours on the "
        "Gram matrix needs no pixel after the normal equations are built, which is not counted, "
        "just as the basis is not. Renders are of codes with K active experts.\n",
        monitoring.markdown_table(rows_of(outcomes), HEADERS),
        "## Where the time of a training step goes\n",
        "Milliseconds of ours / of PyTorch folded: differences of medians of programs that end "
        "there, so a small one may come out below zero.\n",
        monitoring.markdown_table(
            part_rows(outcomes), ["what", "sizes", "activation", *(name for name, *_ in parts)]
        ),
        "## Agreement\n",
        monitoring.markdown_table(
            agreement_rows(outcomes),
            ["what", "activation", "compared", "relative", f"at most {AGREEMENT:g}"],
        ),
        f"The whole run took {monitoring.format_duration(seconds)}.\n",
    ]
    write_text(path, "\n".join(text))


def plain(one):
    """An Outcome in JSON types."""
    contest = one.contest
    return {
        "what": contest.what,
        "sizes": dataclasses.asdict(contest.size),
        "activation": contest.activation,
        "ours": dataclasses.asdict(one.ours),
        "theirs": {name: dataclasses.asdict(spread) for name, spread in one.theirs.items()},
        "ratios": {name: dataclasses.asdict(spread) for name, spread in one.ratios.items()},
        "least": contest.least,
        "reached": one.reached,
        "parts": one.parts,
        "differences": contest.differences,
    }


def draw_figure(path, outcomes):
    """figure.png: time against experts for everything measured, ours and PyTorch's."""
    groups = list(dict.fromkeys(one.contest.what for one in outcomes))
    columns = math.ceil(len(groups) / 2)
    figure = matplotlib.figure.Figure(figsize=(4.2 * columns, 8.4), layout="tight")
    axes = figure.subplots(2, columns, squeeze=False).ravel()
    for axis, group in zip(axes, groups, strict=False):
        for number, activation in enumerate(("relu", "sine")):
            line = [
                one
                for one in outcomes
                if (one.contest.what, one.contest.activation) == (group, activation)
            ]
            x = range(len(line))
            series = {"ours": ("-", [one.ours for one in line])}
            for order, style in zip(ORDERS, ("--", ":"), strict=True):
                series[f"PyTorch {order}"] = (style, [one.theirs[order] for one in line])
            for label, (style, spreads) in series.items():
                spread = 1e3 * np.array([dataclasses.astuple(one) for one in spreads]).T
                errors = [spread[0] - spread[1], spread[2] - spread[0]]
                look = {"color": f"C{number}", "marker": "o", "capsize": 2, "markersize": 4}
                axis.errorbar(
                    x, spread[0], errors, ls=style, label=f"{label}, {activation}", **look
                )
        axis.set(yscale="log", ylabel="milliseconds", title=group)
        sizes = [one.contest.size for one in line]
        axis.set_xticks(x, [f"E={s.E}\nH={s.H} S={s.S}" for s in sizes], fontsize=8)
        axis.legend(fontsize=6)
    for axis in axes[len(groups) :]:
        axis.axis("off")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def run(scale_name, output):
    """Measure and write. -> the content of metrics.json."""
    start = time.perf_counter()
    torch.set_num_threads(cores())
    scale = SCALES[scale_name]
    progress = functools.partial(print, flush=True)
    contests = build_contests(scale, progress)
    outcomes = measure(contests, scale.rounds, scale.least_seconds, progress)
    seconds = time.perf_counter() - start
    metrics = {
        "scale": scale_name,
        "versions": versions(),
        "seconds": seconds,
        "peak_memory_bytes": monitoring.peak_memory_bytes(),
        "contests": [plain(one) for one in outcomes],
    }
    write_json(output / "metrics.json", metrics)
    draw_figure(output / "figure.png", outcomes)
    write_table(output / "table.md", scale_name, outcomes, seconds)
    print(output / "table.md")
    return metrics
