"""Codes by gradient descent against least squares, and against Adam that renders every point."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nid_jax.coding import gradient
from nid_jax.coding.gram import normal_equations
from nid_jax.coding.operators import sample
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import SOLVERS
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates, embeddings, router_networks
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary

GRID, EXPERTS, SIGNALS = (9, 8), 12, 4
POINTS = coordinates.grid(GRID)


def _dictionary(channels=1, kind=IndependentDictionary):
    return kind(
        embeddings.Identity(2),
        EXPERTS,
        channels,
        Layers(3, 8, "sine", 8.0),
        rngs=nnx.Rngs(params=2),
    )


@pytest.fixture(scope="module")
def dictionary():
    return _dictionary()


def _basis(dictionary):
    """[P, E, C] in float64."""
    return np.asarray(dictionary.basis(jnp.asarray(POINTS)), np.float64)


def _signals(dictionary, noise=0.1, active=EXPERTS):
    """Measurements [S, P, C] from random codes, and the codes."""
    rng = np.random.default_rng(101)
    codes = rng.standard_normal((SIGNALS, EXPERTS))
    for row in codes:
        row[rng.permutation(EXPERTS)[active:]] = 0
    values = np.einsum("se,pec->spc", codes, _basis(dictionary)) + rng.standard_normal(
        (SIGNALS, 1, 1)
    )
    values += noise * rng.standard_normal(values.shape)
    return values.astype(np.float32), codes


def _least_squares(dictionary, values, support=None):
    """Best codes, bias and mean squared residual of each signal, by numpy's lstsq."""
    basis = _basis(dictionary)
    points, experts, channels = basis.shape
    constant = np.broadcast_to(np.eye(channels), (points, channels, channels))
    design = np.concatenate([basis, constant], 1).swapaxes(1, 2).reshape(points * channels, -1)
    codes, residuals = np.zeros((len(values), experts)), []
    for s, value in enumerate(values):
        used = np.ones(experts + channels, bool)
        if support is not None:
            used[:experts] = support[s]
        right = value.astype(np.float64).reshape(-1)
        found = np.linalg.lstsq(design[:, used], right, rcond=None)[0]
        residuals.append(np.mean((design[:, used] @ found - right) ** 2))
        codes[s, np.flatnonzero(used[:experts])] = found[: used[:experts].sum()]
    return codes, np.array(residuals)


def _solve(dictionary, values, method="gradient", **options):
    known = ("weights", "router", "signals")
    given = {name: options.pop(name) for name in known if name in options}
    return SOLVERS[method](**options).solve(Problem(dictionary, sample(GRID), values, **given))


def _mean_squares(dictionary, values, codes, bias):
    basis = _basis(dictionary)
    rendered = np.einsum("se,pec->spc", np.asarray(codes, np.float64), basis)
    return np.square(rendered + np.asarray(bias)[:, None] - values).mean((1, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_reaches_least_squares(channels):
    dictionary = _dictionary(channels)
    values, _ = _signals(dictionary)
    solution = _solve(dictionary, values, steps=1500, learning_rate=0.1)
    _, best = _least_squares(dictionary, values)
    np.testing.assert_allclose(solution.residual, best, rtol=2e-3)
    assert (np.asarray(solution.residual) >= best * (1 - 1e-3)).all()
    achieved = _mean_squares(dictionary, values, solution.codes, solution.bias)
    np.testing.assert_allclose(solution.residual, achieved, rtol=1e-3)


def test_first_entry_is_the_start_and_the_last_the_end(dictionary):
    values, _ = _signals(dictionary)
    solution = _solve(dictionary, values, steps=7, learning_rate=0.05)
    history = np.asarray(solution.history["residual"])
    assert history.shape == (8, SIGNALS)
    # Zero codes and zero bias: the error is the signal's own mean square.
    np.testing.assert_allclose(
        history[0], np.square(values, dtype=np.float64).mean((1, 2)), rtol=1e-5
    )
    achieved = _mean_squares(dictionary, values, solution.codes, solution.bias)
    np.testing.assert_allclose(history[-1], achieved, rtol=1e-4)
    np.testing.assert_allclose(solution.residual, history[-1], rtol=1e-4)
    assert (history[-1] < history[1]).all()
    assert (np.asarray(solution.iterations) == 7).all()


def test_no_steps_leave_the_start(dictionary):
    values, _ = _signals(dictionary)
    solution = _solve(dictionary, values, steps=0)
    assert not np.asarray(solution.codes).any()
    assert np.asarray(solution.history["residual"]).shape == (1, SIGNALS)


def _plain_adam(dictionary, values, codes, steps, learning_rate):
    """Adam on codes of unit atoms with the best bias at every step, rendering all points.

    -> codes, residuals [steps + 1, S]; Adam's recursion written out in float64.
    """
    basis = _basis(dictionary)
    centred = basis - basis.mean(0)
    target = values.astype(np.float64)
    target = target - target.mean(1, keepdims=True)
    scale = 1 / np.sqrt(np.square(centred).mean((0, 2)))
    atoms = centred * scale[:, None]
    codes = codes / scale
    first, second = np.zeros_like(codes), np.zeros_like(codes)
    curve = []
    for step in range(steps + 1):
        residual = np.einsum("se,pec->spc", codes, atoms) - target
        curve.append(np.square(residual).mean((1, 2)))
        if step == steps:
            break
        slope = 2 * np.einsum("spc,pec->se", residual, atoms) / residual[0].size
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        rate = learning_rate * (0.1 + 0.9 * (1 + np.cos(np.pi * step / steps)) / 2)
        unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        codes = codes - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return codes * scale, np.array(curve)


@pytest.mark.parametrize("channels", [1, 2])
def test_same_path_as_adam_over_all_points(channels):
    dictionary = _dictionary(channels, SharedDictionary)
    values, _ = _signals(dictionary)
    solution = _solve(dictionary, values, steps=40, learning_rate=0.05)
    start = np.zeros((SIGNALS, EXPERTS))
    codes, curve = _plain_adam(dictionary, values, start, 40, 0.05)
    np.testing.assert_allclose(solution.history["residual"][1:], curve[1:], rtol=2e-3)
    np.testing.assert_allclose(solution.codes, codes, atol=5e-3 * np.abs(codes).max())


def test_scale_of_an_atom_does_not_matter():
    """A head ten times as large has a code a tenth as large, after every step."""
    dictionary = _dictionary(kind=SharedDictionary)
    values, _ = _signals(dictionary)
    before = _solve(dictionary, values, steps=10)
    dictionary.head_kernel[...] = dictionary.head_kernel[...].at[..., 3].multiply(10)
    dictionary.head_bias[...] = dictionary.head_bias[...].at[3].multiply(10)
    after = _solve(dictionary, values, steps=10)
    np.testing.assert_allclose(before.residual, after.residual, rtol=1e-3)
    np.testing.assert_allclose(before.codes[:, 3], 10 * after.codes[:, 3], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dense_steps", [0, 300, 5000])
def test_top_k_is_exact(dictionary, dense_steps):
    values, _ = _signals(dictionary, noise=0.02, active=3)
    solution = _solve(
        dictionary, values, steps=1500, learning_rate=0.1, top_k=3, dense_steps=dense_steps
    )
    codes = np.asarray(solution.codes)
    assert codes.shape == (SIGNALS, EXPERTS)
    assert (np.count_nonzero(codes, -1) == 3).all()
    achieved = _mean_squares(dictionary, values, codes, solution.bias)
    # The quadratic form in float32 cancels to a few roundings of the signal's energy.
    rounding = 1e-6 * np.square(values).mean()
    np.testing.assert_allclose(solution.residual, achieved, rtol=1e-3, atol=rounding)
    assert np.asarray(solution.history["residual"]).shape == (1501, SIGNALS)
    if dense_steps < 1500:
        # On the support that it chose, the codes are the best there are.
        _, best = _least_squares(dictionary, values, codes != 0)
        np.testing.assert_allclose(solution.residual, best, rtol=5e-3, atol=rounding)


def test_the_strongest_experts_are_kept_by_their_atoms_norm(dictionary):
    values, _ = _signals(dictionary)
    equations = normal_equations(dictionary, sample(GRID), values)
    codes = np.random.default_rng(102).standard_normal((SIGNALS, EXPERTS)).astype(np.float32)
    chosen = np.asarray(gradient.strongest(equations, codes, 5))
    basis = _basis(dictionary)
    norms = np.sqrt(np.square(basis - basis.mean(0)).sum((0, 2)))
    order = np.argsort(-np.abs(codes) * norms, -1)[:, :5]
    np.testing.assert_array_equal(np.sort(chosen), np.sort(order))


@pytest.mark.parametrize("own_weights", [False, True])
def test_a_step_on_chosen_experts_is_that_of_all_with_the_rest_held_at_zero(
    dictionary, own_weights, monkeypatch
):
    values, _ = _signals(dictionary)
    draw = np.random.default_rng(103)
    weights = draw.uniform(0.5, 1, values.shape[:2]) if own_weights else None
    equations = normal_equations(dictionary, sample(GRID), values, weights)
    codes = jnp.asarray(draw.standard_normal((SIGNALS, EXPERTS)), jnp.float32)
    chosen = jnp.asarray([draw.choice(EXPERTS, 4, replace=False) for _ in range(SIGNALS)])
    few = gradient._descend_chosen(equations, codes, chosen, 20, 0.01)
    monkeypatch.setattr(gradient, "_OWN_NUMBERS", 0)
    large = gradient._descend_chosen(equations, codes, chosen, 20, 0.01)
    for mine, other in zip(few, large, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=1e-5)


def test_zero_codes_keep_the_experts_that_fit_best(dictionary):
    """One expert per signal, from zero: the one of largest correlation, not the first."""
    basis = _basis(dictionary)
    chosen = np.array([11, 2, 7, 5])
    values = np.moveaxis(basis[:, chosen], 1, 0).astype(np.float32)
    solution = _solve(dictionary, values, steps=600, learning_rate=0.1, top_k=1)
    np.testing.assert_array_equal(np.argmax(np.abs(solution.codes), -1), chosen)
    np.testing.assert_allclose(np.asarray(solution.codes)[np.arange(4), chosen], 1, atol=1e-2)
    absolute = _solve(dictionary, values, steps=20, top_k=1, data="l1")
    assert (np.count_nonzero(absolute.codes, -1) == 1).all()
    assert not (np.argmax(np.abs(absolute.codes), -1) == 0).all()


def test_absolute_error_forgets_outliers(dictionary):
    values, codes = _signals(dictionary, noise=0.0)
    rng = np.random.default_rng(104)
    wrong = rng.random(values.shape) < 0.1
    values = np.where(wrong, rng.uniform(5, 10, values.shape), values).astype(np.float32)
    options = {"steps": 1500, "learning_rate": 0.1}
    robust = _solve(dictionary, values, data="l1", **options)
    squares = _solve(dictionary, values, **options)

    def error(solution):
        return np.abs(_render_error(dictionary, solution, values, wrong)).mean()

    assert error(robust) < 0.1 * error(squares)
    history = np.asarray(robust.history["absolute"])
    assert history.shape == (1501, SIGNALS)
    np.testing.assert_allclose(history[0], np.abs(values).mean((1, 2)), rtol=1e-4)
    basis = _basis(dictionary)
    rendered = np.einsum("se,pec->spc", np.asarray(robust.codes, np.float64), basis)
    difference = rendered + np.asarray(robust.bias)[:, None] - values
    np.testing.assert_allclose(history[-1], np.abs(difference).mean((1, 2)), rtol=1e-3)
    np.testing.assert_allclose(robust.residual, np.square(difference).mean((1, 2)), rtol=1e-3)


def _render_error(dictionary, solution, values, wrong):
    """What is left where the measurements were not damaged."""
    basis = _basis(dictionary)
    rendered = np.einsum("se,pec->spc", np.asarray(solution.codes, np.float64), basis)
    return (rendered + np.asarray(solution.bias)[:, None] - values)[~wrong]


def test_absolute_error_with_top_k(dictionary):
    values, _ = _signals(dictionary, noise=0.02)
    for dense_steps in (0, 20, 100):
        solution = _solve(dictionary, values, steps=60, top_k=4, dense_steps=dense_steps, data="l1")
        assert (np.count_nonzero(solution.codes, -1) == 4).all()
        assert np.asarray(solution.history["absolute"]).shape == (61, SIGNALS)


@pytest.fixture(scope="module")
def router():
    return router_networks.Linear(EXPERTS, 1, GRID, rngs=nnx.Rngs(params=3))


def _grids(values):
    return jnp.asarray(values.reshape(SIGNALS, *GRID, 1))


@pytest.mark.parametrize("top_k", [0, 4])
def test_start_from_the_router(dictionary, router, top_k):
    values, _ = _signals(dictionary)
    signals = _grids(values)
    gates = router.gates(None, signals, top_k=top_k)
    start = _mean_squares(dictionary, values, gates.values, gates.bias)
    arguments = {"router": router, "signals": signals, "top_k": top_k}
    predicted = _solve(dictionary, values, "router", **arguments)
    np.testing.assert_allclose(predicted.residual, start, rtol=1e-3)
    np.testing.assert_array_equal(predicted.codes, gates.values)
    solution = _solve(dictionary, values, init="router", steps=30, **arguments)
    np.testing.assert_allclose(solution.history["residual"][0], start, rtol=1e-3)
    assert (np.asarray(solution.residual) < start).all()
    if top_k:
        # Which experts serve stays the router's choice.
        kept = np.asarray(solution.codes) != 0
        np.testing.assert_array_equal(kept, np.asarray(gates.values) != 0)


def test_descent_of_the_router_itself(dictionary, router):
    values, _ = _signals(dictionary)
    signals = _grids(values)
    before = jax.tree.map(np.asarray, nnx.state(router))
    solution = _solve(
        dictionary,
        values,
        variables="router",
        steps=200,
        learning_rate=0.01,
        router=router,
        signals=signals,
        top_k=6,
    )
    assert (np.count_nonzero(solution.codes, -1) == 6).all()
    history = np.asarray(solution.history["residual"])
    gates = router.gates(None, signals, top_k=6)
    start = _mean_squares(dictionary, values, gates.values, gates.bias)
    np.testing.assert_allclose(history[0], start, rtol=1e-3)
    assert (history[-1] < 0.5 * history[0]).all()
    achieved = _mean_squares(dictionary, values, solution.codes, solution.bias)
    np.testing.assert_allclose(solution.residual, achieved, rtol=1e-3)
    # The caller's router is not moved.
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(router)))


def test_descend_is_optax_adam_under_a_cosine():
    """A stretched bowl: the same path as optax in a Python loop."""
    widths = jnp.array([1.0, 5.0])

    def objective(variables):
        return widths * jnp.square(variables["a"] - 2) + jnp.square(variables["b"])

    start = {"a": jnp.zeros(2), "b": jnp.ones(2)}
    found, history = gradient.descend(objective, start, 12, 0.1)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 12, 0.1))
    state, expected = optimizer.init(start), start
    for step in range(12):
        np.testing.assert_allclose(history[step], objective(expected), rtol=1e-5)
        slopes = jax.grad(lambda v: objective(v).sum())(expected)
        updates, state = optimizer.update(slopes, state)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    np.testing.assert_allclose(history[12], objective(expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "ones"}, r"init: 'ones'; allowed: zero, router"),
        ({"variables": "all"}, r"variables: 'all'; allowed: codes, router"),
        ({"data": "huber"}, r"data: 'huber'; allowed: l2, l1"),
        ({"init": "router"}, r"router: None; allowed: linear, conv"),
        ({"data": "l1", "weights": np.ones(72, np.float32)}, r"data: 'l1'; allowed: l2, or Robust"),
    ],
)
def test_options_that_cannot_be(dictionary, options, message):
    with pytest.raises(ArgumentError, match=message):
        _solve(dictionary, np.zeros((1, 72, 1), np.float32), **options)
