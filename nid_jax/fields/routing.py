"""Routers, which predict the code of a signal, and top-k gating, which makes it sparse.

A router gives every signal one logit per expert and one bias per channel. Gating keeps the K
logits of largest magnitude as they are, signed and without a softmax: they are the code.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from nid_jax.errors import ArgumentError
from nid_jax.fields.variables import Code, RouterParam

# Noise starts small beside logits of order one and never reaches zero, which the load divides by.
NOISE_START = 0.1
NOISE_FLOOR = 1e-3


class Gates(NamedTuple):
    """Signed codes of B signals, dense and, where they are sparse, also as a list of K experts."""

    values: Float[Array, "B E"]
    """[B, E], zero where an expert is not active."""
    indices: Int[Array, "B K"] | None
    """[B, K] int32, by falling magnitude; None for dense codes."""
    weights: Float[Array, "B K"] | None
    """[B, K], `values` at `indices`; None for dense codes."""
    bias: Float[Array, "B C"]
    """[B, C], added to every point."""
    load: Float[Array, "B E"] | None = None
    """[B, E], smooth probability of being active; None without noise."""


class Routed(NamedTuple):
    """What a router says of B signals before gating."""

    logits: Float[Array, "B E"]
    """[B, E]."""
    bias: Float[Array, "B C"]
    """[B, C]."""
    noise_scale: Float[Array, "B E"] | None
    """[B, E], standard deviation of the gating noise; None where the router has none."""


def check_top_k(top_k: int | None, num_experts: int) -> int | None:
    """Number of active experts, or None for dense codes.

    Raises ValueError unless `top_k` is None, 0 (both: dense) or 1 to `num_experts`.
    """
    top_k = 0 if top_k is None else int(top_k)
    if not 0 <= top_k <= num_experts:
        raise ValueError(
            f"router.top_k: {top_k} does not fit dictionary.num_experts = {num_experts}; "
            f"allowed: 0 (dense) to {num_experts}"
        )
    return top_k or None


def gate(
    logits: Float[Array, "B E"],
    bias: Float[Array, "B C"],
    top_k: int | None = None,
    *,
    noise_scale: Float[Array, "B E"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Gates:
    """Codes from logits: dense, or the `top_k` of largest magnitude with their signs.

    logits [B, E], bias [B, C]; noise_scale [B, E] with a `key` adds Gaussian noise to the logits
    before the choice and fills `load` (Shazeer et al. 2017, appendix A). Without a key, as in
    evaluation, or without a choice there is no noise. Gradients reach the kept logits only. Raises
    ValueError unless top_k is None, 0 (both: dense) or 1 to E.
    """
    top_k = check_top_k(top_k, logits.shape[-1])
    if top_k is None:
        return Gates(logits, None, None, bias, None)
    noisy = logits
    if noise_scale is not None and key is not None:
        noisy = logits + noise_scale * jax.random.normal(key, logits.shape, logits.dtype)
    magnitudes = jnp.abs(noisy)
    indices = largest(jax.lax.stop_gradient(magnitudes), top_k)
    rows = jnp.arange(logits.shape[0])[:, None]
    kept = jnp.zeros(logits.shape, bool).at[rows, indices].set(True)
    values = jnp.where(kept, noisy, 0)
    weights = jnp.take_along_axis(noisy, indices, axis=-1)
    load = None
    if noise_scale is not None and key is not None:
        load = selection_probability(logits, noise_scale, magnitudes, kept, top_k)
    return Gates(values, indices, weights, bias, load)


def largest(sizes: Float[Array, "B E"], count: int) -> Int[Array, "B K"]:
    """Places of the `count` largest numbers of every row, by size; of equal ones the first.

    On the mesh of `jax.set_mesh`, where rows are split along 'data' and experts along 'expert',
    every part finds its own, and the largest of these are taken: parts x K numbers of a row travel
    instead of all rows and experts, as `jax.lax.top_k` alone has it.
    """
    mesh, rows, experts = jax.sharding.get_abstract_mesh(), *sizes.shape
    parts = dict(mesh.shape).get("expert", 1)
    each = -(-experts // parts)
    if mesh.empty or mesh.size == 1 or count >= each:
        return jax.lax.top_k(sizes, count)[1]
    more = -rows % mesh.shape["data"], parts * each - experts
    filled = jnp.pad(sizes, [(0, number) for number in more], constant_values=-jnp.inf)

    def own(part):
        values, places = jax.lax.top_k(part, count)
        places = places + each * jax.lax.axis_index("expert")
        # Parts in order, each by size with equal ones in order: the first of equal ones is first.
        both = values, places
        values, places = (jax.lax.all_gather(x, "expert", axis=1, tiled=True) for x in both)
        return jnp.take_along_axis(places, jax.lax.top_k(values, count)[1], 1)

    split, whole = PartitionSpec("data", "expert"), PartitionSpec("data", None)
    found = jax.shard_map(own, in_specs=split, out_specs=whole, check_vma=False)(filled)
    return found[:rows]


def selection_probability(
    logits: Float[Array, "B E"],
    scale: Float[Array, "B E"],
    magnitudes: Float[Array, "B E"],
    kept: Bool[Array, "B E"],
    top_k: int,
) -> Float[Array, "B E"]:
    """Probability that each expert is kept if its own noise were drawn again, the rest unchanged.

    logits, scale, magnitudes (of the noisy logits) [B, E], kept bool [B, E] -> [B, E]. Expert i is
    kept when |l + s eps| exceeds the K-th largest of the other magnitudes, t; that has probability
    Phi((l - t) / s) + Phi((-l - t) / s): Shazeer et al. 2017, equation 9, for a choice by
    magnitude.
    """
    if top_k == logits.shape[-1]:
        return jnp.ones_like(logits)
    largest, _ = jax.lax.top_k(magnitudes, top_k + 1)
    threshold = jnp.where(kept, largest[:, top_k : top_k + 1], largest[:, top_k - 1 : top_k])
    cdf = jax.scipy.special.ndtr
    return cdf((logits - threshold) / scale) + cdf((-logits - threshold) / scale)


def importance(gates: Gates, kind: str = "magnitude") -> Float[Array, " E"]:
    """How much each expert is used by a batch: Gates -> [E], summed over the signals.

    'magnitude' sums |value|. 'signed' sums the signed values, as the official code does; their sum
    is near zero for any balanced code, so its relative variance is ill conditioned.
    """
    if kind == "magnitude":
        return jnp.abs(gates.values).sum(0)
    if kind == "signed":
        return gates.values.sum(0)
    raise ValueError(f"loss.importance: {kind!r} is unknown; allowed: magnitude, signed")


def load(gates: Gates, kind: str = "active") -> Float[Array, " E"]:
    """Number of signals of a batch that use each expert: Gates -> [E].

    'active' counts values other than zero and 'positive' those above zero (as the official code
    does); both are without gradient. 'smooth' sums the probabilities of noisy gating.
    """
    if kind == "active":
        return (gates.values != 0).sum(0).astype(gates.values.dtype)
    if kind == "positive":
        return (gates.values > 0).sum(0).astype(gates.values.dtype)
    if kind == "smooth":
        if gates.load is None:
            raise ValueError("load: 'smooth' needs noisy gating (router.noise and router.top_k)")
        return gates.load.sum(0)
    raise ValueError(f"load: {kind!r} is unknown; allowed: active, positive, smooth")


def expert_weights(num_experts: int, base: float = 1.0, cap: float = 1e4) -> Float32[Array, " E"]:
    """L1 weights base**(-e) of experts e = 0 .. E-1, none above `cap`: float32 [E], finite.

    A base below 1 makes every further expert dearer than the one before it, so that signals are
    explained by the first few: a soft bound on the rank of the codes. Uncapped, base 0.5 overflows
    at expert 128. The cap changes nothing of the meaning: an expert 1e4 times as dear as the first
    stays off already, dearer ones need no order among themselves, and below the cap the weights
    are exactly those of the power. A base above 1 favours the last experts. Raises ValueError
    unless base and cap are positive and finite.
    """
    if not (base > 0 and math.isfinite(base)):
        raise ArgumentError("base", base, "a finite number above 0")
    if not (cap > 0 and math.isfinite(cap)):
        raise ArgumentError("cap", cap, "a finite number above 0")
    # In logs, because the power itself overflows before it could be capped.
    logs = np.minimum(-np.arange(num_experts) * math.log(base), math.log(cap))
    return jnp.asarray(np.exp(logs), jnp.float32)


def softplus_inverse(y: float) -> float:
    """What softplus makes y of. y: above 0."""
    return math.log(math.expm1(y))


def positive_noise(raw: Float[Array, "..."]) -> Float[Array, "..."]:
    """Scale of the gating noise from a network's or a codebook's own number for it."""
    return jax.nn.softplus(raw) + NOISE_FLOOR


class Router(nnx.Module):
    """What all routers share: codes of signals by row number (`ids`), by content, or both."""

    reads = "signals"
    """What of a batch a router looks at: 'signals' on their grid, or 'clouds' of points."""

    def __call__(
        self,
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
    ) -> tuple[Float[Array, "B E"], Float[Array, "B C"]]:
        """Ids [B] int32 or None, signals [B, *grid, C] or None -> logits [B, E], bias [B, C]."""
        routed = self.route(ids, signals)
        return routed.logits, routed.bias

    def route(
        self,
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
    ) -> Routed:
        """As a call, and the scale of the gating noise with it: -> Routed."""
        raise NotImplementedError

    def gates(
        self,
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
        top_k: int | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Gates:
        """Route and gate in one: -> Gates. A `key` switches the router's noise on."""
        logits, bias, noise_scale = self.route(ids, signals)
        return gate(logits, bias, top_k, noise_scale=noise_scale, key=key)

    @property
    def affine(self) -> bool:
        """Whether it can be any affine map of the signal: `take_affine` then makes it one."""
        return False

    def take_affine(
        self, kernel: Float[Array, "P C E"], bias_kernel: Float[Array, "P C C"]
    ) -> None:
        """Predict the codes y . kernel and the bias y . bias_kernel of signals y [*grid, C]."""
        raise NotImplementedError

    def prepare(self, ids: Int[Array, " B"]) -> None:
        """What must happen to stored codes before `ids` [B] are looked up in a training step.

        Call it outside of the differentiated function. Networks store nothing: no effect.
        """


class Codebook(Router):
    """A table with one free code for every signal of the training set.

    codes [N, E] and bias [N, C] are two arrays so that codes can be laid along experts. With
    max_norm > 0 a row (codes and bias together) that is longer is scaled back when `prepare` looks
    it up, and stays so: the gradient is that of the scaled row. Noise has one learned scale per
    expert, shared by all rows: a scale per row would double the table and outlive no signal.

    `scale` is the standard deviation of the first codes; 0 picks 1 under a max-norm (rows of
    exactly that length) and 1 / sqrt(E + C) without one (rows of length about 1).
    """

    def __init__(
        self,
        num_signals: int,
        num_experts: int,
        channels: int,
        max_norm: float = 0.0,
        scale: float = 0.0,
        noise: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        if num_signals < 1:
            raise ValueError(f"router.kind: codebook needs at least 1 signal, got {num_signals}")
        for name, value in (("max_norm", max_norm), ("scale", scale)):
            if not 0 <= value < math.inf:
                raise ArgumentError(name, value, "finite, 0 or more")
        self.num_experts = num_experts
        self.channels = channels
        self.max_norm = float(max_norm)
        width = num_experts + channels
        scale = scale or (1.0 if max_norm else 1.0 / math.sqrt(width))
        table = scale * jax.random.normal(rngs.params(), (num_signals, width), jnp.float32)
        table = _cap_rows(table, self.max_norm)
        self.codes = Code(table[:, :num_experts], axes=(None, "expert"))
        self.bias = Code(table[:, num_experts:])
        start = jnp.full((num_experts,), softplus_inverse(NOISE_START), jnp.float32)
        self.noise = RouterParam(start) if noise else None

    def route(
        self,
        ids: Int[Array, " B"] | None = None,
        signals: Float[Array, "B ..."] | None = None,
    ) -> Routed:
        """Ids [B] -> Routed. An id out of range gives NaN, never another signal's code."""
        if ids is None:
            raise ValueError("router.kind: codebook looks signals up by id; ids are missing")
        logits = jnp.take(self.codes[...], ids, axis=0)
        bias = jnp.take(self.bias[...], ids, axis=0)
        scale = None
        if self.noise is not None:
            scale = jnp.broadcast_to(positive_noise(self.noise[...]), logits.shape)
        return Routed(logits, bias, scale)

    def prepare(self, ids: Int[Array, " B"]) -> None:
        """Scale the rows `ids` [B] back to the max-norm, in the table. Repeated ids are fine."""
        if not self.max_norm:
            return
        logits, bias = self(ids)
        rows = _cap_rows(jnp.concatenate([logits, bias], -1), self.max_norm)
        self.codes[...] = self.codes[...].at[ids].set(rows[:, : self.num_experts])
        self.bias[...] = self.bias[...].at[ids].set(rows[:, self.num_experts :])


def _cap_rows(rows: Float[Array, "N F"], max_norm: float) -> Float[Array, "N F"]:
    """Rows [N, F] with those longer than max_norm (if any) scaled to max_norm n / (n + 1e-7)."""
    if not max_norm:
        return rows
    norms = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    return jnp.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)), rows)
