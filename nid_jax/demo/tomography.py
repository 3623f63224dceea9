"""Slices from few views: a slider of views and of noise, and SART beside."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse
from skimage.transform import iradon_sart

import nid_jax as nid
from nid_jax.demo import live, pictures

VIEWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
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
        columns = sinogram.reshape(views, -1).T
        sart = iradon_sart(columns, np.arange(views) * 180 / views, clip=(0, 1))
        found = np.asarray(fit.render()[0, ..., 0])
        psnr = [pictures.decibels(one, picture) for one in (found, sart)]
        fine = pictures.fine(picture.shape)
        words = (
            f"slice {number}; {views} views of {len(columns)} detectors, noise {noise:g}%; "
            f"dictionary {psnr[0]:.1f} dB, SART {psnr[1]:.1f} dB"
        )
        rows = columns.T / max(columns.max(), 1e-6)
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
        rays = nid.operators.parallel_beam(shape, views, convention="skimage")
        pixels = nid.operators.sample(shape)
        count, each = rays.num_measurements, rays.run_length or 1
        factors = np.ones((count, each)) if rays.factors is None else np.asarray(rays.factors)
        starts = np.arange(0, count * each + 1, each)
        along = sparse.csr_matrix((factors.ravel(), np.arange(count * each), starts))
        self.through = along @ _interpolation(np.asarray(rays.points), shape)
        """[M, H W], sparse: from the pixels to the sinogram."""
        atoms = np.asarray(dictionary.dictionary(pixels.points))[..., 0]
        seen = self.through @ np.concatenate([np.ones((len(atoms), 1)), atoms], 1)
        self._directions = np.zeros((count, seen.shape[1]))
        self._directions[:, : min(seen.shape)] = np.linalg.qr(seen)[0]
        told = np.asarray((self.through.T @ self._directions).T, np.float32)
        self.operator = nid.operators.matrix(told) @ pixels

    def told(self, sinogram: Float[np.ndarray, " M"]) -> Float[np.ndarray, " N"]:
        """What `operator` measures of the slice that a sinogram is of."""
        return np.asarray(sinogram @ self._directions, np.float32)


def _interpolation(points: Float[np.ndarray, "Q 2"], shape: tuple[int, ...]) -> Any:
    """Bilinear, as a sparse matrix [Q, H * W]."""
    place = (np.clip(points, -1, 1) + 1) / 2 * (np.array(shape) - 1)
    low = np.minimum(np.floor(place).astype(int), np.array(shape) - 2)
    part = place - low
    rows, columns, values = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            rows.append(np.arange(len(points)))
            columns.append((low[:, 0] + down) * shape[1] + low[:, 1] + right)
            values.append(weight)
    index = np.concatenate(rows), np.concatenate(columns)
    size = (len(points), shape[0] * shape[1])
    return sparse.csr_matrix((np.concatenate(values), index), size)


def tab(gr: Any, tomography: Tomography) -> None:
    """Draws the tab."""
    with gr.Row():
        number = gr.Slider(1, len(tomography.slices), 1, step=1, label="slice it has never seen")
        views = gr.Radio(VIEWS, value=8, label="views")
        noise = gr.Slider(0, 10, 0, step=0.5, label="noise, % of the largest value")
    with gr.Row():
        labels = ("slice", "sinogram, a row a view", "dictionary", pictures.UNSURE, "SART")
        shown = [live.picture(gr, label) for label in labels]
    line = live.line(gr)
    live.follow(gr, tomography.answer, [number, views, noise], [*shown, line])
