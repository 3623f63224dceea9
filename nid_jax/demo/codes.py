"""The first numbers of a canonical code as sliders, and the training signals that are nearest."""

from typing import Any

import numpy as np
from jaxtyping import Float

import nid_jax as nid
from nid_jax.demo import live, pictures

NUMBERS = 8
NEAREST = 4


class Codes:
    """Signals of codes around the mean of the training codes, by their standard deviations."""

    def __init__(self, dictionary: nid.NeuralDictionary, learned: Float[np.ndarray, "S H W C"]):
        self.dictionary, self.learned = dictionary, learned
        self.known = dictionary.fit(learned)
        codes = np.asarray(self.known.codes)
        self.mean, self.spread = codes.mean(0), codes.std(0) + 1e-12
        self.bias = np.asarray(self.known.bias).mean(0)

    def answer(self, *steps: float) -> tuple[Any, ...]:
        """Pictures of the signal whose first numbers are so many deviations from the mean, and of
        the training signals nearest to it; and a line that names them."""
        moved = np.zeros(len(self.mean), np.float32)
        moved[: len(steps)] = steps
        code = (self.mean + moved * self.spread).astype(np.float32)
        shape = self.dictionary.grid_shape
        fit = nid.Fit.of_codes(self.dictionary.dictionary, code[None], self.bias[None], shape)
        distance = np.linalg.norm(np.asarray(self.known.codes) - code, axis=1)
        near = np.argsort(distance)[:NEAREST]
        drawn = pictures.gray(np.asarray(fit.render(pictures.fine(shape))[0, ..., 0]))
        shown = [pictures.gray(self.learned[number][..., 0]) for number in near]
        words = ", ".join(f"{number + 1} at {distance[number]:.2f}" for number in near)
        moves = [f"number {at + 1} {step:+.1f}" for at, step in enumerate(steps) if step]
        where = ", ".join(moves) or "the mean code"
        return (drawn, *shown, f"{where}; nearest training faces, by distance of codes: {words}")


def tab(gr: Any, codes: Codes) -> None:
    """Draws the tab."""
    with gr.Row():
        with gr.Column():
            sliders = [
                gr.Slider(
                    -4,
                    4,
                    0,
                    step=0.1,
                    label=f"number {place + 1}, standard deviations from the mean",
                )
                for place in range(NUMBERS)
            ]
        with gr.Column():
            drawn = live.picture(gr, "the face of this code")
            with gr.Row():
                near = [live.picture(gr, f"nearest: {place + 1}") for place in range(NEAREST)]
    line = live.line(gr)
    live.follow(gr, codes.answer, sliders, [drawn, *near, line])
