"""A run that is asked to end is asked once, and insisted on the second time."""

import os
import signal
import time

import pytest

from nid_jax.storage.preemption import Preemption


def signal_self(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs handlers between two instructions of the main thread


def test_sigterm_and_the_first_interrupt_only_ask():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        with Preemption() as preemption:
            assert not preemption.requested
            signal_self(number)
            assert preemption.requested
            assert preemption.signal_name == name
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        signal_self(signal.SIGINT)
        assert preemption.requested
        with pytest.raises(KeyboardInterrupt):
            signal_self(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
