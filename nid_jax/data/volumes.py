"""Volumes of signed distances that `python -m nid_jax.data.prepare` prepared, one file a shape."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.ndimage
import trimesh
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data.cloud_writing import CLOUDS
from nid_jax.data.collection import position
from nid_jax.data.prepared import read_prepared
from nid_jax.data.shapefiles import OWN_UNITS, Kind, shape_files
from nid_jax.data.splitting import configured_size
from nid_jax.fields.coordinates import grid
from nid_jax.geometry.reading import UP
from nid_jax.geometry.truncation import Truncation
from nid_jax.notices import say


class VolumeCollection:
    """Prepared files as truncated distances [N, N, N, 1], read when they are asked for.

    files: by name. size: N, or 0 for that of the files; another than theirs is interpolated
    linearly. truncation: a `geometry.truncation.Truncation`. cache: folder for a file of shuffled
    grids. Raises ValueError naming a file that is damaged, or of another resolution than the rest.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        size: int,
        truncation: Truncation,
        title: str,
        cache: str,
    ):
        self.paths, self.names = list(files.values()), list(files)
        self.title, self.cache, self.truncation = title, cache, truncation
        self.stored = len(read_prepared(self.paths[0]).sdf)
        size = size or self.stored
        if size > self.stored:
            say(
                f"{title}: grids of {self.stored}^3 samples are interpolated to {size}^3; "
                "data.size=() leaves them as they are"
            )
        self.shape = (size, size, size, 1)

    def __len__(self) -> int:
        return len(self.paths)

    def _file(self, index):
        return read_prepared(self.paths[position(index, len(self))])

    def __getitem__(self, index: int) -> Float[np.ndarray, "N N N 1"]:
        return self.truncation(self.untruncated(index))[..., None].astype(np.float32)

    def untruncated(self, index: int) -> Float[np.ndarray, "N N N"]:
        """Distances [N, N, N] as they were prepared."""
        file = self._file(index)
        values = np.asarray(file.sdf, np.float32)
        if len(values) != self.stored:
            raise ValueError(
                f"{file.path}: a grid of {len(values)}^3, the others have {self.stored}^3; "
                "prepare them with one --resolution"
            )
        most = self.truncation.largest_limit(file.truncation or math.inf)
        if most < math.inf and not 0 < self.truncation.limit <= most:
            raise ValueError(
                f"data.truncation: {self.truncation.limit}; {file.path} was truncated at "
                f"{file.truncation}: give at most {most:g}, above 0"
            )
        if len(values) != self.shape[0]:
            places = (grid(self.shape[:-1]).astype(np.float64) + 1) / 2 * (len(values) - 1)
            values = scipy.ndimage.map_coordinates(values, places.T, order=1, mode="nearest")
            values = values.reshape(self.shape[:-1])
        return values

    def near(self, index: int) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, " Q"]]:
        """Points [Q, 3] close to the surface and their exact distances [Q], truncated."""
        file = self._file(index)
        return file.points, self.truncation(file.distances).astype(np.float32)

    def cloud(self, index: int) -> Float[np.ndarray, "Q 6"]:
        """Points on the surface and their outward normals [Q, 6]."""
        file = self._file(index)
        return np.concatenate([file.surface, file.normals], 1).astype(np.float32)

    def mesh(self, index: int) -> trimesh.Trimesh:
        """The mesh that was prepared, in the cube. -> trimesh.Trimesh."""
        file = self._file(index)
        return trimesh.Trimesh(file.vertices, file.faces, process=False)

    def denormalise(self, index: int) -> Float[np.ndarray, "4 4"]:
        """Matrix [4, 4] from the cube to the units of the mesh file."""
        return np.asarray(self._file(index).denormalise)

    def units(self, index: int) -> str:
        """What coordinates are in that `denormalise` leads to, with its name where known."""
        name = self._file(index).settings.get("units")
        return f"{OWN_UNITS} ({name})" if name else OWN_UNITS

    def up(self, index: int) -> str:
        """The axis that points up, x, y or z, as the mesh's format has it."""
        return self._file(index).settings.get("up", "y")


_KIND = Kind(
    "prepared shape",
    (".npz",),
    needs={f".{name}": "python -m nid_jax.data.prepare" for name in UP if name not in CLOUDS},
    beside=("summary.json", "failed.txt", "*.watertight.ply", ".cache", ".tmp-*"),
    hint="; python -m nid_jax.data.prepare prepares meshes",
)


def open_volumes(config: ConfigDict, split: str, seed: int) -> VolumeCollection:
    """data.root: a prepared .npz file, or a folder of them, as `shape_files` has it.

    data.size, data.truncation as in `VolumeCollection`; data.cache: where shuffled grids are kept,
    beside the files without it. Raises FileNotFoundError, and ValueError naming the key or file.
    """
    if not config.root:
        raise ValueError(
            "data.root is empty: data.name='volumes' reads what "
            "python -m nid_jax.data.prepare wrote"
        )
    files = shape_files(config, split, seed, _KIND)
    size = configured_size(config, 3)
    if size and len(set(size)) != 1:
        raise ValueError(f"data.size: {config.size}; allowed: three equal numbers, or ()")
    root = Path(config.root).expanduser()
    cache = config.cache or str((root.parent if root.is_file() else root) / ".cache")
    truncation = Truncation.from_config(config)
    return VolumeCollection(files, size[0] if size else 0, truncation, str(root), cache)
