"""A Gaussian prior over codes: what the training codes say of the codes of new signals.

Sigma = (1 - shrinkage) covariance + shrinkage diag(covariance) is kept as factor factor^T +
diagonal: positive definite whatever the rounding, and small where training codes are few.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from nid_jax.coding import checks
from nid_jax.errors import ArgumentError

if TYPE_CHECKING:
    from nid_jax.coding.drawing import Level
    from nid_jax.coding.mixture import Mixture

SHRINKAGES = tuple(float(10.0**power) for power in np.arange(-6, -0.1, 0.5))
"""What held-out likelihood chooses from."""

# Variances below this share of the mean one are lifted to it: an expert that no training signal
# used is not known to be useless to the next one.
_LEAST_VARIANCE = 1e-8


class GaussianPrior(NamedTuple):
    """Mean and covariance of codes, factor factor^T + diag(diagonal).

    N = E, or E + C with the bias. mean [N]; factor [N, R], R = 0 where the covariance is diagonal,
    as of canonical codes; diagonal [N], positive; noise []: mean squared residual of the training
    signals, the default noise variance (0 where not known); shrinkage []: the share used. codes [S,
    E] or None: the training codes themselves, for priors of neighbours. mixture: `mixture.Mixture`
    or None: where more than one Gaussian is known. level: `drawing.Level` or None: the bias of a
    code.
    """

    mean: jax.Array
    factor: jax.Array
    diagonal: jax.Array
    noise: jax.Array
    shrinkage: jax.Array
    codes: Float[Array | np.ndarray, "S E"] | None = None
    mixture: "Mixture | None" = None
    level: "Level | None" = None

    def first(self, count: int) -> "GaussianPrior":
        """The Gaussian of the first `count` coefficients, the others left out."""
        codes = None if self.codes is None else self.codes[:, :count]
        mean, factor, diagonal = (a[:count] for a in (self.mean, self.factor, self.diagonal))
        mixture = None if self.mixture is None else self.mixture.first(count)
        level = self.level
        if level is not None:
            root = np.asarray(self.factor, np.float64)
            covariance = root @ root.T + np.diag(np.asarray(self.diagonal, np.float64))
            level = level.first(count, covariance)
        return self._replace(
            mean=mean, factor=factor, diagonal=diagonal, codes=codes, mixture=mixture, level=level
        )

    @classmethod
    def single(cls, *parts: ArrayLike) -> "GaussianPrior":
        """One Gaussian of mean, factor, diagonal, noise and shrinkage, rounded to float32."""
        mean, factor, diagonal, noise, shrinkage = (
            jnp.asarray(np.asarray(part, np.float32)) for part in parts
        )
        return cls(mean, factor, diagonal, noise, shrinkage)

    @property
    def variance(self) -> Float[Array | np.ndarray, " N"]:
        """Of every coefficient by itself."""
        return (self.factor**2).sum(1) + self.diagonal

    def energies(self) -> Float[Array | np.ndarray, " N"]:
        """Mean square of every coefficient: of the training codes, where they are kept."""
        if self.codes is None:
            return self.variance + self.mean**2
        return (self.codes**2).mean(0)

    def middle(
        self, experts: int
    ) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " C"]] | None:
        """The mean code and bias of the training signals; None where the bias is not known.

        experts: E, of a dictionary that may be the first atoms of the prior's own.
        """
        if self.level is None:
            return None
        return np.asarray(self.mean)[:experts], np.asarray(self.level.mean)

    def kept(
        self, experts: int, most: int
    ) -> tuple[Float[np.ndarray, "S E"], Float[np.ndarray, "S C"]] | None:
        """Codes and the likeliest biases of training signals, `most` of them spread over all; None
        where codes were not kept, or the bias is not known. experts: as for `middle`."""
        found = self.middle(experts)
        if found is None or self.codes is None or self.level is None:
            return None
        code, bias = found
        total = len(self.codes)
        chosen = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
        codes = np.asarray(self.codes)[chosen, :experts]
        return codes, bias + (codes - code) @ np.asarray(self.level.slope)[:experts]

    def alone(self) -> "GaussianPrior":
        """The one Gaussian of all training codes, without all that lies beside it."""
        return self._replace(codes=None, mixture=None, level=None)

    def with_level(self) -> "GaussianPrior":
        """The one Gaussian of codes and biases together, N = E + C, as `level` knows these.

        Raises ArgumentError for a prior without.
        """
        level = self.level
        if level is None:
            allowed = "that which learning leaves beside a prior; learn anew, or level=False"
            raise ArgumentError("prior.level", None, allowed)
        slope, own = jnp.asarray(level.slope), jnp.asarray(level.factor)
        codes = jnp.concatenate([self.factor, jnp.diag(jnp.sqrt(self.diagonal))], 1)
        rows = [
            jnp.pad(codes, ((0, 0), (0, own.shape[1]))),
            jnp.concatenate([slope.T @ codes, own], 1),
        ]
        factor = jnp.concatenate(rows)
        # Positive definite where a bias is known from its code.
        diagonal = _LEAST_VARIANCE * jnp.square(factor).sum(1)
        mean = jnp.concatenate([self.mean, jnp.asarray(level.mean)])
        return self.alone()._replace(mean=mean, factor=factor, diagonal=diagonal)

    def component(self, number: int) -> "GaussianPrior":
        """One Gaussian of the mixture, by itself."""
        mixture = self.mixture
        assert mixture is not None, "asked of a prior that has one"
        factor = jnp.concatenate(
            [jnp.asarray(mixture.directions(number)), jnp.asarray(mixture.common)], 1
        )
        # Positive definite where the components are not.
        diagonal = _LEAST_VARIANCE * self.diagonal
        mean = jnp.asarray(mixture.mean + mixture.basis @ mixture.offsets[number])
        return self.alone()._replace(mean=mean, factor=factor, diagonal=diagonal)

    def arrays(self) -> dict[str, Any]:
        """Its arrays by name, those of a part as PART.NAME: what a file holds.

        The components' rows [K, R, Q] are `mixture.factors` [K, Q, R] there. Without the basis of a
        mixture in the leading coordinates themselves, `mixture.basis`: the identity says nothing.
        """
        held: dict[str, Any] = {}
        for name, value in self._asdict().items():
            if isinstance(value, tuple):
                held |= {f"{name}.{key}": one for key, one in value._asdict().items()}  # type: ignore[attr-defined]
            elif value is not None:
                held[name] = value
        if self.mixture is not None:
            held["mixture.factors"] = held.pop("mixture.rows").swapaxes(1, 2)
        basis = held.get("mixture.basis")
        if basis is not None and _leading(basis):
            del held["mixture.basis"]
        return held


def _leading(basis):
    """Whether a basis [N, Q] is that of the first Q of N coordinates."""
    return basis.shape[0] >= basis.shape[1] and np.array_equal(basis, np.eye(*basis.shape))


class Coded(NamedTuple):
    """Signals by their codes: what a prior learns from.

    codes [S, E]; bias [S, C]; residual [S], mean squared per value; names of the signals.
    """

    codes: Float[np.ndarray, "S E"]
    bias: Float[np.ndarray, "S C"]
    residual: Float[np.ndarray, " S"]
    names: list[str]


def fit_prior(
    codes: Float[Array | np.ndarray, "S E"],
    bias: Float[Array | np.ndarray, "S C"] | None = None,
    residual: Float[Array | np.ndarray, " S"] | None = None,
    shrinkage: float | None = None,
    groups: Int[np.ndarray, " S"] | None = None,
    folds: int = 5,
) -> GaussianPrior:
    """The Gaussian prior of training codes.

    Args:
      codes: [S, E].
      bias: [S, C], taken as further coefficients; None leaves the bias of a new signal free.
      residual: [S], mean squared residuals of the training signals, for the default noise.
      shrinkage: in (0, 1], or None for the value of highest held-out likelihood.
      groups: int [S]; signals of one group (a picture and its shifted copies) are held out
        together. None: all signals are independent.
      folds: parts held out in turn, each every so many-th group in the order of their numbers: no
        seed, so that the same codes always have the same prior.

    Raises:
      ArgumentError: no codes, codes that are not finite, shapes that differ, or shrinkage outside.
    """
    values = _checked_values(codes, bias)
    count = len(values)
    if shrinkage is None:
        shrinkage = choose_shrinkage(values, groups, folds)
    checks.share("shrinkage", shrinkage)
    mean = values.mean(0)
    centred = (values - mean) / math.sqrt(count)
    variance = _lifted(np.square(centred).sum(0), mean)
    if count > values.shape[1]:
        # No more columns than coefficients are needed for the same covariance.
        eigenvalues, axes = _principal_axes(centred)
        centred = np.sqrt(eigenvalues)[:, None] * axes
    parts = (mean, math.sqrt(1 - shrinkage) * centred.T, shrinkage * variance)
    noise = 0.0 if residual is None else float(np.mean(residual))
    return GaussianPrior.single(*parts, noise, shrinkage)


def _checked_values(codes, bias):
    codes = np.asarray(codes, np.float64)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ArgumentError("codes", codes.shape, "(signals, experts), 1 or more")
    if bias is not None:
        bias = np.asarray(bias, np.float64)
        if bias.ndim != 2 or len(bias) != len(codes):
            raise ArgumentError("bias", bias.shape, f"({len(codes)}, channels)")
        codes = np.concatenate([codes, bias], 1)
    if not np.isfinite(codes).all():
        raise ArgumentError("codes", "NaN or infinity", "finite numbers")
    return codes


def _principal_axes(centred):
    """Eigenvalues [R] and eigenvectors [R, N] of centred^T centred; centred [S, N]."""
    if len(centred) <= centred.shape[1]:
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        return singular**2, axes
    # Many more rows than columns: the small matrix is far cheaper than the tall one.
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred)
    return np.maximum(eigenvalues, 0), vectors.T


def _lifted(variance, mean):
    typical = variance.mean() or np.square(mean).mean() or 1.0
    return np.maximum(variance, _LEAST_VARIANCE * typical)


def choose_shrinkage(
    values: Float[np.ndarray, "S N"],
    groups: Int[np.ndarray, " S"] | None = None,
    folds: int = 5,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> float:
    """The shrinkage of highest held-out Gaussian likelihood. values [S, N] -> float.

    groups and folds as in `fit_prior`. With fewer than 2 groups nothing can be held out: 0.1.
    """
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    if groups.shape != (len(values),):
        raise ArgumentError("groups", groups.shape, f"({len(values)},)")
    _, group = np.unique(groups, return_inverse=True)
    folds = min(folds, group.max() + 1)
    if folds < 2:
        return 0.1
    total = np.zeros(len(shrinkages))
    for fold in range(folds):
        held_out = group % folds == fold
        total += _log_likelihood(values[~held_out], values[held_out], shrinkages)
    return shrinkages[int(np.argmax(total))]


def _log_likelihood(train, test, shrinkages):
    """Of test [T, N] under the shrunk Gaussian of train [S, N], for every shrinkage [L]."""
    mean = train.mean(0)
    deviation = np.sqrt(_lifted(train.var(0), mean))
    centred = (train - mean) / deviation / math.sqrt(len(train))
    eigenvalues, axes = _principal_axes(centred)
    test = (test - mean) / deviation
    inside = np.square(test @ axes.T)
    outside = np.maximum(np.square(test).sum(1) - inside.sum(1), 0)
    free = test.shape[1] - len(eigenvalues)
    scores = []
    for shrinkage in shrinkages:
        variance = (1 - shrinkage) * eigenvalues + shrinkage
        quadratic = (inside / variance).sum() + outside.sum() / shrinkage
        log_determinant = np.log(variance).sum() + free * math.log(shrinkage)
        scores.append(-0.5 * (quadratic + len(test) * log_determinant))
    return np.array(scores)


def check_size(prior: GaussianPrior, experts: int, channels: int) -> None:
    """Raise ArgumentError unless a prior is one of so many experts, with or without the bias."""
    size = prior.mean.shape[0]
    if size not in (experts, experts + channels):
        raise ArgumentError(
            "prior",
            f"{size} coefficients",
            f"{experts} or {experts + channels}; this dictionary has {experts} experts and "
            f"{channels} channels",
        )
