"""What dictionaries have in common: E experts, functions of coordinates, times codes.

`shared.SharedDictionary` is features with E linear heads (the official code's model), and
`independent.IndependentDictionary` a vmapped stack of E small networks.
f(x) = bias + sum_e code[e] expert_e(x) can be taken in three orders, which give the same numbers at
different cost:

    evaluate  all experts once at every point, then combine: many signals that share points
    fold      the codes into the heads of a shared trunk: then no point pays per expert
    gather    the K chosen experts' parameters of an independent stack: few signals

`Dictionary.combine` picks by `Dictionary.cost`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from nid_jax import numerics, platforms
from nid_jax.errors import ArgumentError
from nid_jax.fields.embeddings import Embedding
from nid_jax.fields.experts import Layers, check_matmul
from nid_jax.fields.routing import Gates

# Reading a gathered number costs about this many matrix operations.
GATHER_COST = 50


def points_at_a_time(numbers_per_point: int) -> int:
    return max(32, platforms.sizes().activations // numbers_per_point)


def over_points(
    function: Callable[[Float[Array, "p D"]], Float[Array, "p ..."]],
    x: Float[Array, "P D"],
    chunk: int,
) -> Float[Array, "P ..."]:
    """Apply `function` [p, D] -> [..., p, ...] with points leading, in chunks of points.

    x [P, D] -> [P, ...]. Chunks are recomputed in the backward pass, so memory for activations is
    that of one chunk.
    """
    count = len(x)
    if count <= chunk:
        return function(x)
    pieces = numerics.cut(x, numerics.even_size(count, chunk))
    return numerics.joined(jax.lax.map(jax.checkpoint(function), pieces), count)


def last_layer(
    features: Float[Array, "P H"], targets: Float[Array, "P K C"], size: Float[Array, ""]
) -> Float[Array, "H+1 K C"]:
    """Least squares from features to targets, each scaled to a root mean square of `size`.

    features [P, H], targets [P, K, C] -> kernel and bias [H + 1, K, C], the bias last.
    """
    ones = jnp.ones((features.shape[0], 1), features.dtype)
    features = jnp.concatenate([features, ones], 1)
    gram = numerics.einsum("ph,pg->hg", features, features)
    gram = gram + 1e-4 * jnp.trace(gram) / len(gram) * jnp.eye(len(gram), dtype=gram.dtype)
    moments = numerics.einsum("ph,pkc->hkc", features, targets)
    flat = jax.scipy.linalg.solve(gram, moments.reshape(len(gram), -1), assume_a="pos")
    solved = flat.reshape(moments.shape)
    rendered = numerics.einsum("ph,hkc->pkc", features, solved)
    level = jnp.sqrt(jnp.square(rendered).mean((0, 2)))
    return solved * numerics.safe_divide(size, level)[:, None]


class Dictionary(nnx.Module):
    """E experts with D coordinates in and C channels out; see the module's text.

    `dictionary(x)` is the basis, `dictionary(x, codes, bias)` renders. Attributes: kind,
    num_experts (E), channels (C), dims (D), embedding, and width, activation, omega0, matmul of the
    layers.
    """

    kind: str
    orders: tuple[str, ...]
    least_layers = 2

    def __init__(
        self,
        embedding: Embedding,
        num_experts: int,
        channels: int,
        layers: Layers,
        *,
        rngs: nnx.Rngs,
    ):
        """E experts with freshly drawn weights.

        embedding: of the coordinates; num_experts: E; channels: C; layers: of one expert, or of the
        trunk that all share, the heads counted as its last layer; rngs: its stream 'params' draws
        the weights. Raises ArgumentError for less than one expert.
        """
        if num_experts < 1:
            raise ArgumentError("num_experts", num_experts, "1 or more")
        if layers.num_layers < self.least_layers:
            raise ArgumentError("num_layers", layers.num_layers, f"{self.least_layers} or more")
        self.embedding, self.dims = embedding, embedding.dims
        self.num_experts, self.channels = num_experts, channels
        self.width, self.activation = layers.width, layers.activation
        self.omega0 = float(layers.omega0)
        self.matmul = layers.matmul
        self.sizes = (embedding.size, *[layers.width] * (layers.num_layers - 1))
        self._make(rngs)

    def _make(self, rngs: nnx.Rngs) -> None:
        """Draw the weights. Of every kind."""
        raise NotImplementedError

    def __call__(
        self,
        x: Float[Array, "P D"],
        codes: Float[Array, "*S E"] | None = None,
        bias: Float[Array, "*S C"] | None = None,
    ) -> Float[Array, "..."]:
        """Without codes every expert at every point, with codes the signals there.

        x [P, D] -> [P, E, C]; with codes [S, E] -> [S, P, C], with one code [E] -> [P, C]. bias
        [S, C] or [C] is added to every point; None is zero. Raises ArgumentError for codes of
        another number of experts and for a bias that does not fit them.
        """
        if codes is None:
            if bias is not None:
                raise ArgumentError("bias", tuple(jnp.shape(bias)), "None where codes is None")
            return self.basis(x)
        signals, num_experts = jnp.shape(codes)[:-1], jnp.shape(codes)[-1]
        if num_experts != self.num_experts:
            allowed = f"(..., {self.num_experts}), a number for each expert"
            raise ArgumentError("codes", tuple(jnp.shape(codes)), allowed)
        wanted = (*signals, self.channels)
        if bias is None:
            bias = jnp.zeros(wanted, jnp.float32)
        if jnp.shape(bias) != wanted:
            raise ArgumentError("bias", tuple(jnp.shape(bias)), f"{wanted}, a number per channel")
        rows = jnp.reshape(codes, (-1, num_experts))
        gates = Gates(rows, None, None, jnp.reshape(bias, (-1, self.channels)))
        return self.combine(x, gates).reshape(*signals, x.shape[0], self.channels)

    def basis(self, x: Float[Array, "P D"]) -> Float[Array, "P E C"]:
        """Every expert at every point. x [P, D] -> [P, E, C]."""
        raise NotImplementedError

    def basis_of(self, x: Float[Array, "P D"], indices: Int[Array, " K"]) -> Float[Array, "P K C"]:
        """Chosen experts at every point. x [P, D], indices int32 [K] -> [P, K, C]."""
        raise NotImplementedError

    def refit(
        self,
        indices: Int[Array, " K"],
        x: Float[Array, "P D"],
        targets: Float[Array, "K P C"],
        key: Key[Array, ""],
    ) -> None:
        """Make chosen experts approximate given functions, by least squares on their last layer.

        indices int32 [K], x [P, D], targets [K, P, C]. Each is then scaled to the root mean square
        of the dictionary's atoms at x. An independent expert's other layers are drawn anew.
        """
        raise NotImplementedError

    @property
    def num_networks(self) -> int:
        """Of which the atoms are made: the num_experts of a config that describes it."""
        return self.num_experts

    def multiplied(self, matmul: str) -> "Dictionary":
        """The same with products of its layers in a precision, one of `numerics.MATMULS`.

        This one stays as it is. Raises ArgumentError for another value.
        """
        check_matmul(matmul)
        other = nnx.clone(self)
        other.matmul = matmul
        return other

    def mixed(
        self, mixing: Float[np.ndarray, "E N"], level: Float[np.ndarray, "N C"]
    ) -> "Dictionary":
        """A dictionary of N atoms that are sums of these: atoms @ mixing - level.

        mixing [E, N], level [N, C], a constant taken off every atom. This one stays as it is.
        Raises ArgumentError for a mixing of another number of experts.
        """
        if mixing.shape[0] != self.num_experts or level.shape != (mixing.shape[1], self.channels):
            allowed = f"({self.num_experts}, N) and (N, {self.channels})"
            raise ArgumentError("mixing, level", (mixing.shape, level.shape), allowed)
        other = nnx.clone(self)
        other.mix_by(np.asarray(mixing, np.float64), np.asarray(level, np.float64))
        other.num_experts = mixing.shape[1]
        return other

    def mix_by(self, mixing: Float[np.ndarray, "E N"], level: Float[np.ndarray, "N C"]) -> None:
        """Put sums of the atoms in their place, as `mixed`. Of every kind."""
        raise NotImplementedError

    def first(self, count: int) -> "Dictionary":
        """The dictionary of the first `count` atoms. Raises ArgumentError for more than E."""
        if not 1 <= count <= self.num_experts:
            raise ArgumentError("count", count, f"1 to {self.num_experts}")
        other = nnx.clone(self)
        other._keep(count)
        other.num_experts = count
        return other

    def _keep(self, count: int) -> None:
        """Drop all atoms but the first `count`. Of every kind."""
        raise NotImplementedError

    def cost(self, order: str, points: int, signals: int, active: int) -> int:
        """Operations to render `signals` codes of `active` experts each at shared `points`."""
        raise NotImplementedError

    def cheapest(self, points: int, signals: int, active: int, sparse: bool) -> str:
        """The order of least cost that this kind of dictionary and code allow."""
        allowed = [o for o in self.orders if o != "gather" or sparse]
        return min(allowed, key=lambda order: self.cost(order, points, signals, active))

    def combine(
        self, x: Float[Array | np.ndarray, "P D"], gates: Gates, order: str = "auto"
    ) -> Float[Array, "S P C"]:
        """Signals from codes at points that they share.

        x [P, D], gates (`routing.Gates`: values [S, E], bias [S, C]) -> [S, P, C]. order 'auto'
        takes the cheapest. Raises ValueError for an order that the dictionary or the code does not
        allow.
        """
        signals, num_experts = gates.values.shape
        sparse = gates.indices is not None
        active = num_experts if gates.indices is None else gates.indices.shape[-1]
        if order == "auto":
            order = self.cheapest(x.shape[0], signals, active, sparse)
        if order not in self.orders or (order == "gather" and not sparse):
            raise ValueError(
                f"order {order!r} does not fit a {self.kind} dictionary and "
                f"{'sparse' if sparse else 'dense'} codes; allowed: auto, {', '.join(self.orders)}"
            )
        values = getattr(self, f"_{order}")(x, gates)
        return values + gates.bias[:, None, :]

    def grid_is_cheaper(self, shape: Sequence[int], gates: Gates, points: int = 0) -> bool:
        """Whether `combine_on_grid` takes fewer operations than `combine` of so many points.

        shape: of the grid; gates of S signals; points: 0 for those of the grid. Of a kind without
        it never.
        """
        return False

    def folded_on_lattice(
        self, gates: Gates
    ) -> tuple[Float[Array, " N *counts"], Float[Array, "S C"]]:
        """What `combine_on_grid` needs of codes, the same for any axes.

        gates of S signals -> N = C S sets of weights of products of functions along the axes,
        [N, *embedding.lattice_counts], and levels [S, C]. Of a kind whose `grid_is_cheaper`
        may be true.
        """
        raise NotImplementedError

    def combine_on_grid(
        self,
        axes: Sequence[Float[Array, " n"]],
        lattice: Float[Array, " N *counts"],
        level: Float[Array, "S C"],
    ) -> Float[Array, "S *grid C"]:
        """`combine` at all points of a grid, axis by axis.

        axes: coordinates [n] along each; lattice [N, *counts], level [S, C]: as `folded_on_lattice`
        gives them -> [S, *grid, C].
        """
        raise NotImplementedError

    def _evaluate(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        return over_points(
            lambda piece: numerics.einsum("se,pec->psc", gates.values, self.basis(piece)),
            x,
            self._chunk(),
        ).swapaxes(0, 1)

    def _chunk(self) -> int:
        """Points whose basis is held at a time."""
        return points_at_a_time(self.num_experts * max(self.width, self.channels))
