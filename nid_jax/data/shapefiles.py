"""Files of shapes that data.root names: which they are, what they are called, and their split."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from nid_jax.data.listing import find_files
from nid_jax.data.splitting import SPLITS, random_split
from nid_jax.notices import say

OWN_UNITS = "units of the file"
"""What coordinates of shapes from files are in."""


class Kind(NamedTuple):
    """A kind of files.

    what: 'cloud'; endings of its files; otherwise: those where there are none; needs: ending ->
    what reading it would need; beside: patterns of names that belong to them; hint: what to do
    where there is none.
    """

    what: str
    endings: Collection[str]
    needs: Mapping[str, str] = {}
    beside: Collection[str] = ()
    otherwise: Collection[str] = ()
    hint: str = ""


def shape_files(config: ConfigDict, split: str, seed: int, kind: Kind) -> dict[str, Path]:
    """The files of one split by their names: data.root is a file, or a folder with its folders.

    A folder with train/ and test/ has its splits there, another is split at random; one shape
    alone is both, with a notice. Names say where files lie: 'FOLDER-NAME'. Raises
    FileNotFoundError where nothing is there, and ValueError naming the folder or the key.
    """
    root = Path(config.root).expanduser()
    if root.is_file():
        say(
            f"{root}: one {kind.what} alone; both learned from and fitted: scores are of what "
            "was learned, not of an unseen shape"
        )
        return {root.stem: root}
    if not root.exists():
        raise FileNotFoundError(f"data.root={config.root!r}: no such file or folder")
    split_up = any((root / name).is_dir() for name in SPLITS)
    folder = root / split if split_up else root
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {root} has another split only")
    paths = find_files(folder, kind.endings, kind.what, kind.needs, kind.beside, kind.otherwise)
    if not paths:
        endings = ", ".join((*kind.endings, *kind.otherwise))
        raise ValueError(f"{folder}: holds no {endings} file{kind.hint}")
    if len(paths) == 1 and not split_up and 0 < config.test_fraction < 1:
        say(
            f"{folder}: one {kind.what} alone; both learned from and fitted: scores are of what "
            "was learned, not of an unseen shape"
        )
    elif not split_up:
        chosen = random_split(len(paths), split, config.test_fraction, seed, folder)
        paths = [paths[index] for index in chosen]
    return _named(paths, folder)


def _named(paths, folder):
    """{name: path}; names that several files have come with their endings or numbers."""
    found: dict[str, Path] = {}
    for path in paths:
        parts = path.relative_to(folder).with_suffix("").parts
        name, number = "-".join(parts), 1
        if name in found:
            name = f"{name}-{path.suffix.lstrip('.').lower()}"
        own = name
        while name in found:
            number += 1
            name = f"{own}-{number}"
        found[name] = path
    return found
