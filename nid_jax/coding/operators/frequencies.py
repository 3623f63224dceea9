"""Samples of the Fourier transform of a grid, at its own frequencies and at any others."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nid_jax import numerics
from nid_jax.coding.checks import numbers, positive, whole
from nid_jax.coding.operators import checks
from nid_jax.coding.operators.base import Operator
from nid_jax.errors import ArgumentError
from nid_jax.fields import coordinates

# Numbers between two axes of a sum held at a time.
_HELD_NUMBERS = 2**22


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class Fourier(Operator):
    """Some coefficients of the discrete Fourier transform on a grid. See `fourier`.

    kept int32 [K]: flat indices of the frequencies; measurements are the K real parts, then the K
    imaginary ones.
    """

    about: ClassVar[str] = "some coefficients of the discrete Fourier transform on a grid"

    kept: jax.Array = dataclasses.field(kw_only=True)
    grid_shape: tuple = dataclasses.field(default=(), metadata={"static": True})

    @property
    def num_measurements(self):
        return 2 * self.kept.shape[0]

    def _axes(self, values):
        first = values.ndim - len(self.grid_shape) - 1
        return tuple(range(first, values.ndim - 1))

    def measure(self, samples):
        """Samples on the grid [..., P, C] -> [..., 2 K, C]."""
        *lead, count, channels = samples.shape
        grid = samples.reshape(*lead, *self.grid_shape, channels)
        spectrum = jnp.fft.fftn(grid, axes=self._axes(grid), norm="ortho")
        chosen = spectrum.reshape(*lead, count, channels)[..., self.kept, :]
        return jnp.concatenate([chosen.real, chosen.imag], -2)

    def adjoint(self, measurements):
        """[..., 2 K, C] -> [..., P, C]."""
        *lead, _, channels = measurements.shape
        real, imaginary = jnp.split(measurements, 2, -2)
        flat = jnp.zeros((*lead, int(np.prod(self.grid_shape)), channels), jnp.complex64)
        flat = flat.at[..., self.kept, :].set(jax.lax.complex(real, imaginary))
        grid = flat.reshape(*lead, *self.grid_shape, channels)
        values = jnp.fft.ifftn(grid, axes=self._axes(grid), norm="ortho")
        return values.real.reshape(*lead, -1, channels)


def fourier(shape: Sequence[int], share: float = 0.25, low: float = 0.04, seed: int = 0) -> Fourier:
    """Sparse samples of the Fourier transform, as magnetic resonance imaging takes them.

    share: of all frequencies, those measured; low: of all frequencies, those next to zero that are
    always among them; the rest are drawn with a density that falls with the frequency. Of a
    frequency and its negative, which says the same of a real image, at most one is taken.
    Measurements: real parts, then imaginary parts. Raises ArgumentError naming the argument.
    """
    shape = checks.checked_shape(shape)
    half_of_all = "above 0, to 0.5 (half say it all)"
    numbers("share", share, lambda v: (v > 0) & (v <= 0.5), half_of_all, known=True)
    numbers("low", low, lambda v: (v >= 0) & (v <= share), f"0 to share={share}", known=True)
    seed = whole("seed", seed, 0)
    indices = np.indices(shape).reshape(len(shape), -1)
    negative = tuple((-index) % side for index, side in zip(indices, shape, strict=True))
    opposite = np.ravel_multi_index(negative, shape)
    half = np.flatnonzero(np.arange(len(opposite)) <= opposite)
    waves = [np.fft.fftfreq(side) for side in shape]
    square = np.sum([w[i[half]] ** 2 for w, i in zip(waves, indices, strict=True)], 0)
    order = np.argsort(square, kind="stable")
    total = int(np.prod(shape))
    count = min(max(1, round(share * total)), len(half))
    always = order[: min(max(1, round(low * total)), count)]
    rest = np.setdiff1d(np.arange(len(half)), always)
    drawn = rest[:0]
    if count > len(always):
        density = 1 / (1e-3 + square[rest])
        drawn = np.random.default_rng(seed).choice(
            rest, count - len(always), replace=False, p=density / density.sum()
        )
    return _at(shape, np.sort(half[np.concatenate([always, drawn])]))


def fourier_samples(shape: Sequence[int], measured: Bool[Array | np.ndarray, "*grid"]) -> Fourier:
    """The Fourier coefficients of an image where `measured` says so, as a scanner took them.

    measured: bool [*shape], the zero frequency at index 0 of every axis, as numpy.fft has it (of
    one with the zero frequency in the middle: numpy.fft.ifftshift). A frequency and its negative
    may both be there. Coefficients are those of numpy.fft.fftn(image, norm='ortho') in the order of
    numpy.flatnonzero(measured): real parts, then imaginary parts. Raises ArgumentError naming
    `measured` for another shape, for other than 0 and 1, and where nothing was measured.
    """
    shape = checks.checked_shape(shape)
    given = np.asarray(measured)
    if given.shape != shape:
        raise ArgumentError("measured", given.shape, f"the shape {shape}")
    if not np.isin(given, (0, 1)).all():
        raise ArgumentError("measured", given[~np.isin(given, (0, 1))][0], "booleans, or 0 and 1")
    if not given.any():
        raise ArgumentError("measured", 0, "1 or more frequencies")
    return _at(shape, np.flatnonzero(given))


def _at(shape, kept):
    """The operator of frequencies by flat index [K]."""
    points, kept = coordinates.grid(shape), kept.astype(np.int32)
    return Fourier(jnp.asarray(points), run_length=None, kept=jnp.asarray(kept), grid_shape=shape)


@checks.register
@dataclasses.dataclass(frozen=True, eq=False)
class NonuniformFourier(Operator):
    """The Fourier transform of a grid at any frequencies. See `nonuniform_fourier`.

    waves: for every axis complex64 [K, N], the conjugate of the wave at its samples; measurements
    are the K real parts, then the K imaginary ones.
    """

    about: ClassVar[str] = "the Fourier transform of a grid at any frequencies"

    run_length: int | None = dataclasses.field(default=None, metadata={"static": True})
    waves: tuple[jax.Array, ...] = ()

    @property
    def num_measurements(self):
        return 2 * self.waves[0].shape[0]

    def measure(self, samples):
        """Samples on the grid [..., P, C] -> [..., 2 K, C]."""
        *lead, count, channels = samples.shape
        columns = jnp.moveaxis(samples.reshape(-1, count, channels), 1, 0)
        grid = columns.reshape(self.waves[0].shape[1], -1)
        width = columns[0].size

        def some(waves):
            values = numerics.einsum("kn,nx->kx", waves[0], grid)
            for wave in waves[1:]:
                values = values.reshape(*wave.shape, -1)
                values = numerics.einsum("kn,knx->kx", wave, values)
            return values

        found = jax.lax.map(some, self._pieces(grid[0].size))
        found = numerics.joined(found, self.num_measurements // 2).reshape(-1, width)
        found = jnp.concatenate([found.real, found.imag]).reshape(-1, columns.shape[1], channels)
        return jnp.moveaxis(found, 0, 1).reshape(*lead, -1, channels)

    def adjoint(self, measurements):
        """[..., 2 K, C] -> [..., P, C]."""
        *lead, count, channels = measurements.shape
        columns = jnp.moveaxis(measurements.reshape(-1, count, channels), 1, 0)
        real, imaginary = jnp.split(columns.reshape(count, -1), 2)
        width, sides = real.shape[1], [wave.shape[1] for wave in self.waves]
        pieces = self._pieces(int(np.prod(sides[1:])) * width)
        spectrum = numerics.cut(jax.lax.complex(real, imaginary), pieces[0].shape[1])

        def add(total, piece):
            waves, values = piece
            for wave in reversed(waves[1:]):
                values = numerics.einsum("kn,kx->knx", wave.conj(), values)
                values = values.reshape(len(wave), -1)
            return total + numerics.einsum("kn,kx->nx", waves[0].conj(), values).real, None

        start = jnp.zeros((sides[0], int(np.prod(sides[1:])) * width), jnp.float32)
        found, _ = jax.lax.scan(add, start, (pieces, spectrum))
        found = found.reshape(-1, columns.shape[1], channels)
        return jnp.moveaxis(found, 0, 1).reshape(*lead, -1, channels)

    def _pieces(self, numbers):
        """The waves in pieces of frequencies, of which each needs so many numbers at a time."""
        size = max(1, min(len(self.waves[0]), _HELD_NUMBERS // max(numbers, 1)))
        return tuple(numerics.cut(wave, size) for wave in self.waves)


def nonuniform_fourier(
    shape: Sequence[int],
    frequencies: str | Float[Array | np.ndarray, "K D"] = "radial",
    spokes: int = 16,
    samples: int = 0,
    turns: float = 4.0,
) -> NonuniformFourier:
    """Samples of the Fourier transform of an image at any frequencies.

    At the frequency k [D], in cycles per image along every axis (so k = 1 is one wave over the N
    pixels of an axis, and N / 2 the finest that they hold),

        y = 1 / sqrt(P) sum_n x[n] exp(-2 pi i sum_d k_d n_d / N_d),

    n the index of a pixel from 0: at whole k the coefficients of `fourier`. Scanners count from the
    middle pixel N // 2, which multiplies y by exp(2 pi i sum_d k_d (N_d // 2) / N_d).
    Measurements: real parts, then imaginary parts. A direct sum, exact, axis by axis: about K P
    products for a channel, and no more memory than 4 million numbers at a time beside tables of
    K (N_1 + ... + N_D); not a fast transform, so meant for K P up to 10^8 or so.

    Args:
      shape: the grid's.
      frequencies: [K, D] in cycles per image; or 'radial' or 'spiral', `radial_frequencies` and
        `spiral_frequencies` of the options that follow, for pictures.
      spokes: lines through zero, or arms of the spiral.
      samples: along each of them; 0: as many as the longer side.
      turns: of an arm of the spiral.

    Raises ArgumentError naming `frequencies`, `spokes`, `samples` or `turns`.
    """
    shape = checks.checked_shape(shape)
    if isinstance(frequencies, str):
        if frequencies not in ("radial", "spiral"):
            raise ArgumentError("frequencies", frequencies, "radial, spiral or numbers [K, D]")
        if frequencies == "radial":
            frequencies = radial_frequencies(shape, spokes, samples)
        else:
            frequencies = spiral_frequencies(shape, spokes, samples, turns)
    frequencies = checks.checked_numbers(frequencies, "frequencies", 2, "[K, D]")
    if frequencies.shape[1] != len(shape):
        raise ArgumentError("frequencies", frequencies.shape, f"the shape [K, {len(shape)}]")
    # Tables in float64: a phase of hundreds of turns has no place in float32.
    waves = [
        np.exp(-2j * np.pi * np.outer(k, np.arange(side) / side)) / np.sqrt(side)
        for k, side in zip(frequencies.T, shape, strict=True)
    ]
    held = tuple(jnp.asarray(wave.astype(np.complex64)) for wave in waves)
    return NonuniformFourier(jnp.asarray(coordinates.grid(shape)), waves=held)


def radial_frequencies(
    shape: Sequence[int], spokes: int = 16, samples: int = 0
) -> Float[np.ndarray, "K 2"]:
    """Lines through zero at even angles, float64 [spokes samples, 2] in cycles per image.

    Each reaches from -N / 2 to just below N / 2 along its own direction and has zero among its
    samples. Raises ArgumentError naming the argument.
    """
    sides, count = _picture_and_count(shape, spokes, samples)
    angle = np.arange(spokes) * np.pi / spokes
    radius = (np.arange(count) - count // 2) / (count / 2)
    return _polar(radius[None], angle[:, None], sides)


def spiral_frequencies(
    shape: Sequence[int], spokes: int = 1, samples: int = 0, turns: float = 4.0
) -> Float[np.ndarray, "K 2"]:
    """Archimedean spirals from zero, float64 [spokes samples, 2] in cycles per image.

    The radius grows evenly to just below N / 2 in so many turns, the arms (`spokes`) evenly turned.
    Raises ArgumentError naming the argument.
    """
    sides, count = _picture_and_count(shape, spokes, samples)
    positive("turns", turns, known=True)
    radius = np.arange(count) / count
    angle = 2 * np.pi * (turns * radius + np.arange(spokes)[:, None] / spokes)
    return _polar(radius[None], angle, sides)


def _picture_and_count(shape, spokes, samples):
    sides = checks.checked_picture(shape)
    whole("spokes", spokes, 1)
    return sides, whole("samples", samples, 0) or max(sides)


def _polar(radius, angle, sides):
    """Radii, 1 at half of each side, and angles from the row axis. -> [K, 2]."""
    row = radius * np.cos(angle) * sides[0] / 2
    column = radius * np.sin(angle) * sides[1] / 2
    return np.stack([row, column], -1).reshape(-1, 2)
