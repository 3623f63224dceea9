"""Meshes, placement and their refusals; what needs eight devices runs in a process of its own."""

import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from nid_jax import sharding
from nid_jax.fields.model import build_model, map_axes
from nid_jax.training.optimisers import build_optimiser

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def one_line(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text
    return text


def test_one_device_is_a_mesh_of_one():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert mesh.axis_names == ("data", "expert")
    assert dict(mesh.shape) == {"data": 1, "expert": 1}
    tree = {"w": np.random.default_rng(0).standard_normal((3, 2)), "k": jax.random.key(5)}
    placed = sharding.place(tree, {"w": ("expert", None), "k": None}, mesh)
    np.testing.assert_array_equal(placed["w"], tree["w"].astype(np.float32))
    assert placed["w"].sharding.spec == PartitionSpec("expert", None)
    assert placed["k"] == jax.random.key(5)


def test_all_devices_is_zero():
    devices = jax.devices()
    assert sharding.make_mesh(data=0).size == len(devices)


@pytest.mark.parametrize(
    ("data", "expert", "parts"),
    [
        (2, 1, ("mesh.data=2", "mesh.expert=1", "needs 2 devices", "there is 1")),
        (1, 3, ("mesh.data=1", "mesh.expert=3", "needs 3 devices", "there is 1", "1x1")),
        (0, 2, ("mesh.data=0", "mesh.expert=2", "does not divide 1")),
        (-1, 1, ("mesh.data=-1",)),
        (1, 0, ("mesh.expert=0",)),
    ],
)
def test_meshes_that_do_not_fit_one_device(data, expert, parts):
    with pytest.raises(ValueError, match="mesh") as excinfo:
        sharding.make_mesh(data, expert, devices=jax.devices()[:1])
    for part in parts:
        assert part in one_line(excinfo)


@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_moments_lie_like_their_weights(name):
    config = runpy.run_path(str(CONFIGS / "image.py"))["get_config"]("smoke")
    config.dictionary.kind = "independent"
    config.train.optimizer.name = name
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = nnx.state(nnx.eval_shape(lambda: build_model(config, (6, 6, 3), 5, 0)), nnx.Param)
    layout = map_axes(lambda axes: sharding.named(mesh, *axes), params)
    moments = jax.eval_shape(build_optimiser(config.train.optimizer, 9).init, params)
    placed = sharding.moments_layout(moments, layout, mesh)
    assert jax.tree.structure(placed) == jax.tree.structure(moments)
    by_shape = {}
    for moment, where in zip(jax.tree.leaves(moments), jax.tree.leaves(placed), strict=True):
        by_shape.setdefault(moment.shape, set()).add(where.spec)
    kernels = [leaf.shape for leaf in jax.tree.leaves(params["dictionary"]["kernels"])]
    assert all(by_shape[shape] == {PartitionSpec("expert", None, None)} for shape in kernels)
    # Counters, and what Muon keeps for itself.
    assert all(by_shape[shape] == {PartitionSpec()} for shape in by_shape if shape in ((), (3,)))


class FakeMesh:
    def __init__(self, data, expert):
        self.shape = {"data": data, "expert": expert}


class FakeSharding:
    def __init__(self, mesh, *spec):
        self.mesh, self.spec = mesh, spec


@pytest.mark.parametrize(
    ("shape", "spec", "wanted"),
    [
        ((8, 5), ("expert", None), (8, 5)),
        ((7, 5), ("expert",), (8, 5)),
        ((9, 7), ("data", "expert"), (12, 8)),
        ((1, 5), ("data",), (4, 5)),
        ((), (), ()),
    ],
)
def test_what_does_not_divide_is_filled_up_and_emptied(shape, spec, wanted):
    where = FakeSharding(FakeMesh(4, 2), *spec)
    assert sharding.filled_shape(shape, where) == wanted
    values = jnp.asarray(np.random.default_rng(0).standard_normal(shape))
    held = sharding.filled([values], [where])
    assert held[0].shape == wanted
    assert float(jnp.abs(held[0]).sum()) == pytest.approx(float(jnp.abs(values).sum()), rel=1e-6)
    np.testing.assert_array_equal(sharding.emptied(held, [values])[0], values)


def test_unknown_axes_are_refused():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="logical axis 'experts' is unknown, allowed: 'signal'"):
        sharding.named(mesh, "experts")


@pytest.mark.parametrize(
    ("processes", "rows"),
    [
        ([[0, 1]], ([0], [0])),  # experts of one row over both
        ([[0, 0], [1, 1]], ([0], [1])),
        ([[0, 0, 1], [1, 2, 2]], ([0], [0, 1], [1])),
        ([[0], [1], [0], [1]], ([0, 2], [1, 3])),
    ],
)
def test_a_process_reads_the_rows_it_has_devices_in(processes, rows):
    for process, expected in enumerate(rows):
        np.testing.assert_array_equal(sharding.own_rows(processes, process), expected)


def test_places_fill_up_what_does_not_divide():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    np.testing.assert_array_equal(sharding.places(mesh, 5), np.arange(5))
    batch = {"ids": np.arange(6), "points": np.ones((2, 3)), "way": np.ones(4)}
    found = sharding.cut(batch, 5)
    assert {name: len(leaf) for name, leaf in found.items()} == {"ids": 5, "points": 2, "way": 4}


EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from nid_jax import sharding
assert len(jax.devices()) == 8

def refusal(*args):
    try:
        sharding.make_mesh(*args)
    except ValueError as error:
        return str(error)

assert dict(sharding.make_mesh(0, 2).shape) == {"data": 4, "expert": 2}
assert sharding.make_mesh(3, 2).size == 6
assert "needs 9 devices, there are 8" in refusal(3, 3), refusal(3, 3)
assert "8x1, 4x2, 2x4, 1x8" in refusal(0, 3), refusal(0, 3)

mesh = sharding.make_mesh(4, 2)
rng = np.random.default_rng(0)
weights = rng.standard_normal((6, 5)).astype(np.float32)   # [E, H]
codes = rng.standard_normal((8, 6)).astype(np.float32)     # [B, E]
tree = {"weights": weights, "rest": [jnp.ones(3), jax.random.split(jax.random.key(1), 4)]}
axes = {"weights": ("expert", None), "rest": [(), ("signal",)]}
placed = sharding.place(tree, axes, mesh)
assert {shard.data.shape for shard in placed["weights"].addressable_shards} == {(3, 5)}
assert {shard.data.shape for shard in placed["rest"][0].addressable_shards} == {(3,)}
assert {shard.data.shape for shard in placed["rest"][1].addressable_shards} == {(1,)}
np.testing.assert_array_equal(placed["weights"], weights)
batch = sharding.place_batch({"codes": codes}, mesh)["codes"]
assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 6)}
# Points are common to all signals: every device has all of them, whatever their number.
points = rng.standard_normal((7, 3)).astype(np.float32)
seen = sharding.place_batch({"ids": np.arange(8), "points": points, "signals": codes}, mesh)
assert set(seen) == {"ids", "points", "signals"}
assert {shard.data.shape for shard in seen["points"].addressable_shards} == {(7, 3)}
assert len(seen["points"].addressable_shards) == 8
assert {shard.data.shape for shard in seen["signals"].addressable_shards} == {(2, 6)}
for shard in seen["points"].addressable_shards:
    np.testing.assert_array_equal(shard.data, points)
try:
    sharding.place_batch(codes[:6], mesh)
    raise SystemExit("6 signals over 4 devices passed")
except ValueError as error:
    assert "6 signals" in str(error), error

target = sharding.named(mesh, "signal", None)
product = jax.jit(lambda c, w: c @ w, out_shardings=target)(batch, placed["weights"])
assert product.sharding == target
np.testing.assert_allclose(product, codes.astype(float) @ weights, rtol=1e-5, atol=1e-5)

# In several processes arrays are made otherwise; the values must be the same.
jax.process_count = lambda: 2
other = sharding.place(tree, axes, mesh)
jax.process_count = lambda: 1
for a, b in zip(jax.tree.leaves(placed), jax.tree.leaves(other), strict=True):
    assert a.sharding.is_equivalent_to(b.sharding, a.ndim), (a.sharding, b.sharding)
    assert bool(jnp.all(a == b))

# The largest of experts that are split, with ties and of sizes that do not divide.
import re
from nid_jax.fields.routing import largest
for rows, experts in ((8, 64), (5, 63)):
    drawn = np.round(3 * rng.standard_normal((rows, experts))).astype(np.float32)
    sizes = jax.device_put(drawn, sharding.named(mesh))
    with jax.set_mesh(mesh):
        program = jax.jit(largest, static_argnums=1).lower(sizes, 6).compile()
    np.testing.assert_array_equal(program(sizes), jax.lax.top_k(sizes, 6)[1])
    gathered = re.findall(r"= .32\\[\\d+,(\\d+)\\]\\S* all-gather", program.as_text())
    assert max(map(int, gathered)) == 12, gathered
print("all good")
"""


def test_eight_devices():
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    process = subprocess.run(
        [sys.executable, "-c", EIGHT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.stdout.strip() == "all good", process.stderr


TWO = """
import sys
import jax, jax.numpy as jnp, numpy as np
from nid_jax import sharding
from nid_jax.storage.checkpoints import Checkpoints
port, index, directory = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(index))
mesh = sharding.make_mesh(0, 1)
assert mesh.shape["data"] == 2
values = np.random.default_rng(0).standard_normal((4, 9000)).astype(np.float32)
tree = {"codes": values, "w": jnp.asarray(values), "key": jax.random.key(7)}
axes = {"codes": ("signal", None), "w": None, "key": ()}
placed = sharding.place(tree, axes, mesh)
batch = sharding.place_batch(values[sharding.places(mesh, 4)], mesh)
assert batch.shape == (4, 9000)
assert float(jax.jit(jnp.max)(batch)) == values.max()
np.testing.assert_array_equal(sharding.own(batch), values)
# Experts of one row over both: each reads the whole batch, and replicas are the same.
rows = sharding.make_mesh(1, 2)
np.testing.assert_array_equal(sharding.places(rows, 3), [0, 1, 2])
whole = sharding.place_batch({"codes": values[:3]}, rows)["codes"]
experts = sharding.place({"w": values}, {"w": ("expert",)}, rows)["w"]
assert [shard.data.shape for shard in experts.addressable_shards] == [(2, 9000)]
product = jax.jit(lambda a, b: a @ b.T, out_shardings=sharding.named(rows))(whole, experts)
jax.experimental.multihost_utils.assert_equal(np.asarray(product), "replicas differ")
np.testing.assert_allclose(product, values[:3] @ values.T, rtol=1e-4, atol=1e-2)
# What one does for all, what each does of its part, and errors that all hear of.
from nid_jax.running import processes
mine = int(index)
assert processes.once(lambda: {"a": np.arange(3.0), "from": mine})["from"] == 0
assert processes.once(lambda: processes.gathered(lambda: mine)) == [0]
parts = processes.gathered(lambda: [mine] * (mine * 5000))
assert parts == [[], [1] * 5000]
assert [list(processes.own_part(n)) for n in (5, 1)] == ([[0, 1], []], [[2, 3, 4], [0]])[mine]
for work in (processes.together, processes.gathered):
    try:
        work(lambda: 1 if mine == 0 else int("2.png is damaged"))
        raise SystemExit("an error of the other process was not heard")
    except ValueError as error:
        assert "2.png is damaged" in str(error), error
placed["batch"] = batch
with Checkpoints(directory) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, {"model": placed})
    checkpoints.wait()
    if index == "0":
        import pathlib
        files = [p for p in pathlib.Path(directory, "2", "model").rglob("*") if p.is_file()]
        largest = max(files, key=lambda p: p.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 0x10
        largest.write_bytes(content)
    jax.experimental.multihost_utils.sync_global_devices("damaged")
    restored = checkpoints.restore({"model": placed})
    assert restored.step == 1 and len(restored.skipped) == 1, restored.skipped
    checkpoints.save(2, {"model": placed})
    assert checkpoints.restore({"model": placed}).step == 2
for shard in restored.items["model"]["batch"].addressable_shards:
    np.testing.assert_array_equal(shard.data, values[shard.index])
print("all good")
"""


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_save_walk_back_and_restore(tmp_path):
    port = free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO), str(port), str(index), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        for process in processes:
            output, errors = process.communicate(timeout=100)
            assert output.strip().endswith("all good"), errors[-3000:]
    finally:
        for process in processes:
            process.kill()


def test_values_survive_a_change_of_layout():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    placed = sharding.place({"w": jnp.arange(4.0)}, {"w": ("signal",)}, mesh)
    again = sharding.place(placed, {"w": None}, mesh)
    assert again["w"].sharding.spec == PartitionSpec()
    np.testing.assert_array_equal(again["w"], np.arange(4.0))
