"""The manifest of a checkpoint: what it holds, leaf by leaf, and whether that is still so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nid_jax import json_files
from nid_jax.json_files import Key
from nid_jax.running import processes
from nid_jax.storage import schemas
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
        # A place in the order of batches, of which each process reads its part.
        iterator = processes.gathered(lambda: digest(state))
        if len(set(iterator)) > 1:
            raise CheckpointError(f"step {step}: processes are at different batches")
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
        stored = json_files.read(path, {"content": Key("object"), "crc32": Key("whole number")})
        content = stored["content"]
        if digest(content) != stored["crc32"]:
            raise Damaged("its manifest has changed since it was written")
        json_files.check(content, schemas.MANIFEST, path, "content")
    except FileNotFoundError as error:
        raise Damaged("its manifest is missing") from error
    except (ValueError, RecursionError, NotADirectoryError) as error:
        raise Damaged("its manifest cannot be read") from error
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
    """The saved iterator state, verified; the same for however many processes saved it.

    Raises CheckpointError where none was saved; Damaged.
    """
    if content["iterator"] is None:
        raise CheckpointError(f"{folder}: holds no state of the data iterator")
    path = folder / ITERATOR / f"process_0-of-{len(content['iterator'])}.json"
    try:
        state = json_files.read(path)
    except (OSError, ValueError) as error:
        raise Damaged("the state of the data iterator cannot be read") from error
    if digest(state) != content["iterator"][0]:
        raise Damaged("the state of the data iterator has changed since it was written")
    return state
