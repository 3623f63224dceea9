"""Videos as collections of frames: a folder, a file, or a built-in clip whose truth is known.

Letters: H rows, W columns, C channels. Splitting off background from foreground is learned on the
very frames it is shown on, so both splits of a video are the same frames.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from scipy import ndimage

from nid_jax.data import images, video_files
from nid_jax.data.builtin import load_photographs
from nid_jax.data.collection import ArrayCollection, Collection, position
from nid_jax.data.folder import find_images, open_files
from nid_jax.data.picturefiles import read_image
from nid_jax.data.splitting import configured_range, configured_size, shaped
from nid_jax.data.video_files import read_frames
from nid_jax.notices import say

DEFAULT_CLIP_SIZE = (96, 128)
BACKGROUND = "stereo_motorcycle"
MIN_CLIP_FRAMES = 12
# No pixel of the clip is covered in more than this share of the frames, or nothing could tell
# what is behind; paths are drawn again until it holds.
MAX_COVERAGE = 0.35
PATH_DRAWS = 200
# Frames of which it is told whether gray hides what moves; a change of a value that counts; the
# share of changes that gray may lose; the share of all pixels that change at least.
_COMPARED, _MOVES, _LOST, _SOME = 16, 0.06, 0.3, 1e-3


# ---- videos of one's own ----------------------------------------------------------------------


def open_video(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a folder of frames, or a video file; both splits are all its frames.

    A folder's images, those of its subfolders too, come in the natural order of their paths:
    frame2 before frame10. They are decoded on access, and frames of another size than the first
    are an error unless data.resize is on. A file's frames, as `video_files.read_frames` reads
    them, are kept in memory in the type that it holds; what is transparent lies on white.
    Frames data.video.start, start + step, ... before stop (0: the end) are taken, numbered from 0.
    data.size, data.resize, data.crop and data.gray apply; num_train, num_test and the seed do not.
    Raises FileNotFoundError for a path that is not there, ValueError naming the file or key for a
    video that cannot be read, frames of unequal size, fewer than 2 frames, and a missing ffmpeg.
    """
    del split, seed
    if not config.root:
        raise ValueError(
            f"data.root is empty: data.name={config.name!r} reads a folder or a video file"
        )
    root = Path(config.root).expanduser()
    if root.is_dir():
        paths, _ = _chosen(sorted(find_images(root), key=_natural), config, root)
        names = [path.relative_to(root).as_posix() for path in paths]
        if config.gray:
            chosen = [paths[number] for number in _spread(len(paths))]
            _say_lost_in_gray([read_image(path, configured_range(config)) for path in chosen], root)
        return open_files(paths, names, f"frames in {root.name}", config, range(len(paths)))
    if not root.exists():
        raise FileNotFoundError(f"data.root={config.root!r}: does not exist")
    if not root.is_file():
        raise ValueError(f"data.root={config.root!r}: is neither a folder of frames nor a file")
    frames, numbers = _chosen(read_frames(root), config, root)
    names = [f"frame_{number:05d}" for number in numbers]
    values, scale = _joined(frames, configured_range(config), root)
    if config.gray and values.shape[-1] == 3:
        chosen = values[_spread(len(values))]
        _say_lost_in_gray([images.to_unit(frame, root, scale) for frame in chosen], root)
    return shaped(ArrayCollection(values, names, root.name, scale), config)


def frame_rate(config: ConfigDict) -> float:
    """Frames a second of the frames that config.data takes; 0 where nothing says how many."""
    if config.name != "video":
        return 0.0
    root = Path(config.root).expanduser()
    return video_files.frame_rate(root) / config.video.step if root.is_file() else 0.0


def _joined(frames, asked, where):
    """(values [T, H, W, C], (low, high) of them): in the file's type where nothing else was said.

    frames: Pixels; asked: data.range, or ().
    """
    shapes = sorted({frame.colours.shape for frame in frames})
    if len(shapes) > 1:
        raise ValueError(f"{where}: frames of shapes {list(shapes[0])} and {list(shapes[-1])}")
    first = frames[0]
    clear = sum(
        bool((images.opacity(frame) < 1).any()) for frame in frames if frame.alpha is not None
    )
    if clear:
        say(f"{where}: {clear} of {len(frames)} frames are transparent in parts; laid on white")
    for number, frame in enumerate(frames):
        images.check_finite(frame.colours, f"{where}, frame {number}")
    ends = [end(frame.colours) for frame in frames for end in (np.min, np.max)]
    scale = asked or first.full or images.guessed_range(np.array(ends), where)
    if all(frame.alpha is None and not (frame.inverted or frame.ink) for frame in frames):
        values = np.stack([frame.colours for frame in frames])
        images.say_binary(values, where)
        return values, scale
    kind, full = first.colours.dtype, images.FULL_SCALE.get(first.colours.dtype.name)
    values = [images.composed(frame, where, asked or frame.full or scale) for frame in frames]
    if full is None or kind.kind == "b":
        return np.stack(values), (0.0, 1.0)
    return np.stack([np.rint(frame * full[1]).astype(kind) for frame in values]), full


def _spread(count):
    """Numbers of at most _COMPARED frames of so many, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, _COMPARED)).astype(int))


def _say_lost_in_gray(frames, where):
    """Say where frames [H, W, C] in [0, 1] show in colours what moves, and in gray do not."""
    if len(frames) < 3 or len({frame.shape for frame in frames}) > 1 or frames[0].shape[-1] != 3:
        return
    colours = np.stack(frames)
    gray = np.stack([images.to_channels(frame, 1) for frame in frames])
    # Colours count as a change of one channel does in gray where all change alike.
    moved, seen = (
        np.abs(values - np.median(values, axis=0)).max(axis=-1) > _MOVES
        for values in (colours, gray)
    )
    lost = (moved & ~seen).sum() / max(moved.sum(), 1)
    if lost > _LOST and moved.mean() > _SOME:
        say(
            f"{where}: {lost:.0%} of what moves differs in colour and hardly in gray; taken in "
            "gray; data.gray=false says otherwise"
        )


def _natural(path):
    """A sort key: runs of digits compare as numbers; the path itself breaks ties."""
    text = path.as_posix()
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], text


def _chosen(frames, config, where):
    """(the frames that data.video asks for, their numbers), reading no further than needed."""
    start, stop, step = config.video.start, config.video.stop, config.video.step
    if start < 0:
        raise ValueError(f"data.video.start={start}: must be 0 or more")
    if step < 1:
        raise ValueError(f"data.video.step={step}: must be 1 or more whole frames")
    if stop and stop <= start:
        raise ValueError(
            f"data.video.stop={stop}: must be above data.video.start={start}, or 0 for the end"
        )
    chosen, numbers, count = [], [], 0
    for count, frame in enumerate(itertools.islice(frames, stop or None), start=1):
        number = count - 1
        if number >= start and (number - start) % step == 0:
            chosen.append(frame)
            numbers.append(number)
    if count <= start:
        raise ValueError(f"data.video.start={start}: {where} has only {count} frames")
    if count < stop:
        raise ValueError(f"data.video.stop={stop}: {where} has only {count} frames; 0 takes all")
    if len(chosen) < 2:
        raise ValueError(
            f"{where}: a video needs at least 2 frames, found {len(chosen)} "
            f"(data.video.start={start}, stop={stop}, step={step})"
        )
    return chosen, numbers


# ---- the built-in clip ------------------------------------------------------------------------


class CutOut(NamedTuple):
    """An ellipse in a photograph: (row, column) of its centre, half its height and width."""

    photograph: str
    centre: tuple[float, float]
    half: tuple[float, float]


# In pixels of the photographs that load_photographs() returns.
CUT_OUTS = (
    CutOut("astronaut", (100, 227), (90, 76)),  # the head
    CutOut("coffee", (108, 290), (94, 122)),  # the cup
    CutOut("chelsea", (122, 236), (118, 128)),  # the cat's face
    CutOut("retina", (234, 234), (226, 226)),
)


class Mover(NamedTuple):
    """A cut-out on its way: pixels [h, w, C], half [2] in pixels, centres [T, 2] (row, column)."""

    pixels: np.ndarray
    half: np.ndarray
    centres: np.ndarray


class Clip:
    """A collection of T frames [H, W, C], composed on access, that knows what it is made of.

    A photograph is lit by a lamp that slowly moves and changes: background i is
    photograph * (gain[i] + tilt[i] . (row, column)), so all backgrounds together have rank 3.
    Elliptical cut-outs of other photographs move before it under the same light; later ones hide
    earlier ones and the edge is hard, so foreground(i) is exact. Without noise
    clip[i] == truth(i) wherever foreground(i) is False. Noise is added to the whole frame and the
    sum clipped to [0, 1].
    """

    title = "built-in clip"

    def __init__(
        self,
        photograph: Float[np.ndarray, "H W C"],
        movers: Sequence[Any],
        light: tuple[Float[np.ndarray, " T"], Float[np.ndarray, "T 2"]],
        noise: float,
        seed: int,
    ):
        """light: (gain [T], tilt [T, 2]); noise: standard deviation."""
        self.photograph = photograph
        self.movers = movers
        self.gain, self.tilt = light
        self.noise = noise
        self.seed = seed
        self.shape = tuple(photograph.shape)
        self.names = [f"frame_{number:05d}" for number in range(len(self.gain))]

    def __len__(self) -> int:
        return len(self.gain)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        at = position(index, len(self))
        frame = self.photograph.copy()
        for mover in self.movers:
            inside = covered(mover.half, mover.centres[at], self.shape[:2])
            frame[inside] = _seen(mover, at, np.argwhere(inside))
        frame *= self._light(at)
        if self.noise:
            generator = np.random.default_rng([self.seed, 1, at])
            frame += self.noise * generator.standard_normal(frame.shape, np.float32)
            np.clip(frame, 0, 1, out=frame)
        return frame

    def truth(self, index: int) -> Float[np.ndarray, "H W C"]:
        """The clean background of frame `index`, float32 [H, W, C]."""
        return self.photograph * self._light(position(index, len(self)))

    def foreground(self, index: int) -> Bool[np.ndarray, "H W"]:
        """Where something is before the background in frame `index`, bool [H, W]."""
        at = position(index, len(self))
        return np.any(
            [covered(mover.half, mover.centres[at], self.shape[:2]) for mover in self.movers],
            axis=0,
        )

    def _light(self, at):
        rows, columns = (np.linspace(-1, 1, count) for count in self.shape[:2])
        tilt = self.tilt[at, 0] * rows[:, None] + self.tilt[at, 1] * columns[None, :]
        return (self.gain[at] + tilt)[..., None].astype(np.float32)


def open_clip(config: ConfigDict, split: str, seed: int) -> Clip:
    """A built-in clip with the truth known: cut-outs of photographs moving before another one.

    data.size is its size, default 96x128; data.gray makes it gray; data.clip.num_frames (at least
    12), data.clip.objects (at least 1) and data.clip.noise (standard deviation) say the rest. What
    moves where, and the light, are functions of the seed; both splits are the same frames.
    No pixel is covered in more than 35% of the frames. Returns a Clip: its .truth(i) and
    .foreground(i) are the background and the mask of frame i.
    Raises ValueError naming the key.
    """
    del split
    settings = config.clip
    if settings.num_frames < MIN_CLIP_FRAMES:
        raise ValueError(
            f"data.clip.num_frames={settings.num_frames}: must be at least {MIN_CLIP_FRAMES}"
        )
    if settings.objects < 1:
        raise ValueError(f"data.clip.objects={settings.objects}: must be at least 1")
    if not 0 <= settings.noise <= 1:
        raise ValueError(f"data.clip.noise={settings.noise}: must be between 0 and 1")
    size = configured_size(config) or DEFAULT_CLIP_SIZE
    photographs = load_photographs(config.gray)
    background = images.fit_to_size(photographs[BACKGROUND], size, True, "center", BACKGROUND)
    generator = np.random.default_rng([seed, 0])
    light = _light(generator, settings.num_frames)
    halves, centres = _paths(generator, settings, size)
    movers = [
        Mover(_cut(photographs, cut_out, half), half, path)
        for cut_out, half, path in zip(itertools.cycle(CUT_OUTS), halves, centres, strict=False)
    ]
    return Clip(background, movers, light, settings.noise, seed)


def covered(half: ArrayLike, centre: ArrayLike, size: Sequence[int]) -> Bool[np.ndarray, "H W"]:
    """The pixels whose centres lie in an upright ellipse, bool [H, W]; all lengths in pixels."""
    rows, columns = (np.arange(count) for count in size)
    down = ((rows - centre[0]) / half[0]) ** 2
    across = ((columns - centre[1]) / half[1]) ** 2
    return down[:, None] + across[None, :] < 1


def _light(generator, count):
    """gain [T] in 0.65..0.85 and tilt [T, 2] of at most 0.14 in all: their sum stays below 1."""
    turns = np.linspace(0, 2 * np.pi, count)
    phases = generator.uniform(0, 2 * np.pi, 3)
    gain = 0.75 + 0.1 * np.sin(generator.uniform(0.6, 1.4) * turns + phases[0])
    speeds = generator.uniform(0.4, 1.0, 2)
    # A quarter turn apart, so that the light goes round instead of to and fro.
    tilt = 0.07 * np.stack(
        [np.sin(speeds[0] * turns + phases[1]), np.cos(speeds[1] * turns + phases[1])], axis=-1
    )
    return gain, tilt


def _paths(generator, settings, size):
    """(halves [N, 2], centres [N, T, 2]) of N objects, in pixels, that leave every pixel free.

    Raises ValueError naming data.clip.objects where no draw does.
    """
    for _ in range(PATH_DRAWS):
        halves, centres = zip(
            *(_path(generator, settings, size, number) for number in range(settings.objects)),
            strict=True,
        )
        hidden = np.zeros(size)
        for at in range(settings.num_frames):
            hidden += np.any(
                [covered(half, path[at], size) for half, path in zip(halves, centres, strict=True)],
                axis=0,
            )
        if hidden.max() <= MAX_COVERAGE * settings.num_frames:
            return halves, centres
    raise ValueError(
        f"data.clip.objects={settings.objects}: so many cover some pixel in more than "
        f"{MAX_COVERAGE:.0%} of the frames on every path tried; take fewer"
    )


def _path(generator, settings, size, number):
    """(half [2], centres [T, 2]): back and forth along a swaying lane, turning out of sight."""
    rows, columns = size
    cut_out = CUT_OUTS[number % len(CUT_OUTS)]
    # More than three are smaller, so that all of them together hide no more than three do.
    longer = min(size) * generator.uniform(0.14, 0.18) * min(1, (3 / settings.objects) ** 0.5)
    half = longer * np.array(cut_out.half) / max(cut_out.half)
    time = np.linspace(0, 1, settings.num_frames)
    # The speed along the lane varies between 0.5 and 1.5 times its mean.
    warp = 0.5 * np.sin(2 * np.pi * time + generator.uniform(0, 2 * np.pi)) / (2 * np.pi)
    way = generator.uniform(0, 2) + generator.uniform(1.2, 2.0) * (time + warp)
    along = np.abs(way % 2 - 1)
    reach = half[1] + 1
    lane = rows * (number % settings.objects + 0.5) / settings.objects
    sway = (
        0.12 * rows * np.sin(2 * np.pi * (generator.uniform(0.5, 1.5) * time + generator.random()))
    )
    return half, np.stack([lane + sway, (columns + 2 * reach) * along - reach], axis=-1)


def _cut(photographs, cut_out, half):
    """The rectangle about a cut-out, reduced to 2 * half pixels, [h, w, C]."""
    picture = photographs[cut_out.photograph]
    low = [round(c - h) for c, h in zip(cut_out.centre, cut_out.half, strict=True)]
    high = [round(c + h) for c, h in zip(cut_out.centre, cut_out.half, strict=True)]
    size = tuple(max(2, round(2 * length)) for length in half)
    return images.resize(picture[low[0] : high[0], low[1] : high[1]], size)


def _seen(mover, at, pixels):
    """The colours of a mover at `pixels` [P, 2] of frame `at`, [P, C], interpolated linearly."""
    # From -1..1 over the ellipse to the cut-out's pixels, whose edges are those of the ellipse.
    places = (pixels - mover.centres[at]) / mover.half
    places = (places + 1) / 2 * mover.pixels.shape[:2] - 0.5
    channels = [
        ndimage.map_coordinates(mover.pixels[..., channel], places.T, order=1, mode="nearest")
        for channel in range(mover.pixels.shape[-1])
    ]
    return np.stack(channels, axis=-1)
