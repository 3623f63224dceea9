"""Shapes from few samples of their distances or a cloud of points, and between two shapes."""

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float

import nid_jax as nid
from nid_jax.demo import live
from nid_jax.geometry import shading

SAMPLES = (100, 300, 1000, 3000, 10000)
RESOLUTION = 64
MESHES = 32
"""Files of meshes that are kept; gradio has long copied an older one."""
MATERIAL = trimesh.visual.material.PBRMaterial(
    baseColorFactor=[*shading.CLAY, 1.0], metallicFactor=0.0, roughnessFactor=0.8, doubleSided=True
)


class Shapes:
    """What the dictionary makes of points of a shape."""

    def __init__(self, dictionary: nid.NeuralDictionary, grids: Float[np.ndarray, "S D H W C"]):
        self.dictionary, self.grids = dictionary, grids
        # Inside of the page's own folder, which goes with it.
        inside = os.environ.get("GRADIO_TEMP_DIR")
        self.folder = tempfile.TemporaryDirectory(prefix="shapes_", dir=inside)
        axes = [np.linspace(-1, 1, side, dtype=np.float32) for side in grids.shape[1:4]]
        self.points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        counts = {min(samples, len(self.points)) for samples in SAMPLES}
        # A visitor who asks for what `fit_all` is just fitting waits for that.
        self._alone = {count: threading.Lock() for count in counts}
        self._fitted: dict[int, nid.Fit] = {}
        self._numbers = itertools.count()

    def fits(self, count: int) -> nid.Fit:
        """Of all shapes from `count` samples of each, one of SAMPLES or all there are; made once.

        Shapes that are sampled alike share their equations: all of them take as long as one.
        """
        with self._alone[count]:
            if count not in self._fitted:
                self._fitted[count] = self._fits(count)
            return self._fitted[count]

    def _fits(self, count):
        chosen = np.random.default_rng(0).choice(len(self.points), count, replace=False)
        operator = nid.operators.sample(self.points[chosen])
        sampled = self.grids.reshape(len(self.grids), -1, 1)[:, chosen]
        return self.dictionary.fit(sampled, operator, solver=nid.Gaussian())

    def fit_all(self) -> None:
        """Fits of every number of samples: a visitor who asks for one that is not there yet waits
        until it is compiled."""
        for samples in SAMPLES:
            self.fits(min(samples, len(self.points)))

    def answer(self, number: int, other: int, samples: int, between: float) -> tuple[Any, ...]:
        """A file of the mesh `between` one shape and another, each fitted from as many samples of
        its distances, and of both together; and a line."""
        count = min(samples, len(self.points))
        fit = self.fits(count)[[int(number) - 1, int(other) - 1]]
        share = np.array([1 - between, between], np.float32)
        blend = nid.Fit.of_codes(
            self.dictionary.dictionary,
            (share @ np.asarray(fit.codes))[None],
            (share @ np.asarray(fit.bias))[None],
            self.dictionary.grid_shape,
        )
        mesh = blend.mesh(RESOLUTION)[0]
        if not len(mesh.faces):
            raise ValueError("no surface: take more samples")
        mesh.visual = trimesh.visual.TextureVisuals(material=MATERIAL)
        path = self._path()
        mesh.export(path, include_normals=True)
        way = f"{between:.0%} of the way from shape {number} to {other}"
        words = f"{way}; {count} of {len(self.points)} samples each; {len(mesh.faces)} triangles"
        return str(path), words

    def _path(self):
        """A file of one answer's own; that of long before is deleted."""
        number, folder = next(self._numbers), Path(self.folder.name)
        shutil.rmtree(folder / str(number - MESHES), ignore_errors=True)
        own = folder / str(number)
        own.mkdir()
        return own / "shape.glb"


def tab(gr: Any, shapes: Shapes, opened: Any) -> Callable[[], None]:
    """Draws the tab, first when it is opened. -> what compiles it."""
    gr.Markdown("Move from the one to the other, or turn the mesh with the mouse.")
    count = len(shapes.grids)
    with gr.Row():
        with gr.Column():
            number = gr.Slider(1, count, 1, step=1, label="shape it has never seen")
            other = gr.Slider(1, count, min(2, count), step=1, label="and another")
            between = gr.Slider(0, 1, 0, step=0.05, label="from the one to the other")
            samples = gr.Radio(SAMPLES, value=1000, label="samples of the distance")
        mesh = gr.Model3D(label="its surface, to turn with the mouse", height=420)
    line = live.line(gr)
    given = [number, other, samples, between]
    return live.follow(gr, shapes.answer, given, [mesh, line], [opened])
