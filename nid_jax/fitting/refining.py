"""The last stage of a fit, on request (config.fit.refine): what the codes cannot say."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nid_jax import errors
from nid_jax.coding import grid_operator
from nid_jax.coding.low_rank import LowRank
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fitting import rendering

KINDS = {"grid": TotalVariation, "atoms": LowRank}
"""Of config.fit.refine.kind, besides 'none'."""
_FIELDS = {"grid": ("tv", "lam", "steps"), "atoms": ("rank", "share", "steps")}


def from_config(wanted: ConfigDict) -> TotalVariation | LowRank | None:
    """config.fit.refine as a refinement, None for kind 'none'.

    Raises ArgumentError, naming the key, for an unknown kind or a value out of range.
    """
    with errors.named("fit.refine"):
        if wanted.kind == "none":
            return None
        if wanted.kind not in KINDS:
            raise ArgumentError("kind", wanted.kind, ", ".join(("none", *KINDS)))
        options = {key: wanted[key] for key in _FIELDS[wanted.kind]}
        if wanted.kind == "grid":
            options["bounds"] = tuple(wanted.bounds) or None
        return KINDS[wanted.kind](**options)


def check(config_fit: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a refinement that cannot be."""
    if isinstance(from_config(config_fit.refine), LowRank) and config_fit.batch_size:
        raise ArgumentError(
            "fit.batch_size", config_fit.batch_size, "0; fit.refine.kind=atoms sees all signals"
        )


def check_measured(config_fit: ConfigDict, measured) -> None:
    """Raise ValueError, naming the key, for a refinement that these measurements do not allow.

    measured: `tasks.Measured`.
    """
    if config_fit.refine.kind == "atoms" and not measured.whole:
        raise ValueError("fit.refine.kind: 'atoms' needs whole signals; allowed here: none, grid")


def build(
    refinement: TotalVariation | LowRank | None, dictionary: Dictionary, measured
) -> Callable | None:
    """A refinement as a function (solution, measurements, weights) -> [S, *grid, C], or None.

    What it gives is to be added to what the codes render on the signals' own grid.
    measured: `tasks.Measured`.
    """
    if refinement is None:
        return None
    shape = measured.grid_shape
    on_grid = grid_operator.on_grid(measured.operator, shape)

    def correction(solution, measurements, weights):
        gates = rendering.gates_of(solution.codes, solution.bias)
        start = rendering.render(dictionary, gates, shape)
        start = jnp.asarray(start.reshape(len(start), -1, measured.channels))
        if on_grid is not measured.operator:
            # What is left to explain is what the continuous signal leaves: pixels are too coarse
            # to measure it as well, and would put their own error into the correction.
            seen = rendering.measured(dictionary, gates, measured.operator)
            measurements = measurements - seen + on_grid.measure(start)
        found = refinement.refine(on_grid, shape, start, measurements, weights)
        return np.asarray(found - start).reshape(-1, *shape, measured.channels)

    return correction
