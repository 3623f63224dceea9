"""Networks, one for each signal, and a start of theirs that was learned."""

import functools
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nid_jax.fields import embeddings, experts
from peers.descent import descend


class Network(NamedTuple):
    """A coordinate network at fixed points: inputs [P, F] (embedded coordinates), layer sizes."""

    inputs: jax.Array
    sizes: tuple
    activation: str
    omega0: float

    def draw(self, key):
        """Freshly drawn layers."""
        layers = experts.init_layers(key, self.sizes, self.activation, self.omega0)
        if self.activation == "sine":
            # As published, the last layer starts small; an expert of a dictionary must not.
            kernel, bias = layers[-1]
            layers = (*layers[:-1], (kernel / self.omega0, bias))
        return layers

    def render(self, layers):
        """-> [P, C]."""
        return self.at(layers, self.inputs)

    def at(self, layers, inputs):
        """Other inputs [Q, F] -> [Q, C]."""
        return experts.apply_layers(layers, inputs, self.activation, self.omega0)

    def residual(self, layers, target):
        """Mean squared error for a target [P, C]."""
        return jnp.square(self.render(layers) - target).mean()

    @property
    def numbers(self):
        """What one signal stores."""
        return sum((a + 1) * b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True))


def siren(points, channels, width, num_layers, omega0=30.0):
    """SIREN (Sitzmann et al. 2020). points [P, D]; num_layers counts the output layer."""
    sizes = (points.shape[-1], *[width] * (num_layers - 1), channels)
    return Network(jnp.asarray(points), sizes, "sine", omega0)


def fourier_network(points, channels, width, num_layers, size, scale, key):
    """ReLU network on Gaussian Fourier features (Tancik et al. 2020), one draw for all signals."""
    rngs = nnx.Rngs(params=key)
    embedding = embeddings.GaussianFourier(points.shape[-1], size, scale, rngs=rngs)
    sizes = (size, *[width] * (num_layers - 1), channels)
    return Network(embedding(jnp.asarray(points)), sizes, "relu", 0.0)


def fit_networks(network, targets, learning_rate, marks, key):
    """One network for every target [S, P, C]. -> `Descent`."""
    layers = jax.vmap(network.draw)(jax.random.split(key, len(targets)))

    def objective(layers, targets, _):
        return jax.vmap(network.residual)(layers, targets).sum()

    return descend(objective, layers, learning_rate, jnp.asarray(targets), marks=marks)


class LearnedStart(NamedTuple):
    """Layers and one logarithm of a learning rate for each of their arrays."""

    layers: tuple
    log_rates: tuple


def adapt(network, start, targets, steps):
    """Gradient descent from a learned start, for targets [S, P, C]. -> layers, stacked along S."""

    def one(target):
        def step(_, layers):
            grads = jax.grad(network.residual)(layers, target)
            return jax.tree.map(lambda v, g, r: v - jnp.exp(r) * g, layers, grads, start.log_rates)

        # Of a fixed length, so that it can be differentiated.
        return jax.lax.fori_loop(0, steps, step, start.layers)

    return jax.vmap(one)(targets)


def learn_start(
    network, targets, key, seconds, limit=math.inf, steps=5, batch_size=4, learning_rate=1e-3
):
    """MAML (Finn et al. 2017) through `steps` inner steps, with rates that are learned as well.

    targets [N, P, C] of the training signals. Stops after `seconds` of training, compilation apart,
    or `limit` outer steps. -> (LearnedStart, outer steps taken, seconds, compile seconds).
    """
    layers = network.draw(key)
    start = LearnedStart(layers, jax.tree.map(lambda _: jnp.log(jnp.float32(1e-2)), layers))
    rates = {"start": learning_rate, "rates": 10 * learning_rate}
    labels = LearnedStart(
        jax.tree.map(lambda _: "start", layers), jax.tree.map(lambda _: "rates", layers)
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.partition({name: optax.adam(rate) for name, rate in rates.items()}, labels),
    )

    def objective(start, batch):
        adapted = adapt(network, start, batch, steps)
        return jax.vmap(network.residual)(adapted, batch).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def outer(start, moments, batch):
        updates, moments = optimizer.update(jax.grad(objective)(start, batch), moments)
        return optax.apply_updates(start, updates), moments

    generator = np.random.default_rng(0)

    def draw():
        chosen = generator.choice(len(targets), min(batch_size, len(targets)), replace=False)
        return jnp.asarray(targets[chosen])

    begun = time.perf_counter()
    carry = jax.block_until_ready(outer(start, optimizer.init(start), draw()))
    compiled = time.perf_counter()
    count = 1
    while count < limit and time.perf_counter() - compiled < seconds:
        carry = jax.block_until_ready(outer(*carry, draw()))
        count += 1
    return carry[0], count, time.perf_counter() - compiled, compiled - begun
