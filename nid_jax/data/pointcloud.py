"""Oriented point clouds from .xyz and .ply files: points on surfaces and their normals."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from plyfile import PlyData, PlyParseError

from nid_jax.data.clouds import NAMES
from nid_jax.data.collection import position
from nid_jax.data.shapes import side_of
from nid_jax.data.splitting import SPLITS, random_split
from nid_jax.geometry.mesh import Normalisation

SUFFIXES = (".xyz", ".ply")
LEAST_POINTS = 8


class CloudCollection:
    """Clouds of points with normals, each normalised to the cube [-1, 1]^3.

    No distance is known: `cloud(i)` [Q, 6] is all there is. shape (N, N, N, 1) says on what grid
    they are drawn. denormalise(i) [4, 4] leads back to the units of the file.
    """

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], size: int, margin: float, title: str
    ):
        self.paths, self.names, self.title = list(paths), list(names), title
        self.shape = (size, size, size, 1)
        self.margin = margin
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

    def _known(self, index):
        index = position(index, len(self))
        if index not in self._read:
            points, normals = read_cloud(self.paths[index])
            placed = Normalisation.of_points(points, self.margin)
            cloud = np.concatenate([placed.apply(points), normals], 1).astype(np.float32)
            self._read[index] = (cloud, placed.inverse_matrix())
        return self._read[index]


def read_cloud(path: str | Path) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, "Q 3"]]:
    """Points [Q, 3] and unit normals [Q, 3] of an .xyz (six numbers a line) or .ply file.

    A .ply mesh gives its vertices. Raises FileNotFoundError, and ValueError naming the file, for
    one that holds something else, fewer than 8 points, no normals, NaN, or normals of length zero.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    points, normals = _read_xyz(path) if path.suffix.lower() == ".xyz" else _read_ply(path)
    if len(points) < LEAST_POINTS:
        raise ValueError(f"{path}: {len(points)} points; at least {LEAST_POINTS} are needed")
    if not (np.isfinite(points).all() and np.isfinite(normals).all()):
        raise ValueError(f"{path}: holds NaN or infinity")
    lengths = np.linalg.norm(normals, axis=1)
    if not (lengths > 0).all():
        raise ValueError(f"{path}: the normal of point {int(lengths.argmin())} has length zero")
    if not np.ptp(points, axis=0).any():
        raise ValueError(f"{path}: all of its points are one and the same")
    return points, normals / lengths[:, None]


def _read_xyz(path):
    try:
        with warnings.catch_warnings():
            # Of a file without lines, which is said below.
            warnings.simplefilter("ignore", UserWarning)
            rows = np.loadtxt(path, ndmin=2, dtype=np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as lines of numbers ({reason})") from error
    if rows.size and rows.shape[1] != 6:
        raise ValueError(
            f"{path}: {rows.shape[1]} numbers a line; expected 6: x y z and the normal nx ny nz"
        )
    rows = rows.reshape(-1, 6)
    return rows[:, :3], rows[:, 3:]


def _read_ply(path):
    try:
        data = PlyData.read(path)
        vertices = data["vertex"].data if "vertex" in data else np.empty(0, [])
        absent = [name for name in NAMES if name not in (vertices.dtype.names or ())]
        if not absent:
            columns = [np.asarray(vertices[name], np.float64) for name in NAMES]
    except (PlyParseError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as PLY ({reason})") from error
    if absent:
        what = "points" if absent[0] in NAMES[:3] else "normals"
        wanted = NAMES[:3] if what == "points" else NAMES[3:]
        raise ValueError(
            f"{path}: has no {what}; expected the vertex properties {', '.join(wanted)}"
        )
    rows = np.stack(columns, 1)
    return rows[:, :3], rows[:, 3:]


def open_pointcloud(config: ConfigDict, split: str, seed: int) -> CloudCollection:
    """data.root: one .xyz or .ply file, a folder of them, or one with train/ and test/.

    One file is both splits. data.size: the grid on which shapes are drawn; data.margin: what stays
    free of the cube. Raises FileNotFoundError, and ValueError naming the key or file.
    """
    if not config.root:
        raise ValueError("data.root is empty: data.name='pointcloud' reads .xyz and .ply files")
    if not 0 <= config.margin < 1:
        raise ValueError(f"data.margin: {config.margin}; allowed: 0 or more, below 1")
    root, size = Path(config.root).expanduser(), side_of(config)
    if root.is_file():
        paths = [root]
    elif not root.exists():
        raise FileNotFoundError(f"data.root={config.root!r}: no such file or folder")
    else:
        split_up = all((root / name).is_dir() for name in SPLITS)
        folder = root / split if split_up else root
        shown = (p for p in folder.iterdir() if not p.name.startswith("."))
        paths = sorted(p for p in shown if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise ValueError(f"{folder}: holds no {' or '.join(SUFFIXES)} file")
        if not split_up:
            chosen = random_split(len(paths), split, config.test_fraction, seed, folder)
            paths = [paths[index] for index in chosen]
    return CloudCollection(paths, [p.stem for p in paths], size, config.margin, str(root))
