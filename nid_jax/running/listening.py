"""Who is told how far work is."""

from collections.abc import Callable

Listener = Callable[[int, int], object]
"""Called with how many are done of how many."""


def nobody(done: int, total: int) -> None:
    """A `Listener` for work that nobody waits for."""
    del done, total
