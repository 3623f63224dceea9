"""Routers that read a signal on its grid: one affine map, a small convolution, a residual one."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from nid_jax.fields import routing
from nid_jax.fields.variables import RouterParam

POOLS = ("mean", "sum")


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


class Network(routing.Router):
    """A router that reads the signal: features [B, F], then affine heads for logits and bias."""

    def __init__(self, num_experts, channels, features, noise=False, *, rngs):
        self.num_experts = num_experts
        self.channels = channels
        self.head = Dense(features, num_experts, rngs=rngs)
        self.bias_head = Dense(features, channels, rngs=rngs)
        # The noise starts the same for every expert and learns to depend on the signal.
        start = routing.softplus_inverse(routing.NOISE_START)
        self.noise_head = Dense(features, num_experts, start=start, rngs=rngs) if noise else None

    def features(self, signals):
        """Signals [B, *grid, C] -> [B, F]."""
        raise NotImplementedError

    def route(self, ids=None, signals=None):
        """Signals [B, *grid, C] -> Routed; ids are not used."""
        if signals is None:
            raise ValueError("router.kind: this router reads the signals, and none were given")
        features = self.features(jnp.asarray(signals, jnp.float32))
        scale = (
            None if self.noise_head is None else routing.positive_noise(self.noise_head(features))
        )
        return routing.Routed(self.head(features), self.bias_head(features), scale)


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
