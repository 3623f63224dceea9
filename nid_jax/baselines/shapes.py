"""Signed distances without a dictionary: between samples, or by the planes that points lie in."""

import numpy as np
from jaxtyping import Float
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import KDTree

MOST = 4000
"""Samples that are interpolated, at most: tetrahedra between more take long to find."""


def interpolated(
    points: Float[np.ndarray, "M D"],
    values: Float[np.ndarray, " M"],
    wanted: Float[np.ndarray, "P D"],
    seed: int = 0,
) -> Float[np.ndarray, " P"]:
    """Linearly between samples, in their Delaunay tetrahedra; the nearest sample's beyond them.

    Of more samples than `MOST` so many are drawn.
    """
    # Arrays of JAX cannot be written, which scipy wants of its own.
    points, values, wanted = (np.array(one, float) for one in (points, values, wanted))
    if len(points) > MOST:
        chosen = np.random.default_rng(seed).permutation(len(points))[:MOST]
        points, values = points[chosen], values[chosen]
    found = np.full(len(wanted), np.nan)
    if len(points) > points.shape[1] + 1:
        found = LinearNDInterpolator(points, values)(wanted)
    outside = np.isnan(found)
    found[outside] = values[KDTree(points).query(wanted[outside])[1]]
    return found


def by_planes(
    cloud: Float[np.ndarray, "Q 6"], wanted: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " P"]:
    """Distances from the tangent plane at the nearest oriented point (Hoppe et al. 1992).

    cloud: points and their outward normals.
    """
    places, normals = np.asarray(cloud, float)[:, :3], np.asarray(cloud, float)[:, 3:]
    nearest = KDTree(places).query(wanted)[1]
    return np.einsum("pd,pd->p", wanted - places[nearest], normals[nearest])
