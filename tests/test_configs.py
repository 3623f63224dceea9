"""Every variant of every shipped config builds: its task, its model and its optimiser."""

import ast
import configparser
import importlib
import inspect
from pathlib import Path

import jax
import pytest
from flax import nnx

from nid_jax import configs, data, tasks
from nid_jax.data import splitting
from nid_jax.fields.model import build_model
from nid_jax.fitting import checks
from nid_jax.training.checks import check as check_training
from nid_jax.training.optimisers import build_optimiser

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [ROOT / "configs" / f"{name}.py" for name in configs.names()]


def load(path):
    return importlib.import_module(f"nid_jax.configs.{path.stem}")


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
    if config.data.name in ("points", "sinograms"):
        return (32, 32, 1)
    if config.data.name in ("faces", "photos", "phantoms", "clip", "shapes", "stations"):
        task = tasks.build(config)
        seen = task.learned_from(task.open("test"))
        return (*seen.grid_shape, seen.channels)
    return (*config.data.size, 1 if config.task == "sdf" else 3)


@pytest.mark.parametrize(("path", "variant"), CASES, ids=lambda v: getattr(v, "stem", v))
def test_variant_builds(path, variant):
    config = load(path).get_config(variant)
    task = tasks.build(config)
    assert task.name == config.task
    assert (task.surface is not None) == tasks.has_surfaces(config)
    checks.check(config)
    check_training(config)
    # Also where the data are not here, what the config asks of them must be possible.
    assert splitting.configured_crop(data.completed(config.data)) == config.data.get("crop", "")
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
    # Where nothing descends none are held.
    if config.train.steps:
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


def test_configs_are_found_by_name():
    assert {path.stem for path in CONFIGS} >= {
        *("image", "inpainting", "video", "ct", "mri", "sdf", "fields")
    }
    assert configs.located("image") == str(ROOT / "configs" / "image.py")
    assert configs.located("image:cpu") == f"{ROOT / 'configs' / 'image.py'}:cpu"
    for path in ("image.py", "./image", "configs/image.py:cpu"):
        assert configs.located(path) == path
    with pytest.raises(ValueError, match="no config of that name, did you mean 'video'"):
        configs.located("vidoe:time")


def test_all_packages_are_shipped():
    """setup.cfg lists them, as configs stand elsewhere than where they are installed."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    inside = ((ROOT, "nid_jax"), (ROOT, "configs"))
    found = {
        ".".join(path.parent.relative_to(root).parts).replace("configs", "nid_jax.configs")
        for root, folder in inside
        for path in (root / folder).rglob("__init__.py")
        if "nid_jax/configs" not in path.as_posix()
    }
    assert sorted(listed) == sorted(found)


def test_configs_hold_their_own_tasks_keys_only():
    names = ("ct", "image", "sdf", "video")
    ct, image, sdf, video = (load(ROOT / "configs" / f"{name}.py").get_config() for name in names)
    assert not {"video", "clip", "patch", "corrupt", "truncation"} & set(ct.data)
    assert not {"mesh", "samples", "surface", "threshold"} & set(ct.fit)
    assert not {"gray", "resize", "phantom", "video", "patch"} & set(sdf.data)
    assert "refine" not in sdf.fit
    assert not {"num_train", "augment", "phantom"} & set(video.data)
    assert not {"num_views", "samples"} & set(image.fit)


@pytest.mark.parametrize("name", ["folder", "video", "dicom", "array", "clip", "phantoms"])
def test_sources_take_their_defaults_where_a_config_lacks_their_keys(name):
    config = load(ROOT / "configs" / "ct.py").get_config()
    config.data.name = name
    whole = data.completed(config.data)
    assert whole.video.step == 1
    assert whole.clip.num_frames == 60
    assert whole.patch.size == 0
    assert whole.phantom.jitter == config.data.phantom.jitter == 0.7
    assert whole.size == config.data.size
    assert "video" not in config.data


def test_variants_are_documented():
    for path in CONFIGS:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        words = {word for variant in variants(path) for word in variant.split("-")}
        assert all(word in text for word in words), path.name
