"""Fields: signals each of which is known at points of its own, in coordinates and units of its own.

Learned from all points of each training signal. A fit is given a part of those of an unseen signal,
and scored at the others.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from nid_jax import data, metrics, sharding
from nid_jax.baselines import scattered
from nid_jax.data.frames import Frame
from nid_jax.fields.coordinates import grid
from nid_jax.fitting import ways
from nid_jax.fitting.fit import Fit
from nid_jax.fitting.rendering import interpolated
from nid_jax.reporting.panels import Score
from nid_jax.tasks import baselines, field_panels
from nid_jax.tasks.task import Baseline, Baselines, Extras, Measured, Task
from nid_jax.training import losses

_KRIGING = (
    "A Gaussian process of each signal by itself, whose lengths, variance and noise are those of "
    "highest evidence. Nothing was learned of other signals."
)
_NEAREST = "The value of the nearest point that was given. Nothing was learned."
# Covariances between points given and wanted, of all signals together: some seconds of one core.
_WORK = 3 * 10**8
SCORES = (
    Score("psnr", "PSNR held out", "dB of the range", better="high"),
    Score("rmse", "RMSE held out", "own units", better="low"),
    Score("r2", "R^2 held out", better="high"),
    Score("psnr_field", "PSNR everywhere", "dB of the range", better="high"),
    Score("rmse_field", "RMSE everywhere", "own units", better="low"),
    Score(
        "noise",
        "Noise",
        "own units",
        "Its standard deviation in a measured value, as the fit took it to be.",
    ),
    Score("relative_residual", "Residual", "%"),
    Score("values", "Values"),
)


def build(config: ConfigDict) -> Task:
    """The task of fields that a config describes. Raises ValueError naming a key."""
    check(config)
    return Task(
        name=config.task,
        open=lambda split: data.open_collection(config.data, split, config.seed),
        batches=lambda collection: batches(collection, config),
        learned_from=learned_from,
        measure=lambda collection: measured(collection, config),
        objective=losses.Objective.from_config(config.loss),
        assemble=assemble,
        layout=layout,
        metrics=lambda reconstruction, truth, seen: {},
        scores=SCORES,
        held_out=scores,
        extras=functools.partial(extras, config=config),
        baselines=baselines_of,
        describe=describe,
    )


def check(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, for fields that cannot be."""
    if config.data.name not in data.POINTS:
        raise ValueError(f"data.name: {config.data.name!r}; allowed: {', '.join(data.POINTS)}")


def batches(collection: data.PointsCollection, config: ConfigDict) -> Any:
    """Shuffled batches of config.train.batch_size signals that were all measured alike."""
    size, seed, share = config.train.batch_size, config.seed, sharding.places_of(config)
    # Of points, not of the grid that is drawn, so each is read by itself.
    return data.batches(collection, size, seed, share, in_memory=False)


def learned_from(collection: data.PointsCollection) -> Measured:
    """Every point of every signal; those of stations that all stay are alike."""
    return Measured(
        collection.ways,
        tuple(collection.shape[:-1]),
        collection.shape[-1],
        values=collection.__getitem__,
        way=collection.way if len(collection.ways) > 1 else None,
        truth=getattr(collection, "truth", None),
        whole=False,
    )


def measured(collection: data.PointsCollection, config: ConfigDict) -> Measured:
    """What a fit sees of every signal: all points but config.fit.held_out of them."""
    whole = learned_from(collection)
    share = config.fit.held_out
    if not share:
        return whole

    def weights(index):
        way = collection.way(index)
        count = collection.ways[way].num_measurements
        return (~kept_aside(count, share, config.seed, way)).astype(np.float32)

    return dataclasses.replace(whole, weights=weights)


def kept_aside(count: int, share: float, seed: int, way: int) -> Bool[np.ndarray, " M"]:
    """Which of a way's points are held out: a seeded share, at least 1 of 2 or more, never all."""
    held = np.zeros(count, bool)
    if count > 1 and share:
        number = min(max(round(share * count), 1), count - 1)
        draw = np.random.default_rng([seed, 5, way])
        held[draw.permutation(count)[:number]] = True
    return held


def layout(collection: data.PointsCollection) -> dict[str, Any]:
    """The grid, names, and the frame, in JSON types."""
    return {
        "grid": list(collection.shape[:-1]),
        "names": list(collection.names),
        "frame": collection.frame.as_json(),
    }


def assemble(
    values: Float[np.ndarray, "S *grid C"],
    layout: Mapping[str, Any],
    scale: int = 1,
    first: int = 0,
) -> Float[np.ndarray, "S *grid C"]:
    """Rendered values in own units."""
    return Frame.of_json(layout["frame"]).values(values)


def scores(collection: Any, seen: Measured, fit: Fit) -> dict[str, Any]:
    """Of the points held out, and of the whole field where that is known.

    psnr of every signal, of the range of the frame; rmse in own units, or of several channels each
    alone; r2 of all held-out values together, of each channel about the mean of what the fits were
    given, and NaN where that explains them already.
    """
    predicted = [_at(fit[index], held_out(collection, seen, index)[0]) for index in range(len(fit))]
    known = seen.truths(len(fit)) is not None
    fields = np.asarray(fit.render(seen.grid_shape)) if known else None
    return scored(collection, seen, predicted, fields)


def held_out(
    collection: Any, seen: Measured, index: int
) -> tuple[Float[np.ndarray, "H D"], Float[np.ndarray, "H C"]]:
    """Points and scaled values of a signal that its fit is not given."""
    assert seen.values is not None
    points, values = collection.points(index), seen.values(index)
    held = np.zeros(len(values), bool) if seen.weights is None else seen.weights(index) == 0
    return points[held], values[held]


def scored(
    collection: Any,
    seen: Measured,
    predicted: Sequence[Float[np.ndarray, "H C"]],
    fields: Float[np.ndarray, "n *grid C"] | None,
) -> dict[str, Any]:
    """The same of any way to the first n signals, scaled: at the points held out of each, and on
    the grid, which is read where the truth is known."""
    frame, count = collection.frame, len(predicted)
    level = _level(seen, count)
    held = [held_out(collection, seen, index)[1] for index in range(count)]
    errors = [one - true for one, true in zip(predicted, held, strict=True)]
    spreads = [true - level for true in held]
    found: dict[str, Any] = {}
    if sum(map(len, errors)):
        found["psnr"] = np.array([_psnr(one) for one in errors])
        rmse = np.array([_rmse(one * frame.spans) for one in errors])
        found |= _by_channel("rmse", rmse, frame)
        left, spread = np.concatenate(errors), np.concatenate(spreads)
        squares = np.square(spread).sum()
        found["r2"] = float(1 - np.square(left).sum() / squares) if squares else np.nan
    truth = seen.truths(count)
    if truth is not None:
        left = fields - truth
        left = left.reshape(count, -1, left.shape[-1])
        found["psnr_field"] = np.array([_psnr(one) for one in left])
        rmse = np.array([_rmse(one * frame.spans) for one in left])
        found |= _by_channel("rmse_field", rmse, frame)
    return found


def describe(collection: Any, seen: Measured, count: int) -> str:
    """What was measured: values at points, and how many were kept from the fit."""
    frame = collection.frame
    numbers = [len(collection.points(index)) for index in range(count)]
    held = [len(held_out(collection, seen, index)[1]) for index in range(count)]
    what, where = (
        ", ".join(f"{one.name} in {one.unit}" if one.unit else one.name for one in scales)
        for scales in (frame.channels, frame.axes)
    )
    words = f"{count} signals: {what}, at {_range(numbers)} points of each ({where})"
    if not sum(held):
        return f"{words}, all of which the fit was given."
    return (
        f"{words}, of which {_range(held)} were held out of the fit and are what it is scored at."
    )


def _range(numbers):
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def baselines_of(collection: Any, seen: Measured, fit: Fit, prior: Any, most: int) -> Baselines:
    """Kriging signal by signal, the nearest point's value, and the mean field."""
    points = grid(seen.grid_shape)
    work = len(points) * min(len(collection.points(0)), scattered.MOST)
    count = min(most, len(fit), max(1, _WORK // work))

    def every(one):
        """Makes fields by a function of (points given, values, points wanted)."""
        assert seen.values is not None
        rendered, predicted = [], []
        for index in range(count):
            places, wanted = collection.points(index), held_out(collection, seen, index)[0]
            known = np.ones(len(places), bool)
            if seen.weights is not None:
                known = seen.weights(index) > 0
            found = one(places[known], seen.values(index)[known], np.vstack([wanted, points]))
            predicted.append(found[: len(wanted)])
            rendered.append(found[len(wanted) :].reshape(*seen.grid_shape, -1))
        fields = np.stack(rendered)
        return collection.frame.values(fields), scored(collection, seen, predicted, fields)

    found = [
        Baseline("kriging", _KRIGING, lambda: every(scattered.kriging)),
        Baseline("nearest point", _NEAREST, lambda: every(scattered.nearest), shown=False),
    ]

    def alike(one):
        return every(lambda places, values, wanted: interpolated(one[None], wanted)[0])

    found += baselines.mean(fit, prior, seen.grid_shape, alike, "field")
    return Baselines(count, found)


def _level(seen, count):
    """The mean [C] of all values that fits of the first `count` signals were given."""
    if seen.weights is None:
        return 0.0
    given = [seen.values(index)[seen.weights(index) > 0] for index in range(count)]
    return np.concatenate(given).mean(0, dtype=np.float64)


def _at(one, points):
    """Values [P, C] of a fit of one signal; padded, so that few sizes are compiled."""
    count = len(points)
    if not count:
        return np.zeros((0, one.channels), np.float32)
    more = ways.padded_length(count) - count
    return np.asarray(one.at(np.pad(points, ((0, more), (0, 0)), "edge")))[0, :count]


def _psnr(left):
    return float(metrics.psnr_from_mse(np.square(left).mean())) if len(left) else np.nan


def _rmse(left):
    return np.sqrt(np.square(left).mean(0)) if len(left) else np.full(left.shape[-1], np.nan)


def _by_channel(key, values, frame):
    """key: values [S] of the only channel, else key_NAME of each. values [S, C]."""
    if len(frame.channels) == 1:
        return {key: values[:, 0]}
    return {
        f"{key}_{channel.name}": values[:, number] for number, channel in enumerate(frame.channels)
    }


def noise(fit: Fit, frame: Frame) -> dict[str, float]:
    """The standard deviation of noise that a fit took measurements to have, the mean over its
    signals in own units, of several channels each alone; nothing where it took none."""
    stats = fit.solution.stats.get("noise_variance")
    if stats is None:
        return {}
    deviation = np.sqrt(np.asarray(stats, np.float64)).mean() * frame.spans
    found = _by_channel("noise", deviation[None], frame)
    return {key: float(values[0]) for key, values in found.items()}


def extras(
    collection: Any,
    measured: Measured,
    fit: Fit,
    reconstruction: Float[np.ndarray, "S *grid C"],
    truth: Float[np.ndarray, "S *grid C"] | None,
    others: Mapping[str, Float[np.ndarray, "n *grid C"]],
    config: ConfigDict,
) -> Extras:
    """Of the first signals: measurements over the reconstruction, where it is unsure, the truth."""
    count = min(config.fit.num_pictures, len(reconstruction))
    frame = collection.frame
    named = {"values": "; ".join(channel.label for channel in frame.channels), **noise(fit, frame)}
    if not count:
        return Extras(named, unit=False)
    some = None if truth is None else truth[:count]
    shown = field_panels.Shown(
        collection,
        measured,
        fit[:count],
        reconstruction[:count],
        some,
        {name: fields[:count] for name, fields in others.items()},
    )
    return Extras(named, shown.panels(), draw=shown.draw, unit=False)
