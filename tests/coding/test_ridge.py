"""Ridge codes against float64 solutions of the same problems, and where problems are degenerate."""

import functools

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
import scipy.linalg
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax import numerics
from nid_jax.coding import gram, operators, ridge
from nid_jax.coding.solution import Result
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary

EXPERTS, CHANNELS = 12, 2


@functools.cache
def _split(experts, width):
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 16, 3.0, rngs=rngs)
    return nnx.split(
        SharedDictionary(embedding, experts, CHANNELS, Layers(2, width, "relu", 1.0), rngs=rngs)
    )


def make_dictionary(experts=EXPERTS, width=16):
    return nnx.merge(*_split(experts, width), copy=True)


def measure(dictionary, operator, signals=3, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    shape = (signals, operator.num_measurements, dictionary.channels)
    return (scale * generator.normal(0.5, 1, shape)).astype(np.float32)


def centred_system(dictionary, operator, y, weights=None):
    """Weighted centred atoms [M C, E] and targets [M C] of one signal, float64."""
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    w = np.ones(len(basis)) if weights is None else np.asarray(weights, np.float64)
    root = np.sqrt(w)[:, None]
    y = np.asarray(y, np.float64)
    basis = (basis - np.einsum("m,mec->ec", w, basis) / w.sum()) * root[..., None]
    target = (y - (w[:, None] * y).sum(0) / w.sum()) * root
    return basis.swapaxes(1, 2).reshape(-1, basis.shape[1]), target.ravel()


def oracle(dictionary, operator, y, lam, weights=None):
    atoms, target = centred_system(dictionary, operator, y, weights)
    shift = lam * np.square(atoms).sum() / atoms.shape[1]
    stacked = np.concatenate([atoms, np.sqrt(shift) * np.eye(atoms.shape[1])])
    return scipy.linalg.lstsq(stacked, np.concatenate([target, np.zeros(atoms.shape[1])]))[0]


def test_against_the_linear_solver_of_another_library():
    """lineax, on the normal equations as a positive definite operator in float64."""
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = measure(dictionary, operator, seed=np.random.default_rng(101).integers(2**32))
    solution = ridge.ridge(gram.normal_equations(dictionary, operator, y), 1e-3)
    for signal in range(3):
        atoms, target = centred_system(dictionary, operator, y[signal])
        matrix = atoms.T @ atoms
        matrix += 1e-3 * np.trace(matrix) / EXPERTS * np.eye(EXPERTS)
        with jax.enable_x64(True):
            tags = lineax.positive_semidefinite_tag
            system = lineax.MatrixLinearOperator(jnp.asarray(matrix), tags)
            right = jnp.asarray(atoms.T @ target)
            expected = np.asarray(lineax.linear_solve(system, right, lineax.Cholesky()).value)
        np.testing.assert_allclose(
            solution.codes[signal], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("form", ["none", "one", "own"])
def test_against_least_squares(form):
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = measure(dictionary, operator)
    generator = np.random.default_rng(1)
    weights = {"none": None, "one": generator.uniform(size=63), "own": None}[form]
    if form == "own":
        weights = (generator.uniform(size=(3, 63)) < 0.5).astype(float)
    equations = gram.normal_equations(dictionary, operator, y, weights)
    for lam in (1e-1, 1e-6):
        solution = ridge.ridge(equations, lam)
        assert solution.converged.all()
        for signal in range(3):
            w = weights[signal] if form == "own" else weights
            expected = oracle(dictionary, operator, y[signal], lam, w)
            size = np.abs(expected).max()
            np.testing.assert_allclose(solution.codes[signal], expected, atol=1e-4 * size)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lam=st.floats(1e-9, 10.0),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e6]),
)
def test_optimality(seed, lam, scale):
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = measure(dictionary, operator, seed=seed, scale=scale)
    solution = ridge.ridge(gram.normal_equations(dictionary, operator, y), lam)
    for signal in range(3):
        atoms, target = centred_system(dictionary, operator, y[signal])
        shift = lam * np.square(atoms).sum() / EXPERTS
        code = np.asarray(solution.codes[signal], np.float64)
        gradient = atoms.T @ (atoms @ code - target) + shift * code
        assert np.abs(gradient).max() <= 1e-5 * np.linalg.norm(atoms) * np.linalg.norm(target)
        rendered = np.asarray(dictionary.basis(operator.points), np.float64)
        rendered = np.einsum("e,pec->pc", code, rendered) + np.asarray(solution.bias[signal])
        left = np.square(y[signal] - rendered).mean()
        np.testing.assert_allclose(solution.residual[signal], left, rtol=1e-3)


@pytest.mark.parametrize(
    ("experts", "precision"), [(256, "float64"), (256, "float32"), (1024, "float64")]
)
def test_nearly_dependent_experts_at_small_lambda(experts, precision):
    # 64 features span far fewer dimensions than there are experts.
    dictionary = make_dictionary(experts, width=64)
    operator = operators.sample((16, 16))
    y = measure(dictionary, operator)
    equations = gram.normal_equations(dictionary, operator, y, precision=precision)
    for lam in (1e-6, 0.0):
        solved = ridge.solve_dense(equations, lam)
        assert np.isfinite(solved.codes).all()
        assert (np.asarray(solved.error) < 1e-3).all()
    if precision == "float64":
        codes = ridge.solve_dense(equations, 1e-6).codes
        atoms, target = centred_system(dictionary, operator, y[0])
        expected = oracle(dictionary, operator, y[0], 1e-6)
        difference = atoms @ (np.asarray(codes[0], np.float64) - expected)
        assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(target)


def test_float64_keeps_what_float32_loses():
    # A signal in the span: the better the small eigenvalues are known, the better it is found.
    dictionary = make_dictionary(64, width=64)
    dictionary.kernels[0][...] = dictionary.kernels[0][...] * 0.05 + 0.2
    operator = operators.sample((16, 16))
    code = np.random.default_rng(2).normal(size=(4, 64))
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    y = np.einsum("se,pec->spc", code, basis).astype(np.float32)
    errors = {}
    for precision in gram.PRECISIONS:
        equations = gram.normal_equations(dictionary, operator, y, precision=precision)
        solution = ridge.ridge(equations, 1e-10)
        assert np.isfinite(solution.codes).all()
        rendered = np.einsum("se,pec->spc", np.asarray(solution.codes, np.float64), basis)
        left = y - rendered - np.asarray(solution.bias)[:, None]
        errors[precision] = np.square(left).mean()
        if precision == "float32":
            assert "raised" in ridge.words(solution.stats)
            assert (solution.result == Result.RAISED).all()
    assert errors["float64"] < 0.1 * errors["float32"]


@pytest.mark.parametrize("lam", [1e-6, 0.0, "gcv"])
def test_degenerate_problems(lam):
    dictionary = make_dictionary()
    full, pixel, few = (operators.sample(shape) for shape in ((9, 7), (1, 1), (2, 2)))
    repeated = make_dictionary()
    repeated.head_kernel[...] = jnp.tile(repeated.head_kernel[...][..., :3], (1, 1, 4))
    repeated.head_bias[...] = jnp.tile(repeated.head_bias[...][:3], (4, 1))
    silent = make_dictionary()
    silent.head_kernel[...] = jnp.zeros_like(silent.head_kernel[...])
    partly = make_dictionary()
    partly.head_kernel[...] = partly.head_kernel[...].at[..., 4].set(0)
    cases = {
        "zero signals": (dictionary, full, np.zeros((3, 63, 2), np.float32)),
        "constant signals": (dictionary, full, np.full((3, 63, 2), 0.3, np.float32)),
        "one pixel": (dictionary, pixel, measure(dictionary, pixel)),
        "fewer pixels than experts": (dictionary, few, measure(dictionary, few)),
        "repeated atoms": (repeated, full, measure(repeated, full)),
        "constant atoms": (silent, full, measure(silent, full)),
        "a dead atom": (partly, full, measure(partly, full)),
        "tiny": (dictionary, full, measure(dictionary, full, scale=1e-6)),
        "huge": (dictionary, full, measure(dictionary, full, scale=1e6)),
    }
    for name, (used, operator, y) in cases.items():
        solution = ridge.ridge(gram.normal_equations(used, operator, y), lam)
        for values in (solution.codes, solution.bias, solution.residual):
            assert np.isfinite(values).all(), name
        spread = np.square(y - y.mean(1, keepdims=True)).mean((1, 2))
        assert (np.asarray(solution.residual) <= 1.001 * spread + 1e-12).all(), name
        if name in ("zero signals", "constant signals", "one pixel", "constant atoms"):
            assert np.abs(solution.codes).max() < 1e-5, name
            np.testing.assert_allclose(solution.bias, y.mean(1), atol=1e-6)
        if name == "repeated atoms" and lam == 1e-6:
            codes = np.asarray(solution.codes).reshape(3, 4, 3)
            np.testing.assert_allclose(codes, codes[:, :1].repeat(4, 1), rtol=1e-2, atol=1e-3)
        if name == "a dead atom":
            np.testing.assert_allclose(solution.codes[:, 4], 0, atol=1e-6)


def test_lambda_is_a_pure_number():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = measure(dictionary, operator)
    codes = ridge.ridge(gram.normal_equations(dictionary, operator, y), 1e-2).codes
    twice = operators.sample(np.concatenate([operator.points, operator.points]))
    doubled = gram.normal_equations(dictionary, twice, np.concatenate([y, y], 1))
    np.testing.assert_allclose(ridge.ridge(doubled, 1e-2).codes, codes, atol=1e-4)
    weighted = gram.normal_equations(dictionary, operator, y, np.full(63, 7.0))
    np.testing.assert_allclose(ridge.ridge(weighted, 1e-2).codes, codes, atol=1e-4)
    loud = make_dictionary()
    loud.head_kernel[...] = 100 * loud.head_kernel[...]
    loud.head_bias[...] = 100 * loud.head_bias[...]
    equations = gram.normal_equations(loud, operator, y)
    np.testing.assert_allclose(100 * ridge.ridge(equations, 1e-2).codes, codes, atol=1e-4)


@pytest.mark.parametrize("per_signal", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_cross_validation(per_signal, own):
    dictionary, operator = make_dictionary(), operators.sample((4, 4))
    generator = np.random.default_rng(3)
    basis = np.asarray(dictionary.basis(operator.points), np.float64)
    y = np.einsum("se,pec->spc", generator.normal(size=(3, 12)), basis)
    y = (y + np.array([0.01, 0.3, 3.0])[:, None, None] * generator.normal(size=y.shape)).astype(
        "f4"
    )
    weights = (generator.uniform(size=(3, 16)) < 0.7).astype("f4") if own else None
    equations = gram.normal_equations(dictionary, operator, y, weights)
    solved = ridge.solve_by_validation(equations, per_signal=per_signal)

    scores = np.zeros((len(ridge.LAMBDAS), 3))
    for signal in range(3):
        w = None if weights is None else weights[signal]
        atoms, target = centred_system(dictionary, operator, y[signal], w)
        count = 32 if w is None else 2 * w.sum()
        for row, lam in enumerate(ridge.LAMBDAS):
            shift = lam * np.square(atoms).sum() / EXPERTS
            hat = atoms @ np.linalg.solve(atoms.T @ atoms + shift * np.eye(EXPERTS), atoms.T)
            left = np.square(target - hat @ target).sum()
            freedom = count - 2 - np.trace(hat)
            scores[row, signal] = left / freedom**2 * count / 2 / np.square(target).sum()
    if not per_signal:
        scores = scores.sum(1, keepdims=True) * np.ones(3)
    chosen = np.asarray(solved.lam)
    for signal in range(3):
        row = np.argmin(np.abs(np.log10(ridge.LAMBDAS) - np.log10(chosen[signal])))
        assert scores[row, signal] <= scores[:, signal].min() * (1 + 1e-4)
        w = None if weights is None else weights[signal]
        expected = oracle(dictionary, operator, y[signal], chosen[signal], w)
        np.testing.assert_allclose(solved.codes[signal], expected, atol=2e-4)
    if per_signal:
        assert chosen[2] > chosen[0]


def test_one_lambda_for_every_signal():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = measure(dictionary, operator)
    equations = gram.normal_equations(dictionary, operator, y)
    lams = np.array([1e-4, 1e-2, 1.0])
    solution = ridge.ridge(equations, lams)
    for signal, lam in enumerate(lams):
        expected = oracle(dictionary, operator, y[signal], lam)
        np.testing.assert_allclose(solution.codes[signal], expected, atol=1e-4)


@pytest.mark.parametrize("own", [False, True])
def test_on_a_support(own):
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = measure(dictionary, operator)
    generator = np.random.default_rng(4)
    weights = generator.uniform(size=(3, 63)).astype("f4") if own else None
    equations = gram.normal_equations(dictionary, operator, y, weights)
    indices = np.array([[3, 7, 0, -1], [1, 2, 11, 5], [-1, -1, -1, -1]], np.int32)
    codes = np.asarray(ridge.solve_on_support(equations, indices, 1e-4))
    for signal, row in enumerate(indices):
        kept = row[row >= 0]
        w = None if weights is None else weights[signal]
        atoms, target = centred_system(dictionary, operator, y[signal], w)
        shift = 1e-4 * np.square(atoms).sum() / EXPERTS
        chosen = atoms[:, kept]
        system = chosen.T @ chosen + shift * np.eye(len(kept))
        expected = np.zeros(EXPERTS)
        expected[kept] = np.linalg.solve(system, chosen.T @ target)
        np.testing.assert_allclose(codes[signal], expected, atol=1e-4)
        assert (np.delete(codes[signal], kept) == 0).all()


def test_on_a_support_of_repeated_atoms():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    dictionary.head_kernel[...] = jnp.tile(dictionary.head_kernel[...][..., :1], (1, 1, 12))
    dictionary.head_bias[...] = jnp.tile(dictionary.head_bias[...][:1], (12, 1))
    equations = gram.normal_equations(dictionary, operator, measure(dictionary, operator))
    indices = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.int32)
    for lam in (1e-6, 0.0):
        codes = ridge.solve_on_support(equations, indices, lam)
        assert np.isfinite(codes).all()
        assert (equations.exact_residual(codes) < equations.energy).all()


def test_inside_a_jitted_step_without_gradient():
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    y = jnp.asarray(measure(dictionary, operator))
    graphdef, state = nnx.split(dictionary)

    @jax.jit
    @jax.value_and_grad
    def loss(state):
        model = nnx.merge(graphdef, state)
        equations = gram.normal_equations(model, operator, y)
        codes = ridge.solve_dense(equations, 1e-3).codes
        return (codes * jnp.square(model.head_kernel[...]).sum()).sum()

    value, gradient = loss(state)
    codes = ridge.ridge(gram.normal_equations(dictionary, operator, y), 1e-3).codes
    square = jnp.square(dictionary.head_kernel[...]).sum()
    np.testing.assert_allclose(value, codes.sum() * square, rtol=1e-3)
    # The codes are constants: the gradient is that of the explicit factor alone.
    expected = 2 * dictionary.head_kernel[...] * codes.sum()
    np.testing.assert_allclose(gradient["head_kernel"][...], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lam", [-1.0, np.nan, np.inf, "best"])
def test_refusals(lam):
    dictionary, operator = make_dictionary(), operators.sample((9, 7))
    equations = gram.normal_equations(dictionary, operator, measure(dictionary, operator))
    with pytest.raises(ArgumentError, match="lam: .*gcv"):
        ridge.ridge(equations, lam)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-8, 1.0, 1e8]))
def test_scaled_cholesky(seed, scale):
    generator = np.random.default_rng(seed)
    atoms = generator.normal(size=(2, 9, 6)) * 10.0 ** generator.uniform(-2, 2, 6)
    matrix = (scale * atoms.swapaxes(1, 2) @ atoms).astype(np.float32)
    shift = np.float32(1e-3) * matrix.trace(axis1=1, axis2=2) / 6
    factor, scales, used, finite = numerics.scaled_cholesky(matrix, shift)
    assert np.asarray(finite).all()
    np.testing.assert_allclose(used, shift)
    right = generator.normal(size=(2, 6, 3)).astype(np.float32)
    expected = np.linalg.solve(
        matrix.astype(np.float64) + shift[:, None, None].astype(np.float64) * np.eye(6), right
    )
    found = numerics.solve_scaled_cholesky(factor, scales, right)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-3 * np.abs(expected).max())


def test_scaled_cholesky_raises_the_shift_of_what_fails_only():
    good = np.eye(3, dtype=np.float32)
    indefinite = np.diag([1.0, 1.0, -1e-5]).astype(np.float32)
    zero = np.zeros((3, 3), np.float32)
    factor, _, used, finite = numerics.scaled_cholesky(
        np.stack([good, indefinite, zero]), np.zeros(3, np.float32)
    )
    assert np.asarray(finite).all()
    assert np.isfinite(factor).all()
    assert used[0] == 0
    assert 1e-5 < used[1] < 1e-3
