"""The last stage of a fit, on request (config.fit.refine): what the codes cannot say."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import errors
from nid_jax.coding import grid_operator
from nid_jax.coding.low_rank import LowRank
from nid_jax.coding.operators import Operator
from nid_jax.coding.problem import Problem
from nid_jax.coding.total_variation import TotalVariation
from nid_jax.errors import ArgumentError
from nid_jax.fields.routing import Gates
from nid_jax.fitting import rendering
from nid_jax.settings import REFINEMENTS


def from_config(wanted: ConfigDict | None) -> TotalVariation | LowRank | None:
    """config.fit.refine as a refinement; None for kind 'none', and where there is no such group.

    Raises ArgumentError, naming the key, for an unknown kind or a value out of range.
    """
    with errors.named("fit.refine"):
        if wanted is None or wanted.kind == "none":
            return None
        if wanted.kind not in REFINEMENTS:
            raise ArgumentError("kind", wanted.kind, ", ".join(("none", *REFINEMENTS)))
        kind, fields = REFINEMENTS[wanted.kind]
        options = {key: wanted[key] for key in fields}
        if wanted.kind == "grid":
            options["bounds"] = tuple(wanted.bounds) or None
        return kind(**options)


def check(config_fit: ConfigDict) -> None:
    """Raise ValueError, naming the key, for a refinement that cannot be."""
    if isinstance(from_config(config_fit.get("refine")), LowRank) and config_fit.batch_size:
        raise ArgumentError(
            "fit.batch_size", config_fit.batch_size, "0; fit.refine.kind=atoms sees all signals"
        )


def check_measured(config_fit: ConfigDict, measured: Any) -> None:
    """Raise ValueError, naming the key, for a refinement that these measurements do not allow.

    measured: `tasks.Measured`.
    """
    refinement = from_config(config_fit.get("refine"))
    if isinstance(refinement, LowRank) and not measured.whole:
        raise ValueError("fit.refine.kind: 'atoms' needs whole signals; allowed here: none, grid")


def correction(
    refinement: TotalVariation | LowRank,
    problem: Problem,
    gates: Gates,
    on_grid: Operator | None = None,
    shape: Sequence[int] = (),
) -> Float[np.ndarray, "S *grid C"]:
    """What a refinement adds to what codes render on the signals' grid, for a problem's signals.

    gates: the codes found; on_grid: the problem's operator on the grid [*shape], where it is known
    already. Raises ValueError for an operator or measurements that a refinement cannot take.
    """
    dictionary, operator = problem.dictionary, problem.operator
    on_grid = grid_operator.on_grid(operator, shape) if on_grid is None else on_grid
    start = rendering.render(dictionary, gates, shape)
    start = jnp.asarray(start.reshape(len(start), -1, dictionary.channels))
    measurements = jnp.asarray(problem.measurements)
    if on_grid is not operator:
        # What is left to explain is what the continuous signal leaves: pixels are too coarse to
        # measure it as well, and would put their own error into the correction.
        seen = rendering.measured(dictionary, gates, operator)
        measurements = measurements - seen + on_grid.measure(start)
    found = refinement.refine(on_grid, shape, start, measurements, problem.weights)
    return np.asarray(found - start).reshape(-1, *shape, dictionary.channels)
