"""Linear operators from a continuous signal to what was measured of it.

An operator names the points at which it must know the signal and reduces the samples there to
measurements; it acts on every channel alike. So it measures a signal [Q, C], a batch [S, Q, C] and
the features of a dictionary [Q, E] by the same call. `A @ signal` takes a function of points as
well, and `A.T @ measurements` is the adjoint.

A local operator's measurement m depends on its own run of points only, points[m*T : (m+1)*T], as a
weighted sum: T = 1 is sampling, T > 1 a ray or the footprint of a blurred pixel. Normal equations
of local operators stream over measurements. An operator without that structure sets
`run_length = None` and overrides `measure` and `adjoint`.
"""

import dataclasses
import difflib
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from nid_jax import numerics
from nid_jax.fields import coordinates


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """A local operator: runs of T points, each summed to one measurement with given factors.

    points [Q, D], Q = M T; factors [M, T] or None for a plain sum; weights [M], [S, M] or None:
    the weight of each measurement in a fit, 0 where nothing was measured.
    Arrays are leaves of a pytree, so an operator is an argument of a jitted function.
    """

    points: jax.Array
    factors: jax.Array | None = None
    weights: jax.Array | None = None
    run_length: int | None = dataclasses.field(default=1, metadata={"static": True})

    @property
    def num_measurements(self):
        """M, measurements per channel."""
        return self.points.shape[0] // self.run_length

    def measure(self, samples):
        """Samples at `points` [..., Q, C] -> measurements [..., M, C]."""
        if self.run_length == 1 and self.factors is None:
            return samples
        return reduce_runs(samples, self.factors, self.run_length)

    def adjoint(self, measurements):
        """The transpose of `measure`. measurements [..., M, C] -> [..., Q, C]."""
        if self.run_length == 1 and self.factors is None:
            return measurements
        *lead, count, channels = measurements.shape
        spread = jnp.broadcast_to(
            measurements[..., :, None, :], (*lead, count, self.run_length, channels)
        )
        if self.factors is not None:
            spread = spread * self.factors[:, :, None]
        return spread.reshape(*lead, count * self.run_length, channels)

    def __matmul__(self, signal):
        """A @ signal: what is measured of it.

        signal: a function from points [Q, D] to values [Q, ...] (an image, or all atoms of a
        dictionary), or samples at `points` [..., Q, C].
        """
        if not callable(signal):
            return self.measure(jnp.asarray(signal))
        values = signal(self.points)
        flat = self.measure(values.reshape(len(values), -1))
        return flat.reshape(len(flat), *values.shape[1:])

    @property
    def T(self):
        """The adjoint: A.T @ measurements [..., M, C] -> [..., Q, C]."""
        return _Adjoint(self)

    def of_measurements(self, chosen):
        """The operator of some of the measurements, by index [m]. Local operators only."""
        count, length = self.num_measurements, self.run_length
        points = self.points.reshape(count, length, -1)[chosen]
        weights = None if self.weights is None else self.weights[..., chosen]
        return dataclasses.replace(
            self,
            points=points.reshape(len(chosen) * length, -1),
            factors=None if self.factors is None else self.factors[chosen],
            weights=weights,
        )


class _Adjoint:
    """What `Operator.T` gives."""

    def __init__(self, operator):
        self.operator = operator

    def __matmul__(self, measurements):
        return self.operator.adjoint(jnp.asarray(measurements))

    @property
    def T(self):
        """The operator itself."""
        return self.operator


def reduce_runs(samples, factors, run_length):
    """Weighted sums over runs of T points. samples [..., M T, C], factors [M, T] -> [..., M, C]."""
    *lead, count, channels = samples.shape
    runs = samples.reshape(*lead, count // run_length, run_length, channels)
    if factors is None:
        return runs.sum(-2)
    return numerics.einsum("...mtc,mt->...mc", runs, factors)


def register(cls):
    """Make an operator class a pytree: its static fields are part of the type."""
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    return jax.tree_util.register_dataclass(cls, data, static)


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Sample(Operator):
    """The signal's values at points: one measurement per point. See `sample`."""


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Operator):
    """The signal on all points, of which some were seen: measurements elsewhere are 0.

    `weights` [M] or [S, M] holds the mask, 1 where seen. A fit ignores what lies elsewhere.
    """

    def measure(self, samples):
        return samples * self.weights[..., None]

    def adjoint(self, measurements):
        return measurements * self.weights[..., None]


@functools.singledispatch
def _as_points(points):
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[0] < 1:
        raise ValueError(f"points must be [P, D] with P at least 1, got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite, got NaN or infinity")
    return jnp.asarray(points)


@_as_points.register
def _(points: tuple):
    return jnp.asarray(coordinates.grid(points))


def sample(points):
    """The operator that samples a signal.

    points: [P, D] coordinates, or a grid shape as a tuple of whole numbers. Raises ValueError for
    points that are not finite or not [P, D], and for an impossible grid.
    """
    return Sample(_as_points(points))


def mask(points, seen):
    """The operator of a signal of which only some points were seen.

    points: as in `sample`. seen: bool or 0/1, [*grid] or [P], or [S, *grid] or [S, P] with a mask
    for every signal. Raises ValueError for a mask of another size, other values, or one that shows
    nothing at all.
    """
    grid_shape = points if isinstance(points, tuple) else None
    points = _as_points(points)
    seen = np.asarray(seen)
    count = points.shape[0]
    one = seen.shape in ((count,), grid_shape)
    many = seen.ndim > 0 and seen.shape[1:] in ((count,), grid_shape) and seen.shape[0] > 0
    if not (one or many):
        expected = f"{grid_shape}, " if grid_shape else ""
        raise ValueError(
            f"mask has shape {seen.shape}; allowed: {expected}({count},), or the same with one "
            "mask per signal in front"
        )
    if not np.isin(seen, (0, 1)).all():
        raise ValueError("mask must hold booleans, or 0 and 1 only")
    weights = seen.astype(np.float32).reshape((count,) if one else (len(seen), count))
    empty = np.flatnonzero(~weights.any(-1))
    if len(empty):
        where = "" if one else f" of signal {empty[0]}"
        raise ValueError(f"mask{where} shows no point; at least 1 must be seen")
    return Mask(points, weights=jnp.asarray(weights))


def combined_weights(operator, weights):
    """The operator's own weights times those of the caller: None, [M] or [S, M].

    weights: None, [M] or [S, M], not negative. Raises ValueError for another shape, and where they
    can be read (outside jit) for negative or non-finite values.
    """
    if weights is None:
        return operator.weights
    weights = jnp.asarray(weights, jnp.float32)
    if weights.ndim not in (1, 2) or weights.shape[-1] != operator.num_measurements:
        raise ValueError(
            f"weights have shape {weights.shape}; allowed: ({operator.num_measurements},) or "
            f"(signals, {operator.num_measurements})"
        )
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("weights must be finite and not negative")
    return weights if operator.weights is None else weights * operator.weights


# ---- runs of points: rays, areas, footprints ---------------------------------------------------


@register
@dataclasses.dataclass(frozen=True, eq=False)
class ParallelBeam(Operator):
    """Line integrals along parallel rays. See `parallel_beam`."""


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Downsample(Operator):
    """Means over the areas of coarser pixels. See `downsample`."""


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Blur(Operator):
    """Weighted means around every grid point. See `blur`."""


def parallel_beam(shape, angles, detectors=0, samples_per_ray=0, centre=(0.0, 0.0), offset=0.0):
    """Line integrals of an image along parallel rays, in units of pixels: a sinogram [A, D].

    The ray of angle theta and detector position s, both ends of the image included, is, in pixels
    from the centre of rotation,

        row = t cos(theta) - s sin(theta),    col = t sin(theta) + s cos(theta),

    as in scikit-image's radon. The image's area reaches half a pixel beyond its end samples, where
    its value is that of the edge. Each ray has its samples in the middles of equal parts of its
    way through that area, so that what lies outside contributes zero and constants are integrated
    exactly.

    Args:
      shape: (rows, columns) of the image that sets the unit of length.
      angles: degrees in [0, 180), [A]; or a whole number of views, evenly spaced from 0 without
        a repeated end view.
      detectors: D, one pixel apart; 0: as many as the longer side.
      samples_per_ray: T; 0: as many as the longer side.
      centre: (rows, columns) in pixels from the middle of the image to the centre of rotation.
        radon and iradon turn about pixel N // 2, which is (0.5, 0.5) for even N.
      offset: detector positions are j - (D - 1) / 2 + offset; radon's are at -0.5 for even D.

    Measurements are ordered by angle, then detector. Raises ValueError naming operator.angles,
    operator.detectors or operator.samples_per_ray.
    """
    rows, columns = checked_shape(shape)
    angles = np.deg2rad(checked_angles(angles))
    detectors = _count(detectors or max(rows, columns), "operator.detectors")
    samples = _count(samples_per_ray or max(rows, columns), "operator.samples_per_ray")
    position = np.arange(detectors) - (detectors - 1) / 2 + offset
    sine, cosine = np.sin(angles)[:, None], np.cos(angles)[:, None]
    # Where t = 0 lies, and the direction of t; pixels from the middle of the image.
    starts = [centre[0] - position * sine, centre[1] + position * cosine]
    first, last = _crossing(starts, [cosine, sine], (rows / 2, columns / 2))
    length = np.maximum(last - first, 0)
    t = first[..., None] + length[..., None] * (np.arange(samples) + 0.5) / samples
    t = np.where(length[..., None] > 0, t, 0)
    axes = []
    for start, step, side in zip(starts, (cosine, sine), (rows, columns), strict=True):
        axes.append(_normalised(start[..., None] + t * step[..., None], side))
    points = np.stack(axes, -1).reshape(-1, 2)
    factors = np.repeat(length.reshape(-1, 1) / samples, samples, 1)
    return ParallelBeam(_float32(points), _float32(factors), run_length=samples)


def _normalised(pixels, side):
    """Pixels from the middle of an axis as coordinates, held at its end samples."""
    return np.clip(2 * pixels / (side - 1), -1, 1) if side > 1 else np.full_like(pixels, -1)


def _crossing(starts, directions, halves):
    """The parameters at which lines enter and leave a box [-half, half]; first > last: never."""
    first, last = -np.inf, np.inf
    for start, step, half in zip(starts, directions, halves, strict=True):
        parallel = np.abs(step) < 1e-12
        safe = np.where(parallel, 1.0, step)
        a, b = (-half - start) / safe, (half - start) / safe
        inside = np.abs(start) < half
        low = np.where(parallel, np.where(inside, -np.inf, np.inf), np.minimum(a, b))
        high = np.where(parallel, np.where(inside, np.inf, -np.inf), np.maximum(a, b))
        first, last = np.maximum(first, low), np.minimum(last, high)
    missed = ~(first < last)
    return np.where(missed, 0, first), np.where(missed, 0, last)


def checked_angles(angles):
    """Angles in degrees [A] float64, from such or from a number of views.

    Raises ValueError naming operator.angles for no views, and for angles that are repeated or
    outside [0, 180).
    """
    if isinstance(angles, int | np.integer):
        count = _count(angles, "operator.angles")
        return np.arange(count) * (180.0 / count)
    angles = np.asarray(angles, np.float64)
    if angles.ndim != 1 or not len(angles):
        raise ValueError(
            f"operator.angles: an array of shape {angles.shape}; allowed: a list of at least 1 "
            "angle, or a number of views"
        )
    if not ((angles >= 0) & (angles < 180)).all():
        bad = angles[~((angles >= 0) & (angles < 180))][0]
        raise ValueError(f"operator.angles: {bad:g}; allowed: degrees from 0 to below 180")
    if len(np.unique(np.round(angles, 6))) < len(angles):
        raise ValueError("operator.angles: a view is repeated; allowed: different angles")
    return angles


def downsample(shape, factor=2, samples_per_side=0):
    """Means over blocks of factor x factor pixels: what a coarser sensor sees, [*shape / factor].

    Each block's area is sampled at samples_per_side points along each axis (0: `factor`, the
    centres of its pixels). Raises ValueError naming operator.factor where it does not divide the
    shape.
    """
    shape = checked_shape(shape)
    factor = _count(factor, "operator.factor")
    if any(side % factor for side in shape):
        raise ValueError(f"operator.factor: {factor} does not divide the signals' {list(shape)}")
    per_side = _count(samples_per_side or factor, "operator.samples_per_side")
    inside = (np.arange(per_side) + 0.5) * factor / per_side - 0.5
    places = [np.arange(side // factor)[:, None] * factor + inside for side in shape]
    run_length = per_side ** len(shape)
    points = _blocks(places, shape)
    factors = np.full((len(points) // run_length, run_length), 1 / run_length)
    return Downsample(_float32(points), _float32(factors), run_length=run_length)


def blur(shape, sigma=1.0, radius=0):
    """Gaussian means of standard deviation sigma, in pixels, at every grid point.

    radius: how far the footprint reaches in pixels; 0: three sigma. Beyond the image its edge goes
    on. Raises ValueError naming operator.sigma or operator.radius.
    """
    shape = checked_shape(shape)
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"operator.sigma: {sigma}; allowed: above 0")
    radius = _count(radius or int(np.ceil(3 * sigma)), "operator.radius")
    reach = np.arange(-radius, radius + 1)
    places = [np.arange(side)[:, None] + reach for side in shape]
    one = np.exp(-0.5 * (reach / sigma) ** 2)
    footprint = functools.reduce(np.multiply.outer, [one] * len(shape)).ravel()
    points = _blocks(places, shape)
    factors = np.tile(footprint / footprint.sum(), (len(points) // len(footprint), 1))
    return Blur(_float32(points), _float32(factors), run_length=len(footprint))


def _blocks(places, shape):
    """Points of runs from the pixels [m_d, t_d] that they visit along each axis. -> [M T, D]."""
    rank = len(shape)
    axes = []
    for axis, (pixels, side) in enumerate(zip(places, shape, strict=True)):
        values = _normalised(pixels - (side - 1) / 2, side)
        width = [1] * (2 * rank)
        width[axis], width[rank + axis] = values.shape
        axes.append(values.reshape(width))
    full = np.broadcast_arrays(*axes)
    return np.stack(full, -1).reshape(-1, rank)


# ---- operators of the whole grid ----------------------------------------------------------------


@register
@dataclasses.dataclass(frozen=True, eq=False)
class Fourier(Operator):
    """Some coefficients of the discrete Fourier transform on a grid. See `fourier`.

    kept int32 [K]: flat indices of the frequencies; measurements are the K real parts, then the K
    imaginary ones.
    """

    kept: jax.Array | None = None
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


def fourier(shape, share=0.25, low=0.04, seed=0):
    """Sparse samples of the Fourier transform, as magnetic resonance imaging takes them.

    share: of all frequencies, those measured; low: of all frequencies, those next to zero that are
    always among them; the rest are drawn with a density that falls with the frequency. Of a
    frequency and its negative, which says the same of a real image, at most one is taken.
    Measurements: real parts, then imaginary parts. Raises ValueError naming operator.share or
    operator.low.
    """
    shape = checked_shape(shape)
    if not 0 < share <= 0.5:
        raise ValueError(f"operator.share: {share}; allowed: above 0, to 0.5 (half say it all)")
    if not 0 <= low <= share:
        raise ValueError(f"operator.low: {low}; allowed: 0 to operator.share={share}")
    indices = np.indices(shape).reshape(len(shape), -1)
    opposite = [(-index) % side for index, side in zip(indices, shape, strict=True)]
    opposite = np.ravel_multi_index(opposite, shape)
    half = np.flatnonzero(np.arange(len(opposite)) <= opposite)
    waves = [np.fft.fftfreq(side) for side in shape]
    square = sum(w[i[half]] ** 2 for w, i in zip(waves, indices, strict=True))
    order = np.argsort(square, kind="stable")
    total = int(np.prod(shape))
    count = min(max(1, round(share * total)), len(half))
    always = order[: min(max(1, round(low * total)), count)]
    rest = np.setdiff1d(np.arange(len(half)), always)
    density = 1 / (1e-3 + square[rest])
    drawn = np.random.default_rng(seed).choice(
        rest, count - len(always), replace=False, p=density / density.sum()
    )
    kept = np.sort(half[np.concatenate([always, drawn])]).astype(np.int32)
    points = jnp.asarray(coordinates.grid(shape))
    return Fourier(points, run_length=None, kept=jnp.asarray(kept), grid_shape=shape)


# ---- by name ------------------------------------------------------------------------------------


def random_mask(shape, share=0.1, seed=0):
    """A mask that shows a seeded share of the grid's points, the same for all signals.

    Raises ValueError naming operator.share.
    """
    shape = checked_shape(shape)
    if not 0 < share <= 1:
        raise ValueError(f"operator.share: {share}; allowed: above 0, to 1")
    total = int(np.prod(shape))
    order = np.random.default_rng(seed).permutation(total)
    return mask(shape, (order < max(1, round(share * total))).reshape(shape))


KINDS = {
    "sample": sample,
    "mask": random_mask,
    "parallel_beam": parallel_beam,
    "downsample": downsample,
    "blur": blur,
    "fourier": fourier,
}
"""operator.kind -> function(grid shape, options) -> operator."""


def build_operator(config, shape):
    """The operator of config.operator for signals on a grid [*shape].

    config: `kind`, and under its name the options that the kind's function takes. Raises
    ValueError naming operator.kind, or the option that is wrong.
    """
    if config.kind not in KINDS:
        near = difflib.get_close_matches(str(config.kind), KINDS, 1, 0.0)[0]
        raise ValueError(
            f"operator.kind: {config.kind!r} is unknown, did you mean {near!r}? "
            f"allowed: {', '.join(KINDS)}"
        )
    make = KINDS[config.kind]
    options = dict(config.get(config.kind, {}))
    allowed = [name for name in inspect.signature(make).parameters if name != "shape"]
    for name in options:
        if name not in allowed and make is not sample:
            raise ValueError(
                f"operator.{config.kind}.{name}: no such option; allowed: {', '.join(allowed)}"
            )
    return make(tuple(shape), **options)


def _count(value, key):
    if not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{key}: {value}; allowed: a whole number, 1 or more")
    return int(value)


def checked_shape(shape):
    """A grid's shape as whole numbers. Raises ValueError for what is none."""
    shape = tuple(int(side) for side in shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"grid shape must be positive whole numbers, got {shape}")
    return shape


def _float32(values):
    return jnp.asarray(np.asarray(values, np.float32))
