"""One training step: a pure function of a state and a batch, jitted once by the loop."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from nid_jax.coding import operators

CHUNKS = ("random", "exhaustive")
# Beyond this many points a random chunk is drawn with repetition: a permutation of the grid would
# cost more than the step.
_PERMUTED_POINTS = 2**16
# Share of the old value in the running mean of |code|: about the last fifty steps count.
USAGE_DECAY = 0.98


@dataclasses.dataclass
class TrainState:
    """All that a step changes."""

    params: nnx.State
    """Trained variables of the model."""
    optimizer: optax.OptState
    step: jax.Array
    bad_step: jax.Array
    """The first step whose loss or gradient was not finite; -1: none."""
    usage: jax.Array
    """[E], how much each expert is used: running mean of |code|."""


jax.tree_util.register_dataclass(
    TrainState, ["params", "optimizer", "step", "bad_step", "usage"], meta_fields=[]
)


def random_chunk(key, count, size):
    """Indices [size] of a random chunk of `count` points; each point once where that is cheap."""
    if size >= count:
        return jnp.arange(count)
    if count > _PERMUTED_POINTS:
        return jax.random.randint(key, (size,), 0, count)
    return jax.random.permutation(key, count)[:size]


def exhaustive_chunk(key, count, size, number):
    """Chunk `number` of a random partition of `count` points; the last one is filled up anew."""
    if size >= count:
        return jnp.arange(count)
    order = jax.random.permutation(key, count)
    chunks = -(-count // size)
    order = jnp.concatenate([order, order[: chunks * size - count]])
    return jax.lax.dynamic_slice(order, (number * size,), (size,))


def shown(batch, operator, choose=None):
    """What a batch shows of its signals. -> (operator, targets [B, M, C]).

    A batch that brings 'points' [P, D] shows its signals there. Otherwise they are whole, measured
    by `operator`, of which choose() -> indices [m], or None for all.
    """
    signals = batch["signals"]
    if "points" in batch:
        return operators.Sample(batch["points"]), signals
    targets = signals.reshape(signals.shape[0], operator.num_measurements, -1)
    chosen = None if choose is None else choose()
    if chosen is None:
        return operator, targets
    return operator.of_measurements(chosen), targets[:, chosen]


def make_step(graphdef, constants, strategy, optimizer, config, operator, dense):
    """One training step, a pure function (TrainState, batch) -> (TrainState, terms).

    operator: what measured the training signals; a step sees some of its measurements, or the
    points that the batch brings.
    """
    count = operator.num_measurements
    size = min(config.train.points or count, count)
    per_batch = chunks_per_batch(config, count)
    root = jax.random.fold_in(jax.random.key(config.seed), 1)

    def step(state, batch):
        key = jax.random.fold_in(root, state.step)

        def choose():
            if size == count:
                return None
            if config.train.chunks == "exhaustive":
                batch_key = jax.random.fold_in(root, state.step // per_batch)
                return exhaustive_chunk(batch_key, count, size, state.step % per_batch)
            return random_chunk(jax.random.fold_in(key, 0), count, size)

        seen, targets = shown(batch, operator, choose)
        model = nnx.merge(graphdef, state.params, constants, copy=True)
        prepared = strategy.prepare(model, batch, seen, targets)
        params = nnx.state(model, nnx.Param)

        def loss(params):
            model = nnx.merge(graphdef, params, constants, copy=True)
            noise_key = jax.random.fold_in(key, 1)
            return strategy.loss(model, prepared, batch, seen, targets, dense, noise_key)

        (value, (terms, used)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        norm = optax.global_norm(grads)
        good = jnp.isfinite(value) & jnp.isfinite(norm)

        def move():
            updates, moments = optimizer.update(grads, state.optimizer, params)
            usage = USAGE_DECAY * state.usage + (1 - USAGE_DECAY) * used
            return optax.apply_updates(params, updates), moments, usage

        def stay():
            return state.params, state.optimizer, state.usage

        # A bad step changes nothing, so what is saved next is the last good state. A branch copies
        # no leaf, as a choice between old and new in each would.
        kept, moments, usage = jax.lax.cond(good, move, stay)
        new = TrainState(kept, moments, state.step, state.bad_step, usage)
        first = (state.bad_step < 0) & ~good
        new.bad_step = jnp.where(first, state.step, state.bad_step)
        new.step = state.step + 1
        dead = (new.usage < config.train.dead_below * new.usage.mean()).sum()
        return new, {**terms, "gradient_norm": norm, "dead_experts": dead.astype(jnp.float32)}

    return step


def chunks_per_batch(config, count):
    """Steps that are taken on one batch: 1, or all its chunks under train.chunks=exhaustive."""
    if config.train.chunks not in CHUNKS:
        raise ValueError(
            f"train.chunks: {config.train.chunks!r} is unknown; allowed: {', '.join(CHUNKS)}"
        )
    if config.train.chunks == "random" or not config.train.points:
        return 1
    return -(-count // min(config.train.points, count))
