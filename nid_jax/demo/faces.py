"""Faces of which a part is missing: brushed over, or all but some pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from skimage.restoration import inpaint_biharmonic

import nid_jax as nid
from nid_jax.demo import live, pictures, signals

STROKE = 24
"""How far, of 255, a colour must be from the picture's below it."""


class Faces:
    """What the dictionary makes of a face from the pixels that are seen."""

    def __init__(self, dictionary: nid.NeuralDictionary, faces: Float[np.ndarray, "S H W C"]):
        self.dictionary, self.faces = dictionary, faces[..., 0]

    def answer(
        self, name: str, face: Float[np.ndarray, "H W"], seen: Bool[np.ndarray, "H W"]
    ) -> tuple[Any, ...]:
        """Pictures of what is seen, the most probable face, where it is unsure, and biharmonic
        inpainting; and a line of both errors. Raises ValueError where nothing is seen."""
        if not seen.any():
            raise ValueError("nothing of the face is seen: brush less")
        fit = self.dictionary.fit(face[None], seen=seen, solver=nid.Gaussian())
        shape = pictures.fine(face.shape)
        peer = inpaint_biharmonic(np.where(seen, face, 0), ~seen) if not seen.all() else face
        psnr = [pictures.decibels(one, face) for one in (np.asarray(fit.render()[0, ..., 0]), peer)]
        unsure = fit.deviation()[0, ..., 0]
        words = (
            f"{name}, {seen.mean():.1%} of its pixels; dictionary {psnr[0]:.1f} dB, biharmonic "
            f"{psnr[1]:.1f} dB"
        )
        return (
            pictures.gray(face, ~seen),
            pictures.gray(np.asarray(fit.render(shape)[0, ..., 0])),
            pictures.unsure(unsure),
            pictures.gray(peer),
            words,
        )

    def of_canvas(
        self, number: int, share: float, canvas: dict[str, Any] | None, file: str | None
    ) -> tuple[Any, ...]:
        """`answer` for a face by its number or a file, what share of its pixels is kept, and what
        was brushed over on the canvas."""
        face = self.face(number, file)
        kept = np.random.default_rng(int(number)).random(face.shape) < share / 100
        name = Path(file).name if file else f"face {number}"
        return self.answer(name, face, kept & ~brushed(canvas, face.shape))

    def face(self, number: int, file: str | None) -> Float[np.ndarray, "H W"]:
        """One of the unseen faces, or that of a file."""
        if file:
            return signals.own(file, self.dictionary.grid_shape)[..., 0]
        return self.faces[int(number) - 1]


def brushed(canvas: dict[str, Any] | None, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    """Pixels that strokes cover for half or more: where the canvas is not its background."""
    covered = np.zeros(shape, bool)
    ground, seen = ((canvas or {}).get(name) for name in ("background", "composite"))
    if ground is not None and seen is not None and ground.shape == seen.shape:
        off = np.abs(ground[..., :3].astype(int) - seen[..., :3]).max(-1)
        alpha = (off > STROKE).astype(float)
        rows, columns = (np.arange(side + 1) for side in shape)
        rows, columns = rows * alpha.shape[0] // shape[0], columns * alpha.shape[1] // shape[1]
        sums = np.add.reduceat(np.add.reduceat(alpha, rows[:-1], 0), columns[:-1], 1)
        covered |= sums / np.outer(np.diff(rows), np.diff(columns)) > 0.5
    return covered


def tab(gr: Any, faces: Faces) -> None:
    """Draws the tab."""
    first = pictures.gray(faces.faces[0])
    with gr.Row():
        with gr.Column():
            number = gr.Slider(1, len(faces.faces), 1, step=1, label="face it has never seen")
            share = gr.Slider(2, 100, 20, step=1, label="pixels kept, %")
            file = gr.File(label="or your own picture, or .npy", type="filepath", height=150)
        canvas = gr.ImageEditor(
            value={"background": first, "layers": [], "composite": first},
            label="brush over what is to be missing",
            image_mode="RGBA",
            format="png",
            sources=[],
            transforms=[],
            brush=gr.Brush(default_size=24, colors=["#26468c"], color_mode="fixed"),
            canvas_size=first.shape[1::-1],
            fixed_canvas=True,
            elem_id="faces_canvas",
        )
    with gr.Row():
        labels = ("what is seen; blue is not", "dictionary", pictures.UNSURE, "biharmonic")
        shown = [live.picture(gr, label) for label in labels]
    line = live.line(gr)

    def newly_shown(number: int, file: str | None) -> Any:
        try:
            picture = pictures.gray(faces.face(number, file))
        except (ValueError, OSError):
            return gr.skip()
        return {"background": picture, "layers": [], "composite": picture}

    for event in (number.change, file.change):
        event(newly_shown, [number, file], canvas, **live.EVENTS)
    given = [number, share, canvas, file]
    live.follow(gr, faces.of_canvas, given, [*shown, line])
    # A stroke is an input of the canvas, and no change of it.
    canvas.input(live.timed(faces.of_canvas, len(shown)), given, [*shown, line], **live.EVENTS)
