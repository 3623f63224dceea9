"""Measured projections: read from files, their angles, and noise put on computed ones.

Sinograms are [S, A, D], signals, angles, detectors: line integrals in pixel lengths, in the
geometry of phantoms.py. (scikit-image lays one out as [D, A].) NaN stands for a missing value.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

NOISE_KINDS = ("none", "gaussian", "poisson")
# Angles in degrees closer than this are one view given twice.
SAME_ANGLE = 1e-6
# The optical depth of the densest ray when photons are counted: 1 in 55 arrives.
DEEPEST = 4.0
MOST_PHOTONS = 1e12


def even_angles(count: int) -> Float[np.ndarray, " A"]:
    """`count` angles in degrees, evenly over [0, 180) without a repeated end view; float64 [A].

    Raises ValueError naming fit.num_views for a count below 1.
    """
    if count < 1:
        raise ValueError(f"fit.num_views={count}: must be at least 1")
    return np.arange(count) * (180.0 / count)


def read_sinograms(
    path: str | Path, angles_path: str | Path = ""
) -> tuple[Float[np.ndarray, "S A D"], Float[np.ndarray, " A"]]:
    """Projections and angles from .npy files: float32 [S, A, D], float64 [A] in degrees.

    path (data.sinograms): [A, D] or [S, A, D], real numbers; NaN is kept and means missing.
    angles_path (data.angles): [A], distinct and within [0, 180); '' spreads them evenly.
    Raises FileNotFoundError, and ValueError naming the key, the file, and what it holds instead.
    """
    where = f"data.sinograms={str(path)!r}"
    values = _read_numbers(path, where)
    if values.ndim not in (2, 3):
        raise ValueError(
            f"{where}: an array of shape {list(values.shape)}; expected [A, D] or [S, A, D]"
        )
    sinograms = np.array(values, np.float32)
    sinograms = sinograms if values.ndim == 3 else sinograms[None]
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
    if not angles_path:
        return sinograms, even_angles(sinograms.shape[1])
    return sinograms, _read_angles(angles_path, sinograms.shape[1], where)


def _read_angles(path, views, sinograms):
    """Angles [views] in degrees for the sinograms named `sinograms`."""
    where = f"data.angles={str(path)!r}"
    angles = _read_numbers(path, where).astype(np.float64)
    if angles.ndim != 1:
        raise ValueError(f"{where}: an array of shape {list(angles.shape)}; expected [A]")
    if len(angles) != views:
        raise ValueError(f"{where}: {len(angles)} angles, but {sinograms} has {views} views")
    bad = angles[~((angles >= 0) & (angles < 180))]
    if len(bad):
        raise ValueError(f"{where}: an angle of {bad[0]:g}; allowed: degrees in [0, 180)")
    ordered = np.sort(angles)
    same = np.flatnonzero(np.diff(ordered) < SAME_ANGLE)
    if len(same):
        raise ValueError(
            f"{where}: the angle {ordered[same[0]]:g} is there twice; must be distinct"
        )
    return angles


def _read_numbers(path, where):
    """The array of an .npy file, integers or floats; nothing is unpickled."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no such file")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{where}: cannot be read as an .npy file ({error})") from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise ValueError(f"{where}: is an .npz archive; expected one array in an .npy file")
    if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise ValueError(f"{where}: values of type {values.dtype}; allowed: real numbers")
    return values


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
