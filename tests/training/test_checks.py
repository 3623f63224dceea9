"""Configs of trainings that cannot be: one line that names the key, before any work."""

import dataclasses
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import nid_jax as nid
from nid_jax import devices
from nid_jax.coding import operators
from nid_jax.configs import image, sdf
from nid_jax.fitting import checks as fit_checks
from nid_jax.tasks.task import Measured
from nid_jax.training import checks
from nid_jax.training.components import MOST_COEFFICIENTS


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", 2**32, "seed: 4294967296; allowed: a whole number, 0 to 4294967295"),
        ("seed", 2**70, f"seed: {2**70}; allowed: a whole number, 0 to 4294967295"),
        ("seed", -1, "seed: -1; allowed: a whole number, 0 to 4294967295"),
        ("dictionary.num_experts", -4, "dictionary.num_experts: -4; allowed: a whole number, 1"),
        ("dictionary.components.shrinkage", -math.inf, "dictionary.components.shrinkage: -inf; al"),
        ("dictionary.components.shrinkage", math.nan, "dictionary.components.shrinkage: nan; allo"),
        ("prior.num_signals", -1, "prior.num_signals: -1; allowed: a whole number, 0 or more"),
        ("prior.lam", -1e-3, "prior.lam: -0.001; allowed: finite, 0 or more"),
        ("prior.lam", math.nan, "prior.lam: nan; allowed: finite, 0 or more"),
        ("prior.shrinkage", -0.5, "prior.shrinkage: -0.5; allowed: 0 to 1"),
        ("prior.shrinkage", 1.5, "prior.shrinkage: 1.5; allowed: 0 to 1"),
        ("prior.shrinkage", math.nan, "prior.shrinkage: nan; allowed: 0 to 1"),
        ("prior.components", -2, "prior.components: -2; allowed: a whole number, 0 or more"),
    ],
)
def test_what_cannot_be_names_its_key(key, value, words):
    config = image.base()
    checks.check(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match="allowed: ") as complaint:
        checks.check(config)
    assert str(complaint.value).startswith(words)
    assert "\n" not in str(complaint.value)


class Apart:
    """Signals of two ways."""

    alike, ways = False, (0, 1)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dictionary.components.errors", "log", "'log' of 3 signals .* allowed: square, ''"),
        ("prior.components", 5, "5 of 3 signals that were not measured alike; allowed: 0, 1"),
    ],
)
def test_what_rounds_do_not_know_is_refused(key, value, words):
    config = image.base()
    config.dictionary.heads = "components"
    checks.check_alike(config, Apart, "abc")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"^{key}: {words}"):
        checks.check_alike(config, Apart, "abc")


def test_a_fit_names_the_experts_too():
    config = image.base()
    config.dictionary.num_experts = -4
    with pytest.raises(
        ValueError, match="^dictionary.num_experts: -4; allowed: a whole number, 1 or more$"
    ):
        fit_checks.check(config)


def test_candidates_are_among_the_experts():
    config = image.base()
    config.router.kind = "linear"
    config.fit.update({"solver": "router+ridge", "top_k": 4})
    config.fit.router_ridge.candidates = config.dictionary.num_experts
    fit_checks.check(config)
    config.fit.router_ridge.candidates += 1
    with pytest.raises(ValueError, match="^fit.router_ridge.candidates: 257; allowed: 0 to 256 ex"):
        fit_checks.check(config)
    config.fit.top_k = 300
    with pytest.raises(ValueError, match="^fit.top_k: 300; allowed: 1 to 256 experts"):
        fit_checks.check(config)


@pytest.mark.parametrize("changes", [{"num_layers": 1}, {"kind": "independent"}])
def test_heads_beside_no_trunk(changes):
    config = image.base()
    config.dictionary.skip = True
    checks.check(config)
    config.dictionary.update(changes)
    with pytest.raises(ValueError, match="^dictionary.skip: True; allowed of .*: False, as no h"):
        checks.check(config)


def test_experts_that_no_covariance_of_is_held():
    config = image.base()
    config.dictionary.num_experts = 1000
    for there in (0, 48 * 10**6):
        checks.check_canonical(config, there)
    with pytest.raises(ValueError, match="^dictionary.num_experts: 1000; allowed: at most 999, w"):
        checks.check_canonical(config, 48 * 10**6 - 1)
    config.prior.num_signals = 0
    checks.check_canonical(config, 1)


def unlike(ways):
    """What was measured of signals of so many ways, each as often, with weights."""
    return Measured(
        ways, (4, 4), 1, None, way=lambda index: index % len(ways), weights=lambda index: None
    )


@pytest.mark.parametrize(
    ("ways", "key", "value", "allowed"),
    [
        (1, "router.kind", "conv", "none, codebook"),
        (1, "train.codes", "surface", "joint, varpro, sparse_varpro"),
        (2, "train.reseed_every", 250, "0"),
        (2, "train.chunks", "exhaustive", "random"),
        (1, "train.differentiate", "solve", "envelope"),
    ],
)
def test_what_signals_that_are_not_alike_do_not_allow(ways, key, value, allowed):
    config = image.base()
    config.train.reseed_every = 0
    measured = unlike([operators.sample((4, 4)), operators.sample((2, 2))][:ways])
    names = ["a", "b", "c"]
    checks.check_alike(config, measured, names)
    config.update_from_flattened_dict({key: value})
    words = f"{key}: {value!r} of 3 signals that were not measured alike; allowed: {allowed}"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        checks.check_alike(config, measured, names)
    checks.check_alike(config, dataclasses.replace(measured, way=None, weights=None), names)
    if ways > 1:
        checks.check_alike(config, dataclasses.replace(measured, ways=measured.ways[:1]), names)


@pytest.mark.parametrize("key", ["train.points", "train.reseed_every"])
def test_one_way_of_many_that_does_not_allow_a_key(key):
    """Measured by frequencies, which depend on the whole signal."""
    config = image.base()
    config.train.update({"points": 0, "reseed_every": 0})
    ways = [operators.sample((4, 4)), operators.fourier((4, 4))]
    checks.check_training(config, ways)
    config.update_from_flattened_dict({key: 64})
    checks.check_training(config, ways[:1])
    with pytest.raises(ValueError, match=f"^{key}: 64; allowed: 0 where "):
        checks.check_training(config, ways)


def test_components_of_signals_too_large_are_refused_before_any_work():
    """28 bytes for each feature of each measurement, as the peak of its memory was measured."""
    config = image.base()
    image.components(config)
    operator = SimpleNamespace(num_measurements=10**6)
    measured = Measured((operator,), (1000, 1000), 3, values=None)
    for features, there in ((1000, 0), (1000, 28 * 10**9), (MOST_COEFFICIENTS, 1)):
        # The last are found from the signals' products, without features at all points.
        checks.check_components(config, features, measured, there)
    words = "^dictionary.heads: 'components' of 1000 features at 1000000 .* takes 26.1 GiB, more th"
    with pytest.raises(ValueError, match=words) as complaint:
        checks.check_components(config, 1000, measured, 28 * 10**9 - 1)
    for advice in ("data.patch.size=", "dictionary.embedding.counts=", "dictionary.heads=drawn"):
        assert advice in str(complaint.value)
    several = dataclasses.replace(measured, way=lambda index: 0, grid_shape=(10, 10))
    checks.check_components(config, 1000, several, 28 * 10**5)
    with pytest.raises(ValueError, match="at 100 measurements"):
        checks.check_components(config, 1000, several, 28 * 10**5 - 1)
    config.dictionary.heads = "drawn"
    checks.check_components(config, 1000, measured, 1)


def test_learning_asks_for_the_memory_that_components_take(monkeypatch):
    monkeypatch.setattr(devices, "memory_bytes", lambda: 10**6)
    with pytest.raises(
        ValueError, match="^dictionary.heads: 'components' of 4095 features at 4096 m"
    ):
        nid.learn(np.zeros((2, 64, 64)), num_experts=4, layout="SHW")


def test_values_are_at_most_what_squares_can_be_summed_of():
    for bounds in (None, (0.0, 0.0), (0.0, 1e-15), (-1e-15, 0.0), (0.0, 1e9), (-1e9, 0.0)):
        checks.check_values(SimpleNamespace(title="rays", bounds=bounds), prior=True)
    for bounds in ((0.0, 1e15), (-1e15, 0.0)):
        checks.check_values(SimpleNamespace(title="rays", bounds=bounds), prior=False)
    checks.check_values(SimpleNamespace(title="without bounds"), prior=True)
    for prior, factor in ((False, 1e15), (True, 1e9)):
        for bounds in ((0.0, 2 * factor), (-2 * factor, 0.0)):
            said = re.escape(f"'rays, values up to {2 * factor:g}'; allowed: up to {factor:g}, as")
            with pytest.raises(nid.ArgumentError, match=f"^data.name: {said}"):
                checks.check_values(SimpleNamespace(title="rays", bounds=bounds), prior)


def test_values_are_at_least_what_squares_can_be_divided_by():
    for bounds in ((0.0, 5e-16), (-5e-16, 0.0)):
        with pytest.raises(nid.ArgumentError, match="values up to 5e-16'; allowed: 1e-15 or more"):
            checks.check_values(SimpleNamespace(title="rays", bounds=bounds), prior=False)
    zeros = SimpleNamespace(title="rays", bounds=(0.0, 0.0))
    with pytest.raises(nid.ArgumentError, match="values up to 1e-50'; allowed: 1e-15 or more"):
        checks.check_values(zeros, prior=True, largest=1e-50)


def test_nothing_descends_without_an_optimiser():
    config = sdf.get_config("cpu")
    assert (config.train.steps, config.train.optimizer.name) == (0, "none")
    checks.check(config)
    config.train.steps = 3
    words = "^train.optimizer.name: 'none' moves nothing in train.steps=3; allowed: adam, .* muon,"
    with pytest.raises(ValueError, match=words):
        checks.check(config)
    config.train.optimizer.name = "muon"
    checks.check(config)


def test_the_largest_seed_is_a_seed():
    config = image.base()
    config.seed = 2**32 - 1
    checks.check(config)


class ByWay:
    """Signals of two ways."""

    alike, ways = False, (0, 1)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dictionary.components.shrinkage", 1.0, "1.0 of 3 signals .* allowed: below 1"),
        ("prior.shrinkage", 1.0, "1.0 of 3 signals .* allowed: below 1"),
        ("prior.shrinkage", 0.2, "0.2 of 3 signals .* allowed: 0, as dictionary.components.shri"),
        ("prior.lam", 1e-3, "0.001 of 3 signals .* allowed: none typed"),
        ("prior.keep_codes", True, "True of 3 signals .* allowed: False"),
    ],
)
def test_what_rounds_do_not_read_is_refused_where_it_was_typed(key, value, words):
    config = image.base()
    config.dictionary.heads = "components"
    config.train.steps = 0
    checks.check_alike(config, ByWay, "abc")
    config.update_from_flattened_dict({key: value})
    if value != 1:
        checks.check_alike(config, ByWay, "abc")
    with pytest.raises(ValueError, match=f"^{key}: {words}"):
        checks.check_alike(config, ByWay, "abc", {key})
