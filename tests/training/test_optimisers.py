"""Optimisers: what Muon turns, how long its steps are, and what it leaves to Adam."""

import runpy
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from nid_jax.fields.dictionary import KINDS
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
            np.testing.assert_allclose(step[...], wanted[...], rtol=1e-5)
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
