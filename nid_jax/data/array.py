"""Signals from .npy and .npz files."""

import zipfile
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import ArrayCollection, Collection, SubsetCollection
from nid_jax.data.splitting import SPLITS, random_split, shaped

_UNREADABLE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile)


def open_array(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: an .npy or .npz file of images [S, H, W] or [S, H, W, C], C at most 4.

    uint8 and uint16 are scaled to [0, 1]; floats must be finite and within [0, 1]. An .npz holds
    either `train` and `test`, or one array, which like an .npy is split by data.test_fraction and
    the seed. An .npy is memory-mapped. Objects are never unpickled.
    Raises FileNotFoundError, and ValueError naming the file and what it holds instead.
    """
    path = _array_path(config)
    arrays = _read_arrays(path)
    if set(SPLITS) <= set(arrays):
        values = arrays[split]
        where = f"{path} [{split}]"
        indices = None
    elif len(arrays) == 1:
        ((key, values),) = arrays.items()
        where = f"{path} [{key}]" if key else str(path)
        indices = random_split(
            len(_checked(values, where)), split, config.test_fraction, seed, path
        )
    else:
        raise ValueError(
            f"{path}: holds the arrays {sorted(arrays)}; expected 'train' and 'test', or one array"
        )
    values = _checked(values, where)
    if values.ndim == 3:
        values = values[..., None]
    prefix = split if indices is None else "signal"
    names = [f"{prefix}_{number:05d}" for number in range(len(values))]
    collection = ArrayCollection(values, names, where)
    if indices is not None:
        collection = SubsetCollection(collection, indices)
    return shaped(collection, config)


def _array_path(config):
    if not config.root:
        raise ValueError("data.root is empty: data.name='array' reads an .npy or .npz file")
    path = Path(config.root).expanduser()
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"data.root={config.root!r}: data.name='array' reads .npy and .npz files")
    if not path.is_file():
        raise FileNotFoundError(f"data.root={config.root!r}: no such file")
    return path


def _read_arrays(path):
    """{key: array}; the key of an .npy is ''. Raises ValueError naming a file that is damaged."""
    with path.open("rb"):
        pass  # a file we may not read is reported as such, not as damaged
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read as an array file ({error})") from error


def _checked(values, where):
    """`values` if they are images as open_array takes them, else ValueError."""
    if (
        values.ndim not in (3, 4)
        or 0 in values.shape
        or (values.ndim == 4 and values.shape[-1] > 4)
    ):
        raise ValueError(
            f"{where}: an array of shape {list(values.shape)}; expected [S, H, W] or [S, H, W, C] "
            "with channels last, at most 4 of them, and not empty"
        )
    images.check_unit(values, where)
    return values
