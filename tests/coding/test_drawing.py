"""Signals drawn from a prior: their moments, and what becomes of them in canonical form."""

import numpy as np
import pytest

from nid_jax.coding import canonical, drawing
from nid_jax.coding.mixture import Mixture
from nid_jax.coding.prior import fit_prior
from nid_jax.errors import ArgumentError

EXPERTS, CHANNELS = 3, 2


def known(seed=0, mixture=False):
    """A prior of codes whose bias depends on them, and the codes and biases."""
    generator = np.random.default_rng(seed)
    codes = generator.normal(size=(4000, EXPERTS)) @ generator.normal(size=(EXPERTS, EXPERTS)) + 1
    slope = generator.normal(size=(EXPERTS, CHANNELS))
    bias = 0.5 + codes @ slope + 0.3 * generator.normal(size=(4000, CHANNELS))
    found = fit_prior(codes, shrinkage=1e-6)
    found = found._replace(level=drawing.level_of(found, codes, bias))
    if mixture:
        parts = (
            [0.25, 0.75],
            [0, 4, 0],
            np.eye(EXPERTS, 2),
            [[4, -4], [0, 0]],
            0.1 * np.ones((2, 2, 1)),
            0.1 * np.eye(3),
        )
        found = found._replace(mixture=Mixture(*(np.asarray(p, np.float32) for p in parts)))
    return found, np.concatenate([codes, bias], 1)


def test_codes_and_biases_have_the_moments_of_the_training():
    found, values = known()
    drawn = np.concatenate(drawing.drawn(found, 20000, seed=1), 1)
    scale = values.std(0)
    np.testing.assert_allclose(drawn.mean(0) / scale, values.mean(0) / scale, atol=0.05)
    ours, theirs = (np.cov((rows / scale).T) for rows in (drawn, values))
    np.testing.assert_allclose(ours, theirs, atol=0.06)


def test_those_of_a_mixture_come_from_its_components():
    found, _ = known(mixture=True)
    codes, _ = drawing.drawn(found, 4000, seed=2)
    first = codes[:, 0] > codes[:, 1]
    assert 0.22 < first.mean() < 0.28
    np.testing.assert_allclose(codes[first].mean(0), [4, 0, 0], atol=0.05)
    np.testing.assert_allclose(codes[~first].mean(0), [0, 4, 0], atol=0.05)


def test_one_seed_gives_one_draw():
    found, _ = known()
    one, again, other = (drawing.drawn(found, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[0], again[0])
    assert not np.array_equal(one[0], other[0])


def test_canonical_form_does_not_change_what_is_drawn():
    """The moments of what codes render: atoms (values) and bias."""
    found, _ = known()
    generator = np.random.default_rng(3)
    atoms = generator.normal(size=(7, EXPERTS, CHANNELS))
    centred = (atoms - atoms.mean(0)).swapaxes(1, 2).reshape(-1, EXPERTS)
    covariance = found.factor @ found.factor.T + np.diag(found.diagonal)
    transform = canonical.transform_of(centred.T @ centred / 7, atoms.mean(0), covariance)
    other = transform.prior(found)

    def rendered(known, atoms):
        codes, bias = drawing.drawn(known, 40000, seed=4)
        return (np.einsum("se,pec->spc", codes, atoms) + bias[:, None]).reshape(len(codes), -1)

    mixed = np.einsum("pec,ef->pfc", atoms, transform.mixing) - transform.level
    before, after = rendered(found, atoms), rendered(other, mixed)
    scale = before.std(0)
    np.testing.assert_allclose(after.mean(0) / scale, before.mean(0) / scale, atol=0.04)
    moments = [np.cov((rows / scale).T) for rows in (before, after)]
    np.testing.assert_allclose(*moments, atol=0.06)


def test_refusals():
    found, values = known()
    with pytest.raises(ArgumentError, match="prior.level: None"):
        drawing.drawn(found._replace(level=None), 3)
    with pytest.raises(ArgumentError, match="count: 0"):
        drawing.drawn(found, 0)
    with pytest.raises(ArgumentError, match="without the bias"):
        drawing.level_of(found, values[:, :2], values[:, 3:])


def test_more_than_memory_holds_is_one_line():
    for count in (10**9, 2**31 - 1):
        with pytest.raises(
            ArgumentError, match=f"count: {count}; allowed: what fits into the .* GiB"
        ):
            drawing.drawn(known()[0], count)


def test_what_a_prior_tells_of_its_training_signals():
    found, values = known()
    covariance = np.asarray(found.factor) @ np.asarray(found.factor).T
    expected = np.diag(covariance) + np.asarray(found.diagonal)
    np.testing.assert_allclose(found.variance, expected, rtol=1e-5)
    code, bias = found.middle(EXPERTS - 1)
    np.testing.assert_allclose(code, values[:, : EXPERTS - 1].mean(0), rtol=1e-4)
    np.testing.assert_allclose(bias, values[:, EXPERTS:].mean(0), rtol=1e-4)
    assert found._replace(codes=None).kept(EXPERTS, 3) is None
    assert found._replace(level=None).middle(EXPERTS) is None
    codes = values[:, :EXPERTS].astype(np.float32)
    chosen, _ = found._replace(codes=codes).kept(EXPERTS, 3)
    last = len(codes) - 1
    np.testing.assert_array_equal(chosen, codes[[0, round(last / 2), last]])
    # What is left of biases varies by 0.3.
    _, biases = found._replace(codes=codes).kept(EXPERTS, len(codes))
    assert (values[:, EXPERTS:] - biases).std() == pytest.approx(0.3, rel=0.05)
