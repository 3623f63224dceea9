"""Files of a workdir as the page reads them: there, not there, or damaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nid_jax import json_files


def read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a file, {} where there is none, and what is wrong with it, '' if nothing."""
    try:
        value = json_files.read(path)
    except FileNotFoundError:
        return {}, ""
    except (ValueError, OSError) as error:
        return {}, f"{path.name} cannot be read: {str(error).removeprefix(f'{path}: ')}."
    if not isinstance(value, dict):
        return {}, f"{path.name} holds no JSON object."
    return value, ""


def within(value: Any, *keys: str) -> Any:
    """value[keys[0]][keys[1]]..., or None where the path ends early."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def number(value: Any) -> float | None:
    """The value where it is a finite number, else None: NaN reaches JSON as null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
