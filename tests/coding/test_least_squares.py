"""Dense least squares in float32 against NumPy's in float64, where products suffice and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from nid_jax.coding import least_squares

SHAPES = {"tall": (40, 12), "wide": (12, 40)}


def a_root(shape, condition):
    """A matrix of the given condition number, float32."""
    draw = np.random.default_rng(101)
    left, _ = np.linalg.qr(draw.normal(size=(shape[0], min(shape))))
    right, _ = np.linalg.qr(draw.normal(size=(shape[1], min(shape))))
    values = np.geomspace(1, 1 / condition, min(shape))
    return (left * values @ right.T).astype(np.float32)


def damped_by_definition(root, z, shift):
    """Codes, z^T (B B^T + shift I)^-1 z and log det, float64."""
    b, z = root.astype(np.float64), z.astype(np.float64)
    system = b @ b.T + shift * np.eye(len(b))
    solved = np.linalg.solve(system, z.T).T
    return solved @ b, (z * solved).sum(-1), np.linalg.slogdet(system)[1]


@pytest.mark.parametrize("condition", [3, 3e6], ids=["by products", "by reflections"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_damped_codes_are_those_of_double_precision(shape, condition):
    root = a_root(shape, condition)
    z = np.random.default_rng(102).normal(size=(3, shape[0])).astype(np.float32)
    shift = np.float32(1e-3 if condition < 10 else 1e-10)
    by_products = least_squares._damped_by_products(root, z, jnp.asarray(shift))
    assert bool((by_products.error < 2e-6).all()) == (condition < 10)
    found = least_squares.damped_codes(jnp.asarray(root), jnp.asarray(z), jnp.asarray(shift))
    codes, quadratic, determinant = damped_by_definition(root, z, float(shift))
    b = root.astype(np.float64)

    def objective(a):
        return np.square(z - a @ b.T).sum(-1) + shift * np.square(a).sum(-1)

    np.testing.assert_allclose(objective(np.asarray(found.codes)), objective(codes), rtol=1e-4)
    np.testing.assert_allclose(found.quadratic, quadratic, rtol=1e-3)
    np.testing.assert_allclose(found.log_determinant, determinant, rtol=1e-4)


@pytest.mark.parametrize("rows", [200, 70], ids=["tall", "wide"])
def test_many_right_hand_sides_of_small_matrices_are_those_of_double_precision(rows):
    """Their factors are inverted; refinement makes good what that rounds off."""
    roots = np.stack([a_root((rows, 90), condition) for condition in (3, 30, 300)])
    shift = np.float32([1e-2, 1e-3, 1e-3])
    z = np.random.default_rng(105).normal(size=(3, least_squares._MANY_SOLVED, rows))
    z = z.astype(np.float32)
    lowered = jax.jit(least_squares._damped_by_products).lower(roots, z, jnp.asarray(shift))
    side = f"3x{min(rows, 90)}x{least_squares._MANY_SOLVED}x"
    assert not any("trsm" in line and side in line for line in lowered.as_text().splitlines())
    found = least_squares.damped(jnp.asarray(roots), jnp.asarray(z), jnp.asarray(shift))
    for number, (root, right, damping) in enumerate(zip(roots, z, shift, strict=True)):
        codes, quadratic, determinant = damped_by_definition(root, right, float(damping))
        np.testing.assert_allclose(found.codes[number], codes, atol=2e-5 * np.abs(codes).max())
        np.testing.assert_allclose(found.quadratic[number], quadratic, rtol=1e-5)
        np.testing.assert_allclose(found.log_determinant[number], determinant, rtol=1e-5)
    assert float(found.error.max()) < 2e-6


@pytest.mark.parametrize("signals", [2, 9], ids=["each looked at", "sums looked at"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_right_hand_sides_under_every_matrix(shape, signals):
    """As float64 finds them, and said not to be where float32 loses them."""
    draw = np.random.default_rng(106)
    roots = np.stack([size * a_root(shape, condition) for condition, size in ((3, 5), (30, 9))])
    right = draw.normal(size=(signals, shape[0])).astype(np.float32)
    offsets = draw.normal(size=(2, shape[0])).astype(np.float32)
    found, good = least_squares.damped_all(*map(jnp.asarray, (roots, right, offsets)))
    assert good
    for number, (root, offset) in enumerate(zip(roots, offsets, strict=True)):
        codes, quadratic, determinant = damped_by_definition(root, right - offset, 1.0)
        np.testing.assert_allclose(found.codes[number], codes, atol=2e-5 * np.abs(codes).max())
        np.testing.assert_allclose(found.quadratic[number], quadratic, rtol=1e-4)
        np.testing.assert_allclose(found.log_determinant[number], determinant, rtol=1e-5)
    if shape[0] > shape[1]:
        # What is rendered nearly as a whole, by codes that are small beside it.
        lost = 1e4 * roots, 1e3 * right @ roots[0] @ roots[0].T, offsets
    else:
        lost = 1e6 * np.stack([a_root(shape, 3e6)] * 2), right, offsets
    assert not least_squares.damped_all(*map(jnp.asarray, lost))[1]


LAPACK = {"cholesky", "triangular_solve", "geqrf", "ormqr", "householder_product", "eigh", "svd"}


def calls_lapack(equation):
    """Whether an equation of a jaxpr does, or what it calls."""
    inner = jaxprs_in_params(equation.params)
    return equation.primitive.name in LAPACK or any(
        calls_lapack(one) for jaxpr in inner for one in jaxpr.eqns
    )


@pytest.mark.parametrize("name", ["_reduced_by_products", "_damped_by_reflections"])
def test_lapack_works_on_one_batch_at_a_time(name):
    """Each call needs what the one before gave: two at once wait for each other's threads."""
    right = jnp.ones((3, 9, 2))
    given = jnp.ones((3, 9, 4)), right
    if name == "_damped_by_reflections":
        given = given[0], right.swapaxes(1, 2), jnp.ones(3)
    jaxpr = jax.make_jaxpr(getattr(least_squares, name))(*given).jaxpr
    after, before, calls = {}, set(), 0
    for equation in jaxpr.eqns:
        known = [after.get(v, frozenset()) for v in equation.invars if not hasattr(v, "val")]
        needs = frozenset().union(*known)
        if calls_lapack(equation):
            assert before <= needs, equation.primitive
            calls, needs = calls + 1, needs | {calls}
            before = {calls - 1}
        after |= dict.fromkeys(equation.outvars, needs)
    assert calls > 3


@pytest.mark.parametrize("condition", [3, 1e5], ids=["by products", "by reflections"])
@pytest.mark.parametrize("own", [False, True], ids=["one", "own"])
def test_reduced_equations_have_the_same_least_squares(own, condition):
    draw = np.random.default_rng(103)
    roots = np.stack([a_root((40, 12), condition) for _ in range(3)])
    roots = roots if own else roots[0]
    z = draw.normal(size=(3, 40)).astype(np.float32)
    root, projected, rest = least_squares.reduced(jnp.asarray(roots), jnp.asarray(z))
    assert root.shape[-2] == 12
    for signal in range(3):
        old, new = (np.float64(r[signal] if own else r) for r in (roots, root))
        code = np.linalg.lstsq(old, z[signal], rcond=None)[0] + draw.normal(size=12)
        expected = np.square(z[signal] - old @ code).sum()
        value = np.square(projected[signal] - new @ code).sum() + rest[signal]
        # What is subtracted is rounded, the more the larger a code is.
        rounding = np.finfo(np.float32).eps * np.linalg.norm(old) * np.linalg.norm(code)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=8 * rounding * expected**0.5)
        np.testing.assert_allclose(new.T @ new, old.T @ old, atol=1e-6)


@pytest.mark.parametrize("own", [False, True], ids=["one", "own"])
def test_columns_of_zeros_are_none_of_the_reduced_equations(own):
    roots = np.stack([a_root((40, 12), 3) for _ in range(3)])
    roots[..., [4, 11]] = 0
    z = np.random.default_rng(104).normal(size=(3, 40)).astype(np.float32)
    root, projected, _ = least_squares.reduced(jnp.asarray(roots if own else roots[0]), z)
    for signal in range(3):
        old, new = (r[signal] if r.ndim == 3 else r for r in (roots, np.asarray(root)))
        old = old if own else roots[0]
        np.testing.assert_allclose(new.T @ new, old.T @ old, atol=1e-6)
        np.testing.assert_allclose(projected[signal] @ new, z[signal] @ old, atol=1e-5)


def test_products_of_many_columns_are_whole():
    size = 2 * least_squares._BLOCK + 5
    root = np.random.default_rng(105).normal(size=(2, 7, size)).astype(np.float32)
    found = least_squares.products(jnp.asarray(root))
    np.testing.assert_allclose(found, np.swapaxes(root, 1, 2) @ root, atol=1e-4)


@pytest.mark.parametrize("first", [-2.0, 0.0, 2.0])
def test_one_reflection_takes_the_constant_out(first):
    draw = np.random.default_rng(106)
    constant, values = draw.normal(size=(2, 9)), draw.normal(size=(2, 9, 4))
    constant[:, 0] = first
    constant[1] = 0
    level, turned = least_squares.without_constant(
        jnp.asarray(constant, jnp.float32), jnp.asarray(values, jnp.float32)
    )
    along = constant[0] @ values[0] / np.linalg.norm(constant[0])
    np.testing.assert_allclose(np.abs(level[0]), np.linalg.norm(constant[0]), rtol=1e-5)
    np.testing.assert_allclose(turned[0, 0] * np.sign(level[0]), along, atol=1e-5)
    products = np.swapaxes(values, 1, 2) @ values
    np.testing.assert_allclose(np.swapaxes(turned, 1, 2) @ turned, products, atol=1e-4)
    assert level[1] == 0
    np.testing.assert_array_equal(turned[1], jnp.asarray(values[1], jnp.float32))


def test_matrices_of_zeros_give_no_codes():
    found = jax.jit(least_squares.damped_codes)(jnp.zeros((2, 3, 4)), jnp.ones((2, 3)), jnp.ones(2))
    assert not found.codes.any()
    np.testing.assert_allclose(found.quadratic, 3.0, rtol=1e-6)


@pytest.mark.parametrize("shift", [1e-1, 1e-7], ids=["by products", "by reflections"])
def test_what_is_whitened_has_unit_variance(shift):
    """By products, and where float32 has too few digits for them by reflections."""
    generator = np.random.default_rng(5)
    root = a_root((12, 30), 1e3)
    factor, _ = least_squares._cholesky(least_squares.products(root.T), jnp.float32(shift))
    bound = least_squares._WEIGHING_CONDITION
    assert bool(least_squares._well_conditioned(factor, bound)) == (shift == 1e-1)
    matrix = np.asarray(root, np.float64) @ np.asarray(root, np.float64).T + shift * np.eye(12)
    found = least_squares.whitening(jnp.asarray(root), jnp.float32(shift))
    _, wanted = np.linalg.slogdet(matrix)
    assert float(found.log_determinant) == pytest.approx(wanted, abs=2e-3)
    values = np.linalg.cholesky(matrix) @ generator.normal(size=(12, 5))
    white = np.asarray(found.whitened(jnp.asarray(values.T, jnp.float32)), np.float64)
    quadratic = np.einsum("nt,nt->t", values, np.linalg.solve(matrix, values))
    np.testing.assert_allclose(np.square(white).sum(1), quadratic, rtol=5e-3)
