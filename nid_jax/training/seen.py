"""What a training step sees of a batch's signals."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from nid_jax.coding.gram import NormalEquations, is_shared, normal_equations
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates

# Numbers of matrices of signals with weights of their own that are held at a time.
_MATRIX_NUMBERS = 2**25


class Seen(NamedTuple):
    """Measurements of a batch, with what measured them."""

    operator: Any
    """Of all signals, points [Q, D]; or one for each, every array with an axis B in front."""
    targets: Float[Array, "B M C"]
    """0 where there is no weight."""
    weights: Float[Array, "B M"] | None = None
    """Of measurements; None: all alike."""

    @property
    def apart(self) -> bool:
        """Whether every signal has an operator of its own."""
        return self.operator.points.ndim == 3

    def rendered(self, dictionary: Dictionary, gates: Gates) -> Float[Array, "B M C"]:
        """What would have been measured of signals of given codes."""
        operator = self.operator
        if not self.apart:
            return operator.measure(dictionary.combine(operator.points, gates))

        def one(operator, row):
            row = jax.tree.map(lambda leaf: leaf[None], row)
            return operator.measure(dictionary.combine(operator.points, row))[0]

        return jax.vmap(one)(operator, gates)

    def equations(self, dictionary: Dictionary) -> NormalEquations:
        """The normal equations of the batch's codes, of one operator: with weights a matrix for
        each signal."""
        measured = dictionary, self.operator, self.targets, self.weights
        return normal_equations(*measured, precision="float32")

    def solved(
        self, dictionary: Dictionary, solve: Callable[[NormalEquations], Gates]
    ) -> tuple[Gates, NormalEquations | None]:
        """Codes from the equations, and these where all signals share them.

        With weights few matrices are held at a time, and of signals with operators of their own
        one.
        """
        if self.weights is None and not self.apart:
            equations = self.equations(dictionary)
            return solve(equations), equations
        count = len(self.targets)
        size = 1 if self.apart else _divisor(count, _numbers(dictionary))

        def some(own):
            if self.apart:
                own = own._replace(operator=jax.tree.map(lambda leaf: leaf[0], own.operator))
            else:
                own = own._replace(operator=self.operator)
            return solve(own.equations(dictionary))

        whole = self if self.apart else self._replace(operator=None)
        groups = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), whole)
        found = jax.lax.map(some, groups)
        return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), found), None

    def of_measurements(self, chosen: Array | None) -> "Seen":
        """Some of the measurements, by index [m]; None is all of them."""
        if chosen is None:
            return self
        operator = (
            jax.vmap(lambda one: one.of_measurements(chosen))(self.operator)
            if self.apart
            else self.operator.of_measurements(chosen)
        )
        weights = None if self.weights is None else self.weights[:, chosen]
        return Seen(operator, self.targets[:, chosen], weights)


def _numbers(dictionary):
    """Of the largest matrix that the equations of a signal take."""
    features = dictionary.num_features if is_shared(dictionary) else 0
    return max(features + 1, dictionary.num_experts) ** 2


def _divisor(count, numbers):
    """The most signals at a time that divide `count` and whose matrices are held."""
    most = max(1, _MATRIX_NUMBERS // numbers)
    return max(size for size in range(1, count + 1) if count % size == 0 and size <= most)
