"""How the heads of a shared dictionary begin: dictionary.heads."""

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nid_jax.coding.prior import Coded, GaussianPrior
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import ChosenCosines
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting.rounds import State, Told, spectrum_rounds
from nid_jax.notices import say
from nid_jax.training import kept_cosines
from nid_jax.training.atoms import wave_heads
from nid_jax.training.components import (
    ERRORS,
    MOST_COEFFICIENTS,
    component_heads,
    put_heads,
)
from nid_jax.training.lattice_components import lattice_heads
from nid_jax.training.partial_components import partial_heads

HEADS = ("drawn", "components", "waves")
KEYS = ("heads", "num_experts", "components.errors", "components.shrinkage")
"""Of the config's `dictionary`, what errors of `find` may name."""


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for heads that cannot be."""
    dictionary = config.dictionary
    if dictionary.heads not in HEADS:
        raise ValueError(f"dictionary.heads: {dictionary.heads!r}; allowed: {', '.join(HEADS)}")
    if dictionary.heads != "drawn" and dictionary.kind != "shared":
        raise ValueError(
            f"dictionary.heads: {dictionary.heads!r}; allowed for dictionary.kind="
            f"{dictionary.kind}, whose experts share no features: drawn"
        )
    if dictionary.heads == "waves" and not config.router.top_k:
        raise ValueError("router.top_k: 0 is dense; dictionary.heads=waves needs 1 or more")
    kept_cosines.check(config)
    wanted = dictionary.components
    if wanted.errors not in ("", *ERRORS):
        raise ValueError(
            f"dictionary.components.errors: {wanted.errors!r}; allowed: {', '.join(ERRORS)}, or ''"
        )


@dataclasses.dataclass(frozen=True)
class FoundHeads:
    """Words on heads that were found, and what finding them left: the signals in them, or the prior
    of their codes."""

    words: str
    coded: Coded | None = None
    prior: GaussianPrior | None = None


def find(
    dictionary: SharedDictionary,
    measured: Any,
    collection: Any,
    config: ConfigDict,
    path: Path,
    go_on: Callable[..., bool] = lambda done, total, label="round": True,
) -> FoundHeads | None:
    """Give a dictionary the heads that config.dictionary.heads asks for.

    measured: what training sees of the collection, as a task's `learned_from` gives. Components are
    those of a covariance, or of the signals' products where features are too many for one, or
    local; or come by rounds, each of which is kept at `path`, where signals are not alike in what
    was measured of them. Cosines that signals choose are chosen first. None where `go_on`, which is
    told how many were done of how many, and of what where that is no round, said no after a round:
    the same call goes on. Raises ArgumentError for features or signals of which such heads cannot
    be found.
    """
    try:
        return _found(dictionary, measured, collection, config, path, go_on)
    except ArgumentError as error:
        if error.argument != "measurements":
            raise
        # Nobody gave any: they are the collection's.
        where = f"signals of {collection.title}"
        raise ArgumentError(where, error.value, error.allowed) from error


def _found(dictionary, measured, collection, config, path, go_on):
    if config.dictionary.heads == "waves":
        names, top_k = collection.names, config.router.top_k
        return FoundHeads(wave_heads(dictionary, measured, names, top_k, config.seed))
    if not measured.alike:
        return _by_rounds(dictionary, measured, collection, config, path, go_on)
    chosen = ""
    if isinstance(dictionary.embedding, ChosenCosines):
        chosen = f"{kept_cosines.choose(dictionary.embedding, collection)}; "
    wanted = config.dictionary.components
    size, errors = dictionary.num_features * dictionary.channels, wanted.errors or ERRORS[0]
    # Of local features that many more are never computed at a point, as a covariance needs them.
    if size > MOST_COEFFICIENTS or dictionary.local:
        # The signals themselves are read, not what was measured of them.
        seen = (*measured.grid_shape, measured.channels)
        if measured.operator.run_length != 1 or tuple(collection.shape) != seen:
            allowed = f"'drawn' for {size} features x channels where no samples are measured"
            raise ArgumentError("heads", "components", allowed)
        found = lattice_heads(dictionary, collection, errors, max(wanted.shrinkage, 0.0))
    else:
        shrinkage = None if wanted.shrinkage < 0 else wanted.shrinkage
        names = collection.names
        found = component_heads(dictionary, measured, names, errors, shrinkage)
    return FoundHeads(chosen + put_heads(dictionary, found), found.coded)


def _by_rounds(dictionary, measured, collection, config, path, go_on):
    wanted, names = config.dictionary.components, collection.names
    this_run = _number_of(measured, collection, config)
    state = State.load(path, this_run)
    if state is None and path.exists():
        say(f"{path}: rounds of other signals, or of another config; begun anew")

    def after(state):
        state.save(path, this_run)
        return go_on(state.round, spectrum_rounds(wanted.rounds) + wanted.rounds)

    def choosing(done, total):
        # What it says is not heard: the choice is not kept, and a round of the state is near.
        go_on(done, total, "shrinkage")

    made = partial_heads(
        dictionary,
        measured,
        measured.grid_shape,
        names,
        wanted.rounds,
        None if wanted.shrinkage < 0 else wanted.shrinkage,
        state,
        Told(after, choosing),
    )
    if made is None:
        return None
    return FoundHeads(put_heads(dictionary, made[0]), prior=made[1])


def _number_of(measured, collection, config):
    """What tells a run by rounds from others: its signals, its config, and when its target comes,
    which is not the config's and may change from version to version."""
    names, rounds = collection.names, config.dictionary.components.rounds
    sections = [repr(config[name]) for name in ("dictionary", "data", "seed")]
    said = (sections, collection.title, list(names), spectrum_rounds(rounds))
    return _checksum(measured, len(names), zlib.crc32(repr(said).encode()))


def _checksum(measured, count, start):
    """A number that tells what was measured of signals, and how, from anything else. start: of
    what else is to be told apart."""
    found = start
    for operator in measured.ways:
        found = zlib.crc32(np.ascontiguousarray(operator.points).data, found)
    for index in range(count):
        found = zlib.crc32(repr(measured.way_of(index)).encode(), found)
        parts = [measured.values(index)]
        if measured.weights is not None:
            parts.append(measured.weights(index))
        for part in parts:
            found = zlib.crc32(np.ascontiguousarray(part).data, found)
    return found
