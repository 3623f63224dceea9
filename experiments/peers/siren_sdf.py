"""Signed distances without a dictionary: a SIREN per shape, and an auto-decoder of many shapes.

Fits stop at a wall clock from which compilation is left out, and are told apart from it in what
they return. Points are in [-1, 1]^D.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax.fields import experts
from nid_jax.training import losses
from peers.descent import Descent, descend
from peers.networks import Network, siren

# Of the latents' squared length.
REGULARISATION = 1e-4


class Layers(NamedTuple):
    """The size of a network, its output layer counted, and the frequency of its sines."""

    width: int = 256
    num_layers: int = 5
    omega0: float = 30.0


SIZE = Layers()


class Siren(NamedTuple):
    """A fitted network; calling it gives the distances of points [P, D] -> float32 [P]."""

    network: Network
    fit: Descent

    def __call__(self, points, chunk=2**16):
        layers = self.fit.last.variables
        return _in_chunks(lambda x: self.network.at(layers, x)[:, 0], points, chunk)


def _in_chunks(function, points, chunk):
    function = jax.jit(function)
    points = np.asarray(points, np.float32)
    pieces = [np.asarray(function(points[i : i + chunk])) for i in range(0, len(points), chunk)]
    return np.concatenate(pieces)


def fit_siren(
    points,
    *,
    normals=None,
    values=None,
    layers=SIZE,
    batch_size=2000,
    learning_rate=1e-4,
    seed=0,
    **until,
):
    """A SIREN for one shape (Sitzmann et al. 2020, section 4.2, as the official code does it).

    points [P, D]: on the surface, with outward `normals` [P, D], or anywhere, with the distances
    `values` [P] there, whose absolute error then counts. batch_size: points of a step, drawn anew;
    of a cloud as many again anywhere in the cube. until: as in `descend`. -> `Siren`. Raises
    ValueError unless one of normals and values is given.
    """
    if (normals is None) == (values is None):
        raise ValueError("a SIREN takes points with normals, or points with values: one of the two")
    points = jnp.asarray(points, jnp.float32)
    given = jnp.asarray(normals if values is None else values, jnp.float32)
    key = jax.random.key(seed)
    network = siren(points, 1, *layers)

    def drawn(data, key):
        chosen = jax.random.randint(key, (batch_size,), 0, len(points))
        return (array[chosen] for array in data)

    def from_samples(layers, data, key):
        x, target = drawn(data, key)
        return losses.data_term(network.at(layers, x)[:, 0], target, "l1")

    def from_cloud(layers, data, key):
        x, normal = drawn(data, key)
        off = jax.random.uniform(jax.random.fold_in(key, 1), x.shape, minval=-1, maxval=1)
        both = jnp.concatenate([x, off])
        found, pull = jax.vjp(lambda x: network.at(layers, x)[:, 0], both)
        slopes = pull(jnp.ones_like(found))[0]
        on, rest = slice(None, batch_size), slice(batch_size, None)
        terms = losses.surface_terms(found[on], slopes[on], normal, found[rest], slopes[rest])
        return terms.total(None)

    objective = from_cloud if values is None else from_samples
    data = (points, given)
    fit = descend(objective, network.draw(key), learning_rate, data, key=key, **until)
    return Siren(network, fit)


class AutoDecoder(NamedTuple):
    """A network of (point, latent) and the training shapes' latents [S, L].

    fit: of both; truncation: of the distances, or None.
    """

    layers: tuple
    latents: jax.Array
    truncation: float | None
    fit: Descent

    def __call__(self, latents, points, chunk=2**15):
        """Distances of shapes with latents [S, L] at points [P, D] that they share. -> [S, P]."""
        return np.stack(
            [
                _in_chunks(lambda x, z=z: _decode(self.layers, z[None], x[None])[0], points, chunk)
                for z in jnp.asarray(latents)
            ]
        )

    def infer(self, points, values, *, batch_size=2000, learning_rate=5e-3, seed=0, **until):
        """Latents of unseen shapes from samples, the network frozen. -> (latents [S, L], Descent).

        points [P, D] shared by the shapes; values [S, P]. until: as in `descend`.
        """
        values, points = jnp.asarray(values, jnp.float32), jnp.asarray(points, jnp.float32)

        def objective(latents, data, key):
            layers, points, values = data
            x, target = _draw(points, values, jnp.arange(len(values)), batch_size, key)
            return _auto_loss(layers, latents, x, target, self.truncation)

        # Their losses are averaged over the shapes: a rate of Adam does not change with it.
        start = jnp.zeros((len(values), self.latents.shape[1]))
        data, key = (self.layers, points, values), jax.random.key(seed)
        fit = descend(objective, start, learning_rate, data, key=key, **until)
        return fit.last.variables, fit


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
    return points[chosen], values[shapes[:, None], chosen]


def _auto_loss(layers, latents, x, target, truncation):
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
    return errors.mean() + REGULARISATION * jnp.square(latents).sum(-1).mean()


def fit_auto_decoder(
    points,
    values,
    *,
    latent_size=64,
    truncation=0.1,
    batch=(64, 256),
    layers=SIZE,
    learning_rate=1e-3,
    seed=0,
    **until,
):
    """DeepSDF's auto-decoder of training shapes (Park et al. 2019). -> `AutoDecoder`.

    points [P, D], shared by the shapes; distances `values` [S, P]; truncation of distances found
    and given, or None; batch: shapes, and samples of each, in a step; layers: of rectifiers, at
    least 3. until: as in `descend`.
    """
    values, points = jnp.asarray(values, jnp.float32), jnp.asarray(points, jnp.float32)
    width, num_layers, _ = layers
    key = jax.random.key(seed)
    inputs = points.shape[-1] + latent_size
    sizes = (inputs, *[width] * (num_layers - 1), 1)
    first, *rest = experts.init_layers(key, sizes, "relu", 0.0)
    again = experts.init_layers(jax.random.fold_in(key, 1), (inputs, width), "relu", 0.0, False)[0]
    start = (first, again, *rest[:-1], (rest[-1][0] / 10, rest[-1][1]))
    latents = jax.random.normal(jax.random.fold_in(key, 2), (len(values), latent_size))
    # As published: much shorter than what they grow to.
    variables = (start, latents / math.sqrt(latent_size) * 0.1)

    def objective(variables, data, key):
        layers, latents = variables
        count = min(batch[0], len(values))
        chosen = jax.random.choice(key, len(values), (count,), replace=False)
        x, target = _draw(*data, chosen, batch[1], jax.random.fold_in(key, 1))
        return _auto_loss(layers, latents[chosen], x, target, truncation)

    fit = descend(objective, variables, learning_rate, (points, values), key=key, **until)
    return AutoDecoder(*fit.last.variables, truncation, fit)
