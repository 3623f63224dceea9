"""The configs that come with the library, one file a task: --config=NAME or --config=NAME:VARIANT.

A config is a function get_config(variant) -> ConfigDict that holds its own task's keys and no
others. Their common groups are in `parts`. A file of your own is named by its path.
"""

import difflib
import importlib
from pathlib import Path

from absl import flags
from ml_collections import config_flags

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the configs in this package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def described(name: str) -> tuple[str, list[str]]:
    """What a config is for, in one line, and the names of its variants."""
    module = importlib.import_module(f"nid_jax.configs.{name}")
    words = (module.__doc__ or "").strip().partition("\n")[0]
    return words, [*module.VARIANTS, *(f"...-{way}" for way in getattr(module, "WAYS", ()))]


def located(typed: str) -> str:
    """The file of a config as it was typed: 'image:cpu' -> 'FOLDER/image.py:cpu'.

    A path, which is what ends in .py or has a folder in it, stays as it is. Raises ValueError for
    a name that no config has.
    """
    name, colon, variant = typed.partition(":")
    if name.endswith(".py") or "/" in name or "\\" in name:
        return typed
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1, 0.0)[0]
        raise ValueError(
            f"no config of that name, did you mean {near!r}? allowed: {', '.join(names())}, or the "
            "path of a .py file"
        )
    return f"{FOLDER / name}.py{colon}{variant}"


class _Named(flags.ArgumentParser):
    """What a parser of paths makes of a name."""

    def __init__(self, of_paths):
        self.of_paths = of_paths

    def parse(self, argument):
        return self.of_paths.parse(located(argument))


def define_flag(description: str, values: flags.FlagValues, argv: list[str] | None = None) -> None:
    """Define --config on `values`, a name or a path; `argv`: the command line it is read from."""
    config_flags.DEFINE_config_file("config", None, description, flag_values=values, sys_argv=argv)
    values["config"].parser = _Named(values["config"].parser)
