"""Frames of video files, one by one: films by ffmpeg, animated pictures, stacks, arrays.

Letters: T frames, H rows, W columns, C channels.
"""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Num
from PIL import Image

from nid_jax import ffmpeg
from nid_jax.data import images
from nid_jax.notices import say

# Pillow reads these exactly and without ffmpeg.
ANIMATIONS = (".gif", ".webp", ".png", ".apng")
STACKS = (".tif", ".tiff")
ARRAYS = (".npy", ".npz")

# What Pillow, tifffile and NumPy raise for contents that they cannot decode.
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, RuntimeError),
    *(Image.DecompressionBombError, zipfile.BadZipFile),
)
# Axes of a stack that may be time, in this order: T, then pages of no kind, then depth.
_TIMES = "TIQZ"
_WHITE_IS_ZERO, _PALETTE = 0, 3


def read_frames(path: Path) -> Iterable[Num[np.ndarray, "H W C"]]:
    """The frames of a file as they are stored, read as they are asked for.

    In the type of the file, what `images.guessed_range` takes; C = 1 or 3; what is transparent lies
    on white.
    GIF, WebP and APNG: the pictures stored, however long each is shown. TIFF: the pages, or an
    ImageJ or OME stack's axis T. .npy, or .npz of one array: [T, H, W] or [T, H, W, C], C at most
    4. Anything else: the first video stream that ffmpeg finds, turned as the file says, in colour.
    Raises ValueError naming the file where it cannot be read, and a missing ffmpeg.
    """
    with path.open("rb"):
        pass  # a file that may not be read is reported as such, not as damaged
    suffix = path.suffix.lower()
    if suffix in ANIMATIONS:
        return _animation(path)
    if suffix in STACKS:
        return _laid_on_white(_stack(path), path)
    if suffix in ARRAYS:
        return _laid_on_white(_array(path), path)
    return _film(path)


def _unreadable(path, kind="a video"):
    return ValueError(
        f"{path}: cannot be read as {kind}: damaged, cut short, without pictures, or of a kind "
        "that is not known here"
    )


def _animation(path) -> Iterator[np.ndarray]:
    try:
        with Image.open(path) as picture:
            # An APNG may begin with a picture for programs that show one only.
            first = int(getattr(picture, "default_image", False))
            for number in range(first, getattr(picture, "n_frames", 1)):
                picture.seek(number)
                yield on_white(np.asarray(picture.convert("RGBA")))
    except _UNDECODABLE as error:
        raise _unreadable(path) from error


def on_white(frame: Num[np.ndarray, "H W C"]) -> Num[np.ndarray, "H W K"]:
    """A frame whose alpha, the last of 2 or 4 channels, has been laid on white; others as is."""
    if frame.shape[-1] in (1, 3):
        return frame
    colour, alpha = frame[..., :-1], frame[..., -1:]
    full = 1.0 if np.issubdtype(frame.dtype, np.floating) else np.iinfo(frame.dtype).max
    if (alpha == full).all():
        return colour
    share = alpha / np.float64(full)
    mixed = colour * share + full * (1 - share)
    return mixed.astype(frame.dtype) if full == 1.0 else np.rint(mixed).astype(frame.dtype)


def _laid_on_white(frames, path) -> Iterator[np.ndarray]:
    for number, frame in enumerate(frames):
        if frame.dtype.name not in images.FULL_SCALE:
            images.check_finite(frame, f"{path}, frame {number}")
        yield on_white(frame * np.uint8(255) if frame.dtype == bool else frame)


def _stack(path):
    """The frames of a TIFF [T, H, W, C], in the type that it holds."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series, count = tiff.series[0], len(tiff.series)
            axes, values = series.axes, series.asarray()
            photometric = int(tiff.pages.first.photometric)
    except _UNDECODABLE as error:
        raise _unreadable(path, "a stack of pictures") from error
    if count > 1:
        say(f"{path}: {count} series of pictures; the first, axes {axes}, is read")
    if photometric == _PALETTE:
        # Every page has a palette of its own, of which Pillow knows how it was scaled.
        return _with_channels(np.stack(list(_animation(path))), path)
    if photometric == _WHITE_IS_ZERO:
        values = ~values if values.dtype.kind in "bu" else 1 - values
    return _time_first(values, axes, path)


def _time_first(values, axes, path):
    """[T, H, W, C] of an array with an axis for each letter of `axes`."""
    kept = [at for at, size in enumerate(values.shape) if size > 1 or axes[at] in "YX"]
    values = values.reshape([values.shape[at] for at in kept])
    names = "".join(axes[at] for at in kept)
    time = next((name for name in _TIMES if name in names), "")
    others = [f"{name} ({values.shape[names.index(name)]})" for name in names.replace(time, "", 1)]
    others = [other for other in others if other[0] not in "YXSC"]
    if not time or others or names.count("C") + names.count("S") > 1:
        shape = " x ".join(map(str, values.shape))
        raise ValueError(
            f"{path}: a stack {shape} with axes {names}; allowed: one of time (T, or else pages), "
            "Y, X, and channels (C or S), 1 to 4"
        )
    if time == "Z":
        say(f"{path}: {values.shape[names.index('Z')]} planes of depth (axis Z); taken as time")
    colour = "".join(name for name in "SC" if name in names)
    order = [names.index(name) for name in (time, "Y", "X", *colour)]
    return _with_channels(values.transpose(order), path)


def _with_channels(values, path):
    """[T, H, W, C] of that or of [T, H, W]. Raises ValueError for any other shape."""
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or 0 in values.shape or values.shape[-1] > 4:
        raise ValueError(
            f"{path}: frames of shape {list(values.shape)}; allowed: [T, H, W], or [T, H, W, C] "
            "with C at most 4"
        )
    return values


def _array(path):
    """The frames of an .npy or .npz, the former memory-mapped."""
    try:
        if path.suffix.lower() == ".npy":
            return _with_channels(np.load(path, mmap_mode="r", allow_pickle=False), path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except _UNDECODABLE as error:
        if "frames of shape" in str(error):
            raise
        raise _unreadable(path, "an array of frames") from error
    if len(arrays) != 1:
        raise ValueError(f"{path}: holds the arrays {sorted(arrays)}; allowed: one, of frames")
    (values,) = arrays.values()
    return _with_channels(values, path)


def _film(path) -> Iterator[np.ndarray]:
    try:
        ffmpeg.program()
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"{path}: reading a video file needs ffmpeg: pip install 'imageio[ffmpeg]'"
        ) from error
    heard: list[ffmpeg.Heard] = []
    frames = ffmpeg.read(path, heard)
    try:
        for frame in frames:
            yield on_white(frame)
    except ffmpeg.Unreadable as error:
        raise _unreadable(path) from error
    finally:
        frames.close()
        if heard:
            _tell(path, heard[0])


def _tell(path, heard):
    """One line where a film holds more than one video stream, or was decoded with complaints."""
    if sum(heard.streams.values()) > 1:
        kinds = sorted(heard.streams.items())
        counts = ", ".join(f"{count} {kind.lower()}" for kind, count in kinds)
        say(f"{path}: {counts}; the first stream of video is read, the others are passed over")
    if heard.errors and heard.streams.get("Video"):
        say(f"{path}: ffmpeg complained {heard.errors} times; frames may be missing or spoiled")
