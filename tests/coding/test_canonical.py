"""Canonical form: orthonormal atoms, uncorrelated codes, nothing rendered changes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import canonical
from nid_jax.coding.mixture import fit_mixture
from nid_jax.coding.prior import fit_prior
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import Identity, Splines
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.routing import Gates
from nid_jax.fields.shared import SharedDictionary

SHAPE, EXPERTS = (8, 7), 12


def drawn(kind, channels=2, experts=EXPERTS):
    """A random dictionary."""
    made = {"shared": SharedDictionary, "independent": IndependentDictionary}[kind]
    layers = Layers(3, 16, "sine", 8.0)
    return made(Identity(2), experts, channels, layers, rngs=nnx.Rngs(params=3))


@pytest.fixture(scope="module", params=["shared", "independent"])
def case(request):
    """(dictionary, codes, prior, transform, canonical dictionary)."""
    dictionary = drawn(request.param)
    draw = np.random.default_rng(5)
    codes = (draw.normal(size=(40, EXPERTS)) @ draw.normal(size=(EXPERTS, EXPERTS))).astype("f4")
    prior = fit_prior(codes, shrinkage=1e-6)._replace(codes=codes)
    transform = canonical.canonical_transform(dictionary, SHAPE, prior)
    mixed = dictionary.mixed(transform.mixing, transform.level)
    return dictionary, codes, prior, transform, mixed


def test_atoms_are_orthonormal_without_a_constant(case):
    basis = np.asarray(case[4].basis(grid(SHAPE)), np.float64)
    points = len(basis)
    np.testing.assert_allclose(basis.mean(0), 0, atol=1e-5)
    products = np.einsum("pec,pfc->ef", basis, basis) / points
    np.testing.assert_allclose(products, np.eye(EXPERTS), atol=1e-4)
    assert canonical.is_canonical(case[4], SHAPE)
    assert not canonical.is_canonical(case[0], SHAPE)


def test_training_codes_are_uncorrelated_and_sorted(case):
    _, codes, _, transform, _ = case
    found, _ = transform.codes(codes, np.zeros((len(codes), 2), np.float32))
    covariance = np.cov(found.T.astype(np.float64), bias=True)
    variance = np.diag(covariance)
    scale = np.sqrt(variance[:, None] * variance)
    np.testing.assert_allclose(covariance / scale, np.eye(EXPERTS), atol=2e-3)
    assert (np.diff(variance) <= 0).all()


def test_what_codes_render_stays(case):
    dictionary, codes, _, transform, mixed = case
    bias = np.random.default_rng(6).normal(size=(len(codes), 2)).astype("f4")
    x = grid((11, 5))
    before = np.asarray(dictionary(x, codes, bias))
    after = np.asarray(mixed(x, *transform.codes(codes, bias)))
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    # The basis, chosen atoms and rendering agree about the atoms.
    chosen = jnp.asarray([4, 1])
    basis = np.asarray(mixed.basis(x))
    np.testing.assert_allclose(mixed.basis_of(x, chosen), basis[:, [4, 1]], atol=1e-5)
    own, _ = transform.codes(codes, bias)
    summed = np.einsum("se,pec->spc", own, basis)
    scale = np.abs(summed).max()
    np.testing.assert_allclose(np.asarray(mixed(x, own)), summed, atol=2e-5 * scale)


def test_a_prior_goes_along_and_is_diagonal(case):
    _, codes, prior, transform, _ = case
    found = transform.prior(prior)

    def whole(p):
        factor = np.asarray(p.factor, np.float64)
        return factor @ factor.T + np.diag(np.asarray(p.diagonal, np.float64))

    inverse = transform.inverse
    wanted = inverse @ whole(prior) @ inverse.T
    np.testing.assert_allclose(whole(found), wanted, atol=1e-5 * wanted.max())
    assert found.factor.shape == (len(codes[0]), 0)
    np.testing.assert_allclose(found.mean, found.codes.mean(0), atol=1e-4)
    np.testing.assert_allclose(found.codes, codes @ inverse.T.astype("f4"), atol=1e-3)
    first = found.first(3)
    assert first.mean.shape == (3,)
    np.testing.assert_allclose(whole(first), whole(found)[:3, :3], atol=1e-6 * wanted.max())


def test_a_mixture_comes_back_to_the_leading_coordinates_themselves(case):
    """As the prior of a dictionary has gone to its atoms, and comes to canonical form again."""
    _, codes, prior, transform, _ = case
    mixture = fit_mixture(codes @ transform.inverse.T, 2)
    leading = mixture._replace(
        basis=np.eye(EXPERTS, 3, dtype=np.float32),
        offsets=mixture.offsets[:, :3],
        rows=mixture.rows[:, :, :3],
    )
    there = leading.transformed(transform.mixing)
    found = transform.prior(prior._replace(mixture=there)).mixture
    np.testing.assert_array_equal(found.basis, np.eye(EXPERTS, 3))
    other = there._replace(basis=np.roll(there.basis, 1, axis=1))
    found = transform.prior(prior._replace(mixture=other)).mixture
    np.testing.assert_allclose(found.basis, np.roll(np.eye(EXPERTS, 3), 1, axis=1), atol=1e-4)


def test_more_experts_than_rank_leave_zero_atoms_at_the_end():
    dictionary = drawn("shared", channels=1, experts=24)  # of 16 features
    codes = np.random.default_rng(1).normal(size=(50, 24)).astype("f4")
    transform = canonical.canonical_transform(dictionary, SHAPE, fit_prior(codes, shrinkage=0.1))
    mixed = dictionary.mixed(transform.mixing, transform.level)
    assert transform.rank <= 16
    basis = np.asarray(mixed.basis(grid(SHAPE)))
    assert not basis[:, transform.rank :].any()
    assert canonical.is_canonical(mixed, SHAPE)
    bias = np.zeros((50, 1), np.float32)
    before = np.asarray(dictionary(grid(SHAPE), codes, bias))
    after = np.asarray(mixed(grid(SHAPE), *transform.codes(codes, bias)))
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


def test_mixed_twice_and_the_first_few(case):
    dictionary, _, _, transform, mixed = case
    draw = np.random.default_rng(7)
    again, level = draw.normal(size=(EXPERTS, 5)), draw.normal(size=(5, 2))
    x = grid((4, 3))
    wanted = np.einsum("pec,en->pnc", np.asarray(mixed.basis(x)), again) - level
    twice = mixed.mixed(again, level)
    np.testing.assert_allclose(twice.basis(x), wanted, atol=1e-3)
    assert twice.num_experts == 5
    for some in (dictionary, mixed):
        few = some.first(3)
        np.testing.assert_allclose(few.basis(x), some.basis(x)[:, :3], atol=1e-5)
        gates = Gates(jnp.ones((1, 3)), None, None, jnp.zeros((1, 2)))
        wanted = np.asarray(some.basis(x))[:, :3].sum(1)
        np.testing.assert_allclose(few.combine(x, gates)[0], wanted, atol=1e-4)
    with pytest.raises(ArgumentError, match="count: 13; allowed: 1 to 12"):
        mixed.first(13)
    with pytest.raises(ArgumentError, match="mixing"):
        mixed.mixed(np.eye(3), np.zeros((3, 2)))


def test_a_prior_with_the_bias_is_refused(case):
    dictionary, codes, *_ = case
    prior = fit_prior(codes, bias=np.zeros((len(codes), 2)), shrinkage=0.1)
    with pytest.raises(ArgumentError, match="prior"):
        canonical.canonical_transform(dictionary, SHAPE, prior)


@pytest.mark.parametrize("shape", [(20, 9), pytest.param((17, 18), marks=pytest.mark.slow)])
def test_products_of_splines_on_a_grid_are_those_of_their_points(shape):
    layers = Layers(1, 1, "relu", 1.0)
    dictionary = SharedDictionary(Splines((15, 16), 1), 6, 2, layers, rngs=nnx.Rngs(params=1))
    assert dictionary.local
    basis = np.asarray(dictionary.basis(grid(shape)), np.float64)
    matrix, mean = canonical._grid_gram(dictionary, shape)
    np.testing.assert_allclose(mean, basis.mean(0), atol=1e-6)
    centred = basis - basis.mean(0)
    expected = np.einsum("pec,pfc->ef", centred, centred) / len(basis)
    np.testing.assert_allclose(matrix, expected, atol=1e-5 * np.abs(expected).max())
    # A constant of an atom is no part of it, however large.
    dictionary.head_kernel[...] += 30.0
    lifted, mean = canonical._grid_gram(dictionary, shape)
    np.testing.assert_allclose(mean - basis.mean(0), 30, rtol=1e-5)
    np.testing.assert_allclose(lifted, expected, atol=1e-5 * np.abs(expected).max())
