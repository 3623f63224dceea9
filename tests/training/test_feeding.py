"""How signals reach the steps: what lies on the device, and how many steps a program takes."""

from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import sharding
from nid_jax.data import ArrayCollection, batches
from nid_jax.training import feeding


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
