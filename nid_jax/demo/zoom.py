"""Zoom without end: the pixels of a signal beside the continuous signal of its code."""

from typing import Any

import numpy as np
from jaxtyping import Float

import nid_jax as nid
from nid_jax.demo import live, pictures

SAMPLES = 160


class Zoom:
    """Windows into fitted signals."""

    def __init__(self, dictionary: nid.NeuralDictionary, signals: Float[np.ndarray, "S H W C"]):
        self.signals, self.fit = signals, dictionary.fit(signals)

    def answer(self, number: int, power: float, row: float, column: float) -> tuple[Any, ...]:
        """Pictures of the window 2^power times as near around (row, column): pixels, and signal."""
        chosen, half = int(number) - 1, 2.0**-power
        middle = np.clip((row, column), -1 + half, 1 - half)
        window = [(float(m - half), float(m + half)) for m in middle]
        drawn = np.asarray(self.fit[chosen : chosen + 1].render((SAMPLES, SAMPLES), window)[0])
        signal = self.signals[chosen]
        places = [
            np.rint((np.linspace(*part, SAMPLES) + 1) / 2 * (side - 1)).astype(int)
            for part, side in zip(window, signal.shape, strict=False)
        ]
        pixels = signal[np.ix_(*places)]
        words = (
            f"face {number}, {2**power:.3g} times as near around row {middle[0]:.2f}, column "
            f"{middle[1]:.2f}; {SAMPLES}x{SAMPLES} points of one code of {self.fit.codes.shape[1]} "
            "numbers"
        )
        return _picture(pixels), _picture(drawn), words


def _picture(values: Float[np.ndarray, "H W C"]) -> np.ndarray:
    values = values if values.shape[-1] == 3 else values[..., :1].repeat(3, axis=-1)
    return pictures.enlarged((np.clip(values, 0, 1) * 255).astype(np.uint8))


def tab(gr: Any, zoom: Zoom) -> None:
    """Draws the tab."""
    with gr.Row():
        number = gr.Slider(1, len(zoom.signals), 1, step=1, label="face it has never seen")
        power = gr.Slider(0, 10, 0, step=0.1, label="how near, powers of 2")
        row = gr.Slider(-1, 1, 0, step=0.01, label="row: top -1, bottom 1")
        column = gr.Slider(-1, 1, 0, step=0.01, label="column: left -1, right 1")
    with gr.Row():
        sides = "x".join(map(str, zoom.signals.shape[1:3]))
        labels = (f"its {sides} pixels", "the continuous signal of its code")
        shown = [live.picture(gr, label) for label in labels]
    line = live.line(gr)
    live.follow(gr, zoom.answer, [number, power, row, column], [*shown, line])
