"""Tests of nid_jax.geometry.truncation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nid_jax.geometry.truncation import KINDS, Truncation

LIMITS = st.floats(0.01, 10)


@given(kind=st.sampled_from(list(KINDS)), limit=LIMITS, seed=st.integers(0, 100))
def test_sign_and_slope_at_the_surface_are_kept_and_the_limit_is_not_passed(kind, limit, seed):
    truncation = Truncation(limit, kind)
    distances = np.sort(np.random.default_rng(seed).normal(0, 3 * limit, 500))
    found = truncation(distances)
    assert (np.sign(found) == np.sign(distances)).all()
    assert abs(found).max() <= limit
    assert (np.diff(found) >= 0).all()
    small = 1e-4 * limit
    np.testing.assert_allclose(truncation(np.array([-small, small])), [-small, small], rtol=1e-6)


@given(kind=st.sampled_from(list(KINDS)), limit=LIMITS, seed=st.integers(0, 100))
def test_slope_is_the_derivative(kind, limit, seed):
    truncation = Truncation(limit, kind)
    distances = np.random.default_rng(seed).normal(0, 2 * limit, 200)
    step = 1e-5 * limit
    # Of the kink of a clipped distance there is no derivative.
    distances = distances[abs(abs(distances) - limit) > 2 * step]
    difference = (truncation(distances + step) - truncation(distances - step)) / (2 * step)
    np.testing.assert_allclose(truncation.slope(distances), difference, atol=1e-6)


def test_clipped_and_levelled_distances_are_what_they_say():
    distances = np.array([-3.0, -0.1, 0.0, 0.2, 5.0])
    np.testing.assert_array_equal(Truncation(0.2)(distances), [-0.2, -0.1, 0.0, 0.2, 0.2])
    levelled = Truncation(0.2, "tanh")(distances)
    np.testing.assert_allclose(levelled, [0.2 * np.tanh(x / 0.2) for x in distances])
    np.testing.assert_array_equal(Truncation()(distances), distances)
    np.testing.assert_array_equal(Truncation().slope(distances), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_what_is_known_a_limit_would_tell_apart_what_nobody_knows(kind):
    limit = Truncation(kind=kind).largest_limit(0.3)
    truncation = Truncation(limit, kind)
    np.testing.assert_allclose(truncation(np.array([0.3, 50.0])), limit, rtol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1.0}, r"data\.truncation: -1\.0; allowed: 0 \(none\) or more"),
        ({"limit": float("nan")}, r"data\.truncation: nan"),
        ({"kind": "sigmoid"}, r"data\.truncation_kind: 'sigmoid'; allowed: clip, tanh"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Truncation(**options)
