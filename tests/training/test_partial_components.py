"""Heads of signals that share no grid: what they leave, what their prior says, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import nid_jax as nid
from nid_jax.coding import operators
from nid_jax.coding.expectation import Gaussian
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import CosineLattice
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.tasks.task import Measured
from nid_jax.training import partial_components
from nid_jax.training.partial_components import partial_heads

SHAPE = (6, 6)
BLOCKS, COEFFICIENTS = 2, 7


def gaussian_of(draw, size):
    """Covariances of falling variances, means of about `size`, of two blocks."""
    half = draw.normal(size=(BLOCKS, COEFFICIENTS, COEFFICIENTS)) * 0.6 ** np.arange(COEFFICIENTS)
    mean = size * draw.normal(size=(BLOCKS, COEFFICIENTS))
    return Gaussian(mean, half @ half.swapaxes(1, 2), np.float64(0.1))


@pytest.mark.parametrize("size", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("most", [1, 5, 13])
@pytest.mark.parametrize("seed", range(3))
def test_directions_leave_little_more_of_a_signal_than_the_best(seed, most, size):
    gaussian = gaussian_of(np.random.default_rng(seed), size)
    found = partial_components._leading(gaussian, np.eye(COEFFICIENTS), most)
    flat = found.basis.swapaxes(0, 1).reshape(-1, most)
    np.testing.assert_allclose(flat.T @ flat, np.eye(most), atol=1e-10)
    covariance = np.zeros((BLOCKS * COEFFICIENTS,) * 2)
    for block, own in enumerate(gaussian.covariance):
        at = slice(block * COEFFICIENTS, (block + 1) * COEFFICIENTS)
        covariance[at, at] = own
    mean = gaussian.mean.ravel()
    moments = covariance + np.outer(mean, mean)
    np.testing.assert_allclose(flat.T @ covariance @ flat, np.diag(found.variances), atol=1e-9)
    np.testing.assert_allclose(flat.T @ mean, found.mean, atol=1e-9)
    left = np.trace(moments) - np.trace(flat.T @ moments @ flat)
    np.testing.assert_allclose(found.left, left, atol=1e-9 * np.trace(moments))
    best = np.linalg.eigvalsh(moments)[: -most or None].sum()
    last = np.linalg.eigvalsh(covariance)[-most]
    assert best - 1e-9 <= left <= best + last + 1e-9
    plain = np.linalg.eigh(covariance)[1][:, -most:]
    assert left <= np.trace(moments) - np.trace(plain.T @ moments @ plain) + 1e-9


def test_all_directions_leave_nothing():
    gaussian = gaussian_of(np.random.default_rng(0), 1.0)
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(COEFFICIENTS, 3)))[0]
    found = partial_components._leading(gaussian, axes, 40)
    assert found.basis.shape == (COEFFICIENTS, BLOCKS, 2 * 3)
    np.testing.assert_allclose(found.left, 0, atol=1e-9)
    # Without a mean the directions are the eigenvectors.
    centred = gaussian._replace(mean=np.zeros_like(gaussian.mean))
    found = partial_components._leading(centred, np.eye(COEFFICIENTS), 4)
    values = np.sort(np.linalg.eigvalsh(gaussian.covariance).ravel())[::-1]
    np.testing.assert_allclose(found.variances, values[:4])
    np.testing.assert_allclose(found.left, values[4:].sum())


def fixed_and_varying(count, seed):
    """One field that all signals share beside 8 directions in which they vary, [S, 6, 6]."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(36, 9)))[0]
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, 8)) @ axes[:, :8].T + 3 * axes[:, 8]
    return values.reshape(count, *SHAPE).astype(np.float32)


@pytest.mark.slow
def test_a_field_that_all_signals_share_is_learned():
    signals, unseen = fixed_and_varying(60, 1), fixed_and_varying(40, 2)
    seen = np.random.default_rng(3).uniform(size=signals.shape) < 0.7
    centred = unseen - unseen.mean((1, 2), keepdims=True)
    left = {}
    for name, shown in (("whole", None), ("parts", seen)):
        dictionary = nid.learn(signals, seen=shown, num_experts=12)
        fit = dictionary.fit(unseen, solver=nid.solvers.Ridge())
        left[name] = np.square(fit.render()[..., 0] - unseen).mean()
    assert left["whole"] < 1e-6 * np.square(centred).mean()
    assert left["parts"] < 0.02 * np.square(centred).mean()
    # The prior's noise covers what is left; the rest of it is shrinkage towards all directions.
    assert left["parts"] < dictionary.prior.noise < 0.05 * np.square(centred).mean()
    # Of few samples the deviation foretells the error.
    few = np.random.default_rng(4).uniform(size=SHAPE) < 0.5
    noise = float(np.sqrt(dictionary.prior.noise))
    fit = dictionary.fit(unseen, seen=few, solver=nid.solvers.Gaussian(noise=noise))
    error = np.sqrt(np.square(fit.render()[..., 0] - unseen)[:, ~few].mean())
    foretold = np.sqrt(np.square(fit.deviation()[..., 0][:, ~few]).mean())
    assert 0.5 < foretold / error < 2


def dictionary_of(experts, channels=1):
    layers = Layers(1, 8, "relu", 1.0)
    return SharedDictionary(CosineLattice((3, 3)), experts, channels, layers, rngs=nnx.Rngs(0))


def test_what_cannot_be_is_one_line(monkeypatch):
    with pytest.raises(ArgumentError, match="components.shrinkage"):
        partial_heads(dictionary_of(3), None, SHAPE, ["a"], 1, 1.0)
    monkeypatch.setattr(partial_components, "MOST_FEATURES", 3)
    with pytest.raises(ArgumentError, match="the most is 3"):
        partial_heads(dictionary_of(3), None, SHAPE, ["a"], 1)


def test_colours_know_nothing_of_what_an_operator_does_not_count():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(5, 36, 2)).astype(np.float32) @ np.float32([[1, 0.5], [0, 0.2]])
    seen = draw.uniform(size=36) < 0.6
    wrong = np.where(seen[:, None], values, np.nan)
    operator = operators.masked(operators.sample(SHAPE), jnp.asarray(seen))
    found = partial_components._colours(
        Measured((operator,), SHAPE, 2, wrong.__getitem__), len(wrong), 2
    )
    known = values[:, seen] - values[:, seen].mean(1, keepdims=True)
    products = np.einsum("smc,smd->cd", known, known, dtype=np.float64)
    turned = found.T @ products @ found
    np.testing.assert_allclose(turned[0, 1], 0, atol=1e-4 * np.trace(products))
