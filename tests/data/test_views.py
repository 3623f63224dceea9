"""What one side of a shape shows."""

import numpy as np
import pytest

from nid_jax.data.views import VIEWS, visible_points, visible_volume

SIDE = 33
AXES = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
BALL = np.sqrt(sum(axis**2 for axis in AXES)) - 0.5


@pytest.mark.parametrize("view", VIEWS)
def test_a_camera_sees_its_own_side(view):
    axis, reverse = VIEWS[view]
    seen = visible_volume(BALL, view, band=0.125)
    column = [SIDE // 2] * 3
    column[axis] = slice(None)
    line = seen[tuple(column)][:: -1 if reverse else 1]
    # The first sample inside the ball is the ninth; it and one more are seen, then nothing.
    np.testing.assert_array_equal(line, np.arange(SIDE) < 11)
    corner = [0] * 3
    corner[axis] = slice(None)
    assert seen[tuple(corner)].all()


def test_points_are_seen_where_their_sample_is():
    draw = np.random.default_rng(4)
    points = draw.uniform(-1, 1, (500, 3))
    seen = visible_points(BALL, points, "above", band=0.1)
    behind = (points[:, 1] < -0.1) & (np.hypot(points[:, 0], points[:, 2]) < 0.4)
    before = points[:, 1] > 0.6
    assert behind.any()
    assert not seen[behind].any()
    assert seen[before].all()
