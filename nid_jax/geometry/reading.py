"""Mesh files of every format to vertices, triangles, and what they say of units and of up.

OBJ, OFF, PLY and COLLADA, which have polygons, are read here; formats of triangles by trimesh.
Coordinates are doubles, as exact as the file has them. Letters: V vertices, F faces.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from plyfile import PlyData, PlyParseError

from nid_jax import bounds, json_files
from nid_jax.geometry import plyfiles
from nid_jax.geometry.polygons import Polygons, triangulated

UP = {
    **dict.fromkeys(("obj", "glb", "gltf", "xaml"), "y"),
    **dict.fromkeys(("stl", "stl_ascii", "ply", "off", "3mf", "ctm", "dae"), "z"),
}
"""Formats of meshes, and the axis that points up in them where the file does not say: y in those
of computer graphics, z in those of measuring, printing and construction."""
# What trimesh needs for a format, as modules.
_NEEDS = {"3mf": ("lxml", "networkx"), "dae": ("collada",), "ctm": ("openctm",)}
_UNITS = {"glb": "metres", "gltf": "metres"}
_SINGLES = ("stl", "glb", "gltf")
_STRIP_END = -1
# Of an entry of an array of a glTF, at most: a matrix of singles.
_ACCESSED = 64


@dataclasses.dataclass
class Shape:
    """A mesh as its file has it. units: their name, '' where the file has none; up: x, y or z;
    left_out, crossed: of polygons, as in `polygons.Triangles`; spacing: how far apart single
    precision has the file's largest coordinates, 0 for doubles."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    up: str
    units: str = ""
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    crossed: int = 0
    spacing: float = 0.0

    @classmethod
    def of(cls, vertices: Float[np.ndarray, "V 3"], polygons: Polygons, up: str) -> "Shape":
        """From vertices and polygons, which become triangles."""
        cut = triangulated(vertices, polygons)
        return cls(vertices, cut.faces, up, left_out=cut.left_out, crossed=cut.crossed)


def mesh_formats() -> set[str]:
    """Names of the mesh formats that can be read here, such as 'obj'; a set."""
    return set(UP) - set(missing_formats())


def missing_formats() -> dict[str, str]:
    """Formats that could be read, were a package installed that is not: {'3mf': 'lxml'}."""
    absent = {}
    for kind, modules in _NEEDS.items():
        lacking = [name for name in modules if importlib.util.find_spec(name) is None]
        if lacking:
            absent[kind] = " and ".join(lacking)
    return absent


def read(path: str | Path) -> Shape:
    """A mesh file, all of its parts where its scene has them, as one. Not checked.

    Raises ValueError of one line without the file's name where it cannot be read, and what
    parsers raise on foreign files.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    bounds.check_zip(path)
    reader: Callable[[Path], Shape] = _READERS.get(kind, _read_triangles)
    return reader(path)


def _lines(path):
    """Lines of a text file, however they end."""
    text = path.read_bytes().decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


# ---- OBJ -----------------------------------------------------------------------------------


def _read_obj(path):
    text = "\n".join(_lines(path)).replace("\\\n", " ")
    vertices, faces = [], []
    for line in text.split("\n"):
        words = line.split(None, 1)
        if len(words) < 2 or words[0] not in ("v", "f"):
            continue
        values = words[1].partition("#")[0].split()
        try:
            if words[0] == "v":
                x, y, z = values[:3]
                vertices.append((float(x), float(y), float(z)))
            else:
                faces.append([_number(word, len(vertices)) for word in values])
        except ValueError as error:
            raise ValueError(f"{line.strip()[:60]!r} is no vertex or face of OBJ") from error
    places = np.array(vertices, np.float64).reshape(-1, 3)
    return Shape.of(places, Polygons.of(faces), UP["obj"])


def _number(word, so_far):
    """The vertex of a corner such as '3/1/2', or '-1' for the last so far; counted from 0."""
    number = int(word.partition("/")[0])
    if not number:
        raise ValueError("vertices are counted from 1")
    return number - 1 if number > 0 else so_far + number


# ---- OFF -----------------------------------------------------------------------------------


class _Header(NamedTuple):
    """What stands before OFF in the first line, and the words after it."""

    word: str
    rest: list[str]


def _read_off(path):
    bare = (line.partition("#")[0].split() for line in _lines(path))
    rows = [words for words in bare if words]
    header = _off_header(rows)
    rows = ([header.rest] if header.rest else []) + rows[1:]
    try:
        counts = [int(word) for word in rows[0][:2]]
        vertex_count, face_count = counts
        vertices = np.array([row[:3] for row in rows[1 : 1 + vertex_count]], np.float64)
        faces = [_off_face(row) for row in rows[1 + vertex_count :][:face_count]]
    except (ValueError, IndexError) as error:
        raise ValueError(f"not the lines of OFF: {error}") from error
    if len(vertices) != vertex_count or len(faces) != face_count:
        raise ValueError(
            f"{vertex_count} vertices and {face_count} faces are announced, "
            f"{len(vertices)} and {len(faces)} are there"
        )
    vertices = vertices.reshape(-1, 3)
    return Shape.of(vertices, Polygons.of(faces), UP["off"])


def _off_face(words):
    """Vertices of a face: how many, then these; colours may follow."""
    count = int(words[0])
    if not 0 <= count < len(words):
        raise ValueError(f"a face of {count} corners, {' '.join(words)[:40]!r}, has others")
    return [int(word) for word in words[1 : 1 + count]]


def _off_header(rows):
    """The first line: OFF, with letters before it for what else vertices have, or counts after."""
    first = rows[0] if rows else [""]
    before, found, after = first[0].partition("OFF")
    if not found or set(before) - set("STCN"):
        raise ValueError(
            f"begins with {first[0][:20]!r}; OFF of three coordinates begins with OFF, COFF, NOFF, "
            "CNOFF or STOFF"
        )
    rest = ([after] if after else []) + first[1:]
    if rest and rest[0].upper() == "BINARY":
        raise ValueError("binary OFF is not read; save it as text")
    return _Header(before, rest)


# ---- PLY -----------------------------------------------------------------------------------


def _read_ply(path):
    plyfiles.check_counts(path)
    try:
        data = PlyData.read(path, mmap="r", known_list_len=_triangles_of(path))
    except PlyParseError:
        # Not triangles alone.
        data = PlyData.read(path)
    vertices, spacing = _ply_vertices(data)
    found = [_ply_polygons(element) for element in data.elements]
    found += [_ply_strips(element) for element in data.elements]
    polygons = [some for some in found if some is not None]
    corners = [np.asarray(some.corners, np.int64) for some in polygons]
    sizes = [np.asarray(some.sizes, np.int64) for some in polygons]
    none = np.empty(0, np.int64)
    joined = Polygons(np.concatenate([*corners, none]), np.concatenate([*sizes, none]))
    shape = Shape.of(vertices, joined, UP["ply"])
    return dataclasses.replace(shape, spacing=spacing)


_CORNERS = ("vertex_indices", "vertex_index")


def _triangles_of(path):
    """plyfile's note that faces have three corners: it then reads all of them at once."""
    with open(path, "rb") as file:
        header = file.read(10_000).partition(b"end_header")[0].decode("latin-1").split()
    name = next((name for name in _CORNERS if name in header), None)
    return {"face": {name: 3}} if name and "face" in header else {}


def _ply_vertices(data):
    if "vertex" not in data:
        raise ValueError("has no element vertex")
    rows = data["vertex"].data
    names = {name.lower(): name for name in rows.dtype.names or ()}
    absent = [axis for axis in "xyz" if axis not in names]
    if absent:
        raise ValueError(f"its vertices have no property {absent[0]}")
    columns = [rows[names[axis]] for axis in "xyz"]
    single = any(column.dtype.kind == "f" and column.dtype.itemsize < 8 for column in columns)
    vertices = np.stack([np.asarray(column, np.float64) for column in columns], 1)
    return vertices, _spacing(vertices) if single else 0.0


def _spacing(vertices):
    """How far apart single precision has numbers as large as these."""
    return float(np.spacing(np.abs(vertices).max(initial=0.0).astype(np.float32)))


def _ply_polygons(element):
    name = next((name for name in _CORNERS if name in (element.data.dtype.names or ())), None)
    if element.name != "face" or name is None or not len(element.data):
        return None
    rows = element.data[name]
    if rows.dtype != object:
        return Polygons(rows.reshape(-1), np.full(len(rows), rows.shape[1]))
    return Polygons(np.concatenate(list(rows)), np.fromiter(map(len, rows), np.int64, len(rows)))


def _ply_strips(element):
    """Triangles of strips: every corner makes one with the two before it, in turns."""
    name = next((name for name in _CORNERS if name in (element.data.dtype.names or ())), None)
    if element.name != "tristrips" or name is None:
        return None
    triangles = [np.empty((0, 3), np.int64)]
    for row in element.data[name]:
        row = np.asarray(row, np.int64)
        for strip in np.split(row, np.flatnonzero(row == _STRIP_END)):
            strip = strip[strip != _STRIP_END]
            made = np.stack([strip[:-2], strip[1:-1], strip[2:]], 1)
            made[1::2] = made[1::2, [1, 0, 2]]
            triangles.append(made)
    made = np.concatenate(triangles)
    return Polygons(made.reshape(-1), np.full(len(made), 3))


# ---- COLLADA -------------------------------------------------------------------------------


def _read_dae(path):
    import collada

    document = collada.Collada(str(path), ignore=[collada.common.DaeError])
    rows, places, count = [], [np.empty((0, 3))], 0
    for geometry in document.scene.objects("geometry") if document.scene else ():
        # A mirrored part has its faces turned round.
        mirrored = np.linalg.det(geometry.matrix[:3, :3]) < 0
        for part in geometry.primitives():
            if isinstance(part, collada.triangleset.BoundTriangleSet):
                found = list(part.vertex_index)
            elif isinstance(part, collada.polylist.BoundPolylist):
                found = [part.vertex_index[start:end] for start, end in part.polyindex]
            else:
                continue
            rows += [(row[::-1] if mirrored else row) + count for row in found]
            places.append(np.asarray(part.vertex, np.float64))
            count += len(places[-1])
    vertices = np.concatenate(places)
    about = document.assetInfo
    up = {"X_UP": "x", "Y_UP": "y", "Z_UP": "z"}.get(about.upaxis, UP["dae"])
    shape = Shape.of(vertices, Polygons.of(rows), up)
    # Its reader makes singles of all numbers.
    spacing = _spacing(vertices)
    return dataclasses.replace(shape, units=about.unitname or "", spacing=spacing)


# ---- formats of triangles ------------------------------------------------------------------


def _read_triangles(path):
    if path.suffix.lower() in (".glb", ".gltf"):
        _check_accessors(path)
    loaded = trimesh.load(path, process=False)
    kind = path.suffix.lower().lstrip(".")
    parts = stored = [loaded]
    if isinstance(loaded, trimesh.Scene):
        # Not its own to_mesh, which packs all textures into one.
        parts, stored = loaded.dump(), loaded.geometry.values()
    vertices, faces, count = [np.empty((0, 3))], [np.empty((0, 3), np.int64)], 0
    for part in parts:
        vertices.append(np.asarray(part.vertices, np.float64).reshape(-1, 3))
        if isinstance(part, trimesh.Trimesh):
            faces.append(np.asarray(part.faces, np.int64).reshape(-1, 3) + count)
        count += len(vertices[-1])
    units = _UNITS.get(kind) or next((p.units for p in parts if getattr(p, "units", None)), "")
    shape = Shape(np.concatenate(vertices), np.concatenate(faces), UP[kind], units)
    # STL as text may hold more digits.
    if kind in _SINGLES and all(_single(part.vertices) for part in stored):
        shape.spacing = max((_spacing(part.vertices) for part in stored), default=0.0)
    return shape


def _check_accessors(path):
    """Raise ValueError where arrays of a glTF are said to hold more than is allowed.

    Those that refer to no bytes are zeros, of any length.
    """
    with open(path, "rb") as file:
        start = file.read(20)
        if start[:4] == b"glTF":
            length, there = int.from_bytes(start[12:16], "little"), path.stat().st_size
            if length > there:
                raise ValueError(f"its JSON is said to have {length} bytes; the file has {there}")
            content = file.read(length)
        else:
            content = start + file.read()
    described = json_files.parsed(content, "its JSON", {})
    accessors = described.get("accessors", [])
    counts = [one.get("count", 0) for one in accessors] if isinstance(accessors, list) else []
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("an accessor has a count that is no whole number")
    bounds.check(_ACCESSED * sum(counts), _ACCESSED * path.stat().st_size, "its accessors")


def _single(vertices):
    return np.array_equal(vertices, np.asarray(vertices, np.float32))


_READERS = {"obj": _read_obj, "off": _read_off, "ply": _read_ply, "dae": _read_dae}
