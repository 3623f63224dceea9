"""Masks as files: which pixels of a picture are seen, and whether a mask is the right way round.

Letters: H rows, W columns, C channels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from nid_jax.data import arrayfiles, images, picturefiles

ARRAYS = (".npy", ".npz")
EXTENSIONS = (*picturefiles.EXTENSIONS, *ARRAYS)

# Where truth is known: a mask hides what was changed. Where it is not: most of a picture is seen.
_UNCHANGED, _CHANGED = 0.25, 2 / 255
_MOST_HIDDEN = 0.905


class Mask(NamedTuple):
    """A mask file: seen, bool [H, W], and what had to be assumed to read it."""

    seen: Bool[np.ndarray, "H W"]
    soft: bool = False
    """More than two values, cut at half of their range."""
    coloured: bool = False
    """Colours, of which the brightness was taken."""
    clear: bool = False
    """One colour, whose transparency was taken: black is transparent."""


def hidden_colour(config: ConfigDict) -> str:
    """data.masks.hidden, 'black' or 'white'. Raises ValueError for anything else."""
    if config.masks.hidden not in ("black", "white"):
        raise ValueError(f"data.masks.hidden={config.masks.hidden!r}: must be 'black' or 'white'")
    return str(config.masks.hidden)


def mask_size(path: Path) -> tuple[int, int]:
    """(rows, columns) of a mask file. Raises as `read_mask`."""
    if path.suffix.lower() in ARRAYS:
        rows, columns = _array(path).shape
        return rows, columns
    return picturefiles.read_header(path)[:2]


def read_mask(path: Path, hidden: str = "black") -> Mask:
    """A mask: a picture, or an .npy or .npz of one array [H, W]; False is as black.

    hidden: 'black' or 'white', the half of its values that hides; of two values, whatever they
    are, the lower one is black. Raises FileNotFoundError, and ValueError naming a file that cannot
    be read, has one gray value all over, or hides everything.
    """
    coloured = clear = False
    if path.suffix.lower() in ARRAYS:
        levels = _array(path).astype(np.float64)
        full = 1.0
    else:
        levels, full, coloured, clear = _picture_levels(path)
    low, high = float(levels.min()), float(levels.max())
    if low == high and low not in (0, 1, full):
        raise ValueError(
            f"{path}: a mask that is {low:g} all over, of 0 to {full:g}; allowed: two values, "
            "black and white, or one of them"
        )
    white = levels > (low + high) / 2 if low < high else levels > 0
    seen = white if hidden == "black" else ~white
    if not seen.any():
        other = "white" if hidden == "black" else "black"
        raise ValueError(
            f"{path}: a mask that is {hidden} all over; some of it must be {other} (seen)"
        )
    return Mask(seen, bool(((levels > low) & (levels < high)).any()), coloured, clear)


def _picture_levels(path):
    """(brightness [H, W], white in its scale, whether it had colours, whether alpha was taken)."""
    pixels = picturefiles.read_pixels(path)
    images.check_finite(pixels.colours, path)
    kind = pixels.colours.dtype
    full = (pixels.full or images.FULL_SCALE.get(kind.name, (0.0, float(pixels.colours.max()))))[1]
    image = images.composed(pixels, path, (0.0, full or 1.0)).astype(np.float64)
    opacity = images.opacity(pixels)
    if np.ptp(image) == 0 and np.ptp(opacity) > 0:
        # White on nothing: laid on white, all of it would be seen.
        return np.round(opacity.astype(np.float64) * 255, 3), 255.0, False, True
    coloured = bool((image != image[..., :1]).any())
    image = images.to_channels(image, 1) if coloured else image
    # Rounded to steps finer than those of 16 bits, so that two values stay two.
    return np.round(image[..., 0] * full, 3), full, coloured, False


def _array(path):
    """The one array [H, W] of an .npy or .npz."""
    arrays = [
        np.zeros((), object) if values is None else values
        for values in arrayfiles.load(path).values()
    ]
    values = arrays[0] if len(arrays) == 1 else np.zeros(())
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: holds {len(arrays)} arrays, the first of shape {list(arrays[0].shape)} and "
            f"type {arrays[0].dtype}; expected one of booleans or numbers [H, W]"
            if arrays
            else f"{path}: holds no array; expected one of booleans or numbers [H, W]"
        )
    images.check_finite(values, path)
    return values


def turned_round(
    pictures: Sequence[Float[np.ndarray, "H W C"]],
    seen: Sequence[Bool[np.ndarray, "H W"]],
    truths: Sequence[Float[np.ndarray, "H W C"] | None],
) -> str:
    """Why masks look as if they hid what is seen, in some words; '' where they do not.

    pictures: some of them as they were given, with their masks; truths: the clean ones, None where
    not known. With truth: what is hidden equals it, and what is seen does not. Without: what is
    seen has one value, and what is hidden has many; or more than nine tenths are hidden.
    """
    changes = [
        [float(np.abs(given - truth)[part].mean()) for part in (~mask, mask)]
        for given, mask, truth in zip(pictures, seen, truths, strict=True)
        if truth is not None and not mask.all()
    ]
    if changes:
        hidden, shown = np.mean(changes, axis=0)
        inverted = shown > _CHANGED and hidden < _UNCHANGED * shown
        return "what the masks hide is as in truth/, and what they show is not" if inverted else ""
    holed = [(given, mask) for given, mask in zip(pictures, seen, strict=True) if not mask.all()]
    if not holed:
        return ""
    if all(np.ptp(given[mask]) == 0 and np.ptp(given[~mask]) > 0.1 for given, mask in holed):
        return "what the masks show is of one value, and what they hide is not"
    share = 1 - float(np.mean([mask.mean() for _, mask in holed]))
    return f"the masks hide {share:.0%} of the pictures" if share > _MOST_HIDDEN else ""
