"""Slices from few views: a slider of views and of noise, and SART beside."""

from typing import Any

import numpy as np
from jaxtyping import Float
from skimage.transform import iradon_sart

import nid_jax as nid
from nid_jax.demo import live, pictures

VIEWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Tomography:
    """What the dictionary makes of a sinogram."""

    def __init__(self, dictionary: nid.NeuralDictionary, slices: Float[np.ndarray, "S H W C"]):
        self.dictionary, self.slices = dictionary, slices
        # A way of measuring for each number of views, made when it is first asked for.
        self._operators: dict[int, Any] = {}

    def answer(self, number: int, views: int, noise: float) -> tuple[Any, ...]:
        """Pictures of the slice, its sinogram, the most probable slice, where it is unsure, and
        SART; and a line of both errors. noise: standard deviation, in % of the largest value."""
        truth = self.slices[int(number) - 1]
        operator, finer = self._operator(views)
        clean = np.asarray(operator.measure(finer @ truth.reshape(-1, 1)))
        deviation = noise / 100 * float(clean.max())
        drawn = np.random.default_rng(int(number)).standard_normal(clean.shape)
        sinogram = (clean + deviation * drawn).astype(np.float32)
        solver = nid.Gaussian(noise=max(deviation, 0.05))
        fit = self.dictionary.fit(sinogram[None], operator, solver=solver)
        picture = truth[..., 0]
        columns = sinogram.reshape(views, -1).T.astype(float)
        angles = np.arange(views) * 180 / views
        sart = iradon_sart(columns, angles, clip=(0, 1))
        found = np.asarray(fit.render()[0, ..., 0])
        psnr = [pictures.decibels(one, picture) for one in (found, sart)]
        shape = pictures.fine(picture.shape)
        words = (
            f"{views} views, {len(columns)} detectors; dictionary {psnr[0]:.1f} dB, "
            f"SART {psnr[1]:.1f} dB"
        )
        rows = columns.T / max(columns.max(), 1e-6)
        rows = rows.repeat(max(picture.shape[0] // len(rows), 1), axis=0)
        return (
            pictures.gray(picture),
            pictures.gray(rows),
            pictures.gray(np.asarray(fit.render(shape)[0, ..., 0])),
            pictures.heat(fit.deviation()[0, ..., 0], 0.2),
            pictures.gray(sart),
            words,
        )

    def _operator(self, views: int) -> tuple[Any, Any]:
        """The rays, and the map from a slice's pixels to the points that they need."""
        if views not in self._operators:
            shape = self.dictionary.grid_shape
            operator = nid.operators.parallel_beam(shape, views, convention="skimage")
            self._operators[views] = operator, _interpolation(np.asarray(operator.points), shape)
        return self._operators[views]


def _interpolation(points: Float[np.ndarray, "Q 2"], shape: tuple[int, ...]) -> Any:
    """Bilinear, as a sparse matrix [Q, H * W]."""
    from scipy import sparse

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
        labels = ("slice", "sinogram", "dictionary", "where it is unsure", "SART")
        shown = [live.picture(gr, label) for label in labels]
    line = live.line(gr, "tomography")
    live.follow(gr, tomography.answer, [number, views, noise], [*shown, line])
