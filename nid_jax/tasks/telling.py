"""In sentences, what was measured of signals."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax.fitting import ways
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


def sides(shape: Any) -> str:
    """25 x 25."""
    return " x ".join(map(str, shape))


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
    if seen.whole or (seen.way is None and _sampled(seen)):
        return f"{opening}, of which {_number(numbers, total)} were measured. {noise}".strip()
    what = how or _words(seen)
    number, share = _number(numbers, total).split(" ", 1)
    found = f"{opening}. Of each were measured: {what}; {number} numbers for {total} {samples}"
    return f"{found} {share}. {noise}".strip()


def _number(numbers, total):
    """62 (9.9%), or the mean with the range."""
    middle = float(np.mean(numbers))
    share = f"{100 * middle / total:.3g}%"
    if min(numbers) == max(numbers):
        return f"{numbers[0]} ({share})"
    return f"{middle:.0f} ({share}; {min(numbers)} to {max(numbers)})"


def _sampled(seen):
    operator = seen.ways[0]
    return operator.run_length == 1 and operator.factors is None


def _words(seen):
    """The first sentence that an operator says of itself."""
    own = type(seen.ways[0]).__doc__ or "its own measurements"
    words = own.strip().split(". ")[0].split("\n")[0].rstrip(".").strip()
    words = words[:1].lower() + words[1:]
    return words if len(seen.ways) == 1 else f"{words}, in {len(seen.ways)} ways"
