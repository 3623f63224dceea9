"""Exact samples from the spectral density of stationary kernels (Bochner's theorem).

A stationary positive definite kernel k with k(0) = 1 is the characteristic function of its
spectral density: E[cos(w . d)] = k(d). Random features drawn here therefore need no Markov chain
and no table. With r = |d| / length_scale, d in D dimensions, and `shape` the last column:

    gaussian             exp(-r^2 / 2)                                         -
    laplacian            prod_j exp(-|d_j| / length_scale)                     -
    exponential          exp(-r)                                               -
    matern               2^(1-nu) / Gamma(nu) z^nu K_nu(z), z = sqrt(2 nu) r   nu > 0       (1.5)
    gamma_exponential    exp(-r^gamma)                                         0 < gamma <= 2 (1.5)
    rational_quadratic   (1 + r^2 / (2 alpha))^-alpha                          alpha > 0    (1)
    compact_polynomial   max(1 - r, 0)^power, the kernel of Askey              power >= floor(D/2)+1
                                                                              (floor(D/2)+1), D <= 3

Rahimi & Recht 2007 (random features); Kanter 1975 (positive stable variables); Askey 1973 and
Gneiting 1999 (compact kernels as scale mixtures of Euclid's hat).
"""

import difflib
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

MAX_FREQUENCY = 2.0**15
"""Largest frequency drawn, radians per unit of a coordinate, on each axis.

Heavy tails reach frequencies whose phase float32 cannot hold. A component above the bound (2.5
times the Nyquist frequency of 8192 pixels) is drawn anew, uniformly from the octave below it; the
kernel is unchanged at distances far above 1 / MAX_FREQUENCY."""

MIN_LENGTH_SCALE = 1e-3


def sample_frequencies(
    key: Key[Array, ""],
    kernel: str,
    count: int,
    dims: int,
    length_scale: float = 1.0,
    shape: float = 0.0,
) -> Float[Array, "count D"]:
    """Frequencies w [count, D] whose E[cos(w . d)] is the kernel at d.

    Args:
      key: a `jax.random` key.
      kernel: a name of KERNELS; the formulas stand at the head of this module.
      count: how many frequencies, independent of one another.
      dims: D.
      length_scale: in units of the coordinates.
      shape: nu, gamma, alpha or power; 0 takes the kernel's default.

    Returns:
      float32 [count, D], radians per unit of coordinate.

    Raises:
      ValueError: an unknown kernel, or a length scale or shape outside what the kernel allows.
    """
    if kernel not in KERNELS:
        nearest = difflib.get_close_matches(str(kernel), KERNELS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(
            f"dictionary.embedding.kernel={kernel!r} is unknown; "
            f"allowed: {', '.join(KERNELS)}{hint}"
        )
    if not (math.isfinite(length_scale) and length_scale >= MIN_LENGTH_SCALE):
        raise ValueError(
            f"dictionary.embedding.length_scale must be at least {MIN_LENGTH_SCALE}, "
            f"got {length_scale}"
        )
    if not (math.isfinite(shape) and shape >= 0):
        raise ValueError(
            f"dictionary.embedding.shape must be positive, or 0 for the default, got {shape}"
        )
    sample_key, tail_key = jax.random.split(key)
    sign, log_size = KERNELS[kernel](sample_key, count, dims, shape)
    # Sizes are kept as logarithms up to here: stable variables overflow float32 long before.
    size = jnp.exp(log_size - math.log(length_scale))
    tail = jax.random.uniform(tail_key, size.shape, jnp.float32, MAX_FREQUENCY / 2, MAX_FREQUENCY)
    return sign * jnp.where(size > MAX_FREQUENCY, tail, size)


def _scaled_normal(
    key: Key[Array, ""], count: int, dims: int, log_scale: float | Array
) -> tuple[Array, Array]:
    """Sign and log size of normal vectors [count, D] times exp(log_scale) [count, 1 or D]."""
    normal = jax.random.normal(key, (count, dims), jnp.float32)
    return jnp.sign(normal), jnp.log(jnp.abs(normal)) + log_scale


def _gaussian(key: Key[Array, ""], count: int, dims: int, shape: float) -> tuple[Array, Array]:
    return _scaled_normal(key, count, dims, 0.0)


def _laplacian(key: Key[Array, ""], count: int, dims: int, shape: float) -> tuple[Array, Array]:
    # Cauchy on each axis by itself: a normal over the size of another.
    first, second = jax.random.split(key)
    below = jnp.abs(jax.random.normal(second, (count, dims), jnp.float32))
    return _scaled_normal(first, count, dims, -jnp.log(below))


def _student(key: Key[Array, ""], count: int, dims: int, nu: float) -> tuple[Array, Array]:
    # Multivariate t with 2 nu degrees of freedom; a chi-square of 2 nu is twice a Gamma of nu.
    first, second = jax.random.split(key)
    log_gamma = jax.random.loggamma(second, nu, (count, 1))
    return _scaled_normal(first, count, dims, 0.5 * (math.log(nu) - log_gamma))


def _exponential(key: Key[Array, ""], count: int, dims: int, shape: float) -> tuple[Array, Array]:
    return _student(key, count, dims, 0.5)


def _matern(key: Key[Array, ""], count: int, dims: int, shape: float) -> tuple[Array, Array]:
    return _student(key, count, dims, shape or 1.5)


def _gamma_exponential(
    key: Key[Array, ""], count: int, dims: int, shape: float
) -> tuple[Array, Array]:
    gamma = shape or 1.5
    if gamma > 2:
        raise ValueError(
            "dictionary.embedding.shape must be at most 2 for kernel gamma_exponential, "
            f"got {gamma}"
        )
    first, second = jax.random.split(key)
    # A normal of variance 2 T has E[cos(w d)] = E[exp(-T d^2)] = exp(-d^gamma).
    log_stable = _log_positive_stable(second, gamma / 2, (count, 1))
    return _scaled_normal(first, count, dims, 0.5 * (math.log(2.0) + log_stable))


def _rational_quadratic(
    key: Key[Array, ""], count: int, dims: int, shape: float
) -> tuple[Array, Array]:
    alpha = shape or 1.0
    first, second = jax.random.split(key)
    log_gamma = jax.random.loggamma(second, alpha, (count, 1))
    return _scaled_normal(first, count, dims, 0.5 * (log_gamma - math.log(alpha)))


def _compact_polynomial(
    key: Key[Array, ""], count: int, dims: int, shape: float
) -> tuple[Array, Array]:
    least = dims // 2 + 1
    power = shape or float(least)
    if dims > 3:
        raise ValueError(
            f"dictionary.embedding.kernel compact_polynomial is for 1 to 3 dimensions, not {dims}"
        )
    if power < least:
        raise ValueError(
            f"dictionary.embedding.shape must be at least {least} for kernel compact_polynomial in "
            f"{dims} dimensions (below it the kernel is not positive definite), got {power}"
        )
    hat_key, width_key, direction_key = jax.random.split(key, 3)
    if power < 2:
        # One dimension: a mixture of triangles max(1 - r / a, 0), a ~ Beta(2, power - 1).
        width = _beta(width_key, 2.0, power - 1.0, (count, 1))
        log_radius = jnp.log(2 * _euclid_hat(hat_key, 1, (count, 1))) - jnp.log(width)
        return jax.random.rademacher(direction_key, (count, 1), jnp.float32), log_radius
    # Three dimensions: a mixture of Euclid's hats 1 - 3/2 r/a + (r/a)^3 / 2. Fewer dimensions are
    # its marginals, because a projected frequency has the same kernel on the plane.
    which, first, second = jax.random.split(width_key, 3)
    width = jnp.where(
        jax.random.uniform(which, (count, 1), jnp.float32) < 2 / 3,
        _beta(first, 3.0, power - 2.0, (count, 1)),
        _beta(second, 2.0, power - 1.0, (count, 1)),
    )
    log_radius = jnp.log(2 * _euclid_hat(hat_key, 3, (count, 1))) - jnp.log(width)
    normal = jax.random.normal(direction_key, (count, 3), jnp.float32)
    direction = (normal / jnp.linalg.norm(normal, axis=-1, keepdims=True))[:, :dims]
    return jnp.sign(direction), jnp.log(jnp.abs(direction)) + log_radius


def _beta(key: Key[Array, ""], a: float, b: float, shape: tuple[int, int]) -> Array:
    """Beta(a, b), with Beta(a, 0) the point 1."""
    return jax.random.beta(key, a, b, shape, jnp.float32) if b > 0 else jnp.ones(shape, jnp.float32)


def _log_positive_stable(key: Key[Array, ""], alpha: float, shape: tuple[int, int]) -> Array:
    """log T, T > 0 with E[exp(-s T)] = exp(-s^alpha), 0 < alpha <= 1 (Kanter 1975)."""
    if alpha == 1:
        return jnp.zeros(shape, jnp.float32)
    angle_key, exponential_key = jax.random.split(key)
    tiny = jnp.finfo(jnp.float32).tiny
    share = jax.random.uniform(angle_key, shape, jnp.float32, minval=2.0**-24, maxval=1.0)
    exponential = jnp.maximum(jax.random.exponential(exponential_key, shape, jnp.float32), tiny)
    # sin(pi u) from the nearer end keeps it positive up to u = 1.
    sine = jnp.sin(math.pi * jnp.maximum(jnp.minimum(share, 1 - share), 2.0**-24))
    angle = math.pi * share
    rest = (1 - alpha) / alpha
    return (
        jnp.log(jnp.sin(alpha * angle))
        - jnp.log(sine) / alpha
        + rest * (jnp.log(jnp.sin((1 - alpha) * angle)) - jnp.log(exponential))
    )


# Euclid's hat of width 1 is the overlap of two balls of diameter 1; its frequency of length 2 z
# has the density j(z)^2 over z > 0, j the spherical Bessel function of order (D - 1) / 2. Bounds:
# j^2 <= min(height, tail / z^2), for D = 1 by sin(z) / z, for D = 3 by its maxima rounded up.
HAT_BOUNDS = {1: (1.0, 1.0), 3: (0.1904, 1.14)}


def _spherical_bessel(dims: int, z: Array) -> Array:
    """sin(z)/z for 1 dimension, (sin(z)/z - cos(z))/z for 3."""
    safe = jnp.maximum(z, 0.1)
    if dims == 1:
        return jnp.where(z < 0.1, 1 - z**2 / 6, jnp.sin(safe) / safe)
    return jnp.where(
        z < 0.1, z / 3 * (1 - z**2 / 10), (jnp.sin(safe) / safe - jnp.cos(safe)) / safe
    )


@functools.partial(jax.jit, static_argnames=("dims", "shape"))
def _euclid_hat(key: Key[Array, ""], dims: int, shape: tuple[int, int]) -> Array:
    """Half lengths z of the frequencies of Euclid's hat, by rejection (Devroye 1986, II.3).

    The proposal's density is proportional to the bound: half its mass is uniform up to
    knee = sqrt(tail / height), half is knee / u, u uniform. 56% to 79% are accepted.
    """
    height, tail = HAT_BOUNDS[dims]
    knee = math.sqrt(tail / height)

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, z, accepted = state
        key, side_key, place_key, accept_key = jax.random.split(key, 4)
        place = jax.random.uniform(place_key, shape, jnp.float32, minval=2.0**-24, maxval=1.0)
        inside = jax.random.bernoulli(side_key, 0.5, shape)
        proposal = knee * jnp.where(inside, place, 1 / place)
        bound = jnp.minimum(height, tail / proposal**2)
        share = _spherical_bessel(dims, proposal) ** 2 / bound
        accept = jax.random.uniform(accept_key, shape, jnp.float32) < share
        return key, jnp.where(accepted, z, proposal), accepted | accept

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return ~jnp.all(state[2])

    start = (key, jnp.zeros(shape), jnp.zeros(shape, bool))
    return jax.lax.while_loop(unfinished, propose, start)[1]


KERNELS = {
    "gaussian": _gaussian,
    "laplacian": _laplacian,
    "exponential": _exponential,
    "matern": _matern,
    "gamma_exponential": _gamma_exponential,
    "rational_quadratic": _rational_quadratic,
    "compact_polynomial": _compact_polynomial,
}
