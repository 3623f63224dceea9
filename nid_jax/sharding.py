"""Where arrays live: a mesh ('data', 'expert'), and rules from axis names to its axes.

Signals and codes are split along 'data', experts along 'expert', everything else is replicated.
One device is a mesh of one, so there is no other code path. All functions work alike in one
process and in several.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

# Logical axis of an array -> axis of the mesh. None: not split.
RULES: dict[str | None, str | None] = {"signal": "data", "expert": "expert", None: None}


def make_mesh(data: int = 1, expert: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh with axes ('data', 'expert') over exactly data * expert devices.

    `data=0` takes all devices that `expert` leaves. Raises ValueError if there are too few
    devices, or if several processes run and some of their devices would stay idle.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    if expert < 1:
        raise ValueError(f"mesh.expert={expert} must be at least 1 ({_fitting(count)})")
    if data < 0:
        raise ValueError(f"mesh.data={data} must be at least 0, where 0 means all devices")
    if data == 0:
        if count % expert:
            raise ValueError(
                f"mesh.data=0 takes all devices, but mesh.expert={expert} does not divide"
                f" {count} ({_fitting(count)})"
            )
        data = count // expert
    needed = data * expert
    if needed > count:
        raise ValueError(
            f"mesh.data={data} times mesh.expert={expert} needs {needed} devices, there"
            f" {'is' if count == 1 else 'are'} {count} ({_fitting(count)})"
        )
    if needed < count and jax.process_count() > 1:
        raise ValueError(
            f"mesh.data={data} times mesh.expert={expert} uses {needed} of {count} devices, but"
            f" with several processes all must be used ({_fitting(count)})"
        )
    # Auto: the compiler derives the sharding of intermediate values from those of the inputs.
    mesh = jax.make_mesh(
        (data, expert),
        ("data", "expert"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=devices[:needed],
    )
    check_processes([[device.process_index for device in row] for row in mesh.devices])
    return mesh


def check_processes(processes: Sequence[Sequence[int]]) -> None:
    """Raises ValueError unless a mesh's processes [data, expert] suit how signals are dealt out.

    `place_batch` gives every process its share by its number: experts of one row must lie in one
    process, and rows in the order of processes.
    """
    rows = [sorted(set(row)) for row in processes]
    if any(len(row) > 1 for row in rows):
        raise ValueError(
            f"mesh.expert={len(processes[0])}: experts cannot be split over processes; allowed: at "
            f"most as many as one process has devices, with mesh.data over the processes"
        )
    if rows != sorted(rows):
        raise ValueError(
            f"mesh.data={len(rows)}: devices in the order of processes {[row[0] for row in rows]}; "
            f"allowed: one process after the other"
        )


def _fitting(count: int) -> str:
    pairs = [f"{count // e}x{e}" for e in range(1, count + 1) if count % e == 0]
    return f"mesh.data x mesh.expert that use all: {', '.join(pairs)}"


def check_divisible(mesh: Mesh, num_experts: int, batch_size: int) -> None:
    """Raises ValueError if experts or signals cannot be dealt out evenly over `mesh`."""
    for axis, key, size in (
        ("expert", "dictionary.num_experts", num_experts),
        ("data", "train.batch_size", batch_size),
    ):
        parts = mesh.shape[axis]
        if size % parts:
            below = size // parts * parts
            near = f"{below} or {below + parts}" if below else f"{parts}"
            raise ValueError(
                f"{key}={size} must be a multiple of mesh.{axis}={parts}, such as {near}"
            )


def named(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Sharding of an array whose leading dimensions have the logical `axes`.

    `named(mesh, 'expert', None)` splits the first dimension along the experts;
    `named(mesh)` replicates. Raises ValueError for an axis that RULES does not know.
    """
    unknown = [axis for axis in axes if axis not in RULES]
    if unknown:
        allowed = ", ".join(repr(axis) for axis in RULES)
        raise ValueError(f"logical axis {unknown[0]!r} is unknown, allowed: {allowed}")
    return NamedSharding(mesh, PartitionSpec(*(RULES[axis] for axis in axes)))


def shardings(tree: PyTree, axes: PyTree, mesh: Mesh) -> PyTree:
    """Tree of NamedSharding for `tree`; `axes` has a tuple of logical axes (or None) per leaf.

    Usable as in_shardings and out_shardings of jax.jit.
    """
    return jax.tree.map(lambda _, leaf_axes: named(mesh, *(leaf_axes or ())), tree, axes)


def moments_layout(moments: PyTree, layout: PyTree, mesh: Mesh) -> PyTree:
    """Tree of NamedSharding for an optimiser's state: what it keeps of a weight lies like it.

    moments: the state, arrays or their shapes; layout: shardings of the weights. A leaf belongs to
    the weight that its path ends in, also where an optimiser keeps only some of them; counters and
    the like are replicated.
    """
    placed = dict(jax.tree_util.tree_leaves_with_path(layout))
    everywhere = named(mesh)

    def one(path, _):
        tails = (path[start:] for start in range(len(path)))
        return next((placed[tail] for tail in tails if tail in placed), everywhere)

    return jax.tree_util.tree_map_with_path(one, moments)


def place(tree: PyTree, axes: PyTree, mesh: Mesh) -> PyTree[Array]:
    """`tree` with every leaf laid out over `mesh` as `axes` says; values are unchanged.

    In several processes each leaf must hold the same values in all of them.
    """
    return jax.tree.map(_put, tree, shardings(tree, axes, mesh))


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree[Array]:
    """Global arrays [B, ...] split along 'signal' from what this process has read.

    In one process that is the whole batch; in several, each gives its own part of B. What a dict
    holds under 'points' [P, D] or 'way' is common to all signals: every device gets the whole.
    Raises ValueError if B is no multiple of mesh.data.
    """
    common = {"points", "way"} & set(batch if isinstance(batch, dict) else ())
    if common:
        rest = {name: leaf for name, leaf in batch.items() if name not in common}
        everywhere = {name: batch[name] for name in common}
        placed = jax.tree.map(lambda leaf: _put(np.asarray(leaf), named(mesh)), everywhere)
        return {**place_batch(rest, mesh), **placed}
    sharding = named(mesh, "signal")

    def put(leaf):
        leaf = np.asarray(leaf)
        size = leaf.shape[0] * jax.process_count()
        if size % mesh.shape["data"]:
            raise ValueError(
                f"a batch of {size} signals cannot be dealt out over mesh.data={mesh.shape['data']}"
            )
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(put, batch)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(leaf)
        # Key data has one more dimension than the keys, never split.
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.jit(lambda x: jax.random.wrap_key_data(x, impl=impl))(data)
    # device_put of a jax.Array across processes leaves it without its addressable shards.
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
