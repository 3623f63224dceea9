"""Signals from .npy, .npz and .mat files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Num
from ml_collections import ConfigDict

from nid_jax.data import arrayfiles, images, layout
from nid_jax.data.collection import ArrayCollection, Collection, SubsetCollection
from nid_jax.data.splitting import SPLITS, configured_range, random_split, shaped
from nid_jax.errors import named
from nid_jax.notices import say, sides

# Of the range of both splits: one that does not reach farther is on another scale, or black.
_FAR_BELOW = 0.02
# Words in the names of arrays that belong to signals, and are none.
_LABELS = {"y", "label", "labels", "target", "targets"}
# What other kinds of files become one of ours by.
_CONVERTED = {
    **dict.fromkeys((".h5", ".hdf5"), "np.save('x.npy', h5py.File(FILE)[KEY][:])"),
    **dict.fromkeys((".pt", ".pth"), "np.save('x.npy', torch.load(FILE).numpy())"),
    **dict.fromkeys((".csv", ".txt"), "np.save('x.npy', np.loadtxt(FILE).reshape(S, H, W))"),
    ".zarr": "np.save('x.npy', zarr.open(FILE)[KEY][:])",
}


def open_array(config: ConfigDict, split: str, seed: int) -> Collection:
    """data.root: an .npy, .npz or .mat file of pictures [S, H, W] or [S, H, W, C], or other axes.

    data.layout names the axes by letters, see `nid_jax.data.layout`; '' guesses, with a notice
    where the shape may mean something else. data.range = (low, high) becomes [0, 1]; () goes by the
    type and the values, see `images.guessed_range`. A file of several arrays holds one for each
    split, named `train` and `test`, `x_train` and `x_test` or the like, or one of signals; labels
    are passed over with a notice. One array is split by data.test_fraction and the seed, unless it
    holds one signal or the frames of a video: both splits are all of it then. An .npy is
    memory-mapped. Objects are never unpickled. NaN is what was not measured: the collection then
    has .seen(i).
    Raises FileNotFoundError, and ValueError naming the file and what it holds instead.
    """
    path = _array_path(config)
    key, values, other = _chosen(arrayfiles.load(path, mmap=True), split, path)
    own = other is not None
    where = f"{path} [{key}]" if key else str(path)
    return array_collection(values, where, config, split, seed, own=own, other=other)


def array_collection(
    values: Num[np.ndarray, "..."],
    where: str,
    config: ConfigDict,
    split: str,
    seed: int,
    *,
    own: bool,
    other: Num[np.ndarray, "..."] | None = None,
) -> Collection:
    """An array of signals as the collection of a split, by data.layout, data.range and data.size.

    where: what it is called in messages; own: it is the split's own. Else it is split by
    data.test_fraction and the seed, unless it holds one signal or frames. other: the signals of the
    other split, where known: both have one range. Raises ValueError.
    """
    both = f"{where.partition(' [')[0]}, both splits"
    values, letters = _arranged(values, config, where)
    frames = "T" in letters
    shown = _shown(values, where, frames)
    scale = _range(values, other, config, where, both)
    prefix = split if own else "frame" if frames else "signal"
    names = [f"{prefix}_{number:05d}" for number in range(len(values))]
    collection = ArrayCollection(values, names, where, scale, shown)
    if len(values) == 1 and not (own or frames):
        grid = sides(values.shape[1:-1])
        say(f"{where}: one signal of {grid}, which is both learned from and fitted")
    elif not (own or frames):
        indices = random_split(len(values), split, config.test_fraction, seed, where)
        collection = SubsetCollection(collection, indices)
    return shaped(collection, config)


def _shown(values, where, frames):
    """bool [S, *grid], False where a channel is NaN; None where nothing is. Says how much is."""
    if values.dtype.kind != "f" or not any(np.isnan(np.min(signal)) for signal in values):
        return None
    shown = np.stack([~np.isnan(signal).any(-1) for signal in values])
    missing = (~shown).reshape(len(shown), -1).sum(1)
    share, some = 1 - shown.mean(), np.flatnonzero(missing)
    if frames:
        raise ValueError(
            f"{where}: {share:.1%} of the samples of its frames are NaN; allowed: whole frames"
        )
    empty = np.flatnonzero(missing == shown[0].size)
    if len(empty):
        raise ValueError(
            f"{where}: signal {empty[0]} has no value at all, only NaN; allowed: 1 or more of each"
        )
    say(
        f"{where}: {share:.1%} of the samples are NaN, in {len(some)} of {len(values)} signals; "
        "taken as not measured; what is there alone is learned from"
    )
    return shown


def _ends(values, where):
    """[lowest, highest] of what is no NaN, of the values' own type. Raises ValueError for
    infinity."""
    if values.dtype.kind != "f":
        return np.array([values.min(), values.max()])
    ends = np.array([[end.reduce(one, axis=None) for end in (np.fmin, np.fmax)] for one in values])
    bad = np.flatnonzero(np.isinf(ends).any(1))
    if len(bad):
        raise ValueError(
            f"{where}: signal {bad[0]} holds infinity; allowed: finite numbers, and NaN for what "
            "was not measured"
        )
    return np.array([ends[:, 0].min(), ends[:, 1].max()], values.dtype)


def _range(values, other, config, where, both):
    """(low, high) that become 0 and 1; what lies outside of those asked for is counted.

    other: the signals of the other split, None without: one range is guessed for both, which
    are called so.
    """
    asked = configured_range(config)
    if asked:
        low, high = asked
        outside = sum(int(np.count_nonzero((part < low) | (part > high))) for part in values)
        if outside:
            say(f"{where}: {outside} of {values.size} values lie outside ({low:g}, {high:g}); cut")
        return asked
    images.say_binary(values, where)
    alike = other is not None and (
        other.dtype == values.dtype or other.dtype.kind == values.dtype.kind == "f"
    )
    own = _ends(values, where)
    if other is None or not alike or not other.size:
        return images.guessed_range(own, where)
    ends = np.concatenate([own, _ends(other, f"{where}, the other split")])
    low, high = images.guessed_range(ends, both)
    most = (float(ends[1]) - low) / (high - low)
    if ends[3] > ends[1] and most < _FAR_BELOW:
        say(
            f"{where}: values up to {ends[1]:.6g}, and the other split's up to {ends[3]:.6g}: are "
            "they on two scales? taken on one"
        )
    return low, high


def _arranged(values, config, where):
    """(values [S, *grid, C], the letters of their axes)."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: values of type {values.dtype}; allowed: real numbers")
    if values.ndim < 2 or 0 in values.shape:
        raise ValueError(
            f"{where}: an array of shape {list(values.shape)}; expected pictures [S, H, W] or "
            "[S, H, W, C], or what data.layout names, and not empty"
        )
    try:
        with named("data"):
            if config.layout:
                letters = layout.checked(config.layout, values.shape)
            else:
                frames = "time" in config
                letters = layout.guessed(values.shape, where, "data.layout={}", frames)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return layout.arranged(values, letters), letters


def _array_path(config):
    if not config.root:
        raise ValueError("data.root is empty: data.name='array' reads an .npy, .npz or .mat file")
    path = Path(config.root).expanduser()
    if path.suffix.lower() not in (".npy", ".npz", ".mat"):
        way = _CONVERTED.get(path.suffix.lower())
        hint = f"; {way} makes one" if way else ""
        raise ValueError(
            f"data.root={config.root!r}: data.name='array' reads .npy, .npz and .mat files{hint}"
        )
    if not path.is_file():
        kind = "folder" if path.is_dir() else "pipe or a device"
        what = f"is a {kind}, not a file" if path.exists() else "no such file"
        raise FileNotFoundError(f"data.root={config.root!r}: {what}")
    return path


def _chosen(
    arrays: Mapping[str, np.ndarray | None], split: str, path: Path
) -> tuple[str, Num[np.ndarray, "..."], Num[np.ndarray, "..."] | None]:
    """(name, array) of the split's signals, and those of the other split; None where all are one.

    What else the file holds is named in a notice. Raises ValueError where no array stands out.
    """
    signals = {
        name: values
        for name, values in arrays.items()
        if len(arrays) == 1
        or (values is not None and values.ndim > 1 and not _words(name) & _LABELS)
    }
    own = {part: [name for name in signals if part in _words(name)] for part in SPLITS}
    if all(len(names) == 1 for names in own.values()):
        chosen, used = own[split][0], {names[0] for names in own.values()}
    elif len(signals) == 1:
        (chosen,) = used = tuple(signals)
    else:
        raise ValueError(
            f"{path}: holds the arrays {sorted(arrays)}; expected 'train' and 'test', or one of "
            "signals"
        )
    passed = sorted(set(arrays) - set(used))
    if passed:
        names = ", ".join(sorted(used))
        say(f"{path}: signals are {names}; passed over: {', '.join(passed)}")
    if signals[chosen] is None:
        raise ValueError(f"{path}: holds objects, which are never unpickled; save one array")
    rest = [signals[name] for name in used if name != chosen]
    return chosen, signals[chosen], rest[0] if rest else None


def _words(name):
    return set(name.lower().split("_"))
