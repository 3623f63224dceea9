"""Face collections in the directory layouts that the paper's code and their publishers use."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from nid_jax import npy_files
from nid_jax.data import arrayfiles, images
from nid_jax.data.collection import ArrayCollection, Collection
from nid_jax.data.folder import ImageFiles, data_root, open_files
from nid_jax.data.picturefiles import PictureFile
from nid_jax.data.splitting import configured_size, every_eighth, shaped, wanted

CELEBA_PARTS = {"train": "0", "test": "2"}
CELEBA_SQUARE = (178, 178)


def open_yale(config: ConfigDict, split: str, seed: int) -> Collection:
    """Yale faces below data.root; of the sorted files numbers 1, 9, 17, ... are for testing.

    Two layouts. The Yale face database: one flat directory of files named subject01.happy,
    subject01.wink and so on (their extension is the expression; .gif and .txt beside them are
    left out, as they repeat a picture or are no picture). The cropped extended database B:
    directories yaleB01, yaleB02, ... of .pgm files (files named *_Ambient.pgm, which have another
    size, are left out).
    Raises FileNotFoundError when data.root holds neither.
    """
    del seed
    root = data_root(config)
    paths = sorted(path for path in root.glob("yaleB*/*.pgm") if "Ambient" not in path.name)
    if not paths:
        paths = sorted(
            path
            for path in root.glob("subject*.*")
            if path.is_file() and path.suffix.lower() not in (".gif", ".txt")
        )
    if not paths:
        raise FileNotFoundError(
            f"data.root={config.root!r}: holds no Yale faces; expected files subject01.happy, ... "
            "or directories yaleB01, ... of .pgm files"
        )
    names = [path.relative_to(root).as_posix() for path in paths]
    return open_files(paths, names, "Yale faces", config, every_eighth(len(paths), split))


def open_olivetti(config: ConfigDict, split: str, seed: int) -> Collection:
    """The 400 Olivetti faces, 64x64 gray, below data.root; numbers 1, 9, 17, ... are for testing.

    data.root is a directory with one of: olivetti_faces.npy [400, 64, 64]; olivettifaces.mat, the
    published file, whose `faces` [4096, 400] hold each face column by column. Values are stretched
    to [0, 1] over the whole collection, as scikit-learn does. Raises FileNotFoundError when none is
    there, and ValueError for the pickle of scikit-learn alone, which is not opened.
    """
    del seed
    root = data_root(config)
    faces, path = _olivetti_faces(root, config.root)
    if faces.ndim != 3 or 0 in faces.shape:
        raise ValueError(f"{path}: an array of shape {list(faces.shape)}; expected [400, 64, 64]")
    faces = faces.astype(np.float32)
    images.check_finite(faces, path)
    faces = faces - faces.min()
    faces = faces / max(float(faces.max()), np.finfo(np.float32).tiny)
    chosen = every_eighth(len(faces), split)
    names = [f"face_{number:03d}" for number in chosen]
    return shaped(ArrayCollection(faces[chosen][..., None], names, "Olivetti faces"), config)


def _olivetti_faces(root, shown):
    """(faces [S, H, W], path) from whichever of the three files is in `root`."""
    if (path := root / "olivetti_faces.npy").is_file():
        return _only(npy_files.read(path), "", path), path
    if (path := root / "olivettifaces.mat").is_file():
        columns = _only(arrayfiles.load(path), "faces", path)
        if columns.ndim != 2 or len(columns) != 64 * 64:
            raise ValueError(f"{path}: faces is {list(columns.shape)}; expected [4096, 400]")
        return columns.T.reshape(-1, 64, 64).transpose(0, 2, 1), path
    if (path := root / "olivetti_py3.pkz").is_file():
        raise ValueError(
            f"{path}: is a pickle, which can hold any program and is never run; allowed: what "
            "np.save('olivetti_faces.npy', sklearn.datasets.fetch_olivetti_faces().images) writes"
        )
    raise FileNotFoundError(
        f"data.root={shown!r}: holds no Olivetti faces; expected olivetti_faces.npy or "
        "olivettifaces.mat"
    )


def _only(arrays, name, path):
    """An array of numbers of a file."""
    found = arrays.get(name)
    if found is None or found.dtype.kind not in "biuf":
        kind = "is missing" if found is None else f"is of type {found.dtype}"
        raise ValueError(f"{path}: {name or 'its array'} {kind}; expected numbers")
    return found


def is_celeba_directory(root: str) -> bool:
    """Whether `root` is CelebA as published: img_align_celeba/ beside list_eval_partition.txt."""
    return bool(root) and (Path(root).expanduser() / "list_eval_partition.txt").is_file()


def open_celeba(config: ConfigDict, split: str) -> Collection:
    """CelebA as published: the central square of each picture, resized to data.size.

    data.root holds img_align_celeba/ and list_eval_partition.txt (lines 'name part', part 0 for
    training and 2 for testing; part 1, validation, is left out). Without data.size the square is
    178x178. Only the first data.num_train or data.num_test files are looked at.
    Raises FileNotFoundError for a missing file, ValueError naming a malformed line.
    """
    root = data_root(config)
    table = root / "list_eval_partition.txt"
    names = []
    text = table.read_text(encoding="utf-8", errors="backslashreplace")
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise ValueError(
                f"{table}, line {number}: {line[:80]!r}; expected a file name and 0, 1 or 2"
            )
        if Path(fields[0]).name != fields[0]:
            raise ValueError(
                f"{table}, line {number}: {fields[0]!r}; expected the name of a file in "
                "img_align_celeba, without folders"
            )
        if fields[1] == CELEBA_PARTS[split]:
            names.append(fields[0])
    names = names[: wanted(config, split) or None]
    if not names:
        raise ValueError(f"{table}: lists no pictures to {split} on")
    paths = [root / "img_align_celeba" / name for name in names]
    if not paths[0].is_file():
        raise FileNotFoundError(f"{paths[0]}: no such file, though {table.name} lists it")
    size = configured_size(config) or CELEBA_SQUARE
    channels = 1 if config.gray else 3
    files = [PictureFile(path, name) for path, name in zip(paths, names, strict=True)]
    return ImageFiles(files, "CelebA", size, channels, resizing=True, crop="center")
