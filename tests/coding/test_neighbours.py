"""The prior of neighbours against a plain float64 computation in the space of measurements."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax.coding.gram import normal_equations
from nid_jax.coding.neighbours import local_gaussian
from nid_jax.coding.operators import sample
from nid_jax.coding.posterior import gaussian
from nid_jax.coding.prior import fit_prior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Gaussian
from nid_jax.errors import ArgumentError
from nid_jax.fields.variables import Basis

POINTS, EXPERTS, KNOWN = 14, 6, 40


class Table(nnx.Module):
    """A dictionary whose atoms are given at fixed points."""

    def __init__(self, atoms):
        self.table = Basis(jnp.asarray(atoms))
        self.kind, self.channels, self.num_experts, self.width = "independent", 1, EXPERTS, 1

    def basis(self, x):
        # Points carry their own number.
        return self.table[...][jnp.round(x[:, 0] * POINTS).astype(int)][:, :, None]

    @property
    def atoms(self):
        """[P, E]."""
        return np.asarray(self.table[...])


def problem(seed, signals=3, known=KNOWN):
    generator = np.random.default_rng(seed)
    atoms = generator.normal(size=(POINTS, EXPERTS)).astype(np.float32)
    # Codes on a curved sheet, which no Gaussian fits.
    angle = generator.uniform(0, 2 * np.pi, (known, 1))
    wave = np.concatenate([np.cos(k * angle) for k in (1, 2, 3)], 1)
    codes = wave @ generator.normal(size=(3, EXPERTS)) + 0.05 * generator.normal(
        size=(known, EXPERTS)
    )
    own = codes[:signals] + 0.1 * generator.normal(size=(signals, EXPERTS))
    measured = own @ atoms.T + 0.3 + 0.05 * generator.normal(size=(signals, POINTS))
    points = np.stack([np.arange(POINTS) / POINTS, np.zeros(POINTS)], 1)
    return Table(atoms), sample(points), codes.astype(np.float32), measured[..., None]


def expected(atoms, codes, measured, prior, noise, neighbours, blend, weights=None):
    """One signal, in the space of measurements, in float64."""
    weights = np.ones(POINTS) if weights is None else weights
    root = np.sqrt(weights)

    def centred(values):
        mean = (weights * values).sum(-1, keepdims=True) / weights.sum()
        return root * (values - mean)

    phi = centred(atoms.astype(np.float64).T).T
    target = centred(measured)
    factor = np.asarray(prior.factor, np.float64)
    columns = np.concatenate([factor, np.diag(np.sqrt(np.asarray(prior.diagonal, np.float64)))], 1)
    common = columns[:, np.argsort(-np.square(columns).sum(0))[:neighbours]]
    sigma = factor @ factor.T + np.diag(np.asarray(prior.diagonal, np.float64))
    metric = np.linalg.inv(phi @ sigma @ phi.T + noise * np.eye(POINTS))
    codes = codes.astype(np.float64)
    residual = target - codes @ phi.T
    distance = np.einsum("np,pq,nq->n", residual, metric, residual)
    near = np.argsort(distance)[:neighbours]
    weight = 1 - distance[near] / distance[near].max()
    weight /= weight.sum()
    mean = weight @ codes[near]
    spread = codes[near] - mean
    covariance = (1 - blend) * (spread.T * weight) @ spread + blend * common @ common.T
    gain = covariance @ phi.T @ np.linalg.inv(phi @ covariance @ phi.T + noise * np.eye(POINTS))
    return mean + gain @ (target - phi @ mean)


@pytest.mark.parametrize(("blend", "shrinkage"), [(0.0, 1e-3), (0.2, 1e-3), (0.2, 0.5), (0.2, 1.0)])
def test_agrees_with_the_space_of_measurements(blend, shrinkage):
    """Also where some, or all, of the covariance is in the diagonal."""
    dictionary, operator, codes, measured = problem(0)
    prior = fit_prior(codes, shrinkage=shrinkage)._replace(codes=jnp.asarray(codes))
    equations = normal_equations(dictionary, operator, measured)
    solution = local_gaussian(equations, prior, 0.01, 9, blend)
    for signal in range(3):
        wanted = expected(dictionary.atoms, codes, measured[signal, :, 0], prior, 0.01, 9, blend)
        np.testing.assert_allclose(solution.codes[signal], wanted, atol=1e-4)
    assert np.asarray(solution.converged).all()
    residual = measured - np.asarray(solution.codes @ dictionary.atoms.T + solution.bias)[..., None]
    np.testing.assert_allclose(solution.residual, np.square(residual).mean((1, 2)), rtol=1e-3)


def test_agrees_with_masks_of_their_own():
    dictionary, operator, codes, measured = problem(1)
    seen = (np.random.default_rng(2).uniform(size=(3, POINTS)) < 0.6).astype(np.float32)
    prior = fit_prior(codes, shrinkage=1e-3)._replace(codes=jnp.asarray(codes))
    equations = normal_equations(dictionary, operator, measured, seen)
    solution = local_gaussian(equations, prior, 0.02, 7, 0.1)
    for signal in range(3):
        wanted = expected(
            dictionary.atoms,
            codes,
            measured[signal, :, 0],
            prior,
            0.02,
            7,
            0.1,
            seen[signal].astype(np.float64),
        )
        np.testing.assert_allclose(solution.codes[signal], wanted, atol=1e-4)


def test_all_of_the_covariance_and_a_distant_mean_give_the_prior_of_all():
    """blend 1 leaves the covariance of all; only the mean is the neighbours'."""
    dictionary, operator, codes, measured = problem(3)
    prior = fit_prior(codes, shrinkage=1e-6)._replace(codes=jnp.asarray(codes))
    equations = normal_equations(dictionary, operator, measured)
    # Hardly any noise: the measurements decide, and the mean says nothing.
    near = local_gaussian(equations, prior, 1e-10, 9, 1.0)
    whole = gaussian(equations, prior.alone(), 1e-10)
    np.testing.assert_allclose(near.codes, whole.codes, atol=1e-3)


def test_few_measurements_of_a_curved_sheet_are_completed_better():
    """What the prior of neighbours is for."""
    dictionary, operator, codes, measured = problem(4, 20, 420)
    seen = np.zeros(POINTS, np.float32)
    seen[:5] = 1
    train = codes[20:]
    prior = fit_prior(train, shrinkage=1e-3)._replace(codes=jnp.asarray(train))
    equations = normal_equations(dictionary, operator, measured, seen)

    def error(solution):
        rendered = solution.codes @ dictionary.atoms.T + solution.bias
        return float(jnp.square(rendered - measured[..., 0]).mean())

    near = error(local_gaussian(equations, prior, 0.01, 30, 0.05))
    assert near < 0.8 * error(gaussian(equations, prior.alone(), 0.01))


def test_refuses_what_cannot_be():
    dictionary, operator, codes, measured = problem(5)
    prior = fit_prior(codes, shrinkage=1e-3)
    given = Problem(dictionary, operator, measured, prior=prior)
    with pytest.raises(ArgumentError, match="neighbours: 5.*prior.keep_codes"):
        Gaussian(noise=0.1, neighbours=5).solve(given)
    given = Problem(dictionary, operator, measured, prior=prior._replace(codes=jnp.asarray(codes)))
    with pytest.raises(ArgumentError, match="neighbours: 41"):
        Gaussian(noise=0.1, neighbours=41).solve(given)
    with pytest.raises(ArgumentError, match="blend: 2"):
        local_gaussian(given.equations(), given.prior, 0.1, 5, 2.0)
