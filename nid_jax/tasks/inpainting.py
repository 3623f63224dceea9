"""Inpainting: pictures of which a part was painted over or is missing, with or without its mask."""

import dataclasses
import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax import data, metrics
from nid_jax.tasks import image
from nid_jax.tasks.task import Extras, Measured, Task


def build(config: ConfigDict) -> Task:
    """The inpainting task that a config describes. Raises ValueError naming a key that is wrong."""
    return dataclasses.replace(
        image.build(config),
        open=lambda split: open_split(config, split),
        measure=lambda collection: measured(collection, config),
        extras=functools.partial(extras, count=config.fit.num_pictures),
    )


def open_split(config: ConfigDict, split: str) -> data.Collection:
    """Clean pictures to train on; to fit, corrupted ones that know their mask and truth.

    data.name='corrupted' reads what `python -m nid_jax.data.corrupt` wrote; pictures of any other
    name are corrupted as config.data.corrupt says.
    """
    collection = data.open_collection(config.data, split, config.seed)
    if split == "train" or config.data.name == "corrupted":
        return collection
    return data.CorruptedCollection(collection, config.data.corrupt, config.seed)


def measured(collection: Any, config: ConfigDict) -> Measured:
    """The corrupted pixels; with config.fit.known_mask only those that are known to be good.

    Pixels that hold no value, NaN in an .npy, are never among them.
    """
    whole = image.sampled(collection)
    # Where everything was seen there is no hole to score.
    holes = {"hole": lambda index: _hole(collection.seen(index)), "truth": collection.truth}
    if not (config.fit.known_mask or collection.unmeasured):
        return dataclasses.replace(whole, **holes)

    def weights(index):
        seen = collection.seen(index)
        if seen is None:
            raise ValueError(
                f"fit.known_mask: true, but {collection.title} has no mask of "
                f"{collection.names[index]!r}; allowed: fit.known_mask=false"
            )
        return seen.reshape(-1).astype("float32")

    return dataclasses.replace(whole, weights=weights, **holes)


def extras(collection, measured, reconstruction, count):
    """Of a fit: the first `count` pictures as they were given, and their PSNR where truth is known.

    metrics: psnr_corrupted, the mean over all pictures that were fitted.
    """
    given = np.stack([collection[index] for index in range(len(reconstruction))])
    truth = measured.truths(len(given))
    scores = {}
    if truth is not None:
        scores["psnr_corrupted"] = float(np.mean(metrics.psnr(np.clip(given, 0, 1), truth)))
    return Extras(scores, {"corrupted": given[:count]} if count else {})


def _hole(seen):
    return None if seen is None else ~seen
