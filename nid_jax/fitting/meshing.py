"""Meshes: codes of signed distance functions to triangles, with the normals of the function."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import trimesh
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import devices, metrics, platforms
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates
from nid_jax.fitting.rendering import render_axes, render_derivatives, render_points
from nid_jax.geometry import level_set
from nid_jax.geometry.writing import EXPORTED, export_mesh
from nid_jax.storage.artefacts import file_name

# Signals whose first level is held at a time, in numbers.
_COARSE_NUMBERS = 2**25


def meshes_of(
    dictionary: Dictionary,
    gates: Gates,
    resolution: int | Sequence[int],
    window: level_set.Window | None = None,
    truncation: float | None = None,
    coarse: int = level_set.COARSE,
    lipschitz: float = level_set.LIPSCHITZ,
    chunk: int = 0,
) -> list[trimesh.Trimesh]:
    """Surfaces of S signed distance functions, channel 0 of the signals.

    gates of S signals; resolution, window, coarse, lipschitz as in `level_set.extract`;
    truncation: where the distances were cut off, or None; chunk: points at a time, 0 for what
    fits the machine. -> S `trimesh.Trimesh` in the coordinates of the dictionary, whose vertex
    normals are the function's unit gradient (outward). A signal without a surface has a mesh
    without vertices. Raises ValueError naming the signal where a function is not finite, and
    ArgumentError for a surface that memory does not hold.
    """
    search = level_set.Search(coarse, lipschitz, truncation, memory=devices.host_bytes())
    whole = _whole_is_cheaper(dictionary, gates, resolution, window, search)
    if whole:
        firsts = itertools.repeat(None, len(gates.bias))
    else:
        points = level_set.coarse_points(resolution, window, search)
        firsts = _first_values(dictionary, gates, points, chunk)
    meshes = []
    for number, known in enumerate(firsts):
        one = _signals(gates, number, number + 1)
        on_grid = functools.partial(_on_grid, dictionary, one, chunk) if whole else None
        try:
            vertices, faces, _ = level_set.extract(
                functools.partial(_at_points, dictionary, one, chunk),
                resolution,
                window,
                search=search,
                coarse_values=known,
                on_grid=on_grid,
            )
        except ArgumentError:
            # The resolution is too fine for memory: no signal's fault.
            raise
        except ValueError as error:
            raise ValueError(f"signal {number}: {error}") from error
        meshes.append(_mesh(dictionary, one, vertices, faces, chunk))
    return meshes


def _whole_is_cheaper(dictionary, gates, resolution, window, search):
    """Whether a signal is evaluated on the whole lattice, as that takes no more than a search."""
    if not level_set.may_be_whole(resolution):
        return False
    shape = level_set.Lattice.over(resolution, window).shape
    points = level_set.searched_points(resolution, window, search)
    return dictionary.grid_is_cheaper(shape, _signals(gates, 0, 1), points)


def _first_values(dictionary, gates, points, chunk):
    """Values [B] of one signal after another at the points of the first level.

    The experts' shared work is done once for all signals where these share their points.
    """
    together = max(1, _COARSE_NUMBERS // len(points))
    for start in range(0, len(gates.bias), together):
        yield from values_at(dictionary, _signals(gates, start, start + together), points, chunk)


def _signals(gates, start, stop):
    return jax.tree.map(lambda leaf: leaf[start:stop], gates)


def _at_points(dictionary, gates, chunk, points):
    return values_at(dictionary, gates, points, chunk)[0]


def _on_grid(dictionary, gates, chunk, axes):
    return render_axes(dictionary, gates, axes, chunk)[0, ..., 0]


def _mesh(dictionary, gates, vertices, faces, chunk):
    """Triangles with the normals of one signal."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if len(vertices):
        chunk = chunk or platforms.sizes().mesh_points
        slopes = render_derivatives(dictionary, gates, vertices, chunk)[0, :, 0]
        length = np.linalg.norm(slopes, axis=1, keepdims=True)
        # Where the function is flat it has no normal, and the triangles' own is left.
        usable = np.isfinite(length) & (length > 0)
        # A property with a setter, which its decorator hides.
        mesh.vertex_normals = np.where(  # type: ignore[method-assign]
            usable, slopes / np.where(usable, length, 1), mesh.vertex_normals
        )
    return mesh


def values_at(
    dictionary: Dictionary, gates: Gates, points: Float[np.ndarray, "P D"], chunk: int = 0
) -> Float[np.ndarray, "S P"]:
    """Channel 0 of S signals at points [P, D] -> [S, P]. One compilation serves any P.

    A few points are padded to a whole chunk, and cost as much.
    """
    chunk = chunk or platforms.sizes().mesh_points
    points = np.asarray(points, np.float32)
    padded = np.pad(points, ((0, max(0, chunk - len(points))), (0, 0)), mode="edge")
    return render_points(dictionary, gates, padded, chunk)[:, : len(points), 0]


def transformed(mesh: trimesh.Trimesh, matrix: Float[np.ndarray, "4 4"]) -> trimesh.Trimesh:
    """A mesh moved by an affine map [4, 4], its normals by the inverse transpose. -> new mesh.

    Triangles are turned round where the map is a reflection. Raises ValueError for a map that
    cannot be inverted.
    """
    matrix = np.asarray(matrix, np.float64)
    linear = matrix[:3, :3]
    if not (np.isfinite(matrix).all() and np.linalg.det(linear)):
        raise ValueError(f"the map to original units cannot be inverted: {matrix.tolist()}")
    vertices = mesh.vertices @ linear.T + matrix[:3, 3]
    faces = mesh.faces[:, ::-1] if np.linalg.det(linear) < 0 else mesh.faces
    normals = mesh.vertex_normals @ np.linalg.inv(linear)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(length > 0, length, 1)
    return trimesh.Trimesh(vertices, faces, vertex_normals=normals, process=False)


def write_mesh(
    path: str | Path, mesh: trimesh.Trimesh, denormalise: Float[np.ndarray, "4 4"] | None = None
) -> Path:
    """Write a mesh with its normals, whole or not at all; the suffix says how. -> path.

    denormalise: the map [4, 4] from the mesh's coordinates to those written; None for none.
    Raises ValueError for a suffix that `geometry.writing.export_mesh` does not know, and for a mesh
    without faces.
    """
    path = Path(path)
    if not len(mesh.faces):
        raise ValueError(f"{path}: the mesh has no faces")
    export_mesh(mesh if denormalise is None else transformed(mesh, denormalise), path)
    return path


def write_meshes(
    folder: str | Path,
    meshes: Sequence[trimesh.Trimesh],
    names: Sequence[str],
    suffix: str = ".ply",
    denormalise: Sequence[Float[np.ndarray, "4 4"]] | None = None,
) -> list[Path]:
    """Write FOLDER/0000_NAME.ply and so on. -> paths of those written.

    denormalise: one map [4, 4] for each mesh, or None. Meshes without faces are left out.
    """
    maps = [None] * len(meshes) if denormalise is None else denormalise
    paths = []
    for number, (mesh, name, matrix) in enumerate(zip(meshes, names, maps, strict=True)):
        if len(mesh.faces):
            path = Path(folder) / (file_name(number, name) + suffix)
            paths.append(write_mesh(path, mesh, matrix))
    return paths


def check(config_mesh: ConfigDict) -> None:
    """Raise ValueError, naming the key, for meshes that cannot be."""
    if config_mesh.format not in EXPORTED:
        raise ValueError(f"fit.mesh.format: {config_mesh.format!r}; allowed: {', '.join(EXPORTED)}")


def surface_scores(
    meshes: Sequence[trimesh.Trimesh],
    truths: Sequence[trimesh.Trimesh | None],
    config_mesh: ConfigDict,
) -> dict[str, Float[np.ndarray, " S"]]:
    """Chamfer and its like of S meshes against true ones, by name: see `metrics.compare`.

    config_mesh: fit.mesh, its samples and threshold. Shapes of which either mesh is missing or
    empty count as NaN; {} where all are such.
    """
    rows = []
    for number, (mesh, truth) in enumerate(zip(meshes, truths, strict=True)):
        known = truth is not None and len(truth.faces) and len(mesh.faces)
        rows.append(
            metrics.compare(mesh, truth, config_mesh.samples, number, config_mesh.threshold)
            if known
            else {}
        )
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
