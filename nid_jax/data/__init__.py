"""Collections of signals: opening them by name, cutting them into patches, loading batches."""

import importlib
from typing import Any

from ml_collections import ConfigDict

from nid_jax.data import sources
from nid_jax.data.collection import (
    ArrayCollection,
    AugmentedCollection,
    Collection,
    SubsetCollection,
    to_array,
)
from nid_jax.data.decoding import decoded, kept_in
from nid_jax.data.defaults import completed
from nid_jax.data.loading import batches
from nid_jax.data.patches import PatchCollection, patch_corners, stitch
from nid_jax.data.sources import SHAPES
from nid_jax.data.splitting import SPLITS, configured_size, limited, wanted
from nid_jax.data.surveying import Survey, survey

# Imported when they are asked for: one task's names would keep every command waiting. None is the
# name of a module here, which would take its place.
_LATER = {
    "CorruptedCollection": "corrupted",
    "Sampling": "points",
    "VIEWS": "views",
    "WarpedVolumes": "warps",
    "add_noise": "sinograms",
    "cloud_batches": "points",
    "even_angles": "sinograms",
    "point_batches": "points",
    "project": "phantoms",
    "read_kspace": "kspace",
    "read_sinograms": "sinograms",
    "say_doubts": "sinograms",
    "visible_points": "views",
}

__all__ = [
    "ArrayCollection",
    "AugmentedCollection",
    "Collection",
    "CorruptedCollection",
    "PatchCollection",
    "SHAPES",
    "SPLITS",
    "Sampling",
    "SubsetCollection",
    "Survey",
    "VIEWS",
    "WarpedVolumes",
    "add_noise",
    "batches",
    "cloud_batches",
    "completed",
    "configured_size",
    "even_angles",
    "kept_in",
    "open_collection",
    "patch_corners",
    "point_batches",
    "project",
    "read_kspace",
    "read_sinograms",
    "say_doubts",
    "stitch",
    "survey",
    "to_array",
    "visible_points",
    "wanted",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def open_collection(config: ConfigDict, split: str, seed: int) -> Collection:
    """The collection that config.data describes, one split of it.

    config: the `data` part of a config, completed with what it leaves out; split: 'train' or
    'test'; seed: the run's, for random splits, crops and augmentation. In order: the source
    data.name opens data.root and brings its pictures to data.size; the first data.num_train or
    data.num_test signals are kept (0: all); the train split is augmented (data.augment: mirrored,
    shifted, volumes warped); signals are cut to patches (data.patch.size above 0: a
    PatchCollection, whose .stitch puts them together again).
    Raises ValueError or FileNotFoundError naming the key or file and what is allowed.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be 'train' or 'test'")
    opener = sources.opener(config.name)
    if config.name in SHAPES and "truncation" not in config:
        raise ValueError(f"data.name={config.name!r}: is for shapes, as configs/sdf.py has them")
    config = completed(config)
    if config.crops and config.name != "folder":
        raise ValueError(f"data.crops={config.crops}: are cut from data.name='folder' only")
    collection = opener(config, split, seed)
    collection = limited(collection, config, split)
    augment, patch = config.augment, config.patch
    if split == "train" and (augment.mirror or augment.shifts or patch.size):
        collection = decoded(collection, config.decoded_gib)
    if split == "train" and augment.get("warps", 0):
        warped = __getattr__("WarpedVolumes")
        collection = warped(collection, augment.warps, augment.strength, augment.pieces, seed)
    if split == "train" and (augment.mirror or augment.shifts):
        collection = AugmentedCollection(
            collection, augment.mirror, augment.shifts, augment.max_shift, seed
        )
    if patch.size:
        collection = PatchCollection(collection, patch.size, patch.overlap)
    return collection
