"""What a training step sees of a batch's signals."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nid_jax import numerics, platforms
from nid_jax.coding.gram import (
    NormalEquations,
    is_shared,
    normal_equations,
    numbers_per_point,
)
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates


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
        """The normal equations of the batch's codes: a matrix for each signal where they have
        weights or operators of their own."""
        if self.apart:
            found = jax.vmap(lambda one: one._alone(dictionary))(self)
            own = {
                name: getattr(found, name)[:, 0] for name in ("moments", "energy", "target_mean")
            }
            return found._replace(**own)
        measured = dictionary, self.operator, self.targets, self.weights
        return normal_equations(*measured, precision="float32")

    def _alone(self, dictionary):
        """`equations` of one signal, without an axis B."""
        measured = dictionary, self.operator, self.targets[None], self.weights
        return normal_equations(*measured, precision="float32")

    def solved(
        self, dictionary: Dictionary, solve: Callable[[NormalEquations], Gates]
    ) -> tuple[Gates, NormalEquations | None]:
        """Codes from the equations, and these where all signals share them.

        With weights or operators of their own some signals are solved at a time, whose matrices can
        be held.
        """
        if self.weights is None and not self.apart:
            equations = self.equations(dictionary)
            return solve(equations), equations
        count = len(self.targets)
        sizes = platforms.sizes()
        most = max(1, sizes.held // self._numbers(dictionary))
        if self.apart:
            most = sizes.matrices or most
        size = numerics.even_size(count, most)

        def some(places):
            # The last signal fills the last group up.
            own = self._of_signals(jnp.minimum(places, count - 1))
            return solve(own.equations(dictionary))

        groups = jnp.arange(-(-count // size) * size).reshape(-1, size)
        found = jax.lax.map(some, groups)
        return jax.tree.map(lambda leaf: numerics.joined(leaf, count), found), None

    def _of_signals(self, places):
        whole = self if self.apart else self._replace(operator=None)
        chosen = jax.tree.map(lambda leaf: leaf[places], whole)
        return chosen if self.apart else chosen._replace(operator=self.operator)

    def _numbers(self, dictionary):
        """Of the largest array that the equations of a signal take."""
        features = dictionary.num_features if is_shared(dictionary) else 0
        matrix = max(features + 1, dictionary.num_experts) ** 2
        if not self.apart:
            return matrix
        # Signals that share no points have atoms of their own too, measured in chunks.
        atoms = self.operator.points.shape[1] * numbers_per_point(dictionary)
        return max(matrix, min(atoms, platforms.sizes().chunk))

    def of_measurements(self, chosen: Int[Array, "*B m"] | None) -> "Seen":
        """Some of the measurements, by index [m], or [B, m] of signals with operators of their own;
        None is all of them."""
        if chosen is None:
            return self
        if self.apart:
            return jax.vmap(Seen._of_own)(self, chosen)
        weights = None if self.weights is None else self.weights[:, chosen]
        return Seen(self.operator.of_measurements(chosen), self.targets[:, chosen], weights)

    def _of_own(self, chosen):
        """Of one signal, without an axis B."""
        weights = None if self.weights is None else self.weights[chosen]
        return Seen(self.operator.of_measurements(chosen), self.targets[chosen], weights)
