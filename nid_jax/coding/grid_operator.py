"""A local operator as it acts on the pixels of a grid, for what is solved there."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from nid_jax import numerics
from nid_jax.coding.operators import Masked, Operator, checked_shape, masked, register
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates

# Numbers gathered at a time: more leaves the cache.
_GATHERED_NUMBERS = 2**22


@register
@dataclasses.dataclass(frozen=True, eq=False)
class GridOperator(Operator):
    """What a local operator measures of an image between whose samples one interpolates linearly.

    An explicit sparse matrix [M, P], by rows and by columns, padded to equal length with zeros:
    columns int32, values [M, K]; of the transpose rows int32, column_values [P, L].
    """

    columns: jax.Array | None = None
    values: jax.Array | None = None
    rows: jax.Array | None = None
    column_values: jax.Array | None = None

    @property
    def num_measurements(self):
        return self.columns.shape[0]

    def measure(self, samples):
        """Samples on the grid [..., P, C] -> [..., M, C]."""
        return _sparse_product(self.columns, self.values, samples)

    def adjoint(self, measurements):
        """[..., M, C] -> [..., P, C]."""
        return _sparse_product(self.rows, self.column_values, measurements)


def _sparse_product(places, values, x):
    """Rows of padded places and values [N, K] times x [..., A, C] -> [..., N, C]."""
    *lead, count, channels = x.shape
    columns = jnp.moveaxis(x.reshape(-1, count, channels), 0, 1).reshape(count, -1)
    size = max(1, _GATHERED_NUMBERS // max(places.shape[1] * columns.shape[1], 1))

    def rows(piece):
        place, value = piece
        return numerics.einsum("nk,nkc->nc", value, columns[place])

    # Not lax.map's own batching, which would leave a remainder to compile apart.
    size = numerics.even_size(len(places), size)
    cut = tuple(numerics.cut(a, size) for a in (places, values))
    found = numerics.joined(jax.lax.map(rows, cut), len(places))
    found = jnp.moveaxis(found.reshape(len(places), -1, channels), 1, 0)
    return found.reshape(*lead, len(places), channels)


def on_grid(operator, shape):
    """The operator as it acts on images given on a grid, linearly interpolated between samples.

    -> an operator whose points are the grid's, [*shape] in order. One that already is on that grid
    comes back as it is; sums, stacks and products become those of their parts on the grid. Raises
    ArgumentError naming `operator` for an operator that is not local, on points of its own.
    """
    shape = checked_shape(shape)
    lattice = coordinates.grid(shape)
    points = np.asarray(operator.points)
    same = points.shape == lattice.shape and np.array_equal(points, lattice)
    if same and operator.run_length in (None, 1):
        return operator
    if isinstance(operator, Masked):
        plain = on_grid(operator.unmasked(), shape)
        return dataclasses.replace(masked(plain, operator.seen), weights=operator.weights)
    if operator.run_length is None:
        changed = operator.with_parts(lambda part: on_grid(part, shape))
        if changed is not operator:
            return changed
    matrix = matrix_on_grid(operator, shape)
    return GridOperator(
        jnp.asarray(lattice),
        None,
        operator.weights,
        None,
        *_padded_rows(matrix),
        *_padded_rows(matrix.T.tocsr()),
    )


def matrix_on_grid(operator: Operator, shape: Sequence[int]) -> scipy.sparse.csr_matrix:
    """`on_grid` of a local operator as a matrix [M, P] from an image's samples, float64.

    Raises ArgumentError naming `operator` for one that is not local, or of other dimensions. Of a
    mask nothing is seen here: all is measured.
    """
    points = np.asarray(operator.points)
    if operator.run_length is None or points.shape[1] != len(shape):
        name = type(operator).__name__
        raise ArgumentError("operator", name, f"one of signals {list(shape)}, or a local one")
    count, length = operator.num_measurements, operator.run_length
    factors = np.ones((count, length)) if operator.factors is None else operator.factors
    spread = scipy.sparse.csr_matrix(
        (
            np.asarray(factors, np.float64).ravel(),
            np.arange(len(points)),
            np.arange(0, len(points) + 1, length),
        ),
        (count, len(points)),
    )
    return (spread @ _interpolation(points, shape)).tocsr()


def _interpolation(points, shape):
    """Linear interpolation from a grid to points [Q, D], held at the edges. -> sparse [Q, P]."""
    count = len(points)
    places, shares = np.zeros((count, 1), np.int64), np.ones((count, 1))
    for axis, side in enumerate(shape):
        position = np.clip((points[:, axis].astype(np.float64) + 1) / 2 * (side - 1), 0, side - 1)
        low = np.minimum(np.floor(position), max(side - 2, 0)).astype(np.int64)
        high = np.minimum(low + 1, side - 1)
        part = position - low
        along = np.stack([low, high], 1)
        weight = np.stack([1 - part, part], 1)
        places = (places[:, :, None] * side + along[:, None, :]).reshape(count, -1)
        shares = (shares[:, :, None] * weight[:, None, :]).reshape(count, -1)
    rows = np.repeat(np.arange(count), places.shape[1])
    size = (count, int(np.prod(shape)))
    return scipy.sparse.csr_matrix((shares.ravel(), (rows, places.ravel())), size)


def _padded_rows(matrix):
    """A CSR matrix as places int32 and values float32 [N, K], K the longest row."""
    matrix.sum_duplicates()
    lengths = np.diff(matrix.indptr)
    width = max(1, int(lengths.max()))
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    places, values = np.zeros((2, len(lengths), width))
    places[row, column], values[row, column] = matrix.indices, matrix.data
    return jnp.asarray(places.astype(np.int32)), jnp.asarray(values.astype(np.float32))
