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

    .xyz: x y z nx ny nz a line. .ply: float32, little-endian. Raises ValueError naming `path` for
    another suffix or where it cannot be written.
    """
    path = Path(path)
    rows = np.concatenate([points, normals], axis=1)
    kind = path.suffix.lstrip(".")
    if kind not in CLOUDS:
        raise ValueError(f"{path}: a cloud is written as one of {', '.join(CLOUDS)}")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if kind == "xyz":
            np.savetxt(file, rows, fmt="%.9g")
            return
        vertices = np.ascontiguousarray(rows, "<f4").view([(name, "<f4") for name in NAMES])
        element = PlyElement.describe(vertices.reshape(-1), "vertex")
        PlyData([element], byte_order="<").write(file)
