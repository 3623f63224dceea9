"""Codes under an L1 penalty, by accelerated proximal gradient with a certificate.

FISTA (Beck and Teboulle 2009) with the gradient restart of O'Donoghue and Candes (2015), on Gram
matrices: an iteration is one product S E^2 for all signals, however many points were measured. It
stops on the duality gap, which bounds how far the objective is from its minimum.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax import numerics
from nid_jax.coding import checks
from nid_jax.errors import ArgumentError

# The gap cannot be told from zero below this part of the signal's energy, in float32.
_ROUNDING = 1e-7
# A signal whose gap has no new minimum for so many steps is left at what float32 can do.
_PATIENCE = 1000
# Power iterations for the first step size. An estimate too low is corrected on the way.
_POWER_STEPS = 15


class LassoCodes(NamedTuple):
    """codes [S, E]; gap [S]: duality gap relative to the objective, an upper bound of its relative
    excess; penalty [S]: the one used; iterations int32 [S]; converged bool [S]."""

    codes: jax.Array
    gap: jax.Array
    penalty: jax.Array
    iterations: jax.Array
    converged: jax.Array


class Penalty(NamedTuple):
    """penalty Σ_e weights_e |a_e| + ½ ridge |a|², what `lasso_codes` adds to the squared error."""

    value: float | jax.Array | np.ndarray | None = None
    """The penalty, above 0, a number or [S]. None: `fraction` of the smallest one whose codes are
    all zero."""
    fraction: float | jax.Array | np.ndarray = 0.01
    """In (0, 1], a number or [S]; not used where the value is given."""
    weights: jax.Array | None = None
    """Positive [E], such as `routing.expert_weights`; with groups one per group."""
    groups: np.ndarray | None = None
    """int [E], the group 0 .. G-1 of every expert: the penalty is then the group lasso's,
    Σ_g weights_g |a_g|₂."""
    ridge: float = 0.0
    """Weight of the squared codes, at least 0 (elastic net)."""
    unit_atoms: bool = True
    """Whether penalty and ridge see the codes of unit atoms, that is code times the norm of its
    atom, so that rescaling an atom changes nothing. With groups it is the root mean square norm of
    a group's atoms; where every signal has its own Gram matrix, that of all signals. False: the
    codes themselves."""


def lasso_codes(equations, penalty, tolerance=1e-3, steps=1000) -> LassoCodes:
    """Minimise ½ |Phi a - y|² + penalty Σ_e weights_e |a_e| + ½ ridge |a|² for every signal.

    The squared error is the sum over measurements and channels, the bias being free. Internally
    atoms are unit vectors, which changes the path and not the minimum.

    Args:
      equations: NormalEquations of S signals.
      penalty: `Penalty`.
      tolerance: a signal has converged when its duality gap is below this part of its objective
        (or cannot be told from zero in float32). Below 1e-4 float32 may not get there with small
        penalties: a signal then stops, not converged, when its gap has long ceased to fall.
      steps: at most so many.

    Raises:
      ArgumentError: a penalty, fraction, weight or ridge outside what is allowed, or shapes that do
        not fit.
    """
    experts = equations.moments.shape[-1]
    labels, num_groups = _labels(penalty.groups, experts)
    count, weights = num_groups or experts, penalty.weights
    weights = jnp.ones(count) if weights is None else jnp.asarray(weights, jnp.float32)
    if weights.shape != (count,):
        kind = "groups" if num_groups else "experts"
        raise ArgumentError("weights", weights.shape, f"({count},), one of {kind}")
    checks.positive("weights", weights, rank=1)
    checks.not_negative("ridge", penalty.ridge)
    relative = penalty.value is None
    if relative:
        checks.share("fraction", penalty.fraction, rank=1)
    else:
        allowed = "above 0; without a penalty use ridge"
        checks.numbers("penalty", penalty.value, lambda v: v > 0, allowed, rank=1)
    level = jnp.asarray(penalty.fraction if relative else penalty.value, jnp.float32)
    costs = _Costs(level, weights, penalty.ridge, labels)
    kind = (num_groups, relative, penalty.unit_atoms)
    return _lasso(equations, costs, tolerance, steps, *kind)


def _labels(groups, experts):
    if groups is None:
        return None, 0
    groups = np.asarray(groups)
    if groups.shape != (experts,) or not np.issubdtype(groups.dtype, np.integer):
        shown = f"{groups.shape} of {groups.dtype}"
        raise ArgumentError("groups", shown, f"whole numbers, ({experts},)")
    present = np.unique(groups)
    if not np.array_equal(present, np.arange(len(present))):
        raise ArgumentError("groups", present, "0 to G-1 with none left out")
    return jnp.asarray(groups, jnp.int32), len(present)


class _Costs(NamedTuple):
    """level [] or [S]: fraction or penalty; weights [E] or [G]; ridge []; labels int [E] or None:
    the group of every expert."""

    level: jax.Array
    weights: jax.Array
    ridge: jax.Array
    labels: jax.Array | None


class _Norm:
    """Weighted sum of magnitudes of groups of codes. weights [G], membership [E, G] or None."""

    def __init__(self, weights, membership):
        self.weights, self.membership = weights, membership

    def magnitudes(self, codes):
        """[S, E] -> [S, G]."""
        if self.membership is None:
            return jnp.abs(codes)
        return jnp.sqrt(numerics.einsum("se,eg->sg", codes**2, self.membership))

    def spread(self, values):
        """[S, G] -> [S, E]."""
        if self.membership is None:
            return values
        return numerics.einsum("sg,eg->se", values, self.membership)

    def __call__(self, codes):
        return numerics.einsum("...g,g->...", self.magnitudes(codes), self.weights)

    def dual(self, correlations):
        """The smallest penalty at which these correlations are balanced. [S, E] -> [S]."""
        return (self.magnitudes(correlations) / self.weights).max(-1)

    def prox(self, codes, amount):
        """Proximal map of amount [S] times the norm."""
        size = self.magnitudes(codes)
        kept = jnp.maximum(size - amount[:, None] * self.weights, 0)
        return codes * self.spread(numerics.safe_divide(kept, size))


class _State(NamedTuple):
    """codes, product = gram codes, ahead and product_ahead (the extrapolated point) [S, E];
    momentum, curvature, gap, least_gap [S]; stale: steps since least_gap fell [S]; converged, done
    bool [S]; iterations int32 [S]."""

    codes: jax.Array
    product: jax.Array
    ahead: jax.Array
    product_ahead: jax.Array
    momentum: jax.Array
    curvature: jax.Array
    gap: jax.Array
    least_gap: jax.Array
    stale: jax.Array
    converged: jax.Array
    done: jax.Array
    iterations: jax.Array


@functools.partial(jax.jit, static_argnames=("num_groups", "relative", "unit_atoms"))
def _lasso(equations, costs, tolerance, steps, num_groups, relative, unit_atoms):
    level, weights, ridge, labels = costs
    membership = jax.nn.one_hot(labels, num_groups, dtype=jnp.float32) if num_groups else None
    norms = _atom_norms(equations, membership)
    inverse = numerics.safe_divide(1.0, norms)
    # Unit atoms and signals: codes of the problem below are codes * norms / size.
    size = jnp.sqrt(equations.energy)
    inner = _inner_problem(equations, inverse, size)
    if not unit_atoms:
        per_group = inverse
        if num_groups:
            per_group = (membership * inverse[:, None]).max(0)
        # Atoms of norm zero have code zero at any weight.
        weights = jnp.where(per_group > 0, weights * per_group, weights)
    diagonal = ridge * jnp.ones_like(norms) if unit_atoms else ridge * inverse**2
    norm = _Norm(weights, membership)
    if relative:
        penalty = level * norm.dual(inner.moments)
    else:
        penalty = numerics.safe_divide(level * jnp.ones_like(size), size)
    state = _descend(inner, norm, penalty, diagonal, tolerance, steps)
    codes = state.codes * inverse * size[:, None]
    return LassoCodes(codes, state.gap, penalty * size, state.iterations, state.converged)


def _atom_norms(equations, membership):
    """[E]: norm of each atom; the root mean square within groups, and over signals where each
    has its own Gram matrix."""
    square = jnp.maximum(jnp.diagonal(equations.gram, axis1=-2, axis2=-1), 0)
    if square.ndim == 2:
        square = square.mean(0)
    if membership is not None:
        means = numerics.einsum("e,eg->g", square, membership) / membership.sum(0)
        square = numerics.einsum("eg,g->e", membership, means)
    return jnp.sqrt(square)


def _inner_problem(equations, inverse, size):
    one = numerics.safe_divide(jnp.ones_like(size), size)
    return equations._replace(
        gram=equations.gram * inverse[:, None] * inverse,
        gram_low=None,
        moments_low=None,
        moments=equations.moments * inverse * one[:, None],
        energy=(size > 0).astype(jnp.float32),
    )


def _largest_eigenvalue(apply, like):
    """Power iteration for every signal -> [S], from below."""
    start = jnp.cos(jnp.arange(like.size, dtype=jnp.float32) ** 2).reshape(like.shape)

    def step(_, carry):
        vector, _ = carry
        product = apply(vector)
        length = jnp.sqrt((product**2).sum(-1))
        return numerics.safe_divide(product, length[:, None]), length

    vector = start / jnp.linalg.norm(start, axis=-1, keepdims=True)
    return jax.lax.fori_loop(0, _POWER_STEPS, step, (vector, jnp.ones(len(like), like.dtype)))[1]


def _duality_gap(equations, norm, penalty, tolerance, codes, product):
    """Gap relative to the objective [S], and whether it is small enough.

    With r the residual and c r the dual point, every term of the gap is at least 0:
    ½ (1 - c)² |r|² + Σ (penalty |a_e| - c a_e phi_e·r).
    """
    moments = equations.moments
    residual = moments - product
    squared = jnp.maximum(equations.energy - (codes * (moments + residual)).sum(-1), 0)
    along = (codes * residual).sum(-1)
    largest = numerics.safe_divide(penalty, norm.dual(residual))
    largest = jnp.where(norm.dual(residual) > 0, largest, jnp.inf)
    c = jnp.minimum(numerics.safe_divide(squared + along, squared), largest)
    c = jnp.clip(c, 0, 1e3)
    cost = penalty * norm(codes)
    gap = jnp.maximum(0.5 * squared * (1 - c) ** 2 + cost - c * along, 0)
    objective = 0.5 * squared + cost
    small = gap <= jnp.maximum(tolerance * objective, _ROUNDING * equations.energy)
    return numerics.safe_divide(gap, objective), small


def _start(moments, measure, curvature):
    """The state at codes of zero. measure: of codes and product, `_duality_gap`."""
    zero = jnp.zeros_like(moments)
    gap, small = measure(zero, zero)
    # Nothing to descend: no energy, or no atom.
    silent = (jnp.abs(moments).max(-1) == 0) | small
    none = jnp.zeros(len(moments), jnp.int32)
    return _State(
        codes=zero,
        product=zero,
        ahead=zero,
        product_ahead=zero,
        momentum=jnp.ones_like(gap),
        curvature=jnp.maximum(curvature, 1e-6),
        gap=jnp.where(silent, 0.0, gap),
        least_gap=gap,
        stale=none,
        converged=silent,
        done=silent,
        iterations=none,
    )


def _descend(equations, norm, penalty, diagonal, tolerance, steps):
    moments = equations.moments

    def apply(codes):
        return equations.apply(codes) + diagonal * codes

    measure = functools.partial(_duality_gap, equations, norm, penalty, tolerance)

    def step(state):
        gradient = state.product_ahead - moments
        inverse = numerics.safe_divide(1.0, state.curvature)
        codes = norm.prox(state.ahead - gradient * inverse[:, None], penalty * inverse)
        product = apply(codes)
        moved, moved_product = codes - state.ahead, product - state.product_ahead
        # The step size must bound the curvature along the step taken; else grow it and repeat.
        length, bent = (moved**2).sum(-1), (moved * moved_product).sum(-1)
        rounding = 1e-6 * (jnp.abs(codes * product)).sum(-1)
        steep = bent > 1.001 * state.curvature * length + rounding
        curvature = jnp.where(steep, 1.2 * numerics.safe_divide(bent, length), state.curvature)
        accept = ~steep & ~state.done
        restart = (moved * (state.codes - codes)).sum(-1) > 0
        momentum = jnp.where(restart, 1.0, state.momentum)
        following = 0.5 + jnp.sqrt(0.25 + momentum**2)
        beta = jnp.where(restart, 0.0, (momentum - 1) / following)[:, None]
        gap, small = measure(codes, product)
        stale = jnp.where(gap < state.least_gap, 0, state.stale + 1)
        converged = state.converged | (accept & small)

        def keep(new, old):
            return jnp.where(accept[:, None] if new.ndim == 2 else accept, new, old)

        return _State(
            codes=keep(codes, state.codes),
            product=keep(product, state.product),
            ahead=keep(codes + beta * (codes - state.codes), state.ahead),
            product_ahead=keep(product + beta * (product - state.product), state.product_ahead),
            momentum=keep(following, state.momentum),
            curvature=curvature,
            gap=keep(gap, state.gap),
            least_gap=keep(jnp.minimum(gap, state.least_gap), state.least_gap),
            stale=keep(stale, state.stale),
            converged=converged,
            done=state.done | converged | (accept & (stale >= _PATIENCE)),
            iterations=state.iterations + ~state.done,
        )

    start = _start(moments, measure, 1.02 * _largest_eigenvalue(apply, moments))

    def going(carry):
        count, state = carry
        return (count < steps) & ~state.done.all()

    return jax.lax.while_loop(going, lambda c: (c[0] + 1, step(c[1])), (0, start))[1]
