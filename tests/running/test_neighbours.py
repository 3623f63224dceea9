"""Agreement of several processes, each played by a thread with a store that all share."""

import os
import signal
import threading

import jax
import pytest

from nid_jax.running import neighbours


class Store:
    """What the client of jax.distributed offers, without processes."""

    def __init__(self, count):
        self.values, self.changed = {}, threading.Condition()
        self.meeting = threading.Barrier(count)

    def key_value_set(self, key, value):
        with self.changed:
            if key in self.values:
                raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
            self.values[key] = value
            self.changed.notify_all()

    def key_value_try_get(self, key):
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self.values[key]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            return self.values[key]

    def wait_at_barrier(self, name, milliseconds):
        self.meeting.wait(20)


@pytest.fixture
def all_of_them(monkeypatch):
    """Three processes that are in training."""
    monkeypatch.setattr(neighbours, "_LOOK", 0.01)
    store = Store(3)
    found = [neighbours.Neighbours(store, index, 3) for index in range(3)]
    for one in found:
        one.begin()
    yield found
    for one in found:
        one._close()


def together(work, all_of_them):
    """work(index, neighbours) in a thread for each. -> what they return."""
    results = [None] * len(all_of_them)

    def run(index):
        results[index] = work(index, all_of_them[index])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(all_of_them))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@pytest.mark.parametrize("which", [0, 1, 2])
def test_all_leave_at_the_same_place(all_of_them, which):
    """However far ahead of the others one of them is, and whoever is asked."""

    def train(index, own):
        for place in range(1, 10**6):
            if index == which and place == 20:
                own.tell(signal.SIGUSR1)
            if own.reached():
                return place, own.number
            threading.Event().wait(0.0005 * (index + 1))
        return None

    places = together(train, all_of_them)
    assert places[0] is not None
    assert places == [(places[0][0], signal.SIGUSR1)] * 3


def test_the_end_is_alike_for_all(all_of_them):
    assert together(lambda index, own: own.end(), all_of_them) == [False] * 3
    for one in all_of_them:
        one.begin()
    all_of_them[2].tell(signal.SIGTERM)
    assert together(lambda index, own: own.end(), all_of_them) == [True] * 3
    assert {one.number for one in all_of_them} == {signal.SIGTERM}


def test_where_one_is_not_in_training_all_are_gone(all_of_them, monkeypatch):
    gone, sent = [], []
    monkeypatch.setattr(neighbours.stopping, "leave", gone.append)
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    all_of_them[1].cut()
    all_of_them[0].tell(signal.SIGTERM)
    for one in all_of_them:
        one._listening.join(20)
    # The two that train have nothing that all could save; here `leave` comes back.
    assert gone == [signal.SIGTERM] * 2
    assert (os.getpid(), signal.SIGTERM) in sent
    assert not any(one.reached() for one in all_of_them)
