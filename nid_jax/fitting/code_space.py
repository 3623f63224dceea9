"""What codes are good for once they exist: paths between two signals, and which are alike."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from nid_jax.errors import ArgumentError
from nid_jax.fitting.fit import Fit

# Points at which signals are compared, and numbers of rendered signals held at a time.
_POINTS = 8192
_NUMBERS = 2**26


def path_between(fit: Fit, start: int, end: int, frames: int) -> Fit:
    """Signals on the straight line between the codes of two signals of a fit, as a fit.

    start, end: numbers of signals; frames T, both ends among them. A correction on a grid is left
    out. Raises ArgumentError for a number of a signal that is not there, or too few frames.
    """
    for argument, value in (("start", start), ("end", end)):
        if not 0 <= value < len(fit):
            raise ArgumentError(argument, value, f"signals 0 to {len(fit) - 1} of the fit")
    if frames < 2:
        raise ArgumentError("frames", frames, "2 or more")
    share = np.linspace(0, 1, frames)[:, None]
    codes, bias = (
        ((1 - share) * ends[start] + share * ends[end]).astype(np.float32)
        for ends in (np.asarray(fit.codes), np.asarray(fit.bias))
    )
    return Fit.of_codes(fit.dictionary, codes, bias, fit.grid_shape)


def nearest(fit: Fit, known: Fit, count: int, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Which known signals are most like each signal of a fit, by what their codes render.

    Codes themselves mislead: atoms are nearly dependent, so unlike codes may render alike. What is
    compared is the root mean square difference at random points of the cube, the same for all,
    which is the norm of the code's difference under the Gram matrix of the atoms.
    same: both are one fit, of which no signal is its own neighbour. -> (indices [S, k], distances
    [S, k]), nearest first, k = count or as many as there are. Raises ArgumentError for count.
    """
    if count < 1:
        raise ArgumentError("count", count, "1 or more")
    draw = np.random.default_rng(0)
    points = draw.uniform(-1, 1, (_POINTS, fit.dictionary.dims)).astype(np.float32)

    def rendered(some):
        # Of the codes alone: a correction is known on its grid only.
        values = dataclasses.replace(some, correction=None).at(points)
        return values.reshape(len(some), -1)

    mine = rendered(fit)
    size = max(1, _NUMBERS // (_POINTS * fit.channels))
    squares = []
    for first in range(0, len(known), size):
        theirs = rendered(known[first : first + size])
        # |a - b|^2 without the differences themselves.
        products = np.asarray(jnp.asarray(mine) @ jnp.asarray(theirs).T)
        squares.append(
            np.square(mine).sum(1)[:, None] + np.square(theirs).sum(1)[None] - 2 * products
        )
    distances = np.sqrt(np.maximum(np.concatenate(squares, 1), 0) / mine.shape[1])
    if same:
        np.fill_diagonal(distances, np.inf)
    most = min(count, len(known) - same)
    order = np.argsort(distances, axis=1, kind="stable")[:, :most]
    return order, np.take_along_axis(distances, order, 1)
