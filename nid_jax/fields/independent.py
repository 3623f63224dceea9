"""A dictionary whose experts are small networks of their own."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from nid_jax import numerics
from nid_jax.errors import ArgumentError
from nid_jax.fields import experts
from nid_jax.fields.dictionary import (
    GATHER_COST,
    Dictionary,
    last_layer,
    over_points,
    points_at_a_time,
)
from nid_jax.fields.routing import Gates
from nid_jax.fields.variables import Basis, Constant, Kernel

# An embedding of at most this many features is copied to every expert: on CPU the batched product
# that follows is faster than one wide product whose result must be transposed.
_COPIED_FEATURES = 16


class IndependentDictionary(Dictionary):
    """E small networks of one shape, their parameters stacked.

    kernels [E, in, out], biases [E, out]. Nothing is shared but the embedding, so E atoms may span
    E dimensions. Its atoms are the networks, or sums of them where a `mixing` [networks, E] and a
    `level` [E, C] are there, which no training moves: what `mixed` gives.
    """

    kind = "independent"
    orders: tuple[str, ...] = ("evaluate", "gather")

    def _make(self, rngs: nnx.Rngs) -> None:
        self.mixing: Constant | None = nnx.data(None)
        self.level: Constant | None = nnx.data(None)
        self.sizes = (*self.sizes, self.channels)
        drawn = self._draw(rngs.params(), self.num_experts)
        self.kernels = nnx.List([Kernel(k, axes=("expert", None, None)) for k, _ in drawn])
        self.biases = nnx.List([Basis(b, axes=("expert", None)) for _, b in drawn])

    def _draw(self, key: Key[Array, ""], count: int) -> tuple[tuple[Array, Array], ...]:
        """Layers of `count` new experts, stacked."""
        init = functools.partial(
            experts.init_layers,
            sizes=self.sizes,
            activation=self.activation,
            omega0=self.omega0,
        )
        return jax.vmap(init)(jax.random.split(key, count))

    def _layers(self) -> tuple[tuple[Array, Array], ...]:
        return tuple((k[...], b[...]) for k, b in zip(self.kernels, self.biases, strict=True))

    def _apply(
        self, layers: experts.Network, embedded: Float[Array, "P F"]
    ) -> Float[Array, "P K C"]:
        """Networks stacked along [K] at embedded points [P, in] -> [P, K, C]."""
        one = self._network()
        if embedded.shape[-1] > _COPIED_FEATURES:
            return jax.vmap(one, in_axes=(0, None), out_axes=1)(layers, embedded)
        count = layers[0][0].shape[0]
        copies = jnp.broadcast_to(embedded, (count, *embedded.shape))
        return jax.vmap(one, out_axes=1)(layers, copies)

    def _network(self, **options):
        """`experts.apply_layers` as the networks are made."""
        return functools.partial(
            experts.apply_layers,
            activation=self.activation,
            omega0=self.omega0,
            matmul=self.matmul,
            **options,
        )

    def basis(self, x: Float[Array, "P D"]) -> Float[Array, "P E C"]:
        return over_points(lambda p: self._mixed(self._networks(p)), x, self._chunk())

    def _networks(self, x: Float[Array, "P D"]) -> Float[Array, "P N C"]:
        """Every network at every point."""
        return self._apply(self._layers(), self.embedding(x))

    def _mixed(self, values: Float[Array, "P N C"]) -> Float[Array, "P E C"]:
        """The atoms from the values of the networks."""
        if self.mixing is None or self.level is None:
            return values
        return numerics.einsum("pnc,ne->pec", values, self.mixing[...]) - self.level[...]

    def basis_of(self, x: Float[Array, "P D"], indices: Int[Array, " K"]) -> Float[Array, "P K C"]:
        if self.mixing is not None:
            return self.basis(x)[:, indices]
        layers = jax.tree.map(lambda leaf: leaf[indices], self._layers())
        return self._apply(layers, self.embedding(x))

    def _evaluate(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        if self.mixing is None or self.level is None:
            return super()._evaluate(x, gates)
        # Codes of the networks: a signal is mixed once, not every point.
        weights = numerics.einsum("se,ne->sn", gates.values, self.mixing[...])
        level = numerics.einsum("se,ec->sc", gates.values, self.level[...])
        values = over_points(
            lambda piece: numerics.einsum("sn,pnc->psc", weights, self._networks(piece)),
            x,
            self._chunk(),
        )
        return values.swapaxes(0, 1) - level[:, None, :]

    def _chunk(self) -> int:
        return points_at_a_time(self.num_networks * max(self.width, self.channels))

    @property
    def num_networks(self) -> int:
        return self.kernels[0].shape[0]

    def mix_by(self, mixing: Float[np.ndarray, "E N"], level: Float[np.ndarray, "N C"]) -> None:
        if self.mixing is not None and self.level is not None:
            level = level + mixing.T @ np.asarray(self.level[...], np.float64)
            mixing = np.asarray(self.mixing[...], np.float64) @ mixing
        layout = self.kernels[0][...].sharding
        if isinstance(layout, jax.sharding.NamedSharding):
            layout = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec())
        parts = (part.astype(np.float32) for part in (mixing, level))
        self.put_mixing(*(jax.device_put(part, layout) for part in parts))

    def put_mixing(self, mixing: Float[Array, "N E"], level: Float[Array, "E C"]) -> None:
        """Make the atoms networks @ mixing - level, whatever they were."""
        self.mixing, self.level = Constant(mixing), Constant(level)
        # Every atom is a sum of all networks: none can be gathered.
        self.orders = ("evaluate",)

    def _keep(self, count: int) -> None:
        if self.mixing is not None and self.level is not None:
            self.mixing = Constant(self.mixing[...][:, :count])
            self.level = Constant(self.level[...][:count])
            return
        for variable in (*self.kernels, *self.biases):
            variable.set_value(variable[...][:count])

    def refit(
        self,
        indices: Int[Array, " K"],
        x: Float[Array, "P D"],
        targets: Float[Array, "K P C"],
        key: Key[Array, ""],
    ) -> None:
        if self.mixing is not None:
            raise ArgumentError("dictionary", "mixed", "one whose atoms are its networks")
        size = jnp.sqrt(jnp.square(self.basis(x)).mean())
        layers = self._draw(key, len(indices))
        hidden = self._network(final=False)
        features = jax.vmap(hidden, in_axes=(0, None))(layers[:-1], self.embedding(x))
        solved = jax.vmap(lambda h, t: last_layer(h, t[:, None], size)[:, 0])(features, targets)
        layers = (*layers[:-1], (solved[:, :-1], solved[:, -1]))
        for kernel, bias, (new_kernel, new_bias) in zip(
            self.kernels, self.biases, layers, strict=True
        ):
            kernel[...] = kernel[...].at[indices].set(new_kernel)
            bias[...] = bias[...].at[indices].set(new_bias)

    def expert_cost(self) -> int:
        """Operations of one expert at one point."""
        return experts.layer_cost(self.sizes, self.activation)

    def cost(self, order: str, points: int, signals: int, active: int) -> int:
        if order == "gather":
            numbers = sum(math.prod(k.shape[1:]) for k in self.kernels)
            per_expert = points * (self.expert_cost() + 2 * self.channels)
            return signals * active * (per_expert + GATHER_COST * numbers)
        return points * self.num_networks * (self.expert_cost() + 2 * signals * self.channels)

    def _gather(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        layers, embedded = self._layers(), self.embedding(x)
        assert gates.indices is not None, "combine gathers for sparse codes only"
        chunk = points_at_a_time(gates.indices.shape[-1] * max(self.width, self.channels))

        @jax.checkpoint
        def one_signal(code):
            indices, weights = code
            chosen = jax.tree.map(lambda leaf: leaf[indices], layers)
            return over_points(
                lambda piece: numerics.einsum("k,pkc->pc", weights, self._apply(chosen, piece)),
                embedded,
                chunk,
            )

        return jax.lax.map(one_signal, (gates.indices, gates.weights))
