"""Optimisers: what Muon turns, how long its steps are, and what it leaves to Adam."""

import runpy
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from nid_jax.fields.dictionaries import KINDS
from nid_jax.fields.model import build_model
from nid_jax.fields.variables import Basis, Kernel
from nid_jax.training.optimisers import build_optimiser

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def _config(name, kind="shared", **changes):
    config = runpy.run_path(str(CONFIGS / "image.py"))["get_config"]("smoke")
    config.dictionary.kind = kind
    config.router.kind = "codebook"
    config.train.codes = "joint"
    config.train.optimizer.update({"name": name, "schedule": "constant", **changes})
    return config


def _params(config):
    return nnx.state(build_model(config, (6, 6, 3), 5, 0), nnx.Param)


def _gradients(params, seed):
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _variables(state):
    return jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, nnx.Variable))


@pytest.mark.parametrize("kind", KINDS)
def test_muon_steps_along_the_polar_factor_of_a_kernel(kind):
    config = _config("muon", kind, learning_rate=0.5)
    params = _params(config)
    optimiser = build_optimiser(config.train.optimizer, 10)
    gradients = _gradients(params, 3)
    steps, _ = jax.jit(optimiser.update)(gradients, optimiser.init(params), params)
    turned = 0
    for gradient, step in zip(_variables(gradients), _variables(steps), strict=True):
        if not isinstance(step, Kernel):
            continue
        pairs = zip(
            np.asarray(gradient[...], np.float64).reshape(-1, *gradient[...].shape[-2:]),
            np.asarray(step[...], np.float64).reshape(-1, *step[...].shape[-2:]),
            strict=True,
        )
        for given, found in pairs:
            left, sizes, right = np.linalg.svd(given, full_matrices=False)
            # The iteration leaves small singular values behind; the large ones are near one.
            kept = sizes > 0.1 * sizes.max()
            size = 0.5 * 0.2 * np.sqrt(max(given.shape))
            along = (left.T @ -found @ right.T)[np.ix_(kept, kept)] / size
            np.testing.assert_allclose(along, np.eye(kept.sum()), atol=0.35)
            turned += 1
    assert turned == (2 if kind == "shared" else 3 * config.dictionary.num_experts)


def test_muon_leaves_heads_biases_and_codes_to_adam():
    config = _config("muon", learning_rate=0.5)
    params = _params(config)
    optimiser = build_optimiser(config.train.optimizer, 10)
    adam = optax.chain(optax.scale_by_adam(nesterov=True), optax.scale(-0.5))
    state, expected_state = optimiser.init(params), adam.init(params)
    update, adam_update = jax.jit(optimiser.update), jax.jit(adam.update)
    for seed in range(3):
        gradients = _gradients(params, seed)
        steps, state = update(gradients, state, params)
        expected, expected_state = adam_update(gradients, expected_state, params)
    checked = 0
    for step, wanted in zip(_variables(steps), _variables(expected), strict=True):
        if not isinstance(step, Kernel):
            np.testing.assert_allclose(step[...], wanted[...], rtol=1e-5, atol=1e-7)
            checked += 1
    assert checked >= 5


def test_muon_decays_kernels_and_moves_codes_at_their_own_rate():
    plain, slowed = (
        _config("muon", weight_decay=decay, code_rate=rate)
        for decay, rate in ((0.0, 1.0), (0.1, 0.25))
    )
    params = _params(plain)
    gradients = _gradients(params, 1)
    steps = []
    for config in (plain, slowed):
        optimiser = build_optimiser(config.train.optimizer, 10)
        steps.append(jax.jit(optimiser.update)(gradients, optimiser.init(params), params)[0])
    rate = plain.train.optimizer.learning_rate
    for value, one, other in zip(_variables(params), *map(_variables, steps), strict=True):
        if isinstance(value, Kernel):
            wanted = one[...] - rate * 0.1 * value[...]
        elif isinstance(value, Basis):
            wanted = one[...]
        else:
            wanted = 0.25 * one[...]
        np.testing.assert_allclose(other[...], wanted, rtol=1e-4, atol=1e-7)


def _exact_steps(name, values, gradients, sizes):
    """Parameters after the gradients, in float64; sizes: name -> number of the config."""
    norm = np.sqrt(sum(np.square(g).sum() for leaves in gradients[:1] for g in leaves))
    assert norm > sizes["clip_norm"]
    means = [np.zeros_like(v) for v in values]
    squares = [np.zeros_like(v) for v in values]
    for count, leaves in enumerate(gradients, 1):
        norm = np.sqrt(sum(np.square(g).sum() for g in leaves))
        clipped = [g * min(1, sizes["clip_norm"] / norm) for g in leaves]
        for i, g in enumerate(clipped):
            if name == "sgd":
                means[i] = 0.9 * means[i] + g
                step = means[i]
            else:
                means[i] = 0.9 * means[i] + 0.1 * g
                squares[i] = 0.999 * squares[i] + 0.001 * g * g
                root = np.sqrt(squares[i] / (1 - 0.999**count))
                step = means[i] / (1 - 0.9**count) / (root + (1e-6 if name == "lamb" else 1e-8))
            if name in ("adamw", "lamb"):
                step = step + sizes["decays"][i] * values[i]
            if name == "lamb":
                own, theirs = np.linalg.norm(values[i]), np.linalg.norm(step)
                step = step * (own / theirs if own and theirs else 1)
            values[i] = values[i] - sizes["rates"][i] * step
    return values


def test_none_holds_no_moments_and_moves_nothing():
    config = _config("none", code_rate=0.25)
    params = _params(config)
    optimiser = build_optimiser(config.train.optimizer, 1)
    state = optimiser.init(params)
    assert jax.tree.leaves(state) == []
    steps, _ = optimiser.update(_gradients(params, 0), state, params)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(steps))


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "sgd"])
def test_steps_against_the_formulas_in_float64(name):
    options = {"learning_rate": 0.1, "weight_decay": 0.3, "clip_norm": 0.5, "code_rate": 0.25}
    config = _config(name, **options)
    params = _params(config)
    variables = _variables(params)
    assert {type(v).__name__ for v in variables} == {"Basis", "Kernel", "Code"}
    gradients = [_gradients(params, seed) for seed in range(3)]
    exact = _exact_steps(
        name,
        [np.asarray(v[...], np.float64) for v in variables],
        [[np.asarray(v[...], np.float64) for v in _variables(g)] for g in gradients],
        {
            "clip_norm": options["clip_norm"],
            "decays": [0.3 * isinstance(v, Basis) for v in variables],
            "rates": [0.1 if isinstance(v, Basis) else 0.025 for v in variables],
        },
    )
    optimiser = build_optimiser(config.train.optimizer, 10)
    state, update = optimiser.init(params), jax.jit(optimiser.update)
    for gradient in gradients:
        steps, state = update(gradient, state, params)
        params = optax.apply_updates(params, steps)
    for found, wanted in zip(_variables(params), exact, strict=True):
        # float32 holds 1 - 0.999 to 6e-5 only, and three steps are as long as 0.1.
        np.testing.assert_allclose(found[...], wanted, rtol=1e-4, atol=3e-5)
