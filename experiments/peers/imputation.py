"""What a user of one grid would do with signals of which each shows its own points."""

import numpy as np
from scipy.interpolate import RBFInterpolator

from peers.components import Components

RANKS = (4, 8, 16, 32)
ROUNDS = 60
# Of the values seen, kept aside to choose a rank by.
_HELD_OUT = 0.1


def interpolated(pictures, seen):
    """Pictures [S, H, W, C] filled in from what is seen of each, bool [S, H, W].

    By thin plates through the pixels seen, each picture by itself, clipped to what they hold.
    """
    grid = np.stack(np.indices(pictures.shape[1:3]), -1).reshape(-1, 2).astype(float)
    found = np.array(pictures)
    for one, known in zip(found, seen, strict=True):
        values = one[known]
        smooth = RBFInterpolator(grid[known.ravel()], values, neighbors=min(64, len(values)))
        filled = np.clip(smooth(grid[~known.ravel()]), values.min(), values.max())
        one[~known] = filled
    return found


def imputed(rows, seen, seed=0):
    """Rows [S, V] filled in by principal components, found and projected on in turn.

    seen: bool [S, V]. The rank of `RANKS` is taken that says most of values kept aside.
    """
    kept = seen & (np.random.default_rng(seed).uniform(size=seen.shape) >= _HELD_OUT)
    errors = {}
    for rank in RANKS:
        if rank < len(rows):
            found = _filled(rows, kept, rank)
            errors[rank] = np.square(found - rows)[seen & ~kept].mean()
    return _filled(rows, seen, min(errors, key=errors.get))


def _filled(rows, seen, rank):
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, rows, 0).sum(0) / count
    mean = np.where(seen.any(0), mean, rows[seen].mean())
    found = np.where(seen, rows, mean)
    for _ in range(ROUNDS):
        known = Components(found, rank)
        found = np.where(seen, rows, known.project(found))
    return found
