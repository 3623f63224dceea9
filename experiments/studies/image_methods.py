"""The methods of image regression: networks per image, transforms, dictionaries and solvers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from measuring import operations
from measuring.command import clocked, say
from measuring.dictionaries import Learned
from measuring.rates import median_seconds
from peers import networks
from peers.components import Components, CosineComponents
from peers.cosines import DCT, ColourDCT, largest
from peers.descent import descend
from peers.ksvd import KSVD

import nid_jax as nid
from nid_jax import learning
from nid_jax.fields import routing
from studies.image_study import FACES, PATCHES, Study

# Of gradient fits, for atoms of root mean square 1: of 0.1, 0.03, 0.01 and 0.003 the best, or
# within 0.5 dB of it, for the dictionaries here, after 10 steps and after 1000.
RATE = 3e-3


def small_siren(study):
    """A SIREN that stores about as many numbers as a dense code."""
    return networks.siren(study.points, study.channels, study.setting.network["small_width"], 4)


def per_image_networks(study):
    """SIRENs and a Fourier-feature network for every signal, by Adam."""
    shape, marks, key = study.setting.network, study.setting.marks, jax.random.key(0)
    few = tuple(mark for mark in marks if mark <= shape["steps"])
    size = (study.channels, shape["width"], shape["num_layers"])
    fourier = networks.fourier_network(study.points, *size, shape["size"], shape["scale"], key)
    for name, network, rate, until in (
        ("small SIREN per image", small_siren(study), 3e-3, marks),
        ("SIREN per image", networks.siren(study.points, *size), 1e-3, few),
        ("Fourier network per image", fourier, 3e-3, few),
    ):
        study.add_descent(
            (name, name),
            networks.fit_networks(network, study.targets, rate, until, key),
            jax.jit(jax.vmap(network.render)),
            functools.partial(operations.network_fit, network.sizes, len(study.points)),
            (10, 100, until[-1]),
            numbers=network.numbers,
        )


def learned_start(study):
    """The small SIREN from a start learned by MAML on the training signals."""
    network, seconds = small_siren(study), study.setting.start_seconds
    signals = study.train_signals.reshape(-1, *study.targets.shape[1:])
    say(f"{study.name}: learning a start for {seconds:.0f} s")
    start, count, spent, compiling = networks.learn_start(
        network, signals, jax.random.key(0), seconds, learning_rate=3e-3
    )
    say(f"{study.name}: learned a start in {count} steps")
    render = jax.jit(jax.vmap(network.render))
    curve = []
    for steps in (5, 10):
        adapt = jax.jit(functools.partial(networks.adapt, network, steps=steps))
        layers, taken, _ = median_seconds(lambda adapt=adapt: adapt(start, study.targets))
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
    experts, top_k, truth = study.base.dictionary.num_experts, study.top_k, study.truth
    flat, values = truth.reshape(study.count, -1), truth[0].size
    pca, seconds = clocked(Components, study.train_signals.reshape(-1, values), experts)
    dct, kept = DCT(study.train_signals, experts), len(pca.axes)
    costs = {"PCA": 2 * kept * values, "DCT": operations.cosine_transform(truth.shape[1:])}
    for name, count, encode, decode in (
        ("PCA", kept, lambda: pca.encode(flat), pca.decode),
        ("DCT", experts, lambda: dct.encode(truth), dct.decode),
        ("PCA", top_k, lambda: largest(pca.encode(flat), top_k), pca.decode),
        ("DCT", top_k, lambda: largest(dct.encode_all(truth), top_k), dct.decode_all),
    ):
        codes, taken, _ = median_seconds(encode)
        study.add(
            f"{name}, {count} coefficients" + (" (largest)" if count == top_k else ""),
            name,
            decode(codes),
            numbers=2 * top_k if count == top_k else count,
            operations=costs[name],
            seconds=taken / study.count,
            training_seconds=seconds if name == "PCA" else 0.0,
        )


def careful_transforms(study):
    """Cosines and their components by the measure that heads in closed form go by; sparse cosines
    with what sparse codes of ours have: means apart, colours decorrelated."""
    values, flat = study.truth[0].size, study.truth.reshape(study.count, -1)
    names, experts = study.task.open("train").names, study.base.dictionary.num_experts
    for name, shares in (
        ("PCA of cosines, shrunk, by log errors", (0.0, 0.1, 0.3)),
        ("DCT, colours decorrelated, chosen by log errors", (1.0,)),
    ):
        found, seconds = clocked(CosineComponents, study.train_signals, names, experts, shares)
        codes, taken, _ = median_seconds(lambda found=found: found.encode(flat))
        study.add(
            name,
            name,
            found.decode(codes),
            numbers=len(found.axes),
            operations=2 * len(found.axes) * values,
            seconds=taken / study.count,
            training_seconds=seconds,
        )
    sparse, seconds = clocked(ColourDCT, study.train_signals)
    codes, taken, _ = median_seconds(lambda: sparse.encode(study.truth, study.top_k))
    study.add(
        f"DCT, colours decorrelated, means apart, {study.top_k} coefficients (largest)",
        "DCT, colours decorrelated, means apart",
        sparse.decode(codes),
        numbers=2 * study.top_k + study.channels,
        operations=operations.cosine_transform(study.truth.shape[1:]) + 2 * study.channels * values,
        seconds=taken / study.count,
        training_seconds=seconds,
    )


def ksvd(study, experts):
    """K of so many atoms of K-SVD on the pixels of the training signals."""
    signals, names, top_k = study.train_signals, study.task.open("train").names, study.top_k
    options = {
        "passes": study.setting.ksvd_passes,
        "atoms_per_step": max(1, top_k // 16),
        "criterion": study.base.fit.omp.criterion,
    }
    found, seconds = clocked(KSVD, signals, names, experts, top_k, **options)
    codes, taken, _ = median_seconds(lambda: found.encode(study.truth))
    values = study.truth[0].size
    study.add(
        f"K-SVD on pixels: omp, K = {top_k} of {experts}",
        "K-SVD on pixels",
        found.decode(codes),
        numbers=2 * top_k + study.channels,
        operations=2 * experts * values + operations.solve("omp", experts, study.count, top_k, 0),
        seconds=taken / study.count,
        training_seconds=seconds,
    )


def solved(study, name, known, solver):
    """One solver on one dictionary, behind the library's own door. -> Fit.

    name: of the dictionary, known: a `Learned`.
    """
    dictionary, seconds = known.dictionary, []
    first = dictionary.fit(study.truth, solver=solver)
    while len(seconds) < 7 and (not seconds or sum(seconds) < 4.0):
        found = dictionary.fit(study.truth, solver=solver)
        seconds.append(found.seconds)
    top_k = getattr(solver, "top_k", 0)
    words = f"{solver.name}, K = {top_k}" if top_k else solver.name
    if getattr(solver, "candidates", 0):
        words += f" among {solver.candidates}"
    if isinstance(solver, nid.Gradient):
        words += f", {solver.steps} steps"
    study.add(
        f"{name}: {words}",
        f"{name}: {solver.name}",
        found.render(),
        numbers=(2 * top_k or dictionary.num_experts) + study.channels,
        operations=solver_cost(study, dictionary, solver, float(np.mean(found.iterations))),
        seconds=float(np.median(seconds)) / study.count,
        training_seconds=known.training,
        compile_seconds=first.compile_seconds,
    )
    return found


def all_solved(study, name, known, dense=(), sparse=()):
    """`solved` by the solvers of some names as the config has them, those of K experts last."""
    for solver in dense:
        solved(study, name, known, study.solver(solver))
    for solver in sparse:
        solved(study, name, known, study.solver(solver, study.top_k))


def solver_cost(study, dictionary, solver, steps):
    """Operations of a signal's fit; see `operations`."""
    experts, count = dictionary.num_experts, study.count
    points, top_k = len(study.points), getattr(solver, "top_k", 0)
    cost = operations.equations(dictionary.dictionary, points, count)
    if solver.uses_router:
        cost += router_cost(study, dictionary)
        if getattr(solver, "candidates", 0) > top_k:
            return cost + operations.solve("omp", solver.candidates, count, top_k, 0)
        return cost + 2 * top_k**3 / 3
    if isinstance(solver, nid.Gaussian):
        steps = NOISES_TRIED
    return cost + operations.solve(solver.name, experts, count, top_k, steps)


# Experts of K that a router proposes to a pursuit, in multiples of K.
PROPOSED = 8
# About as many variances as the search for the noise of highest evidence looks at, and the last.
NOISES_TRIED = 15


def gradient_on_gram(study, name, known):
    """The library's own gradient fit, whose steps need no pixels."""
    last = study.setting.marks[-1]
    timings = []
    for steps in (5, 10, last):
        found = solved(study, name, known, nid.Gradient(steps=steps, learning_rate=RATE))
        timings.append((steps, study.results[-1].seconds))
    # Seconds of a step from the longest and the shortest, so that what precedes them is kept.
    (few, short), (many, long) = timings[0], timings[-1]
    rate = max(long - short, 0) / (many - few)
    psnr = -10 * np.log10(np.maximum(found.history["residual"], 1e-12)).mean(-1)
    study.results[-1].curve = [
        [short + (step - few) * rate, float(psnr[step])] for step in study.setting.marks
    ]


def gradient_on_pixels(study, name, known, top_k=0):
    """The paper's fit: Adam on the codes through every pixel, top-k gating inside.

    Starts from the mean of the codebook where there is one, as a learned start does; else from
    zero. Atoms are scaled to root mean square 1 first, as in the library's own descent, or no one
    learning rate would do for two dictionaries.
    """
    model, points = known.dictionary.model, study.points
    targets = jnp.asarray(study.targets)
    dictionary = model.dictionary
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

    def objective(variables, *_):
        return jnp.square(render(variables) - targets).mean((1, 2)).sum()

    family, marks = f"{name}: gradient through pixels", study.setting.marks
    study.add_descent(
        (family + (f", K = {top_k}" if top_k else ""), family),
        descend(objective, (codes, bias), RATE, marks=marks),
        jax.jit(render),
        functools.partial(operations.gradient_on_pixels, dictionary, len(points), study.count),
        (5, 10, marks[-1]),
        numbers=(2 * top_k or dictionary.num_experts) + study.channels,
        training_seconds=known.training,
    )


def kept_factorisation(study, name, known):
    """Ridge with the factorisation made beforehand, as for every later signal of these points."""
    atoms, operator = known.dictionary.dictionary, nid.operators.sample(tuple(study.grid_shape))
    factorisation = nid.Factorisation(atoms, operator, lam=study.solver("ridge").lam)
    solution, seconds, first = median_seconds(lambda: factorisation.solve(study.targets))
    study.add(
        f"{name}: ridge, factorisation kept",
        f"{name}: ridge, factorisation kept",
        nid.Fit(atoms, solution, tuple(study.grid_shape), tuple(study.test.names)).render(),
        numbers=atoms.num_experts + study.channels,
        operations=4 * atoms.num_experts * study.truth[0].size,
        seconds=seconds / study.count,
        training_seconds=known.training,
        compile_seconds=first - seconds,
    )


def predicted(study, name, known):
    """What a router alone predicts: one pass of it, with nothing solved and no residual."""
    model, signals = known.dictionary.model, jnp.asarray(study.truth)
    router = jax.jit(lambda signals: model.router.gates(None, signals))
    gates, seconds, first = median_seconds(lambda: router(signals))
    study.add(
        f"{name}, alone",
        f"{name}, alone",
        model.dictionary.combine(study.points, gates),
        numbers=model.dictionary.num_experts + study.channels,
        operations=router_cost(study, known.dictionary),
        seconds=seconds / study.count,
        training_seconds=known.training,
        compile_seconds=first - seconds,
    )


def router_cost(study, dictionary):
    """Operations of a router's pass over one signal."""
    router, points, experts = dictionary.config.router, len(study.points), dictionary.num_experts
    if router.kind == "linear":
        return operations.network((points * study.channels, experts))
    read = points if router.pool == "none" else 1
    return operations.convolutions(points, study.channels, router.width, read, experts)


def all_dictionaries(study):
    """Dictionaries, found in closed form, trained in each way and not at all, by every solver."""
    setting = study.setting
    config = study.config("varpro", "none", setting.descent)
    blank = Learned(learning.untrained(study.task, config), study.task, 0.0, 0.0)
    all_solved(study, "NID untrained", blank, ("ridge", "lasso"), ("omp", "iht"))

    prior = {"prior.num_signals": study.base.prior.num_signals}
    all_solved(study, "NID by descent", study.train("varpro", config), ("ridge",))

    plain = study.train("components", study.config("varpro", "none", prior))
    kept_factorisation(study, "NID", plain)
    all_solved(study, "NID", plain, ("ridge", "gaussian", "lasso"), ("omp", "iht"))
    gradient_on_gram(study, "NID", plain)
    gradient_on_pixels(study, "NID", plain)

    sparse = study.config("sparse_varpro", "none", setting.sparse)
    ksvd(study, sparse.dictionary.num_experts)
    sparse = study.train("sparse_varpro", sparse)
    all_solved(study, "NID sparse", sparse, ("ridge",), ("omp", "iht"))

    for kind, changes in setting.routers.items():
        routed = study.train(f"{kind}_router", study.config("varpro", kind, changes))
        predicted(study, f"NID {kind} router", routed)
    routed = study.config("sparse_varpro", "linear", setting.sparse)
    routed = study.train("support_router", routed)
    all_solved(study, "NID sparse, linear router", routed, sparse=("router+ridge",))
    chosen = study.solver("router+ridge", study.top_k)
    among = dataclasses.replace(
        chosen, candidates=min(PROPOSED * study.top_k, study.base.dictionary.num_experts)
    )
    solved(study, "NID sparse, linear router", routed, among)

    config = study.config("joint", "codebook", setting.joint)
    few, whole = config.data.num_train, study.base.data.num_train
    name = "NID as in the paper" + (f", {few} of {whole} signals" if few != whole else "")
    gradient_on_pixels(study, name, study.train("joint", config), study.top_k)


def patches(path, scale, output):
    """K = 32 of E = 256: seconds to find the atoms, milliseconds of fitting."""
    changes = {**PATCHES, "data.root": path}
    if scale == "smoke":
        changes |= {"dictionary.num_experts": 32, "router.top_k": 4}
    empty = dataclasses.replace(FACES, title="Patches", changes=changes, sparse={})
    study = Study("patches", empty, output)
    transforms(study)
    ksvd(study, study.base.dictionary.num_experts)
    sparse = study.train("sparse_varpro", study.config("sparse_varpro", "none", {}))
    all_solved(study, "NID sparse", sparse, sparse=("omp", "iht"))
    all_solved(study, "NID sparse", sparse, ("ridge",))
    kept_factorisation(study, "NID sparse", sparse)
    return study
