"""Polygons of any shape to triangles: convex ones as fans, the others by ear clipping.

A polygon's triangles depend on its corners alone, not on which of them is named first nor on
the way round, so that the two sides of a face that is there twice have the same triangles.
Letters: V vertices, F faces, C corners of all of them.
"""

import collections
from typing import NamedTuple

import mapbox_earcut
import numpy as np
from jaxtyping import Float, Int

# Of a polygon's area: less is rounding.
_ROUNDING = 1e-9
# Triangles that cover more or less than this of the area are those of one that crosses itself.
_COVERED = 1e-6


class Polygons(NamedTuple):
    """corners: vertices of all polygons, one after the other [C]; sizes: corners of each [F]."""

    corners: Int[np.ndarray, " C"]
    sizes: Int[np.ndarray, " F"]

    @classmethod
    def of(cls, rows: list[list[int]]) -> "Polygons":
        """From a list of lists of vertices."""
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        corners = np.fromiter((i for row in rows for i in row), np.int64, int(sizes.sum()))
        return cls(corners, sizes)


class Triangles(NamedTuple):
    """faces [T, 3]; left_out: how many polygons for what reason; crossed: that cross themselves."""

    faces: Int[np.ndarray, "T 3"]
    left_out: dict[str, int]
    crossed: int


def triangulated(vertices: Float[np.ndarray, "V 3"], polygons: Polygons) -> Triangles:
    """Polygons cut into triangles of the same turn, with no vertex more and none less.

    Concave ones and those with a bridge to a hole are cut in the plane of their Newell normal
    (mapbox earcut). Corners that repeat the one before are passed over. Polygons of fewer than
    three corners and those without area are left out and counted; triangles stay as they are.
    Raises ValueError naming a polygon's vertex that is not there.
    """
    corners, sizes = (np.asarray(part, np.int64) for part in polygons)
    _check(vertices, corners, sizes)
    if (sizes == 3).all():
        return Triangles(corners.reshape(-1, 3), {}, 0)
    _, places = np.unique(vertices, axis=0, return_inverse=True)
    places = places.reshape(-1)
    left_out: collections.Counter = collections.Counter()
    groups = _by_size(corners, sizes, places)
    found, crossed = [], 0
    for size, rows in groups.items():
        if size < 3:
            left_out["of fewer than three corners"] += len(rows)
        elif size == 3:
            found.append(rows)
        else:
            fans, rest = _fans(vertices, _canonical(rows, places))
            found.append(fans)
            for row, way in rest:
                faces, whole = _clipped(vertices, row)
                found.append(faces[:, ::way])
                left_out["without area"] += not len(faces)
                crossed += len(faces) > 0 and not whole
    faces = np.concatenate([*found, np.empty((0, 3), np.int64)])
    return Triangles(faces, dict(+left_out), crossed)


def _check(vertices, corners, sizes):
    absent = (corners < 0) | (corners >= len(vertices))
    if absent.any():
        first = int(absent.argmax())
        face = int(np.searchsorted(np.cumsum(sizes), first, side="right"))
        raise ValueError(
            f"face {face} has vertex {int(corners[first])}, but there are {len(vertices)}"
        )


def _by_size(corners, sizes, places):
    """{size: rows [m, size]}, without corners that repeat the one before."""
    starts = np.cumsum(sizes) - sizes
    groups = collections.defaultdict(list)
    for size in np.unique(sizes):
        rows = corners[starts[sizes == size][:, None] + np.arange(size)]
        if size > 3:
            own = places[rows]
            repeated = own == np.roll(own, 1, axis=1)
            spoiled = repeated.any(1)
            for row, same in zip(rows[spoiled], repeated[spoiled], strict=True):
                kept = row[~same]
                groups[len(kept)].append(kept[None])
            rows = rows[~spoiled]
        groups[int(size)].append(rows)
    merged = {size: np.concatenate(rows) for size, rows in sorted(groups.items())}
    return {size: rows for size, rows in merged.items() if len(rows)}


def _canonical(rows, places):
    """Rows [m, n] that begin at their lowest place and go on to the lower neighbour.

    -> rows, and 1 or -1 [m]: whether the way round is the given one.
    """
    size = rows.shape[1]
    first = places[rows].argmin(1)[:, None]
    rows = np.take_along_axis(rows, (first + np.arange(size)) % size, 1)
    own = places[rows]
    back = own[:, 1] > own[:, -1]
    rows[back] = np.concatenate([rows[back, :1], rows[back, :0:-1]], 1)
    return rows, np.where(back, -1, 1)


def _fans(vertices, canonical):
    """Triangles of those polygons that are right as fans, and [(row, way)] of the others."""
    rows, ways = canonical
    arms = vertices[rows[:, 1:]] - vertices[rows[:, :1]]
    doubled = np.cross(arms[:, :-1], arms[:, 1:])
    normal = doubled.sum(1)
    area = np.linalg.norm(normal, axis=1, keepdims=True)
    along = np.einsum("mtd,md->mt", doubled, normal / np.where(area > 0, area, 1))
    right = (area[:, 0] > 0) & (along >= -_ROUNDING * area).all(1)
    # A fan that turns more than once round its first corner, or lies folded, covers more.
    right &= np.linalg.norm(doubled, axis=2).sum(1) < 2 * area[:, 0]
    chosen = rows[right]
    first = np.broadcast_to(chosen[:, :1], chosen[:, 1:-1].shape)
    faces = np.stack([first, chosen[:, 1:-1], chosen[:, 2:]], -1)
    faces = np.where(ways[right][:, None, None] > 0, faces, faces[..., ::-1])
    return faces.reshape(-1, 3), list(zip(rows[~right], ways[~right], strict=True))


def _clipped(vertices, row):
    """One polygon by ear clipping -> triangles [T, 3], and whether they cover just its area."""
    points = vertices[row] - vertices[row[0]]
    normal = np.cross(points, np.roll(points, -1, axis=0)).sum(0)
    doubled = np.linalg.norm(normal)
    if not doubled > _ROUNDING * np.square(np.ptp(points, axis=0)).sum():
        return np.empty((0, 3), np.int64), False
    flat = points @ _plane(normal / doubled).T
    ends = np.array([len(row)], np.uint32)
    found = mapbox_earcut.triangulate_float64(flat, ends).reshape(-1, 3).astype(np.int64)
    if not len(found):
        return np.empty((0, 3), np.int64), False
    areas = _doubled_areas(flat, found)
    found[areas < 0] = found[areas < 0, ::-1]
    whole = abs(np.abs(areas).sum() - doubled) <= _COVERED * doubled
    return row[_with_all(found, len(row))], whole


def _plane(normal):
    """Two unit vectors [2, 3] that span the plane, the normal on their right-hand side."""
    side = np.eye(3)[np.abs(normal).argmin()]
    first = np.cross(side, normal)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first)])


def _doubled_areas(flat, faces):
    (a, b), (c, d) = (np.moveaxis(flat[faces[:, k]] - flat[faces[:, 0]], 1, 0) for k in (1, 2))
    return a * d - b * c


def _with_all(faces, size):
    """Triangles split at those of the corners 0 ... size - 1 that ear clipping left on edges.

    It takes no corner between two others on a line, where a neighbouring face may have one.
    """
    kept = np.unique(faces)
    if len(kept) == size:
        return faces
    triangles = [tuple(face) for face in faces.tolist()]
    for start, end in zip(kept, np.roll(kept, -1), strict=True):
        between = np.arange(start + 1, end if end > start else end + size) % size
        if not len(between):
            continue
        for number, face in enumerate(triangles):
            at = next((k for k in range(3) if face[k] == start and face[k - 2] == end), None)
            if at is not None:
                tip = face[at - 1]
                chain = [start, *between, end]
                triangles[number : number + 1] = [
                    (a, b, tip) for a, b in zip(chain[:-1], chain[1:], strict=True)
                ]
                break
    return np.array(triangles, np.int64)
