"""Signals to try: unseen ones of the built-in collections, and a file of one's own."""

import importlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import data


def built_in(name: str, size: Sequence[int], count: int) -> Float[np.ndarray, "S *grid C"]:
    """The first unseen signals of the collection that a config takes by default."""
    config = importlib.import_module(f"nid_jax.configs.{name}").get_config()
    config.data.update({"size": tuple(size), "num_test": count})
    return _all(config, "test", config.seed)


def learned_from(name: str, size: Sequence[int]) -> Float[np.ndarray, "S *grid C"]:
    """The training signals of that collection, without copies."""
    config = importlib.import_module(f"nid_jax.configs.{name}").get_config()
    config.data.size = tuple(size)
    return _all(config, "train", config.seed)


def own(path: str, size: Sequence[int]) -> Float[np.ndarray, "*grid C"]:
    """A picture, or an .npy of one, brought to a dictionary's size. Raises ValueError."""
    config = importlib.import_module("nid_jax.configs.image").get_config()
    array = path.lower().endswith((".npy", ".npz", ".mat"))
    given = {"name": "array" if array else "folder", "root": path, "test_fraction": 1.0}
    config.data.update(given)
    if not array:
        shaped = {"size": tuple(size), "resize": True, "crop": "center", "gray": True}
        config.data.update(shaped)
    signal = _all(config, "test", 0)[0]
    if signal.shape[:-1] != tuple(size):
        raise ValueError(f"{path}: {signal.shape[:-1]}; allowed: {tuple(size)}, the dictionary's")
    return signal


def _all(config: ConfigDict, split: str, seed: int) -> np.ndarray:
    for name in ("mirror", "turns", "shifts", "warps"):
        if name in config.data.augment:
            config.data.augment[name] = type(config.data.augment[name])(0)
    return np.asarray(data.to_array(data.open_collection(config.data, split, seed)))
