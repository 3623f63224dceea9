"""Phantoms for tomography: random relatives of the Shepp-Logan head, drawn and projected exactly.

A phantom is a sum of ellipses, a float64 array [n, 6] of (intensity, row half-axis, column
half-axis, centre row, centre column, angle). Lengths are in coordinates where the image spans
[-1, 1]^2 by the AREA of its pixels: of N pixels along an axis pixel i covers
[2i/N - 1, 2(i + 1)/N - 1], so that pixel centres stop half a pixel short of +-1. Angles are in
degrees and turn the row axis towards the column axis (counter-clockwise on the screen).

Geometry of a projection, in pixels from the centre of rotation: the ray of angle theta at the
detector position s is (row, column) = (t cos(theta) - s sin(theta), t sin(theta) + s cos(theta))
for all t, and what is measured is the integral of the image over t, in pixel lengths. Letters:
S signals, H rows, W columns, A angles, n ellipses.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from nid_jax.data.collection import ArrayCollection, position
from nid_jax.data.splitting import MADE, SPLITS, configured_size, wanted

DEFAULT_SIZE = (64, 64)

# The modified Shepp-Logan head (Toft, The Radon Transform, 1996): skull, brain, two ventricles,
# six lesions. The original intensities leave the inner parts next to invisible.
SHEPP_LOGAN = np.array(
    [
        [1.0, 0.92, 0.69, 0.0, 0.0, 0.0],
        [-0.8, 0.874, 0.6624, 0.0184, 0.0, 0.0],
        [-0.2, 0.31, 0.11, 0.0, 0.22, -18.0],
        [-0.2, 0.41, 0.16, 0.0, -0.22, 18.0],
        [0.1, 0.25, 0.21, -0.35, 0.0, 0.0],
        [0.1, 0.046, 0.046, -0.1, 0.0, 0.0],
        [0.1, 0.046, 0.046, 0.1, 0.0, 0.0],
        [0.1, 0.023, 0.046, 0.605, -0.08, 0.0],
        [0.1, 0.023, 0.023, 0.606, 0.0, 0.0],
        [0.1, 0.046, 0.023, 0.605, 0.06, 0.0],
    ]
)

# A phantom keeps this far from the middle. From 64x64 pixels on this leaves room for a centre of
# rotation half a pixel off the middle, so that no pixel outside the circle that fits is touched.
RADIUS = 0.95
# How near an inner ellipse may come to the rim of the one around it (1: touches it).
RIM = 0.99
# What lies between the ventricles; both take all they may from the brain's intensity.
GAP = 0.005
MAX_JITTER = 2.0
# What the sums along a row leave of zero.
ROUNDING = 1e-12

# Sub-rows crossed with ellipses at a time while drawing.
_CHUNK = 400_000
_TRIES = 10_000


def random_ellipses(
    generator: np.random.Generator, jitter: float = 1.0
) -> Float[np.ndarray, "10 6"]:
    """A random relative of the Shepp-Logan head, float64 [10, 6].

    jitter scales every deviation; 0 gives the head itself, and at 1 they are, uniformly: the head
    up to 20% smaller along either axis, turned by 15 degrees, moved by 0.05; inside it ellipses
    30% smaller or larger, moved by 0.05, turned by 20 degrees; lesions and brain 50% weaker or
    stronger, skull and ventricles up to 20% and 50% weaker.
    Drawn again until the head lies within RADIUS, the brain within the skull, the rest within the
    brain, and the ventricles apart; then image values are in [0, 1] by construction, with no
    clipping, and the projection is that of the drawn image. generator: numpy's.
    Raises ValueError for a jitter outside [0, 2].
    """
    if not 0 <= jitter <= MAX_JITTER:
        raise ValueError(f"data.phantom.jitter={jitter}: must be between 0 and {MAX_JITTER:g}")
    for _ in range(_TRIES):
        ellipses = _jittered(generator, jitter)
        if _well_formed(ellipses):
            return ellipses
    raise ValueError(f"data.phantom.jitter={jitter}: {_TRIES} random heads, none well formed")


def _jittered(generator, jitter):
    """SHEPP_LOGAN with every parameter disturbed, valid or not."""

    def uniform(low, high, shape=()):
        return jitter * generator.uniform(low, high, shape)

    ellipses = SHEPP_LOGAN.copy()
    # Parts of the head on their own. The skull is thin: the brain hardly moves in it.
    ellipses[1, 1:3] *= 1 + uniform(-0.04, 0.01, 2)
    ellipses[1, 3:5] += uniform(-0.01, 0.01, 2)
    ellipses[2:, 1:3] *= 1 + uniform(-0.3, 0.3, (8, 2))
    ellipses[2:, 3:5] += uniform(-0.05, 0.05, (8, 2))
    ellipses[2:, 5] += uniform(-20, 20, 8)
    skull = 1 + uniform(-0.2, 0)
    brain = 0.2 * (1 + uniform(-0.5, 0.5))
    ellipses[0, 0] = skull
    ellipses[1, 0] = brain - skull
    ellipses[2:4, 0] = -brain * (1 + uniform(-0.5, 0, 2))
    ellipses[4:, 0] *= 1 + uniform(-0.5, 0.5, 6)
    # The head as a whole.
    scale = 1 + uniform(-0.2, 0, 2)
    ellipses[:, 1:3] *= scale
    turn = uniform(-15, 15)
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    ellipses[:, 3:5] = (ellipses[:, 3:5] * scale) @ np.array([[cos, sin], [-sin, cos]])
    ellipses[:, 3:5] += uniform(-0.05, 0.05, 2)
    ellipses[:, 5] += turn
    return ellipses


def _well_formed(ellipses):
    """Whether the parts of a head lie in one another so that values are in [0, 1]."""
    if ellipses[1, 0] + ellipses[0, 0] + ellipses[4:, 0].sum() > 1:  # all lesions on one spot
        return False
    rims = _rims(ellipses)
    if np.linalg.norm(rims[0], axis=-1).max() > RADIUS:
        return False
    if _reach(rims[1], ellipses[0]) > RIM or _reach(rims[2:], ellipses[1]) > RIM:
        return False
    # Convex figures are apart if a line separates them; here one along the head's own row axis.
    angle = np.deg2rad(ellipses[0, 5])
    across = rims[2:4] @ np.array([-np.sin(angle), np.cos(angle)])
    return across[1].max() + GAP < across[0].min()


def _rims(ellipses, points=64):
    """Points on the rims of ellipses [n, 6]; -> [n, points, 2]."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    centres, maps = _as_maps(ellipses, (2, 2))
    return centres[:, None] + np.einsum("nij,pj->npi", maps, circle)


def _reach(points, ellipse):
    """How far out of `ellipse` [6] the farthest of points [..., 2] lies; 1: on its rim."""
    centre, matrix = _as_maps(ellipse, (2, 2))
    return np.linalg.norm((points - centre) @ np.linalg.inv(matrix).T, axis=-1).max()


def _as_maps(ellipses, shape):
    """Ellipses [..., 6] as centres [..., 2] and the matrices [..., 2, 2] that map the disk to them.

    In pixels of an image of `shape` = (rows, columns), from its middle.
    """
    _, rows, columns, centre_rows, centre_columns, angle = np.moveaxis(ellipses, -1, 0)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    half = np.array(shape, float) / 2
    maps = np.stack(
        [np.stack([rows * cos, -columns * sin], -1), np.stack([rows * sin, columns * cos], -1)], -2
    )
    return np.stack([centre_rows, centre_columns], -1) * half, half[:, None] * maps


def draw(
    ellipses: Float[np.ndarray, "*S n 6"], shape: Sequence[int], oversample: int = 8
) -> Float[np.ndarray, "*S H W"]:
    """Phantoms as images of pixel means: ellipses [..., n, 6] -> float64 [..., *shape].

    shape: (rows, columns). Every pixel row is crossed by `oversample` lines, along each of which
    the ellipses' share of every pixel is exact: 8 lines draw heads of 64x64 to a root mean square
    of 0.001, 16 to 0.0004. Ellipses may reach beyond the image.
    """
    ellipses = np.asarray(ellipses, float)
    batch = ellipses.shape[:-2]
    ellipses = ellipses.reshape(-1, *ellipses.shape[-2:])
    step = max(1, _CHUNK // (ellipses.shape[1] * shape[0] * oversample))
    images = np.empty((len(ellipses), *shape))
    for start in range(0, len(ellipses), step):
        chosen = slice(start, start + step)
        images[chosen] = _draw(ellipses[chosen], shape, oversample)
    return images.reshape(*batch, *shape)


def _draw(ellipses, shape, oversample):
    """draw() for ellipses [S, n, 6] all at once."""
    rows, columns = shape
    signals = len(ellipses)
    centres, maps = _as_maps(ellipses, shape)
    lines = (np.arange(rows * oversample) + 0.5) / oversample - rows / 2
    inverse = np.linalg.inv(maps)
    form = np.einsum("snki,snkj->snij", inverse, inverse)[..., None, :, :]  # x form x <= 1
    along = lines - centres[..., :1]
    under_root = form[..., 1, 1] - np.linalg.det(form) * along**2
    reach = np.sqrt(np.maximum(under_root, 0)) / form[..., 1, 1]
    middle = centres[..., 1:] - form[..., 0, 1] / form[..., 1, 1] * along + columns / 2
    # A line enters at one end and leaves at the other: put down what changes from pixel to pixel
    # there and sum along the row, so that the cost is one of ends, not of pixels.
    cell = np.arange(rows * oversample) // oversample + rows * np.arange(signals)[:, None]
    first = np.broadcast_to(cell[:, None] * (columns + 2), reach.shape)
    change = np.zeros(signals * rows * (columns + 2))
    for end, sign in ((middle - reach, 1), (middle + reach, -1)):
        end = np.clip(end, 0, columns)
        pixel = np.floor(end).astype(np.int64)
        share = end - pixel
        amount = sign / oversample * ellipses[..., :1]
        for target, weight in ((pixel, 1 - share), (pixel + 1, share)):
            flat = (first + target).ravel()
            change += np.bincount(flat, (amount * weight).ravel(), len(change))
    images = change.reshape(signals, rows, columns + 2).cumsum(axis=-1)[..., :columns]
    images[np.abs(images) < ROUNDING] = 0
    return images


def project(
    ellipses: Float[np.ndarray, "*S n 6"],
    angles: ArrayLike,
    detectors: int,
    shape: Sequence[int],
    centre: Sequence[float] = (0.0, 0.0),
    offset: float = 0.0,
    spacing: float = 1.0,
) -> Float[np.ndarray, "*S A D"]:
    """Line integrals of phantoms in closed form: ellipses [..., n, 6] -> [..., A, detectors].

    float64, in pixel lengths. angles: [A] degrees; detectors: how many, `spacing` pixels apart, at
    s_j = (j - (detectors - 1)/2 + offset) spacing; shape: (rows, columns) of the image whose pixel
    is the unit of length; centre: (rows, columns) in pixels of the centre of rotation from the
    image's middle. Other programs' centre and offset: coding/operators/conventions.py.
    The chord that a line at the distance q from the centre cuts from the ellipse M(disk), n the
    line's normal, is 2 |det M| sqrt(h^2 - q^2) / h^2 with h = |M^T n|.
    """
    ellipses = np.asarray(ellipses, float)
    theta = np.deg2rad(np.asarray(angles, float))
    normals = np.stack([-np.sin(theta), np.cos(theta)], axis=-1)
    positions = (np.arange(detectors) - (detectors - 1) / 2 + offset) * spacing
    centres, maps = _as_maps(ellipses, shape)
    centres = centres - np.asarray(centre, float)
    total = np.zeros((*ellipses.shape[:-2], len(theta), detectors))
    for number in range(ellipses.shape[-2]):
        matrix = maps[..., number, :, :]
        height = np.square(normals @ matrix).sum(-1)[..., None]  # h^2 [..., A, 1]
        distance = positions - (centres[..., number, :] @ normals.T)[..., None]
        weight = 2 * ellipses[..., number, 0] * np.abs(np.linalg.det(matrix))
        total += weight[..., None, None] * np.sqrt(np.maximum(height - distance**2, 0)) / height
    return total


class Phantoms(ArrayCollection):
    """Drawn phantoms that remember their ellipses, [S, n, 6]."""

    def __init__(
        self,
        ellipses: Float[np.ndarray, "S n 6"],
        shape: Sequence[int],
        names: Sequence[str],
        title: str,
    ):
        values = np.empty((len(ellipses), *shape, 1), np.float32)
        values[..., 0] = np.clip(draw(ellipses, shape), 0, 1)  # rounding alone leaves [0, 1]
        super().__init__(values, names, title)
        self._ellipses = ellipses

    def ellipses(self, index: int) -> Float[np.ndarray, "n 6"]:
        """The ellipses of one signal, float64 [n, 6]; project() takes them."""
        return self._ellipses[position(index, len(self))]


def open_phantoms(config: ConfigDict, split: str, seed: int) -> Phantoms:
    """Random Shepp-Logan heads, one channel; the collection's .ellipses(i) are for project().

    data.size is (rows, columns), default 64x64; data.num_train and data.num_test the numbers of
    phantoms, default 2000 and 20; data.phantom.jitter scales how much they differ (see
    random_ellipses). A phantom is a function of seed, split and its number alone: a longer
    collection begins with the shorter one, and no phantom is in both splits (unless jitter is 0).
    Raises ValueError naming the key.
    """
    size = configured_size(config) or DEFAULT_SIZE
    count = wanted(config, split) or MADE["phantoms"][split]
    jitter = config.phantom.jitter
    ellipses = [
        random_ellipses(np.random.default_rng([seed, SPLITS.index(split), number]), jitter)
        for number in range(count)
    ]
    names = [f"{split}_{number:05d}" for number in range(count)]
    return Phantoms(np.stack(ellipses), size, names, "Shepp-Logan phantoms")
