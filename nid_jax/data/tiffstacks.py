"""TIFF files of many pages: frames of a video, and arrays of measurements.

tifffile knows which pages belong together and what their axes are; each page is read as a picture
is. Letters: T frames, H rows, W columns, S samples of a pixel.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Num

from nid_jax import bounds, errors
from nid_jax.data import tiff
from nid_jax.data.images import Pixels
from nid_jax.notices import say, sides

# Axes of a stack that may be time, in this order: T, then pages of no kind, then depth.
_TIMES = "TIQZ"


def read_frames(path: Path) -> Iterator[Pixels]:
    """The frames of a TIFF, an ImageJ or an OME stack, each a page as `tiff.read_pixels` has it.

    Channels (axis C) are 3, red, green and blue, or one. Raises ValueError naming a file that
    cannot be read, or whose axes are others.
    """
    with path.open("rb") as stream:
        try:
            with tifffile.TiffFile(stream) as file:
                series = file.series[0]
                page = _page(series, 0)
                order = _frames_of(series, page, path)
                _say(path, file, page)
                if math.prod(series.shape) != len(series.pages) * math.prod(page.shape):
                    _check_stack(stream, series, page)
                pixels = _reader(stream, series, page)
                for places in order:
                    channels = [pixels(int(place)) for place in places]
                    colours = np.concatenate([one.colours for one in channels], axis=-1)
                    yield channels[0]._replace(colours=colours)
        except tiff.Unsupported as error:
            raise ValueError(f"{path}: {error}") from error
        except Exception as error:  # of damaged files decoders raise what they lead them to
            if str(error).startswith(str(path)):
                raise
            raise ValueError(
                f"{path}: cannot be read as a stack of pictures, cut short or damaged "
                f"({errors.reason(error)})"
            ) from error


def read_array(path: Path, where: str) -> Num[np.ndarray, "..."]:
    """The values of a TIFF as they are stored, [H, W], with pages before and samples behind.

    where: what errors begin with. Raises ValueError for a file that cannot be read.
    """
    with path.open("rb") as stream:
        try:
            with tifffile.TiffFile(stream) as file:
                series = file.series[0]
                pages = [_page(series, number) for number in range(len(series.pages))]
                _check_stack(stream, series, pages[0])
                if len(pages) * math.prod(pages[0].shape) != math.prod(series.shape):
                    return series.asarray()  # one page stands for all
                return np.stack([tiff.stored(page) for page in pages]).reshape(series.shape)
        except tiff.Unsupported as error:
            raise ValueError(f"{where}: {error}") from error
        except Exception as error:
            reason = errors.reason(error)
            raise ValueError(f"{where}: cannot be read as a .tif file ({reason})") from error


def _check_stack(stream, series, page):
    """Raise ValueError where a stack takes more memory than is allowed."""
    there = bounds.size_of(stream) if int(page.compression) == 1 else 0
    wanted = math.prod(map(int, series.shape)) * series.dtype.itemsize
    tiff.check_memory(wanted, there, f"a stack {sides(series.shape)}")


def _page(series, number):
    page = series.pages[number]
    if page is None:
        raise tiff.Unsupported(f"lacks page {number}, which is in another file of its stack")
    return page.aspage()


def _say(path, file, page):
    if len(file.series) > 1:
        axes = file.series[0].axes
        say(f"{path}: {len(file.series)} series of pictures; the first, axes {axes}, is read")
    for note in tiff.notes(page):
        say(f"{path}: {note}")


def _frames_of(series, page, path):
    """Places of pages [T, C] in the order of frames and channels."""
    shape, axes = series.shape, series.axes
    outer = axes[: len(axes) - len(page.axes)]
    lengths = {name: side for name, side in zip(outer, shape, strict=False) if side > 1}
    time = next((name for name in _TIMES if name in lengths), "")
    channels = lengths.get("C", 1)
    if not time or set(lengths) - {time, "C"} or not axes.endswith(page.axes):
        raise ValueError(
            f"{path}: a stack {sides(shape)} with axes {axes}; allowed: one of time "
            "(T, or else pages), Y, X, and channels (C or S)"
        )
    if channels not in (1, 3) or (channels > 1 and "S" in page.axes):
        raise ValueError(
            f"{path}: frames of {channels} channels (axis C), which are no colours; allowed: 1, or "
            "3 taken as red, green, blue; save one of them"
        )
    if time == "Z":
        say(f"{path}: {lengths['Z']} planes of depth (axis Z); taken as time")
    places = np.arange(math.prod(lengths.values())).reshape(list(lengths.values()))
    return np.moveaxis(places, list(lengths).index(time), 0).reshape(lengths[time], channels)


def _reader(stream, series, page):
    """Number of a page -> its Pixels. Orientation may stand in the first page alone."""
    turn = tiff.orientation(page)
    count = math.prod(series.shape) // math.prod(page.shape)
    if len(series.pages) == count:
        return lambda number: tiff.page_pixels(stream, _page(series, number), usual=turn)
    values = series.asarray().reshape(count, *page.shape)  # one page stands for all
    return lambda number: tiff.interpreted(page, values[number])
