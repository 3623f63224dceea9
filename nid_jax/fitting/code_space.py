"""What codes are good for once they exist: paths between two signals, and which are alike."""

import jax.numpy as jnp
import numpy as np

from nid_jax.fitting import rendering

# Points at which signals are compared, and numbers of rendered signals held at a time.
_POINTS = 8192
_NUMBERS = 2**26


def path_between(codes, bias, start, end, frames):
    """Codes on the straight line between two signals of a fit. -> [T, E], [T, C].

    codes [S, E], bias [S, C]; start, end: numbers of signals; frames T, both ends among them.
    Raises ValueError naming fit.interpolate.start, .end or .frames.
    """
    for key, value in (("start", start), ("end", end)):
        if not 0 <= value < len(codes):
            raise ValueError(
                f"fit.interpolate.{key}: {value}; the fit has signals 0 to {len(codes) - 1}"
            )
    if frames < 2:
        raise ValueError(f"fit.interpolate.frames: {frames}; allowed: 2 or more")
    share = np.linspace(0, 1, frames)[:, None]
    return tuple(
        ((1 - share) * ends[start] + share * ends[end]).astype(np.float32) for ends in (codes, bias)
    )


def nearest(dictionary, codes, bias, known_codes, known_bias, count, same=False):
    """Which known signals are most like each signal, by what their codes render.

    Codes themselves mislead: atoms are nearly dependent, so unlike codes may render alike. What is
    compared is the root mean square difference at random points of the cube, the same for all,
    which is the norm of the code's difference under the Gram matrix of the atoms.
    codes [S, E], bias [S, C], known_codes [N, E], known_bias [N, C]; same: both are one fit, of
    which no signal is its own neighbour. -> (indices [S, k], distances [S, k]), nearest first,
    k = count or as many as there are. Raises ValueError naming fit.nearest.count.
    """
    if count < 1:
        raise ValueError(f"fit.nearest.count: {count}; allowed: 1 or more")
    draw = np.random.default_rng(0)
    channels = bias.shape[1]
    points = draw.uniform(-1, 1, (_POINTS, dictionary.dims)).astype(np.float32)

    def rendered(some_codes, some_bias):
        gates = rendering.gates_of(some_codes, some_bias)
        return rendering.render_points(dictionary, gates, points).reshape(len(some_codes), -1)

    mine = rendered(codes, bias)
    size = max(1, _NUMBERS // (_POINTS * channels))
    squares = []
    for first in range(0, len(known_codes), size):
        some = slice(first, first + size)
        theirs = rendered(known_codes[some], known_bias[some])
        # |a - b|^2 without the differences themselves.
        products = np.asarray(jnp.asarray(mine) @ jnp.asarray(theirs).T)
        squares.append(
            np.square(mine).sum(1)[:, None] + np.square(theirs).sum(1)[None] - 2 * products
        )
    distances = np.sqrt(np.maximum(np.concatenate(squares, 1), 0) / mine.shape[1])
    if same:
        np.fill_diagonal(distances, np.inf)
    most = min(count, len(known_codes) - same)
    order = np.argsort(distances, axis=1, kind="stable")[:, :most]
    return order, np.take_along_axis(distances, order, 1)
