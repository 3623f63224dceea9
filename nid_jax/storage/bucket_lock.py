"""One writer at a time of a workdir in a bucket: an object that says who, and a sign of life.

The holder writes the object again every few seconds; by the store's own clock, one that was not
written for a minute has no holder. A copy on this machine has one process at a time, see `lock`,
so that an object of that same copy is of a process that is gone.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from absl import logging

from nid_jax.storage import lock
from nid_jax.storage.bucket import Bucket, BucketError
from nid_jax.storage.lock import Busy

NAME = ".lock"


@contextmanager
def held(bucket: Bucket, copy: str, instead: str) -> Iterator[Callable[[], None]]:
    """Context in which this process alone writes to the bucket; gives a function that raises
    BucketError once another has taken over, while this machine slept or was not connected.

    copy: whose changes are written, of which this process has the lock on this machine; instead:
    what else may be typed. Raises Busy, in one line, where another has it.
    """
    content = {**lock.signature(), "copy": copy}
    _take(bucket, content, instead)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(bucket, content, ended), daemon=True)
    beating.start()

    def check() -> None:
        found = _read(bucket)
        if found.get("token") != content["token"]:
            raise BucketError(f"{bucket.url}: taken over {lock.who(found)}")

    try:
        yield check
    finally:
        ended.set()
        beating.join()
        _give_back(bucket, content)


def _take(bucket: Bucket, content: dict[str, Any], instead: str) -> None:
    written = json.dumps(content).encode()
    # Looked at first: some stores overwrite what is only to be created.
    before = _read(bucket)
    if before or not bucket.create(NAME, written):
        before = before or _read(bucket)
        if before and before.get("copy") != content["copy"] and _alive(bucket):
            raise Busy(
                f"{bucket.url}: work there is under way {lock.who(before)}, it seems; if it is "
                f"not, go on in {lock.STALE:.0f} s, or remove {bucket.url}/{NAME}; {instead}"
            )
        bucket.write(NAME, written)
    # Two that took it over at once, and stores that cannot create in one step.
    time.sleep(lock.SETTLED)
    found = _read(bucket)
    if found.get("token") != content["token"]:
        raise Busy(f"{bucket.url}: work there has just begun {lock.who(found)}; {instead}")


def _read(bucket: Bucket) -> dict[str, Any]:
    """What the object says; {} where it says nothing, or is not there."""
    try:
        found = json.loads(bucket.read(NAME) or b"{}")
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _alive(bucket: Bucket) -> bool:
    """Whether the object was written a short time ago."""
    probe = f"{NAME}-{secrets.token_hex(4)}"
    bucket.write(probe, b"")
    try:
        return bucket.age(NAME, probe) < lock.STALE
    finally:
        bucket.remove(probe)


def _beat(bucket: Bucket, content: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(lock.BEAT):
        try:
            if _read(bucket).get("token") != content["token"]:
                return
            bucket.write(NAME, json.dumps(content).encode())
        except BucketError as error:  # whoever writes next hears of it too
            logging.info("%s", error)


def _give_back(bucket: Bucket, content: dict[str, Any]) -> None:
    try:
        if _read(bucket).get("token") == content["token"]:
            bucket.remove(NAME)
    except BucketError as error:
        logging.warning("%s; others have to wait %.0f s", error, lock.STALE)
