"""Codes from the measurements that a robust fit believes: what it leaves far off is left out.

A robust data term bounds the pull of a wrong measurement but does not end it, and many wrong ones
together, such as all of a painted-over block, still move the codes. So a robust fit is only a
pilot here. Measurements with large residuals get weight zero, and the codes are solved anew from
the rest, by least squares under the Gaussian prior (hard rejection: Rousseeuw and Leroy 1987).

What corrupts a measurement often corrupts its neighbours too. With a reach, residuals are averaged
over nearby points before they are judged, so that a wrong measurement whose value happens to be
likely goes with those around it, and a single odd one stays.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from nid_jax.coding import checks, operators, ridge
from nid_jax.coding.mixture_codes import under_prior
from nid_jax.coding.solution import Solution
from nid_jax.errors import ArgumentError
from nid_jax.fields.routing import Gates

# Beyond so many standard deviations a neighbour has no say.
_KERNEL_REACH = 3.0


def trimmed_solve(problem, pilot: Solution, options) -> Solution:
    """Codes from the measurements that lie near what a pilot fit predicts.

    Args:
      problem: `problem.Problem`; with a prior the codes are then those under it, or its mixture.
      pilot: Solution of it, of a robust fit.
      options: `solvers.Robust`. Of its fields, trim is 1 or more, so that at least half are kept;
        reach is the standard deviation of the Gaussian that residuals are averaged under, in
        coordinates, and needs one point per measurement; lam is taken without a prior.

    Returns:
      Solution; iterations and stats are the pilot's, with 'kept', the share of measurements kept,
      and what the second solve adds. residual is over those, converged where the pilot is too.

    Raises:
      ArgumentError: a reach with an operator that mixes points; where values are not known yet,
        inside jit and vmap.
    """
    if checks.transforming():
        raise ArgumentError("trim", options.trim, "0 (off) inside jit and vmap: it needs the host")
    operator, noise = problem.operator, options.trim_noise**2 or None
    given = operators.combined_weights(operator, problem.weights)
    shape = (len(problem.measurements), operator.num_measurements)
    given = np.broadcast_to(1.0 if given is None else np.asarray(given), shape)
    sizes = residual_sizes(problem.dictionary, operator, problem.measurements, pilot)
    kept = believed(sizes, given > 0, options.trim, _nearby(operator, options.reach))
    believing = dataclasses.replace(problem, weights=given * kept)
    equations = believing.equations(options.precision)
    if problem.prior is None:
        solution = ridge.ridge(equations, options.lam)
    else:
        solution = under_prior(equations, problem.prior, noise)
    share = kept.sum(1) / np.maximum((given > 0).sum(1), 1)
    return solution._replace(
        converged=solution.converged & pilot.converged,
        iterations=pilot.iterations,
        result=jnp.where(pilot.converged, solution.result, pilot.result),
        stats=pilot.stats | solution.stats | {"kept": jnp.asarray(share, jnp.float32)},
        history=pilot.history,
    )


def residual_sizes(dictionary, operator, measurements, solution):
    """Mean absolute residual of every measurement over its channels. -> NumPy [S, M].

    measurements [S, M, C], NaN where a residual is not known, as in the result.
    """
    graphdef, state = nnx.split(dictionary)
    sizes = _sizes(graphdef, state, operator, measurements, solution.codes, solution.bias)
    return np.asarray(sizes)


@functools.partial(jax.jit, static_argnames="graphdef")
def _sizes(graphdef, state, operator, measurements, codes, bias):
    dictionary = nnx.merge(graphdef, state, copy=True)
    rendered = dictionary.combine(operator.points, Gates(codes, None, None, bias))
    return jnp.abs(measurements - operator.measure(rendered)).mean(-1)


def believed(sizes, seen, trim, nearby=None):
    """Whether a measurement is kept: its residual is at most `trim` times the median. bool [S, M].

    sizes [S, M] of residuals, seen bool [S, M]; nearby: None, or weights [M, M] (sparse) under
    which sizes are averaged first, those not seen left out.
    """
    sizes = np.where(seen, sizes, 0.0).astype(np.float64)
    if nearby is not None:
        sizes = (sizes @ nearby) / np.maximum(seen @ nearby, 1e-12)
    median = np.array(
        [np.median(s[one]) if one.any() else 0 for s, one in zip(sizes, seen, strict=True)]
    )
    return seen & (sizes <= trim * median[:, None])


def _nearby(operator, reach):
    """Weights of neighbours [M, M], sparse and symmetric; None without a reach."""
    if not reach:
        return None
    if not operator.is_sampling:
        raise ArgumentError("reach", reach, "0, as the operator's measurements mix many points")
    tree = cKDTree(np.asarray(operator.points, np.float64))
    distance = tree.sparse_distance_matrix(tree, _KERNEL_REACH * reach, output_type="coo_matrix")
    weight = np.exp(-0.5 * (distance.data / reach) ** 2)
    return csr_array((weight, (distance.row, distance.col)), shape=distance.shape)
