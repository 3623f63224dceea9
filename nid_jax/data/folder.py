"""Directories of image files, read lazily."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images, picturefiles
from nid_jax.data.collection import Collection, position
from nid_jax.data.listing import find_files
from nid_jax.data.splitting import (
    configured_crop,
    configured_range,
    configured_size,
    random_split,
)


class ImageFiles:
    """Picture files as a collection, decoded on access.

    paths: S files; names: S labels; sizes: (rows, columns) of the files themselves, where they
    were looked at; size: (rows, columns); channels: 1 or 3; resizing, crop: as in
    images.fit_to_size. Reading raises FileNotFoundError, and ValueError naming a file that is
    damaged, or of another size with resizing off (open_files looks at all sizes beforehand).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        title: str,
        size: tuple[int, int],
        channels: int,
        resizing: bool = False,
        crop: str = "",
        value_range: tuple[float, float] | tuple[()] = (),
    ):
        self.paths = [Path(path) for path in paths]
        self.names = list(names)
        self.title = title
        self.resizing = resizing
        self.crop = crop
        self.value_range = value_range
        self.shape = (*size, channels)
        self.sizes = []

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        path = self.paths[position(index, len(self))]
        image = picturefiles.read_image(path, self.value_range)
        image = images.to_channels(image, self.shape[-1])
        image = images.fit_to_size(image, self.shape[:-1], self.resizing, self.crop, path)
        return np.ascontiguousarray(image, np.float32)


def open_files(
    paths: Sequence[Path],
    names: Sequence[str],
    title: str,
    config: ConfigDict,
    indices: Sequence[int],
) -> Collection:
    """The files at `indices` of `paths` as a collection shaped by the config.

    All headers are read, those of the other split too: both splits get one size (data.size, or the
    first file's) and one number of channels (3 as soon as one file is in colour; 1 with data.gray).
    """
    headers = [picturefiles.read_header(path) for path in paths]
    size = configured_size(config) or headers[0][:2]
    if not config.resize:
        for path, header in zip(paths, headers, strict=True):
            if header[:2] != size:
                raise ValueError(images.size_complaint(path, header[:2], size))
    channels = 1 if config.gray else max(header[2] for header in headers)
    collection = ImageFiles(
        [paths[index] for index in indices],
        [names[index] for index in indices],
        title,
        size,
        channels,
        config.resize,
        configured_crop(config),
        configured_range(config),
    )
    collection.sizes = [header[:2] for header in headers]
    return collection


def data_root(config: ConfigDict) -> Path:
    """data.root as an existing directory.

    Raises ValueError when it is empty, FileNotFoundError when it is not a directory.
    """
    if not config.root:
        raise ValueError(f"data.root is empty: data.name={config.name!r} reads a directory")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        what = "is a file, not a directory" if root.exists() else "does not exist"
        raise FileNotFoundError(f"data.root={config.root!r}: {what}")
    return root


def find_images(directory: str | Path) -> list[Path]:
    """All image files below a directory, as `find_files` finds them.

    Raises FileNotFoundError naming the extensions when there are none.
    """
    found = find_files(directory, picturefiles.EXTENSIONS, "picture", picturefiles.NEEDS)
    if not found:
        allowed = ", ".join(picturefiles.EXTENSIONS)
        raise FileNotFoundError(f"{directory}: holds no images; allowed extensions: {allowed}")
    return found


def open_folder(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a directory with train/ and test/ inside, or one split by data.test_fraction.

    Subdirectories are read too, files sorted by path, the random split a function of the sorted
    names' number and the seed. Gray or colour; any size that all files share, or with data.resize
    every file brought to data.size (after a centre crop to its aspect with data.crop='center').
    Names are paths below the directory. Raises FileNotFoundError for a missing or empty directory,
    ValueError naming the file for one of another size or one that cannot be read.
    """
    root = data_root(config)
    parts = {name: root / name for name in ("train", "test")}
    present = [name for name, path in parts.items() if path.is_dir()]
    if len(present) == 1:
        missing = "test" if present == ["train"] else "train"
        raise FileNotFoundError(
            f"data.root={config.root!r}: has {present[0]}/ but no {missing}/; needs both, or "
            "neither and data.test_fraction"
        )
    if present:
        found = {name: find_images(path) for name, path in parts.items()}
        paths = found["train"] + found["test"]
        offset = 0 if split == "train" else len(found["train"])
        indices = range(offset, offset + len(found[split]))
        names = [path.relative_to(parts[name]).as_posix() for name in found for path in found[name]]
    else:
        paths = find_images(root)
        names = [path.relative_to(root).as_posix() for path in paths]
        indices = random_split(len(paths), split, config.test_fraction, seed, root)
    return open_files(paths, names, f"images in {root.name}", config, indices)
