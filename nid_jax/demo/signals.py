"""Signals to try: those that a dictionary has not seen, those it has, and a file of one's own."""

import importlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

import nid_jax as nid
from nid_jax import data
from nid_jax.data import images, picturefiles


def unseen(dictionary: nid.NeuralDictionary, count: int) -> Float[np.ndarray, "S *grid C"]:
    """The first signals of the dictionary's own collection that took no part in its learning."""
    return _all(dictionary.config, "test")[:count]


def learned_from(dictionary: nid.NeuralDictionary) -> Float[np.ndarray, "S *grid C"]:
    """The training signals of that collection, without copies."""
    return _all(dictionary.config, "train")


def own(path: str, size: Sequence[int]) -> Float[np.ndarray, "*grid C"]:
    """A picture, or an .npy of one, brought to a dictionary's size in gray. Raises ValueError."""
    if not path.lower().endswith((".npy", ".npz", ".mat")):
        picture = images.to_channels(picturefiles.read_image(path), 1)
        height, width = size
        return images.resize(images.centre_crop(picture, (height, width)), (height, width))
    config = importlib.import_module("nid_jax.configs.image").get_config()
    config.data.update({"name": "array", "root": path, "test_fraction": 1.0})
    signal = _all(config, "test")[0]
    if signal.shape[:-1] != tuple(size):
        raise ValueError(f"{path}: {signal.shape[:-1]}; allowed: {tuple(size)}, the dictionary's")
    return signal


def _all(config: ConfigDict, split: str) -> np.ndarray:
    config = config.copy_and_resolve_references()
    for name in ("mirror", "turns", "shifts", "warps"):
        if name in config.data.augment:
            config.data.augment[name] = type(config.data.augment[name])(0)
    return np.asarray(data.to_array(data.open_collection(config.data, split, config.seed)))
