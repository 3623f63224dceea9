"""Numerical kernels that fields, losses and solvers share.

XLA's float32 sine on CPU runs at a tenth of the rate of `exp`, and a SIREN stack is bound by it. On
CPU `sin` and `cos` are polynomials after a range reduction in three constants; on GPU and TPU they
are the platform's own, which are fast there.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Shaped

# Minimax polynomials on [-pi/2, pi/2], by iteratively reweighted least squares in float64:
# sin(r) = r * S(r**2) to 3.4e-9, cos(r) = C(r**2) to 2.2e-10, both below float32 rounding.
_SIN = (
    0.999999976589748,
    -0.16666647634553272,
    0.008332899821885993,
    -0.00019800897672548557,
    2.5904883181637554e-06,
)
_COS = (
    0.9999999997806591,
    -0.4999999935848044,
    0.04166663625821499,
    -0.0013888361401153291,
    2.4760161369749567e-05,
    -2.605149519785597e-07,
)
# pi in three parts (four times those of Cephes' sinf): the first has 8 bits, so that k * part is
# exact for every k in range, and the remainder keeps full precision.
_PI_PARTS = (3.140625, 9.67502593994140625e-4, 1.50995798975837643e-7)
_INVERSE_PI = 0.3183098861837907

SINE_ERROR = 3e-7
"""Largest absolute error of `sin` and `cos` in float32 for |x| <= `SINE_RANGE`."""
SINE_RANGE = 8192.0
"""Beyond it the error grows with |x|, as rounding of the argument itself does."""


def _polynomial(
    coefficients: Sequence[float], square: Float32[Array, "..."]
) -> Float32[Array, "..."]:
    value = jnp.full_like(square, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * square + coefficient
    return value


def _reduce(x: Float32[Array, "..."]) -> tuple[Float32[Array, "..."], Int32[Array, "..."]]:
    """x = k pi + r with |r| <= pi/2: (r, sign bit of (-1)**k in place)."""
    k = jnp.round(x * _INVERSE_PI)
    high, middle, low = _PI_PARTS
    r = ((x - k * high) - k * middle) - k * low
    return r, k.astype(jnp.int32) << 31


def _flip(value: Float32[Array, "..."], sign: Int32[Array, "..."]) -> Float32[Array, "..."]:
    bits = jax.lax.bitcast_convert_type(value, jnp.int32) ^ sign
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def polynomial_sin(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """The CPU kernel of `sin`, on any platform. x float32 [...] -> [...]."""
    r, sign = _reduce(x)
    return _flip(_polynomial(_SIN, r * r) * r, sign)


def polynomial_cos(x: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """The CPU kernel of `cos`, on any platform. x float32 [...] -> [...]."""
    r, sign = _reduce(x)
    return _flip(_polynomial(_COS, r * r), sign)


def _dispatch(
    x: Float[Array, "..."], polynomial: Callable[[Array], Array], native: Callable[[Array], Array]
) -> Float[Array, "..."]:
    # float64 (oracles in tests) and float16 keep the library's function.
    if x.dtype != jnp.float32:
        return native(x)
    return jax.lax.platform_dependent(x, cpu=polynomial, default=native)


@jax.custom_jvp
def sin(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Sine, fast on CPU. x float [...], radians -> [...]; error `SINE_ERROR` up to `SINE_RANGE`."""
    return _dispatch(jnp.asarray(x), polynomial_sin, jnp.sin)


@jax.custom_jvp
def cos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cosine, fast on CPU. x float [...], radians -> [...]; error as `sin`."""
    return _dispatch(jnp.asarray(x), polynomial_cos, jnp.cos)


# Bit operations have no derivative, and the true one is cheaper than that of a polynomial.
sin.defjvps(lambda t, ans, x: t * cos(x))
cos.defjvps(lambda t, ans, x: -t * sin(x))


def einsum(subscripts: str, *operands: Float[Array, "..."]) -> Float[Array, "..."]:
    """`jnp.einsum` in full float32, also where the platform's default is shorter.

    Reduced precision (TF32, bfloat16 passes) is an error of 1e-3 before a sine multiplies it by
    omega0 = 30, and breaks normal equations outright.
    """
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


MATMULS = ("float32", "bfloat16_3x", "tf32", "bfloat16")
"""Precisions of `product`, numbers are always float32: operands in full, as the sum of two bfloat16
of which the product of the small parts is left out, with 10 bits of mantissa, with 7."""

_BITS = {"bfloat16_3x": 7, "tf32": 10, "bfloat16": 7}
_PRESETS = {
    "bfloat16_3x": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    "tf32": jax.lax.DotAlgorithmPreset.TF32_TF32_F32,
    "bfloat16": jax.lax.DotAlgorithmPreset.BF16_BF16_F32,
}
# What a TPU has: three bfloat16 passes or one. Others may compute more precisely than asked.
_PASSES = {
    "bfloat16_3x": jax.lax.Precision.HIGH,
    "tf32": jax.lax.Precision.HIGH,
    "bfloat16": jax.lax.Precision.DEFAULT,
}


def product(
    subscripts: str, left: Float[Array, "..."], right: Float[Array, "..."], matmul: str
) -> Float[Array, "..."]:
    """`einsum` of two arrays whose operands may be rounded: one of `MATMULS`, sums in float32.

    On GPUs NVIDIA's matrix units do so, on a TPU `tf32` is three bfloat16 passes, and on CPU the
    operands are rounded to the nearest first: it costs time there, and shows what others would get.
    """
    if matmul == "float32" or left.dtype != jnp.float32 or right.dtype != jnp.float32:
        return einsum(subscripts, left, right)
    of = functools.partial(jnp.einsum, subscripts)
    return jax.lax.platform_dependent(
        left,
        right,
        cpu=functools.partial(_emulated, subscripts, matmul),
        cuda=functools.partial(of, precision=_PRESETS[matmul]),
        default=functools.partial(of, precision=_PASSES[matmul]),
    )


def _emulated(subscripts, matmul, left, right):
    def rounded(x):
        return jax.lax.reduce_precision(x, 8, _BITS[matmul])

    high, wide = rounded(left), rounded(right)
    values = einsum(subscripts, high, wide)
    if matmul != "bfloat16_3x":
        return values
    low, narrow = rounded(left - high), rounded(right - wide)
    return values + (einsum(subscripts, high, narrow) + einsum(subscripts, low, wide))


def safe_divide(
    numerator: float | Float[Array, "..."], denominator: Float[Array, "..."]
) -> Float[Array, "..."]:
    """numerator / denominator, 0 where the denominator is 0; gradients finite there too."""
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def even_size(count: int, most: int) -> int:
    """The size of even pieces, at most `most`: padding 640 to 2 x 512 would waste 384."""
    return -(-count // -(-count // min(most, count)))


def cut(
    array: Shaped[Array | np.ndarray, "M ..."], size: int
) -> Shaped[Array | np.ndarray, "N size ..."]:
    """Pieces of one size, so that one compiled function serves them all: zeros after the end.

    Of NumPy where the array is. `joined` puts results together again.
    """
    pieces = -(-array.shape[0] // size)
    padding = [(0, pieces * size - array.shape[0])] + [(0, 0)] * (array.ndim - 1)
    pad = jnp.pad if isinstance(array, jax.Array) else np.pad
    return pad(array, padding).reshape(pieces, size, *array.shape[1:])


def joined(pieces: Shaped[Array, "N size ..."], count: int) -> Shaped[Array, "M ..."]:
    """What `cut` made pieces of, or what became of them: the first `count` rows."""
    return pieces.reshape(-1, *pieces.shape[2:])[:count]


def spectral_bound(matrix: Float[Array, "*S E E"]) -> Float[Array, "*S"]:
    """An upper bound of the largest eigenvalue: the Frobenius norm. [..., E, E] -> [...]."""
    return jnp.sqrt(jnp.square(matrix).sum((-2, -1)))


@functools.partial(jax.jit, static_argnames="attempts")
def scaled_cholesky(
    matrix: Float[Array, "*S E E"], shift: Float[Array, "*S"], attempts: int = 12
) -> tuple[Float[Array, "*S E E"], Float[Array, "*S E"], Float[Array, "*S"], Bool[Array, "*S"]]:
    """Cholesky factor of matrix + shift I at unit diagonal, the shift raised until it exists.

    matrix: symmetric, positive semidefinite up to rounding, [..., E, E]; shift [...], not negative.
    Every matrix of a batch whose factor fails is tried again with ten times its shift, beginning no
    lower than the rounding error of its largest eigenvalue.

    Returns (factor [..., E, E], scale [..., E], shift [...] that was used, finite [...] bool), with
    matrix + shift I = D F F^T D, D = diag(1 / scale). A zero matrix with zero shift is taken as
    the identity. Not finite only where `matrix` is not.
    """
    size = matrix.shape[-1]
    bound = spectral_bound(matrix)
    least = jnp.where(bound > 0, jnp.finfo(matrix.dtype).eps * bound, 1.0)
    identity = jnp.eye(size, dtype=matrix.dtype)

    def factorise(shift):
        lifted = matrix + shift[..., None, None] * identity
        diagonal = jnp.diagonal(lifted, axis1=-2, axis2=-1)
        scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0))
        unit = lifted * scale[..., :, None] * scale[..., None, :]
        factor = jax.lax.linalg.cholesky(unit, symmetrize_input=False)
        return factor, scale, shift, jnp.isfinite(factor).all((-2, -1)) & (diagonal > 0).all(-1)

    def unfinished(state):
        tries, (_, _, _, finite) = state
        return (tries < attempts) & ~finite.all()

    def again(state):
        tries, (_, _, shift, finite) = state
        return tries + 1, factorise(jnp.where(finite, shift, jnp.maximum(10 * shift, least)))

    return jax.lax.while_loop(unfinished, again, (0, factorise(shift)))[1]


# Rows of triangles that are inverted row by row, at most.
_MOST_SUBSTITUTED = 12


def inverse_triangle(factor: Float[Array, "*S E E"]) -> Float[Array, "*S E E"]:
    """L^-1 of lower triangles, in products: of small blocks on the diagonal by substitution, then
    of two neighbours together, until one is left. -> [..., E, E].

    As accurate as substitution, but for the condition number of L (Higham 2002, 14.2). Not a call
    of LAPACK: of batches, two that do not wait for each other may block both threads of a CPU's
    pool for good (jaxlib 0.10.2), each waiting for help that only the other could give.
    """
    size = factor.shape[-1]
    if not size:
        return factor
    levels = ((size - 1) // _MOST_SUBSTITUTED).bit_length()
    width = -(-size // 2**levels)
    more = (width << levels) - size
    padded = jnp.pad(factor, [(0, 0)] * (factor.ndim - 2) + [(0, more), (0, more)])
    padded = padded + jnp.diag(jnp.arange(size + more) >= size).astype(factor.dtype)

    def blocks(width):
        """Those on the diagonal. -> [..., B, width, width]."""
        count = padded.shape[-1] // width
        cut = padded.reshape(*padded.shape[:-2], count, width, count, width)
        return jnp.moveaxis(jnp.diagonal(cut, axis1=-4, axis2=-2), -1, -3)

    inverse = _substituted(blocks(width))
    for level in range(levels):
        half = width << level
        first, last = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        below = blocks(2 * half)[..., half:, :half]
        below = -einsum("...ij,...jk->...ik", last, einsum("...ij,...jk->...ik", below, first))
        upper = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        inverse = jnp.concatenate([upper, jnp.concatenate([below, last], -1)], -2)
    return inverse[..., 0, :size, :size]


def _substituted(factor):
    """`inverse_triangle`, a row after the other."""
    size = factor.shape[-1]
    eye = jnp.eye(size, dtype=factor.dtype)
    inverse = jnp.zeros_like(factor)
    for row in range(size):
        known = einsum("...j,...jk->...k", factor[..., row, :row], inverse[..., :row, :])
        inverse = inverse.at[..., row, :].set((eye[row] - known) / factor[..., row, row, None])
    return inverse


def solve_scaled_cholesky(
    factor: Float[Array, "*S E E"], scale: Float[Array, "*S E"], right: Float[Array, "*S E R"]
) -> Float[Array, "*S E R"]:
    """Solve with the result of `scaled_cholesky`. right [..., E, R] -> [..., E, R]."""
    half = jax.lax.linalg.triangular_solve(
        factor, scale[..., None] * right, left_side=True, lower=True
    )
    whole = jax.lax.linalg.triangular_solve(
        factor, half, left_side=True, lower=True, transpose_a=True
    )
    return scale[..., None] * whole
