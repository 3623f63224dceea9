"""Collections of signals: opening them by name, cutting them into patches, loading batches."""

import difflib

from nid_jax.data.array import open_array
from nid_jax.data.builtin import open_faces, open_photos
from nid_jax.data.collection import (
    ArrayCollection,
    AugmentedCollection,
    Collection,
    SubsetCollection,
    to_array,
)
from nid_jax.data.corrupted import CorruptedCollection, open_corrupted
from nid_jax.data.defaults import completed
from nid_jax.data.dicom import open_dicom
from nid_jax.data.folder import open_folder
from nid_jax.data.loading import batches
from nid_jax.data.patches import PatchCollection, stitch
from nid_jax.data.phantoms import open_phantoms, project
from nid_jax.data.point_batches import cloud_batches, point_batches
from nid_jax.data.pointcloud import open_pointcloud
from nid_jax.data.portraits import open_olivetti, open_yale
from nid_jax.data.shapes import open_shapes
from nid_jax.data.sinograms import add_noise, even_angles, read_sinograms
from nid_jax.data.splitting import SPLITS, configured_size, limited
from nid_jax.data.tfds_source import PREFIX, open_celeb_a, open_cifar10, open_tfds
from nid_jax.data.video import open_clip, open_video
from nid_jax.data.views import VIEWS, visible_points
from nid_jax.data.volumes import open_volumes
from nid_jax.data.warps import WarpedVolumes

__all__ = [
    "ArrayCollection",
    "AugmentedCollection",
    "Collection",
    "CorruptedCollection",
    "PatchCollection",
    "SHAPES",
    "SubsetCollection",
    "VIEWS",
    "add_noise",
    "batches",
    "cloud_batches",
    "completed",
    "configured_size",
    "even_angles",
    "open_collection",
    "point_batches",
    "project",
    "read_sinograms",
    "stitch",
    "to_array",
    "visible_points",
]

# data.name -> opener(config.data, split, seed).
SOURCES = {
    "faces": open_faces,
    "photos": open_photos,
    "folder": open_folder,
    "array": open_array,
    "yale": open_yale,
    "olivetti": open_olivetti,
    "corrupted": open_corrupted,
    "phantoms": open_phantoms,
    "dicom": open_dicom,
    "clip": open_clip,
    "video": open_video,
    "shapes": open_shapes,
    "volumes": open_volumes,
    "pointcloud": open_pointcloud,
    "celeb_a": open_celeb_a,
    "cifar10": open_cifar10,
}

# Those of signed distances, whose keys only configs of shapes have.
SHAPES = ("shapes", "volumes", "pointcloud")


def open_collection(config, split, seed):
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
    opener = _opener(config.name)
    if config.name in SHAPES and "truncation" not in config:
        raise ValueError(f"data.name={config.name!r}: is for shapes, as configs/sdf.py has them")
    config = completed(config)
    collection = opener(config, split, seed)
    collection = limited(collection, config, split)
    augment, patch = config.augment, config.patch
    if split == "train" and augment.get("warps", 0):
        collection = WarpedVolumes(
            collection, augment.warps, augment.strength, augment.pieces, seed
        )
    if split == "train" and (augment.mirror or augment.shifts):
        collection = AugmentedCollection(
            collection, augment.mirror, augment.shifts, augment.max_shift, seed
        )
    if patch.size:
        collection = PatchCollection(collection, patch.size, patch.overlap)
    return collection


def _opener(name):
    if name.startswith(PREFIX):
        return open_tfds
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"data.name={name!r} is unknown; {hint}allowed: {', '.join(SOURCES)}, {PREFIX}NAME"
        )
    return SOURCES[name]
