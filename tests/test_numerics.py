"""The sine kernel and the small linear algebra, against float64 versions in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nid_jax import numerics

KERNELS = [
    (numerics.sin, np.sin),
    (numerics.cos, np.cos),
    (numerics.polynomial_sin, np.sin),
    (numerics.polynomial_cos, np.cos),
]
IDS = ["sin", "cos", "polynomial_sin", "polynomial_cos"]


def _error(function, exact, x):
    return np.abs(np.asarray(jax.jit(function)(x), np.float64) - exact(x.astype(np.float64)))


def _arguments():
    """Uniform, small, and next to multiples of pi / 2, where the reduction turns over."""
    rng = np.random.default_rng()
    reach = numerics.SINE_RANGE
    whole = rng.uniform(-reach, reach, 400_000)
    small = 10.0 ** rng.uniform(-30, 2, 100_000) * rng.choice([-1, 1], 100_000)
    turns = rng.integers(-int(reach * 2 / np.pi), int(reach * 2 / np.pi), 100_000) * (np.pi / 2)
    turns = turns * (1 + rng.integers(-4, 5, turns.shape) * 2.0**-24)
    ends = np.array([0.0, -0.0, reach, -reach, np.pi / 2, -np.pi / 2])
    return np.concatenate([whole, small, turns, ends]).astype(np.float32)


@pytest.mark.parametrize(("function", "exact"), KERNELS, ids=IDS)
def test_error_within_the_stated_bound(function, exact):
    x = _arguments()
    error = _error(function, exact, x)
    worst = np.argmax(error)
    assert error[worst] <= numerics.SINE_ERROR, x[worst]


@pytest.mark.parametrize(("function", "exact"), KERNELS, ids=IDS)
@settings(max_examples=30, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        64,
        elements=st.floats(-numerics.SINE_RANGE, numerics.SINE_RANGE, width=32),
    )
)
def test_error_at_any_argument(function, exact, x):
    assert _error(function, exact, x).max() <= numerics.SINE_ERROR


@pytest.mark.parametrize(("function", "exact"), KERNELS, ids=IDS)
def test_error_beyond_the_range_stays_that_of_rounding(function, exact):
    x = np.random.default_rng().uniform(-1e5, 1e5, 100_000).astype(np.float32)
    # Half a unit in the last place of the argument is 2**-24 |x|.
    assert (_error(function, exact, x) <= numerics.SINE_ERROR + np.abs(x) * 2.0**-24).all()


def test_small_arguments_keep_their_digits():
    x = np.float32(10.0) ** np.arange(-30, -3, dtype=np.float32)
    np.testing.assert_allclose(numerics.polynomial_sin(x), np.sin(x.astype(np.float64)), rtol=2e-7)


@pytest.mark.parametrize("function", [numerics.sin, numerics.cos])
def test_what_is_not_a_number_stays_so(function):
    assert np.isnan(function(jnp.array([np.nan, np.inf, -np.inf]))).all()


def test_derivatives_of_both_orders():
    x = np.random.default_rng().uniform(-200, 200, 500).astype(np.float32)
    x64 = x.astype(np.float64)
    for function, first, second in (
        (numerics.sin, np.cos, lambda v: -np.sin(v)),
        (numerics.cos, lambda v: -np.sin(v), lambda v: -np.cos(v)),
    ):
        for derivative in (jax.grad, jax.jacfwd):
            once = jax.jit(jax.vmap(derivative(function)))(x)
            twice = jax.jit(jax.vmap(jax.grad(derivative(function))))(x)
            np.testing.assert_allclose(once, first(x64), atol=numerics.SINE_ERROR)
            np.testing.assert_allclose(twice, second(x64), atol=numerics.SINE_ERROR)


def test_same_numbers_through_vmap_and_without_jit():
    x = np.random.default_rng().uniform(-50, 50, (7, 11)).astype(np.float32)
    mapped = jax.jit(jax.vmap(numerics.sin))(x)
    np.testing.assert_array_equal(mapped, jax.jit(numerics.sin)(x))
    with jax.disable_jit():
        np.testing.assert_allclose(numerics.sin(x), mapped, atol=numerics.SINE_ERROR)


def test_gradient_of_a_batch_through_scan_and_remat():
    x = np.random.default_rng().uniform(-3, 3, (5, 4)).astype(np.float32)

    @jax.jit
    def total(x):
        body = jax.checkpoint(lambda carry, row: (carry + numerics.sin(30 * row).sum(), None))
        return jax.lax.scan(body, 0.0, x)[0]

    exact = 30 * np.cos(30 * x.astype(np.float64))
    np.testing.assert_allclose(jax.grad(total)(x), exact, atol=1e-3)


def test_double_precision_is_the_librarys():
    x = np.random.default_rng().uniform(-100, 100, 1000)
    with jax.enable_x64(True):
        value = numerics.sin(jnp.asarray(x))
        slope = jax.vmap(jax.grad(numerics.sin))(jnp.asarray(x))
        assert value.dtype == slope.dtype == jnp.float64
        np.testing.assert_allclose(value, np.sin(x), atol=1e-14)
        np.testing.assert_allclose(slope, np.cos(x), atol=1e-14)


def test_half_precision_keeps_its_type():
    x = jnp.asarray([0.5, 3.0], jnp.float16)
    assert numerics.sin(x).dtype == jnp.float16
    np.testing.assert_allclose(numerics.sin(x), np.sin([0.5, 3.0]), atol=1e-3)


def test_einsum_asks_for_full_precision():
    text = str(
        jax.make_jaxpr(lambda a, b: numerics.einsum("ij,jk->ik", a, b))(*[jnp.ones((2, 2))] * 2)
    )
    assert "HIGHEST" in text


def test_safe_divide_and_its_gradient():
    numerator, denominator = jnp.array([1.0, 0.0, 3.0]), jnp.array([0.0, 0.0, -2.0])
    np.testing.assert_array_equal(numerics.safe_divide(numerator, denominator), [0, 0, -1.5])
    for argument in (0, 1):
        slope = jax.grad(lambda *v: numerics.safe_divide(*v).sum(), argument)(
            numerator, denominator
        )
        assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope, [0, 0, -0.75])


def _spread_matrix(rng, size, condition):
    rotation, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values = np.geomspace(1, 1 / condition, size)
    matrix = (rotation * values) @ rotation.T
    # Badly scaled rows and columns: what the unit diagonal is there for.
    scale = 10.0 ** rng.uniform(-3, 3, size)
    return matrix * scale[:, None] * scale


_factorise = jax.jit(numerics.scaled_cholesky)
_solve = jax.jit(numerics.solve_scaled_cholesky)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from((1, 2, 12)))
def test_scaled_cholesky_solves(seed, size):
    rng = np.random.default_rng(seed)
    matrix = _spread_matrix(rng, size, 100.0).astype(np.float32)
    matrix = (matrix + matrix.T) / 2
    right = (matrix.astype(np.float64) @ rng.standard_normal((size, 2))).astype(np.float32)
    factor, scale, shift, finite = _factorise(matrix, jnp.float32(0))
    assert finite
    assert shift == 0
    solution = np.asarray(_solve(factor, scale, right), np.float64)
    exact = np.linalg.solve(matrix.astype(np.float64), right.astype(np.float64))
    # In the units of the unit diagonal, where the condition is bounded.
    unit = np.sqrt(np.diagonal(matrix))[:, None]
    np.testing.assert_allclose(
        unit * solution, unit * exact, atol=1e-3 * np.abs(unit * exact).max()
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from((0, 1, 2, 12, 13, 24, 57, 96)))
def test_inverse_of_triangles(seed, size):
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal((2, size, 2 * size))
    factor = np.linalg.cholesky(draw @ draw.swapaxes(-1, -2) / size).astype(np.float32)
    # What lies above the diagonal is not read.
    above = np.triu(rng.standard_normal((size, size)), 1).astype(np.float32)
    found = np.asarray(jax.jit(numerics.inverse_triangle)(factor + above), np.float64)
    exact = np.linalg.inv(factor.astype(np.float64))
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max(initial=0))
    assert (np.triu(found, 1) == 0).all()


def test_inverse_of_triangles_waits_for_no_threads():
    """Two batches in LAPACK at once may never end; see `inverse_triangle`."""
    text = jax.jit(numerics.inverse_triangle).lower(jnp.ones((50, 96, 96))).compile().as_text()
    assert "lapack" not in text
    solve = functools.partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)
    two = jax.jit(solve).lower(jnp.ones((50, 96, 96)), jnp.ones((50, 96, 96)))
    assert "lapack" in two.compile().as_text()


def test_scaled_cholesky_raises_the_shift_of_singular_matrices_alone():
    rng = np.random.default_rng()
    thin = rng.standard_normal((20, 3)).astype(np.float32)
    good = np.eye(20, dtype=np.float32)
    batch = np.stack([thin @ thin.T, good])
    factor, scale, shift, finite = _factorise(batch, jnp.zeros(2))
    assert finite.all()
    assert 0 < shift[0] < 1e-3 * np.trace(batch[0])
    assert shift[1] == 0
    restored = np.einsum("bij,bkj->bik", factor, factor, dtype=np.float64)
    restored = restored / np.asarray(scale)[:, :, None] / np.asarray(scale)[:, None, :]
    wanted = batch + np.asarray(shift)[:, None, None] * np.eye(20)
    np.testing.assert_allclose(restored, wanted, atol=1e-4)


def test_scaled_cholesky_of_zero_and_of_nan():
    factor, scale, shift, finite = _factorise(jnp.zeros((3, 3)), jnp.float32(0))
    assert finite
    assert shift > 0
    solved = _solve(factor, scale, jnp.ones((3, 1)))
    assert np.isfinite(solved).all()
    assert not _factorise(jnp.full((3, 3), jnp.nan), jnp.float32(0))[3]


def test_spectral_bound_is_one():
    matrix = np.random.default_rng().standard_normal((4, 6, 6)).astype(np.float32)
    matrix = matrix @ matrix.swapaxes(1, 2)
    largest = np.linalg.eigvalsh(matrix.astype(np.float64))[:, -1]
    bound = np.asarray(numerics.spectral_bound(matrix))
    assert (bound >= largest * (1 - 1e-6)).all()
    assert (bound <= largest * np.sqrt(6)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 17), st.booleans())
def test_pieces_join_to_what_was_cut(count, size, of_jax):
    rows = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    pieces = numerics.cut(jnp.asarray(rows) if of_jax else rows, size)
    assert isinstance(pieces, jax.Array if of_jax else np.ndarray)
    assert pieces.dtype == rows.dtype
    assert pieces.shape == (-(-count // size), size, 3)
    np.testing.assert_array_equal(numerics.joined(pieces, count), rows)
    assert not np.asarray(pieces).reshape(-1, 3)[count:].any()


@pytest.mark.parametrize(("count", "most", "size"), [(640, 512, 320), (5, 9, 5), (7, 3, 3)])
def test_pieces_are_even(count, most, size):
    assert numerics.even_size(count, most) == size
