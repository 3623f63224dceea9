"""Slices of scans from a folder of DICOM files, where pydicom is installed."""

import collections
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data import images
from nid_jax.data.collection import ArrayCollection, Collection, SubsetCollection
from nid_jax.data.dicomfile import PassedOver, Slice, import_pydicom, read_slices
from nid_jax.data.folder import data_root
from nid_jax.data.listing import find_files
from nid_jax.data.splitting import configured_crop, configured_size, random_split
from nid_jax.notices import say

# Normals of one stack of slices are alike, as cosines.
_SAME_NORMAL = 1e-4
# Slices nearer than this lie in one place, mm.
_SAME_PLACE = 1e-3
# Slices are even, pixels square, within this share.
_EVEN = 0.01
# Degrees that a stack leans by before it is said.
_STRAIGHT = 0.5


class _Suffixes(frozenset):
    """Suffixes of DICOM files: those given, and numbers, as names often end in an identifier."""

    def __contains__(self, suffix: object) -> bool:
        return super().__contains__(suffix) or str(suffix)[1:].isdigit()


# Files named so are DICOM files, or damaged; others without a suffix are looked at.
_SURE = (".dcm", ".dicom", ".dic", ".ima")


def open_dicom(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a folder of DICOM files, or one file of several frames, as [H, W, 1] in [0, 1].

    Files below subfolders are read too, by .dcm, .ima and the like or without suffix; reports,
    localizers, colours, copies and files of other kinds are passed over and counted. Slices of a
    series follow ImagePositionPatient along the normal of ImageOrientationPatient, or
    InstanceNumber where these are missing; series follow their first file. Several series are said,
    and refused where they measure other units; data.dicom.series takes one, by its description,
    number or identifier.
    Stored values go through their file's modality table or rescale slope and intercept (Hounsfield
    units in CT), and data.dicom.window = (low, high) in those units to [0, 1], clipped; () takes
    the range of all slices, data.dicom.voi=true each file's own window. Padding is black.
    MONOCHROME1, where high is dark, is inverted. All slices have one size, or with data.resize are
    brought to data.size (data.crop as for pictures). Split by data.test_fraction.
    Raises FileNotFoundError for a missing or empty directory; ValueError where pydicom is missing,
    for the key, and naming a file that cannot be read, whose tags cannot be, or of another size.
    """
    if config.range:
        raise ValueError(f"data.range={config.range}: of slices it is data.dicom.window")
    window = _configured_window(config)
    import_pydicom()
    root, paths = _files(config)
    slices = _chosen_series(_read(root, paths), config.dicom.series, root)
    slices = [item for stack in slices for item in _ordered(stack)]
    if window is None and not config.dicom.voi:
        window = _full_range(slices, root)
    size = configured_size(config) or slices[0].values.shape
    crop = configured_crop(config)
    volume = np.empty((len(slices), *size, 1), np.float32)
    for number, item in enumerate(slices):
        image = _scaled(item, window)[..., None]
        volume[number] = images.fit_to_size(image, size, config.resize, crop, item.path)
    names = [_name(item, root) for item in slices]
    collection = ArrayCollection(volume, names, f"slices in {root.name}")
    indices = random_split(len(names), split, config.test_fraction, seed, root)
    return SubsetCollection(collection, indices)


def _files(config):
    """(the folder, the files to look at)."""
    path = Path(config.root).expanduser()
    if config.root and path.is_file():
        return path.parent, [path]
    root = data_root(config)
    found = find_files(root, _Suffixes({*_SURE, ""}), "DICOM file")
    if not found:
        raise FileNotFoundError(f"{root}: holds no DICOM files; allowed: {', '.join(_SURE)}, none")
    return root, found


def _read(root: Path, paths: Sequence[Path]) -> list[Slice]:
    """All slices, every one once; what is none is counted in a notice."""
    slices, seen, passed = [], set(), collections.Counter()
    for path in paths:
        try:
            found = read_slices(path, sure=path.suffix.lower() in _SURE)
        except PassedOver as reason:
            passed[str(reason)] += 1
            continue
        if found[0].uid and found[0].uid in seen:
            passed["copies"] += 1
            continue
        seen.add(found[0].uid)
        slices += found
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(passed.items()))
    if not slices:
        raise ValueError(f"{root}: holds no gray slices; passed over: {counts}")
    if passed:
        plural = "" if len(slices) == 1 else "s"
        say(f"{root}: {len(slices)} slice{plural}; passed over: {counts}")
    return slices


def _chosen_series(slices: Sequence[Slice], wanted: str, root: Path) -> list[list[Slice]]:
    """Slices by their series. Raises ValueError for series that do not go together."""
    stacks: dict[str, list[Slice]] = {}
    for item in slices:
        stacks.setdefault(item.series, []).append(item)
    if wanted:
        named = [stack for uid, stack in stacks.items() if str(wanted) in (uid, stack[0].label)]
        if not named:
            raise ValueError(f"data.dicom.series={wanted!r}: {root} has {_listed(stacks.values())}")
        return named
    units = {item.units for item in slices}
    if len(units) > 1:
        raise ValueError(
            f"{root}: series of different kinds, {_listed(stacks.values())}; data.dicom.series "
            "takes one"
        )
    if len(stacks) > 1:
        say(
            f"{root}: {len(stacks)} series, {_listed(stacks.values())}; all taken; "
            "data.dicom.series takes one"
        )
    return list(stacks.values())


def _listed(stacks):
    """'3 slices of 'HEAD' (CT), ...', the first few."""
    stacks = list(stacks)
    shown = [f"{len(s)} slices of {s[0].label!r} ({s[0].units[0]})" for s in stacks[:4]]
    more = [f"{len(stacks) - 4} more"] if len(stacks) > 4 else []
    return ", ".join(shown + more)


def _ordered(stack: Sequence[Slice]) -> list[Slice]:
    """Slices of a series in the order of their places, or of their numbers."""
    of = f"series {stack[0].label!r}"
    odd = [item.spacing for item in stack if item.spacing and not _square(*item.spacing)]
    if odd:
        rows, columns = odd[0]
        say(f"{of}: pixels of {rows:g} x {columns:g} mm, not square; taken as square")
    by_number = sorted(stack, key=lambda item: (item.number, str(item.path)))
    if len(stack) < 2 or any(item.position is None or item.normal is None for item in stack):
        return by_number
    normals = np.array([item.normal for item in stack])
    if np.abs(normals - normals[0]).max() > _SAME_NORMAL:
        say(f"{of}: slices of several orientations; taken in the order of their numbers")
        return by_number
    places = {id(item): float(item.position @ normals[0]) for item in by_number}
    ordered = sorted(by_number, key=lambda item: places[id(item)])
    _say_uneven(ordered, [places[id(item)] for item in ordered], normals[0])
    return ordered


def _square(rows, columns):
    return math.isclose(rows, columns, rel_tol=_EVEN)


def _say_uneven(ordered, places, normal):
    """Notices of slices that share a place, are not evenly spaced, or lean."""
    of, steps = f"series {ordered[0].label!r}", np.diff(places)
    apart = steps[steps > _SAME_PLACE]
    shared = len(steps) - len(apart)
    if shared:
        say(f"{of}: {shared} slices lie where another does; taken by their numbers there")
    if len(apart) and np.ptp(apart) > _EVEN * np.median(apart):
        say(
            f"{of}: slices {apart.min():g} to {apart.max():g} mm apart, uneven; each is a signal "
            "of its own"
        )
    along = ordered[-1].position - ordered[0].position
    length = np.linalg.norm(along)
    lean = np.degrees(np.arccos(np.clip(abs(along @ normal) / length, 0, 1))) if length else 0
    lean = max(lean, *(abs(item.tilt) for item in ordered))
    if lean > _STRAIGHT:
        say(f"{of}: the gantry is tilted by {lean:.1f} degrees; slices are taken as they are")


def _configured_window(config):
    """data.dicom.window as (low, high), None where it is empty."""
    window = tuple(config.dicom.window or ())
    if not window:
        return None
    numbers = all(isinstance(end, int | float | np.number) for end in window)
    if len(window) != 2 or not numbers or not np.isfinite(window).all() or window[0] >= window[1]:
        raise ValueError(f"data.dicom.window={window}: must be (low, high), low < high, or ()")
    if config.dicom.voi:
        raise ValueError(f"data.dicom.voi=true: beside data.dicom.window={window}; allowed: one")
    return float(window[0]), float(window[1])


def _full_range(slices, root):
    low = min(float(np.nanmin(item.values, initial=np.inf)) for item in slices)
    high = max(float(np.nanmax(item.values, initial=-np.inf)) for item in slices)
    if not low < high:
        raise ValueError(f"{root}: all slices have the value {low:g}; set data.dicom.window")
    return low, high


def _scaled(item: Slice, window: tuple[float, float] | None) -> Float[np.ndarray, "H W"]:
    """A slice as gray values of [0, 1], padding 0; window None: by that of its file."""
    if window is None:
        shown = _through_window(item)
    else:
        low, high = window
        shown = np.clip((item.values.astype(np.float64) - low) / (high - low), 0, 1)
    shown = 1 - shown if item.inverted else shown
    return np.where(np.isnan(item.values), 0, shown).astype(np.float32)


def _through_window(item):
    """Values of a slice as its file would have them shown: PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if item.window is None:
        raise ValueError(
            f"{item.path}: has no WindowCenter and WindowWidth; data.dicom.voi=false, or "
            "data.dicom.window=(low, high)"
        )
    centre, width, function = item.window
    values = item.values.astype(np.float64)
    least = 1 if function == "LINEAR" else 0
    if not np.isfinite(centre) or not width >= least or width == 0:
        raise ValueError(
            f"{item.path}: WindowCenter {centre:g}, WindowWidth {width:g}; allowed: finite, "
            "a width above 0, of LINEAR 1 or more"
        )
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR" and width > 1:
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR":
        return np.where(np.isnan(values), np.nan, values > centre - 0.5)
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    raise ValueError(
        f"{item.path}: VOILUTFunction {function!r}; allowed: LINEAR, LINEAR_EXACT, SIGMOID"
    )


def _name(item, root):
    name = item.path.relative_to(root).as_posix()
    return name if item.frame is None else f"{name}#{item.frame:04d}"
