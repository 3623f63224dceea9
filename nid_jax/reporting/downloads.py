"""Links from the page to the files beside it, which work from a disk and from a server."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nid_jax.reporting.tables import counted, format_bytes
from nid_jax.storage import artefacts

FEW = 12
"""Files of a folder that have a link of their own; the folder has one for all."""
# Of a fit, in the order shown, and what they are.
_FILES = {
    artefacts.CODES: "codes and biases of all signals",
    artefacts.METRICS: "all numbers of this page",
    artefacts.EVALUATION: "scores of the stored codes",
    artefacts.NEAREST: "neighbours of every signal",
    artefacts.SIGNALS: "a page of every signal",
    artefacts.COMPARISON: "the sheet of pictures",
    artefacts.SHADED: "the sheet of surfaces",
}
_FOLDERS = {
    artefacts.MESHES: "surfaces, in the units that the shapes came in",
    artefacts.RECONSTRUCTIONS: "every signal, at its own size",
    artefacts.PICTURES: "a sheet for each of the first signals",
}
# Parts of the page itself.
_INSIDE = (artefacts.VIEWS,)


def link(path: Path, page: Path) -> str:
    """An address of a file or folder relative to the page's folder, whatever letters it has."""
    relative = os.path.relpath(path, page)
    address = urllib.parse.quote(os.fsencode(Path(relative).as_posix()))
    # A first part with a colon would be taken for a scheme.
    address = f"./{address}" if ":" in address.split("/")[0] else address
    return address + ("/" if path.is_dir() else "")


def of_fit(folder: Path, page: Path) -> list[dict[str, Any]]:
    """Files of a fit's folder, then its folders with the first of their files.

    -> of each name, what it is, size in words, link, and of a folder files: [(name, link)] and
    whether they are listed at once.
    """
    files = [folder / name for name in _FILES]
    found = [_file(path, page, _FILES[path.name]) for path in files if path.is_file()]
    if not folder.is_dir():
        return found
    movies = sorted(path for path in folder.glob(f"{artefacts.SIDE_BY_SIDE}.*") if path.is_file())
    found += [_file(path, page, "all frames") for path in movies]
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and _shown(path)]
    order = list(_FOLDERS)
    inside.sort(key=lambda path: order.index(path.name) if path.name in order else len(order))
    return found + [entry for path in inside if (entry := _folder(path, page))]


def _shown(path):
    return not path.name.startswith(".") and path.name not in _INSIDE


def _file(path, page, about):
    size = format_bytes(path.stat().st_size)
    return {
        "name": path.name,
        "about": about,
        "size": size,
        "link": link(path, page),
        "files": [],
        "open": False,
    }


def _folder(path, page):
    """A folder's entry; None for an empty one."""
    count, first = 0, []
    for inside in _within(path):
        count += 1
        first.append(inside)
        if len(first) > 4 * FEW:  # Ten thousand of them are counted, not kept.
            first = sorted(first)[:FEW]
    if not count:
        return None
    return {
        "name": f"{path.name}/",
        "about": _FOLDERS.get(path.name, ""),
        "size": counted(count, "file"),
        "link": link(path, page),
        "files": [(one.name, link(one, page)) for one in sorted(first)[:FEW]],
        "open": path.name == artefacts.MESHES,
    }


def _within(folder: Path) -> Iterator[Path]:
    """Files and folders of a folder that are not hidden."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield folder / entry.name
