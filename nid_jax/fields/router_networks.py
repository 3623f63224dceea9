"""Routers that read a signal on its grid: one affine map, a small convolution, a residual one."""

import functools
import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, Int

from nid_jax.fields import routing
from nid_jax.fields.variables import RouterParam

POOLS = ("mean", "sum", "none")

Layer = TypeVar("Layer", nnx.Linear, nnx.Conv)


# Uniform on +-1 / sqrt(F). A head must not start at zero: top-k of equal logits keeps the same
# experts for ever.
_UNIFORM = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def affine(
    features: int,
    outputs: int,
    kernel_init: Initializer = _UNIFORM,
    bias_init: Initializer = initializers.zeros,
    *,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Affine map [..., F] -> [..., G] of a router, in full float32."""
    return _of_router(
        nnx.Linear(
            features,
            outputs,
            precision="highest",
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )
    )


def convolution(
    size: int,
    features: int,
    outputs: int,
    gain: float = 1.0,
    precision: str | None = None,
    *,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Convolution of a router: stride 1, zero-padded to the same size, [B, H, W, F] -> [..., G].

    Weights are He-normal times `gain`. precision: None is that of `jax.default_matmul_precision`.
    """
    draw = initializers.variance_scaling(2 * gain**2, "fan_in", "normal")
    shape = (size, size)
    layer = nnx.Conv(features, outputs, shape, kernel_init=draw, precision=precision, rngs=rngs)
    return _of_router(layer)


def _of_router(layer: Layer) -> Layer:
    """The layer, its numbers marked as a router's."""
    for name in ("kernel", "bias"):
        setattr(layer, name, RouterParam(getattr(layer, name)[...]))
    return layer


class Network(routing.Router):
    """A router that reads the signal: features [B, F], then affine heads for logits and bias."""

    def __init__(
        self,
        num_experts: int,
        channels: int,
        features: int,
        noise: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        self.num_experts = num_experts
        self.channels = channels
        self.head = affine(features, num_experts, rngs=rngs)
        self.bias_head = affine(features, channels, rngs=rngs)
        # The noise starts the same for every expert and learns to depend on the signal.
        start = initializers.constant(routing.softplus_inverse(routing.NOISE_START))
        noisy = functools.partial(affine, kernel_init=initializers.zeros, bias_init=start)
        self.noise_head = noisy(features, num_experts, rngs=rngs) if noise else None

    def features(self, signals: Float[Array, "B ..."]) -> Float[Array, "B F"]:
        """Signals [B, *grid, C] -> [B, F]."""
        raise NotImplementedError

    def route(
        self,
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
    ) -> routing.Routed:
        """Signals [B, *grid, C] -> Routed; ids are not used."""
        if signals is None:
            raise ValueError("router.kind: this router reads the signals, and none were given")
        features = self.features(jnp.asarray(signals, jnp.float32))
        scale = (
            None if self.noise_head is None else routing.positive_noise(self.noise_head(features))
        )
        return routing.Routed(self.head(features), self.bias_head(features), scale)


def _check_signals(signals: Array, shape: Sequence[int | None], kind: str) -> None:
    if signals.ndim != len(shape) + 1 or any(
        wanted not in (None, got) for wanted, got in zip(shape, signals.shape[1:], strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"router.kind: {kind} was built for signals of shape ({wanted}), "
            f"got {tuple(signals.shape[1:])}"
        )


def _check_grid(grid_shape: Sequence[int], kind: str) -> None:
    if len(grid_shape) != 2:
        raise ValueError(
            f"router.kind: {kind} reads images, and these signals have {len(grid_shape)} "
            "dimensions; allowed here: codebook, linear"
        )


class Linear(Network):
    """The flattened signal, one affine map."""

    def __init__(
        self,
        num_experts: int,
        channels: int,
        grid_shape: Sequence[int],
        noise: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        self.shape = (*grid_shape, channels)
        super().__init__(num_experts, channels, math.prod(self.shape), noise, rngs=rngs)

    def features(self, signals: Float[Array, "B ..."]) -> Float[Array, "B F"]:
        """Signals [B, *grid, C] -> [B, prod(grid) C]."""
        _check_signals(signals, self.shape, "linear")
        return signals.reshape(signals.shape[0], -1)

    @property
    def affine(self) -> bool:
        """It is one."""
        return True

    def take_affine(
        self, kernel: Float[Array, "P C E"], bias_kernel: Float[Array, "P C C"]
    ) -> None:
        """As `Router.take_affine`."""
        _put(self.head, kernel.reshape(-1, self.num_experts))
        _put(self.bias_head, bias_kernel.reshape(-1, self.channels))


class Conv(Network):
    """Two 5x5 convolutions with relu, and what the heads read of their pixels.

    The official code pools over the pixels by 'sum', so codes grow with the image; 'mean' is ours.
    Both read images of any size and do not know where a pixel was. 'none' keeps every pixel for the
    heads: images of one size, [H, W, width] features. Its convolutions begin with two channels for
    each of the signal's that pass it on, one its positive and one its negative part, the others
    drawn: with heads that weigh the two by opposite signs the network is linear (Balduzzi et al.
    2017, "looks linear"), and so can be any affine map.
    """

    def __init__(
        self,
        num_experts: int,
        channels: int,
        grid_shape: Sequence[int],
        width: int = 256,
        pool: str = "mean",
        noise: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        _check_grid(grid_shape, "conv")
        if pool not in POOLS:
            raise ValueError(f"router.pool: {pool!r} is unknown; allowed: {', '.join(POOLS)}")
        self.pool = pool
        whole = pool == "none"
        if whole and width < 2 * channels:
            raise ValueError(
                f"router.width: {width}; allowed with router.pool=none: {2 * channels} or more"
            )
        self.shape = (*grid_shape, channels) if whole else (None, None, channels)
        features = math.prod(grid_shape) * width if whole else width
        super().__init__(num_experts, channels, features, noise, rngs=rngs)
        # What passes signals on must not round them: dense codes may cancel.
        precision = "highest" if whole else None
        self.first = convolution(5, channels, width, precision=precision, rngs=rngs)
        self.second = convolution(5, width, width, precision=precision, rngs=rngs)
        if whole:
            self._pass_on()

    def features(self, signals: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """Signals [B, H, W, C] -> [B, width], or [B, H W width] unpooled."""
        _check_signals(signals, self.shape, "conv")
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(signals))))
        if self.pool == "none":
            return x.reshape(x.shape[0], -1)
        return x.mean((1, 2)) if self.pool == "mean" else x.sum((1, 2))

    def _pass_on(self) -> None:
        """Let the first 2 C channels of both convolutions be the signal's, of either sign."""
        pairs = jnp.kron(jnp.eye(self.channels), jnp.array([1.0, -1.0]))
        for layer, passed in ((self.first, pairs), (self.second, jnp.eye(2 * self.channels))):
            kernel, count = layer.kernel[...], 2 * self.channels
            kernel = kernel.at[..., :count].set(0).at[2, 2, : len(passed), :count].set(passed)
            layer.kernel[...] = kernel
            assert layer.bias is not None, "convolution() gives one"
            layer.bias[...] = layer.bias[...].at[:count].set(0)

    @property
    def affine(self) -> bool:
        """Where every pixel reaches the heads."""
        return self.pool == "none"

    def take_affine(
        self, kernel: Float[Array, "P C E"], bias_kernel: Float[Array, "P C C"]
    ) -> None:
        """As `Router.take_affine`; channels that were drawn have no part in it."""
        self._pass_on()
        width = self.first.kernel.shape[-1]
        for head, wanted in ((self.head, kernel), (self.bias_head, bias_kernel)):
            signed = jnp.stack([wanted, -wanted], 2).reshape(len(wanted), -1, wanted.shape[-1])
            rest = ((0, 0), (0, width - signed.shape[1]), (0, 0))
            _put(head, jnp.pad(signed, rest).reshape(-1, wanted.shape[-1]))


def _put(layer: nnx.Linear, kernel: Float[Array, "F G"]) -> None:
    """Let an affine layer be a linear map."""
    layer.kernel[...] = kernel
    assert layer.bias is not None, "affine() gives one"
    layer.bias[...] = jnp.zeros_like(layer.bias[...])


class Block(nnx.Module):
    """Residual block of two 5x5 convolutions: relu(x + relu(conv(relu(conv(x)))))."""

    def __init__(self, width: int, gain: float, *, rngs: nnx.Rngs):
        self.first = convolution(5, width, width, rngs=rngs)
        self.second = convolution(5, width, width, gain, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        return jax.nn.relu(x + jax.nn.relu(self.second(jax.nn.relu(self.first(x)))))


class ResNet(Network):
    """Convolutional network with four residual blocks, for images of one size, square or not.

    3x3 convolutions to widths[0] and widths[1], the blocks, a 1x1 convolution, one linear map over
    the pixels that all channels share, and the heads; relu between. Official widths are 128, 256.
    """

    blocks_count = 4

    def __init__(
        self,
        num_experts: int,
        channels: int,
        grid_shape: Sequence[int],
        widths: tuple[int, int] = (128, 256),
        noise: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        _check_grid(grid_shape, "resnet")
        inner, outer = widths
        self.shape = (*grid_shape, channels)
        super().__init__(num_experts, channels, outer, noise, rngs=rngs)
        self.first = convolution(3, channels, inner, rngs=rngs)
        self.second = convolution(3, inner, outer, rngs=rngs)
        # Each block adds to what it is given; the gain keeps the sum of them of order one.
        gain = 1.0 / math.sqrt(self.blocks_count)
        self.blocks = nnx.List([Block(outer, gain, rngs=rngs) for _ in range(self.blocks_count)])
        self.last = convolution(1, outer, outer, rngs=rngs)
        self.pixels = affine(math.prod(grid_shape), 1, rngs=rngs)

    def encode(self, signals: Float[Array, "B H W C"]) -> Float[Array, "B width"]:
        """Signals [B, H, W, C] -> [B, widths[1]], before the last relu."""
        _check_signals(signals, self.shape, "resnet")
        x = jax.nn.relu(self.first(signals))
        x = jax.nn.relu(self.second(x))
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu(self.last(x))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return self.pixels(x.swapaxes(1, 2))[..., 0]

    def features(self, signals: Float[Array, "B H W C"]) -> Float[Array, "B width"]:
        """Signals [B, H, W, C] -> [B, widths[1]]."""
        return jax.nn.relu(self.encode(signals))
