"""Arrays in an .npz, read as what they should be, or one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from nid_jax import npy_files

Kind = tuple[str, int | None]
"""What an array should be: letters of NumPy's `dtype.kind`, and how many axes (None: any)."""


def read(
    path: Path, wanted: Mapping[str, Kind], optional: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; of those that are `optional` the ones that are there.

    No pickled object is read. Raises FileNotFoundError where there is no file, ValueError of one
    line that names it for another kind of file, a damaged one, and an array of another kind.
    """
    stored = npy_files.read(path, names=wanted)
    found: dict[str, np.ndarray] = {}
    for name, (letters, rank) in wanted.items():
        array = stored.get(name)
        if array is None:
            if name in optional and name not in stored:
                continue
            raise ValueError(f"{path}: damaged: it has no array {name!r}")
        if array.dtype.kind not in letters or rank not in (None, array.ndim):
            shown = f"{array.dtype}{list(array.shape)}"
            axes = "" if rank is None else f" of {rank} axes"
            words = {"f": "numbers", "U": "texts", "iu": "whole numbers", "fi": "numbers"}[letters]
            raise ValueError(f"{path}: damaged: {name!r} is {shown}; allowed: {words}{axes}")
        found[name] = array
    return found
