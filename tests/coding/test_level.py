"""Codes and biases under one Gaussian of both, beside the textbook's in float64."""

import numpy as np
import pytest

import nid_jax as nid
from nid_jax.coding import mixture
from nid_jax.coding.drawing import Level
from nid_jax.coding.prior import GaussianPrior
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.notices import Notice

EXPERTS, CHANNELS = 4, 2


def known(draw):
    """A prior with the level of its signals, one of whose channels codes tell entirely."""
    factor, diagonal = draw.normal(size=(EXPERTS, 3)), draw.uniform(0.1, 1, EXPERTS)
    level = Level(
        *(
            np.float32(part)
            for part in (
                draw.normal(size=CHANNELS),
                draw.normal(size=(EXPERTS, CHANNELS)),
                np.diag([0.7, 0.0]),
            )
        )
    )
    prior = GaussianPrior.single(draw.normal(size=EXPERTS), factor, diagonal, 0.01, 0.1)
    return prior._replace(level=level)


def test_the_gaussian_of_codes_and_biases_is_that_of_their_regression():
    draw = np.random.default_rng(0)
    prior = known(draw)
    both = prior.with_level()
    codes = np.asarray(prior.factor, float) @ np.asarray(prior.factor, float).T
    codes += np.diag(np.asarray(prior.diagonal, float))
    slope, own = (np.asarray(part, float) for part in (prior.level.slope, prior.level.factor))
    wanted = np.block(
        [[codes, codes @ slope], [slope.T @ codes, slope.T @ codes @ slope + own @ own.T]]
    )
    found = np.asarray(both.factor, float) @ np.asarray(both.factor, float).T
    found += np.diag(np.asarray(both.diagonal, float))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(both.mean, np.concatenate([prior.mean, prior.level.mean]))
    assert np.linalg.eigvalsh(found).min() > 0
    assert both.level is None
    assert both.codes is None


@pytest.mark.parametrize("count", [1, 3])
def test_what_only_coefficients_left_out_say_of_a_bias_is_open(count):
    prior = known(np.random.default_rng(3))
    whole, fewer = (
        np.asarray(one.factor, float)
        for one in (prior.with_level(), prior.first(count).with_level())
    )
    kept = [*range(count), *range(EXPERTS, EXPERTS + CHANNELS)]
    wanted = (whole @ whole.T)[np.ix_(kept, kept)]
    np.testing.assert_allclose(fewer @ fewer.T, wanted, rtol=1e-4, atol=1e-5)


def test_neighbours_leave_the_bias_free():
    with pytest.raises(ArgumentError, match="level"):
        nid.solvers.Gaussian(level=True, neighbours=3)


@pytest.fixture(scope="module")
def dictionary():
    """Learned from waves whose level goes with their size."""
    draw = np.random.default_rng(1)
    sizes, x = draw.normal(size=(40, 2)), np.linspace(0, np.pi, 8)
    waves = np.stack([np.cos(x), np.cos(2 * x)])
    signals = 0.5 + 0.1 * np.einsum("sk,kx->sx", sizes, waves) + 0.1 * sizes[:, :1]
    noise = 0.002 * draw.normal(size=(40, 8, 8))
    return nid.learn(np.float32(signals[:, :, None].repeat(8, 2) + noise), num_experts=6)


def test_few_samples_are_fitted_as_the_textbook_says(dictionary):
    draw = np.random.default_rng(2)
    seen = np.zeros((8, 8), bool)
    seen[[0, 3, 6], [1, 5, 2]] = True
    values = np.float32(draw.uniform(0.3, 0.7, (2, 8, 8)))
    solver = nid.solvers.Gaussian(noise=0.05, level=True)
    fit = dictionary.fit(values, seen=seen, solver=solver)
    prior = dictionary.prior.with_level()
    factor, diagonal = np.asarray(prior.factor, float), np.asarray(prior.diagonal, float)
    covariance = factor @ factor.T + np.diag(diagonal)
    atoms = np.asarray(dictionary.dictionary.basis(grid((8, 8))), float)[..., 0]
    rows = np.concatenate([atoms, np.ones((64, 1))], 1)
    some = rows[seen.ravel()]
    kernel = some @ covariance @ some.T + 0.05**2 * np.eye(3)
    mean = np.asarray(prior.mean, float)
    gain = covariance @ some.T @ np.linalg.inv(kernel)
    found = mean + (values.reshape(2, 64)[:, seen.ravel()] - some @ mean) @ gain.T
    np.testing.assert_allclose(fit.render().reshape(2, 64), found @ rows.T, atol=2e-4)
    left = covariance - gain @ some @ covariance
    variance = np.einsum("pn,nm,pm->p", rows, left, rows)
    deviation = fit.deviation()[..., 0].reshape(-1, 64)
    np.testing.assert_allclose(deviation[0], np.sqrt(variance), rtol=1e-2, atol=1e-4)


def test_a_mixture_that_is_not_used_is_said(dictionary):
    prior = dictionary.prior._replace(mixture=mixture.fit_mixture(dictionary.prior.codes, 2))
    parts = dictionary.model, dictionary.config, dictionary.signals
    mixed = nid.NeuralDictionary(*parts, prior)
    signals = np.full((1, 8, 8), 0.5, np.float32)
    with pytest.warns(Notice, match="not its mixture"):
        mixed.fit(signals, solver=nid.solvers.Gaussian(level=True))


def test_a_prior_that_knows_no_level_is_refused(dictionary):
    without = nid.NeuralDictionary(
        dictionary.model,
        dictionary.config,
        dictionary.signals,
        dictionary.prior._replace(level=None),
    )
    with pytest.raises(ArgumentError, match="prior.level"):
        without.fit(np.zeros((1, 8, 8), np.float32), solver=nid.solvers.Gaussian(level=True))
