"""The official settings: what the config says they cost, and what main.py takes of a folder."""

import math
import re
import runpy
from pathlib import Path

import jax
import pytest
from flax import nnx

from nid_jax.fields.model import build_model, count_parameters
from nid_jax.interop import official
from nid_jax.storage.workdir import Workdir

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "official.py"
MODULE = runpy.run_path(str(CONFIG))


def architecture_of(config, size):
    dictionary, router = config.dictionary, config.router
    pixels = math.prod(size) if router.kind == "resnet" else 0
    widths = tuple(router.widths) if router.kind == "resnet" else (router.width,)
    return official.Architecture(
        dictionary.num_experts,
        3,
        2,
        dictionary.num_layers,
        dictionary.width,
        dictionary.embedding.kind,
        dictionary.embedding.size,
        router.kind,
        1,
        widths,
        pixels,
    )


@pytest.mark.parametrize(("variant", "size"), [("celeba", (16, 16)), ("images", (128, 128))])
def test_the_header_says_what_a_model_costs(variant, size):
    config = MODULE["get_config"](variant)
    found = architecture_of(config, size)
    points = min(config.train.points, math.prod(size))
    cost = official.cost(found, config.train.batch_size, points, math.prod(size))
    text = " ".join(MODULE[variant].__doc__.split())
    numbers, operations = cost["numbers"], cost["operations"]
    assert f"dictionary {numbers['dictionary']:,}, router {numbers['router']:,}" in text
    assert f"{4 * sum(numbers.values()) / 1e6:.1f} MB" in text
    giga = {part: f"{count / 1e9:.1f} GFLOP" for part, count in operations.items()}
    assert f"dictionary {giga['dictionary']}, router {giga['router']}" in text
    # The model itself has as many numbers.
    model = nnx.eval_shape(lambda: build_model(config, (*size, 3), 1, 0))
    assert count_parameters(model) == numbers


@pytest.mark.slow
def test_operations_are_those_the_compiler_counts():
    """Matrix products alone, of one layer of each kind."""
    found = official.Architecture(64, 3, 2, 3, 32, "fourier", 48, "resnet", 1, (8, 16), 144)
    ours = official.cost(found, 5, 100)["operations"]
    config = MODULE["get_config"]("celeba")
    with config.unlocked():
        config.dictionary.update({"num_experts": 64, "num_layers": 3, "width": 32})
        config.dictionary.embedding.size = 48
        config.router.update({"widths": (8, 16), "top_k": 0})
    model = build_model(config, (12, 12, 3), 1, 0)

    @jax.jit
    def routed(images):
        return model.router(None, images)

    counted = routed.lower(jax.ShapeDtypeStruct((5, 12, 12, 3), "float32")).compile()
    counted = counted.cost_analysis()["flops"]
    # Borders of the padded convolutions are not computed; biases and activations are.
    assert 0.75 * ours["router"] < counted < 1.1 * ours["router"]


def test_steps_are_epochs_of_whole_batches():
    config = MODULE["get_config"]("celeba")
    patches = config.data.num_train * math.prod(
        side // config.data.patch.size for side in config.data.size
    )
    assert config.train.steps == patches // config.train.batch_size * 5001


def test_a_folders_config_is_the_one_it_was_made_with(tmp_path):
    config = MODULE["get_config"]("images")
    config.data.size = (5, 7)
    config.fit.refine.bounds = ((0, 1),)
    Workdir(tmp_path).save_config(config)
    assert MODULE["get_config"](str(tmp_path)) == config


def test_no_such_variant():
    with pytest.raises(ValueError, match=r"official.py:faces: unknown.*allowed: celeba, images"):
        MODULE["get_config"]("faces")


def test_every_option_is_documented():
    text = (CONFIG.parents[1] / "docs" / "official.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    missing = [name for name in official.DEFAULTS if not re.search(rf"`{name}`", rows)]
    assert not missing
