"""What training asks of a task, and of what was measured of its signals."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nid_jax.coding.operators import Operator


class Measured(Protocol):
    """What training asks of measured signals; `tasks.Measured` says what each is."""

    @property
    def operator(self) -> Operator: ...

    @property
    def values(self) -> Callable[[int], np.ndarray]: ...

    @property
    def grid_shape(self) -> tuple: ...

    @property
    def whole(self) -> bool: ...

    @property
    def alike(self) -> bool: ...


class Task(Protocol):
    """What training asks of a task; `tasks.Task` says what each is."""

    @property
    def open(self) -> Callable[[str], Any]: ...

    @property
    def batches(self) -> Callable[[Any], Any]: ...

    @property
    def order(self) -> Callable[[Any], Any] | None: ...

    @property
    def learned_from(self) -> Callable[[Any], Any]: ...

    @property
    def objective(self) -> Callable: ...

    @property
    def ranked_by(self) -> str: ...
