"""Codes from the measurements that a robust fit believes: what it leaves far off is left out.

A robust data term bounds the pull of a wrong measurement but does not end it, and many wrong ones
together, such as all of a painted-over block, still move the codes. So a robust fit is only a
pilot here. Measurements with large residuals get weight zero, and the codes are solved anew from
the rest, by least squares under the Gaussian prior (hard rejection: Rousseeuw and Leroy 1987).

What corrupts a measurement often corrupts its neighbours too. With a reach, residuals are averaged
over nearby points before they are judged, so that a wrong measurement whose value happens to be
likely goes with those around it, and a single odd one stays.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from nid_jax.coding import gram, operators, ridge
from nid_jax.coding.prior import gaussian
from nid_jax.fields.routing import Gates

# Beyond so many standard deviations a neighbour has no say.
_KERNEL_REACH = 3.0


def trimmed_solve(
    dictionary,
    operator,
    measurements,
    pilot,
    *,
    weights=None,
    trim=2.5,
    reach=0.0,
    prior=None,
    noise=None,
    lam=1e-4,
):
    """Codes from the measurements that lie near what a pilot fit predicts.

    Args:
      dictionary, operator: see `gram.normal_equations`. The dictionary is frozen.
      measurements: [S, M, C]. Values of weight 0 are not read and may be NaN.
      pilot: CodeSolution of these measurements, of a robust fit.
      weights: None, [M] or [S, M].
      trim: measurements whose residual is more than so many times the signal's median one are left
        out; 1 or more, so that at least half are kept.
      reach: residuals are averaged over nearby points under a Gaussian of this standard deviation,
        in coordinates; 0: each for itself. Needs one point per measurement.
      prior: None, or `prior.GaussianPrior`, under which the codes are then most probable.
      noise: with a prior as in `prior.gaussian`, a variance.
      lam: regularisation without a prior, as in `ridge.ridge`.

    Returns:
      CodeSolution; history is the pilot's, with 'kept' [S], the share of measurements kept.
      residual is over those, converged where the pilot is too.

    Raises:
      ValueError: trim, reach or noise out of range, a reach with an operator that mixes points.
    """
    if not (math.isfinite(trim) and trim >= 1):
        raise ValueError(f"fit.robust.trim: {trim}; allowed: 0 (off), or 1 and more")
    if not (math.isfinite(reach) and reach >= 0):
        raise ValueError(f"fit.robust.reach: {reach}; allowed: 0 or more")
    measurements = jnp.asarray(measurements, jnp.float32)
    given = operators.combined_weights(operator, weights)
    shape = (len(measurements), operator.num_measurements)
    given = np.broadcast_to(1.0 if given is None else np.asarray(given), shape)
    sizes = residual_sizes(dictionary, operator, measurements, pilot)
    kept = believed(sizes, given > 0, trim, _nearby(operator, reach))
    equations = gram.normal_equations(dictionary, operator, measurements, given * kept)
    solution = ridge.ridge(equations, lam) if prior is None else gaussian(equations, prior, noise)
    share = kept.sum(1) / np.maximum((given > 0).sum(1), 1)
    message = f"{pilot.message}; then {solution.message}, {100 * share.mean():.0f}% kept"
    return solution._replace(
        converged=solution.converged & pilot.converged,
        iterations=pilot.iterations,
        message=message,
        history=pilot.history | {"kept": jnp.asarray(share, jnp.float32)},
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
    if not isinstance(operator, (operators.Sample, operators.Mask)):
        raise ValueError(
            f"fit.robust.reach: {reach}, but the operator's measurements mix many points; "
            "allowed: fit.robust.reach=0"
        )
    tree = cKDTree(np.asarray(operator.points, np.float64))
    distance = tree.sparse_distance_matrix(tree, _KERNEL_REACH * reach, output_type="coo_matrix")
    weight = np.exp(-0.5 * (distance.data / reach) ** 2)
    return csr_array((weight, (distance.row, distance.col)), shape=distance.shape)
