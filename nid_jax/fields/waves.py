"""Waves: a pool of oscillating functions at many places, scales and directions, sampled on a grid.

Two families, each repeated in every direction of colour:

    cosines   products of cosines, of the whole grid and under sine windows of several sizes that
              overlap by half (Malvar 1992): smooth parts and textures
    edges     first and second derivatives of elongated Gaussians, turned and moved about (Figueras
              i Ventura, Vandergheynst & Frossard 2006): what is rarely sparse in cosines

There are more of them than a grid has samples. `training.atoms` keeps those that signals use.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nid_jax.errors import ArgumentError

MOST_VALUES = 8192
"""Of a signal; the pool grows with their square."""

# (window as a share of the grid, 0: none; frequencies below this share of the window's samples in
# the first direction of colour, and in the others).
_COSINES = ((0.0, 0.8, 0.44), (1.0, 0.28, 0.17), (0.5, 0.35, 0.21), (0.25, 0.35, 0.21))
# Standard deviations of edges (along, across) in 32nds of the grid.
_EDGES = ((6.0, 2.0), (4.0, 1.0), (10.0, 2.0))
_TURNS = 8
# Edges stand so many to a side.
_PLACES = 8
# Of an atom that is left after its mean, relative to the largest: less is rounding.
_LEAST = 1e-4


def suit(grid_shape: Sequence[int], channels: int) -> bool:
    """Whether `pool` has waves for such signals."""
    return math.prod(grid_shape) * channels <= MOST_VALUES and len(grid_shape) <= 2


def check_size(grid_shape: Sequence[int], channels: int) -> None:
    """Raise ArgumentError for signals that `pool` has no waves for, before any is read."""
    if suit(grid_shape, channels):
        return
    values = math.prod(grid_shape) * channels
    if values > MOST_VALUES:
        allowed = f"drawn or components for signals of {values} values: the most is {MOST_VALUES}"
        raise ArgumentError("heads", "waves", allowed)
    raise ArgumentError("heads", "waves", "signals of one or two axes; drawn for others")


def pool(
    grid_shape: Sequence[int], colours: Float[np.ndarray, "C C"]
) -> Float[np.ndarray, "N P*C"]:
    """All waves on a grid as rows, free of their channels' means, of unit norm.

    colours: directions of colour as rows, the strongest first, which has more waves than the
    others and all of the edges. -> float32 [N, P C], values as those of signals [*grid, C] in
    raster order. Raises ArgumentError for a grid of more than two axes or of too many values.
    """
    check_size(grid_shape, len(colours))
    families = []
    for number, colour in enumerate(np.asarray(colours, np.float64)):
        waves = [
            cosines(grid_shape, window, first if number == 0 else other)
            for window, first, other in _COSINES
        ]
        if number == 0:
            waves += [edges(grid_shape, along, across) for along, across in _EDGES]
        families += [_unit(family)[:, :, None] * colour for family in waves]
    return np.concatenate([f.reshape(len(f), -1) for f in families]).astype(np.float32)


def cosines(grid_shape: Sequence[int], window: float, band: float) -> Float[np.ndarray, "N ..."]:
    """Products of cosines under windows, the constant left out where there is none.

    window: length as a share of every axis, 0 for all of it without a window; band: frequencies
    with |k| below this share of the window's samples, half turns to a window. -> [N, *grid].
    """
    along = [_cosines_along(count, window, band) for count in grid_shape]
    # [places, frequencies, samples] of each axis; frequencies within a ball.
    radius = [band * (window or 1.0) * count for count in grid_shape]
    waves = []
    for ks in itertools.product(*(range(a.shape[1]) for a in along)):
        inside = sum((k / max(r, 1.0)) ** 2 for k, r in zip(ks, radius, strict=True)) <= 1
        if not inside or (not window and not any(ks)):
            continue
        parts = [a[:, k] for a, k in zip(along, ks, strict=True)]
        product = parts[0]
        for part in parts[1:]:
            product = product[:, None, ..., None] * part[:, None, :]
            product = product.reshape(-1, *product.shape[2:])
        waves.append(product)
    return np.concatenate(waves)


def _cosines_along(count: int, window: float, band: float) -> Float[np.ndarray, "places K N"]:
    length = max(2, 2 * round(window * count / 2)) if window else count
    starts = range(-length // 2, count - length // 2 + 1, length // 2) if window else (0,)
    frequencies = np.arange(max(1, math.ceil(band * length)) + 1)[:, None]
    waves = []
    for start in starts:
        place = (np.arange(count) - start + 0.5) / length
        inside = (place > 0) & (place < 1)
        envelope = np.where(inside, np.sin(math.pi * place), 0.0) if window else 1.0
        waves.append(envelope * np.cos(math.pi * frequencies * place))
    return np.stack(waves)


def edges(grid_shape: Sequence[int], along: float, across: float) -> Float[np.ndarray, "N ..."]:
    """First and second derivatives of Gaussians, in every place and turned in steps.

    along, across: standard deviations in 32nds of the grid's longest axis. On a line there is one
    direction. -> [N, *grid].
    """
    side = max(grid_shape)
    long, wide = along * side / 32, max(across * side / 32, 0.7)
    axes = [np.arange(count, dtype=np.float64) for count in grid_shape]
    step = max(side / _PLACES, 1.0)
    centres = itertools.product(*(np.arange(step / 2 - 0.5, n, step) for n in grid_shape))
    turns = np.pi * np.arange(_TURNS) / _TURNS if len(grid_shape) == 2 else [0.0]
    waves = []
    for centre in centres:
        offsets = np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij")
        for turn in turns:
            over, length = offsets[0], 0.0
            if len(grid_shape) == 2:
                over = np.cos(turn) * offsets[0] - np.sin(turn) * offsets[1]
                length = (np.sin(turn) * offsets[0] + np.cos(turn) * offsets[1]) / long
            over = over / wide
            bump = np.exp(-0.5 * (np.square(over) + np.square(length)))
            waves += [bump * over, bump * (np.square(over) - 1)]
    return np.stack(waves)


def _unit(waves: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "M P"]:
    """Rows free of their mean and of unit norm; those that were next to constant are left out."""
    rows = waves.reshape(len(waves), -1)
    norms = np.linalg.norm(rows, axis=1)
    rows = rows - rows.mean(1, keepdims=True)
    left = np.linalg.norm(rows, axis=1)
    kept = left > _LEAST * norms.max()
    return rows[kept] / left[kept, None]
