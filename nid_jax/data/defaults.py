"""What a config's `data` group need not say, because configs of other tasks say it."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nid_jax.configs.parts import data as groups

DEFAULTS = {
    **groups.pictures("", *groups.SOURCES),
    "augment": groups.augment(),
    "patch": groups.patches(),
}
"""Every key that sources of pictures and `open_collection` read, at the value that configs have."""


def completed(config_data: Any) -> ConfigDict:
    """A copy of config.data that has every key of DEFAULTS, those it lacks at the values there."""
    given = ConfigDict(config_data).copy_and_resolve_references().to_dict()
    return ConfigDict(_merged(DEFAULTS, given))


def _merged(defaults, given):
    merged = {**defaults, **given}
    for key, value in merged.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            merged[key] = _merged(defaults[key], value)
    return merged
