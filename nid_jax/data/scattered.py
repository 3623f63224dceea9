"""Signals that share no grid: scattered samples of fields, in coordinates of their own.

Of .csv, .parquet and .npz files with a column for each coordinate and channel, and one that says
which signal a row belongs to, or a file for each signal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.coding.operators import Operator, sample
from nid_jax.data import tables
from nid_jax.data.frames import Frame, Scale, told_apart
from nid_jax.data.listing import find_files
from nid_jax.data.outliers import doubt_of_outliers
from nid_jax.data.roles import (
    check_angles,
    check_numbers,
    roles_of,
    say_far,
    turned_into,
    unit_of,
)
from nid_jax.data.splitting import configured_size, split_of_names
from nid_jax.data.ways import WaysCollection
from nid_jax.errors import ArgumentError
from nid_jax.notices import say

GRIDS = {1: (256,), 2: (32, 32), 3: (16, 16, 16), 4: (8, 8, 8, 8)}
"""What signals of D coordinates are drawn on where data.size does not say."""
# Squares of what is rendered in own units are float32 as well.
_MOST = float(np.sqrt(np.finfo(np.float32).max)) / 2
_DAY, _DAYS = np.timedelta64(1, "D"), "days since "


class Table(NamedTuple):
    """Rows of files as they are: coordinates [P, D] and values [P, C] of each signal."""

    coordinates: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    axes: tuple[tuple[str, str], ...]
    """(name, unit) of each coordinate."""
    channels: tuple[str, ...]


class PointsCollection(WaysCollection):
    """S signals, each known at points of its own, in the coordinates and units of a frame.

    Beside a `WaysCollection`: frame; points(i) [P, D] in [-1, 1]. Signals of the same points share
    a way. [i] is the values [P, C], scaled to 0 to 1 by the frame.

    Args:
      coordinates: of each signal, [P, D] in own units.
      values: of each signal, [P, C] in own units.
      frame: that these lie in; values may go beyond its range.
      grid_shape: of the grid that signals are drawn on.
      names, title: see `WaysCollection`.

    Raises:
      ValueError: as `WaysCollection`, and naming the signal for points outside the frame.
    """

    def __init__(
        self,
        coordinates: Sequence[Float[np.ndarray, "P D"]],
        values: Sequence[Float[np.ndarray, "P C"]],
        frame: Frame,
        grid_shape: Sequence[int],
        names: Sequence[str],
        title: str,
    ):
        self.frame = frame
        numbers: dict[bytes, int] = {}
        ways: list[Operator] = []
        way = []
        for name, one in zip(names, coordinates, strict=True):
            try:
                points = frame.inside(one)
            except ArgumentError as error:
                raise ValueError(f"{title}: signal {name!r}: {error}") from error
            key = points.tobytes()
            if key not in numbers:
                numbers[key] = len(ways)
                ways.append(sample(points))
            way.append(numbers[key])
        scaled = [frame.scaled(one) for one in values]
        super().__init__(scaled, ways, way, grid_shape, names, title)

    def points(self, index: int) -> Float[np.ndarray, "P D"]:
        """Where a signal was measured, in [-1, 1]."""
        return np.asarray(self.ways[self.way(index)].points)


def take_frame(points: ConfigDict, frame: Frame, signal: str = "") -> None:
    """Let config.data.points read new data in the frame that a dictionary learned in.

    signal: the column that told signals apart then; '' leaves what the config has. Raises
    ValueError, naming the key, where it has another frame or range already.
    """
    learned = {
        "frame": tuple((axis.low, axis.high) for axis in frame.axes),
        "range": tuple((channel.low, channel.high) for channel in frame.channels),
    }
    for key, value in learned.items():
        given = _pairs(key, points[key], len(value))
        if given is not None and tuple(map(tuple, given)) != value:
            raise ArgumentError(f"data.points.{key}", tuple(points[key]), f"{value}, as learned")
    days = [axis.unit.removeprefix(_DAYS) for axis in frame.axes if axis.unit.startswith(_DAYS)]
    learned["coordinates"] = tuple(points.coordinates) or tuple(axis.name for axis in frame.axes)
    learned["channels"] = tuple(points.channels) or tuple(one.name for one in frame.channels)
    learned["units"] = units = tuple(one.unit for one in frame.channels)
    given = tuple(points.units)
    if given != units[: len(given)]:
        raise ArgumentError("data.points.units", given, f"{units}, as learned")
    with points.unlocked(), points.ignore_type():
        points.update({**learned, "since": days[0] if days else ""})
        points.signal = signal or points.signal


def open_points(config: ConfigDict, split: str, seed: int) -> PointsCollection:
    """data.root: a .csv, .parquet or .npz file of signals, or a folder with a file for each.

    data.points names columns, the frame and the range of values, see `configs.parts.data`. A folder
    with train/ and test/ has its splits there; others are split by signal, by data.test_fraction
    and the seed. data.size: the grid that signals are drawn on. Raises FileNotFoundError, and
    ValueError naming the file, the column or the key.
    """
    wanted = config.points
    table = _read(config)
    names = list(table.coordinates)
    frame = _frame(table, wanted, config.root)
    shape = configured_size(config, len(frame.axes)) or GRIDS[len(frame.axes)]
    chosen = split_of_names(names, config, split, seed)
    names = [names[index] for index in chosen]
    return PointsCollection(
        [table.coordinates[name] for name in names],
        [table.values[name] for name in names],
        frame,
        shape,
        [name.removeprefix(f"{split}/") for name in names],
        str(config.root),
    )


# ---- files to signals ---------------------------------------------------------------------------


def _read(config) -> Table:
    """The signals of data.root, in their own units."""
    root, files = _files(config)
    columns = {name: tables.read_table(path) for name, path in files.items()}
    first, many = next(iter(columns)), len(files) > 1
    where = str(files[first] if many else root)
    roles = roles_of(columns[first], config.points, where, one_file=not many)
    coordinates, values = _signals(columns, files, roles, root)
    moments = _since(columns, roles, config.points)
    coordinates = {name: _without_moments(own, moments, roles) for name, own in coordinates.items()}
    coordinates = check_angles(roles.coordinates, coordinates, str(root))
    said = say_far(roles.coordinates, coordinates, str(root))
    _say_outliers(coordinates, roles.coordinates, root, "", said)
    frame = _pairs("frame", config.points.frame, len(roles.coordinates))
    if frame is not None:
        coordinates = turned_into(frame, roles.coordinates, coordinates)
    _drop_duplicates(coordinates, values, root)
    _say_single(coordinates, root)
    axes = tuple(
        (name, unit_of(name, f"{_DAYS}{moments[name]}" if name in moments else ""))
        for name in roles.coordinates
    )
    return Table(coordinates, values, axes, roles.values)


def _files(config):
    """data.root, and the files that are read by name: that one, or those of a folder."""
    if not config.root:
        raise ValueError(
            f"data.root is empty: data.name={config.name!r} reads .csv, .parquet and .npz files"
        )
    root, kinds = Path(config.root).expanduser(), ", ".join(tables.EXTENSIONS)
    if root.is_dir():
        paths = find_files(root, tables.EXTENSIONS, "file", needs=tables.NEEDS)
        if not paths:
            raise FileNotFoundError(
                f"data.root={config.root!r}: no file in it that ends in {kinds}"
            )
        names = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
        if len(set(names)) < len(names):
            names = [path.relative_to(root).as_posix() for path in paths]
        return root, dict(zip(names, paths, strict=True))
    if not root.exists():
        raise FileNotFoundError(f"data.root={config.root!r}: no such file or folder")
    if root.suffix.lower() not in tables.EXTENSIONS:
        way = tables.NEEDS.get(root.suffix.lower())
        hint = f"; {way} makes one" if way else ""
        raise ValueError(f"data.root={config.root!r}: allowed: {kinds}, or a folder of them{hint}")
    return root, {root.stem: root}


def _signals(columns, files, roles, root):
    """Coordinates, moments among them as they are, and values of each signal, by name."""
    coordinates, values, rows, missing = {}, {}, 0, 0
    for name, table in columns.items():
        path = files[name]
        absent = [one for one in (*roles.coordinates, *roles.values) if one not in table]
        if absent:
            raise ValueError(f"{path}: no column {absent[0]!r}; has {', '.join(table)}")
        check_numbers(table, roles.coordinates, roles.values, path)
        for signal, places in _groups(table, roles, name, len(files) > 1, path).items():
            coordinates[signal], values[signal] = _rows(table, roles, places, signal, path)
            rows += len(places)
            missing += len(places) - len(values[signal])
    if missing:
        say(f"{root}: {missing} of {rows} rows have no value (NaN); taken as not measured")
    return coordinates, values


def _groups(table, roles, name, many, path):
    """Rows of each signal of a file, in the order of the signals' names."""
    if not roles.signal or (many and roles.signal not in table):
        count = len(next(iter(table.values())))
        return {name: np.arange(count)}
    labels = table.labels(roles.signal)
    if not labels.all():
        missing = table.place(int((labels == "").argmax()))
        raise ValueError(f"{path}: {roles.signal} is missing in {missing}; allowed: a label")
    distinct, of = np.unique(labels, return_inverse=True)
    order = np.argsort(of, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(of))[:-1])
    prefix = f"{name}/" if many else ""
    named = zip(distinct.tolist(), parts, strict=True)
    return {f"{prefix}{word}": rows for word, rows in sorted(named, key=_in_order(distinct))}


def _in_order(words):
    """Of (word, ..) the key to sort by: numbers by their size, where all words are."""
    try:
        numbers = {word: int(word) if word.isdecimal() else float(word) for word in words.tolist()}
    except ValueError:
        return lambda named: named[0]
    return lambda named: (numbers[named[0]], named[0])


def _rows(table, roles, rows, signal, path):
    """Coordinates [P, D], moments among them as they are, and values [P, C] of one signal."""
    values = np.stack([table[name][rows] for name in roles.values], -1)
    own = [table[name][rows] for name in roles.coordinates]
    for name, column in zip(roles.coordinates, own, strict=True):
        bad = np.isnat(column) if column.dtype.kind == "M" else ~np.isfinite(column)
        if bad.any():
            raise ValueError(
                f"{path}: signal {signal!r} has {name} {column[bad][0]} in "
                f"{table.place(int(rows[bad.argmax()]))}; allowed: finite numbers"
            )
    far = np.abs(values) > _MOST
    if far.any():
        row, channel = np.argwhere(far)[0]
        raise ValueError(
            f"{path}: signal {signal!r} has {roles.values[channel]} {values[row, channel]} in "
            f"{table.place(int(rows[row]))}; allowed: numbers up to {_MOST:.2g}, or NaN"
        )
    known = ~np.isnan(values).any(-1)
    if not known.any():
        raise ValueError(
            f"{path}: signal {signal!r} has no value at all, {len(rows)} rows without; allowed: 1 "
            "or more of each signal; its rows left out leave it out"
        )
    return [column[known] for column in own], values[known]


def _since(columns, roles, wanted):
    """Of columns of moments the day that they are counted from."""
    try:
        given = np.datetime64(wanted.since) if wanted.since else None
    except ValueError:
        given = np.datetime64("NaT")
    if given is not None and np.isnat(given):
        allowed = "a day such as '2026-11-28', or ''"
        raise ArgumentError("data.points.since", wanted.since, allowed)
    found = {}
    for name in roles.coordinates:
        every = [table[name] for table in columns.values()]
        kinds = {column.dtype.kind for column in every}
        if kinds == {"M"}:
            first = min(column.min() for column in every)
            found[name] = np.datetime64(first, "D") if given is None else given
        elif "M" in kinds:
            raise ValueError(f"column {name!r}: moments in some files, numbers in others")
    return found


def _without_moments(own, moments, roles):
    numbers = [
        (column - moments[name]) / _DAY if name in moments else column
        for name, column in zip(roles.coordinates, own, strict=True)
    ]
    return np.stack(numbers, -1).astype(np.float64)


def _drop_duplicates(coordinates, values, where):
    """Rows that say the same twice are taken once; how many there were is said."""
    repeated, several = {}, {}
    for name, points in coordinates.items():
        both = np.concatenate([points, values[name]], -1)
        first = np.sort(np.unique(both, axis=0, return_index=True)[1])
        coordinates[name], values[name] = points[first], values[name][first]
        places = len(np.unique(coordinates[name], axis=0))
        if len(first) < len(both):
            repeated[name] = len(both) - len(first)
        if places < len(first):
            several[name] = len(first) - places
    for counts, what in (
        (repeated, "duplicate rows; taken once"),
        (several, "rows at a point that has another value too; taken as repeated measurements"),
    ):
        if counts:
            said = f"{sum(counts.values())} {what}"
            say(f"{where}: {said} ({len(counts)} signals, {next(iter(counts))!r} among them)")


def _say_single(coordinates, where):
    single = [name for name, points in coordinates.items() if len(points) == 1]
    if single:
        say(
            f"{where}: {len(single)} of {len(coordinates)} signals have 1 point ({single[0]!r}), "
            "which says little more than their level"
        )


# ---- the frame ----------------------------------------------------------------------------------


def _frame(table, wanted, where):
    """The frame of data.points.frame and data.points.range, or of all the signals."""
    lows, highs = _ends(table.coordinates.values())
    asked = _pairs("frame", wanted.frame, len(table.axes))
    axes = []
    for number, (name, unit) in enumerate(table.axes):
        low, high = (lows[number], highs[number]) if asked is None else asked[number]
        if low == high:
            raise ValueError(
                f"{where}: {name} is {low:.6g} everywhere; allowed: coordinates that differ, "
                "data.points.coordinates names those"
            )
        axes.append(Scale(name, unit, float(low), float(high)))
    if asked is not None:
        _check_inside(table.coordinates, axes, where)
    lows, highs = _ends(table.values.values())
    asked = _pairs("range", wanted.range, len(table.channels))
    unknown = "; an empty entry is one that was not measured"
    _say_outliers(table.values, table.channels, where, unknown)
    units = tuple(wanted.units)
    if len(units) > len(table.channels):
        allowed = f"at most {len(table.channels)}, of {', '.join(table.channels)}"
        raise ArgumentError("data.points.units", units, allowed)
    channels = []
    for number, name in enumerate(table.channels):
        low, high = (lows[number], highs[number]) if asked is None else asked[number]
        if low == high:
            say(f"{where}: {name} is {low:.6g} everywhere")
            high = low + 1
        unit = str(units[number]) if number < len(units) else ""
        channels.append(Scale(name, unit, float(low), float(high)))
    return Frame(tuple(axes), tuple(channels))


def _say_outliers(parts, names, where, advice, known=()):
    """What lies far from everything else, of each coordinate or channel, takes most of its span.

    known: names that need no word any more.
    """
    for name, values in zip(names, np.concatenate(list(parts.values())).T, strict=True):
        doubt = "" if name in known else doubt_of_outliers(values)
        if doubt:
            say(f"{where}: {name}: {doubt}; taken as measured{advice}")


def _check_inside(coordinates: Mapping[str, np.ndarray], axes: Sequence[Scale], where: str) -> None:
    """Raise ValueError for points outside the frame, with how many there are."""
    count, total, example = 0, 0, ""
    for name, points in coordinates.items():
        total += len(points)
        for number, axis in enumerate(axes):
            far = axis.beyond(points[:, number])
            count += int(far.sum())
            if far.any() and not example:
                own, low, high = told_apart(points[far, number][0], axis.low, axis.high)
                example = f"signal {name!r} has {axis.name} {own}, outside {low} to {high}"
    if count:
        raise ValueError(
            f"data.points.frame: {where}: {example}; {count} coordinates of {total} points are "
            "outside; allowed: a frame that holds them, or () when a dictionary is learned"
        )


def _ends(parts):
    parts = list(parts)
    return np.min([one.min(0) for one in parts], 0), np.max([one.max(0) for one in parts], 0)


def _pairs(key, given, count):
    """((low, high), ...) of a key, None where it is empty. Raises ValueError."""
    given = tuple(given or ())
    if not given:
        return None
    allowed = f"{count} pairs (low, high) of finite numbers, low < high, or ()"
    try:
        pairs = np.array(given, np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"data.points.{key}", given, allowed) from None
    good = pairs.shape == (count, 2) and (np.abs(pairs) <= _MOST).all()
    if not good or not (pairs[:, 1] - pairs[:, 0] >= 1 / _MOST).all():
        raise ArgumentError(f"data.points.{key}", given, allowed)
    return pairs.tolist()
