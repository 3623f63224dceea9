"""What does not fit is refused before anything runs, with the key to change."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from nid_jax import devices, notices, sharding, tasks
from nid_jax.configs import image
from nid_jax.training import memory
from nid_jax.training.loop import Trainer

MIB = 2**20


def program(arguments, outputs=0, temporary=0, alias=0):
    """A compiled program of which the compiler says so many bytes."""
    sizes = {"argument": arguments, "output": outputs, "temp": temporary, "alias": alias}
    found = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    return SimpleNamespace(memory_analysis=lambda: found)


@pytest.fixture
def machine(monkeypatch):
    """Of 1000 MiB, of which this process holds 100 and others so much that 900 are free."""
    found = {"memory_bytes": 1000 * MIB, "held_bytes": 100 * MIB, "free_bytes": 900 * MIB}
    for name in found:
        monkeypatch.setattr(devices, name, lambda name=name: found[name])
    return found


def check(held, *sizes, devices_=1):
    config = ConfigDict({"train": {"batch_size": 1000, "points": 0}, "data": {"name": "folder"}})
    config.dictionary = {"num_experts": 4096, "width": 512}
    local = [SimpleNamespace(platform="cpu")] * devices_
    mesh = SimpleNamespace(local_devices=local)
    memory.check_step(config, program(*sizes), mesh, held)


def test_a_step_is_what_is_held_and_what_it_adds(machine):
    # 100 are held, arguments among them; results that take arguments' places add nothing.
    state = memory.Held(50 * MIB)
    check(state, 60 * MIB, 50 * MIB, 900 * MIB, 50 * MIB)
    words = r"^train\.batch_size, train\.points: a step of 1000 .* at all points takes about "
    with pytest.raises(ValueError, match=words + r"1001 MiB .* 1000 MiB .*data\.crops"):
        check(state, 60 * MIB, 51 * MIB, 900 * MIB, 50 * MIB)
    # Batches that come ahead, and other devices of the same memory.
    with pytest.raises(ValueError, match="takes about 1001 MiB"):
        check(memory.Held(50 * MIB, 0, MIB), 60 * MIB, 0, 900 * MIB)
    check(state, 40 * MIB, 0, 450 * MIB, devices_=2)
    with pytest.raises(ValueError, match="takes about 1002 MiB"):
        check(state, 40 * MIB, 0, 451 * MIB, devices_=2)
    # Where nothing tells, nothing is refused.
    machine.update(memory_bytes=0, free_bytes=0)
    check(state, 60 * MIB, 0, 800 * 1024 * MIB)


def test_the_key_is_that_of_the_larger_part(machine):
    machine["held_bytes"] = 800 * MIB
    words = r"^dictionary\.num_experts: 4096 experts of dictionary\.width=512, .* 1\.1 GiB"
    with pytest.raises(ValueError, match=words):
        check(memory.Held(700 * MIB), 750 * MIB, 0, 300 * MIB)
    with pytest.raises(ValueError, match=r"allowed: fewer .*train\.scan=off, .* 200 MiB less"):
        check(memory.Held(50 * MIB, 200 * MIB), 750 * MIB, 0, 300 * MIB)
    with pytest.raises(ValueError, match="allowed: fewer") as refused:
        check(memory.Held(50 * MIB, 99 * MIB), 750 * MIB, 0, 300 * MIB)
    assert "train.scan" not in str(refused.value)


def test_memory_that_others_hold_is_said(machine):
    with notices.gathered() as said:
        check(memory.Held(MIB), MIB, 0, 500 * MIB)
        assert said == []
        machine["free_bytes"] = 400 * MIB
        check(memory.Held(MIB), MIB, 0, 500 * MIB)
    assert len(said) == 1
    assert "500 MiB of memory more, of which 400 MiB are free" in said[0]


def test_weights_that_do_not_fit_are_refused_before_they_are_drawn(monkeypatch):
    config = image.get_config("smoke")
    config.train.steps, config.dictionary.heads = 3, "drawn"
    config.train.optimizer.name = "adam"
    task = tasks.build(config)
    collection = task.open("train")
    held = devices.held_bytes()
    monkeypatch.setattr(devices, "held_bytes", lambda: held)
    monkeypatch.setattr(devices, "memory_bytes", lambda: held + 1000)
    with pytest.raises(ValueError, match=r"^dictionary\.num_experts: \d+ experts of"):
        Trainer(task, config, None, collection)


def test_the_compiler_is_asked():
    compiled = jax.jit(lambda x: jnp.sort(x @ x.T).sum()).lower(jnp.ones((512, 2))).compile()
    # x is an argument of 4 KiB, its product of 1 MiB is held on the way.
    assert 2**20 <= devices.added_bytes(compiled) < 2**22
    assert devices.compiled_bytes(compiled) == devices.added_bytes(compiled) + 4096
    there = devices.memory_bytes()
    assert 2**27 < there < 2**45
    assert 2**20 < devices.held_bytes() < there
    assert 2**20 < devices.free_bytes() <= there
    mesh = sharding.make_mesh()
    batch = sharding.place_batch({"signals": jnp.zeros((4, 3))}, mesh)
    assert devices.bytes_of(batch) == 48
