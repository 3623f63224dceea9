"""Oriented point clouds from text and .ply files: points on surfaces and their normals."""

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data.cloud_reading import CLOUDS_ONLY, NORMALS, TEXT, read_cloud
from nid_jax.data.collection import position
from nid_jax.data.shapefiles import OWN_UNITS, Kind, shape_files
from nid_jax.data.shapes import side_of
from nid_jax.geometry.mesh import Normalisation


class CloudCollection:
    """Clouds of points with normals, each normalised to the cube [-1, 1]^3.

    No distance is known: `cloud(i)` [Q, 6] is all there is. shape (N, N, N, 1) says on what grid
    they are drawn. denormalise(i) [4, 4] leads back to the units of the file. files: by name;
    options: data.size, data.margin and data.normals.
    """

    def __init__(self, files: Mapping[str, Path], options: ConfigDict, title: str):
        self.paths, self.names, self.title = list(files.values()), list(files), title
        self.shape = (*(side_of(options),) * 3, 1)
        self.margin, self.normals = options.margin, options.normals
        self._read = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NoReturn:
        raise ValueError(
            f"{self.title}: point clouds hold no distances; use fit.samples.seen=cloud with "
            "fit.solver=surface, and train.codes=surface"
        )

    def truth(self, index: int) -> None:
        """None: no distances are known."""

    def cloud(self, index: int) -> Float[np.ndarray, "Q 6"]:
        """Points and outward unit normals [Q, 6] in the cube."""
        return self._known(index)[0]

    def denormalise(self, index: int) -> Float[np.ndarray, "4 4"]:
        """Matrix [4, 4] from the cube to the units of the file."""
        return self._known(index)[1]

    def units(self, index: int) -> str:
        """What coordinates are in that `denormalise` leads to."""
        return OWN_UNITS

    def up(self, index: int) -> str:
        """The axis that points up: z, as scanners have it."""
        return "z"

    def _known(self, index):
        index = position(index, len(self))
        if index not in self._read:
            points, normals = read_cloud(self.paths[index], self.normals)
            placed = Normalisation.of_points(points, self.margin)
            cloud = np.concatenate([placed.apply(points), normals], 1).astype(np.float32)
            self._read[index] = (cloud, placed.inverse_matrix())
        return self._read[index]


_KIND = Kind(
    "cloud",
    CLOUDS_ONLY,
    needs=dict.fromkeys((".pcd", ".las", ".laz", ".e57", ".obj", ".npy"), "saving as .ply"),
    otherwise=TEXT,
    hint="; points with normals are needed",
)


def open_pointcloud(config: ConfigDict, split: str, seed: int) -> CloudCollection:
    """data.root: one cloud as `read_cloud` reads it, or a folder of them, as `shape_files` has it.

    data.size: the grid on which shapes are drawn; data.margin: what stays free of the cube;
    data.normals: auto or given. Raises FileNotFoundError, and ValueError naming the key or file.
    """
    if not config.root:
        raise ValueError("data.root is empty: data.name='pointcloud' reads .xyz and .ply files")
    if not 0 <= config.margin < 1:
        raise ValueError(f"data.margin: {config.margin}; allowed: 0 or more, below 1")
    if config.normals not in NORMALS:
        raise ValueError(f"data.normals: {config.normals!r}; allowed: {', '.join(NORMALS)}")
    files = shape_files(config, split, seed, _KIND)
    return CloudCollection(files, config, config.root)
