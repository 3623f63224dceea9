"""Rendering: codes to values at any points, at any resolution and in any window, in chunks."""

import functools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import nnx
from jaxtyping import Float

from nid_jax import numerics, platforms
from nid_jax.errors import ArgumentError
from nid_jax.fields.coordinates import axes_of, grid
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates

# Float32 numbers of rendered signals held at a time: 64 MB.
_RENDERED_NUMBERS = 2**24


def together(pieces: Sequence[int], values_each: int) -> Iterator[tuple[int, int]]:
    """(first, beyond last) of as many whole signals at a time as make up to 64 MB.

    pieces: how many each is made of; values_each: numbers of a piece.
    """
    start = 0
    while start < len(pieces):
        stop = start + 1
        while (
            stop < len(pieces) and sum(pieces[start : stop + 1]) * values_each <= _RENDERED_NUMBERS
        ):
            stop += 1
        yield start, stop
        start = stop


def gates_of(codes, bias):
    """Solved codes as gates: with their active experts listed where most are zero.

    codes [S, E], bias [S, C], NumPy or jax -> Gates. K is the largest number of non-zero codes, or
    a little more: `_listed`.
    """
    codes, bias = np.asarray(codes), np.asarray(bias)
    active = _listed(int((codes != 0).sum(-1).max(initial=0)))
    if active == 0 or active > codes.shape[-1] // 2:
        return Gates(jnp.asarray(codes), None, None, jnp.asarray(bias))
    indices = np.argsort(-np.abs(codes), axis=-1, kind="stable")[:, :active].astype(np.int32)
    weights = np.take_along_axis(codes, indices, -1)
    return Gates(*map(jnp.asarray, (codes, indices, weights, bias)))


def _listed(active):
    """The next of 0, 1, 2, 3, 4, 6, 8, 12, 16, ...: as few programs as these serve any number."""
    if active < 3:
        return active
    power = 1 << (active - 1).bit_length()
    return power * 3 // 4 if active <= power * 3 // 4 else power


def points_at_once(dictionary, gates):
    """Points of which the widest of what is computed, from embedding to values, fits at once."""
    return platforms.sizes().layers // max(gates.bias.size, *dictionary.sizes)


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
    if not len(points):
        return np.zeros((signals, 0, channels), np.float32)
    chunk = min(chunk or max(256, points_at_once(dictionary, gates)), len(points))
    count = len(points)
    values = np.empty((signals, count, channels), np.float32)
    for index, piece in enumerate(numerics.cut(np.asarray(points), chunk)):
        start = index * chunk
        rendered = np.asarray(_render(graphdef, state, piece, gates))
        values[:, start : start + chunk] = rendered[:, : count - start]
    return values


@functools.partial(jax.jit, static_argnames="graphdef")
def _folded(graphdef, state, gates):
    return nnx.merge(graphdef, state, copy=True).folded_on_lattice(gates)


@functools.partial(jax.jit, static_argnames="graphdef")
def _render_axes(graphdef, state, axes, folded):
    return nnx.merge(graphdef, state, copy=True).combine_on_grid(axes, *folded)


def render_axes(
    dictionary: Dictionary, gates: Gates, axes: Sequence[Float[np.ndarray, " n"]], chunk: int = 0
) -> Float[np.ndarray, "S *grid C"]:
    """`render_points` at all points of a grid.

    Axis by axis where that takes fewer operations, else as points.

    gates of S signals; axes: coordinates [n] along each of the D axes; chunk: points at a time, 0
    for what fits the machine -> NumPy [S, *grid, C], the grid of as many samples as there are
    coordinates. Raises ValueError for another number of axes than D.
    """
    if len(axes) != dictionary.dims:
        raise ArgumentError("axes", len(axes), f"{dictionary.dims}, as many as coordinates")
    shape = tuple(map(len, axes))
    signals = len(gates.bias)
    if 0 in shape or not dictionary.grid_is_cheaper(shape, gates):
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
        values = render_points(dictionary, gates, points, chunk)
        return values.reshape(len(values), *shape, values.shape[-1])
    graphdef, state = nnx.split(dictionary)
    some, rows = _at_once(dictionary, shape, signals, chunk)
    first, *others = (np.asarray(axis, np.float32) for axis in axes)
    values = np.empty((signals, *shape, dictionary.channels), np.float32)
    pieces = zip(
        *(numerics.cut(np.asarray(part), some) for part in (gates.values, gates.bias)), strict=True
    )
    for number, (codes, bias) in enumerate(pieces):
        # Folded once for all slabs of the first axis.
        folded = _folded(graphdef, state, Gates(codes, None, None, bias))
        here = values[number * some : (number + 1) * some]
        for index, piece in enumerate(numerics.cut(first, rows)):
            slab = here[:, index * rows : (index + 1) * rows]
            found = np.asarray(_render_axes(graphdef, state, (piece, *others), folded))
            slab[:] = found[: len(here), : slab.shape[1]]
    return values


def _at_once(dictionary, shape, signals, chunk):
    """(signals, rows of the first axis) that fit at once, of a grid taken axis by axis.

    Whole signals where one fits, else some rows of one; of one the lattice's weights are whole.
    """
    counts, most = dictionary.embedding.lattice_counts, platforms.sizes().layers
    # Of one signal: weights of the lattice, and for a row what is left after each axis.
    lattice = dictionary.channels * math.prod(counts)
    row = dictionary.channels * max(
        math.prod(shape[1 : axis + 1]) * math.prod(counts[axis + 1 :]) for axis in range(len(shape))
    )
    some = numerics.even_size(signals, max(1, most // max(lattice, row * shape[0])))
    rows = max(1, most // (row * some))
    if chunk:
        rows = min(rows, max(1, chunk // math.prod(shape[1:])))
    return some, numerics.even_size(shape[0], rows)


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


def derivatives(dictionary, gates, points):
    """Derivatives of signals along every axis at points [P, D]. -> [S, P, C, D], traceable."""
    signals, channels = gates.bias.shape
    if signals * channels == 1:
        # A value depends on its own point alone: the gradient of the sum is every point's own.
        return jax.grad(lambda x: dictionary.combine(x, gates).sum())(points)[None, :, None]

    def along(direction):
        tangent = jnp.broadcast_to(direction, points.shape)
        return jax.jvp(lambda x: dictionary.combine(x, gates), (points,), (tangent,))[1]

    return jnp.stack([along(axis) for axis in jnp.eye(points.shape[-1], dtype=points.dtype)], -1)


@functools.partial(jax.jit, static_argnames="graphdef")
def _derivatives(graphdef, state, points, gates):
    return derivatives(nnx.merge(graphdef, state, copy=True), gates, points)


def render_derivatives(dictionary, gates, points, chunk=0):
    """`derivatives` in padded chunks of one size, in NumPy: [S, P, C, D]."""
    graphdef, state = nnx.split(dictionary)
    points = np.asarray(points, np.float32)
    if not len(points):
        return np.zeros(
            (*gates.bias.shape[:1], 0, gates.bias.shape[1], points.shape[1]), np.float32
        )
    chunk = min(chunk or max(256, points_at_once(dictionary, gates)), len(points))
    pieces = numerics.cut(points, chunk)
    found = [np.asarray(_derivatives(graphdef, state, piece, gates)) for piece in pieces]
    return np.concatenate(found, 1)[:, : len(points)]


def interpolated(values, points):
    """Values on their own grid [S, *grid, C], linearly interpolated at points. -> [S, P, C].

    The edge goes on beyond the grid. points [P, D] in coordinates of the grid.
    """
    places = _places(values, np.asarray(points, np.float64))
    found = np.empty((len(values), places.shape[1], values.shape[-1]), np.float32)
    for signal, channel in np.ndindex(len(values), values.shape[-1]):
        one = values[signal, ..., channel]
        found[signal, :, channel] = scipy.ndimage.map_coordinates(
            one, places, order=1, mode="nearest"
        )
    return found


def interpolation(values):
    """`interpolated` as a function of points [P, D] -> [S, P, C] that JAX may transform."""
    channels_first = jnp.moveaxis(jnp.asarray(values), -1, 1)
    sides = jnp.asarray(values.shape[1:-1], jnp.float32)

    def at(points):
        places = ((points + 1) / 2 * (sides - 1)).T

        def one(image):
            return jax.scipy.ndimage.map_coordinates(image, places, order=1, mode="nearest")

        return jnp.moveaxis(jax.vmap(jax.vmap(one))(channels_first), 1, -1)

    return at


def interpolated_derivatives(values, points):
    """Derivatives of `interpolated` along every axis. -> [S, P, C, D]."""
    at, points = interpolation(values), jnp.asarray(points, jnp.float32)

    def along(axis):
        tangent = jnp.zeros_like(points).at[:, axis].set(1)
        return jax.jvp(at, (points,), (tangent,))[1]

    return jnp.stack([along(axis) for axis in range(points.shape[1])], -1)


def _places(values, points):
    """Points [P, D] as positions on the grid of values [S, *grid, C]: [D, P]."""
    sides = np.array(values.shape[1:-1])
    return ((points + 1) / 2 * (sides - 1)).T


def resampled(values, shape, window=None):
    """Values given on their own grid [S, *grid, C], linearly interpolated to another. -> NumPy.

    shape, window as in `render`; the edge goes on beyond the grid.
    """
    found = interpolated(values, grid(tuple(shape), window))
    return found.reshape(len(values), *shape, values.shape[-1])


def render(dictionary, gates, shape, window=None, chunk=0):
    """Signals on a grid of any shape. -> NumPy [S, *shape, C].

    window: ((low, high), ...) per axis in the coordinates of the training grid, whose end samples
    lie on -1 and 1; None renders all of it. Raises ValueError for a window that is empty.
    """
    return render_axes(dictionary, gates, axes_of(tuple(shape), window), chunk)
