"""What tests of several files need."""

import pytest


class Clock:
    """A clock that goes only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock whose `now` the test moves."""
    return Clock()
