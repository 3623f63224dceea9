"""Tables of named columns from .csv, .parquet and .npz files."""

import csv
import dataclasses
import decimal
import functools
import importlib.util
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from nid_jax import bounds, errors
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
# Moments to the nanosecond are 64 bits long.
_YEARS = (1678, 2261)
# A moment with a zone: the moment, and "Z" or its offset from the universal time.
_ZONED = re.compile(r"^(.*[T ]\d\d:?\d\d.*?) ?(Z|[+-]\d\d(?::?\d\d)?)$")
# Whole numbers up to it are float64 exactly.
_EXACT = 2.0**53


@dataclasses.dataclass(frozen=True, eq=False)
class Columns(Mapping[str, Shaped[np.ndarray, " N"]]):
    """Columns [N] by name: numbers as float64, moments as datetime64, everything else as text."""

    columns: Mapping[str, Shaped[np.ndarray, " N"]]
    written: Mapping[str, Shaped[np.ndarray, " N"]]
    """As the file has them, what labels are made of: whole numbers beyond 2^53 are no float64."""
    lines: Sequence[int] = ()
    """Of text: the line of the file in which each row begins, from 1."""

    def __getitem__(self, name: str) -> Shaped[np.ndarray, " N"]:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def place(self, row: int) -> str:
        """Where a row, counted from 0, is to be found: 'line 4' of text, else 'row 3'."""
        return f"line {self.lines[row]}" if self.lines else f"row {row + 1}"

    def labels(self, name: str) -> Shaped[np.ndarray, " N"]:
        """A column as text, as it is written; '' where it is missing."""
        words = _words(self.written[name])
        if self.columns[name].dtype.kind == "f":
            words[np.isin(np.char.lower(words), _MISSING)] = ""
        return words

    def odd(self, name: str) -> tuple[str, str] | None:
        """(text, place) of the first entry that keeps a column from being numbers or moments; None
        where it is."""
        column = self.columns[name]
        if column.dtype.kind in "fM":
            return None
        known = [row for row, one in enumerate(column) if one.lower() not in _MISSING]
        bad = {
            kind: [row for row in known if kind(column[row]) is None] for kind in (_number, _moment)
        }
        rows = min(bad.values(), key=len)
        row = rows[0] if rows else 0
        return str(_word(self.written[name][row])), self.place(row)

    def mostly_numbers(self, name: str) -> bool:
        """Whether a column of text is numbers but for a few entries."""
        known = [one for one in self.columns[name] if one.lower() not in _MISSING]
        return 2 * sum(_number(one) is not None for one in known) > len(known)


def read_table(path: Path) -> Columns:
    """The columns of a file, which are not to be written to.

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
    found = reader(path)
    if not found:
        raise ValueError(f"{path}: no columns")
    lengths = {len(column) for column in found.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name} {len(column)}" for name, column in found.items())
        raise ValueError(f"{path}: columns of different lengths ({sizes})")
    if lengths == {0}:
        raise ValueError(f"{path}: no rows")
    for column in found.values():
        column.setflags(write=False)
    return found


def _parquet(path):
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path}: .parquet needs pyarrow: pip install 'nid_jax[points]'")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_parquet(file.metadata)
            table = file.read()
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = errors.reason(error)
        raise ValueError(f"{path}: cannot be read as a .parquet file ({reason})") from error
    names = table.column_names
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {_repeated(names)}; expected distinct names")
    written: dict[str, np.ndarray] = {}
    for name, column in zip(names, table.columns, strict=True):
        if name.startswith("__index_level"):
            continue
        # Whole numbers with gaps become float64 otherwise.
        gaps = pyarrow.types.is_integer(column.type) and column.null_count
        written[name] = np.array(column.to_pylist(), object) if gaps else column.to_numpy()
        zone = getattr(column.type, "tz", None)
        if zone not in (None, "UTC", "Z", "+00:00"):
            say(f"{path}: {name} is of the time zone {zone}; taken as universal time")
    return Columns({name: _typed(column) for name, column in written.items()}, written)


def _check_parquet(metadata):
    """Raise ValueError where columns unfold to more than is allowed: a value that repeats takes no
    room in the file."""
    unpacked = sum(
        metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)
    )
    numbers = 8 * metadata.num_rows * metadata.num_columns
    bounds.check(max(unpacked, numbers), 0, f"{metadata.num_rows} rows")


def _repeated(names):
    twice = next(name for name in names if list(names).count(name) > 1)
    return f"two columns {twice!r}"


def _npz(path):
    written: dict[str, np.ndarray] = {}
    for name, values in arrayfiles.load(path).items():
        if values is None:
            raise ValueError(f"{path}: {name} holds objects, which are never unpickled")
        if values.ndim == 2 and values.shape[1] > 1:
            written |= {f"{name}_{k + 1}": one for k, one in enumerate(values.T)}
        elif values.ndim in (1, 2):
            written[name] = values.reshape(-1)
        else:
            raise ValueError(f"{path}: {name} is {list(values.shape)}; expected [N] or [N, K]")
    return Columns({name: _typed(column) for name, column in written.items()}, written)


def _text(path):
    try:
        # A byte-order mark, which spreadsheets write, is none of the first name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        separator, rows, lines = _rows(text)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from error
    if "\0" in text:
        line = len(text[: text.index("\0")].splitlines())
        raise ValueError(f"{path}: line {line} holds a byte 0; allowed: text")
    if not rows:
        raise ValueError(f"{path}: is empty; expected a first line that names columns")
    names = [" ".join(name.split()) for name in rows[0]]
    if "" in names:
        raise ValueError(
            f"{path}: column {names.index('') + 1} has no name; expected distinct names"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: {_repeated(names)}; expected distinct names")
    rows, lines = rows[1:], lines[1:]
    if not rows:
        raise ValueError(f"{path}: no rows")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise ValueError(f"{path}: line {line} has {len(row)} columns; expected {len(names)}")
    if all(_number(name) is not None for name in names):
        raise ValueError(f"{path}: its first line holds numbers; expected names of columns")
    columns = zip(*rows, strict=True)
    written = {
        name: _texts([one.strip() for one in column], f"{path}: {name}")
        for name, column in zip(names, columns, strict=True)
    }
    comma = separator == ";"
    parsed = {name: _parsed(column, comma, f"{path}: {name}") for name, column in written.items()}
    return Columns(parsed, written, lines)


def _texts(words, where):
    """Words as an array, in which each takes the room of the longest."""
    longest = max(map(len, words), default=0)
    try:
        bounds.check(4 * longest * len(words), 0, f"{len(words)} texts of up to {longest} letters")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return np.array(words, str)


def _rows(text):
    """(separator, rows, the line from 1 in which each begins), without blank lines."""
    file = io.StringIO(text, newline="")
    header = next((line for line in file if line.strip()), "")
    separator = max(",;\t", key=header.count)
    file.seek(0)
    reader = csv.reader(file, delimiter=separator)
    rows, lines, before = [], [], 0
    for row in reader:
        if any(one.strip() for one in row):
            rows.append(row)
            lines.append(before + 1)
        before = reader.line_num
    return separator, rows, lines


def _number(text):
    """The number that a text is; None for none."""
    try:
        return float(text)
    except ValueError:
        return None


def _moment(text):
    """The moment that a text without a zone is, to the second; None for none, and for one beyond
    those that are counted in nanoseconds."""
    try:
        found = np.datetime64(_universal(text)[0], "s")
    except ValueError:
        return None
    return (
        found
        if _YEARS[0] <= found.astype("datetime64[Y]").astype(int) + 1970 <= _YEARS[1]
        else None
    )


def _universal(text):
    """(a moment without its zone, minutes that the zone is before the universal time)."""
    found = _ZONED.match(text)
    if found is None or found[2] == "Z":
        return (text, 0) if found is None else (found[1], 0)
    digits = found[2][1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return found[1], minutes if found[2][0] == "+" else -minutes


def _parsed(texts: Shaped[np.ndarray, " N"], comma: bool, where: str) -> Shaped[np.ndarray, " N"]:
    """Text as numbers where all of it is, as moments where all of it is, as itself otherwise."""
    known = ~np.isin(np.char.lower(texts), _MISSING)
    if not known.any():
        return np.full(len(texts), np.nan)
    given = texts[known]
    if comma and (np.char.find(given, ",") >= 0).any():
        points = np.char.replace(given, ",", ".")
        numbers = [_number(one) is not None for one in points]
        if all(numbers):
            say(f"{where}: decimal commas; {str(given[0])!r} taken as {points[0]}")
        if 2 * sum(numbers) > len(numbers):
            given = points
    try:
        found = np.full(len(texts), np.nan)
        found[known] = given.astype(np.float64)
        return found
    except ValueError:
        pass
    if any(_moment(one) is None for one in given):
        found = texts.copy()
        found[known] = given
        return found
    plain, minutes = zip(*map(_universal, given), strict=True)
    if any(minutes):
        first = next(one for one, behind in zip(given, minutes, strict=True) if behind)
        say(f"{where}: moments with a zone, such as {str(first)!r}; taken as universal time")
    found = np.full(len(texts), np.datetime64("NaT"), "datetime64[ns]")
    found[known] = np.array(plain, "datetime64[ns]") - np.array(minutes, "timedelta64[m]")
    return found


def _typed(column):
    """Numbers as float64, moments to the nanosecond, the rest as text."""
    if column.dtype.kind in "biuf":
        return np.array(column, np.float64)
    if column.dtype.kind == "M":
        years = column[~np.isnat(column)].astype("datetime64[Y]").astype(int) + 1970
        if ((years >= _YEARS[0]) & (years <= _YEARS[1])).all():
            return np.array(column, "datetime64[ns]")
    numbers = (float, int, np.number, decimal.Decimal, type(None))
    if column.dtype == object and all(isinstance(one, numbers) for one in column):
        return np.array([np.nan if one is None else float(one) for one in column], np.float64)
    return _words(column)


def _words(column):
    """Entries as text, '' for none."""
    kind = column.dtype.kind
    if kind == "f":
        known = column[np.isfinite(column)]
        whole = (known == np.round(known)).all() and (np.abs(known) < _EXACT).all()
        return np.array(
            ["" if one != one else str(int(one)) if whole else str(one) for one in column]
        )
    if kind == "M":
        words = [str(one) for one in column.astype("datetime64[s]")]
        words = ["" if one == "NaT" else one.removesuffix("T00:00:00") for one in words]
        return np.array(words, str)
    return np.array([_word(one) for one in column], str)


def _word(one):
    if isinstance(one, bytes):
        return one.decode(errors="backslashreplace")
    return "" if one is None else str(one)
