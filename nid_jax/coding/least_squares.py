"""Dense least squares in float32: by products where they may, by reflections where they must.

Products of a matrix with itself run at the full rate of a device, and a Cholesky factor of them at
half of it; Householder's QR at a third or less. But products square the condition number. So the
short way is taken first, and measured: what refinement leaves of the right-hand side, and how large
the inverse is, say whether float32 was enough. Dictionaries in their canonical form, whose atoms
are orthonormal on their own grid, pass; where atoms are nearly dependent the reflections follow,
which are backward stable column by column and need no full rank (Golub and Van Loan 2013, 5.2;
refinement: Bjorck 1967).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nid_jax import numerics, platforms

_EPS = float(jnp.finfo(jnp.float32).eps)
# Products are good enough where refinement leaves so many roundings of the right-hand side,
_ROUNDINGS = 16
# and where, at unit diagonal, they have at most this condition number, if nothing refines.
_CONDITION = 100.0
# and where they only weigh what is compared.
_WEIGHING_CONDITION = 1e4
_PROBES = 4
# Error of codes that are weighed with others, and of the forms that weigh them, as a part of each.
_ENOUGH = 5e-5
_LOST = 1e-3
# Corrections, as long as each leaves at most so much of the one before.
_CORRECTIONS = 4
_PACE = 0.25
# From so many right-hand sides on factors of no more rows than this are inverted. BLAS substitutes
# that many by several threads, which wait for each other for longer than they work where cores are
# shared: codes of 40 phantoms from 2 views, of 100 components, in a seventh of the time; on a quiet
# machine, or with BLAS on one thread, in the same.
_MANY_SOLVED = 5
_INVERTED_ROWS = 256
# Columns of the blocks that products are made of.
_BLOCK = 256


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


def without_constant(
    constant: Float[Array, "*S M"], values: Float[Array, "*S M N"]
) -> tuple[Float[Array, "*S"], Float[Array, "*S M N"]]:
    """The one reflection that brings a column to its first place. -> (its level [..], values).

    Row 0 of the values is then what they have along the column, the rest is free of it. A column of
    zeros leaves all as it is, at level 0.
    """
    length = jnp.linalg.norm(constant, axis=-1)
    signed = jnp.where(constant[..., 0] < 0, -length, length)
    normal = constant.at[..., 0].add(signed)
    along = numerics.einsum("...m,...mn->...n", normal, values)
    along = numerics.safe_divide(2 * along, jnp.square(normal).sum(-1)[..., None])
    return -signed, values - normal[..., None] * along[..., None, :]


def reduced(
    root: Float[Array, "*S N E"], projected: Float[Array, "S N"]
) -> tuple[Float[Array, "*S K E"], Float[Array, "S K"], Float[Array, " S"]]:
    """No more rows than columns: (B, z, what of |z|^2 no code reaches).

    root [N, E] or [S, N, E]; projected [S, N].
    """
    rows, columns = root.shape[-2:]
    if rows <= columns:
        return root, projected, jnp.zeros(len(projected), projected.dtype)
    if root.ndim == 2:
        found = _reduced(root, projected.T)
        return found.triangle, found.projected.T, found.rest
    found = _in_batches(_reduced, (root, projected[..., None]))
    return found.triangle, found.projected[..., 0], found.rest[..., 0]


def _in_batches(function, arrays):
    """Apply a function to matrices of the signals' own, arrays [S, ..], some of them at a time."""
    signals = len(arrays[0])
    size = numerics.even_size(signals, max(1, platforms.sizes().chunk // arrays[0][0].size))
    values = jax.lax.map(lambda a: function(*a), [numerics.cut(a, size) for a in arrays])
    return jax.tree.map(lambda value: numerics.joined(value, signals), values)


def _reduced(root, right):
    """`Factored` of root [.., N, E] and right [.., N, T], N > E: upper triangular as well."""
    found, good = _reduced_by_products(root, right)
    return jax.lax.cond(good, lambda: found, lambda: factored(root, right))


def _reduced_by_products(root, right):
    """Cholesky's factor of B^T B for the triangle, and whether that is good enough."""
    gram = products(root)
    factor, scale = _cholesky(gram, jnp.zeros(root.shape[:-2], root.dtype))

    def inverse(right, transpose):
        return jax.lax.linalg.triangular_solve(
            factor, right, left_side=True, lower=True, transpose_a=transpose
        )

    def along(right):
        """Q^T right."""
        return inverse(scale[..., None] * numerics.einsum("...ne,...nt->...et", root, right), False)

    def across(z):
        """Q z."""
        return numerics.einsum("...ne,...et->...nt", root, scale[..., None] * inverse(z, True))

    z = along(right)
    left = right - across(z)
    more = along(left)
    rest = jnp.maximum(jnp.square(left).sum(-2) - jnp.square(more).sum(-2), 0)
    # A column of zeros has a row of the identity in the factor, and none in the triangle.
    some = jnp.diagonal(gram, axis1=-2, axis2=-1) > 0
    triangle = factor.swapaxes(-1, -2) * jnp.where(some, 1 / scale, 0)[..., None, :]
    return Factored(triangle, z + more, rest), _well_conditioned(_after(more, factor))


def _after(first, then):
    """`then`, which is there no sooner than `first`: LAPACK on two batches at once waits for
    threads that wait for it (jaxlib 0.10.2)."""
    return jnp.where(first.max() > jnp.inf, jnp.nan, then)


def products(root: Float[Array, "*S N E"]) -> Float[Array, "*S E E"]:
    """B^T B; of many columns little more than the half that differs is multiplied."""
    size = root.shape[-1]
    if size < 2 * _BLOCK:
        return numerics.einsum("...ne,...nf->...ef", root, root)
    blocks = []
    for first in range(0, size, _BLOCK):
        rows, columns = root[..., first : first + _BLOCK], root[..., first:]
        block = numerics.einsum("...ne,...nf->...ef", rows, columns)
        blocks.append(jnp.pad(block, [(0, 0)] * (block.ndim - 1) + [(first, 0)]))
    upper = jnp.concatenate(blocks, -2)
    return jnp.triu(upper) + jnp.triu(upper, 1).swapaxes(-1, -2)


def _cholesky(matrix, shift):
    """Factor of matrix + shift at unit diagonal, and the scale that made it so; NaN where it fails.

    A row of zeros without a shift is taken as one of the identity.
    """
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1) + shift[..., None]
    scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    unit = jnp.where(eye > 0, 1.0, matrix * scale[..., :, None] * scale[..., None, :])
    return jax.lax.linalg.cholesky(unit, symmetrize_input=False), scale


def _well_conditioned(factor: Float[Array, "*S N N"], most: float = _CONDITION) -> Bool[Array, ""]:
    """Whether all of L L^T, of unit diagonal, are: by their row sums, and two steps of inverse
    iteration on a few random vectors (Dixon 1983)."""
    size = factor.shape[-1]
    draws = jax.random.normal(jax.random.key(0), (size, _PROBES), factor.dtype)
    vectors = jnp.broadcast_to(draws, (*factor.shape[:-2], size, _PROBES))
    ones = jnp.ones(factor.shape[-1], factor.dtype)
    for _ in range(2):
        vectors = vectors / jnp.linalg.norm(vectors, axis=-2, keepdims=True)
        vectors = numerics.solve_scaled_cholesky(factor, ones, vectors)
    inverse = jnp.linalg.norm(vectors, axis=-2).max()
    rows = numerics.einsum("...ij,...j->...i", jnp.abs(factor), jnp.abs(factor).sum(-2))
    return inverse * rows.max() < most


class Damped(NamedTuple):
    """What `damped_codes` finds.

    codes [S, E]; quadratic [S]: z^T (B B^T + shift I)^-1 z; log_determinant [] or [S], of B B^T +
    shift I; error [S]: what the codes and their remainder leave of z, as a part of it.
    """

    codes: jax.Array
    quadratic: jax.Array
    log_determinant: jax.Array
    error: jax.Array


def damped_codes(
    root: Float[Array, "*S N E"], right: Float[Array, "S N"], shift: Float[Array, "*S"]
) -> Damped:
    """The a of least |z - B a|^2 + shift |a|^2, of all signals.

    root [N, E], or [S, N, E] of every signal's own; right z [S, N]; shift [] or, with roots of
    their own, [S]; above 0. -> Damped.
    """
    if root.ndim == 2:
        return damped(root, right, shift)
    shift = jnp.broadcast_to(shift, right.shape[:1])
    found = _in_batches(damped, (root, right[:, None], shift))
    codes, quadratic, error = (v[:, 0] for v in (found.codes, found.quadratic, found.error))
    return Damped(codes, quadratic, found.log_determinant, error)


def damped(
    root: Float[Array, "*S N E"], right: Float[Array, "*S T N"], shift: Float[Array, "*S"]
) -> Damped:
    """`damped_codes` of T right-hand sides of every matrix, all held as a whole.

    quadratic and error [.., T]; log_determinant [..]. All matrices go by reflections where one
    needs them.
    """
    found = _damped_by_products(root, right, shift)
    # A comparison with NaN is False.
    good = (found.error < _ROUNDINGS * _EPS).all()
    return jax.lax.cond(good, lambda: found, lambda: _damped_by_reflections(root, right, shift))


def damped_all(
    root: Float[Array, "K N E"], right: Float[Array, "T N"], offsets: Float[Array, "K N"]
) -> tuple[Damped, Bool[Array, ""]]:
    """`damped` of the same right-hand sides less an offset of every matrix's own, at shift 1, by
    products that nothing refines; and whether codes are good to `_ENOUGH` and forms to `_LOST`.

    Of many right-hand sides the error is measured on a few sums of them with random weights, and is
    that of all.
    """
    tall = root.shape[1] > root.shape[2]
    gram = products(root if tall else root.swapaxes(-1, -2))
    factor, scale = _cholesky(gram, jnp.ones(len(root), root.dtype))
    logarithms = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)) - jnp.log(scale)
    # W^T W is the inverse of I + A^T A, or of I + A A^T.
    inverse = scale[:, None] * numerics.inverse_triangle(factor)

    def pulled(values):
        return numerics.einsum("kne,ktn->kte", root, values)

    if tall:
        right_pulled = numerics.einsum("kne,tn->kte", root, right)
        offsets_pulled = numerics.einsum("kne,kn->ke", root, offsets)
        gradient = right_pulled - offsets_pulled[:, None]
        half = numerics.einsum("kfe,kte->ktf", inverse, gradient)
        codes = numerics.einsum("ktf,kfe->kte", half, inverse)
        length = jnp.square(right).sum(-1) - 2 * numerics.einsum("kn,tn->kt", offsets, right)
        length = length + jnp.square(offsets).sum(-1)[:, None]
        quadratic = length - jnp.square(half).sum(-1)
        # What the difference of the two may lose.
        good = (_EPS * length < _LOST * (1 + quadratic)).all()
    else:
        half = numerics.einsum("kmn,tn->ktm", inverse, right)
        half = half - numerics.einsum("kmn,kn->km", inverse, offsets)[:, None]
        codes = pulled(numerics.einsum("ktm,kmn->ktn", half, inverse))
        quadratic, good = jnp.square(half).sum(-1), jnp.asarray(True)

    weights = jnp.eye(len(right), dtype=root.dtype)
    if len(right) > _PROBES:
        weights = jax.random.normal(jax.random.key(0), (_PROBES, len(right)), root.dtype)
    probes = numerics.einsum("pt,tn->pn", weights, right)
    probes = probes - weights.sum(1)[:, None] * offsets[:, None]
    known = numerics.einsum("pt,kte->kpe", weights, codes)
    left = pulled(probes - numerics.einsum("kpe,kne->kpn", known, root))
    error = jnp.linalg.norm(left - known, axis=-1)
    error = numerics.safe_divide(error, jnp.linalg.norm(pulled(probes), axis=-1)).max(-1)
    good &= (error < _ENOUGH).all()
    error = jnp.broadcast_to(error[:, None], quadratic.shape)
    return Damped(codes, quadratic, 2 * logarithms.sum(-1), error), good


def _damped_by_products(root, right, shift):
    """By the smaller of B B^T + shift I and B^T B + shift I, corrected by what is left.

    Of the former v = (z - B a) / shift is an unknown of its own, which it must be: B^T v alone is
    a only up to cancellation.
    """
    rows, columns = root.shape[-2:]
    tall = rows > columns
    factor, scale = _cholesky(products(root if tall else root.swapaxes(-1, -2)), shift)
    logarithms = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)) - jnp.log(scale)
    determinant = 2 * logarithms.sum(-1) + max(rows - columns, 0) * jnp.log(shift)
    damping = shift[..., None, None]
    solve = _solving(factor, scale, right.shape[-2])

    def left(codes):
        return right - numerics.einsum("...te,...ne->...tn", codes, root)

    def of_codes(codes):
        """The correction and its error: the length of what it renders."""
        gradient = _pulled(root, left(codes)) - damping * codes
        more = solve(gradient)
        return more, jnp.sqrt(jnp.abs((gradient * more).sum(-1)))

    def of_both(both):
        codes, dual = both
        lacking = left(codes) - damping * dual
        more = solve(lacking)
        return (_pulled(root, more), more), jnp.linalg.norm(lacking, axis=-1)

    size = jnp.linalg.norm(right, axis=-1)
    if tall:
        codes, error = _corrected(of_codes, solve(_pulled(root, right)), size)
        quadratic = jnp.square(left(codes)).sum(-1) / shift[..., None] + jnp.square(codes).sum(-1)
    else:
        dual = solve(right)
        (codes, dual), error = _corrected(of_both, (_pulled(root, dual), dual), size)
        quadratic = (right * dual).sum(-1)
    return Damped(codes, quadratic, determinant, error)


def _solving(factor, scale, count):
    """v [.., T, N] -> (L L^T)^-1 v at a scale, for T = `count`; to be refined."""
    if count >= _MANY_SOLVED and factor.shape[-1] <= _INVERTED_ROWS:
        inverse = scale[..., None, :] * numerics.inverse_triangle(factor)

        def by_inverse(values):
            half = numerics.einsum("...fe,...te->...tf", inverse, values)
            return numerics.einsum("...fe,...tf->...te", inverse, half)

        return by_inverse

    def by_substitution(values):
        found = numerics.solve_scaled_cholesky(factor, scale, values.swapaxes(-1, -2))
        return found.swapaxes(-1, -2)

    return by_substitution


def _pulled(root, values):
    """B^T v for v [.., T, N]."""
    return numerics.einsum("...tn,...ne->...te", values, root)


def _corrected(correction, first, size):
    """What iterative refinement makes of a first solution, and its last error beside `size`.

    correction(solution) -> (what to add, error).
    """

    def relative(error):
        return numerics.safe_divide(error, size)

    def going(state):
        count, _, error, before = state
        worst = error.max()
        pace = worst <= _PACE * before.max()
        return (count == 0) | ((count < _CORRECTIONS) & (worst > _ROUNDINGS * _EPS) & pace)

    def step(state):
        count, found, before, _ = state
        more, error = correction(found)
        return count + 1, jax.tree.map(jnp.add, found, more), relative(error), before

    start = jnp.full_like(size, jnp.inf)
    _, found, error, _ = jax.lax.while_loop(going, step, (0, first, start, start))
    return found, error


def _damped_by_reflections(root, right, shift):
    """`damped` whatever the condition."""
    rows, columns = root.shape[-2:]
    if rows <= columns:
        return _dual_by_reflections(root, right, shift)
    whole = factored(root, right.swapaxes(-1, -2))
    z = whole.projected.swapaxes(-1, -2)
    found = _dual_by_reflections(_after(z, whole.triangle), z, shift)
    return found._replace(
        quadratic=found.quadratic + whole.rest / shift[..., None],
        log_determinant=found.log_determinant + (rows - columns) * jnp.log(shift),
    )


def _dual_by_reflections(root, right, shift):
    """`damped` of no more rows than columns, backward stable.

    B^T R^-1 R^-T z, without Q, is not where atoms are nearly dependent: measured 0.7 dB too much
    residual at lam 1e-6, against 0.0001 (largest singular values 1e7 times the least).
    """
    known = damping(root, shift)
    whitened = known.whitened(right)
    codes, remainder = known.parts(whitened)
    left = right - numerics.einsum("...te,...ne->...tn", codes, root)
    left = left - jnp.sqrt(shift)[..., None, None] * remainder
    error = jnp.linalg.norm(left, axis=-1)
    error = numerics.safe_divide(error, jnp.linalg.norm(right, axis=-1))
    return Damped(codes, jnp.square(whitened).sum(-1), known.log_determinant, error)


class Whitening(NamedTuple):
    """triangle R [N, N], in its upper part, of R^T R = B B^T + shift I."""

    triangle: jax.Array

    @property
    def log_determinant(self) -> Float[Array, ""]:
        """Of B B^T + shift I."""
        return 2 * jnp.log(jnp.abs(jnp.diagonal(self.triangle))).sum()

    def whitened(self, values: Float[Array, "T N"]) -> Float[Array, "T N"]:
        """R^-T z: of unit variance where z has that of B B^T + shift I."""
        return jax.lax.linalg.triangular_solve(
            self.triangle, values.T, left_side=True, lower=False, transpose_a=True
        ).T


def whitening(root: Float[Array, "N E"], shift: Float[Array, ""]) -> Whitening:
    """`Whitening` of a matrix: by products where float32 keeps the shift to a part in a thousand,
    else by reflections."""
    factor, scale = _cholesky(products(root.T), shift)
    # A comparison with NaN is False.
    good = _well_conditioned(factor, _WEIGHING_CONDITION)
    known = jax.lax.cond(good, lambda: factor.T / scale, lambda: damping(root, shift).triangle)
    return Whitening(known)


class Damping(NamedTuple):
    """(B^T; sqrt(shift) I) = Q R of matrices B [.., N, E]: R^T R = B B^T + shift I.

    reflections [.., E + N, N], of Q below R; scale [.., N], of Q.
    """

    reflections: jax.Array
    scale: jax.Array

    @property
    def triangle(self) -> Float[Array, "*S N N"]:
        """R, in its upper part."""
        return self.reflections[..., : self.scale.shape[-1], :]

    @property
    def log_determinant(self) -> Float[Array, "*S"]:
        """Of B B^T + shift I."""
        diagonal = jnp.diagonal(self.triangle, axis1=-2, axis2=-1)
        return 2 * jnp.log(jnp.abs(diagonal)).sum(-1)

    def whitened(self, values: Float[Array, "*S T N"]) -> Float[Array, "*S T N"]:
        """R^-T z: of unit variance where z has that of B B^T + shift I."""
        return jax.lax.linalg.triangular_solve(
            self.triangle, values.swapaxes(-1, -2), left_side=True, lower=False, transpose_a=True
        ).swapaxes(-1, -2)

    def parts(
        self, whitened: Float[Array, "*S T N"]
    ) -> tuple[Float[Array, "*S T E"], Float[Array, "*S T N"]]:
        """The a, r of least |a|^2 + |r|^2 with B a + sqrt(shift) r = z, given R^-T z: Q of it."""
        columns = self.reflections.shape[-2] - self.scale.shape[-1]
        right = whitened.swapaxes(-1, -2)
        padded = jnp.pad(right, [(0, 0)] * (right.ndim - 2) + [(0, columns), (0, 0)])
        both = jax.lax.linalg.ormqr(self.reflections, self.scale, padded).swapaxes(-1, -2)
        return both[..., :columns], both[..., columns:]


def damping(root: Float[Array, "*S N E"], shift: Float[Array, "*S"]) -> Damping:
    """`Damping` of matrices, by reflections."""
    eye = jnp.sqrt(shift)[..., None, None] * jnp.eye(root.shape[-2], dtype=root.dtype)
    both = jnp.concatenate([root.swapaxes(-1, -2), eye], -2)
    reflections, scale = jnp.linalg.qr(both, mode="raw")
    return Damping(reflections.swapaxes(-1, -2), scale)
