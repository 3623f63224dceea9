"""The chronometer: what is running, and what is not."""

import json
import math

import pytest

from nid_jax.reporting.chronometer import Chronometer


def test_chronometer_leaves_out_what_pauses_it(clock):
    watch = Chronometer(clock)
    assert math.isnan(watch.eta(10))
    with watch.pause("compile"):
        clock.now += 30
    clock.now += 4
    watch.advance(steps=2, signals=20)
    with watch.pause("evaluate"):
        clock.now += 5
        with watch.pause("compile"):
            clock.now += 7
        clock.now += 1
    assert watch.summary() == {"run": 4, "compile": 37, "evaluate": 6}
    assert watch.total() == 47
    assert watch.signals_per_second() == 5
    assert watch.eta(10) == 16
    assert watch.eta(1) == 0


def test_chronometer_survives_a_restart(clock):
    first = Chronometer(clock)
    clock.now += 8
    first.advance(steps=4, signals=4)
    with first.pause("compile"):
        clock.now += 2
    state = json.loads(json.dumps(first.state()))
    clock.now += 1000  # the machine was away
    second = Chronometer(clock)
    second.restore(state)
    assert math.isnan(second.eta(6))
    with second.pause("compile"):
        clock.now += 3
    clock.now += 1
    second.advance(steps=1, signals=10)
    assert second.steps == 5
    assert second.summary() == {"run": 9, "compile": 5}
    assert second.signals_per_second() == 10  # this process's rate, not the earlier one's
    assert second.eta(8) == 3


def test_a_pause_ends_when_its_body_raises(clock):
    watch = Chronometer(clock)

    def evaluate():
        with watch.pause("evaluate"):
            clock.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        evaluate()
    clock.now += 1
    assert watch.summary() == {"run": 1, "evaluate": 2}
