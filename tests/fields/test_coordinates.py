import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.fields.coordinates import Normalisation, grid, pixel_window, points_at

shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
few = settings(max_examples=40, deadline=None)


def reference(shape):
    """Every point by the formula, one at a time."""
    return np.array(
        [
            [2 * (i / max(n - 1, 1) - 0.5) for i, n in zip(index, shape, strict=True)]
            for index in np.ndindex(shape)
        ]
    )


@few
@given(shapes)
def test_grid_follows_formula_in_raster_order(shape):
    points = grid(shape)
    assert points.dtype == np.float32
    assert points.shape == (np.prod(shape), len(shape))
    np.testing.assert_array_equal(points, reference(shape).astype(np.float32))


@few
@given(st.integers(2, 5000))
def test_axis_ends_on_one_and_is_symmetric(n):
    axis = grid((n,))[:, 0]
    assert axis[0] == -1
    assert axis[-1] == 1
    np.testing.assert_array_equal(axis, -axis[::-1])
    assert (np.diff(axis) > 0).all()


@few
@given(st.data(), shapes)
def test_pixel_window_repeats_the_pixels(data, shape):
    ranges = []
    for n in shape:
        start = data.draw(st.integers(0, n - 1))
        ranges.append((start, data.draw(st.integers(start + 1, n))))
    crop = tuple(slice(*r) for r in ranges)
    expected = reference(shape).reshape(*shape, len(shape))[crop].reshape(-1, len(shape))
    window = pixel_window(shape, *ranges)
    size = tuple(stop - start for start, stop in ranges)
    np.testing.assert_allclose(grid(size, window), expected, atol=1e-7, rtol=0)


@few
@given(st.data(), shapes)
def test_points_at_are_rows_of_the_grid(data, shape):
    indices = data.draw(st.lists(st.integers(0, int(np.prod(shape)) - 1), min_size=1, max_size=8))
    window = tuple((-0.5 - axis, 1.25) for axis in range(len(shape)))
    np.testing.assert_array_equal(
        points_at(shape, indices, window), grid(shape, window)[np.array(indices)]
    )


def test_window_ends_lie_on_samples_outside_the_plane_too():
    points = grid((3, 5), ((-2, 0.5), (0.1, 0.7))).reshape(3, 5, 2)
    np.testing.assert_allclose(points[:, 0, 0], [-2, -0.75, 0.5], atol=1e-7)
    np.testing.assert_allclose(points[0, :, 1], [0.1, 0.25, 0.4, 0.55, 0.7], atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((4, 4), ((0.5, -0.5), (-1, 1))),
        ((4, 4), ((0.5, 0.5), (-1, 1))),
        ((4, 4), ((-1, 1),)),
        ((4, 4), ((-1, np.inf), (-1, 1))),
        ((4, 4), ((np.nan, 1), (-1, 1))),
        ((0, 4), None),
        ((2.5, 4), None),
        ((), None),
    ],
)
def test_bad_grid_is_refused(shape, window):
    with pytest.raises(ValueError, match="window|shape"):
        grid(shape, window)


@pytest.mark.parametrize(
    "ranges", [((0, 4),), ((2, 2), (0, 4)), ((0, 5), (0, 4)), ((-1, 2), (0, 4))]
)
def test_bad_pixel_range_is_refused(ranges):
    with pytest.raises(ValueError, match="range"):
        pixel_window((4, 4), *ranges)


@pytest.mark.parametrize("index", [-1, 16])
def test_index_outside_the_lattice_is_refused(index):
    with pytest.raises(ValueError, match="index"):
        points_at((4, 4), [index])


@few
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_normalisation_fills_the_cube_and_returns(seed, uniform, margin):
    rng = np.random.default_rng(seed)
    extent = 10.0 ** rng.uniform(-3, 3, size=3)
    points = rng.uniform(-1, 1, size=(50, 3)) * extent + rng.normal(size=3) * 1e3
    normalisation = Normalisation.around(points, uniform, margin)
    # What an export reads back is what a run wrote.
    normalisation = Normalisation(**json.loads(json.dumps(normalisation._asdict())))
    inside = normalisation.apply(points)
    assert inside.dtype == np.float32
    reached = np.abs(inside).max(axis=0)
    np.testing.assert_allclose(reached.max() if uniform else reached, 1 - margin, rtol=1e-6)
    np.testing.assert_allclose(inside.min(axis=0), -inside.max(axis=0), atol=1e-6)
    back = normalisation.invert(inside)
    assert (np.abs(back - points) <= 1e-7 * np.array(normalisation.scale)).all()
    if uniform:
        ratio = np.linalg.norm(points[1:] - points[:-1], axis=1) / np.linalg.norm(
            inside[1:].astype(float) - inside[:-1], axis=1
        )
        np.testing.assert_allclose(ratio, normalisation.scale[0], rtol=1e-3)


def test_flat_axis_and_single_point_stay_finite():
    flat = Normalisation.around([[0, 5], [2, 5]], uniform=False)
    np.testing.assert_array_equal(flat.apply([[0, 5], [2, 5]]), [[-1, 0], [1, 0]])
    one = Normalisation.around([[7.0, 8.0]])
    np.testing.assert_array_equal(one.apply([[7, 8]]), [[0, 0]])


@pytest.mark.parametrize(
    ("points", "margin"),
    [(np.zeros((0, 3)), 0), (np.zeros(3), 0), ([[np.nan, 1]], 0), ([[0, 1]], 1), ([[0, 1]], -0.1)],
)
def test_bad_points_or_margin_are_refused(points, margin):
    with pytest.raises(ValueError, match="points|margin"):
        Normalisation.around(points, margin=margin)
