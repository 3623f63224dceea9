"""The Gaussian prior against the definition of a Gaussian posterior in float64."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance

from nid_jax.coding import gram, operators, posterior, prior, ridge, uncertainty
from nid_jax.fields import coordinates
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary

EXPERTS, CHANNELS, POINTS = 10, 2, 42


@functools.cache
def _split():
    rngs = nnx.Rngs(0)
    embedding = GaussianFourier(2, 16, 3.0, rngs=rngs)
    return nnx.split(
        SharedDictionary(embedding, EXPERTS, CHANNELS, Layers(2, 16, "relu", 1.0), rngs=rngs)
    )


def make_dictionary():
    return nnx.merge(*_split(), copy=True)


def training_codes(signals=40, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(EXPERTS + CHANNELS, EXPERTS + CHANNELS))
    values = generator.normal(size=(signals, EXPERTS + CHANNELS)) @ mixing + mixing[0]
    values = (scale * values).astype(np.float32)
    return values[:, :EXPERTS], values[:, EXPERTS:]


def covariance(found):
    factor = np.asarray(found.factor, np.float64)
    return factor @ factor.T + np.diag(np.asarray(found.diagonal, np.float64))


def full_basis(dictionary, with_bias):
    """[P, C, N] float64, the constant of every channel among the coefficients if wanted."""
    basis = np.asarray(dictionary.basis(coordinates.grid((7, 6))), np.float64).swapaxes(1, 2)
    constant = np.broadcast_to(np.eye(CHANNELS), (POINTS, CHANNELS, CHANNELS))
    return np.concatenate([basis, constant], 2) if with_bias else basis


def oracle(basis, y, seen, mean, sigma, noise):
    """Posterior mean and covariance of the coefficients: conditioning a joint Gaussian."""
    rows = basis[seen].reshape(-1, basis.shape[-1])
    joint = rows @ sigma @ rows.T + noise * np.eye(len(rows))
    gain = np.linalg.solve(joint, rows @ sigma).T
    left = y[seen].ravel().astype(np.float64) - rows @ mean
    evidence = scipy.stats.multivariate_normal(rows @ mean, joint).logpdf(y[seen].ravel())
    return mean + gain @ left, sigma - gain @ rows @ sigma, evidence


def problem(own=True, seed=1, scale=1.0):
    generator = np.random.default_rng(seed)
    y = (scale * generator.normal(0.5, 1, (3, POINTS, CHANNELS))).astype(np.float32)
    seen = generator.uniform(size=(3, POINTS) if own else POINTS) < 0.3
    operator = operators.mask((7, 6), seen)
    equations = gram.normal_equations(make_dictionary(), operator, y)
    return y, np.broadcast_to(seen, (3, POINTS)), equations


@pytest.mark.parametrize("own", [pytest.param(False, marks=pytest.mark.slow), True])
def test_posterior_with_the_bias_in_the_prior(own):
    y, seen, equations = problem(own)
    found = prior.fit_prior(*training_codes(), shrinkage=0.1)
    solution = posterior.gaussian(equations, found, noise=0.2)
    assert solution.converged.all()
    variance = uncertainty.posterior_variance(
        make_dictionary(), coordinates.grid((7, 6)), equations, found, noise=0.2, chunk=17
    )
    evidence = posterior.solve_posterior(equations, found, 0.2).evidence
    basis = full_basis(make_dictionary(), True)
    for signal in range(3):
        mean, after, log_density = oracle(
            basis, y[signal], seen[signal], np.asarray(found.mean), covariance(found), 0.2
        )
        np.testing.assert_allclose(solution.codes[signal], mean[:EXPERTS], atol=1e-4)
        np.testing.assert_allclose(solution.bias[signal], mean[EXPERTS:], atol=1e-4)
        np.testing.assert_allclose(evidence[signal], log_density, rtol=1e-4)
        expected = np.einsum("pcn,nm,pcm->pc", basis, after, basis)
        np.testing.assert_allclose(variance[signal if own else 0], expected, rtol=1e-3, atol=1e-5)
        left = (basis @ mean - y[signal])[seen[signal]]
        np.testing.assert_allclose(solution.residual[signal], np.square(left).mean(), rtol=1e-3)


def test_posterior_with_a_free_bias():
    y, seen, equations = problem()
    codes, _ = training_codes()
    found = prior.fit_prior(codes, shrinkage=0.1)
    solution = posterior.gaussian(equations, found, noise=0.2)
    variance = uncertainty.posterior_variance(
        make_dictionary(), coordinates.grid((7, 6)), equations, found, noise=0.2
    )
    # A free bias is one of enormous variance.
    basis = full_basis(make_dictionary(), True)
    mean = np.concatenate([found.mean, np.zeros(CHANNELS)])
    sigma = np.zeros((EXPERTS + CHANNELS,) * 2)
    sigma[:EXPERTS, :EXPERTS] = covariance(found)
    sigma[EXPERTS:, EXPERTS:] = 1e7 * np.eye(CHANNELS)
    for signal in range(3):
        expected, after, _ = oracle(basis, y[signal], seen[signal], mean, sigma, 0.2)
        np.testing.assert_allclose(solution.codes[signal], expected[:EXPERTS], atol=1e-4)
        np.testing.assert_allclose(solution.bias[signal], expected[EXPERTS:], atol=1e-4)
        spread = np.einsum("pcn,nm,pcm->pc", basis, after, basis)
        np.testing.assert_allclose(variance[signal], spread, rtol=1e-3, atol=1e-4)


def test_variance_through_features_is_that_through_atoms():
    """Many points are worth folding rows through the heads, one is not."""
    dictionary, (_, _, equations) = make_dictionary(), problem(own=False)
    found = prior.fit_prior(training_codes()[0], shrinkage=0.1)
    x = coordinates.grid((7, 6))
    many = uncertainty.posterior_variance(dictionary, x, equations, found, 0.2, chunk=17)
    for place in (0, 19):
        one = uncertainty.posterior_variance(
            dictionary, x[place : place + 1], equations, found, 0.2
        )
        np.testing.assert_allclose(many[:, place : place + 1], one, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    noise=st.floats(1e-4, 10.0),
)
def test_optimality(seed, scale, noise):
    y, seen, equations = problem(seed=seed, scale=scale)
    found = prior.fit_prior(*training_codes(scale=scale), shrinkage=0.1)
    noise = noise * scale**2
    solution = posterior.gaussian(equations, found, noise=noise)
    basis, sigma = full_basis(make_dictionary(), True), covariance(found)
    for signal in range(3):
        z = np.concatenate([solution.codes[signal], solution.bias[signal]]).astype(np.float64)
        rows = basis[seen[signal]].reshape(-1, EXPERTS + CHANNELS)
        pull = np.linalg.solve(sigma, z - np.asarray(found.mean, np.float64))
        push = rows.T @ (y[signal][seen[signal]].ravel() - rows @ z) / noise
        size = np.abs(rows).T @ np.abs(rows) / noise @ np.abs(z)
        assert (np.abs(push - pull) <= 1e-5 * (size + np.abs(pull))).all()


def test_noise_of_highest_evidence():
    generator = np.random.default_rng(2)
    codes, bias = training_codes(400)
    found = prior.fit_prior(codes, bias, shrinkage=1e-3)
    basis = full_basis(make_dictionary(), True)
    truth = np.concatenate([codes, bias], 1)[:8]
    clean = np.einsum("sn,pcn->spc", truth, basis)
    for noise in (1e-3, 1.0):
        y = (clean + np.sqrt(noise) * generator.normal(size=clean.shape)).astype(np.float32)
        equations = gram.normal_equations(make_dictionary(), operators.sample((7, 6)), y)
        assert 0.7 * noise < posterior.estimate_noise(equations, found) < 1.4 * noise
    solution = posterior.gaussian(equations, found, noise=posterior.Estimated())
    assert "by evidence" in posterior.words(solution.stats)
    for least, wanted in ((0.5, 1.0), (30.0, 30.0)):
        found_noise = posterior.estimate_noise(equations, found, least)
        assert max(0.7 * wanted, least) <= found_noise < 1.4 * wanted
    # Of measurements that are all 0 the least, too.
    silent = gram.normal_equations(make_dictionary(), operators.sample((7, 6)), 0 * y)
    assert posterior.estimate_noise(silent, found, 0.25) == 0.25
    # Where the training residuals are known, they are the default.
    known = prior.fit_prior(codes, bias, residual=np.full(400, 0.5), shrinkage=1e-3)
    by_default = posterior.gaussian(equations, known)
    np.testing.assert_allclose(by_default.codes, posterior.gaussian(equations, known, 0.5).codes)
    np.testing.assert_array_equal(by_default.stats["noise_variance"], 0.5)
    assert not by_default.stats["by_evidence"].any()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_evidence_of_many_noises_at_once(own, with_bias):
    y, seen, equations = problem(own, seed=11)
    codes, bias = training_codes(seed=5)
    found = prior.fit_prior(codes, bias if with_bias else None, shrinkage=0.1)
    noises = np.array([1e-5, 1e-2, 0.3, 40.0])
    together = posterior.evidences(equations, found, noises)
    assert together.shape == (3, 4)
    one_by_one = [posterior.solve_posterior(equations, found, n).evidence for n in noises]
    np.testing.assert_allclose(together, np.stack(one_by_one, 1), rtol=1e-6)
    if with_bias:
        basis, mean = full_basis(make_dictionary(), True), np.asarray(found.mean)
        for signal, noise in np.ndindex(3, 4):
            expected = oracle(
                basis, y[signal], seen[signal], mean, covariance(found), noises[noise]
            )[2]
            np.testing.assert_allclose(together[signal, noise], expected, rtol=1e-4)


@pytest.mark.parametrize("signals", [30, 8, 1])
def test_moments_of_the_prior(signals):
    codes, bias = training_codes(signals)
    values = np.concatenate([codes, bias], 1).astype(np.float64)
    found = prior.fit_prior(codes, bias, shrinkage=0.2)
    assert found.factor.shape[1] <= min(signals, EXPERTS + CHANNELS)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-5, atol=1e-5)
    if signals > 1:
        sample = np.cov(values.T, bias=True)
        expected = 0.8 * sample + 0.2 * np.diag(np.diag(sample))
        np.testing.assert_allclose(covariance(found), expected, atol=1e-4 * sample.max())
    assert (np.linalg.eigvalsh(covariance(found)) > 0).all()


@pytest.mark.parametrize("signals", [60, 9])
def test_shrinkage_of_highest_held_out_likelihood(signals):
    values = np.concatenate(training_codes(signals), 1).astype(np.float64)
    groups = np.arange(signals) % 6
    scores = []
    for shrinkage in prior.SHRINKAGES:
        score = 0.0
        for fold in range(3):
            held_out = groups % 3 == fold
            known = values[~held_out]
            sample = EmpiricalCovariance().fit(known).covariance_
            shrunk = (1 - shrinkage) * sample + shrinkage * np.diag(np.diag(sample))
            density = scipy.stats.multivariate_normal(known.mean(0), shrunk, allow_singular=True)
            score += density.logpdf(values[held_out]).sum()
        scores.append(score)
    chosen = prior.choose_shrinkage(values, groups, folds=3)
    assert chosen == prior.SHRINKAGES[int(np.argmax(scores))]
    assert float(prior.fit_prior(values, groups=groups, folds=3).shrinkage) == pytest.approx(chosen)


def test_copies_are_held_out_together():
    values = np.concatenate(training_codes(12), 1).astype(np.float64)
    copies = np.tile(values, (4, 1)) + 1e-3 * np.random.default_rng(3).normal(size=(48, 12))
    alone = prior.choose_shrinkage(copies)
    together = prior.choose_shrinkage(copies, groups=np.arange(48) % 12)
    # Copies of held-out codes among the known ones make the covariance look better than it is.
    assert together > 10 * alone


def test_prior_fills_in_what_was_not_measured():
    generator = np.random.default_rng(4)
    codes, bias = training_codes(200)
    values = np.concatenate([codes, bias], 1)
    # Codes in 3 dimensions: 4 points with 2 channels determine them.
    axes = np.linalg.svd(values - values.mean(0), full_matrices=False)[2][:3]
    values = (values.mean(0) + 5 * generator.normal(size=(220, 3)) @ axes).astype(np.float32)
    basis = full_basis(make_dictionary(), True)
    y = np.einsum("sn,pcn->spc", values, basis).astype(np.float32)[200:]
    seen = np.zeros((20, POINTS), bool)
    for row in seen:
        row[generator.choice(POINTS, 4, replace=False)] = True
    equations = gram.normal_equations(make_dictionary(), operators.mask((7, 6), seen), y)
    found = prior.fit_prior(values[:200, :EXPERTS], values[:200, EXPERTS:], shrinkage=1e-6)

    def error(solution):
        z = np.concatenate([solution.codes, solution.bias], 1)
        return np.square(np.einsum("sn,pcn->spc", z, basis) - y).mean()

    informed, plain = posterior.gaussian(equations, found, noise=1e-6), ridge.ridge(equations, 1e-6)
    assert error(informed) < 1e-3 * error(plain)


@pytest.mark.slow
def test_degenerate_problems():
    dictionary = make_dictionary()
    full, pixel = operators.sample((7, 6)), operators.sample((1, 1))
    codes, bias = training_codes()
    unused = codes.copy()
    unused[:, 3] = 0
    cases = {
        "zero signals": (full, np.zeros((2, POINTS, 2)), prior.fit_prior(codes, bias)),
        "one pixel": (pixel, np.ones((2, 1, 2)), prior.fit_prior(codes, bias)),
        "one pixel, free bias": (pixel, np.ones((2, 1, 2)), prior.fit_prior(codes)),
        "one training code": (full, np.ones((2, POINTS, 2)), prior.fit_prior(codes[:1], bias[:1])),
        "equal training codes": (
            full,
            np.ones((2, POINTS, 2)),
            prior.fit_prior(np.repeat(codes[:1], 5, 0)),
        ),
        "zero training codes": (
            full,
            np.ones((2, POINTS, 2)),
            prior.fit_prior(0 * codes, 0 * bias),
        ),
        "an unused expert": (full, np.ones((2, POINTS, 2)), prior.fit_prior(unused, bias)),
    }
    for name, (operator, y, found) in cases.items():
        equations = gram.normal_equations(dictionary, operator, y)
        for noise in (None, 1e-8, 1e3):
            solution = posterior.gaussian(equations, found, noise)
            for values in (solution.codes, solution.bias, solution.residual):
                assert np.isfinite(values).all(), (name, noise)
        variance = uncertainty.posterior_variance(dictionary, operator.points, equations, found)
        assert np.isfinite(variance).all(), name
        assert (np.asarray(variance) >= 0).all(), name


def test_refusals():
    codes, bias = training_codes()
    _, _, equations = problem()
    found = prior.fit_prior(codes, bias, shrinkage=0.1)
    other = prior.fit_prior(codes[:, :4], shrinkage=0.1)
    cases = [
        (lambda: prior.fit_prior(codes[:0]), "codes: .*1 or more"),
        (lambda: prior.fit_prior(np.where(codes > 1, np.nan, codes)), "finite"),
        (lambda: prior.fit_prior(codes, bias[:3]), "bias: .*channels"),
        (
            lambda: prior.fit_prior(codes, shrinkage=0.0),
            "shrinkage: 0.0; allowed: above 0, at most 1",
        ),
        (lambda: prior.fit_prior(codes, groups=[1, 2]), "groups: "),
        (lambda: posterior.gaussian(equations, other), "this dictionary has 10"),
        (lambda: posterior.gaussian(equations, found, noise=0.0), "above 0"),
        (lambda: posterior.gaussian(equations, found, noise="estimate"), r"or Estimated\(\)"),
    ]
    for call, says in cases:
        with pytest.raises(ValueError, match=says):
            call()
    assert jnp.isfinite(posterior.gaussian(equations, found, noise=1.0).codes).all()
