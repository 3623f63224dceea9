"""What shapes are compared with: the mean one, the nearest of the training, and their samples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nid_jax.baselines import shapes
from nid_jax.coding.prior import GaussianPrior
from nid_jax.fields.coordinates import grid
from nid_jax.fitting.fit import Fit
from nid_jax.geometry.truncation import Truncation
from nid_jax.tasks import baselines
from nid_jax.tasks.baselines import Scorer
from nid_jax.tasks.task import Baseline, Measured

# Training codes that are looked through, and measurements by which, at most.
_CODES, _POINTS = 500, 2000
_NEAREST = (
    "The one of {} training shapes, as the dictionary renders them, that explains the measurements "
    "best."
)
_BETWEEN = "The samples that were measured, linearly between them. Nothing was learned."
_PLANES = (
    "The distance from the plane of the nearest oriented point (Hoppe et al. 1992). Nothing was "
    "learned."
)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The first n shapes of a fit: what was measured of them, and how they are scored."""

    measured: Measured
    fit: Fit
    prior: GaussianPrior | None
    scored: Scorer
    truncation: Truncation
    count: int

    def methods(self) -> list[Baseline]:
        """The mean shape, the nearest training shape, and what no learning makes of samples."""
        shape, seen = self.measured.grid_shape, self.measured
        some = baselines.FirstSignals([1] * self.count, None, self.scored)
        found = baselines.mean(self.fit, self.prior, shape, some.alike, "shape")
        experts = self.fit.dictionary.num_experts
        known = None if self.prior is None else self.prior.kept(experts, _CODES)
        if known is not None:
            codes, bias = known
            others = Fit.of_codes(self.fit.dictionary, codes, bias, self.fit.grid_shape)
            about = _NEAREST.format(len(codes))
            found.append(Baseline("nearest training shape", about, lambda: self._nearest(others)))
        if seen.values is None and seen.cloud is not None:
            found.append(Baseline("tangent planes", _PLANES, lambda: self.every(self._by_planes)))
        elif seen.values is not None and not seen.whole:
            found.append(Baseline("between samples", _BETWEEN, lambda: self.every(self._between)))
        return found

    def every(self, one: Callable[[int, Any], Any]) -> tuple[Any, Mapping[str, Any]]:
        """Shapes by a function of (number, points of the grid [P, 3]) -> distances [P]."""
        points = grid(self.measured.grid_shape)
        found = np.stack([one(index, points) for index in range(self.count)])
        found = found.reshape(self.count, *self.measured.grid_shape, 1).astype(np.float32)
        return found, self.scored(found)

    def _by_planes(self, index, points):
        return self.truncation(shapes.by_planes(self._cloud(index), points))

    def _between(self, index, points):
        places, values, weights = self._samples(index)
        return shapes.interpolated(places[weights > 0], values[weights > 0], points)

    def _cloud(self, index):
        assert self.measured.cloud is not None
        return self.measured.cloud(index)

    def _samples(self, index):
        """Points, distances and weights of a shape's samples."""
        seen = self.measured
        assert seen.values is not None
        places, values = np.asarray(seen.operator.points), seen.values(index)[:, 0]
        weights = np.ones(len(values)) if seen.weights is None else seen.weights(index)
        return places, values, weights

    def _nearest(self, known):
        """Of fits of training shapes that of least misfit, for every one."""
        draw, chosen = np.random.default_rng(0), []
        rendered = some = None
        for index in range(self.count):
            if self.measured.values is None:
                places = self._cloud(index)[:, :3]
                some = draw.permutation(len(places))[:_POINTS]
                left = np.abs(np.asarray(known.at(places[some]))[..., 0]).mean(1)
            else:
                places, values, weights = self._samples(index)
                if rendered is None:  # All share the places of their samples.
                    some = draw.permutation(len(places))[:_POINTS]
                    rendered = np.asarray(known.at(places[some]))[..., 0]
                left = np.square(rendered - values[some]) @ weights[some]
            chosen.append(int(left.argmin()))
        found = np.asarray(known[chosen].render(self.measured.grid_shape))
        return found, self.scored(found)
