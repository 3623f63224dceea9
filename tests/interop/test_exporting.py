"""Exported functions give what fits give, from a file that JAX alone reads, on any platform."""

import re
import sys

import jax
import jax.export
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

import nid_jax as nid
from nid_jax.coding.prior import fit_prior
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import grid
from nid_jax.fields.embeddings import GaussianFourier
from nid_jax.fields.experts import Layers
from nid_jax.fields.independent import IndependentDictionary
from nid_jax.fields.model import Model
from nid_jax.fields.shared import SharedDictionary
from nid_jax.interop import exporting
from nid_jax.interop.exporting import ExportedFit

SHAPE, EXPERTS = (6, 5), 7
COUNT = SHAPE[0] * SHAPE[1]


def made(kind=SharedDictionary, channels=1, with_bias=False):
    """A dictionary drawn at random, with a prior."""
    rngs = nnx.Rngs(3)
    embedding = GaussianFourier(2, 12, 2.0, rngs=rngs)
    basis = kind(embedding, EXPERTS, channels, Layers(2, 10, "relu", 1.0), rngs=rngs)
    draw = np.random.default_rng(4)
    codes = draw.standard_normal((40, EXPERTS)) @ draw.standard_normal((EXPERTS, EXPERTS)) / 3
    bias = draw.standard_normal((40, channels)) if with_bias else None
    known = fit_prior(codes, bias, shrinkage=0.2)
    return nid.NeuralDictionary(Model(basis, None, 0, SHAPE), ConfigDict(), {}, known)


@pytest.fixture(scope="module")
def dictionary():
    return made()


@pytest.fixture(scope="module")
def whole(dictionary):
    return nid.export(dictionary, solver=nid.Ridge(lam=1e-4))


@pytest.fixture(scope="module")
def at_call(dictionary):
    return nid.export(dictionary, solver=nid.Gaussian(noise=0.1), weights="at call")


@pytest.fixture
def draw():
    return np.random.default_rng()


def values(draw, count, *shape):
    return draw.uniform(0, 1, (count, *shape)).astype(np.float32)


def same(found, fit, shape):
    """Codes, bias and picture of an exported function are those of a fit."""
    pairs = {"codes": fit.codes, "bias": fit.bias, "picture": fit.render(shape)}
    for name, expected in pairs.items():
        size = max(1, np.abs(expected).max())
        np.testing.assert_allclose(found[name], expected, atol=1e-5 * size, err_msg=name)


@pytest.mark.slow
def test_one_file_takes_any_number_of_signals(dictionary, whole, draw, tmp_path):
    path = whole.save(tmp_path / "deep" / "fit.jaxexport")
    read = jax.export.deserialize(path.read_bytes())
    for count in (1, 3, 7):
        y = values(draw, count, *SHAPE, 1)
        same(read.call(measurements=y), dictionary.fit(y, solver=nid.Ridge(lam=1e-4)), SHAPE)


def test_codes_are_those_of_the_equations_in_float64(dictionary, draw):
    seen = draw.uniform(size=SHAPE) < 0.8
    noise = 0.2
    function = nid.export(dictionary, solver=nid.Gaussian(noise=noise), weights=seen)
    y = values(draw, 2, *SHAPE, 1)
    y[:, ~seen] = np.nan
    found = function(y)
    rows = np.asarray(dictionary.dictionary.basis(grid(SHAPE)), np.float64)[seen.ravel(), :, 0]
    rows = np.concatenate([rows, np.ones((len(rows), 1))], 1)
    known, penalty = dictionary.prior, np.zeros((EXPERTS + 1, EXPERTS + 1))
    factor, diagonal, mean = (
        np.asarray(part, np.float64) for part in (known.factor, known.diagonal, known.mean)
    )
    mean = np.append(mean, 0)
    penalty[:EXPERTS, :EXPERTS] = noise**2 * np.linalg.inv(factor @ factor.T + np.diag(diagonal))
    right = y[:, seen, 0].astype(np.float64) @ rows + penalty @ mean
    expected = np.linalg.solve(rows.T @ rows + penalty, right.T).T
    np.testing.assert_allclose(found["codes"], expected[:, :-1], atol=1e-5)
    np.testing.assert_allclose(found["bias"], expected[:, -1:], atol=1e-5)


def test_masks_of_every_signal_at_call(dictionary, at_call, draw):
    for count in (1, 3):
        y = values(draw, count, *SHAPE, 1)
        seen = draw.uniform(size=(count, *SHAPE)) < 0.6
        y[~seen] = np.nan
        found = at_call(y, seen.astype(np.float32))
        same(found, dictionary.fit(y, seen=seen, solver=nid.Gaussian(noise=0.1)), SHAPE)
        assert found["error"].max() < 1e-6


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_numbers_of_which_no_codes_come_are_refused(whole, at_call, draw, odd):
    y, seen = values(draw, 3, *SHAPE, 1), np.ones((3, *SHAPE), np.float32)
    y[2, 4, 1] = odd
    says = f"{odd}; allowed: finite numbers, but where the weight is 0; signal 2 holds others"
    # Of weights that the file holds nobody knows which are 0.
    for function, given, more in ((whole, (y,), ", or too large ones"), (at_call, (y, seen), "")):
        with pytest.raises(ArgumentError) as caught:
            function(*given)
        assert str(caught.value) == f"measurements: {says}{more}"
    # What is not read may be anything.
    seen[2, 4, 1] = 0
    assert np.isfinite(at_call(y, seen)["codes"]).all()
    seen[2, 0, 0] = np.inf if odd < 0 else odd
    with pytest.raises(ArgumentError, match=f"^weights: {seen[2, 0, 0]}; allowed: .*; signal 2 ho"):
        at_call(y, seen)
    # Inside a transformation values are not looked at.
    assert not np.isfinite(jax.jit(whole)(y)["codes"][2]).any()


def test_values_too_large_for_codes_are_refused(whole, at_call, draw):
    y, seen = values(draw, 2, *SHAPE, 1), np.ones((2, *SHAPE), np.float32)
    y[1] = 3e38
    says = r"^measurements: 'up to 3e\+38'; allowed: .* signal 1$"
    with pytest.raises(ArgumentError, match=says):
        whole(y)
    # Neither what is not read nor the other signal is to blame.
    y[:, 2, 3], seen[:, 2, 3] = np.nan, 0
    with pytest.raises(ArgumentError, match=says):
        at_call(y, seen)
    with pytest.raises(
        ArgumentError, match=r"^weights: 3e\+38; allowed: .* 0 to 1e\+18; signal 1 "
    ):
        at_call(y, np.where(seen > 0, y[..., 0], 0))


MEASURED = "allowed: float32[S, 6, 5, 1], S signals, 1 or more"


@pytest.mark.parametrize(
    ("name", "shapes", "says"),
    [
        ("whole", [(2, 6, 5)], f"measurements: 'float32[2, 6, 5]'; {MEASURED}"),
        ("whole", [(6, 5, 1)], f"measurements: 'float32[6, 5, 1]'; {MEASURED}"),
        ("whole", [(2, 5, 6, 1)], f"measurements: 'float32[2, 5, 6, 1]'; {MEASURED}"),
        ("whole", [(0, 6, 5, 1)], f"measurements: 'float32[0, 6, 5, 1]'; {MEASURED}"),
        (
            "whole",
            [(2, 6, 5, 1), (2, 6, 5)],
            "weights: (2, 6, 5); allowed: None: it was exported with its own",
        ),
        ("at_call", [(2, 6, 5, 1)], "weights: None; allowed: float32[2, 6, 5]"),
        (
            "at_call",
            [(2, 6, 5, 1), (6, 5)],
            "weights: 'float32[6, 5]'; allowed: float32[2, 6, 5]",
        ),
        (
            "at_call",
            [(2, 6, 5, 1), (3, 6, 5)],
            "weights: 'float32[3, 6, 5]'; allowed: float32[2, 6, 5]",
        ),
    ],
)
def test_other_shapes_are_one_line(request, name, shapes, says):
    function = request.getfixturevalue(name)
    for call in (function, jax.jit(function)):
        with pytest.raises(ArgumentError) as caught:
            call(*(np.ones(shape, np.float32) for shape in shapes))
        assert str(caught.value) == says


def test_other_types_are_one_line_and_lists_are_taken(whole, draw):
    given = values(draw, 2, *SHAPE, 1)
    for kind in (np.uint8, np.float16):
        with pytest.raises(ArgumentError, match=f"^measurements: '{kind.__name__}.2, 6"):
            whole(given.astype(kind))
    with pytest.raises(ArgumentError, match="^measurements: None; allowed: float32"):
        whole(None)
    expected = whole(given)["codes"]
    for one in (given.tolist(), given.astype(np.float64), jax.numpy.asarray(given)):
        np.testing.assert_array_equal(whole(one)["codes"], expected)
    np.testing.assert_allclose(jax.jit(whole)(given)["codes"], expected, atol=1e-6)


def test_a_signal_that_was_not_seen_is_the_mean(dictionary, at_call, draw):
    found = at_call(values(draw, 1, *SHAPE, 1), np.zeros((1, *SHAPE), np.float32))
    np.testing.assert_allclose(found["codes"][0], dictionary.prior.mean, atol=1e-6)


@pytest.mark.parametrize(
    "kind", [SharedDictionary, pytest.param(IndependentDictionary, marks=pytest.mark.slow)]
)
def test_operator_weights_and_a_picture_that_is_evaluated(kind, draw, monkeypatch):
    monkeypatch.setattr(exporting, "BAKED_NUMBERS", 0)
    dictionary = made(kind, channels=2, with_bias=True)
    mixing = draw.standard_normal((9, COUNT)) / COUNT
    operator = nid.operators.matrix(mixing) @ nid.operators.sample(SHAPE)
    weights = draw.uniform(0, 2, 9)
    solver = nid.Gaussian(noise=0.3)
    function = nid.export(
        dictionary, solver=solver, operator=operator, weights=weights, render=(4, 9)
    )
    assert function.inputs["measurements"].shape[1:] == (9, 2)
    y = values(draw, 2, 9, 2)
    fit = dictionary.fit(y, operator=operator, weights=weights, solver=solver)
    same(function(y), fit, (4, 9))


@pytest.mark.parametrize("name", ["whole", "at_call"])
def test_every_platform_gets_products_of_float32(name, request):
    program = request.getfixturevalue(name).program
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    assert "f64" not in text
    # No library of a platform: what is called says that S is wrong.
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}
    products = re.findall(r"stablehlo.dot_general.*", text)
    assert len(products) >= 2
    # The default of a TPU is one pass of bfloat16.
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_the_file_says_what_it_takes_and_gives(whole, at_call):
    read = jax.export.deserialize(at_call.serialize())
    again = exporting.ExportedFit(read)
    assert str(again) == str(at_call)
    text = "measurements f32[S,6,5,1], weights f32[S,6,5] -> bias f32[S,1], codes f32[S,7], "
    assert text + "error f32[S], picture f32[S,6,5,1]; cpu, cuda, tpu" in str(again)
    assert set(whole.inputs) == {"measurements"}
    assert set(whole.outputs) == {"codes", "bias", "picture"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (6,)}, "shape: (6,); allowed: 2 whole numbers"),
        ({"shape": (6, 0)}, "shape: (6, 0); allowed: 2 whole numbers"),
        ({"render": (6, 2.5)}, "render: (6, 2.5); allowed: 2 whole numbers"),
        ({"platforms": "tpu"}, "platforms: 'tpu'; allowed: some of cpu, cuda, rocm, tpu"),
        ({"platforms": ("gpu",)}, "platforms: ('gpu',); allowed: some of"),
        ({"platforms": ()}, "platforms: (); allowed: some of"),
        ({"operator": "radon"}, "operator: 'radon'; allowed: an operator"),
        ({"weights": "later"}, "weights: 'later'; allowed: numbers or 'at call'"),
        ({"weights": np.ones((6, 4))}, "weights: (6, 4); allowed: (6, 5) for all"),
        ({"weights": np.zeros(SHAPE)}, "weights: 0; allowed: 1 or more of the 30"),
        ({"weights": "at call", "solver": nid.Ridge()}, "solver: 'ridge'; allowed: Gaussian"),
        ({"solver": nid.Ridge(lam="gcv")}, "solver.lam: 'gcv'; allowed: one number"),
        ({"solver": nid.Ridge(lam=np.ones(2))}, "solver.lam: [1. 1.]; allowed: one number"),
        ({"solver": nid.OMP(3)}, "solver: 'omp'; allowed: Ridge, Gaussian"),
        ({"solver": "ridge"}, "solver: 'ridge'; allowed: Ridge, Gaussian"),
        ({"solver": nid.Gaussian()}, "solver.noise: 0.0; allowed: one number above 0"),
        ({"weights": np.eye(6)[:, :5]}, "solver.noise: 0.0; allowed: one number above 0"),
        (
            {"solver": nid.Gaussian(noise=1.0, neighbours=3)},
            "solver.neighbours: 3; allowed: 0",
        ),
        ({"solver": nid.Gaussian(noise=1.0, level=True)}, "solver.level: True; allowed: False"),
    ],
)
def test_what_cannot_be_exported(dictionary, options, message):
    with pytest.raises(ArgumentError) as caught:
        nid.export(dictionary, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_other_arguments_that_cannot_be(dictionary, draw, monkeypatch):
    with pytest.raises(ArgumentError, match="^dictionary: .*; allowed: what nid.learn"):
        nid.export(dictionary.dictionary)
    bare = nid.NeuralDictionary(dictionary.model, dictionary.config, {})
    with pytest.raises(ArgumentError, match="^prior: None; allowed: that of the training"):
        nid.export(bare, solver=nid.Gaussian(noise=1.0))
    operator = nid.operators.mask(SHAPE, draw.uniform(size=(3, *SHAPE)) < 0.8)
    with pytest.raises(ArgumentError, match=r"^weights: \(3, 30\); allowed: those of one signal"):
        nid.export(dictionary, operator=operator)
    monkeypatch.setattr(exporting, "_MOST_NUMBERS", 10)
    with pytest.raises(ValueError, match="^shape: 240 numbers of the map; allowed: at most 10"):
        nid.export(dictionary)


@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_what_no_memory_holds_is_refused_before_it_is_made(dictionary):
    with pytest.raises(ValueError, match="^shape: [0-9]+ numbers of the map; allowed: at most"):
        nid.export(dictionary, (2**31, 2**31))
    words = r"^render: \(2147483648, 2147483648\); allowed: at most 134217728 points"
    with pytest.raises(ArgumentError, match=words):
        nid.export(dictionary, render=(2**31, 2**31))


def test_another_grid_and_a_raised_lambda_are_said(dictionary):
    with pytest.warns(nid.Notice) as said:
        nid.export(dictionary, (1, 3), nid.Ridge(lam=0.0))
    grid, lam = (str(warning.message) for warning in said)
    assert grid.startswith(f"shape: 1x3, learned on {SHAPE[0]}x{SHAPE[1]}, which is stretched")
    assert re.match("solver.lam: 0.0e[+]00, at which .*; taken as", lam)


def test_flatbuffers_that_are_not_there(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)
    with pytest.raises(ValueError, match="^nid.export: needs flatbuffers.*; pip install"):
        whole.serialize()


def test_a_saved_function_is_loaded(whole, draw, tmp_path):
    read = ExportedFit.load(whole.save(tmp_path / "fit.jaxexport"))
    assert repr(read) == repr(whole)
    given = values(draw, 3, *SHAPE, 1)
    for name, expected in whole(given).items():
        np.testing.assert_array_equal(read(given)[name], expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a function",
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1000],
        lambda content: bytes(40) + content[40:],
        lambda content: b"\xff" * 64 + content[64:],
    ],
)
def test_a_damaged_function_is_refused_in_one_line(whole, tmp_path, damage):
    path = tmp_path / "fit.jaxexport"
    path.write_bytes(damage(whole.serialize()))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: damaged, or not") as caught:
        ExportedFit.load(path)
    assert "\n" not in str(caught.value)
    # Nor is what the reader of bytes stumbled over shown above it.
    assert caught.value.__suppress_context__


def test_other_files_are_no_exported_fits(tmp_path):
    with pytest.raises(FileNotFoundError, match="fit.jaxexport: no such file"):
        ExportedFit.load(tmp_path / "fit.jaxexport")
    shape = jax.ShapeDtypeStruct((2,), np.float32)
    other = jax.export.export(jax.jit(lambda x: {"y": x}))(x=shape)
    (tmp_path / "other").write_bytes(other.serialize())
    with pytest.raises(ValueError, match="other: a function of .*; allowed: what nid.export saves"):
        ExportedFit.load(tmp_path / "other")
