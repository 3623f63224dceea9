"""Signed distances of simple solids in closed form, and how to compose them.

Every function takes points [P, 3] and gives distances [P], negative inside, in the units of the
points. Formulas are those of I. Quilez, "Distance functions".
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def sphere(points: Float[np.ndarray, "*P 3"], radius: float) -> Float[np.ndarray, "*P"]:
    """Ball about the origin."""
    return np.linalg.norm(points, axis=-1) - radius


def box(points: Float[np.ndarray, "*P 3"], half: ArrayLike) -> Float[np.ndarray, "*P"]:
    """Box about the origin; half: half its sides [3]. Exact inside and outside."""
    beyond = np.abs(points) - np.asarray(half)
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return outside + np.minimum(beyond.max(-1), 0)


def ellipsoid(points: Float[np.ndarray, "*P 3"], radii: ArrayLike) -> Float[np.ndarray, "*P"]:
    """Ellipsoid about the origin: exact on its surface, off it within some percent of its size."""
    radii = np.asarray(radii)
    k0 = np.linalg.norm(points / radii, axis=-1)
    k1 = np.linalg.norm(points / radii**2, axis=-1)
    return np.where(k1 > 1e-9, k0 * (k0 - 1) / np.maximum(k1, 1e-9), -radii.min())


def torus(points: Float[np.ndarray, "*P 3"], major: float, minor: float) -> Float[np.ndarray, "*P"]:
    """Torus about the third axis: circle of radius `major`, tube of radius `minor`."""
    ring = np.hypot(points[..., 0], points[..., 1]) - major
    return np.hypot(ring, points[..., 2]) - minor


def capsule(
    points: Float[np.ndarray, "*P 3"], start: ArrayLike, end: ArrayLike, radius: float
) -> Float[np.ndarray, "*P"]:
    """All within `radius` of the segment from start [3] to end [3]."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = end - start
    along = np.clip((points - start) @ axis / max(axis @ axis, 1e-12), 0, 1)
    return np.linalg.norm(points - start - along[..., None] * axis, axis=-1) - radius


def frustum(
    points: Float[np.ndarray, "*P 3"], low: float, high: float, bottom: float, top: float
) -> Float[np.ndarray, "*P"]:
    """Round solid about the second axis, from radius `bottom` at height low to `top` at high."""
    half = (high - low) / 2
    q = np.stack([np.hypot(points[..., 0], points[..., 2]), points[..., 1] - (low + high) / 2], -1)
    k1, k2 = np.array([top, half]), np.array([top - bottom, 2 * half])
    over = np.minimum(q[..., 0], np.where(q[..., 1] < 0, bottom, top))
    ca = np.stack([q[..., 0] - over, np.abs(q[..., 1]) - half], -1)
    along = np.clip(((k1 - q) @ k2) / (k2 @ k2), 0, 1)
    cb = q - k1 + along[..., None] * k2
    sign = np.where((cb[..., 0] < 0) & (ca[..., 1] < 0), -1.0, 1.0)
    return sign * np.sqrt(np.minimum(np.square(ca).sum(-1), np.square(cb).sum(-1)))


def union(*distances: Float[np.ndarray, "*P"]) -> Float[np.ndarray, "*P"]:
    """Of solids: exact outside; inside no larger than the true depth."""
    return np.minimum.reduce(distances)
