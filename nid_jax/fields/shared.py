"""A dictionary whose experts are linear heads of features that all of them share."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from nid_jax import numerics
from nid_jax.fields import experts
from nid_jax.fields.dictionary import (
    GATHER_COST,
    Dictionary,
    last_layer,
    over_points,
    points_at_a_time,
)
from nid_jax.fields.embeddings import Embedding
from nid_jax.fields.experts import Layers
from nid_jax.fields.routing import Gates
from nid_jax.fields.variables import Basis, Kernel

# Features whose heads are mixed at a time.
_MIXED_FEATURES = 8192


class SharedDictionary(Dictionary):
    """F features h(x) that all experts share and E linear heads: expert_e(x) = h(x) W[:, e] + b[e].

    The features are the outputs of a trunk of `num_layers - 1` layers, H, and with `skip` the
    embedding beside them; of one layer, the heads alone, they are the embedding. Atoms span at most
    C (F + 1) dimensions, whatever E is. Heads: kernel [F, C, E], bias [E, C]. Codes are folded over
    the last axis of the kernel: over an inner one every step would transpose the whole kernel, and
    its gradient again.
    """

    kind = "shared"
    orders = ("evaluate", "fold")
    least_layers = 1

    def __init__(
        self,
        embedding: Embedding,
        num_experts: int,
        channels: int,
        layers: Layers,
        skip: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        """As `Dictionary`. skip: whether the heads read the embedding beside the trunk."""
        self.skip = bool(skip) and layers.num_layers > 1
        super().__init__(embedding, num_experts, channels, layers, rngs=rngs)

    @property
    def local(self) -> bool:
        """Whether few features are not zero at a point, and the others are never computed."""
        return not self.kernels and 0 < GATHER_COST * self.embedding.num_local < self.num_features

    @property
    def num_features(self) -> int:
        """F, what the heads read."""
        return self.sizes[-1] + (self.sizes[0] if self.skip else 0)

    def _make(self, rngs: nnx.Rngs) -> None:
        num_experts, channels = self.num_experts, self.channels
        key, width = rngs.params(), num_experts * channels
        drawn = experts.init_layers(key, (*self.sizes, width), self.activation, self.omega0)
        self.kernels = nnx.List([Kernel(kernel) for kernel, _ in drawn[:-1]])
        self.biases = nnx.List([Basis(bias) for _, bias in drawn[:-1]])
        kernel, bias = drawn[-1]
        if self.skip:
            sizes = (self.num_features, width)
            ((kernel, bias),) = experts.init_layers(key, sizes, self.activation, self.omega0)
        head_kernel = kernel.reshape(self.num_features, num_experts, channels).swapaxes(1, 2)
        self.head_kernel = Basis(head_kernel, axes=(None, None, "expert"))
        self.head_bias = Basis(bias.reshape(num_experts, channels), axes=("expert", None))

    def features(self, x: Float[Array, "P D"]) -> Float[Array, "P F"]:
        """What all experts share. x [P, D] -> [P, F], the trunk's first."""
        layers = [(k[...], b[...]) for k, b in zip(self.kernels, self.biases, strict=True)]
        embedded = self.embedding(x)
        trunk = experts.apply_layers(
            layers, embedded, self.activation, self.omega0, final=False, matmul=self.matmul
        )
        return jnp.concatenate([trunk, embedded], -1) if self.skip else trunk

    def heads(self) -> Float[Array, "F+1 E C"]:
        """Kernel and bias of the heads as one matrix [F + 1, E, C]; the bias is the last row."""
        kernel = self.head_kernel[...].swapaxes(1, 2)
        return jnp.concatenate([kernel, self.head_bias[...][None]], 0)

    def _read(self, x: Float[Array, "P D"], kernel: Float[Array, "F C A"]) -> Float[Array, "P A C"]:
        """What heads without a bias give at points."""
        if not self.local:
            return numerics.product("ph,hca->pac", self.features(x), kernel, self.matmul)
        places, values = self.embedding.local(x)

        # One neighbour of all points after another: rows are read and added, never held together.
        def add(total, near):
            place, value = near
            return total + value[:, None, None] * kernel[place], None

        start = jnp.zeros((len(x), *kernel.shape[1:]), kernel.dtype)
        total, _ = jax.lax.scan(add, start, (places.T, values.T))
        return total.swapaxes(1, 2)

    def basis(self, x: Float[Array, "P D"]) -> Float[Array, "P E C"]:
        return self._read(x, self.head_kernel[...]) + self.head_bias[...]

    def basis_of(self, x: Float[Array, "P D"], indices: Int[Array, " K"]) -> Float[Array, "P K C"]:
        return self._read(x, self.head_kernel[...][..., indices]) + self.head_bias[...][indices]

    def refit(
        self,
        indices: Int[Array, " K"],
        x: Float[Array, "P D"],
        targets: Float[Array, "K P C"],
        key: Key[Array, ""],
    ) -> None:
        size = jnp.sqrt(jnp.square(self.basis(x)).mean())
        heads = last_layer(self.features(x), jnp.moveaxis(targets, 0, 1), size)
        kernel = heads[:-1].swapaxes(1, 2)
        self.head_kernel[...] = self.head_kernel[...].at[..., indices].set(kernel)
        self.head_bias[...] = self.head_bias[...].at[indices].set(heads[-1])

    def mix_by(self, mixing: Float[np.ndarray, "E N"], level: Float[np.ndarray, "N C"]) -> None:
        kernel, bias = np.asarray(self.head_kernel[...]), np.asarray(self.head_bias[...])
        # In float64: nearly dependent experts cancel in what comes out. Some features at a time: of
        # a fine lattice there are many.
        whole = np.empty((*kernel.shape[:2], mixing.shape[1]), np.float32)
        for first in range(0, len(kernel), _MIXED_FEATURES):
            some = kernel[first : first + _MIXED_FEATURES]
            mixed = some.reshape(-1, some.shape[-1]).astype(np.float64) @ mixing
            whole[first : first + _MIXED_FEATURES] = mixed.reshape(*some.shape[:2], -1)
        for variable, mixed in (
            (self.head_kernel, whole),
            (self.head_bias, (mixing.T @ bias - level).astype(np.float32)),
        ):
            variable.set_value(jax.device_put(mixed, variable[...].sharding))

    def _keep(self, count: int) -> None:
        self.head_kernel.set_value(self.head_kernel[...][..., :count])
        self.head_bias.set_value(self.head_bias[...][:count])

    def folded_heads(self, gates: Gates) -> tuple[Float[Array, "S F C"], Float[Array, "S C"]]:
        """The codes folded into the heads: one kernel [S, F, C] and bias [S, C] per signal."""
        kernel, bias = self._folded(gates.values)
        return jnp.moveaxis(kernel, 2, 0), bias + gates.bias

    def _folded(
        self, codes: Float[Array, "S E"]
    ) -> tuple[Float[Array, "F C S"], Float[Array, "S C"]]:
        """Codes [S, E] folded into the heads: kernel [F, C, S], bias [S, C]."""
        kernel = numerics.einsum("hce,se->hcs", self.head_kernel[...], codes)
        return kernel, numerics.einsum("se,ec->sc", codes, self.head_bias[...])

    def _chunk(self) -> int:
        if self.local:
            return self._local_chunk(self.num_experts)
        return points_at_a_time(max(self.num_features, self.num_experts * self.channels))

    def _local_chunk(self, count):
        """Points at which `count` heads of local features are read at a time."""
        return points_at_a_time(count * self.channels)

    def cost(self, order: str, points: int, signals: int, active: int) -> int:
        width, num_experts, channels = self.num_features, self.num_experts, self.channels
        if self.local:
            near = GATHER_COST * self.embedding.num_local
            if order == "fold":
                return 2 * signals * channels * (width * num_experts + near * points)
            return 2 * points * num_experts * channels * (near + signals)
        if order == "fold":
            return 2 * signals * width * channels * (num_experts + points)
        return 2 * points * num_experts * channels * (width + signals)

    def _fold(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        if not (self.local or self._summed(gates.values.shape[0])):
            return self._mix(self.features(x), gates.values)
        kernel, bias = self._folded(gates.values)
        if not self.local:
            values = self.embedding.sums(x, kernel.reshape(len(kernel), -1))
            values = values.reshape(len(x), *kernel.shape[1:]).transpose(2, 0, 1)
            return values + bias[:, None, :]
        chunk = self._local_chunk(len(gates.values))
        values = over_points(lambda piece: self._read(piece, kernel), x, chunk)
        return values.swapaxes(0, 1) + bias[:, None, :]

    def grid_is_cheaper(self, shape: Sequence[int], gates: Gates, points: int = 0) -> bool:
        counts, signals = self.embedding.lattice_counts, len(gates.values)
        if not counts or not self._sums_alone:
            return False
        # Axis after axis: the grid's sides so far, the lattice's from there on.
        steps = [math.prod(shape[: j + 1]) * math.prod(counts[j:]) for j in range(len(counts))]
        alone = 2 * signals * self.channels * (sum(steps) + self.num_features * self.num_experts)
        points = points or math.prod(shape)
        apart = min(self.cost(order, points, signals, self.num_experts) for order in self.orders)
        return alone < apart

    def folded_on_lattice(
        self, gates: Gates
    ) -> tuple[Float[Array, " N *counts"], Float[Array, "S C"]]:
        kernel, bias = self._folded(gates.values)
        return self.embedding.on_lattice(kernel.reshape(len(kernel), -1)), bias + gates.bias

    def combine_on_grid(
        self,
        axes: Sequence[Float[Array, " n"]],
        lattice: Float[Array, " N *counts"],
        level: Float[Array, "S C"],
    ) -> Float[Array, "S *grid C"]:
        sums = self.embedding.grid_sums(axes, lattice)
        sums = jnp.moveaxis(sums.reshape(self.channels, len(level), *sums.shape[1:]), 0, -1)
        return sums + level.reshape(len(level), *[1] * len(axes), self.channels)

    @property
    def _sums_alone(self):
        """Whether sums of the embedding are all that heads read, in a precision that it has."""
        return not self.kernels and self.matmul == "float32"

    def _summed(self, signals):
        """Whether so few signals are summed without the features at every point."""
        # Of an exported function it is any number.
        known = isinstance(signals, int)
        few = known and signals * self.channels <= self.embedding.most_sums
        return few and self._sums_alone

    def combine_features(
        self, features: Float[Array, "P F"], gates: Gates
    ) -> Float[Array, "S P C"]:
        """`combine` at points whose features [P, F] are known. -> [S, P, C]."""
        return self._mix(features, gates.values) + gates.bias[:, None, :]

    def _mix(
        self, features: Float[Array, "P F"], codes: Float[Array, "S E"]
    ) -> Float[Array, "S P C"]:
        # The product with the dense codes, zeros included: one matrix product is faster than
        # gathering K columns per signal unless K is below about E / 100.
        kernel, bias = self._folded(codes)
        values = numerics.product("ph,hcs->pcs", features, kernel, self.matmul)
        return values.transpose(2, 0, 1) + bias[:, None, :]
