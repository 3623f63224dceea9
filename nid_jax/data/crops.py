"""Random crops of pictures of any sizes, at their native resolution."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images, picturefiles
from nid_jax.data.collection import ArrayCollection, Collection
from nid_jax.data.decoding import are_bytes
from nid_jax.data.picturefiles import PictureFile
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
    pictures: Sequence[PictureFile],
    title: str,
    config: ConfigDict,
    seed: int,
    channels: int,
    band: str = "",
) -> Collection:
    """data.crops random crops [*data.size, C] of each picture, in turn from all, in memory.

    pictures: of a split; channels: C of all. Crops are a function of the seed and the picture's
    name. band: 'train' or 'test' where both splits are cut from one picture, from parts of their
    own (see `crop_ranges`); '': from all of it. Crops that are next to constant are drawn again.
    Smaller pictures are passed over, with a notice. Raises ValueError naming data.crops, data.size
    or data.resize, and a file that cannot be read.
    """
    size, each = crop_size(config), config.crops
    if each < 0:
        raise ValueError(f"data.crops={each}: must be 0 (whole pictures) or more")
    if config.resize:
        raise ValueError(f"data.resize=true: data.crops={each} are at native resolution")
    large = [pictures[at] for at in _large_enough([one.size for one in pictures], size)]
    if len(large) < len(pictures):
        small = next(one for one in pictures if one not in large)
        say(
            f"{len(pictures) - len(large)} of {len(pictures)} pictures are smaller than data.size="
            f"{size} and give no crops, the first is {small.path}"
        )
    gib = len(large) * each * math.prod(size) * channels / 2**30
    if gib > config.decoded_gib:
        raise ValueError(
            f"data.crops={each}: {len(large)} pictures give {gib:.1f} GiB of crops, more than "
            f"data.decoded_gib={config.decoded_gib:g}"
        )
    found = [_crops_of(one, size, config, seed, channels, band, title) for one in large]
    if len({crops.dtype for crops in found}) > 1:
        found = [images.to_unit(crops, title) for crops in found]
    values = np.stack(found, axis=1).reshape(-1, *size, channels)
    labels = [f"{one.name}/{number:04d}" for number in range(each) for one in large]
    return ArrayCollection(values, labels, f"crops of {title}")


def _crops_of(picture, size, config, seed, channels, band, title):
    """data.crops crops [n, *size, C] of one picture: uint8 where that is exact, else float32."""
    pixels = picturefiles.read_image(picture.path, picture.value_range, title=title)
    pixels = images.to_channels(pixels, channels)
    columns = pixels.shape[1]
    ranges = crop_ranges(columns, size[1], band) if band else [(0, columns - size[1] + 1)]
    if not ranges:
        raise ValueError(
            f"{picture.path}: {columns} columns are too few for crops of data.size={size} beside "
            "those to test on; give further pictures"
        )
    generator = np.random.default_rng([seed, *f"{picture.name}/{band}".encode()])
    crops = np.stack([draw_crop(generator, pixels, size, ranges) for _ in range(config.crops)])
    return np.rint(crops * 255).astype(np.uint8) if are_bytes(crops) else crops


def count_crops(sizes: Sequence[tuple[int, int]], config: ConfigDict) -> int:
    """How many crops `open_crops` cuts from pictures of these (rows, columns)."""
    return config.crops * len(_large_enough(sizes, crop_size(config)))


def _large_enough(sizes, size):
    """Numbers of the pictures that a crop fits into."""
    large = [
        at for at, (rows, columns) in enumerate(sizes) if rows >= size[0] and columns >= size[1]
    ]
    if not large:
        raise ValueError(
            f"data.size={size}: crops fit into none of {len(sizes)} pictures, the first is "
            f"{sizes[0][0]}x{sizes[0][1]} (rows x columns)"
        )
    return large
