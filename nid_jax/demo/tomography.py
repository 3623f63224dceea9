"""Slices from few views: a slider of views and of noise, and SART beside."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

import nid_jax as nid
from nid_jax import data
from nid_jax.baselines import tomography as baselines
from nid_jax.coding.grid_operator import matrix_on_grid
from nid_jax.coding.operators import CONVENTIONS
from nid_jax.demo import live, pictures

VIEWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CONVENTION = "skimage"
LEAST_NOISE = 0.05
"""Standard deviation that is reckoned with where there is no noise: what a dictionary leaves."""


class Tomography:
    """What the dictionary makes of a sinogram."""

    def __init__(self, dictionary: nid.NeuralDictionary, slices: Float[np.ndarray, "S H W C"]):
        self.dictionary, self.slices = dictionary, slices
        # Made when a number of views is first asked for.
        self._rays: dict[int, _Rays] = {}

    def answer(self, number: int, views: int, noise: float) -> tuple[Any, ...]:
        """Pictures of the slice, its sinogram, the most probable slice, where it is unsure, and
        SART; and a line of both errors. noise: standard deviation, in % of the largest value."""
        truth = self.slices[int(number) - 1]
        if views not in self._rays:
            self._rays[views] = _Rays(self.dictionary, views)
        rays = self._rays[views]
        clean = rays.through @ truth.reshape(-1)
        deviation = noise / 100 * float(clean.max())
        drawn = np.random.default_rng(int(number)).standard_normal(clean.shape)
        sinogram = clean + deviation * drawn
        solver = nid.Gaussian(noise=max(deviation, LEAST_NOISE))
        fit = self.dictionary.fit(rays.told(sinogram)[None], rays.operator, solver=solver)
        picture = truth[..., 0]
        rows = sinogram.reshape(views, -1)
        place = CONVENTIONS[CONVENTION].placed(picture.shape, rows.shape[1])
        start = time.perf_counter()
        sart = baselines.placed_sart(rows, data.even_angles(views), picture.shape, *place)
        milliseconds = 1e3 * (time.perf_counter() - start)
        found = np.asarray(fit.render()[0, ..., 0])
        psnr = [pictures.decibels(one, picture) for one in (found, sart)]
        fine = pictures.fine(picture.shape)
        words = (
            f"slice {number}; {views} views of {rows.shape[1]} detectors, noise {noise:g}%; "
            f"dictionary {psnr[0]:.1f} dB, SART {psnr[1]:.1f} dB in {milliseconds:.0f} ms"
        )
        rows = rows / max(rows.max(), 1e-6)
        rows = rows[np.arange(picture.shape[0]) * views // picture.shape[0]]
        return (
            pictures.gray(picture),
            pictures.gray(rows),
            pictures.gray(np.asarray(fit.render(fine)[0, ..., 0])),
            pictures.unsure(fit.deviation()[0, ..., 0]),
            pictures.gray(sart),
            words,
        )


class _Rays:
    """Rays from so many views through a slice's pixels, and all that they tell of a code.

    Of M rays a code of E numbers learns no more than along the E + 1 directions that atoms and
    constant span: with orthonormal ones the noise stays white, so the most probable code is the
    same, and every number of views has one size, for which all is compiled once.
    """

    def __init__(self, dictionary: nid.NeuralDictionary, views: int):
        shape = dictionary.grid_shape
        rays = nid.operators.parallel_beam(shape, views, convention=CONVENTION)
        pixels = nid.operators.sample(shape)
        self.through = matrix_on_grid(rays, shape)
        """[M, H W], sparse: from the pixels to the sinogram."""
        atoms = np.asarray(dictionary.dictionary(pixels.points))[..., 0]
        seen = self.through @ np.concatenate([np.ones((len(atoms), 1)), atoms], 1)
        self._directions = np.zeros(seen.shape)
        self._directions[:, : min(seen.shape)] = np.linalg.qr(seen)[0]
        told = np.asarray((self.through.T @ self._directions).T, np.float32)
        self.operator = nid.operators.matrix(told) @ pixels

    def told(self, sinogram: Float[np.ndarray, " M"]) -> Float[np.ndarray, " N"]:
        """What `operator` measures of the slice that a sinogram is of."""
        return np.asarray(sinogram @ self._directions, np.float32)


def tab(gr: Any, tomography: Tomography, opened: Any) -> Callable[[], None]:
    """Draws the tab, first when it is opened. -> what compiles it."""
    gr.Markdown("Choose how many views there are, or add noise: the slice is found from them.")
    with gr.Row():
        number = gr.Slider(1, len(tomography.slices), 1, step=1, label="slice it has never seen")
        views = gr.Radio(VIEWS, value=8, label="views")
        noise = gr.Slider(0, 10, 0, step=0.5, label="noise, % of the largest value")
    with gr.Row():
        labels = ("slice", "sinogram, a row a view", "dictionary", pictures.UNSURE, "SART")
        shown = [live.picture(gr, label) for label in labels]
    line = live.line(gr)
    given = [number, views, noise]
    return live.follow(gr, tomography.answer, given, [*shown, line], [opened])
