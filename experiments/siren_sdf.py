"""Signed distances without a dictionary: a SIREN per shape, and an auto-decoder of many shapes.

`fit_siren` fits one network to one shape, from samples of its distance or from an oriented cloud
alone (Sitzmann et al. 2020, section 4.2, as the official code does it). `fit_auto_decoder` fits one
network and a latent for every training shape (DeepSDF, Park et al. 2019), and `infer` finds the
latents of unseen shapes with the network frozen. All stop at a wall clock from which compilation is
left out, and are told apart from it in what they return. Points are in [-1, 1]^D.
"""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nid_jax.fields import experts
from nid_jax.training import losses

SAMPLE_LOSSES = ("l1", "l2")

# Steps between two looks at the clock.
_BLOCK = 4


class Fit(NamedTuple):
    """What a descent gives: variables, steps, seconds without compilation, and compile seconds.

    curve: the objective of every step.
    """

    variables: tuple
    steps: int
    seconds: float
    compile_seconds: float
    curve: np.ndarray


def descend(objective, variables, data, key, learning_rate, seconds, limit=None):
    """Adam on objective(variables, data, key), a new key at every step. -> Fit.

    Stops after `seconds` or `limit` steps, whichever comes first, in whole blocks of steps. The
    rate falls to a tenth along a cosine of what is spent. Raises ValueError for a descent without
    end.
    """
    limit = math.inf if limit is None else limit
    if not (seconds > 0 and limit > 0 and min(seconds, limit) < math.inf):
        raise ValueError(f"seconds={seconds}, limit={limit}; allowed: above 0, one of them finite")
    optimizer = optax.scale_by_adam()

    def block(carry, data, key, rate, count):
        def step(carry, key):
            variables, moments = carry
            value, slopes = jax.value_and_grad(objective)(variables, data, key)
            updates, moments = optimizer.update(slopes, moments)
            updates = jax.tree.map(lambda update: -rate * update, updates)
            return (optax.apply_updates(variables, updates), moments), value

        return jax.lax.scan(step, carry, jax.random.split(key, count))

    length = min(_BLOCK, limit)
    carry, rate = (variables, optimizer.init(variables)), jnp.float32(learning_rate)
    start = time.perf_counter()
    advance = jax.jit(block, static_argnums=4).lower(carry, data, key, rate, length).compile()
    compile_seconds = time.perf_counter() - start
    begun, steps, curve = time.perf_counter(), 0, []
    spent = 0.0
    while spent < 1:
        rate = jnp.float32(learning_rate * (0.55 + 0.45 * math.cos(math.pi * spent)))
        carry, values = advance(carry, data, jax.random.fold_in(key, steps), rate)
        curve.append(np.asarray(values))
        steps += length
        spent = max((time.perf_counter() - begun) / seconds, steps / limit)
    return Fit(carry[0], steps, time.perf_counter() - begun, compile_seconds, np.concatenate(curve))


# ---- one network for one shape ----------------------------------------------------------------


class Siren(NamedTuple):
    """A fitted network; calling it gives the distances of points [P, D] -> float32 [P]."""

    fit: Fit
    omega0: float

    def __call__(self, points, chunk=2**16):
        return _in_chunks(
            lambda x: experts.apply_layers(self.fit.variables, x, "sine", self.omega0)[:, 0],
            points,
            chunk,
        )


def _in_chunks(function, points, chunk):
    function = jax.jit(function)
    points = np.asarray(points, np.float32)
    pieces = [np.asarray(function(points[i : i + chunk])) for i in range(0, len(points), chunk)]
    return np.concatenate(pieces)


def draw_siren(key, dims, width=256, num_layers=5, omega0=30.0):
    """Layers of a SIREN with one output, drawn as published; num_layers counts the last."""
    sizes = (dims, *[width] * (num_layers - 1), 1)
    layers = experts.init_layers(key, sizes, "sine", omega0)
    # As published, the last layer starts small; an expert of a dictionary must not.
    kernel, bias = layers[-1]
    bound = math.sqrt(6 / width) / omega0
    drawn = jax.random.uniform(
        jax.random.fold_in(key, 1), kernel.shape, minval=-bound, maxval=bound
    )
    return (*layers[:-1], (drawn, bias))


def fit_siren(
    points,
    *,
    normals=None,
    values=None,
    loss="l1",
    weights=None,
    seconds=60.0,
    limit=None,
    batch_size=2000,
    width=256,
    num_layers=5,
    omega0=30.0,
    learning_rate=1e-4,
    seed=0,
):
    """A SIREN for one shape, from distances or from an oriented cloud. -> `Siren`.

    Args:
      points: [P, D]: on the surface, with `normals` [P, D] (outward), or anywhere, with the
        distances `values` [P] there.
      loss: of distances, 'l1' or 'l2'.
      weights: of the cloud's terms, None for the official code's (`losses.SURFACE_WEIGHTS`).
      seconds, limit: when to stop; see `descend`.
      batch_size: points of a step, drawn anew; of a cloud as many again anywhere in the cube.

    Raises:
      ValueError: unless exactly one of normals and values is given, in the shape of the points.
    """
    if (normals is None) == (values is None):
        raise ValueError("a SIREN takes points with normals, or points with values: one of the two")
    if loss not in SAMPLE_LOSSES:
        raise ValueError(f"loss={loss!r}; allowed: {', '.join(SAMPLE_LOSSES)}")
    points = jnp.asarray(points, jnp.float32)
    given = jnp.asarray(normals if values is None else values, jnp.float32)
    if given.shape != (points.shape if values is None else points.shape[:1]):
        raise ValueError(f"points {points.shape} and what is known there {given.shape} differ")
    key = jax.random.key(seed)
    layers = draw_siren(key, points.shape[1], width, num_layers, omega0)

    def values_at(layers, x):
        return experts.apply_layers(layers, x, "sine", omega0)[:, 0]

    def from_samples(layers, data, key):
        chosen = jax.random.randint(key, (batch_size,), 0, len(points))
        x, target = (array[chosen] for array in data)
        return losses.data_term(values_at(layers, x), target, loss)

    def from_cloud(layers, data, key):
        chosen = jax.random.randint(key, (batch_size,), 0, len(points))
        x, normal = (array[chosen] for array in data)
        off = jax.random.uniform(jax.random.fold_in(key, 1), x.shape, minval=-1, maxval=1)
        both = jnp.concatenate([x, off])
        found, pull = jax.vjp(lambda x: values_at(layers, x), both)
        slopes = pull(jnp.ones_like(found))[0]
        on, rest = slice(None, batch_size), slice(batch_size, None)
        terms = losses.surface_terms(found[on], slopes[on], normal, found[rest], slopes[rest])
        return terms.total(weights)

    objective = from_cloud if values is None else from_samples
    fit = descend(objective, layers, (points, given), key, learning_rate, seconds, limit)
    return Siren(fit, omega0)


# ---- one network for all shapes ---------------------------------------------------------------


class AutoDecoder(NamedTuple):
    """A network of (point, latent) and the training shapes' latents [S, L].

    fit: of both; truncation: of the distances, or None; regularisation: of the latents.
    """

    layers: tuple
    latents: jax.Array
    truncation: float | None
    regularisation: float
    fit: Fit

    def __call__(self, latents, points, chunk=2**15):
        """Distances of shapes with latents [S, L] at points [P, D] that they share. -> [S, P]."""
        return np.stack(
            [
                _in_chunks(lambda x, z=z: _decode(self.layers, z[None], x[None])[0], points, chunk)
                for z in jnp.asarray(latents)
            ]
        )

    def infer(
        self, points, values, seconds=10.0, limit=None, batch_size=2000, learning_rate=5e-3, seed=0
    ):
        """Latents of unseen shapes from samples, the network frozen. -> (latents [S, L], Fit).

        points [P, D] shared by the shapes or [S, P, D] of their own; values [S, P].
        """
        values = jnp.asarray(values, jnp.float32)
        points = jnp.asarray(points, jnp.float32)

        def objective(latents, data, key):
            layers, points, values = data
            x, target = _draw(points, values, jnp.arange(len(values)), batch_size, key)
            return _auto_loss(layers, latents, x, target, self.truncation, self.regularisation)

        # Their losses are averaged over the shapes: a rate of Adam does not change with it.
        start = jnp.zeros((len(values), self.latents.shape[1]))
        data = (self.layers, points, values)
        fit = descend(objective, start, data, jax.random.key(seed), learning_rate, seconds, limit)
        return fit.variables, fit


def _decode(layers, latents, x):
    """latents [B, L], x [B, P, D] -> [B, P]; the input enters again halfway, as in DeepSDF."""
    # Of the first layer the latent's part is the same at all points.
    first, again, *rest = layers
    dims = x.shape[-1]

    def enter(layer, x):
        kernel, bias = layer
        return x @ kernel[:dims] + (latents @ kernel[dims:] + bias)[:, None]

    half = len(rest) // 2
    hidden = jax.nn.relu(enter(first, x))
    for kernel, bias in rest[:half]:
        hidden = jax.nn.relu(hidden @ kernel + bias)
    hidden = hidden + enter(again, x)
    for kernel, bias in rest[half:-1]:
        hidden = jax.nn.relu(hidden @ kernel + bias)
    kernel, bias = rest[-1]
    return (hidden @ kernel + bias)[..., 0]


def _draw(points, values, shapes, batch_size, key):
    """Samples of chosen shapes [B]: points [B, p, D] and values [B, p].

    Half of them anywhere, half the nearest to the surface of four times as many: DeepSDF, too,
    samples surfaces more densely.
    """
    near = batch_size // 2
    anywhere = (len(shapes), batch_size + 3 * near)
    drawn = jax.random.randint(key, anywhere, 0, values.shape[1])
    drawn, tried = drawn[:, : batch_size - near], drawn[:, batch_size - near :]
    _, best = jax.lax.top_k(-jnp.abs(values[shapes[:, None], tried]), near)
    chosen = jnp.concatenate([drawn, jnp.take_along_axis(tried, best, 1)], 1)
    x = points[chosen] if points.ndim == 2 else points[shapes[:, None], chosen]
    return x, values[shapes[:, None], chosen]


def _auto_loss(layers, latents, x, target, truncation, regularisation):
    """Truncated absolute error and the latents' squared length: Park et al. 2019, eq. 4 and 9.

    Beyond the truncation f may be anything of the right sign; of the wrong one it is still pulled,
    where the published loss, whose values are clipped first, has no slope left.
    """
    found = _decode(layers, latents, x)
    errors = jnp.abs(found - target)
    if truncation is not None:
        inside = jnp.abs(target) < truncation
        beyond = jax.nn.relu(truncation - jnp.sign(target) * found)
        errors = jnp.where(inside, errors, beyond)
    return errors.mean() + regularisation * jnp.square(latents).sum(-1).mean()


def fit_auto_decoder(
    points,
    values,
    *,
    latent_size=64,
    truncation=0.1,
    regularisation=1e-4,
    seconds=60.0,
    limit=None,
    shapes=64,
    batch_size=256,
    width=256,
    num_layers=5,
    learning_rate=1e-3,
    seed=0,
):
    """DeepSDF's auto-decoder of training shapes (Park et al. 2019). -> `AutoDecoder`.

    Args:
      points: [P, D], or [S, P, D] where every shape has its own.
      values: distances [S, P].
      truncation: of distances, found and given, or None.
      regularisation: of the latents' squared length.
      shapes, batch_size: of a step.
      num_layers: of the network, its output layer included; at least 3.

    Raises:
      ValueError: points and values that do not fit together, or too few layers.
    """
    values, points = jnp.asarray(values, jnp.float32), jnp.asarray(points, jnp.float32)
    if points.shape[:-1] not in (values.shape, values.shape[1:]) or num_layers < 3:
        raise ValueError(
            f"points {points.shape} for values {values.shape}, num_layers={num_layers}; allowed: "
            "(points, D) or (shapes, points, D) for (shapes, points), 3 or more layers"
        )
    key = jax.random.key(seed)
    inputs = points.shape[-1] + latent_size
    sizes = (inputs, *[width] * (num_layers - 1), 1)
    first, *rest = experts.init_layers(key, sizes, "relu", 0.0)
    again = experts.init_layers(jax.random.fold_in(key, 1), (inputs, width), "relu", 0.0, False)[0]
    layers = (first, again, *rest[:-1], (rest[-1][0] / 10, rest[-1][1]))
    latents = jax.random.normal(jax.random.fold_in(key, 2), (len(values), latent_size))
    # As published: much shorter than what they grow to.
    variables = (layers, latents / math.sqrt(latent_size) * 0.1)

    def objective(variables, data, key):
        layers, latents = variables
        count = min(shapes, len(values))
        chosen = jax.random.choice(key, len(values), (count,), replace=False)
        x, target = _draw(*data, chosen, batch_size, jax.random.fold_in(key, 1))
        return _auto_loss(layers, latents[chosen], x, target, truncation, regularisation)

    fit = descend(objective, variables, (points, values), key, learning_rate, seconds, limit)
    return AutoDecoder(*fit.variables, truncation, regularisation, fit)
