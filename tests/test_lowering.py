"""What GPUs and TPUs would get of every compiled function; nothing is compiled or run."""

import ast
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from measuring.lowering import CUSTOM_CALLS, collectives, lowered, read
from studies import lowering_cases
from studies.lowering_cases import numbers

from nid_jax import Factorisation, Problem, Ridge, platforms
from nid_jax.coding.operators import sample
from nid_jax.fields.embeddings import Identity
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary

PACKAGE = Path(platforms.__file__).parent
CASES = {case.name: case for case in lowering_cases.cases()}
# What may hold float64 on a TPU: a function may leave the list, and none may enter.
FLOAT64_ON_TPU = {"heads by expectation maximisation"}
QUICK = (
    "training step: varpro, independent",
    "fit: gaussian, normal equations",
    "render, sparse codes",
)


def check(case):
    found = lowered(*case.make())
    for platform, one in found.items():
        assert one.callbacks == 0, platform
        assert not one.unlisted, platform
        assert one.operations > 10
        assert case.short or not one.short_products, one.short_products
    assert bool(found["tpu"].float64) == bool(case.float64), found["tpu"].float64


@pytest.mark.parametrize("name", QUICK)
def test_what_a_tpu_gets(name):
    check(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - set(QUICK)))
def test_what_a_tpu_gets_of_everything(name):
    check(CASES[name])


def test_the_list_of_what_holds_float64_grows_no_longer():
    assert {case.name for case in CASES.values() if case.float64} <= FLOAT64_ON_TPU


def test_float64_callbacks_and_short_products_are_seen():
    def wide(x):
        with jax.enable_x64(True):
            return (2 * x.astype(jnp.float64)).astype(jnp.float32)

    def called(x):
        return jax.pure_callback(np.sin, numbers(3, 3), x)

    for function, field in ((wide, "float64"), (lambda x: x @ x, "short_products")):
        assert all(getattr(found, field) for found in lowered(function, (numbers(3, 3),)).values())
    text = jax.jit(called).lower(numbers(3, 3)).as_text()
    assert read(text).callbacks
    # For a platform that is not here JAX refuses them by itself.
    with pytest.raises(ValueError, match="platform"):
        lowered(called, (numbers(3, 3),), ("tpu",))
    exact = lowered(lambda x: jnp.matmul(x, x, precision="highest"), (numbers(3, 3),))
    assert not exact["tpu"].short_products
    assert read("%0 = stablehlo.custom_call @someone(%1) : tensor<3xf32>").unlisted == ["someone"]


def test_collectives_are_counted():
    text = (
        "%a = f32[2] all-reduce(%b)\n%c = f32[2] all-gather-start(%d)\n%e = f32[2] all-reduce(%f)"
    )
    assert collectives(text) == {"all-reduce": 2, "all-gather": 1}


def test_float64_is_chosen_for_the_platform_that_is_lowered_for(monkeypatch):
    def which(x):
        return platforms.by_float64(lambda x: x + 2, lambda x: x * 3, x)

    found = {
        name: jax.jit(which).trace(numbers()).lower(lowering_platforms=(name,)).as_text()
        for name in ("cpu", "cuda", "tpu")
    }
    assert ["multiply" in found[name] for name in found] == [False, False, True]
    assert ["add" in found[name] for name in found] == [True, True, False]
    assert float(jax.jit(which)(1.0)) == 3
    monkeypatch.setattr(platforms, "_single", True)
    assert float(jax.jit(lambda x: which(x))(2.0)) == 6


@pytest.mark.slow
def test_a_scope_without_float64_ends():
    def which(x):
        return platforms.by_float64(lambda x: x + 2, lambda x: x * 3, x)

    function = jax.jit(which)
    found = [float(function(2.0))]
    with platforms.without_float64():
        found.append(float(function(2.0)))
    assert [*found, float(function(2.0))] == [4, 6, 4]


@pytest.mark.slow
def test_fits_without_float64_are_those_of_independent_float64():
    """Ridge of a trunk with more atoms than features, from a map, normal equations and weights."""
    rngs, draw = nnx.Rngs(params=3), np.random.default_rng(3)
    layers = Layers(3, 24, "sine", 5.0)
    dictionary = SharedDictionary(Identity(2), 40, 1, layers, rngs=rngs)
    operator, lam = sample((13, 11)), 1e-5
    measured = draw.normal(size=(3, 13, 11)).cumsum(1).cumsum(2).reshape(3, -1, 1) / 9
    weights = draw.uniform(0.5, 1, (3, 143)).astype(np.float32)
    with platforms.without_float64():
        by_map = Factorisation(dictionary, operator, lam=lam).solve(measured)
        problem = Problem(dictionary, operator, measured)
        by_normal = Ridge(lam, precision="float64").solve(problem)
        own = Ridge(lam).solve(dataclasses.replace(problem, weights=weights))
    atoms = np.asarray(dictionary.basis(jnp.asarray(operator.points)), float)[..., 0]
    for number, signal in enumerate(measured[..., 0]):
        even = np.ones(143)
        for found, weight, most in (
            (by_map, even, 1e-4),
            (by_normal, even, 1e-3),
            (own, weights[number].astype(float), 1e-2),
        ):
            usual, scale = ridge_of(atoms, signal, weight, lam, weights if found is own else None)
            rendered = atoms @ np.asarray(found.codes[number], float) + float(found.bias[number, 0])
            assert np.abs(rendered - usual).max() < most * scale


def ridge_of(atoms, signal, weight, lam, all_weights):
    """Values of ridge codes [M] in float64, and the size of the signal."""
    mean_weight = weight if all_weights is None else all_weights.astype(float).mean(0)
    typical = atoms - np.average(atoms, axis=0, weights=mean_weight)
    shift = lam * (mean_weight @ np.square(typical)).mean()
    ones = np.ones((len(atoms), 1))
    both = np.concatenate([atoms, ones], 1)
    matrix = both.T @ (weight[:, None] * both) + shift * np.diag([1.0] * atoms.shape[1] + [0.0])
    return both @ np.linalg.solve(matrix, both.T @ (weight * signal)), np.abs(signal).max()


def test_one_module_knows_of_platforms():
    asking = {"default_backend", "platform_dependent"}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {node.attr for node in tree if isinstance(node, ast.Attribute)}
        if path.name not in ("platforms.py", "numerics.py"):
            assert not names & asking, path


def test_custom_calls_are_explained():
    for name, words in CUSTOM_CALLS.items():
        assert len(words.split()) > 3, name
