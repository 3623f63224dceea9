"""What pictures are compared with: the mean signal, and what is made of them without learning."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from nid_jax.baselines import images, least_squares, tomography
from nid_jax.coding import grid_operator, operators
from nid_jax.coding.prior import GaussianPrior
from nid_jax.fitting import ways
from nid_jax.fitting.fit import Fit
from nid_jax.tasks import showing
from nid_jax.tasks.task import Baseline, Baselines, Measured

Scorer = Callable[[Any], Mapping[str, Any]]
"""The first of the whole signals, as many as there are -> the task's scores of them."""
_SIRT = (
    "Simultaneous iterative reconstruction: pixels that are not negative and explain the sinogram, "
    "by a few steps from zero."
)
_ZERO_FILLING = "Zeros for frequencies that were not measured."
_LEAST_SQUARES = (
    "Pixels that explain the measurements, by a few steps of conjugate gradients from zero."
)


@dataclasses.dataclass(frozen=True)
class FirstSignals:
    """The first whole signals of a fit."""

    pieces: list[int]
    """How many fitted signals each of them was cut to; 1 where it was not."""
    truth: Any | None
    """[n, *grid, C], a list where their sizes differ, or None."""
    scored: Scorer
    put_together: Callable[[Any], Any] = lambda values: values
    """Pieces -> whole signals."""

    @property
    def uncut(self) -> bool:
        """Whether whole signals were fitted."""
        return all(number == 1 for number in self.pieces)

    def fewer(self, count: int) -> "FirstSignals":
        """The first `count` of them."""
        truth = None if self.truth is None else self.truth[:count]
        return dataclasses.replace(self, pieces=self.pieces[:count], truth=truth)

    def alike(self, one: Float[np.ndarray, "*shape C"]) -> tuple[Any, Mapping[str, Any]]:
        """One fitted signal for every one of them: whole signals and their scores."""
        found = self.put_together(np.broadcast_to(one, (sum(self.pieces), *one.shape)))
        return found, self.scored(found)


def mean_signal(
    fit: Fit, prior: GaussianPrior | None, shape: Sequence[int]
) -> Float[np.ndarray, "*shape C"] | None:
    """What the mean code of the training signals renders; None where it is not known."""
    found = None if prior is None else prior.middle(fit.dictionary.num_experts)
    if found is None:
        return None
    code, bias = (part[None] for part in found)
    return np.asarray(Fit.of_codes(fit.dictionary, code, bias, fit.grid_shape).render(shape))[0]


def mean(
    fit: Fit,
    prior: GaussianPrior | None,
    shape: Sequence[int],
    alike: Callable[[Any], tuple[Any, Mapping[str, Any]]],
    what: str = "image",
) -> list[Baseline]:
    """The mean training signal for every one; [] where it is not known.

    alike: one signal [*shape, C] for all -> whole signals and their scores; what: a signal is.
    """
    one = mean_signal(fit, prior, shape)
    if one is None:
        return []
    about = "That of the training signals, the same for all: it knows nothing of what was measured."
    return [Baseline(f"mean {what}", about, lambda: alike(one), shown=False)]


def of_mean(
    some: FirstSignals, fit: Fit, prior: GaussianPrior | None, shape: Sequence[int]
) -> Baselines | None:
    """The mean image alone, where a truth is known to compare it with."""
    found = [] if some.truth is None else mean(fit, prior, shape, some.alike)
    return Baselines(len(some.pieces), found) if found else None


def of_whole(
    some: FirstSignals,
    fit: Fit,
    prior: GaussianPrior | None,
    shape: Sequence[int],
    numbers: float,
) -> Baselines | None:
    """Of pictures that were measured whole: the mean, and cosines, so many numbers a piece."""
    truth: Any = some.truth
    if truth is None:
        return None

    def make():
        each = [round(numbers * count) for count in some.pieces]
        found: Any = [images.cosines(*pair) for pair in zip(truth, each, strict=True)]
        found = found if isinstance(truth, list) else np.stack(found)
        return found, some.scored(found)

    about = (
        "The picture's own cosine transform, of which the lowest frequencies are kept: as many "
        "numbers as the fit has. Nothing was learned."
    )
    cosines = Baseline("cosines, as many numbers", about, make, label="cosines")
    return Baselines(len(some.pieces), [*mean(fit, prior, shape, some.alike), cosines])


def of_pixels(
    some: FirstSignals,
    measured: Measured,
    fit: Fit,
    prior: GaussianPrior | None,
    alone: Callable[["PixelMeasurements", Scorer], Baseline] | None,
) -> Baselines | None:
    """Of pictures that one operator measured: the mean, and what pixels alone make of it."""
    given = PixelMeasurements(measured, len(some.pieces))
    pictures = given.pictures()
    if pictures is not None:
        seen = [~np.isnan(one).any(-1) for one in pictures]
        count = images.affordable(seen)
        if not count:
            return of_mean(some, fit, prior, measured.grid_shape)
        some, given = some.fewer(count), PixelMeasurements(measured, count)
        pictures, seen = pictures[:count], seen[:count]

    def scored(signals):
        return {**some.scored(signals), "relative_residual": given.misfits(signals)}

    judged = dataclasses.replace(some, scored=scored)
    if pictures is not None:
        unlearned = biharmonic(pictures, seen, scored)
    else:
        unlearned = alone(given, scored) if alone else given.reconstruct(scored)
    found = mean(fit, prior, measured.grid_shape, judged.alike)
    return Baselines(
        len(some.pieces), [*found, unlearned], {"relative_residual": given.own_misfits(fit)}
    )


def biharmonic(
    pictures: Sequence[Float[np.ndarray, "H W C"]],
    seen: Sequence[Bool[np.ndarray, "H W"]],
    scored: Scorer,
    given_hole: bool = False,
) -> Baseline:
    """Holes filled in smoothly. given_hole: where they are, which the
    fit does not know."""

    def make():
        found: Any = [images.biharmonic(*pair) for pair in zip(pictures, seen, strict=True)]
        found = np.stack(found) if len({one.shape for one in found}) == 1 else found
        return found, scored(found)

    about = "What is hidden is filled in smoothly from what is around it (scikit-image)."
    if given_hole:
        about += " It is told what is hidden, which the fit is not."
    name = "biharmonic, told the hole" if given_hole else "biharmonic"
    return Baseline(name, about, make, label="biharmonic")


class PixelMeasurements:
    """The measurements of the first signals by one operator, and what pixels alone make of them."""

    def __init__(self, measured: Measured, count: int):
        read = measured.values
        assert read is not None
        self.operator, self.shape = measured.operator, measured.grid_shape
        self.values = np.stack([np.asarray(read(index)) for index in range(count)])
        own = [_weights(measured, index) for index in range(count)]
        self.weights = None if any(one is None for one in own) else np.stack(own)

    @property
    def seen(self) -> Bool[np.ndarray, "n M"]:
        """What was measured of each signal."""
        shape = self.values.shape[:2]
        return np.ones(shape, bool) if self.weights is None else self.weights > 0

    def pictures(self) -> list[Float[np.ndarray, "H W C"]] | None:
        """Pixels that were sampled, NaN elsewhere; None of measurements that are no pixels."""
        at = showing.places(self.operator, self.shape) if self.operator.run_length == 1 else None
        if at is None:
            return None
        rows = zip(self.values, self.seen, strict=True)
        return [showing.scattered(*row, at, self.shape) for row in rows]

    def misfits(self, signals: Float[np.ndarray, "n *grid C"]) -> Float[np.ndarray, " n"]:
        """||A x - y|| / ||y|| of each of as many signals, linear between their pixels."""
        on_grid = grid_operator.on_grid(self.operator, self.shape)
        flat = np.asarray(signals, np.float32).reshape(len(self.values), -1, signals.shape[-1])
        return self._shares(np.asarray(on_grid.measure(flat)))

    def own_misfits(self, fit: Fit) -> Float[np.ndarray, " n"]:
        """Those of a fit."""
        return self._shares(np.asarray(fit[: len(self.values)].measured_by(self.operator)))

    def _shares(self, found):
        seen = self.seen[..., None]
        left, size = (np.where(seen, one, 0) for one in (found - self.values, self.values))
        left, size = (np.sqrt(np.square(one, dtype=float).sum((1, 2))) for one in (left, size))
        return left / np.maximum(size, 1e-12)

    def reconstruct(self, scored: Scorer) -> Baseline:
        """Pixels alone that explain the measurements, by a few steps from zero.

        SIRT of beams, least squares of others; ArgumentError where the grid cannot have them.
        """
        solve, name, about = least_squares.reconstruct, "least squares", _LEAST_SQUARES
        if isinstance(self.operator, operators.ParallelBeam | operators.FanBeam):
            solve, name, about = tomography.sirt, "SIRT", _SIRT
        elif isinstance(self.operator, operators.Fourier):
            name, about = "zero filling", _ZERO_FILLING

        def make():
            found = solve(self.operator, self.shape, self.values, self.weights)
            return found, scored(found)

        return Baseline(name, f"{about} Nothing was learned.", make)


def _weights(measured, index):
    """Weights [M] of a signal's measurements; None where all count alike."""
    found = ways.weights_of(measured, index)
    return found if found is None or found.ndim == 1 else found[index]
