"""Polygons to triangles: concave, with holes, bent, of repeated corners; areas by the shoelace."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nid_jax.geometry.polygons import Polygons, triangulated

# Counted from its notch's side, so that a fan from the first corner covers the notch.
ELL = np.array([(2, 1), (1, 1), (1, 2), (0, 2), (0, 0), (2, 0)], float)
# A square with a square hole and a bridge to it, as formats without holes have it.
KEYHOLE = np.array([(0, 0), (4, 0), (4, 4), (0, 4), (1, 1), (1, 3), (3, 3), (3, 1)], float)
KEYHOLE_ROW = [0, 1, 2, 3, 0, 4, 5, 6, 7, 4]


def flat(points):
    return np.c_[points, np.zeros(len(points))]


def shoelace(points):
    x, y = np.moveaxis(points, -1, 0)
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def areas(vertices, faces):
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return np.cross(b - a, c - a) / 2


def cut(vertices, *rows):
    return triangulated(np.asarray(vertices, float), Polygons.of([list(row) for row in rows]))


def covers(vertices, faces, points):
    """How many triangles each point lies in."""
    count = np.zeros(len(points), int)
    for face in faces:
        a, b, c = vertices[face][:, :2]
        sides = [
            (q - p)[0] * (points - p)[:, 1] - (q - p)[1] * (points - p)[:, 0]
            for p, q in ((a, b), (b, c), (c, a))
        ]
        count += (np.array(sides) > 0).all(0) | (np.array(sides) < 0).all(0)
    return count


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("way", [1, -1])
def test_the_notch_of_an_l_is_not_covered(start, way):
    row = np.roll(np.arange(6), start)[::way]
    found = cut(flat(ELL), row)
    assert (found.left_out, found.crossed, len(found.faces)) == ({}, 0, 4)
    np.testing.assert_allclose(areas(flat(ELL), found.faces).sum(0), [0, 0, 3 * way])
    points = np.random.default_rng(0).uniform(0, 2, (500, 2))
    notch = (points > 1).all(1)
    assert (covers(flat(ELL), found.faces, points) == ~notch).all()


def test_the_other_side_of_a_face_has_the_same_triangles():
    for vertices, row in ((flat(ELL), range(6)), (flat(ELL[[3, 4, 5, 0]]), range(4))):
        there, back = (
            {tuple(sorted(face)) for face in cut(vertices, np.roll(row, shift)[::way]).faces}
            for shift, way in ((0, 1), (2, -1))
        )
        assert there == back


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 30))
def test_any_star_in_any_plane_far_away_keeps_its_area(seed, count):
    draw = np.random.default_rng(seed)
    angles = 2 * np.pi * (np.arange(count) + draw.uniform(0, 0.8, count)) / count
    points = draw.uniform(0.2, 1, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    turn = np.linalg.qr(draw.normal(size=(3, 3)))[0]
    vertices = flat(points) @ turn.T + [691607.25, 5334752.5, 519.0]
    found = cut(vertices, np.roll(np.arange(count), seed))
    assert len(found.faces) == count - 2
    own = areas(vertices, found.faces) @ turn[:, 2]
    expected = shoelace(points)
    np.testing.assert_allclose(own.sum(), expected * np.linalg.det(turn) ** 2, rtol=1e-6)
    assert (own * np.sign(expected) > -1e-8).all()
    assert sorted(set(found.faces.ravel())) == list(range(count))


def test_a_hole_with_a_bridge():
    found = cut(flat(KEYHOLE), KEYHOLE_ROW)
    np.testing.assert_allclose(areas(flat(KEYHOLE), found.faces).sum(0), [0, 0, 12])
    inside = np.array([(2, 2), (1.5, 2.5)])
    assert not covers(flat(KEYHOLE), found.faces, inside).any()
    assert found.crossed == 0


def test_corners_on_a_line_stay():
    """A neighbour may have an edge to them."""
    points = np.array([(2, 1), (1, 1), (1, 2), (0, 2), (0, 0), (0.5, 0), (0.7, 0), (2, 0)])
    found = cut(flat(points), range(8))
    assert set(found.faces.ravel()) == set(range(8))
    np.testing.assert_allclose(areas(flat(points), found.faces).sum(0), [0, 0, 3])
    edges = {
        frozenset(pair) for face in found.faces for pair in zip(face, np.roll(face, 1), strict=True)
    }
    assert {frozenset((i, (i + 1) % 8)) for i in range(8)} <= edges


def test_repeated_corners_are_passed_over_and_what_is_no_surface_is_counted():
    square = flat([(0, 0), (1, 0), (1, 1), (0, 1), (1, 1), (2, 0), (3, 0)])
    found = cut(
        square,
        [0, 1, 1, 2, 4, 3],  # two of its corners twice, one by number and one by place
        [0, 1, 1, 0],
        [0, 1],
        [0, 1, 5, 6],
    )
    np.testing.assert_allclose(areas(square, found.faces).sum(0), [0, 0, 1])
    assert found.left_out == {"of fewer than three corners": 2, "without area": 1}


def test_polygons_that_cross_themselves_are_counted():
    bow = flat([(0, 0), (2, 2), (2, 0), (0, 1)])
    assert cut(bow, range(4)).crossed == 1
    assert cut(flat(ELL), range(6)).crossed == 0


def test_a_bent_polygon_is_cut_along_its_corners():
    points = np.array([(0, 0, 0.3), (1, 0, 0), (1, 1, 0.3), (0.5, 0.4, 0.1), (0, 1, 0)])
    found = cut(points, range(5))
    assert (len(found.faces), found.left_out) == (3, {})
    own = areas(points, found.faces)
    np.testing.assert_allclose(own[:, 2].sum(), shoelace(points[:, :2]))
    assert (own[:, 2] > 0).all()


def test_triangles_stay_as_they_are():
    faces = np.array([(2, 1, 0), (0, 0, 1), (3, 1, 2)])
    found = cut(np.random.default_rng(0).random((4, 3)), *faces)
    np.testing.assert_array_equal(found.faces, faces)


def test_absent_vertices_are_named():
    with pytest.raises(ValueError, match="face 1 has vertex 9, but there are 6"):
        cut(flat(ELL), [0, 1, 2], [0, 1, 9, 2])
