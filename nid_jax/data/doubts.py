"""What line integrals of a picture cannot look like, and what they probably are instead.

For complete line integrals of any picture, the sum over detectors is the same for all views, and
the views' centres of mass follow one cosine of the angle (the first two conditions of Helgason and
Ludwig; Natterer, The Mathematics of Computerized Tomography, II.4). Sinograms here are [S, A, D],
signals, angles, detectors; NaN is missing.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Complete sinograms of 32 pixels, with Gaussian noise of a tenth of their largest value, have sums
# that vary by up to 10%; transposed ones by 40%.
SUMS_VARY = 0.15
# What the outermost detectors see of the mean of all, above which the picture is wider than they:
# of a head of 32 pixels 28 detectors see 34% there, 24 see 73%; of whole ones of 12 pixels 31%.
EDGES_SEE = 0.4
# Detectors off the middle, and in standard errors, from which an axis of rotation is spoken of.
OFF_AXIS, OFF_ERRORS = 0.25, 6.0
# What wrong angles leave of the centres of mass, in detectors, and how much smoother than noise in
# its standard deviations.
MISFIT, SMOOTHER = 0.1, 4.0
# The outermost detectors see the open beam: a share of the largest value.
EDGES_OPEN = 0.9
# A little noise around the open beam.
OPEN = 1.1
_LOOKED_AT = 16


class Axis(NamedTuple):
    """Where the views' centres of mass turn about, in detectors from the middle one."""

    position: float
    """Mean over signals."""
    error: float
    """Its standard error."""
    misfit: float
    """What the cosine leaves of the centres, root mean square in detectors."""
    smoothness: float
    """How much smoother that runs from angle to angle than noise would, in standard deviations of
    Durbin and Watson's statistic."""


def axis_of_rotation(
    sinograms: Float[np.ndarray, "S A D"], degrees: Float[np.ndarray, " A"]
) -> Axis | None:
    """The axis that the views' centres of mass turn about; None where views cannot say.

    Of views without missing values and with a sum above a tenth of the median; needs 5 of them,
    from 4 different angles at least.
    """
    positions = np.arange(sinograms.shape[-1]) - (sinograms.shape[-1] - 1) / 2
    theta = np.deg2rad(degrees)
    waves = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], -1)
    found = []
    for sinogram in sinograms[:_LOOKED_AT].astype(np.float64):
        sums = sinogram.sum(-1)
        complete = sums[np.isfinite(sums)]
        usual = np.median(complete) if len(complete) else np.inf
        usable = np.flatnonzero(sums > max(0.1 * usual, 0))
        usable = usable[np.argsort(degrees[usable], kind="stable")]
        distinct = np.unique(np.round(np.mod(degrees[usable], 180), 3))
        if len(usable) < 5 or len(distinct) < 4:
            continue
        centres = sinogram[usable] @ positions / sums[usable]
        inverse = np.linalg.pinv(waves[usable])
        left = centres - waves[usable] @ (inverse @ centres)
        variance = left @ left / (len(usable) - 3) * (inverse[0] @ inverse[0])
        smooth = 2 - np.square(np.diff(left)).sum() / max(left @ left, 1e-12)
        smooth *= math.sqrt(len(usable)) / 2
        found.append((inverse[0] @ centres, variance, left @ left / len(usable), smooth))
    if not found:
        return None
    position, variance, misfit, smooth = np.mean(found, 0)
    many = math.sqrt(len(found))
    return Axis(
        float(position), math.sqrt(variance) / many, math.sqrt(misfit), float(smooth * many)
    )


def spread_of_sums(sinograms: Float[np.ndarray, "S A D"]) -> float:
    """How much sums over detectors differ between views, relative to their mean; of the worst
    signal. 0 where fewer than 3 views are without missing values."""
    worst = 0.0
    for sums in sinograms[:_LOOKED_AT].sum(-1, dtype=np.float64):
        sums = sums[np.isfinite(sums)]
        if len(sums) > 2 and sums.any():
            worst = max(worst, float(sums.std() / max(abs(sums.mean()), 1e-12)))
    return worst


def edge_share(sinograms: Float[np.ndarray, "S A D"]) -> float:
    """The mean of the outermost detectors, one a side, relative to the mean of all."""
    edges, mean = _at_the_edges(sinograms), np.nanmean(sinograms)
    return edges / float(mean) if mean > 0 else 0.0


def _at_the_edges(sinograms):
    """The mean of the outermost detectors; 0 where both have no values."""
    values = sinograms[..., [0, -1]]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else 0.0


def looks_like_intensities(sinograms: Float[np.ndarray, "S A D"]) -> bool:
    """Whether values are positive and largest at the edges: what a detector counts behind an
    object and beside it, not yet line integrals."""
    beam = float(np.nanpercentile(sinograms, 99))
    opened = _at_the_edges(sinograms) > EDGES_OPEN * beam and edge_share(sinograms) > 1.02
    return bool(np.nanmin(sinograms) > 0 and opened)


def doubt_of_values(sinograms: Float[np.ndarray, "S A D"], longest: float, whole: str = "") -> str:
    """One line on values that are probably no line integrals of a whole picture; '' for none.

    longest: what the longest ray through a picture of ones measures; whole: the type of values
    that were whole numbers in their file.
    """
    largest, spread = float(np.nanmax(sinograms)), spread_of_sums(sinograms)
    log = "data.transmission=true takes -log of them first"
    if np.nansum(sinograms) < 0:
        return (
            f"values from {float(np.nanmin(sinograms)):.4g} to {largest:.4g}, below 0 in sum, and "
            "a picture within [0, 1] has none below 0: negated, or a logarithm of the other sign? "
            "taken as they are"
        )
    if looks_like_intensities(sinograms):
        if largest <= OPEN:
            return (
                f"values within (0, 1], most at the edges, whose view sums vary by {spread:.1%}, "
                f"look like transmission; taken as line integrals; {log}"
            )
        return (
            f"{whole or 'values'} up to {largest:g}, most at the edges, look like counts behind an "
            f"object; taken as line integrals; {log}"
        )
    if spread > SUMS_VARY:
        return (
            f"sums over detectors vary by {spread:.0%} from view to view, and would be the same "
            "for complete line integrals: another program's order of axes "
            "(operator.parallel_beam.convention=skimage has detectors first), truncated, not "
            "logged (data.transmission), or an order of its own (data.sinogram_layout)? taken as "
            "they are"
        )
    if largest > 1.2 * longest:
        return (
            f"{whole + ' ' if whole else ''}values up to {largest:.4g}, and a picture within [0, 1]"
            f" has at most {longest:.4g} here: counts, or lengths in other units? taken as line "
            "integrals in pixel lengths; data.pixel_size or data.transmission say otherwise"
        )
    share = edge_share(sinograms)
    if share > EDGES_SEE:
        return (
            f"the outermost detectors see {share:.0%} of the mean of all: is the picture wider "
            "than the detectors, or a background left in? taken as it is"
        )
    if whole:
        return f"{whole} values, taken as line integrals in pixel lengths as they are"
    return ""


def doubt_of_axis(
    sinograms: Float[np.ndarray, "S A D"],
    degrees: Float[np.ndarray, " A"],
    placed: float,
    offset: float,
) -> str:
    """One line on an axis of rotation that is elsewhere than the operator has it; '' for none.

    placed: detectors' middle from the axis by the convention; offset: operator.parallel_beam's.
    """
    if spread_of_sums(sinograms) > SUMS_VARY or edge_share(sinograms) > EDGES_SEE:
        return ""
    axis = axis_of_rotation(sinograms, degrees)
    if axis is None:
        return ""
    detectors = sinograms.shape[-1]
    if (axis.misfit > MISFIT and axis.smoothness > SMOOTHER) or abs(axis.position) > detectors / 2:
        return (
            "the views' centres of mass do not turn by these angles: are they others (data.angles; "
            "over 360 degrees?), in another unit (data.angle_units), or views in another order?"
        )
    off = axis.position + placed + offset
    if abs(off) < OFF_AXIS or abs(off) < OFF_ERRORS * axis.error:
        return ""
    right = f"operator.parallel_beam.offset={offset - off:.2f} says so"
    near = 2 * axis.error + 0.03
    if detectors % 2 == 0 and not placed and not offset and abs(axis.position - 0.5) < near:
        right = f"as skimage's: operator.parallel_beam.convention=skimage, or {right}"
    number = axis.position + (detectors - 1) / 2
    here = (detectors - 1) / 2 - placed - offset
    return (
        f"the views turn about detector {number:.2f} of 0 to {detectors - 1}, and are taken as "
        f"turning about {here:.2f}; {right}"
    )
