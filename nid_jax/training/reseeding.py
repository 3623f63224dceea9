"""Dead experts, those that no code uses any more, start again from what is explained worst."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nid_jax import sharding
from nid_jax.coding.ridge import solve_dense
from nid_jax.fields.routing import Gates
from nid_jax.training.steps import Batch, Given, TrainState, shown

# Regularisation of the codes whose residuals are looked at.
_LAMBDA = 1e-3


def reseed(
    graphdef: nnx.GraphDef, state: TrainState, batch: Batch, given: Given, share: float, seed: int
) -> tuple[nnx.State, Float[Array, " E"], int]:
    """Experts whose usage is below `share` of the mean become residuals of the batch.

    The worst-explained signals, one per dead expert, are fitted by the expert's last layer (see
    `Dictionary.refit`). given.operator: samples, which is what a last layer can be
    fitted to.
    -> (params, usage with the mean in the places of the reseeded, count).
    """
    usage = np.array(jax.device_get(state.usage))
    mean = usage.mean()
    dead = np.flatnonzero(usage < share * mean)[: len(batch["signals"])]
    if not len(dead):
        return state.params, state.usage, 0
    chosen = sharding.put(dead, state.usage.sharding)
    params = _refit(graphdef, state.params, batch, given, chosen, state.step, seed)
    usage[dead] = mean
    return params, jax.device_put(usage), len(dead)


@functools.partial(jax.jit, static_argnames=("graphdef", "seed"))
def _refit(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    batch: Batch,
    given: Given,
    dead: Int[Array, " K"],
    step: Int[Array, ""],
    seed: int,
) -> nnx.State:
    model = nnx.merge(graphdef, params, given.constants, copy=True)
    seen = shown(batch, given.operator)

    def solve(equations):
        codes = solve_dense(equations, _LAMBDA).codes
        return Gates(codes, None, None, equations.bias(codes))

    gates, _ = seen.solved(model.dictionary, solve)
    residual = seen.targets - seen.rendered(model.dictionary, gates)
    if seen.weights is not None:
        residual = seen.weights[..., None] * residual
    _, worst = jax.lax.top_k(jnp.square(residual).sum((1, 2)), len(dead))
    key = jax.random.fold_in(jax.random.key(seed), step)
    model.dictionary.refit(dead, seen.operator.points, residual[worst], key)
    return nnx.state(model, nnx.Param)
