"""Fits that were made one after another, as one."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from nid_jax.coding import checks
from nid_jax.fitting.fit import Fit


def concatenate(fits: Sequence[Fit]) -> Fit:
    """Fits of one dictionary, one after another, as one."""
    first = fits[0]
    if len(fits) == 1:
        return first
    solutions = [fit.solution for fit in fits]
    checks.values_known("batch_size", first.dictionary, solutions)

    def rows(*arrays):
        return np.concatenate(arrays)

    solution = jax.tree.map(rows, *(s._replace(history={}) for s in solutions))
    history = jax.tree.map(
        lambda *curves: np.concatenate(curves, axis=-1), *(s.history for s in solutions)
    )

    def all_of(field):
        given = getattr(first, field) is not None
        return rows(*(getattr(fit, field) for fit in fits)) if given else None

    return dataclasses.replace(
        first,
        solution=solution._replace(history=history),
        names=sum((fit.names for fit in fits), ()),
        problem=None,
        seconds=sum(fit.seconds for fit in fits),
        compile_seconds=sum(fit.compile_seconds for fit in fits),
        correction=all_of("correction"),
        known_deviation=all_of("known_deviation"),
    )
