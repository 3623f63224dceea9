"""Image regression and linear inverse problems: the picture from what an operator measured of it.

With the default operator every pixel is measured. Any other of config.operator.kind is applied to
the truth, with noise on request (config.data.noise).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax import data, metrics, sharding
from nid_jax.coding import grid_operator, operators
from nid_jax.metrics import perceptual
from nid_jax.notices import say
from nid_jax.reporting.panels import Panel
from nid_jax.tasks import baselines, describing, showing
from nid_jax.tasks.task import Baseline, Baselines, Extras, Measured, Task
from nid_jax.training import losses


def build(config: ConfigDict) -> Task:
    """The image task that a config describes. Raises ValueError naming a key that is wrong."""
    path = config.eval.get("lpips", "")
    weights = perceptual.load_weights(path) if path else None
    return Task(
        name=config.task,
        open=lambda split: opened(config, split, weights),
        batches=lambda collection: batches(collection, config),
        order=lambda collection: batches(collection, config, ids_only=True),
        learned_from=sampled,
        measure=lambda collection: measured(collection, config),
        objective=losses.Objective.from_config(config.loss),
        assemble=assemble,
        layout=layout,
        metrics=functools.partial(image_metrics, weights=weights),
        scores=showing.SCORES,
        extras=functools.partial(extras, config=config),
        baselines=functools.partial(baselines_of, config=config, weights=weights),
        describe=functools.partial(describing.measured, noise=_noise(config)),
    )


def opened(
    config: ConfigDict, split: str, weights: perceptual.LpipsWeights | None
) -> data.Collection:
    """The signals of a split; ValueError where LPIPS is asked for and cannot score them.

    Pictures with holes, to be fitted, are refused: only inpainting knows what their masks say.
    """
    if config.data.name == "corrupted" and split != "train":
        raise ValueError(
            f"data.name: 'corrupted' is fitted by --config=inpainting:pictures, with the same "
            f"--workdir or --checkpoint; --config={config.task} would take damage and masks for "
            "what was measured; allowed here: folder and others"
        )
    collection = data.open_collection(config.data, split, config.seed)
    if split != "train" and data.holed(collection) and config.fit.solver != "gaussian":
        say(
            f"{collection.title}: parts of the signals to fit are missing, which fit.solver="
            f"{config.fit.solver} knows nothing of; fit.solver=gaussian fills them"
        )
    if weights is not None:
        found = layout(collection)
        for grid in found.get("grids", [found.get("grid")]):
            shape = (len(collection), *grid, collection.shape[-1])
            perceptual.check_images(shape, weights.network)
    return collection


def batches(collection: data.Collection, config: ConfigDict, ids_only: bool = False) -> Any:
    """Shuffled batches of config.train.batch_size training signals, or their numbers alone."""
    return data.batches(
        collection,
        config.train.batch_size,
        config.seed,
        share=sharding.places_of(config),
        ids_only=ids_only,
    )


def sampled(collection: data.Collection) -> Measured:
    """Signals as a collection holds them.

    Of one on a grid every point is measured, or those that it says are seen, .seen(i). One whose
    signals share no grid says what measured them: .ways, operators, .way(i), the number of its own,
    and [i], what was measured; its shape is that of the grid that they are drawn on.
    """
    grid_shape, channels = tuple(collection.shape[:-1]), collection.shape[-1]
    ways = getattr(collection, "ways", ())
    seen: Any = collection.seen if data.holed(collection) else None

    def weights(index):
        one = seen(index)
        one = np.ones(collection[index].size // channels) if one is None else one.reshape(-1)
        return one.astype(np.float32)

    def truth(index):
        """Of a signal on a grid, itself where all of it is known."""
        known = seen is None or seen(index) is None or seen(index).all()
        return collection[index] if known else None

    return Measured(
        ways if len(ways) else (operators.sample(grid_shape),),
        grid_shape,
        channels,
        values=lambda index: collection[index].reshape(-1, channels),
        way=collection.way if len(ways) else None,
        weights=weights if seen else None,
        truth=getattr(collection, "truth", None if len(ways) else truth),
        whole=not (seen or len(ways)),
    )


def measured(collection: data.Collection, config: ConfigDict) -> Measured:
    """Signals as config.operator measures them, with config.data.noise."""
    whole = sampled(collection)
    if config.operator.kind == "sample":
        return whole
    operator = operators.build_operator(config.operator, whole.grid_shape)
    return simulated(collection, operator, config)


def simulated(
    collection: data.Collection, operator: operators.Operator, config: ConfigDict
) -> Measured:
    """What an operator measures of signals whose truth is a grid, linearly interpolated."""
    whole = sampled(collection)
    if not whole.whole:
        raise ValueError(
            f"operator.kind: {config.operator.kind!r} of {collection.title}, which are not known "
            "whole on one grid; allowed: sample"
        )
    on_grid = grid_operator.on_grid(operator, whole.grid_shape)
    apply = jax.jit(type(on_grid).measure)

    def values(index):
        return noisy(
            np.asarray(apply(on_grid, collection[index].reshape(-1, whole.channels))), config, index
        )

    return dataclasses.replace(whole, ways=(operator,), values=values, whole=False)


def noisy(
    clean: Float[np.ndarray, "M C"], config: ConfigDict, index: int
) -> Float[np.ndarray, "M C"]:
    """Measurements [M, C] with config.data.noise, another draw for every signal."""
    seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
    return data.add_noise(clean[None], config.data.noise.kind, config.data.noise.level, seed)[0]


def layout(collection: data.Collection) -> dict[str, Any]:
    """How the collection's signals make up whole images, in JSON types.

    Of images in patches 'patch' and 'overlap', 'grids', the samples along each axis of each, and
    'pieces', how many patches each is; 'grid' is what they have in common, where they do.
    """
    if isinstance(collection, data.PatchCollection):
        same = len(set(collection.grids)) == 1
        return {
            **({"grid": list(collection.grids[0])} if same else {}),
            "grids": [list(grid) for grid in collection.grids],
            "pieces": list(collection.counts),
            "patch": list(collection.size),
            "overlap": collection.overlap,
            "names": list(collection.collection.names),
        }
    return {"grid": list(collection.shape[:-1]), "names": list(collection.names)}


def assemble(
    values: Float[np.ndarray, "S *grid C"], layout: dict[str, Any], scale: int = 1, first: int = 0
) -> Float[np.ndarray, "N *whole C"] | list[Float[np.ndarray, "*whole C"]]:
    """Whole images from values [S, *grid, C] of signals, each rendered `scale` times as fine.

    first: the number of the image that the first of the values belongs to. Images of several sizes
    are a list.
    """
    if "patch" not in layout:
        return values
    patch = [side * scale for side in layout["patch"]]
    wholes, start = [], 0
    for grid, count in zip(layout["grids"][first:], layout["pieces"][first:], strict=True):
        if start == len(values):
            break
        sides = [side * scale for side in grid]
        pieces = values[start : start + count]
        wholes.append(data.stitch(pieces, sides, patch, layout["overlap"] * scale))
        start += count
    return np.stack(wholes) if len({whole.shape for whole in wholes}) == 1 else wholes


def extras(
    collection: data.Collection,
    measured: Measured,
    fit: Any,
    reconstruction: Float[np.ndarray, "N *whole C"],
    truth: Float[np.ndarray, "N *whole C"] | None,
    others: Mapping[str, Any],
    config: ConfigDict,
    views: Callable[[Any], int] | None = None,
) -> Extras:
    """What is shown of a fit: measurements where an operator made them, truth, reconstruction.

    others: name -> signals of baselines; views: collection -> views of beams; None: those of
    config.operator.
    """
    # What was not made of pictures here has a scale of its own.
    count, unit = showing.shown_of(config, reconstruction), truth is not None
    if not count:
        return Extras(unit=unit)
    before: list[Panel] = []
    after: list[Panel] = []
    deviation: list[Panel] = []
    shares: list[float] = []
    # Patches are measured apart, and shown as the whole that they make.
    if len(fit) == len(reconstruction):
        deviation = showing.unsure(fit, count)
        if not measured.whole:
            seen = views(collection) if views else _views(config)
            before, after, shares = showing.measurements(fit, measured, count, seen)
    some = None if truth is None else truth[:count]
    others = {name: signals[:count] for name, signals in others.items()}
    rows = showing.compared(reconstruction[:count], some, shares, unit, others)
    return Extras(panels=(*before, *rows, *deviation, *after), unit=unit)


def first(
    collection: data.Collection,
    measured: Measured,
    fit: Any,
    most: int,
    weights: perceptual.LpipsWeights | None = None,
) -> baselines.FirstSignals:
    """The first whole pictures of a fit, and how they are scored."""
    how = layout(collection)
    pieces = list(how.get("pieces") or [1] * len(fit))[:most]
    truth = measured.truths(sum(pieces))

    known = None if truth is None else assemble(truth, how)

    def scored(pictures):
        if known is None:
            return {}
        return image_metrics(pictures, known[: len(pictures)], measured, weights)

    return baselines.FirstSignals(pieces, known, scored, lambda values: assemble(values, how))


def baselines_of(
    collection: data.Collection,
    measured: Measured,
    fit: Any,
    prior: Any,
    most: int,
    config: ConfigDict,
    weights: perceptual.LpipsWeights | None = None,
    alone: Callable[[baselines.PixelMeasurements, baselines.Scorer], Baseline] | None = None,
) -> Baselines | None:
    """The mean image, and what can be made of the measurements without learning.

    Of whole pictures their cosines; of some of their pixels biharmonic inpainting; of what another
    operator measured the baseline that `alone` gives, that of pixels alone if that is None.
    """
    some = first(collection, measured, fit, most, weights)
    shape = measured.grid_shape
    if measured.whole and measured.weights is None:
        each = fit.active * (2 if config.fit.top_k else 1) + fit.channels
        return baselines.of_whole(some, fit, prior, shape, each)
    if len(measured.ways) > 1 or len(shape) != 2 or not some.uncut:
        # Several ways are no picture, and pieces were measured apart.
        return baselines.of_mean(some, fit, prior, shape)
    return baselines.of_pixels(some, measured, fit, prior, alone)


def _noise(config):
    """What is said of noise, where an operator measures the truth."""
    kind = config.get("operator", {}).get("kind", "sample")
    return "" if kind == "sample" else describing.noise(config)


def _views(config):
    """Views of config.operator where it is a beam's; 0 for others."""
    angles = dict(config.operator.get(config.operator.kind, {})).get("angles", 0)
    return angles if isinstance(angles, int) else len(angles)


def image_metrics(
    reconstruction: Float[np.ndarray, "S *grid C"] | list[Float[np.ndarray, "*grid C"]],
    truth: Float[np.ndarray, "S *grid C"] | list[Float[np.ndarray, "*grid C"]],
    measured: Measured | None = None,
    weights: perceptual.LpipsWeights | None = None,
) -> dict[str, np.ndarray]:
    """PSNR of every signal and SSIM of images, clipped to [0, 1] as they would be saved.

    With LpipsWeights also lpips. Where `measured` knows of holes, also psnr_hole, the PSNR inside
    them. Images of several sizes are lists.
    """
    if isinstance(truth, list):
        pairs = zip(reconstruction, truth, strict=True)
        each = [_scores(one[None], true[None], weights) for one, true in pairs]
        scores = {name: np.concatenate([found[name] for found in each]) for name in each[0]}
    else:
        scores = _scores(reconstruction, truth, weights)
    holes = [measured.hole(i) if measured and measured.hole else None for i in range(len(truth))]
    if holes and all(hole is not None and hole.any() for hole in holes):
        triples = zip(reconstruction, truth, holes, strict=True)
        inside = [np.square(np.clip(r, 0, 1) - t)[hole].mean() for r, t, hole in triples]
        scores["psnr_hole"] = np.asarray(metrics.psnr_from_mse(np.array(inside)))
    return scores


def _scores(reconstruction, truth, weights):
    """psnr, ssim and lpips of images of one size."""
    clipped = np.clip(reconstruction, 0, 1)
    scores = {"psnr": np.asarray(metrics.psnr(clipped, truth))}
    if np.ndim(truth) == 4:
        scores["ssim"] = np.asarray(metrics.ssim(clipped, truth))
    if weights is not None:
        scores["lpips"] = np.asarray(metrics.lpips(clipped, truth, weights))
    return scores
