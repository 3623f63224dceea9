"""Measured projections: read from files, their angles, and noise put on computed ones.

Sinograms are [S, A, D], signals, angles, detectors: line integrals in pixel lengths, in the
geometry of phantoms.py or of a convention that names another (coding/operators/conventions.py).
NaN stands for a missing value.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nid_jax.coding.operators import Convention, checked_convention
from nid_jax.coding.operators.conventions import CONVENTIONS
from nid_jax.data import doubts, measurements
from nid_jax.notices import say

NOISE_KINDS = ("none", "gaussian", "poisson")
# The optical depth of the densest ray when photons are counted: 1 in 55 arrives.
DEEPEST = 4.0
MOST_PHOTONS = 1e12

# Names of arrays in files of several, in lower case.
SINOGRAM_NAMES = ("sinograms", "sinogram", "sino", "projections", "projection", "proj", "data", "r")
ANGLE_NAMES = ("angles", "angle", "theta", "thetas", "degrees", "radians")
UNITS = ("degrees", "radians")


class Sinograms(NamedTuple):
    """What a file of sinograms holds."""

    values: Float[np.ndarray, "S A D"]
    """float32, NaN where missing."""
    degrees: Float[np.ndarray, " A"]
    """float64."""
    whole: str
    """The type of values that were whole numbers, '' for others."""


def even_angles(count: int) -> Float[np.ndarray, " A"]:
    """`count` angles in degrees, evenly over [0, 180) without a repeated end view; float64 [A].

    Raises ValueError naming fit.num_views for a count below 1.
    """
    if count < 1:
        raise ValueError(f"fit.num_views={count}: must be at least 1")
    return np.arange(count) * (180.0 / count)


def read_sinograms(
    path: str | Path,
    angles_path: str | Path = "",
    convention: str = "ours",
    angle_units: str = "",
    layout: str = "",
    transmission: bool = False,
    open_beam: float = 0.0,
    pixel_size: float = 1.0,
) -> Sinograms:
    """Projections and angles from files of measurements.FORMATS.

    path (data.sinograms): [A, D] or [S, A, D], real numbers; NaN is kept and means missing. A file
    of several arrays may hold the angles as well.
    angles_path (data.angles): any angles [A]; '' takes those beside the sinograms, else spreads
    them evenly over [0, 180), and says so.
    convention (operator.parallel_beam.convention): whose order of axes and unit of angles these
    are. angle_units (data.angle_units): degrees or radians, '' the convention's. layout
    (data.sinogram_layout): the letters of the axes in order, S, A and D, '' the convention's.
    transmission (data.transmission): values are shares or counts I of an open beam I0 and become
    -log(I / I0); those of 0 and less are missing. open_beam (data.open_beam): I0; 0: 1 for values
    up to 1.1, else the largest of the file, which is said.
    pixel_size (data.pixel_size): of a pixel, in the unit of length that line integrals are in,
    whose inverse is then the unit of the picture.
    Raises FileNotFoundError, and ValueError naming the key, the file, and what it holds instead.
    What looks like something else than it is taken for is said.
    """
    where = f"data.sinograms={str(path)!r}"
    known = checked_convention(convention)
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"data.pixel_size={pixel_size}: must be above 0")
    arrays = measurements.read_arrays(path, where)
    inside = {name: array for name, array in arrays.items() if name.lower() in ANGLE_NAMES}
    rest = {name: array for name, array in arrays.items() if name not in inside}
    values = measurements.named_array(rest or arrays, SINOGRAM_NAMES, (2, 3), where)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{where}: values of type {values.dtype}; allowed: real numbers")
    angles = _read_angles(angles_path, inside, where)
    values = _ordered(values, angles, known, layout, where)
    whole = str(values.dtype) if values.dtype.kind in "iu" else ""
    values = _checked(np.array(values, np.float32), where)
    if transmission:
        values, whole = _line_integrals(values, open_beam, where), ""
    if angles is None:
        say(f"{where}: no angles; taken as even over [0, 180) degrees; data.angles says otherwise")
        degrees = even_angles(values.shape[1])
    else:
        degrees = _in_degrees(angles, known, angle_units, values)
    return Sinograms(values / np.float32(pixel_size), degrees, whole)


def say_doubts(
    read: Sinograms, shape: tuple[int, int], placed: float, offset: float, title: str
) -> None:
    """Say what looks wrong with sinograms of pictures of `shape`.

    placed: the detectors' middle from the axis by the convention; offset: on top of it; title: the
    file's.
    """
    longest = float(np.hypot(*shape))
    for doubt in (
        doubts.doubt_of_values(read.values, longest, read.whole),
        doubts.doubt_of_axis(read.values, read.degrees, placed, offset),
    ):
        if doubt:
            say(f"data.sinograms={title!r}: {doubt}")


class _Angles(NamedTuple):
    values: np.ndarray
    units: str  # where the file itself says so
    where: str


def _read_angles(path, inside: Mapping[str, np.ndarray], sinograms) -> _Angles | None:
    """Angles of a file, else those that lay beside the sinograms, else None."""
    where = f"data.angles={str(path)!r}" if path else sinograms
    if not path and not inside:
        return None
    arrays = measurements.read_arrays(path, where) if path else inside
    angles = measurements.named_array(arrays, ANGLE_NAMES, (), where)
    name = next(name for name, array in arrays.items() if array is angles)
    if angles.dtype.kind not in "iuf":
        raise ValueError(f"{where}: angles of type {angles.dtype}; allowed: real numbers")
    # A column or a row of a table or of a .mat file.
    flat = angles.ravel() if angles.ndim == 2 and 1 in angles.shape else angles
    if flat.ndim != 1 or not len(flat):
        raise ValueError(f"{where}: angles of shape {list(angles.shape)}; expected [A]")
    wrong = flat[~np.isfinite(flat)]
    if len(wrong):
        raise ValueError(f"{where}: an angle of {wrong[0]:g}; allowed: finite numbers")
    return _Angles(flat.astype(np.float64), name if name in UNITS else "", where)


def _ordered(values, angles, known: Convention, layout, where):
    """Values as [S, A, D]; ValueError where no order of axes that may be meant fits the angles."""
    rank = values.ndim
    if rank not in (2, 3):
        raise ValueError(
            f"{where}: an array of shape {list(values.shape)}; expected [A, D] or [S, A, D]"
        )
    letters = "AD" if rank == 2 else "SAD"
    every = ["".join(order) for order in itertools.permutations(letters)]
    if layout:
        if sorted(layout) not in (sorted("AD"), sorted("SAD")):
            raise ValueError(
                f"data.sinogram_layout={layout!r}: must be the letters S, A and D in the order of "
                "the axes, or A and D"
            )
        allowed = [layout if rank == len(layout) else layout.replace("S", "")]
        if len(allowed[0]) != rank:
            raise ValueError(
                f"data.sinogram_layout={layout!r}: {where} has the shape {list(values.shape)}"
            )
    else:
        allowed = [order for order in known.layouts if len(order) == rank]
    count = None if angles is None else len(angles.values)
    fitting = [order for order in allowed if count in (None, values.shape[order.index("A")])]
    if not fitting:
        views = values.shape[allowed[0].index("A")]
        message = f"{angles.where}: {count} angles, but {where} has {views} views"
        others = [order for order in every if values.shape[order.index("A")] == count]
        if others:
            unsaid = not layout and known == CONVENTIONS["ours"]
            programs = [n for n, its in CONVENTIONS.items() if unsaid and others[0] in its.layouts]
            # Before the order alone: what turns about another pixel is blurred by that.
            whose = "".join(
                f"operator.parallel_beam.convention={name} where it is {name}'s, or "
                for name in programs[:1]
            )
            message += (
                f" as [{', '.join(allowed[0])}]: {whose}transpose it to that, or "
                f"data.sinogram_layout={others[0]} reads it as it is"
            )
        raise ValueError(message)
    order = fitting[0]
    values = np.transpose(values, [order.index(letter) for letter in letters])
    return values if rank == 3 else values[None]


def _checked(sinograms, where):
    """Sinograms [S, A, D] float32 of which each has a value; ValueError for others."""
    if 0 in sinograms.shape:
        raise ValueError(
            f"{where}: {sinograms.shape[0]} sinograms of {sinograms.shape[1]} views and "
            f"{sinograms.shape[2]} detectors; needs at least one of each"
        )
    infinite = np.count_nonzero(np.isinf(sinograms))
    if infinite:
        raise ValueError(
            f"{where}: {infinite} of {sinograms.size} values are infinite; NaN marks missing ones"
        )
    for number, sinogram in enumerate(sinograms):
        if np.isnan(sinogram).all():
            raise ValueError(f"{where}: sinogram {number} has no values, only NaN")
    return sinograms


def _line_integrals(values, open_beam, where):
    """-log of shares or counts of an open beam."""
    if not (np.isfinite(open_beam) and open_beam >= 0):
        raise ValueError(f"data.open_beam={open_beam}: must be above 0, or 0 to find it")
    largest = float(np.nanmax(values))
    if largest <= 0:
        raise ValueError(f"{where}: no value above 0, of which data.transmission=true takes -log")
    if not open_beam:
        open_beam = 1.0 if largest <= doubts.OPEN else largest
        if open_beam != 1:
            say(
                f"{where}: the open beam is taken as the largest value, {largest:g}; "
                "data.open_beam says otherwise"
            )
    dark = values <= 0
    if dark.any():
        say(
            f"{where}: {dark.sum()} of {values.size} values are 0 or less, which have no "
            "logarithm; taken as missing"
        )
    return _checked(-np.log(np.where(dark, np.nan, values) / np.float32(open_beam)), where)


def _in_degrees(angles: _Angles, known: Convention, units, sinograms):
    """Angles in degrees, by the key, the file, or the convention where these look like it."""
    if units not in ("", *UNITS):
        raise ValueError(f"data.angle_units={units!r}: allowed: degrees, radians, or ''")
    units = units or angles.units
    if not units:
        units = "radians" if known.radians else "degrees"
        values, turn = angles.values, np.ptp(angles.values)
        low, high = values.min(), values.max()
        between = f"{len(values)} angles between {low:.4g} and {high:.4g}"
        if units == "degrees" and _look_like_radians(values):
            units = "radians"
            say(
                f"{angles.where}: {between} look like radians; taken as radians; "
                "data.angle_units=degrees says otherwise"
            )
        elif units == "radians" and _look_like_degrees(values, turn, sinograms):
            units = "degrees"
            say(
                f"{angles.where}: {between} look like degrees; taken as degrees; "
                "data.angle_units=radians says otherwise"
            )
    return np.rad2deg(angles.values) if units == "radians" else angles.values


def _look_like_radians(angles):
    """Within one turn of radians, over 1 radian at least, and not whole numbers."""
    whole = (angles == np.round(angles)).all()
    return not whole and np.abs(angles).max() <= 2 * np.pi + 1e-3 and np.ptp(angles) > 1


def _look_like_degrees(angles, span, sinograms):
    """A half or a full turn of degrees, with or without the end view; whole numbers over more than
    1; or what would be more than two turns, where centres of mass turn by degrees."""
    if span > 1 and (angles == np.round(angles)).all():
        return True
    if span > 4 * np.pi + 1e-3:
        axes = [
            doubts.axis_of_rotation(sinograms, one)
            for one in (angles, np.mod(np.rad2deg(angles), 360))
        ]
        if None not in axes and axes[0].misfit < axes[1].misfit / 2:
            return True
    spans = (span, span * len(angles) / max(len(angles) - 1, 1))
    return any(abs(one - turn) < 0.01 * turn for one in spans for turn in (180, 360))


def add_noise(
    sinograms: Float[np.ndarray, "S A D"], kind: str, level: float, seed: int
) -> Float[np.ndarray, "S A D"]:
    """Sinograms [S, A, D] as a noisy instrument sees them; float32, NaN stays NaN.

    kind (data.noise.kind): 'none'; 'gaussian', a standard deviation of `level` times the signal's
    largest value; 'poisson', counts ~ Poisson(level exp(-mu s)) of `level` photons a ray turned
    back to s = -log(counts / level) / mu, no count taken for one, and mu such that exp(-4) of the
    photons pass where the signal is densest. A signal's noise is a function of seed and its number
    in the array. A signal without a positive value attenuates nothing and is left as it is.
    Raises ValueError naming data.noise.kind or data.noise.level.
    """
    if kind not in NOISE_KINDS:
        raise ValueError(f"data.noise.kind={kind!r}: allowed: {', '.join(NOISE_KINDS)}")
    if kind == "gaussian" and not 0 <= level < np.inf:
        raise ValueError(f"data.noise.level={level}: must be 0 or more, relative to the maximum")
    if kind == "poisson" and not 1 <= level <= MOST_PHOTONS:
        raise ValueError(
            f"data.noise.level={level}: must be photons per ray, from 1 to {MOST_PHOTONS:g}"
        )
    noisy = np.array(sinograms, np.float64)
    for number, clean in enumerate(noisy):
        seen = np.isfinite(clean)
        largest = clean.max(where=seen, initial=0)
        if kind == "none" or largest <= 0:
            continue
        generator = np.random.default_rng([seed, number])
        if kind == "gaussian":
            clean += level * largest * generator.standard_normal(clean.shape)
        else:
            mu = DEEPEST / largest
            expected = level * np.exp(-mu * np.where(seen, clean, 0))
            counts = np.maximum(generator.poisson(expected), 1)
            clean[seen] = -np.log(counts / level)[seen] / mu
    return noisy.astype(np.float32)
