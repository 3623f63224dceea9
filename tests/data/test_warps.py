"""Warped volumes: distances near the surface, clouds on it, copies that repeat."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from nid_jax.data.shapes import ShapeCollection
from nid_jax.data.warps import WarpedVolumes, warped
from nid_jax.geometry.truncation import Truncation

SIDE = 40


@pytest.fixture(scope="module")
def collection():
    """Two tables and three copies of each."""
    return WarpedVolumes(
        ShapeCollection(["tables"], 2, SIDE, Truncation(0.1), seed=3), 3, 0.2, 4, seed=5
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31))
def test_a_ball_stretched_along_one_axis_is_an_ellipsoid(seed):
    draw = np.random.default_rng(seed)
    middle = draw.uniform(-0.25, 0.25)
    axes = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    ball = np.sqrt(sum(axis**2 for axis in axes)) - 0.5
    even = np.array([-1.0, 0.0, 1.0])
    found = warped(ball, np.stack([np.array([-1, middle, 1]), even, even]))
    # Each half of the first axis is stretched by itself; the surface is where the old one was.
    back = np.interp(axes[0], [-1, middle, 1], even)
    inside = back**2 + axes[1] ** 2 + axes[2] ** 2 < 0.25
    near = np.abs(found) > 0.5 * 2 / (SIDE - 1)
    np.testing.assert_array_equal((found < 0)[near], inside[near])
    slopes = np.gradient(found, 2 / (SIDE - 1))
    band = (np.abs(found) < 0.1) & (np.abs(axes[0] - middle) > 0.15)
    length = np.sqrt(sum(np.square(slope) for slope in slopes))[band]
    assert np.abs(length - 1).mean() < 0.06


def test_no_warp_changes_nothing(collection):
    values = collection.collection.untruncated(0)
    even = np.tile(np.linspace(-1, 1, 5), (3, 1))
    slopes = np.gradient(values, 2 / (SIDE - 1))
    length = np.clip(np.sqrt(sum(np.square(slope) for slope in slopes)), 0.5, 2)
    np.testing.assert_allclose(warped(values, even), values / length, atol=1e-5)


def test_originals_come_first_and_copies_differ(collection):
    assert len(collection) == 8
    assert collection.names[:3] == ["table_00000", "table_00001", "table_00000/warp1"]
    np.testing.assert_array_equal(collection[1], collection.collection[1])
    grids = {collection[index].tobytes() for index in range(8)}
    assert len(grids) == 8
    again = WarpedVolumes(collection.collection, 3, 0.2, 4, seed=5)
    np.testing.assert_array_equal(collection[5], again[5])
    other = WarpedVolumes(collection.collection, 3, 0.2, 4, seed=6)
    assert not np.array_equal(collection[5], other[5])
    assert max(np.abs(collection[index]).max() for index in range(8)) == np.float32(0.1)


@pytest.mark.parametrize("index", [1, 4, 7])
def test_clouds_and_near_points_belong_to_the_warped_grid(collection, index):
    grid = collection[index][..., 0].astype(np.float64)
    axis = np.linspace(-1, 1, SIDE)
    value = RegularGridInterpolator([axis] * 3, grid)
    cloud = collection.cloud(index).astype(np.float64)
    points, normals = cloud[:, :3], cloud[:, 3:]
    assert np.abs(value(points)).mean() < 0.01
    rise = value(np.clip(points + 0.02 * normals, -1, 1)) - value(points - 0.02 * normals)
    assert np.median(rise) > 0.02
    near, distances = collection.near(index)
    assert np.abs(value(near.astype(np.float64)) - distances).mean() < 0.01


@pytest.mark.parametrize(
    ("options", "key"),
    [((-1, 0.2, 4), "warps"), ((1, -1, 4), "strength"), ((1, 0.2, 0), "pieces")]
    + [((1, 1000, 4), "strength"), ((1, np.nan, 4), "strength"), ((1, 0.2, SIDE + 1), "pieces")],
)
def test_what_is_wrong_names_its_key(collection, options, key):
    with pytest.raises(ValueError, match=f"data.augment.{key}"):
        WarpedVolumes(collection.collection, *options, seed=0)
