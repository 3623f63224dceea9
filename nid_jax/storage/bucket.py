"""A folder of objects in a bucket, gs:// or s3://: the one place that talks to object stores.

Whole objects are read and written; a store shows an object once it is whole, so nothing is renamed.
The libraries are those that fsspec knows, and are asked for only here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nid_jax.files import scheme

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
"""Schemes of the places that can be worked on, and the package that each needs. memory:// is gone
with the process: for tests."""
# The first of these that a store lists tells one content of an object from another.
_TAGS = ("generation", "ETag", "etag", "mtime", "LastModified", "created")
# Larger files go in pieces, which have to be of a file that does not grow.
_WHOLE_BYTES = 2**25


class BucketError(ValueError):
    """A store refused, was not reached, or has what cannot be taken."""


def is_remote(path: Any, argument: str) -> bool:
    """Whether a path is one of a bucket. Raises ValueError, in one line that names the argument,
    for a scheme that is none of those and for a place without a name."""
    found = scheme(path) if isinstance(path, str | Path) else ""
    if not found:
        return False
    if found not in PACKAGES or not url_of(path).partition("://")[2]:
        raise ValueError(
            f"{argument}={path}: {found}:/ is no place that can be read or written here; allowed: "
            "a path of this machine, gs://BUCKET/FOLDER, s3://BUCKET/FOLDER"
        )
    return True


def url_of(path: str | Path) -> str:
    """A place in one spelling; a Path has made one slash of two."""
    return re.sub(r"^([^:]+):/+", r"\1://", str(path)).rstrip("/")


class Bucket:
    """The folder at `path`, with names relative to it.

    Raises ValueError where the package that its scheme needs is missing; everything raises
    BucketError, of one line that names the place, for what the store does not do.
    """

    def __init__(self, path: str | Path, argument: str):
        self.url = url_of(path)
        kind = scheme(path)
        try:
            import fsspec

            system = fsspec.get_filesystem_class(kind)
        except ImportError as error:
            raise ValueError(
                f"{argument}={path}: needs the package {PACKAGES[kind]}: "
                "pip install 'nid_jax[remote]'"
            ) from error
        with self._asking("cannot be opened"):
            # Listings that are remembered would miss what others write.
            self._system = system(use_listings_cache=False)
        self._root = self._system._strip_protocol(self.url)

    @property
    def name(self) -> str:
        """The last word of the place, letters that every file system takes."""
        return re.sub(r"[^\w.=+-]+", "_", self.url.rpartition("/")[2].strip("."))[:80]

    @property
    def digest(self) -> str:
        """Tells places of one name apart."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:12]

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except BucketError:
            raise
        except Exception as error:  # every store, and every way to it, has errors of its own
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": ")
            raise BucketError(f"{self.url}: {what}: {reason}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def files(self, single: str = "") -> dict[str, str]:
        """Name -> fingerprint of every object, or of a single one; an object written again has
        another one."""
        with self._asking("cannot be listed"):
            try:
                if single:
                    return {single: _fingerprint(self._system.info(self._path(single)))}
                found = self._system.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        start = f"{self._root}/"
        listed = {
            key[len(start) :]: _fingerprint(info)
            for key, info in found.items()
            # Some tools make objects that stand for folders.
            if key.startswith(start) and info.get("type") == "file" and not key.endswith("/")
        }
        for name in listed:
            if {"", ".", ".."} & set(name.split("/")):
                raise BucketError(f"{self.url}: holds {name!r}, which is no name of a file")
        return listed

    def read(self, name: str) -> bytes | None:
        """An object's content; None where there is none."""
        with self._asking(f"{name} cannot be read"):
            try:
                return self._system.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, whole or not at all."""
        with self._asking(f"{name} cannot be written"):
            self._system.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Whether an object was written that was not there, as one step where the store can."""
        with self._asking(f"{name} cannot be written"):
            try:
                self._system.pipe_file(self._path(name), content, mode="create")
            except Exception:  # stores have several words for: is there already
                if self.read(name) is None:
                    raise
                return False
        return True

    def upload(self, name: str, source: Path) -> None:
        """Writes a file as an object. Raises FileNotFoundError where the file is gone."""
        if source.stat().st_size > _WHOLE_BYTES:
            with self._asking(f"{name} cannot be written"):
                self._system.put_file(str(source), self._path(name))
        else:
            self.write(name, source.read_bytes())

    def download(self, name: str, target: Path) -> None:
        """Writes an object to a file."""
        with self._asking(f"{name} cannot be read"):
            self._system.get_file(self._path(name), str(target))

    def remove(self, name: str) -> None:
        """Removes an object, if there is one."""
        with self._asking(f"{name} cannot be removed"):
            try:
                self._system.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def age(self, name: str, beside: str) -> float:
        """Seconds between the writing of one object and that of another, by the store's clock."""
        with self._asking(f"{name} cannot be looked at"):
            written, later = (self._system.modified(self._path(one)) for one in (name, beside))
            return (later - written).total_seconds()


def _fingerprint(info: dict[str, Any]) -> str:
    tag = next((info[key] for key in _TAGS if info.get(key)), "")
    return f"{info.get('size')}:{tag}"
