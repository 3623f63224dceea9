"""Shapes made ready: one compressed .npz file each, read array by array.

Arrays of a file: sdf [N, N, N] signed distances on [-1, 1]^3, axes x, y, z, negative inside;
truncation, where they are clipped (0: nowhere); points [P, 3] near the surface and their distances
[P]; surface [Q, 3] and outward normals [Q, 3]; vertices [V, 3] and faces [F, 3] of the normalised
mesh; normalise and denormalise [4, 4], from the units of the source to the cube and back; source,
its name; settings, JSON of how it was made; version, of this format.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nid_jax import json_files, npy_files
from nid_jax.files import atomic_path

VERSION = 1
DTYPES = {
    "sdf": (np.float32, np.float16),
    "truncation": (np.float64,),
    "points": (np.float32,),
    "distances": (np.float32,),
    "surface": (np.float32,),
    "normals": (np.float32,),
    "vertices": (np.float32,),
    "faces": (np.int32,),
    "normalise": (np.float64,),
    "denormalise": (np.float64,),
}
"""Numerical arrays of a file, and the types each may have; the first is the default."""
KEYS = (*DTYPES, "source", "settings", "version")
# Letters of NumPy's kinds, and how many axes: a grid, a list of points or of numbers, or one value.
_FORMS = {
    "sdf": ("f", (3,)),
    "truncation": ("f", (0,)),
    "distances": ("f", (1,)),
    "faces": ("i", (2,)),
    **dict.fromkeys(("source", "settings"), ("U", (0,))),
    "version": ("iu", (0,)),
}
_FORMS |= {key: ("f", (2,)) for key in KEYS if key not in _FORMS}


class Prepared:
    """The arrays of one prepared file as attributes, each read when first asked for.

    `path`, `source` (str), `settings` (dict), `version` (int), and those of the module's list.
    Reading one raises ValueError naming the file where it is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __getattr__(self, key):
        if key not in KEYS:
            raise AttributeError(f"a prepared shape has no {key!r}; it has {', '.join(KEYS)}")
        value = self.__dict__[key] = _read(self.path, key)
        return value

    def __repr__(self):
        return f"Prepared({str(self.path)!r})"


def _read(path, key):
    value = npy_files.read(path, names=(key,)).get(key)
    kind, rank = _FORMS[key]
    if value is None or value.dtype.kind not in kind or value.ndim not in rank:
        shown = "missing" if value is None else f"{value.dtype}{list(value.shape)}"
        raise ValueError(f"{path}: damaged: {key!r} is {shown}")
    if key == "settings":
        return json_files.parsed(str(value), f"{path}: settings", {})
    return str(value) if key == "source" else value.item() if value.ndim == 0 else value


def read_prepared(path: str | Path, keys: Iterable[str] | None = None) -> Prepared:
    """Open a prepared shape: -> Prepared. keys: those to read now rather than when asked for.

    Raises FileNotFoundError where there is no file, ValueError naming it where it is damaged,
    something else, or of another version, and ValueError for keys that no prepared shape has.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    unknown = [key for key in keys or () if key not in KEYS]
    if unknown:
        raise ValueError(f"{path}: no array {unknown[0]!r}; there are {', '.join(KEYS)}")
    there = npy_files.member_names(path)
    absent = [key for key in KEYS if key not in there]
    if absent:
        raise ValueError(f"{path}: is not a prepared shape: has no array {absent[0]!r}")
    shape = Prepared(path)
    if shape.version != VERSION:
        raise ValueError(f"{path}: version {shape.version} of the format; this reads {VERSION}")
    for key in keys or ():
        getattr(shape, key)
    return shape


def write_prepared(
    path: str | Path, *, source: str, settings: Mapping[str, Any], **arrays: Any
) -> None:
    """Write a prepared shape, whole or not at all. arrays: every key of DTYPES; sdf float32 or 16.

    settings: a dict of JSON types. Raises ValueError naming `path` where it cannot be written and
    for arrays that are absent or too many.
    """
    if set(arrays) != set(DTYPES):
        wrong = ", ".join(sorted(set(arrays) ^ set(DTYPES)))
        raise ValueError(f"{path}: arrays absent or unknown: {wrong}")
    stored = {}
    for key, types in DTYPES.items():
        value = np.asarray(arrays[key])
        stored[key] = value if value.dtype in types else value.astype(types[0])
    text = json.dumps(settings, sort_keys=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, source=source, settings=text, version=VERSION, **stored)
