"""The methods of image regression: networks per image, transforms, dictionaries and solvers."""

import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import operations
import peers
from image_study import FACES, PATCHES, Study, optimiser, say, timed

from nid_jax.coding.ridge import Factorisation
from nid_jax.fields import routing
from nid_jax.fitting import batched, priors, rendering

# Of gradient fits, for atoms of root mean square 1: of 0.1, 0.03, 0.01 and 0.003 the best, or
# within 0.5 dB of it, for the dictionaries here, after 10 steps and after 1000.
RATE = 3e-3


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
    first = batched.fit(task, model, study.test, config, prior=prior)
    seconds = []
    while len(seconds) < 7 and (not seconds or sum(seconds) < 4.0):
        fitted = batched.fit(task, model, study.test, config, prior=prior)
        seconds.append(fitted.seconds_total)
    prediction, _ = batched.reconstruct(task, model, fitted, study.test, config)
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
