"""Batches of points and of what volumes are there, so that no step needs a whole volume.

A batch of volumes [N, N, N] would hold billions of numbers, of which a step wants a few thousand
points. So values are kept in one array [S, M] whose M grid points stand in a random order that all
volumes share: any run of it is a random sample of the grid, and reading it is one contiguous read
per volume. Where that array would not fit into memory it is a file that is mapped.
"""

import hashlib
import itertools
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nid_jax import npy_files
from nid_jax.data.collection import Collection
from nid_jax.data.loading import (
    ENDLESS,
    EVERYTHING,
    IN_MEMORY_BYTES,
    EpochOrder,
    Share,
    check_batch_size,
    endless,
)
from nid_jax.fields.coordinates import grid
from nid_jax.files import atomic_path


class ShuffledGrids:
    """Values of S volumes at the M points of their grid, in one random order.

    order int32 [M]: grid positions as they are stored. path: None keeps them in memory; else a file
    that is written once, whole or not at all, and mapped. Raises ValueError for volumes of several
    channels and, when values are read, for a file that is not this collection's.
    """

    def __init__(self, collection: Collection, seed: int, path: Path | None = None):
        *self.sides, channels = collection.shape
        if channels != 1:
            raise ValueError(f"{collection.title}: volumes have 1 channel, not {channels}")
        count = math.prod(self.sides)
        self.order = np.random.default_rng([seed, count]).permutation(count).astype(np.int32)
        self._rank = np.empty(count, np.int32)
        self._rank[self.order] = np.arange(count, dtype=np.int32)
        self._collection, self._path = collection, path
        self._values: np.ndarray | None = None
        self._filling = threading.Lock()

    @property
    def values(self) -> Float[np.ndarray, "S M"]:
        """Made when they are first read: heads in closed form need none of them."""
        with self._filling:
            if self._values is None:
                collection = self._collection
                if self._path is not None:
                    self._values = self._mapped(collection, Path(self._path))
                else:
                    values = np.empty((len(collection), len(self.order)), np.float32)
                    self._fill(collection, values)
                    self._values = values
            return self._values

    def _fill(self, collection, values):
        for index in range(len(collection)):
            values[index] = collection[index].reshape(-1)[self.order]

    def _mapped(self, collection, path):
        shape = (len(collection), len(self.order))
        if not path.exists():
            with atomic_path(path) as temporary:
                values = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
                self._fill(collection, values)
                values.flush()
                del values
        values = npy_files.read(path, mmap=True).get("")
        if values is None or values.shape != shape or values.dtype != np.float32:
            raise ValueError(f"{path}: not the volumes of {collection.title}; remove it")
        return values

    def run(
        self, ids: Int[np.ndarray, " b"], start: int, count: int
    ) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, "b p"]]:
        """`count` points from place `start`, round the end. -> positions [p], values [b, p]."""
        places = np.arange(start, start + count) % len(self.order)
        head = slice(start, min(start + count, len(self.order)))
        rest = count - (head.stop - head.start)
        pieces = [np.stack([self.values[i, head] for i in ids])]
        if rest:
            pieces.append(np.stack([self.values[i, :rest] for i in ids]))
        return self.order[places], np.concatenate(pieces, 1)

    def interpolated(
        self, ids: Int[np.ndarray, " b"], points: Float[np.ndarray, "P 3"]
    ) -> Float[np.ndarray, "b P"]:
        """Values of chosen volumes at any points of the cube, linear between samples.

        ids [b], points [P, 3] -> [b, P].
        """
        sides = np.array(self.sides)
        places = np.clip((np.asarray(points, np.float64) + 1) / 2 * (sides - 1), 0, sides - 1)
        low = np.minimum(places.astype(int), sides - 2)
        share = places - low
        found = np.zeros((len(ids), len(points)), np.float32)
        for corner in itertools.product((0, 1), repeat=len(sides)):
            at = np.ravel_multi_index(tuple((low + corner).T), self.sides)
            weight = np.prod(np.where(corner, share, 1 - share), axis=1).astype(np.float32)
            columns = self._rank[at]
            found += weight * np.stack([self.values[i][columns] for i in ids])
        return found


class Sampling(NamedTuple):
    """What a batch sees: batch_size signals at num_points points P (0: all of the grid), a share
    `near` of them close to surfaces, and cloud_points Q of every cloud; all drawn by the seed."""

    batch_size: int
    seed: int
    num_points: int = 0
    near: float = 0.0
    cloud_points: int = 0


class PointBatches:
    """Batch number -> {'ids' [b], 'points' [P, 3], 'signals' [b, P, 1], 'clouds' [b, Q, 6]}.

    All signals of a batch are seen at the same points, of which a share `near` lies close to the
    surfaces of the batch's own shapes and the rest is random on the grid. Near one shape's surface
    its own value is as prepared, those of the others are interpolated from their grids. clouds
    (surface points and normals) only where cloud_points is not 0. Every batch is a function of
    (seed, number); processes share its points and take turns on its signals.
    """

    def __init__(
        self, collection: Collection, grids: ShuffledGrids, sampling: Sampling, share: Share
    ):
        size = sampling.batch_size
        self.collection, self.grids = collection, grids
        self.order = EpochOrder(len(collection), size, sampling.seed)
        self.coordinates = grid(tuple(collection.shape[:-1]))
        total = min(sampling.num_points or len(grids.order), len(grids.order))
        self.near_each = round(sampling.near * total / size)
        self.on_grid = max(total - self.near_each * size, 0)
        self.cloud_points, self.seed, self.share = sampling.cloud_points, sampling.seed, share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng([self.seed, 1, int(number)])
        everyone = self.order[number]
        ids = everyone[self.share]
        start = int(draw.integers(len(self.grids.order)))
        positions, values = self.grids.run(ids, start, self.on_grid)
        points = self.coordinates[positions]
        if self.near_each:
            near, near_values = self._near(everyone, ids, draw)
            points = np.concatenate([points, near])
            values = np.concatenate([values, near_values], 1)
        batch = {"ids": ids, "points": points.astype(np.float32), "signals": values[..., None]}
        if self.cloud_points:
            batch["clouds"] = np.stack([self._cloud(index, number) for index in ids])
        return batch

    def _near(self, everyone, ids, draw):
        """Points close to the surface of every shape of the batch, and values there."""
        points, own = [], {}
        for place, index in enumerate(everyone):
            known, distances = self.collection.near(int(index))
            chosen = draw.integers(len(known), size=self.near_each)
            points.append(known[chosen])
            own[int(index)] = (place * self.near_each, distances[chosen])
        points = np.concatenate(points)
        values = self.grids.interpolated(ids, points)
        for row, index in enumerate(ids):
            first, distances = own[int(index)]
            values[row, first : first + self.near_each] = distances
        return points, values

    def _cloud(self, index, number):
        return some_of_cloud(self.collection, index, self.cloud_points, self.seed, number)


class CloudBatches:
    """Batch number -> {'ids' [b], 'points' [P, 3], 'signals' [b, 0, 1], 'clouds' [b, Q, 6]}.

    Of these signals only oriented points on their surfaces are known; points are drawn evenly from
    the cube, and nothing is known there.
    """

    def __init__(self, collection: Collection, sampling: Sampling, share: Share):
        self.collection = collection
        self.order = EpochOrder(len(collection), sampling.batch_size, sampling.seed)
        self.num_points, self.cloud_points = sampling.num_points, sampling.cloud_points
        self.seed, self.share = sampling.seed, share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng([self.seed, 1, int(number)])
        ids = self.order[number][self.share]
        points = draw.uniform(-1, 1, (self.num_points, len(self.collection.shape) - 1))
        clouds = [
            some_of_cloud(self.collection, i, self.cloud_points, self.seed, number) for i in ids
        ]
        return {
            "ids": ids,
            "points": points.astype(np.float32),
            "signals": np.zeros((len(ids), 0, 1), np.float32),
            "clouds": np.stack(clouds),
        }


def some_of_cloud(
    collection: Collection, index: int, count: int, seed: int, number: int
) -> Float[np.ndarray, "Q 6"]:
    """`count` points of one signal's cloud [Q, 6], another draw for every batch number."""
    draw = np.random.default_rng([seed, 2, int(number), int(index)])
    cloud = collection.cloud(int(index))
    return cloud[draw.integers(len(cloud), size=count)].astype(np.float32)


def point_batches(
    collection: Collection,
    sampling: Sampling,
    cache: str = "",
    memory: int = IN_MEMORY_BYTES,
    share: Share = EVERYTHING,
) -> Iterator[dict[str, np.ndarray]]:
    """An endless, checkpointable iterator over `PointBatches` of a collection of volumes.

    sampling: of no clouds where cloud_points is 0; cache: folder for the file of values where they
    take more than `memory` bytes, '' for the collection's own; share as `data.batches`. Raises
    ValueError naming train.batch_size, train.near or data.cache.
    """
    check_batch_size(sampling.batch_size, len(collection))
    if not 0 <= sampling.near <= 1:
        raise ValueError(f"train.near: {sampling.near}; allowed: 0 (grid only) to 1")
    path = None
    if 4 * len(collection) * math.prod(collection.shape) > memory:
        path = cache_file(collection, sampling.seed, cache)
    grids = ShuffledGrids(collection, sampling.seed, path)
    source = PointBatches(collection, grids, sampling, share)
    # Reading files, sampling and interpolating go on while the step computes.
    return endless(source, min(4, os.cpu_count() or 1))


def cloud_batches(
    collection: Collection,
    sampling: Sampling,
    share: Share = EVERYTHING,
) -> Iterator[dict[str, np.ndarray]]:
    """An endless, checkpointable iterator over `CloudBatches` of a collection of shapes.

    share as `data.batches`. Raises ValueError naming train.batch_size, train.points or
    train.cloud_points.
    """
    check_batch_size(sampling.batch_size, len(collection))
    wanted = {"points": sampling.num_points, "cloud_points": sampling.cloud_points}
    for key, value in wanted.items():
        if value < 1:
            raise ValueError(f"train.{key}: {value}; train.codes=surface wants 1 or more")
    source = CloudBatches(collection, sampling, share)
    return endless(source, min(4, os.cpu_count() or 1))


def cache_file(collection: Collection, seed: int, cache: str = "") -> Path:
    """The file in which a collection's shuffled grids are kept; its name tells which they are."""
    folder = cache or getattr(collection, "cache", "")
    if not folder:
        raise ValueError(
            f"data.cache: '' for {collection.title}, whose {len(collection)} volumes of "
            f"{list(collection.shape[:-1])} do not fit into memory; give a folder for them"
        )
    identity = repr((collection.title, collection.names, collection.shape, seed))
    identity += repr(getattr(collection, "truncation", 0.0))
    return Path(folder) / f"grids-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"
