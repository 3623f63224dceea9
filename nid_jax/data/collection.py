"""Collections: random access to signals, whatever they come from.

A collection is anything with len(), [i], names, shape and title; the classes here hold arrays,
choose from another collection, or multiply it by augmentation. Letters: S signals, C channels;
*grid the sample counts along each axis.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

from nid_jax.data import images


@runtime_checkable
class Collection(Protocol):
    """Random access to S signals of one shape.

    names: S distinct labels; shape: (*grid, C); title: what the collection is, in a few words.
    collection[i] is float32 [*grid, C] in [0, 1] and raises IndexError outside 0..S-1.
    """

    names: list[str]
    shape: tuple[int, ...]
    title: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]: ...


def position(index: int, length: int) -> int:
    """`index` as an int in 0..length-1, negative ones counted from the end; or IndexError."""
    at = int(index)
    if not -length <= at < length:
        raise IndexError(f"signal {at} of a collection of {length}")
    return at % length


def window_slices(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Where the window of `size` samples that begins at `corner` lies, a slice for each axis."""
    return tuple(slice(start, start + length) for start, length in zip(corner, size, strict=True))


class ArrayCollection:
    """Signals held in one array [S, *grid, C].

    value_range: (low, high) that become 0 and 1 on access, so that a memory-mapped file is never
    copied whole; what lies outside is cut off. None keeps floats as they are, and takes whole
    numbers by their type. bounds: (lowest, highest) that signals may have. shown: bool [S, *grid],
    False where values are missing and read as 0; the collection then has .seen(i), bool [*grid].
    Raises ValueError, starting with the title, for NaN or infinity, an array without signals, or
    names that are not S distinct ones.
    """

    windows = True
    """Whether `window` reads a part for less than the whole."""

    def __init__(
        self,
        values: Num[np.ndarray, "S *grid C"],
        names: Sequence[str],
        title: str,
        value_range: tuple[float, float] | None = None,
        shown: Bool[np.ndarray, "S ..."] | None = None,
    ):
        names = [str(name) for name in names]
        if values.ndim < 3 or 0 in values.shape:
            raise ValueError(
                f"{title}: an array of shape {list(values.shape)}; expected [S, *grid, C], none 0"
            )
        if len(names) != len(values) or len(set(names)) != len(names):
            raise ValueError(
                f"{title}: {len(values)} signals but {len(names)} names, {len(set(names))} distinct"
            )
        floats = np.issubdtype(values.dtype, np.floating)
        if floats:
            for index, (name, signal) in enumerate(zip(names, values, strict=True)):
                known = signal if shown is None else signal[shown[index]]
                images.check_finite(known, f"{title}, signal {name!r}")
        elif value_range is None:
            value_range = images.guessed_range(values, title)
        self.values = values
        self.names = names
        self.title = title
        self.value_range = value_range
        known = values if shown is None else values[shown]
        self.bounds = (0.0, 1.0) if value_range else (float(known.min()), float(known.max()))
        self.shape = tuple(values.shape[1:])
        if shown is not None:
            self.shown = shown
            self.seen = self._seen

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        at = position(index, len(self))
        return self._shown_of(at, self._scaled(self.values[at]), ())

    def _seen(self, index):
        """bool [*grid], False where a signal is missing."""
        return self.shown[position(index, len(self))]

    def window(
        self, index: int, corner: Sequence[int], size: Sequence[int]
    ) -> Float[np.ndarray, "*size C"]:
        """The part [*size, C] of a signal that begins at `corner`; no more of a file is read."""
        at, where = position(index, len(self)), window_slices(corner, size)
        return self._shown_of(at, self._scaled(self.values[at][where]), where)

    def _shown_of(self, index, part, where):
        """Part of a signal, 0 where it is missing."""
        if not hasattr(self, "shown"):
            return part
        return np.where(self.shown[index][where][..., None], part, np.float32(0))

    def _scaled(self, part):
        if self.value_range is None:
            return np.array(part, np.float32)
        low, high = self.value_range
        # Whole numbers above 2^24 are exact in double precision only.
        scaled = (np.asarray(part, np.float64) - low) / (high - low)
        return np.clip(scaled, 0, 1).astype(np.float32)


def holed(collection: Collection) -> bool:
    """Whether a collection knows what is seen of its signals, .seen(i), and what is missing."""
    seen = getattr(collection, "seen", None)
    return callable(seen) and seen(0) is not None


# What collections may know of a signal besides its values.
_KNOWN = (
    *("truth", "seen", "foreground", "ellipses", "grid", "way", "points"),
    *("window", "mesh", "cloud", "near", "distances", "denormalise", "untruncated", "units", "up"),
)
# What they may know of all their signals.
_COMMON = ("truncation", "cache", "bounds", "windows", "ways", "mixed", "frame")


class SubsetCollection:
    """The signals of `collection` at `indices`, in that order."""

    def __init__(self, collection: Collection, indices: Sequence[int] | np.ndarray):
        self.collection = collection
        self.indices = [position(index, len(collection)) for index in indices]
        self.names = [collection.names[index] for index in self.indices]
        self.shape = tuple(collection.shape)
        self.title = collection.title

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        return self.collection[self.indices[position(index, len(self))]]

    def __getattr__(self, name):
        if name in _COMMON:
            return getattr(self.collection, name)
        if name == "fingerprint":
            whole = self.collection.fingerprint
            return lambda: _fingerprint_of_some(whole(), self.indices)
        if name not in _KNOWN:
            raise AttributeError(name)
        known = getattr(self.collection, name)
        return lambda index, *more: known(self.indices[position(index, len(self))], *more)


def _fingerprint_of_some(whole, indices):
    return hashlib.sha256(repr((whole, indices)).encode()).hexdigest()[:16]


class ShapedCollection:
    """Pictures of `collection` made gray and brought to one size; volumes made gray.

    size: (rows, columns), or a volume's own; resizing, crop as in images.fit_to_size. Raises
    ValueError at once when the sizes differ and resizing is off.
    """

    def __init__(
        self,
        collection: Collection,
        size: tuple[int, int] | None,
        resizing: bool = True,
        crop: str = "",
        gray: bool = False,
    ):
        *grid, channels = collection.shape
        if tuple(grid) != tuple(size):
            if len(grid) != 2:
                raise ValueError(
                    f"data.size={tuple(size)}: signals of {collection.title} are {grid}; allowed: "
                    "()"
                )
            if not resizing:
                raise ValueError(images.size_complaint(collection.title, grid, size))
        if gray and channels not in (1, 3):
            raise ValueError(f"{collection.title}: data.gray needs 1 or 3 channels, not {channels}")
        if tuple(grid) != tuple(size) and holed(collection):
            raise ValueError(
                f"data.size={tuple(size)}: signals of {collection.title} are {grid} and have "
                "missing values, which resizing would mix with others; allowed: ()"
            )
        self.collection = collection
        self.crop = crop
        self.names = list(collection.names)
        self.title = collection.title
        self.shape = (*size, 1 if gray else channels)
        if holed(collection):
            self.seen = collection.seen

    def __len__(self) -> int:
        return len(self.collection)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        image = images.to_channels(self.collection[index], self.shape[-1])
        if image.shape == self.shape:
            return image
        return images.fit_to_size(image, self.shape[:-1], True, self.crop, self.title)


# The eight symmetries of a square: rows and columns exchanged, then rows, columns turned round. The
# first two, itself and its mirror image, are those of any signal.
IMAGES = (
    (False, False, False),
    (False, False, True),
    (False, True, False),
    (False, True, True),
    (True, False, False),
    (True, False, True),
    (True, True, False),
    (True, True, True),
)


class AugmentedCollection:
    """`collection` followed by deterministic copies: mirrored, turned, shifted by a few samples.

    mirror: doubles the collection, flipping the last grid axis. turns: the eight symmetries of a
    square picture instead, mirror images among them. shifts: that many distinct seeded shifts, none
    of them zero, of every signal and of each of its images, up to max_shift samples along each
    axis, the edge repeated. Length S * (1 + mirror, or 8) * (1 + shifts); signals 0..S-1 are the
    originals, names 'x', 'x/mirror', 'x/turn2', 'x/shift1', 'x/mirror/shift1'.
    Raises ValueError naming the config key when max_shift admits fewer shifts than asked for, and
    for turns of what is no square picture or beside mirror.
    """

    def __init__(
        self,
        collection: Collection,
        mirror: bool = False,
        shifts: int = 0,
        max_shift: int = 1,
        seed: int = 0,
        turns: bool = False,
    ):
        grid_rank = len(collection.shape) - 1
        if turns and mirror:
            raise ValueError("data.augment.mirror: True; allowed beside turns, which mirror: False")
        if turns and (grid_rank != 2 or collection.shape[0] != collection.shape[1]):
            allowed = f"False for signals of {list(collection.shape[:-1])}, which are not square"
            raise ValueError(f"data.augment.turns: True; allowed: {allowed}")
        possible = (2 * max_shift + 1) ** grid_rank - 1
        if shifts < 0 or max_shift < 0:
            raise ValueError(
                f"data.augment.shifts={shifts}, data.augment.max_shift={max_shift}: must be >= 0"
            )
        if shifts > possible:
            raise ValueError(
                f"data.augment.shifts={shifts}: data.augment.max_shift={max_shift} allows at most "
                f"{possible} different shifts"
            )
        if shifts and max_shift >= min(collection.shape[:-1]):
            raise ValueError(
                f"data.augment.max_shift={max_shift}: must be smaller than the signals, "
                f"{list(collection.shape[:-1])}"
            )
        self.collection = collection
        self.shifts = shifts
        self.max_shift = max_shift
        self.seed = seed
        self.shape = tuple(collection.shape)
        self.title = collection.title
        self._known_offsets = {}
        # One entry a copy of the whole collection: (image of IMAGES, shift, 0 for none).
        images = len(IMAGES) if turns else 2 if mirror else 1
        self.variants = [(i, s) for s in range(shifts + 1) for i in range(images)]
        words = image_names(images)
        suffixes = [words[i] + (f"/shift{s}" if s else "") for i, s in self.variants]
        self.names = [name + suffix for suffix in suffixes for name in collection.names]

    def __len__(self) -> int:
        return len(self.collection) * len(self.variants)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        variant, original = divmod(position(index, len(self)), len(self.collection))
        return self._copy(self.collection[original], original, variant)

    def _copy(self, signal, original, variant):
        image, shift = self.variants[variant]
        signal = image_of(signal, image)
        if shift:
            signal = shifted(signal, self._offsets(original, image)[shift - 1])
        return np.ascontiguousarray(signal)

    def __getattr__(self, name):
        if name != "seen":
            raise AttributeError(name)
        return functools.partial(self._seen, self.collection.seen)

    def _seen(self, known, index):
        """What is seen of a copy, bool [*grid]; None where that is not known."""
        variant, original = divmod(position(index, len(self)), len(self.collection))
        seen = known(original)
        return None if seen is None else self._copy(seen[..., None], original, variant)[..., 0]

    @property
    def windows(self) -> bool:
        """Whether `window` reads a part for less than the whole."""
        return getattr(self.collection, "windows", False)

    def window(
        self, index: int, corner: Sequence[int], size: Sequence[int]
    ) -> Float[np.ndarray, "*size C"]:
        """The part [*size, C] of a signal that begins at `corner`, read from the original."""
        variant, original = divmod(position(index, len(self)), len(self.collection))
        image, shift = self.variants[variant]
        offset = self._offsets(original, image)[shift - 1] if shift else (0,) * len(size)
        counts = self.shape[:-1]
        first = [start - int(step) for start, step in zip(corner, offset, strict=True)]
        # What of the window lies inside; beyond the border the edge is repeated.
        low = [min(max(at, 0), n - 1) for at, n in zip(first, counts, strict=True)]
        high = [
            min(max(at + length - 1, 0), n - 1)
            for at, length, n in zip(first, size, counts, strict=True)
        ]
        extent = [end - start + 1 for start, end in zip(low, high, strict=True)]
        part = self._part(original, image, low, extent)
        for axis, (at, start, length) in enumerate(zip(first, low, size, strict=True)):
            if extent[axis] != length:
                places = np.clip(np.arange(at, at + length) - start, 0, extent[axis] - 1)
                part = np.take(part, places, axis=axis)
        return np.ascontiguousarray(part)

    def _part(self, original, image, low, extent):
        """The part of an image of a signal that begins at `low` inside of it."""
        swapped, *flipped = IMAGES[image]
        sides = [False] * (len(low) - 2) + flipped if len(low) > 1 else flipped[1:]
        counts = self.shape[:-1]
        corner = [
            n - start - length if flip else start
            for flip, n, start, length in zip(sides, counts, low, extent, strict=True)
        ]
        if swapped:
            corner, extent = corner[::-1], extent[::-1]
        return image_of(self.collection.window(original, corner, extent), image)

    def _offsets(self, original, image):
        """The shifts of one signal, [shifts, grid rank] samples; a function of the seed alone."""
        known = self._known_offsets.get((original, image))
        if known is not None:
            return known
        rank, width = len(self.shape) - 1, 2 * self.max_shift + 1
        centre = (width**rank - 1) // 2  # the number of the zero shift
        generator = np.random.default_rng([self.seed, original, image])
        chosen = generator.choice(width**rank - 1, self.shifts, replace=False)
        chosen = chosen + (chosen >= centre)
        offsets = np.stack(np.unravel_index(chosen, (width,) * rank), axis=-1) - self.max_shift
        self._known_offsets[original, image] = offsets
        return offsets


def image_names(count: int) -> list[str]:
    """What the first of `IMAGES` are called behind a signal's name; '' is itself."""
    return ["", "/mirror", *(f"/turn{image}" for image in range(2, count))][:count]


def image_of(signal: Shaped[np.ndarray, "*grid C"], image: int) -> Shaped[np.ndarray, "*turned C"]:
    """One of `IMAGES`, by its number, of a signal [*grid, C]."""
    swapped, rows, columns = IMAGES[image]
    if swapped:
        signal = signal.swapaxes(-3, -2)
    if rows:
        signal = np.flip(signal, -3)
    return np.flip(signal, -2) if columns else signal


def shifted(
    signal: Float[np.ndarray, "*grid C"], offset: Sequence[int] | np.ndarray
) -> Float[np.ndarray, "*grid C"]:
    """`signal` [*grid, C] moved by `offset` samples along each grid axis, its edge repeated."""
    for axis, step in enumerate(offset):
        count = signal.shape[axis]
        signal = np.take(signal, np.clip(np.arange(count) - step, 0, count - 1), axis=axis)
    return signal


def to_array(collection: Collection) -> Float[np.ndarray, "S *grid C"]:
    """All signals of a collection in memory, float32 [S, *grid, C]."""
    values = np.empty((len(collection), *collection.shape), np.float32)
    for index in range(len(collection)):
        values[index] = collection[index]
    return values
