"""Inpainting: pictures of which a part was painted over or is missing, with or without its mask."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import data, metrics
from nid_jax.baselines import images
from nid_jax.fitting.fit import Fit
from nid_jax.notices import say
from nid_jax.reporting.panels import Panel, Score
from nid_jax.tasks import baselines, describing, image, showing
from nid_jax.tasks.task import Baseline, Baselines, Extras, Measured, Task

SCORES = (
    *showing.SCORES,
    Score("psnr_hole", "PSNR in the hole", "dB", "That of the hidden pixels alone.", better="high"),
    Score("psnr_corrupted", "PSNR as given", "dB", "That of the corrupted pictures themselves."),
    Score("hidden_share", "Hidden", "%", "Of all pixels of all pictures."),
)


def build(config: ConfigDict) -> Task:
    """The inpainting task that a config describes. Raises ValueError naming a key that is wrong."""
    return dataclasses.replace(
        image.build(config),
        open=lambda split: open_split(config, split),
        measure=lambda collection: measured(collection, config),
        scores=SCORES,
        extras=functools.partial(extras, config=config),
        baselines=functools.partial(baselines_of, config=config),
        describe=functools.partial(describe, config=config),
    )


def open_split(config: ConfigDict, split: str) -> data.Collection:
    """Clean pictures to train on; to fit, corrupted ones that know their mask and truth.

    data.name='corrupted' reads what `python -m nid_jax.data.corrupt` wrote; pictures of any other
    name are corrupted as config.data.corrupt says. Patches are cut from pictures that were.
    """
    if split == "train" or config.data.name == "corrupted":
        return data.open_collection(config.data, split, config.seed)
    clean = data.open_collection(config.data, split, config.seed, whole=True)
    if data.holed(clean):
        raise ValueError(
            f"data.name: {config.data.name!r} of {clean.title}, parts of which are missing "
            "already; allowed: data.name=corrupted, which takes NaN of an .npy for holes"
        )
    corrupted = data.CorruptedCollection(clean, config.data.corrupt, config.seed)
    patch = data.completed(config.data).patch
    if getattr(clean, "mixed", False) and not patch.size:
        raise ValueError(
            f"data.patch.size: 0 for {clean.title} of several sizes; allowed: 1 or more, or "
            "data.resize=true with data.size"
        )
    return data.PatchCollection(corrupted, patch.size, patch.overlap) if patch.size else corrupted


def wholes(collection: Any) -> Any:
    """The pictures that a collection cuts to patches; its own where it does not."""
    return collection.collection if isinstance(collection, data.PatchCollection) else collection


def measured(collection: Any, config: ConfigDict) -> Measured:
    """The corrupted pixels; with config.fit.known_mask only those that are known to be good.

    Pixels that hold no value, NaN in an .npy, are never among them.
    """
    whole = dataclasses.replace(image.sampled(collection), weights=None, whole=True)
    # Where everything was seen there is no hole to score.
    pictures = wholes(collection)
    holes = {"hole": lambda index: _hole(pictures.seen(index)), "truth": collection.truth}
    if not (config.fit.known_mask or collection.unmeasured):
        return dataclasses.replace(whole, **holes)

    def weights(index):
        seen = collection.seen(index)
        if seen is None:
            raise ValueError(
                f"fit.known_mask: true, but {collection.title} has no mask of "
                f"{collection.names[index]!r}; allowed: fit.known_mask=false"
            )
        return seen.reshape(-1).astype("float32")

    return dataclasses.replace(whole, weights=weights, **holes)


def extras(
    collection: Any,
    measured: Measured,
    fit: Fit,
    reconstruction: Float[np.ndarray, "N H W C"],
    truth: Float[np.ndarray, "N H W C"] | None,
    others: Mapping[str, Any],
    config: ConfigDict,
) -> Extras:
    """Of a fit: pictures as they were given, their masks, and what was made of them.

    others: label -> pictures of a baseline. Pictures [N, H, W, C] in [0, 1] are lists where their
    sizes differ.

    metrics: psnr_corrupted, the mean over all pictures that were fitted, where the truth is known;
    hidden_share, of the pixels of all of them, where every mask is.
    """
    total, count = len(reconstruction), showing.shown_of(config, reconstruction)
    scores, pictures = {}, wholes(collection)
    if truth is not None:
        pairs = [(np.clip(pictures[index], 0, 1), truth[index]) for index in range(total)]
        errors = np.array([np.square(given - true).mean() for given, true in pairs])
        scores["psnr_corrupted"] = float(np.mean(metrics.psnr_from_mse(errors)))
    masks = [pictures.seen(index) for index in range(total)]
    known = [seen for seen in masks if seen is not None]
    if len(known) == total:
        scores["hidden_share"] = float(np.mean([1 - seen.mean() for seen in known]))
    if known and not (config.fit.known_mask or collection.unmeasured):
        say(
            f"{collection.title}: {len(known)} of {total} pictures have masks, which the fit is "
            "not told (fit.known_mask=false) and only scores; fit.known_mask=true with "
            "fit.solver=gaussian fills what they hide"
        )
    if not count:
        return Extras(scores)
    some = None if truth is None else truth[:count]
    others = {name: signals[:count] for name, signals in others.items()}
    before = _given(pictures, truth, masks[:count])
    if len(fit) != total:
        # Patches are measured apart, and shown as the whole that they make.
        rows = showing.compared(reconstruction[:count], some, others=others)
        return Extras(scores, (*before, *rows))
    _, after, shares = showing.measurements(fit, measured, count)
    rows = showing.compared(reconstruction[:count], some, shares, others=others)
    return Extras(scores, (*before, *rows, *showing.unsure(fit, count), *after))


def baselines_of(
    collection: Any, measured: Measured, fit: Fit, prior: Any, most: int, config: ConfigDict
) -> Baselines | None:
    """The mean picture, the pictures as they were given, and biharmonic inpainting of their holes.

    Whole pictures are filled, whatever patches were fitted. Where the fit is not told what is
    hidden (fit.known_mask=false), that inpainting is, and its name says so. prior: of the training
    codes, or None; most: of so many pictures. None where their truth is not known.
    """
    some = image.first(collection, measured, fit, most)
    pictures, given_mask = wholes(collection), config.fit.known_mask or collection.unmeasured
    masks = [pictures.seen(index) for index in range(len(some.pieces))]
    filled = []
    if all(seen is not None for seen in masks) and (count := images.affordable(masks)):
        some, masks = some.fewer(count), masks[:count]
        given = [np.asarray(pictures[index]) for index in range(count)]
        filled = [baselines.biharmonic(given, masks, some.scored, given_hole=not given_mask)]
    if some.truth is None:
        return None
    found = baselines.mean(fit, prior, measured.grid_shape, some.alike)
    if not given_mask:
        found.append(_as_given(pictures, some))
    return Baselines(len(some.pieces), [*found, *filled])


def _as_given(pictures, some):
    """The damaged pictures themselves."""

    def make():
        found: Any = [np.clip(pictures[index], 0, 1) for index in range(len(some.pieces))]
        found = found if isinstance(some.truth, list) else np.stack(found)
        return found, some.scored(found)

    return Baseline("as given", "The damaged pictures as they are.", make, shown=False)


def describe(collection: Any, seen: Measured, count: int, config: ConfigDict) -> str:
    """What was measured: pixels that are known to be good, or all of damaged pictures."""
    words = describing.measured(collection, seen, count)
    if config.fit.known_mask or collection.unmeasured:
        return words
    return f"{words} A part of each was painted over; the fit is not told which."


def _given(collection, truth, masks):
    """The rows of pictures as they were given, and of their masks where one is known."""
    given = [np.array(collection[index]) for index in range(len(masks))]
    if collection.unmeasured:
        for one, seen in zip(given, masks, strict=True):
            one[~seen] = np.nan
    captions = []
    if truth is not None:
        captions = showing.psnrs([np.nan_to_num(one) for one in given], truth[: len(masks)])
    yield Panel("corrupted", given, captions=captions, kept=True)
    if any(seen is not None for seen in masks):
        pairs = zip(given, masks, strict=True)
        shown = [np.full(one.shape[:2], np.nan) if seen is None else seen for one, seen in pairs]
        captions = [f"{100 * np.mean(mask == 0):.3g}%" for mask in shown]
        note = "white was seen, black is hidden; below it the hidden share"
        images = [mask.astype(np.float32)[..., None] for mask in shown]
        yield Panel("mask", images, note=note, captions=captions, kept=True)


def _hole(seen):
    return None if seen is None else ~seen
