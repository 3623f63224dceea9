"""Rendering: codes to values at any points, at any resolution and in any window, in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import nnx

from nid_jax.fields.coordinates import grid, pad_chunks
from nid_jax.fields.routing import Gates

# Float32 numbers of one layer held at a time where no chunk is given. On CPU 8 MB: more leaves the
# cache and is paged in anew by every chunk, which costs a third of the time.
_CHUNK_NUMBERS = {"cpu": 2**21}
_CHUNK_NUMBERS_ACCELERATOR = 2**24


def gates_of(codes, bias):
    """Solved codes as gates: with their active experts listed where most are zero.

    codes [S, E], bias [S, C], NumPy or jax -> Gates. K is the largest number of non-zero codes.
    """
    codes, bias = np.asarray(codes), np.asarray(bias)
    active = int((codes != 0).sum(-1).max(initial=0))
    if active == 0 or active > codes.shape[-1] // 2:
        return Gates(jnp.asarray(codes), None, None, jnp.asarray(bias))
    indices = np.argsort(-np.abs(codes), axis=-1, kind="stable")[:, :active].astype(np.int32)
    weights = np.take_along_axis(codes, indices, -1)
    return Gates(*map(jnp.asarray, (codes, indices, weights, bias)))


def points_at_once(dictionary, gates):
    """Points of which the widest of what is computed, from embedding to values, fits at once."""
    numbers = _CHUNK_NUMBERS.get(jax.default_backend(), _CHUNK_NUMBERS_ACCELERATOR)
    return numbers // max(gates.bias.size, *dictionary.sizes)


@functools.partial(jax.jit, static_argnames="graphdef")
def _render(graphdef, state, points, gates):
    return nnx.merge(graphdef, state, copy=True).combine(points, gates)


def render_points(dictionary, gates, points, chunk=0):
    """Values of signals at points. points [P, D], gates of S signals -> NumPy [S, P, C].

    Points go through in padded chunks of one size (`chunk`, or one that fits the machine), so that
    one compilation serves any number of points.
    """
    graphdef, state = nnx.split(dictionary)
    signals, channels = gates.bias.shape
    chunk = min(chunk or max(256, points_at_once(dictionary, gates)), len(points))
    chunks, count = pad_chunks(points, chunk)
    values = np.empty((signals, count, channels), np.float32)
    for index, piece in enumerate(chunks):
        start = index * chunk
        rendered = np.asarray(_render(graphdef, state, piece, gates))
        values[:, start : start + chunk] = rendered[:, : count - start]
    return values


def measured(dictionary, gates, operator):
    """What an operator measures of rendered signals: gates of S signals -> [S, M, C].

    Rays are rendered a few at a time where the operator is local.
    """
    if operator.run_length is None:
        values = render_points(dictionary, gates, np.asarray(operator.points))
        return operator.measure(jnp.asarray(values))
    size = max(1, points_at_once(dictionary, gates) // operator.run_length)
    graphdef, state = nnx.split(dictionary)
    # Every piece of one size, the last filled up with its last measurement.
    count = operator.num_measurements
    pieces = []
    for first in range(0, count, size):
        chosen = np.minimum(np.arange(first, first + size), count - 1)
        pieces.append(_measure(graphdef, state, operator.of_measurements(chosen), gates))
    return jnp.concatenate(pieces, 1)[:, :count]


@functools.partial(jax.jit, static_argnames="graphdef")
def _measure(graphdef, state, operator, gates):
    dictionary = nnx.merge(graphdef, state, copy=True)
    return operator.measure(dictionary.combine(operator.points, gates))


def resampled(values, shape, window=None):
    """Values given on their own grid [S, *grid, C], linearly interpolated to another. -> NumPy.

    shape, window as in `render`; the edge goes on beyond the grid.
    """
    points = grid(tuple(shape), window).astype(np.float64)
    sides = np.array(values.shape[1:-1])
    places = ((points + 1) / 2 * (sides - 1)).T
    found = np.empty((len(values), len(points), values.shape[-1]), np.float32)
    for signal, channel in np.ndindex(len(values), values.shape[-1]):
        one = values[signal, ..., channel]
        found[signal, :, channel] = scipy.ndimage.map_coordinates(
            one, places, order=1, mode="nearest"
        )
    return found.reshape(len(values), *shape, values.shape[-1])


def render(dictionary, gates, shape, window=None, chunk=0):
    """Signals on a grid of any shape. -> NumPy [S, *shape, C].

    window: ((low, high), ...) per axis in the coordinates of the training grid, whose end samples
    lie on -1 and 1; None renders all of it. Raises ValueError for a window that is empty.
    """
    points = grid(tuple(shape), window)
    values = render_points(dictionary, gates, points, chunk)
    return values.reshape(values.shape[0], *shape, values.shape[-1])
