"""Oriented point clouds as files: points [P, 3] with normals [P, 3]."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from plyfile import PlyData, PlyElement

from nid_jax.files import atomic_path

CLOUDS = ("xyz", "ply")
"""Formats that write_cloud writes."""
NAMES = ("x", "y", "z", "nx", "ny", "nz")
"""Columns of a cloud, the vertex properties of its .ply."""


def write_cloud(
    path: str | Path, points: Float[np.ndarray, "P 3"], normals: Float[np.ndarray, "P 3"]
) -> None:
    """Write a cloud, whole or not at all, as the suffix says: .xyz text or .ply binary.

    .xyz: x y z nx ny nz a line. .ply: little-endian. Points have every digit of doubles, normals
    are single precision. Raises ValueError naming `path` for another suffix or where it cannot be
    written.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".")
    if kind not in CLOUDS:
        raise ValueError(f"{path}: a cloud is written as one of {', '.join(CLOUDS)}")
    normals = np.asarray(normals, np.float32)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if kind == "xyz":
            for (x, y, z), normal in zip(
                np.asarray(points, np.float64).tolist(), normals, strict=True
            ):
                file.write(f"{x!r} {y!r} {z!r} {' '.join(map(str, normal))}\n".encode())
            return
        kinds = [(name, "<f8" if name in "xyz" else "<f4") for name in NAMES]
        vertices = np.empty(len(points), kinds)
        for name, column in zip(NAMES, np.concatenate([points, normals], 1).T, strict=True):
            vertices[name] = column
        element = PlyElement.describe(vertices, "vertex")
        PlyData([element], byte_order="<").write(file)
