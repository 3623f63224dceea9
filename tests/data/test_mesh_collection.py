"""Mesh files as signals: distances of what is in them, prepared once."""

import numpy as np
import pytest
import trimesh

from nid_jax import data
from nid_jax.configs import sdf
from nid_jax.notices import Notice


@pytest.fixture
def config(tmp_path):
    """The data part of a config of meshes, 12^3."""
    config = sdf.get_config("meshes").data
    with config.unlocked():
        config.update({"size": (12, 12, 12), "truncation": 0.0, "root": str(tmp_path / "parts")})
    (tmp_path / "parts").mkdir()
    return config


def sphere(radius):
    return trimesh.creation.icosphere(4, radius)


def test_one_file_is_learned_from_and_fitted(tmp_path, config):
    path = tmp_path / "parts" / "ball.stl"
    sphere(30).export(path)
    config.root = str(path)
    for split in data.SPLITS:
        collection = data.open_collection(config, split, 0)
        assert (collection.names, collection.shape) == (["ball"], (12, 12, 12, 1))
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, 12)] * 3, indexing="ij"), -1)
    # The margin of 0.1 is free at either end.
    expected = np.linalg.norm(points, axis=-1) - 0.9
    np.testing.assert_allclose(collection[0][..., 0], expected, atol=4e-3)
    centre = collection.denormalise(0) @ [0.9, 0, 0, 1]
    np.testing.assert_allclose(centre[:3], [30, 0, 0], atol=0.1)


def test_a_folder_is_prepared_once_and_what_cannot_be_is_said(tmp_path, config):
    for number in range(4):
        sphere(1 + number).export(tmp_path / "parts" / f"{number}.obj")
    (tmp_path / "parts" / "broken.obj").write_text("v 0 0 0\n")
    assert data.survey(config, "train", 0).count + data.survey(config, "test", 0).count == 5
    cache = tmp_path / "cache"

    def opened():
        with data.kept_in(cache):
            return [n for part in data.SPLITS for n in data.open_collection(config, part, 0).names]

    with pytest.warns(Notice, match=r"1 of \d meshes are left out, the first: .*broken.obj"):
        first = opened()
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    with pytest.warns(Notice):
        assert opened() == first
    assert sorted(first) == ["0", "1", "2", "3"]
    assert made == {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert len(made) == 4


def test_faults_are_named(config, tmp_path):
    with pytest.raises(ValueError, match=r"parts: holds no .*\.stl"):
        data.open_collection(config, "train", 0)
    (tmp_path / "parts" / "only.obj").write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match="only.obj"):
        data.open_collection(config, "train", 0)
    config.root = ""
    with pytest.raises(ValueError, match="data.root is empty: data.name='meshes'"):
        data.open_collection(config, "train", 0)
