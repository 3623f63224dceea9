"""Embeddings whose features are products of functions along the axes: cosines and splines."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nid_jax import numerics
from nid_jax.fields.embeddings.base import Embedding
from nid_jax.fields.variables import Constant

MAX_FUNCTIONS = 2**27
"""Of a lattice: one expert's heads on so many are an array of 512 MB for every channel."""
MAX_DEGREE = 7
"""Splines of a higher one are Gaussians to within float32's use of them."""
BANDS = ("box", "ball")
# A product of cosines at a point takes as long as so many operations of a matrix product, or more:
# in three dimensions, on a CPU, 170.
_COSINE_COST = 100


class Lattice(Embedding):
    """What embeddings have whose features are products of functions along the axes, `counts` of
    them along each."""

    counts: tuple[int, ...]

    @property
    def lattice_counts(self) -> tuple[int, ...]:
        """As `Embedding.lattice_counts`."""
        return self.counts

    def along(self, x: Float[Array, "... D"]) -> list[Float[Array, "... count"]]:
        """All functions of every axis at coordinates x [..., D]. -> [..., counts[j]] for each j."""
        x = jnp.asarray(x)
        return [self._functions(x[..., axis], count) for axis, count in enumerate(self.counts)]

    def grid_sums(
        self, axes: Sequence[Float[Array, " n"]], lattice: Float[Array, " N *counts"]
    ) -> Float[Array, " N *grid"]:
        """As `Embedding.grid_sums`."""
        # Axis after axis: the first of those left is summed over, and the grid's comes last.
        for x, count in zip(axes, self.counts, strict=True):
            lattice = numerics.einsum("nk...,pk->n...p", lattice, self._functions(x, count))
        return lattice

    def _functions(self, x, count):
        """The `count` functions of one axis at x [...]. -> [..., count]. Of every kind."""
        raise NotImplementedError


class Cosines(Lattice):
    """Of cosines, some of whose products are features."""

    def on_lattice(self, weights: Float[Array, "F N"]) -> Float[Array, " N *counts"]:
        """As `Embedding.on_lattice`."""
        lattice = jnp.zeros((weights.shape[1], math.prod(self.counts)), weights.dtype)
        return lattice.at[:, self._places()].set(weights.T).reshape(-1, *self.counts)

    def _places(self):
        """Of the features among all products, in raster order. Of every kind."""
        raise NotImplementedError

    def _functions(self, x, count):
        return _cosines_along(jnp.asarray(x), np.arange(count, dtype=np.float32))


class CosineLattice(Cosines):
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
        return _tensor_product(self.along(x))[..., self._places()]

    def _places(self):
        return slice(1, None) if self.places is None else np.array(self.places)


class ChosenCosines(Cosines):
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
        along = self.along(x)

        def one(weights):
            lattice = self.on_lattice(weights[:, None]).reshape(-1, self.counts[-1])
            total = numerics.einsum("pn,ln->pl", along[-1], lattice)
            for cosines in reversed(along[:-1]):
                total = total.reshape(len(x), -1, cosines.shape[-1])
                total = numerics.einsum("pln,pn->pl", total, cosines)
            return total[:, 0]

        # One after another: of several at once the products are several times slower on CPU.
        return jax.lax.map(one, weights.T).T

    def _places(self):
        return self.places[...]


class Splines(Lattice):
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
        return _tensor_product(self.along(x))

    def on_lattice(self, weights: Float[Array, "F N"]) -> Float[Array, " N *counts"]:
        """As `Embedding.on_lattice`: every product is a feature."""
        return weights.T.reshape(-1, *self.counts)

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

    def _functions(self, x, count):
        first, values = self._along(x, count)
        place = first[..., None] + jnp.arange(self.degree + 1)
        hits = place[..., None] == jnp.arange(count)
        return jnp.where(hits, values[..., None], 0).sum(-2)

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
