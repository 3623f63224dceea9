"""Codes by gradient descent, the paper's own way of fitting (Wang et al. 2022, section 3.3).

The dictionary is frozen. Adam moves the codes, or the weights of a router that predicts them. With
the squared error a step needs no point: the error is a quadratic of the Gram matrix and the
moments, so a step costs S E^2 however many points were measured, and S K^2 on fixed supports; the
bias is eliminated exactly.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nid_jax import numerics
from nid_jax.fields.routing import Gates

VARIABLES = ("codes", "router")

# Numbers of Gram matrices of signals' own experts that are made at most: 256 MB.
_OWN_NUMBERS = 2**26


def descend(objective, variables, steps, learning_rate):
    """Adam on `variables` (a pytree) for a fixed number of steps, as one scan.

    objective(variables) -> residuals [S], whose sum is descended. -> (variables, residuals
    [steps + 1, S], the first before any step).
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1), 0.1))

    def total(variables):
        residuals = objective(variables)
        return residuals.sum(), residuals

    def step(carry, _):
        variables, moments = carry
        (_, residuals), grads = jax.value_and_grad(total, has_aux=True)(variables)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(variables, updates), moments), residuals

    carry = (variables, optimizer.init(variables))
    (variables, _), residuals = jax.lax.scan(step, carry, None, length=steps)
    return variables, jnp.concatenate([residuals, objective(variables)[None]])


def strongest(equations, codes, top_k):
    """The top_k experts that matter most [S, K]: by |code| times the norm of the atom.

    Where a signal's code is still zero: by the correlation of atom and measurements.
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(equations.gram, axis1=-2, axis2=-1), 0))
    correlation = numerics.safe_divide(jnp.abs(equations.moments), norms)
    return _largest(codes, jnp.abs(codes) * norms, correlation, top_k)


def _largest(codes, sizes, sizes_at_zero, top_k):
    """Indices [S, K] of the largest sizes, or sizes_at_zero of signals whose code is zero."""
    sizes = jnp.where((codes != 0).any(-1, keepdims=True), sizes, sizes_at_zero)
    return jax.lax.top_k(sizes, top_k)[1]


def _only(codes, chosen):
    """Codes [S, E] with zeros for all but the chosen experts [S, K]."""
    rows = jnp.arange(codes.shape[0])[:, None]
    return jnp.zeros_like(codes).at[rows, chosen].set(codes[rows, chosen])


@functools.partial(jax.jit, static_argnames=("steps", "top_k", "dense_steps"))
def descend_codes(equations, codes, bias, steps, learning_rate, top_k=0, dense_steps=0):
    """Descend the squared error over codes. codes [S, E], bias [S, C] or None: where to start.

    With top_k the first dense_steps move all codes; then each signal keeps its strongest top_k and
    only those move. Started from a bias, the history's first entry is with that bias; from then on
    the best bias for the codes is used. -> (codes [S, E], history [steps + 1, S]).
    """
    equations, scale = _unit_atoms(equations)
    codes = jnp.where(scale > 0, codes / jnp.where(scale > 0, scale, 1.0), 0.0)

    def objective(codes):
        return mean_residual(equations, codes)

    first = mean_residual(equations, codes, bias)
    dense_steps = min(dense_steps, steps) if top_k else steps
    codes, history = descend(objective, codes, dense_steps, learning_rate)
    if top_k:
        chosen = strongest(equations, codes, top_k)
        codes, sparse_history = _descend_chosen(
            equations, codes, chosen, steps - dense_steps, learning_rate
        )
        history = jnp.concatenate([history[:-1], sparse_history])
    return codes * scale, history.at[0].set(first)


def _descend_chosen(equations, codes, chosen, steps, learning_rate):
    """`descend` for the codes of chosen experts [S, K]; the rest are zero. -> codes, history."""
    if chosen.size * chosen.shape[1] > _OWN_NUMBERS:
        codes, history = descend(
            lambda codes: mean_residual(equations, _only(codes, chosen)),
            codes,
            steps,
            learning_rate,
        )
        return _only(codes, chosen), history
    # Of its own K experts a signal's step costs K^2, not E^2.
    own = equations.of_experts(chosen)
    rows = jnp.arange(len(chosen))[:, None]
    weights, history = descend(
        lambda weights: mean_residual(own, weights), codes[rows, chosen], steps, learning_rate
    )
    return jnp.zeros_like(codes).at[rows, chosen].set(weights), history


def mean_residual(equations, codes, bias=None):
    """Mean squared residual per measured value [S]; with the best bias unless one is given.

    Gradients reach the codes and the bias alone, once.
    """
    # As the Gram matrix is symmetric the slope is 2 (G a - m), which needs no second product.
    product = jax.lax.stop_gradient(equations.apply(codes))
    linear = 2 * jnp.sum(codes * (product - equations.moments), -1)
    squares = equations.energy + linear - jnp.sum(jax.lax.stop_gradient(codes) * product, -1)
    total = jnp.maximum(squares, 0)
    if bias is not None:
        # Around the best bias the error grows by weight (b - best)^2, exactly.
        total += equations.bias_weight * jnp.square(bias - equations.bias(codes)).sum(-1)
    return total / (equations.count * equations.target_mean.shape[-1])


def _unit_atoms(equations):
    """Equations for atoms of root mean square 1 over points and channels, and the scale [E] that
    undoes it."""
    energy = jnp.diagonal(equations.gram, axis1=-2, axis2=-1)
    mean = energy / equations.count[..., None] / equations.target_mean.shape[-1]
    # One scale for all signals keeps a shared Gram matrix shared.
    mean = mean.reshape(-1, mean.shape[-1]).mean(0)
    scale = jnp.where(mean > 0, jax.lax.rsqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)
    return equations._replace(
        gram=equations.gram * scale[:, None] * scale,
        moments=equations.moments * scale,
        atom_mean=equations.atom_mean * scale[:, None],
        gram_low=None,
        moments_low=None,
    ), scale


@functools.partial(jax.jit, static_argnames=("graphdef", "steps", "top_k"))
def descend_router(graphdef, params, rest, signals, equations, steps, learning_rate, top_k=0):
    """Descend the squared error over a router's weights: its codes of `signals` [S, *grid, C].

    graphdef, params, rest: a split router. -> (codes [S, E], bias [S, C], history [steps + 1, S]).
    """

    def predict(params):
        return nnx.merge(graphdef, params, rest, copy=True).gates(None, signals, top_k=top_k)

    def objective(params):
        gates = predict(params)
        return mean_residual(equations, gates.values, gates.bias)

    params, history = descend(objective, params, steps, learning_rate)
    gates = predict(params)
    return gates.values, gates.bias, history


@functools.partial(jax.jit, static_argnames=("graphdef", "steps", "top_k", "dense_steps"))
def descend_absolute(graphdef, state, samples, start, steps, learning_rate, top_k=0, dense_steps=0):
    """As `descend_codes` for the mean absolute error, which no Gram matrix holds.

    graphdef, state: a split dictionary; samples: points [P, D] and targets [S, P, C]; start: codes
    [S, E] and bias [S, C], which descends with the codes. Every step renders all points. -> (codes,
    bias, history of the mean absolute residual [steps + 1, S], mean squared residual [S]).
    """
    dictionary, (points, targets) = nnx.merge(graphdef, state, copy=True), samples

    def differences(variables, chosen=None):
        codes, bias = variables
        codes = codes if chosen is None else _only(codes, chosen)
        return dictionary.combine(points, Gates(codes, None, None, bias)) - targets

    def objective(variables, chosen=None):
        return jnp.abs(differences(variables, chosen)).mean((1, 2))

    dense_steps = min(dense_steps, steps) if top_k else steps
    variables, history = descend(objective, start, dense_steps, learning_rate)
    if top_k:
        slopes = jax.grad(lambda v: objective(v).sum())(variables)[0]
        chosen = _largest(variables[0], jnp.abs(variables[0]), jnp.abs(slopes), top_k)
        variables, sparse_history = descend(
            lambda v: objective(v, chosen), variables, steps - dense_steps, learning_rate
        )
        variables = (_only(variables[0], chosen), variables[1])
        history = jnp.concatenate([history[:-1], sparse_history])
    return *variables, history, jnp.square(differences(variables)).mean((1, 2))
