"""Pytrees as storage has them: nested dicts with string keys, whatever held the leaves."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def paths(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Every leaf with the names that lead to it, in the order of jax.tree.leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(tuple(jax.tree_util.keystr((k,), simple=True) for k in p), x) for p, x in leaves]


def _is_stored(leaf: Any) -> bool:
    return math.prod(np.shape(leaf)) > 0  # storage refuses arrays without elements


def nested(name: str, tree: Any) -> dict:
    """Nested dicts of the leaves that are stored; a bare leaf goes under 'value'.

    Raises ValueError, naming the tree by `name`, for two leaves that storage would call the same.
    """
    found: dict = {}
    stored_as: dict[str, tuple] = {}
    for path, leaf in paths(tree):
        path = path or ("value",)
        # Storage joins names with dots: {'a.b': x} and {'a': {'b': y}} would share one file.
        if stored_as.setdefault(".".join(path), path) != path:
            raise ValueError(f"{name}: {'/'.join(path)} has the same name as another leaf")
        if not _is_stored(leaf):
            continue
        parent = found
        for part in path[:-1]:
            parent = parent.setdefault(part, {})
        parent[path[-1]] = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
    return found


def unnested(template: Any, stored: dict) -> Any:
    """Leaves of `stored` in the containers of `template`; empty arrays are made anew."""
    leaves = []
    for path, leaf in paths(template):
        value = stored
        if _is_stored(leaf):
            for part in path or ("value",):
                value = value[part]
        elif isinstance(leaf, np.ndarray):
            value = np.zeros(leaf.shape, leaf.dtype)
        else:
            value = jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), placed(leaf).sharding)
        leaves.append(value)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def placed(leaf: Any) -> Any:
    """A template leaf that says where to put what is read; NumPy and Python stay themselves."""
    if isinstance(leaf, np.generic):
        return np.asarray(leaf)
    if isinstance(leaf, np.ndarray | bool | int | float):
        return leaf
    # Without a sharding storage would ask for the devices that the checkpoint was saved from.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)
