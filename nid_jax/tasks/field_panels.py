"""What is shown of fields: measurements drawn over what was made of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nid_jax.fitting import rendering
from nid_jax.fitting.fit import Fit
from nid_jax.reporting import maps
from nid_jax.reporting.panels import Marks, Panel
from nid_jax.tasks.task import Measured

# Samples of the longer side of a picture of two coordinates, at least.
_FINE = 128
# Of more coordinates the middle of the first ones is shown, with measurements this near to it.
_NEAR = 0.1


class Shown:
    """The first channel of some signals, in own units, and what was measured of it.

    Of two coordinates all is on one lattice, as fine as a picture needs and as wide for its height
    as the frame; of more on the signals' own, of which the middle is shown.

    collection, measured, fit: of the signals; reconstruction, truth: on the signals' grid, in own
    units, truth None where it is not known; others: name -> fields of a baseline, of the first
    signals, likewise.
    """

    def __init__(
        self,
        collection: Any,
        measured: Measured,
        fit: Fit,
        reconstruction: Float[np.ndarray, "S *grid C"],
        truth: Float[np.ndarray, "S *grid C"] | None,
        others: Mapping[str, Float[np.ndarray, "n *grid C"]] | None = None,
    ):
        self.frame, self.names = collection.frame, collection.names
        self.channel = self.frame.channels[0]
        shape = tuple(reconstruction.shape[1:-1])
        fine = _lattice(self.frame, shape)
        self.shape = fine if len(shape) <= 2 else shape
        deviation, error = fit.known_deviation, None
        self.reconstruction = reconstruction
        if self.shape != shape:
            self.reconstruction = self.frame.values(fit.render(self.shape))
        self.others = {name: self._resampled(one) for name, one in (others or {}).items()}
        self.deviation = (
            None if deviation is None else self._resampled(deviation) * (self.frame.spans)
        )
        self.rms: list[float] = []
        self.others_rms: dict[str, list[float]] = {}
        if truth is not None:
            error = reconstruction - truth
            self.rms = _rms(error)
            for name, some in (others or {}).items():
                self.others_rms[name] = _rms(some - truth[: len(some)])
            truth, error = self._resampled(truth), self._resampled(error)
        self.truth, self.error = truth, error
        self.given = [_given(collection, measured, index) for index in range(len(fit))]
        known = np.concatenate([self.frame.values(values)[:, 0] for _, values, _ in self.given])
        if truth is not None:
            known = np.concatenate([known, truth[..., 0].ravel()])
        low, high = (float(end) for end in np.quantile(known, (0.005, 0.995)))
        self.ends = low, max(high, low + 1e-9 * max(1, abs(low)))
        self.held = any(held.any() for *_, held in self.given)

    def _resampled(self, values):
        """Values of the signals' grid on the lattice of the pictures, linearly between samples."""
        if tuple(values.shape[1:-1]) == self.shape:
            return np.asarray(values)
        return np.asarray(rendering.resampled(values, self.shape))

    def panels(self) -> list[Panel]:
        """Rows: the truth where it is known, the reconstruction with what was measured on it, where
        it is unsure, the error. The second axis runs up."""
        if len(self.shape) == 1:
            return self._curves()
        marks = [_marks(self.frame, *one) for one in self.given]
        low, high = self.ends
        unit = self.channel.unit
        scale = f"{self.channel.label}: black {low:.4g}, pale yellow {high:.4g}{self._where()}"
        colours: dict[str, Any] = {"low": low, "high": high, "palette": "heat"}
        rows = []
        if self.truth is not None:
            rows.append(Panel("truth", _pictures(self.truth), **colours))
        squares = ", squares: held out, both" if self.held else ","
        note = f"{scale}; circles: what was measured{squares} in the colours of values"
        pictures = _pictures(self.reconstruction)
        rows.append(Panel("reconstruction", pictures, **colours, note=note, marks=marks))
        for name, some in self.others.items():
            rms = [f"RMS {one:.3g}" for one in self.others_rms.get(name, [])]
            rows.append(Panel(name, _pictures(some), **colours, captions=rms))
        if self.deviation is not None:
            deviation = _pictures(self.deviation)
            most = float(np.quantile(np.concatenate([one.ravel() for one in deviation]), 0.995))
            most = max(most, 1e-12)
            note = f"standard deviation, black 0, pale yellow {most:.3g} {unit}".strip()
            empty = [[_hollow(one) for one in some] for some in marks]
            rows.append(Panel("deviation", deviation, 0.0, most, "heat", note, marks=empty))
        if self.error is not None:
            left = _pictures(self.error)
            sizes = np.abs(np.concatenate([one.ravel() for one in left]))
            most = max(float(np.quantile(sizes, 0.99)), 1e-12)
            note = f"reconstruction less truth, blue -{most:.3g}, red {most:.3g} {unit}".strip()
            rms = [f"RMS {one:.3g}" for one in self.rms]
            rows.append(Panel("error", left, -most, most, "balance", note, rms))
        return rows

    def draw(self, path: Path, index: int) -> None:
        """The picture of one signal, over axes in its own coordinates."""
        name = str(self.names[index])
        if len(self.shape) > 1:
            title = f"{name}{self._where()}"
            panels = [panel.of([index]) for panel in self.panels() if panel.has(index)]
            maps.draw_panels(path, panels, self.frame, title)
            return
        points, values, held = self.given[index]
        curves = {"truth": self.truth, **self.others, "reconstruction": self.reconstruction}
        maps.draw_curves(
            path,
            {
                key: one[index, :, 0]
                for key, one in curves.items()
                if one is not None and index < len(one)
            },
            None if self.deviation is None else self.deviation[index, :, 0],
            (self.frame.outside(points)[:, 0], self.frame.values(values)[:, 0], held),
            self.frame,
            name,
        )

    def _where(self):
        """At which of leading coordinates the picture is."""
        samples = self.frame.samples(self.shape)[: len(self.shape) - 2]
        places = [
            f"{axis.name} {own[len(own) // 2]:.4g}"
            for axis, own in zip(self.frame.axes[: len(samples)], samples, strict=True)
        ]
        return f"; at {', '.join(places)}, measurements near it" if places else ""

    def _curves(self):
        """Of one coordinate: curves as pictures, to the right the coordinate, upwards the value."""
        margin = 0.05 * (self.ends[1] - self.ends[0])
        low, high = self.ends[0] - margin, self.ends[1] + margin

        def picture(values):
            return maps.curve(values[:, 0], low, high)

        marks = []
        for points, values, held in self.given:
            own = self.frame.values(values)[:, 0]
            places = np.stack([(high - own) / (high - low), (points[:, 0] + 1) / 2], -1)
            nothing = np.full(len(own), np.nan)
            marks.append(
                [
                    Marks(places[chosen], nothing[chosen], shape)
                    for chosen, shape in ((~held, "circle"), (held, "square"))
                ]
            )
        axis = self.frame.axes[0]
        note = f"{self.channel.label} from {low:.4g} to {high:.4g} upwards, {axis.label} from "
        note += f"{axis.low:.4g} to {axis.high:.4g}; circles: measured"
        note += ", squares: held out" if self.held else ""
        pictures = [picture(one) for one in self.reconstruction]
        rows = [Panel("reconstruction", pictures, note=note, marks=marks)]
        if self.truth is not None:
            rows.insert(0, Panel("truth", [picture(one) for one in self.truth]))
        rows += [Panel(name, list(map(picture, some))) for name, some in self.others.items()]
        return rows


def _rms(errors):
    """Of the first channel of every field."""
    return [float(np.sqrt(np.square(one[..., 0]).mean())) for one in errors]


def _lattice(frame, shape):
    """Samples of a picture of one or two coordinates, of the frame's proportions."""
    if len(shape) == 1:
        return (max(_FINE, shape[0]),)
    most, proportion = max(_FINE, *shape), frame.proportion()
    sides = (most * min(proportion, 1), most / max(proportion, 1))
    return tuple(max(2, round(side)) for side in sides)


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
