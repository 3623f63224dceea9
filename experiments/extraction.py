"""Surfaces from few points: sparse extraction beside the whole lattice, by time, points and memory.

    python experiments/extraction.py --scale=smoke|cpu --output=DIR

A shared-trunk dictionary holds a ring as one ridge code. Every resolution is measured in a process
of its own, for peak memory is a process's. The whole lattice goes through the same chunks. Of
lattices of more than 2^22 points only two contiguous pieces are evaluated, one before the sparse
extraction and one after it, and their time is multiplied.
Writes DIR/table.md, metrics.json and figure.png.
"""

import time

import numpy as np
import trimesh
from absl import flags
from flax import nnx
from measuring import command
from measuring.command import clocked
from PIL import Image
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

import nid_jax as nid
from nid_jax import devices
from nid_jax.fields import embeddings
from nid_jax.fields.coordinates import grid, points_at
from nid_jax.fields.experts import Layers
from nid_jax.fields.shared import SharedDictionary
from nid_jax.fitting import meshing, rendering
from nid_jax.fitting.fit import fit_problem
from nid_jax.geometry import level_set, primitives, shading
from nid_jax.reporting import pictures, tables

# Experts, width, Fourier features, points of the fit; resolutions.
SCALES = {
    "smoke": ((128, 96, 128, 2000), (24, 40)),
    "cpu": ((1024, 512, 512, 10000), (64, 128, 256, 512)),
}
TRUNCATION = 0.3
# Of the frequencies of the features, radians per unit of coordinate.
SCALE = 2.0
# Points given to the dictionary at a time.
CHUNK = 2**12
# Points of a lattice that is evaluated in full, and the share of a larger one in each piece.
WHOLE, PIECE = 2**22, 1 / 128


def ring(points):
    """Signed distances of a ring, cut off at `TRUNCATION`."""
    distances = primitives.torus(points[:, [0, 2, 1]], 0.6, 0.24)
    return np.clip(distances, -TRUNCATION, TRUNCATION)


def fitted(size):
    """The ring as one code of a dictionary of random features: points [P, 3] -> distances [P]."""
    num_experts, width, features, count = size
    rngs = nnx.Rngs(0)
    embedding = embeddings.GaussianFourier(3, features, SCALE, rngs=rngs)
    dictionary = SharedDictionary(
        embedding, num_experts, 1, Layers(3, width, "relu", 30.0), rngs=rngs
    )
    draw = np.random.default_rng(0)
    points = draw.uniform(-1, 1, (6 * count, 3))
    # Half of the points where the distance is not cut off.
    near = points[np.abs(ring(points)) < TRUNCATION][: count // 2]
    points = np.concatenate([near, points[: count - len(near)]]).astype(np.float32)
    values = ring(points.astype(np.float64)).astype(np.float32)
    problem = nid.Problem(dictionary, nid.operators.sample(points), values[None, :, None])
    fit = fit_problem(problem, nid.Ridge(lam=1e-8), (2, 2, 2))
    gates = rendering.gates_of(fit.codes, fit.bias)
    return lambda points: meshing.values_at(dictionary, gates, points, CHUNK)[0]


def piece_seconds(distances, resolution, draw):
    """Seconds that a random contiguous piece of the lattice takes, for the whole lattice."""
    count = int(resolution**3 * PIECE)
    start = int(draw.integers(0, resolution**3 - count))
    begun = time.perf_counter()
    for first in range(start, start + count, level_set.CHUNK):
        numbers = np.arange(first, min(first + level_set.CHUNK, start + count))
        distances(points_at([resolution] * 3, numbers))
    return (time.perf_counter() - begun) * resolution**3 / count


def measure_whole(distances, resolution, mesh):
    """The whole lattice and its marching cubes, and whether its surface is the same."""
    values, seconds = clocked(lambda: distances(grid([resolution] * 3)))
    vertices, faces, _, _ = marching_cubes(values.reshape([resolution] * 3), 0.0)
    away, nearest = cKDTree(vertices * 2 / (resolution - 1) - 1).query(mesh[0])
    same = len(faces) == len(mesh[1]) and len(np.unique(nearest)) == len(vertices)
    return {
        "seconds_dense": seconds,
        "dense": "measured",
        "same_triangles": same,
        "farthest_vertex_cells": float(away.max()) * (resolution - 1) / 2,
    }


def measure(size, resolution):
    """One row: sparse extraction and the whole lattice, in this process."""
    distances = fitted(size)
    distances(np.zeros((1, 3)))  # compiles
    base, draw = devices.peak_memory_bytes()["host"], np.random.default_rng(1)
    whole = resolution**3 <= WHOLE
    pieces = [] if whole else [piece_seconds(distances, resolution, draw)]
    (vertices, faces, effort), seconds = clocked(
        lambda: level_set.extract(distances, resolution, search=level_set.Search(bound=TRUNCATION))
    )
    peak = devices.peak_memory_bytes()["host"]
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    row = {
        "resolution": resolution,
        "points": effort.evaluated,
        "points_dense": effort.lattice,
        "seconds": seconds,
        "peak_bytes": peak,
        "base_bytes": base,
        "vertices": len(vertices),
        "faces": len(faces),
        "watertight": bool(mesh.is_watertight),
    }
    if whole:
        row |= measure_whole(distances, resolution, (vertices, faces))
    else:
        pieces.append(piece_seconds(distances, resolution, draw))
        row |= {"seconds_dense": float(np.mean(pieces)), "seconds_dense_pieces": pieces}
        row["dense"] = f"from 2 x 1/{round(1 / PIECE)} of its points"
    return row | {"ratio": row["seconds_dense"] / seconds}, mesh


COLUMNS = {
    "N": lambda row: row["resolution"],
    "points": lambda row: f"{row['points']:,}",
    "of the lattice": lambda row: f"{row['points'] / row['points_dense']:.2%}",
    "seconds": lambda row: f"{row['seconds']:.2f}",
    "whole lattice, s": lambda row: f"{row['seconds_dense']:.1f}, {row['dense']}",
    "ratio": lambda row: f"{row['ratio']:.1f}",
    # In brackets what was held before.
    "peak memory": lambda r: "{} ({})".format(
        *(tables.format_bytes(r[f"{which}_bytes"]) for which in ("peak", "base"))
    ),
    "faces": lambda row: f"{row['faces']:,}",
    "watertight": lambda row: row["watertight"],
    "same as the whole": lambda row: (
        f"{'yes' if row['same_triangles'] else 'no'}, {row['farthest_vertex_cells']:.0e} cells"
        if "same_triangles" in row
        else "not compared"
    ),
}


def table(rows, scale):
    """The rows as Markdown."""
    names = ("experts", "width", "Fourier features", "points in the fit")
    what = ", ".join(f"{name} {size}" for name, size in zip(names, SCALES[scale][0], strict=True))
    parts = [
        f"# Extraction of surfaces, scale {scale}",
        command.made(),
        f"A ring's truncated distances as one code of a shared-trunk dictionary ({what}). "
        "N^3 samples on [-1, 1]^3; seconds without compilation; memory is the peak of a process "
        "that only fits the code and extracts, and in brackets what it held before. The whole "
        "lattice: evaluation alone, in the same chunks.",
        command.table(COLUMNS, rows),
    ]
    return "\n\n".join(parts)


def run(scale, output, only):
    """Measure every resolution in a process of its own, or `only` one, which prints JSON."""
    size, resolutions = SCALES[scale]
    if only:
        row, mesh = measure(size, only)
        pictures.save_png(output / f"{only}.png", shading.shade(mesh, 256))
        command.tell(row)
        return
    options = (f"--scale={scale}", f"--output={output}")
    rows = [command.apart(__file__, *options, f"--resolution={one}") for one in resolutions]
    shown = [output / f"{resolution}.png" for resolution in resolutions]
    images = [np.asarray(Image.open(path)) for path in shown]
    pictures.save_png(output / "figure.png", np.concatenate(images, axis=1))
    for path in shown:
        path.unlink()
    text = table(rows, scale)
    command.write(output, text, {"rows": rows})
    print(text)


if __name__ == "__main__":
    RESOLUTION = flags.DEFINE_integer("resolution", 0, "Measure this one alone; prints JSON.")
    command.start(run, "extraction", SCALES, RESOLUTION)
