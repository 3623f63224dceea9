"""Arrays in an .npz, read as what they should be, or one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

Kind = tuple[str, int | None]
"""What an array should be: letters of NumPy's `dtype.kind`, and how many axes (None: any)."""


def read(
    path: Path, wanted: Mapping[str, Kind], optional: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; of those that are `optional` the ones that are there.

    No pickled object is read. Raises FileNotFoundError where there is no file, ValueError of one
    line that names it for another kind of file, a damaged one, and an array of another kind.
    """
    with open(path, "rb") as file:
        # NumPy, zip and zlib have an error of their own for every kind of damage.
        try:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("it is no .npz")
            found = {name: stored[name] for name in wanted if name in stored}
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: damaged, or no .npz of arrays: {text}") from error
    for name, (letters, rank) in wanted.items():
        if name not in found:
            if name in optional:
                continue
            raise ValueError(f"{path}: damaged: it has no array {name!r}")
        array = found[name]
        if array.dtype.kind not in letters or rank not in (None, array.ndim):
            shown = f"{array.dtype}{list(array.shape)}"
            axes = "" if rank is None else f" of {rank} axes"
            words = {"f": "numbers", "U": "texts", "iu": "whole numbers", "fi": "numbers"}[letters]
            raise ValueError(f"{path}: damaged: {name!r} is {shown}; allowed: {words}{axes}")
    return found
