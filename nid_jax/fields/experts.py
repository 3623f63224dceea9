"""One expert: a small coordinate network, as a pure function of its layers, and its initialisers.

A network is a tuple of layers (kernel [in, out], bias [out]); a dictionary stacks them along a
leading expert axis and maps over it. The last layer is linear.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nid_jax import numerics
from nid_jax.errors import ArgumentError

ACTIVATIONS = ("sine", "relu")

Network = Sequence[tuple[Array, Array]]
"""Layers (kernel [in, out], bias [out]), or with one more leading axis each."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """The shape of an expert, or of the trunk that experts share.

    num_layers: linear layers, the last one included; 1 or more. width: H of those between.
    activation: one of `ACTIVATIONS`; omega0: the factor inside of a sine; matmul: one of
    `numerics.MATMULS`. Raises ArgumentError for other values.
    """

    num_layers: int
    width: int
    activation: str
    omega0: float
    matmul: str = "float32"

    def __post_init__(self) -> None:
        for name, least in (("num_layers", 1), ("width", 1)):
            if not getattr(self, name) >= least:
                raise ArgumentError(name, getattr(self, name), f"{least} or more")
        check_activation(self.activation)
        if not 0 < self.omega0 < math.inf:
            raise ArgumentError("omega0", self.omega0, "finite, above 0")
        check_matmul(self.matmul)


def check_activation(activation: str) -> None:
    """Raise ArgumentError unless `activation` is one of `ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        raise ArgumentError("activation", activation, ", ".join(ACTIVATIONS))


def check_matmul(matmul: str) -> None:
    """Raise ArgumentError unless `matmul` is one of `numerics.MATMULS`."""
    if matmul not in numerics.MATMULS:
        raise ArgumentError("matmul", matmul, ", ".join(numerics.MATMULS))


def activate(z: Float[Array, "... H"], activation: str, omega0: float) -> Float[Array, "... H"]:
    """sin(omega0 z) (Sitzmann et al. 2020) or max(z, 0). z [..., H] -> [..., H]."""
    if activation == "sine":
        return numerics.sin(omega0 * z)
    return jax.nn.relu(z)


def apply_layers(
    layers: Network,
    x: Float[Array, "P inputs"],
    activation: str,
    omega0: float,
    final: bool = True,
    matmul: str = "float32",
) -> Float[Array, "P outputs"]:
    """Evaluate a network. x [P, in] -> [P, out].

    layers: sequence of (kernel [in, out], bias [out]). With `final` the last layer is linear,
    otherwise every layer is activated (a trunk whose linear heads are kept elsewhere). matmul: of
    the products, one of `numerics.MATMULS`.
    """
    hidden = layers[:-1] if final else layers
    for kernel, bias in hidden:
        x = activate(numerics.product("pi,io->po", x, kernel, matmul) + bias, activation, omega0)
    if final:
        kernel, bias = layers[-1]
        x = numerics.product("pi,io->po", x, kernel, matmul) + bias
    return x


def init_layers(
    key: Key[Array, ""],
    sizes: Sequence[int],
    activation: str,
    omega0: float,
    final: bool = True,
) -> tuple[tuple[Array, Array], ...]:
    """Draw a network with layers sizes[0] -> sizes[1] -> ... : tuple of (kernel, bias).

    sine: SIREN (Sitzmann et al. 2020, section 3.2): the first kernel is uniform on +-1/in, later
    ones on +-sqrt(6/in)/omega0, biases uniform on +-1/sqrt(in). relu: He et al. 2015, biases zero.
    With `final` the last layer is linear, with outputs of variance about 1.
    """
    check_activation(activation)
    layers = []
    keys = jax.random.split(key, len(sizes) - 1)
    for index, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        kernel_key, bias_key = jax.random.split(keys[index])
        shape = (fan_in, fan_out)
        if final and index == len(sizes) - 2:
            # Features of variance 1/2 (a sine's) or about 1/2 (a rectified Gaussian's).
            kernel = jax.random.normal(kernel_key, shape, jnp.float32) * math.sqrt(2 / fan_in)
            bias = jnp.zeros(fan_out, jnp.float32)
        elif activation == "sine":
            bound = 1 / fan_in if index == 0 else math.sqrt(6 / fan_in) / omega0
            kernel = jax.random.uniform(kernel_key, shape, jnp.float32, minval=-bound, maxval=bound)
            limit = 1 / math.sqrt(fan_in)
            bias = jax.random.uniform(
                bias_key, (fan_out,), jnp.float32, minval=-limit, maxval=limit
            )
        else:
            kernel = jax.random.normal(kernel_key, shape, jnp.float32) * math.sqrt(2 / fan_in)
            bias = jnp.zeros(fan_out, jnp.float32)
        layers.append((kernel, bias))
    return tuple(layers)


def layer_cost(sizes: Sequence[int], activation: str) -> int:
    """Operations for one point: multiply-adds counted as 2, an activation as `ACTIVATION_COST`."""
    products = 2 * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    return products + ACTIVATION_COST[activation] * sum(sizes[1:-1])


# A polynomial sine is about 20 operations, at the rate of an elementwise loop rather than of a
# matrix product; the ratio of the two measured rates makes it about this many matrix operations.
ACTIVATION_COST = {"sine": 150, "relu": 10}
