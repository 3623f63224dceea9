"""What runs leave on disk: text and JSON, whole or not there, and names for files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nid_jax.files import atomic_path, short_name

# Of the folder of a fit; a signal's own files in folders there are named by `file_name`.
CODES, METRICS, EVALUATION, NEAREST = "codes.npz", "metrics.json", "evaluation.json", "nearest.json"
COMPARISON, SHADED = "comparison.png", "shaded.png"
"""Sheets of the first signals: rows of pictures; surfaces."""
PICTURES, RECONSTRUCTIONS = "pictures", "reconstructions"
"""Folders of a sheet for each signal, and of what was made of each at its own size."""
MESHES, VIEWS = "meshes", "views"
"""Folders of surfaces, and of simplified ones that the page can turn."""
VIEWED = 3
"""Surfaces that the page can turn; the view also holds its program, 0.7 MB."""
SIGNALS = "signals.html"
"""A page of every signal, of a fit of more than its sheet shows; further ones are numbered."""
RENDER, INTERPOLATE = "render", "interpolate"
"""Folders of renders, one for each shape and window, and of paths between two signals."""
SIDE_BY_SIDE = "side_by_side"
"""Stem of the movie of all frames."""


def file_name(index: int, name: str) -> str:
    """A name for the picture of signal `index`: 0007_face_087, whatever its own name holds."""
    safe = re.sub(r"[^\w.=+-]+", "_", re.sub(r"\.[A-Za-z]{3,4}$", "", name))
    return f"{index:04d}_{short_name(safe[:80])}"


def view_name(shape: Sequence[int], window: Sequence[tuple[float, float]] = ()) -> str:
    """A name for a folder of renders: 128x128, or 25x49_-1to0_0to1 of a window."""
    ends = [f"{low:g}to{high:g}" for low, high in window]
    return "_".join(["x".join(map(str, shape)), *ends])


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8, whole or not at all; bytes of names that are none as \\udcff."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> Path:
    """Writes `value` as JSON, whole or not at all; NaN and infinities become null.

    indent: spaces a level; None for one line.
    """
    return write_text(path, json.dumps(plain(value), indent=indent, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """The same value in types JSON knows: arrays as lists, NaN and infinities as None.

    Dataclasses are dicts of their fields.
    Raises TypeError for anything else that JSON has no word for.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if hasattr(value, "items"):
        return {str(key): plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
