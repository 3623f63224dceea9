"""Oriented point clouds as files: points [P, 3] with normals [P, 3]."""

from pathlib import Path

import numpy as np

from nid_jax.files import atomic_path

CLOUDS = ("xyz", "ply")
"""Formats that write_cloud writes."""
_NAMES = ("x", "y", "z", "nx", "ny", "nz")


def write_cloud(path, points, normals):
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
        properties = "".join(f"property float {name}\n" for name in _NAMES)
        header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}"
        file.write(f"{header}end_header\n".encode())
        file.write(np.ascontiguousarray(rows, "<f4").tobytes())
