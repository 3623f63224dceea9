"""How sure a rendered signal is: the spread of what the codes may be, given the measurements.

What measurements leave open of codes is kept as rows r, whose squares sum up to the covariance, so
the variance at a point x is the sum of (r . atoms(x))^2. Points are taken chunk by chunk, and their
atoms once for many signals. Of a shared dictionary the rows may be folded through the heads, as
codes are: then a point pays for features, not for experts.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nid_jax import numerics
from nid_jax.coding import gram, mixture_codes
from nid_jax.coding.orthonormal import OrthonormalEquations
from nid_jax.coding.posterior import (
    extended,
    precision_matrix,
    resolve_noise,
    scaled_rows,
    solve_posterior,
)
from nid_jax.coding.prior import GaussianPrior
from nid_jax.fields.dictionary import Dictionary

# Numbers of the rows of signals with matrices of their own that are held at a time.
_ROW_NUMBERS = 2**24


class Open(NamedTuple):
    """What measurements of one matrix leave open of S signals.

    The variance of a signal is constant [] and the sum of squares of what rows render: of rows that
    all share, root [J, E] and level [J, C] times weights [S, J], and of rows of its own, own_root
    [S, K, E] and own_level [S, K, C]. A row renders root . atoms(x) + level.
    """

    root: jax.Array
    level: jax.Array
    weights: jax.Array
    own_root: jax.Array
    own_level: jax.Array
    constant: jax.Array


def posterior_variance(
    dictionary: Dictionary,
    x: Float[Array | np.ndarray, "P D"],
    equations: gram.NormalEquations | OrthonormalEquations,
    prior: GaussianPrior,
    noise: float | str | Float[Array, ""] | None = None,
    chunk: int = 1024,
) -> Float[Array, "S P C"]:
    """Variance of the rendered signal at points, given the measurements: where a render is unsure.

    x [P, D] -> [S, P, C], or [1, P, C] where all signals are measured alike. noise as in
    `gaussian`. With a prior that leaves the bias free, the bias is taken at its best for each code,
    and the variance of the measured mean itself is added. chunk: points at a time.

    With a mixture, always [S, P, C]: that within the components and that between them, each
    weighed by its evidence. No gradient flows through it.
    """
    variance, _ = resolve_noise(equations, prior.alone(), noise)
    known = prior._replace(codes=None, level=None)
    graphdef, state = nnx.split(dictionary)
    x = jnp.asarray(x, jnp.float32)
    return _variance(graphdef, state, x, equations, known, variance, chunk=chunk)


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk"))
def _variance(graphdef, state, x, equations, prior, noise, chunk):
    state, equations, prior = jax.lax.stop_gradient((state, equations, prior))
    dictionary = nnx.merge(graphdef, state)
    if equations.shared:
        found = _open(equations, prior, noise)
        group = jax.tree.map(lambda leaf: leaf[None], found)
        return _at(dictionary, x, group, chunk)[0]
    signals = len(equations.target_mean)
    shapes = jax.eval_shape(lambda: _open(_one(equations, 0), prior, noise))
    size = numerics.even_size(signals, max(1, _ROW_NUMBERS // shapes.root.size))

    def some(numbers):
        every = jax.lax.map(lambda number: _open(_one(equations, number), prior, noise), numbers)
        return _at(dictionary, x, every, chunk)[:, 0]

    numbers = numerics.cut(jnp.arange(signals), size)
    return numerics.joined(jax.lax.map(some, numbers), signals)


def _one(equations, number):
    """The equations of one signal, of whose own matrix they are."""
    shared = ("projected", "rest", "target_mean", "moments", "energy", "moments_low")
    parts = {}
    for name, leaf in equations._asdict().items():
        if leaf is not None:
            parts[name] = leaf[number][None] if name in shared else leaf[number]
    return equations._replace(**parts)


def _at(dictionary, x, every, chunk):
    """Variances [G, S, P, C] at points of what is `Open` in G matrices, stacked."""
    groups, rows, experts = every.root.shape
    points, features = len(x), dictionary.num_features if gram.is_shared(dictionary) else 0
    atoms = points * experts * (features + groups * rows)
    folded = groups * rows * features * (experts + points)
    fold = gram.is_shared(dictionary) and folded < atoms
    if fold:
        heads = dictionary.heads()
        every = jax.lax.map(lambda one: _folded(one, heads), every)

    def piece(points):
        values = dictionary.features(points) if fold else dictionary.basis(points)

        def rendered(root, level):
            """[.., J, C, p]."""
            if fold:
                return numerics.einsum("pf,...jfc->...jcp", values, root) + level[..., None]
            return numerics.einsum("pec,...je->...jcp", values, root) + level[..., None]

        def one(found):
            shared = jnp.square(rendered(found.root, found.level))
            own = jnp.square(rendered(found.own_root, found.own_level)).sum(1)
            within = numerics.einsum("sj,jcp->spc", found.weights, shared)
            return within + own.swapaxes(1, 2) + found.constant

        return jax.lax.map(one, every)

    pieces = numerics.cut(x, numerics.even_size(points, chunk))
    # [N, G, S, p, C] with points in front of the rest.
    found = jnp.moveaxis(jax.lax.map(piece, pieces), 3, 1)
    return jnp.moveaxis(numerics.joined(found, points), 0, 2)


def _folded(found, heads):
    """The same with rows of features [.., F, C], what they add to heads' biases in the level."""

    def through(root, level):
        rows = numerics.einsum("...je,fec->...jfc", root, heads)
        return rows[..., :-1, :], level + rows[..., -1, :]

    root, level = through(found.root, found.level)
    own_root, own_level = through(found.own_root, found.own_level)
    return found._replace(root=root, level=level, own_root=own_root, own_level=own_level)


def _open(equations, prior, noise) -> Open:
    """Of equations of one matrix, which all signals share."""
    experts = equations.atom_mean.shape[0]
    if prior.mixture is not None:
        parts = _components(equations, prior, noise)
        shares = parts.shares
        mean = numerics.einsum("sk,ske->se", shares, parts.codes)
        own = jnp.sqrt(shares)[..., None] * (parts.codes - mean[:, None])
        root = jnp.concatenate([parts.common, parts.rows.reshape(-1, experts)])
        ones = jnp.ones((len(own), len(parts.common)), shares.dtype)
        weights = jnp.concatenate([ones, jnp.repeat(shares, parts.rows.shape[1], axis=1)], 1)
    else:
        root = _posterior_root(equations, prior, noise)
        weights, own = jnp.ones((1, len(root))), jnp.zeros((1, 0, experts))
    if root.shape[1] > experts:
        level, constant = root[:, experts:], jnp.float32(0)
    else:
        # The best bias follows the code, and is as unsure as the measured mean.
        level = -numerics.einsum("je,ec->jc", root, equations.atom_mean)
        constant = noise / equations.bias_weight
    own_level = -numerics.einsum("ske,ec->skc", own, equations.atom_mean)
    return Open(root[:, :experts], level, weights, own, own_level, constant)


def _components(equations, prior, noise) -> mixture_codes.Components:
    if isinstance(equations, OrthonormalEquations):
        return mixture_codes.components(equations, prior, noise)
    weights = prior.mixture.weights
    parts = [prior.component(number) for number in range(len(weights))]
    found = [solve_posterior(equations, part, noise) for part in parts]
    shares = mixture_codes.shares_of(found, weights, mixture_codes.values_of(equations))
    rows = jnp.stack([_posterior_root(equations, part, noise) for part in parts])
    codes = jnp.stack([one.codes for one in found], 1)
    return mixture_codes.Components(shares, codes, jnp.zeros((0, codes.shape[-1])), rows)


@gram.batched_by_map
def _posterior_root(equations, prior, noise):
    """A matrix R [N, N] with R^T R the covariance of the coefficients after measuring."""
    if isinstance(equations, OrthonormalEquations):
        scaled, _, directions = scaled_rows(equations, prior)
        return jnp.linalg.qr(mixture_codes.left_open(scaled, directions, noise), mode="r")
    return gram.in_float64(_normal_root, equations, prior, jnp.asarray(noise, jnp.float32))


def _normal_root(equations, prior, noise):
    """`_posterior_root` by normal equations, in the widest type of the scope."""
    matrix, _, _ = extended(equations, prior.mean.shape[0])
    noise = gram.wide(noise)[0]
    system = matrix / noise + precision_matrix(prior)[0]
    zero = jnp.zeros(system.shape[:-2], system.dtype)
    factor, scale, _, _ = numerics.scaled_cholesky(system, zero)
    identity = jnp.eye(len(system), dtype=system.dtype)
    root = jax.lax.linalg.triangular_solve(factor, identity, left_side=True, lower=True)
    return (root * scale).astype(jnp.float32)
