"""Workdirs in a bucket: worked on in a copy on this machine, which is uploaded as it changes.

Locks, renames and checkpoints are those of any workdir, on the copy; the bucket has each file as it
was when it was whole. On start what is there is downloaded, so that any machine goes on. What an
upload that failed has left is in the copy only, and goes up with the next command.

The copy lies in the user's cache: BUCKET/{lock, record.json, NAME/}. record.json says for each file
its size and time here, and its fingerprint there, when both were the same.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from absl import logging

from nid_jax import json_files
from nid_jax.files import user_cache
from nid_jax.notices import say
from nid_jax.running import processes
from nid_jax.storage import bucket_lock, lock
from nid_jax.storage.artefacts import write_json
from nid_jax.storage.bucket import Bucket, BucketError, is_remote

# Seconds between two looks for what is to be uploaded.
EVERY = 30.0
# Of the store, and of reading what is to go there.
_FAILURES = (ValueError, OSError)
# Files on their way at a time.
_TOGETHER = 8
# Object that says which copy has written last.
_LAST = ".copy"
# What is made again from data, and what a checkpoint is before it is whole.
_LEFT_OUT = ("cache",)
_UNFINISHED = ".orbax-checkpoint-tmp"
# Written last and removed first: without it a checkpoint, or a fit, is not there.
_CHECKPOINT_MARK, _FIT_MARK = "_CHECKPOINT_METADATA", "metrics.json"
# Of a workdir, what a reader of the dictionary does not need.
_UNREAD = ("fits", "samples", "events")


@contextmanager
def worked_on(path: Any, argument: str) -> Iterator[Any]:
    """Context of work in a workdir; gives the folder to work in: `path` itself, or the copy of one
    in a bucket, which is uploaded every `EVERY` seconds and at the end.

    Of several processes the first one downloads and uploads, and all work in its copy. Raises
    ValueError, in one line that names the argument or the place: where another process works
    there, where bucket and copy were both changed, and, at the end, for what could not be uploaded,
    which the copy keeps.
    """
    if not is_remote(path, argument):
        yield path
        return
    bucket = Bucket(path, argument)
    folder = _folder("workdirs", bucket)
    with ExitStack() as stack:

        def begin() -> None:
            if processes.first():
                stack.enter_context(_kept_up(bucket, folder, argument))

        processes.together(begin)
        if len(set(processes.gathered(lambda: _who_holds(folder)))) > 1:
            raise ValueError(
                f"{argument}={path}: not all processes see its copy {folder}; allowed: "
                "$XDG_CACHE_HOME in a folder that they share"
            )
        yield folder


def downloaded(path: Any, argument: str) -> Any:
    """What is to be read at `path`: itself, or a copy on this machine of a workdir, without its
    fits, or of a .safetensors in a bucket, brought up to date.

    Raises FileNotFoundError where nothing is there, and ValueError, in one line.
    """
    if not is_remote(path, argument):
        return path
    bucket, single = Bucket(path, argument), ""
    folder = _folder("read", bucket)
    if bucket.url.endswith(".safetensors"):
        parent, _, single = bucket.url.rpartition("/")
        bucket = Bucket(parent, argument)
    copy = _Copy(bucket, folder)
    with _alone(folder.parent / "lock", bucket.url):
        listed = bucket.files(single)
        words = copy.download({name: listed[name] for name in listed if _is_read(name)})
    if not copy.there:
        raise FileNotFoundError(f"{argument}={path}: nothing is there; train into it first")
    say(f"{argument}={path}: read from a copy, {folder}; {words}")
    return folder / single if single else folder


def _folder(kind: str, bucket: Bucket) -> Path:
    return user_cache() / "buckets" / kind / bucket.digest / bucket.name


def _is_read(name: str) -> bool:
    parts = name.split("/")
    # Of a checkpoint, what only training goes on from.
    training = len(parts) > 2 and parts[0] == "checkpoints" and parts[2] == "training"
    return parts[0] not in _UNREAD and not training


@contextmanager
def _alone(path: Path, url: str) -> Iterator[None]:
    """Context in which no other process of this machine brings the same copy up to date."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock.held(path, url, "a download", "wait for it"))
                break
            except lock.Busy:
                time.sleep(lock.SETTLED)
        yield


def _who_holds(folder: Path) -> int:
    """Tells the holder's lock from that of another machine with a folder of the same name."""
    path = folder.parent / "lock"
    return zlib.crc32(path.read_bytes()) if path.exists() else 0


@contextmanager
def _kept_up(bucket: Bucket, folder: Path, argument: str) -> Iterator[None]:
    """Context of the one process that works in the copy of a bucket, and uploads it."""
    instead = f"give another {argument}, or wait for it"
    with lock.held(folder.parent / "lock", bucket.url, "work there", instead):
        copy = _Copy(bucket, folder, argument)
        with bucket_lock.held(bucket, copy.name, instead) as check:
            words = copy.download(bucket.files())
            say(
                f"{argument}={bucket.url}: worked on in a copy, {folder}; {words}; what changes is "
                f"uploaded every {EVERY:.0f} s and at the end"
            )
            ended = threading.Event()
            uploading = threading.Thread(target=_keep_up, args=(copy, check, ended), daemon=True)
            uploading.start()

            def finish() -> None:
                ended.set()
                uploading.join()
                try:
                    copy.upload(check)
                    copy.note_fingerprints()
                except _FAILURES as error:
                    raise BucketError(
                        f"{error}; what is not uploaded is kept in {folder}, and goes up with the "
                        f"next command of this {argument} on this machine"
                    ) from error

            try:
                yield
            except BaseException:
                try:
                    finish()
                except BucketError as error:
                    logging.error("%s", error)  # the error under way is the one to show
                raise
            finish()


def _keep_up(copy: _Copy, check: Callable[[], None], ended: threading.Event) -> None:
    said = ""
    while not ended.wait(EVERY):
        try:
            copy.upload(check)
            said = ""
        except _FAILURES as error:
            if str(error) != said:
                logging.warning("%s; tried again every %.0f s", error, EVERY)
            said = str(error)


class _Copy:
    """A copy of a bucket on this machine, and what is known to be the same on both sides.

    argument: what its owner knows the bucket as; '' for one that is only read, where the bucket
    is always right.
    """

    def __init__(self, bucket: Bucket, folder: Path, argument: str = ""):
        self.bucket, self.folder, self.argument = bucket, folder, argument
        self._record = folder.parent / "record.json"
        try:
            known = json_files.read(self._record, {})
        except (FileNotFoundError, ValueError):
            known = {}
        self.name: str = known.get("copy") or secrets.token_hex(8)
        self._same: dict[str, list[Any]] = known.get("files", {})
        """Name -> [size, time in ns] here and fingerprint there, '' where this copy wrote it."""
        self._begun: list[str] = known.get("begun", [])
        """Names that a download has begun to write."""
        self.there: dict[str, str] = {}
        """Name -> fingerprint of what the bucket has."""
        self._last: str | None = known.get("last")
        """The copy that had written last, when this one looked."""
        self._torn: set[str] = set()
        """Names there of checkpoints that lack their mark."""

    # Down

    def download(self, listed: dict[str, str]) -> str:
        """Brings the copy up to date with what the bucket lists. -> words on it.

        What is new here and not in the bucket stays, where no other copy has written since.
        Raises ValueError where one has: whose changes count, nobody can know.
        """
        self.there = {name: tag for name, tag in listed.items() if _is_kept(name)}
        last = (self.bucket.read(_LAST) or b"").decode(errors="replace")
        mine, self._last = last in (self.name, self._last), last
        here = {name: at for name, at in self._here().items() if name not in self._begun}
        changed = [name for name, at in here.items() if self._same.get(name, [])[:2] != at]
        if changed and self.argument and not mine:
            raise ValueError(
                f"{self.argument}={self.bucket.url}: was changed from another copy, while "
                f"{len(changed)} changed files of this one, such as {min(changed)}, were not "
                f"uploaded; allowed once {self.folder} is moved elsewhere or removed"
            )
        kept = set(changed) if self.argument else set()
        # What this copy was about to finish is as good as whole.
        self._torn = _torn(self.there) - (here.keys() if mine else set())
        whole = self.there.keys() - self._torn
        stale = [
            name
            for name in whole - kept
            if name not in here or not self._is_same(name, self.there[name], mine)
        ]
        for name in {*here, *self._begun} - whole - kept:
            (self.folder / name).unlink(missing_ok=True)
            self._same.pop(name, None)
        self._fetch(stale)
        self.folder.mkdir(parents=True, exist_ok=True)
        size = sum((self.folder / name).stat().st_size for name in stale)
        words = [f"{len(stale)} files, {size / 1e6:.1f} MB, downloaded"]
        if not stale:
            words = ["nothing to download"]
        if kept:
            words += [f"{len(kept)} files of before to upload"]
        if self._torn:
            units = sorted({_unit(name) for name in self._torn})
            words += [f"half uploaded and left out: {', '.join(units)}"]
        return ", ".join(words)

    def _is_same(self, name: str, tag: str, mine: bool) -> bool:
        known = self._same.get(name, [0, 0, None])[2]
        return known == tag or (mine and known == "")

    def _fetch(self, names: list[str]) -> None:
        self._begun = sorted(names)
        self._write_record()
        self._each(self._fetch_one, names)
        self._begun = []
        self._write_record()

    def _fetch_one(self, name: str) -> None:
        target = self.folder / name
        temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.bucket.download(name, temporary)
            temporary.replace(target)
        except OSError as error:
            raise BucketError(
                f"{self.bucket.url}: {name} cannot be kept here: {target}: {error.strerror}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        self._same[name] = [*_at(target), self.there[name]]

    # Up

    def upload(self, check: Callable[[], None]) -> None:
        """Writes what has changed here to the bucket, and removes what has gone; what has to be
        there with something else comes after it. check: raises where another has taken over."""
        here = self._here()
        changed = {name: at for name, at in here.items() if self._same.get(name, [])[:2] != at}
        units = {_unit(name) for name in changed if _is_mark(name)}
        gone = self.there.keys() - here.keys() - {n for n in self._torn if _unit(n) not in units}
        if not changed and not gone:
            return
        check()
        if self._last != self.name:
            self.bucket.write(_LAST, self.name.encode())
            self._last = self.name
        try:
            self._each(self._drop, [name for name in changed if _is_mark(name)])
            for rank in range(3):
                chosen = [name for name in changed if _rank(name) == rank]
                self._each(lambda name: self._send(name, changed[name]), chosen)
            for mark in (True, False):
                self._each(self._drop, [name for name in gone if _is_mark(name) == mark])
        finally:
            self._write_record()

    def _send(self, name: str, at: list[int]) -> None:
        with suppress(FileNotFoundError):  # gone since: an older checkpoint, a fit made again
            self.bucket.upload(name, self.folder / name)
            self._same[name] = [*at, ""]
            self.there[name] = ""

    def _drop(self, name: str) -> None:
        if name in self.there:
            self.bucket.remove(name)
            del self.there[name]
        self._same.pop(name, None)

    def note_fingerprints(self) -> None:
        """Asks what the fingerprints are of what was written: others may change it later."""
        if any(not tag for tag in self.there.values()):
            listed = self.bucket.files()
            for name in self.there:
                if name in self._same:
                    self._same[name][2] = listed.get(name, "")
            self._write_record()

    # Both

    def _each(self, function: Callable[[str], None], names: Iterable[str]) -> None:
        """Several at a time, as most of it is waiting; the first error ends it."""
        names = list(names)
        if names:
            with ThreadPoolExecutor(min(_TOGETHER, len(names))) as pool:
                waiting = [pool.submit(function, name) for name in names]
                try:
                    for one in waiting:
                        one.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def _here(self) -> dict[str, list[int]]:
        """Name -> [size, time in ns] of every whole file in the copy."""
        found = {}
        for folder, folders, names in os.walk(self.folder):
            place = Path(folder)
            folders[:] = [
                one for one in folders if _is_kept((place / one).relative_to(self.folder))
            ]
            for name in names:
                path = place / name
                with suppress(FileNotFoundError):
                    if _is_kept(path.relative_to(self.folder)):
                        found[path.relative_to(self.folder).as_posix()] = _at(path)
        return found

    def _write_record(self) -> None:
        known = {
            "bucket": self.bucket.url,
            "copy": self.name,
            "last": self._last,
            "files": self._same,
            "begun": self._begun,
        }
        write_json(self._record, known, indent=None)


def _at(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _is_kept(name: str | Path) -> bool:
    """Whether a file belongs to the workdir: neither hidden, as locks are, nor unfinished."""
    parts = Path(name).parts
    hidden = any(part.startswith(".") or _UNFINISHED in part for part in parts)
    return not hidden and parts[0] not in _LEFT_OUT


def _unit(name: str) -> str:
    """The checkpoint that a file is of; '' for others."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == "checkpoints" and len(parts) > 2 else ""


def _is_mark(name: str) -> bool:
    parts = name.split("/")
    if len(parts) != 3:
        return False
    return (parts[0], parts[2]) in (("checkpoints", _CHECKPOINT_MARK), ("fits", _FIT_MARK))


def _rank(name: str) -> int:
    """0, 1 or 2: a checkpoint comes after what belongs to its step, marks come last."""
    return 2 if _is_mark(name) else int(bool(_unit(name)))


def _torn(names: Iterable[str]) -> set[str]:
    """Those of checkpoints that lack their mark."""
    names = list(names)
    marked = {_unit(name) for name in names if _is_mark(name)}
    return {name for name in names if _unit(name) and _unit(name) not in marked}
