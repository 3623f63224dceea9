"""The manifest of a checkpoint: what it holds, leaf by leaf, and whether that is still so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nid_jax.storage.checksums import crc32, digest
from nid_jax.storage.trees import paths

NAME, ITERATOR = "manifest", "iterator"
"""Names of the items of a step that are no pytrees of the caller."""


class CheckpointError(ValueError):
    """A checkpoint cannot be saved or restored; one line for the person at the keyboard."""


class Damaged(Exception):
    """This step's files are not what was saved; the step before may be good."""


def _signature(leaf: Any) -> tuple[list[int], str]:
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return [], f"Python {type(leaf).__name__}"
    return list(leaf.shape), str(leaf.dtype)


def make(
    step: int,
    items: Mapping[str, Any],
    data_iterator: Any,
    metrics: Mapping[str, float],
    meta: Mapping[str, Any],
) -> dict[str, Any]:
    """What `read` gives back: shape, dtype and CRC-32 of every leaf, metrics, and `meta`."""
    for leaf in jax.tree.leaves(dict(items)):
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()  # all copies are under way before the first is waited for
    leaves = {
        name: {"/".join(path): [*_signature(leaf), crc32(leaf)] for path, leaf in paths(tree)}
        for name, tree in items.items()
    }
    iterator = None
    if data_iterator is not None:
        state = data_iterator.get_state()
        state = json.loads(state) if isinstance(state, bytes) else state
        iterator = _gathered(digest(state))
    content = {
        "step": int(step),
        "items": leaves,
        "iterator": iterator,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "meta": dict(meta),
    }
    return json.loads(json.dumps(content))  # as it will be read: tuples are lists, keys strings


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its checksum, as it lies on disk."""
    return {"crc32": digest(content), "content": content}


def read(folder: Path) -> dict[str, Any]:
    """The content of the manifest in the folder of a step. Raises Damaged."""
    path = folder / NAME / "metadata"
    try:
        stored = json.loads(path.read_bytes())
        content = stored["content"]
        intact = digest(content) == stored["crc32"]
    except FileNotFoundError as error:
        raise Damaged("its manifest is missing") from error
    except (ValueError, KeyError, TypeError, NotADirectoryError) as error:
        raise Damaged("its manifest cannot be read") from error
    if not intact:
        raise Damaged("its manifest has changed since it was written")
    return content


def compare(folder: Path, name: str, template: Any, content: dict) -> None:
    """Raises CheckpointError where the checkpoint was made by another configuration."""
    if name not in content["items"]:
        raise CheckpointError(
            f"{folder}: holds no {name!r}, only {', '.join(sorted(content['items']))}"
        )
    saved = content["items"][name]
    asked = {"/".join(path): _signature(leaf) for path, leaf in paths(template)}
    for path in [*asked, *saved]:
        here = _shown(asked[path]) if path in asked else "nothing"
        there = _shown(saved[path]) if path in saved else "nothing"
        if here != there:
            raise CheckpointError(
                f"{folder}: made with another configuration: {name}/{path} is {there} in the"
                f" checkpoint and {here} in this configuration"
            )


def _shown(signature) -> str:
    shape, dtype = signature[:2]
    return f"{dtype}{list(shape)}"


def verify(name: str, tree: Any, content: dict) -> None:
    """Raises Damaged where a leaf that was read is not the one that was saved."""
    for path, leaf in paths(tree):
        joined = "/".join(path)
        if crc32(leaf) != content["items"][name][joined][2]:
            raise Damaged(f"{name}/{joined} has changed since it was written (CRC-32 differs)")


def iterator_state(folder: Path, content: dict) -> Any:
    """This process's saved iterator state, verified.

    Raises CheckpointError where none was saved, or by another number of processes; Damaged.
    """
    if content["iterator"] is None:
        raise CheckpointError(f"{folder}: holds no state of the data iterator")
    index, count = jax.process_index(), jax.process_count()
    if len(content["iterator"]) != count:
        raise CheckpointError(
            f"{folder}: its data order was saved by {len(content['iterator'])} processes and"
            f" {count} are running: start as many as before"
        )
    path = folder / ITERATOR / f"process_{index}-of-{count}.json"
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged("the state of the data iterator cannot be read") from error
    if digest(state) != content["iterator"][index]:
        raise Damaged("the state of the data iterator has changed since it was written")
    return state


# Several processes


def _gathered(value: int) -> list[int]:
    """One number of each process, in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    values = multihost_utils.process_allgather(np.uint32(value))
    return [int(v) for v in np.ravel(values)]


def everywhere(good: bool) -> bool:
    """Whether it is so in every process."""
    return all(_gathered(int(good)))


def alike(value: int) -> bool:
    """Whether a number, 0 to 2**32 - 1, is the same in every process."""
    return len(set(_gathered(value))) == 1
