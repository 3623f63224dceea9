"""What an expert sees of a coordinate: the coordinate itself, or features of it.

Its numbers are variables, trained with the dictionary (`Basis`) or fixed (`Constant`), and saved
with it either way.
"""

import difflib
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from nid_jax import numerics
from nid_jax.fields.kernels import sample_frequencies
from nid_jax.fields.variables import Basis, Constant

MAX_OCTAVES = 24
"""float32 coordinates have no finer digits."""
MAX_FUNCTIONS = 2**27
"""Of a lattice: one expert's heads on so many are an array of 512 MB for every channel."""
MAX_DEGREE = 7
"""Splines of a higher one are Gaussians to within float32's use of them."""
BANDS = ("box", "ball")
# A product of cosines at a point takes as long as so many operations of a matrix product, or more:
# in three dimensions, on a CPU, 170.
_COSINE_COST = 100


class Embedding(nnx.Module):
    """What every embedding has: dims (D), size (F, the width of its output), and the call.

    num_local: N, features that are not zero at a point, where `local` gives them alone; else 0.
    most_sums: weighted sums of features at a point that `sums` gives sooner than the features are
    there themselves; 0: none.
    """

    dims: int
    size: int
    num_local: int = 0
    most_sums: int = 0

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., F]."""
        raise NotImplementedError

    def local(self, x: Float[Array, "P D"]) -> tuple[Int[Array, "P N"], Float[Array, "P N"]]:
        """The features that are not zero at each point x [P, D]: places and values."""
        raise NotImplementedError

    def sums(self, x: Float[Array, "P D"], weights: Float[Array, "F N"]) -> Float[Array, "P N"]:
        """Sums of features by weights [F, N] at points x [P, D], without the features."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError for variables, as a file may bring them, that it cannot have."""


class Identity(Embedding):
    """The coordinate itself."""

    def __init__(self, dims: int):
        self.dims, self.size = dims, dims

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """x [..., D] -> [..., D]."""
        return jnp.asarray(x)


class Positional(Embedding):
    """Sines and cosines of octaves (NeRF): x, then sin(2^i pi x_j), cos(2^i pi x_j).

    The octave i runs slowest, then the axis j, then sine before cosine.

    Args:
      dims: D.
      num_octaves: for all axes, or one number per axis; an axis of fewer octaves is left out of
        the later ones.

    Raises:
      ValueError: an octave count that is not a whole number in [0, MAX_OCTAVES].
    """

    def __init__(self, dims: int, num_octaves: int | Sequence[int]):
        octaves = (num_octaves,) * dims if isinstance(num_octaves, int) else tuple(num_octaves)
        if len(octaves) != dims or not all(0 <= octave <= MAX_OCTAVES for octave in octaves):
            raise ValueError(
                f"dictionary.embedding.num_octaves must be 0 to {MAX_OCTAVES} on each of {dims} "
                f"axes, got {num_octaves}"
            )
        self.features = tuple(
            (octave, axis)
            for octave in range(max(octaves))
            for axis in range(dims)
            if octave < octaves[axis]
        )
        self.dims, self.size = dims, dims + 2 * len(self.features)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., D + 2 * octaves summed over the axes]."""
        x = jnp.asarray(x)
        if not self.features:
            return x
        scales = np.zeros((x.shape[-1], len(self.features)), x.dtype)
        for column, (octave, axis) in enumerate(self.features):
            scales[axis, column] = 2.0**octave
        # One power of two per column and a remainder: both exact, no octave loses digits to pi.
        half_turns = jnp.matmul(x, scales, precision="highest")
        phase = math.pi * (half_turns - 2 * jnp.round(half_turns / 2))
        waves = jnp.stack([numerics.sin(phase), numerics.cos(phase)], axis=-1)
        return jnp.concatenate([x, waves.reshape(*x.shape[:-1], -1)], axis=-1)


def nyquist_octaves(grid_shape: Sequence[int]) -> tuple[int, ...]:
    """Octaves that each axis of n samples can carry: floor(log2(n / 4)), at least 0.

    grid_shape: samples per axis -> one number per axis.
    """
    return tuple(max(math.floor(math.log2(n / 4)), 0) for n in grid_shape)


class FourierFeatures(Embedding):
    """[sin(x B^T), cos(x B^T)] of frequencies B [size / 2, D], with no factor 2 pi and no scaling.

    The inner product of two points' features, divided by size / 2, is the mean of cos(w . d).

    Args:
      frequencies: [size / 2, D], radians per unit of coordinate.
      trainable: whether the frequencies train with the dictionary.
    """

    def __init__(self, frequencies: Float[Array, "F/2 D"], trainable: bool = False):
        self.frequencies = (Basis if trainable else Constant)(frequencies)
        self.size, self.dims = 2 * frequencies.shape[0], frequencies.shape[1]

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., size]."""
        frequencies = self.frequencies[...]
        # One sine over the whole width, the cosine a quarter turn ahead: half the time of writing
        # two waves and joining them. Whole turns are dropped, so that any frequency is safe.
        both = jnp.concatenate([frequencies, frequencies])
        turns = jnp.matmul(jnp.asarray(x), both.T, precision="highest") * (0.5 / math.pi)
        turns += jnp.repeat(jnp.asarray([0.0, 0.25], turns.dtype), len(frequencies))
        return numerics.sin((2 * math.pi) * (turns - jnp.round(turns)))


class GaussianFourier(FourierFeatures):
    """Fourier features with B ~ N(0, scale^2) (Tancik et al. 2020, there with a factor 2 pi).

    Args:
      dims: D.
      size: output width, even.
      scale: standard deviation of the frequencies, radians per unit of coordinate.
      trainable: whether B trains with the dictionary.
      rngs: its `params` stream draws B.

    Raises:
      ValueError: size not even and positive, or scale not positive and finite.
    """

    def __init__(
        self, dims: int, size: int, scale: float, trainable: bool = False, *, rngs: nnx.Rngs
    ):
        _check_positive("scale", scale)
        frequencies = scale * jax.random.normal(rngs.params(), (_half(size), dims), jnp.float32)
        super().__init__(frequencies, trainable)


class RandomFeatures(FourierFeatures):
    """Random features of a stationary kernel (Rahimi & Recht 2007), in the layout of Fourier's.

    Args:
      dims: D.
      size: output width, even.
      kernel: a name of `kernels.KERNELS`.
      length_scale: in units of the coordinates.
      shape: nu, gamma, alpha or power of the kernel; 0 is its default.
      trainable: whether the frequencies train with the dictionary.
      rngs: its `params` stream draws the frequencies.

    Raises:
      ValueError: size not even and positive, or what `kernels.sample_frequencies` refuses.
    """

    def __init__(
        self,
        dims: int,
        size: int,
        kernel: str,
        length_scale: float = 1.0,
        shape: float = 0.0,
        trainable: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        frequencies = sample_frequencies(
            rngs.params(), kernel, _half(size), dims, length_scale, shape
        )
        super().__init__(frequencies, trainable)


class RBF(Embedding):
    """Radial bumps exp(-(sigma |x - c|^2)^2), one per centre.

    The exponent is the fourth power of the distance: the form of the official code, a bump with a
    flat top and sharper flanks than a Gaussian, half as high at |x - c| = 0.912 / sqrt(sigma).

    Args:
      centres: [N, D].
      sigma: a number, or one per centre [N]; 1 / coordinate^2.
      trainable: whether centres and sigmas train with the dictionary.
    """

    def __init__(
        self,
        centres: Float[Array, "N D"],
        sigma: float | Float[Array, " N"],
        trainable: bool = False,
    ):
        kind = Basis if trainable else Constant
        centres = jnp.asarray(centres, jnp.float32)
        self.centres = kind(centres)
        self.sigma = kind(jnp.full(centres.shape[:1], sigma, jnp.float32))
        self.size, self.dims = centres.shape

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., N]."""
        offsets = jnp.asarray(x)[..., None, :] - self.centres[...]
        exponent = self.sigma[...] * jnp.sum(offsets**2, axis=-1)
        # exp(-12^2) is 0 in float32; further out the gradient would be 0 times infinity.
        return jnp.exp(-(jnp.clip(exponent, -12.0, 12.0) ** 2))


class CosineLattice(Embedding):
    """Products of cosines, band-limited: prod_j cos(pi k_j (x_j + 1) / 2) for k on a lattice.

    On a grid with its ends at +-1 these are the rows of a discrete cosine transform of type I
    (Ahmed, Natarajan & Rao 1974, for type II), in raster order of k, without the constant.

    Args:
      counts: frequencies along each of the D axes, k_j = 0 to counts[j] - 1.
      band: 'box' keeps all of them, 'ball' those with sum_j (k_j / counts[j])^2 < 1.

    Raises:
      ValueError: no frequency but the constant's, or another band.
    """

    def __init__(self, counts: Sequence[int], band: str = "box"):
        self.counts, places = _lattice(counts, band)
        self.dims, self.size = len(self.counts), len(places)
        # All of a box but its first corner needs no list of places.
        self.places = None if band == "box" else tuple(places.tolist())

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., F]."""
        x = jnp.asarray(x)
        waves = []
        for axis, count in enumerate(self.counts):
            waves.append(_cosines_along(x[..., axis], np.arange(count, dtype=np.float32)))
        product = _tensor_product(waves)
        return product[..., 1:] if self.places is None else product[..., np.array(self.places)]


class ChosenCosines(Embedding):
    """So many of the cosines of a `CosineLattice`, those at `places`, in raster order of k.

    Which ones is a matter of the signals: `training.kept_cosines` keeps those of most energy in
    them. Until then they are those of lowest frequency, |k_j / counts[j]|.

    Args:
      counts: of the lattice, along each of the D axes.
      num_kept: cosines that are kept.
      band: of the lattice, one of BANDS.

    Raises:
      ValueError: more than the lattice has, or what `CosineLattice` refuses.
    """

    def __init__(self, counts: Sequence[int], num_kept: int, band: str = "box"):
        self.counts, places = _lattice(counts, band)
        self.band, self.dims = band, len(self.counts)
        if not 1 <= num_kept <= len(places):
            raise ValueError(
                f"dictionary.embedding.num_kept={num_kept}; allowed: 1 to {len(places)}, the "
                f"cosines of counts={self.counts}, band={band}, or 0: all"
            )
        self.size = int(num_kept)
        lowest = np.argsort(_radius(self.counts, places), kind="stable")[:num_kept]
        self.places = Constant(jnp.asarray(np.sort(places[lowest]), jnp.int32))
        # A sum over the whole lattice is one along its axes, a matrix product for the most part.
        more = math.prod(self.counts) - self.size
        self.most_sums = self.size * _COSINE_COST // more

    @property
    def lattice(self) -> Int[np.ndarray, " N"]:
        """Places of all cosines that there are to keep, ascending."""
        return _lattice(self.counts, self.band)[1]

    def keep(self, places: Int[np.ndarray, " F"]) -> None:
        """Keep the cosines at these places of `lattice`, ascending.

        Raises ValueError for others than so many of the lattice's, each once.
        """
        self._check(np.asarray(places))
        self.places.set_value(jnp.asarray(places, jnp.int32))

    def check(self) -> None:
        """As `Embedding.check`."""
        self._check(np.asarray(self.places[...]))

    def _check(self, places):
        known = places.shape == (self.size,) and np.isin(places, self.lattice).all()
        if not (known and (np.diff(places) > 0).all()):
            raise ValueError(
                f"places of cosines: not {self.size} of the {len(self.lattice)} of "
                f"dictionary.embedding.counts={self.counts}, band={self.band}, ascending"
            )

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., F]."""
        x = jnp.asarray(x)
        frequencies = jnp.unravel_index(self.places[...], self.counts)
        product = jnp.ones((*x.shape[:-1], self.size), x.dtype)
        # Each by itself: the whole lattice may be many times as many.
        for axis, k in enumerate(frequencies):
            product *= _cosines_along(x[..., axis], k.astype(jnp.float32))
        return product

    def sums(self, x: Float[Array, "P D"], weights: Float[Array, "F N"]) -> Float[Array, "P N"]:
        """As `Embedding.sums`: over the whole lattice, axis by axis."""
        along = [
            _cosines_along(x[:, axis], np.arange(count, dtype=np.float32))
            for axis, count in enumerate(self.counts)
        ]

        def one(weights):
            lattice = jnp.zeros(math.prod(self.counts), weights.dtype)
            lattice = lattice.at[self.places[...]].set(weights).reshape(-1, self.counts[-1])
            total = numerics.einsum("pn,ln->pl", along[-1], lattice)
            for cosines in reversed(along[:-1]):
                total = total.reshape(len(x), -1, cosines.shape[-1])
                total = numerics.einsum("pln,pn->pl", total, cosines)
            return total[:, 0]

        # One after another: of several at once the products are several times slower on CPU.
        return jax.lax.map(one, weights.T).T


class Splines(Embedding):
    """Products of B-splines of one degree on uniform knots, prod_j b_(i_j)(x_j), in raster order.

    De Boor 1978. They sum to one at every point of [-1, 1]^D and are continued beyond by the
    polynomials at its ends. Each is zero but on (degree + 1) pieces of every axis.

    Args:
      counts: splines along each of the D axes, degree + 1 or more.
      degree: of the polynomial pieces, 0 to MAX_DEGREE.

    Raises:
      ValueError: fewer splines than that, or another degree.
    """

    def __init__(self, counts: Sequence[int], degree: int = 3):
        if not 0 <= degree <= MAX_DEGREE:
            raise ValueError(f"dictionary.embedding.degree={degree}; allowed: 0 to {MAX_DEGREE}")
        self.counts = _checked_counts(counts, degree + 1)
        self.degree, self.dims, self.size = degree, len(self.counts), math.prod(self.counts)
        self.num_local = (degree + 1) ** self.dims

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """x [..., D] -> [..., F]."""
        x = jnp.asarray(x)
        columns = []
        for axis, count in enumerate(self.counts):
            first, values = self._along(x[..., axis], count)
            place = first[..., None] + jnp.arange(self.degree + 1)
            hits = place[..., None] == jnp.arange(count)
            columns.append(jnp.where(hits, values[..., None], 0).sum(-2))
        return _tensor_product(columns)

    def local(self, x: Float[Array, "P D"]) -> tuple[Int[Array, "P N"], Float[Array, "P N"]]:
        """The N = (degree + 1)^D splines that are not zero at each point x [P, D]."""
        x, width = jnp.asarray(x), np.arange(self.degree + 1)
        places, products = jnp.zeros((len(x), 1), jnp.int32), jnp.ones((len(x), 1), x.dtype)
        for axis, count in enumerate(self.counts):
            first, values = self._along(x[:, axis], count)
            here = first[:, None] + width
            places = (places[:, :, None] * count + here[:, None, :]).reshape(len(x), -1)
            products = (products[:, :, None] * values[:, None, :]).reshape(len(x), -1)
        return places, products

    def _along(self, x, count):
        """Of one axis: the first spline that is not zero at x [...], and degree + 1 values."""
        pieces = count - self.degree
        at = (x + 1) * (0.5 * pieces)
        first = jnp.clip(jnp.floor(at), 0, pieces - 1)
        rest = at - first
        values = [jnp.ones_like(rest)]
        # The recurrence of de Boor and Cox; uniform knots make it one of whole numbers.
        for degree in range(1, self.degree + 1):
            padded = [jnp.zeros_like(rest), *values, jnp.zeros_like(rest)]
            values = [
                ((rest + degree - i) * padded[i] + (1 + i - rest) * padded[i + 1]) / degree
                for i in range(degree + 1)
            ]
        return first.astype(jnp.int32), jnp.stack(values, -1)


def _lattice(counts, band):
    """Checked counts of a lattice of cosines, and places [N] of all but the constant in a band."""
    counts = _checked_counts(counts, 1)
    if band not in BANDS:
        allowed = ", ".join(BANDS)
        raise ValueError(f"dictionary.embedding.band={band!r}; allowed: {allowed}")
    places = np.arange(1, math.prod(counts))
    if band == "ball":
        places = places[_radius(counts, places) < 1]
    if not len(places):
        raise ValueError(
            f"dictionary.embedding.counts={counts} leaves the constant alone; allowed: more"
        )
    return counts, places


def _radius(counts, places):
    """sum_j (k_j / counts[j])^2 of the frequencies at places [N] of a lattice. -> [N]."""
    along = np.unravel_index(places, counts)
    return sum(np.square(k / n) for k, n in zip(along, counts, strict=True))


def _cosines_along(x, k):
    """cos(pi k (x + 1) / 2) of coordinates x [...] and frequencies k [N]. -> [..., N]."""
    # Half turns up to the Nyquist frequency: few enough for float32 as they are.
    turns = (x[..., None] + 1) * (0.5 * k)
    return numerics.cos(math.pi * (turns - 2 * jnp.round(turns / 2)))


def _tensor_product(columns):
    """[..., n_j] of every axis -> [..., prod n_j], the last axis fastest."""
    product = columns[0]
    for column in columns[1:]:
        product = (product[..., :, None] * column[..., None, :]).reshape(*product.shape[:-1], -1)
    return product


def _checked_counts(counts, least):
    counts = tuple(counts)
    whole = [isinstance(n, int | np.integer) and not isinstance(n, bool) for n in counts]
    if not counts or not all(whole) or min(counts) < least:
        raise ValueError(
            f"dictionary.embedding.counts={counts}; allowed: whole numbers, {least} or more along "
            "each axis"
        )
    counts = tuple(map(int, counts))
    if math.prod(counts) > MAX_FUNCTIONS:
        raise ValueError(
            f"dictionary.embedding.counts={counts}; allowed: at most {MAX_FUNCTIONS} functions, "
            f"these are {math.prod(counts)}"
        )
    return counts


def _counts(config, dims, grid_shape):
    """Functions along each axis. Raises ValueError where neither config nor grid says them."""
    counts = tuple(config.counts) or tuple(grid_shape)
    if len(counts) != dims:
        raise ValueError(
            f"dictionary.embedding.counts={tuple(config.counts)}; allowed: {dims} numbers, one for "
            "each axis of the signals, or () where they lie on a grid"
        )
    return counts


def _identity(
    config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs
) -> Embedding:
    return Identity(dims)


def _positional(
    config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs
) -> Embedding:
    octaves = config.num_octaves
    if octaves == 0:
        if len(grid_shape) != dims:
            raise ValueError(
                "dictionary.embedding.num_octaves=0 (Nyquist) needs signals on a grid of "
                f"{dims} axes, got {tuple(grid_shape)}; give a number from 1 to {MAX_OCTAVES}"
            )
        octaves = nyquist_octaves(grid_shape)
    return Positional(dims, octaves)


def _fourier(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    return GaussianFourier(dims, config.size, config.scale, config.trainable, rngs=rngs)


def _rbf(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    if config.num_centres < 1:
        raise ValueError(
            f"dictionary.embedding.num_centres must be at least 1, got {config.num_centres}"
        )
    _check_positive("sigma", config.sigma)
    centres = jax.random.uniform(rngs.params(), (config.num_centres, dims), jnp.float32, -1.0, 1.0)
    return RBF(centres, config.sigma, config.trainable)


def _kernel(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    return RandomFeatures(
        dims,
        config.size,
        config.kernel,
        config.length_scale,
        config.shape,
        config.trainable,
        rngs=rngs,
    )


def _cosine(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    counts = _counts(config, dims, grid_shape)
    # Dictionaries of before have no such key.
    num_kept = getattr(config, "num_kept", 0)
    if num_kept:
        return ChosenCosines(counts, num_kept, config.band)
    return CosineLattice(counts, config.band)


def _spline(config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs) -> Embedding:
    counts = _counts(config, dims, grid_shape)
    if not config.counts:
        # As many cubic splines as samples leave out what alternates from sample to sample: of 64 a
        # singular value of 4e-6. With knots on the samples, or in their middle for an even degree,
        # all of what lies on the grid is said.
        counts = tuple(count + 2 * max((config.degree - 1) // 2, 0) for count in counts)
    return Splines(counts, config.degree)


EMBEDDINGS: dict[str, Callable[[ConfigDict, int, Sequence[int], nnx.Rngs], Embedding]] = {
    "identity": _identity,
    "positional": _positional,
    "fourier": _fourier,
    "rbf": _rbf,
    "kernel": _kernel,
    "cosine": _cosine,
    "spline": _spline,
}


def build_embedding(
    config: ConfigDict, dims: int, grid_shape: Sequence[int], rngs: nnx.Rngs
) -> Embedding:
    """The embedding that `dictionary.embedding` of the config names.

    Args:
      config: kind, one of EMBEDDINGS, and the keys of every kind: size, scale, num_octaves (0 is
        Nyquist from grid_shape), trainable, kernel, length_scale, shape (0 is the kernel's
        default), num_centres, sigma, counts (() is those of grid_shape), band, num_kept (0: all),
        degree. Centres of the RBF are uniform on [-1, 1].
      dims: D.
      grid_shape: samples per axis of the training signals, () where they lie on no grid.
      rngs: `nnx.Rngs`; random numbers are drawn from its `params` stream.

    Returns:
      An Embedding.

    Raises:
      ValueError: an unknown kind or kernel, or a value outside what the kind allows.
    """
    if config.kind not in EMBEDDINGS:
        nearest = difflib.get_close_matches(str(config.kind), EMBEDDINGS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(
            f"dictionary.embedding.kind={config.kind!r} is unknown; "
            f"allowed: {', '.join(EMBEDDINGS)}{hint}"
        )
    return EMBEDDINGS[config.kind](config, dims, grid_shape, rngs)


def _half(size: int) -> int:
    if size < 2 or size % 2:
        raise ValueError(
            f"dictionary.embedding.size must be even and at least 2 (sines and cosines), got {size}"
        )
    return size // 2


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"dictionary.embedding.{name} must be positive and finite, got {value}")
