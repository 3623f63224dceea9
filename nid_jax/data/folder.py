"""Directories of image files, read lazily."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.coding.operators import Operator, areas
from nid_jax.data import images, picturefiles
from nid_jax.data.collection import Collection, position, window_slices
from nid_jax.data.crops import count_crops, open_crops
from nid_jax.data.listing import copies, find_files
from nid_jax.data.picturefiles import PictureFile
from nid_jax.data.splitting import (
    configured_crop,
    configured_range,
    configured_size,
    random_split,
)
from nid_jax.notices import say

# Files whose values are looked at for what is black and white, of one type: spread over all.
_LOOKED_AT = 256
# What another reader is for.
_IDX_FILES = "*idx[1-5]-*"


class ImageFiles:
    """Picture files as a collection, decoded on access.

    files: of S signals; size: (rows, columns); channels: 1 or 3; resizing, crop: as in
    images.fit_to_size; mixed: each has the size of its file, of which `size` is the first's where
    they are cut to patches, and otherwise what their areas are means of, see `ways`.
    sizes: (rows, columns) of all files that were looked at; large: the places of those that are
    never decoded whole. Reading raises FileNotFoundError, and ValueError naming a
    file that is damaged, or of another size with resizing off (open_files looks at all sizes
    beforehand).
    """

    def __init__(
        self,
        files: Sequence[PictureFile],
        title: str,
        size: tuple[int, int],
        channels: int,
        resizing: bool = False,
        crop: str = "",
        mixed: bool = False,
    ):
        self.files = list(files)
        self.mixed = mixed
        self.names = [file.name for file in files]
        self.title = title
        self.resizing = resizing
        self.crop = crop
        self.shape = (*size, channels)
        self.sizes = []
        self.large = frozenset()

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """Of the files as they are on disk and of all that is done to them, 16 hex digits."""
        status = [(file.path.resolve(), file.path.stat()) for file in self.files]
        files = [(str(path), found.st_size, found.st_mtime_ns) for path, found in status]
        ranges = [file.value_range for file in self.files]
        done = (self.shape, self.resizing, self.crop, self.mixed, ranges)
        return hashlib.sha256(repr((files, done)).encode()).hexdigest()[:16]

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        at = position(index, len(self))
        file, size = self.files[at], self.grid(at)
        needed = size if self.resizing else None
        image = picturefiles.read_image(file.path, file.value_range, needed, self.title)
        image = images.to_channels(image, self.shape[-1])
        image = images.fit_to_size(image, size, self.resizing, self.crop, file.path)
        return np.ascontiguousarray(image, np.float32)

    def grid(self, index: int) -> tuple[int, int]:
        """(rows, columns) of picture `index`."""
        rows, columns = self.files[index].size if self.mixed else self.shape[:-1]
        return rows, columns

    @functools.cached_property
    def _sizes(self):
        """Distinct sizes of the pictures, sorted."""
        return sorted({file.size for file in self.files})

    @functools.cached_property
    def ways(self) -> list[Operator]:
        """What measures a picture of each size, of one of `shape`: means over its pixels. None
        where all have one size."""
        if not self.mixed:
            return []
        return [areas(self.shape[:-1], size) for size in self._sizes]

    def way(self, index: int) -> int:
        """Which of `ways` measured picture `index`."""
        return self._sizes.index(self.files[index].size)

    @property
    def windows(self) -> bool:
        """Whether `window` reads a part for less than the whole."""
        return bool(self.large)

    def window(
        self, index: int, corner: Sequence[int], size: Sequence[int]
    ) -> Float[np.ndarray, "h w C"]:
        """A part of a picture, float32 [*size, C]; of a large one no more is decoded.

        corner: (row, column) of its first pixel. Raises as [index] does.
        """
        at = position(index, len(self))
        if at not in self.large:
            return np.ascontiguousarray(self[at][window_slices(corner, size)])
        file = self.files[at]
        image = picturefiles.read_window(file.path, corner, size, file.value_range, self.title)
        return images.to_channels(image, self.shape[-1])


def open_files(
    paths: Sequence[Path],
    names: Sequence[str],
    title: str,
    config: ConfigDict,
    indices: Sequence[int],
) -> ImageFiles:
    """The files at `indices` of `paths` as a collection shaped by the config.

    All headers are read, those of the other split too: both splits get one size (data.size, or the
    first file's; in patches, with data.size=(), each file's own), one number of channels (3 as soon
    as one file is in colour; 1 with data.gray), and one black and white for each type of
    values. Notices say what of the files is not read.
    """
    headers = [picturefiles.read_header(path) for path in paths]
    size = configured_size(config) or headers[0][:2]
    large = _large(paths, headers, size, config)
    mixed = not config.resize and configured_size(config) is None
    mixed = mixed and any(header[:2] != size for header in headers)
    mixed = mixed and (bool(config.patch.size) or config.name == "folder")
    if mixed and not config.patch.size:
        size = _largest(paths, headers)
    if not (config.resize or mixed):
        for path, header in zip(paths, headers, strict=True):
            if header[:2] != size:
                raise ValueError(
                    images.size_complaint(path, header[:2], size, config.name == "folder")
                )
    _say_what_is_not_read(paths, headers)
    _say_what_is_changed(paths, headers, config)
    ranges = _ranges(paths, headers, config)
    channels = 1 if config.gray else max(header.channels for header in headers)
    files = [PictureFile(paths[at], names[at], ranges[at], headers[at][:2]) for at in indices]
    crop = configured_crop(config)
    collection = ImageFiles(files, title, size, channels, config.resize, crop, mixed)
    collection.sizes = [header[:2] for header in headers]
    collection.large = frozenset(at for at, index in enumerate(indices) if index in large)
    return collection


def _largest(paths, headers):
    """(rows, columns) that no picture goes beyond, and a notice on how others are taken."""
    sizes = Counter(header[:2] for header in headers)
    size = tuple(max(sides) for sides in zip(*sizes, strict=True))
    shown = f"{size[0]}x{size[1]}"
    say(
        f"{_folder_of(paths)}: {len(paths)} pictures of {len(sizes)} sizes; each taken as means "
        f"over its own pixels of a picture of {shown}, shapes stretched to that; data.resize=true "
        "with data.size, data.crops or data.patch.size say otherwise"
    )
    return size


def _large(paths, headers, size, config):
    """Places of pictures that are cut to patches without being decoded whole.

    Raises ValueError naming one that is too large and can be had neither in parts nor reduced.
    """
    large = set()
    for at, (path, header) in enumerate(zip(paths, headers, strict=True)):
        if header.rows * header.columns <= picturefiles.limit():
            continue
        reduced = config.resize and header[:2] != size
        if reduced and picturefiles.reduction(header, size):
            continue
        if reduced or header.parts != "windows" or not config.patch.size:
            raise ValueError(picturefiles.too_large(path, header))
        large.add(at)
    return large


def _say_what_is_not_read(paths, headers):
    """One notice of pages and frames, and one of each of the other notes that headers hold."""
    where, count = _folder_of(paths), len(paths)
    several = [at for at, header in enumerate(headers) if header.pages > 1]
    if several:
        at = several[0]
        say(
            f"{where}: {len(several)} of {count} pictures have several pages or frames "
            f"({paths[at].name}: {headers[at].pages}); the first of each is read"
        )
    noted = {}
    for path, header in zip(paths, headers, strict=True):
        for note in header.notes:
            noted.setdefault(note, []).append(path)
    for note, files in noted.items():
        say(f"{where}: {len(files)} of {count} pictures ({files[0].name}) have {note}")


def _say_what_is_changed(paths, headers, config):
    """One notice each of pictures that are laid on white, made gray, and made colour."""
    where, count = _folder_of(paths), len(paths)
    coloured = any(header.channels == 3 for header in headers)
    # Of corrupted pictures what is transparent is missing.
    changes = (
        (
            "have an alpha channel; what is transparent is laid on white; "
            "data.name=corrupted takes it for missing",
            lambda header: header.alpha and config.name != "corrupted",
        ),
        (
            "are in colour; taken in gray; data.gray=false says otherwise",
            lambda header: header.channels == 3 and config.gray,
        ),
        (
            "are gray, others in colour; taken in colour; data.gray=true takes all in gray",
            lambda header: header.channels == 1 and coloured and not config.gray,
        ),
    )
    for what, concerned in changes:
        some = [path for path, header in zip(paths, headers, strict=True) if concerned(header)]
        if some:
            say(f"{where}: {len(some)} of {count} pictures ({some[0].name}) {what}")


def _folder_of(paths):
    return os.path.commonpath([path.parent for path in paths])


def _ranges(paths, headers, config):
    """Black and white of each file: data.range, or what values of one type have in all files."""
    given = configured_range(config)
    if given:
        return [given] * len(paths)
    unclear = {}
    for path, header in zip(paths, headers, strict=True):
        if header.kind not in ("bool", "uint8") and not header.full:
            unclear.setdefault(header.kind, []).append((path, header))
    found = {}
    for kind, files in unclear.items():
        # The scale of 16 bits is known, and only said to be little used.
        most = _LOOKED_AT // 8 if kind in images.FULL_SCALE else _LOOKED_AT
        some = files[:: -(-len(files) // most)]
        lows, highs = zip(*(picturefiles.extremes(*file) for file in some), strict=True)
        where = _folder_of(paths)
        found[kind] = images.range_between(np.dtype(kind), min(lows), max(highs), where)
    return [() if header.full else found.get(header.kind, ()) for header in headers]


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


def find_images(
    directory: str | Path, extensions: Sequence[str] = picturefiles.EXTENSIONS
) -> list[Path]:
    """All image files below a directory, as `find_files` finds them.

    Raises FileNotFoundError naming the extensions when there are none.
    """
    found = find_files(directory, extensions, "picture", picturefiles.NEEDS)
    if not found:
        allowed = ", ".join(extensions)
        hint = "; data.name=idx reads idx files" if any(Path(directory).glob(_IDX_FILES)) else ""
        raise FileNotFoundError(
            f"{directory}: holds no images; allowed extensions: {allowed}{hint}"
        )
    return found


def open_folder(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a directory with train/ and test/ inside, or one split by data.test_fraction.

    Files of several sizes, with data.size=() and neither data.resize nor data.crops, keep theirs.
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
    headers = [picturefiles.read_header(path) for path in paths]
    _say_what_is_not_read(paths, headers)
    _say_what_is_changed(paths, headers, config)
    ranges = _ranges(paths, headers, config)
    pictures = [PictureFile(paths[at], names[at], ranges[at], headers[at][:2]) for at in indices]
    channels = 1 if config.gray else max(header.channels for header in headers)
    # Of a single picture the splits are parts.
    return open_crops(pictures, title, config, seed, channels, split if len(paths) == 1 else "")


def count_folder_crops(config: ConfigDict, split: str, seed: int) -> int:
    """How many crops `open_folder` would cut of a split; no pixel is read."""
    paths, _, indices = _members(config, split, seed)
    sizes = [picturefiles.read_header(paths[index])[:2] for index in indices]
    return count_crops(sizes, config)


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
        _say_copies(root, found["train"], found["test"])
        return paths, names, indices
    paths = find_images(root)
    names = [path.relative_to(root).as_posix() for path in paths]
    if config.crops and len(paths) == 1:
        # Its parts are split, not the picture.
        return paths, names, [0]
    indices = random_split(len(paths), split, config.test_fraction, seed, root)
    chosen = set(indices)
    sides = [[p for at, p in enumerate(paths) if (at in chosen) == here] for here in (1, 0)]
    _say_copies(root, *(sides if split == "train" else sides[::-1]))
    return paths, names, indices


def _say_copies(root, train, test):
    """One notice where files to test on are copies of files to train on."""
    found = copies(train, test)
    if found:
        of, copy = (path.relative_to(root).as_posix() for path in found[0])
        say(
            f"{root}: {len(found)} of {len(test)} pictures to test on are copies of pictures to "
            f"train on ({copy} of {of}); scores on them are not of unseen pictures"
        )
