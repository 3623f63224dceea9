"""Arrays and tables of numbers as files: .npy, .npz, .mat and text. Nothing is unpickled."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Num

from nid_jax import bounds, errors, npy_files

# Classes of MATLAB that are arrays of numbers.
_NUMERIC = {"double", "single", "logical"}
_NUMERIC |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
# A double with its imaginary part.
_MATLAB_BYTES = 16
_SEPARATORS = re.compile(r"[,;\s]+")
_WIDE_SEPARATORS = re.compile(r"[;\s]+")
_DECIMAL_COMMA = re.compile(r"^[-+]?\d*,\d+([eE][-+]?\d+)?$")
# Lines of a table that are looked at for how its numbers are written.
_LOOKED_AT = 50


def load(
    path: Path, where: str = "", mmap: bool = False
) -> dict[str, Num[np.ndarray, "..."] | None]:
    """Arrays of an .npy, .npz, .mat or text file by their names, '' for the only one of a file.

    None stands for objects, cells and structures. where: what errors name instead of the path;
    mmap: an .npy is memory-mapped. Text: see `_table`. Raises ValueError for a file that cannot be
    read, and OSError where it may not be.
    """
    with path.open("rb"):
        pass  # a file that may not be read is reported as such, not as damaged
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return npy_files.read(path, where=where, mmap=mmap)
    try:
        return _matlab(path) if suffix == ".mat" else {"": _table(path)}
    except NotImplementedError as error:  # what SciPy says of HDF5 inside
        raise ValueError(
            f"{where or path}: a .mat of version 7.3 is HDF5; save(..., '-v7') in MATLAB, or "
            "np.save('x.npy', h5py.File(FILE)[KEY][:])"
        ) from error
    except Exception as error:  # of damaged files SciPy raises what they lead it to
        reason = errors.reason(error)
        kind = "an array file" if suffix == ".mat" else f"a {suffix} file"
        raise ValueError(f"{where or path}: cannot be read as {kind} ({reason})") from error


def _matlab(path):
    """Arrays of numbers of a .mat; None for what else it holds, which is not unpacked."""
    import scipy.io

    with bounds.Clamped(path) as file:
        there = scipy.io.whosmat(file)
        numeric = [(name, shape) for name, shape, kind in there if kind in _NUMERIC]
        wanted = sum(_MATLAB_BYTES * math.prod(map(int, shape)) for _, shape in numeric)
        bounds.check(wanted, _MATLAB_BYTES * bounds.size_of(file))
        file.seek(0)
        found = scipy.io.loadmat(file, variable_names=[name for name, _ in numeric])
    arrays = {name: found.get(name) for name, *_ in there}
    return {
        name: values if isinstance(values, np.ndarray) and values.dtype.kind in "biufc" else None
        for name, values in arrays.items()
    }


# ---- text ----------------------------------------------------------------------------------


def splitter(lines: Sequence[str]) -> Callable[[str], list[str]]:
    """How lines of a table are cut into words: at blanks, commas and semicolons.

    Where numbers are separated by blanks or semicolons, and every comma stands inside of one, 1,5
    is 1.5. Only lines of numbers alone tell, no comments and headers.
    """
    numbers = itertools.islice(filter(_is_numbers, lines), _LOOKED_AT)
    rows = [_WIDE_SEPARATORS.split(line.strip()) for line in numbers]
    with_commas = [row for row in rows if any("," in word for word in row)]
    words = [word for row in with_commas for word in row if "," in word]
    several = all(len(row) > 1 for row in with_commas)
    if words and several and all(map(_DECIMAL_COMMA.match, words)):
        return lambda line: [
            word.replace(",", ".") for word in _WIDE_SEPARATORS.split(line.strip()) if word
        ]
    return lambda line: [word for word in _SEPARATORS.split(line.strip()) if word]


def _is_numbers(line):
    """Whether a line of text holds numbers alone, however they are separated and written."""
    words = [word for word in _SEPARATORS.split(line.strip()) if word]
    return bool(words) and floats(words) is not None


def floats(words: Sequence[str]) -> list[float] | None:
    """The numbers that words are; None where one of them is none."""
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _table(path: Path) -> Num[np.ndarray, "..."]:
    """Numbers of a text file, a row a line, comments behind #; [N] for a single row or column."""
    lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8-sig").splitlines()]
    rows = [line for line in lines if line.strip()]
    if not rows:
        raise ValueError("it holds no numbers")
    split = splitter(rows)
    return np.loadtxt([" ".join(split(line)) for line in rows], ndmin=1)
