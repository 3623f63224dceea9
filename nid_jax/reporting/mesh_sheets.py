"""Meshes side by side on one sheet: truth, reconstruction, and how far one is from the other."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import trimesh
from igl import point_mesh_squared_distance
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from nid_jax.geometry.shading import SIZE, Camera, shade
from nid_jax.reporting.pictures import GAP, INK, PAPER, QUIET, TEXT, font_of, shortened

_NOTHING = "no surface"


def mesh_sheet(
    truth: Sequence[trimesh.Trimesh],
    reconstruction: Sequence[trimesh.Trimesh],
    names: Sequence[str] = (),
    size: int = SIZE,
    scale: float = 0.0,
    others: Mapping[str, Sequence[trimesh.Trimesh]] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Meshes side by side: truth, reconstruction, and the reconstruction coloured by its error.

    truth, reconstruction: S meshes each; names: one above each column; others: name -> meshes of a
    baseline, of S or fewer columns. The error is the distance
    to the truth's surface, coloured from 0 to `scale` (0: a round number that 95% of the error
    lies below). Under each column stands the mean distance. -> uint8 [H, W, 3]. Raises ValueError
    for other than as many reconstructions as truths, at least one.
    """
    if len(truth) != len(reconstruction) or not len(truth):
        raise ValueError(f"{len(truth)} true meshes and {len(reconstruction)} reconstructions")
    errors = [_distances(m, t) for m, t in zip(reconstruction, truth, strict=True)]
    scale = scale or _round_scale(np.concatenate([*errors, [0.0]]))
    cameras = [Camera.around([true]) for true in truth]

    def shaded(meshes):
        pairs = zip(meshes, cameras, strict=False)
        return [shade(mesh, size, camera) for mesh, camera in pairs]

    rows = {"truth": shaded(truth), "reconstruction": shaded(reconstruction)}
    rows |= {name.replace(" ", "\n"): shaded(some) for name, some in (others or {}).items()}
    rows["distance\nto the truth"] = [
        shade(mesh, size, camera, lambda points, true=true: _heat(points, true, scale))
        for true, mesh, camera in zip(truth, reconstruction, cameras, strict=True)
    ]
    captions = [f"{error.mean():.2g}" if len(error) else _NOTHING for error in errors]
    return _laid_out(rows, list(names), captions, scale)


def _distances(mesh, truth):
    """From points drawn on a mesh to the truth; none where either has no faces."""
    if not (len(mesh.faces) and len(truth.faces)):
        return np.empty(0)
    points, _ = trimesh.sample.sample_surface(mesh, 4000, seed=0)
    return _distance_to(truth, points)


def _distance_to(mesh, points):
    squared = point_mesh_squared_distance(
        np.ascontiguousarray(points, np.float64),
        np.ascontiguousarray(mesh.vertices, np.float64),
        np.ascontiguousarray(mesh.faces, np.int64),
    )[0]
    return np.sqrt(np.maximum(squared, 0))


def _round_scale(errors):
    high = float(np.quantile(errors, 0.95))
    steps = [digit * 10.0**power for power in range(-5, 1) for digit in (1, 2, 5)]
    return next((step for step in steps if high <= step), steps[-1])


def _heat(points, truth, scale):
    return _colours(
        _distance_to(truth, points) / scale if len(truth.faces) else np.ones(len(points))
    )


def _colours(shares):
    """From cream over orange to dark red, for numbers in [0, 1]."""
    # matplotlib takes long to import, and most programs that draw no errors do without.
    from matplotlib import colormaps

    return colormaps["YlOrRd"](np.clip(shares, 0, 1))[..., :3]


def _laid_out(rows, names, captions, scale):
    """Rows of pictures with their labels, names above, captions and a colour bar below."""
    font, small = font_of(), font_of(TEXT - 2)
    size = next(iter(rows.values()))[0].shape[0]
    left = 2 * GAP + math.ceil(max(font.getlength(w) for label in rows for w in label.split("\n")))
    top = GAP + (TEXT + GAP // 2 if names else 0)
    bottom = top + len(rows) * size + GAP // 2
    width = left + len(captions) * (size + GAP)
    image = Image.new("RGB", (max(width, left + 300), bottom + 4 * TEXT + GAP), PAPER)
    draw = ImageDraw.Draw(image)
    for row, (label, pictures) in enumerate(rows.items()):
        middle = top + row * size + size / 2
        draw.multiline_text((left - GAP, middle), label, QUIET, font, anchor="rm", align="right")
        for column, picture in enumerate(pictures):
            pixels = np.round(255 * picture).astype(np.uint8)
            corner = (left + column * (size + GAP), top + row * size)
            image.paste(Image.fromarray(pixels), corner)
            if pixels.min() == 255:
                # A blank tile would look like a fault of the page.
                place = (corner[0] + size / 2, corner[1] + size / 2)
                draw.text(place, _NOTHING, QUIET, small, anchor="mm")
    for column, caption in enumerate(captions):
        middle = left + column * (size + GAP) + size / 2
        if column < len(names):
            word = shortened(str(names[column]), size, small)
            draw.text((middle, GAP), word, QUIET, small, "mt")
        draw.text((middle, bottom), caption, INK, font, anchor="mt")
    draw.text((left - GAP, bottom), "mean distance", QUIET, small, anchor="rt")
    if all(caption == _NOTHING for caption in captions):
        return np.asarray(image)
    bar = _colours(np.linspace(0, 1, 160))[None].repeat(10, 0)
    place = (left, bottom + 2 * TEXT + 2)
    image.paste(Image.fromarray(np.round(255 * bar).astype(np.uint8)), place)
    draw.text((left - GAP, place[1] + 5), "distance", QUIET, small, anchor="rm")
    draw.text((left, place[1] + 14), "0", QUIET, small, anchor="lt")
    draw.text((left + 160, place[1] + 14), f"{scale:g} and above", QUIET, small, anchor="mt")
    return np.asarray(image)
