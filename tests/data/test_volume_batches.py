"""Batches of points: values as in the volumes, in memory or mapped, resumed, near surfaces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from nid_jax.data.shapes import ShapeCollection
from nid_jax.data.volume_batches import Sampling, ShuffledGrids, cache_file, point_batches
from nid_jax.fields.coordinates import grid
from nid_jax.geometry.truncation import Truncation

SIDE = 12


@pytest.fixture(scope="module")
def collection():
    """Five small tables."""
    return ShapeCollection(["tables"], 5, SIDE, Truncation(0.2), seed=11)


def places_of(points):
    """Raster numbers of grid points."""
    rounded = np.round((points.astype(np.float64) + 1) / 2 * (SIDE - 1)).astype(int)
    np.testing.assert_allclose(
        grid((SIDE,) * 3)[np.ravel_multi_index(rounded.T, (SIDE,) * 3)], points
    )
    return np.ravel_multi_index(rounded.T, (SIDE,) * 3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, SIDE**3), st.integers(1, 5))
def test_values_are_those_of_the_volumes(collection, seed, count, size):
    batch = next(point_batches(collection, Sampling(size, seed, count)))
    assert batch["points"].shape == (count, 3)
    places = places_of(batch["points"])
    assert len(set(places)) == count
    for row, index in zip(batch["signals"], batch["ids"], strict=True):
        np.testing.assert_array_equal(row, collection[index].reshape(-1, 1)[places])


def test_all_points_of_the_grid_are_drawn_alike(collection):
    batches = point_batches(collection, Sampling(1, 0, 100))
    counts = np.zeros(SIDE**3)
    for _ in range(200):
        np.add.at(counts, places_of(next(batches)["points"]), 1)
    # 20000 draws over 1728 points: 11.6 each; runs of one order are as even as single draws.
    assert counts.min() > 0
    assert counts.max() < 40


def test_mapped_grids_give_the_same_batches_and_are_written_once(collection, tmp_path):
    options = {"near": 0.25, "cloud_points": 7}
    kept = point_batches(collection, Sampling(2, 3, 64, **options))
    mapped = point_batches(collection, Sampling(2, 3, 64, **options), cache=str(tmp_path), memory=0)
    for _ in range(3):
        first, second = next(kept), next(mapped)
        assert first.keys() == second.keys() == {"ids", "points", "signals", "clouds"}
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
    (file,) = tmp_path.iterdir()
    assert file == cache_file(collection, 3, str(tmp_path))
    written = file.stat().st_mtime_ns
    next(point_batches(collection, Sampling(2, 3, 64), cache=str(tmp_path), memory=0))
    assert file.stat().st_mtime_ns == written
    # A file of other volumes is not taken for this one.
    file.unlink()
    np.save(file, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="not the volumes"):
        next(point_batches(collection, Sampling(2, 3, 64), cache=str(tmp_path), memory=0))


def test_grids_too_large_for_memory_need_a_folder(collection):
    with pytest.raises(ValueError, match="data.cache"):
        point_batches(collection, Sampling(2, 0, 64), memory=0)


def test_iteration_goes_on_where_its_state_was_taken(collection):
    batches = point_batches(collection, Sampling(2, 0, 32, 0.5))
    for _ in range(3):
        next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(3)]
    again = point_batches(collection, Sampling(2, 0, 32, 0.5))
    again.set_state(state)
    for batch in expected:
        other = next(again)
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_processes_share_points_and_divide_signals(collection):
    whole = next(point_batches(collection, Sampling(4, 5, 60, 0.5)))
    parts = [
        next(point_batches(collection, Sampling(4, 5, 60, 0.5), share=np.array(places)))
        for places in ([0, 1], [2, 3])
    ]
    for part in parts:
        np.testing.assert_array_equal(part["points"], whole["points"])
    for name in ("ids", "signals"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])


def test_near_points_lie_near_each_shape_with_its_own_distance(collection):
    batch = next(point_batches(collection, Sampling(2, 5, 100, 0.6)))
    assert batch["points"].shape == (100, 3)
    for row, index in enumerate(batch["ids"]):
        some = slice(40 + 30 * row, 70 + 30 * row)
        exact = collection.distances(index, batch["points"][some].astype(np.float64))
        np.testing.assert_allclose(
            batch["signals"][row, some, 0], np.clip(exact, -0.2, 0.2), atol=1e-6
        )
        assert np.abs(exact).mean() < 0.1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_interpolation_is_linear_between_samples(collection, seed):
    draw = np.random.default_rng(seed)
    points = draw.uniform(-1, 1, (40, 3))
    grids = ShuffledGrids(collection, seed % 97)
    found = grids.interpolated([3, 1], points)
    axes = [np.linspace(-1, 1, SIDE)] * 3
    for row, index in zip(found, (3, 1), strict=True):
        expected = RegularGridInterpolator(axes, collection[index][..., 0].astype(np.float64))
        np.testing.assert_allclose(row, expected(points), atol=1e-6)


@pytest.mark.parametrize(("near", "size"), [(-0.1, 2), (1.5, 2), (0.5, 9)])
def test_what_is_wrong_names_its_key(collection, near, size):
    with pytest.raises(ValueError, match="train.near" if size == 2 else "train.batch_size"):
        point_batches(collection, Sampling(size, 0, 10, near))
