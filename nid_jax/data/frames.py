"""The frame of signals whose coordinates and values have units of their own.

A frame is a box of coordinates that becomes [-1, 1] along each of D axes, and a range of each of C
channels that becomes 0 to 1. Renders and new measurements use the frame that was learned in.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from nid_jax.errors import ArgumentError

# What rounding may put a point outside: of a side, as coordinates are often printed, and of numbers
# that are far from 0.
_SLACK, _ROUNDING = 1e-6, 1e-9


def told_apart(*numbers: float) -> list[str]:
    """Numbers with 6 digits, or as many more as tell different ones apart."""
    different = len(set(map(float, numbers)))
    for digits in range(6, 18):
        words = [f"{number:.{digits}g}" for number in numbers]
        if len(set(words)) == different:
            break
    return words


@dataclasses.dataclass(frozen=True)
class Scale:
    """One coordinate or channel: what it is called, its unit, and its ends."""

    name: str
    unit: str
    low: float
    high: float

    @property
    def label(self) -> str:
        """The name, with the unit where there is one."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def span(self) -> float:
        """high - low."""
        return self.high - self.low

    def beyond(self, numbers: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which lie outside by more than rounding, or are no numbers."""
        slack = max(_SLACK * self.span, _ROUNDING * max(abs(self.low), abs(self.high)))
        return ~((numbers >= self.low - slack) & (numbers <= self.high + slack))


@dataclasses.dataclass(frozen=True)
class Frame:
    """D axes and C channels. Fits render values from 0 to 1 of points in [-1, 1]^D."""

    axes: tuple[Scale, ...]
    channels: tuple[Scale, ...]

    def inside(self, coordinates: Float[np.ndarray, "P D"]) -> Float32[np.ndarray, "P D"]:
        """Points in [-1, 1]^D of own coordinates. Raises ArgumentError for those outside."""
        given = np.asarray(coordinates, np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.axes):
            raise ArgumentError("coordinates", given.shape, f"(P, {len(self.axes)})")
        for axis, column in zip(self.axes, given.T, strict=True):
            outside = axis.beyond(column)
            if outside.any():
                wrong, low, high = told_apart(column[outside][0], axis.low, axis.high)
                raise ArgumentError(axis.label, float(wrong), f"{low} to {high}, the frame")
        lows, spans = self._ends(self.axes)
        return np.clip(2 * (given - lows) / spans - 1, -1, 1).astype(np.float32)

    def outside(self, points: Float[np.ndarray, "P D"]) -> Float[np.ndarray, "P D"]:
        """Own coordinates of points in [-1, 1]^D."""
        lows, spans = self._ends(self.axes)
        return lows + (np.asarray(points, np.float64) + 1) / 2 * spans

    def scaled(self, values: Float[np.ndarray, "... C"]) -> Float32[np.ndarray, "... C"]:
        """Values in own units as 0 to 1; beyond the range they go on."""
        lows, spans = self._ends(self.channels)
        return ((np.asarray(values, np.float64) - lows) / spans).astype(np.float32)

    def values(self, scaled: Float[np.ndarray, "... C"]) -> Float32[np.ndarray, "... C"]:
        """Values in own units of those that a fit renders."""
        lows, spans = self._ends(self.channels)
        return (lows + np.asarray(scaled, np.float64) * spans).astype(np.float32)

    @property
    def spans(self) -> Float[np.ndarray, " C"]:
        """What 1 of a scaled value is in own units: deviations times this are in own units."""
        return self._ends(self.channels)[1]

    def at(self, fit: Any, coordinates: Float[np.ndarray, "P D"]) -> Float32[np.ndarray, "S P C"]:
        """What a fit says at own coordinates, in own units. Raises ArgumentError outside."""
        return self.values(fit.at(self.inside(coordinates)))

    def samples(self, shape: Sequence[int]) -> list[Float[np.ndarray, " n"]]:
        """Own coordinates of a grid's samples along each axis."""
        return [
            np.linspace(axis.low, axis.high, side)
            for axis, side in zip(self.axes, shape, strict=True)
        ]

    def window(self, window: Sequence[tuple[float, float]] | None) -> "Frame":
        """The frame of a part, by ends in [-1, 1] of each axis; None: all of it."""
        if window is None:
            return self
        ends = self.outside(np.array(window, np.float64).T)
        axes = (
            dataclasses.replace(axis, low=float(low), high=float(high))
            for axis, (low, high) in zip(self.axes, ends.T, strict=True)
        )
        return dataclasses.replace(self, axes=tuple(axes))

    def proportion(self) -> float:
        """How high a map of the last two axes is as a part of its width: as their spans are where
        they have one unit, and both sides alike otherwise, or where one is over 4 times the other.
        """
        up, right = self.axes[-2:]
        found = up.span / right.span if up.unit == right.unit else 1.0
        return found if 0.25 <= found <= 4 else 1.0

    def as_json(self) -> dict[str, Any]:
        """In JSON types."""
        return {
            kind: [dataclasses.asdict(scale) for scale in getattr(self, kind)]
            for kind in ("axes", "channels")
        }

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> "Frame":
        """What `as_json` gave."""
        return cls(*(tuple(Scale(**one) for one in stored[kind]) for kind in ("axes", "channels")))

    @staticmethod
    def _ends(scales):
        return np.array([one.low for one in scales]), np.array([one.span for one in scales])
