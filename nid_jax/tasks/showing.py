"""What is shown of a fit of pictures: what was measured of them, what came of it, what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from nid_jax import metrics
from nid_jax.coding.operators import (
    Downsample,
    FanBeam,
    Fourier,
    Operator,
    ParallelBeam,
)
from nid_jax.fitting.fit import Fit
from nid_jax.reporting.panels import Panel, Score
from nid_jax.tasks.task import Measured

MISFIT = "What the fit leaves of the measurements: size of measured less fitted over measured."
SCORES = (
    Score(
        "psnr",
        "PSNR",
        "dB",
        "Peak signal to noise against the truth: 10 dB more, a tenth the squared error.",
        better="high",
    ),
    Score(
        "ssim",
        "SSIM",
        about="Structural similarity to the truth, 1 where they are equal.",
        better="high",
    ),
    Score(
        "lpips",
        "LPIPS",
        about="Perceptual distance from the truth, 0 where they are equal.",
        better="low",
    ),
    Score("relative_residual", "Misfit", "%", about=MISFIT),
)
"""Of pictures."""


def shown_of(config: ConfigDict, reconstruction: Float[np.ndarray, "N *grid C"]) -> int:
    """How many signals are shown: config.fit.num_pictures at most."""
    return min(config.fit.num_pictures, len(reconstruction))


def compared(
    reconstruction: Float[np.ndarray, "N *grid C"],
    truth: Float[np.ndarray, "N *grid C"] | None,
    misfits: Sequence[float] = (),
    unit: bool = True,
    others: Mapping[str, Any] | None = None,
) -> list[Panel]:
    """Truth, reconstruction, those of others, and error; without error where no truth is known.

    misfits: shares of what was measured that each leaves, where no row of residuals says them.
    unit: whether values are those of pictures, 0 black and 1 white; otherwise the range shown is
    that of the values, and is said. others: name -> signals of a baseline, of no more columns.
    """
    beside = list((others or {}).items())
    low, high = (0.0, 1.0) if unit else _range(reconstruction)
    note = "" if unit else f"black {low:.3g}, white {high:.3g}"
    if truth is None:
        captions = [f"misfit {100 * share:.3g}%" for share in misfits]
        row = Panel("reconstruction", reconstruction, low, high, note=note, captions=captions)
        return [row, *(Panel(name, images, low, high) for name, images in beside)]
    pairs = list(zip(reconstruction, truth, strict=True))
    error = [np.abs(np.clip(one, 0, 1) - true).mean(-1, keepdims=True) for one, true in pairs]
    scale = _round_above(np.concatenate([image.ravel() for image in error]))
    return [
        Panel("truth", truth),
        Panel("reconstruction", reconstruction, captions=psnrs([*reconstruction], [*truth])),
        *(Panel(name, some, captions=psnrs(some, [*truth[: len(some)]])) for name, some in beside),
        Panel(
            "error",
            error,
            high=scale,
            palette="heat",
            note=f"|difference|, black 0 to pale yellow {scale:g} and above",
        ),
    ]


def unsure(fit: Fit, count: int) -> list[Panel]:
    """The standard deviation of the first `count` signals, where the fit knows it."""
    if fit.known_deviation is None:
        return []
    values = np.asarray(fit.known_deviation[:count])
    scale = _round_above(values)
    note = f"standard deviation, black 0 to pale yellow {scale:g} and above"
    return [Panel("deviation", values, high=scale, palette="heat", note=note)]


def psnrs(
    reconstruction: Sequence[Float[np.ndarray, "*grid C"]],
    truth: Sequence[Float[np.ndarray, "*grid C"]],
) -> list[str]:
    """PSNR of each picture, in words."""
    pairs = zip(reconstruction, truth, strict=True)
    errors = np.array([np.square(np.clip(one, 0, 1) - true).mean() for one, true in pairs])
    return [f"{value:.1f} dB" for value in np.asarray(metrics.psnr_from_mse(errors))]


def measurements(
    fit: Fit, measured: Measured, count: int, views: int = 0
) -> tuple[list[Panel], list[Panel], list[float]]:
    """Of the first `count` signals: what was measured, what of it the fit leaves, and its share.

    views: of beams. -> (the row of the measurements, before the reconstruction; the row of the
    residual; without that row norms of the residuals over those of the measurements, which are its
    captions otherwise).
    """
    if len(measured.ways) > 1:
        # Measurements of several ways are no rows of one picture.
        return [], [], []
    operator, read = measured.operator, measured.values
    assert read is not None
    values = np.stack([read(index) for index in range(count)])
    weights = None
    if measured.weights is not None:
        weights = np.stack([measured.weights(index) for index in range(count)])
    if operator.weights is not None:
        own = np.asarray(operator.weights)
        own = own if own.ndim == 1 else own[:count]
        weights = own if weights is None else weights * own
    seen = np.broadcast_to(True if weights is None else weights > 0, values.shape[:2])
    left = values - np.asarray(fit[:count].measured_by(operator))
    shares = [
        float(np.linalg.norm(residual[known])) / max(float(np.linalg.norm(value[known])), 1e-12)
        for residual, value, known in zip(left, values, seen, strict=True)
    ]
    before, after = [], []
    layout = _Layout.of(operator, measured.grid_shape, views)
    if layout is not None:
        before.append(layout.panel(values, seen))
        after.append(layout.residual(left, seen, [f"{100 * share:.3g}%" for share in shares]))
    return before, after, [] if after else shares


class _Layout:
    """How the measurements of an operator are a picture."""

    def __init__(self, name, note, picture, square=True, unit=False):
        self.name, self.note, self.picture = name, note, picture
        self.square, self.unit = square, unit

    @classmethod
    def of(cls, operator: Operator, grid_shape: tuple, views: int) -> "_Layout | None":
        """None for measurements that are no picture."""
        if isinstance(operator, ParallelBeam | FanBeam) and views:
            return cls(
                "sinogram",
                "a row for each view, detectors across, in pixel lengths",
                lambda values, seen: _with_nan(values, seen).reshape(views, -1, values.shape[-1]),
                square=False,
            )
        if isinstance(operator, Fourier) and len(grid_shape) == 2:
            return cls(
                "frequencies",
                "log10 of the magnitude, zero in the middle",
                lambda values, seen: np.log10(np.maximum(_spectrum(operator, values, seen), 1e-6)),
            )
        if isinstance(operator, Downsample) and len(grid_shape) == 2:
            factor = round((np.prod(grid_shape) / operator.num_measurements) ** 0.5)
            coarse = tuple(side // factor for side in grid_shape)
            return cls(
                "measured",
                "",
                lambda values, seen: _with_nan(values, seen).reshape(*coarse, -1),
                unit=True,
            )
        at = places(operator, grid_shape)
        if at is None:
            return None
        return cls("measured", "", lambda v, s: scattered(v, s, at, grid_shape), unit=True)

    def panel(self, values, seen):
        images = [self.picture(*pair) for pair in zip(values, seen, strict=True)]
        low, high = (0.0, 1.0) if self.unit else _range(images)
        note = self.note
        if note:
            note = f"{note}; black {low:.3g}, white {high:.3g}"
        return Panel(self.name, images, low, high, note=note, square=self.square, kept=True)

    def residual(self, left, seen, captions):
        """Measurements less what the fit says they should be; below, the share that is left."""
        images = [self.picture(*pair) for pair in zip(left, seen, strict=True)]
        below = "the misfit below"
        if self.name == "frequencies":
            images = [10**image for image in images]
            scale = _round_above(np.concatenate([image.ravel() for image in images]))
            note = f"magnitude of measured less fitted, black 0, pale yellow {scale:g}; {below}"
            return Panel("residual", images, 0, scale, "heat", note, captions)
        scale = _round_above(np.concatenate([np.abs(image).ravel() for image in images]), 0.99)
        note = f"measured less fitted, blue -{scale:g}, white 0, red {scale:g}; {below}"
        return Panel("residual", images, -scale, scale, "balance", note, captions, self.square)


def _with_nan(values, seen):
    return np.where(seen[:, None], values, np.nan)


def _spectrum(operator, values, seen):
    """Magnitudes [rows, columns, C] at the frequencies measured and at their negatives."""
    sides = operator.grid_shape
    real, imaginary = np.split(_with_nan(values, seen), 2)
    size = np.hypot(real, imaginary)
    found = np.full((*sides, values.shape[-1]), np.nan)
    places = np.unravel_index(np.asarray(operator.kept), sides)
    negative = tuple((-place) % side for place, side in zip(places, sides, strict=True))
    found[negative] = size
    found[places] = size
    return np.fft.fftshift(found, axes=(0, 1))


def places(operator: Operator, grid_shape: tuple) -> np.ndarray | None:
    """Flat indices [M] of the grid's points that are measured; None for other measurements."""
    points = np.asarray(operator.points, np.float64)
    if len(grid_shape) != 2 or points.shape[1] != 2:
        return None
    if operator.run_length != 1:
        count = operator.num_measurements
        return np.arange(count) if count == np.prod(grid_shape) and _averages(operator) else None
    sides = np.array(grid_shape)
    exact = (points + 1) / 2 * (sides - 1)
    whole = np.round(exact)
    if np.abs(exact - whole).max(initial=0) > 1e-3:
        return None
    return np.ravel_multi_index(tuple(whole.astype(int).T), grid_shape)


def _averages(operator):
    """Whether a constant is measured as itself: a picture of the same brightness."""
    ones = jnp.ones((operator.num_points, 1), jnp.float32)
    return bool(np.allclose(np.asarray(operator.measure(ones)), 1, atol=1e-3))


def scattered(
    values: Float[np.ndarray, "M C"],
    seen: Bool[np.ndarray, " M"],
    places: np.ndarray,
    grid_shape: tuple,
) -> Float[np.ndarray, "*grid C"]:
    """The picture of values at flat indices of a grid, NaN where none was seen."""
    found = np.full((int(np.prod(grid_shape)), values.shape[-1]), np.nan)
    found[places] = _with_nan(values, seen)
    return found.reshape(*grid_shape, -1)


def _range(images: Any) -> tuple[float, float]:
    """The values between which nearly all of them lie; from 0 where none is much below it."""
    values = np.concatenate([np.asarray(image, float).ravel() for image in images])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.quantile(values, (0.002, 0.998)))
    if 0 <= low < 0.5 * high or -0.1 * high < low < 0:
        low = 0.0
    return low, max(high, low + 1e-12)


def _round_above(values, share=0.99):
    """The round number that most magnitudes lie below."""
    finite = np.asarray(values)[np.isfinite(values)]
    high = float(np.quantile(finite, share)) if finite.size else 1.0
    steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
    return next((step for step in steps if high <= step), steps[-1])
