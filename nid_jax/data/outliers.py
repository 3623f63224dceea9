"""Numbers that lie so far from all others that they are probably no measurements."""

import numpy as np
from jaxtyping import Float

# Of the span of all numbers what lies empty between the few and the others.
_EMPTY = 0.8
# A share of the numbers that are few; those that are all the same, such as -9999, may be more.
_FEW = 0.1


def doubt_of_outliers(values: Float[np.ndarray, " N"]) -> str:
    """What to say of a few numbers far from the others, '' for none."""
    ordered = np.sort(values)
    if len(ordered) < 3 or ordered[0] == ordered[-1]:
        return ""
    gaps = np.diff(ordered)
    place = int(gaps.argmax())
    lower, upper = ordered[: place + 1], ordered[place + 1 :]
    few, others = (lower, upper) if len(lower) < len(upper) else (upper, lower)
    same = few[0] == few[-1] and len(few) < len(others)
    if gaps[place] < _EMPTY * (ordered[-1] - ordered[0]) or others[0] == others[-1]:
        return ""
    if not same and len(few) > _FEW * len(ordered):
        return ""
    ends = f"{few[0]:.6g}" if few[0] == few[-1] else f"{few[0]:.6g} to {few[-1]:.6g}"
    lie = "lies" if len(few) == 1 else "lie"
    return (
        f"{len(few)} of {len(ordered)} {lie} far from the others, {ends}, while these are "
        f"{others[0]:.6g} to {others[-1]:.6g}"
    )
