"""What fills holes without a dictionary, how holes are found, and the scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from peers import completion, networks
from scipy.optimize import minimize


@functools.cache
def faces():
    """Smooth random pictures [N, 6, 5, 1] in [0, 1]."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4, 30))
    values = 0.5 + 0.05 * rng.normal(size=(60, 4)) @ factors + 0.02 * rng.normal(size=(60, 30))
    return np.clip(values, 0, 1).reshape(60, 6, 5, 1)


def holed(seed, pictures):
    rng = np.random.default_rng(seed)
    seen = rng.random(pictures.shape[:3]) < 0.7
    return np.where(seen[..., None], pictures, 9.0), seen


def test_what_is_seen_stays_and_a_hole_does_not_matter():
    pictures, seen = holed(1, faces()[:3])
    other = np.where(seen[..., None], pictures, -3.0)
    for fill in (
        completion.biharmonic,
        functools.partial(completion.total_variation, weight=0.01),
    ):
        found = fill(pictures, seen)
        np.testing.assert_array_equal(found[seen], pictures[seen])
        np.testing.assert_allclose(found, fill(other, seen), atol=1e-5)
        assert np.abs(found[~seen]).max() < 2


def test_total_variation_is_least():
    pictures, seen = holed(2, faces()[:1])
    weight = 0.05

    def objective(values, rounding=0.0):
        image = values.reshape(6, 5)
        down = np.diff(image, axis=0, append=image[-1:])
        right = np.diff(image, axis=1, append=image[:, -1:])
        misfit = np.where(seen[0], image - pictures[0, ..., 0], 0)
        energy = seen.mean()
        slopes = np.sqrt(down**2 + right**2 + rounding**2).sum()
        return 0.5 * np.square(misfit).sum() / energy + weight * slopes

    best = np.full(30, 0.5)
    for rounding in (1e-1, 1e-2, 1e-3):
        options = {"maxiter": 500, "maxfun": 10**6}
        best = minimize(objective, best, rounding, "L-BFGS-B", options=options).x
    found = completion.total_variation(pictures, seen, weight, 3000)[0, ..., 0]
    np.testing.assert_allclose(found[~seen[0]], best.reshape(6, 5)[~seen[0]], atol=0.01)


def test_a_block_of_residuals_is_detected():
    pictures = np.full((2, 20, 20, 1), 0.5)
    fits = pictures + 0.01 * np.random.default_rng(5).normal(size=pictures.shape)
    pictures[0, 4:10, 6:12] = 1.0
    seen = completion.detected(pictures, fits, 3.0, 1.0)
    assert not seen[0, 5:9, 7:11].any()
    assert seen[0, 14:].all()
    assert seen[1].all()


def test_scores():
    truth = np.full((2, 4, 4, 1), 0.5)
    found, seen = truth.copy(), np.ones((2, 4, 4), bool)
    found[0, 0, 0], seen[0, 0, :2] = 0.9, False
    np.testing.assert_allclose(
        completion.whole_psnr(found, truth), [-10 * np.log10(0.16 / 16), 90.0], rtol=1e-6
    )
    scores = completion.hole_psnr(found, truth, seen)
    np.testing.assert_allclose(scores[0], -10 * np.log10(0.08), rtol=1e-6)
    assert np.isnan(scores[1])


def test_residual_of_a_network_counts_what_is_seen():
    points = np.random.default_rng(6).uniform(-1, 1, (5, 2)).astype(np.float32)
    network = networks.siren(points, 1, 4, 2)
    layers = network.draw(jax.random.key(0))
    target, seen = jnp.full((5, 1), 0.3), jnp.array([1.0, 0, 1, 0, 0])
    error = np.abs(np.asarray(network.render(layers)) - 0.3)[[0, 2]]
    for power in (1, 2):
        found = completion.masked_residual(network, power)(layers, target, seen)
        np.testing.assert_allclose(found, (error**power).mean(), rtol=1e-5)
