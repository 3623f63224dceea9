"""Files that are whole or not there: a temporary name beside the target, then a rename."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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

_LINUX = sys.platform == "linux"
# What `atomic_path` and `atomic_folder` call their own.
_LEFT = re.compile(r"\.(tmp|old)-(\d+)-[0-9a-f]{8}(?:-(.+))?")
# Of names, of which systems take 255 with what is put before and behind them.
_NAME_BYTES = 160
# Of several letters: one is a drive of Windows. A Path has already made one slash of two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def scheme(path: str | Path) -> str:
    """What stands before :// in a place that is no path of this machine, such as 'gs'; else ''."""
    found = _SCHEME.match(str(path))
    return found[0].rstrip(":/") if found else ""


def user_cache() -> Path:
    """The folder of what can be had again: nid_jax in $XDG_CACHE_HOME or ~/.cache."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "nid_jax"
    return folder.expanduser().absolute()


def local(path: str | Path, name: str) -> Path:
    """A path of this machine as Path, ~ expanded.

    name: of the flag, key or argument it came by. Raises ValueError, in one line, for one with a
    scheme such as gs:// or file://, of which a folder 'gs:' would be made.
    """
    if scheme(path):
        raise ValueError(
            f"{name}={path}: {scheme(path)}:/ is no place that can be read or written here; "
            "allowed: a path of this machine, such as where it is mounted"
        )
    return Path(path).expanduser()


def short_name(name: str) -> str:
    """A name for a file or folder, of letters that print and of a length that every system takes.

    What moves a cursor or is no text becomes _, as does a slash.
    """
    safe = "".join(one if one.isprintable() and one not in "/\\" else "_" for one in name)
    # Letters of other scripts take up to four bytes each.
    return safe.encode()[:_NAME_BYTES].decode(errors="ignore")


@contextmanager
def refusals_named(path: str | Path) -> Iterator[None]:
    """Turns the system's refusal to write (no space, no permission, a file in the way) into a
    ValueError of one line that names `path`."""
    try:
        yield
    except OSError as error:
        code = error.errno
        if code is None or code not in REFUSALS:
            raise
        raise ValueError(f"{path}: cannot be written: {os.strerror(code)}") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renames it to `path` once the body is done.

    The temporary name ends as `path` does, for libraries that look at the suffix. If the body
    fails, the temporary file goes and what was at `path` stays. Folders are made as needed.
    Raises ValueError naming `path` where it is none of this machine, or cannot be written.
    """
    path = local(path, "path")
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    with refusals_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _open_as_others(temporary)
            # Before the rename, or a power cut could leave the new name with nothing in it.
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _open_as_others(path: Path) -> None:
    """Give a file the mode that the umask gives a new one; some libraries write for one user."""
    probe = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    path.chmod(mode & 0o777)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which takes the place of `path` once it is filled.

    If the body fails, the temporary folder goes and what was at `path` stays. Where the system can,
    both change places at once; elsewhere a process that is killed between two renames leaves what
    was there as .old-*, which `recover` puts back. Raises ValueError naming `path` where the system
    refuses to write it.
    """
    path = local(path, "path")
    mark = f"{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
    temporary, old = (path.with_name(f".{what}-{mark}") for what in ("tmp", "old"))
    with refusals_named(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if not path.exists():
                temporary.replace(path)
            elif not _exchanged(temporary, path):
                _replaced(temporary, path, old)
                _remove(old)
        finally:
            _remove(temporary)


def _replaced(new: Path, path: Path, old: Path) -> None:
    """`new` takes the place of `path`, which becomes `old`: two renames, both or none."""
    try:
        path.replace(old)
        new.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        raise


def _exchanged(first: Path, second: Path) -> bool:
    """Whether two paths have changed places, at once; False where the system cannot do that."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if _LINUX else None
    if function is None:
        return False
    names = os.fsencode(first.absolute()), os.fsencode(second.absolute())
    # linux/fcntl.h, linux/fs.h: AT_FDCWD, RENAME_EXCHANGE.
    if function(-100, names[0], -100, names[1], ctypes.c_uint(2)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def recover(folder: Path, gone: Callable[[int, str], bool]) -> None:
    """Finish what killed processes left in a folder: an earlier .old-* goes back where nothing took
    its place; the rest goes.

    gone(process, name): whether the process that was to write `name` there is known to be gone.
    """
    found = [(path, _LEFT.fullmatch(path.name)) for path in folder.glob(".*-*")]
    left = [(path, match) for path, match in found if match and gone(int(match[2]), match[3] or "")]
    for path, (what, _, name) in ((path, match.groups()) for path, match in left):
        if what == "old" and name and not (folder / name).exists():
            path.replace(folder / name)
        else:
            _remove(path)


def running(process: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
