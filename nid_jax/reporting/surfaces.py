"""What a fit of shapes leaves besides its codes: meshes, how good they are, pictures of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float
from ml_collections import ConfigDict

from nid_jax.files import atomic_folder
from nid_jax.fitting import meshing
from nid_jax.fitting.fit import Fit
from nid_jax.geometry import shading
from nid_jax.geometry.mesh import zero_levels
from nid_jax.reporting import movies, pictures, viewer
from nid_jax.reporting.mesh_sheets import mesh_sheet
from nid_jax.storage import artefacts
from nid_jax.storage.artefacts import file_name


def meshes_of(
    fit: Fit, layout: dict, resolution: int | Sequence[int], window: Any = None
) -> list[trimesh.Trimesh]:
    """Surfaces of fitted shapes in the cube, at `resolution` samples a side."""
    return fit.mesh(resolution, window, layout["surface"]["truncation"] or None)


def write_surfaces(
    folder: Path,
    fit: Fit,
    measured: Any,
    layout: dict,
    config_fit: ConfigDict,
    others: Mapping[str, Float[np.ndarray, "n N N N 1"]],
) -> dict[str, Any]:
    """meshes/, views/ and shaded.png in a fit's folder. -> numbers for its metrics.json.

    others: name -> distances of a baseline, of the first shapes, which shaded.png shows too.

    Meshes are in the units and axes that the shapes came in; shaded.png shows the first shapes
    upright, truth beside reconstruction where the truth is known; views are simplified ones for
    the report's page.
    """
    wanted = config_fit.mesh
    meshing.check(wanted)
    resolution = wanted.resolution or max(layout["grid"])
    meshes = meshes_of(fit, layout, resolution)
    count = len(meshes)
    names, maps = layout["names"][:count], layout["surface"]["denormalise"][:count]
    meshing.write_meshes(folder / artefacts.MESHES, meshes, names, f".{wanted.format}", maps)
    views = [viewer.viewable(mesh) for mesh in _upright(meshes[: artefacts.VIEWED], layout)]
    meshing.write_meshes(folder / artefacts.VIEWS, views, names[: artefacts.VIEWED], ".glb")
    truths = [measured.mesh(index) if measured.mesh else None for index in range(count)]
    shown = min(count, config_fit.num_pictures)
    if shown:
        sides = _upright(truths[:shown], layout), _upright(meshes[:shown], layout)
        rows = {
            name: _upright(zero_levels(volumes[:shown]), layout) for name, volumes in others.items()
        }
        pictures.save_png(folder / artefacts.SHADED, _sheet(*sides, names, rows))
    scores = meshing.surface_scores(meshes, truths, wanted)
    means = {name: float(np.nanmean(values)) for name, values in scores.items()}
    return {
        **means,
        **{f"{name}_per_signal": values.tolist() for name, values in scores.items()},
        "empty_meshes": sum(not len(mesh.faces) for mesh in meshes),
        "mesh_resolution": resolution,
        "mesh_units": layout["surface"]["units"],
        # Chamfer and its like are in units of the cube, each of which is as many of the mesh's.
        "units_per_cube_unit": [float(abs(np.linalg.det(m)) ** (1 / 3)) for m in maps],
    }


def _upright(meshes, layout):
    """Meshes of the first shapes as pictures show them; None where there is none."""
    ups = layout["surface"]["up"]
    return [
        None if mesh is None else shading.upright(mesh, up)
        for mesh, up in zip(meshes, ups, strict=False)
    ]


def _sheet(truths, meshes, names, others):
    """Truth, reconstruction and error, or reconstructions alone where a truth is not known."""
    if all(truth is not None and len(truth.faces) for truth in truths):
        return mesh_sheet(truths, meshes, names[: len(meshes)], others=others)
    return np.concatenate(list(shading.frames(meshes)), 1)


def render_surfaces(
    folder: Path,
    fit: Fit,
    layout: dict,
    resolution: Sequence[int],
    config: ConfigDict,
    window: Any = None,
) -> int:
    """RENDER/0000_NAME.ply and .png of every shape of a fit. -> how many have a surface."""
    meshes = meshes_of(fit, layout, resolution, window)
    names, maps = layout["names"][: len(meshes)], layout["surface"]["denormalise"][: len(meshes)]
    suffix = f".{config.fit.mesh.format}"
    written = meshing.write_meshes(folder, meshes, names, suffix, maps)
    shown = _upright(meshes, layout)
    for number, (mesh, name) in enumerate(zip(shown, names, strict=True)):
        if len(mesh.faces):
            picture = shading.shade(mesh)
            pictures.save_png(folder / f"{file_name(number, name)}.png", picture)
    return len(written)


def write_sequence(folder: Path, fit: Fit, resolution: Sequence[int], layout: dict) -> None:
    """FOLDER/00000.ply ... of codes on a path, in the cube's own units, and FOLDER.gif."""
    meshes = meshes_of(fit, layout, resolution)
    with atomic_folder(folder) as temporary:
        for number, mesh in enumerate(meshes):
            if len(mesh.faces):
                meshing.write_mesh(temporary / f"{number:05d}.ply", mesh)
    up = layout["surface"]["up"][0]
    shown = [shading.upright(mesh, up) for mesh in meshes]
    movies.write_movie(folder.with_name(f"{folder.name}.gif"), shading.frames(shown))
