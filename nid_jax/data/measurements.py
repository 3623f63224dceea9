"""Arrays of measurements as people keep them: .npy, .npz, .mat, .tif and text."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from nid_jax.data import arrayfiles, tiffstacks

FORMATS = (".npy", ".npz", ".mat", ".tif", ".tiff", ".txt", ".csv")


def read_arrays(path: str | Path, where: str) -> dict[str, np.ndarray]:
    """The numeric arrays of a file by their names; '' is the name of a file's only one.

    where: 'data.KEY=PATH', which errors begin with. Nothing is unpickled. Text is a table of
    numbers, by white space, semicolons or commas, see `arrayfiles.splitter`. Raises
    FileNotFoundError, and ValueError for a file that cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no such file")
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{where}: a file {suffix or 'without suffix'}; allowed: {_listed()}")
    if suffix in (".tif", ".tiff"):
        arrays = {"": tiffstacks.read_array(path, where)}
    else:
        arrays = arrayfiles.load(path, where)
    kept = {
        name: array
        for name, array in arrays.items()
        if array is not None and array.dtype.kind in "biufc"
    }
    if not kept:
        kinds = ", ".join(sorted({str(getattr(a, "dtype", "object")) for a in arrays.values()}))
        raise ValueError(f"{where}: holds {kinds or 'nothing'}; allowed: numbers")
    return kept


def _listed():
    return ", ".join(FORMATS)


def named_array(
    arrays: Mapping[str, np.ndarray], names: Collection[str], ranks: Collection[int], where: str
) -> np.ndarray:
    """The array meant: the only one, one of these names (in any case), or the only one of a rank
    among `ranks`. Raises ValueError that lists what there is."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    by_name = [array for name, array in arrays.items() if name.lower() in names]
    by_rank = [array for array in arrays.values() if array.ndim in ranks and min(array.shape) > 1]
    for found in (by_name, by_rank):
        if len(found) == 1:
            return found[0]
    there = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    raise ValueError(f"{where}: holds {there}; name one of them {next(iter(names))!r}")
