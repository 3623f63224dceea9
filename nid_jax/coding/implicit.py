"""Codes in closed form that can be differentiated: ridge, a fixed support, a Gaussian prior.

The unknowns of one signal, z = (a, b), code and bias, solve a symmetric linear system

    F(z; theta) = X^T W (y - X z) + right - R (z - mean) = 0,    X = (A Phi, A 1),

in which theta is all that a derivative may be asked for: the dictionary's variables, the
operator's arrays, the measurements y, the weights W and, for ridge, lam. Of a cotangent c of z the
implicit function theorem makes v = (X^T W X + R)^-1 c, the same system with other right-hand
sides, and the cotangent of theta is the gradient of one scalar with z and v held:

    L(theta) = sum_smc w (X v) (y - X z) - v^T R(theta) (z - mean).

So no derivative passes through a factorisation or through float64, and the atoms are evaluated as
in a training step, in chunks of measurements. Ridge's R = lam trace(G) / E I follows the
dictionary through the trace of the centred Gram matrix G; a shift that the solver had to raise
above lam is a constant. v is made by the rule itself (right = c, y = mean = 0), so that
derivatives of any order are right, by reverse mode: a Hessian is jax.jacrev(jax.grad(f)), since
jax.hessian, jax.jvp and jax.jacfwd go forward, and raise. Griewank and Walther 2008, chapter 15;
Blondel et al. 2022, section 2.

What is constant: the prior and its noise (asking for their derivative raises), the experts of a
support, and a lam of cross-validation (both are piecewise constant, their derivative is zero).
Values are those of `ridge` and `prior`; gradients are of the accuracy of the arrays that are given,
float32 as a rule. The backward solve alone is in float64 inside: a cotangent need not lie in what
the atoms span, so that its system has no square root to be solved by, and the condition number
enters squared.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nid_jax import numerics, platforms
from nid_jax.coding import checks, gram, operators, posterior, ridge
from nid_jax.coding.orthonormal import OrthonormalEquations, orthonormal_equations
from nid_jax.coding.prior import GaussianPrior
from nid_jax.errors import ArgumentError
from nid_jax.fields.dictionary import Dictionary
from nid_jax.fields.routing import Gates

# A regularisation that came back larger than this times the one asked for was raised.
_RAISED = 1 + 1e-5


class Codes(NamedTuple):
    """What the functions below give. codes, bias and residual carry derivatives.

    codes [S, E]; bias [S, C]; residual [S]: mean squared residual per measured value, exact in
    float64; error [S]: relative residual of the linear system; lam [S]: ridge's regularisation as
    used, None without. The last two are constants.
    """

    codes: jax.Array
    bias: jax.Array
    residual: jax.Array
    error: jax.Array
    lam: jax.Array | None = None


# ---- the three systems --------------------------------------------------------------------------


class _Ridge(NamedTuple):
    """All experts. lam: [] or [S], as used; follows [S]: 1 where it is lam, 0 where raised."""

    lam: jax.Array
    follows: jax.Array

    def solve(self, equations):
        """-> codes [S, E], bias [S, C]."""
        codes = ridge.solve_dense(equations, self.lam).codes
        return codes, equations.bias(codes)

    def homogeneous(self):
        """The same matrix, nothing on the right-hand side of its own."""
        return self


class _Support(NamedTuple):
    """Experts `indices` [S, K], -1: empty. lam []; follows [S]."""

    indices: jax.Array
    lam: jax.Array
    follows: jax.Array

    def solve(self, equations):
        """-> codes [S, E], bias [S, C]."""
        codes = ridge.solve_on_support(equations, self.indices, self.lam)
        return codes, equations.bias(codes)

    def homogeneous(self):
        """As `_Ridge.homogeneous`."""
        return self


class _Gaussian(NamedTuple):
    """A prior and the variance of the noise."""

    prior: GaussianPrior
    noise: jax.Array
    follows: None = None

    def solve(self, equations):
        """-> codes [S, E], bias [S, C]."""
        found = posterior.solve_posterior(equations, self.prior, self.noise)
        return found.codes, found.bias

    def homogeneous(self):
        """The prior without its mean."""
        mean = jnp.zeros_like(self.prior.mean)
        return self._replace(prior=self.prior._replace(mean=mean))


# ---- codes --------------------------------------------------------------------------------------


def ridge_codes(
    dictionary: Dictionary,
    operator: operators.Operator,
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "..."] | None = None,
    lam: float | str | Float[Array | np.ndarray, "..."] = ridge.LAMBDA,
    per_signal: bool = False,
    equations: gram.NormalEquations | OrthonormalEquations | None = None,
) -> Codes:
    """Ridge codes, as `ridge.ridge`, differentiable.

    Args:
      dictionary, operator, measurements [S, M, C], weights None, [M] or [S, M]: as in
        `gram.normal_equations`. All may be traced, and mapped over by `vmap`. At a weight of 0 a
        measurement that is not finite counts as 0, in the weight's own derivative too.
      lam: a number, [] or [S], which may be differentiated; or 'gcv', whose choice is constant.
      per_signal: of cross-validation, as in `ridge.ridge`.
      equations: the normal equations of exactly these arguments where they are known already.

    Raises:
      ArgumentError: lam negative, not finite or another word.
      ValueError: shapes that do not fit together.
    """
    theta, graphdef = _theta(dictionary, operator, measurements, weights)
    known = _equations(dictionary, operator, measurements, weights, equations)
    if isinstance(lam, str):
        if lam != "gcv":
            raise ArgumentError("lam", lam, "a number of 0 or more, 'gcv'")
        validate = functools.partial(ridge.solve_by_validation, per_signal=per_signal)
        solved = jax.custom_batching.sequential_vmap(validate)(known)
        choice = jnp.asarray(ridge.LAMBDAS, jnp.float32)
        follows = jnp.isclose(solved.lam[:, None], choice, rtol=1e-5, atol=0).any(-1)
        asked, one = jax.lax.stop_gradient(solved.lam), not per_signal
    else:
        asked = _checked_lambda(lam, 1)
        solved = jax.custom_batching.sequential_vmap(ridge.solve_dense)(
            known, jax.lax.stop_gradient(asked)
        )
        follows = solved.lam <= asked * _RAISED
        one = asked.ndim == 0
    # One Gram matrix and one lam: one factorisation serves all signals.
    used = solved.lam[0] if one and known.shared else solved.lam
    system = _Ridge(used, follows.astype(jnp.float32))
    values = (solved.codes, known.bias(solved.codes))
    found = _differentiable(graphdef, theta._replace(lam=asked), known, system, values)
    return found._replace(error=solved.error, lam=solved.lam)


def support_codes(
    dictionary: Dictionary,
    operator: operators.Operator,
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "..."] | None,
    indices: Int[Array, "S K"],
    lam: float | Float[Array, ""] = ridge.LAMBDA,
    equations: gram.NormalEquations | OrthonormalEquations | None = None,
) -> Codes:
    """Ridge codes on chosen experts of every signal, as `ridge.solve_on_support`, differentiable.

    indices int32 [S, K], distinct, -1 leaves a place empty: constants. lam: a number or []. The
    rest as in `ridge_codes`. `error` is 0, or infinite where a code is not finite.
    """
    theta, graphdef = _theta(dictionary, operator, measurements, weights)
    known = _equations(dictionary, operator, measurements, weights, equations)
    moving = _checked_lambda(lam, 0)
    asked = jax.lax.stop_gradient(moving)
    least = ridge.least_on_support(known, indices)
    follows = (asked >= least).astype(jnp.float32)
    system = _Support(indices, asked, follows)
    values = _solved(system, known)
    found = _differentiable(graphdef, theta._replace(lam=moving), known, system, values)
    error = jnp.where(jnp.isfinite(values[0]).all(-1), 0.0, jnp.inf)
    return found._replace(error=error, lam=jnp.broadcast_to(asked, error.shape))


def gaussian_codes(
    dictionary: Dictionary,
    operator: operators.Operator,
    measurements: Float[Array | np.ndarray, "S M C"],
    weights: Float[Array | np.ndarray, "..."] | None,
    known: GaussianPrior,
    noise: posterior.Noise = None,
    equations: gram.NormalEquations | OrthonormalEquations | None = None,
) -> Codes:
    """The most probable codes under a Gaussian prior, as `posterior.gaussian`, differentiable.

    known: `GaussianPrior`, with or without the bias among its coefficients; noise: the
    variance of a measured value, or None or `Estimated`, as in `posterior.gaussian` (outside jit).
    Both are constants, an estimated noise too although it depends on the measurements. The rest as
    in `ridge_codes`.

    Raises:
      ArgumentError: a derivative with respect to the prior or the noise is asked for.
      ValueError: as `posterior.gaussian`.
    """
    theta, graphdef = _theta(dictionary, operator, measurements, weights)
    equations = _equations(dictionary, operator, measurements, weights, equations)
    known = _constant("prior", known.alone())
    if noise is None or isinstance(noise, posterior.Estimated):
        noise, _ = posterior.resolve_noise(equations, known, noise)
    system = _Gaussian(known, _constant("noise", jnp.asarray(noise, jnp.float32)))
    found = jax.custom_batching.sequential_vmap(posterior.solve_posterior)(equations, *system[:2])
    codes = _differentiable(graphdef, theta, equations, system, (found.codes, found.bias))
    return codes._replace(error=found.error)


class _Theta(NamedTuple):
    """All that derivatives reach. state: of the dictionary; weights [M] or [S, M], combined."""

    state: Any
    operator: operators.Operator
    measurements: jax.Array
    weights: jax.Array
    lam: jax.Array | None = None


def _theta(dictionary, operator, measurements, weights):
    graphdef, state = nnx.split(dictionary)
    measurements = jnp.asarray(measurements)
    if not jnp.issubdtype(measurements.dtype, jnp.floating):
        measurements = measurements.astype(jnp.float32)
    weights = operators.combined_weights(operator, weights)
    if weights is None:
        weights = jnp.ones(operator.num_measurements, jnp.float32)
    read = (weights[..., None] > 0) | jnp.isfinite(measurements)
    return _Theta(state, operator, jnp.where(read, measurements, 0), weights), graphdef


def _equations(dictionary, operator, measurements, weights, equations):
    """Equations without derivative."""
    if equations is None:
        equations = orthonormal_equations(dictionary, operator, measurements, weights)
    return jax.lax.stop_gradient(equations)


def _checked_lambda(lam, rank):
    checks.not_negative("lam", lam, rank)
    return jnp.asarray(lam, jnp.float32)


def _constant(name, tree):
    """`tree`, whose derivative nobody may ask for."""

    @jax.custom_jvp
    def same(tree):
        return tree

    @same.defjvp
    def refuse(primals, tangents):
        raise ArgumentError(name, "traced by a derivative", "a constant")

    return jax.lax.stop_gradient(same(tree))


# ---- the rule -----------------------------------------------------------------------------------


def _solved(system, equations):
    """Codes [S, E] and bias [S, C] of a system, without derivative, also under `vmap`."""
    solve = jax.custom_batching.sequential_vmap(lambda system, equations: system.solve(equations))
    return solve(*jax.lax.stop_gradient((system, equations)))


def _differentiable(graphdef, theta, equations, system, values):
    """`Codes` of solved (codes, bias) with their derivatives, and the mean squared residual with
    its own; the error is left at 0."""
    known = jax.lax.stop_gradient((equations, system))
    codes, bias = jax.lax.stop_gradient(values)
    right = (jnp.zeros_like(codes), jnp.zeros_like(bias))
    exact = _exact_residual(equations, codes, bias)
    with _forward_refused():
        codes, bias = _attached(graphdef, theta, right, known, (codes, bias))
        residual = _residual(graphdef, theta, codes, bias, exact)
    return Codes(codes, bias, residual, error=jnp.zeros_like(exact))


@contextmanager
def _forward_refused() -> Iterator[None]:
    """Says in this module's words that no derivative goes forward through its rules.

    Within another jitted function JAX finds out later, and says it in its own.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise ArgumentError(
            "derivative",
            "by forward mode",
            "reverse mode, for solved codes: jax.grad, jax.vjp, jax.jacrev; "
            "jax.jacrev(jax.grad(f)) for jax.hessian(f)",
        ) from error


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attached(graphdef, theta, right, known, values):
    """`values`, the solution z of F(z; theta) = 0, as a function of theta and `right`.

    right: (codes [S, E], bias [S, C]), on the right-hand side; known: the same equations as
    numbers, and the system.
    """
    return values


def _attached_forward(graphdef, theta, right, known, values):
    # By the rule itself: a second derivative sees that the solution moves.
    values = _attached(graphdef, theta, right, known, values)
    return values, (theta, known, values)


def _attached_backward(graphdef, saved, cotangents):
    theta, (equations, system), (codes, bias) = saved
    equations, system = _adjoint(equations, *cotangents), system.homogeneous()
    known = jax.lax.stop_gradient((equations, system))
    nothing = theta._replace(measurements=jnp.zeros_like(theta.measurements))
    # Solvers give float32, whatever the cotangents are made of.
    solved = jax.tree.map(lambda v, c: v.astype(c.dtype), _solved(*known[::-1]), cotangents)
    held = _attached(graphdef, nothing, cotangents, known, solved)
    _, back = jax.vjp(
        lambda theta: _pairing(graphdef, theta, (codes, bias), held, system.follows), theta
    )
    (result,) = back(jnp.ones((), _dtype(theta)))
    return result, held, None, None


_attached.defvjp(_attached_forward, _attached_backward)


def _adjoint(equations, codes, bias):
    """Normal equations of the same matrix with right-hand sides `codes` [S, E], `bias` [S, C].

    A cotangent need not lie in what the atoms span, so it has no orthonormal coordinates.
    """
    equations = equations.products(exact=True)
    one = "ec" if equations.shared else "sec"
    return equations._replace(
        moments=codes - numerics.einsum(f"sc,{one}->se", bias, equations.atom_mean),
        moments_low=None,
        energy=jnp.zeros_like(equations.energy),
        target_mean=numerics.safe_divide(bias, equations.bias_weight[..., None]),
    )


def _exact_residual(equations, codes, bias):
    """Mean squared residual [S] per measured value, in float64; no derivative."""

    @jax.custom_batching.sequential_vmap
    def best(equations, codes):
        return equations.mean_residual(codes, exact=True)

    # A prior may pull the bias off its least-squares value: the error grows by that much.
    excess = jnp.square(bias - equations.bias(codes)).mean(-1)
    weight = numerics.safe_divide(equations.bias_weight, equations.count)
    return best(equations, codes) + weight * excess


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _residual(graphdef, theta, codes, bias, exact):
    """`exact` [S] with the derivatives of the mean squared residual of codes and bias."""
    return exact


def _residual_forward(graphdef, theta, codes, bias, exact):
    return _residual(graphdef, theta, codes, bias, exact), (theta, codes, bias)


def _residual_backward(graphdef, saved, cotangent):
    value, back = jax.vjp(functools.partial(_mean_square, graphdef), *saved)
    return *back(cotangent.astype(value.dtype)), None


_residual.defvjp(_residual_forward, _residual_backward)


# ---- sums over measurements, differentiable ----------------------------------------------------


def _dtype(theta):
    leaves = jax.tree.leaves((theta.state, theta.operator, theta.measurements, theta.weights))
    return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in leaves))


def _sum(graphdef, theta, add):
    """Sum of add(features, constant, targets, weights) over chunks of measurements.

    With p one axis, or the signals' where each has its own weights, add gets features [m, A, F] as
    `gram.measured_features` makes them, the response to the constant [m], targets [S, m, C] and
    weights [p, m]. Chunks are evaluated anew in the backward pass.
    """
    dictionary, operator = nnx.merge(graphdef, theta.state), theta.operator
    signals, count, channels = theta.measurements.shape
    numbers = (operator.run_length or 1) * gram.numbers_per_point(dictionary)
    size = max(16, platforms.sizes().chunk // (numbers + 3 * signals * channels))
    size = numerics.even_size(count, size)
    pieces, measure = gram.measured_features(dictionary, operator, size)
    weights = jnp.atleast_2d(theta.weights)
    inputs = (
        pieces,
        numerics.cut(theta.measurements.swapaxes(0, 1), size),
        numerics.cut(weights.T, size),
    )

    def part(piece):
        values, targets, weights = piece
        return add(*measure(values), targets.swapaxes(0, 1), weights.T)

    def step(total, piece):
        return jax.tree.map(jnp.add, total, part(piece)), None

    first = jax.tree.map(lambda piece: piece[0], inputs)
    if size >= count:
        return part(first)
    shapes = jax.eval_shape(part, first)
    start = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    return jax.lax.scan(jax.checkpoint(step), start, inputs)[0]


def _renderer(dictionary, codes, bias):
    """A function (features, constant [m]) -> what codes render there [S, m, C]."""
    if not gram.is_shared(dictionary):
        return lambda values, constant: (
            numerics.einsum("mce,se->smc", values, codes) + constant[:, None] * bias[:, None]
        )
    kernel, level = dictionary.folded_heads(Gates(codes, None, None, bias))
    return lambda values, constant: (
        numerics.einsum("mh,shc->smc", values[:, 0], kernel) + constant[:, None] * level[:, None]
    )


def _mean_square(graphdef, theta, codes, bias):
    """Weighted mean squared residual [S] of given codes and bias."""
    render = _renderer(nnx.merge(graphdef, theta.state), codes, bias)

    def add(values, constant, targets, weights):
        return (weights[..., None] * jnp.square(targets - render(values, constant))).sum((1, 2))

    count = jnp.atleast_2d(theta.weights).sum(-1) * theta.measurements.shape[-1]
    return numerics.safe_divide(_sum(graphdef, theta, add), count)


def _pairing(graphdef, theta, solution, held, follows):
    """L(theta) of this module's text, up to terms without derivative. -> []."""
    dictionary = nnx.merge(graphdef, theta.state)
    rendered, tested = _renderer(dictionary, *solution), _renderer(dictionary, *held)
    shift = None
    if follows is not None:
        # R = lam trace(G) / E: the weight of every signal's trace.
        inner = (solution[0] * held[0]).sum(-1) / dictionary.num_experts
        shift = follows * theta.lam * inner

    def add(values, constant, targets, weights):
        residual = targets - rendered(values, constant)
        product = (weights[..., None] * tested(values, constant) * residual).sum()
        if shift is None:
            return product, None
        return product, _trace_sums(dictionary, shift, values, constant, weights)

    product, sums = _sum(graphdef, theta, add)
    value = product if shift is None else product - _trace(dictionary, shift, *sums)
    return value.astype(_dtype(theta))


def _trace_sums(dictionary, shift, values, constant, weights):
    """Sums for `_trace`: shift-weighted squares, means [p, A, F] and the constant's weight [p]."""
    # shift [S], weights [p, m]: one sum of squares serves all signals.
    both = (shift[:, None] * weights).sum(0)
    if gram.is_shared(dictionary):
        squares = numerics.einsum("m,mh,mg->hg", both, values[:, 0], values[:, 0])
    else:
        squares = numerics.einsum("m,mce->", both, jnp.square(values))
    means = numerics.einsum("pm,m,maf->paf", weights, constant, values)
    return squares, means, numerics.einsum("pm,m->p", weights, jnp.square(constant))


def _trace(dictionary, shift, squares, means, total):
    """sum_s shift_s trace(G_s) of the centred Gram matrices G. The heads' bias does not enter."""
    if gram.is_shared(dictionary):
        kernel = dictionary.head_kernel[...]
        heads = numerics.einsum("hce,gce->hg", kernel, kernel)
        squares = (squares * heads).sum()
        norms = numerics.einsum("ph,hg,pg->p", means[:, 0], heads, means[:, 0])
    else:
        norms = jnp.square(means).sum((1, 2))
    return squares - (shift * numerics.safe_divide(norms, total)).sum()
