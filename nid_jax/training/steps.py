"""One training step: a pure function of a state and a batch, jitted once by the loop."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from nid_jax.coding import operators
from nid_jax.coding.operators import Operator
from nid_jax.fields.model import Model
from nid_jax.training.seen import Seen

CHUNKS = ("random", "exhaustive")
# Beyond this many points a random chunk is drawn with repetition: a permutation of the grid would
# cost more than the step.
_PERMUTED_POINTS = 2**16
# Share of the old value in the running mean of |code|: about the last fifty steps count.
USAGE_DECAY = 0.98

Batch = dict[str, Any]
"""'signals' [B, *grid, C] or [B, P, C], 'ids' [B], and what a task adds: 'points', 'clouds'. Of
signals that were not measured alike 'weights' [B, P] and, where they differ, 'way', the operator of
all of the batch, or 'operators', one for each, see `batches`."""
Terms = dict[str, Float[Array, ""]]


class Window(NamedTuple):
    """Batches of several steps, of signals that lie on the device."""

    signals: Float[Array, "S *grid C"]
    """Of the whole collection."""
    ids: Int[Array, "N B"]
    """Numbers of each step's signals; rows after the first `number` are not read."""
    number: Int[Array, ""]
    """Steps to take."""

    def batch(self, at: int | Int[Array, ""]) -> Batch:
        """That of a step of the window."""
        ids = jax.lax.dynamic_index_in_dim(self.ids, at, keepdims=False)
        return {"ids": ids, "signals": self.signals[ids]}


@dataclasses.dataclass
class TrainState:
    """All that a step changes."""

    params: nnx.State
    """Trained variables of the model."""
    optimizer: optax.OptState
    step: Int[Array, ""]
    bad_step: Int[Array, ""]
    """The first step whose loss or gradient was not finite; -1: none."""
    usage: Float[Array, " E"]
    """[E], how much each expert is used: running mean of |code|."""


jax.tree_util.register_dataclass(
    TrainState, ["params", "optimizer", "step", "bad_step", "usage"], meta_fields=[]
)


class Strategy(Protocol):
    """Where the codes of a step come from and what it minimises; `strategies` has them."""

    def prepare(self, model: Model, batch: Batch, seen: Seen) -> Any:
        """What is done before the gradient, and without it: changes the model, or solves codes."""

    def loss(
        self,
        model: Model,
        prepared: Any,
        batch: Batch,
        seen: Seen,
        dense: bool,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], tuple[Terms, Float[Array, " E"]]]:
        """-> (loss, (terms, mean |code| [E])); prepared: what `prepare` gave."""


class Given(NamedTuple):
    """Arrays that a step reads and never changes."""

    constants: nnx.State
    """Variables of the model that are not trained."""
    operator: Operator | None
    """What measured the training signals; None where batches bring what did."""
    key: Key[Array, ""]
    """What all steps' random numbers come from."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step does, all that is known when it is compiled."""

    graphdef: nnx.GraphDef
    strategy: Strategy
    optimizer: optax.GradientTransformation
    points: int
    """Measurements that a step sees of every signal; 0: all."""
    chunks: str
    """How they are chosen: 'random', or 'exhaustive', all in turn."""
    dead_below: float
    """Share of the mean usage below which an expert counts as dead."""
    dense: bool
    """Whether codes are dense whatever the model's top_k: a warm-up."""


def train_step(
    recipe: Recipe, state: TrainState, batch: Batch, given: Given
) -> tuple[TrainState, Terms]:
    """One step on a batch: a pure function, jitted by the loop with its recipe bound.

    A step sees some measurements of the signals (`recipe.points`), or the points that the batch
    brings. One whose loss or gradient is not finite changes nothing but the counters.
    """
    key = jax.random.fold_in(given.key, state.step)
    seen = shown(batch, given.operator, _chosen(recipe, given, batch, state.step))
    model = nnx.merge(recipe.graphdef, state.params, given.constants, copy=True)
    prepared = recipe.strategy.prepare(model, batch, seen)
    params = nnx.state(model, nnx.Param)

    noise_key = jax.random.fold_in(key, 1)
    loss = jax.value_and_grad(_loss, has_aux=True)
    (value, (terms, used)), gradients = loss(
        params, recipe, given.constants, prepared, batch, seen, noise_key
    )
    norm = optax.tree.norm(gradients)
    good = jnp.isfinite(value) & jnp.isfinite(norm)
    new = _moved(recipe.optimizer, state, good, params, gradients, used)
    dead = (new.usage < recipe.dead_below * new.usage.mean()).sum()
    return new, {**terms, "gradient_norm": norm, "dead_experts": dead.astype(jnp.float32)}


def train_steps(
    recipe: Recipe, state: TrainState, window: Window, given: Given
) -> tuple[TrainState, Terms]:
    """The steps of a window, each as `train_step` takes it. -> terms [N], 0 after the last step.

    Their number is data, not shape: one program takes any, so that what a step gives does not
    depend on where a run was cut.
    """

    def one(at, carry):
        state, terms = carry
        state, found = train_step(recipe, state, window.batch(at), given)
        return state, jax.tree.map(lambda all_, value: all_.at[at].set(value), terms, found)

    def first(state):
        return train_step(recipe, state, window.batch(0), given)[1]

    shapes = jax.eval_shape(first, state)
    terms = jax.tree.map(lambda leaf: jnp.zeros(len(window.ids), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, window.number, one, (state, terms))


@jax.jit
def last_batch(window: Window) -> Batch:
    """The batch of a window's last step."""
    return window.batch(window.number - 1)


def _loss(
    params: nnx.State,
    recipe: Recipe,
    constants: nnx.State,
    prepared: PyTree,
    batch: Batch,
    seen: Seen,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], tuple[Terms, Float[Array, " E"]]]:
    """The strategy's loss of a model with these parameters. -> (loss, (terms, mean |code|))."""
    model = nnx.merge(recipe.graphdef, params, constants, copy=True)
    return recipe.strategy.loss(model, prepared, batch, seen, recipe.dense, key)


def _moved(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    good: Bool[Array, ""],
    params: nnx.State,
    gradients: nnx.State,
    used: Float[Array, " E"],
) -> TrainState:
    """The state after the optimiser's step from `params`, or as it was where it is not good."""

    def move():
        updates, moments = optimizer.update(gradients, state.optimizer, params)
        usage = USAGE_DECAY * state.usage + (1 - USAGE_DECAY) * used
        return optax.apply_updates(params, updates), moments, usage

    def stay():
        return state.params, state.optimizer, state.usage

    # A bad step changes nothing, so what is saved next is the last good state. A branch copies no
    # leaf, as a choice between old and new in each would.
    kept, moments, usage = jax.lax.cond(good, move, stay)
    first = (state.bad_step < 0) & ~good
    bad_step = jnp.where(first, state.step, state.bad_step)
    return TrainState(kept, moments, state.step + 1, bad_step, usage)


def _chosen(
    recipe: Recipe, given: Given, batch: Batch, step: Int[Array, ""]
) -> Int[Array, "*B m"] | None:
    """Which measurements a step sees, of every signal or, [B, m], each of its own; None: all."""
    if "weights" in batch:
        count = batch["weights"].shape[1]
    else:
        assert given.operator is not None, "batches of several ways have weights"
        count = given.operator.num_measurements
    size = min(recipe.points or count, count)
    if size == count:
        return None
    if recipe.chunks == "exhaustive":
        per_batch = -(-count // size)
        key = jax.random.fold_in(given.key, step // per_batch)
        return exhaustive_chunk(key, count, size, step % per_batch)
    key = jax.random.fold_in(jax.random.fold_in(given.key, step), 0)
    if "operators" in batch:
        return own_chunks(key, batch["weights"], size)
    return random_chunk(key, count, size)


def shown(
    batch: Batch, operator: Operator | None, chosen: Int[Array, "*B m"] | None = None
) -> Seen:
    """What a batch shows of its signals.

    A batch that brings 'points' [P, D] shows its signals there. Otherwise it shows what its
    operators measured, or `operator` of whole signals: the measurements `chosen` [m], or [B, m] of
    signals with operators of their own, or all.
    """
    signals = batch["signals"]
    if "points" in batch:
        return Seen(operators.Sample(batch["points"]), signals)
    operator = batch.get("way", batch.get("operators", operator))
    weights = batch.get("weights")
    targets = signals.reshape(len(signals), -1, signals.shape[-1])
    if weights is not None:
        targets = jnp.where(weights[..., None] > 0, targets, 0)
    return Seen(operator, targets, weights).of_measurements(chosen)


def random_chunk(key: Key[Array, ""], count: int, size: int) -> Int[Array, " size"]:
    """Indices [size] of a random chunk of `count` points; each point once where that is cheap."""
    if size >= count:
        return jnp.arange(count)
    if count > _PERMUTED_POINTS:
        return jax.random.randint(key, (size,), 0, count)
    return jax.random.permutation(key, count)[:size]


def own_chunks(
    key: Key[Array, ""], weights: Float[Array, "B P"], size: int
) -> Int[Array, "B size"]:
    """Indices [B, size] of a random chunk of each signal's own measurements, those with a weight,
    which stand first.

    Each once, where that is cheap; then a signal of fewer sees all, and some without weight.
    """
    if weights.shape[1] > _PERMUTED_POINTS:
        count = (weights > 0).sum(1, keepdims=True)
        return jax.random.randint(key, (len(weights), size), 0, count)
    order = jax.random.uniform(key, weights.shape) + (weights > 0)
    return jax.lax.top_k(order, size)[1]


def exhaustive_chunk(
    key: Key[Array, ""], count: int, size: int, number: int | Int[Array, ""]
) -> Int[Array, " size"]:
    """Chunk `number` of a random partition of `count` points; the last one is filled up anew."""
    if size >= count:
        return jnp.arange(count)
    order = jax.random.permutation(key, count)
    chunks = -(-count // size)
    order = jnp.concatenate([order, order[: chunks * size - count]])
    return jax.lax.dynamic_slice(order, (number * size,), (size,))


def chunks_per_batch(config: ConfigDict, count: int) -> int:
    """Steps that are taken on one batch: 1, or all its chunks under train.chunks=exhaustive."""
    if config.train.chunks not in CHUNKS:
        raise ValueError(
            f"train.chunks: {config.train.chunks!r} is unknown; allowed: {', '.join(CHUNKS)}"
        )
    if config.train.chunks == "random" or not config.train.points:
        return 1
    return -(-count // min(config.train.points, count))
