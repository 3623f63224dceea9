import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.fields.coordinates import grid, points_at

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


@pytest.mark.parametrize("index", [-1, 16])
def test_index_outside_the_lattice_is_refused(index):
    with pytest.raises(ValueError, match="index"):
        points_at((4, 4), [index])
