"""Grids of signed distances: ours from coarse to fine beside one query for every sample.

    python experiments/preparation.py --scale=smoke|cpu --output=DIR

Writes DIR/table.md and metrics.json: seconds, and errors everywhere, not near the surface only.
"""

import time

import igl
import numpy as np
import trimesh
from measuring import command

from nid_jax.geometry import distance, primitives
from nid_jax.reporting import tables

# Samples along an axis, subdivisions of solids, repeats.
SCALES = {"smoke": (52, 3, 1), "cpu": (128, 6, 3)}
NEAR = 0.05


def sphere(level):
    """-> vertices, faces, distance in closed form."""
    mesh = trimesh.creation.icosphere(level, 0.8)
    return mesh.vertices, mesh.faces, lambda points: primitives.sphere(points, 0.8)


def torus(level):
    """As many faces as the sphere."""
    around = round((20 * 4**level) ** 0.5)
    mesh = trimesh.creation.torus(0.6, 0.25, major_sections=around, minor_sections=around // 2)
    return mesh.vertices, mesh.faces, lambda points: primitives.torus(points, 0.6, 0.25)


def box(level, half=(0.7, 0.5, 0.3), centre=(0, 0, 0)):
    """A box cut into 12 x 4^level faces."""
    mesh = trimesh.creation.box(2 * np.array(half))
    for _ in range(level):
        mesh = mesh.subdivide()
    vertices = np.asarray(mesh.vertices) + centre
    return vertices, mesh.faces, lambda points: primitives.box(points - np.array(centre), half)


def holes(level):
    """The sphere without a tenth of its faces: no closed form of the distance to what is left."""
    vertices, faces, _ = sphere(level)
    return vertices, faces[np.random.default_rng(0).random(len(faces)) > 0.1], None


def flipped(level):
    """The sphere with a twentieth of its faces turned inwards."""
    vertices, faces, exact = sphere(level)
    turned = np.random.default_rng(0).random(len(faces)) < 0.05
    faces = np.array(faces)
    faces[turned] = faces[turned, ::-1]
    return vertices, faces, exact


def open_box(level):
    """The box without its lid."""
    vertices, faces, _ = box(level)
    return vertices, faces[~np.isclose(vertices[faces][..., 2], 0.3).all(1)], None


def overlapping(level):
    """A chair's worth of boxes that cross."""
    corners = [(x, -0.5, z) for x in (-0.4, 0.4) for z in (-0.4, 0.4)]
    parts = [box(level - 1, (0.5, 0.05, 0.5)), box(level - 1, (0.5, 0.4, 0.05), (0, 0.4, 0.45))]
    parts += [box(level - 2, (0.05, 0.5, 0.05), corner) for corner in corners]
    starts = np.cumsum([0] + [len(vertices) for vertices, _, _ in parts])
    vertices = np.concatenate([vertices for vertices, _, _ in parts])
    faces = [part[1] + start for part, start in zip(parts, starts, strict=False)]
    return vertices, np.concatenate(faces), None


SHAPES = {
    "sphere": sphere,
    "torus": torus,
    "box": box,
    "sphere, 10% of faces missing": holes,
    "sphere, 5% of faces flipped": flipped,
    "box without lid": open_box,
    "overlapping boxes": overlapping,
}


def brute(vertices, faces, points):
    """libigl at every point: magnitude of the closest point, sign of the winding number."""
    signed, _, closest, _ = igl.signed_distance(
        points, vertices, faces, igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    )
    return np.where(signed < 0, -1, 1) * np.linalg.norm(points - closest, axis=1)


def timed(call):
    """-> what call() returns, seconds of the clock, seconds of all processors."""
    begun = time.process_time()
    return *command.clocked(call), time.process_time() - begun


def errors(found, truth, near):
    """Absolute errors of magnitudes: everywhere, and where `near`."""
    error = np.abs(np.abs(found) - np.abs(truth))
    return {
        "max": float(error.max()),
        "mean": float(error.mean()),
        "p99.9": float(np.quantile(error, 0.999)),
        "near max": float(error[near].max()),
        "near mean": float(error[near].mean()),
    }


def measure(make, scale):
    """One shape: a dict of seconds and errors."""
    size, level, repeats = scale
    vertices, faces, exact = make(level)
    vertices, faces = np.array(vertices, float), np.array(faces, np.int64)
    axis = np.linspace(-1, 1, size)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    ours, processors = [], []
    # Ours before and after: what else the machine does slows both.
    for number in range(repeats):
        found, *spent = timed(lambda: distance.distance_grid(vertices, faces, size))
        ours.append(spent[0])
        processors.append(spent[1])
        if number == repeats // 2:
            truth, *brutes = timed(lambda: brute(vertices, faces, points))
    seconds = {"ours": ours, "ours, processors": processors}
    seconds |= {"brute": brutes[0], "brute, processors": brutes[1]}
    found = found.reshape(-1).astype(float)
    near = np.abs(truth) < NEAR
    result = {
        "faces": len(faces),
        "seconds": seconds,
        "against brute": errors(found, truth, near),
        "signs that differ": int(((found < 0) != (truth < 0)).sum()),
    }
    if exact:
        closed = exact(points)
        result["against closed form"] = errors(found, closed, near)
        result["brute against closed form"] = errors(truth, closed, near)
    return result


def row_of(name, result):
    """Seconds of both, and their ratio."""
    seconds = result["seconds"]
    ours, processors = np.array(seconds["ours"]), np.array(seconds["ours, processors"])
    return [
        name,
        result["faces"],
        f"{seconds['brute']:.1f}",
        f"{np.median(ours):.1f} ({ours.min():.1f}..{ours.max():.1f})",
        f"{seconds['brute'] / np.median(ours):.1f}",
        f"{seconds['brute, processors'] / np.median(processors):.1f}",
    ]


def table(results):
    """Two tables: seconds, errors."""
    error = []
    for name, result in results.items():
        for against, signs in (("brute", result["signs that differ"]), ("closed form", None)):
            if f"against {against}" in result:
                numbers = [f"{value:.1e}" for value in result[f"against {against}"].values()]
                error.append([name, against, *numbers, signs])
    heads = ["shape", "faces", "brute, s", "ours, s", "ratio", "ratio of processor time"]
    speed = tables.markdown_table([row_of(*one) for one in results.items()], heads)
    keys = ["max", "mean", "99.9%", f"max within {NEAR}", f"mean within {NEAR}"]
    heads = ["error of", "against", *keys, "signs that differ"]
    return f"{speed}\n\n{tables.markdown_table(error, heads)}"


NOTES = """Brute is one libigl query for every sample, signs by winding number. Errors are of
magnitudes, in the cube [-1, 1]^3 (spacing {spacing:.4f}): over the whole grid, and within {near} of
the surface.
Closed forms are of the smooth solid, so they hold what the mesh itself is off.
Ours, s: median of {repeats} (least..most)."""


def run(scale, folder):
    """Run the comparison."""
    results, (size, _, repeats) = {}, SCALES[scale]
    notes = NOTES.format(spacing=2 / (size - 1), near=NEAR, repeats=repeats)
    for name, make in SHAPES.items():
        results[name] = measure(make, SCALES[scale])
        seconds = results[name]["seconds"]
        command.say(f"{name}: brute {seconds['brute']:.1f} s, ours {seconds['ours'][0]:.1f} s")
        title = f"# Signed distances of meshes on {size}^3 samples"
        parts = [title, table(results), notes, command.made()]
        command.write(folder, "\n\n".join(parts), {"results": results})


if __name__ == "__main__":
    command.start(run, "preparation", SCALES)
