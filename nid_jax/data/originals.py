"""Which signals are copies or parts of one: what must be held out together."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

# As collections name them: mirrored, turned, shifted and warped copies, crops and patches.
_COPY = re.compile(r"(/(mirror|turn\d+|shift\d+|warp\d+|\d+(_\d+)*))+$")
# Every so many originals one is held out.
_FOLDS = 5


def original_of(name: str) -> str:
    """The name of what a signal is a copy or a part of; its own where it is neither."""
    return _COPY.sub("", name)


def originals(names: Sequence[str]) -> Int[np.ndarray, " S"]:
    """A number for every signal, the same for all of one original, from 0 in order of names."""
    return np.unique([original_of(name) for name in names], return_inverse=True)[1]


def held_out(names: Sequence[str]) -> Bool[np.ndarray, " S"]:
    """Which signals are held out: every fifth original with its copies, the last of fewer; none of
    one alone."""
    groups = originals(names)
    folds = min(_FOLDS, groups.max(initial=0) + 1)
    return groups % folds == folds - 1 if folds > 1 else np.zeros(len(names), bool)
