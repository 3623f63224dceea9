"""Where arrays live: a mesh ('data', 'expert'), and rules from axis names to its axes.

Signals and codes are split along 'data', experts along 'expert', everything else is replicated;
where training solves for codes, these are split along both (`dealt_out`).
One device is a mesh of one, so there is no other code path. All functions work alike in one
process and in several.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree
from ml_collections import ConfigDict

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
    return jax.make_mesh(
        (data, expert),
        ("data", "expert"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=devices[:needed],
    )


def _fitting(count: int) -> str:
    pairs = [f"{count // e}x{e}" for e in range(1, count + 1) if count % e == 0]
    return f"mesh.data x mesh.expert that use all: {', '.join(pairs)}"


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


def filled(tree: PyTree, layout: PyTree) -> PyTree[Array]:
    """Arrays with zeros at the ends of axes that the layout could not split evenly; see `emptied`.

    Inside of a jitted function, where arrays may lie unevenly: the same numbers lie on the same
    devices before and after, and nothing is computed of what only fills up.
    """

    def one(leaf, where):
        wanted = filled_shape(leaf.shape, where)
        more = [(0, size - own) for size, own in zip(wanted, leaf.shape, strict=True)]
        return jnp.pad(leaf, more) if wanted != leaf.shape else leaf

    return jax.tree.map(one, tree, layout)


def emptied(tree: PyTree, shapes: PyTree) -> PyTree[Array]:
    """`filled` arrays without what fills them up; shapes: a tree of what has the shapes wanted."""

    def one(leaf, wanted):
        if leaf.shape == wanted.shape:
            return leaf
        return leaf[tuple(slice(size) for size in wanted.shape)]

    return jax.tree.map(one, tree, shapes)


def filled_shape(shape: Sequence[int], where: NamedSharding) -> tuple[int, ...]:
    """The next larger shape that a sharding splits evenly."""
    parts = [1 if axis is None else where.mesh.shape[axis] for axis in where.spec]
    parts += [1] * (len(shape) - len(parts))
    return tuple(-(-size // part) * part for size, part in zip(shape, parts, strict=True))


def fitting(tree: PyTree, layout: PyTree) -> PyTree[NamedSharding]:
    """The layout, with what it cannot split evenly whole on every device."""

    def one(leaf: Any, where: NamedSharding) -> NamedSharding:
        even = filled_shape(leaf.shape, where) == tuple(leaf.shape)
        return where if even else NamedSharding(where.mesh, PartitionSpec())

    return jax.tree.map(one, tree, layout)


def place(tree: PyTree, axes: PyTree, mesh: Mesh) -> PyTree[Array]:
    """`tree` with every leaf laid out over `mesh` as `axes` says; values are unchanged.

    In several processes each leaf must hold the same values in all of them.
    """
    return jax.tree.map(_put, tree, shardings(tree, axes, mesh))


def own_rows(processes: Sequence[Sequence[int]], process: int) -> Int[np.ndarray, " R"]:
    """Rows of a mesh's processes [data, expert] in which a process has a device, ascending."""
    return np.flatnonzero((np.asarray(processes) == process).any(1))


def places(mesh: Mesh, size: int) -> Int[np.ndarray, " b"]:
    """Which of the `size` signals of a batch this process reads, in the order of `place_batch`.

    Processes whose devices lie in one row of the mesh read the same. Where mesh.data does not
    divide the batch, the first signals come again at its end, see `cut`.
    """
    rows = own_rows(_processes(mesh), jax.process_index())
    each = -(-size // mesh.shape["data"])
    return (rows[:, None] * each + np.arange(each)).reshape(-1) % size


def places_of(config: ConfigDict) -> Int[np.ndarray, " b"]:
    """`places` of the training that a config describes."""
    return places(make_mesh(config.mesh.data, config.mesh.expert), config.train.batch_size)


def _processes(mesh):
    return [[device.process_index for device in row] for row in mesh.devices]


def cut(batch: PyTree, size: int) -> PyTree[Array]:
    """A placed batch without the signals that only fill it up, inside of a jitted function: there
    arrays may be split unevenly."""
    common = {"points", "way"} & set(batch)
    rows = {name: leaf for name, leaf in batch.items() if name not in common}
    return {**jax.tree.map(lambda leaf: leaf[:size], rows), **{k: batch[k] for k in common}}


def dealt_out(
    function: Callable[[PyTree, PyTree], PyTree], common: PyTree, rows: PyTree
) -> PyTree[Array]:
    """function(common, rows), each device of the mesh of `jax.set_mesh` with its share of rows.

    rows: arrays [S, ...], and so are the function's results, of which every row depends on the same
    row alone; common: arrays that every device gets whole. Rows are split over all devices, along
    'data' and 'expert'. Where they do not divide, the last one comes again. Without a mesh, or on
    one device, it is the function itself.

    XLA splits no call of LAPACK or cuSOLVER: left to itself, every device solves for all rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(common, rows)
    count = len(jax.tree.leaves(rows)[0])
    more = -count % mesh.size

    def even(leaf):
        return jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1), mode="edge")

    split = PartitionSpec(mesh.axis_names)
    own = jax.shard_map(
        function, in_specs=(PartitionSpec(), split), out_specs=split, check_vma=False
    )
    found = own(common, jax.tree.map(even, rows) if more else rows)
    return jax.tree.map(lambda leaf: leaf[:count], found) if more else found


def place_batch(batch: PyTree, mesh: Mesh) -> PyTree[Array]:
    """Global arrays [B, ...] split along 'signal' from what this process has read: its `places`.

    What a dict holds under 'points' [P, D] or 'way' is common to all signals: every device gets the
    whole. Raises ValueError if B is no multiple of mesh.data.
    """
    common = {"points", "way"} & set(batch if isinstance(batch, dict) else ())
    if common:
        rest = {name: leaf for name, leaf in batch.items() if name not in common}
        everywhere = {name: batch[name] for name in common}
        placed = jax.tree.map(lambda leaf: _put(np.asarray(leaf), named(mesh)), everywhere)
        return {**place_batch(rest, mesh), **placed}
    sharding, rows = named(mesh, "signal"), own_rows(_processes(mesh), jax.process_index())
    each_of = {int(row): number for number, row in enumerate(rows)}

    def put(leaf):
        leaf = _host(leaf)
        if len(leaf) % len(rows):
            raise ValueError(
                f"a batch of {len(leaf)} signals cannot be dealt out over the {len(rows)} places "
                f"that this process has of mesh.data={mesh.shape['data']}"
            )
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        each = len(leaf) // len(rows)

        def part(index):
            own = each_of[(index[0].start or 0) // each]
            return leaf[own * each : (own + 1) * each]

        shape = (each * mesh.shape["data"], *leaf.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, batch)


def put(tree: PyTree, layout: PyTree) -> PyTree[Array]:
    """`tree` laid out as `layout`, a tree of NamedSharding; as `place`."""
    return jax.tree.map(_put, tree, layout)


def own(tree: PyTree) -> PyTree:
    """The same with whole copies, on this process's first device, of what lies over several
    processes; all of them are to ask for it."""
    leaves, structure = jax.tree.flatten(tree)
    far = [n for n, leaf in enumerate(leaves) if not getattr(leaf, "is_fully_addressable", True)]
    if far:
        everywhere = named(leaves[far[0]].sharding.mesh)
        whole = jax.jit(_same, out_shardings=everywhere)([leaves[n] for n in far])
        for number, leaf in zip(far, whole, strict=True):
            leaves[number] = leaf.addressable_data(0)
    return jax.tree.unflatten(structure, leaves)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(_same, out_shardings=sharding)(leaf)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        impl = jax.random.key_impl(leaf)
        # Key data has one more dimension than the keys, never split.
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.jit(lambda x: jax.random.wrap_key_data(x, impl=impl))(data)
    # device_put of a jax.Array across processes leaves it without its addressable shards.
    value = _host(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _same(tree):
    """For jit, which knows a function that it has compiled by its name."""
    return tree


def _host(leaf: Any) -> np.ndarray:
    """As NumPy has it, of a type that devices hold."""
    value = np.asarray(leaf)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype), copy=False)
