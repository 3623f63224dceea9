"""A run that is asked to end is asked once, and insisted on the second time."""

import os
import signal
import time

import pytest

from nid_jax.storage.preemption import Preemption


def signal_self(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs handlers between two instructions of the main thread


@pytest.fixture(autouse=True)
def not_ignored():
    """Signals as a terminal leaves them: a shell's background jobs begin with some ignored."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_to_end_only_ask():
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    numbers = [getattr(signal, name) for name in names]
    before = [signal.getsignal(number) for number in numbers]
    for number, name in zip(numbers, names, strict=True):
        with Preemption() as preemption:
            assert not preemption.requested
            signal_self(number)
            assert preemption.requested
            assert preemption.signal_name == name
        assert [signal.getsignal(number) for number in numbers] == before


def test_under_nohup_a_closed_terminal_asks_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            signal_self(signal.SIGHUP)
            assert not preemption.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        signal_self(signal.SIGINT)
        assert preemption.requested
        with pytest.raises(KeyboardInterrupt):
            signal_self(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
