"""Every compiled function that a user reaches, as a function of shapes: nothing is drawn or run."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from measuring import command

import nid_jax as nid
from nid_jax import tasks
from nid_jax.coding import (
    conjugate,
    expectation,
    factorisation,
    gram,
    low_rank,
    surface,
    total_variation,
    uncertainty,
)
from nid_jax.coding.mixture import Mixture
from nid_jax.coding.operators import sample
from nid_jax.coding.orthonormal import orthonormal_equations
from nid_jax.fields.model import build_model
from nid_jax.fields.routing import Gates
from nid_jax.fitting import rendering
from nid_jax.metrics import images
from nid_jax.training import components, reseeding
from nid_jax.training.optimisers import build_optimiser
from nid_jax.training.steps import Given, Recipe, TrainState, Window, train_step, train_steps
from nid_jax.training.strategies import build_strategy

SIGNALS, EXPERTS, ACTIVE = 4, 8, 2
GRID, CUBE = (6, 5), (4, 4, 4)
POINTS = 30
KINDS = ("shared", "independent", "lattice")


@dataclasses.dataclass(frozen=True)
class Case:
    """One function. make() -> (function, arguments), the arguments pytrees of shapes."""

    name: str
    make: Callable[[], tuple[Callable, tuple]]
    float64: str = ""
    """Why a TPU gets float64 all the same, '' where it does not."""

    @property
    def short(self):
        """Why products may be below float32, '' where none may."""
        return next((why for word, why in SHORT.items() if word in self.name), "")


_ROUTER = "convolutions of a router run as they are trained, in the platform's own precision"
# Part of a name -> why.
SHORT = {
    "amortised": _ROUTER,
    "router": _ROUTER,
    "muon": "optax's iteration towards an orthogonal factor, which few digits are enough for",
}


def numbers(*shape, dtype=jnp.float32):
    """The shape of an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


# ---- dictionaries -------------------------------------------------------------------------------


def config_of(kind="shared", task="image", **changes):
    """A config of hardly any size. changes: of flattened keys, '.' written as '__'."""
    config = command.config_of(task, "smoke")
    config.dictionary.update({"kind": "shared", "num_experts": EXPERTS, "heads": "drawn"})
    config.dictionary.update({"width": 8, "num_layers": 3, "activation": "relu"})
    config.dictionary.embedding.update({"kind": "fourier", "size": 8})
    config.router.update({"kind": "none", "top_k": 0})
    config.train.update({"batch_size": SIGNALS, "codes": "varpro", "points": 0})
    if kind == "independent":
        config.dictionary.update({"kind": "independent", "activation": "sine"})
        config.dictionary.embedding.kind = "identity"
    if kind == "lattice":
        config.dictionary.num_layers = 1
        config.dictionary.embedding.kind = "cosine"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def model_of(config, grid=GRID):
    """(graphdef, state as shapes) of a model."""
    build = functools.partial(build_model, config, (*grid, 1), SIGNALS, 0)
    return nnx.split(nnx.eval_shape(build))


# ---- training -----------------------------------------------------------------------------------


def training_step(config, grid=GRID, dense=True, extra=(), scan=False):
    """A step of training, or many of signals on the device. extra: of the batch, beside signals and
    ids. -> function, arguments."""
    strategy = build_strategy(config, tasks.build(config).objective)
    optimizer = build_optimiser(config.train.optimizer, 10)
    graphdef, params, constants = nnx.split(nnx.merge(*model_of(config, grid)), nnx.Param, ...)
    recipe = Recipe(graphdef, strategy, optimizer, config.train.points, "random", 1e-3, dense)
    count = numbers(dtype=jnp.int32)
    moments = jax.eval_shape(optimizer.init, params)
    state = TrainState(params, moments, count, count, numbers(EXPERTS))
    batch = {
        "signals": numbers(SIGNALS, *grid, 1),
        "ids": numbers(SIGNALS, dtype=jnp.int32),
        **dict(extra),
    }

    if scan:
        ids = numbers(5, SIGNALS, dtype=jnp.int32)
        batch = Window(numbers(12, *grid, 1), ids, numbers(dtype=jnp.int32))

    def step(state, batch, constants):
        given = Given(constants, sample(grid), jax.random.key(0))
        return (train_steps if scan else train_step)(recipe, state, batch, given)

    return step, (state, batch, constants)


def training_cases():
    """A step of every strategy and kind of dictionary."""
    book = {"router__kind": "codebook", "train__codes": "joint"}
    active = {"router__top_k": ACTIVE}
    solved = {"train__differentiate": "solve"}
    sparse = {"train__codes": "sparse_varpro", **active}
    amortised = {"router__kind": "conv", "router__width": 4}
    weights = {"weights": numbers(SIGNALS, POINTS)}
    wanted = [(f"joint, dense, {kind}", kind, book, {}) for kind in KINDS]
    wanted += [(f"varpro, {kind}", kind, {}, {}) for kind in KINDS]
    wanted += [
        ("joint, sparse, shared", "shared", book | active, {"dense": False}),
        ("joint, sparse, independent", "independent", book | active, {"dense": False}),
        ("joint, random points", "shared", book | {"train__points": 9}, {}),
        ("varpro, through the solve", "shared", solved, {}),
        ("varpro, own weights", "shared", {}, {"extra": weights}),
        ("varpro, amortised", "shared", amortised, {}),
        ("sparse_varpro, shared", "shared", sparse, {"dense": False}),
        ("sparse_varpro, independent", "independent", sparse, {"dense": False}),
        ("sparse_varpro, through the solve", "shared", sparse | solved, {"dense": False}),
        ("sparse_varpro, amortised", "shared", sparse | amortised, {"dense": False}),
        ("varpro, muon", "shared", {"train__optimizer__name": "muon"}, {}),
    ]
    cases = [
        Case(
            f"training step: {name}",
            lambda kind=kind, changes=changes, more=more: training_step(
                config_of(kind, **changes), **more
            ),
        )
        for name, kind, changes, more in wanted
    ]
    cases += [
        Case(
            f"many training steps: {name}",
            lambda kind=kind, changes=changes, more=more: training_step(
                config_of(kind, **changes), scan=True, **more
            ),
        )
        for name, kind, changes, more in wanted
        if not more.get("extra")
    ]
    return [*cases, Case("training step: surface", surface_step)]


def surface_step():
    """Training on oriented clouds."""
    config = config_of(
        "independent", "sdf", router__kind="codebook", train__codes="surface", train__cloud_points=9
    )
    extra = {"clouds": numbers(SIGNALS, 9, 6), "points": numbers(7, 3)}
    step, (state, batch, constants) = training_step(config, CUBE, extra=extra)
    return step, (state, batch | {"signals": numbers(SIGNALS, 7, 1)}, constants)


# ---- fits ---------------------------------------------------------------------------------------


def _mixture(size):
    """Of two components as shapes, in a basis of two."""
    own = numbers(size), numbers(size, 2), numbers(2, 2), numbers(2, 2, 1)
    return Mixture(numbers(2), *own, numbers(size, 3))


def known_prior(mixture=False, kept=False):
    """A prior of codes as shapes."""
    parts = numbers(EXPERTS), numbers(EXPERTS, 3), numbers(EXPERTS), numbers(), numbers()
    inside = None
    if mixture:
        inside = _mixture(EXPERTS)
    codes = numbers(12, EXPERTS) if kept else None
    return nid.GaussianPrior(*parts, codes=codes, mixture=inside)


def solved(solver, kind="shared", router="none", weights=None, prior=None, act=None):
    """What a solver makes of measurements. act(solution) -> what is given back, all by default."""
    graphdef, state = model_of(config_of(kind, router__kind=router, router__width=4))
    act = act or (lambda solution: solution)

    def solve(state, measurements, weights, prior):
        model = nnx.merge(graphdef, state)
        problem = nid.Problem(
            model.dictionary,
            sample(GRID),
            measurements,
            weights,
            prior,
            model.router,
            measurements.reshape(SIGNALS, *GRID, 1),
        )
        return act(solver.solve(problem))

    return solve, (state, numbers(SIGNALS, POINTS, 1), weights, prior)


def gradient_of(solver, **options):
    """The derivative of a rendering's codes with respect to measurements and dictionary."""
    solve, (state, measurements, *rest) = solved(
        solver, act=lambda found: found.codes.sum(), **options
    )
    return jax.grad(solve, argnums=1), (state, measurements, *rest)


def fit_cases():
    """Every public solver."""
    own = {"weights": numbers(SIGNALS, POINTS)}
    prior, routed = {"prior": known_prior()}, {"router": "conv"}
    noise = 0.01
    wanted = [(f"ridge, {kind}", nid.Ridge(), {"kind": kind}) for kind in KINDS]
    wanted += [
        ("ridge, own weights", nid.Ridge(), own),
        ("ridge, lambda by validation", nid.Ridge("gcv"), {}),
        ("ridge, a lambda for each", nid.Ridge(np.full(SIGNALS, 1e-3, np.float32)), {}),
        ("ridge, normal equations", nid.Ridge(precision="float64"), {}),
        ("ridge, normal equations, validated", nid.Ridge("gcv", precision="float64"), {}),
        ("gaussian", nid.Gaussian(noise), prior),
        ("gaussian, noise by evidence", nid.Gaussian(), prior),
        ("gaussian, own weights", nid.Gaussian(noise), prior | own),
        ("gaussian, normal equations", nid.Gaussian(precision="float64"), prior),
        ("gaussian, neighbours", nid.Gaussian(noise, 3), {"prior": known_prior(kept=True)}),
        (
            "gaussian, neighbours, normal equations",
            nid.Gaussian(noise, 3, precision="float64"),
            {"prior": known_prior(kept=True)},
        ),
        ("gaussian, mixture", nid.Gaussian(noise), {"prior": known_prior(mixture=True)}),
        ("lasso", nid.Lasso(), {}),
        ("omp", nid.OMP(ACTIVE), {}),
        ("omp by gain, several atoms a step", nid.OMP(4, 1e-6, 2, "gain"), {}),
        ("omp, normal equations", nid.OMP(ACTIVE, precision="float64"), {}),
        ("iht", nid.IHT(ACTIVE), {}),
        ("robust, l1", nid.Robust(), prior),
        ("robust, huber", nid.Robust("huber"), {}),
        ("gradient", nid.Gradient(5), {}),
        ("gradient, sparse", nid.Gradient(5, dense_steps=2, top_k=ACTIVE), {}),
        ("gradient, l1", nid.Gradient(5, data="l1"), {}),
        ("gradient of the router", nid.Gradient(5, variables="router"), routed),
        ("router", nid.RouterCodes(), routed),
        ("router, sparse", nid.RouterCodes(ACTIVE), routed),
        ("router+ridge", nid.RouterRidge(ACTIVE), routed),
        ("router+ridge, candidates", nid.RouterRidge(ACTIVE, candidates=4), routed),
    ]
    cases = [
        Case(f"fit: {name}", lambda solver=solver, options=options: solved(solver, **options))
        for name, solver, options in wanted
    ]
    moving = [
        ("ridge", nid.Ridge(), {}),
        ("gaussian", nid.Gaussian(noise), prior),
        ("omp", nid.OMP(ACTIVE), {}),
        ("router+ridge", nid.RouterRidge(ACTIVE), routed),
    ]
    cases += [
        Case(
            f"derivative of a fit: {name}",
            lambda solver=solver, options=options: gradient_of(solver, **options),
        )
        for name, solver, options in moving
    ]
    return [*cases, Case("fit: surface", surface_fit), Case("fit: surface, evidences", evidences)]


def _solids():
    """(graphdef, state) of a dictionary of solids; a cloud with its samples, and coordinates."""
    graphdef, state = model_of(config_of("shared", "sdf"), CUBE)
    features, size, points = nnx.merge(graphdef, state).dictionary.num_features, EXPERTS + 1, 25
    far = numbers(40, 3), numbers(40), numbers(40)
    near = numbers(2 * points, 3), numbers(2 * points), numbers(2 * points)
    samples = surface.Samples(*near, *far, numbers(points, 3), numbers(points))
    signal = surface._Signal(numbers(points, 6), samples, numbers(features + 1))
    rows = numbers(size), numbers(size, size), numbers(features + 1), numbers(features + 1, size)
    terms = surface._Numbers(surface.Terms(), 1e-4, 0.05, 1e-4)
    return (graphdef, state), signal, surface._Coordinates(*rows), terms


def surface_fit():
    """One solid of a cloud."""
    plan = surface._Plan(True, "gauss-newton", "linear", 3, 5)
    (graphdef, state), signal, coordinates, terms = _solids()

    def solve(state, signal, coordinates):
        dictionary = nnx.split(nnx.merge(graphdef, state).dictionary)
        return surface._solve(*dictionary, signal, coordinates, terms, plan)

    return solve, (state, signal, coordinates)


def evidences():
    """Which component of a mixture made a solid."""
    (graphdef, state), signal, coordinates, terms = _solids()
    inside = _mixture(EXPERTS + 1)

    def choose(state, signal, coordinates, inside):
        dictionary = nnx.split(nnx.merge(graphdef, state).dictionary)
        return surface._evidences(*dictionary, signal, coordinates, terms, inside)

    return choose, (state, signal, coordinates, inside)


# ---- what is solved once, drawn and scored ------------------------------------------------------


def factorised():
    """`Factorisation` and its `solve`: equations, inverse, map, and the map applied."""
    graphdef, state = model_of(config_of())

    def solve(state, measurements):
        model = nnx.merge(graphdef, state)
        known, weights = (model.dictionary, sample(GRID)), jnp.ones(POINTS)
        equations = gram.normal_equations(*known, measurements[:1])
        split = nnx.split(model.dictionary)
        inverse, _ = factorisation._inverse(*split, known[1], equations, weights, jnp.float32(1e-6))
        held = factorisation._code_map(*split, known[1], weights, equations, inverse)
        return factorisation._apply_map(*held, weights, equations, measurements)

    return solve, (state, numbers(SIGNALS, POINTS, 1))


def weighted():
    """Signals with weights of their own, together, by conjugate gradients."""
    weights = np.linspace(0.5, 1, SIGNALS * POINTS, dtype=np.float32).reshape(SIGNALS, POINTS)
    graphdef, state = model_of(config_of())

    def solve(state, measurements):
        dictionary = nnx.merge(graphdef, state).dictionary
        # Weights are known when it is decided that they are near enough to one another.
        problem = nid.Problem(dictionary, sample(GRID), measurements, weights)
        return nid.solvers.Ridge()._solve(problem)

    return solve, (state, numbers(SIGNALS, POINTS, 1))


def exported():
    """What `nid.export` makes its map of; what it writes is lowered for all platforms there."""
    graphdef, state = model_of(config_of())

    def make(state, measurements):
        dictionary, penalty = nnx.merge(graphdef, state).dictionary, conjugate.Penalty(1e-6)
        known = sample(GRID), measurements, jnp.ones(POINTS), penalty
        return conjugate.factorised(dictionary, *known, exact=True)

    return make, (state, numbers(SIGNALS, POINTS, 1))


def deviation(equations):
    """The variance of a rendering. equations: the function that makes them."""
    graphdef, state = model_of(config_of())

    def variance(state, measurements, prior):
        dictionary = nnx.merge(graphdef, state).dictionary
        known = equations(dictionary, sample(GRID), measurements)
        return uncertainty.posterior_variance(dictionary, sample(GRID).points, known, prior, 0.01)

    return variance, (state, numbers(SIGNALS, POINTS, 1), known_prior())


def rendered(function, kind, active=0, grid=GRID, task="image"):
    """A chunk of points through a function of `rendering`."""
    graphdef, state = model_of(config_of(kind, task), grid)
    codes, bias = numbers(SIGNALS, EXPERTS), numbers(SIGNALS, 1)
    few = (numbers(SIGNALS, active, dtype=jnp.int32), numbers(SIGNALS, active)) if active else ()
    gates = Gates(codes, *(few or (None, None)), bias)

    def render(state, points, gates):
        return function(*nnx.split(nnx.merge(graphdef, state).dictionary), points, gates)

    return render, (state, numbers(16, len(grid)), gates)


def measured():
    """What an operator measures of rendered signals."""
    return rendered(
        lambda graphdef, state, points, gates: rendering._measure(
            graphdef, state, sample(GRID), gates
        ),
        "shared",
    )


def routed(kind, top_k):
    """A router's codes."""
    graphdef, state = model_of(config_of(router__kind=kind, router__width=4))

    def route(state, signals):
        return nnx.merge(graphdef, state).router.gates(None, signals, top_k=top_k)

    return route, (state, numbers(SIGNALS, *GRID, 1))


def variation(dense):
    """The ADMM of `TotalVariation`."""
    grids = numbers(SIGNALS, POINTS, 1)

    def refine(start, measurements, weights):
        one = jnp.float32(0.1)
        parts = start, measurements, weights, one, one, None
        problem = total_variation._Problem(sample(GRID), *parts)
        return total_variation._admm(problem, GRID, 3, dense)

    return refine, (grids, grids, numbers(SIGNALS, POINTS))


def low_ranks():
    """The rounds of `LowRank`."""
    chunk = numbers(2, 15, SIGNALS)

    def rounds(atoms, factors, values, known):
        chunks = low_rank._Chunks(values, known)
        found = low_rank._alternate(atoms, factors, chunks, 3)
        return found, low_rank._residual_gram(*found, chunks)

    return rounds, (numbers(2, 15, 2), numbers(SIGNALS, 2), chunk, chunk)


def reseeded():
    """Dead experts made anew."""
    config = config_of()
    graphdef, params, constants = nnx.split(nnx.merge(*model_of(config)), nnx.Param, ...)

    def refit(params, constants, signals, dead):
        given = Given(constants, sample(GRID), jax.random.key(0))
        batch = {"signals": signals, "ids": jnp.arange(SIGNALS)}
        return reseeding._refit(graphdef, params, batch, given, dead, jnp.int32(3), 0)

    signals, dead = numbers(SIGNALS, *GRID, 1), numbers(2, dtype=jnp.int32)
    return refit, (params, constants, signals, dead)


def projected():
    """Signals in the coordinates of heads in closed form, and their covariance."""

    def accumulate(total, values, projector, weights, constant, basis):
        coordinates, energy = components._projected(
            values, projector, weights, constant, jnp.float32(POINTS)
        )
        left = components._left(coordinates, energy, basis)
        return components._accumulated(total, coordinates, left)

    points, size = numbers(POINTS), EXPERTS
    return accumulate, (
        numbers(size, size),
        numbers(SIGNALS, POINTS, 1),
        numbers(POINTS, size),
        points,
        points,
        numbers(size, size),
    )


def expected():
    """A round of expectation maximisation, of signals that were not measured alike."""

    def one(gaussian, rows):
        with gram.working_precision("float64"):
            gaussian, rows = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (gaussian, rows))
            sums = expectation.expected(gaussian, rows)
            return [leaf.astype(jnp.float32) for leaf in expectation.moments(gaussian, sums)]

    gaussian = expectation.Gaussian(numbers(1, EXPERTS), numbers(1, EXPERTS, EXPERTS), numbers())
    values = numbers(SIGNALS, 20, 1)
    rows = expectation.Rows(
        numbers(20, EXPERTS), numbers(20, 1), values, numbers(SIGNALS, 1), numbers(), numbers()
    )
    return one, (gaussian, rows)


def other_cases():
    """All that is neither a step of training nor a fit."""
    render, slopes = rendering._render, rendering._derivatives
    image = numbers(SIGNALS, 12, 12, 1)
    cases = [
        Case("Factorisation", factorised),
        Case("own weights together", weighted),
        Case("nid.export, its map", exported),
        Case("deviation", lambda: deviation(orthonormal_equations)),
        Case("deviation, normal equations", lambda: deviation(gram.normal_equations)),
        Case("render, sparse codes", lambda: rendered(render, "independent", ACTIVE)),
        Case("derivatives of a rendering", lambda: rendered(slopes, "shared")),
        Case("measuring a rendering", measured),
        Case("mesh: values", lambda: rendered(render, "shared", 0, CUBE, "sdf")),
        Case("mesh: normals", lambda: rendered(slopes, "shared", 0, CUBE, "sdf")),
        Case("refining by total variation, dense", lambda: variation(True)),
        Case("refining by total variation, iterative", lambda: variation(False)),
        Case("refining by low rank", low_ranks),
        Case("reseeding", reseeded),
        Case("heads in closed form", projected),
        Case(
            "heads by expectation maximisation",
            expected,
            "sums over all signals; the host asks for float64 arrays, which a TPU emulates",
        ),
        Case("SSIM", lambda: (lambda a, b: images._ssim(a, b, "valid"), (image, image))),
    ]
    cases += [Case(f"render, {kind}", lambda kind=kind: rendered(render, kind)) for kind in KINDS]
    return cases + [
        Case(
            f"router: {kind}{', sparse' if top_k else ''}",
            lambda kind=kind, top_k=top_k: routed(kind, top_k),
        )
        for kind in ("linear", "conv", "resnet")
        for top_k in (0, ACTIVE)
    ]


def cases() -> list[Case]:
    """All of them."""
    return [*training_cases(), *fit_cases(), *other_cases()]
