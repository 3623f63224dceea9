"""Derivatives of codes in closed form, against autodiff of dense float64 solves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import gram, implicit, operators, prior, ridge
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import IndependentDictionary, SharedDictionary
from nid_jax.fields.embeddings import Identity

SHAPE, SIGNALS, EXPERTS, CHANNELS = (6, 5), 3, 5, 2
LAM = 2.0**-6
KINDS = {"shared": SharedDictionary, "independent": IndependentDictionary}


def make_dictionary(kind, seed):
    return KINDS[kind](Identity(2), EXPERTS, CHANNELS, 3, 7, "sine", 4.0, rngs=nnx.Rngs(seed))


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
        matrix = np.kron(*waves)[np.asarray(operator.kept)]
        return jnp.asarray(np.concatenate([matrix.real, matrix.imag]))
    length = operator.run_length
    factors = operator.factors
    if factors is None:
        factors = jnp.ones((count // length, length), operator.points.dtype)
    rows = jnp.repeat(jnp.arange(count // length), length)
    return jnp.zeros((count // length, count)).at[rows, jnp.arange(count)].set(factors.ravel())


def reference(theta, graphdef, known=None, noise=1.0, indices=None):
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
    found = []
    for signal in range(len(measured)):
        w = weights if weights.ndim == 1 else weights[signal]
        system = jnp.einsum("m,mce,mcf->ef", w, design, design)
        right = jnp.einsum("m,mce,mc->e", w, design, measured[signal])
        keep = jnp.ones(EXPERTS + CHANNELS)
        if known is None:
            mean = jnp.einsum("m,m,mec->ec", w, one, atoms) / (w * one**2).sum()
            centred = atoms - one[:, None, None] * mean
            trace = jnp.einsum("m,mec,mec->", w, centred, centred)
            shift = theta["lam"] * trace / EXPERTS
            system = (
                system + jnp.diag(jnp.full(EXPERTS + CHANNELS, 1.0).at[EXPERTS:].set(0)) * shift
            )
            if indices is not None:
                chosen = np.asarray(indices[signal])
                keep = keep.at[:EXPERTS].set(0).at[chosen[chosen >= 0]].set(1)
        else:
            size = known.mean.shape[0]
            covariance = known.factor @ known.factor.T + jnp.diag(known.diagonal)
            precision = noise * jnp.linalg.inv(covariance)
            system = system.at[:size, :size].add(precision)
            right = right.at[:size].add(precision @ known.mean)
        system = system * keep[:, None] * keep + jnp.diag(1 - keep)
        solution = jnp.linalg.solve(system, right * keep)
        left = measured[signal] - jnp.einsum("mce,e->mc", design, solution)
        residual = (w[:, None] * left**2).sum() / (w.sum() * CHANNELS)
        found.append((solution[:EXPERTS], solution[EXPERTS:], residual))
    return tuple(jnp.stack(part) for part in zip(*found, strict=True))


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
    """Leaf by leaf, relative to the largest entry of each."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        if np.asarray(b).dtype.kind != "f":
            continue
        size = np.abs(np.asarray(b)).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * size)


def compare(graphdef, theta, rng, tolerance=1e-6, **options):
    """Our gradient and autodiff's of the dense solve, both with atoms in float64."""
    parts = forms(rng)
    known = options.get("known")
    with jax.enable_x64(True):
        theta = wide(theta)
        exact_options = options | ({} if known is None else {"known": wide(known)})
        found = scalar(ours, parts, graphdef, **options)
        exact = scalar(reference, parts, graphdef, **exact_options)
        mine, truth = jax.grad(found, allow_int=True)(theta), jax.grad(exact, allow_int=True)(theta)
        np.testing.assert_allclose(found(theta), exact(theta), rtol=1e-6)
    if known is not None:
        del mine["lam"], truth["lam"]
    assert np.abs(np.asarray(truth["measurements"])).max() > 1e-4
    assert_same(mine, truth, tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "weighted"),
    [
        ("sample", None),
        ("sample", "own"),
        ("mask", "one"),
        ("masks", None),
        ("rays", "one"),
        ("fourier", None),
    ],
)
def test_ridge_codes_have_the_derivative_of_the_dense_solve(kind, name, weighted):
    compare(*problem(kind, name, weighted))
