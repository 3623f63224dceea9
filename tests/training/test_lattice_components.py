"""Heads of lattices that are too fine for a covariance, beside principal components in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.data import ArrayCollection
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import CosineLattice, Splines
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.tasks import image
from nid_jax.training import heads as heads_of
from nid_jax.training.components import MOST_COEFFICIENTS, put_heads
from nid_jax.training.lattice_components import lattice_heads

SHAPE = (7, 6, 8)


def dictionary_on(embedding, experts, channels=1, num_layers=1):
    layers = Layers(num_layers, 5, "sine", 3.0)
    return SharedDictionary(embedding, experts, channels, layers, rngs=nnx.Rngs(params=0))


def collection(count=25, channels=1):
    draw = np.random.default_rng()
    values = draw.normal(size=(count, *SHAPE, channels)).astype(np.float32)
    return ArrayCollection(values * 0.3 + 0.2, [f"{i:02d}" for i in range(count)], "noise")


@pytest.mark.parametrize(
    ("counts", "channels"),
    [
        ((5, 5, 6), 1),
        pytest.param((9, 8, 9), 1, marks=pytest.mark.slow),
        pytest.param((5, 5, 6), 2, marks=pytest.mark.slow),
        pytest.param((7, 6, 8), 2, marks=pytest.mark.slow),
    ],
)
def test_heads_are_the_principal_components_of_projected_signals(counts, channels):
    signals, splines = collection(channels=channels), Splines(counts, 3)
    dictionary = dictionary_on(splines, 10, channels)
    heads = lattice_heads(dictionary, signals, "square")
    put_heads(dictionary, heads)
    points = grid(SHAPE)
    atoms = np.asarray(dictionary.basis(points), np.float64).transpose(1, 0, 2)
    np.testing.assert_allclose(atoms.mean(1), 0, atol=1e-4)
    flat = atoms.reshape(10, -1) / np.sqrt(len(points))
    np.testing.assert_allclose(flat @ flat.T, np.eye(10), atol=1e-4)

    features = np.asarray(splines(jnp.asarray(points)), np.float64)
    left, sizes, _ = np.linalg.svd(features, full_matrices=False)
    left = left[:, sizes > 1e-5 * sizes[0]]
    values = np.stack([signals[i] for i in range(25)]).reshape(25, -1, channels).astype(np.float64)
    values -= values.mean(1, keepdims=True)
    projected = np.einsum("pr,qr,sqc->spc", left, left, values)
    projected = (projected - projected.mean(1, keepdims=True)).reshape(25, -1)
    best = np.square(np.linalg.svd(projected, compute_uv=False)[10:]).sum()
    found = np.square(projected - projected @ flat.T @ flat).sum()
    np.testing.assert_allclose(found, best, rtol=1e-4)
    # What a prior learns from: the signals in these heads, and what heads and splines leave.
    codes, bias, residual, names = heads.coded
    assert names == signals.names
    whole = np.stack([signals[index] for index in range(25)]).reshape(25, -1, channels)
    np.testing.assert_allclose(bias, whole.mean(1), atol=1e-5)
    np.testing.assert_allclose(codes, projected @ flat.T / np.sqrt(len(points)), atol=1e-4)
    rest = values.reshape(25, -1) - codes @ atoms.reshape(10, -1)
    np.testing.assert_allclose(residual, np.square(rest).mean(1), rtol=1e-3)
    energies = np.square(projected @ flat.T).sum(0)
    assert (np.diff(energies) <= 1e-3 * energies[0]).all()


def test_logarithms_lower_the_mean_of_logarithms():
    signals = collection(40)
    scale = np.geomspace(0.01, 1, 40, dtype=np.float32)[:, None, None, None, None]
    signals = ArrayCollection(
        np.stack([signals[i] for i in range(40)]) * scale, signals.names, "noise"
    )
    points, left = grid(SHAPE), {}
    for errors in ("square", "log"):
        dictionary = dictionary_on(Splines(SHAPE, 3), 8)
        put_heads(dictionary, lattice_heads(dictionary, signals, errors))
        atoms = np.asarray(dictionary.basis(points), np.float64)[..., 0].T / np.sqrt(len(points))
        values = np.stack([signals[i] for i in range(40)]).reshape(40, -1)
        values = values - values.mean(1, keepdims=True)
        left[errors] = np.square(values - values @ atoms.T @ atoms).sum(1)
    assert np.log(left["log"]).mean() < np.log(left["square"]).mean()


def test_fewer_signals_than_experts_leave_the_others_as_drawn():
    dictionary = dictionary_on(Splines((5, 5, 5), 3), 10)
    heads = lattice_heads(dictionary, collection(4), "square")
    assert heads.kernel.shape[-1] <= 4
    assert np.isfinite(heads.kernel).all()


def test_splines_of_which_few_are_read_at_a_point_go_by_the_signals(tmp_path):
    """Their features are never computed, however few more than those of a covariance they are."""
    signals, dictionary = collection(6), dictionary_on(Splines((15, 15, 15)), 4)
    assert dictionary.local
    assert dictionary.num_features < MOST_COEFFICIENTS
    components = {"errors": "square", "shrinkage": -1.0, "rounds": 8}
    config = ConfigDict({"dictionary": {"heads": "components", "components": components}})
    found = heads_of.find(dictionary, image.sampled(signals), signals, config, tmp_path / "state")
    expected = lattice_heads(dictionary, signals, "square")
    np.testing.assert_array_equal(dictionary.head_kernel[...], expected.kernel)
    np.testing.assert_array_equal(found.coded.codes, expected.coded.codes)


@pytest.mark.parametrize(
    ("embedding", "layers", "given", "message"),
    [
        (Splines((5, 5, 5)), 1, ("l1", 0.0), "errors: 'l1'; allowed: log, square"),
        (Splines((5, 5, 5)), 1, ("log", 0.1), "shrinkage: 0.1; allowed: 0 or below"),
        (Splines((5, 5, 5)), 2, ("log", 0.0), "but of splines with num_layers=1"),
        (CosineLattice((3, 3, 3)), 1, ("log", 0.0), "but of splines with num_layers=1"),
    ],
)
def test_what_cannot_be_is_refused(embedding, layers, given, message):
    dictionary = dictionary_on(embedding, 4, num_layers=layers)
    with pytest.raises(ArgumentError, match=message):
        lattice_heads(dictionary, collection(5), *given)
