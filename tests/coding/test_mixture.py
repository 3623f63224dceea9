"""The mixture: its fit against scikit-learn, its codes against densities in plain float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from nid_jax.coding import least_squares, mixture, mixture_codes
from nid_jax.coding.mixture import Mixture, fit_mixture
from nid_jax.coding.operators import sample
from nid_jax.coding.prior import GaussianPrior, fit_prior
from nid_jax.coding.problem import Problem
from nid_jax.coding.solvers import Gaussian
from nid_jax.coding.uncertainty import posterior_variance
from nid_jax.errors import ArgumentError
from nid_jax.fields.variables import Basis

POINTS, EXPERTS, NOISE = 9, 5, 0.04


class Table(nnx.Module):
    """A dictionary whose atoms are given at fixed points."""

    def __init__(self, atoms):
        self.table = Basis(jnp.asarray(atoms))
        self.kind, self.channels, self.num_experts, self.width = "independent", 1, EXPERTS, 1

    def basis(self, x):
        # Points carry their own number.
        return self.table[...][jnp.round(x[:, 0] * POINTS).astype(int)][:, :, None]

    def combine(self, x, gates):
        return jnp.einsum("se,pec->spc", gates.values, self.basis(x)) + gates.bias[:, None]


def clusters(seed, count=3, each=60, apart=4.0, size=EXPERTS):
    """Codes of falling energy in clusters of different shapes, and the cluster of each."""
    generator = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        centre = apart * generator.normal(size=size)
        parts.append(
            centre + generator.normal(size=(each, size)) @ generator.normal(size=(size, size))
        )
    codes = np.concatenate(parts) / np.arange(1, size + 1)
    codes = codes - codes.mean(0)
    _, axes = np.linalg.eigh(np.cov(codes.T))
    return codes @ axes[:, ::-1], np.repeat(np.arange(count), each)


# ---- the fit ------------------------------------------------------------------------------------


def test_expectation_maximisation_agrees_with_scikit_learn():
    codes, label = clusters(0, apart=2.0)
    ours = mixture.expectation_maximisation(codes, 3, share=1e-9, rounds=200)
    theirs = GaussianMixture(
        3, tol=1e-9, max_iter=500, reg_covar=1e-9, means_init=ours.means, random_state=0
    ).fit(codes)
    likelihood = ours.log_likelihood(codes).mean()
    assert likelihood == pytest.approx(theirs.score(codes), abs=5e-3)
    order = np.argsort(ours.weights)
    found = theirs.weights_[np.argsort(theirs.weights_)]
    np.testing.assert_allclose(ours.weights[order], found, atol=5e-3)
    # A component for each cluster, however it is called.
    assert adjusted_rand_score(label, ours.responsibility(codes).argmax(1)) > 0.8


def test_likelihood_of_given_components_is_scikit_learns():
    codes, _ = clusters(1)
    ours = mixture.expectation_maximisation(codes, 2)
    theirs = GaussianMixture(2).fit(codes)
    theirs.weights_, theirs.means_ = ours.weights, ours.means
    theirs.precisions_cholesky_ = np.linalg.inv(ours.roots).swapaxes(-1, -2)
    fresh = clusters(2)[0]
    np.testing.assert_allclose(ours.log_likelihood(fresh), theirs.score_samples(fresh), rtol=1e-9)


def test_the_number_of_components_is_that_of_the_clusters_or_one():
    codes, _ = clusters(3, count=3, each=80)

    def chosen(values, counts, groups=None):
        return mixture.choose(values, counts, groups)[0]

    assert chosen(codes, (1, 3)) == 3
    one = np.random.default_rng(4).normal(size=(60, EXPERTS))
    assert chosen(one, (1, 2, 3, 5)) == 1
    assert fit_mixture(one, (1, 2, 3, 5)) is None
    # Copies of 9 signals look like 9 clusters, and say nothing of a tenth.
    copies = np.repeat(one[:9], 10, 0) + 0.01 * np.random.default_rng(5).normal(size=(90, EXPERTS))
    groups = np.repeat(np.arange(9), 10)
    assert chosen(copies, (1, 9)) == 9
    assert chosen(copies, (1, 9), groups) == 1
    # With one group nothing can be held out.
    assert chosen(copies, (1, 9), np.zeros(90, int)) == 1


def test_components_overlap_where_that_foretells_more():
    """Round a circle, with few signals for each of 12 parts of it, each takes in more of it."""
    generator = np.random.default_rng(16)
    angle = generator.uniform(0, 2 * np.pi, 240)
    rest = generator.normal(size=(240, 16)) / np.arange(1, 17)
    circle = 6 * np.stack([np.cos(angle), np.sin(angle)], 1)
    count, power, _ = mixture.choose(np.concatenate([circle, rest], 1), (12,))
    assert count == 12
    assert power < 1


def test_a_component_has_the_moments_of_its_signals():
    codes, label = clusters(6, count=2, apart=20.0)
    found = fit_mixture(codes, 2)
    for number in range(2):
        mean, own = found.means()[number], found.directions(number)
        mine = codes[label == label[np.square(codes - mean).sum(1).argmin()]]
        np.testing.assert_allclose(mean, mine.mean(0), atol=1e-4)
        covariance = own @ own.T
        share = found.common[0, 0] ** 2 / codes.var(0)[0]
        shares = (mixture._SHARE, *mixture._SHARES)
        assert any(share == pytest.approx(one, rel=1e-3) for one in shares)
        np.testing.assert_allclose(covariance, (1 - share) * np.cov(mine.T, bias=True), atol=1e-3)
    np.testing.assert_allclose(found.weights, 0.5, atol=1e-6)


def test_wrong_arguments_are_one_line():
    codes, _ = clusters(9)
    with pytest.raises(ArgumentError, match=r"codes: \(0, 3\)"):
        fit_mixture(np.zeros((0, 3)), 1)
    with pytest.raises(ArgumentError, match="components: 200; allowed: 1 to the 180"):
        fit_mixture(codes, 200)


# ---- codes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given():
    """A dictionary of random atoms, a prior with three components, measurements of two signals."""
    generator = np.random.default_rng(10)
    atoms = generator.normal(size=(POINTS, EXPERTS)).astype(np.float32)
    codes, _ = clusters(11)
    known = fit_prior(codes, shrinkage=0.1)
    basis, mean = generator.normal(size=(EXPERTS, 4)), generator.normal(size=EXPERTS)
    rows = 0.5 * generator.normal(size=(3, 2, 4))
    offsets = generator.normal(size=(3, 4))
    common = 0.2 * generator.normal(size=(EXPERTS, EXPERTS))
    parts = (np.array([0.5, 0.2, 0.3]), mean, basis, offsets, rows, common)
    known = known._replace(mixture=Mixture(*(np.asarray(p, np.float32) for p in parts)))
    own = known.mixture.means()[[0, 2]] + 0.5 * generator.normal(size=(2, EXPERTS))
    measured = own @ atoms.T + 0.3 + 0.2 * generator.normal(size=(2, POINTS))
    points = np.stack([np.arange(POINTS) / POINTS, np.zeros(POINTS)], 1)
    return Table(atoms), sample(points), known, measured[..., None]


def expected(dictionary, known, measured, weights, values):
    """Mean code, log evidences [K] and covariance of the rendered values at the points, of one
    signal in float64: the bias, free, is taken off by an orthonormal basis of its complement."""
    atoms = np.asarray(dictionary.table[...], np.float64)
    root = np.sqrt(weights)
    complement = np.linalg.svd(root[None])[2][1:]
    phi, target = complement @ (root[:, None] * atoms), complement @ (root * measured)
    common = np.asarray(known.mixture.common, np.float64)
    logs, coarse, codes, renders, spreads = [], [], [], [], []
    mixture = Mixture(*(np.asarray(part, np.float64) for part in known.mixture))
    for number, weight in enumerate(mixture.weights):
        mean = mixture.mean + mixture.basis @ mixture.offsets[number]
        own = mixture.basis @ mixture.rows[number].T
        sigma = own @ own.T + common @ common.T
        total = phi @ sigma @ phi.T + NOISE * np.eye(len(phi))
        normal = multivariate_normal(phi @ mean, total)
        logs.append(np.log(weight) + normal.logpdf(target))
        gain = sigma @ phi.T @ np.linalg.inv(total)
        offset = target - phi @ mean
        believed = np.linalg.slogdet(total)[1] / values
        believed += np.log(1 + offset @ np.linalg.solve(total, offset))
        worth = values / (1 + (values / 16) ** 4) ** 0.25
        coarse.append(np.log(weight) - 0.5 * worth * believed)
        codes.append(mean + gain @ (target - phi @ mean))
        centred = atoms - weights @ atoms / weights.sum()
        left = sigma - gain @ phi @ sigma
        renders.append(atoms @ codes[-1] + weights @ (measured - atoms @ codes[-1]) / weights.sum())
        spreads.append(np.einsum("pe,ef,pf->p", centred, left, centred) + NOISE / weights.sum())
    share = np.exp(coarse - logsumexp(coarse))
    mean = share @ np.stack(renders)
    variance = share @ (np.stack(spreads) + np.square(np.stack(renders) - mean))
    return share @ np.stack(codes), np.array(logs), variance


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("masked", [False, True])
def test_codes_evidence_and_variance_agree_with_densities(given, precision, masked):
    dictionary, operator, known, measured = given
    weights = np.ones((2, POINTS))
    if masked:
        weights = np.random.default_rng(12).uniform(0.2, 1, (2, POINTS)).astype(np.float32)
    problem = Problem(dictionary, operator, measured, weights if masked else None, prior=known)
    equations = problem.equations(precision)
    counts = np.broadcast_to(equations.count, 2) - 1
    found = mixture_codes.solve(equations, known, NOISE)
    solution = mixture_codes.most_probable(equations, known, NOISE)
    variance = posterior_variance(dictionary, operator.points, equations, known, NOISE)
    assert np.asarray(solution.converged).all()
    for signal in range(2):
        values = measured[signal, :, 0]
        codes, logs, spread = expected(dictionary, known, values, weights[signal], counts[signal])
        np.testing.assert_allclose(found.codes[signal], codes, atol=2e-4)
        np.testing.assert_allclose(solution.codes[signal], codes, atol=2e-4)
        # Densities of weighed measurements differ by what no component changes.
        np.testing.assert_allclose(
            found.evidences[signal] - found.evidences[signal, 0], logs - logs[0], atol=2e-3
        )
        if not masked:
            np.testing.assert_allclose(found.evidences[signal], logs, atol=2e-3)
        np.testing.assert_allclose(variance[signal, :, 0], spread, rtol=2e-3, atol=1e-4)
    assert len({tuple(row) for row in np.asarray(found.shares.round(3))}) == 2


@pytest.mark.parametrize("enough", [least_squares._ENOUGH, 0.0], ids=["by products", "refined"])
def test_many_signals_of_one_matrix_are_each_as_alone(enough, monkeypatch):
    """And as in float64 of each component's whole covariance."""
    monkeypatch.setattr(least_squares, "_ENOUGH", enough)
    generator = np.random.default_rng(19)
    size, rows, signals = 40, 30, 12
    basis, common = np.eye(size, 32), np.diag(1 / np.arange(1.0, size + 1))
    parts = (np.array([0.6, 0.4]), generator.normal(size=size), basis)
    parts += (generator.normal(size=(2, 32)), 0.5 * generator.normal(size=(2, 20, 32)), common)
    known = Mixture(*(jnp.asarray(part, jnp.float32) for part in parts))
    root = generator.normal(size=(rows, size)).astype(np.float32)
    z = generator.normal(size=(signals, rows)).astype(np.float32)
    rest, counts = jnp.zeros(signals), jnp.full(signals, float(rows))
    together = mixture_codes.of_matrix(root, z, known, jnp.float32(NOISE), rest, counts)
    for number in range(signals):
        own = z[number : number + 1], known, jnp.float32(NOISE), rest[:1], counts[:1]
        alone = mixture_codes.of_matrix(root, *own)
        np.testing.assert_allclose(together.codes[number], alone.codes[0], atol=1e-4)
        np.testing.assert_allclose(together.shares[number], alone.shares[0], atol=1e-4)
    b, measured = root.astype(np.float64), z.astype(np.float64)
    codes, logits = [], []
    for weight, offset, own_rows in zip(parts[0], parts[3], parts[4], strict=True):
        own, mean = basis @ own_rows.T, parts[1] + basis @ offset
        sigma = own @ own.T + common @ common.T
        total = b @ sigma @ b.T + NOISE * np.eye(rows)
        left = measured - b @ mean
        solved = np.linalg.solve(total, left.T).T
        codes.append(mean + solved @ b @ sigma)
        # The determinant less that of what is common, which no component changes.
        base = np.linalg.slogdet(b @ common @ common.T @ b.T + NOISE * np.eye(rows))[1]
        logit = (np.linalg.slogdet(total)[1] - base) / rows + np.log1p((left * solved).sum(1))
        logits.append(np.log(weight) - 0.5 * rows / (1 + (rows / 16) ** 4) ** 0.25 * logit)
    shares = np.exp(logits - logsumexp(logits, 0)).T
    np.testing.assert_allclose(together.shares, shares, atol=1e-4)
    expected_codes = np.einsum("sk,kse->se", shares, np.stack(codes))
    np.testing.assert_allclose(together.codes, expected_codes, atol=2e-4)


def test_components_a_few_at_a_time_are_as_all_at_once(given, monkeypatch):
    known = given[2].mixture
    generator = np.random.default_rng(17)
    root, z = (generator.normal(size=s).astype(np.float32) for s in ((4, EXPERTS), (2, 4)))
    inputs = (root, z, known, jnp.float32(NOISE), jnp.zeros(2), jnp.full(2, 4.0))
    at_once = mixture_codes.of_matrix(*inputs)
    sizes = mixture_codes.platforms.sizes()
    few = dataclasses.replace(sizes, chunk=2 * 2 * (4 + 2) * 2)
    monkeypatch.setattr(mixture_codes.platforms, "sizes", lambda: few)
    monkeypatch.setattr(jax.lax, "scan", counted := Counted(jax.lax.scan))
    for one, other in zip(mixture_codes.of_matrix(*inputs), at_once, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert 2 in counted.turns


class Counted:
    """`jax.lax.scan`, and how many turns each takes."""

    def __init__(self, scan):
        self.scan, self.turns = scan, []

    def __call__(self, step, start, pieces=None, *args, **kwargs):
        if isinstance(pieces, tuple):
            self.turns.append(len(pieces[0]))
        return self.scan(step, start, pieces, *args, **kwargs)


def test_one_component_that_is_the_prior_itself_gives_its_codes(given):
    dictionary, operator, known, measured = given
    factor = np.asarray(known.factor, np.float64)
    root = np.linalg.cholesky(factor @ factor.T + np.diag(known.diagonal))
    nothing = (np.eye(EXPERTS), np.zeros((1, EXPERTS)), np.zeros((1, 2, EXPERTS)))
    parts = (np.ones(1), known.mean, *nothing, root)
    same = known._replace(mixture=Mixture(*(jnp.asarray(p, jnp.float32) for p in parts)))
    problem = Problem(dictionary, operator, measured, prior=same)
    mixed, alone = (Gaussian(noise=0.3, mixture=mixes).solve(problem) for mixes in (True, False))
    np.testing.assert_allclose(mixed.codes, alone.codes, atol=1e-5)
    assert "component" in mixed.stats
    assert "component" not in alone.stats
    assert "mixture prior, 1 of its" in Gaussian().describe(mixed)


def test_the_mean_over_components_is_nearer_than_the_best_one_and_than_one_gaussian():
    """On signals of two kinds that few measurements tell apart: squared error of the codes."""
    generator = np.random.default_rng(13)
    atoms = generator.normal(size=(POINTS, EXPERTS)).astype(np.float32)
    codes, _ = clusters(14, count=4, each=200, apart=1.5)
    known = fit_prior(codes[::2], shrinkage=0.01)
    known = known._replace(mixture=fit_mixture(codes[::2], 4))
    seen = np.arange(POINTS) < 5
    unseen = codes[1::2]
    measured = unseen @ atoms.T + 0.05 * generator.normal(size=(len(unseen), POINTS))
    points = np.stack([np.arange(POINTS) / POINTS, np.zeros(POINTS)], 1)
    given = (Table(atoms), sample(points), measured[..., None], seen.astype(np.float32))
    equations = Problem(*given).equations()
    found = mixture_codes.solve(equations, known, 0.05**2)
    one = mixture_codes.posterior.gaussian(equations, known.alone(), 0.05**2).codes
    best = known.mixture.means()[np.asarray(found.shares.argmax(1))]
    errors = [np.square(np.asarray(c) - unseen).mean() for c in (found.codes, one, best)]
    assert errors[0] < 0.9 * errors[1]
    assert errors[0] < errors[2]


def test_first_and_transformed_go_with_the_codes(given):
    known = given[2]
    fewer = known.first(3)
    np.testing.assert_array_equal(fewer.mixture.means(), known.mixture.means()[:, :3])
    assert fewer.component(1).factor.shape == (3, 2 + EXPERTS)
    matrix = np.random.default_rng(15).normal(size=(4, EXPERTS))
    moved = known.mixture.transformed(matrix)
    covariance = moved.directions(1) @ moved.directions(1).T
    own = np.asarray(known.mixture.directions(1), np.float64)
    np.testing.assert_allclose(covariance, matrix @ own @ own.T @ matrix.T, rtol=1e-3, atol=1e-4)


def test_a_mixture_of_another_dictionary_is_refused(given):
    dictionary, operator, known, measured = given
    equations = Problem(dictionary, operator, measured).equations()
    other = known._replace(mixture=known.mixture.first(3))
    with pytest.raises(ArgumentError, match="a mixture of 5 experts"):
        mixture_codes.most_probable(equations, other, NOISE)
    assert isinstance(known.component(0), GaussianPrior)
