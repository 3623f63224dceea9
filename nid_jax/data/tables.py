"""Tables of named columns from .csv, .parquet and .npz files."""

import csv
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

from nid_jax.data import arrayfiles
from nid_jax.notices import say

EXTENSIONS = (".csv", ".tsv", ".parquet", ".npz")
# What other kinds of files become one of ours by.
NEEDS = {
    ".xlsx": "saving as .csv",
    ".nc": "xarray.open_dataset(FILE).to_dataframe().reset_index().to_parquet(...)",
    ".json": "saving as .csv",
    ".feather": "pyarrow.parquet.write_table(pyarrow.feather.read_table(FILE), ...)",
}
_MISSING = ("", "na", "nan", "null", "none", "-")
Columns = MappingProxyType[str, Shaped[np.ndarray, " N"]]


def read_table(path: Path) -> Columns:
    """Columns [N] by name: numbers as float64, moments as datetime64, everything else as text.

    Numbers that are missing are NaN. .csv: a header of names, separated by commas, semicolons or
    tabs; after semicolons numbers may have decimal commas. .npz: arrays of N rows, of [N, K] there
    are columns NAME_1 to NAME_K. Raises ValueError naming the file.
    """
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=4)
def _read(path, *state):
    """state: what of the file tells that it was changed."""
    del state
    reader = {".parquet": _parquet, ".npz": _npz}.get(path.suffix.lower(), _text)
    columns = reader(path)
    if not columns:
        raise ValueError(f"{path}: no columns")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise ValueError(f"{path}: columns of different lengths ({sizes})")
    if lengths == {0}:
        raise ValueError(f"{path}: no rows")
    for column in columns.values():
        column.setflags(write=False)
    return MappingProxyType(columns)


def _parquet(path):
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path}: .parquet needs pyarrow: pip install 'nid_jax[points]'")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as a .parquet file ({reason})") from error
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name.startswith("__index_level"):
            continue
        columns[name] = _typed(column.to_numpy())
    return columns


def _npz(path):
    columns = {}
    for name, values in arrayfiles.load(path).items():
        if values is None:
            raise ValueError(f"{path}: {name} holds objects, which are never unpickled")
        if values.ndim == 2 and values.shape[1] > 1:
            columns |= {f"{name}_{k + 1}": _typed(one) for k, one in enumerate(values.T)}
        elif values.ndim in (1, 2):
            columns[name] = _typed(values.reshape(-1))
        else:
            raise ValueError(f"{path}: {name} is {list(values.shape)}; expected [N] or [N, K]")
    return columns


def _text(path):
    try:
        # A byte-order mark, which spreadsheets write, is none of the first name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
            rows = [row for row in csv.reader(file, delimiter=separator) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    if not names or len(set(names)) != len(names) or "" in names:
        raise ValueError(f"{path}: its first line names columns {names}; expected distinct names")
    wrong = next((n for n, row in enumerate(rows, 2) if len(row) != len(names)), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: line {wrong} has {len(rows[wrong - 2])} columns; expected {len(names)}"
        )
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    comma = separator == ";"
    if all(_is_number(name) for name in names):
        raise ValueError(f"{path}: its first line holds numbers; expected names of columns")
    return {
        name: _parsed(column, comma, f"{path}: {name}")
        for name, column in zip(names, columns, strict=True)
    }


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parsed(column: Sequence[str], comma: bool, where: str):
    """Text as numbers where all of it is, as moments where all of it is, as itself otherwise."""
    texts = np.array([text.strip() for text in column], str)
    known = ~np.isin(np.char.lower(texts), _MISSING)
    if not known.any():
        return np.full(len(texts), np.nan)
    given = texts[known]
    if comma and (np.char.find(given, ",") >= 0).any():
        points = np.char.replace(given, ",", ".")
        if all(map(_is_number, points[:50])):
            say(f"{where}: decimal commas; {str(given[0])!r} taken as {points[0]}")
            given = points
    for kind, empty in ((np.float64, np.nan), ("datetime64[ns]", np.datetime64("NaT"))):
        try:
            # Of moments a zone, which NumPy knows none of, can only be the universal one.
            plain = np.char.rstrip(given, "Z") if kind != np.float64 else given
            found = np.full(len(texts), empty, kind)
            found[known] = plain.astype(kind)
            return found
        except ValueError:
            continue
    return texts


def _typed(column):
    """Numbers as float64, moments to the nanosecond, the rest as text."""
    if column.dtype.kind in "biuf":
        return np.array(column, np.float64)
    if column.dtype.kind == "M":
        return np.array(column, "datetime64[ns]")
    if column.dtype == object and all(isinstance(one, float | int | None) for one in column):
        return np.array([np.nan if one is None else one for one in column], np.float64)
    return np.array(["" if one is None else str(one) for one in column], str)
