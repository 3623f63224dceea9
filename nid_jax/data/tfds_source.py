"""Image datasets of tensorflow-datasets, read by random access without tensorflow."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import Collection, SubsetCollection, position
from nid_jax.data.portraits import is_celeba_directory, open_celeba
from nid_jax.data.sources import PREFIX
from nid_jax.data.splitting import configured_size, random_split, wanted


class TfdsCollection:
    """The image feature of a tfds data source: the central window of each image, resized.

    source: random access to examples; key: the image's name in an example; size (rows, columns).
    The window has the aspect of `size`, so that a square size takes the central square.
    """

    def __init__(
        self,
        source: Any,
        key: str,
        size: tuple[int, int],
        channels: int,
        names: Sequence[str],
        title: str,
    ):
        self.source = source
        self.key = key
        self.names = list(names)
        self.title = title
        self.shape = (*size, channels)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        at = position(index, len(self))
        image = images.to_unit(self.source[at][self.key], f"{self.title}, example {at}")
        image = images.to_channels(image, self.shape[-1])
        image = images.fit_to_size(image, self.shape[:-1], True, "center", self.title)
        return np.ascontiguousarray(image, np.float32)


def open_tfds(config: ConfigDict, split: str, seed: int) -> Collection:
    """Any image dataset of tensorflow-datasets: data.name='tfds:NAME', prepared below data.root.

    NAME may carry a config and version ('imagenet_resized/32x32:0.1.0'). data.root is the data_dir
    given when it was prepared ('' for tfds' own default). The central window with the aspect of
    data.size is resized to data.size; without data.size the central square is kept as it is. A
    dataset without a test split is split by data.test_fraction and the seed.
    Raises ValueError: unknown name (with the nearest), no image in its examples, or not prepared
    in a format that can be read at random (with the command that does it).
    """
    name = config.name.removeprefix(PREFIX)
    builder = _builder(name, config.root)
    key, (rows, columns, channels) = _image_feature(builder, name)
    source, indices = _source(builder, name, config, split, seed)
    square = (min(rows, columns),) * 2 if rows and columns else None
    size = configured_size(config) or square
    if size is None:
        raise ValueError(
            f"data.name={config.name!r}: its images differ in size; set data.size=(rows, columns)"
        )
    channels = 1 if config.gray else min(channels, 3)
    names = [f"{split}_{number:06d}" for number in range(len(source))]
    collection = TfdsCollection(source, key, size, channels, names, name)
    return collection if indices is None else SubsetCollection(collection, indices)


def open_celeb_a(config: ConfigDict, split: str, seed: int) -> Collection:
    """CelebA: from the published files if data.root holds them, else from tfds.

    Published files: see portraits.open_celeba. Either way the central square, resized to data.size.
    """
    if is_celeba_directory(config.root):
        return open_celeba(config, split)
    return open_tfds(config, split, seed)


def open_cifar10(config: ConfigDict, split: str, seed: int) -> Collection:
    """CIFAR-10 from tfds; a subset is spread evenly over the split, as in the paper's code."""
    collection = open_tfds(config, split, seed)
    count = wanted(config, split)
    if 0 < count < len(collection):
        spread = np.linspace(0, len(collection) - 1, count, dtype=np.int64)
        return SubsetCollection(collection, spread)
    return collection


def preparing_command(name: str, root: str) -> str:
    """The shell command that prepares a dataset for reading here; preparing needs tensorflow."""
    place = f", data_dir={str(root)!r}" if root else ""
    return (
        "pip install tensorflow-cpu importlib_resources && python -c "
        f'"import tensorflow_datasets as tfds; tfds.builder({name!r}{place}, '
        "file_format='array_record').download_and_prepare()\""
    )


def _builder(name, root):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=root or None, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.split("/")[0], known, 1)
        hint = f"did you mean {PREFIX + near[0]!r}? " if near else ""
        raise ValueError(
            f"data.name={PREFIX + name!r}: tensorflow-datasets has no such dataset, nor has "
            f"data.root={root!r}; {hint}allowed: {PREFIX}NAME with a NAME of tfds.list_builders()"
        ) from error
    except ValueError as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"data.name={PREFIX + name!r}: {first_line}") from error


def _image_feature(builder, name):
    """(key, (rows, columns, channels)) of the examples' image; None where sizes differ."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = [key for key in features if type(features[key]) is tfds.features.Image]
    if not keys:
        raise ValueError(
            f"data.name={PREFIX + name!r}: its examples hold no image but {sorted(features)}"
        )
    key = "image" if "image" in keys else keys[0]
    rows, columns, channels = features[key].shape
    return key, (rows, columns, channels or 3)


def _source(builder, name, config, split, seed):
    """(examples, indices of those that belong to the split, None for all)."""
    known = sorted(builder.info.splits)
    needs_split = bool(known) and split not in known
    # 'train' divided among both is all there is where a dataset has no test split.
    stored = "train" if needs_split else split
    try:
        source = builder.as_data_source(split=stored)
    except (KeyError, ValueError, NotImplementedError, AssertionError, FileNotFoundError) as error:
        if known and stored not in known:
            raise ValueError(
                f"data.name={config.name!r}: has the splits {known}; expected 'train' among them"
            ) from error
        raise ValueError(
            f"data.name={config.name!r}: not prepared as array_record below "
            f"data.root={config.root!r}; prepare it once with: "
            f"{preparing_command(name, config.root)}"
        ) from error
    if "test" in known or not known:
        return source, None
    return source, random_split(len(source), split, config.test_fraction, seed, config.name)
