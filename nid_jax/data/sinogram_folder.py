"""Sinograms of several geometries: a folder of files, each with views and detectors of its own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.coding.operators import CONVENTIONS, Operator
from nid_jax.data import measurements, sinograms
from nid_jax.data.listing import find_files
from nid_jax.data.splitting import configured_size, limited, split_of_names
from nid_jax.data.ways import WaysCollection
from nid_jax.notices import gathered, say

# What holds the angles of a file NAME.EXT: NAME_angles.EXT beside it.
_BESIDE = "_angles"
# What may differ between notices of one kind.
_NUMBERS = re.compile(r"[-+]?\d[\d.e+-]*")
_COPIES = ("mirror", "turns", "shifts", "warps")

Beam = Callable[[tuple[int, int], Float[np.ndarray, " A"], int], Operator]
"""(shape of the picture, degrees, detectors) -> what measured such a sinogram."""


def count_sinograms(config: ConfigDict, split: str, seed: int) -> int:
    """How many files of data.root a split has; each may hold several sinograms."""
    return len(_chosen(_files(config), config, split, seed))


def open_sinograms(
    config: ConfigDict,
    split: str,
    seed: int,
    beam: Beam | None = None,
    options: ConfigDict | None = None,
) -> Any:
    """data.root: a folder of sinograms, each measured in a geometry of its own.

    Every file of measurements.FORMATS holds [A, D], or [S, A, D] of one geometry, and its angles;
    or these are in NAME_angles.EXT beside it, of any format; or data.angles names one file for all;
    else they are even. Otherwise as `read_sinograms`. NaN was not measured. A folder with train/
    and test/ has its splits there; others are split by file, by data.test_fraction and the seed.
    data.size is the picture's shape of all; () takes for each sinogram one of as many pixels a side
    as it has detectors, in whose lengths it is, and draws them at that of the most.

    beam: makes operators; options: config.operator.parallel_beam. -> `WaysCollection`. Raises
    FileNotFoundError, and ValueError naming the file or the key.
    """
    if beam is None or options is None:
        raise ValueError(
            "data.name: 'sinograms'; allowed: with --config=ct:own, which knows of beams, alone"
        )
    for key in _COPIES:
        if config.augment[key]:
            allowed = "False" if config.augment[key] is True else 0
            raise ValueError(
                f"data.augment.{key}: {config.augment[key]} of sinograms; allowed: {allowed}"
            )
    files = _files(config)
    # Those of the other split too: both are drawn alike, and what is said is said of all.
    read = _read(files, config, options.convention)
    sides = {name: one.values.shape[-1] for name, one in read.items()}
    shapes = _shapes(sides, files, config, options)
    _say_doubts(read, shapes, files, options)
    numbers: dict[Any, int] = {}
    values: list[np.ndarray] = []
    ways: list[Operator] = []
    way: list[int] = []
    labels: list[str] = []
    for name in _chosen(files, config, split, seed):
        one = read[name]
        whole = beam(shapes[name], one.degrees, sides[name])
        for number, sinogram in enumerate(one.values):
            known = np.isfinite(sinogram).ravel()
            key = (shapes[name], sides[name], one.degrees.tobytes(), known.tobytes())
            if key not in numbers:
                numbers[key] = len(ways)
                some = whole if known.all() else whole.of_measurements(np.flatnonzero(known))
                ways.append(some)
            way.append(numbers[key])
            values.append(sinogram.reshape(-1, 1)[known])
            several = len(one.values) > 1
            label = name.removeprefix(f"{split}/")
            labels.append(f"{label}_{number:05d}" if several else label)
    largest = tuple(max(shape[axis] for shape in shapes.values()) for axis in range(2))
    collection = WaysCollection(values, ways, way, largest, labels, str(config.root))
    return limited(collection, config, split)


def _files(config):
    """Name -> (file of sinograms, file of their angles or '')."""
    if not config.root:
        raise ValueError("data.root is empty: data.name='sinograms' reads a folder of files")
    root, kinds = Path(config.root).expanduser(), ", ".join(measurements.FORMATS)
    if not root.is_dir():
        what = "a file; data.sinograms fits one" if root.exists() else "no such folder"
        raise FileNotFoundError(f"data.root={config.root!r}: {what}")
    paths = find_files(root, measurements.FORMATS, "file")
    common = Path(config.angles).expanduser() if config.angles else ""
    beside = {
        path.with_name(path.stem.removesuffix(_BESIDE)): path
        for path in paths
        if path.stem.endswith(_BESIDE) and path != common
    }
    found: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        if path == common or beside.get(path.with_name(path.stem.removesuffix(_BESIDE))) == path:
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{path}: {found[name][0].name} has the same name but for the kind")
        found[name] = path, beside.get(path.with_suffix(""), common)
    lost = set(beside.values()) - {angles for _, angles in found.values()}
    if lost:
        path = min(lost)
        raise ValueError(f"{path}: there is no {path.stem.removesuffix(_BESIDE)}.* beside it")
    if not found:
        raise FileNotFoundError(f"data.root={config.root!r}: no file in it that ends in {kinds}")
    return found


def _chosen(files, config, split, seed):
    """Names of the files of a split."""
    names = list(files)
    return [names[index] for index in split_of_names(names, config, split, seed)]


def _read(files, config, convention):
    """Name -> `Sinograms`; what is said of several files alike is said once."""
    found: dict[str, sinograms.Sinograms] = {}
    said: dict[str, list[str]] = {}
    for name, (path, angles) in files.items():
        with gathered() as texts:
            found[name] = sinograms.read_sinograms(
                path,
                angles,
                convention,
                config.angle_units,
                config.sinogram_layout,
                config.transmission,
                config.open_beam,
                config.pixel_size,
            )
        for text in texts:
            said.setdefault(_NUMBERS.sub("#", text.replace(str(path), "")), []).append(text)
    for texts in said.values():
        say(_of_many(texts))
    return found


def _of_many(texts):
    """The first of texts on files that are alike, and how many there are."""
    rest = f"; {len(texts) - 1} other files alike" if len(texts) > 1 else ""
    return f"{texts[0]}{rest}"


def _shapes(sides, files, config, options):
    """The shape of the picture that each file's sinograms are of."""
    size, most = configured_size(config), max(sides.values())
    if size is None:
        if len(set(sides.values())) > 1:
            say(
                f"{config.root}: {min(sides.values())} to {most} detectors; each sinogram taken as "
                "of a picture of as many pixels a side, in pixel lengths of its own, drawn at "
                f"{most}x{most}; data.size=(rows, columns) is one picture of all"
            )
        return {name: (side, side) for name, side in sides.items()}
    for name, side in sides.items():
        covered = side * options.spacing
        if not min(size) <= covered <= np.hypot(*size) + 4:
            raise ValueError(
                f"{files[name][0]}: {side} detectors, {covered:g} pixels for pictures of "
                f"{size[0]}x{size[1]} (data.size); allowed: {min(size)} to "
                f"{np.hypot(*size) + 4:.0f} pixels, other operator.parallel_beam.spacing, or "
                "data.size=()"
            )
    return dict.fromkeys(sides, size)


def _say_doubts(read, shapes, files, options):
    said: dict[str, list[str]] = {}
    for name, one in read.items():
        placed = CONVENTIONS[options.convention].placed(shapes[name], one.values.shape[-1])[1]
        with gathered() as texts:
            sinograms.say_doubts(one, shapes[name], placed, options.offset, str(files[name][0]))
        for text in texts:
            said.setdefault(_NUMBERS.sub("#", text.split(": ", 1)[1]), []).append(text)
    for texts in said.values():
        say(_of_many(texts))
