"""Mesh files as signals: signed distances, prepared when the files are first opened."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from nid_jax.data.decoding import kept_folder
from nid_jax.data.prepare import Options, is_prepared, prepare
from nid_jax.data.shapefiles import Kind, shape_files
from nid_jax.data.splitting import configured_size
from nid_jax.data.volumes import VolumeCollection
from nid_jax.geometry.mesh import mesh_formats, missing_formats
from nid_jax.geometry.truncation import Truncation
from nid_jax.notices import say

_KIND = Kind(
    "mesh",
    tuple(f".{name}" for name in mesh_formats()),
    needs={f".{name}": package for name, package in missing_formats().items()},
    # Materials and pictures that meshes come with.
    beside=("*.mtl", "*.png", "*.jpg", "*.jpeg"),
)
DEFAULT_SIZE = 64
# Points on and near each surface: enough for scores and for training near surfaces.
_SAMPLES = 50_000


def open_meshes(config: ConfigDict, split: str, seed: int) -> VolumeCollection:
    """data.root: a mesh file, or a folder of them, as `shape_files` has it.

    Each becomes distances on data.size samples along each axis (64 where it is ()), data.margin
    stays free around it; they are kept where `data.kept_in` says and found again. Large collections
    are prepared faster by `python -m nid_jax.data.prepare`, in several processes, for
    data.name='volumes'. Meshes that cannot be prepared are left out with a notice.
    Raises FileNotFoundError, and ValueError naming the key, or the first mesh where none is left.
    """
    if not config.root:
        raise ValueError("data.root is empty: data.name='meshes' reads a mesh file or a folder")
    size = configured_size(config, 3) or (DEFAULT_SIZE,) * 3
    if len(set(size)) != 1:
        raise ValueError(f"data.size: {config.size}; allowed: three equal numbers, or ()")
    options = Options(size[0], _SAMPLES, _SAMPLES, margin=config.margin)
    options.check()
    files = shape_files(config, split, seed, _KIND)
    title = str(Path(config.root).expanduser())
    folder = kept_folder()
    # Without a folder of a run, they go with the collection.
    own = None if folder else tempfile.TemporaryDirectory()
    folder = Path(own.name) if own else folder
    prepared = _prepared(files, folder / f"meshes-{size[0]}", options, title)
    cache = config.cache or str(folder)
    collection = VolumeCollection(prepared, size[0], Truncation.from_config(config), title, cache)
    collection.kept = own
    return collection


def count_meshes(config: ConfigDict, split: str, seed: int) -> int:
    """How many mesh files a split has; none of them is read."""
    return len(shape_files(config, split, seed, _KIND))


def _prepared(
    files: Mapping[str, Path], folder: Path, options: Options, title: str
) -> dict[str, Path]:
    """Name -> prepared file, of the meshes that can be."""
    folder.mkdir(parents=True, exist_ok=True)
    found, failed = {}, []
    for name, path in files.items():
        digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
        target = folder / f"{name[:80]}-{digest}.npz"
        try:
            if not is_prepared(path, target, options):
                about = prepare(path, target, options)
                if about["warning"]:
                    say(f"{path}: {about['warning']}")
            found[name] = target
        except ValueError as error:
            failed.append(str(error))
    if not found:
        raise ValueError(failed[0])
    if failed:
        say(f"{title}: {len(failed)} of {len(files)} meshes are left out, the first: {failed[0]}")
    return found
