"""Variable projection: its gradient, its codes, the amortised router, reseeding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.coding import implicit
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.model import Model
from nid_jax.fields.router_networks import Conv
from nid_jax.fields.routing import Codebook, Gates
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fields.variables import RouterParam
from nid_jax.training.losses import SURFACE_WEIGHTS, Objective
from nid_jax.training.reseeding import reseed
from nid_jax.training.seen import Seen
from nid_jax.training.steps import Given, TrainState, shown
from nid_jax.training.strategies import DIFFERENTIATE, Projected, Surface, build_strategy, project

SHAPE, CHANNELS, EXPERTS = (7, 6), 2, 12


def make_model(kind, seed=0, router=None):
    cls = {"shared": SharedDictionary, "independent": IndependentDictionary}[kind]
    dictionary = cls(
        Identity(2), EXPERTS, CHANNELS, Layers(3, 10, "sine", 5.0), rngs=nnx.Rngs(seed)
    )
    return Model(dictionary, router, 0, SHAPE)


def signals_of(seed, count=5):
    return np.random.default_rng(seed).uniform(0, 1, (count, *SHAPE, CHANNELS)).astype(np.float32)


def flat(signals):
    return jnp.asarray(signals.reshape(len(signals), -1, CHANNELS))


def projected_minimum(dictionary, points, targets, penalty):
    """min over codes and bias of mean squared error + penalty |code|^2, differentiably."""
    basis = dictionary.basis(points)
    count, experts, channels = basis.shape
    ones = jnp.broadcast_to(jnp.eye(channels, dtype=basis.dtype), (count, channels, channels))
    design = jnp.concatenate([basis, ones], 1).transpose(0, 2, 1).reshape(count * channels, -1)
    values = targets.reshape(len(targets), -1).T
    free = jnp.concatenate([jnp.full(experts, penalty), jnp.zeros(channels)])
    matrix = design.T @ design / values.size + jnp.diag(free)
    codes = jnp.linalg.solve(matrix, design.T @ values / values.size)
    error = jnp.square(design @ codes - values).mean()
    return error + penalty * jnp.square(codes[:experts]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_the_gradient_with_codes_held_is_that_through_the_solve(kind):
    model, points, lam = make_model(kind), jnp.asarray(grid(SHAPE)), 1e-3
    signals = signals_of(1)
    targets = flat(signals)
    strategy = Projected(Objective(), lam)
    batch = {"ids": jnp.arange(5), "signals": jnp.asarray(signals)}
    prepared = strategy.prepare(model, batch, Seen(sample(SHAPE), targets))
    graphdef, params = nnx.split(model)

    def loss(params):
        merged = nnx.merge(graphdef, params)
        return strategy.loss(merged, prepared, batch, Seen(sample(SHAPE), targets), False, None)[0]

    ours = jax.grad(loss)(params)
    gram_matrix = normal_equations(model.dictionary, sample(SHAPE), targets).gram
    penalty = float(lam * jnp.trace(gram_matrix) / EXPERTS / targets.size)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        x, y = np.asarray(points, np.float64), np.asarray(targets, np.float64)

        def minimum(wide):
            return projected_minimum(nnx.merge(graphdef, wide).dictionary, x, y, penalty)

        exact = jax.tree.map(np.asarray, jax.grad(minimum)(wide))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact))
    assert largest > 1e-5
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3 * largest)


def through_and_held(model, targets, lam):
    """Gradients of a loss(dictionary, codes, bias): codes through their solve, and held fixed."""
    graphdef, params = nnx.split(model)
    start = implicit.ridge_codes(model.dictionary, sample(SHAPE), targets, lam=lam)

    def gradient(loss, moving):
        def value(params):
            dictionary = nnx.merge(graphdef, params).dictionary
            codes = start
            if moving:
                codes = implicit.ridge_codes(dictionary, sample(SHAPE), targets, lam=lam)
            return loss(dictionary, codes.codes, codes.bias)

        leaves = jax.tree.leaves(jax.jit(jax.grad(value))(params))
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    return lambda loss: (gradient(loss, True), gradient(loss, False))


@pytest.mark.slow
def test_codes_may_be_held_where_the_loss_is_what_the_solve_minimises():
    model, lam, points = make_model("independent"), 1e-2, jnp.asarray(grid(SHAPE))
    targets = flat(signals_of(None))

    def error(dictionary, codes, bias):
        rendered = dictionary.combine(points, Gates(codes, None, None, bias))
        return jnp.square(rendered - targets).mean()

    def regularised(dictionary, codes, bias):
        basis = dictionary.basis(points)
        trace = jnp.square(basis - basis.mean(0)).sum()
        penalty = lam * trace / EXPERTS * jnp.square(codes).sum()
        return error(dictionary, codes, bias) + penalty / targets.size

    both = through_and_held(model, targets, lam)
    through, held = both(regularised)
    np.testing.assert_allclose(through, held, rtol=0, atol=1e-4 * np.abs(held).max())
    # Of the error alone, what the codes do to it is missing where they are held: of order lam.
    through, held = both(error)
    assert np.abs(through - held).max() > 5e-3 * np.abs(held).max()


def strategy_loss(strategy, graphdef, batch, targets):
    """params -> the loss of a step; the equations are prepared outside of the gradient."""

    def value(params):
        model = nnx.merge(graphdef, params)
        prepared = strategy.prepare(model, batch, Seen(sample(SHAPE), targets))
        return strategy.loss(model, prepared, batch, Seen(sample(SHAPE), targets), False, None)[0]

    return value


@pytest.mark.parametrize("data", ["l2", "l1"])
def test_the_gradient_through_the_solve_is_that_of_the_loss_as_it_stands(data):
    targets = flat(signals_of(None))
    graphdef, params = nnx.split(make_model("independent"))
    strategy = Projected(Objective(data=data), 1e-2, differentiate="solve")
    batch = {"ids": jnp.arange(5), "signals": targets}
    ours = jax.jit(jax.grad(strategy_loss(strategy, graphdef, batch, targets)))(params)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        x, y = np.asarray(grid(SHAPE), np.float64), np.asarray(targets, np.float64)

        def loss(wide):
            basis = nnx.merge(graphdef, wide).dictionary.basis(x)
            atoms = (basis - basis.mean(0)).transpose(0, 2, 1).reshape(-1, EXPERTS)
            centred = y - y.mean(1, keepdims=True)
            matrix = atoms.T @ atoms
            matrix += 1e-2 * jnp.trace(matrix) / EXPERTS * jnp.eye(EXPERTS)
            codes = jnp.linalg.solve(matrix, atoms.T @ centred.reshape(len(y), -1).T)
            left = (atoms @ codes).T - centred.reshape(len(y), -1)
            return (jnp.square(left) if data == "l2" else jnp.abs(left)).mean()

        exact = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(wide))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact))
    assert largest > 1e-4
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-3 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [0, 4])
def test_either_gradient_of_solved_codes_trains(top_k):
    targets = flat(signals_of(3))
    graphdef, start = nnx.split(make_model("independent", 3))
    batch = {"ids": jnp.arange(5), "signals": targets}
    optimizer = optax.adam(1e-2)
    last = {}
    for differentiate in DIFFERENTIATE:
        strategy = Projected(Objective(), 1e-2, top_k, differentiate=differentiate)
        step = jax.jit(jax.value_and_grad(strategy_loss(strategy, graphdef, batch, targets)))
        params, moments = start, optimizer.init(start)
        first = float(step(params)[0])
        for _ in range(10):
            slopes = step(params)[1]
            updates, moments = optimizer.update(slopes, moments)
            params = optax.apply_updates(params, updates)
        last[differentiate] = float(step(params)[0])
        assert last[differentiate] < 0.8 * first
    assert last["envelope"] != last["solve"]


def test_sparse_projection_is_least_squares_on_its_support():
    model = make_model("independent", 3)
    targets = flat(signals_of(4))
    equations = normal_equations(model.dictionary, sample(SHAPE), targets)
    gates = project(equations, 1e-9, top_k=4)
    assert ((np.asarray(gates.values) != 0).sum(-1) == 4).all()
    basis = np.asarray(model.dictionary.basis(jnp.asarray(grid(SHAPE))), np.float64)
    for signal in range(len(targets)):
        support = np.flatnonzero(np.asarray(gates.values[signal]))
        atoms = basis[:, support].transpose(0, 2, 1)
        constant = np.broadcast_to(np.eye(CHANNELS), (len(atoms), CHANNELS, CHANNELS))
        design = np.concatenate([atoms, constant], -1).reshape(-1, 4 + CHANNELS)
        best = np.linalg.lstsq(design, np.asarray(targets[signal]).ravel(), rcond=None)[0]
        np.testing.assert_allclose(gates.values[signal, support], best[:4], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(gates.bias[signal], best[4:], rtol=1e-3, atol=1e-4)
    rebuilt = np.zeros_like(gates.values)
    np.put_along_axis(rebuilt, np.asarray(gates.indices), np.asarray(gates.weights), -1)
    np.testing.assert_array_equal(rebuilt, gates.values)


@pytest.mark.slow
def test_the_router_learns_solved_codes_and_leaves_the_dictionary_alone():
    router = Conv(EXPERTS, CHANNELS, SHAPE, 4, rngs=nnx.Rngs(5))
    model = make_model("shared", 5, router)
    signals = signals_of(6)
    targets = flat(signals)
    batch = {"ids": jnp.arange(5), "signals": jnp.asarray(signals)}
    strategy = Projected(Objective(), 1e-2)
    prepared = strategy.prepare(model, batch, Seen(sample(SHAPE), targets))
    graphdef, weights, rest = nnx.split(model, RouterParam, ...)

    def amortised(weights):
        merged = nnx.merge(graphdef, weights, rest)
        _, (terms, _) = strategy.loss(
            merged, prepared, batch, Seen(sample(SHAPE), targets), False, None
        )
        return strategy._amortisation(merged, *prepared, batch), terms["router"]

    before, reported = amortised(weights)
    np.testing.assert_allclose(reported, before, rtol=1e-6)
    step = jax.jit(jax.grad(lambda w: amortised(w)[0]))
    for _ in range(30):
        weights = jax.tree.map(lambda w, g: w - 0.02 * g, weights, step(weights))
    assert amortised(weights)[0] < 0.8 * before


@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_a_dead_expert_takes_up_the_worst_residual(kind):
    model = make_model(kind, 7)
    signals = signals_of(8, 20)
    graphdef, params, constants = nnx.split(model, nnx.Param, ...)
    usage = jnp.ones(EXPERTS).at[3].set(0.0)
    state = TrainState(params, (), jnp.int32(4), jnp.int32(-1), usage)

    def error(params):
        dictionary = nnx.merge(graphdef, params, constants, copy=True).dictionary
        equations = normal_equations(dictionary, sample(SHAPE), flat(signals))
        return float(equations.residual(project(equations, 1e-6).values).sum())

    batch = {"signals": jnp.asarray(signals)}
    given = Given(constants, sample(SHAPE), jax.random.key(0))
    renewed, usage, count = reseed(graphdef, state, batch, given, 1e-3, 0)
    assert count == 1
    assert float(usage[3]) > 0.5
    before = nnx.merge(graphdef, params, constants, copy=True).dictionary
    after = nnx.merge(graphdef, renewed, constants, copy=True).dictionary
    points = jnp.asarray(grid(SHAPE))
    changed = np.abs(np.asarray(before.basis(points) - after.basis(points))).max((0, 2)) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(changed), [3])
    assert np.isfinite(error(renewed))
    # An expert that was zero everywhere can only have helped.
    dead = jax.tree.map(jnp.copy, params)
    silent = nnx.merge(graphdef, dead, constants, copy=True)
    if kind == "shared":
        head = silent.dictionary
        head.head_kernel[...] = head.head_kernel[...].at[..., 3].set(0)
        head.head_bias[...] = head.head_bias[...].at[3].set(0)
        assert error(renewed) < error(nnx.state(silent, nnx.Param))
    lively = TrainState(params, (), jnp.int32(4), jnp.int32(-1), jnp.ones(EXPERTS))
    _, _, none = reseed(graphdef, lively, batch, given, 1e-3, 0)
    assert none == 0


def config(codes, router, top_k=0, lam=1e-3, differentiate="envelope"):
    train = {"codes": codes, "lam": lam, "atoms_per_step": 1, "differentiate": differentiate}
    return ConfigDict(
        {
            "train": train,
            "router": {"kind": router, "top_k": top_k},
            "loss": {},
        }
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("jiont", "codebook"), "did you mean 'joint'"),
        (("joint", "none"), "router.kind"),
        (("varpro", "codebook"), "router.kind"),
        (("varpro", "none", 0, 0.0), "train.lam"),
        (("varpro", "codebook"), "allowed: none, linear, conv, resnet, point"),
        (("sparse_varpro", "none", 0), "router.top_k"),
        (
            ("varpro", "none", 0, 1e-3, "solv"),
            "train.differentiate: 'solv'; allowed: envelope, solve",
        ),
        (
            ("joint", "codebook", 0, 1e-3, "solve"),
            "train.differentiate: 'solve', but train.codes=jo",
        ),
        (
            ("surface", "codebook", 0, 1e-3, "solve"),
            "train.differentiate: 'solve', but train.codes",
        ),
        (("surface", "none"), "router.kind: 'none' gives no codes to train"),
        (("surface", "codebook"), "train.codes: 'surface' is for shapes"),
    ],
)
def test_what_does_not_fit_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        build_strategy(config(*settings), Objective())


def test_a_batch_with_points_is_seen_there():
    generator = np.random.default_rng(101)
    points = jnp.asarray(generator.uniform(-1, 1, (9, 2)), jnp.float32)
    signals = jnp.asarray(generator.standard_normal((3, 9, CHANNELS)), jnp.float32)
    seen = shown({"signals": signals, "points": points}, sample(SHAPE), jnp.arange(3))
    np.testing.assert_array_equal(seen.operator.points, points)
    np.testing.assert_array_equal(seen.targets, signals)
    # Without them signals are whole, of which some measurements may be chosen.
    whole = jnp.asarray(signals_of(3, 2))
    chosen = jnp.asarray([3, 0, 8])
    seen = shown({"signals": whole}, sample(SHAPE), chosen)
    np.testing.assert_array_equal(seen.targets, flat(np.asarray(whole))[:, chosen])
    np.testing.assert_allclose(seen.operator.points, grid(SHAPE)[np.asarray(chosen)], atol=1e-6)


def circles(count=3, points=40, seed=None):
    """Points of circles and their outward normals. [S, Q, 4]."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(0, 2 * np.pi, (count, points))
    normals = np.stack([np.cos(angle), np.sin(angle)], -1)
    radii = np.linspace(0.3, 0.7, count)[:, None, None]
    return jnp.asarray(np.concatenate([radii * normals, normals], -1), jnp.float32)


def surface_problem(seed, count=3):
    rngs = nnx.Rngs(seed)
    dictionary = SharedDictionary(Identity(2), EXPERTS, 1, Layers(3, 24, "sine", 5.0), rngs=rngs)
    model = Model(dictionary, Codebook(count, EXPERTS, 1, rngs=rngs), 0, SHAPE)
    off = np.random.default_rng(seed).uniform(-1, 1, (50, 2)).astype(np.float32)
    clouds = circles(count, seed=seed)
    batch = {"ids": jnp.arange(count), "points": jnp.asarray(off), "clouds": clouds}
    return model, batch | {"signals": jnp.zeros((count, 0, 1))}


@pytest.mark.slow
def test_terms_of_surfaces_are_those_taken_by_hand():
    model, batch = surface_problem(int(np.random.default_rng(102).integers(2**31)))
    weights = {"on": 3.0, "off": 0.5, "normal": 2.0, "eikonal": 0.25}
    seen = shown(batch, sample(SHAPE))
    loss, (terms, used) = Surface(weights).loss(model, None, batch, seen, False, None)
    gates = model.gates(batch["ids"], batch["signals"], dense=False, key=None)
    codes, bias = np.asarray(gates.values), np.asarray(gates.bias)

    @jax.jit
    def values_and_slopes(x, code, level):
        def value(one):
            return model.dictionary.basis(one[None])[0, :, 0] @ code + level[0]

        return jax.vmap(value)(x), jax.vmap(jax.grad(value))(x)

    by_hand = {name: [] for name in weights}
    for cloud, code, level in zip(np.asarray(batch["clouds"]), codes, bias, strict=True):
        on, slopes = map(np.asarray, values_and_slopes(cloud[:, :2], code, level))
        off, _ = values_and_slopes(batch["points"], code, level)
        lengths = np.linalg.norm(slopes.astype(float), axis=1)
        by_hand["on"].append(np.abs(on).mean())
        by_hand["normal"].append((1 - (slopes * cloud[:, 2:]).sum(1) / lengths).mean())
        by_hand["eikonal"].append(np.abs(lengths - 1).mean())
        by_hand["off"].append(np.exp(-100 * np.abs(np.asarray(off, float))).mean())
    for name, values in by_hand.items():
        np.testing.assert_allclose(terms[name], np.mean(values), rtol=2e-3, atol=1e-5)
    total = sum(weight * np.mean(by_hand[name]) for name, weight in weights.items())
    np.testing.assert_allclose(loss, total, rtol=2e-3)
    np.testing.assert_allclose(used, np.abs(codes).mean(0), rtol=1e-5)


@pytest.mark.slow
def test_surfaces_are_learned_by_descending_their_terms():
    model, batch = surface_problem(5)
    seen = shown(batch, sample(SHAPE))
    graphdef, params = nnx.split(model)
    strategy = Surface(SURFACE_WEIGHTS)

    @jax.jit
    @jax.value_and_grad
    def descend(params):
        merged = nnx.merge(graphdef, params)
        return strategy.loss(merged, None, batch, seen, False, None)[0]

    first = float(descend(params)[0])
    optimizer = optax.adam(5e-3)
    moments = optimizer.init(params)
    for _ in range(150):
        value, slopes = descend(params)
        updates, moments = optimizer.update(slopes, moments)
        params = optax.apply_updates(params, updates)
    assert float(value) < 0.4 * first
    # Each signal is nearer to zero on its own circle than the others are.
    merged = nnx.merge(graphdef, params)
    gates = merged.gates(batch["ids"], batch["signals"], dense=False, key=None)
    found = [merged.dictionary.combine(cloud[:, :2], gates) for cloud in batch["clouds"]]
    sizes = np.abs(found).mean((2, 3))
    assert (sizes.argmin(1) == np.arange(3)).all()
