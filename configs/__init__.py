"""The configs that come with the library, one file a task: --config=NAME or --config=NAME:VARIANT.

A config is a function get_config(variant) -> ConfigDict that holds its own task's keys and no
others. Their common groups are in `parts`. A file of your own is named by its path.
"""

import difflib
import importlib
import re
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

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
    """What a parser of paths makes of a name, and one line of whatever is wrong with it.

    argv: where keys of the config are given by hand; needs: a key that it must have.
    """

    def __init__(self, of_paths, argv, needs):
        self.of_paths, self.argv, self.needs = of_paths, argv, needs

    def parse(self, argument):
        config = self._loaded(argument)
        if not isinstance(config, ConfigDict):
            kind = type(config).__name__
            _refuse(f"--config={argument}", f"its get_config gives {kind}, not a ConfigDict")
        _checked_key(config, self.needs, f"--config={argument}")
        for word in (sys.argv if self.argv is None else self.argv)[1:]:
            typed = re.match(r"--?(?:no)?config\.([^=]*)", word)
            if typed:
                _checked_key(config, typed[1], typed[0])
        return config

    def _loaded(self, argument):
        path = located(argument)
        file = path.partition(":")[0]
        if not Path(file).is_file():
            _refuse(f"--config={argument}", "cannot be read; such as --config=image")
        # One that was read before would lend its function to a file that has none.
        sys.modules.pop(f"{self.of_paths.name}_config", None)
        try:
            config = self.of_paths.parse(path)
            # What the system refused is raised only now.
            getattr(config, self.needs.partition(".")[0], None)
        except Exception as error:
            # Of these the parser makes new ones, with a traceback for their text.
            made = isinstance(error, TypeError | ValueError) and error.__context__
            _refuse(f"--config={argument}", _said(made or error, file), error)
        return config


def _refuse(typed, what, cause=None):
    raise flags.IllegalFlagValueError(f"{typed}: {what}") from cause


def _said(error, file):
    """What is wrong with a file that cannot be run, in words."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    if isinstance(error, AttributeError) and error.name == "get_config":
        return "defines no function get_config"
    if isinstance(error, ValueError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    where = [line for line, name in zip(lines, files, strict=True) if name == file]
    return f"{f'line {where[-1]}: ' if where else ''}{type(error).__name__}: {error}"


def _checked_key(config, key, typed):
    """Raise a flag's error, with the nearest name, where a config has no such dotted key."""
    group, above = config, ""
    for name in key.split("."):
        if not isinstance(group, ConfigDict):
            _refuse(typed, f"{above} is a value, not a group of keys")
        if name not in group:
            near = [repr(one) for one in difflib.get_close_matches(name, group, 1)]
            found = _elsewhere(config, key.split(".")[0], name) or near
            guess = f", did you mean {' or '.join(found)}?" if found else ""
            _refuse(typed, f"the config has no key {name!r}{guess}")
        group, above = group[name], f"{above}.{name}".strip(".")


def _elsewhere(config, first, name):
    """Dotted keys of that very name: in the first group that was typed, else in any."""
    found = [key for key in _dotted(config) if key.endswith(f".{name}")]
    return [repr(key) for key in found if key.startswith(f"{first}.")] or [*map(repr, found[:3])]


def _dotted(group, above=""):
    for name in group:
        yield f"{above}{name}"
        if isinstance(group[name], ConfigDict):
            yield from _dotted(group[name], f"{above}{name}.")


def define_flag(
    description: str,
    values: flags.FlagValues,
    argv: list[str] | None = None,
    needs: str = "task",
) -> None:
    """Define --config on `values`, a name or a path; `argv`: the command line it is read from.

    needs: a dotted key that the config must have. What is wrong with the file, or with a key that
    is given by hand, is a `flags.Error` of one line.
    """
    config_flags.DEFINE_config_file("config", None, description, flag_values=values, sys_argv=argv)
    values["config"].parser = _Named(values["config"].parser, argv, needs)
