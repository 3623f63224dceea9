"""A dictionary with its router, and what fitting and checkpoints ask of its variables."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from nid_jax.fields import model as models
from nid_jax.fields.model import parameter_overview as overview
from nid_jax.fields.variables import Basis, Code, Constant, RouterParam

CONFIG = {
    "dictionary": {
        "kind": "shared",
        "num_experts": 6,
        "num_layers": 2,
        "width": 5,
        "activation": "relu",
        "omega0": 30.0,
        "embedding": {"kind": "fourier", "size": 8, "scale": 2.0, "trainable": False},
    },
    "router": {"kind": "codebook", "top_k": 2, "max_norm": 0.0, "noise": False, "width": 4},
}


def _model(seed=0, num_signals=7, shape=(4, 3, 2), **router):
    config = copy.deepcopy(CONFIG)
    config["router"] |= router
    return models.build_model(ConfigDict(config), shape, num_signals, seed)


def _leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_built_for_the_signals():
    model = _model()
    assert (model.dictionary.dims, model.channels, model.grid_shape) == (2, 2, (4, 3))
    assert model.router.codes[...].shape == (7, 6)
    volume = _model(shape=(4, 3, 5, 1))
    assert (volume.dictionary.dims, volume.channels) == (3, 1)


def test_same_seed_same_model_and_another_seed_another():
    one, same, other = (_leaves(nnx.state(_model(seed))) for seed in (3, 3, 4))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    drawn = [(a != b).all() for a, b in zip(one, other, strict=True) if a.any()]
    assert len(drawn) >= 4
    assert all(drawn)


def test_gates_are_sparse_unless_dense_is_asked_for():
    model = _model()
    ids = jnp.array([2, 5, 2])
    sparse, dense = model.gates(ids), model.gates(ids, dense=True)
    assert (np.count_nonzero(sparse.values, -1) == 2).all()
    np.testing.assert_array_equal(dense.values, model.router.codes[...][ids])
    kept = np.asarray(sparse.values) != 0
    np.testing.assert_array_equal(sparse.values, np.where(kept, dense.values, 0))
    # The two of largest magnitude, with their signs.
    order = np.sort(np.abs(dense.values), -1)
    assert (np.abs(dense.values)[kept].reshape(3, 2).min(-1) >= order[:, -2]).all()


def test_top_k_of_zero_is_dense():
    gates = _model(top_k=0).gates(jnp.array([0, 1]))
    assert gates.indices is None
    assert np.count_nonzero(gates.values) == 12


def test_a_call_renders_what_the_router_predicts():
    model, ids = _model(), jnp.array([5, 1, 1])
    x = np.random.default_rng().uniform(-1, 1, (8, 2)).astype(np.float32)
    basis = np.asarray(model.dictionary.basis(x), np.float64)
    gates = model.gates(ids)
    expected = np.einsum("se,pec->spc", np.asarray(gates.values, np.float64), basis)
    expected += np.asarray(gates.bias, np.float64)[:, None]
    np.testing.assert_allclose(model(x, ids), expected, rtol=1e-4, atol=1e-5)
    reading = _model(kind="linear")
    signals = jax.random.normal(jax.random.key(1), (3, 4, 3, 2))
    predicted = reading.router.gates(signals=signals, top_k=2)
    np.testing.assert_array_equal(
        reading(x, signals=signals), reading.dictionary.combine(x, predicted)
    )


def test_a_model_without_a_router_predicts_nothing():
    model = _model(kind="none", top_k=0)
    with pytest.raises(ValueError, match="router.kind: 'none' predicts no codes"):
        model(np.zeros((3, 2), np.float32), jnp.array([0]))


def test_variable_types_tell_dictionary_codes_and_router_apart():
    model = _model(kind="linear")
    basis, code, router, constant = (
        _leaves(nnx.state(model, kind)) for kind in (Basis, Code, RouterParam, Constant)
    )
    assert (len(basis), len(code), len(router), len(constant)) == (4, 0, 4, 1)
    codebook = _model()
    assert len(_leaves(nnx.state(codebook, Code))) == 2
    assert not _leaves(nnx.state(codebook, RouterParam))
    graphdef, params, rest = nnx.split(codebook, nnx.Param, ...)
    assert len(_leaves(params)) == 6
    assert len(_leaves(rest)) == 1
    again = nnx.merge(graphdef, params, rest)
    np.testing.assert_array_equal(
        again.gates(jnp.array([1])).values, codebook.gates(jnp.array([1])).values
    )


def test_without_a_router():
    model = _model(kind="none")
    assert model.router is None
    assert models.count_parameters(model)["router"] == 0


def test_parameters_are_counted_by_hand():
    counts = models.count_parameters(_model())
    # Frequencies 4 x 2, trunk 8 x 5 + 5, heads (5 + 1) x 6 experts x 2 channels.
    assert counts == {"dictionary": 8 + 45 + 72, "router": 7 * (6 + 2)}


def test_map_axes_names_the_expert_axis():
    model = _model()
    named = models.map_axes(lambda axes: "expert" in axes, nnx.state(model))
    flat = {str(path): value for path, value in jax.tree.leaves_with_path(named)}
    assert len(flat) == len(_leaves(nnx.state(model)))
    split = [path for path, value in flat.items() if value]
    # Both arrays of the heads, and the codes; the bias and the trunk belong to every expert.
    assert sum("'head_" in path for path in split) == 2
    assert sum("'codes'" in path for path in split) == 1
    assert len(split) == 3
    assert jax.tree.structure(named) == jax.tree.structure(nnx.state(model))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("dictionary", "kind", "both", r"dictionary\.kind: 'both'"),
        ("router", "kind", "gated", r"router\.kind: 'gated'"),
        ("router", "top_k", 7, r"router\.top_k: 7 .*num_experts = 6"),
    ],
)
def test_configs_that_cannot_be_built(section, key, value, message):
    config = copy.deepcopy(CONFIG)
    config[section][key] = value
    with pytest.raises(ValueError, match=message):
        models.build_model(ConfigDict(config), (4, 3, 2), 7, 0)


def test_an_overview_names_every_variable():
    model = _model()
    rows = {path: (kind, shape, numbers) for path, kind, shape, numbers in overview(model)}
    assert rows["router.codes"] == ("Code", "(7, 6)", 42)
    assert rows["dictionary.kernels.0"] == ("Kernel", "(8, 5)", 40)
    assert rows["dictionary.embedding.frequencies"] == ("Constant", "(4, 2)", 8)
    assert sum(row[2] for row in rows.values()) == sum(models.count_parameters(model).values())
