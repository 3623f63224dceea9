"""Where the state of a training lies on a mesh, also where its experts do not divide by it."""

import jax

from nid_jax import sharding
from nid_jax.training.steps import TrainState


class StateLayout:
    """How a state is held between steps, and how it is outside of them.

    shapes: of the state as it is, with dtypes; held: where each of its arrays lies. Those that do
    not divide evenly are held with zeros at their ends; what a step computes has none of these.
    """

    def __init__(self, shapes: TrainState, held: TrainState):
        self.shapes, self.held = shapes, held
        # An array of uneven parts cannot leave a program, so outside it lies everywhere.
        self.outside = sharding.fitting(shapes, held)
        self.even = jax.tree.leaves(self.outside) == jax.tree.leaves(held)
        self._take = jax.jit(self.filled, out_shardings=held)
        self._give = jax.jit(self.emptied, out_shardings=self.outside)

    def filled(self, state: TrainState) -> TrainState:
        """As it is held; inside of a jitted function."""
        return sharding.filled(state, self.held)

    def emptied(self, state: TrainState) -> TrainState:
        """As it is; inside of a jitted function."""
        return sharding.emptied(state, self.shapes)

    def take(self, state: TrainState) -> TrainState:
        """A state that lies anywhere, as it is held. In several processes as `sharding.place`."""
        state = sharding.put(state, self.outside)
        return state if self.even else self._take(state)

    def give(self, state: TrainState) -> TrainState:
        """A state that is held, as it is."""
        return state if self.even else self._give(state)
