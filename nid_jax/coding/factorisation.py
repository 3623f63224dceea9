"""What the ridge fits of all signals measured in one way share, made once.

The inverse of the regularised Gram matrix is computed in float64: an inverse that is held has no
residual to be corrected by. On a TPU it is kept as two factors instead, of the singular values of a
square root, whose condition number is the root of the matrix's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nid_jax import numerics, platforms
from nid_jax.coding import checks, gram, operators, ridge
from nid_jax.coding.orthonormal import orthonormal_equations
from nid_jax.coding.solution import Solution, finished
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import Dictionary


class Factorisation:
    """What the fits of all signals measured in one way share: made once, used for any number.

    Belongs to one dictionary, operator, weights [M] or None, and lam. Where 2 E M C numbers may be
    held it keeps the map from measurements to codes itself, and the measured atoms: a fit is then
    one product with each, the second for the residual. Otherwise moments are streamed.

    Attributes: equations, `gram.NormalEquations` of zero measurements, for what does not depend on
    them; lam, the one used.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        operator: operators.Operator,
        weights: Float[Array | np.ndarray, " M"] | None = None,
        lam: float = ridge.LAMBDA,
        map_numbers: int = 2**27,
    ):
        """map_numbers: the largest 2 E M C held. Raises ArgumentError for weights [S, M]."""
        checks.not_negative("lam", lam, known=True)
        combined = operators.combined_weights(operator, weights)
        if combined is not None and combined.ndim == 2:
            allowed = f"({operator.num_measurements},): own masks share no factorisation"
            raise ArgumentError("weights", combined.shape, allowed)
        count, channels = operator.num_measurements, dictionary.channels
        self.dictionary, self.operator, self.weights = dictionary, operator, weights
        self.asked = float(lam)
        nothing = jnp.zeros((1, count, channels), jnp.float32)
        self.equations = gram.normal_equations(dictionary, operator, nothing, weights)
        self._weights = jnp.ones(count, jnp.float32) if combined is None else combined
        self._map = None
        split = nnx.split(dictionary)
        given = self.equations, self._weights, jnp.asarray(lam, jnp.float32)
        inverse, used = _inverse(*split, operator, *given)
        self.lam = float(used)
        if 2 * dictionary.num_experts * count * channels <= map_numbers:
            self._map = _code_map(*split, operator, self._weights, self.equations, inverse)

    def solve(self, measurements: Float[Array | np.ndarray, "S M C"]) -> Solution:
        """Ridge codes of measurements [S, M, C]. -> Solution, as `ridge.ridge` gives.

        Values of weight 0 are not read. Raises ArgumentError for another shape.
        """
        measurements = jnp.asarray(measurements, jnp.float32)
        expected = (self.operator.num_measurements, self.dictionary.channels)
        if measurements.ndim != 3 or measurements.shape[1:] != expected:
            allowed = f"(signals, {expected[0]}, {expected[1]})"
            raise ArgumentError("measurements", measurements.shape, allowed)
        if self._map is None:
            equations = gram.normal_equations(
                self.dictionary, self.operator, measurements, self.weights
            )
            return ridge.ridge(equations, self.asked)
        codes, bias, residual = _apply_map(*self._map, self._weights, self.equations, measurements)
        good = jnp.isfinite(codes).all(-1)
        stats = {"lam": jnp.float32(self.lam), "asked_lam": jnp.float32(self.asked)}
        return finished(codes, bias, residual, good, 1, stats=stats)

    def affine(self) -> tuple[Float[Array, "M C E"], Float[Array, "M C C"]]:
        """Codes and bias as maps of the measurements y [M, C]: sums over M and C of y kernel.

        -> (kernel [M, C, E], kernel of the bias [M, C, C]). Raises ArgumentError where the map is
        not held.
        """
        if self._map is None:
            values = 2 * self.dictionary.num_experts * self._weights.size * self.dictionary.channels
            raise ArgumentError("map_numbers", "less", f"{values} or more for a map of its own")
        return _affine(self._map[0], self._map[2], self._weights, self.equations)


@jax.jit
def _affine(code_map, constant, weights, equations):
    """The code map with the bias' own part of the measurements taken out, and that of the bias."""
    experts, channels = equations.atom_mean.shape
    kernel = code_map.reshape(len(constant), channels, experts)
    to_mean = numerics.safe_divide(weights * constant, equations.bias_weight)
    response = numerics.einsum("m,mce->ce", constant, kernel)
    kernel = kernel - to_mean[:, None, None] * response
    mean = to_mean[:, None, None] * jnp.eye(channels, dtype=kernel.dtype)
    return kernel, mean - numerics.einsum("mce,ed->mcd", kernel, equations.atom_mean)


@functools.partial(jax.jit, static_argnames="graphdef")
def _inverse(graphdef, state, operator, equations, weights, lam):
    """(gram + shift I)^-1 as two float32 matrices, and lam as used.

    Its rounding and what that leaves, which are to be added; on a TPU two factors.
    """

    def double(state, operator, equations, weights, lam):
        with gram.working_precision("float64"):
            return _of_products(equations, lam)

    def single(state, operator, equations, weights, lam):
        dictionary = nnx.merge(graphdef, state)
        nothing = jnp.zeros((1, operator.num_measurements, dictionary.channels), jnp.float32)
        return _of_root(orthonormal_equations(dictionary, operator, nothing, weights), lam)

    return platforms.by_float64(double, single, state, operator, equations, weights, lam)


def _of_products(equations, lam):
    """`_inverse` by Cholesky's factor of the Gram matrix, in the widest type of the scope."""
    matrix, _ = equations.wide()
    mean = ridge.mean_diagonal(matrix)
    shift = jnp.maximum(gram.wide(lam)[0], ridge.least_lambda(equations, matrix)) * mean
    factor, scale, shift, _ = numerics.scaled_cholesky(matrix, shift)
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    inverse = numerics.solve_scaled_cholesky(factor, scale, identity)
    return gram.split(inverse), (shift / mean).astype(jnp.float32)


def _of_root(equations, lam):
    """`_inverse` by the singular values of the root B, in float32: V diag(1 / (s^2 + shift)), V^T.

    Rounded as a whole its error, of 1 / shift, would lie in what atoms see best. Directions that
    atoms do not see are left out: a product with them is rounding alone.
    """
    equations = equations.reduced()
    _, values, right = jnp.linalg.svd(equations.root, full_matrices=False)
    lam = jnp.maximum(lam, ridge.orthonormal_least(equations))
    shift = lam * ridge.orthonormal_scale(equations)
    seen = values > 4 * float(jnp.finfo(jnp.float32).eps) * values[0]
    scale = jnp.where(seen, 1 / (jnp.square(values) + shift), 0.0)
    right = jnp.pad(right, ((0, right.shape[1] - len(right)), (0, 0)))
    scale = jnp.pad(scale, (0, len(right) - len(scale)))
    return (right.T * scale, right), lam


@functools.partial(jax.jit, static_argnames="graphdef")
def _code_map(graphdef, state, operator, weights, equations, inverse):
    """Map to codes [M C, E], centred atoms [M C, E] and the response to the constant [M].

    The map is as well conditioned as the square root of the inverse, so float32 may hold it.
    """

    def double(*arrays):
        with gram.working_precision("float64"):
            return _columns(graphdef, *arrays, lambda atoms: _by_sum(atoms, inverse))

    def single(*arrays):
        return _columns(graphdef, *arrays, lambda atoms: _by_factors(atoms, inverse))

    return platforms.by_float64(double, single, state, operator, weights, equations)


def _by_sum(atoms, inverse):
    """Atoms [.., E] times the inverse, as the sum of its parts."""
    return numerics.einsum("mce,ef->mcf", atoms, jnp.add(*gram.wide(*inverse)))


def _by_factors(atoms, inverse):
    """Atoms [.., E] times the inverse, as the product of its factors."""
    left, right = inverse
    return numerics.einsum("mck,kf->mcf", numerics.einsum("mce,ek->mck", atoms, left), right)


def _columns(graphdef, state, operator, weights, equations, times_inverse):
    """`_code_map` with products in the widest type of the scope."""
    dictionary = nnx.merge(graphdef, state)
    experts, channels = equations.atom_mean.shape
    count = operator.num_measurements
    size = min(count, max(16, platforms.sizes().chunk // (experts * channels)))
    pieces, measure = gram.measured_features(dictionary, operator, size)
    mean = gram.wide(equations.atom_mean)[0]

    def columns(_, piece):
        values, weight = piece
        values, constant = measure(values)
        atoms = gram.measured_atoms(dictionary, values, constant)
        atoms, one, weight = gram.wide(atoms, constant, weight)
        atoms = (atoms - one[:, None, None] * mean).swapaxes(1, 2)
        part = weight[:, None, None] * times_inverse(atoms)
        return None, (part.astype(jnp.float32), atoms.astype(jnp.float32), constant)

    _, (parts, atoms, constant) = jax.lax.scan(columns, None, (pieces, numerics.cut(weights, size)))
    parts, atoms = (
        value.reshape(-1, channels, experts)[:count].reshape(count * channels, experts)
        for value in (parts, atoms)
    )
    return parts, atoms, constant.reshape(-1)[:count]


@jax.jit
def _apply_map(code_map, atoms, constant, weights, equations, measurements):
    """-> codes [S, E], bias [S, C], mean squared residual [S]."""
    measurements = jnp.where(weights[:, None] > 0, measurements, 0)
    target_mean = numerics.einsum("m,m,smc->sc", weights, constant, measurements)
    target_mean = numerics.safe_divide(target_mean, equations.bias_weight)
    centred = measurements - constant[:, None] * target_mean[:, None]
    signals, _, channels = measurements.shape
    codes = numerics.einsum("sm,me->se", centred.reshape(signals, -1), code_map)
    rendered = numerics.einsum("se,me->sm", codes, atoms).reshape(centred.shape)
    residual = numerics.einsum("m,smc->s", weights, jnp.square(centred - rendered))
    bias = target_mean - numerics.einsum("se,ec->sc", codes, equations.atom_mean)
    values = jnp.broadcast_to(equations.count * channels, residual.shape)
    return codes, bias, numerics.safe_divide(residual, values)
