"""What differs between tasks: signals, measurements, losses, metrics, pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Task:
    """A task, as training, fitting and rendering see it.

    Everything is a plain function, so that a new task is a new file in this folder and no change
    in `run`.
    """

    name: str
    open: Callable[[str], Any]
    """Split name -> Collection."""
    batches: Callable[[Any], Any]
    """Collection -> endless checkpointable iterator of {'ids': [B], 'signals': [B, *grid, C]}."""
    operator: Callable[[tuple], Any]
    """Grid shape of the signals -> the operator that a fit measures them with."""
    objective: Callable
    """(prediction, target, gates) -> (loss, terms); see `losses.Objective`."""
    assemble: Callable
    """(values [S, *grid, C], layout) -> whole signals: patches are blended."""
    layout: Callable[[Any], dict]
    """Collection -> what `assemble` needs to know of it, in JSON types."""
    metrics: Callable
    """(reconstruction, truth, both whole signals) -> {name: values per signal}."""
