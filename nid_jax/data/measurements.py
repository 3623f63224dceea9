"""Arrays of measurements as people keep them: .npy, .npz, .mat, .tif and text."""

import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import scipy.io
import tifffile

# What readers raise for files that are damaged or something else.
_DAMAGED = (
    *(ValueError, TypeError, IndexError, KeyError, OSError, EOFError),
    *(zipfile.BadZipFile, zlib.error, scipy.io.matlab.MatReadError, tifffile.TiffFileError),
)
FORMATS = (".npy", ".npz", ".mat", ".tif", ".tiff", ".txt", ".csv")


def read_arrays(path: str | Path, where: str) -> dict[str, np.ndarray]:
    """The numeric arrays of a file by their names; '' is the name of a file's only one.

    where: 'data.KEY=PATH', which errors begin with. Nothing is unpickled. Text is a table of
    numbers, by white space or commas. Raises FileNotFoundError, and ValueError for a file that
    cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no such file")
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{where}: a file {suffix or 'without suffix'}; allowed: {_listed()}")
    try:
        arrays = _read(path, suffix)
    except NotImplementedError as error:  # what scipy says of HDF5 inside
        raise ValueError(f"{where}: a .mat of version 7.3; save it by save(..., '-v7')") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: cannot be read as a {suffix} file ({reason})") from error
    kept = {name: array for name, array in arrays.items() if array.dtype.kind in "biufc"}
    if not kept:
        kinds = ", ".join(sorted({str(array.dtype) for array in arrays.values()})) or "nothing"
        raise ValueError(f"{where}: holds {kinds}; allowed: numbers")
    return kept


def _listed():
    return ", ".join(FORMATS)


def _read(path, suffix):
    """Arrays by name, of any kind."""
    if suffix in (".npy", ".npz"):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"": found}
        with found:
            return {name: found[name] for name in found.files}
    if suffix == ".mat":
        found = scipy.io.loadmat(path)
        return {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
    if suffix in (".tif", ".tiff"):
        return {"": tifffile.imread(path)}
    text = path.read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
    return {"": np.loadtxt(text, ndmin=1)}


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
