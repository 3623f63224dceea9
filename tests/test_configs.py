"""Every variant of every shipped config builds: its task, its model and its optimiser."""

import ast
import importlib.util
import inspect
from pathlib import Path

import jax
import pytest
from flax import nnx

from nid_jax import tasks
from nid_jax.data import splitting
from nid_jax.fields.model import build_model
from nid_jax.fitting import batched
from nid_jax.training import loop
from nid_jax.training.optimisers import build_optimiser

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(path):
    """The variants a config file offers, as it says itself when asked for one it lacks."""
    with pytest.raises(ValueError, match="allowed: ") as complaint:
        load(path).get_config("no such variant")
    offered, _, ways = str(complaint.value).rpartition("allowed: ")[2].partition(", then ")
    names = offered.split(", ")
    return names + [f"{name}{way}" for way in filter(None, ways.split(", ")) for name in names]


CASES = [(path, variant) for path in CONFIGS for variant in variants(path)]


def signal_shape(config):
    """Shape of one signal; from the config where the data may not be on this machine."""
    if config.data.name in ("faces", "photos", "phantoms", "clip", "shapes"):
        task = tasks.build(config)
        seen = task.learned_from(task.open("test"))
        return (*seen.grid_shape, seen.channels)
    return (*config.data.size, 1 if config.task == "sdf" else 3)


@pytest.mark.parametrize(("path", "variant"), CASES, ids=lambda v: getattr(v, "stem", v))
def test_variant_builds(path, variant):
    config = load(path).get_config(variant)
    assert tasks.build(config).name == config.task
    loop.check(config)
    batched.check(config)
    # Also where the data are not here, what the config asks of them must be possible.
    assert splitting.configured_crop(config.data) == config.data.crop
    dims = 3 if config.task == "sdf" else 2
    assert (splitting.configured_size(config.data, dims) or ()) == config.data.size
    shape = signal_shape(config)
    # Abstractly: the paper's model alone would take most of a small machine's memory.
    model = nnx.eval_shape(lambda: build_model(config, shape, 10, config.seed))
    assert model.dictionary.num_experts == config.dictionary.num_experts
    assert model.channels == shape[-1]
    params = nnx.state(model, nnx.Param)
    optimizer = build_optimiser(config.train.optimizer, config.train.steps)
    moments = jax.eval_shape(optimizer.init, params)
    assert len(jax.tree.leaves(moments)) > len(jax.tree.leaves(params)) / 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_default_variant_is_one_of_those_offered(path):
    default = inspect.signature(load(path).get_config).parameters["variant"].default
    assert default in variants(path)


@pytest.mark.parametrize(("path", "variant"), CASES, ids=lambda v: getattr(v, "stem", v))
def test_every_value_can_be_given_on_the_command_line(path, variant):
    """A key whose default is None has no type, so nothing typed for it is ever accepted."""

    def leaves(group):
        for value in group.values():
            yield from leaves(value) if isinstance(value, dict) else [value]

    values = list(leaves(load(path).get_config(variant).to_dict()))
    assert values
    assert all(isinstance(value, bool | int | float | str | tuple) for value in values)


def test_variants_are_documented():
    for path in CONFIGS:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        words = {word for variant in variants(path) for word in variant.split("-")}
        assert all(word in text for word in words), path.name
