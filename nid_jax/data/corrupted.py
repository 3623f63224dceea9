"""Corrupted pictures: made from clean ones on access, or read from a folder or an array.

Beyond a Collection, all of them have .seen(i), bool [H, W], False where the picture is hidden, and
.truth(i), the clean picture [H, W, C]; either is None where it is not known. .unmeasured says that
hidden pixels hold no value at all, not even a wrong one. Letters: S signals, H rows, W columns,
C channels.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from nid_jax.data import arrayfiles, holes, images, picturefiles
from nid_jax.data.collection import Collection, position
from nid_jax.data.folder import ImageFiles, find_images, open_files
from nid_jax.data.masks import DRAWINGS
from nid_jax.data.splitting import configured_range, configured_size, wanted
from nid_jax.notices import say


def corrupt(
    image: Float[np.ndarray, "H W C"], options: ConfigDict, seed: int, index: int
) -> tuple[Float[np.ndarray, "H W C"], Bool[np.ndarray, "H W"]]:
    """A picture with its colours changed and parts of it hidden.

    image: float [H, W, C] in [0, 1], left as it is; options: config.data.corrupt; seed, index: the
    run's seed and the signal's number, which decide everything random.
    Pixels become clip(colour_scale * value + colour_shift, 0, 1); then `kind` hides some of them.
    Returns the picture, float32 [H, W, C] in [0, 1], and seen, bool [H, W], False exactly where
    something was painted over it.
    Raises ValueError naming the option, and for a picture of which nothing would be seen.
    """
    image = np.asarray(image, np.float32)
    hidden, paint = _drawing(image.shape, options, seed, index)
    shaded = np.clip(
        np.float32(options.colour_scale) * image + np.float32(options.colour_shift), 0, 1
    )
    return np.where(hidden[..., None], paint, shaded), ~hidden


def check_options(options: ConfigDict) -> None:
    """Raise ValueError naming the first of the options data.corrupt that is not allowed."""
    if options.kind not in DRAWINGS:
        raise ValueError(f"data.corrupt.kind={options.kind!r}: allowed: {', '.join(DRAWINGS)}")
    for key in ("count", "stripes"):
        value = options[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"data.corrupt.{key}={value!r}: must be a whole number, at least 1")
    most = "at most" if options.kind == "pixels" else "below"
    for key, admitted, allowed in (
        ("share", lambda x: 0 < x < 1 or (x == 1 and most == "at most"), f"above 0 and {most} 1"),
        ("colour_scale", lambda x: 0 < x < np.inf, "above 0"),
        ("colour_shift", lambda x: -1 <= x <= 1, "from -1 to 1"),
    ):
        value = options[key]
        if key == "share" and options.kind == "none":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not admitted(value):
            raise ValueError(f"data.corrupt.{key}={value!r}: must be a number {allowed}")


def _drawing(shape, options, seed, index):
    """(hidden, paint) of one signal."""
    check_options(options)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"data.corrupt: signals of shape {list(shape)}; pictures [H, W, C] are corrupted"
        )
    if seed < 0:
        raise ValueError(f"seed={seed}: must be 0 or more")
    generator = np.random.default_rng([seed, index, list(DRAWINGS).index(options.kind)])
    hidden, paint = DRAWINGS[options.kind](tuple(shape), options, generator)
    if hidden.all():
        raise ValueError(
            f"data.corrupt.share={options.share}, data.corrupt.count={options.count}: "
            f"{options.kind} would hide all of a picture of {shape[0]}x{shape[1]}"
        )
    return hidden, paint


class CorruptedCollection:
    """The pictures of a clean `collection`, corrupted on access as `corrupt` does.

    options: config.data.corrupt; seed: the run's. .truth(i) is the clean picture.
    Raises ValueError naming the option at once.
    """

    unmeasured = False

    def __init__(self, collection: Collection, options: ConfigDict, seed: int):
        self.collection = collection
        self.options = options
        self.seed = seed
        self.names = list(collection.names)
        self.shape = tuple(collection.shape)
        self.title = f"{collection.title}, corrupted by {options.kind}"
        self.mixed = getattr(collection, "mixed", False)
        _drawing(self._shape(0), options, seed, 0)

    def __len__(self) -> int:
        return len(self.collection)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        at = position(index, len(self))
        return corrupt(self.collection[at], self.options, self.seed, at)[0]

    def seen(self, index: int) -> Bool[np.ndarray, "H W"]:
        """bool [H, W], False where picture `index` is hidden; reads no picture."""
        at = position(index, len(self))
        return ~_drawing(self._shape(at), self.options, self.seed, at)[0]

    def grid(self, index: int) -> tuple[int, int]:
        """(rows, columns) of picture `index`."""
        rows, columns = self._shape(index)[:2]
        return rows, columns

    def _shape(self, index):
        own = getattr(self.collection, "grid", None)
        return (*own(index), self.shape[-1]) if own else self.shape

    def truth(self, index: int) -> Float[np.ndarray, "H W C"]:
        """The clean picture, float32 [H, W, C] in [0, 1]."""
        return self.collection[index]


class CorruptedFiles:
    """Pictures from files, with the masks and the clean pictures that there are.

    pictures: an ImageFiles of S; masks: {number of the picture: file}; hidden: which of their
    values hides, 'black' or 'white'; transparent: numbers of pictures whose transparent pixels are
    missing; truths: an ImageFiles of clean pictures and the numbers that they belong to, {number
    of the picture: place in it}.
    """

    def __init__(
        self,
        pictures: ImageFiles,
        masks: Mapping[int, Path],
        hidden: str = "black",
        transparent: Iterable[int] = (),
        truths: Collection | None = None,
        truth_at: Mapping[int, int] | None = None,
    ):
        self.pictures = pictures
        self.masks = masks
        self.hidden = hidden
        self.transparent = frozenset(transparent)
        self.unmeasured = bool(self.transparent)
        self.truths = truths
        self.truth_at = truth_at or {}
        self.names, self.shape, self.title = pictures.names, pictures.shape, pictures.title
        self.mixed, self.sizes, self.grid = pictures.mixed, pictures.sizes, pictures.grid

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        at = position(index, len(self))
        if at not in self.transparent:
            return self.pictures[at]
        path = self.pictures.files[at].path
        pixels = picturefiles.read_pixels(path)
        image = images.uncovered(pixels, path, self.pictures.files[at].value_range)
        image = images.to_channels(image, self.shape[-1])
        return np.where(_opaque(pixels)[..., None], image, np.float32(0))

    def seen(self, index: int) -> Bool[np.ndarray, "H W"] | None:
        """bool [H, W], False where picture `index` is hidden; None without a mask."""
        at = position(index, len(self))
        if at in self.masks:
            return holes.read_mask(self.masks[at], self.hidden).seen
        if at in self.transparent:
            return _opaque(picturefiles.read_pixels(self.pictures.files[at].path))
        return np.ones(self.grid(at), bool) if self.unmeasured else None

    def truth(self, index: int) -> Float[np.ndarray, "H W C"] | None:
        """The clean picture, float32 [H, W, C] in [0, 1]; None where there is none."""
        at = self.truth_at.get(position(index, len(self)))
        return None if at is None else self.truths[at]


def _opaque(pixels):
    """Where a picture is opaque by half or more, bool [H, W]."""
    return images.opacity(pixels) >= 0.5


class CorruptedArray:
    """Pictures [S, H, W, C], floats in which NaN marks what is missing; the truth is not known.

    A pixel is hidden, and 0, as soon as one of its channels is NaN. value_range: as in
    `images.to_unit`.
    """

    unmeasured = True

    def __init__(
        self,
        values: Float[np.ndarray, "S H W C"],
        names: Sequence[str],
        title: str,
        channels: int,
        value_range: tuple[float, float] = (0.0, 1.0),
    ):
        self.values = values
        self.value_range = value_range
        self.names = names
        self.title = title
        self.shape = (*values.shape[1:3], channels)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Float[np.ndarray, "*grid C"]:
        signal = np.array(self.values[position(index, len(self))])
        missing = np.isnan(signal).any(axis=-1)
        signal[missing] = self.value_range[0]
        signal = images.to_unit(signal, self.title, self.value_range)
        return images.to_channels(signal, self.shape[-1])

    def seen(self, index: int) -> Bool[np.ndarray, "H W"]:
        """bool [H, W], False where picture `index` is missing."""
        return ~np.isnan(self.values[position(index, len(self))]).any(axis=-1)

    def truth(self, index: int) -> None:
        """None: what is missing is not known."""
        position(index, len(self))


def open_corrupted(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: a folder of corrupted pictures, or an .npy in which NaN marks what is missing.

    The folder holds images/, and where they are known masks/ (white: seen, black: hidden, the other
    way round with data.masks.hidden=white) and truth/, files of one name but for the extension;
    masks may be .npy and .npz too. Of pictures without masks transparent pixels are missing; where
    there are no masks at all, the pictures may lie in the folder itself.
    `python -m nid_jax.data.corrupt` writes such a folder.
    The .npy holds floats [S, H, W] or [S, H, W, C] in [0, 1] and NaN. data.gray, data.num_train and
    data.num_test apply; so do data.size, data.resize and data.crop to pictures without masks; with
    data.patch.size and data.size=() pictures of any sizes keep theirs.
    All signals are for testing, and 'train' gives the same: the truths where every picture has one,
    otherwise the pictures as they are, which know what of them is seen.
    Raises FileNotFoundError, and ValueError naming the file or key and what is allowed.
    """
    del seed
    if not config.root:
        raise ValueError(
            f"data.root is empty: data.name={config.name!r} reads a folder with images/, or an .npy"
        )
    root = Path(config.root).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"data.root={config.root!r}: does not exist")
    if root.is_dir():
        return _open_folder(config, root, split)
    if root.suffix != ".npy":
        raise ValueError(f"data.root={config.root!r}: must be a folder with images/, or an .npy")
    return _open_array(config, root, split)


def _open_folder(config, root, split):
    images = _images_of(config, root)
    hidden = holes.hidden_colour(config)
    pictures, truths = _files(images), _files(root / "truth")
    masks = _files(root / "masks", holes.EXTENSIONS)
    headers = _headers(pictures, masks, truths)
    # One list of files for both, so that pictures and truths agree on size and channels.
    paths = [*pictures.values(), *truths.values()]
    names = [*pictures, *truths]
    title = f"corrupted pictures in {root.name}"
    wanted_names = list(pictures)[: wanted(config, split) or None]
    clean_names = [name for name in wanted_names if name in truths]
    clean = None
    if clean_names:
        place_of = {name: len(pictures) + place for place, name in enumerate(truths)}
        indices = [place_of[name] for name in clean_names]
        clean = open_files(paths, names, title, config, indices)
    if split == "train" and set(truths) == set(pictures):
        places = {place: place for place in range(len(clean))}
        return CorruptedFiles(clean, {}, truths=clean, truth_at=places)
    collection = open_files(paths, names, title, config, range(len(wanted_names)))
    mask_at = {place: masks[name] for place, name in enumerate(wanted_names) if name in masks}
    transparent = _transparent(
        images, collection, mask_at, [headers[name] for name in wanted_names]
    )
    for place in (*mask_at, *transparent):
        size = headers[wanted_names[place]][:2]
        if collection.grid(place) != size:
            path = mask_at.get(place, collection.files[place].path)
            raise ValueError(_no_resizing(config, path, size))
    truth_at = {wanted_names.index(name): at for at, name in enumerate(clean_names)}
    found = CorruptedFiles(collection, mask_at, hidden, transparent, clean, truth_at)
    _say_of_masks(root / "masks", found)
    if split == "train":
        if not transparent and len(mask_at) < len(found):
            why = f"{len(truths)} of {len(pictures)} have one"
            raise ValueError(_no_training(config, f"{why}, {len(masks)} have a mask"))
        _say_trained_on_parts(root, found, "truth/ beside images/, or another data.name,")
    return found


def _images_of(config, root):
    """The folder of the pictures: images/ inside, or where none of them is there, all."""
    if (root / "images").is_dir():
        return root / "images"
    beside = next((part for part in ("masks", "truth") if (root / part).is_dir()), "")
    if beside:
        why = f"has {beside}/ and no images/ inside"
        raise FileNotFoundError(f"data.root={config.root!r}: {why}")
    return root


def _transparent(images, collection, masks, headers):
    """Places of pictures whose transparent pixels are missing: those without a mask.

    Raises ValueError where some pictures have masks and others holes, and for one all transparent.
    """
    found = []
    for place, header in enumerate(headers):
        if header.alpha and place not in masks:
            opaque = _opaque(picturefiles.read_pixels(collection.files[place].path))
            if not opaque.any():
                raise ValueError(f"{collection.files[place].path}: is transparent all over")
            if not opaque.all():
                found.append(place)
    if found and masks:
        raise ValueError(
            f"{collection.files[found[0]].path}: has transparent pixels and no mask, while "
            f"{len(masks)} of {len(collection)} pictures have one; allowed: masks of all pictures, "
            "or of none"
        )
    if found:
        say(
            f"{images}: {len(found)} of {len(collection)} pictures have transparent "
            f"pixels ({collection.files[found[0]].path.name}); taken as missing; masks/ says "
            "otherwise"
        )
    return found


# Pictures that are compared with what their masks hide.
_COMPARED = 8


def _say_of_masks(where, collection):
    """Reads all masks, so that a bad one does not come to light in the middle of a fit."""
    soft, coloured, clear, idle, compared = [], [], [], [], []
    for place, path in collection.masks.items():
        mask = holes.read_mask(path, collection.hidden)
        for names, odd in (
            (soft, mask.soft),
            (coloured, mask.coloured),
            (clear, mask.clear),
            (idle, mask.seen.all()),
        ):
            names += [path.name] if odd else []
        if len(compared) < _COMPARED and not mask.seen.all():
            compared.append((collection[place], mask.seen, collection.truth(place)))
    count = len(collection.masks)
    for names, what in (
        (soft, "have more than two values; cut at half of their range"),
        (coloured, "have colours; taken by their brightness"),
        (clear, "are of one colour, and transparent in parts, which are taken as black"),
        (idle, "hide nothing"),
    ):
        if names:
            say(f"{where}: {len(names)} of {count} masks ({names[0]}) {what}")
    why = holes.turned_round(*zip(*compared, strict=True)) if compared else ""
    if why:
        other = "white" if collection.hidden == "black" else "black"
        say(
            f"{where}: {why}; what is {collection.hidden} is taken as hidden; "
            f"data.masks.hidden={other} turns them round"
        )


def _headers(pictures, masks, truths):
    """{name: header} of the pictures; ValueError where a companion has none or another size."""
    headers = {name: picturefiles.read_header(path) for name, path in pictures.items()}
    sizes = [(name, path, holes.mask_size) for name, path in masks.items()]
    sizes += [(name, path, picturefiles.read_header) for name, path in truths.items()]
    for name, path, read in sizes:
        if name not in pictures:
            raise ValueError(f"{path}: belongs to no picture; images/ has no {name}.*")
        size, expected = read(path)[:2], headers[name][:2]
        if size != expected:
            raise ValueError(
                f"{path}: is {size[0]}x{size[1]} (rows x columns), its picture {pictures[name]} "
                f"{expected[0]}x{expected[1]}; both must be the same"
            )
    return headers


def _files(directory, extensions=picturefiles.EXTENSIONS):
    """{path below `directory` without its extension: file}; none for no directory."""
    if not directory.is_dir():
        return {}
    found = {}
    for path in find_images(directory, extensions):
        name = path.relative_to(directory).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{path}: {found[name].name} has the same name but for the extension")
        found[name] = path
    return found


def _open_array(config, path, split):
    values = arrayfiles.load(path, mmap=True).get("", np.zeros(()))
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or 0 in values.shape or values.shape[-1] > 4:
        raise ValueError(
            f"{path}: an array of shape {list(values.shape)}; expected [S, H, W] or [S, H, W, C] "
            "with channels last, at most 4 of them, and not empty"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"{path}: values of type {values.dtype}; allowed: floats in [0, 1], NaN where missing"
        )
    if (configured_size(config) or values.shape[1:3]) != values.shape[1:3]:
        raise ValueError(_no_resizing(config, path, values.shape[1:3]))
    if config.gray and values.shape[-1] not in (1, 3):
        raise ValueError(f"{path}: data.gray needs 1 or 3 channels, not {values.shape[-1]}")
    values = values[: wanted(config, split) or None]
    ends = []
    for place, signal in enumerate(values):
        present = ~np.isnan(signal)
        if not present.all(axis=-1).any():
            raise ValueError(f"{path}: signal {place} is missing all over; some must be seen")
        images.check_finite(signal[present], f"{path}, signal {place}")
        ends += [signal[present].min(), signal[present].max()]
    value_range = configured_range(config) or images.guessed_range(np.array(ends), path)
    names = [f"signal_{place:05d}" for place in range(len(values))]
    channels = 1 if config.gray else values.shape[-1]
    found = CorruptedArray(values, names, str(path), channels, value_range)
    if split == "train":
        _say_trained_on_parts(path, found, "another data.name")
    return found


def _say_trained_on_parts(where, collection, otherwise):
    say(
        f"{where}: no clean pictures; learned from what is seen of {len(collection)}; {otherwise} "
        "says otherwise"
    )


def _no_training(config, why):
    return (
        f"data.root={config.root!r}: holds no clean pictures to train on, and says of some not "
        f"what is seen; allowed: each in truth/, or a mask of each in masks/ ({why})"
    )


def _no_resizing(config, path, size):
    return (
        f"data.size={config.size}, data.resize={config.resize}: {path} is {size[0]}x{size[1]}, and "
        "resizing would mix what is hidden with what is seen; corrupt pictures that have the size"
    )
