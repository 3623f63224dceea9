"""Directories of image files, read lazily."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import Collection, position
from nid_jax.data.crops import count_crops, open_crops
from nid_jax.data.listing import find_files
from nid_jax.data.splitting import configured_crop, configured_size, random_split


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
    ):
        self.paths = [Path(path) for path in paths]
        self.names = list(names)
        self.title = title
        self.resizing = resizing
        self.crop = crop
        self.shape = (*size, channels)
        self.sizes = []

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Of the files as they are on disk and of all that is done to them, 16 hex digits."""
        files = [
            (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.paths
        ]
        done = (self.shape, self.resizing, self.crop)
        return hashlib.sha256(repr((files, done)).encode()).hexdigest()[:16]

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        path = self.paths[position(index, len(self))]
        image = images.to_channels(images.read_image(path), self.shape[-1])
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
    headers = [images.read_header(path) for path in paths]
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
    found = find_files(directory, images.EXTENSIONS, "picture")
    if not found:
        raise FileNotFoundError(
            f"{directory}: holds no images; allowed extensions: {', '.join(images.EXTENSIONS)}"
        )
    return found


def open_folder(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a directory with train/ and test/ inside, or one split by data.test_fraction.

    Subdirectories are read too, files sorted by path, the random split a function of the sorted
    names' number and the seed. Gray or colour; any size that all files share, or with data.resize
    every file brought to data.size (after a centre crop to its aspect with data.crop='center'), or
    with data.crops random crops of that size of files of any sizes.
    Names are paths below the directory. Raises FileNotFoundError for a missing or empty directory,
    ValueError naming the file for one of another size or one that cannot be read.
    """
    paths, names, indices = _members(config, split, seed)
    title = f"images in {data_root(config).name}"
    if not config.crops:
        return open_files(paths, names, title, config, indices)
    chosen, labels = ([items[index] for index in indices] for items in (paths, names))
    channels = 1 if config.gray else max(images.read_header(path)[2] for path in paths)
    band = split if len(paths) == 1 else ""
    return open_crops(chosen, labels, title, config, seed, channels, band)


def count_folder_crops(config: ConfigDict, split: str, seed: int) -> int:
    """How many crops `open_folder` would cut of a split; no pixel is read."""
    paths, _, indices = _members(config, split, seed)
    return count_crops([paths[index] for index in indices], config)


def _members(config, split, seed):
    """All files, their names, and the numbers of those in a split."""
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
        return paths, names, indices
    paths = find_images(root)
    names = [path.relative_to(root).as_posix() for path in paths]
    if config.crops and len(paths) == 1:
        # Its parts are split, not the picture.
        return paths, names, [0]
    return paths, names, random_split(len(paths), split, config.test_fraction, seed, root)
