"""Writing meshes: coordinates as exact as the format holds them.

PLY, OBJ and OFF hold doubles. STL and GLB hold singles, too few digits for maps' coordinates: far
from the origin GLB has the shape near it in a node that is moved there, and STL has it moved, which
is said and stands in its header.
"""

from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float

from nid_jax.files import atomic_path
from nid_jax.notices import say

EXPORTED = ("ply", "obj", "glb", "stl", "off")
"""Formats that export_mesh writes."""
# Of the size of a mesh: a rounding that does not show.
_ROUNDING = 1e-5
_HEADER = 80


def export_mesh(mesh: trimesh.Trimesh, path: str | Path) -> None:
    """Write a mesh, whole or not at all; the suffix of `path` says how, one of EXPORTED.

    PLY (binary, little-endian) and OBJ have its vertices' normals too. Raises ValueError naming
    `path` for any other suffix and where it cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in EXPORTED:
        raise ValueError(f"{path}: cannot write {kind!r}; can be one of {', '.join(EXPORTED)}")
    content = _WRITERS[kind](mesh, path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _ply(mesh, path):
    vertices = np.empty(len(mesh.vertices), [("place", "<f8", 3), ("normal", "<f4", 3)])
    vertices["place"], vertices["normal"] = mesh.vertices, mesh.vertex_normals
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property double {name}" for name in ("x", "y", "z")]
    header += [f"property float {name}" for name in ("nx", "ny", "nz")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    return "\n".join([*header, "end_header\n"]).encode() + vertices.tobytes() + faces.tobytes()


def _obj(mesh, path):
    lines = [f"v {row}" for row in _exactly(mesh.vertices)]
    lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.vertex_normals.tolist()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    return "\n".join([*lines, ""]).encode()


def _off(mesh, path):
    lines = ["OFF", f"{len(mesh.vertices)} {len(mesh.faces)} 0", *_exactly(mesh.vertices)]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    return "\n".join([*lines, ""]).encode()


def _exactly(vertices):
    """Lines of the shortest numbers that are read back as the same doubles."""
    return [f"{x!r} {y!r} {z!r}" for x, y, z in np.asarray(vertices, np.float64).tolist()]


def _glb(mesh, path):
    offset = _offset(mesh)
    scene = trimesh.Scene()
    transform = trimesh.transformations.translation_matrix(offset)
    scene.add_geometry(_moved(mesh, offset), transform=transform)
    return scene.export(file_type="glb")


def _stl(mesh, path):
    offset = _offset(mesh)
    content = _moved(mesh, offset).export(file_type="stl")
    if not offset.any():
        return content
    numbers = ", ".join(map(repr, offset.tolist()))
    say(
        f"{path}: STL holds single precision only; the shape is written near the origin: add "
        f"{numbers} to its coordinates, or write ply, obj or off"
    )
    return f"offset {numbers}".encode().ljust(_HEADER)[:_HEADER] + content[_HEADER:]


def _offset(mesh) -> Float[np.ndarray, "3"]:
    """A round place within a mesh that is far from the origin; zeros where singles will do."""
    vertices = np.asarray(mesh.vertices, np.float64)
    if not len(vertices):
        return np.zeros(3)
    low, high = vertices.min(0), vertices.max(0)
    extent = (high - low).max()
    if np.spacing(np.abs(vertices).max().astype(np.float32)) <= _ROUNDING * extent:
        return np.zeros(3)
    step = 10.0 ** np.floor(np.log10(extent))
    return np.round((low + high) / 2 / step) * step


def _moved(mesh, offset):
    if not offset.any():
        return mesh
    moved = mesh.copy()
    moved.vertices = np.asarray(mesh.vertices) - offset
    return moved


_WRITERS = {"ply": _ply, "obj": _obj, "glb": _glb, "stl": _stl, "off": _off}
