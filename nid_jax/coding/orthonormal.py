"""Measured features made orthonormal: equations of codes that float32 can solve.

Normal equations square the condition number. Here the measured columns, features of a shared
dictionary or the atoms of an independent one, are factored instead: with T = sqrt(w) (A 1, A h)
the columns, the constant's response first, T = Q R by Householder reflections, streamed over chunks
of measurements: the factor of (R; next chunk) is the factor of both, and the reflections that make
it take the measurements along, to z = Q^T y. Householder's QR is backward stable column by column,
needs no full rank and no more measurements than columns (Golub and Van Loan 2013, 5.2). What the
reflections leave of y below R is outside the span of the columns: its squares, which do not cancel,
are the part of the residual that no code can remove.

As the constant comes first, row 0 of R is the constant's: it says the best bias, and the rows below
are the atoms and measurements free of it. So |y - Phi a|^2 = |z - B a|^2 + rest, with B = R W for
heads W: F C rows whatever the number of measurements, and as ill-conditioned as the atoms are, not
as their square.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nid_jax import numerics
from nid_jax.coding import gram, operators
from nid_jax.fields.dictionary import Dictionary

CHUNK_NUMBERS = 2**22
"""Numbers of columns that are factored, or of features that are measured, at a time."""

# Rows of a chunk are at least so many times the columns: R is factored again with every chunk.
_ROWS_PER_COLUMN = 4


class Factored(NamedTuple):
    """T = Q R of measured columns T [rows, N], and right-hand sides: z = Q^T y, and what is left.

    triangle R [.., K, N], K = min(rows, N), upper triangular; projected z [.., K, T]; rest [.., T]:
    squared norm of y - Q z.
    """

    triangle: jax.Array
    projected: jax.Array
    rest: jax.Array


def factored(columns: Float[Array, "*S M N"], right: Float[Array, "*S M T"]) -> Factored:
    """`Factored` of columns [.., rows, N] and right-hand sides [.., rows, T], held as a whole."""
    kept = min(columns.shape[-2:])
    reflections, scale = jnp.linalg.qr(columns, mode="raw")
    reflections = reflections.swapaxes(-1, -2)
    turned = jax.lax.linalg.ormqr(reflections[..., :kept], scale, right, transpose=True)
    rest = jnp.square(turned[..., kept:, :]).sum(-2)
    return Factored(jnp.triu(reflections[..., :kept, :]), turned[..., :kept, :], rest)


def joined(known: Factored, columns: Float[Array, "*S M N"], right: Float[Array, "*S M T"]):
    """`Factored` of what is known and of further rows. -> Factored, K = min(all rows, N)."""
    both = factored(
        jnp.concatenate([known.triangle, columns], -2),
        jnp.concatenate([known.projected, right], -2),
    )
    return both._replace(rest=both.rest + known.rest)


def nothing(batch: tuple[int, ...], columns: int, right: int) -> Factored:
    """What a stream of rows begins with. batch: leading axes."""
    return Factored(
        jnp.zeros((*batch, columns, columns), jnp.float32),
        jnp.zeros((*batch, columns, right), jnp.float32),
        jnp.zeros((*batch, right), jnp.float32),
    )


class OrthonormalEquations(NamedTuple):
    """All that a quadratic solver needs to know, in orthonormal coordinates; float32.

    root B [N, E], or [S, N, E] where every signal has its own weights; projected z [S, N];
    rest [S]; atom_mean [E, C] or [S, E, C]; target_mean [S, C]; count, bias_weight [] or [S], as in
    `gram.NormalEquations`. With Phi, y free of the constant, sum w |y - Phi a|^2 =
    |z - B a|^2 + rest, over measurements and channels. N is at most E.
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
            high = numerics.einsum("...ne,...nf->...ef", self.root, self.root)
        return gram.NormalEquations(high, self.moments, self.energy, *self[3:], **low)

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
        """Mean squared residual per measured value. exact: it is, as `residual` is."""
        values = self.count * self.target_mean.shape[-1] * jnp.ones_like(self.rest)
        return numerics.safe_divide(self.residual(codes), values)


@gram.batched_by_map
def _exact_products(root):
    with gram.working_precision("double"):
        (root,) = gram.wide(root)
        return gram.split(numerics.einsum("...ne,...nf->...ef", root, root))


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
    found, shift = _measured(dictionary, operator, measurements, weights, chunk)
    equations = _with_heads(dictionary, found, weights, len(measurements))
    return equations._replace(target_mean=equations.target_mean + shift)


def _measured(dictionary, operator, measurements, weights, chunk):
    """-> `Factored` of measurements less a constant, with the signals' axis where each has its own
    weights, and that constant [S, C]."""
    signals, count, channels = measurements.shape
    shared = gram.is_shared(dictionary)
    columns = gram.numbers_per_point(dictionary) // (1 if shared else channels)
    columns += 1 if shared else channels
    own = weights.ndim == 2
    right = (1 if own else signals) * (channels if shared else 1)
    size, group = _sizes(dictionary, operator, columns, chunk)
    pieces, measure = gram.measured_features(dictionary, operator, size)
    targets = numerics.cut(measurements.swapaxes(0, 1), size)
    # Any rough mean as origin keeps digits where measurements vary little about a large one.
    _, constant = measure(jax.tree.map(lambda piece: piece[0], pieces))
    shift = numerics.einsum("m,msc->sc", constant, targets[0])
    shift = numerics.safe_divide(shift, jnp.square(constant).sum())
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
        return _rows(shared, values, u, y - u[:, None, None] * shift, root)

    batch_size = max(1, CHUNK_NUMBERS // (columns * size * group))

    def step(known, inputs):
        more = rows(inputs)
        if own:
            every = (known, *more)
            return jax.lax.map(lambda a: joined(*a), every, batch_size=batch_size), None
        return joined(known, *more), None

    if size * group >= count:
        columns, values = rows(jax.tree.map(lambda leaf: leaf[0], inputs))
        # No row of the padding: fewer rows than columns leave as many coordinates.
        rows_kept = count * (1 if shared else channels)
        columns, values = columns[..., :rows_kept, :], values[..., :rows_kept, :]
        if not own:
            return factored(columns, values), shift
        both = (columns, values)
        return jax.lax.map(lambda a: factored(*a), both, batch_size=batch_size), shift
    start = nothing((signals,) if own else (), columns, right)
    return jax.lax.scan(step, start, inputs)[0], shift


def _sizes(dictionary, operator, columns, chunk):
    """Measurements of a piece that is measured at once, and pieces of a group factored at once."""
    count = operator.num_measurements
    if chunk == 0:
        numbers = gram.numbers_per_point(dictionary) * (operator.run_length or 1)
        chunk = max(16, CHUNK_NUMBERS // numbers)
    size = numerics.even_size(count, chunk)
    wanted = max(_ROWS_PER_COLUMN * columns, CHUNK_NUMBERS // columns)
    return size, min(-(-count // size), -(-wanted // size))


def _rows(shared, values, u, y, root):
    """Weighted rows. values [m, A, F], u [m], y [m, S, C], root of weights [m] or [m, S]."""
    own = root.ndim == 2
    values, u, y, root = (v.astype(jnp.float32) for v in (values, u, y, root))
    count, signals, channels = y.shape
    if shared:
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


def _with_heads(dictionary, found, weights, signals):
    """Read the constant's rows off and apply the heads. -> OrthonormalEquations."""
    channels = dictionary.channels
    triangle, z = found.triangle, found.projected
    if gram.is_shared(dictionary):
        heads = dictionary.heads().astype(jnp.float32)
        # The bias of the heads multiplies the constant's column, which comes first here.
        heads = jnp.concatenate([heads[-1:], heads[:-1]], 0)
        constants = triangle[..., 0, 0]
        root = numerics.einsum("...kf,fec->...kce", triangle, heads)
        z = z.reshape(*z.shape[:-1], -1, channels)
        rest = found.rest.reshape(signals, channels).sum(-1)
        level = constants[..., None, None]
        atom_mean = numerics.safe_divide(root[..., 0, :, :], level).swapaxes(-1, -2)
        # [.., S', C], S' being 1 where signals are the leading axis.
        target_mean = numerics.safe_divide(z[..., 0, :, :], level)
        # A constant that is not seen leaves its row to the rest.
        unseen = (constants == 0)[..., None]
        root = root.at[..., 0, :, :].multiply(unseen[..., None])
        z = z.at[..., 0, :, :].multiply(unseen[..., None])
        root = root.reshape(*root.shape[:-3], -1, root.shape[-1])
        z = jnp.moveaxis(z, -2, -3)
        z = z.reshape(*z.shape[:-2], -1)
        bias_weight = jnp.square(constants)
    else:
        corner = triangle[..., :channels, :channels]
        constants = jnp.diagonal(corner, axis1=-2, axis2=-1)
        unseen = (constants == 0)[..., None]
        level = constants[..., None]
        atom_mean = numerics.safe_divide(triangle[..., :channels, channels:], level)
        atom_mean = atom_mean.swapaxes(-1, -2)
        target_mean = numerics.safe_divide(z[..., :channels, :], level).swapaxes(-1, -2)
        root = triangle[..., channels:].at[..., :channels, :].multiply(unseen)
        z = z.at[..., :channels, :].multiply(unseen).swapaxes(-1, -2)
        rest = found.rest.reshape(signals)
        bias_weight = jnp.square(constants[..., 0])
    z, target_mean = z.reshape(signals, -1), target_mean.reshape(signals, channels)
    root, z, more = reduced(root, z)
    count = weights.sum(-1)
    return OrthonormalEquations(root, z, rest + more, atom_mean, target_mean, count, bias_weight)


def reduced(
    root: Float[Array, "*S N E"], projected: Float[Array, "S N"]
) -> tuple[Float[Array, "*S K E"], Float[Array, "S K"], Float[Array, " S"]]:
    """No more rows than columns: (B, z, what of |z|^2 no code reaches), by one more factorisation.

    root [N, E] or [S, N, E]; projected [S, N].
    """
    rows, columns = root.shape[-2:]
    if rows <= columns:
        return root, projected, jnp.zeros(len(projected), projected.dtype)
    if root.ndim == 2:
        found = factored(root, projected.T)
        return found.triangle, found.projected.T, found.rest
    found = jax.lax.map(lambda a: factored(a[0], a[1][:, None]), (root, projected))
    return found.triangle, found.projected[..., 0], found.rest[..., 0]


class Damped(NamedTuple):
    """What `damped_codes` finds.

    codes [S, E]; whitened [S, N]: R^-T z for B B^T + shift I = R^T R, of squared length
    z^T (B B^T + shift I)^-1 z; log_determinant [] or [S], of B B^T + shift I; error [S]: what the
    codes and their remainder leave of z, as a part of it.
    """

    codes: jax.Array
    whitened: jax.Array
    log_determinant: jax.Array
    error: jax.Array


def damped_codes(
    root: Float[Array, "*S N E"], right: Float[Array, "S N"], shift: Float[Array, "*S"]
) -> Damped:
    """The a of least |z - B a|^2 + shift |a|^2, of all signals.

    With the remainder r = (z - B a) / sqrt(shift), (a, r) is what solves (B, sqrt(shift) I) (a, r)
    = z with least norm: of (B^T; sqrt(shift) I) = Q R it is Q R^-T z. By reflections that is
    backward stable. B^T R^-1 R^-T z, without Q, is not where atoms are nearly dependent: measured
    0.7 dB too much residual at lam 1e-6, against 0.0001 (largest singular values 1e7 times the
    least).

    root [N, E], or [S, N, E] of every signal's own; right z [S, N]; shift [] or, with roots of
    their own, [S]; above 0. -> Damped.
    """
    if root.ndim == 2:
        return _damped(root, right, shift)
    size = max(1, CHUNK_NUMBERS // root[0].size)
    shift = jnp.broadcast_to(shift, right.shape[:1])

    def one(inputs):
        root, right, shift = inputs
        found = _damped(root, right[None], shift)
        codes, whitened, error = (v[0] for v in (found.codes, found.whitened, found.error))
        return Damped(codes, whitened, found.log_determinant, error)

    return jax.lax.map(one, (root, right, shift), batch_size=size)


class Damping(NamedTuple):
    """(B^T; sqrt(shift) I) = Q R of one matrix B [N, E]: R^T R = B B^T + shift I.

    reflections [E + N, N], of Q below R; scale [N], of Q.
    """

    reflections: jax.Array
    scale: jax.Array

    @property
    def log_determinant(self) -> Float[Array, ""]:
        """Of B B^T + shift I."""
        diagonal = jnp.diagonal(self.reflections[: len(self.scale)])
        return 2 * jnp.log(jnp.abs(diagonal)).sum()

    def whitened(self, values: Float[Array, "S N"]) -> Float[Array, "S N"]:
        """R^-T z: of unit variance where z has that of B B^T + shift I."""
        triangle = self.reflections[: len(self.scale)]
        return jax.lax.linalg.triangular_solve(
            triangle, values.T, left_side=True, lower=False, transpose_a=True
        ).T

    def solved(self, whitened: Float[Array, "S N"]) -> tuple[Array, Array]:
        """(a, r) of least norm with B a + sqrt(shift) r = z, given R^-T z: [S, E] and [S, N]."""
        columns = len(self.reflections) - len(self.scale)
        padded = jnp.pad(whitened.T, ((0, columns), (0, 0)))
        both = jax.lax.linalg.ormqr(self.reflections, self.scale, padded).T
        codes, remainder = jnp.split(both, [columns], axis=1)
        return codes, remainder


def damping(root: Float[Array, "N E"], shift: Float[Array, ""]) -> Damping:
    """`Damping` of one matrix, by reflections."""
    eye = jnp.sqrt(shift) * jnp.eye(len(root), dtype=root.dtype)
    reflections, scale = jnp.linalg.qr(jnp.concatenate([root.T, eye], 0), mode="raw")
    return Damping(reflections.T, scale)


def _damped(root, right, shift):
    factors = damping(root, shift)
    whitened = factors.whitened(right)
    codes, remainder = factors.solved(whitened)
    left = right - numerics.einsum("se,ne->sn", codes, root) - jnp.sqrt(shift) * remainder
    error = jnp.linalg.norm(left, axis=-1)
    error = numerics.safe_divide(error, jnp.linalg.norm(right, axis=-1))
    return Damped(codes, whitened, factors.log_determinant, error)
