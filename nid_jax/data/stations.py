"""Built-in weather: temperatures of a plane, seen by stations that differ from day to day.

Nothing is downloaded. A day's temperature is a mixture of a few patterns that recur (a gradient to
the north, a cold ridge, a warm coast, a valley that fills with cold air), a front that passes, and
eddies that are finer in the east than in the west: what learning can know and no smoothness does.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.data.collection import position
from nid_jax.data.frames import Frame, Scale
from nid_jax.data.scattered import GRIDS, PointsCollection
from nid_jax.data.splitting import MADE, SPLITS, configured_size, wanted
from nid_jax.fields.coordinates import grid

FRAME = Frame(
    (Scale("y", "km", 0.0, 300.0), Scale("x", "km", 0.0, 400.0)),
    (Scale("temperature", "degrees C", -20.0, 40.0),),
)
# Stations that there are, unless more are to report, and of those that report the share that moves
# about, as ships do.
_POOL, _MOVING = 150, 0.15
# Probability that a region reports nothing, and its radius in [-1, 1].
_GAPS, _GAP = 0.3, 0.6
_EDDIES = 24


class Day(NamedTuple):
    """What a day's temperature is made of."""

    mean: float
    patterns: np.ndarray
    """[5], amplitudes in degrees."""
    front: np.ndarray
    """[4]: angle, place, width, step in degrees."""
    eddies: np.ndarray
    """[_EDDIES, 2], amplitudes of cosines and sines."""


def temperature(day: Day, points: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, " P"]:
    """Degrees Celsius at points (y, x) in [-1, 1]^2."""
    y, x = np.asarray(points, np.float64).T
    ridge = np.exp(-0.5 * np.square((x - 0.35 * y - 0.1) / 0.12))
    coast = 1 / (1 + np.exp(-(x + 0.55 + 0.15 * np.sin(3 * y)) / 0.06))
    valley = np.exp(-0.5 * (np.square((x - 0.6) / 0.1) + np.square((y + 0.4) / 0.35)))
    lake = np.exp(-0.5 * (np.square((x - 0.55) / 0.15) + np.square((y - 0.55) / 0.12)))
    patterns = np.stack([y, -ridge, 1 - coast, -valley, lake])
    angle, place, width, step = day.front
    across = np.cos(angle) * x + np.sin(angle) * y
    found = day.mean + day.patterns @ patterns + step * np.tanh((across - place) / width)
    return found + _eddies(day, y, x)


def _eddies(day, y, x):
    """Small ones, finer in the east."""
    draw = np.random.default_rng(77)
    angles = draw.uniform(0, 2 * np.pi, _EDDIES)
    lengths = draw.uniform(4, 7, _EDDIES)
    east = x + 0.35 * np.square(x + 1)
    phases = lengths[:, None] * (np.outer(np.cos(angles), east) + np.outer(np.sin(angles), y))
    waves = day.eddies[:, :1] * np.cos(phases) + day.eddies[:, 1:] * np.sin(phases)
    return waves.sum(0) * (0.4 + 0.3 * (x + 1))


def draw_day(generator: np.random.Generator) -> Day:
    """A day; patterns depend on one another and on the season."""
    season, weather = generator.standard_normal(2)
    own = generator.standard_normal(5)
    amplitudes = np.array([-4.0, 5.0, 4.0, 3.0, 3.0])
    lean = np.array([0.3, 0.2, 0.8, 0.7, 0.6])
    patterns = amplitudes * (1 + 0.6 * (lean * season + (1 - lean) * weather) + 0.35 * own)
    front = np.array(
        [
            generator.normal(0.4, 0.4),
            generator.uniform(-1.2, 1.2),
            generator.uniform(0.08, 0.3),
            generator.normal(0, 2.5),
        ]
    )
    eddies = generator.normal(0, 0.8 / np.sqrt(_EDDIES), (_EDDIES, 2))
    return Day(10 + 7 * season, patterns, front, eddies)


class StationsCollection(PointsCollection):
    """Days [S] of stations, whose temperature is known everywhere: truth(i) [*grid, 1].

    days: what each is made of; rest: of a `PointsCollection`.
    """

    def __init__(self, days: Sequence[Day], *rest: Any):
        super().__init__(*rest)
        self.days = days

    def truth(self, index: int) -> Float[np.ndarray, "*grid 1"]:
        """The temperature of a day on the grid, scaled by the frame."""
        shape = self.shape[:-1]
        own = temperature(self.days[position(index, len(self))], grid(shape))
        return self.frame.scaled(own.reshape(*shape, 1))


def open_stations(config: ConfigDict, split: str, seed: int) -> StationsCollection:
    """The built-in days of a split: data.num_train 300 and data.num_test 60 where they are 0.

    data.stations.count: stations of a day, at most; some of a pool report, some move about, and in
    some regions on some days there are none. data.stations.noise is a standard deviation, in
    degrees. A longer collection begins with the shorter one.
    Raises ValueError naming the key.
    """
    options = config.stations
    if not (isinstance(options.count, int) and options.count >= 2):
        raise ValueError(f"data.stations.count: {options.count}; allowed: 2 or more")
    if not options.noise >= 0:
        raise ValueError(f"data.stations.noise: {options.noise}; allowed: a deviation, 0 or more")
    count = wanted(config, split) or MADE["stations"][split]
    stay = options.count - round(_MOVING * options.count)
    pool = np.random.default_rng([seed, 2]).uniform(-1, 1, (max(_POOL, stay), 2))
    days, coordinates, values = [], [], []
    for number in range(count):
        generator = np.random.default_rng([seed, SPLITS.index(split), number])
        day = draw_day(generator)
        points = _reporting(generator, pool, stay, options.count - stay)
        own = temperature(day, points) + options.noise * generator.standard_normal(len(points))
        days.append(day)
        coordinates.append(FRAME.outside(points))
        values.append(own[:, None])
    shape = configured_size(config) or GRIDS[2]
    names = [f"day_{number:04d}" for number in range(count)]
    return StationsCollection(days, coordinates, values, FRAME, shape, names, "weather stations")


def _reporting(generator, pool, stay, move):
    """Points [P, 2] of the stations of a day: so many of the pool, and so many that move about."""
    moving = generator.uniform(-1, 1, (move, 2))
    chosen = generator.permutation(len(pool))[:stay]
    points = np.concatenate([pool[chosen], moving])
    if generator.uniform() < _GAPS:
        centre = generator.uniform(-0.8, 0.8, 2)
        outside = np.linalg.norm(points - centre, axis=1) > _GAP
        points = points[outside] if outside.sum() >= 2 else points
    return points
