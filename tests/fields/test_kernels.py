"""E[cos(w . d)] against each kernel's formula in float64, at more than five standard errors."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from nid_jax.fields.kernels import (
    HAT_BOUNDS,
    KERNELS,
    MAX_FREQUENCY,
    MIN_LENGTH_SCALE,
    sample_frequencies,
)

COUNT = 100_000
# (kernel, shape as given, shape meant in each of 1, 2, 3 dimensions)
CASES = [
    ("gaussian", 0.0, (0, 0, 0)),
    ("laplacian", 0.0, (0, 0, 0)),
    ("exponential", 0.0, (0, 0, 0)),
    ("matern", 0.0, (1.5, 1.5, 1.5)),
    ("matern", 0.3, (0.3, 0.3, 0.3)),
    ("matern", 4.0, (4, 4, 4)),
    ("gamma_exponential", 0.0, (1.5, 1.5, 1.5)),
    ("gamma_exponential", 0.4, (0.4, 0.4, 0.4)),
    ("gamma_exponential", 2.0, (2, 2, 2)),
    ("rational_quadratic", 0.0, (1, 1, 1)),
    ("rational_quadratic", 0.2, (0.2, 0.2, 0.2)),
    ("compact_polynomial", 0.0, (1, 2, 2)),
    ("compact_polynomial", 3.5, (3.5, 3.5, 3.5)),
]
# Every kernel in every dimension; other shapes in one, so that the file stays quick.
# Quick in one dimension, another for the next; the compact kernel, whose draws differ, in each.
GRID = [
    pytest.param(
        *(kernel, given_shape, meant[dims - 1], dims),
        marks=[]
        if dims == number % 3 + 1 or kernel == "compact_polynomial"
        else [pytest.mark.slow],
    )
    for number, (kernel, given_shape, meant) in enumerate(CASES)
    for dims in (1, 2, 3)
    if given_shape == 0 or dims == number % 3 + 1
] + [("compact_polynomial", 1.6, 1.6, 1)]


def formula(kernel, shape, distance, length_scale):
    """The kernel at distances [M, D] -> [M], float64."""
    r = np.linalg.norm(distance, axis=-1) / length_scale
    if kernel == "laplacian":
        return np.exp(-np.abs(distance).sum(axis=-1) / length_scale)
    if kernel == "matern":
        z = math.sqrt(2 * shape) * r
        return 2 ** (1 - shape) / special.gamma(shape) * z**shape * special.kv(shape, z)
    return {
        "gaussian": lambda: np.exp(-(r**2) / 2),
        "exponential": lambda: np.exp(-r),
        "gamma_exponential": lambda: np.exp(-(r**shape)),
        "rational_quadratic": lambda: (1 + r**2 / (2 * shape)) ** -shape,
        "compact_polynomial": lambda: np.maximum(1 - r, 0) ** shape,
    }[kernel]()


def deviations(frequencies, distance, expected):
    """|mean of cos(w . d) - expected| in standard errors, [M]."""
    waves = np.cos(np.asarray(frequencies, np.float64) @ distance.T)
    error = waves.std(axis=0, ddof=1) / math.sqrt(len(waves))
    return np.abs(waves.mean(axis=0) - expected) / error


@pytest.mark.parametrize(("kernel", "given_shape", "shape", "dims"), GRID)
def test_mean_wave_is_the_kernel(kernel, given_shape, shape, dims):
    seed = np.random.SeedSequence().entropy % 2**32
    rng = np.random.default_rng(seed)
    length_scale = 10 ** rng.uniform(-1.5, 0.5)
    frequencies = sample_frequencies(
        jax.random.key(seed), kernel, COUNT, dims, length_scale, given_shape
    )
    assert frequencies.shape == (COUNT, dims)
    assert frequencies.dtype == np.float32
    direction = rng.normal(size=(6, dims))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    distance = direction * (np.array([0.05, 0.2, 0.4, 0.6, 0.9, 1.7]) * length_scale)[:, None]
    right = deviations(frequencies, distance, formula(kernel, shape, distance, length_scale))
    assert right.max() < 5.5, f"seed {seed}"
    # The same samples tell the kernel from itself with another length scale.
    for wrong in (0.85, 1.18):
        expected = formula(kernel, shape, distance, wrong * length_scale)
        assert deviations(frequencies, distance, expected).max() > 8, f"seed {seed}"


@pytest.mark.parametrize("dims", [1, 3])
def test_hat_bounds_enclose_the_bessel_function(dims):
    height, tail = HAT_BOUNDS[dims]
    z = np.linspace(1e-6, 200, 400_001)
    density = special.spherical_jn((dims - 1) // 2, z) ** 2
    assert density.max() <= height
    assert (density * z**2).max() <= tail


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(KERNELS)),
    st.sampled_from([1, 3]),
    st.sampled_from([0.0, 0.01, 0.1, 1.999, 2.0, 50.0]),
    st.sampled_from([MIN_LENGTH_SCALE, 1.0, 1e6]),
    st.integers(0, 2**31 - 1),
)
def test_frequencies_stay_finite_and_bounded(kernel, dims, shape, length_scale, seed):
    if kernel == "gamma_exponential":
        shape = min(shape, 2.0)
    if kernel == "compact_polynomial" and shape:
        shape = max(shape, 2.0)
    frequencies = np.asarray(
        sample_frequencies(jax.random.key(seed), kernel, COUNT // 10, dims, length_scale, shape)
    )
    assert np.isfinite(frequencies).all()
    assert np.abs(frequencies).max() <= MAX_FREQUENCY
    assert np.abs(frequencies).max() > 0


@pytest.mark.slow
def test_same_key_same_frequencies_other_key_others():
    for kernel in ("laplacian", "compact_polynomial"):
        first, again, other = (
            np.asarray(sample_frequencies(jax.random.key(seed), kernel, COUNT, 2))
            for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("materm", 4, 2), r"dictionary\.embedding\.kernel='materm'.*did you mean matern"),
        (("gaussian", 4, 2, 0.0), "length_scale"),
        (("gaussian", 4, 2, math.nan), "length_scale"),
        (("matern", 4, 2, 1.0, -1.0), "shape"),
        (("gamma_exponential", 4, 2, 1.0, 2.1), "at most 2"),
        (("compact_polynomial", 4, 2, 1.0, 1.5), "at least 2"),
        (("compact_polynomial", 4, 1, 1.0, 0.5), "at least 1"),
        (("compact_polynomial", 4, 4), "1 to 3 dimensions"),
    ],
)
def test_bad_kernel_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_frequencies(jax.random.key(0), *arguments)
