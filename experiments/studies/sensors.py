"""Scattered sensors that differ from day to day: dictionaries beside what is fitted day by day.

Every method is judged by the temperature of unseen days on the whole grid, from all the stations of
a day and from few of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measuring import command
from measuring.command import clocked, say
from peers import imputation
from peers.components import Components, codes_of_few, prior_of
from peers.descent import descend
from peers.networks import siren
from scipy.interpolate import RBFInterpolator, RegularGridInterpolator

import nid_jax as nid
from nid_jax import data, metrics, tasks
from nid_jax.baselines import scattered
from nid_jax.fields.coordinates import grid

# Directions of the Gaussian that is learned, all of its cosines; and principal components, which
# are fewer than the days.
NUMBERS, COMPONENTS = 400, 128
# Cells of the plane that imputation sorts stations into, along each axis.
CELLS = 10
# Of the networks: frequencies and steps, the best of which in hindsight counts.
OMEGAS, STEPS, RATE, WIDTH = (3.0, 8.0), (50, 100, 200, 400), 1e-3, 64


class Sensed(NamedTuple):
    """Unseen days by a method: PSNR of the range from all of their stations, and from few.

    seconds: that learning from the other days took, 0 where nothing is learned; each: that fitting
    and drawing one day took, compilation included.
    """

    contest: str
    method: str
    numbers: int
    psnr: float
    few: float
    seconds: float
    each: float


class Days:
    """Days to learn from, and unseen ones with their truth.

    stations: of a day, at most; few: of an unseen day that fits see in the second contest.
    """

    def __init__(self, days, unseen, stations, few):
        self.contest, self.few = f"weather, {stations} stations a day; few: {few}", few
        changes = {"data.num_train": days, "data.num_test": unseen, "fit.held_out": 0.0}
        changes["data.stations.count"] = stations
        changes |= {"dictionary.num_experts": NUMBERS, "fit.uncertainty": False}
        self.config = command.config_of("fields", "cpu", changes)
        self.train, self.unseen = (tasks.build(self.config).open(s) for s in ("train", "test"))
        self.shape = self.train.shape[:-1]
        count = range(len(self.unseen))
        self.truth = np.stack([self.unseen.truth(index).ravel() for index in count])
        self.grid = np.asarray(grid(self.shape), float)
        whole = [_day(self.unseen, index) for index in count]
        draw = np.random.default_rng(1)
        chosen = [np.sort(draw.permutation(len(values))[:few]) for _, values in whole]
        part = [(points[c], values[c]) for (points, values), c in zip(whole, chosen, strict=True)]
        self.given = {"all": whole, "few": part}

    def row(self, method, numbers, found, learning, fitting):
        """found: 'all' and 'few' -> fields [S, P]; seconds of learning, and of all these fits."""
        scores = {
            name: float(np.mean(metrics.psnr_from_mse(np.square(fields - self.truth).mean(1))))
            for name, fields in found.items()
        }
        each = fitting / sum(map(len, found.values()))
        say(
            f"{method}: {scores['all']:.2f} dB, {scores['few']:.2f} dB, learned in "
            f"{learning:.1f} s, a day in {each:.3f} s"
        )
        both = scores["all"], scores["few"]
        return Sensed(self.contest, method, numbers, *both, learning, each)


def _day(collection, index):
    return np.asarray(collection.points(index), float), np.asarray(collection[index][:, 0], float)


def by_dictionary(days):
    """Learned from every day's own stations by expectation maximisation."""
    known, seconds = clocked(lambda: nid.learn(days.config))
    task, frame = tasks.build(days.config), days.unseen.frame

    def one(name, given):
        collection = data.PointsCollection(
            [frame.outside(points) for points, _ in given],
            [frame.values(values[:, None]) for _, values in given],
            frame,
            days.shape,
            days.unseen.names,
            name,
        )
        fit = known.fit_collection(task, collection, days.config)
        return fit.render(days.shape).reshape(len(given), -1)

    found, fitting = clocked(lambda: {name: one(name, given) for name, given in days.given.items()})
    return days.row("NID, each day's own stations", known.num_experts, found, seconds, fitting)


def by_kriging(days):
    """A Gaussian process of each day, its lengths, variance and noise those of highest evidence."""

    def one(points, values):
        return scattered.kriging(points, values[:, None], days.grid)[:, 0]

    found, seconds = clocked(lambda: _each(days, one))
    return days.row("kriging, day by day", 4, found, 0.0, seconds)


def _each(days, one):
    return {
        name: np.stack([one(points, values) for points, values in given])
        for name, given in days.given.items()
    }


def by_networks(days):
    """A SIREN of each day; frequency and steps are those that turn out best."""

    def learned():
        found = {}
        for name, given in days.given.items():
            best = (-np.inf, None)
            for omega0 in OMEGAS:
                for fields in _networks(days, given, omega0):
                    errors = np.square(fields - days.truth).mean(1)
                    score = -np.log(errors).mean()
                    best = max(best, (score, fields), key=lambda pair: pair[0])
            found[name] = best[1]
        return found

    network = siren(days.grid, 1, WIDTH, 3)
    found, seconds = clocked(learned)
    numbers = network.numbers
    return days.row("SIREN, day by day, best in hindsight", numbers, found, 0.0, seconds)


def _networks(days, given, omega0):
    """Fields [S, P] of networks of every day after each of `STEPS`."""
    most = max(len(values) for _, values in given)
    network = siren(days.grid, 1, WIDTH, 3, omega0)
    rows = [(*_padded(points, most), *_padded(values[:, None], most)) for points, values in given]
    points, weights, values, _ = (
        jnp.asarray(np.stack(one), jnp.float32) for one in zip(*rows, strict=True)
    )
    layers = jax.vmap(network.draw)(jax.random.split(jax.random.key(0), len(given)))

    def residual(layers, points, weights, values):
        left = jnp.square(network.at(layers, points) - values)[:, 0]
        return (weights * left).sum() / weights.sum()

    def objective(layers, values, _):
        return jax.vmap(residual)(layers, points, weights, values).sum()

    marks = descend(objective, layers, RATE, values, marks=STEPS).marks
    render = jax.jit(jax.vmap(network.render))
    return [np.asarray(render(mark.variables))[..., 0] for mark in marks]


def _padded(rows, count):
    """(rows up to a count, weights)."""
    more = count - len(rows)
    return np.pad(rows, ((0, more), (0, 0)), "edge"), np.arange(count) < len(rows)


def by_interpolation(days):
    """Principal components of days that thin plates bring to the grid."""

    def one(points, values):
        return RBFInterpolator(points, values, smoothing=1e-3)(days.grid)

    def learned():
        rows = np.stack([one(*_day(days.train, index)) for index in range(len(days.train))])
        return _components(rows.astype(np.float32))

    return _by_components("PCA after interpolation", learned, days)


def by_imputation(days):
    """Principal components of coarse cells that stations lie in, filled in in turn."""

    def learned():
        count, shape = len(days.train), (CELLS, CELLS)
        total, seen = (np.zeros((count, CELLS**2)) for _ in range(2))
        for index in range(count):
            points, values = _day(days.train, index)
            cells = np.round((points + 1) / 2 * (CELLS - 1)).astype(int)
            at = np.ravel_multi_index(tuple(cells.T), shape)
            np.add.at(total[index], at, values)
            np.add.at(seen[index], at, 1)
        rows = total / np.maximum(seen, 1)
        filled = imputation.imputed(rows.astype(np.float32), seen > 0)
        fine = _interpolated(filled, days.grid, shape)
        return _components(fine.astype(np.float32))

    return _by_components("PCA by alternating imputation", learned, days)


def _components(rows):
    """Principal components of days on the grid, and the Gaussian of their codes."""
    known = Components(rows, min(COMPONENTS, len(rows) - 2))
    return known, prior_of(known, rows)


def _by_components(method, learned, days):
    """Fields of unseen days, the most probable under the Gaussian of principal components."""
    (known, prior), seconds = clocked(learned)

    def one(points, values):
        axes = _interpolated(np.vstack([known.mean[None], known.axes]), points, days.shape)
        left = (values - axes[0])[None]
        return known.decode(codes_of_few(axes[1:], prior, left))[0]

    found, fitting = clocked(lambda: _each(days, one))
    return days.row(method, len(known.axes), found, seconds, fitting)


def _interpolated(rows, points, shape):
    """Rows [K, P] of a grid at points [M, 2], linearly. -> [K, M]."""
    sides = [np.linspace(-1, 1, side) for side in shape]
    return RegularGridInterpolator(sides, rows.T.reshape(*shape, -1))(points).T


METHODS = (by_dictionary, by_kriging, by_networks, by_interpolation, by_imputation)


def compared(days, unseen, counts):
    """Rows of all methods, of so many days to learn from and unseen ones.

    counts: (stations of a day, few of them) of each contest.
    """
    rows = []
    for stations, few in counts:
        shared = Days(days, unseen, stations, few)
        rows += [method(shared) for method in METHODS]
    return rows
