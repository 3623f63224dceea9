"""How signals reach the steps: what lies on the device, and how many steps a program takes."""

import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import sharding, tasks
from nid_jax.configs import image
from nid_jax.data import ArrayCollection, batches
from nid_jax.training import feeding, loop


def collection_of(count, side=3):
    values = np.random.default_rng().random((count, side, side, 1), np.float32)
    return ArrayCollection(values, range(count), "signals")


def why(scan="auto", alike=True, order=len, shared=1, count=5):
    config = ConfigDict({"train": {"scan": scan}})
    measured, task = SimpleNamespace(alike=alike), SimpleNamespace(order=order)
    return feeding.obstacle(config, task, measured, collection_of(count), shared)


def test_signals_lie_on_the_device_where_they_can(monkeypatch):
    assert why() == why("on") == ""
    assert why("off") == "train.scan=off"
    assert "alike" in why(alike=False)
    assert "points" in why(order=None)
    assert why(shared=4) == "4 devices share it"
    # A quarter of 720 bytes is five signals of 36.
    monkeypatch.setattr(feeding.devices, "memory_bytes", lambda: 720)
    assert why(count=5) == ""
    assert "216 B" in why(count=6)
    with pytest.raises(ValueError, match="^train.scan: 'on', but .*; allowed: auto, off$"):
        why("on", count=6)


def feeder_of(count, batch_size, per_batch, log_every):
    collection = collection_of(count)
    train = {"log_every": log_every, "eval_every": 0, "reseed_every": 0}
    train |= {"steps": 100, "batch_size": batch_size}
    order = batches(collection, batch_size, 3, ids_only=True)
    mesh = sharding.make_mesh()
    held = np.stack([collection[index] for index in range(count)])
    return collection, feeding.Feeder(order, held, mesh, per_batch, ConfigDict(train))


def test_a_window_holds_the_batches_of_its_steps_and_no_more_are_read():
    collection, feeder = feeder_of(11, 4, 3, 20)
    reference = batches(collection, 4, 3)
    # Steps 0 to 4, then 5 to 6: the second and third chunk of a batch are given the same.
    first, second = feeder.feed(0, 5), feeder.feed(5, 2)
    wanted = [next(reference) for _ in range(3)]
    assert feeder.batches.get_state() == reference.get_state()
    for window, step, number in [(first, s, s // 3) for s in range(5)] + [
        (second, 0, 1),
        (second, 1, 2),
    ]:
        batch = window.batch(step)
        np.testing.assert_array_equal(batch["ids"], wanted[number]["ids"])
        np.testing.assert_array_equal(batch["signals"], wanted[number]["signals"])
    assert (int(first.number), int(second.number)) == (5, 2)
    assert first.ids.shape == second.ids.shape == (20, 4)


def test_programs_grow_to_a_second_and_end_with_a_batch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(feeding.time, "perf_counter", lambda: now[0])
    pace, step, counts = feeding.Pace(500, 4), 0, []
    for _ in range(5):
        count = pace.most(step)
        with pace.timed(count):
            now[0] += 0.01 * count
        step += count
        counts.append(count)
        assert step % 4 == 0
    assert counts == [4, 32, 100, 100, 100]
    with pace.timed(100):
        now[0] += 1000.0
    assert pace.most(step) == 4
    assert feeding.Pace(3, 1).most(0) == 1


def brought(batches, mesh, per_batch=1):
    train = {"log_every": 5, "eval_every": 0, "reseed_every": 0, "steps": 100, "batch_size": 4}
    return feeding.Feeder(batches, None, mesh, per_batch, ConfigDict(train))


def test_batches_come_ahead_and_their_state_does_not():
    """What was read but not fed is read again by whoever goes on from the state."""
    collection, mesh = collection_of(11), sharding.make_mesh()
    reference, asked = batches(collection, 4, 3), []

    class Counted:
        def __init__(self):
            self.inner = batches(collection, 4, 3)
            self.get_state, self.set_state = self.inner.get_state, self.inner.set_state

        def __next__(self):
            asked.append(threading.current_thread())
            return next(self.inner)

    feeder = brought(Counted(), mesh, per_batch=2)
    for step in range(6):
        fed = feeder.feed(step, 1)
        if step % 2 == 0:
            wanted = next(reference)
        assert isinstance(fed["signals"], jax.Array)
        np.testing.assert_array_equal(fed["signals"], wanted["signals"])
    deadline = time.monotonic() + 10
    # Two wait, and the third of them has been made and waits for its place.
    while len(asked) < 6 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(asked) == 6
    assert threading.main_thread() not in asked
    assert feeder.batches.get_state() == reference.get_state()
    feeder.close()
    other = brought(batches(collection, 4, 3), mesh)
    other.batches.set_state(reference.get_state())
    np.testing.assert_array_equal(other.feed(0, 1)["ids"], next(reference)["ids"])
    other.close()


def test_what_cannot_be_read_is_said_where_it_is_fed():
    class Broken:
        get_state, set_state = dict, print

        def __next__(self):
            raise ValueError("signal 3: no numbers")

    feeder = brought(Broken(), sharding.make_mesh())
    with pytest.raises(ValueError, match="signal 3"):
        feeder.feed(0, 1)
    feeder.close()


def test_no_more_than_two_steps_are_under_way(monkeypatch):
    """Each holds its batch: without a bound all between two logs would lie on the device."""
    feeder, waited = brought(batches(collection_of(11), 4, 3), sharding.make_mesh()), []
    monkeypatch.setattr(feeding.jax, "block_until_ready", waited.append)
    for step in range(5):
        assert feeder.take(lambda state, fed: (state + fed, step), 1, 2, 1) == (3, step)  # noqa: B023
    assert waited == [0, 1, 2]


@pytest.mark.parametrize("scan", ["off", "on"])
def test_steps_move_nothing_between_host_and_device_by_themselves(scan):
    """What is fed and what is logged is asked for; all the rest stays where it is."""
    config = image.get_config("smoke")
    config.train.update({"scan": scan, "steps": 20, "codes": "varpro"})
    config.dictionary.heads, config.router.kind = "drawn", "none"
    config.train.optimizer.name = "adam"
    task = tasks.build(config)
    trainer = loop.Trainer(task, config, None, task.open("train"))
    feeder, state, pending = trainer.feeder, trainer.state, []
    program = trainer.step_for(0, feeder.feed(0, 1))
    with jax.transfer_guard("disallow"):
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
            jax.numpy.add(state.usage, np.ones(1, np.float32))
        for step in range(1, 6):
            state, terms = feeder.take(program, state, feeder.feed(step, 1), 1)
            pending.append((terms, 1))
        logged = feeding.mean_of(pending)
        assert int(jax.device_get(state.bad_step)) == -1
    assert int(state.step) == 5
    assert np.isfinite(logged["loss"])
    feeder.close()
