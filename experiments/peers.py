"""What a dictionary is compared with: a network per signal, a learned start, PCA and DCT."""

import functools
import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.fft
import scipy.linalg
from flax import nnx

from nid_jax.fields import embeddings, experts

# ---- networks, one for each signal ------------------------------------------------------------


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
        return experts.apply_layers(layers, self.inputs, self.activation, self.omega0)

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


class Mark(NamedTuple):
    """A descent after so many steps: seconds without compilation, and the variables there."""

    steps: int
    seconds: float
    variables: Any


def descend(residuals, variables, learning_rate, marks):
    """Adam on `variables`, stopped at every one of the rising `marks`. -> [Mark], compile seconds.

    residuals(variables) -> [S], whose sum is descended. The rate falls to a tenth along a cosine.
    The time at a mark is its number of steps times the median, over the stretches between marks, of
    the seconds of a step.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, marks[-1], 0.1))

    @jax.jit
    def advance(carry, steps):
        def step(_, carry):
            variables, moments = carry
            grads = jax.grad(lambda v: residuals(v).sum())(variables)
            updates, moments = optimizer.update(grads, moments)
            return optax.apply_updates(variables, updates), moments

        return jax.lax.fori_loop(0, steps, step, carry)

    carry = (variables, optimizer.init(variables))
    start = time.perf_counter()
    jax.block_until_ready(advance(carry, 0))
    compile_seconds = time.perf_counter() - start
    done, rates, kept = 0, [], []
    for mark in marks:
        start = time.perf_counter()
        carry = jax.block_until_ready(advance(carry, mark - done))
        rates.append((time.perf_counter() - start) / (mark - done))
        kept.append((mark, carry[0]))
        done = mark
    rate = statistics.median(rates)
    return [Mark(steps, steps * rate, found) for steps, found in kept], compile_seconds


def fit_networks(network, targets, learning_rate, marks, key):
    """One network for every target [S, P, C]. -> [Mark], compile seconds."""
    layers = jax.vmap(network.draw)(jax.random.split(key, len(targets)))
    targets = jnp.asarray(targets)
    return descend(
        lambda layers: jax.vmap(network.residual)(layers, targets), layers, learning_rate, marks
    )


# ---- a start that was learned -----------------------------------------------------------------


class LearnedStart(NamedTuple):
    """Layers and one logarithm of a learning rate for each of their arrays."""

    layers: tuple
    log_rates: tuple


def _one_step(network, start, layers, target):
    grads = jax.grad(network.residual)(layers, target)
    return jax.tree.map(lambda v, g, r: v - jnp.exp(r) * g, layers, grads, start.log_rates)


def adapt(network, start, targets, steps):
    """Gradient descent from a learned start, for targets [S, P, C]. -> layers, stacked along S."""

    def one(target):
        def step(_, layers):
            return _one_step(network, start, layers, target)

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


# ---- linear transforms of the pixels ----------------------------------------------------------


class PCA:
    """Principal components of training signals [N, V]: at most as many as there are signals."""

    def __init__(self, signals, components):
        values = signals.shape[-1]
        components = min(components, len(signals) - 1, values)
        self.mean = signals.mean(0)
        centred = signals - self.mean
        span = (values - components, values - 1)
        _, vectors = scipy.linalg.eigh(centred.T @ centred, subset_by_index=span)
        self.components = np.ascontiguousarray(vectors[:, ::-1].T)
        # By the same library as all other fits.
        self._encode = jax.jit(
            lambda signals: jnp.dot(signals - self.mean, self.components.T, precision="highest")
        )

    def encode(self, signals):
        """[S, V] -> [S, components]."""
        return np.asarray(self._encode(signals))

    def decode(self, codes):
        """[S, components] -> [S, V]."""
        return codes @ self.components + self.mean


class DCT:
    """The orthonormal cosine transform of whole signals, channels included; E coefficients kept.

    Those kept are the E of most energy over the training signals [N, *grid, C].
    """

    def __init__(self, signals, count):
        energy = np.square(self.transform(signals)).mean(0).ravel()
        self.kept = np.argsort(-energy)[:count]
        self.shape = signals.shape[1:]

    @staticmethod
    def transform(signals):
        """[S, *grid, C] -> the same shape."""
        axes = tuple(range(1, signals.ndim))
        return scipy.fft.dctn(signals, axes=axes, norm="ortho")

    def encode(self, signals):
        """[S, *grid, C] -> [S, E]."""
        return self.transform(signals).reshape(len(signals), -1)[:, self.kept]

    def encode_all(self, signals):
        """[S, *grid, C] -> all coefficients [S, V]."""
        return self.transform(signals).reshape(len(signals), -1)

    def decode(self, codes):
        """Those kept, [S, E] -> [S, *grid, C]."""
        full = np.zeros((len(codes), math.prod(self.shape)), codes.dtype)
        full[:, self.kept] = codes
        return self.decode_all(full)

    def decode_all(self, codes):
        """All of them, [S, V] -> [S, *grid, C]."""
        axes = tuple(range(1, len(self.shape) + 1))
        return scipy.fft.idctn(codes.reshape(-1, *self.shape), axes=axes, norm="ortho")


def largest(codes, count):
    """Codes [S, E] with all but the `count` of largest magnitude set to zero."""
    order = np.argpartition(-np.abs(codes), count - 1, axis=-1)[:, :count]
    kept = np.zeros_like(codes)
    np.put_along_axis(kept, order, np.take_along_axis(codes, order, -1), -1)
    return kept
