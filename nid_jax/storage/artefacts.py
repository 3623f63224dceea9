"""Files that are whole or not there: a temporary name beside the target, then a rename."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What the person at the keyboard can do something about; any other OSError passes through.
REFUSALS = {
    getattr(errno, name)
    for name in (
        "EACCES",
        "EPERM",
        "EROFS",
        "ENOSPC",
        "EDQUOT",
        "EFBIG",
        "ENOTDIR",
        "EISDIR",
        "EEXIST",
        "ENAMETOOLONG",
    )
}


@contextmanager
def refusals_named(path: str | Path) -> Iterator[None]:
    """Turns the system's refusal to write (no space, no permission, a file in the way) into a
    ValueError of one line that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise ValueError(f"{path}: cannot be written: {os.strerror(error.errno)}") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renames it to `path` once the body is done.

    The temporary name ends as `path` does, for libraries that look at the suffix. If the body
    fails, the temporary file goes and what was at `path` stays. Folders are made as needed.
    Raises ValueError naming `path` where the system refuses to write it.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    with refusals_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            # Before the rename, or a power cut could leave the new name with nothing in it.
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which takes the place of `path` once it is filled.

    If the body fails, the temporary folder goes and what was at `path` stays. Raises ValueError
    naming `path` where the system refuses to write it.
    """
    path = Path(path)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    temporary, old = (path.with_name(f".{what}-{mark}") for what in ("tmp", "old"))
    with refusals_named(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if path.exists():
                path.replace(old)
            temporary.replace(path)
        finally:
            for folder in (temporary, old):
                shutil.rmtree(folder, ignore_errors=True)


def file_name(index: int, name: str) -> str:
    """A name for the picture of signal `index`: 0007_face_087, whatever its own name holds."""
    safe = re.sub(r"[^\w.=+-]+", "_", re.sub(r"\.[A-Za-z]{3,4}$", "", name))
    return f"{index:04d}_{safe[:80]}"


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes `value` as indented JSON, whole or not at all; NaN and infinities become null."""
    return write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON; FileNotFoundError if there is no such file, ValueError if it is damaged."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON: {error}") from error


def plain(value: Any) -> Any:
    """The same value in types JSON knows: arrays as lists, NaN and infinities as None.

    Raises TypeError for anything else that JSON has no word for.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "items"):
        return {str(key): plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
