"""Variable projection: its gradient, its codes, the amortised router, reseeding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.fields.coordinates import grid
from nid_jax.fields.dictionary import IndependentDictionary, SharedDictionary
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.model import Model
from nid_jax.fields.routing import Conv
from nid_jax.fields.variables import RouterParam
from nid_jax.losses import Objective
from nid_jax.run.reseeding import reseed
from nid_jax.run.steps import TrainState
from nid_jax.run.strategies import Projected, build_strategy, project

SHAPE, CHANNELS, EXPERTS = (7, 6), 2, 12


def make_model(kind, seed=0, router=None):
    cls = {"shared": SharedDictionary, "independent": IndependentDictionary}[kind]
    dictionary = cls(Identity(2), EXPERTS, CHANNELS, 3, 10, "sine", 5.0, rngs=nnx.Rngs(seed))
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


@pytest.mark.parametrize("kind", ["shared", "independent"])
def test_the_gradient_with_codes_held_is_that_through_the_solve(kind):
    model, points, lam = make_model(kind), jnp.asarray(grid(SHAPE)), 1e-3
    signals = signals_of(1)
    targets = flat(signals)
    strategy = Projected(Objective(), lam)
    batch = {"ids": jnp.arange(5), "signals": jnp.asarray(signals)}
    prepared = strategy.prepare(model, batch, sample(SHAPE), targets)
    graphdef, params = nnx.split(model)

    def loss(params):
        merged = nnx.merge(graphdef, params)
        return strategy.loss(merged, prepared, batch, sample(SHAPE), targets, False, None)[0]

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


def test_the_router_learns_solved_codes_and_leaves_the_dictionary_alone():
    router = Conv(EXPERTS, CHANNELS, SHAPE, 4, rngs=nnx.Rngs(5))
    model = make_model("shared", 5, router)
    signals = signals_of(6)
    targets = flat(signals)
    batch = {"ids": jnp.arange(5), "signals": jnp.asarray(signals)}
    strategy = Projected(Objective(), 1e-2)
    prepared = strategy.prepare(model, batch, sample(SHAPE), targets)
    graphdef, weights, rest = nnx.split(model, RouterParam, ...)

    def amortised(weights):
        merged = nnx.merge(graphdef, weights, rest)
        _, (terms, _) = strategy.loss(merged, prepared, batch, sample(SHAPE), targets, False, None)
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
    renewed, usage, count = reseed(graphdef, state, constants, batch, sample(SHAPE), 1e-3)
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
        head.head_kernel[...] = head.head_kernel[...].at[:, 3].set(0)
        head.head_bias[...] = head.head_bias[...].at[3].set(0)
        assert error(renewed) < error(nnx.state(silent, nnx.Param))
    _, _, none = reseed(
        graphdef,
        TrainState(params, (), jnp.int32(4), jnp.int32(-1), jnp.ones(EXPERTS)),
        constants,
        batch,
        SHAPE,
        1e-3,
    )
    assert none == 0


def config(codes, router, top_k=0, lam=1e-3):
    return ConfigDict(
        {
            "train": {"codes": codes, "lam": lam, "atoms_per_step": 1},
            "router": {"kind": router, "top_k": top_k},
        }
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("jiont", "codebook"), "did you mean 'joint'"),
        (("joint", "none"), "router.kind"),
        (("varpro", "codebook"), "router.kind"),
        (("varpro", "none", 0, 0.0), "train.lam"),
        (("sparse_varpro", "none", 0), "router.top_k"),
    ],
)
def test_what_does_not_fit_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        build_strategy(config(*settings), Objective())
