"""Operators: adjoints, masks, runs of points, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nid_jax.coding import operators
from nid_jax.fields import coordinates


def _mask(count, seed=0):
    seen = np.random.default_rng(seed).uniform(size=count) < 0.4
    seen[0] = True
    return seen


def _rays(measurements=9, length=4, seed=1):
    generator = np.random.default_rng(seed)
    points = generator.uniform(-1, 1, (measurements * length, 2)).astype(np.float32)
    factors = generator.normal(size=(measurements, length)).astype(np.float32)
    return operators.Sample(jnp.asarray(points), jnp.asarray(factors), run_length=length)


OPERATORS = {
    "sample": lambda: operators.sample((5, 3)),
    "points": lambda: operators.sample(np.random.default_rng(0).uniform(-1, 1, (17, 3))),
    "mask": lambda: operators.mask((5, 3), _mask(15).reshape(5, 3)),
    "mask per signal": lambda: operators.mask((5, 3), np.stack([_mask(15), _mask(15, 1)])),
    "runs": _rays,
    "plain runs": lambda: dataclasses.replace(_rays(), factors=None),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint(name):
    operator = OPERATORS[name]()
    generator = np.random.default_rng(2)
    samples = generator.normal(size=(2, len(operator.points), 3)).astype(np.float32)
    measured = generator.normal(size=(2, operator.num_measurements, 3)).astype(np.float32)
    forward = np.vdot(np.asarray(operator.measure(jnp.asarray(samples)), np.float64), measured)
    backward = np.vdot(samples, np.asarray(operator.adjoint(jnp.asarray(measured)), np.float64))
    assert forward == pytest.approx(backward, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_linear_and_alike_on_every_channel(name):
    operator = OPERATORS[name]()
    a, b = np.random.default_rng(3).normal(size=(2, 2, len(operator.points), 4))
    together = operator.measure(jnp.asarray(2 * a - b, jnp.float32))
    apart = 2 * operator.measure(jnp.asarray(a, jnp.float32)) - operator.measure(
        jnp.asarray(b, jnp.float32)
    )
    np.testing.assert_allclose(together, apart, atol=2e-5)
    one = operator.measure(jnp.asarray(a[..., 2:3], jnp.float32))
    whole = operator.measure(jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(one[..., 0], whole[..., 2], atol=1e-6)


def test_runs_are_weighted_sums():
    operator = _rays()
    samples = np.random.default_rng(4).normal(size=(36, 2)).astype(np.float32)
    runs = samples.reshape(9, 4, 2).astype(np.float64)
    expected = (runs * np.asarray(operator.factors)[:, :, None]).sum(1)
    np.testing.assert_allclose(operator.measure(samples), expected, atol=1e-5)
    assert operator.num_measurements == 9


def test_mask_measures_zero_where_nothing_was_seen():
    seen = _mask(15).reshape(5, 3)
    operator = operators.mask((5, 3), seen)
    samples = np.random.default_rng(5).normal(size=(15, 1)).astype(np.float32)
    measured = np.asarray(operator.measure(samples))
    np.testing.assert_array_equal(measured[seen.ravel()], samples[seen.ravel()])
    assert (measured[~seen.ravel()] == 0).all()
    np.testing.assert_array_equal(operator.points, coordinates.grid((5, 3)))


def test_an_operator_is_an_argument_of_a_jitted_function():
    operator = _rays()
    samples = jnp.ones((36, 1))
    jitted = jax.jit(lambda op, values: op.measure(values))
    np.testing.assert_allclose(jitted(operator, samples), operator.measure(samples), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: operators.sample(np.zeros((0, 2))), "points must be"),
        (lambda: operators.sample(np.zeros(4)), "points must be"),
        (lambda: operators.sample(np.full((2, 2), np.nan)), "finite"),
        (lambda: operators.sample((0, 3)), "grid shape"),
        (lambda: operators.mask((5, 3), np.ones((3, 5))), r"shape \(3, 5\); allowed"),
        (lambda: operators.mask((5, 3), np.full((5, 3), 0.5)), "0 and 1 only"),
        (lambda: operators.mask((5, 3), np.zeros((5, 3), bool)), "shows no point"),
        (lambda: operators.mask((5, 3), [[1] * 15, [0] * 15]), "signal 1 shows no point"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_weights_are_combined_and_checked():
    operator = operators.mask((2, 2), [1, 1, 0, 1])
    np.testing.assert_array_equal(
        operators.combined_weights(operator, np.array([2.0, 3, 4, 5])), [2, 3, 0, 5]
    )
    assert operators.combined_weights(operators.sample((2, 2)), None) is None
    for bad in (np.ones(3), np.array([1, 1, -1, 1.0]), np.array([1, 1, np.nan, 1.0])):
        with pytest.raises(ValueError, match="weights"):
            operators.combined_weights(operator, bad)
