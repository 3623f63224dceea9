"""Which signals are for training and which for testing, and what the config says about size."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from nid_jax.data.collection import ShapedCollection, SubsetCollection
from nid_jax.notices import say

SPLITS = ("train", "test")
# Sources that draw as many signals as asked for, and how many those are where 0 are.
MADE = {
    "photos": {"train": 340, "test": 60},
    "phantoms": {"train": 2000, "test": 20},
    "shapes": {"train": 80, "test": 20},
    "stations": {"train": 300, "test": 60},
}


def random_split(count, split, fraction, seed, where):
    """Sorted indices of one split of `count` signals: a seeded share `fraction` is for testing.

    The shares of 'train' and 'test' are disjoint and cover all; for 0 < fraction < 1 neither is
    empty. fraction 0 leaves all for training and 1 all for testing.
    Raises ValueError naming `where` and data.test_fraction when the split would be empty.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"data.test_fraction={fraction}: must be between 0 and 1")
    num_test = round(fraction * count)
    if 0 < fraction < 1 and count > 1:
        num_test = min(max(num_test, 1), count - 1)
    order = np.random.default_rng([seed, count]).permutation(count)
    chosen = order[:num_test] if split == "test" else order[num_test:]
    if not len(chosen):
        raise ValueError(
            f"{where}: data.test_fraction={fraction} of {count} signals leaves none to {split} on"
        )
    return sorted(int(index) for index in chosen)


def split_of_names(
    names: Sequence[str], config: ConfigDict, split: str, seed: int
) -> Sequence[int]:
    """Indices of the split's own of names of signals or files below data.root.

    Names all of which begin with train/ or test/ are in that split; one alone is in both, which is
    said; others are split at random, see `random_split`. Raises ValueError naming data.root.
    """
    folders = {name.partition("/")[0] for name in names if "/" in name}
    if folders and folders <= set(SPLITS) and all("/" in name for name in names):
        chosen = [index for index, name in enumerate(names) if name.startswith(f"{split}/")]
        if not chosen:
            raise ValueError(f"data.root={config.root!r}: has no {split}/, only {folders.pop()}/")
        return chosen
    if len(names) == 1 and 0 < config.test_fraction < 1:
        say(f"{config.root}: one signal, which is both learned from and fitted")
        return [0]
    return random_split(len(names), split, config.test_fraction, seed, config.root)


def every_eighth(count, split):
    """The paper's split of face collections: signals 1, 9, 17, ... are for testing."""
    return [index for index in range(count) if (index % 8 == 1) == (split == "test")]


def wanted(config: ConfigDict, split: str) -> int:
    """data.num_train or data.num_test, 0 for all. Raises ValueError if negative."""
    count = config[f"num_{split}"]
    if count < 0:
        raise ValueError(f"data.num_{split}={count}: must be 0 (all) or more")
    return count


def limited(collection, config, split):
    """The first data.num_train or data.num_test signals, all of them for 0.

    Raises ValueError naming the key when the collection has fewer.
    """
    count = wanted(config, split)
    if count > len(collection):
        raise ValueError(
            f"data.num_{split}={count}: {collection.title} has only {len(collection)} signals "
            f"to {split} on; 0 takes all"
        )
    if count in (0, len(collection)):
        return collection
    return SubsetCollection(collection, range(count))


def configured_size(config: ConfigDict, dims: int = 2) -> tuple[int, ...] | None:
    """data.size as a tuple of `dims` whole numbers, (rows, columns) of pictures; None where it is
    empty. One number n stands for n along every axis.

    Raises ValueError for anything else.
    """
    size = config.size
    if size is None or size in (0, ""):
        return None
    size = (size,) * dims if isinstance(size, int) else tuple(size)
    if not size:
        return None
    size = size * dims if len(size) == 1 else size
    whole = all(isinstance(n, int | np.integer) and n > 0 for n in size)
    if len(size) != dims or not whole:
        wanted = "(rows, columns), both" if dims == 2 else f"{dims} whole numbers, each"
        raise ValueError(f"data.size={config.size}: must be {wanted} at least 1, or ()")
    return tuple(int(n) for n in size)


def configured_crop(config):
    """data.crop: 'center' or '' (None counts as ''). Raises ValueError for anything else."""
    crop = config.crop or ""
    if crop not in ("", "center"):
        raise ValueError(f"data.crop={crop!r}: must be 'center' or ''")
    return crop


def configured_range(config: ConfigDict) -> tuple[float, float] | tuple[()]:
    """data.range as (low, high), () where it is empty. Raises ValueError for anything else."""
    given = tuple(config.range or ())
    if not given:
        return ()
    numbers = all(isinstance(end, int | float | np.number) for end in given)
    if len(given) != 2 or not numbers or not np.isfinite(given).all() or given[0] >= given[1]:
        raise ValueError(f"data.range={given}: must be (low, high), low < high, or ()")
    return float(given[0]), float(given[1])


def shaped(collection, config):
    """`collection` brought to what data.size, data.resize, data.crop and data.gray ask."""
    size = configured_size(config) or tuple(collection.shape[:-1])
    channels = 1 if config.gray else collection.shape[-1]
    if (*size, channels) == tuple(collection.shape):
        return collection
    return ShapedCollection(collection, size, config.resize, configured_crop(config), config.gray)
