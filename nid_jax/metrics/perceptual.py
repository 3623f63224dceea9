"""LPIPS: distances between images in the features of a classifier.

The metric of Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (eq. 1), with the trunks and constants of its authors' PyTorch package, version 0.1. Its
weights are not part of this project: nid_jax.interop.lpips converts files that the user has.

Axis letters: S images, H x W pixels, C channels.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nid_jax import npy_files

# ImageNet's mean and standard deviation of RGB in [0, 1], carried over to [-1, 1]: rounded so in
# the package, and part of what its weights were trained with.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
# Pixels that pass through the trunk at a time; a VGG keeps some hundred floats for each.
_CHUNK_PIXELS = 2**18
_COMMAND = "python -m nid_jax.interop.lpips"


class Convolution(NamedTuple):
    """A convolution followed by relu.

    layer: its place among torchvision's `features`; pool: side of the max pooling of stride 2 that
    comes before it, 0 for none; tap: its output is one of the features compared.
    """

    layer: int
    inputs: int
    outputs: int
    size: int
    stride: int = 1
    padding: int = 1
    pool: int = 0
    tap: bool = False


NETWORKS = {
    "alex": (
        Convolution(0, 3, 64, 11, stride=4, padding=2, tap=True),
        Convolution(3, 64, 192, 5, padding=2, pool=3, tap=True),
        Convolution(6, 192, 384, 3, pool=3, tap=True),
        Convolution(8, 384, 256, 3, tap=True),
        Convolution(10, 256, 256, 3, tap=True),
    ),
    "vgg": (
        Convolution(0, 3, 64, 3),
        Convolution(2, 64, 64, 3, tap=True),
        Convolution(5, 64, 128, 3, pool=2),
        Convolution(7, 128, 128, 3, tap=True),
        Convolution(10, 128, 256, 3, pool=2),
        Convolution(12, 256, 256, 3),
        Convolution(14, 256, 256, 3, tap=True),
        Convolution(17, 256, 512, 3, pool=2),
        Convolution(19, 512, 512, 3),
        Convolution(21, 512, 512, 3, tap=True),
        Convolution(24, 512, 512, 3, pool=2),
        Convolution(26, 512, 512, 3),
        Convolution(28, 512, 512, 3, tap=True),
    ),
}
"""The convolutions of AlexNet and VGG16 as torchvision has them, up to the last one."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernels", "biases", "linear"],
    meta_fields=["network"],
)
@dataclasses.dataclass(frozen=True)
class LpipsWeights:
    """What LPIPS has learned.

    network: 'alex' or 'vgg'; kernels [height, width, inputs, outputs] and biases [outputs], one for
    each convolution of the network; linear [C], one for each tap.
    """

    network: str
    kernels: tuple
    biases: tuple
    linear: tuple


def check_network(network: str, key: str = "network") -> tuple:
    """The convolutions of a network; ValueError for a name that is unknown."""
    if network not in NETWORKS:
        allowed = ", ".join(map(repr, NETWORKS))
        raise ValueError(f"{key}: {network!r} is unknown; allowed: {allowed}")
    return NETWORKS[network]


def arrays(weights: LpipsWeights) -> dict[str, np.ndarray]:
    """LpipsWeights as named arrays, the layout of the .npz file that `load_weights` reads."""
    named = {"network": np.asarray(weights.network)}
    parts = {"kernel": weights.kernels, "bias": weights.biases, "linear": weights.linear}
    for part, values in parts.items():
        named |= {f"{part}{at}": np.asarray(value) for at, value in enumerate(values)}
    return named


def expected_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the named arrays of a network: {'kernel0': (11, 11, 3, 64), ...}."""
    convolutions = check_network(network)
    shapes: dict[str, tuple[int, ...]] = {}
    for at, layer in enumerate(convolutions):
        shapes[f"kernel{at}"] = (layer.size, layer.size, layer.inputs, layer.outputs)
        shapes[f"bias{at}"] = (layer.outputs,)
    taps = [layer for layer in convolutions if layer.tap]
    return shapes | {f"linear{at}": (layer.outputs,) for at, layer in enumerate(taps)}


def load_weights(path: str | Path) -> LpipsWeights:
    """LpipsWeights from the .npz file that `python -m nid_jax.interop.lpips` has written.

    Nothing in the file is executed. Raises FileNotFoundError where there is no file, ValueError for
    a file of another kind, an unknown network, and an array that is missing, of another shape, not
    finite, or (linear weights) negative.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {_COMMAND} writes one")
    other = f"{path}: is not a file of LPIPS weights; {_COMMAND} writes one"
    try:
        found = npy_files.read(path)
    except ValueError as error:
        raise ValueError(f"{other} ({str(error).removeprefix(f'{path}: ')})") from error
    named = {name: value for name, value in found.items() if value is not None}
    if "network" not in named:
        raise ValueError(other)
    network = str(named.pop("network"))
    check_network(network, f"{path}: network")
    # On the device once, and not with every batch of images.
    return jax.tree.map(jnp.asarray, weights_from_arrays(network, named, path))


def weights_from_arrays(
    network: str, named: Mapping[str, np.ndarray], title: str | Path
) -> LpipsWeights:
    """LpipsWeights, in NumPy, of a network from arrays named as in `expected_shapes`, checked.

    title: what an error begins with. Raises ValueError as `load_weights` does.
    """
    shapes = expected_shapes(network)
    for name, shape in shapes.items():
        if name not in named:
            raise ValueError(f"{title}: has no {name}, which network {network!r} needs")
        check_array(named[name], shape, f"{title}: {name}", network)
        if name.startswith("linear") and (named[name] < 0).any():
            raise ValueError(
                f"{title}: {name} holds negative weights; those of LPIPS are 0 or more"
            )
    kernels, biases, linear = (
        tuple(np.asarray(named[name], np.float32) for name in shapes if name.startswith(part))
        for part in ("kernel", "bias", "linear")
    )
    return LpipsWeights(network, kernels, biases, linear)


def check_array(value: np.ndarray, shape: tuple[int, ...], title: str | Path, network: str) -> None:
    """Raise ValueError, beginning with title, unless value has the shape and is finite."""
    if value.shape != shape:
        raise ValueError(f"{title} has shape {value.shape}; network {network!r} has {shape}")
    if value.dtype.kind != "f" or not np.isfinite(value).all():
        raise ValueError(f"{title} holds values that are not finite numbers")


def lpips(
    prediction: Float[Array | np.ndarray, "S H W C"],
    truth: Float[Array | np.ndarray, "S H W C"],
    weights: LpipsWeights,
) -> Float[Array, " S"]:
    """Learned perceptual distance of each image: [S, H, W, C] twice -> [S].

    prediction, truth: values in [0, 1], C being 3 (RGB) or 1 (grey, repeated to 3). The networks
    expect [-1, 1] and images are brought there here. The official code of neural implicit
    dictionaries leaves that out and feeds [0, 1]; its numbers are of another function, which is
    not offered. weights: LpipsWeights. 0 for identical images, up to rounding; no upper bound.

    Raises ValueError for shapes that differ or are not [S, H, W, 1 or 3], and for images too small
    for the network: a side below 31 pixels for 'alex', 16 for 'vgg'.
    """
    prediction, truth = jnp.asarray(prediction), jnp.asarray(truth)
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and truth {tuple(truth.shape)}; "
            "they must be equal"
        )
    check_images(prediction.shape, weights.network)
    height, width = prediction.shape[1:3]
    together = max(1, _CHUNK_PIXELS // (height * width))
    return _lpips(prediction.astype(jnp.float32), truth.astype(jnp.float32), weights, together)


def check_images(shape: tuple[int, ...], network: str) -> None:
    """Raise ValueError unless `lpips` takes images of this shape, [S, H, W, C]."""
    if len(shape) != 4 or shape[-1] not in (1, 3):
        raise ValueError(f"lpips takes images [S, H, W, 1 or 3]; got shape {tuple(shape)}")
    smallest = smallest_side(network)
    height, width = shape[1:3]
    if min(height, width) < smallest:
        raise ValueError(
            f"lpips with network {network!r} takes images of {smallest}x{smallest} pixels or more; "
            f"got {height}x{width}"
        )


@functools.cache
def smallest_side(network: str) -> int:
    """Side in pixels of the smallest image of which every layer of the network has an output."""
    return next(side for side in itertools.count(1) if _fits(side, NETWORKS[network]))


def _fits(side, convolutions):
    for layer in convolutions:
        if layer.pool:
            side = (side - layer.pool) // 2 + 1
        side = (side + 2 * layer.padding - layer.size) // layer.stride + 1
        if side < 1:
            return False
    return True


@functools.partial(jax.jit, static_argnums=3)
def _lpips(prediction, truth, weights, together):
    pairs = jnp.stack([prediction, truth], axis=1)
    return jax.lax.map(lambda pair: _distance(pair, weights), pairs, batch_size=together)


def _distance(pair, weights):
    """The distance of two images [2, H, W, C]: weighted squared differences of unit features."""
    distance: jax.Array | float = 0.0
    for features, linear in zip(_features(pair, weights), weights.linear, strict=True):
        norm = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True))
        first, second = features / (norm + _EPSILON)
        distance += jnp.mean(jnp.sum(jnp.square(first - second) * linear, axis=-1))
    return distance


def _features(images, weights):
    """Outputs [S, h, w, C] of the taps, for images [S, H, W, 1 or 3] in [0, 1]."""
    signed = jnp.broadcast_to(2.0 * images - 1.0, (*images.shape[:-1], 3))
    x = (signed - jnp.array(_SHIFT, jnp.float32)) / jnp.array(_SCALE, jnp.float32)
    taps = []
    layers = zip(NETWORKS[weights.network], weights.kernels, weights.biases, strict=True)
    for layer, kernel, bias in layers:
        if layer.pool:
            # Windows that would pass the border are left out, as PyTorch leaves them.
            side = (1, layer.pool, layer.pool, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, side, (1, 2, 2, 1), "VALID")
        x = jax.nn.relu(_convolve(x, kernel, layer) + bias)
        if layer.tap:
            taps.append(x)
    return taps


def _convolve(x, kernel, layer):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(layer.stride, layer.stride),
        padding=((layer.padding, layer.padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # Accelerators would round the factors to fewer bits than a reported digit needs.
        precision=jax.lax.Precision.HIGHEST,
    )
