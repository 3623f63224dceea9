"""CRC-32 of arrays and of JSON: what notices a flipped byte that storage restores unseen."""

from __future__ import annotations

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def crc32(leaf: Any) -> int:
    """CRC-32 of the bytes of a whole leaf, the same however it is sharded."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return zlib.crc32(repr(leaf).encode())
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)
        else:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    flat = np.ascontiguousarray(np.asarray(leaf)).reshape(-1)
    return zlib.crc32(flat.view(np.uint8))


def digest(content: Any) -> int:
    """CRC-32 of a value of JSON types, the same in whatever order its keys stand."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
