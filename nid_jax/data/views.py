"""What one side of a shape shows: which samples of a volume a depth camera would have measured."""

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

# Name of a view -> axis along which the camera looks, and whether from the axis's upper end.
VIEWS = {
    "left": (0, False),
    "right": (0, True),
    "below": (1, False),
    "above": (1, True),
    "back": (2, False),
    "front": (2, True),
}


def visible_volume(
    distances: Float[np.ndarray, "N N N"], view: str, band: float
) -> Bool[np.ndarray, "N N N"]:
    """Samples on the camera's side of the first surface, and down to `band` behind it.

    distances [N, N, N], negative inside; view: one of `VIEWS`, parallel rays; band in units of
    the cube. -> bool [N, N, N]. As truncated signed distances are fused from depth maps (Curless
    and Levoy 1996): free space is seen, the far side is not.
    """
    axis, reverse = VIEWS[view]
    inside = np.asarray(distances) < 0
    if reverse:
        inside = np.flip(inside, axis)
    count = inside.shape[axis]
    depth = np.arange(count).reshape([-1 if a == axis else 1 for a in range(inside.ndim)])
    first = np.where(inside.any(axis), inside.argmax(axis), count)
    visible = depth < np.expand_dims(first, axis) + band * (count - 1) / 2
    return np.flip(visible, axis) if reverse else visible


def visible_points(
    distances: Float[np.ndarray, "N N N"], points: Float[np.ndarray, "P 3"], view: str, band: float
) -> Bool[np.ndarray, " P"]:
    """Which of points [P, 3] of the cube a view shows, by their nearest sample. -> bool [P]."""
    visible = visible_volume(distances, view, band)
    places = (np.asarray(points, np.float64) + 1) / 2 * (np.array(visible.shape) - 1)
    found = scipy.ndimage.map_coordinates(
        visible.astype(np.uint8), places.T, order=0, mode="nearest"
    )
    return found.astype(bool)
