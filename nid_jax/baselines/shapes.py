"""Signed distances without a dictionary: between samples, or by the planes that points lie in."""

import numpy as np
from jaxtyping import Float
from scipy.interpolate import LinearNDInterpolator

from nid_jax.baselines import scattered

MOST = 4000
"""Samples that are interpolated, at most: tetrahedra between more take long to find."""


def interpolated(
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, " M"],
    wanted: Float[np.ndarray, "P D"],
    seed: int = 0,
) -> Float[np.ndarray, " P"]:
    """Linearly between samples, in their Delaunay tetrahedra; the nearest sample's beyond them.

    Of more samples than `MOST` so many are drawn, by the seed. Distances are in units of those
    given.
    """
    # Arrays of JAX cannot be written, which scipy wants of its own.
    points, values, wanted = (np.array(one, float) for one in (points, values, wanted))
    points, values = scattered.drawn(points, values, MOST, seed)
    found = np.full(len(wanted), np.nan)
    if len(points) > points.shape[1] + 1:
        found = LinearNDInterpolator(points, values)(wanted)
    outside = np.isnan(found)
    found[outside] = scattered.nearest(points, values, wanted[outside])
    return found


def by_planes(
    cloud: Float[np.ndarray, "Q 6"], wanted: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " P"]:
    """Distances from the tangent plane at the nearest oriented point (Hoppe et al. 1992).

    cloud: Q points and their outward unit normals; distances are in the units of the points.
    """
    places, normals = np.asarray(cloud, float)[:, :3], np.asarray(cloud, float)[:, 3:]
    nearest = scattered.nearest(places, np.stack([places, normals], 1), wanted)
    return np.einsum("pd,pd->p", wanted - nearest[:, 0], nearest[:, 1])
