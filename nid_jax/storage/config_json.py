"""Configs as JSON and back, the same, tuples included.

JSON knows one sequence; configs hold tuples, so an array is a tuple and a list is marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

PATHS = (
    "data.root",
    "data.sinograms",
    "data.angles",
    "data.kspace",
    "data.kspace_mask",
    "data.cache",
    "eval.lpips",
)
"""Keys that name a file or folder, where they are not ''."""


def located(config: ConfigDict) -> ConfigDict:
    """A copy whose PATHS are absolute: later commands may be typed in another folder."""
    return _with_paths(config, lambda path: str(path.expanduser().absolute()))


def without_folders(config: ConfigDict) -> ConfigDict:
    """A copy whose PATHS are names alone, for files that are given away: whose folders they lay in
    is nobody's business."""
    return _with_paths(config, lambda path: path.name)


def _with_paths(config, changed):
    found = config.copy_and_resolve_references()
    for key in PATHS:
        section, name = key.split(".")
        group = found.get(section)
        path = group.get(name) if isinstance(group, ConfigDict) else None
        if isinstance(path, str) and path:
            with group.unlocked():
                group[name] = changed(Path(path))
    return found


def encoded(config: ConfigDict) -> dict[str, Any]:
    """A config in JSON types. Raises ValueError naming the key of a value that has none."""
    return _encoded(config, "")


def decoded(value: Any) -> ConfigDict:
    """The config that `encoded` made JSON of. Raises TypeError for JSON of another shape."""
    config = _decoded(value)
    if not isinstance(config, dict):
        raise TypeError(f"a config is a JSON object, not {type(value).__name__}")
    return ConfigDict(config)


def _encoded(value: Any, key: str) -> Any:
    if isinstance(value, ConfigDict):
        value = value.to_dict()  # resolves placeholders and references
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name: _encoded(entry, f"{key}.{name}".strip(".")) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [_encoded(entry, key) for entry in value]
    if isinstance(value, list):
        return {"__list__": [_encoded(entry, key) for entry in value]}
    raise ValueError(
        f"config key {key}: {type(value).__name__} cannot be saved, only numbers, strings, None,"
        " tuples, lists and groups of these"
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(entry) for entry in value)
    if isinstance(value, dict):
        if set(value) == {"__list__"}:
            return [_decoded(entry) for entry in value["__list__"]]
        return {name: _decoded(entry) for name, entry in value.items()}
    return value
