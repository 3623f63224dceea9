"""Which way faces and normals look: two-sided faces, faces turned inwards, clouds' normals.

Letters: V vertices, F faces, Q points of a cloud.
"""

import dataclasses
from typing import NamedTuple

import igl
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

# A part is two-sided where so many of its faces have a face back to back with them.
_PAIRED = 0.9
# Points of a cloud that are looked at, and their neighbours.
_LOOKED_AT, _NEIGHBOURS = 2000, 8


@dataclasses.dataclass(frozen=True)
class Turned:
    """faces [F, 3] that look outwards as far as can be told; back_to_back: faces left out because
    another lies on them and looks the other way; turned: of those left, how many were turned."""

    faces: Int[np.ndarray, "F 3"]
    back_to_back: int = 0
    turned: int = 0


def outward(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Turned:
    """Faces of a mesh once each and turned outwards, part by part, where that can be told.

    A part (faces that share places) whose faces are all there twice, back to back, keeps one of
    each. Closed parts get one turn, outwards; those within the box of another keep theirs, as
    they may be its cavities. What is open stays, as does what has an edge of more than two faces,
    but for those that were two-sided.
    """
    faces = np.asarray(faces, np.int64)
    _, places = np.unique(np.asarray(vertices, float), axis=0, return_inverse=True)
    own = places.reshape(-1)[faces]
    parts = _parts(own)
    kept = _once(own, parts)
    dropped = len(faces) - int(kept.sum())
    doubled = np.unique(parts[~kept])
    faces, own, parts = faces[kept], own[kept], parts[kept]
    flip = np.zeros(len(faces), bool)
    points = np.asarray(vertices, float)[faces]
    for part in _to_be_turned(own, parts, points, doubled):
        chosen = parts == part
        flip[chosen] = _flips(own[chosen], points[chosen])
    faces = np.where(flip[:, None], faces[:, ::-1], faces)
    return Turned(faces, dropped, int(flip.sum()))


def _parts(own):
    """Number of the part of every face [F]: faces that share places are of one."""
    edges = own[:, [0, 1, 1, 2]].reshape(-1, 2)
    count = int(own.max()) + 1 if own.size else 0
    graph = scipy.sparse.coo_matrix((np.ones(len(edges), np.int8), edges.T), shape=(count, count))
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return np.unique(labels[own[:, 0]], return_inverse=True)[1].reshape(-1)


def _once(own, parts):
    """Which faces stay [F]: of two-sided parts the first of each that lie on one another."""
    same = np.sort(own, 1)
    proper = (same[:, 0] < same[:, 1]) & (same[:, 1] < same[:, 2])
    pairs = np.unique(_keys(same[:, :2]), return_inverse=True)[1]
    _, first, group = np.unique(
        _keys(np.stack([pairs, same[:, 2]], 1)), return_index=True, return_inverse=True
    )
    # Of a face's three turns one begins at its lowest place.
    turn = np.where(np.roll(own, -1, 1)[np.arange(len(own)), own.argmin(1)] == same[:, 1], 1, -1)
    seen = [np.bincount(group[turn == way], minlength=len(first)) for way in (1, -1)]
    paired = ((seen[0] > 0) & (seen[1] > 0))[group] & proper
    kept = np.ones(len(own), bool)
    for part in np.unique(parts[paired]):
        inside = parts == part
        share = paired[inside].sum() / max(proper[inside].sum(), 1)
        # Walls between cells are back to back too, but what is around them is closed.
        rest = own[inside & ~paired & proper]
        if share == 1 or (share >= _PAIRED and _Edges.of(rest).balance.any()):
            kept[inside & paired] = False
            kept[first[np.unique(group[inside & paired])]] = True
    return kept


def _keys(pairs):
    """One whole number [P] for each pair [P, 2] of whole numbers from 0 on."""
    return pairs[:, 0] * (int(pairs.max(initial=0)) + 1) + pairs[:, 1]


class _Edges(NamedTuple):
    """number: which edge every side of every face is [F, 3]; uses: how many sides an edge is [E];
    balance: how many more run one way than the other [E]."""

    number: np.ndarray
    uses: np.ndarray
    balance: np.ndarray

    @classmethod
    def of(cls, own):
        sides = own[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
        way = np.where(sides[:, 0] < sides[:, 1], 1, -1)
        _, number, uses = np.unique(
            _keys(np.sort(sides, 1)), return_inverse=True, return_counts=True
        )
        balance = np.bincount(number, way, len(uses))
        return cls(number.reshape(-1, 3), uses, balance)


def _to_be_turned(own, parts, points, doubled):
    """Numbers of the parts whose turn can be told: closed, or two-sided before."""
    count = int(parts.max()) + 1 if len(parts) else 0
    edges = _Edges.of(own)
    sizes = np.bincount(parts, minlength=count)

    def everywhere(holds):
        """Parts at all of whose edges something holds [count]."""
        whole = holds[edges.number].all(1)
        return np.bincount(parts, whole, minlength=count) == sizes

    closed = everywhere(edges.uses == 2)
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, parts, points.min(1))
    np.maximum.at(high, parts, points.max(1))
    wrong = np.zeros(count, bool)
    wrong[doubled] = True
    # A part with an inside that is not counted positively has some faces turned the wrong way.
    volume = np.bincount(parts, _volumes(points - points.mean((0, 1)), 0.0))
    wrong |= closed & (volume <= 0)
    wrong |= closed & ~everywhere(edges.balance == 0)
    for part in np.flatnonzero(wrong):
        around = (low <= low[part]).all(1) & (high >= high[part]).all(1)
        around[part] = False
        # Of what was two-sided no turn was meant.
        if part in doubled or not around.any():
            yield part


def _volumes(points, centre):
    """Signed volumes of the tetrahedra from a centre to triangles [F, 3, 3] -> [F]."""
    a, b, c = np.moveaxis(points - centre, 1, 0)
    return np.einsum("fd,fd->f", a, np.cross(b, c)) / 6


def _flips(own, points):
    """Which faces of one part are to be turned, so that all look outwards [F]."""
    turned, patches = igl.bfs_orient(own)
    # A patch's faces agree; whether they look outwards, the volume below them tells.
    off = (
        np.roll(own, -1, 1)[np.arange(len(own)), own.argmin(1)]
        != (np.roll(turned, -1, 1)[np.arange(len(own)), turned.argmin(1)])
    )
    volumes = _volumes(points, points.mean((0, 1))) * np.where(off, -1, 1)
    inward = np.bincount(patches, volumes) < 0
    return off ^ inward[patches]


@dataclasses.dataclass(frozen=True)
class Facing:
    """How the normals of a cloud lie. enclosed: 1 where they look out of a closed surface, -1
    where they look into it, about 0 where nothing is closed or they disagree; disagreeing: share
    of pairs of neighbours whose normals look opposite ways."""

    enclosed: float
    disagreeing: float


def facing(points: Float[np.ndarray, "Q 3"], normals: Float[np.ndarray, "Q 3"]) -> Facing:
    """Which way unit normals [Q, 3] of points [Q, 3] on a surface look.

    enclosed is twice the mean winding number (Barill et al. 2018) at the points themselves,
    taken from up to 2000 of them: on a closed surface that is half of what it is inside.
    """
    chosen = np.arange(len(points))
    if len(points) > _LOOKED_AT:
        chosen = np.random.default_rng(0).choice(len(points), _LOOKED_AT, replace=False)
    places = np.asarray(points, float)[chosen] - np.mean(points, axis=0)
    places, normals = places / np.abs(places).max(), np.asarray(normals, float)[chosen]
    count = min(_NEIGHBOURS, len(places) - 1)
    distances, near = cKDTree(places).query(places, count + 1)
    cosines = np.einsum("qd,qkd->qk", normals, normals[near[:, 1:]])
    areas = np.pi * distances[:, -1] ** 2 / count
    winding = np.zeros(len(places))
    for own in np.array_split(np.arange(len(places)), max(1, len(places) // 500)):
        apart = places[None] - places[own, None]
        cubed = np.square(apart).sum(-1) ** 1.5
        flux = np.einsum("pqd,qd->pq", apart, normals) * areas
        # Its own disc does not count for a point, nor do those at the same place.
        share = np.divide(flux, cubed, out=np.zeros_like(flux), where=cubed > 0)
        winding[own] = share.sum(1) / (4 * np.pi)
    return Facing(float(2 * winding.mean()), float((cosines < -0.5).mean()))
