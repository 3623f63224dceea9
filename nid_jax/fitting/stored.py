"""Fits in files: codes.npz, of which a dictionary makes signals again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from nid_jax import notices
from nid_jax.fields.dictionary import Dictionary
from nid_jax.files import atomic_path
from nid_jax.fitting import rounding
from nid_jax.storage import arrays
from nid_jax.storage.checksums import crc32, digest

_KINDS: dict[str, arrays.Kind] = {
    "codes": ("fi", 2),
    "step": ("f", 1),
    "centre": ("f", 1),
    "bias": ("f", 2),
    "names": ("U", 1),
    "correction": ("f", None),
    "deviation": ("f", None),
    "dictionary": ("iu", 0),
}
_OPTIONAL = ("step", "centre", "correction", "deviation", "dictionary")


class Stored(NamedTuple):
    """What a file holds of S signals: see `fit.Fit`."""

    codes: Float[np.ndarray, "S E"]
    bias: Float[np.ndarray, "S C"]
    names: Sequence[str]
    correction: Float[np.ndarray, "S *grid C"] | None = None
    deviation: Float[np.ndarray, "S *grid C"] | None = None


def write(path: Path, found: Stored, dictionary: Dictionary, dtype: str) -> None:
    """Write the .npz that `Fit.save` tells of, whole or not at all.

    Raises ArgumentError for a dtype in which codes are not stored, or that does not hold them.
    """
    codes = rounding.rounded(found.codes, dtype)
    held: dict[str, Any] = {
        "codes": codes.values,
        "bias": found.bias,
        "names": np.asarray(found.names, dtype=np.str_),
        "dictionary": np.int64(_digest(dictionary)),
        "step": codes.step,
        "centre": codes.centre,
        "correction": found.correction,
        "deviation": found.deviation,
    }
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{k: v for k, v in held.items() if v is not None})


def read(path: Path, dictionary: Dictionary) -> tuple[Stored, Dictionary]:
    """What `write` wrote, in float32, and the dictionary that it is of: the given one, or its first
    atoms.

    A dictionary of the same sizes whose arrays are others is said. Raises ValueError, naming the
    file, where it is damaged, of a dictionary of other sizes, or holds numbers that are not finite
    or deviations below 0.
    """
    held = arrays.read(path, _KINDS, optional=_OPTIONAL)
    codes, bias, names = _codes(path, held), held["bias"], held["names"].tolist()
    if not len(codes) == len(bias) == len(names):
        counts = f"{len(codes)} codes, {len(bias)} biases and {len(names)} names"
        raise ValueError(f"{path}: damaged: {counts}")
    dictionary = _of_sizes(
        path, held.get("dictionary"), dictionary, codes.shape[-1], bias.shape[-1]
    )
    for name in ("correction", "deviation"):
        shape = held[name].shape if name in held else None
        ends = len(codes), bias.shape[-1]
        if shape and (len(shape) != dictionary.dims + 2 or (shape[0], shape[-1]) != ends):
            wanted = f"[{ends[0]}, *grid, {ends[1]}]"
            raise ValueError(f"{path}: damaged: {name!r} is {list(shape)}; allowed: {wanted}")
    found = Stored(codes, bias, names, held.get("correction"), held.get("deviation"))
    return _checked(path, found), dictionary


def _codes(path, held):
    """Codes [S, E], float32. ValueError where whole ones lack what they stand for."""
    values, step, centre = held["codes"], held.get("step"), held.get("centre")
    if values.dtype.kind == "i":
        for name, found in (("step", step), ("centre", centre)):
            if found is None or len(found) != values.shape[1]:
                raise ValueError(f"{path}: damaged: {name!r} is not of {values.shape[1]} numbers")
    # What float32 does not hold is refused with what is not finite.
    with np.errstate(over="ignore"):
        return rounding.Rounded(values, step, centre).codes()


def _of_sizes(path, known, dictionary, experts, channels):
    """The dictionary that codes are of. known: digest of the one that they were made with."""
    if known is not None and 0 < experts < dictionary.num_experts:
        # Of the first numbers alone, where it is sure that they are this dictionary's.
        fewer = dictionary.first(experts)
        dictionary = fewer if int(known) == _digest(fewer) else dictionary
    if (experts, channels) != (dictionary.num_experts, dictionary.channels):
        raise ValueError(
            f"{path}: codes of {experts} experts and {channels} channels; this dictionary has "
            f"{dictionary.num_experts} and {dictionary.channels}: give the one that the fit was "
            "made with"
        )
    if known is not None and int(known) != _digest(dictionary):
        notices.say(
            f"{path}: was made with another dictionary of the same sizes; taken as codes of "
            "this one; fit again, or load the one that it was made with"
        )
    return dictionary


def _checked(path, found):
    """The same, in float32. Raises ValueError for a signal of numbers that cannot be."""
    rows = {}
    for what, array in found._asdict().items():
        if what == "names" or array is None:
            continue
        with np.errstate(over="ignore"):
            rows[what] = np.asarray(array, np.float32)
        good = np.isfinite(rows[what]) & ((rows[what] >= 0) | (what != "deviation"))
        good = good.reshape(len(good), -1)
        bad = np.flatnonzero(~good.all(1))
        if len(bad):
            number, others = int(bad[0]), len(bad) - 1
            odd = np.asarray(array)[number].ravel()[~good[number]][0]
            name = notices.one_line(found.names[number])
            more = f", as {others} more signal{'s' * (others > 1)}" if others else ""
            allowed = "finite numbers" + (", 0 or more" if what == "deviation" else "")
            raise ValueError(
                f"{path}: {what!r} of signal {number}, {name!r}, holds {odd}{more}; allowed: "
                f"{allowed}, as of a fit that went well"
            )
    return found._replace(**rows)


def _digest(dictionary):
    """CRC-32 of all arrays of a dictionary, the fixed ones too."""
    leaves = jax.tree.leaves(nnx.state(dictionary))
    return digest([[list(leaf.shape), crc32(leaf)] for leaf in leaves])
