"""Which way faces and clouds look: two-sided, inward, mixed, cavities and open surfaces."""

import numpy as np
import pytest
import trimesh

from nid_jax.geometry.orientation import facing, outward

BOX = trimesh.creation.box((2.0, 3.0, 4.0))
BALL = trimesh.creation.icosphere(3)


def joined(*meshes):
    return trimesh.util.concatenate(list(meshes))


def volume(vertices, faces):
    return float(np.linalg.det(np.asarray(vertices)[faces]).sum() / 6)


def inward(mesh):
    return trimesh.Trimesh(mesh.vertices, mesh.faces[:, ::-1], process=False)


def shuffled(faces, seed=0):
    """Faces in another order, each begun at another corner."""
    draw = np.random.default_rng(seed)
    faces = draw.permutation(faces)
    return np.stack([np.roll(face, draw.integers(3)) for face in faces])


@pytest.mark.parametrize("copied", [False, True])
def test_two_sided_faces_are_taken_once_and_look_outwards(copied):
    """Whether the back has the vertices of the front, or some of its own at the same places."""
    back = np.asarray(BOX.faces)[:, ::-1] + (8 if copied else 0)
    vertices = np.r_[BOX.vertices, BOX.vertices] if copied else BOX.vertices
    found = outward(vertices, shuffled(np.r_[BOX.faces, back]))
    assert (len(found.faces), found.back_to_back) == (12, 12)
    assert volume(vertices, found.faces) == pytest.approx(24)


def test_only_the_parts_that_are_two_sided():
    ball = BALL.copy().apply_translation([9, 0, 0])
    whole = joined(BOX, inward(BOX), ball)
    found = outward(whole.vertices, whole.faces)
    assert found.back_to_back == 12
    assert volume(whole.vertices, found.faces) == pytest.approx(24 + ball.volume)


def test_walls_between_cells_are_not_two_sided():
    cells = [
        trimesh.creation.box((1, 1, 1)).apply_translation([i, j, k])
        for i in range(12)
        for j in range(12)
        for k in range(12)
    ]
    block = joined(*cells)
    found = outward(block.vertices, block.faces)
    assert (found.back_to_back, found.turned) == (0, 0)


def test_all_faces_inwards_are_turned():
    found = outward(BALL.vertices, BALL.faces[:, ::-1])
    assert found.turned == len(BALL.faces)
    np.testing.assert_array_equal(found.faces, BALL.faces)


def test_some_faces_of_a_closed_part_are_turned():
    chosen = np.random.default_rng(0).random(len(BALL.faces)) < 0.4
    mixed = np.where(chosen[:, None], BALL.faces[:, ::-1], BALL.faces)
    found = outward(BALL.vertices, mixed)
    assert found.turned == chosen.sum()
    assert volume(BALL.vertices, found.faces) == pytest.approx(BALL.volume)


def test_one_of_two_solids_is_turned_but_a_cavity_stays():
    apart = joined(BOX, inward(BALL).apply_translation([9, 0, 0]))
    found = outward(apart.vertices, apart.faces)
    assert found.turned == len(BALL.faces)
    hollow = joined(BOX, inward(BALL.copy().apply_scale(0.5)))
    assert outward(hollow.vertices, hollow.faces).turned == 0


def test_open_surfaces_and_wings_stay_as_they_are():
    half = np.asarray(BALL.faces)[BALL.triangles_center[:, 2] > 0, ::-1]
    np.testing.assert_array_equal(outward(BALL.vertices, half).faces, half)
    wing = np.r_[BOX.faces[:, ::-1], [[*BOX.faces[0][:2], 8]]]
    vertices = np.r_[BOX.vertices, [[9, 9, 9]]]
    np.testing.assert_array_equal(outward(vertices, wing).faces, wing)


# Clouds


def cloud(mesh, count=800):
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=0)
    return np.asarray(points) + [691607.25, 5334752.5, 519.0], mesh.face_normals[faces]


SHAPES = {
    "ball": BALL,
    "box": BOX,
    "ring": trimesh.creation.torus(1, 0.2),
    "rod": trimesh.creation.cylinder(0.02, 2),
    "plate": trimesh.creation.box((1, 1, 0.03)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_closed_clouds_look_outwards_or_inwards(name):
    points, normals = cloud(SHAPES[name])
    assert facing(points, normals).enclosed > 0.55
    assert facing(points, -normals).enclosed < -0.55
    if name != "plate":
        assert facing(points, normals).disagreeing < 0.1


def test_mixed_normals_disagree_and_open_ones_enclose_nothing():
    points, normals = cloud(BALL)
    signs = np.where(np.random.default_rng(1).random(len(points)) < 0.5, -1, 1)[:, None]
    mixed = facing(points, signs * normals)
    assert abs(mixed.enclosed) < 0.3
    assert mixed.disagreeing > 0.3
    halves = facing(points, np.where(normals[:, :1] > 0, 1, -1) * normals)
    assert abs(halves.enclosed) < 0.2
    cap = normals[:, 2] > 0.8
    found = facing(points[cap], normals[cap])
    assert abs(found.enclosed) < 0.5
    assert found.disagreeing == 0
