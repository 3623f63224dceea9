"""Codes from corrupted measurements: an L1 or Huber data term, by ADMM.

The residual is split off as a variable z of its own (Boyd et al. 2011, section 6.1). What remains
of the codes' problem is quadratic with the same matrix in every iteration, so that one
eigendecomposition of the Gram matrix serves all iterations, all signals and every step size, and
an iteration costs two products of features and codes.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nid_jax import numerics
from nid_jax.coding import gram, operators
from nid_jax.coding.solution import Solution, finished

LOSSES = ("l1", "huber")

# Huber's choice: 95% as efficient as least squares where the noise is Gaussian after all.
_HUBER_WIDTH = 1.345
# A Gaussian's standard deviation over its median absolute deviation.
_GAUSSIAN_MAD = 1.4826
# Iterations with the L1 term, after which residuals tell the noise.
_PILOT_STEPS = 50
_RELAXATION = 1.6
# First weight of the split with an L1 term, for residuals of unit root mean square.
_L1_STIFFNESS = 10.0
_ADAPT_EVERY = 10
# Features kept between iterations, in numbers; beyond it they are evaluated anew in each.
_CACHED_NUMBERS = 2**28


def robust_solve(problem, options, chunk=0) -> Solution:
    """Codes that outliers among the measurements do not pull.

    Minimises Σ w ρ(y - Φ a - b) + ½ penalty |t|², summed over measurements and channels; ρ is |r|,
    or Huber's: ½ r² up to delta, then delta (|r| - ½ delta). Without a prior t = a, and penalty =
    lam trace(gram) / E with 'huber', so that a large delta gives ridge; with 'l1' that divided by
    the root mean square of the centred measurements. With one a = mean + root t with t of unit
    variance, and the penalty is noise² with 'huber', and with 'l1' the noise's mean absolute value,
    noise / sqrt(π / 2).

    Args:
      problem: `problem.Problem`. With weights [S, M] every signal's Gram matrix is decomposed:
        S E^3.
      options: `solvers.Robust`. A noise of 0 is taken from the median absolute residual of a short
        L1 fit. Where a signal has converged, the objective is about as near to its minimum as the
        tolerance says; every tenth part costs four times the iterations with 'l1'.
      chunk: measurements held at a time; 0 chooses.

    Returns:
      Solution; stats has 'noise' (where it was needed, else 0) and 'delta' with 'huber'.
    """
    operator = problem.operator
    equations = problem.equations(options.precision).products()
    weights = operators.combined_weights(operator, problem.weights)
    if weights is None:
        weights = jnp.ones(operator.num_measurements, jnp.float32)
    prior = None
    if problem.prior is not None:
        prior = _square_root(problem.prior, experts=problem.dictionary.num_experts)
    given = {"lam": options.lam, "tolerance": options.tolerance}
    for name in ("delta", "noise"):
        value = getattr(options, name)
        given[name] = value if isinstance(value, jax.core.Tracer) or np.any(value) else None
    codes, bias, residual, converged, iterations, noise, delta = _robust(
        *nnx.split(problem.dictionary),
        _Data(operator, problem.measurements, weights, equations, prior),
        given,
        options.steps,
        options.loss,
        chunk,
    )
    stats = {"noise": noise} | ({"delta": delta} if options.loss == "huber" else {})
    return finished(codes, bias, residual, converged, iterations, stats=stats)


@functools.partial(jax.jit, static_argnames="experts")
def _square_root(prior, experts):
    """Mean [E] and a factor R [E, E] of the codes' covariance R R^T, the bias apart."""
    factor, diagonal = (part[:experts] for part in prior[1:3])
    both = jnp.concatenate([factor.T, jnp.diag(jnp.sqrt(diagonal))], 0)
    return prior.mean[:experts], jnp.linalg.qr(both, mode="r").T


class _Data(NamedTuple):
    """What is solved. measurements [S, M, C]; weights [M] or [S, M]; prior: None, or mean [E] and
    factor [E, R]."""

    operator: operators.Operator
    measurements: jax.Array
    weights: jax.Array
    equations: gram.NormalEquations
    prior: tuple | None


@functools.partial(jax.jit, static_argnames=("graphdef", "loss", "chunk"))
def _robust(graphdef, state, data, given, steps, loss, chunk):
    state, data = jax.lax.stop_gradient((state, data))
    equations, prior, measurements = data.equations, data.prior, data.measurements
    model = _Model(nnx.merge(graphdef, state), data, chunk)
    system = _System(equations, prior)
    size = equations.energy / (equations.count * measurements.shape[-1])
    size = jnp.sqrt(jnp.where(size > 0, size, 1.0))
    ridge = given["lam"] * system.mean_eigenvalue

    admm = _Admm(model, system, given["tolerance"] * jnp.ones_like(size))
    # Until the noise is known, it is taken for a twentieth of the signal.
    guess = (ridge if prior is None else (0.05 * size) ** 2) * jnp.ones_like(size)
    start = admm.start(equations, _L1_STIFFNESS / size, guess)
    noise, delta = given["noise"], given["delta"]
    if noise is None and (prior is not None or (loss == "huber" and delta is None)):
        start = admm.run(start, "l1", None, guess / size, _PILOT_STEPS)
        noise = jnp.maximum(_deviation(model, start.split), 1e-4 * size)
    noise = (0.0 if noise is None else noise) * jnp.ones_like(size)
    delta = (_HUBER_WIDTH * noise if delta is None else delta) * jnp.ones_like(size)
    if prior is None:
        penalty = guess if loss == "huber" else guess / size
    else:
        penalty = noise**2 if loss == "huber" else noise * math.sqrt(2 / math.pi)
    if loss == "huber":
        start = start._replace(stiffness=jnp.ones_like(size), dual=jnp.zeros_like(start.dual))
    end = admm.run(admm.again(start), loss, delta, penalty, steps)
    codes = system.codes(end.inner)
    squares = model.sweep(codes, end.bias, end.split, end.dual).squares
    residual = numerics.safe_divide(squares, equations.count * measurements.shape[-1])
    bias = model.true_bias(codes, end.bias)
    return codes, bias, residual, end.done, end.iterations, noise, delta


def _deviation(model, split):
    """Standard deviation of the bulk of residuals [N, m, S, C] -> [S], from their median size.

    Zeros are left out: they belong to measurements that the codes interpolate.
    """
    values = jnp.abs(model.flat(split))
    counted = model.flat(model.seen(split)) & (values > 0)
    return _GAUSSIAN_MAD * _median(values, counted)


def _median(values, seen):
    """The lower median over seen values, 0 if there are none. [S, N], bool [S, N] -> [S]."""
    ordered = jnp.sort(jnp.where(seen, values, jnp.inf), axis=-1)
    count = seen.sum(-1)
    middle = jnp.maximum(count - 1, 0) // 2
    median = jnp.take_along_axis(ordered, middle[:, None], axis=-1)[:, 0]
    return jnp.where(count > 0, median, 0.0)


class _System:
    """The quadratic problem of the codes, diagonal in eigenvectors of the Gram matrix.

    Unknown is t [S, R], codes = mean + factor t, or the codes themselves without a prior.
    """

    def __init__(self, equations, prior):
        matrix = equations.gram
        self.mean, self.factor = (0.0, None) if prior is None else prior
        trace = jnp.trace(matrix, axis1=-2, axis2=-1) / matrix.shape[-1]
        self.mean_eigenvalue = jnp.where(trace > 0, trace, 1.0) * jnp.ones_like(equations.energy)
        if self.factor is not None:
            matrix = numerics.einsum("er,...ef,fq->...rq", self.factor, matrix, self.factor)
        values, self.vectors = jnp.linalg.eigh(matrix)
        largest = jnp.maximum(values[..., -1:], 0)
        # Lifted by what float32 may have lost: iterations refine, so that only their pace suffers.
        self.values = jnp.maximum(values, 0) + 1e-6 * largest
        self.values = jnp.where(largest > 0, self.values, 1.0)
        self.shape = (equations.energy.shape[0], matrix.shape[-1])

    def codes(self, inner):
        if self.factor is None:
            return inner
        return self.mean + numerics.einsum("sr,er->se", inner, self.factor)

    def difference(self, change):
        """A change of t [S, R] as one of codes [S, E]."""
        return change if self.factor is None else numerics.einsum("sr,er->se", change, self.factor)

    def change(self, inner, gradient, stiffness, penalty):
        """To the minimum of stiffness/2 |target - Phi a|² + penalty/2 |t|², a change of t [S, R].

        gradient [S, E]: correlations of atoms with target - Phi a.
        """
        if self.factor is not None:
            gradient = numerics.einsum("se,er->sr", gradient, self.factor)
        downhill = stiffness[:, None] * gradient - penalty[:, None] * inner
        one = "er" if self.vectors.ndim == 2 else "ser"
        along = numerics.einsum(f"se,{one}->sr", downhill, self.vectors)
        along = along / (stiffness[:, None] * self.values + penalty[:, None])
        return numerics.einsum(f"sr,{one}->se", along, self.vectors)


class _Sweep(NamedTuple):
    """What one pass over the measurements finds.

    split, dual [N, m, S, C]: updated. The rest are sums for every signal: correlation [S, E] of
    atoms with what the target y - z - p leaves over, the bias apart; offset [S, C]: the bias's own
    correction; squares, gap, move, level [S]: squared lengths of y - model, of model + z - y, of
    the change of z, and of p.
    """

    split: jax.Array
    dual: jax.Array
    correlation: jax.Array
    offset: jax.Array
    squares: jax.Array
    gap: jax.Array
    move: jax.Array
    level: jax.Array


class _Model:
    """Measurements and the dictionary's measured features, cut into N chunks of m measurements.

    The heads' own bias is left out here: the signal's bias takes it in until `true_bias`.
    """

    def __init__(self, dictionary, data, chunk):
        operator, measurements, weights, equations, _ = data
        signals, count, self.channels = measurements.shape
        self.count, self.trunk = count, gram.is_shared(dictionary)
        self.head_bias = dictionary.head_bias[...] if self.trunk else None
        self.kernel = dictionary.head_kernel[...] if self.trunk else None
        self.atom_mean = equations.atom_mean
        if self.trunk:
            self.atom_mean = self.atom_mean - self.head_bias
        self.bias_weight = jnp.broadcast_to(equations.bias_weight, (signals,))
        wide = gram.numbers_per_point(dictionary)
        whole = count * wide <= _CACHED_NUMBERS
        size = chunk or max(16, 2**24 // max(wide * (operator.run_length or 1), 1))
        size = numerics.even_size(count, size)
        self.pieces, self.measure = gram.measured_features(dictionary, operator, size)
        if whole:
            self.pieces = jax.lax.map(self.measure, self.pieces)
            self.measure = lambda piece: piece
        weights = jnp.broadcast_to(weights, (signals, count))
        clean = jnp.where(weights[..., None] > 0, measurements, 0)
        self.targets = numerics.cut(clean.swapaxes(0, 1), size)
        self.weights = numerics.cut(weights.T, size)[..., None]

    def flat(self, values):
        """[N, m, S, C] -> [S, N m C]."""
        return jnp.moveaxis(values, 2, 0).reshape(values.shape[2], -1)

    def seen(self, like):
        return jnp.broadcast_to(self.weights > 0, like.shape)

    def true_bias(self, codes, bias):
        return (
            bias
            if self.head_bias is None
            else bias - numerics.einsum("...e,ec->...c", codes, self.head_bias)
        )

    def inner_bias(self, codes, bias):
        return (
            bias
            if self.head_bias is None
            else bias + numerics.einsum("...e,ec->...c", codes, self.head_bias)
        )

    def _mean_response(self, codes):
        """[S, E] -> [S, C]."""
        one = "ec" if self.atom_mean.ndim == 2 else "sec"
        return numerics.einsum(f"se,{one}->sc", codes, self.atom_mean)

    def best_bias(self, bias, offset, change):
        """The bias after its own correction and a change of codes."""
        return bias + offset - self._mean_response(change)

    def sweep(self, codes, bias, split, dual, prox=None):
        """One pass at given codes and bias; see `_Sweep`. Without prox, split and dual stay."""
        folded = numerics.einsum("se,hce->shc", codes, self.kernel) if self.trunk else codes

        def step(sums, piece):
            values, target, w, z, p = piece
            features, constant = self.measure(values)
            if self.trunk:
                model = numerics.einsum("mh,shc->msc", features[:, 0], folded)
            else:
                model = numerics.einsum("mce,se->msc", features, folded)
            constant = constant[:, None, None]
            model = model + constant * bias
            new = z
            if prox is not None:
                relaxed = _RELAXATION * model + (1 - _RELAXATION) * (target - z)
                new = prox(target - relaxed - p)
                p = p + relaxed + new - target
            error = w * (target - new - p - model)
            if self.trunk:
                cross = numerics.einsum("msc,mh->shc", error, features[:, 0])
            else:
                cross = numerics.einsum("msc,mce->se", error, features)
            squared = [target - model, model + new - target, new - z, p]
            found = (
                cross,
                (error * constant).sum(0),
                *((w * value**2).sum((0, 2)) for value in squared),
            )
            return jax.tree.map(jnp.add, sums, found), (new, p)

        inputs = (self.pieces, self.targets, self.weights, split, dual)
        zeros = [jnp.zeros_like(self.bias_weight)] * 4
        sums = (jnp.zeros_like(folded), jnp.zeros_like(bias), *zeros)
        sums, (split, dual) = jax.lax.scan(step, sums, inputs)
        cross, offset, *squares = sums
        if self.trunk:
            cross = numerics.einsum("shc,hce->se", cross, self.kernel)
        # The bias takes what is constant; atoms correlate with the rest.
        one = "ec" if self.atom_mean.ndim == 2 else "sec"
        correlation = cross - numerics.einsum(f"sc,{one}->se", offset, self.atom_mean)
        offset = numerics.safe_divide(offset, self.bias_weight[:, None])
        return _Sweep(split, dual, correlation, offset, *squares)


class _State(NamedTuple):
    """inner: t [S, R]; bias [S, C]; split z, dual p (scaled) [N, m, S, C]; stiffness [S]: weight of
    the split's squared error; done bool [S]; iterations int32 [S]."""

    inner: jax.Array
    bias: jax.Array
    split: jax.Array
    dual: jax.Array
    stiffness: jax.Array
    done: jax.Array
    iterations: jax.Array


class _Admm:
    """The iteration; residual balancing adapts the stiffness of every signal by itself."""

    def __init__(self, model, system, tolerance):
        self.model, self.system, self.tolerance = model, system, tolerance
        total = model.weights.sum((0, 1))
        mean = numerics.safe_divide((model.weights * model.targets).sum((0, 1)), total)

        def squares(values):
            return (model.weights * values**2).sum((0, 1, 3))

        # A constant signal has no variation to compare with, only its own size.
        self.scale = jnp.sqrt(squares(model.targets - mean) + 1e-6 * squares(model.targets))

    def start(self, equations, stiffness, penalty):
        """Least squares under the penalty, with all of the residual still in the constraint."""
        zero = jnp.zeros_like(self.model.targets)
        inner = jnp.zeros(self.system.shape, equations.moments.dtype)
        codes = jnp.zeros_like(equations.moments) + self.system.codes(inner)
        correlation = equations.moments - equations.apply(codes)
        ones = jnp.ones_like(stiffness)
        change = self.system.change(inner, correlation, ones, penalty)
        codes = codes + self.system.difference(change)
        bias = self.model.inner_bias(codes, equations.bias(codes))
        return self.again(_State(change, bias, zero, zero, stiffness, None, None))

    def again(self, state):
        """The same state with its counters at zero."""
        count = state.inner.shape[0]
        return state._replace(done=jnp.zeros(count, bool), iterations=jnp.zeros(count, jnp.int32))

    def run(self, state, loss, delta, penalty, steps):
        """Iterate until all signals have converged, or `steps` times."""

        def going(carry):
            count, state = carry
            return (count < steps) & ~state.done.all()

        def step(carry):
            count, state = carry
            return count + 1, self._step(state, count, loss, delta, penalty, steps)

        return jax.lax.while_loop(going, step, (0, state))[1]

    def _step(self, state, count, loss, delta, penalty, steps):
        prox = functools.partial(_prox, loss, delta, state.stiffness)
        codes = self.system.codes(state.inner)
        sweep = self.model.sweep(codes, state.bias, state.split, state.dual, prox)
        change = self.system.change(state.inner, sweep.correlation, state.stiffness, penalty)
        inner = state.inner + change
        moved = self.system.difference(change)
        bias = self.model.best_bias(state.bias, sweep.offset, moved)

        gap = jnp.sqrt(sweep.gap) / jnp.where(self.scale > 0, self.scale, 1.0)
        level = jnp.maximum(jnp.sqrt(sweep.level), 1e-3 * self.scale)
        move = jnp.sqrt(sweep.move) / jnp.where(level > 0, level, 1.0)
        done = state.done | (jnp.maximum(gap, move) <= self.tolerance)
        # Towards equal residuals, seldom, and not to the end: a moving stiffness need not converge.
        ratio = numerics.safe_divide(gap, move)
        adapt = ((count + 1) % _ADAPT_EVERY == 0) & (count < 0.7 * steps)
        adapt = adapt & ((ratio > 3) | (ratio < 1 / 3)) & (ratio > 0)
        factor = jnp.where(adapt, jnp.clip(jnp.sqrt(ratio), 0.25, 4.0), 1.0)
        factor = jnp.where(state.done, 1.0, factor)

        def keep(new, old):
            done = state.done[:, None] if new.ndim > 1 else state.done
            return jnp.where(done, old, new)

        return _State(
            keep(inner, state.inner),
            keep(bias, state.bias),
            keep(sweep.split, state.split),
            keep(sweep.dual / factor[:, None], state.dual),
            state.stiffness * factor,
            done,
            state.iterations + ~state.done,
        )


def _prox(loss, delta, stiffness, values):
    """Proximal map of the loss over the stiffness [S], at values [..., S, C]."""
    amount = 1 / stiffness[:, None]
    if loss == "l1":
        return jnp.sign(values) * jnp.maximum(jnp.abs(values) - amount, 0)
    delta = delta[:, None]
    far = values - jnp.sign(values) * delta * amount
    return jnp.where(jnp.abs(values) <= delta * (1 + amount), values / (1 + amount), far)
