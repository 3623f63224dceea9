"""What is shown of fields: measurements drawn over what was made of them."""

from typing import Any

import numpy as np
from jaxtyping import Float

from nid_jax.fitting.fit import Fit
from nid_jax.reporting import maps
from nid_jax.reporting.panels import Marks, Panel
from nid_jax.tasks.task import Measured

# Samples of the longer side of a picture of two coordinates, at least.
_FINE = 96
# Of more coordinates the middle of the first ones is shown, with measurements this near to it.
_NEAR = 0.1


def drawn(
    collection: Any,
    measured: Measured,
    fit: Fit,
    reconstruction: Float[np.ndarray, "S *grid C"],
    truth: Float[np.ndarray, "S *grid C"] | None,
) -> list[Panel]:
    """Rows: the truth where it is known, the reconstruction with what was measured on it, where it
    is unsure, the error. Of the first channel, in own units; the second axis runs up."""
    frame = collection.frame
    shape = tuple(reconstruction.shape[1:-1])
    fine = reconstruction
    if len(shape) <= 2:
        factor = max(1, -(-_FINE // max(shape)))
        fine = frame.values(fit.render([factor * side for side in shape]))
    channel = frame.channels[0]
    given = [_given(collection, measured, index) for index in range(len(fit))]
    known = np.concatenate([frame.values(values)[:, 0] for _, values, _ in given])
    if truth is not None:
        known = np.concatenate([known, truth[..., 0].ravel()])
    low, high = (float(end) for end in np.quantile(known, (0.005, 0.995)))
    high = max(high, low + 1e-9 * max(1, abs(low)))
    if len(shape) == 1:
        return _curves(frame, fine, truth, given, (low, high))
    marks = [_marks(frame, *one) for one in given]
    where = _where(frame, shape)
    scale = f"{channel.label}: black {low:.4g}, pale yellow {high:.4g}{where}"
    colours: dict[str, Any] = {"low": low, "high": high, "palette": "heat"}
    rows = []
    if truth is not None:
        rows.append(Panel("truth", _pictures(truth), **colours))
    note = f"{scale}; circles: what was measured, squares: held out, both in the colours of values"
    rows.append(Panel("reconstruction", _pictures(fine), **colours, note=note, marks=marks))
    if fit.known_deviation is not None:
        deviation = _pictures(np.asarray(fit.known_deviation) * frame.spans)
        most = float(np.quantile(np.concatenate([one.ravel() for one in deviation]), 0.995))
        note = f"standard deviation, black 0, pale yellow {most:.3g} {channel.unit}".strip()
        empty = [[_hollow(one) for one in some] for some in marks]
        rows.append(Panel("deviation", deviation, 0.0, max(most, 1e-12), "heat", note, marks=empty))
    if truth is not None:
        left = _pictures(reconstruction - truth)
        sizes = np.abs(np.concatenate([one.ravel() for one in left]))
        most = max(float(np.quantile(sizes, 0.99)), 1e-12)
        note = f"reconstruction less truth, blue -{most:.3g}, red {most:.3g} {channel.unit}".strip()
        rms = [f"RMS {np.sqrt(np.square(one).mean()):.3g}" for one in left]
        rows.append(Panel("error", left, -most, most, "balance", note, rms))
    return rows


def _given(collection, measured, index):
    """(points [M, D] in [-1, 1], scaled values [M, C], bool [M]: held out) of a signal."""
    values = np.asarray(measured.values(index))
    held = np.zeros(len(values), bool)
    if measured.weights is not None:
        held = np.asarray(measured.weights(index)) == 0
    return np.asarray(collection.points(index)), values, held


def _pictures(values: Float[np.ndarray, "S *grid C"]) -> list[np.ndarray]:
    """The first channel [H, W, 1], the middle along leading axes, the second last axis upwards."""
    shown = values[..., :1]
    while shown.ndim > 4:
        shown = shown[:, shown.shape[1] // 2]
    return [one[::-1] for one in shown]


def _marks(frame, points, values, held) -> list[Marks]:
    """What was measured and what was held out, where the picture shows it."""
    middle = (np.abs(points[:, :-2]) <= 2 * _NEAR).all(-1)
    own = frame.values(values)[:, 0]
    places = np.stack([(1 - points[:, -2]) / 2, (points[:, -1] + 1) / 2], -1)
    return [
        Marks(places[chosen & middle], own[chosen & middle], shape)
        for chosen, shape in ((~held, "circle"), (held, "square"))
    ]


def _hollow(marks):
    return Marks(marks.places, np.full(len(marks.places), np.nan), marks.shape)


def _where(frame, shape):
    """At which of leading coordinates the picture is."""
    samples = frame.samples(shape)[: len(shape) - 2]
    places = [
        f"{axis.name} {own[len(own) // 2]:.4g}"
        for axis, own in zip(frame.axes[: len(samples)], samples, strict=True)
    ]
    return f"; at {', '.join(places)}, measurements near it" if places else ""


def _curves(frame, fine, truth, given, ends):
    """Of one coordinate: curves as pictures, to the right the coordinate, upwards the value."""
    low, high = ends[0] - 0.05 * (ends[1] - ends[0]), ends[1] + 0.05 * (ends[1] - ends[0])
    axis, channel = frame.axes[0], frame.channels[0]

    def picture(values):
        return maps.curve(values[:, 0], low, high)

    marks = []
    for points, values, held in given:
        own = frame.values(values)[:, 0]
        places = np.stack([(high - own) / (high - low), (points[:, 0] + 1) / 2], -1)
        nothing = np.full(len(own), np.nan)
        marks.append(
            [
                Marks(places[chosen], nothing[chosen], shape)
                for chosen, shape in ((~held, "circle"), (held, "square"))
            ]
        )
    note = f"{channel.label} from {low:.4g} to {high:.4g} upwards, {axis.label} from "
    note += f"{axis.low:.4g} to {axis.high:.4g}; circles: measured, squares: held out"
    rows = [Panel("reconstruction", [picture(one) for one in fine], note=note, marks=marks)]
    if truth is not None:
        rows.insert(0, Panel("truth", [picture(one) for one in truth]))
    return rows
