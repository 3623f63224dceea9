"""Which files of a folder are read, and what is passed over: counted by reason."""

import collections
import fnmatch
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from nid_jax.notices import say

# Folders that systems and archives leave, none of whose files a person means.
_LEFT_BY_SYSTEMS = ("__MACOSX", "__pycache__")


def find_files(
    directory: str | Path,
    extensions: Collection[str],
    what: str,
    needs: Mapping[str, str] | None = None,
    beside: Collection[str] = (),
    otherwise: Collection[str] = (),
) -> list[Path]:
    """All files below a directory that have one of the extensions, sorted by their path.

    extensions: in lower case with the dot, '' for files without one; what: the files' kind,
    'picture'; needs: extension -> what reading it would need, of kinds known but not readable
    here; beside: patterns of names of files and folders that belong to what is read, and are not
    counted; otherwise: the extensions instead, where no file has one of the others. Links are
    followed, each file is taken once. Hidden files and folders and what systems leave (__MACOSX)
    are passed over. What is passed over is counted by reason in one notice. An empty list where
    nothing is left.
    """
    directory = Path(directory)
    found, passed, targets = [], collections.Counter(), set()
    paths = sorted(_files(directory, passed, beside), key=lambda path: _place(path, directory))
    if otherwise and not any(path.suffix.lower() in extensions for path in paths):
        extensions = otherwise
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in extensions:
            # A link may come twice; a file under its own name goes before links to it.
            found.append(path)
        elif needs and suffix in needs:
            passed[f"{suffix} (needs {needs[suffix]})"] += 1
        else:
            passed[suffix or "without extension"] += 1
    kept = []
    for path in sorted(found, key=lambda path: path.is_symlink()):
        target = os.path.realpath(path)
        if target in targets:
            passed["repeated by links"] += 1
        else:
            targets.add(target)
            kept.append(path)
    if passed:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(passed.items()))
        plural = "" if len(kept) == 1 else "s"
        say(f"{directory}: {len(kept)} {what}{plural}; passed over: {counts}")
    return sorted(kept, key=lambda path: _place(path, directory))


def copies(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files: of `first` and its copy in `second`, one pair for each file of `second`.

    Only files of one size, one beginning and one end are read whole.
    """
    sides = [list(first), list(second)]
    for key in (os.path.getsize, _ends, _digest):
        keys = [[(key(path), path) for path in side] for side in sides]
        shared = {value for value, _ in keys[0]} & {value for value, _ in keys[1]}
        sides = [[path for value, path in side if value in shared] for side in keys]
    of = dict(keys[0])
    return [(of[value], path) for value, path in keys[1] if value in shared]


def _ends(path):
    """The size of a file with its first and last bytes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        end = file.read()
        file.seek(0)
        return size, file.read(4096), end


def _digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _place(path, directory):
    return path.relative_to(directory).as_posix()


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _files(directory, passed: collections.Counter, beside) -> Iterator[Path]:
    """Files below `directory`, links to folders followed once; hidden ones are counted."""
    visited = set()

    def closed(error):
        if Path(error.filename) == directory:
            raise error
        passed["folders that may not be read"] += 1

    for root, folders, files in os.walk(directory, onerror=closed, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        # A folder under its own name goes before links to it.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(root, name)), name))
        hidden = [name for name in folders if name.startswith(".") or name in _LEFT_BY_SYSTEMS]
        for name in hidden:
            folders.remove(name)
            if _matches(name, beside):
                continue
            inside = sum(len(names) for *_, names in os.walk(os.path.join(root, name)))
            passed["hidden"] += inside
        for name in files:
            if _matches(name, beside):
                continue
            if name.startswith("."):
                passed["hidden"] += 1
            elif os.path.isfile(os.path.join(root, name)):
                yield Path(root, name)
            elif os.path.exists(os.path.join(root, name)):
                passed["pipes, sockets or devices"] += 1
            else:
                passed["links that lead nowhere"] += 1
    if not passed["hidden"]:
        del passed["hidden"]
