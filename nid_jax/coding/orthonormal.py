"""Equations of codes that float32 can solve: a square root of the normal equations.

Normal equations square the condition number. Here a root B with B^T B for their matrix is kept: as
ill-conditioned as the atoms are, not as their square. Once the constant's response is projected
out, |y - Phi a|^2 = |z - B a|^2 + rest. Which root is cheapest is counted before anything runs:

rows      the measured atoms themselves, less the constant by one reflection: where they are few
          enough to be held. Nothing is factored.
atoms     the triangle R of the measured atoms' QR factors, by Householder reflections streamed over
          chunks of measurements: the factor of (R; next chunk) is the factor of both, and the
          reflections that make it take the measurements along, to z = Q^T y.
features  the same of a shared dictionary's measured features T = sqrt(w) (A 1, A h), and B = R W of
          its heads W: F C rows whatever the number of measurements.

Householder's QR is backward stable column by column, needs no full rank and no more measurements
than columns (Golub and Van Loan 2013, 5.2). What the reflections leave of y below R is outside the
span of the columns: its squares, which do not cancel, are the part of the residual that no code can
remove. As the constant comes first, row 0 of R is the constant's: it says the best bias, and the
rows below are the atoms and measurements free of it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nid_jax import numerics, platforms
from nid_jax.coding import gram, least_squares, operators
from nid_jax.fields.dictionary import Dictionary

# Numbers of a root that may have more rows than columns, so many times as many at most: to factor
# them would cost more than it saves those who take its products anyway.
_HELD_NUMBERS = 2**22
_HELD_ROWS = 4

# Rows of a chunk are at least so many times the columns: R is factored again with every chunk.
_ROWS_PER_COLUMN = 4
# What a reflection costs beside a product of as many operations: 27 and 90 G/s, XLA on CPU.
_REFLECTION_COST = 3


class OrthonormalEquations(NamedTuple):
    """All that a quadratic solver needs to know, by a square root of its matrix; float32.

    root B [N, E], or [S, N, E] where every signal has its own weights; projected z [S, N];
    rest [S]; atom_mean [E, C] or [S, E, C]; target_mean [S, C]; count, bias_weight [] or [S], as in
    `gram.NormalEquations`. With Phi, y free of the constant, sum w |y - Phi a|^2 =
    |z - B a|^2 + rest, over measurements and channels. N may be a few times E where that is not
    many numbers; see `reduced`.
    """

    root: jax.Array
    projected: jax.Array
    rest: jax.Array
    atom_mean: jax.Array
    target_mean: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    bias_weight: jax.Array

    @property
    def shared(self) -> bool:
        """Whether all signals have one matrix."""
        return self.root.ndim == 2

    @property
    def energy(self) -> Float[Array, " S"]:
        """Weighted sum of squared measurements, free of the constant."""
        return jnp.square(self.projected).sum(-1) + self.rest

    @property
    def moments(self) -> Float[Array, "S E"]:
        """B^T z."""
        return self.pulled(self.projected)

    def products(self, exact: bool = False) -> gram.NormalEquations:
        """The normal equations, gram = B^T B, for solvers that live on them.

        In float32; exact: with what that rounds off.
        """
        low = {}
        if exact:
            high, low["gram_low"] = _exact_products(self.root)
        else:
            high = _products(self.root)
        return gram.NormalEquations(high, self.moments, self.energy, *self[3:], **low)

    def reduced(self) -> "OrthonormalEquations":
        """The same equations with no more rows than experts, N <= E."""
        if self.root.shape[-2] <= self.root.shape[-1]:
            return self
        root, projected, more = _reduced(self.root, self.projected)
        return self._replace(root=root, projected=projected, rest=self.rest + more)

    def of_signals(self, which: Any) -> "OrthonormalEquations":
        """The equations of some signals, chosen by a slice or indices."""
        own = {"projected", "rest", "target_mean"}
        if not self.shared:
            own |= {"root", "atom_mean", "count", "bias_weight"}
        return self._replace(**{name: getattr(self, name)[which] for name in own})

    def of_experts(self, indices: Int[Array, "S K"]) -> "OrthonormalEquations":
        """The equations of codes that are zero but for some experts of each signal's own.

        indices int [S, K] -> equations of codes [S, K]: root [S, N, K], atom_mean [S, K, C].
        """
        signals = jnp.ones_like(self.rest)
        return self._replace(
            root=self.columns(indices),
            atom_mean=(
                self.atom_mean[indices]
                if self.shared
                else jnp.take_along_axis(self.atom_mean, indices[..., None], 1)
            ),
            count=self.count * signals,
            bias_weight=self.bias_weight * signals,
        )

    def columns(self, indices: Int[Array, "S K"]) -> Float[Array, "S N K"]:
        """Columns of B, of each signal's own choice."""
        if self.shared:
            return self.root.T[indices].swapaxes(-1, -2)
        return jnp.take_along_axis(self.root, indices[:, None, :], -1)

    def bias(self, codes: Float[Array, "S E"]) -> Float[Array, "S C"]:
        """The best bias of given codes."""
        one = "ec" if self.shared else "sec"
        return self.target_mean - numerics.einsum(f"se,{one}->sc", codes, self.atom_mean)

    def rendered(self, codes: Float[Array, "S E"]) -> Float[Array, "S N"]:
        """B a: what codes render, in orthonormal coordinates."""
        one = "ne" if self.shared else "sne"
        return numerics.einsum(f"se,{one}->sn", codes, self.root)

    def pulled(self, values: Float[Array, "S N"]) -> Float[Array, "S E"]:
        """B^T v."""
        one = "ne" if self.shared else "sne"
        return numerics.einsum(f"sn,{one}->se", values, self.root)

    def apply(self, codes: Float[Array, "S E"]) -> Float[Array, "S E"]:
        """B^T B a."""
        return self.pulled(self.rendered(codes))

    def residual(self, codes: Float[Array, "S E"]) -> Float[Array, " S"]:
        """Weighted sum of squared residuals, with the best bias: a sum of squares, so exact."""
        return jnp.square(self.projected - self.rendered(codes)).sum(-1) + self.rest

    def mean_residual(self, codes: Float[Array, "S E"], exact: bool = False) -> Float[Array, " S"]:
        """`NormalEquations.mean_residual`; here `exact` changes nothing, as `residual` is."""
        values = self.count * self.target_mean.shape[-1] * jnp.ones_like(self.rest)
        return numerics.safe_divide(self.residual(codes), values)


_reduced = jax.jit(least_squares.reduced)
_products = jax.jit(least_squares.products)


@gram.batched_by_map
def _exact_products(root):
    def products(root):
        (root,) = gram.wide(root)
        return gram.split(numerics.einsum("...ne,...nf->...ef", root, root))

    return gram.in_float64(products, root)


def orthonormal_equations(
    dictionary: Dictionary,
    operator: operators.Operator,
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "..."] | None = None,
    chunk: int = 0,
) -> OrthonormalEquations:
    """The equations of measurements in a dictionary, in one pass over the measurements.

    Args:
      dictionary: a shared one is reduced through its features.
      operator: its own weights (a mask) multiply `weights`.
      measurements: [S, M, C]. Values of weight 0 are not read and may be NaN.
      weights: None, [M], or [S, M]: a matrix for every signal then, S N E numbers.
      chunk: measurements measured at a time; 0 chooses.

    Returns:
      OrthonormalEquations. No gradient flows through them.

    Raises:
      ArgumentError: shapes that do not fit together.
    """
    measurements, weights = gram.checked(dictionary, operator, measurements, weights)
    graphdef, state = nnx.split(dictionary)
    return _equations(graphdef, state, operator, measurements, weights, chunk=chunk)


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk"))
def _equations(graphdef, state, operator, measurements, weights, chunk):
    state, operator, measurements, weights = jax.lax.stop_gradient(
        (state, operator, measurements, weights)
    )
    dictionary = nnx.merge(graphdef, state)
    if weights is None:
        weights = jnp.ones(operator.num_measurements, jnp.float32)
    weights = weights.astype(jnp.float32)
    measurements = jnp.where(weights[..., None] > 0, measurements, 0)
    signals, count, _ = measurements.shape
    own = weights.ndim == 2
    if _rows_are_held(dictionary, count, signals if own else 1):
        return _of_rows(dictionary, operator, measurements, weights, chunk)
    trunk = _through_features(dictionary, count, signals if own else 1)
    found, shift = _factored(dictionary, operator, measurements, weights, chunk, trunk)
    return _with_heads(dictionary, found, weights, shift, trunk)


def _rows_are_held(dictionary, count, matrices):
    """Whether the measured atoms are themselves the root, for so many measurements and matrices."""
    rows, experts = count * dictionary.channels, dictionary.num_experts
    return rows <= experts or matrices * rows * experts <= _HELD_NUMBERS


def _through_features(dictionary, count, matrices):
    """Whether to factor features and then apply the heads, by operations."""
    if not gram.is_shared(dictionary):
        return False
    channels, experts = dictionary.channels, dictionary.num_experts
    features, rows = dictionary.num_features + 1, count * channels
    kept = min(count, features)
    atoms = rows * features * experts
    atoms += matrices * _REFLECTION_COST * rows * experts * min(rows, experts)
    through = _REFLECTION_COST * count * features * kept + kept * features * channels * experts
    return matrices * through < atoms


def _measuring(dictionary, operator, size, trunk):
    """`gram.measured_features`, or, of any dictionary, the atoms as if they were features."""
    pieces, measure = gram.measured_features(dictionary, operator, size)
    if trunk or not gram.is_shared(dictionary):
        return pieces, measure

    def atoms(piece):
        values, constant = measure(piece)
        return gram.measured_atoms(dictionary, values, constant).swapaxes(1, 2), constant

    return pieces, atoms


def _rough_mean(constant, targets):
    """[S, C]: any origin near the mean keeps digits where measurements vary little about it."""
    shift = numerics.einsum("m,msc->sc", constant, targets)
    return numerics.safe_divide(shift, jnp.square(constant).sum())


def _of_rows(dictionary, operator, measurements, weights, chunk):
    """Equations whose root is the weighted atoms, less the constant. -> OrthonormalEquations."""
    signals, count, channels = measurements.shape
    size, _ = _sizes(dictionary, operator, dictionary.num_experts, chunk)
    pieces, measure = _measuring(dictionary, operator, size, False)
    values, u = jax.tree.map(
        lambda leaf: numerics.joined(leaf, count).astype(jnp.float32), jax.lax.map(measure, pieces)
    )
    shift = _rough_mean(u, measurements.swapaxes(0, 1))
    y = measurements - u[:, None] * shift[:, None]
    scale = jnp.sqrt(weights)
    atoms = (scale[..., None, None] * values).reshape(*scale.shape, -1)
    y = scale[..., None] * y
    if weights.ndim == 1:
        y = y.swapaxes(0, 1).reshape(count, -1)
    both = jnp.concatenate([atoms, y], -1)
    level, both = least_squares.without_constant(scale * u, both)
    atoms, z = both[..., : atoms.shape[-1]], both[..., atoms.shape[-1] :]
    root = atoms.reshape(*atoms.shape[:-1], channels, -1)
    rest = jnp.zeros(signals, jnp.float32)
    return _of_channels(root, z, level, rest, weights, shift)


def _of_channels(root, z, level, rest, weights, shift):
    """`_finished` of rows that are one for every channel, the constant's first. root [.., N, C, E],
    z [.., N, S' C], S' being 1 where signals are the leading axis; level [..]."""
    z = jnp.moveaxis(z.reshape(*z.shape[:-1], -1, root.shape[-2]), -2, -3)
    below = root[..., 1:, :, :]
    first = root[..., 0, :, :], z[..., 0, :]
    below = below.reshape(*below.shape[:-3], -1, below.shape[-1]), z[..., 1:, :]
    return _finished(first, below, level[..., None], rest, weights, shift)


def _finished(first, below, level, rest, weights, shift):
    """The equations, with the best bias read off the constants' rows.

    first: rows [.., C, E] of the constants and what is measured there [.., S', C]; below: all other
    rows [.., N, E] and measurements [.., S', ...]; level [.., C] or [.., 1] of the constants'
    columns; rest [S]; shift [S, C], taken off the measurements before.
    """
    (rows, values), (root, z), signals = first, below, len(rest)
    atom_mean = numerics.safe_divide(rows, level[..., None]).swapaxes(-1, -2)
    target_mean = numerics.safe_divide(values, level[..., None, :]).reshape(signals, -1)
    # A constant that is not seen leaves its rows to the rest.
    unseen = level == 0
    root = jnp.concatenate([rows * unseen[..., None], root], -2)
    values = (values * unseen[..., None, :]).reshape(signals, -1)
    z = jnp.concatenate([values, z.reshape(signals, -1)], -1)
    most = _HELD_ROWS if root.size <= _HELD_NUMBERS else 1
    if root.shape[-2] > most * root.shape[-1]:
        root, z, more = least_squares.reduced(root, z)
        rest = rest + more
    return OrthonormalEquations(
        root, z, rest, atom_mean, target_mean + shift, weights.sum(-1), jnp.square(level[..., 0])
    )


def _factored(dictionary, operator, measurements, weights, chunk, trunk):
    """-> `Factored` of measurements less a constant, with the signals' axis where each has its own
    weights, and that constant [S, C]. trunk: of features, else of atoms."""
    signals, count, channels = measurements.shape
    columns = dictionary.num_features + 1 if trunk else dictionary.num_experts + channels
    own = weights.ndim == 2
    right = (1 if own else signals) * (channels if trunk else 1)
    size, group = _sizes(dictionary, operator, columns, chunk)
    pieces, measure = _measuring(dictionary, operator, size, trunk)
    targets = numerics.cut(measurements.swapaxes(0, 1), size)
    _, constant = measure(jax.tree.map(lambda piece: piece[0], pieces))
    shift = _rough_mean(constant, targets[0])
    inputs = (
        pieces,
        targets,
        numerics.cut(jnp.sqrt(weights).T if own else jnp.sqrt(weights), size),
    )
    inputs = jax.tree.map(lambda leaf: numerics.cut(leaf, group), inputs)

    def rows(inputs):
        """-> columns [.., rows, N] and right-hand sides [.., rows, T] of a group of pieces."""
        pieces, y, root = inputs
        values = jax.lax.map(measure, pieces)
        values, u, y, root = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), (*values, y, root))
        return _rows(trunk, values, u, y - u[:, None, None] * shift, root)

    most = max(1, platforms.sizes().chunk // (columns * size * group))
    together = numerics.even_size(signals, most)

    def step(known, inputs):
        more = rows(inputs)
        if own:
            every = jax.tree.map(lambda leaf: numerics.cut(leaf, together), (known, *more))
            # One loop of even batches: LAPACK on a batch waits for the threads that another, of the
            # signals that `lax.map` has left over beside its loop, waits on (jaxlib 0.10.2).
            found = jax.lax.map(lambda a: least_squares.joined(*a), every)
            return jax.tree.map(lambda leaf: numerics.joined(leaf, signals), found), None
        return least_squares.joined(known, *more), None

    start = least_squares.nothing((signals,) if own else (), columns, right)
    return jax.lax.scan(step, start, inputs)[0], shift


def _sizes(dictionary, operator, columns, chunk):
    """Measurements of a piece that is measured at once, and pieces of a group factored at once."""
    count = operator.num_measurements
    if chunk == 0:
        numbers = max(gram.numbers_per_point(dictionary) * (operator.run_length or 1), columns)
        chunk = max(16, platforms.sizes().chunk // numbers)
    size = numerics.even_size(count, chunk)
    wanted = max(_ROWS_PER_COLUMN * columns, platforms.sizes().chunk // columns)
    return size, min(-(-count // size), -(-wanted // size))


def _rows(trunk, values, u, y, root):
    """Weighted rows. values [m, A, F], u [m], y [m, S, C], root of weights [m] or [m, S]."""
    own = root.ndim == 2
    values, u, y, root = (v.astype(jnp.float32) for v in (values, u, y, root))
    count, signals, channels = y.shape
    if trunk:
        columns = jnp.concatenate([u[:, None], values[:, 0]], 1)
    else:
        constants = u[:, None, None] * jnp.eye(channels, dtype=u.dtype)
        columns = jnp.concatenate([constants, values], 2)
        root = jnp.repeat(root, channels, 0)
        columns = columns.reshape(count * channels, -1)
        y = y.swapaxes(1, 2).reshape(count * channels, signals, 1)
    if not own:
        return root[:, None] * columns, root[:, None] * y.reshape(len(y), -1)
    root = root.T[..., None]
    return root * columns, root * y.swapaxes(0, 1)


def _with_heads(dictionary, found, weights, shift, trunk):
    """The equations of a factor: of features, to which the heads are applied, or of atoms."""
    channels, signals = dictionary.channels, len(shift)
    triangle, z = found.triangle, found.projected
    rest = found.rest.reshape(signals, -1).sum(-1)
    if trunk:
        heads = dictionary.heads().astype(jnp.float32)
        # The bias of the heads multiplies the constant's column, which comes first here.
        heads = jnp.concatenate([heads[-1:], heads[:-1]], 0)
        root = numerics.einsum("...kf,fec->...kce", triangle, heads)
        return _of_channels(root, z, triangle[..., 0, 0], rest, weights, shift)
    level = jnp.diagonal(triangle[..., :channels, :channels], axis1=-2, axis2=-1)
    root, z = triangle[..., channels:], z.swapaxes(-1, -2)
    first = root[..., :channels, :], z[..., :channels]
    below = root[..., channels:, :], z[..., channels:]
    return _finished(first, below, level, rest, weights, shift)
