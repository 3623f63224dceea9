"""Signed distances that go no further than a limit: cut off there, or levelled out smoothly.

Far from a surface a distance says little of it. Cut off (Curless and Levoy 1996) it has a kink all
around the surface that no smooth basis can follow; limit tanh(distance / limit) has the same zero
and the same slope there without one.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

# Kinds, and how many limits from the surface all distances have become the same: to 0.5% for tanh.
KINDS = {"clip": 1.0, "tanh": 3.0}


@dataclasses.dataclass(frozen=True)
class Truncation:
    """Distances [...] -> distances of magnitude `limit` at most; limit 0 leaves them as they are.

    kind: 'clip' or 'tanh'. Raises ValueError naming data.truncation or data.truncation_kind.
    """

    limit: float = 0.0
    kind: str = "clip"

    def __post_init__(self):
        if not 0 <= self.limit < math.inf:
            raise ValueError(f"data.truncation: {self.limit}; allowed: 0 (none) or more")
        if self.kind not in KINDS:
            raise ValueError(f"data.truncation_kind: {self.kind!r}; allowed: {', '.join(KINDS)}")

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Truncation":
        """Of the `data` part of a config."""
        return cls(float(config.truncation), config.truncation_kind)

    def __call__(self, distances: Float[np.ndarray, "*P"]) -> Float[np.ndarray, "*P"]:
        if not self.limit:
            return distances
        if self.kind == "tanh":
            return self.limit * np.tanh(np.asarray(distances) / self.limit)
        return np.clip(distances, -self.limit, self.limit)

    def slope(self, distances: Float[np.ndarray, "*P"]) -> Float[np.ndarray, "*P"]:
        """How fast the truncated distance grows with the distance. 0 to 1."""
        distances = np.asarray(distances)
        if not self.limit:
            return np.ones_like(distances)
        if self.kind == "tanh":
            return 1 / np.cosh(np.minimum(np.abs(distances) / self.limit, 100)) ** 2
        return (np.abs(distances) < self.limit).astype(distances.dtype)

    def largest_limit(self, known: float) -> float:
        """The largest limit of this kind that distances allow which are known up to `known`."""
        return known / KINDS[self.kind]
