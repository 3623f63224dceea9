"""Derivatives of codes in closed form, against autodiff of dense float64 solves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax import platforms
from nid_jax.coding import gram, implicit, operators, posterior, prior, ridge
from nid_jax.coding.orthonormal import orthonormal_equations
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.shared import SharedDictionary

SHAPE, SIGNALS, EXPERTS, CHANNELS = (6, 5), 3, 5, 2
LAM = 2.0**-2
KINDS = {"shared": SharedDictionary, "independent": IndependentDictionary}


def make_dictionary(kind, seed):
    return KINDS[kind](
        Identity(2), EXPERTS, CHANNELS, Layers(3, 7, "sine", 4.0), rngs=nnx.Rngs(seed)
    )


def make_operator(name, rng):
    seen = rng.uniform(size=(SIGNALS, *SHAPE)) < 0.8
    return {
        "sample": lambda: operators.sample(SHAPE),
        "mask": lambda: operators.mask(SHAPE, seen[0]),
        "masks": lambda: operators.mask(SHAPE, seen),
        "rays": lambda: operators.parallel_beam(SHAPE, 4, samples_per_ray=5),
        "fourier": lambda: operators.fourier(SHAPE, share=0.4),
    }[name]()


def dense(operator):
    """The operator as a matrix [M, Q] of the samples, from its fields alone."""
    count = operator.points.shape[0]
    if isinstance(operator, operators.Fourier):
        waves = [np.fft.fft(np.eye(side), norm="ortho") for side in operator.grid_shape]
        matrix = jnp.asarray(np.kron(*waves))[operator.kept]
        return jnp.concatenate([matrix.real, matrix.imag])
    length = operator.run_length
    factors = operator.factors
    if factors is None:
        factors = jnp.ones((count // length, length), operator.points.dtype)
    rows = jnp.repeat(jnp.arange(count // length), length)
    return jnp.zeros((count // length, count)).at[rows, jnp.arange(count)].set(factors.ravel())


def reference(theta, graphdef, known=None, noise=1.0, indices=None, raised=False):
    """Codes, bias, residual by one dense solve per signal; autodiff passes through it."""
    dictionary = nnx.merge(graphdef, theta["state"])
    operator, measured = theta["operator"], theta["measurements"]
    weights = theta["weights"]
    if operator.weights is not None:
        weights = operator.weights if weights is None else weights * operator.weights
    if weights is None:
        weights = jnp.ones(measured.shape[1])
    matrix = dense(operator)
    basis = dictionary.basis(operator.points)
    atoms = jnp.einsum("mq,qec->mec", matrix, basis)
    one = matrix.sum(1)
    constants = one[:, None, None] * jnp.eye(CHANNELS)
    design = jnp.concatenate([atoms, constants], 1).swapaxes(1, 2)
    code = jnp.arange(EXPERTS + CHANNELS) < EXPERTS
    keep = jnp.ones((len(measured), EXPERTS + CHANNELS))
    if indices is not None:
        keep = jnp.asarray(
            [[e in row or e >= EXPERTS for e in range(EXPERTS + CHANNELS)] for row in indices],
            float,
        )

    def one_signal(y, w, keep, lam):
        system = jnp.einsum("m,mce,mcf->ef", w, design, design)
        right = jnp.einsum("m,mce,mc->e", w, design, y)
        if known is None:
            mean = jnp.einsum("m,m,mec->ec", w, one, atoms) / (w * one**2).sum()
            centred = atoms - one[:, None, None] * mean
            trace = jnp.einsum("m,mec,mec->", w, centred, centred)
            shift = lam * trace / EXPERTS
            system = system + jnp.diag(code * (jax.lax.stop_gradient(shift) if raised else shift))
        else:
            size = known.mean.shape[0]
            covariance = known.factor @ known.factor.T + jnp.diag(known.diagonal)
            precision = noise * jnp.linalg.inv(covariance)
            system = system.at[:size, :size].add(precision)
            right = right.at[:size].add(precision @ known.mean)
        system = system * keep[:, None] * keep + jnp.diag(1 - keep)
        solution = jnp.linalg.solve(system, right * keep)
        left = y - jnp.einsum("mce,e->mc", design, solution)
        residual = (w[:, None] * left**2).sum() / (w.sum() * CHANNELS)
        return solution[:EXPERTS], solution[EXPERTS:], residual

    weights = jnp.broadcast_to(weights, measured.shape[:2])
    return jax.vmap(one_signal)(measured, weights, keep, jnp.broadcast_to(theta["lam"], SIGNALS))


def make_prior(rng, with_bias):
    size = EXPERTS + CHANNELS * with_bias
    parts = rng.normal(size=size), rng.normal(size=(size, 3)), rng.uniform(0.5, 1, size)
    return prior.GaussianPrior(*(jnp.asarray(p, jnp.float32) for p in (*parts, 0.1, 0.1)))


def problem(kind, name, weighted, seed=None):
    rng = np.random.default_rng(seed)
    operator = make_operator(name, rng)
    graphdef, state = nnx.split(make_dictionary(kind, int(rng.integers(2**31))))
    count = operator.num_measurements
    measured = rng.normal(size=(SIGNALS, count, CHANNELS)).astype(np.float32)
    weights = {
        None: None,
        "one": rng.uniform(0.5, 2, count),
        "own": rng.uniform(0.5, 2, (SIGNALS, count)),
    }[weighted]
    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    theta = {"state": state, "operator": operator, "measurements": jnp.asarray(measured)}
    return graphdef, theta | {"weights": weights, "lam": jnp.float32(LAM)}, rng


def ours(theta, graphdef, known=None, noise=1.0, indices=None, **options):
    parts = nnx.merge(graphdef, theta["state"]), theta["operator"], theta["measurements"]
    if known is not None:
        return implicit.gaussian_codes(*parts, theta["weights"], known, noise, **options)[:3]
    if indices is not None:
        return implicit.support_codes(
            *parts, theta["weights"], jnp.asarray(indices), theta["lam"], **options
        )[:3]
    return implicit.ridge_codes(*parts, theta["weights"], theta["lam"], **options)[:3]


def wide(tree):
    def one(leaf):
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf)

    return jax.tree.map(one, tree)


def scalar(solve, parts, graphdef, **options):
    """A function of theta: random linear and quadratic forms of codes, bias and residual."""

    def value(theta):
        found = solve(theta, graphdef, **options)
        return sum((c * x + 0.3 * jnp.square(x)).sum() for c, x in zip(parts, found, strict=True))

    return value


def forms(rng):
    shapes = (SIGNALS, EXPERTS), (SIGNALS, CHANNELS), (SIGNALS,)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def assert_same(found, exact, tolerance):
    """Argument by argument, relative to the largest entry of each.

    Of lam every entry is a sum that may cancel: relative to its terms' size.
    """
    assert found.keys() == exact.keys()
    for name in found:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(exact[name])]
        size = max((np.abs(leaf).max() for leaf in leaves if leaf.dtype.kind == "f"), default=0)
        if name == "lam":
            size = 10 * max(size, 1)
        for a, b in zip(jax.tree.leaves(found[name]), leaves, strict=True):
            if b.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size, err_msg=name)


def gradients(graphdef, theta, parts, **options):
    """(ours, autodiff's of the dense solve): of one scalar, with atoms in float64."""
    known = options.get("known")
    with jax.enable_x64(True):
        theta = wide(theta)
        exact_options = options | ({} if known is None else {"known": wide(known)})
        exact_options.pop("equations", None)
        found = scalar(ours, parts, graphdef, **options)
        exact = scalar(reference, parts, graphdef, **exact_options)
        (value, mine), (true, truth) = (
            jax.jit(jax.value_and_grad(f, allow_int=True))(theta) for f in (found, exact)
        )
        np.testing.assert_allclose(value, true, rtol=1e-6, atol=1e-5)
        return tuple(jax.tree.map(np.asarray, tree) for tree in (mine, truth))


TOLERANCE = {"float32": 1e-5, "float64": 1e-6}
"""Codes solved in float32 are a few roundings off, and their cotangents as many."""


def compare(graphdef, theta, rng, precision="float64", **options):
    if precision == "float64":
        parts = nnx.merge(graphdef, theta["state"]), theta["operator"], theta["measurements"]
        options["equations"] = gram.normal_equations(*parts, theta["weights"])
    mine, truth = gradients(graphdef, theta, forms(rng), **options)
    if "known" in options:
        assert (mine.pop("lam"), truth.pop("lam")) == (0, 0)
    assert np.abs(truth["measurements"]).max() > 1e-4
    assert_same(mine, truth, TOLERANCE[precision])


@pytest.mark.parametrize(
    ("kind", "name", "weighted", "precision"),
    [
        ("shared", "sample", None, "float64"),
        pytest.param("independent", "masks", None, "float64", marks=pytest.mark.slow),
        pytest.param("shared", "rays", "one", "float32", marks=pytest.mark.slow),
        pytest.param("independent", "fourier", None, "float32", marks=pytest.mark.slow),
        pytest.param("independent", "sample", "own", "float32", marks=pytest.mark.slow),
        pytest.param("shared", "sample", "own", "float64", marks=pytest.mark.slow),
        pytest.param("shared", "mask", "one", "float64", marks=pytest.mark.slow),
        pytest.param("shared", "masks", "own", "float32", marks=pytest.mark.slow),
        pytest.param("shared", "fourier", "one", "float32", marks=pytest.mark.slow),
        pytest.param("independent", "rays", "own", "float64", marks=pytest.mark.slow),
    ],
)
def test_ridge_codes_have_the_derivative_of_the_dense_solve(kind, name, weighted, precision):
    compare(*problem(kind, name, weighted), precision)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", ["one", "own"])
def test_every_signal_may_have_its_own_regularisation(weighted):
    graphdef, theta, rng = problem("independent", "sample", weighted)
    theta["lam"] = jnp.asarray(2.0 ** -np.arange(3, 3 + SIGNALS), jnp.float32)
    compare(graphdef, theta, rng)


@pytest.mark.parametrize(
    ("kind", "name", "weighted"),
    [
        ("independent", "rays", "one"),
        pytest.param("shared", "mask", "own", marks=pytest.mark.slow),
    ],
)
def test_codes_on_a_support_have_it(kind, name, weighted):
    graphdef, theta, rng = problem(kind, name, weighted)
    indices = np.stack([rng.permutation(EXPERTS)[:3] for _ in range(SIGNALS)]).astype(np.int32)
    indices[1, 2] = -1
    compare(graphdef, theta, rng, "float32", indices=indices)


@pytest.mark.parametrize(
    ("with_bias", "kind", "name", "weighted"),
    [
        pytest.param(False, "shared", "sample", "one", marks=pytest.mark.slow),
        (True, "independent", "masks", None),
        pytest.param(True, "shared", "rays", None, marks=pytest.mark.slow),
        pytest.param(False, "independent", "fourier", None, marks=pytest.mark.slow),
    ],
)
def test_codes_under_a_prior_have_it(with_bias, kind, name, weighted):
    graphdef, theta, rng = problem(kind, name, weighted)
    # A few roundings more, through the prior's own factor, which is float32.
    compare(graphdef, theta, rng, "float32", known=make_prior(rng, with_bias), noise=0.5)


@pytest.mark.slow
def test_they_are_central_differences_of_the_dense_solve():
    graphdef, theta, rng = problem("independent", "rays", "one")
    parts = forms(rng)
    mine, _ = gradients(graphdef, theta, parts)
    with jax.enable_x64(True):
        theta = wide(theta)
        value = jax.jit(scalar(reference, parts, graphdef))
        for name in ("state", "operator", "measurements", "weights", "lam"):
            leaves, tree = jax.tree.flatten(theta[name])
            way = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves]
            step = 1e-5 * (LAM if name == "lam" else 1)
            ends = []
            for sign in (step, -step):
                moved = [leaf + sign * one for leaf, one in zip(leaves, way, strict=True)]
                ends.append(value(theta | {name: jax.tree.unflatten(tree, moved)}))
            terms = [a * b for a, b in zip(jax.tree.leaves(mine[name]), way, strict=True)]
            slope, size = (sum(f(t).sum() for t in terms) for f in (np.asarray, np.abs))
            difference = (ends[0] - ends[1]) / (2 * step)
            # lam is one number, a sum that may cancel: relative to its terms' size.
            scale = 10 * max(size, 1) if name == "lam" else size
            np.testing.assert_allclose(difference, slope, rtol=0, atol=1e-6 * scale)


@pytest.mark.slow
def test_a_raised_regularisation_is_a_constant():
    graphdef, theta, rng = problem("independent", "sample", "one")
    parts = forms(rng)
    dictionary = nnx.merge(graphdef, theta["state"])
    measured = dictionary, theta["operator"], theta["measurements"], theta["weights"]
    equations = gram.normal_equations(*measured, precision="float32")
    used = implicit.ridge_codes(*measured, 0.0, equations=equations).lam
    assert (np.asarray(used) > 1e-7).all()
    theta["lam"] = jnp.float32(0)
    with jax.enable_x64(True):
        theta = wide(theta)
        found = scalar(ours, parts, graphdef, equations=equations)
        mine = jax.jit(jax.grad(found))(theta)
        theta["lam"] = wide(used[0])
        truth = jax.jit(jax.grad(scalar(reference, parts, graphdef, raised=True)))(theta)
    assert float(mine.pop("lam")) == float(truth.pop("lam")) == 0
    assert_same(mine, truth, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ridge", "support", "prior"])
def test_second_derivatives_are_right_too(system):
    graphdef, theta, rng = problem("shared", "sample", "one")
    options = {
        "ridge": {},
        "support": {"indices": np.tile(np.int32([0, 2, 3]), (SIGNALS, 1))},
        "prior": {"known": make_prior(rng, True), "noise": 0.5},
    }[system]
    parts = forms(rng)
    with jax.enable_x64(True):
        theta = wide(theta)
        way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), theta)

        def second(solve, **options):
            first = jax.grad(scalar(solve, parts, graphdef, **options))

            def slope(theta):
                pairs = zip(jax.tree.leaves(first(theta)), jax.tree.leaves(way), strict=True)
                return sum((a * b).sum() for a, b in pairs)

            return jax.jit(jax.grad(slope))(theta)

        mine = second(ours, **options)
        if system == "prior":
            options["known"] = wide(options["known"])
        truth = second(reference, **options)
        assert_same(mine, truth, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ridge", "support", "prior"])
def test_transformations_of_jax_compose(system):
    graphdef, theta, rng = problem("independent", "masks", None)
    options = {
        "ridge": {},
        "support": {"indices": np.tile(np.int32([0, 2, 3]), (SIGNALS, 1))},
        "prior": {"known": make_prior(rng, True), "noise": 0.5},
    }[system]
    value = scalar(ours, forms(rng), graphdef, **options)
    many = jnp.asarray(rng.normal(size=(2, *theta["measurements"].shape)), jnp.float32)
    changes = jnp.asarray([0.9, 1.1], jnp.float32)

    def one(scale, measured):
        state = jax.tree.map(lambda leaf: scale * leaf, theta["state"])
        return value(theta | {"state": state, "measurements": measured})

    slope = jax.grad(one, argnums=(0, 1))
    apart = [slope(*pair) for pair in zip(changes, many, strict=True)]
    apart = jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart)
    together = [
        jax.vmap(slope)(changes, many),
        jax.jit(jax.vmap(slope))(changes, many),
        jax.grad(lambda *a: jax.vmap(one)(*a).sum(), argnums=(0, 1))(changes, many),
        jax.vmap(jax.grad(jax.jit(one), argnums=(0, 1)))(changes, many),
    ]
    assert np.abs(np.asarray(apart[0])).max() > 1e-3
    for found in together:
        for a, b in zip(found, apart, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(np.asarray(b)).max())


def solver_values(system, equations, known):
    """(codes, bias) of the solvers themselves, and the arguments of the differentiable ones."""
    if system == "prior":
        found = posterior.solve_posterior(equations, known, 0.5)
        return (found.codes, found.bias), (implicit.gaussian_codes, known, 0.5)
    if system == "support":
        indices = jnp.tile(jnp.int32([[4, 0]]), (SIGNALS, 1))
        codes = ridge.solve_on_support(equations, indices, LAM)
        return (codes, equations.bias(codes)), (implicit.support_codes, indices, LAM)
    if system == "gcv":
        codes = ridge.solve_by_validation(equations, per_signal=True).codes
        return (codes, equations.bias(codes)), (implicit.ridge_codes, "gcv", True)
    codes = ridge.solve_dense(equations, LAM).codes
    return (codes, equations.bias(codes)), (implicit.ridge_codes, LAM)


@pytest.mark.parametrize(
    "system",
    ["ridge", *(pytest.param(s, marks=pytest.mark.slow) for s in ("support", "prior", "gcv"))],
)
def test_values_are_those_of_the_solvers(system):
    graphdef, theta, rng = problem("shared", "mask", "own")
    names = ("operator", "measurements", "weights")
    parts = nnx.merge(graphdef, theta["state"]), *(theta[name] for name in names)
    equations = orthonormal_equations(*parts)
    expected, (solve, *options) = solver_values(system, equations, make_prior(rng, True))
    found = solve(*parts, *options)
    for a, b in zip(found[:2], expected, strict=True):
        np.testing.assert_array_equal(a, b)
    if system != "prior":
        residual = equations.mean_residual(found.codes, exact=True)
        np.testing.assert_array_equal(found.residual, residual)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**31 - 1),
    exponent=st.floats(-4, 1),
    kind=st.sampled_from(sorted(KINDS)),
    system=st.sampled_from(["ridge", "gcv", "prior"]),
)
@settings(max_examples=12, deadline=None)
def test_linear_codes_are_their_derivative_times_the_measurements(seed, exponent, kind, system):
    graphdef, theta, rng = problem(kind, "sample", "one", seed)
    dictionary = nnx.merge(graphdef, theta["state"])
    c, d, _ = forms(rng)

    def value(measured):
        parts = dictionary, theta["operator"], measured, theta["weights"]
        if system == "prior":
            known = make_prior(np.random.default_rng(seed), True)
            known = known._replace(mean=jnp.zeros_like(known.mean))
            found = implicit.gaussian_codes(*parts, known, 10.0**exponent)
        else:
            found = implicit.ridge_codes(*parts, "gcv" if system == "gcv" else 10.0**exponent)
        return (c * found.codes).sum() + (d * found.bias).sum()

    total, slope = jax.value_and_grad(value)(theta["measurements"])
    terms = np.asarray(slope * theta["measurements"], np.float64)
    np.testing.assert_allclose(terms.sum(), total, rtol=1e-3, atol=1e-4 * np.abs(terms).sum())


@pytest.mark.slow
def test_chunks_of_measurements_add_up(monkeypatch):
    graphdef, theta, rng = problem("shared", "sample", "own")
    value = scalar(ours, forms(rng), graphdef)
    whole = jax.grad(value)(theta)
    least = dataclasses.replace(platforms.sizes(), chunk=1)
    monkeypatch.setattr(platforms, "sizes", lambda: least)
    assert_same(jax.grad(value)(theta), jax.tree.map(np.asarray, whole), 1e-5)


def test_what_was_not_measured_may_be_nan():
    graphdef, theta, rng = problem("independent", "sample", "one")
    theta["weights"] = theta["weights"].at[3].set(0)
    value = jax.jit(jax.grad(scalar(ours, forms(rng), graphdef)))
    zero = theta["measurements"].at[:, 3].set(0)
    found = value(theta | {"measurements": zero.at[:, 3].set(jnp.nan)})
    expected = value(theta | {"measurements": zero})
    assert_same(found, jax.tree.map(np.asarray, expected), 1e-6)
    assert (np.asarray(found["measurements"][:, 3]) == 0).all()
    assert float(found["weights"][3]) != 0


@pytest.mark.parametrize("name", ["prior", "noise"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_derivatives_of_constants_are_refused(name, wrap):
    graphdef, theta, rng = problem("independent", "sample", None)
    known = make_prior(rng, False)

    def value(arguments):
        known, noise = arguments
        return ours(theta, graphdef, known, noise)[0].sum()

    def part(one):
        return value((one, 0.5) if name == "prior" else (known, one))

    at = known if name == "prior" else jnp.float32(0.5)
    assert np.isfinite(part(at))
    with pytest.raises(
        ArgumentError, match=f"^{name}: 'traced by a derivative'; allowed: a constant"
    ):
        wrap(jax.grad(part))(at)


@pytest.mark.parametrize("lam", [-1.0, float("nan"), "gvc"])
def test_a_regularisation_that_cannot_be_is_refused(lam):
    graphdef, theta, _ = problem("independent", "sample", None)
    parts = nnx.merge(graphdef, theta["state"]), theta["operator"], theta["measurements"], None
    with pytest.raises(ArgumentError, match="^lam: .*; allowed: "):
        implicit.ridge_codes(*parts, lam)
