"""Random crops of pictures of any sizes, at their native resolution."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import ArrayCollection, Collection
from nid_jax.data.decoding import are_bytes
from nid_jax.data.splitting import configured_size
from nid_jax.notices import say

DEFAULT_CROP_SIZE = (32, 32)

# Where both splits are cut from the same picture: test crops come from this share of its width.
TEST_BAND = (0.6, 0.8)

# A crop whose channels all vary less than this (standard deviation) shows nothing: drawn again.
FLAT = 0.02
_DRAWS = 1000


def crop_ranges(columns: int, width: int, split: str) -> list[tuple[int, int]]:
    """The ranges of first columns a crop of this width may have in a photograph of `columns`."""
    start = round(TEST_BAND[0] * columns)
    stop = max(round(TEST_BAND[1] * columns), start + width)
    if stop > columns:
        start, stop = columns - width, columns
    if split == "test":
        return [(start, stop - width + 1)]
    sides = [(0, start - width + 1), (stop, columns - width + 1)]
    return [(first, last) for first, last in sides if last > first]


def draw_crop(
    generator: np.random.Generator,
    picture: Float[np.ndarray, "H W C"],
    size: tuple[int, int],
    ranges: Sequence[tuple[int, int]],
) -> Float[np.ndarray, "h w C"]:
    """A random part [*size, C] of a picture that is not flat, if one is found.

    ranges: from which first column to before which a crop may begin; none of them empty.
    """
    admitted = np.concatenate([np.arange(first, last) for first, last in ranges])
    for _ in range(_DRAWS):
        row = int(generator.integers(len(picture) - size[0] + 1))
        column = int(generator.choice(admitted))
        crop = picture[row : row + size[0], column : column + size[1]]
        if crop.std(axis=(0, 1)).max() >= FLAT:
            break
    return crop


def crop_size(config: ConfigDict) -> tuple[int, int]:
    """data.size, 32x32 where it is ()."""
    rows, columns = configured_size(config) or DEFAULT_CROP_SIZE
    return rows, columns


def open_crops(
    paths: Sequence[Path],
    names: Sequence[str],
    title: str,
    config: ConfigDict,
    seed: int,
    channels: int,
    band: str = "",
) -> Collection:
    """data.crops random crops [*data.size, C] of each picture, in turn from all, in memory.

    paths, names: of the pictures of a split; channels: C of all. Crops are a function of the seed
    and the picture's name. band: 'train' or 'test' where both splits are cut from one picture, from
    parts of their own (see `crop_ranges`); '': from all of it.
    Crops that are next to constant are drawn again. Smaller pictures are passed over, with a
    notice. Raises ValueError naming data.crops, data.size or data.resize, and a file that cannot
    be read.
    """
    size, each = crop_size(config), config.crops
    if each < 0:
        raise ValueError(f"data.crops={each}: must be 0 (whole pictures) or more")
    if config.resize:
        raise ValueError(f"data.resize=true: data.crops={each} are at native resolution")
    large = _large_enough(paths, size)
    gib = len(large) * each * math.prod(size) * channels / 2**30
    if gib > config.decoded_gib:
        raise ValueError(
            f"data.crops={each}: {len(large)} pictures give {gib:.1f} GiB of crops, more than "
            f"data.decoded_gib={config.decoded_gib:g}"
        )
    found = []
    for index in large:
        picture = images.to_channels(images.read_image(paths[index]), channels)
        columns = picture.shape[1]
        ranges = [(0, columns - size[1] + 1)]
        if band:
            ranges = crop_ranges(columns, size[1], band)
        if not ranges:
            raise ValueError(
                f"{paths[index]}: {columns} columns are too few for crops of data.size={size} "
                "beside those to test on; give further pictures"
            )
        words = f"{names[index]}/{band}".encode()
        generator = np.random.default_rng([seed, *words])
        crops = np.stack([draw_crop(generator, picture, size, ranges) for _ in range(each)])
        found.append(np.rint(crops * 255).astype(np.uint8) if are_bytes(crops) else crops)
    if len({crops.dtype for crops in found}) > 1:
        found = [images.to_unit(crops, title) for crops in found]
    values = np.stack(found, axis=1).reshape(-1, *size, channels)
    labels = [f"{names[index]}/{number:04d}" for number in range(each) for index in large]
    return ArrayCollection(values, labels, f"crops of {title}")


def count_crops(paths: Sequence[Path], config: ConfigDict) -> int:
    """How many crops `open_crops` cuts from these pictures; their pixels are not read."""
    return config.crops * len(_large_enough(paths, crop_size(config)))


def _large_enough(paths, size):
    """Numbers of the pictures that a crop fits into."""
    headers = [images.read_header(path)[:2] for path in paths]
    large = [
        i for i, (rows, columns) in enumerate(headers) if rows >= size[0] and columns >= size[1]
    ]
    if not large:
        raise ValueError(
            f"data.size={size}: crops fit into none of {len(paths)} pictures, the first is "
            f"{headers[0][0]}x{headers[0][1]} (rows x columns)"
        )
    if len(large) < len(paths):
        small = paths[next(i for i in range(len(paths)) if i not in large)]
        say(
            f"{len(paths) - len(large)} of {len(paths)} pictures are smaller than data.size={size} "
            f"and give no crops, the first is {small}"
        )
    return large
