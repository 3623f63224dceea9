"""Dictionaries: E experts, each a function of coordinates, and the products of experts and codes.

`SharedDictionary` is one trunk with E linear heads (the official code's model), and
`IndependentDictionary` a vmapped stack of E small networks. f(x) = bias + sum_e code[e] expert_e(x)
can be taken in three orders, which give the same numbers at different cost:

    evaluate  all experts once at every point, then combine: many signals that share points
    fold      the codes into the heads of a shared trunk: then no point pays per expert
    gather    the K chosen experts' parameters of an independent stack: few signals

`Dictionary.combine` picks by `Dictionary.cost`.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from nid_jax import errors, numerics
from nid_jax.errors import ArgumentError
from nid_jax.fields import experts
from nid_jax.fields.embeddings import Embedding, build_embedding
from nid_jax.fields.experts import Layers
from nid_jax.fields.routing import Gates
from nid_jax.fields.variables import Basis, Kernel

KINDS = ("independent", "shared")

# Float32 numbers of one activation kept at a time when an independent stack is evaluated. On CPU
# two megabytes stay in cache and are not paged in anew by every step; an accelerator wants more.
_CHUNK_NUMBERS = {"cpu": 2**19}
_CHUNK_NUMBERS_ACCELERATOR = 2**27
# Reading a gathered number costs about this many matrix operations.
_GATHER_COST = 50
# An embedding of at most this many features is copied to every expert: on CPU the batched product
# that follows is faster than one wide product whose result must be transposed.
_COPIED_FEATURES = 16


def _points_at_a_time(numbers_per_point: int) -> int:
    numbers = _CHUNK_NUMBERS.get(jax.default_backend(), _CHUNK_NUMBERS_ACCELERATOR)
    return max(32, numbers // numbers_per_point)


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


def _last_layer(
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
    num_experts (E), channels (C), dims (D), embedding, and width, activation, omega0 of the layers.
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

    def _evaluate(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        return over_points(
            lambda piece: numerics.einsum("se,pec->psc", gates.values, self.basis(piece)),
            x,
            self._chunk(),
        ).swapaxes(0, 1)

    def _chunk(self) -> int:
        """Points whose basis is held at a time."""
        return _points_at_a_time(self.num_experts * max(self.width, self.channels))


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
        return not self.kernels and 0 < _GATHER_COST * self.embedding.num_local < self.num_features

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
        trunk = experts.apply_layers(layers, embedded, self.activation, self.omega0, final=False)
        return jnp.concatenate([trunk, embedded], -1) if self.skip else trunk

    def heads(self) -> Float[Array, "F+1 E C"]:
        """Kernel and bias of the heads as one matrix [F + 1, E, C]; the bias is the last row."""
        kernel = self.head_kernel[...].swapaxes(1, 2)
        return jnp.concatenate([kernel, self.head_bias[...][None]], 0)

    def _read(self, x: Float[Array, "P D"], kernel: Float[Array, "F C A"]) -> Float[Array, "P A C"]:
        """What heads without a bias give at points."""
        if not self.local:
            return numerics.einsum("ph,hca->pac", self.features(x), kernel)
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
        heads = _last_layer(self.features(x), jnp.moveaxis(targets, 0, 1), size)
        kernel = heads[:-1].swapaxes(1, 2)
        self.head_kernel[...] = self.head_kernel[...].at[..., indices].set(kernel)
        self.head_bias[...] = self.head_bias[...].at[indices].set(heads[-1])

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
        return _points_at_a_time(max(self.num_features, self.num_experts * self.channels))

    def _local_chunk(self, count):
        """Points at which `count` heads of local features are read at a time."""
        return _points_at_a_time(count * self.channels)

    def cost(self, order: str, points: int, signals: int, active: int) -> int:
        width, num_experts, channels = self.num_features, self.num_experts, self.channels
        if self.local:
            near = _GATHER_COST * self.embedding.num_local
            if order == "fold":
                return 2 * signals * channels * (width * num_experts + near * points)
            return 2 * points * num_experts * channels * (near + signals)
        if order == "fold":
            return 2 * signals * width * channels * (num_experts + points)
        return 2 * points * num_experts * channels * (width + signals)

    def _fold(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        if not self.local:
            return self._mix(self.features(x), gates.values)
        kernel, bias = self._folded(gates.values)
        chunk = self._local_chunk(len(gates.values))
        values = over_points(lambda piece: self._read(piece, kernel), x, chunk)
        return values.swapaxes(0, 1) + bias[:, None, :]

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
        values = numerics.einsum("ph,hcs->pcs", features, kernel)
        return values.transpose(2, 0, 1) + bias[:, None, :]


class IndependentDictionary(Dictionary):
    """E small networks of one shape, their parameters stacked.

    kernels [E, in, out], biases [E, out]. Nothing is shared but the embedding, so E atoms may span
    E dimensions.
    """

    kind = "independent"
    orders = ("evaluate", "gather")

    def _make(self, rngs: nnx.Rngs) -> None:
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
        one = functools.partial(
            experts.apply_layers, activation=self.activation, omega0=self.omega0
        )
        if embedded.shape[-1] > _COPIED_FEATURES:
            return jax.vmap(one, in_axes=(0, None), out_axes=1)(layers, embedded)
        count = layers[0][0].shape[0]
        copies = jnp.broadcast_to(embedded, (count, *embedded.shape))
        return jax.vmap(one, out_axes=1)(layers, copies)

    def basis(self, x: Float[Array, "P D"]) -> Float[Array, "P E C"]:
        layers = self._layers()
        return over_points(lambda p: self._apply(layers, self.embedding(p)), x, self._chunk())

    def basis_of(self, x: Float[Array, "P D"], indices: Int[Array, " K"]) -> Float[Array, "P K C"]:
        layers = jax.tree.map(lambda leaf: leaf[indices], self._layers())
        return self._apply(layers, self.embedding(x))

    def refit(
        self,
        indices: Int[Array, " K"],
        x: Float[Array, "P D"],
        targets: Float[Array, "K P C"],
        key: Key[Array, ""],
    ) -> None:
        size = jnp.sqrt(jnp.square(self.basis(x)).mean())
        layers = self._draw(key, len(indices))
        hidden = functools.partial(
            experts.apply_layers, activation=self.activation, omega0=self.omega0, final=False
        )
        features = jax.vmap(hidden, in_axes=(0, None))(layers[:-1], self.embedding(x))
        solved = jax.vmap(lambda h, t: _last_layer(h, t[:, None], size)[:, 0])(features, targets)
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
            return signals * active * (per_expert + _GATHER_COST * numbers)
        return points * self.num_experts * (self.expert_cost() + 2 * signals * self.channels)

    def _gather(self, x: Float[Array, "P D"], gates: Gates) -> Float[Array, "S P C"]:
        layers, embedded = self._layers(), self.embedding(x)
        assert gates.indices is not None, "combine gathers for sparse codes only"
        chunk = _points_at_a_time(gates.indices.shape[-1] * max(self.width, self.channels))

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


def build_dictionary(
    config: ConfigDict, channels: int, dims: int, grid_shape: tuple[int, ...], rngs: nnx.Rngs
) -> Dictionary:
    """The dictionary that `config.dictionary` describes.

    config: kind, num_experts, num_layers, width, activation, omega0, skip, embedding. dims D and
    grid_shape belong to the signals. Raises ValueError naming the key that is wrong and what is
    allowed.
    """
    kinds: dict[str, Callable[..., Dictionary]] = {
        "independent": IndependentDictionary,
        "shared": functools.partial(SharedDictionary, skip=config.get("skip", False)),
    }
    with errors.named("dictionary"):
        if config.kind not in kinds:
            raise ArgumentError("kind", config.kind, ", ".join(kinds))
        layers = Layers(config.num_layers, config.width, config.activation, config.omega0)
        embedding = build_embedding(config.embedding, dims, grid_shape, rngs)
        return kinds[config.kind](embedding, config.num_experts, channels, layers, rngs=rngs)
