"""Slices from sinograms by scikit-image's simultaneous algebraic reconstruction.

Sinograms are [A, D], angles (degrees, over [0, 180)) and detectors one pixel apart.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from skimage.transform import iradon_sart

# Views gone through in all: of phantoms of 64 pixels within 0.5 dB of the best number of passes
# from 2 to 64 views.
_VIEWS, _PASSES = 130, (2, 30)


def passes(views: int) -> int:
    """How often all views are best gone through: many where they are few."""
    return int(np.clip(round(_VIEWS / views), *_PASSES))


def sart(
    sinogram: Float[np.ndarray, "A D"],
    angles: Float[np.ndarray, " A"],
    iterations: int = 1,
    relaxation: float = 0.15,
    clip: tuple[float, float] = (0.0, 1.0),
    shifts: Float[np.ndarray, " A"] | None = None,
) -> Float[np.ndarray, "D D"]:
    """Simultaneous algebraic reconstruction (Andersen and Kak 1984), float64 [D, D].

    In scikit-image's geometry: pixel D // 2 along either axis and detector D // 2 lie on the centre
    of rotation; shifts: of every view's detectors, in pixels. What lies outside of the circle in
    the image is 0. iterations: passes over all views; clip: the image, after every view.
    """
    columns, degrees = np.asarray(sinogram, float).T, np.asarray(angles, float)
    image = np.zeros((len(columns), len(columns)))
    for _ in range(iterations):
        image = iradon_sart(columns, degrees, image, shifts, clip, relaxation)
    return image


def placed_sart(
    sinogram: Float[np.ndarray, "A D"],
    angles: Float[np.ndarray, " A"],
    shape: Sequence[int],
    centre: Sequence[float] = (0.0, 0.0),
    offset: float = 0.0,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Float[np.ndarray, "H W"]:
    """`sart` of an image of any shape and place, in `passes` of its views.

    centre: of rotation, (rows, columns) in pixels from the image's middle; offset: of all detectors
    from what looks at it, as `coding.operators.parallel_beam` has them. Raises ValueError for fewer
    detectors than pixels along a side.
    """
    sinogram = np.asarray(sinogram, float)
    views, detectors = sinogram.shape
    if detectors < max(shape):
        raise ValueError(f"{detectors} detectors for {tuple(shape)} pixels")
    # Where the centre of rotation is in the image, and in the one that is solved for.
    at = [(side - 1) / 2 + off for side, off in zip(shape, centre, strict=True)]
    first = [round(detectors // 2 - place) for place in at]
    first = [int(np.clip(f, 0, detectors - s)) for f, s in zip(first, shape, strict=True)]
    down, right = (detectors // 2 - f - place for f, place in zip(first, at, strict=True))
    turned = np.deg2rad(np.asarray(angles, float))
    # The ray j of ours is at s = j - (D - 1) / 2 + offset from our centre of rotation.
    middle = offset - (detectors - 1) / 2 + detectors // 2
    shifts = middle + down * np.sin(turned) - right * np.cos(turned)
    image = sart(sinogram, angles, passes(views), clip=clip, shifts=shifts)
    return image[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]
