"""Which columns of a table say the signal, the coordinates and the values; units of angles."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from nid_jax.data.tables import Columns
from nid_jax.notices import say

# Names of coordinates, in the order of the axes: the last is drawn to the right.
_AXES = (
    ("time", "t", "datetime", "date", "timestamp"),
    ("z", "depth", "level", "altitude", "elevation", "height"),
    ("y", "lat", "latitude", "northing"),
    ("x", "lon", "lng", "long", "longitude", "easting"),
)
_VALUES = ("value", "values")
_SIGNAL = "signal"
LATITUDES, LONGITUDES = ("lat", "latitude"), ("lon", "lng", "long", "longitude")
MOST_AXES = 4
# Names that an error lists; columns of numbers of a table that may have one for each place.
_SHOWN, _WIDE = 12, 6


@dataclasses.dataclass(frozen=True)
class Roles:
    """Names of columns. signal: '' where a file is one signal."""

    signal: str
    coordinates: tuple[str, ...]
    values: tuple[str, ...]


def roles_of(columns: Columns, config: ConfigDict, where: str, one_file: bool = False) -> Roles:
    """The roles of a table's columns by data.points, guessed aloud where it does not say.

    config: data.points; one_file: whether the table holds all signals, so that a column has to tell
    them apart. Raises ValueError naming a column that is not there or not of numbers, and where no
    column is obvious.
    """
    there = _listed(columns)
    signal = config.signal or (_SIGNAL if _SIGNAL in columns else "")
    asked = {"coordinates": tuple(config.coordinates), "channels": tuple(config.channels)}
    for key, names in (*asked.items(), ("signal", (signal,) if signal else ())):
        for name in names:
            if name not in columns:
                raise ValueError(f"{where}: no column {name!r}, data.points.{key}; has {there}")
    if one_file and not signal:
        words = [name for name, column in columns.items() if column.dtype.kind != "f"]
        raise ValueError(
            f"{where}: no column 'signal' says which signal a row belongs to; data.points.signal="
            f"NAME is one of {_listed(words or columns)}, and a folder has a file for each signal"
        )
    coordinates = asked["coordinates"] or _coordinates(columns, {signal, *asked["channels"]})
    if not 1 <= len(coordinates) <= MOST_AXES:
        named = "data.points.coordinates=('x','y') or the like names them"
        raise ValueError(
            f"{where}: {len(coordinates)} coordinates among its columns {there}; allowed: 1 to "
            f"{MOST_AXES}, {named}{_wide(columns, signal)}"
        )
    check_distinct((*coordinates, *((signal,) if signal else ())), where)
    values = asked["channels"] or _values(columns, {signal, *coordinates}, where)
    chosen = (*coordinates, *values, *((signal,) if signal else ()))
    check_distinct(chosen, where)
    check_numbers(columns, coordinates, values, where)
    if not (asked["coordinates"] and asked["channels"]):
        passed = [name for name in columns if name not in chosen]
        rest = f"; passed over: {', '.join(passed)}" if passed else ""
        whose = f"signals by {signal}, " if signal else ""
        say(
            f"{where}: {whose}coordinates {', '.join(coordinates)}, values {', '.join(values)}"
            f"{rest}; data.points.coordinates and channels say otherwise"
        )
    return Roles(signal, coordinates, values)


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise ValueError for a column of two roles."""
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: a column has two roles among {', '.join(names)}; allowed: 1")


def check_numbers(
    columns: Columns, coordinates: Sequence[str], values: Sequence[str], where: str | Path
) -> None:
    """Raise ValueError for coordinates that are no numbers or moments, and values no numbers."""
    for name in (*coordinates, *values):
        kind = columns[name].dtype.kind
        if kind == "M" and name in values:
            raise ValueError(f"{where}: {name} holds moments; allowed: numbers")
        if found := columns.odd(name):
            moments = ", or moments of the years 1678 to 2261" if name in coordinates else ""
            text, place = found
            raise ValueError(
                f"{where}: {name} holds {text!r} in {place}; allowed: numbers{moments}"
            )


def _coordinates(columns, taken):
    lower = {name.strip().lower(): name for name in columns if name not in taken}
    found = []
    for names in _AXES:
        found += [lower[name] for name in names if name in lower][:1]
    return tuple(found or [name for name in columns if name.startswith("coordinates")])


def _values(columns, taken, where):
    rest = [name for name in columns if name not in taken]
    named = [name for name in rest if name.strip().lower().partition("_")[0] in _VALUES]
    numbers = [name for name in rest if columns[name].dtype.kind == "f"]
    texts = [name for name in rest if columns[name].dtype.kind == "U"]
    spoilt = [name for name in texts if columns.mostly_numbers(name) or rest == texts == [name]]
    if spoilt and not named:
        text, place = columns.odd(spoilt[0])
        raise ValueError(
            f"{where}: {spoilt[0]} holds {text!r} in {place}; allowed: numbers; "
            "data.points.channels=('NAME',) names other columns of values"
        )
    if named or len(numbers) == 1:
        return tuple(named or numbers)
    listed = _listed(numbers or rest) or "none"
    raise ValueError(
        f"{where}: which columns are values? beside coordinates it has {listed}; "
        f"data.points.channels=('NAME',) names them{_wide(columns, '')}"
    )


def _listed(names):
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _wide(columns, signal):
    """What to do with a table that has a column for each place, in words; '' where it is none."""
    numbers = [name for name in columns if name != signal and columns[name].dtype.kind == "f"]
    if len(numbers) < _WIDE:
        return ""
    words = signal or next((name for name in columns if name not in numbers), "signal")
    return (
        f"; a column for each place ({numbers[0]}, {numbers[1]}, ...) is turned into rows first: "
        f"pandas.melt(table, {words!r}), then merged with the places' coordinates (docs/fields.md)"
    )


def unit_of(name: str, moments: str) -> str:
    """The unit of a coordinate as far as its name tells. moments: 'days since ...', '' for none."""
    if moments:
        return moments
    return "degrees" if name.strip().lower() in (*LATITUDES, *LONGITUDES) else ""


def check_angles(
    names: Sequence[str], signals: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """Coordinates [P, D] of signals whose latitude and longitude are degrees, said; others as is.

    Longitudes on both sides of the date line go on beyond 180. Raises ValueError for angles that no
    degrees are, and where some signals have radians and others degrees.
    """
    lower = [name.strip().lower() for name in names]
    lat = next((k for k, name in enumerate(lower) if name in LATITUDES), None)
    lon = next((k for k, name in enumerate(lower) if name in LONGITUDES), None)
    found = dict(signals)
    if lat is None or lon is None:
        return found
    for axis, most in ((lat, 90), (lon, 360)):
        for name, points in signals.items():
            far = np.abs(points[:, axis]) > most
            if far.any():
                raise ValueError(
                    f"{where}: signal {name!r} has {names[axis]} {points[far, axis][0]:.6g}; "
                    f"allowed: -{most} to {most} degrees; data.points.coordinates=('lat','lon') "
                    "or the like says which column is which"
                )
    _check_radians(names, signals, (lat, lon), where)
    _say_swapped(names, signals, (lat, lon), where)
    every = np.concatenate([points[:, [lat, lon]] for points in signals.values()])
    (south, west), (north, east) = every.min(0), every.max(0)
    small = np.abs(every[:, 0]).max() <= np.pi / 2 and np.abs(every[:, 1]).max() <= np.pi
    doubt = "; are they radians? 180/pi times them would be degrees" if small else ""
    say(
        f"{where}: {names[lat]} {south:.4g} to {north:.4g} and {names[lon]} {west:.4g} to "
        f"{east:.4g} taken as degrees, each stretched over an axis of its own{doubt}"
    )
    sorted_east = np.sort(every[:, 1])
    gaps = np.diff(sorted_east)
    if len(gaps) and gaps.max() > 180:
        say(f"{where}: {names[lon]} on both sides of the date line; goes on beyond 180")
        border = sorted_east[int(gaps.argmax())]
        for name, points in signals.items():
            found[name] = points.copy()
            found[name][:, lon] += 360 * (points[:, lon] <= border)
    return found


def turned_into(
    frame: Sequence[Sequence[float]], names: Sequence[str], signals: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Coordinates of signals whose longitudes are turned once round where a frame, (low, high) of
    each coordinate, then holds them."""
    found = dict(signals)
    for axis, (name, (low, high)) in enumerate(zip(names, frame, strict=True)):
        if name.strip().lower() in LONGITUDES:
            for signal, points in found.items():
                own = points[:, axis]
                turn = 360 * ((own < low) & (own + 360 <= high))
                turn = turn - 360 * ((own > high) & (own - 360 >= low))
                found[signal] = points.copy()
                found[signal][:, axis] += turn
    return found


def _check_radians(names, signals, axes, where):
    """Raise ValueError where some signals, times 180 / pi, lie where others are, and not as is."""
    most = np.array([np.pi / 2, np.pi])
    boxes = {
        name: (points[:, axes].min(0), points[:, axes].max(0)) for name, points in signals.items()
    }
    small = {
        name: box for name, box in boxes.items() if (np.abs(np.stack(box)) <= most + 1e-6).all()
    }
    large = [box for name, box in boxes.items() if name not in small]
    if not small or not large:
        return
    low = np.min([box[0] for box in large], 0)
    high = np.max([box[1] for box in large], 0)
    reach = 0.5 * (high - low) + 1
    for name, (least, furthest) in small.items():
        apart = (least > high + reach) | (furthest < low - reach)
        near = (np.degrees(least) <= high + reach) & (np.degrees(furthest) >= low - reach)
        if apart.any() and near.all():
            ends = [f"{a:.4g} to {b:.4g}" for a, b in zip(least, furthest, strict=True)]
            others = [f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)]
            raise ValueError(
                f"{where}: signal {name!r} has {names[axes[0]]} {ends[0]} and {names[axes[1]]} "
                f"{ends[1]}, radians where others have degrees ({', '.join(others)}); allowed: "
                "degrees in all"
            )


def _say_swapped(names, signals, axes, where):
    """Say which signals lie where others are with latitude and longitude exchanged, and not as
    they are."""
    boxes = {
        name: np.stack([points[:, axes].min(0), points[:, axes].max(0)])
        for name, points in signals.items()
    }
    usual = np.median([box.mean(0) for box in boxes.values()], 0)

    def away(box):
        return np.abs(box.mean(0) - usual).max()

    turned = {name for name, box in boxes.items() if away(box[:, ::-1]) < away(box) / 4}
    rest = [box for name, box in boxes.items() if name not in turned]
    if not turned or not rest:
        return
    low, high = (end(rest, axis=(0, 1)) for end in (np.min, np.max))
    reach = 0.5 * (high - low) + 1

    def among(box):
        return ((box >= low - reach) & (box <= high + reach)).all()

    found = [name for name in turned if among(boxes[name][:, ::-1]) and not among(boxes[name])]
    if found:
        first = min(found)
        lat, lon = (f"{a:.4g} to {b:.4g}" for a, b in boxes[first].T)
        say(
            f"{where}: {len(found)} of {len(signals)} signals ({first!r}, {names[axes[0]]} {lat}, "
            f"{names[axes[1]]} {lon}) lie where the others do with the two exchanged; taken as "
            "they are"
        )


# So many times as far from the middle as is usual there is probably another unit.
_OTHER_UNIT = 50.0


def say_far(names: Sequence[str], signals: Mapping[str, np.ndarray], where: str) -> list[str]:
    """Say which signals [P, D] reach so far beyond all others that their unit is probably another:
    the frame that holds them leaves the others little room. -> the names of their coordinates."""
    said = []
    for axis, label in enumerate(names):
        middle = np.median([np.median(points[:, axis]) for points in signals.values()])
        reach = {name: np.abs(points[:, axis] - middle).max() for name, points in signals.items()}
        usual = float(np.median(list(reach.values())))
        far = [name for name, one in reach.items() if one > _OTHER_UNIT * usual > 0]
        if far:
            said.append(label)
            points = signals[far[0]][:, axis]
            times = reach[far[0]] / usual
            say(
                f"{where}: {len(far)} of {len(signals)} signals ({far[0]!r}, {label} "
                f"{points.min():.4g} to {points.max():.4g}) reach {times:.0f} times as far in "
                f"{label} as is usual; in another unit? data.points.frame refuses them"
            )
    return said
