"""Dictionaries that come with the package, each a folder of weights and card as `hub` writes it.

FOLDER/NAME/ for every line of FOLDER/SHA256SUMS, which experiments/ship.py writes and `sha256sum
--check` reads.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
from pathlib import Path

from nid_jax.files import local
from nid_jax.notices import say
from nid_jax.storage.artefacts import write_text
from nid_jax.storage.hub import WEIGHTS
from nid_jax.storage.workdir import Workdir

FOLDER = Path(__file__).resolve().parents[1] / "dictionaries"
SUMS = "SHA256SUMS"
"""SHA-256 of the weights of each, a line each, in the form of `sha256sum`."""


@functools.cache
def sums(folder: Path = FOLDER) -> dict[str, str]:
    """Name -> SHA-256 of its weights, of the dictionaries in a folder."""
    lines = [line.split() for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
    return {Path(file).parent.name: digest for digest, file in lines}


def write_sums(folder: Path) -> Path:
    """Write SHA256SUMS of the dictionaries in a folder. -> its path."""
    files = sorted(folder.glob(f"*/{WEIGHTS}"))
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    return write_text(folder / SUMS, "".join(lines))


def located(given: str | Path, argument: str = "", folder: Path = FOLDER) -> Path:
    """Where a dictionary lies: a file of weights, a run, or a path that may not be there.

    given: a path, or as text a name of `sums` alone: './NAME' is a path. argument: the flag it came
    by. Of a folder of weights that no run is in, as `hub.save_pretrained` writes it, the weights
    are meant. A run, a file or a folder of weights of a name's own comes first, and is said. Raises
    ValueError where the weights are not those of SHA256SUMS, FileNotFoundError for a word that is
    neither a path that is there nor a name, with the nearest one.
    """
    path, known = local(given, argument or "path"), sums(folder)
    there = _in_folder(path)
    if path.suffix or len(path.parts) > 1 or given != str(path):
        return there
    if given not in known:
        if path.exists():
            return there
        near = difflib.get_close_matches(given, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        where = f"{argument}={given}" if argument else given
        raise FileNotFoundError(
            f"{where}: no such workdir, and no such file; {hint}of dictionaries that come with "
            f"nid_jax there are {', '.join(known)}"
        )
    file = folder / given / WEIGHTS
    if there.is_file() or _holds_run(path):
        say(
            f"{given}: what is here is loaded, not the dictionary of that name that comes with "
            f"nid_jax; {file} is that"
        )
        return there
    if not file.is_file() or _sha256(file) != known[given]:
        raise ValueError(f"{file}: missing, or not what {SUMS} says; install nid_jax again")
    return file


def _in_folder(path):
    """The weights in a folder without a run; any other path as it is."""
    weights = path / WEIGHTS
    return weights if weights.is_file() and not _holds_run(path) else path


def _holds_run(path):
    return path.is_dir() and Workdir(path, read_only=True).config.exists()


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()
