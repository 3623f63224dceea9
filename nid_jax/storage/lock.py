"""One writer at a time: a file that is locked while a process writes what lies beside it.

The file says who has it: host, process, since when. The lock is the system's own (flock), so that
of a process that dies none is left. Where that cannot be relied on, as with a holder on another
machine (shared storage may keep locks to one machine) or where the system has none, the holder's
sign of life counts: it touches the file every few seconds, by the clock of the storage, and one
that has not for a minute is gone.

Of workdirs in a bucket `bucket_lock` has the lock, by the holder's sign of life alone.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nid_jax import json_files
from nid_jax.files import refusals_named

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Seconds between two signs of life, and after which their absence means that there is none.
BEAT, STALE = 15.0, 60.0
# Seconds in which two that take over the same file see one another.
SETTLED = 0.5
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Busy(ValueError):
    """Another process is writing there."""


@contextmanager
def held(path: Path, place: str | Path, what: str, instead: str) -> Iterator[None]:
    """Context in which this process alone has the file `path`; gone afterwards, as are folders that
    were made for it and stayed empty.

    place: that it is about, to its owner; what: is done there, such as 'a training'; instead: what
    else may be typed. Raises Busy, in one line of these, where another has the file; ValueError
    where it cannot be written.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        with refusals_named(place):
            file, content = _take(path, f"{place}: {what}", instead)
    except BaseException:
        _remove_empty(made)
        raise
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        # Not one that another took over, while this machine slept.
        if _read(path) == content:
            path.unlink(missing_ok=True)
        os.close(file)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def check_free(path: Path, place: Path, what: str, instead: str) -> None:
    """Raises Busy as `held` does, which is what takes the file: to be told before much is done."""
    if is_held(path):
        raise Busy(f"{place}: {what} is under way {who(_read(path))}; {instead}")


def is_held(path: Path) -> bool:
    """Whether another process, or another part of this one, has the file `path`; one that nobody
    has goes."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        locked = _locked(file)
        if locked is False or _alive(path, _read(path), locked is True):
            return True
        if _same(file, path):
            path.unlink()
        return False
    finally:
        os.close(file)


def _take(path: Path, what: str, instead: str) -> tuple[int, dict[str, Any]]:
    """(descriptor of the locked file, what was written to it)."""
    patience = time.monotonic() + SETTLED
    while True:
        file = _opened(path)
        try:
            locked = _locked(file)
            before = _read(path)
            if locked is False and time.monotonic() > patience:
                raise Busy(f"{what} is under way {who(before)}; {instead}")
            if locked is False or not _same(file, path):
                # Its holder has just ended, or somebody only looked whether there is one.
                os.close(file)
                time.sleep(SETTLED / 20)
                continue
            if before and _alive(path, before, locked is True):
                raise Busy(
                    f"{what} is under way {who(before)}, it seems; if it is not, go on in "
                    f"{STALE:.0f} s, or remove {path}; {instead}"
                )
            content = _written(file)
            if locked is None or (before and not _here(before)):
                time.sleep(SETTLED)
                if _read(path) != content:
                    raise Busy(f"{what} has just begun {who(_read(path))}; {instead}")
            return file, content
        except BaseException:
            with suppress(OSError):
                os.close(file)
            raise


def _opened(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # whoever made the folder has just taken it away
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _locked(file: int) -> bool | None:
    """Whether this descriptor has got the lock; None where the system has none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return None
    return True


def _same(file: int, path: Path) -> bool:
    """Whether the descriptor is of the file that is there now."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def signature() -> dict[str, Any]:
    """What a holder says of itself: host, process, since when, and a token that is its own."""
    return {
        "host": platform.node(),
        "machine": _machine(),
        "process": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": secrets.token_hex(8),
    }


def _written(file: int) -> dict[str, Any]:
    content = signature()
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, json.dumps(content).encode() + b"\n")
    return content


def _read(path: Path) -> dict[str, Any]:
    """What the file says; {} where it says nothing, or is not there."""
    try:
        found = json_files.read(path)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str:
    """Tells machines apart that share a name, and a machine from itself before it was started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _here(content: dict[str, Any]) -> bool:
    return content.get("machine") == _machine()


def _alive(path: Path, content: dict[str, Any], locked: bool) -> bool:
    """Whether the holder that a file names may still have it, now that this process was not
    refused the lock of the system."""
    if not content or (locked and _here(content)):
        return False
    probe = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime < STALE
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def who(content: dict[str, Any]) -> str:
    """In words, the holder that a file names."""
    if not content:
        return "in another process"
    place = "" if _here(content) else f" on {content.get('host')}"
    return f"in process {content.get('process')}{place} since {content.get('started')}"


def _beat(file: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(file)
