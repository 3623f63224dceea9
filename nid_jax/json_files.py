"""JSON as files and texts have it, held to what it should be: one line says what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nid_jax import bounds
from nid_jax.errors import reason

_LEAST_SHARE = 16
"""Python holds so many times the bytes of a JSON text."""
_NAMES = {
    "object": dict,
    "list": list,
    "text": str,
    "whole number": int,
    "number": (int, float),
    "truth value": bool,
    "null": type(None),
}


class Key(NamedTuple):
    """What a value should be.

    kind: words of 'object', 'list', 'text', 'whole number', 'number', 'truth value' and 'null',
    joined by ' or '; least: of numbers; needed: whether an object must have it; each: what every
    entry of a list is.
    """

    kind: str
    least: float | None = None
    needed: bool = True
    each: Key | None = None
    shortest: int = 0
    longest: float = math.inf
    """Of a list or text."""


Schema = Mapping[str, Key]
"""Keys of an object and what they hold; others are not looked at."""


def read(path: str | Path, schema: Schema | None = None) -> Any:
    """The JSON of a file. schema: it is an object with these keys; None: it is anything.

    Raises FileNotFoundError, and ValueError of one line that names the file, what is wrong and what
    is allowed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        bounds.check(_LEAST_SHARE * path.stat().st_size)
        text = path.read_bytes()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return parsed(text, path, schema)


def parsed(text: str | bytes, where: str | Path, schema: Schema | None = None) -> Any:
    """The value of a JSON text, as `read`; where: what an error begins with."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not valid JSON: {reason(error)}") from error
    if schema is not None:
        check(value, schema, where)
    return value


def check(value: Any, schema: Schema, where: str | Path, inside: str = "") -> None:
    """Raise ValueError, beginning with `where`, unless a value is an object as the schema says."""
    if not isinstance(value, dict):
        key = f"{inside}: " if inside else ""
        raise ValueError(f"{where}: {key}{_shown(value)}; allowed: a JSON object")
    for name, key in schema.items():
        full = f"{inside}.{name}" if inside else name
        if name in value:
            _check_value(value[name], key, f"{where}: {full}")
        elif key.needed:
            raise ValueError(f"{where}: has no {full!r}; allowed: {_allowed(key)}")


def _check_value(value, key, where):
    words = key.kind.split(" or ")
    known = any(_is(value, word) for word in words)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    low = known and number and key.least is not None and not value >= key.least
    counted = known and isinstance(value, list | str)
    other = counted and not key.shortest <= len(value) <= key.longest
    if not known or low or other:
        raise ValueError(f"{where}: {_shown(value)}; allowed: {_allowed(key)}")
    if key.each is not None and isinstance(value, list):
        for number, entry in enumerate(value):
            _check_value(entry, key.each, f"{where}[{number}]")


def _is(value, word):
    kind: Any = _NAMES[word]
    return isinstance(value, kind) and (word == "truth value" or not isinstance(value, bool))


def _allowed(key):
    words = key.kind
    if key.least is not None:
        words += f" of {key.least:g} or more"
    if key.shortest:
        more = "" if key.longest == key.shortest else " or more"
        words += f" of {key.shortest}{more} entries"
    return f"{words}, each a {_allowed(key.each)}" if key.each is not None else words


def _shown(value: Any) -> str:
    """A value in a few words, however large it is."""
    if isinstance(value, dict | list):
        kind = "object" if isinstance(value, dict) else "list"
        return f"a JSON {kind} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 63 bits"
    return json.dumps(value)[:80]
