"""The library in one picture: from signals of a kind to a new one, by one small code.

    python experiments/picture.py --output=docs

Writes DIR/picture.png, of the dictionaries that come with the package and of signals that they have
not seen.
"""

import io
from typing import NamedTuple

import matplotlib
import matplotlib.figure
import numpy as np
from measuring import command
from measuring.pictures import write_png
from PIL import Image

import nid_jax as nid
from nid_jax.baselines import images, tomography
from nid_jax.coding.grid_operator import on_grid
from nid_jax.demo import signals
from nid_jax.fields.coordinates import grid
from nid_jax.geometry import shading
from nid_jax.geometry.mesh import watertight_mesh
from nid_jax.metrics import iou, psnr
from nid_jax.reporting.pictures import COLOURS, INK, QUIET

SIDE = 3
"""Signals and experts of a mosaic, along its side."""
NUMBERS = 80
"""Of a code that are drawn."""
FINE = 300
"""Samples along a side of what is drawn of a continuous signal; pixels of a mesh."""
SHARE, VIEWS, SAMPLES = 0.2, 8, 1000
HIDDEN = (0.15, 0.27, 0.55)
SHOWN = {"faces": 6, "phantoms": 2, "chairs": 3}
"""Which of the unseen signals: a face near the median of the first twelve, in decibels and in how
many they are above those of biharmonic inpainting."""
HEADS = (
    "learned once:\nsignals of one kind",
    "\u2192 their dictionary:\ncontinuous experts",
    "then, of a new signal,\nlittle is measured",
    "\u2192 its code,\nsolved in milliseconds",
    "\u2192 the signal of that code,\nat any size",
    "\nwhat it was",
)
RATIOS = (1, 1, 1, 1.25, 1, 1)
DOTS = 140
"""To an inch."""
TONES = 96
"""Of a palette, which keeps the file small."""


class Row(NamedTuple):
    """What the panels of one kind of signal show, and what is written below them."""

    learned: np.ndarray
    experts: np.ndarray
    measured: np.ndarray
    code: np.ndarray
    found: np.ndarray
    truth: np.ndarray
    below: tuple[str, ...]


def faces():
    """A face from some of its pixels."""
    known, truth = opened("faces")
    learned = signals.learned_from(known)
    seen = np.random.default_rng(0).random(truth.shape[:2]) < SHARE
    fit = known.fit(truth[None], seen=seen, solver=nid.Gaussian())
    measured = np.repeat(truth, 3, -1)
    measured[~seen] = HIDDEN
    peer = images.biharmonic(truth, seen)[..., 0]
    return Row(
        mosaic(learned[: SIDE**2, ..., 0]),
        atoms(known, (50, 50)),
        measured,
        numbers(known, fit),
        np.asarray(fit.render((FINE, FINE)))[0, ..., 0],
        truth[..., 0],
        (
            f"{len(learned)} faces of {sides(known)} pixels",
            f"the first {SIDE**2} of {known.num_experts}",
            f"{SHARE:.0%} of its pixels, else blue",
            compared(truth, fit, "biharmonic", peer),
        ),
    )


def slices():
    """A slice from few views."""
    known, truth = opened("phantoms")
    rays = nid.operators.parallel_beam(known.grid_shape, VIEWS, convention="skimage")
    rays = on_grid(rays, known.grid_shape)
    sinogram = np.asarray(rays.measure(truth.reshape(-1, 1)))
    fit = known.fit(sinogram[None], rays, solver=nid.Gaussian(noise=0.05))
    views = sinogram.reshape(VIEWS, -1)
    angles = np.arange(VIEWS) * 180 / VIEWS
    peer = tomography.sart(views, angles, tomography.passes(VIEWS))
    return Row(
        mosaic(signals.learned_from(known)[: SIDE**2, ..., 0]),
        atoms(known, known.grid_shape),
        (views / views.max()).repeat(truth.shape[0] // VIEWS, axis=0),
        numbers(known, fit),
        np.asarray(fit.render((FINE, FINE)))[0, ..., 0],
        truth[..., 0],
        (
            f"{known.signals['count']} slices of {sides(known)} pixels",
            f"the first {SIDE**2} of {known.num_experts}",
            f"X-rays from {VIEWS} sides, a row each",
            compared(truth, fit, "SART", peer),
        ),
    )


def chairs():
    """A chair from few distances to its surface."""
    known, truth = opened("chairs")
    points = np.asarray(grid(known.grid_shape))
    chosen = np.random.default_rng(0).choice(len(points), SAMPLES, replace=False)
    measured = truth.reshape(1, -1, 1)[:, chosen]
    fit = known.fit(measured, nid.operators.sample(points[chosen]), solver=nid.Gaussian())
    camera = shading.Camera.around([surface(truth)])
    learned = signals.unseen(known, 12)
    others = [one for number, one in enumerate(learned) if number != SHOWN["chairs"]]
    overlap = float(iou(np.asarray(fit.render()), truth[None])[0])
    return Row(
        mosaic([shading.shade(surface(one), FINE // SIDE) for one in others[: SIDE**2]], 0),
        atoms(known, (50, 50, 1)),
        scattered(points[chosen], measured[0, :, 0], camera),
        numbers(known, fit),
        shading.shade(fit.mesh(128)[0], FINE, camera),
        shading.shade(surface(truth), FINE, camera),
        (
            f"{known.config.data.num_train} chairs like these",
            f"the first {SIDE**2} of {known.num_experts}, halfway up",
            f"{SAMPLES} distances; red: inside",
            f"overlap (IoU) {overlap:.2f}",
        ),
    )


def opened(name):
    """A dictionary that comes with the package, and a signal that it has not seen."""
    known = nid.load(name)
    return known, signals.unseen(known, SHOWN[name] + 1)[-1]


def sides(known):
    """The size of a dictionary's signals."""
    return "x".join(map(str, known.grid_shape))


def atoms(known, shape):
    """The first experts, each in colours from its least to its most; of volumes a cut [H, W, 1]."""
    window = [(-1, 1)] * 2 + [(0, 0)] * (len(shape) - 2)
    values = np.asarray(known.dictionary(grid(shape, window)))[:, : SIDE**2, 0]
    values = values.T.reshape(-1, *shape[:2])
    values = values / np.abs(values).max((1, 2), keepdims=True)
    return mosaic(matplotlib.colormaps["RdBu_r"](0.5 + values / 2)[..., :3])


def mosaic(images, gap=1):
    """Pictures as a square of pictures."""
    images = np.asarray(images)
    wide = [(0, 0), (gap, gap), (gap, gap)] + [(0, 0)] * (images.ndim - 3)
    images = np.pad(images, wide, constant_values=1)
    rows = images.reshape(SIDE, SIDE, *images.shape[1:])
    return np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)


def numbers(known, fit):
    """A code's first numbers, by their standard deviations in learning."""
    prior = known.prior.first(NUMBERS)
    spread = np.sqrt(np.asarray(prior.variance))
    return (np.asarray(fit.codes[0, :NUMBERS]) - np.asarray(prior.mean)) / spread


def compared(truth, fit, name, peer):
    """PSNR beside that of a method that learns nothing."""
    found, other = (
        float(psnr(np.clip(np.reshape(one, truth.shape), 0, 1)[None], truth[None])[0])
        for one in (np.asarray(fit.render()), peer)
    )
    return f"{found:.1f} dB; {name} {other:.1f} dB"


def surface(distances):
    """The mesh of a grid's distances."""
    return watertight_mesh(distances[..., 0])


def scattered(points, distances, camera):
    """Points as a camera sees them, by their distances: red inside, blue outside."""
    picture = np.ones((FINE, FINE, 3))
    places = (points - camera.centre) @ camera.axes.T
    flat = places[:, :2] * camera.distance / (camera.distance - places[:, 2:]) / camera.half
    colours = matplotlib.colormaps["RdBu"](0.5 + distances / (2 * np.abs(distances).max()))
    for number in np.argsort(places[:, 2]):
        column, row = (flat[number] * (1, -1) + 1) / 2 * FINE
        down, right = (
            slice(max(int(middle) - 2, 0), max(int(middle) + 3, 0)) for middle in (row, column)
        )
        picture[down, right] = colours[number, :3]
    return picture


def drawn(rows):
    """All rows in one figure."""
    figure = matplotlib.figure.Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(len(rows), len(HEADS), width_ratios=RATIOS, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, panel in zip(line, row[:-1], strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if panel.ndim == 1:
                bars(axis, panel)
            else:
                axis.imshow(panel, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        words = (
            *row.below[:3],
            f"the first {NUMBERS} of its numbers",
            row.below[3],
            "never seen before",
        )
        for axis, below in zip(line, words, strict=True):
            axis.set_xlabel(below, fontsize=8, color=QUIET)
    for axis, head in zip(axes[0], HEADS, strict=True):
        axis.set_title(head, fontsize=9.5, color=INK)
    return figure


def bars(axis, values):
    """A code as bars around zero."""
    axis.bar(np.arange(len(values)), values, width=0.8, color=COLOURS[0])
    axis.axhline(0, color=QUIET, linewidth=0.5)
    axis.set(box_aspect=1 / RATIOS[3], xlim=(-1, len(values)))


def run(scale, output):
    """Draw and write it."""
    del scale
    output.mkdir(parents=True, exist_ok=True)
    figure = drawn([faces(), slices(), chairs()])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS, facecolor="white")
    write_png(output / "picture.png", Image.open(content).convert("RGB"), [TONES])


if __name__ == "__main__":
    command.start(run, "picture", ("cpu",))
