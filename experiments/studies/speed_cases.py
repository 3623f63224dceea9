"""What the speed of the library is measured on, each with the least work that it cannot avoid."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from unittest import mock

import jax.numpy as jnp
import numpy as np
from flax import nnx
from measuring import command
from measuring.rates import Case, Program, Work, compiled, compiled_method, timed
from measuring.training_step import TrainingStep

from nid_jax import Factorisation, numerics
from nid_jax.coding import gradient
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.fields import embeddings
from nid_jax.fields.dictionary import points_at_a_time
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import rendering

LAYERS = 4
FEATURES = 256


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


def make_dictionary(kind, sizes, channels=1):
    """A trunk on Fourier features with rectifiers, or a stack of SIRENs on the coordinates."""
    rngs, layers = nnx.Rngs(params=0), {"num_layers": LAYERS, "width": sizes["H"]}
    if kind == "shared":
        embedding = embeddings.GaussianFourier(2, FEATURES, 8.0, rngs=rngs)
        layers = Layers(**layers, activation="relu", omega0=30.0)
        return SharedDictionary(embedding, sizes["E"], channels, layers, rngs=rngs)
    layers, embedding = Layers(**layers, activation="sine", omega0=30.0), embeddings.Identity(2)
    return IndependentDictionary(embedding, sizes["E"], channels, layers, rngs=rngs)


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
    chunk = points_at_a_time(sizes["E"] * width)
    return (sizes["E"], min(points, chunk), width, width)


def basis_case(kind, sizes, _):
    """Every expert at every point."""
    points = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (sizes["P"], 2)), jnp.float32)
    atoms = make_dictionary(kind, sizes)
    program = compiled_method(atoms, lambda atoms, x: atoms.basis(x), points)
    flops, sines = network_work(kind, sizes)
    product = largest_product(kind, sizes, sizes["P"])
    if kind == "shared":
        flops += 2 * sizes["P"] * sizes["H"] * sizes["E"]
        product = (1, sizes["P"], sizes["H"], sizes["E"])
    work = Work(flops, sines, program.moved, product)
    return Case(f"basis, {kind}", sizes, program, work, (sizes["P"], "points"))


def train_config(kind, sizes):
    """configs/image.py with these sizes, the paper's joint training."""
    config = command.config_of("image", "cpu-joint")
    shared = kind == "shared"
    size = {"num_experts": sizes["E"], "width": sizes["H"], "num_layers": LAYERS}
    activation = "relu" if shared else "sine"
    config.dictionary.update({"kind": kind, "activation": activation, **size})
    embedding = "fourier" if shared else "identity"
    config.dictionary.embedding.update({"kind": embedding, "size": FEATURES})
    config.router.update({"kind": "codebook", "top_k": 0})
    config.train.update({"codes": "joint", "batch_size": sizes["S"], "points": sizes["P"]})
    return config


def train_case(kind, sizes, side):
    """One step of joint training as the trainer compiles it, its state donated."""
    sizes = sizes | {"P": min(sizes["P"] or side * side, side * side)}
    step = TrainingStep(train_config(kind, sizes), command.noise(2 * sizes["S"], side, 1))
    flops, sines = network_work(kind, sizes, passes=3)
    flops += combine_flops(kind, sizes, passes=3)
    # Adam reads and writes weights and both moments, and reads the gradient.
    moved = 4 * 7 * sum(step.trainer.parameters.values())
    work = Work(flops, sines, moved, largest_product(kind, sizes, sizes["P"]))
    program = Program(step, step.compile_seconds, step.trainer.compiled_bytes)
    return Case(f"train step, {kind}", sizes, program, work, (sizes["S"], "signals"))


def render_case(kind, sizes, _):
    """Signals at many points, back in NumPy; K active experts, 0 being all."""
    dictionary = make_dictionary(kind, sizes)
    draw = np.random.default_rng(0)
    codes = draw.standard_normal((sizes["S"], sizes["E"]), np.float32) / math.sqrt(sizes["E"])
    if sizes["K"]:
        codes[:, sizes["K"] :] = 0
    gates = rendering.gates_of(codes, np.zeros((sizes["S"], 1), np.float32))
    points = draw.uniform(-1, 1, (sizes["P"], 2)).astype(np.float32)
    call = functools.partial(rendering.render_points, dictionary, gates, points)
    seconds, used = timed(call), sizes
    if sizes["K"] and kind == "independent":
        # Each signal evaluates its own experts; never more than all of them once.
        active = min(sizes["S"] * sizes["K"], sizes["E"])
        used = sizes | {"E": active}
    flops, sines = network_work(kind, used)
    flops += combine_flops(kind, used if kind == "shared" else used | {"S": 1})
    product, moved = largest_product(kind, used, min(sizes["P"], 4096)), 4.0 * sizes["P"]
    work, items = Work(flops, sines, moved * (2 + sizes["S"]), product), sizes["S"] * sizes["P"]
    return Case(f"render, {kind}", sizes, Program(call, seconds), work, (items, "values"))


def fit_problem(sizes, side):
    """Sizes with the points, a trunk, the operator of the grid, random images [S, P, 1]."""
    sizes = sizes | {"P": side * side}
    images = command.noise(sizes["S"], side, 1).values.reshape(sizes["S"], -1, 1)
    return sizes, make_dictionary("shared", sizes), sample((side, side)), jnp.asarray(images)


def fit_case(_, sizes, side, steps=50):
    """One step of a fit by gradient: the Gram matrix with the codes of all signals."""
    sizes, *problem = fit_problem(sizes | {"H": 512}, side)
    equations = normal_equations(*problem)
    codes, bias = jnp.zeros((sizes["S"], sizes["E"])), jnp.zeros((sizes["S"], 1))
    descend = functools.partial(gradient.descend_codes, steps=steps, learning_rate=0.03)
    program = compiled(descend, equations, codes, bias)
    flops = 2 * sizes["S"] * sizes["E"] ** 2
    # Codes, two moments and the gradient go through memory, and the Gram matrix once.
    moved = 4 * (sizes["E"] ** 2 + 7 * sizes["S"] * sizes["E"])
    work = Work(flops, 0, moved, (1, sizes["S"], sizes["E"], sizes["E"]))
    items = (sizes["S"], "signals")
    return Case("fit by gradient, one step", sizes, program, work, items, steps)


def shared_coordinates_case(_, sizes, side):
    """Codes and residuals of many signals measured alike, the factorisation at hand."""
    sizes, dictionary, operator, images = fit_problem(sizes, side)
    factorisation, making = command.clocked(Factorisation, dictionary, operator)
    seconds = making + timed(lambda: factorisation.solve(images).codes)
    signals, points, num_experts = sizes["S"], sizes["P"], sizes["E"]
    flops = 2 * 2 * signals * points * num_experts
    moved = 4 * (signals * (2 * points + num_experts) + 2 * points * num_experts)
    program = Program(lambda: factorisation.solve(images).codes, seconds)
    work = Work(flops, 0, moved, (1, signals, points, num_experts))
    return Case("fit by ridge, factorised", sizes, program, work, (signals, "signals"))


MAKERS = {"basis": basis_case, "train": train_case, "render": render_case}
MAKERS |= {"fit": fit_case, "factorised": shared_coordinates_case}


def build_cases(scale, progress):
    """Every case of a scale, compiled."""
    wanted = [
        (what, kind, sizes)
        for name, sweep in scale.sweeps.items()
        for what, _, kind in [name.partition(", ")]
        for sizes in sweep.sizes()
    ]
    cases = []
    for number, (what, kind, sizes) in enumerate(wanted):
        progress(f"compiling {number + 1} of {len(wanted)}")
        cases.append(MAKERS[what](kind, sizes, scale.side))
    return cases


def sine_cases(scale):
    """The independent stack with our sine and with jnp.sin. -> cases, difference of the basis."""
    sizes = scale.sweeps["basis, independent"].sizes()[0]
    training = scale.sweeps["train, independent"].sizes()[0]

    def both():
        arguments = ("independent", sizes, scale.side), ("independent", training, scale.side)
        return [basis_case(*arguments[0]), train_case(*arguments[1])]

    ours = both()
    with mock.patch.object(numerics, "sin", jnp.sin):
        theirs = both()
    difference = float(jnp.abs(ours[0].program.call() - theirs[0].program.call()).max())
    for case in theirs:
        case.group += ", jnp.sin"
    return ours + theirs, difference
