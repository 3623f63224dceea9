"""Oriented point clouds in text of any columns and in PLY, read as points and normals."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from plyfile import PlyData

from nid_jax import errors
from nid_jax.data import arrayfiles
from nid_jax.geometry import plyfiles
from nid_jax.geometry.orientation import facing
from nid_jax.notices import say

CLOUDS_ONLY = (".xyz", ".ply", ".xyzn", ".pts", ".asc")
"""Endings of files that hold clouds and nothing else."""
TEXT = (".txt", ".csv")
"""Endings of files that may hold clouds."""
NORMALS = ("auto", "given")
"""What is done with normals that look inwards: turned round, or left."""
LEAST_POINTS = 8

_AXES = ("x", "y", "z")
# Names of the components of a normal, in lower case without what is no letter.
_NORMAL_NAMES = tuple(
    tuple(before + axis + after for before, after in (("n", ""), ("normal", ""), ("normals", "")))
    for axis in _AXES
)
_POINT_NAMES = tuple((axis, f"coord{axis}", f"{axis}coord", f"point{axis}") for axis in _AXES)
# Lengths of normals that were brought to one, but for rounding.
_UNIT = 0.05
# Less than this is enclosed by normals of an open surface, or of one of which some are turned.
_ENCLOSED = 0.5
# Share of neighbours whose normals look opposite ways.
_DISAGREEING = 0.1
_COMMENT = re.compile(r"^\s*(#|//|%|;)+")


def read_cloud(
    path: str | Path, normals: str = "auto"
) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, "Q 3"]]:
    """Points [Q, 3] and unit normals [Q, 3] of a text file or .ply, in doubles.

    Text has a point a line, separated by blanks, commas, semicolons or tabs, with comments and a
    header or none. Which columns are normals the header says; without one, or with more than six
    columns, their lengths do. A .ply mesh gives its vertices. normals: 'auto' turns normals round
    that look into a closed surface, with a notice; 'given' leaves them. Raises FileNotFoundError,
    and ValueError naming the file, for one that holds something else, fewer than 8 points, no
    normals, NaN, or normals of length zero.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    points, directions = _read_ply(path) if path.suffix.lower() == ".ply" else _read_text(path)
    if len(points) < LEAST_POINTS:
        raise ValueError(f"{path}: {len(points)} points; at least {LEAST_POINTS} are needed")
    if not (np.isfinite(points).all() and np.isfinite(directions).all()):
        raise ValueError(f"{path}: holds NaN or infinity")
    lengths = np.linalg.norm(directions, axis=1)
    if not (lengths > 0).all():
        raise ValueError(f"{path}: the normal of point {int(lengths.argmin())} has length zero")
    if not np.ptp(points, axis=0).any():
        raise ValueError(f"{path}: all of its points are one and the same")
    return points, _outward(points, directions / lengths[:, None], normals, path)


def _outward(points, normals, wanted, path):
    """The normals, turned round where they look inwards; notices of those that disagree."""
    found = facing(points, normals)
    if found.disagreeing > _DISAGREEING:
        say(
            f"{path}: normals of neighbouring points look opposite ways ({found.disagreeing:.0%}): "
            "some are turned, or walls are thinner than points lie apart; taken as they are"
        )
    elif abs(found.enclosed) < _ENCLOSED:
        say(
            f"{path}: normals enclose little ({found.enclosed:.2f}; 1 is outwards, -1 inwards): an "
            "open surface, or one some of whose normals are turned; taken as they are"
        )
    if found.enclosed < -_ENCLOSED and wanted == "auto":
        say(f"{path}: normals look inwards; turned round; data.normals=given leaves them")
        return -normals
    return normals


# ---- PLY -----------------------------------------------------------------------------------


def _read_ply(path):
    try:
        plyfiles.check_counts(path)
        data = PlyData.read(path)
        vertices = data["vertex"].data if "vertex" in data else np.empty(0, [])
        names = list(vertices.dtype.names or ())
        columns = _named(names)
        if None not in columns:
            rows = [np.asarray(vertices[names[column]], np.float64) for column in columns]
    except Exception as error:  # of damaged files plyfile raises what they lead it to
        reason = errors.reason(error)
        raise ValueError(f"{path}: cannot be read as PLY ({reason})") from error
    if None in columns:
        what, wanted = ("points", "x, y, z") if None in columns[:3] else ("normals", "nx, ny, nz")
        there = f"; there are {', '.join(names)}" if names else ""
        raise ValueError(f"{path}: has no {what}; expected the vertex properties {wanted}{there}")
    return np.stack(rows[:3], 1), np.stack(rows[3:], 1)


def _named(names):
    """Columns of x, y, z and of the normal's components by their names; None where absent."""
    bare = [re.sub(r"[\[(].*", "", name.lower().removeprefix("scalar_")) for name in names]
    plain = [re.sub(r"[^a-z]", "", name) for name in bare]
    wanted = (*_POINT_NAMES, *_NORMAL_NAMES)
    return [next((plain.index(name) for name in some if name in plain), None) for some in wanted]


# ---- text ----------------------------------------------------------------------------------


class _Text(NamedTuple):
    """Rows of numbers [Q, K], and lines before them that name columns, as words."""

    rows: np.ndarray
    headers: list[list[str]]


def _read_text(path):
    text = _parsed(path)
    count = text.rows.shape[1]
    names = _header(text.headers, count, path) if len(text.rows) else []
    columns = _named(names)
    if names and None not in columns:
        return text.rows[:, columns[:3]], text.rows[:, columns[3:]]
    if names:
        raise ValueError(f"{path}: no columns nx ny nz among {' '.join(names)}: no normals")
    if len(text.rows) and count < 6:
        raise ValueError(
            f"{path}: {count} numbers a line; expected 6: x y z and the normal nx ny nz"
        )
    if len(text.rows) and count > 6 and _counts(text.rows[:, 0]):
        say(f"{path}: column 1 of {count} counts the lines; columns 2 to 4 taken as points")
        text = text._replace(rows=text.rows[:, 1:])
    start = _normals_at(text.rows, path) if len(text.rows) else 3
    return text.rows[:, :3], text.rows[:, start : start + 3]


def _header(headers, count, path):
    """Names of `count` columns by the last line that has them; [] where no line does.

    A word before them, such as 'Columns:', is none of them. Raises ValueError for a line of names
    of points and normals that are not as many.
    """
    found = []
    for words in headers:
        while len(words) > count and _is_other(words[0]):
            words = words[1:]
        whole = None not in _named(words)
        if len(words) == count and (whole or not found):
            found = words
    complete = [words for words in headers if None not in _named(words)]
    if complete and not found:
        words = complete[-1]
        raise ValueError(
            f"{path}: its header names {len(words)} columns ({' '.join(words)}), but lines have "
            f"{count} numbers"
        )
    return found


def _is_other(word):
    """Whether a word is no name of a point's or a normal's component."""
    return all(place is None for place in _named([word]))


def _counts(column):
    """Whether numbers [Q] are those of lines, from any on."""
    return len(column) > 2 and bool((np.diff(column) == 1).all())


def _normals_at(rows, path):
    """The first of the three columns that are normals, told by their lengths and signs."""
    count = rows.shape[1]
    if count == 6:
        values = rows[:, 3:]
        if (values >= 0).all() and not _unit(values):
            most = f"{values.max():g}"
            raise ValueError(
                f"{path}: the last three of its six columns look like colours, from "
                f"{values.min():g} to {most}; needs normals: x y z nx ny nz"
            )
        lengths = np.linalg.norm(values, axis=1)
        if not _unit(values) and lengths.all():
            say(
                f"{path}: columns 4 to 6 taken as normals, of lengths {lengths.min():.3g} to "
                f"{lengths.max():.3g}"
            )
        return 3
    found = [at for at in range(3, count - 2) if _unit(rows[:, at : at + 3])]
    if len(found) != 1:
        raise ValueError(
            f"{path}: {count} numbers a line without a header, and not one group of three that are "
            "normals by their lengths; put names before them, such as: x y z r g b nx ny nz"
        )
    say(
        f"{path}: columns {found[0] + 1} to {found[0] + 3} of {count} taken as normals, the first "
        "three as points"
    )
    return found[0]


def _unit(values):
    """Whether nearly all rows [Q, 3] have length one, as normals have."""
    lengths = np.linalg.norm(values, axis=1)
    return bool((np.abs(lengths - 1) < _UNIT).mean() > 0.95)


def _parsed(path) -> _Text:
    headers, numbers = [], []
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    split = arrayfiles.splitter(lines)
    for number, line in enumerate(lines, 1):
        comment = _COMMENT.match(line)
        words = split(line[comment.end() :] if comment else line)
        if not words:
            continue
        values = None if comment else arrayfiles.floats(words)
        if values is not None:
            numbers.append(values)
        elif numbers and not comment:
            raise ValueError(
                f"{path}: cannot be read as lines of numbers (line {number}: {line.strip()[:40]!r})"
            )
        elif not numbers and None not in _named(words)[:3]:
            headers.append(words)
        elif not comment:
            raise ValueError(
                f"{path}: cannot be read as lines of numbers (line {number}: {line.strip()[:40]!r})"
            )
    # .pts begins with how many points there are.
    if len(numbers) > 1 and len(numbers[0]) == 1 and numbers[0][0] == len(numbers) - 1:
        numbers = numbers[1:]
    return _Text(_rectangular(numbers, path), headers)


def _rectangular(numbers, path):
    counts = sorted({len(row) for row in numbers})
    if len(counts) > 1:
        raise ValueError(f"{path}: lines have {counts[0]} to {counts[-1]} numbers, not all as many")
    return np.array(numbers, np.float64).reshape(len(numbers), -1 if numbers else 6)
