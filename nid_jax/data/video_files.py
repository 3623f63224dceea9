"""Frames of video files, one by one: films by ffmpeg, animated pictures, stacks, arrays.

Letters: T frames, H rows, W columns, C channels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Num
from PIL import Image

from nid_jax import ffmpeg
from nid_jax.data import arrayfiles, images, tiffstacks
from nid_jax.data.images import Pixels
from nid_jax.notices import say

# Pillow reads these exactly and without ffmpeg.
ANIMATIONS = (".gif", ".webp", ".png", ".apng")
STACKS = (".tif", ".tiff")
ARRAYS = (".npy", ".npz")


def read_frames(path: Path) -> Iterator[Pixels]:
    """The frames of a file as they are stored, read as they are asked for.

    In the type of the file; C = 1 or 3.
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
        return tiffstacks.read_frames(path)
    if suffix in ARRAYS:
        return _array(path)
    return _film(path)


def frame_rate(path: Path) -> float:
    """Frames a second that a file of `read_frames` says; 0 where it says none.

    Stacks and arrays say none; of GIF, WebP and APNG it is the mean over all frames.
    """
    suffix = path.suffix.lower()
    if suffix in STACKS + ARRAYS:
        return 0.0
    if suffix not in ANIMATIONS:
        return ffmpeg.frame_rate(path)
    try:
        count, lasting = _durations(path)
    except Exception as error:
        raise _unreadable(path) from error
    return count / lasting if lasting else 0.0


def _durations(path):
    """(frames, seconds that they last) of an animation."""
    with Image.open(path) as picture:
        first = int(getattr(picture, "default_image", False))
        count = getattr(picture, "n_frames", 1) - first
        lasting = 0.0
        for number in range(first, first + count):
            picture.seek(number)
            picture.load()
            lasting += picture.info.get("duration", 0) / 1000
    return count, lasting


def _unreadable(path):
    return ValueError(
        f"{path}: cannot be read as a video: damaged, cut short, without pictures, or of a kind "
        "that is not known here"
    )


def _animation(path) -> Iterator[Pixels]:
    try:
        with Image.open(path) as picture:
            # An APNG may begin with a picture for programs that show one only.
            first = int(getattr(picture, "default_image", False))
            for number in range(first, getattr(picture, "n_frames", 1)):
                picture.seek(number)
                yield rgba(np.asarray(picture.convert("RGBA")))
    except Exception as error:  # of damaged files decoders raise what they lead them to
        raise _unreadable(path) from error


def rgba(frame: Num[np.ndarray, "H W K"]) -> Pixels:
    """A frame of whose 1 to 4 channels an even last one is its alpha."""
    if frame.shape[-1] in (1, 3):
        return Pixels(frame)
    alpha = frame[..., -1]
    opaque = frame.dtype == np.uint8 and (alpha == 255).all()
    return Pixels(frame[..., :-1], None if opaque else alpha)


def _array(path) -> Iterator[Pixels]:
    """The frames of an .npy or .npz, the former memory-mapped."""
    arrays = arrayfiles.load(path, mmap=True)
    if len(arrays) != 1:
        raise ValueError(f"{path}: holds the arrays {sorted(arrays)}; allowed: one, of frames")
    (values,) = arrays.values()
    if values is None or values.dtype.kind not in "biuf":
        kind = "objects" if values is None else values.dtype
        raise ValueError(f"{path}: values of type {kind}; allowed: real numbers")
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or 0 in values.shape or values.shape[-1] > 4:
        raise ValueError(
            f"{path}: frames of shape {list(values.shape)}; allowed: [T, H, W], or [T, H, W, C] "
            "with C at most 4"
        )
    if values.shape[-1] in (1, 3):
        yield from map(Pixels, values)
        return
    # What is opaque is the same in all frames.
    images.check_finite(values[..., -1], path)
    alpha = images.opacity(Pixels(values[..., :-1], values[..., -1]))
    for frame, opacity in zip(values, alpha, strict=True):
        yield Pixels(frame[..., :-1], opacity)


def _film(path) -> Iterator[Pixels]:
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
            yield rgba(frame)
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
    complaints = [f"complained {heard.errors} times"] if heard.errors else []
    complaints += [f"ended with status {heard.status}"] if heard.status else []
    if complaints and heard.streams.get("Video"):
        say(f"{path}: ffmpeg {' and '.join(complaints)}; frames may be missing or spoiled")
