"""Heads in closed form beside principal components in float64."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nid_jax.coding import operators
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import CosineLattice, Identity, Splines
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.training import components
from nid_jax.training.components import component_heads, put_heads

SHAPE = (7, 6)


def dictionary_on(embedding, experts, channels=2, num_layers=1):
    layers = Layers(num_layers, 9, "sine", 3.0)
    return SharedDictionary(embedding, experts, channels, layers, rngs=nnx.Rngs(params=0))


def signals_like(count, channels=2):
    """Random signals [S, M, C] with energy that falls from pixel to pixel, and their names."""
    draw = np.random.default_rng(11)
    size = int(np.prod(SHAPE)) * channels
    mixing = np.linalg.qr(draw.normal(size=(size, size)))[0] * 0.9 ** np.arange(size)
    values = draw.normal(size=(count, size)) @ mixing.T + 0.5
    return values.reshape(count, -1, channels).astype(np.float32)


def measured_by(operator, values):
    return SimpleNamespace(operator=operator, values=lambda index: values[index])


def names_of(values):
    return [f"{number:03d}" for number in range(len(values))]


def left_by(atoms, values):
    """Energy of signals [S, M C] that orthonormal atoms [E, M C] leave, float64."""
    return np.square(values - values @ atoms.T @ atoms).sum(1)


def centred(values):
    values = values.astype(np.float64)
    return (values - values.mean(1, keepdims=True)).reshape(len(values), -1)


@pytest.mark.parametrize(
    "embedding", [CosineLattice(SHAPE), Splines((8, 7), 3), Splines((5, 4), 2)]
)
@pytest.mark.parametrize("experts", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_heads_are_the_principal_components_in_the_features(embedding, experts):
    values, points = signals_like(60), grid(SHAPE)
    dictionary = dictionary_on(embedding, experts)
    heads = component_heads(
        dictionary, measured_by(operators.sample(points), values), names_of(values), "square", 0.0
    )
    assert (heads.shrinkage, heads.signals) == (0, 60)
    put_heads(dictionary, heads)
    atoms = np.asarray(dictionary.basis(points), np.float64).transpose(1, 0, 2)
    np.testing.assert_allclose(atoms.mean(1), 0, atol=1e-5)
    flat = atoms.reshape(experts, -1) / np.sqrt(len(points))
    np.testing.assert_allclose(flat @ flat.T, np.eye(experts), atol=2e-5)

    features = np.asarray(embedding(jnp.asarray(points)), np.float64)
    features -= features.mean(0)
    span = np.linalg.svd(features, full_matrices=False)
    span = span[0][:, span[1] > 1e-5 * span[1][0]]
    seen = centred(values).reshape(60, -1, 2)
    projected = np.einsum("pr,qr,sqc->spc", span, span, seen).reshape(60, -1)
    _, sizes, axes = np.linalg.svd(projected, full_matrices=False)
    best = np.square(sizes[experts:]).sum() + np.square(seen.reshape(60, -1) - projected).sum()
    np.testing.assert_allclose(left_by(flat, centred(values)).sum(), best, rtol=1e-4)
    codes = projected @ flat.T
    energies = np.square(codes).sum(0)
    assert (np.diff(energies) <= 1e-4 * energies[0]).all()
    products = codes.T @ codes
    np.testing.assert_allclose(products, np.diag(energies), atol=2e-4 * energies[0])


def test_values_of_weight_0_are_not_looked_at():
    values, points = signals_like(50), grid(SHAPE)
    seen = np.random.default_rng(12).random(len(points)) > 0.3
    operator = operators.masked(operators.sample(points), seen)
    dictionary = dictionary_on(CosineLattice((4, 4)), 8)
    wrong = np.where(seen[:, None], values, np.nan).astype(np.float32)
    found = [
        component_heads(dictionary, measured_by(operator, some), names_of(some), "square", 0.0)
        for some in (values, wrong)
    ]
    np.testing.assert_array_equal(found[0].kernel, found[1].kernel)
    put_heads(dictionary, found[0])
    atoms = np.asarray(dictionary.basis(points), np.float64)[seen].transpose(1, 0, 2)
    atoms = atoms.reshape(8, -1)
    np.testing.assert_allclose(atoms @ atoms.T / seen.sum(), np.eye(8), atol=1e-4)


def test_logarithms_lower_the_mean_of_logarithms():
    values, points = signals_like(80), grid(SHAPE)
    values *= np.geomspace(0.01, 1, 80, dtype=np.float32)[:, None, None]
    values = values[np.random.default_rng(13).permutation(80)]
    found = {}
    for errors in ("square", "log"):
        dictionary = dictionary_on(CosineLattice(SHAPE), 20)
        seen = measured_by(operators.sample(points), values)
        put_heads(dictionary, component_heads(dictionary, seen, names_of(values), errors, 0.0))
        atoms = np.asarray(dictionary.basis(points), np.float64).transpose(1, 0, 2)
        found[errors] = left_by(atoms.reshape(20, -1) / np.sqrt(len(points)), centred(values))
    assert np.log(found["log"]).mean() < np.log(found["square"]).mean()
    assert found["log"].sum() > found["square"].sum()


def test_what_is_streamed_is_what_is_kept(monkeypatch):
    values, points = signals_like(40), grid(SHAPE)
    dictionary = dictionary_on(CosineLattice(SHAPE), 12)
    seen = measured_by(operators.sample(points), values)
    whole = component_heads(dictionary, seen, names_of(values))
    monkeypatch.setattr(components, "_KEPT_NUMBERS", 0)
    monkeypatch.setattr(components, "_BATCH_NUMBERS", 1000)
    parts = component_heads(dictionary, seen, names_of(values))
    assert parts.shrinkage == whole.shrinkage
    np.testing.assert_allclose(parts.held_out, whole.held_out, rtol=1e-3)
    products = np.einsum("fce,fcg->eg", parts.kernel, whole.kernel)
    products /= np.square(whole.kernel).sum((0, 1))
    np.testing.assert_allclose(np.abs(np.diag(products))[:4], 1, atol=1e-2)


def test_shrinkage_is_chosen_where_signals_are_few():
    """Few signals of a stationary kind: their own covariance alone foretells others badly."""
    draw = np.random.default_rng(0)
    lattice = CosineLattice(SHAPE)
    features = np.asarray(lattice(jnp.asarray(grid(SHAPE))), np.float64)
    scale = 0.95 ** np.arange(lattice.size)
    values = draw.normal(size=(20, lattice.size)) * scale @ features.T
    values = values[..., None].astype(np.float32)
    seen = measured_by(operators.sample(grid(SHAPE)), values)
    dictionary = dictionary_on(lattice, 12, channels=1)
    heads = component_heads(dictionary, seen, names_of(values), "square")
    assert heads.shrinkage > 0
    assert 0 < heads.held_out < 1
    assert f"of the energy of signals held out {100 * heads.held_out:.2g}% is left" in heads.words()
    # A share that was given is measured as those to choose from are.
    given = component_heads(dictionary, seen, names_of(values), "square", heads.shrinkage)
    assert given.held_out == pytest.approx(heads.held_out, rel=1e-5)
    least = component_heads(dictionary, seen, names_of(values), "square", 0.0)
    assert least.held_out > given.held_out


@pytest.mark.slow
def test_a_trunk_beside_its_embedding_spans_both():
    values, points = signals_like(40, 1), grid(SHAPE)
    dictionary = SharedDictionary(
        CosineLattice((3, 3)), 6, 1, Layers(2, 9, "sine", 3.0), True, rngs=nnx.Rngs(params=1)
    )
    seen = measured_by(operators.sample(points), values)
    put_heads(dictionary, component_heads(dictionary, seen, names_of(values), "square", 0.0))
    atoms = np.asarray(dictionary.basis(points), np.float64)[..., 0].T / np.sqrt(len(points))
    np.testing.assert_allclose(atoms @ atoms.T, np.eye(6), atol=1e-3)


def test_signals_without_anything_to_tell_leave_finite_heads():
    values = np.full((3, len(grid(SHAPE)), 1), 0.5, np.float32)
    dictionary = dictionary_on(CosineLattice((4, 4)), 4, channels=1)
    for count in (1, 3):
        seen = measured_by(operators.sample(grid(SHAPE)), values)
        heads = component_heads(dictionary, seen, names_of(values)[:count])
        assert np.isfinite(heads.kernel).all()
        assert np.isfinite(heads.bias).all()


def test_more_experts_than_directions_keep_the_rest_as_drawn():
    values = signals_like(20, 1)
    dictionary = dictionary_on(Identity(2), 5, channels=1)
    before = np.array(dictionary.head_kernel[...])
    seen = measured_by(operators.sample(grid(SHAPE)), values)
    heads = component_heads(dictionary, seen, names_of(values))
    assert heads.kernel.shape == (2, 1, 2)
    assert put_heads(dictionary, heads).endswith("; the other 3 experts are as drawn")
    after = np.asarray(dictionary.head_kernel[...])
    np.testing.assert_array_equal(after[..., 2:], before[..., 2:])
    np.testing.assert_array_equal(after[..., :2], heads.kernel)


def test_what_cannot_be_is_refused(monkeypatch):
    values = signals_like(10)
    dictionary = dictionary_on(CosineLattice(SHAPE), 5)
    seen = measured_by(operators.sample(grid(SHAPE)), values)
    for given, message in (
        (("logs", None), "errors: 'logs'; allowed: log, square"),
        (("log", 1.5), "shrinkage: 1.5; allowed: 0 to 1, or None"),
    ):
        with pytest.raises(ArgumentError, match=message.replace(".", r"\.")):
            component_heads(dictionary, seen, names_of(values), *given)
    values[3, 4] = np.nan
    with pytest.raises(ArgumentError, match="measurements: .*allowed: finite ones"):
        component_heads(dictionary, seen, names_of(values), "square")
    monkeypatch.setattr(components, "MOST_COEFFICIENTS", 81)
    with pytest.raises(ArgumentError, match="heads: .*'drawn' for 82 features x channels"):
        component_heads(dictionary, seen, names_of(values))
