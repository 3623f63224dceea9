"""Fan beams: line integrals of ellipses in closed form, another projector, limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from nid_jax.coding import grid_operator, operators
from nid_jax.data import phantoms
from nid_jax.errors import ArgumentError

SHAPE = (40, 30)
# intensity; row and column half-axes, centre row and column, of half the image; degrees.
ELLIPSES = np.array([[1.0, 0.45, 0.3, 0.1, -0.2, 23.0], [0.7, 0.2, 0.5, -0.3, 0.1, -70.0]])
ANGLES = np.array([0.0, 20.0, 77.5, 90.0, 200.0, 271.0, 360.0, -30.0])


def pixels(points, shape=SHAPE):
    """Coordinates as pixels from the middle of the image."""
    return np.asarray(points, np.float64) * (np.array(shape) - 1) / 2


def drawn(points):
    """The ellipses' value at points [P, 2]."""
    where, half = pixels(points), np.array(SHAPE) / 2
    total = np.zeros(len(where))
    for intensity, *axes, row, column, angle in ELLIPSES:
        turn = np.deg2rad(angle)
        there = where / half - [row, column]
        along = there @ [np.cos(turn), np.sin(turn)]
        across = there @ [-np.sin(turn), np.cos(turn)]
        total += intensity * ((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1)
    return total


def ends(angles, position, source, detector, arc):
    """Where rays begin and where they point, [A, D, 2] in pixels, drawn on paper."""
    theta = np.deg2rad(angles)[:, None]
    middle = np.stack([np.cos(theta), np.sin(theta)], -1)
    along = np.stack([-np.sin(theta), np.cos(theta)], -1)
    reach = source + detector
    if arc:
        turn = (position / reach)[None, :, None]
        towards = np.cos(turn) * middle + np.sin(turn) * along
    else:
        towards = reach * middle + position[None, :, None] * along
    return np.broadcast_to(-source * middle, towards.shape), towards


def chords(begin, towards):
    """Line integrals through ELLIPSES: the roots of a quadratic along each ray."""
    half = np.array(SHAPE) / 2
    towards = towards / np.linalg.norm(towards, axis=-1, keepdims=True)
    total = np.zeros(begin.shape[:-1])
    for intensity, *axes, row, column, angle in ELLIPSES:
        turn = np.deg2rad(angle)
        frame = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        to_disk = (frame / np.array(axes)[:, None]) / half
        o = (begin - np.array([row, column]) * half) @ to_disk.T
        d = towards @ to_disk.T
        a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
        total += intensity * 2 * np.sqrt(np.maximum(b**2 - a * c, 0)) / a
    return total


GEOMETRIES = {
    "flat": {"detector_distance": 30.0, "spacing": 2.0},
    "arc": {"detector_distance": 30.0, "spacing": 2.0, "arc": True},
    "through the middle": {},
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_line_integrals_of_ellipses(name):
    """In closed form; the error falls as samples per ray grow."""
    options = GEOMETRIES[name]
    count, source = 37, 60.0
    spacing, behind = options.get("spacing", 1.0), options.get("detector_distance", 0.0)
    position = (np.arange(count) - 18) * spacing
    exact = chords(*ends(ANGLES, position, source, behind, options.get("arc", False)))

    def error(samples):
        operator = operators.fan_beam(SHAPE, ANGLES, count, samples, source, **options)
        found = operator @ drawn(operator.points)[:, None].astype(np.float32)
        return np.sqrt(np.mean((np.asarray(found).reshape(exact.shape) - exact) ** 2))

    errors = [error(samples) for samples in (32, 128, 512)]
    assert exact.max() > 10
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[-1] < 0.06


def test_the_closed_form_of_this_test_is_that_of_parallel_rays():
    """The quadratic along rays from far away gives what phantoms.project gives."""
    far = chords(*ends(ANGLES, np.arange(9) - 4.0, 1e6, 0.0, False))
    near = phantoms.project(ELLIPSES, ANGLES, 9, SHAPE)
    np.testing.assert_allclose(far, near, atol=0.02)


@pytest.mark.parametrize("arc", [False, True])
def test_a_fan_from_far_away_is_parallel(arc):
    angles = [0.0, 33.0, 120.0]
    fan = operators.fan_beam(SHAPE, angles, 40, 16, source_distance=1e7, arc=arc)
    parallel = operators.parallel_beam(SHAPE, angles, 40, 16)
    np.testing.assert_allclose(fan.points, parallel.points, atol=1e-4)
    np.testing.assert_allclose(fan.factors, parallel.factors, atol=1e-3)


def test_positions_of_detectors():
    even = operators.fan_beam(SHAPE, 3, 5, 8, 60.0, 20.0, spacing=1.5)
    position = (np.arange(5) - 2) * 1.5
    given = operators.fan_beam(SHAPE, 3, position, 8, 60.0, 20.0)
    np.testing.assert_array_equal(even.points, given.points)
    # A quarter of a detector aside: views from opposite sides interleave.
    shifted = operators.fan_beam(SHAPE, [0.0, 180.0], position + 0.375, 8, 1e7)
    opposite = -(position + 0.375)
    parallel = operators.fan_beam(SHAPE, [0.0], opposite, 8, 1e7)
    for_sum = np.asarray(shifted.factors).reshape(2, 5, 8).sum(-1)
    np.testing.assert_allclose(for_sum[1], np.asarray(parallel.factors).sum(-1), rtol=1e-4)


def test_defaults():
    operator = operators.fan_beam((6, 9), 4)
    assert operator.num_measurements == 4 * 9
    assert operator.run_length == 9
    # Views over the full turn: the third looks against the first. The middle detector's ray is
    # the middle row or column, there and back.
    runs = np.asarray(operator.points).reshape(4, 9, 9, 2)
    np.testing.assert_allclose(runs[0, 4], runs[2, 4, ::-1], atol=1e-6)
    np.testing.assert_allclose(runs[0, 4, :, 1], 0, atol=1e-6)
    np.testing.assert_allclose(runs[1, 4, :, 0], 0, atol=1e-6)
    # One pixel apart in the middle of the image, however far behind it the detector is.
    behind = operators.fan_beam((6, 9), 4, detector_distance=13.0)
    np.testing.assert_allclose(behind.factors, operator.factors, atol=1e-5)
    inside = np.asarray(operator.factors).ravel() > 0.01
    np.testing.assert_allclose(behind.points[inside], operator.points[inside], atol=1e-6)


def test_constants_measure_the_way_through_the_image():
    """Clipped by the area of the pixels, half a pixel beyond the end samples."""
    operator = operators.fan_beam((4, 6), [0.0, 45.0], [-90.0, 0.0], 7, 40.0)
    ones = np.asarray(operator @ np.ones((operator.num_points, 1), np.float32)).reshape(2, 2)
    np.testing.assert_allclose(ones, [[0, 4], [0, 4 * np.sqrt(2)]], atol=1e-5)


def test_agrees_with_astra():
    """Of pixels of one value each, at fine steps: lengths of rays in pixels."""
    astra = pytest.importorskip("astra", reason="needs astra-toolbox: pip install -e '.[astra]'")
    shape, detectors, source, behind, spacing = (12, 17), 24, 25.0, 10.0, 1.3
    angles = np.array([0.0, 15.0, 100.0, 190.0, 301.0])
    theta = np.deg2rad(angles)
    sine, cosine = np.sin(theta), np.cos(theta)
    # astra's x is the column, its y goes up the rows.
    vectors = np.stack(
        [-source * sine, source * cosine, behind * sine, -behind * cosine]
        + [spacing * cosine, spacing * sine],
        1,
    )
    volume = astra.create_vol_geom(*shape)
    geometry = astra.create_proj_geom("fanflat_vec", detectors, vectors)
    projector = astra.create_projector("line_fanflat", geometry, volume)
    matrix = astra.matrix.get(astra.projector.matrix(projector))
    image = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    theirs = (matrix @ image.ravel()).reshape(len(angles), detectors)
    operator = operators.fan_beam(shape, angles, detectors, 2000, source, behind, spacing)
    nearest = np.rint(pixels(operator.points, shape) + (np.array(shape) - 1) / 2).astype(int)
    ours = np.asarray(operator @ image[tuple(nearest.T)][:, None]).reshape(theirs.shape)
    assert theirs.max() > 5
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_on_a_grid():
    operator = operators.fan_beam((7, 5), 3, samples_per_ray=6)
    image = np.random.default_rng(1).normal(size=(35, 1)).astype(np.float32)
    assert (grid_operator.on_grid(operator, (7, 5)) @ image).shape == (21, 1)
    assert operator.adjoint_error() < 1e-6
    flat = grid_operator.on_grid(operator, (7, 5)) @ jnp.ones((35, 1))
    np.testing.assert_allclose(flat[:, 0], np.asarray(operator.factors).sum(1), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": (4,)}, r"^shape: \(4,\); allowed: \(rows, columns\)"),
        ({"angles": 0}, "^angles: 0; allowed: a whole number"),
        ({"angles": []}, "^angles: "),
        ({"angles": [np.nan]}, "^angles: nan"),
        ({"detectors": -1}, "^detectors: -1"),
        ({"detectors": [-1000.0, 0], "arc": True}, "^detectors: .* below 90 degrees"),
        ({"samples_per_ray": -2}, "^samples_per_ray: -2"),
        ({"source_distance": 2.0}, "^source_distance: 2.0; allowed: 0, or above 2.828"),
        ({"source_distance": np.inf}, "^source_distance: inf"),
        ({"detector_distance": -1.0}, "^detector_distance: -1.0; allowed: finite, 0 or more"),
        ({"spacing": -1.0}, "^spacing: -1.0"),
        ({"spacing": 1.0, "detectors": [0.0]}, "^spacing: 1.0; allowed: 0 beside positions"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ArgumentError, match=says):
        operators.fan_beam(**{"shape": (4, 4), "angles": 3, **options})
