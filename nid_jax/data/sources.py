"""Sources of signals by name, each imported when it is opened."""

import difflib
import importlib
from collections.abc import Callable

from ml_collections import ConfigDict

# data.name -> module and opener(config.data, split, seed) in it.
SOURCES = {
    "faces": ("builtin", "open_faces"),
    "photos": ("builtin", "open_photos"),
    "folder": ("folder", "open_folder"),
    "array": ("array", "open_array"),
    "idx": ("idx", "open_idx"),
    "yale": ("portraits", "open_yale"),
    "olivetti": ("portraits", "open_olivetti"),
    "corrupted": ("corrupted", "open_corrupted"),
    "phantoms": ("phantoms", "open_phantoms"),
    "dicom": ("dicom", "open_dicom"),
    "clip": ("video", "open_clip"),
    "video": ("video", "open_video"),
    "shapes": ("shapes", "open_shapes"),
    "meshes": ("mesh_collection", "open_meshes"),
    "volumes": ("volumes", "open_volumes"),
    "pointcloud": ("cloud_collection", "open_pointcloud"),
    "points": ("scattered", "open_points"),
    "stations": ("stations", "open_stations"),
    "sinograms": ("sinogram_folder", "open_sinograms"),
    "celeb_a": ("tfds_source", "open_celeb_a"),
    "cifar10": ("tfds_source", "open_cifar10"),
}
# Those that can tell how many signals they have without preparing them.
COUNTED = {
    "meshes": ("mesh_collection", "count_meshes"),
    "sinograms": ("sinogram_folder", "count_sinograms"),
}
# Any data set of tensorflow-datasets, by its name there.
PREFIX = "tfds:"
# Those of signed distances, whose keys only configs of shapes have.
SHAPES = ("shapes", "meshes", "volumes", "pointcloud")
# Those of signals that share no grid, in coordinates of their own.
POINTS = ("points", "stations")


def opener(name):
    """The function that opens the source data.name. Raises ValueError with the nearest name."""
    if name.startswith(PREFIX):
        module, function = "tfds_source", "open_tfds"
    elif name in SOURCES:
        module, function = SOURCES[name]
    else:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"data.name={name!r} is unknown; {hint}allowed: {', '.join(SOURCES)}, {PREFIX}NAME"
        )
    return _imported(module, function)


def counter(name: str) -> Callable[[ConfigDict, str, int], int]:
    """The function that counts the signals of a source of COUNTED."""
    return _imported(*COUNTED[name])


def _imported(module, function):
    return getattr(importlib.import_module(f"nid_jax.data.{module}"), function)
