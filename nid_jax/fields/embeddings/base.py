"""What every embedding of coordinates has, and the embedding that is none."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


class Embedding(nnx.Module):
    """What every embedding has: dims (D), size (F, the width of its output), and the call.

    num_local: N, features that are not zero at a point, where `local` gives them alone; else 0.
    most_sums: weighted sums of features at a point that `sums` gives sooner than the features are
    there themselves; 0: none.
    """

    dims: int
    size: int
    num_local: int = 0
    most_sums: int = 0

    @property
    def lattice_counts(self) -> tuple[int, ...]:
        """Functions along each axis where every feature is a product of one of each, and
        `on_lattice` and `grid_sums` are there; else ()."""
        return ()

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., F]."""
        raise NotImplementedError

    def local(self, x: Float[Array, "P D"]) -> tuple[Int[Array, "P N"], Float[Array, "P N"]]:
        """The features that are not zero at each point x [P, D]: places and values."""
        raise NotImplementedError

    def sums(self, x: Float[Array, "P D"], weights: Float[Array, "F N"]) -> Float[Array, "P N"]:
        """Sums of features by weights [F, N] at points x [P, D], without the features."""
        raise NotImplementedError

    def on_lattice(self, weights: Float[Array, "F N"]) -> Float[Array, " N *counts"]:
        """Weights [F, N] of features as those of all products of the functions along the axes, of
        which some may be none: there they are 0. -> [N, *lattice_counts]."""
        raise NotImplementedError

    def grid_sums(
        self, axes: Sequence[Float[Array, " n"]], lattice: Float[Array, " N *counts"]
    ) -> Float[Array, " N *grid"]:
        """Sums of features at all points of a grid, given by the coordinates [n] along each of its
        axes, by weights as `on_lattice` gives them [N, *lattice_counts]. -> [N, *grid]."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError for variables, as a file may bring them, that it cannot have."""


class Identity(Embedding):
    """The coordinate itself."""

    def __init__(self, dims: int):
        self.dims, self.size = dims, dims

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """x [..., D] -> [..., D]."""
        return jnp.asarray(x)
