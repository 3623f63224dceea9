"""The pool of waves, against their definitions."""

import numpy as np
import pytest

from nid_jax.errors import ArgumentError
from nid_jax.fields import waves


@pytest.mark.parametrize(("shape", "channels"), [((12, 12), 3), ((9, 13), 1), ((24,), 2)])
def test_a_pool_is_of_unit_rows_without_means_and_spans_more_than_half(shape, channels):
    colours = np.linalg.qr(np.random.default_rng(0).standard_normal((channels, channels)))[0]
    rows = waves.pool(shape, colours)
    values = np.prod(shape) * channels
    assert rows.shape[1] == values
    assert len(rows) > values / 2
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert np.abs(rows.reshape(len(rows), -1, channels).mean(1)).max() < 1e-6
    assert np.linalg.matrix_rank(rows, 1e-3) > values / 2
    # The first direction of colour has most of them, and all edges.
    along = np.square(rows.reshape(len(rows), -1, channels) @ colours.T).sum(1)
    np.testing.assert_allclose(along.max(1), 1, rtol=1e-4)
    counts = np.bincount(along.argmax(1), minlength=channels)
    assert (counts[0] > counts[1:]).all()


def test_cosines_of_the_whole_grid_are_those_of_the_transform():
    found = waves.cosines((8, 10), 0.0, 0.5)
    rows, columns = (np.arange(8) + 0.5) / 8, (np.arange(10) + 0.5) / 10
    expected = [
        np.outer(np.cos(np.pi * i * rows), np.cos(np.pi * j * columns))
        for i in range(8)
        for j in range(10)
        if 0 < (i / 4) ** 2 + (j / 5) ** 2 <= 1
    ]
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_windows_overlap_by_half_and_their_squares_sum_to_one():
    lowest = waves.cosines((16,), 0.5, 0.01)[:5]
    np.testing.assert_allclose(np.square(lowest).sum(0), 1, atol=1e-12)
    assert [np.flatnonzero(w).size for w in lowest] == [4, 8, 8, 8, 4]


def test_edges_turn():
    along, across = 6.0, 2.0
    found = waves.edges((32, 32), along, across).reshape(8, 8, 8, 2, 32, 32)
    # A quarter turn is half of all the steps; the places are turned with it.
    turned = np.rot90(found[2, 3, 0, 1])
    np.testing.assert_allclose(turned, found[4, 2, 4, 1], atol=1e-12)
    # Longer along than across: the second moments of the first, which stands along columns.
    bump = np.abs(found[3, 3, 0, 0])
    rows, columns = np.mgrid[:32, :32] - 13.5
    assert (bump * columns**2).sum() > 4 * (bump * rows**2).sum()


def test_what_has_no_pool_is_refused():
    with pytest.raises(ArgumentError, match="heads: 'waves'; allowed: signals of one or two axes"):
        waves.pool((4, 4, 4), np.eye(1))
    with pytest.raises(ArgumentError, match="12288 values: the most is 8192"):
        waves.pool((64, 64), np.eye(3))
