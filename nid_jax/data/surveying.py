"""What a source holds, before signals are chosen from it and brought to one shape."""

import collections
from typing import NamedTuple

from ml_collections import ConfigDict

from nid_jax.data import folder, sources
from nid_jax.data.collection import holed
from nid_jax.data.crops import crop_size
from nid_jax.data.defaults import completed
from nid_jax.data.splitting import MADE

# Sources that bring pictures of any size to data.size, whatever data.resize is.
_RESIZING = ("volumes", "pointcloud", "celeb_a", "cifar10")


class Survey(NamedTuple):
    """What there is of one split: signals, before any copies or patches of them."""

    count: int
    """Signals; of sources that draw as many as asked for, those."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """Samples along each axis that occur, the most common first; () where any can be had."""
    channels: int = 0
    """C, with all their colours; 0: not known."""
    dims: int = 0
    """Coordinates of signals that share no grid; 0 of others."""
    holed: bool = False
    """Whether parts of signals are missing."""


def survey(config_data: ConfigDict, split: str, seed: int) -> Survey:
    """What the source of config.data holds of a split, whatever its limits and sizes ask for.

    Raises ValueError and FileNotFoundError as `open_collection` does for a source that cannot be
    read.
    """
    config = completed(config_data)
    opener = sources.opener(config.name)
    asked = config[f"num_{split}"]
    if config.name in MADE:
        return Survey(asked or MADE[config.name][split], dims=2 * (config.name in sources.POINTS))
    if config.name == "clip":
        return Survey(config.clip.num_frames)
    config.num_train = config.num_test = 0
    if config.name in sources.COUNTED:
        return Survey(sources.counter(config.name)(config, split, seed))
    if config.name in sources.POINTS:
        collection = opener(config, split, seed)
        return Survey(len(collection), dims=len(collection.shape) - 1)
    if config.name in _RESIZING or config.name.startswith(sources.PREFIX):
        return Survey(len(opener(config, split, seed)))
    if config.crops:
        return Survey(folder.count_folder_crops(config, split, seed), (crop_size(config),))
    # Pictures with what they hide are never resized.
    config.update({"size": (), "crop": "", "gray": False, "resize": config.name != "corrupted"})
    collection = opener(config, split, seed)
    shape = tuple(collection.shape)
    sizes = getattr(collection, "sizes", None) or [shape[:-1]]
    common = [size for size, _ in collections.Counter(sizes).most_common()]
    return Survey(len(collection), tuple(common), shape[-1], holed=holed(collection))
