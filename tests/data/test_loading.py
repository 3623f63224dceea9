"""Batches: shuffling, epochs, shards, resuming."""

import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nid_jax.data import ArrayCollection, batches, open_collection


def make_collection(count=23):
    values = np.random.default_rng(0).random((count, 3, 4, 2)).astype(np.float32)
    return ArrayCollection(values, [f"s{i}" for i in range(count)], "signals")


def take(iterator, number):
    return [next(iterator) for _ in range(number)]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["ids"], b["ids"])
        np.testing.assert_array_equal(a["signals"], b["signals"])


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_hold_the_signals_of_their_ids(in_memory):
    collection = make_collection()
    for batch in take(batches(collection, 5, 0, in_memory=in_memory), 12):
        assert batch["ids"].dtype == np.int32
        assert batch["signals"].dtype == np.float32
        assert batch["signals"].shape == (5, 3, 4, 2)
        np.testing.assert_array_equal(batch["signals"], [collection[i] for i in batch["ids"]])


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 10**6), data=st.data())
def test_every_epoch_is_a_new_order_without_repeats(count, seed, data):
    batch_size = data.draw(st.integers(1, count))
    iterator = batches(make_collection(count), batch_size, seed)
    per_epoch = count // batch_size
    for _ in range(3):
        ids = np.concatenate([batch["ids"] for batch in take(iterator, per_epoch)])
        assert len(set(ids.tolist())) == len(ids) == per_epoch * batch_size


def test_order_changes_with_epoch_and_seed_only():
    collection = make_collection(40)
    first, second = (
        np.concatenate([b["ids"] for b in take(iterator, 10)])
        for iterator in [batches(collection, 4, 1)] * 2
    )
    assert not np.array_equal(first, second)
    again = np.concatenate([b["ids"] for b in take(batches(collection, 4, 1), 10)])
    np.testing.assert_array_equal(first, again)
    other = np.concatenate([b["ids"] for b in take(batches(collection, 4, 2), 10)])
    assert not np.array_equal(first, other)


def test_signals_left_out_differ_between_epochs():
    iterator = batches(make_collection(10), 4, 0)
    seen = set(np.concatenate([b["ids"] for b in take(iterator, 2 * 12)]).tolist())
    assert seen == set(range(10))


@pytest.mark.parametrize("in_memory", [True, False])
def test_numbers_alone_are_those_of_the_batches_and_have_their_states(in_memory):
    collection = make_collection()
    iterator = batches(collection, 4, 5, slice(2, 4), in_memory=in_memory)
    numbers = batches(collection, 4, 5, slice(2, 4), ids_only=True)
    for batch, alone in zip(take(iterator, 13), take(numbers, 13), strict=True):
        assert alone.keys() == {"ids"}
        np.testing.assert_array_equal(alone["ids"], batch["ids"])
    resumed = batches(collection, 4, 5, slice(2, 4), ids_only=True)
    resumed.set_state(iterator.get_state())
    np.testing.assert_array_equal(next(resumed)["ids"], next(numbers)["ids"])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("steps", [0, 3, 11])
def test_resuming_gives_identical_batches(in_memory, steps):
    collection = make_collection()
    iterator = batches(collection, 5, 7, in_memory=in_memory)
    take(iterator, steps)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 15)
    resumed = batches(collection, 5, 7, in_memory=in_memory)
    resumed.set_state(state)
    assert_same(take(resumed, 15), expected)
    # Also on an iterator that has already run on.
    iterator.set_state(state)
    assert_same(take(iterator, 15), expected)


def test_state_goes_through_an_orbax_checkpoint(tmp_path):
    collection = make_collection()
    iterator = batches(collection, 4, 0)
    take(iterator, 7)
    with ocp.CheckpointManager(tmp_path.resolve()) as manager:
        save = ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator))
        manager.save(7, args=save)
        manager.wait_until_finished()
        expected = take(iterator, 6)
        resumed = batches(collection, 4, 0)
        restore = ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed))
        manager.restore(7, args=restore)
    assert_same(take(resumed, 6), expected)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_share_is_those_places_of_each_batch(in_memory):
    collection = make_collection()
    whole = take(batches(collection, 6, 2), 9)
    places = np.array([4, 5, 0, 0])
    share = take(batches(collection, 6, 2, places, in_memory), 9)
    for batch, part in zip(whole, share, strict=True):
        for name in ("ids", "signals"):
            np.testing.assert_array_equal(part[name], batch[name][places])


def test_bad_batch_sizes_are_named():
    collection = make_collection(5)
    for size in (0, -1, 6):
        with pytest.raises(ValueError, match=rf"train\.batch_size={size}: must be from 1 to 5"):
            batches(collection, size, 0)


def test_damage_is_found_before_the_first_batch(tmp_path, data_config):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 30)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    path = tmp_path / "2.png"
    path.write_bytes(path.read_bytes()[:400])
    config = data_config(name="folder", root=tmp_path, test_fraction=0)
    with pytest.raises(ValueError, match=r"2\.png: cannot be read"):
        batches(open_collection(config, "train", 0), 2, 0)
    lazy = batches(open_collection(config, "train", 0), 4, 0, in_memory=False)
    with pytest.raises(ValueError, match=r"2\.png: cannot be read"):
        next(lazy)
