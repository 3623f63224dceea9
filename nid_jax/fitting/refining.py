"""The last stage of a fit, on request (config.fit.refine): what the codes cannot say."""

import jax.numpy as jnp
import numpy as np

from nid_jax.coding import grid_operator, operators
from nid_jax.coding.refinement import KINDS, check_atoms, refine_atoms, refine_grid
from nid_jax.fitting import rendering


def check(config_fit):
    """Raise ValueError, naming the key, for a refinement that cannot be."""
    if "refine" not in config_fit:
        return
    wanted = config_fit.refine
    if wanted.kind not in KINDS:
        raise ValueError(f"fit.refine.kind: {wanted.kind!r}; allowed: {', '.join(KINDS)}")
    if wanted.kind == "atoms" and config_fit.batch_size:
        raise ValueError("fit.batch_size: 0 is wanted: fit.refine.kind=atoms sees all signals")
    if wanted.kind == "atoms":
        check_atoms(**_atoms_options(wanted))
    if wanted.bounds and len(wanted.bounds) != 2:
        raise ValueError(f"fit.refine.bounds: {wanted.bounds}; allowed: () or (low, high)")


def _atoms_options(wanted):
    return {key: wanted[key] for key in ("rank", "share", "steps")}


def check_measured(config_fit, measured):
    """Raise ValueError, naming the key, for a refinement that these measurements do not allow."""
    if "refine" in config_fit and config_fit.refine.kind == "atoms" and not measured.whole:
        raise ValueError("fit.refine.kind: 'atoms' needs whole signals; allowed here: none, grid")


def build(wanted, dictionary, measured):
    """config.fit.refine as a function (solution, measurements, weights) -> [S, *grid, C], or None.

    What it gives is to be added to what the codes render on the signals' own grid. Configs of
    signals that are never refined have no such group: None.
    """
    if wanted is None or wanted.kind == "none":
        return None
    shape = measured.grid_shape
    on_grid = grid_operator.on_grid(measured.operator, shape)

    def rendered(solution):
        gates = rendering.gates_of(solution.codes, solution.bias)
        values = rendering.render(dictionary, gates, shape)
        return jnp.asarray(values.reshape(len(values), -1, measured.channels))

    def grid(solution, measurements, weights):
        start = rendered(solution)
        weights = operators.combined_weights(on_grid, weights)
        if on_grid is not measured.operator:
            # What is left to explain is what the continuous signal leaves: pixels are too coarse
            # to measure it as well, and would put their own error into the correction.
            gates = rendering.gates_of(solution.codes, solution.bias)
            seen = rendering.measured(dictionary, gates, measured.operator)
            measurements = measurements - seen + on_grid.measure(start)
        found = refine_grid(
            on_grid,
            shape,
            start,
            measurements,
            weights,
            tv=wanted.tv,
            lam=wanted.lam,
            steps=wanted.steps,
            bounds=tuple(wanted.bounds) or None,
        )
        return np.asarray(found - start).reshape(-1, *shape, measured.channels)

    def atoms(solution, measurements, weights):
        start = rendered(solution)
        weights = operators.combined_weights(on_grid, weights)
        found = refine_atoms(start, measurements, weights, **_atoms_options(wanted))
        return np.asarray(found - start).reshape(-1, *shape, measured.channels)

    return {"grid": grid, "atoms": atoms}[wanted.kind]
