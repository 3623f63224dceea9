"""Pictures of meshes: what is seen where, and how it is lit."""

import numpy as np
import pytest
import trimesh

from nid_jax.geometry import shading


def ball(radius=0.5, centre=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return trimesh.Trimesh(mesh.vertices + centre, mesh.faces, process=False)


def nothing():
    return trimesh.Trimesh(np.empty((0, 3)), np.empty((0, 3), int), process=False)


def covered(picture):
    """The share of every pixel that is not background, by the pictures' own white."""
    return (picture < 0.999).any(-1)


def test_a_ball_is_a_disc_in_the_middle_brighter_above():
    picture = shading.shade(ball(), 64)
    assert picture.shape == (64, 64, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    rows, columns = np.nonzero(covered(picture))
    assert abs(rows.mean() - 31.5) < 0.5
    assert abs(columns.mean() - 31.5) < 0.5
    assert np.ptp(rows) >= 58  # it fills the picture
    assert covered(picture).mean() == pytest.approx(np.pi / 4 / 1.04**2, abs=0.03)
    assert (picture[0] == 1).all()
    disc = picture.mean(-1)
    assert disc[10:20, 28:36].mean() > disc[44:54, 28:36].mean() + 0.15


def test_what_is_in_front_hides_what_is_behind():
    camera = shading.Camera.around([ball(0.5)])
    near = ball(0.2, 0.8 * camera.axes[2])
    far = ball(0.2, -0.8 * camera.axes[2])
    both = trimesh.util.concatenate([near, far])

    def by_place(points):
        front = points @ camera.axes[2] > 0
        return np.where(front[:, None], [1.0, 0, 0], [0, 1.0, 0])

    picture = shading.shade(both, 48, camera, by_place)
    middle = picture[20:28, 20:28]
    assert (middle[..., 0] > middle[..., 1]).all()
    # Without the one in front the other shows, and is smaller for being farther.
    alone = shading.shade(far, 48, camera, by_place)
    assert (alone[22:26, 22:26, 1] > alone[22:26, 22:26, 0]).all()
    assert covered(alone).sum() < 0.8 * covered(picture).sum()


def test_edges_are_softened_and_faces_of_a_box_flat():
    box = trimesh.creation.box((1, 1.2, 0.8))
    picture = shading.shade(box, 64)
    shades = np.unique(picture.mean(-1).round(2), return_counts=True)
    # Three faces, white, and not much between.
    flat = np.sort(shades[1])[-4:].sum()
    assert 0.8 * 64**2 < flat < 64**2


def test_a_mesh_inside_out_looks_the_same():
    inside_out = trimesh.Trimesh(ball().vertices, ball().faces[:, ::-1], process=False)
    difference = shading.shade(ball(), 48) - shading.shade(inside_out, 48)
    assert np.abs(difference).mean() < 0.01


def test_a_crevice_is_darker_than_open_ground():
    plate = trimesh.creation.box((2, 0.1, 2))
    wall = trimesh.creation.box((2, 1.0, 0.1))
    corner = trimesh.util.concatenate(
        [plate, trimesh.Trimesh(wall.vertices + [0, 0.5, 0], wall.faces)]
    )
    points = np.array([[0, 0.051, 0.08], [0, 0.051, 0.95]])
    up = np.tile([0.0, 1, 0], (2, 1))
    sky = np.mean([shading._open_sky(corner, points, up, np.zeros(2)) for _ in range(20)], 0)
    assert sky[0] < 0.65
    assert sky[1] > 0.7


def test_a_mesh_without_faces_is_invisible():
    assert (shading.shade(nothing(), 16) == 1).all()
    assert shading.frames([nothing(), ball()], 16).shape == (2, 16, 16, 3)


def test_frames_share_a_camera():
    pictures = shading.frames([ball(0.2), ball(0.5)], 48)
    shares = covered(pictures).mean((1, 2))
    assert shares[0] == pytest.approx(shares[1] * (0.2 / 0.5) ** 2, rel=0.2)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_upright_meshes_have_their_axis_up_and_are_not_mirrored(up):
    axis = "xyz".index(up)
    sizes = np.roll([5.0, 1.0, 2.0], axis)
    post = trimesh.creation.box(sizes).apply_translation(3 * np.eye(3)[axis])
    found = shading.upright(post, up)
    np.testing.assert_allclose(np.ptp(found.vertices, axis=0)[1], 5)
    np.testing.assert_allclose(found.vertices[:, 1].mean(), 3)
    assert found.volume == pytest.approx(10)
    np.testing.assert_allclose(
        (found.vertex_normals * (found.vertices - [0, 3, 0])).sum(1),
        (post.vertex_normals * (post.vertices - 3 * np.eye(3)[axis])).sum(1),
    )


@pytest.mark.parametrize("up", "xyz")
def test_upright_turns_the_axis_up_and_leaves_nothing_as_it_is(up):
    tip = np.eye(3)["xyz".index(up)]
    cone = trimesh.creation.cone(0.3, 1.0)  # its tip at z = 1
    cone.apply_transform(trimesh.geometry.align_vectors([0, 0, 1], tip))
    turned = shading.upright(cone, up)
    np.testing.assert_allclose(
        turned.vertices[turned.vertices[:, 1].argmax()], [0, 1, 0], atol=1e-9
    )
    assert turned.volume == pytest.approx(cone.volume)
    nothing = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    assert len(shading.upright(nothing, up).vertices) == 0
