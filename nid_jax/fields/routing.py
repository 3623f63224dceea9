"""Routers, which predict the code of a signal, and top-k gating, which makes it sparse.

A router gives every signal one logit per expert and one bias per channel. Gating keeps the K
logits of largest magnitude as they are, signed and without a softmax: they are the code.
"""

import difflib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nid_jax.fields.variables import Code, RouterParam

KINDS = ("codebook", "linear", "conv", "resnet", "point", "none")
POOLS = ("mean", "sum")

# Noise starts small beside logits of order one and never reaches zero, which the load divides by.
NOISE_START = 0.1
NOISE_FLOOR = 1e-3


class Gates(NamedTuple):
    """Signed codes of B signals, dense and, where they are sparse, also as a list of K experts."""

    values: jax.Array
    """[B, E], zero where an expert is not active."""
    indices: jax.Array | None
    """[B, K] int32, by falling magnitude; None for dense codes."""
    weights: jax.Array | None
    """[B, K], `values` at `indices`; None for dense codes."""
    bias: jax.Array
    """[B, C], added to every point."""
    load: jax.Array | None = None
    """[B, E], smooth probability of being active; None without noise."""


class Routed(NamedTuple):
    """What a router says of B signals before gating."""

    logits: jax.Array
    """[B, E]."""
    bias: jax.Array
    """[B, C]."""
    noise_scale: jax.Array | None
    """[B, E], standard deviation of the gating noise; None where the router has none."""


def check_top_k(top_k, num_experts):
    """Number of active experts, or None for dense codes.

    Raises ValueError unless `top_k` is None, 0 (both: dense) or 1 to `num_experts`.
    """
    top_k = 0 if top_k is None else int(top_k)
    if not 0 <= top_k <= num_experts:
        raise ValueError(
            f"router.top_k: {top_k} does not fit dictionary.num_experts = {num_experts}; "
            f"allowed: 0 (dense) to {num_experts}"
        )
    return top_k or None


def gate(logits, bias, top_k=None, *, noise_scale=None, key=None):
    """Codes from logits: dense, or the `top_k` of largest magnitude with their signs.

    logits [B, E], bias [B, C]; noise_scale [B, E] with a `key` adds Gaussian noise to the logits
    before the choice and fills `load` (Shazeer et al. 2017, appendix A). Without a key, as in
    evaluation, or without a choice there is no noise. Gradients reach the kept logits only. Raises
    ValueError unless top_k is None, 0 (both: dense) or 1 to E.
    """
    top_k = check_top_k(top_k, logits.shape[-1])
    if top_k is None:
        return Gates(logits, None, None, bias, None)
    noisy = logits
    if noise_scale is not None and key is not None:
        noisy = logits + noise_scale * jax.random.normal(key, logits.shape, logits.dtype)
    magnitudes = jnp.abs(noisy)
    _, indices = jax.lax.top_k(jax.lax.stop_gradient(magnitudes), top_k)
    rows = jnp.arange(logits.shape[0])[:, None]
    kept = jnp.zeros(logits.shape, bool).at[rows, indices].set(True)
    values = jnp.where(kept, noisy, 0)
    weights = jnp.take_along_axis(noisy, indices, axis=-1)
    load = None
    if noise_scale is not None and key is not None:
        load = selection_probability(logits, noise_scale, magnitudes, kept, top_k)
    return Gates(values, indices, weights, bias, load)


def selection_probability(logits, scale, magnitudes, kept, top_k):
    """Probability that each expert is kept if its own noise were drawn again, the rest unchanged.

    logits, scale, magnitudes (of the noisy logits) [B, E], kept bool [B, E] -> [B, E]. Expert i is
    kept when |l + s eps| exceeds the K-th largest of the other magnitudes, t; that has probability
    Phi((l - t) / s) + Phi((-l - t) / s): Shazeer et al. 2017, equation 9, for a choice by
    magnitude.
    """
    if top_k == logits.shape[-1]:
        return jnp.ones_like(logits)
    largest, _ = jax.lax.top_k(magnitudes, top_k + 1)
    threshold = jnp.where(kept, largest[:, top_k : top_k + 1], largest[:, top_k - 1 : top_k])
    cdf = jax.scipy.special.ndtr
    return cdf((logits - threshold) / scale) + cdf((-logits - threshold) / scale)


def importance(gates, kind="magnitude"):
    """How much each expert is used by a batch: Gates -> [E], summed over the signals.

    'magnitude' sums |value|. 'signed' sums the signed values, as the official code does; their sum
    is near zero for any balanced code, so its relative variance is ill conditioned.
    """
    if kind == "magnitude":
        return jnp.abs(gates.values).sum(0)
    if kind == "signed":
        return gates.values.sum(0)
    raise ValueError(f"loss.importance: {kind!r} is unknown; allowed: magnitude, signed")


def load(gates, kind="active"):
    """Number of signals of a batch that use each expert: Gates -> [E].

    'active' counts values other than zero and 'positive' those above zero (as the official code
    does); both are without gradient. 'smooth' sums the probabilities of noisy gating.
    """
    if kind == "active":
        return (gates.values != 0).sum(0).astype(gates.values.dtype)
    if kind == "positive":
        return (gates.values > 0).sum(0).astype(gates.values.dtype)
    if kind == "smooth":
        if gates.load is None:
            raise ValueError("load: 'smooth' needs noisy gating (router.noise and router.top_k)")
        return gates.load.sum(0)
    raise ValueError(f"load: {kind!r} is unknown; allowed: active, positive, smooth")


def expert_weights(num_experts, base=1.0, cap=1e4):
    """L1 weights base**(-e) of experts e = 0 .. E-1, none above `cap`: float32 [E], finite.

    A base below 1 makes every further expert dearer than the one before it, so that signals are
    explained by the first few: a soft bound on the rank of the codes. Uncapped, base 0.5 overflows
    at expert 128. The cap changes nothing of the meaning: an expert 1e4 times as dear as the first
    stays off already, dearer ones need no order among themselves, and below the cap the weights
    are exactly those of the power. A base above 1 favours the last experts. Raises ValueError
    unless base and cap are positive and finite.
    """
    if not (base > 0 and math.isfinite(base)):
        raise ValueError(f"loss.l1_base: {base}; allowed: a finite number above 0")
    if not (cap > 0 and math.isfinite(cap)):
        raise ValueError(f"cap: {cap}; allowed: a finite number above 0")
    # In logs, because the power itself overflows before it could be capped.
    logs = np.minimum(-np.arange(num_experts) * math.log(base), math.log(cap))
    return jnp.asarray(np.exp(logs), jnp.float32)


def _softplus_inverse(y):
    return math.log(math.expm1(y))


def _noise_scale(raw):
    return jax.nn.softplus(raw) + NOISE_FLOOR


class Router(nnx.Module):
    """What all routers share: codes of signals by row number (`ids`), by content, or both."""

    reads = "signals"
    """What of a batch a router looks at: 'signals' on their grid, or 'clouds' of points."""

    def __call__(self, ids=None, signals=None):
        """Ids [B] int32 or None, signals [B, *grid, C] or None -> logits [B, E], bias [B, C]."""
        routed = self.route(ids, signals)
        return routed.logits, routed.bias

    def route(self, ids=None, signals=None):
        """As a call, and the scale of the gating noise with it: -> Routed."""
        raise NotImplementedError

    def gates(self, ids=None, signals=None, top_k=None, key=None):
        """Route and gate in one: -> Gates. A `key` switches the router's noise on."""
        logits, bias, noise_scale = self.route(ids, signals)
        return gate(logits, bias, top_k, noise_scale=noise_scale, key=key)

    def prepare(self, ids):
        """What must happen to stored codes before `ids` [B] are looked up in a training step.

        Call it outside of the differentiated function. Networks store nothing: no effect.
        """


class Codebook(Router):
    """A table with one free code for every signal of the training set.

    codes [N, E] and bias [N, C] are two arrays so that codes can be laid along experts. With
    max_norm > 0 a row (codes and bias together) that is longer is scaled back when `prepare` looks
    it up, and stays so: the gradient is that of the scaled row. Noise has one learned scale per
    expert, shared by all rows: a scale per row would double the table and outlive no signal.

    `scale` is the standard deviation of the first codes; 0 picks 1 under a max-norm (rows of
    exactly that length) and 1 / sqrt(E + C) without one (rows of length about 1).
    """

    def __init__(
        self, num_signals, num_experts, channels, max_norm=0.0, scale=0.0, noise=False, *, rngs
    ):
        if num_signals < 1:
            raise ValueError(f"router.kind: codebook needs at least 1 signal, got {num_signals}")
        if max_norm < 0 or scale < 0:
            raise ValueError(
                f"router.max_norm, router.scale: {max_norm}, {scale}; allowed: 0 or more"
            )
        self.num_experts = num_experts
        self.channels = channels
        self.max_norm = float(max_norm)
        width = num_experts + channels
        scale = scale or (1.0 if max_norm else 1.0 / math.sqrt(width))
        table = scale * jax.random.normal(rngs.params(), (num_signals, width))
        table = _cap_rows(table, self.max_norm)
        self.codes = Code(table[:, :num_experts], axes=(None, "expert"))
        self.bias = Code(table[:, num_experts:])
        start = jnp.full((num_experts,), _softplus_inverse(NOISE_START))
        self.noise = RouterParam(start) if noise else None

    def route(self, ids=None, signals=None):
        """Ids [B] -> Routed. An id out of range gives NaN, never another signal's code."""
        if ids is None:
            raise ValueError("router.kind: codebook looks signals up by id; ids are missing")
        logits = jnp.take(self.codes[...], ids, axis=0)
        bias = jnp.take(self.bias[...], ids, axis=0)
        scale = None
        if self.noise is not None:
            scale = jnp.broadcast_to(_noise_scale(self.noise[...]), logits.shape)
        return Routed(logits, bias, scale)

    def prepare(self, ids):
        """Scale the rows `ids` [B] back to the max-norm, in the table. Repeated ids are fine."""
        if not self.max_norm:
            return
        logits, bias = self(ids)
        rows = _cap_rows(jnp.concatenate([logits, bias], -1), self.max_norm)
        self.codes[...] = self.codes[...].at[ids].set(rows[:, : self.num_experts])
        self.bias[...] = self.bias[...].at[ids].set(rows[:, self.num_experts :])


def _cap_rows(rows, max_norm):
    """Rows [N, F] with those longer than max_norm (if any) scaled to max_norm n / (n + 1e-7)."""
    if not max_norm:
        return rows
    norms = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return jnp.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)


class Dense(nnx.Module):
    """Affine map [..., F] -> [..., G], kernel [F, G]."""

    def __init__(self, features, outputs, *, rngs, start=None):
        # A head must not start at zero: top-k of equal logits keeps the same experts for ever.
        bound = 1.0 / math.sqrt(features)
        draw = jax.random.uniform(rngs.params(), (features, outputs), minval=-bound, maxval=bound)
        self.kernel = RouterParam(draw if start is None else jnp.zeros_like(draw))
        self.bias = RouterParam(jnp.full((outputs,), start or 0.0))

    def __call__(self, x):
        return jnp.dot(x, self.kernel[...], precision="highest") + self.bias[...]


class Convolution(nnx.Module):
    """Stride 1, zero-padded to the same size: [B, H, W, F] -> [B, H, W, G], kernel [k, k, F, G].

    Weights are He-normal times `gain`. Its precision is that of `jax.default_matmul_precision`.
    """

    def __init__(self, size, features, outputs, gain=1.0, *, rngs):
        deviation = gain * math.sqrt(2.0 / (size * size * features))
        shape = (size, size, features, outputs)
        self.kernel = RouterParam(deviation * jax.random.normal(rngs.params(), shape))
        self.bias = RouterParam(jnp.zeros((outputs,)))

    def __call__(self, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...], (1, 1), "SAME", dimension_numbers=dimensions
        )
        return y + self.bias[...]


class Network(Router):
    """A router that reads the signal: features [B, F], then affine heads for logits and bias."""

    def __init__(self, num_experts, channels, features, noise=False, *, rngs):
        self.num_experts = num_experts
        self.channels = channels
        self.head = Dense(features, num_experts, rngs=rngs)
        self.bias_head = Dense(features, channels, rngs=rngs)
        # The noise starts the same for every expert and learns to depend on the signal.
        start = _softplus_inverse(NOISE_START)
        self.noise_head = Dense(features, num_experts, start=start, rngs=rngs) if noise else None

    def features(self, signals):
        """Signals [B, *grid, C] -> [B, F]."""
        raise NotImplementedError

    def route(self, ids=None, signals=None):
        """Signals [B, *grid, C] -> Routed; ids are not used."""
        if signals is None:
            raise ValueError("router.kind: this router reads the signals, and none were given")
        features = self.features(jnp.asarray(signals, jnp.float32))
        scale = None if self.noise_head is None else _noise_scale(self.noise_head(features))
        return Routed(self.head(features), self.bias_head(features), scale)


def _check_signals(signals, shape, kind):
    if signals.ndim != len(shape) + 1 or any(
        wanted not in (None, got) for wanted, got in zip(shape, signals.shape[1:], strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"router.kind: {kind} was built for signals of shape ({wanted}), "
            f"got {tuple(signals.shape[1:])}"
        )


def _check_grid(grid_shape, kind):
    if len(grid_shape) != 2:
        raise ValueError(
            f"router.kind: {kind} reads images, and these signals have {len(grid_shape)} "
            "dimensions; allowed here: codebook, linear"
        )


class Linear(Network):
    """The flattened signal, one affine map."""

    def __init__(self, num_experts, channels, grid_shape, noise=False, *, rngs):
        self.shape = (*grid_shape, channels)
        super().__init__(num_experts, channels, math.prod(self.shape), noise, rngs=rngs)

    def features(self, signals):
        """Signals [B, *grid, C] -> [B, prod(grid) C]."""
        _check_signals(signals, self.shape, "linear")
        return signals.reshape(signals.shape[0], -1)


class Conv(Network):
    """Two 5x5 convolutions with relu, pooled over the pixels: images of any size.

    The official code pools by 'sum', so codes grow with the image; 'mean' is ours.
    """

    def __init__(
        self, num_experts, channels, grid_shape, width=256, pool="mean", noise=False, *, rngs
    ):
        _check_grid(grid_shape, "conv")
        if pool not in POOLS:
            raise ValueError(f"router.pool: {pool!r} is unknown; allowed: {', '.join(POOLS)}")
        self.pool = pool
        self.input_channels = channels
        super().__init__(num_experts, channels, width, noise, rngs=rngs)
        self.first = Convolution(5, channels, width, rngs=rngs)
        self.second = Convolution(5, width, width, rngs=rngs)

    def features(self, signals):
        """Signals [B, H, W, C] -> [B, width]."""
        _check_signals(signals, (None, None, self.input_channels), "conv")
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(signals))))
        return x.mean((1, 2)) if self.pool == "mean" else x.sum((1, 2))


class Block(nnx.Module):
    """Residual block of two 5x5 convolutions: relu(x + relu(conv(relu(conv(x)))))."""

    def __init__(self, width, gain, *, rngs):
        self.first = Convolution(5, width, width, rngs=rngs)
        self.second = Convolution(5, width, width, gain, rngs=rngs)

    def __call__(self, x):
        return jax.nn.relu(x + jax.nn.relu(self.second(jax.nn.relu(self.first(x)))))


class ResNet(Network):
    """Convolutional network with four residual blocks, for images of one size, square or not.

    3x3 convolutions to widths[0] and widths[1], the blocks, a 1x1 convolution, one linear map over
    the pixels that all channels share, and the heads; relu between. Official widths are 128, 256.
    """

    blocks_count = 4

    def __init__(self, num_experts, channels, grid_shape, widths=(128, 256), noise=False, *, rngs):
        _check_grid(grid_shape, "resnet")
        inner, outer = widths
        self.shape = (*grid_shape, channels)
        super().__init__(num_experts, channels, outer, noise, rngs=rngs)
        self.first = Convolution(3, channels, inner, rngs=rngs)
        self.second = Convolution(3, inner, outer, rngs=rngs)
        # Each block adds to what it is given; the gain keeps the sum of them of order one.
        gain = 1.0 / math.sqrt(self.blocks_count)
        self.blocks = nnx.List([Block(outer, gain, rngs=rngs) for _ in range(self.blocks_count)])
        self.last = Convolution(1, outer, outer, rngs=rngs)
        self.pixels = Dense(math.prod(grid_shape), 1, rngs=rngs)

    def encode(self, signals):
        """Signals [B, H, W, C] -> [B, widths[1]], before the last relu."""
        _check_signals(signals, self.shape, "resnet")
        x = jax.nn.relu(self.first(signals))
        x = jax.nn.relu(self.second(x))
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu(self.last(x))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return self.pixels(x.swapaxes(1, 2))[..., 0]

    def features(self, signals):
        """Signals [B, H, W, C] -> [B, widths[1]]."""
        return jax.nn.relu(self.encode(signals))


def build_router(config_router, num_experts, channels, grid_shape, num_signals, *, rngs):
    """Router from `config.router`, for signals [*grid_shape, channels]; None for kind 'none'.

    Reads kind and top_k, and where present max_norm, scale (codebook), width (conv; the second of
    the resnet's widths, the first being half of it; of the point router), widths (resnet), pool
    (conv, point), point_features (point; clouds [Q, F] are its signals, whatever the grid) and
    noise. Raises ValueError for an unknown kind, a top_k over num_experts, and a conv or resnet
    router for signals that are not images.
    """

    def value(name, default):
        return getattr(config_router, name, default)

    kind = config_router.kind
    check_top_k(value("top_k", 0), num_experts)
    noise = bool(value("noise", False))
    width = int(value("width", 0)) or 256
    if kind == "none":
        return None
    if kind == "codebook":
        limits = {"max_norm": value("max_norm", 0.0), "scale": value("scale", 0.0)}
        return Codebook(num_signals, num_experts, channels, **limits, noise=noise, rngs=rngs)
    if kind == "linear":
        return Linear(num_experts, channels, grid_shape, noise, rngs=rngs)
    if kind == "conv":
        pool = value("pool", "mean")
        return Conv(num_experts, channels, grid_shape, width, pool, noise, rngs=rngs)
    if kind == "resnet":
        widths = tuple(value("widths", ())) or (max(width // 2, 1), width)
        return ResNet(num_experts, channels, grid_shape, widths, noise, rngs=rngs)
    if kind == "point":
        # Here, as it is itself made of this module's parts.
        from nid_jax.fields.point_encoder import PointEncoder

        features, pool = int(value("point_features", 6)), value("pool", "max")
        return PointEncoder(num_experts, channels, features, width, pool, noise, rngs=rngs)
    near = difflib.get_close_matches(str(kind), KINDS, 1, 0.0)
    raise ValueError(
        f"router.kind: {kind!r} is unknown, did you mean {near[0]!r}? allowed: {', '.join(KINDS)}"
    )
