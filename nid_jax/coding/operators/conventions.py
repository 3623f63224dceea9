"""Geometries of parallel beams by the names of the programs whose sinograms they are.

All turn the same way and count detectors in the same order: the ray of angle theta at detector
position s is (row, col) = (t cos(theta) - s sin(theta), t sin(theta) + s cos(theta)) from the
centre of rotation. They differ in where that centre is, in which detector looks at it, in the unit
of angles and in the order of axes. docs/geometry.md has a drawing.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from nid_jax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Convention:
    """What one program means by a sinogram of line integrals in pixel lengths."""

    centre: str
    """Where the image turns about: 'middle' of its area, or the centre of pixel N // 2 ('upper') or
    (N - 1) // 2 ('lower') along every axis of N pixels."""
    axis: str
    """Which detector of D looks at the centre of rotation: the 'middle', or number D // 2
    ('upper')."""
    radians: bool
    """Whether angles are in radians, not in degrees."""
    layouts: tuple[str, ...]
    """Orders of axes that its arrays have, the usual one first: S signals, A angles, D detectors;
    those of two letters are of one sinogram."""

    def placed(self, shape: tuple[int, ...], detectors: int) -> tuple[tuple[float, float], float]:
        """(centre, offset): of rotation, in pixels (rows, columns) from the middle of the image of
        `shape`; of the detectors' middle, in detectors, from what looks at the centre."""
        odd = {"middle": 0.0, "upper": 0.5, "lower": -0.5}
        rows, columns = (0.0 if side % 2 else odd[self.centre] for side in shape)
        return (rows, columns), (0.0 if detectors % 2 else -odd[self.axis])

    def degrees(self, angles: Float[np.ndarray, " A"]) -> Float[np.ndarray, " A"]:
        """Angles in its unit -> degrees."""
        return np.rad2deg(angles) if self.radians else angles


CONVENTIONS = {
    "ours": Convention("middle", "middle", False, ("SAD", "AD")),
    # skimage.transform.radon and iradon.
    "skimage": Convention("upper", "upper", False, ("DA", "AD", "SAD", "SDA")),
    # create_proj_geom('parallel', 1, D, angles): van Aarle et al., Optics Express 24(22), 2016.
    "astra": Convention("middle", "middle", True, ("AD", "SAD")),
    # tomopy.project and its algebraic methods, whose `center` is D / 2 here: Gursoy et al., J.
    # Synchrotron Radiation 21, 2014.
    "tomopy": Convention("middle", "middle", True, ("ASD", "AD", "SAD")),
    # MATLAB's radon and iradon.
    "matlab": Convention("lower", "middle", False, ("DA", "AD", "DAS", "SAD", "SDA")),
}
"""operator.parallel_beam.convention -> what it says."""


def checked_convention(name: str) -> Convention:
    """A geometry by its name. Raises ArgumentError naming `convention`."""
    if name not in CONVENTIONS:
        raise ArgumentError("convention", name, ", ".join(CONVENTIONS))
    return CONVENTIONS[name]
