"""What training minimises: a data term, sparsity of the codes, and balanced use of the experts."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from nid_jax import errors
from nid_jax.coding import checks
from nid_jax.fields.routing import Gates, expert_weights, importance, load
from nid_jax.metrics.images import psnr_from_mse

DATA_TERMS = ("l2", "l1")


def data_term(
    prediction: Float[Array, "B P C"],
    target: Float[Array, "B P C"],
    kind: str = "l2",
    weights: Float[Array, "..."] | None = None,
) -> Float[Array, ""]:
    """Mean squared ('l2') or absolute ('l1') error over signals, points and channels: a scalar.

    prediction, target [B, P, C]; weights, broadcast to them, turn it into the weighted mean (0 if
    they are all zero), so that masked or padded points count for nothing. Raises ValueError for an
    unknown kind and for shapes that differ, which would broadcast in silence.
    """
    if kind not in DATA_TERMS:
        raise ValueError(f"loss.data: {kind!r} is unknown; allowed: {', '.join(DATA_TERMS)}")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
    difference = prediction - target
    error = jnp.square(difference) if kind == "l2" else jnp.abs(difference)
    if weights is None:
        return error.mean()
    weights = jnp.broadcast_to(weights, error.shape)
    total = weights.sum()
    return (error * weights).sum() / jnp.where(total > 0, total, 1)


def sparsity(values: Float[Array, "B E"], weights: Float[Array, " E"]) -> Float[Array, ""]:
    """Mean of weighted magnitudes over signals and experts: values [B, E], weights [E]."""
    return (jnp.abs(values) * weights).mean()


def cv_squared(x: Float[Array, " E"]) -> Float[Array, ""]:
    """Squared coefficient of variation, unbiased variance over squared mean: [E] -> scalar.

    Zero for a single entry. Shazeer et al. 2017, equation 7.
    """
    if x.shape[0] < 2:
        return jnp.zeros((), x.dtype)
    return jnp.var(x, ddof=1) / (jnp.square(x.mean()) + 1e-10)


def balance(
    gates: Gates, importance_kind: str = "magnitude", load_kind: str | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Unevenness of the use of experts: Gates -> (CV2 of importance, CV2 of load).

    load_kind None takes the smooth load where gating was noisy (it has a gradient) and the count of
    active experts otherwise. Shazeer et al. 2017, equations 7 and 11.
    """
    if load_kind is None:
        load_kind = "active" if gates.load is None else "smooth"
    return (
        cv_squared(importance(gates, importance_kind)),
        cv_squared(load(gates, load_kind)),
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    """The whole training loss: data term + l1 * sparsity + balance * (CV2 terms).

    The load enters for sparse codes only: dense ones are loaded evenly by definition. compat
    'official' makes the official PyTorch code's choices: importance sums signed values, load counts
    the positive ones, sparse codes have no sparsity term, and "psnr" is of whatever the data term
    is, so of the mean absolute error under l1. Raises ArgumentError, naming the field, for values
    outside those allowed.
    """

    data: str = "l2"
    l1: float = 0.0
    l1_base: float = 1.0
    balance: float = 0.0
    importance: str = "magnitude"
    compat: str = ""

    def __post_init__(self) -> None:
        checks.one_of("data", self.data, DATA_TERMS)
        checks.one_of("importance", self.importance, ("magnitude", "signed"))
        checks.one_of("compat", self.compat, ("", "official"))
        for name in ("l1", "balance"):
            checks.not_negative(name, getattr(self, name))
        checks.positive("l1_base", self.l1_base)

    @classmethod
    def from_config(cls, config_loss: ConfigDict) -> Self:
        """Objective from `config.loss`; keys it lacks keep their defaults. Raises ArgumentError
        naming the key."""
        names = [field.name for field in dataclasses.fields(cls)]
        given = {name: getattr(config_loss, name, None) for name in names}
        with errors.named("loss"):
            return cls(**{name: value for name, value in given.items() if value is not None})

    def __call__(
        self,
        prediction: Float[Array, "B P C"],
        target: Float[Array, "B P C"],
        gates: Gates,
        weights: Float[Array, "..."] | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Loss and its terms: prediction, target [B, P, C], Gates -> (scalar, dict of scalars).

        Terms: fit, psnr (dB), sparsity, cv_importance, cv_load, loss; all are reported, also those
        that do not enter the loss. `weights` as in `data_term`.
        """
        official = self.compat == "official"
        sparse = gates.indices is not None
        fit = data_term(prediction, target, self.data, weights)
        mean_squares = fit
        if self.data != "l2" and not official:
            mean_squares = data_term(prediction, target, "l2", weights)
        expert_costs = expert_weights(gates.values.shape[-1], self.l1_base)
        sparsity_term = sparsity(gates.values, expert_costs)
        importance_kind, load_kind = ("signed", "positive") if official else (self.importance, None)
        cv_importance, cv_load = balance(gates, importance_kind, load_kind)
        loss = fit
        # A weight of zero drops the term: zero times an overflow would not be zero.
        if self.l1 and not (official and sparse):
            loss = loss + self.l1 * sparsity_term
        if self.balance:
            loss = loss + self.balance * (cv_importance + cv_load if sparse else cv_importance)
        terms = {
            "fit": fit,
            "psnr": psnr_from_mse(mean_squares),
            "sparsity": sparsity_term,
            "cv_importance": cv_importance,
            "cv_load": cv_load,
            "loss": loss,
        }
        return loss, {name: jax.lax.stop_gradient(term) for name, term in terms.items()}


class SurfaceTerms(NamedTuple):
    """What a signed distance f lacks, each a scalar; their names are those of `SURFACE_WEIGHTS`."""

    on: Float[Array, ""]
    """Mean |f| on the surface."""
    off: Float[Array, ""]
    """Mean exp(-sharpness |f|) off it, where f must not vanish."""
    normal: Float[Array, ""]
    """Mean 1 - cos(grad f, normal) on the surface."""
    eikonal: Float[Array, ""]
    """Mean | |grad f| - 1 |."""

    def total(self, weights: Mapping[str, float] | None = None) -> Float[Array, ""]:
        """The weighted sum; weights: name -> number, None those of `SURFACE_WEIGHTS`."""
        weights = SURFACE_WEIGHTS if weights is None else weights
        # A weight of zero drops the term: zero times an overflow would not be zero.
        return sum(weights[name] * term for name, term in self._asdict().items() if weights[name])


SURFACE_WEIGHTS = {"on": 3000.0, "off": 100.0, "normal": 100.0, "eikonal": 50.0}
"""The official code's; Sitzmann et al. 2020, section 4.2, has the same terms."""


def surface_terms(
    values_on: Float[Array, "*S Q"],
    gradients_on: Float[Array, "*S Q D"],
    normals: Float[Array, "*S Q D"],
    values_off: Float[Array, "*S P"],
    gradients_off: Float[Array, "*S P D"] | None = None,
    sharpness: float = 100,
) -> SurfaceTerms:
    """Terms of a signed distance that only an oriented point cloud tells of. -> SurfaceTerms.

    values_on [..., Q], gradients_on and normals [..., Q, D]: on the surface; values_off [..., P]
    and gradients_off [..., P, D]: elsewhere. The eikonal term is over both kinds of points, or, as
    in the official code, over the surface alone where gradients_off is None. Normals need not be of
    unit length. Gropp et al. 2020, equations 2 and 3; Sitzmann et al. 2020, section 4.2. Raises
    ValueError for shapes that differ, which would broadcast in silence.
    """
    if gradients_on.shape != normals.shape or gradients_on.shape[:-1] != values_on.shape:
        raise ValueError(
            f"values {values_on.shape}, gradients {gradients_on.shape} and normals {normals.shape} "
            "on the surface do not fit together"
        )
    if gradients_off is not None and gradients_off.shape[:-1] != values_off.shape:
        raise ValueError(
            f"values {values_off.shape} and gradients {gradients_off.shape} off the surface do not "
            "fit together"
        )
    lengths = _length(gradients_on)
    along = (gradients_on * normals).sum(-1)
    # Where a vector has no length, its direction is as good as square to the other.
    cosine = along / jnp.maximum(lengths * _length(normals), 1e-8)
    departures = jnp.abs(lengths - 1).ravel()
    if gradients_off is not None:
        others = jnp.abs(_length(gradients_off) - 1).ravel()
        departures = jnp.concatenate([departures, others])
    return SurfaceTerms(
        on=jnp.abs(values_on).mean(),
        off=jnp.exp(-sharpness * jnp.abs(values_off)).mean(),
        normal=(1 - cosine).mean(),
        eikonal=departures.mean(),
    )


def _length(vectors: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Euclidean norm along the last axis, its gradient 0 where it is 0."""
    squares = jnp.square(vectors).sum(-1)
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))
