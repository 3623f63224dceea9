"""Values of configs: what each may be, used or not, and which typed ones nothing reads."""

import importlib
import math

import pytest

from nid_jax import configs, settings
from nid_jax.coding.solvers import SOLVERS, config_group
from nid_jax.configs import image, sdf
from nid_jax.errors import ArgumentError
from nid_jax.tasks import unused

# Groups whose values a dataclass or an operator checks.
CHECKED = ("loss.", "fit.refine.", *(f"{config_group(name)}." for name in SOLVERS))


def all_keys():
    """Dotted key -> one value, of all configs that come with the library."""
    found = {}
    for name in configs.names():
        config = importlib.import_module(f"nid_jax.configs.{name}").get_config()
        found |= dict(settings.leaves(config))
    return found


def test_every_number_of_a_config_has_a_rule():
    numbers = {
        key
        for key, value in all_keys().items()
        if isinstance(value, int | float | tuple) and not isinstance(value, bool)
    }
    without = {key for key in numbers - set(settings.RULES) if not key.startswith(CHECKED)}
    assert without == set()
    # And no rule is of a key that there is not, operators' own and routers' widths apart.
    assert set(settings.RULES) <= set(all_keys())


@pytest.mark.parametrize("name", configs.names())
def test_what_configs_say_is_allowed(name):
    module = importlib.import_module(f"nid_jax.configs.{name}")
    for variant in module.VARIANTS:
        settings.check(module.get_config(variant))


def config_of(name):
    return importlib.import_module(f"nid_jax.configs.{name}").get_config()


HOMES = {key: name for name in configs.names() for key, _ in settings.leaves(config_of(name))}
# Those of the loss are its dataclass's affair, which tests of losses hold.
FLOATS = [key for key, value in all_keys().items() if type(value) is float and key[:7] != "loss.l1"]


@pytest.mark.parametrize("key", [key for key in FLOATS if key != "loss.balance"])
def test_no_number_is_without_an_end(key):
    config = config_of(HOMES[key])
    for value in (math.nan, math.inf, -math.inf, 1e30):
        config.update_from_flattened_dict({key: value})
        with pytest.raises(ArgumentError) as complaint:
            settings.check(config)
        # What a solver takes from the data is the data's.
        assert str(complaint.value).startswith((f"{key}: {value}; ", f"data.truncation: {value}; "))
        assert "allowed: " in str(complaint.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("fit.lasso.steps", -1, "fit.lasso.steps: -1; allowed: a whole number, 0 or more"),
        ("fit.omp.atoms_per_step", 0, "fit.omp.atoms_per_step: 0; allowed: a whole number, 1"),
        ("fit.refine.tv", -1.0, "fit.refine.tv: -1.0; allowed: finite, 0 or more"),
        ("fit.refine.rank", -1, "fit.refine.rank: -1; allowed: a whole number"),
        ("fit.refine.bounds", (1, 0), "fit.refine.bounds: (1, 0); allowed: (), or (low, high)"),
        ("train.optimizer.lr_warmup_steps", -3, "train.optimizer.lr_warmup_steps: -3; allowed: a"),
        ("train.steps", 2**31, "train.steps: 2147483648; allowed: a whole number, 0 to 214748364"),
        ("data.size", (10**7, 10**7), "data.size: (10000000, 10000000); allowed: what fits into"),
        (
            "render.window",
            ((0, 1), (1, 0)),
            "render.window: ((0, 1), (1, 0)); allowed: (), or pair",
        ),
        ("router.pool", "most", "router.pool: 'most'; allowed: mean, sum, none, max, max+mean"),
    ],
)
def test_what_is_not_used_is_checked_too(key, value, words):
    config = image.base()
    settings.check(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ArgumentError) as complaint:
        settings.check(config)
    assert str(complaint.value).startswith(words)


def test_options_beside_one_another_are_the_chosen_solvers_affair():
    config = sdf.get_config()
    # Less than the offset of pseudo-samples, which ridge has none of.
    config.data.truncation = 0.001
    settings.check(config)


@pytest.mark.parametrize(
    ("changes", "typed", "mode", "expected"),
    [
        ({}, ["fit.ridge.lam", "train.steps", "seed", "mesh.data"], "run", ""),
        (
            {},
            ["fit.omp.lam", "fit.lasso.steps", "fit.ridge.lam"],
            "run",
            "typed, but not used: fit.lasso.steps, fit.omp.lam (fit.solver=ridge)",
        ),
        ({"fit.solver": "lasso"}, ["fit.lasso.steps"], "run", ""),
        (
            {"prior.num_signals": 0},
            ["prior.lam"],
            "",
            "typed, but not used: prior.lam (prior.num_signals=0)",
        ),
        ({}, ["prior.lam", "prior.num_signals"], "", ""),
        (
            {"data.name": "faces"},
            ["data.root", "data.name"],
            "run",
            "typed, but not used: data.root (data.name=faces)",
        ),
        ({"data.name": "folder"}, ["data.root"], "run", ""),
        (
            {},
            ["render.scale", "sample.count"],
            "run",
            "typed, but not used: render.scale, sample.count (--mode=run)",
        ),
        ({}, ["render.scale"], "render", ""),
        ({}, ["sample.count"], "", ""),
        (
            {"dictionary.embedding.kind": "fourier"},
            ["dictionary.embedding.counts", "dictionary.embedding.size"],
            "run",
            "typed, but not used: dictionary.embedding.counts (dictionary.embedding.kind=fourier)",
        ),
        (
            {"fit.refine.kind": "grid"},
            ["fit.refine.tv", "fit.refine.bounds", "fit.refine.rank"],
            "",
            "typed, but not used: fit.refine.rank (fit.refine.kind=grid)",
        ),
    ],
)
def test_what_was_typed_and_is_not_read(changes, typed, mode, expected):
    config = image.base()
    config.update_from_flattened_dict(changes)
    words = unused.line(config, typed, mode)
    assert words == expected


def test_of_a_stored_dictionary_only_what_differs_is_told():
    asked, stored = image.base(), image.base()
    asked.dictionary.width = 99
    typed = ["dictionary.width", "train.steps"]
    words = unused.line(stored, typed, "fit", asked)
    assert words == (
        "typed, but not used: dictionary.width (--mode=fit takes the dictionary as it was learned)"
    )
    assert unused.line(stored, typed, "fit", stored) == ""


def test_what_configs_say_themselves_is_not_told():
    for name in configs.names():
        assert unused.line(config_of(name), (), "run") == ""
