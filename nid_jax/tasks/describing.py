"""In sentences, what was measured of signals, and what was solved for."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax.fitting import ways
from nid_jax.fitting.fit import Fit
from nid_jax.notices import sides
from nid_jax.reporting.tables import counted
from nid_jax.tasks.task import Measured

COUNTED = 1000
"""Signals whose measurements are counted, at most."""


def noise(config: ConfigDict) -> str:
    """Of measurements that are simulated, in a sentence; '' where none are."""
    wanted = config.data.get("noise")
    if wanted is None:
        return ""
    if wanted.kind == "gaussian":
        return f"Gaussian noise of {100 * wanted.level:.3g}% of the largest was added."
    if wanted.kind == "poisson":
        return f"Poisson noise of {wanted.level:g} photons a ray was added."
    return "No noise was added."


def measured(
    collection: Any,
    seen: Measured,
    count: int,
    noise: str = "",
    samples: str = "pixels",
    how: str = "",
) -> str:
    """What was measured of the first `count` signals of a collection.

    noise: a sentence on simulated measurements; samples: what the values on the grid are called;
    how: what the operator measures, in words, where its own do not say.
    """
    channels = "" if seen.channels == 1 else f" in {seen.channels} channels"
    total = int(np.prod(seen.grid_shape))
    opening = f"{count} signals of {sides(seen.grid_shape)} {samples}{channels}"
    if not len(seen.ways):
        return f"{opening}."
    numbers = [ways.count_seen(seen, index) for index in range(min(count, COUNTED))]
    if seen.whole and min(numbers) == total:
        return f"{opening}, all of which were measured: {total * seen.channels} numbers a signal."
    if seen.whole or (seen.way is None and seen.ways[0].is_sampling):
        return f"{opening}, of which {_number(numbers, total)} were measured. {noise}".strip()
    what = how or _words(seen)
    number, share = _number(numbers, total).split(" ", 1)
    found = f"{opening}. Of each were measured: {what}; {number} numbers for {total} {samples}"
    return f"{found} {share}. {noise}".strip()


def solved(fit: Fit, config: ConfigDict) -> str:
    """In sentences, what was solved for and how."""
    experts, channels = fit.dictionary.num_experts, fit.channels
    what = (
        f"{counted(experts, 'number')} and a bias"
        if channels == 1
        else (f"{counted(experts, 'number')} and a bias of each channel")
    )
    words = f"A code of {what} for each signal"
    if config.fit.top_k:
        words = (
            f"A code for each signal, of which {config.fit.top_k} of {experts} numbers are not 0"
        )
    about = getattr(fit.solver, "about", "")
    words = f"{words}: {about}." if about else f"{words}."
    kind = config.fit.get("refine", {}).get("kind", "none")
    refined = {
        "grid": " Pixels then moved off what codes render, tied to it.",
        "atoms": " All signals together then left the dictionary, as images of low rank.",
    }
    return words + refined.get(kind, "")


def _number(numbers, total):
    """62 (9.9%), or the mean with the range."""
    middle = float(np.mean(numbers))
    share = f"{100 * middle / total:.3g}%"
    if min(numbers) == max(numbers):
        return f"{numbers[0]} ({share})"
    return f"{middle:.0f} ({share}; {min(numbers)} to {max(numbers)})"


def _words(seen):
    """What an operator says that it measures."""
    words = seen.ways[0].about or "measurements of its own kind"
    return words if len(seen.ways) == 1 else f"{words}, in {len(seen.ways)} ways"
