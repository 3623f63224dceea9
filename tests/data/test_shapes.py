"""Built-in shapes: what they are, their distances, their surfaces, errors."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax.data import shapes
from nid_jax.data.collection import SubsetCollection
from nid_jax.geometry.truncation import Truncation


def config(**changes):
    """The keys of config.data that shapes read."""
    values = {
        "size": (16, 16, 16),
        "truncation": 0.1,
        "truncation_kind": "clip",
        "num_train": 3,
        "num_test": 2,
        "shapes": {"families": "chairs"},
    }
    return ConfigDict(values | changes)


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_every_family_fills_the_cube_and_differs(family):
    collection = shapes.ShapeCollection([family], 4, 32, Truncation(), seed=7)
    grids = [collection[index][..., 0] for index in range(4)]
    for index, values in enumerate(grids):
        solid = collection.solid(index)
        assert (solid.high - solid.low).max() == pytest.approx(2 * shapes.REACH)
        assert np.abs(solid.high + solid.low).max() < 1e-9
        assert 0.003 < (values < 0).mean() < 0.4
        # Nothing of it reaches the faces of the cube.
        edge = np.concatenate([values[[0, -1]].ravel(), values[:, [0, -1]].ravel()])
        assert edge.min() > 0
    assert len({values.tobytes() for values in grids}) == 4


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_distances_change_no_faster_than_places_do(family):
    """|f(x) - f(y)| <= |x - y| of a distance, and of a union of distances; ellipsoids nearly."""
    draw = np.random.default_rng(int.from_bytes(family.encode()[:2]))
    solid = shapes.ShapeCollection([family], 1, 16, Truncation(), seed=3).solid(0)
    x = draw.uniform(-1, 1, (500, 3))
    y = x + draw.normal(0, 0.05, x.shape)
    change = np.abs(solid.distance(x) - solid.distance(y))
    slack = 3.0 if family in ("planes", "lamps") else 1.0
    assert (change <= slack * np.linalg.norm(x - y, axis=1) + 1e-9).all()


def test_a_shape_depends_on_its_seed_family_and_number_alone():
    few = shapes.ShapeCollection(["chairs", "lamps"], 4, 12, Truncation(0.1), seed=1)
    many = shapes.ShapeCollection(["lamps"], 9, 12, Truncation(0.1), seed=1)
    assert few.names == ["chair_00000", "lamp_00000", "chair_00001", "lamp_00001"]
    np.testing.assert_array_equal(few[3], many[1])
    other = shapes.ShapeCollection(["lamps"], 2, 12, Truncation(0.1), seed=2)
    assert not np.array_equal(other[1], many[1])


def test_splits_share_no_shape_and_are_truncated():
    train, test = (shapes.open_shapes(config(), split, 0) for split in ("train", "test"))
    assert (len(train), len(test), train.shape) == (3, 2, (16, 16, 16, 1))
    values = np.stack([train[i] for i in range(3)] + [test[i] for i in range(2)])
    assert values.dtype == np.float32
    assert np.abs(values).max() == np.float32(0.1)
    assert len({v.tobytes() for v in values}) == 5


def test_clouds_lie_on_the_surface_with_outward_normals():
    collection = shapes.ShapeCollection(["chairs"], 1, 32, Truncation(0.1), seed=5)
    cloud = collection.cloud(0).astype(np.float64)
    points, normals = cloud[:, :3], cloud[:, 3:]
    distance = collection.solid(0).distance
    assert np.abs(distance(points)).max() < 5e-3
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    ahead = distance(points + 0.01 * normals)
    assert (ahead > 0.005).mean() > 0.98
    assert (distance(points - 0.01 * normals) < -0.003).mean() > 0.95


def test_near_points_carry_their_own_distances():
    collection = shapes.ShapeCollection(["tables"], 2, 24, Truncation(0.1), seed=5)
    points, distances = collection.near(1)
    exact = np.clip(collection.solid(1).distance(points.astype(np.float64)), -0.1, 0.1)
    np.testing.assert_allclose(distances, exact, atol=1e-6)
    assert 0.3 < (np.abs(distances) < 0.03).mean() < 0.9


def test_the_mesh_is_the_surface():
    collection = SubsetCollection(
        shapes.ShapeCollection(["lamps"], 3, 16, Truncation(0.1), seed=2), [2]
    )
    mesh = collection.mesh(0)
    assert mesh.is_watertight
    distance = collection.collection.solid(2).distance
    assert np.abs(distance(mesh.vertices)).max() < 0.01
    np.testing.assert_array_equal(collection.denormalise(0), np.eye(4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shapes": {"families": "chair"}}, "'chair' is unknown, did you mean 'chairs'"),
        ({"size": (16, 16)}, "data.size"),
        ({"size": (16, 16, 17)}, "data.size"),
        ({"size": (4, 4, 4)}, "8 or more"),
        ({"truncation": -1.0}, "data.truncation: -1.0"),
        ({"truncation_kind": "soft"}, "data.truncation_kind: 'soft'; allowed: clip, tanh"),
    ],
)
def test_what_is_wrong_names_its_key(changes, words):
    with pytest.raises(ValueError, match=words):
        shapes.open_shapes(config(**changes), "train", 0)
