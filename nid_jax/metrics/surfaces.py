"""How close a surface is to the true one: meshes, clouds of points, and signed distances.

Distances between meshes are from points drawn evenly by area on one to the nearest point of the
other's triangles (libigl's exact search). Where points are compared with points, a finite sample
of the very same surface is not at distance 0; here it is. Chamfer distances are means of
distances, NOT of their squares.
"""

import igl
import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

SAMPLES = 100_000
"""Points drawn on each mesh."""
THRESHOLD = 0.01
"""Distance within which a point counts as right for the F-score, in units of the meshes."""


def compare(
    mesh: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    samples: int = SAMPLES,
    seed: int = 0,
    threshold: float = THRESHOLD,
) -> dict[str, float]:
    """All measures of a mesh against the true one, `trimesh.Trimesh` both, as a dict of floats.

    chamfer, hausdorff (of the samples and all vertices), both in units of the meshes;
    normal_consistency, with signs and without; fscore, precision, recall at `threshold`;
    accuracy and completeness, the two halves of chamfer: mean distance from the mesh to the
    truth, and back. Where the mesh has no faces distances are infinite and shares 0. Raises
    ValueError where the truth has none.
    """
    _require_faces(truth, "the true mesh")
    if not len(mesh.faces):
        shares = (
            "normal_consistency",
            "normal_consistency_signed",
            "fscore",
            "precision",
            "recall",
        )
        distances = ("chamfer", "hausdorff", "accuracy", "completeness")
        return dict.fromkeys(distances, float("inf")) | dict.fromkeys(shares, 0.0)
    there = _directed(mesh, truth, samples, seed)
    back = _directed(truth, mesh, samples, seed + 1)
    score, precision, recall = fscore_of(there.distance, back.distance, threshold)
    cosines = there.cosine, back.cosine
    found = {
        "chamfer": (there.distance.mean() + back.distance.mean()) / 2,
        "hausdorff": max(there.farthest, back.farthest),
        "normal_consistency": np.mean([np.abs(cosine).mean() for cosine in cosines]),
        "normal_consistency_signed": np.mean([cosine.mean() for cosine in cosines]),
        "fscore": score,
        "precision": precision,
        "recall": recall,
        "accuracy": there.distance.mean(),
        "completeness": back.distance.mean(),
    }
    return {name: float(value) for name, value in found.items()}


def chamfer(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, samples: int = SAMPLES, seed: int = 0
) -> float:
    """Mean of the two directed mean distances between meshes, not squared. -> float."""
    there, back = _both_ways(mesh, truth, samples, seed)
    return float((there.distance.mean() + back.distance.mean()) / 2)


def hausdorff(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, samples: int = SAMPLES, seed: int = 0
) -> float:
    """Largest distance from a vertex or a drawn point of either mesh to the other. -> float.

    A lower bound of the Hausdorff distance, and equal to it where that is taken at a vertex.
    """
    return float(max(way.farthest for way in _both_ways(mesh, truth, samples, seed)))


def normal_consistency(
    mesh: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    samples: int = SAMPLES,
    seed: int = 0,
    signed: bool = False,
) -> float:
    """Mean cosine between normals of triangles at drawn points and at the points nearest to them.

    Both ways, averaged; of its magnitude unless `signed`. -> float, 1 for equal surfaces.
    """
    cosines = [way.cosine for way in _both_ways(mesh, truth, samples, seed)]
    return float(np.mean([(c if signed else np.abs(c)).mean() for c in cosines]))


def fscore(
    mesh: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    threshold: float = THRESHOLD,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """F-score, precision and recall at a distance (Knapitsch et al. 2017). -> three floats."""
    there, back = _both_ways(mesh, truth, samples, seed)
    return fscore_of(there.distance, back.distance, threshold)


def fscore_of(
    there: Float[np.ndarray, " P"], back: Float[np.ndarray, " Q"], threshold: float
) -> tuple[float, float, float]:
    """From distances of a reconstruction to the truth and back: F-score, precision, recall."""
    precision, recall = float((there <= threshold).mean()), float((back <= threshold).mean())
    total = precision + recall
    return (2 * precision * recall / total if total else 0.0), precision, recall


class _Way:
    """Distances and cosines of normals from points on one mesh to another."""

    def __init__(self, distance, cosine, farthest):
        self.distance, self.cosine, self.farthest = distance, cosine, farthest


def _both_ways(mesh, truth, samples, seed):
    _require_faces(mesh, "the mesh")
    _require_faces(truth, "the true mesh")
    return _directed(mesh, truth, samples, seed), _directed(truth, mesh, samples, seed + 1)


def _require_faces(mesh, name):
    if not len(mesh.faces):
        raise ValueError(f"{name} has no faces")


def _directed(start, end, samples, seed):
    points, faces = sampled(start, samples, seed)
    distance, nearest = nearest_on(end, np.concatenate([points, start.vertices[_used(start)]]))
    cosine = (_face_normals(start)[faces] * _face_normals(end)[nearest[:samples]]).sum(1)
    return _Way(distance[:samples], cosine, distance.max())


def _used(mesh):
    """Numbers of the vertices that faces have."""
    return np.unique(mesh.faces)


def _face_normals(mesh):
    """Unit normals of all faces [F, 3], those without area zero."""
    corners = np.asarray(mesh.vertices)[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.where(length > 0, length, 1)


def sampled(
    mesh: trimesh.Trimesh, count: int, seed: int
) -> tuple[Float[np.ndarray, "P 3"], Int[np.ndarray, " P"]]:
    """Points drawn evenly by area -> [count, 3], faces they lie on [count]."""
    generator = np.random.default_rng(seed)
    corners = np.asarray(mesh.vertices)[mesh.faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    cumulative = np.cumsum(area)
    # One draw in each of `count` equal shares of the area: evenly spread, and without bias.
    shares = (np.arange(count) + generator.random(count)) / count
    faces = np.searchsorted(cumulative, shares * cumulative[-1], side="right")
    faces = np.minimum(faces, len(area) - 1)
    root, along = np.sqrt(generator.random(count)), generator.random(count)
    weights = np.stack([1 - root, root * (1 - along), root * along], -1)
    return np.einsum("pk,pkd->pd", weights, corners[faces]), faces


def nearest_on(
    mesh: trimesh.Trimesh, points: Float[np.ndarray, "P 3"]
) -> tuple[Float[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Distances of points [P, 3] to a mesh [P], and the faces that are nearest [P]."""
    squared, faces, _ = igl.point_mesh_squared_distance(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(mesh.vertices, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
    )
    return np.sqrt(np.maximum(squared, 0)), faces


# ---- clouds of points ------------------------------------------------------------------------


def cloud_distances(
    points: Float[np.ndarray, "P D"], truth: Float[np.ndarray, "Q D"]
) -> tuple[
    tuple[Float[np.ndarray, " P"], Int[np.ndarray, " P"]],
    tuple[Float[np.ndarray, " Q"], Int[np.ndarray, " Q"]],
]:
    """From points [P, D] to the nearest of truth [Q, D], and back: (distances, which one) twice."""
    for name, cloud in (("points", points), ("truth", truth)):
        if np.ndim(cloud) != 2 or not len(cloud):
            raise ValueError(f"{name} must be [P, D] with P at least 1, got {np.shape(cloud)}")
    return cKDTree(truth).query(points), cKDTree(points).query(truth)


def cloud_chamfer(points: Float[np.ndarray, "P D"], truth: Float[np.ndarray, "Q D"]) -> float:
    """Mean of the two directed mean distances of clouds, not squared, as in the official code."""
    (there, _), (back, _) = cloud_distances(points, truth)
    return float((there.mean() + back.mean()) / 2)


def cloud_hausdorff(points: Float[np.ndarray, "P D"], truth: Float[np.ndarray, "Q D"]) -> float:
    """Largest distance from a point of either cloud to the other."""
    (there, _), (back, _) = cloud_distances(points, truth)
    return float(max(there.max(), back.max()))


def cloud_normal_consistency(
    points: Float[np.ndarray, "P 3"],
    normals: Float[np.ndarray, "P 3"],
    truth: Float[np.ndarray, "Q 3"],
    truth_normals: Float[np.ndarray, "Q 3"],
    signed: bool = False,
) -> float:
    """Mean cosine between normals [P, 3], [Q, 3] of points nearest to each other, both ways.

    Of its magnitude unless `signed`, as in the official code. Normals may have any length above 0.
    """
    normals, true_normals = (
        np.asarray(one) / np.linalg.norm(one, axis=-1, keepdims=True)
        for one in (normals, truth_normals)
    )
    (_, there), (_, back) = cloud_distances(points, truth)
    cosines = (
        (normals * true_normals[there]).sum(-1),
        (true_normals * normals[back]).sum(-1),
    )
    return float(np.mean([(c if signed else np.abs(c)).mean() for c in cosines]))


# ---- volumes ---------------------------------------------------------------------------------


def iou(
    distances: Float[np.ndarray, "S ..."], truth: Float[np.ndarray, "S ..."]
) -> Float[np.ndarray, " S"]:
    """Volume of the intersection over that of the union, from signed distances at the same points.

    distances, truth: [S, ...], negative inside, points spread evenly over space -> float64 [S].
    1 where both are empty. Raises ValueError where the shapes differ.
    """
    inside, true = _same_shape(distances, truth)
    inside, true = inside < 0, true < 0
    both, either = (inside & true).sum(-1), (inside | true).sum(-1)
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def mesh_iou(
    mesh: trimesh.Trimesh, truth: trimesh.Trimesh, points: Float[np.ndarray, "P 3"]
) -> float:
    """The same of two meshes, by winding numbers at points [P, 3] spread evenly over space."""
    inside = [winding_inside(one, points) for one in (mesh, truth)]
    return float(iou(*(np.where(one, -1.0, 1.0)[None] for one in inside))[0])


def winding_inside(
    mesh: trimesh.Trimesh, points: Float[np.ndarray, "P 3"]
) -> Bool[np.ndarray, " P"]:
    """Which points [P, 3] a mesh winds round (Jacobson et al. 2013), holes or not -> bool [P]."""
    if not len(mesh.faces):
        return np.zeros(len(points), bool)
    return (
        igl.fast_winding_number(
            np.ascontiguousarray(mesh.vertices, np.float64),
            np.ascontiguousarray(mesh.faces, np.int64),
            np.ascontiguousarray(points, np.float64),
        )
        > 0.5
    )


def sdf_error(
    distances: Float[np.ndarray, "S ..."],
    truth: Float[np.ndarray, "S ..."],
    band: float | None = None,
) -> Float[np.ndarray, " S"]:
    """Mean absolute error of signed distances [S, ...] -> float64 [S].

    band: only where the true distance is at most this in magnitude; NaN where it nowhere is.
    Raises ValueError where the shapes differ.
    """
    distances, truth = _same_shape(distances, truth)
    error = np.abs(distances.astype(np.float64) - truth)
    if band is None:
        return error.mean(-1)
    near = np.abs(truth) <= band
    count = near.sum(-1)
    return np.where(count, (error * near).sum(-1) / np.maximum(count, 1), np.nan)


def _same_shape(distances, truth):
    distances, truth = np.asarray(distances), np.asarray(truth)
    if distances.shape != truth.shape or distances.ndim < 2:
        raise ValueError(
            f"distances have shape {distances.shape} and the truth {truth.shape}; "
            "they must be equal, [S, ...]"
        )
    return distances.reshape(len(distances), -1), truth.reshape(len(truth), -1)
