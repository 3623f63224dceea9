"""What a training step sees of a batch's signals."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nid_jax.coding.gram import NormalEquations, normal_equations
from nid_jax.coding.operators import Operator
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates


class Seen(NamedTuple):
    """Measurements of a batch, with what measured them."""

    operator: Operator
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
        """The normal equations of the batch's codes; a matrix for each signal where they differ."""
        if not self.apart:
            measured = dictionary, self.operator, self.targets, self.weights
            return normal_equations(*measured, precision="single")
        weights = self.weights
        if weights is None:
            weights = jnp.ones(self.targets.shape[:2], jnp.float32)

        def one(operator, targets, weights):
            return normal_equations(
                dictionary, operator, targets[None], weights, precision="single"
            )

        found = jax.vmap(one)(self.operator, self.targets, weights)
        # An axis of one signal each.
        single = {name: getattr(found, name)[:, 0] for name in ("moments", "energy", "target_mean")}
        return found._replace(**single)

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
