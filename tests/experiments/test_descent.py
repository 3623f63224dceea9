"""Descents: where they stop, and that each step takes the rate of its place."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers.descent import descend


def test_descents_stop_at_their_marks():
    target = jnp.asarray([[1.0, -2.0], [0.5, 4.0]])
    marks = descend(
        lambda v, *_: jnp.square(v - target).sum(), jnp.zeros((2, 2)), 0.1, marks=(3, 10, 400)
    ).marks
    assert [mark.steps for mark in marks] == [3, 10, 400]
    # Adam's first steps move by the learning rate, whatever the gradient.
    np.testing.assert_allclose(np.abs(marks[0].variables), 0.3, rtol=0.1)
    np.testing.assert_allclose(marks[-1].variables, target, atol=1e-2)
    assert marks[-1].seconds / 400 == pytest.approx(marks[0].seconds / 3)


def test_a_descent_is_that_of_adam_with_a_cosine():
    target, start = jnp.asarray([1.0, -2.0, 30.0]), jnp.zeros(3)
    found = descend(lambda v, data, _: jnp.cosh(v - data).sum(), start, 0.2, target, marks=(7, 20))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.2, 20, 0.1))
    variables, moments = start, optimizer.init(start)
    for number in range(20):
        slopes = jnp.sinh(variables - target)
        updates, moments = optimizer.update(slopes, moments)
        variables = optax.apply_updates(variables, updates)
        if number == 6:
            np.testing.assert_allclose(found.marks[0].variables, variables, rtol=1e-5)
    np.testing.assert_allclose(found.last.variables, variables, rtol=1e-5)
